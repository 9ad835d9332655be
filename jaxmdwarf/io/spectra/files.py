"""One input file as readers see it: read once, decompressed, its headers at hand."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.compression import name_compression, read_file_bytes, refuse_foreign
from jaxmdwarf.io.fits_bytes import (
    Data,
    LeanHdu,
    LeanHeader,
    UnusualFits,
    is_fits,
    next_hdu,
    require_checksums,
)
from jaxmdwarf.io.fits_files import open_fits

READ_AT_ONCE = 32 * 1024**2
"""Larger files stay on disk and are read where a reader looks."""

MAX_HDUS = 2_000


class Header:
    """Cards of one header by keyword: what cannot be parsed counts as missing."""

    def __init__(self, lean: LeanHeader | None = None) -> None:
        self._lean = lean or LeanHeader({})

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._lean

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of `keyword` as bool, int, float or stripped text; `default` where missing."""
        try:
            value = self._lean.get(keyword, default)
        except UnusualFits:
            return default
        return default if value is None else value


class SpectrumFile:
    """A file that may hold spectra, handed to one reader after the other.

    Parameters
    ----------
    path : str
    data : bytes, optional
        Its content, decompressed; read when first asked for by default.

    Examples
    --------
    >>> file = SpectrumFile("a.txt", data=b"# wave flux error")
    >>> file.is_fits, file.header.get("TELESCOP", "nothing"), file.extensions
    (False, 'nothing', ())
    """

    def __init__(self, path: str | os.PathLike[str], data: Data | None = None) -> None:
        self.path = os.fspath(path)
        self._data = data
        self._hdus: list[LeanHdu] = []
        self._at_end = False

    @property
    def data(self) -> Data:
        """Content of the file, decompressed if it is gzip, bzip2 or xz.

        Raises
        ------
        RejectedInput
            If there is none: missing, unreadable, empty, damaged, compressed twice, an archive.
        """
        if self._data is None:
            self._data = _map_large(self.path) or read_file_bytes(self.path)
        return self._data

    @property
    def head(self) -> bytes:
        """The first blocks of the content: enough to tell a format by."""
        return bytes(self.data[: 4 * 2880])

    @property
    def is_fits(self) -> bool:
        """Whether the content is FITS."""
        return is_fits(self.data)

    def hdu(self, number: int) -> LeanHdu | None:
        """Header and place of one header-data unit, None where there is no such unit.

        Raises
        ------
        RejectedInput
            If the file ends before the unit does.
        UnusualFits
            If only astropy can tell where the unit lies.
        """
        while len(self._hdus) <= number and not self._at_end and self.is_fits:
            offset = self._hdus[-1].stop if self._hdus else 0
            found = next_hdu(self.data, offset, first=not self._hdus)
            if found is None:
                self._at_end = True
                if not self._hdus:
                    raise RejectedInput(
                        "the file is truncated within its first header.", "download it again."
                    )
            else:
                self._hdus.append(found)
        return self._hdus[number] if number < len(self._hdus) else None

    def _list_hdus(self) -> Iterator[LeanHdu]:
        number = 0
        while (hdu := self.hdu(number)) is not None:
            yield hdu
            number += 1

    @property
    def header(self) -> Header:
        """The primary header; empty where the file is not FITS."""
        return self.header_of(0)

    def header_of(self, number: int) -> Header:
        """Header of one unit; empty where there is none."""
        try:
            hdu = self.hdu(number)
        except UnusualFits:
            return Header()
        return Header(None if hdu is None else hdu.header)

    @property
    def extensions(self) -> tuple[str, ...]:
        """EXTNAME of every unit after the primary one, in upper case."""
        names: list[str] = []
        with contextlib.suppress(UnusualFits):
            while len(names) < MAX_HDUS and self.hdu(len(names) + 1) is not None:
                name = self.header_of(len(names) + 1).get("EXTNAME", "")
                names.append(str(name).strip().upper())
        return tuple(names)

    def columns(self, number: int) -> tuple[str, ...]:
        """Column names of a binary table in upper case; empty where the unit is none."""
        header = self.header_of(number)
        if header.get("XTENSION") != "BINTABLE":
            return ()
        n_column = header.get("TFIELDS", 0)
        n_column = min(n_column, 999) if isinstance(n_column, int) else 0
        return tuple(
            str(header.get(f"TTYPE{index}", "")).strip().upper() for index in range(1, n_column + 1)
        )

    def require_checksums(self) -> None:
        """Hold the content against the sums in its headers, unless it is left on disk for its size.

        Raises
        ------
        RejectedInput
            If one differs.
        """
        if self.is_fits and isinstance(self.data, bytes):
            require_checksums(self.data, self._list_hdus())

    def open(self) -> contextlib.AbstractContextManager[Any]:
        """The file as an `astropy.io.fits.HDUList`, see `jaxmdwarf.io.fits_files.open_fits`."""
        return open_fits(self.data, self.path)


def describe(file: SpectrumFile) -> str:
    """What a FITS file holds, so that the user sees what was expected elsewhere."""
    try:
        with file.open() as hdus:
            parts = []
            for index, hdu in enumerate(hdus[:4]):
                columns = getattr(hdu, "columns", None)
                if columns is not None:
                    parts.append(f"HDU {index} a table of {', '.join(map(str, columns.names[:6]))}")
                elif hdu.header.get("NAXIS", 0):
                    shape = getattr(hdu, "shape", "nobody knows")
                    parts.append(f"HDU {index} an image of shape {shape}")
                else:
                    parts.append(f"HDU {index} empty")
            return "; ".join(parts)
    except RejectedInput:
        return "no readable HDU"


def _map_large(path: str) -> Data | None:
    """A large file on disk, unless it is compressed; None for all that is read at once."""
    try:
        if os.stat(path).st_size <= READ_AT_ONCE:
            return None
        with open(path, "rb") as file:
            if name_compression(file.read(8)):
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None  # reading it says why
    refuse_foreign(mapped[:512], path)
    return mapped
