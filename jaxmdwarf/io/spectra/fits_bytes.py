"""A lean path through FITS for the one place where reading speed is asked for.

astropy reads FITS better than we could, but spends about five times as long on a LAMOST file as
inflating it takes. This module knows plain images and binary tables of fixed width, raises
`UnusualFits` for anything else, and the caller then turns to astropy. Tests hold the two paths
equal bit by bit.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmdwarf.errors import RejectedInput

BLOCK = 2880
CARD = 80
MAX_FILE_BYTES = 512 * 1024**2
"""Files above this size hold no single spectrum (a spectrum takes about 0.1 MB)."""

_IMAGE_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_FIELD_TYPES = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_FIELD_WIDTHS = {"L": 1, "A": 1, "B": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16}
_FORMAT = re.compile(r"^(\d*)([A-Z])")


class UnusualFits(Exception):
    """Valid FITS perhaps, but beyond the lean path: use astropy."""


class LeanHeader:
    """Header cards by keyword, parsed when asked for; the first of repeated keywords counts."""

    def __init__(self, cards: dict[str, str]) -> None:
        self._cards = cards

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._cards

    def get(self, keyword: str, default=None):
        """Value of `keyword` as bool, int, float or stripped text; `default` where missing."""
        raw = self._cards.get(keyword)
        if raw is None:
            return default
        return _parse_value(raw)


@dataclass(frozen=True)
class LeanHdu:
    """One header and where its data lie."""

    header: LeanHeader
    start: int
    size: int


def read_file_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, inflated if they are gzipped (told by content).

    Raises
    ------
    RejectedInput
        If `path` is missing, a directory, unreadable, empty, huge, or a damaged gzip stream.
    """
    try:
        status = os.stat(path)
        # Opening a named pipe would wait for ever.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise RejectedInput("is no regular file.", "give files or folders.")
        with open(path, "rb") as file:
            if status.st_size > MAX_FILE_BYTES:
                raise RejectedInput(
                    f"the file is larger than {MAX_FILE_BYTES // 1024**2} MiB.",
                    "give files of one spectrum each.",
                )
            raw = file.read()
    except FileNotFoundError:
        raise RejectedInput("no such file.", "check the path.") from None
    except IsADirectoryError:
        raise RejectedInput("is a directory.", "give its files, or the folder itself.") from None
    except PermissionError:
        # Opening a directory is a permission error on some systems.
        if Path(path).is_dir():
            raise RejectedInput(
                "is a directory.", "give its files, or the folder itself."
            ) from None
        raise RejectedInput("the file may not be read.", "check its permissions.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise RejectedInput(f"the file cannot be read: {reason}.", "check the disk.") from None
    if not raw:
        raise RejectedInput("the file is empty (zero bytes).", "download it again.")
    if raw[:2] == b"\x1f\x8b":
        return _inflate(raw)
    return raw


def _inflate(raw: bytes) -> bytes:
    parts = []
    while raw[:2] == b"\x1f\x8b":
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(raw))
        except zlib.error as error:
            raise RejectedInput(f"damaged gzip stream ({error}).", "download it again.") from None
        if not stream.eof:
            raise RejectedInput("truncated gzip stream.", "download the file again.")
        raw = stream.unused_data
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if not data:
        raise RejectedInput("the file is empty (zero bytes inside gzip).", "download it again.")
    return data


def is_fits(data: bytes) -> bool:
    """Whether `data` starts as a FITS file does."""
    return data[:9] == b"SIMPLE  ="


def split_hdus(data: bytes, *, limit: int = 3) -> list[LeanHdu]:
    """The first `limit` header-data units of a FITS file.

    Raises
    ------
    RejectedInput
        If the file ends within a header or its data.
    UnusualFits
        If a header is beyond the lean path.
    """
    hdus: list[LeanHdu] = []
    offset = 0
    while offset + BLOCK <= len(data) and len(hdus) < limit:
        if hdus and data[offset : offset + 8] != b"XTENSION":
            break  # special records after the last unit
        header, offset = _parse_header(data, offset)
        size = _data_size(header)
        if offset + size > len(data):
            raise RejectedInput(
                f"the file is truncated: {offset + size - len(data)} bytes are missing.",
                "download it again.",
            )
        hdus.append(LeanHdu(header, offset, size))
        offset += -(-size // BLOCK) * BLOCK
    if not hdus:
        raise RejectedInput("the file is truncated within its first header.", "download it again.")
    return hdus


def image_of(data: bytes, hdu: LeanHdu) -> np.ndarray | None:
    """The image of `hdu` as a view on `data` in file byte order, or None where it has none."""
    header = hdu.header
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


def vector_of(data: bytes, hdu: LeanHdu, column: tuple[str, int, int]) -> np.ndarray:
    """The vector in the first row of a table column, a view on `data` in file byte order."""
    letter, repeat, offset = column
    kind = _FIELD_TYPES.get(letter)
    if kind is None:
        raise UnusualFits(f"column type {letter}")
    return np.frombuffer(data, kind, repeat, hdu.start + offset)


def _parse_header(data: bytes, offset: int) -> tuple[LeanHeader, int]:
    cards: dict[str, str] = {}
    while True:
        block = data[offset : offset + BLOCK]
        if len(block) < BLOCK:
            raise RejectedInput("the file is truncated within a header.", "download it again.")
        offset += BLOCK
        text = block.decode("latin-1")
        for start in range(0, BLOCK, CARD):
            keyword = text[start : start + 8]
            if text[start + 8 : start + 10] == "= ":
                cards.setdefault(keyword.rstrip(), text[start + 10 : start + CARD])
            elif keyword == "END     ":
                return LeanHeader(cards), offset
            elif keyword == "CONTINUE":
                raise UnusualFits("CONTINUE")


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
    if "GROUPS" in header or "ZIMAGE" in header:
        raise UnusualFits("groups or compressed image")
    if "PCOUNT" in header:
        size += _integer(header, "PCOUNT") * abs(_integer(header, "BITPIX")) // 8
    return size


def _require_plain_scale(header: LeanHeader) -> None:
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or "BLANK" in header:
        raise UnusualFits("scaled image")
