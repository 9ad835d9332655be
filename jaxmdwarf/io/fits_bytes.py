"""A lean path through FITS for the one place where reading speed is asked for.

astropy reads FITS better than we could, but spends about five times as long on a LAMOST file as
inflating it takes. This module knows plain images and binary tables of fixed width, raises
`UnusualFits` for anything else, and the caller then turns to astropy. Tests hold the two paths
equal bit by bit.
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from jaxmdwarf.errors import RejectedInput

BLOCK = 2880
CARD = 80

Data = bytes | mmap.mmap
"""The bytes of a file: in memory, or on disk where it is large."""

_IMAGE_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_FIELD_TYPES = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_FIELD_WIDTHS = {"L": 1, "A": 1, "B": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16}
_FORMAT = re.compile(r"^(\d*)([A-Z])")
_LONGEST = 2**40


class UnusualFits(Exception):
    """Valid FITS perhaps, but beyond the lean path: use astropy."""


class LeanHeader:
    """Header cards by keyword, parsed when asked for; the first of repeated keywords counts.

    Parameters
    ----------
    cards : dict of str to str
        What stands behind the equals sign, by keyword filled up to eight characters.
    unusual : str
        What in the header only astropy reads, else empty.
    """

    def __init__(self, cards: dict[str, str], *, unusual: str = "") -> None:
        self._cards = cards
        self.unusual = unusual

    def __contains__(self, keyword: str) -> bool:
        return keyword.ljust(8) in self._cards

    def get(self, keyword: str, default=None):
        """Value of `keyword` as bool, int, float or stripped text; `default` where missing.

        Raises
        ------
        UnusualFits
            If the card is beyond the lean path.
        """
        raw = self._cards.get(keyword.ljust(8))
        if raw is None:
            return default
        return _parse_value(raw)


@dataclass(frozen=True)
class LeanHdu:
    """One header and where its data lie."""

    header: LeanHeader
    start: int
    size: int

    @property
    def stop(self) -> int:
        """Where the next unit begins."""
        return self.start + -(-self.size // BLOCK) * BLOCK


def is_fits(data: Data) -> bool:
    """Whether `data` starts as a FITS file does."""
    return data[:9] == b"SIMPLE  ="


def next_hdu(data: Data, offset: int, *, first: bool = False) -> LeanHdu | None:
    """The unit that begins at `offset`, None where there is no further one.

    Raises
    ------
    RejectedInput
        If the file ends within the unit.
    UnusualFits
        If its size is beyond the lean path.
    """
    if offset + BLOCK > len(data) or (
        # Special records may follow the last unit.
        not first and data[offset : offset + 8] != b"XTENSION"
    ):
        return None
    header, start = _parse_header(data, offset)
    size = _data_size(header)
    if start + size > len(data):
        raise RejectedInput(
            f"the file is truncated: {start + size - len(data)} bytes are missing.",
            "download it again.",
        )
    return LeanHdu(header, start, size)


def require_sane_cards(data: Data) -> None:
    """Hold the numbers that astropy relies on against the file, before it works or waits on them.

    A damaged card may ask for 2^31 axes or columns, or for sizes below zero.

    Raises
    ------
    RejectedInput
        If sizes are negative, too many, or larger than the file.
    """
    offset, number = 0, 0
    while offset + BLOCK <= len(data) and (number == 0 or data[offset : offset + 8] == b"XTENSION"):
        header, start = _parse_header(data, offset)
        count = partial(_count, header, number)
        n_axes = count("NAXIS", 16)
        count("TFIELDS", 999)
        size = 1 if n_axes else 0
        for axis in range(1, n_axes + 1):
            length = count(f"NAXIS{axis}", _LONGEST)
            size *= 1 if axis == 1 and length == 0 and "GROUPS" in header else length
        n_group, n_extra = count("GCOUNT", len(data), 1), count("PCOUNT", len(data))
        size = n_group * (size + n_extra) * _bits(header, number) // 8
        if start + size > len(data):
            raise RejectedInput(
                f"the file is truncated: {start + size - len(data)} bytes are missing.",
                "download it again.",
            )
        offset, number = start + -(-size // BLOCK) * BLOCK, number + 1


def list_hdus(data: Data) -> Iterator[LeanHdu]:
    """All units of a file, as far as they are not beyond the lean path.

    Raises
    ------
    RejectedInput
        If the file ends within one.
    """
    offset = 0
    with contextlib.suppress(UnusualFits):
        while (hdu := next_hdu(data, offset, first=offset == 0)) is not None:
            yield hdu
            offset = hdu.stop


def require_checksums(data: Data, hdus: Iterable[LeanHdu]) -> None:
    """Hold the sums that a file gives of its own headers and data against them.

    CHECKSUM makes the sum of all 32-bit words of a unit, in ones' complement, all ones; DATASUM is
    that of its data alone (FITS standard 4.0, section 4.4.2.7 and appendix J). Extensions without
    data are not looked at: surveys write other sums than the standard's for tables without rows.

    Parameters
    ----------
    data : bytes
    hdus : iterable of LeanHdu
        Its units from the first.

    Raises
    ------
    RejectedInput
        If a sum is another.
    """
    begin = 0
    # What only astropy can read is not looked at either.
    with contextlib.suppress(UnusualFits):
        for number, hdu in enumerate(hdus):
            if not number or hdu.size:
                data_sum = str(hdu.header.get("DATASUM", "")).strip()
                check_sum = str(hdu.header.get("CHECKSUM", "")).strip()
                if data_sum.isdecimal() and _sum_words(data, hdu.start, hdu.stop) != int(data_sum):
                    raise _damaged(number, "DATASUM")
                # Zeros, or nothing, say that nobody has computed it.
                if check_sum.strip("0") and _sum_words(data, begin, hdu.stop) not in (0, _ALL_ONES):
                    raise _damaged(number, "CHECKSUM")
            begin = hdu.stop


_ALL_ONES = 2**32 - 1


def _damaged(number: int, keyword: str) -> RejectedInput:
    return RejectedInput(
        f"{keyword} in HDU {number} is not that of its content.",
        "the file is damaged: download it again; if you have changed it yourself, write its sums "
        "anew with astropy's fitscheck.",
    )


def _sum_words(data: Data, start: int, stop: int) -> int:
    """Sum of big-endian 32-bit words in ones' complement; what the end lacks counts as 0."""
    stop = min(stop, len(data) - (len(data) - start) % 4)
    words = np.frombuffer(data, ">u4", (stop - start) // 4, start)
    total = int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & _ALL_ONES) + (total >> 32)
    return total


