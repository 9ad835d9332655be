"""Files in, spectra out: formats told by content, folders and lists expanded, many at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import (
    Found,
    Requirements,
    SpectrumRecord,
    build_spectrum,
    check_record,
)
from jaxmdwarf.io.spectra.registry import READERS
from jaxmdwarf.io.stream import stream_results

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

T = TypeVar("T")


def read_spectrum(
    path: str | os.PathLike[str],
    *,
    index: int | None = None,
    requirements: Requirements | None = None,
) -> RawSpectrum:
    """Read one spectrum of any known format, told by its content and never by its name.

    Parameters
    ----------
    path : str or path
        A LAMOST, SDSS, BOSS, SDSS-V or DESI file, plain or compressed, one that a registered reader
        knows (`jaxmdwarf.io.spectra.registry`), or anything that specutils reads.
    index : int, optional
        Which spectrum of the file, from 0; needed where it holds several.
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
    found = read_records(path)
    if index is None and len(found) > 1:
        raise RejectedInput(
            f"{os.fspath(path)} holds {len(found)} spectra.",
            "choose one, read_spectrum(path, index=0), or take all with read_spectra(path).",
        )
    if not 0 <= (index or 0) < len(found):
        raise RejectedInput(
            f"{os.fspath(path)} has no spectrum {index}.",
            f"choose an index from 0 to {len(found) - 1}.",
        )
    one = found[index or 0]
    if isinstance(one, RejectedInput):
        raise one
    check_record(one, requirements)
    return build_spectrum(one)


def read_spectra(
    path: str | os.PathLike[str], *, requirements: Requirements | None = None
) -> list[RawSpectrum | Reject]:
    """Read all spectra of one file, in their order.

    Parameters
    ----------
    path : str or path
        As `read_spectrum`.
    requirements : Requirements, optional
        What each spectrum must offer.

    Returns
    -------
    list of RawSpectrum or Reject
        A reject stands in the place of a spectrum that cannot be used and says why.

    Raises
    ------
    RejectedInput
        If the file cannot be read.
    """
    return list(_build(os.fspath(path), ReadFileTask(requirements)(os.fspath(path)), None))


def read_records(path: str | os.PathLike[str]) -> list[Found]:
    """All spectra of a file, unchecked and as plain arrays, without importing JAX.

    Returns
    -------
    list of SpectrumRecord or RejectedInput
        In the order of the file; ``meta["index"]`` counts them from 0.

    Raises
    ------
    RejectedInput
        If no reader knows the file, or it holds no spectrum.
    """
    file = SpectrumFile(path)
    for reader in READERS.entries():
        if reader.matches(file):
            found = reader.read(file)
            break
    else:
        raise RejectedInput(
            "not a FITS file, nor of any other known format.",
            "give spectra as FITS files, plain or compressed, pass arrays to "
            "jaxmdwarf.Spectrum.from_arrays, or register a reader.",
        )
    found = [found] if isinstance(found, SpectrumRecord) else list(found)
    if not found:
        raise RejectedInput("holds no spectrum.", "leave the file out.")
    for index, one in enumerate(found):
        if index and isinstance(one, SpectrumRecord):
            one.meta["index"] = index
    return found


def read_record(path: str | os.PathLike[str]) -> SpectrumRecord:
    """The spectrum of a file that holds one, as plain arrays.

    Raises
    ------
    RejectedInput
        As `read_records`; also if there are several.
    """
    found = read_records(path)
    if len(found) > 1:
        raise RejectedInput(f"holds {len(found)} spectra.", "use read_records.")
    if isinstance(found[0], RejectedInput):
        raise found[0]
    return found[0]


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


class ReadSpectrum(NamedTuple):
    """A usable spectrum, and a hash of its identifier and pixels."""

    record: SpectrumRecord
    content_hash: int


@dataclass(frozen=True)
class ReadTask:
    """Read and check a file of one spectrum: what a reader process does."""

    requirements: Requirements | None = None

    def __call__(self, path: str) -> tuple[SpectrumRecord, int]:
        record = read_record(path)
        check_record(record, self.requirements)
        return record, record.content_hash()


@dataclass(frozen=True)
class ReadFileTask:
    """Read and check the spectra of one file: what a reader process does.

    Parameters
    ----------
    requirements : Requirements, optional
        What each spectrum must offer.

    Returns
    -------
    list of ReadSpectrum or Reject
        One for each spectrum of the file; a reject names its file and which spectrum it was.

    Raises
    ------
    RejectedInput
        If the file cannot be read, or its only spectrum not be used.
    """

    requirements: Requirements | None = None

    def __call__(self, path: str) -> list[ReadSpectrum | Reject]:
        found = read_records(path)
        return [
            take_spectrum(path, one, index if len(found) > 1 else None, self._take)
            for index, one in enumerate(found)
        ]

    def _take(self, record: SpectrumRecord) -> ReadSpectrum:
        check_record(record, self.requirements)
        return ReadSpectrum(record, record.content_hash())


def take_spectrum(
    path: str, found: Found, index: int | None, work: Callable[[SpectrumRecord], T]
) -> T | Reject:
    """What `work` makes of one spectrum of a file, or the reject that says why not.

    Parameters
    ----------
    path : str
    found : SpectrumRecord or RejectedInput
        As a reader gave it.
    index : int or None
        Which spectrum of the file; None where it is the only one.
    work : callable
        Raises `RejectedInput` for spectra that are of no use.
    """
    try:
        if isinstance(found, RejectedInput):
            raise found
        return work(found)
    except RejectedInput as error:
        return Reject.from_error(path, error, index)


class DuplicateFinder:
    """Remembers spectra by identifier and content, 64 bits each, and names the first holder."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}

    def find(self, content_hash: int, path: str, index: int | None = None) -> Reject | None:
        """A reject if a spectrum with `content_hash` was met before, else None."""
        if content_hash not in self._first:
            self._first[content_hash] = path if not index else f"{path}[{index}]"
            return None
        first = self._first[content_hash]
        return Reject(
            path, f"the same spectrum as {first}", "the first one is kept: drop this one", index
        )


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
        Files that travel together (fewer where they are large); memory holds the spectra of about
        ``4 * processes * chunk_size`` files.
    requirements : Requirements, optional
        What a spectrum must offer; None takes `Requirements()`.
    reject_duplicates : bool
        Whether a spectrum met before (same identifier, flux and ivar) becomes a reject.

    Yields
    ------
    RawSpectrum or Reject
        One for each spectrum of each file in the order of `paths`, one for each file that cannot
        be read.
    """
    task = ReadFileTask(requirements or Requirements())
    duplicates = DuplicateFinder() if reject_duplicates else None
    for path, result in stream_results(task, paths, processes=processes, chunk_size=chunk_size):
        yield from _build(path, result, duplicates)


def _build(
    path: str, result: Reject | list[ReadSpectrum | Reject], duplicates: DuplicateFinder | None
) -> Iterator[RawSpectrum | Reject]:
    if isinstance(result, Reject):
        yield result
        return
    for index, one in enumerate(result):
        place = index if len(result) > 1 else None
        if isinstance(one, Reject):
            yield one
            continue
        duplicate = duplicates.find(one.content_hash, path, place) if duplicates else None
        if duplicate is not None:
            yield duplicate
            continue
        yield take_spectrum(path, one.record, place, build_spectrum)
