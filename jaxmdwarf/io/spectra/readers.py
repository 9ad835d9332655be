"""Files in, spectra out: formats told by content, folders and lists expanded, many at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.fits_bytes import is_fits, read_file_bytes
from jaxmdwarf.io.spectra.lamost import decode_lamost
from jaxmdwarf.io.spectra.records import (
    Requirements,
    SpectrumRecord,
    build_spectrum,
    check_record,
)
from jaxmdwarf.io.stream import stream_results

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

_OTHER_FORMATS = {b"\x89HDF": "HDF5", b"# %ECSV": "ECSV"}
"""First bytes of further formats that are worth an attempt with specutils."""


def read_spectrum(
    path: str | os.PathLike[str], *, requirements: Requirements | None = None
) -> RawSpectrum:
    """Read one spectrum of any known format, told by its content and never by its name.

    Parameters
    ----------
    path : str or path
        A LAMOST, SDSS or BOSS file, gzipped or not, or anything that specutils reads.
    requirements : Requirements, optional
        What the spectrum must offer; None takes any spectrum with a good pixel.

    Returns
    -------
    RawSpectrum
        Vacuum Angstrom, ivar 0 for every bad pixel, header values in `meta`.

    Raises
    ------
    RejectedInput
        If nothing usable is in the file; says why and what to do.
    """
    record = read_record(path)
    check_record(record, requirements)
    return build_spectrum(record)


def read_record(path: str | os.PathLike[str]) -> SpectrumRecord:
    """Like `read_spectrum`, unchecked and as plain arrays, without importing JAX."""
    name = os.fspath(path)
    data = read_file_bytes(name)
    if not is_fits(data):
        if any(data.startswith(magic) for magic in _OTHER_FORMATS):
            return _read_other(name)
        raise RejectedInput("not a FITS file.", "give spectra as FITS files, gzipped or not.")
    record = decode_lamost(data, name)
    if record is None:
        from jaxmdwarf.io.spectra.sdss import decode_sdss

        record = decode_sdss(data, name)
    return record if record is not None else _read_other(name, data)


def _read_other(name: str, data: bytes | None = None) -> SpectrumRecord:
    from jaxmdwarf.io.spectra.by_specutils import decode_with_specutils

    try:
        return decode_with_specutils(name)
    except RejectedInput as error:
        if data is None:
            raise
        raise RejectedInput(f"{error.message} (found {_inventory(data)}).", error.remedy) from None


def _inventory(data: bytes) -> str:
    """What the FITS file holds, so that the user sees which HDU was expected elsewhere."""
    import io
    import warnings

    from astropy.io import fits

    try:
        with warnings.catch_warnings(), fits.open(io.BytesIO(data), memmap=False) as hdus:
            warnings.simplefilter("ignore")
            parts = []
            for index, hdu in enumerate(hdus[:4]):
                if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                    names = ", ".join(hdu.columns.names[:6])
                    parts.append(f"HDU {index} a table of {names}")
                elif hdu.header.get("NAXIS", 0):
                    parts.append(f"HDU {index} an image of shape {hdu.shape}")
                else:
                    parts.append(f"HDU {index} empty")
            return "; ".join(parts)
    except Exception:  # an inventory is a courtesy: it must not hide the reason
        return "no readable HDU"


@dataclass(frozen=True)
class Inputs:
    """What the user's arguments stand for.

    Parameters
    ----------
    paths : tuple of str
        Every file once, each argument's files sorted.
    rejects : tuple of Reject
        Arguments that name nothing, and files named twice.
    """

    paths: tuple[str, ...]
    rejects: tuple[Reject, ...]

    @property
    def n_in(self) -> int:
        """Number of inputs to account for."""
        return len(self.paths) + len(self.rejects)


def expand_inputs(
    arguments: Iterable[str | os.PathLike[str]],
    *,
    leave_out: Iterable[str | os.PathLike[str]] = (),
) -> Inputs:
    """Expand files, folders (recursively, hidden files left out), globs and ``@lists``.

    Parameters
    ----------
    arguments : iterable of str or path
        ``@name`` is a text file with one such argument a line; blank lines and lines that start
        with ``#`` are skipped; relative names count from the current folder, else from the list's.
    leave_out : iterable of path
        Files in folders that are no inputs, such as the products of an earlier run.

    Returns
    -------
    Inputs
        Nothing raises: what cannot be expanded is a reject.
    """
    paths: list[str] = []
    rejects: list[Reject] = []
    seen: dict[str, str] = {}
    products = {os.path.realpath(path) for path in leave_out}

    def add(path: str) -> None:
        # Links to one file are one input; the first name is kept.
        real = os.path.realpath(path)
        if real in seen:
            rejects.append(Reject(path, f"the same file as {seen[real]}", "name every file once"))
        else:
            seen[real] = path
            paths.append(path)

    def add_folder(folder: str) -> None:
        n_before = len(paths) + len(rejects)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            rejects.append(
                Reject(folder, f"the folder cannot be read: {error.strerror}", "check permissions")
            )
            return
        for entry in entries:
            if entry.name.startswith(".") or os.path.realpath(entry.path) in products:
                continue
            if entry.is_dir(follow_symlinks=False):
                add_folder(entry.path.removeprefix("./"))
            elif entry.is_dir():
                rejects.append(
                    Reject(entry.path, "is a link to a folder", "name that folder itself")
                )
            else:
                add(entry.path.removeprefix("./"))
        if len(paths) + len(rejects) == n_before:
            rejects.append(
                Reject(folder, "is a directory without files", "leave it out or fill it")
            )

    def add_argument(argument: str, *, base: str | None = None) -> None:
        if base is not None and not os.path.isabs(argument) and not os.path.lexists(argument):
            argument = os.path.join(base, argument)
        if os.path.isdir(argument):
            add_folder(argument)
        elif os.path.lexists(argument):
            add(argument)
        elif argument.startswith("@") and base is None:
            add_list(argument[1:])
        elif glob.has_magic(argument):
            found = sorted(glob.glob(argument, recursive=True))
            for path in found:
                add_folder(path) if os.path.isdir(path) else add(path)
            if not found:
                rejects.append(Reject(argument, "the pattern matches no file", "check the pattern"))
        else:
            rejects.append(Reject(argument, "no such file", "check the path"))

    def add_list(name: str) -> None:
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            rejects.append(
                Reject(f"@{name}", f"the list cannot be read: {reason}", "check the path")
            )
            return
        for line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                add_argument(line.strip(), base=str(Path(name).parent))

    for argument in arguments:
        add_argument(os.fspath(argument))
    return Inputs(tuple(paths), tuple(rejects))


@dataclass(frozen=True)
class ReadTask:
    """Read and check one file: what a reader process does. Returns `(record, content hash)`."""

    requirements: Requirements | None = None

    def __call__(self, path: str) -> tuple[SpectrumRecord, int]:
        record = read_record(path)
        check_record(record, self.requirements)
        return record, record.content_hash()


class DuplicateFinder:
    """Remembers spectra by identifier and content, 64 bits each, and names the first holder."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}

    def find(self, content_hash: int, path: str) -> Reject | None:
        """A reject if a spectrum with `content_hash` was met before, else None."""
        if content_hash not in self._first:
            self._first[content_hash] = path
            return None
        first = self._first[content_hash]
        return Reject(path, f"the same spectrum as {first}", "the first one is kept: drop this one")