def _count(header: LeanHeader, number: int, keyword: str, most: int, default: int = 0) -> int:
    """A size in the header of unit `number`, which must be from 0 to `most`."""
    try:
        value = header.get(keyword, default)
    except UnusualFits:
        value = None
    if type(value) is not int or not 0 <= value <= most:
        raise RejectedInput(
            f"damaged header: {keyword} = {value} in HDU {number}.", "download the file again."
        )
    return value


def _bits(header: LeanHeader, number: int) -> int:
    """Bits of a value in unit `number`."""
    try:
        value = header.get("BITPIX")
    except UnusualFits:
        value = None
    if type(value) is not int or value not in _IMAGE_TYPES:
        raise RejectedInput(
            f"damaged header: BITPIX = {value} in HDU {number}.", "download the file again."
        )
    return abs(value)


def image_of(data: Data, hdu: LeanHdu) -> np.ndarray | None:
    """The image of `hdu` as a view on `data` in file byte order, or None where it has none."""
    header = hdu.header
    if header.unusual:
        raise UnusualFits(header.unusual)
    n_axes = _integer(header, "NAXIS")
    if n_axes == 0 or hdu.size == 0:
        return None
    _require_plain_scale(header)
    kind = _IMAGE_TYPES.get(_integer(header, "BITPIX"))
    if kind is None:
        raise UnusualFits("BITPIX")
    shape = [_integer(header, f"NAXIS{axis}") for axis in range(n_axes, 0, -1)]
    return np.frombuffer(data, kind, int(np.prod(shape)), hdu.start).reshape(shape)