def stream_spectra(
    paths: Iterable[str],
    *,
    processes: int | None = None,
    chunk_size: int = 32,
    requirements: Requirements | None = None,
    reject_duplicates: bool = True,
) -> Iterator[RawSpectrum | Reject]:
    """Read many files in parallel processes, in order, never holding more than a few chunks.

    Parameters
    ----------
    paths : iterable of str
        Files; `expand_inputs` makes them from folders and patterns.
    processes : int, optional
        Reader processes; None takes the cores of this machine, 1 reads in this process.
    chunk_size : int
        Files that travel together; memory holds about ``4 * processes * chunk_size`` spectra.
    requirements : Requirements, optional
        What a spectrum must offer; None takes `Requirements()`.
    reject_duplicates : bool
        Whether a spectrum met before (same identifier, flux and ivar) becomes a reject.

    Yields
    ------
    RawSpectrum or Reject
        One for each path, in the order of `paths`.
    """
    task = ReadTask(requirements or Requirements())
    duplicates = DuplicateFinder()
    for path, result in stream_results(task, paths, processes=processes, chunk_size=chunk_size):
        if isinstance(result, Reject):
            yield result
            continue
        record, content_hash = result
        duplicate = duplicates.find(content_hash, path) if reject_duplicates else None
        if duplicate is not None:
            yield duplicate
            continue
        try:
            spectrum = build_spectrum(record)
        except RejectedInput as error:
            yield Reject.from_error(path, error)
            continue
        yield spectrum