def columns_of(hdu: LeanHdu) -> dict[str, tuple[str, int, int]]:
    """Column name in upper case -> (type letter, repeat count, byte offset in the row)."""
    header = hdu.header
    if header.unusual or "ZIMAGE" in header:
        raise UnusualFits(header.unusual or "compressed image")
    columns = {}
    offset = 0
    for index in range(1, _integer(header, "TFIELDS") + 1):
        form = _FORMAT.match(str(header.get(f"TFORM{index}", "")).strip().upper())
        if form is None or form[2] not in _FIELD_WIDTHS:
            raise UnusualFits(f"TFORM{index}")
        repeat = int(form[1] or 1)
        name = str(header.get(f"TTYPE{index}", "")).strip().upper()
        if f"TSCAL{index}" in header or f"TZERO{index}" in header or f"TDIM{index}" in header:
            columns[name] = ("?", repeat, offset)
        else:
            columns.setdefault(name, (form[2], repeat, offset))
        offset += repeat * _FIELD_WIDTHS[form[2]]
    if offset != _integer(header, "NAXIS1"):
        raise UnusualFits("NAXIS1 is not the sum of the column widths")
    return columns


def vector_of(data: Data, hdu: LeanHdu, column: tuple[str, int, int]) -> np.ndarray:
    """The vector in the first row of a table column, a view on `data` in file byte order."""
    letter, repeat, offset = column
    kind = _FIELD_TYPES.get(letter)
    if kind is None:
        raise UnusualFits(f"column type {letter}")
    return np.frombuffer(data, kind, repeat, hdu.start + offset)


def _parse_header(data: Data, offset: int) -> tuple[LeanHeader, int]:
    cards: dict[str, str] = {}
    unusual = ""
    while True:
        block = data[offset : offset + BLOCK]
        if len(block) < BLOCK:
            raise RejectedInput("the file is truncated within a header.", "download it again.")
        offset += BLOCK
        text = block.decode("latin-1")
        for start in range(0, BLOCK, CARD):
            if text[start + 8 : start + 10] == "= ":
                cards.setdefault(text[start : start + 8], text[start + 10 : start + CARD])
                continue
            keyword = text[start : start + 8]
            if keyword == "END     ":
                return LeanHeader(cards, unusual=unusual), offset
            if keyword == "CONTINUE":
                unusual = "CONTINUE"


def _parse_value(raw: str):
    text = raw.lstrip()
    if text.startswith("'"):
        end = text.find("'", 1)
        while end >= 0 and text[end : end + 2] == "''":
            end = text.find("'", end + 2)
        if end < 0:
            raise UnusualFits("unclosed text value")
        return text[1:end].replace("''", "'").rstrip()
    token = text.partition("/")[0].strip()
    if token in ("T", "F"):
        return token == "T"
    if not token:
        return None
    try:
        return int(token)
    except ValueError:
        try:
            return float(token.replace("D", "E").replace("d", "e"))
        except ValueError:
            raise UnusualFits(f"value {token!r}") from None


def _integer(header: LeanHeader, keyword: str) -> int:
    value = header.get(keyword)
    if type(value) is not int or value < (-64 if keyword == "BITPIX" else 0):
        raise UnusualFits(keyword)
    return value


def _data_size(header: LeanHeader) -> int:
    n_axes = _integer(header, "NAXIS")
    if n_axes == 0:
        return 0
    size = abs(_integer(header, "BITPIX")) // 8
    for axis in range(1, n_axes + 1):
        size *= _integer(header, f"NAXIS{axis}")
    if "GROUPS" in header:
        raise UnusualFits("random groups")
    if "PCOUNT" in header:
        size += _integer(header, "PCOUNT") * abs(_integer(header, "BITPIX")) // 8
    return size


def _require_plain_scale(header: LeanHeader) -> None:
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or "BLANK" in header:
        raise UnusualFits("scaled image")
