"""Files in, spectra out: formats told by content, one file or many at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.packs.reading import read_part
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import (
    Found,
    Placed,
    Requirements,
    SpectrumRecord,
    build_spectrum,
    check_record,
)
from jaxmdwarf.io.spectra.registry import READERS
from jaxmdwarf.io.stream import stream_results

if TYPE_CHECKING:
    import numpy as np

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
    return list(_build(ReadTask(requirements)(os.fspath(path)), None))


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
            file.require_checksums()
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


def read_placed(path: str) -> list[Placed]:
    """As `read_records`, for parts of packs too: these know which files they came from.

    Raises
    ------
    RejectedInput
        As `read_records` and `jaxmdwarf.io.packs.reading.read_part`.
    """
    if isinstance(path, PackPart):
        return read_part(path)
    return [Placed(path, index, found) for index, found in enumerate(read_records(path))]


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


class ReadSpectrum(NamedTuple):
    """A usable spectrum, a hash of its identifier and pixels, and the file and number it has."""

    record: SpectrumRecord
    content_hash: int
    place: tuple[str, int]


@dataclass(frozen=True)
class ReadTask:
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
        If the file cannot be read.
    """

    requirements: Requirements | None = None
    only_reads: ClassVar[bool] = True

    def __call__(self, path: str) -> list[ReadSpectrum | Reject]:
        return [take_spectrum(one, self._take) for one in read_placed(path)]

    def _take(self, placed: Placed, record: SpectrumRecord) -> ReadSpectrum:
        check_record(record, self.requirements)
        return ReadSpectrum(record, record.content_hash(), (placed.path, placed.number))


def take_spectrum(placed: Placed, work: Callable[[Placed, SpectrumRecord], T]) -> T | Reject:
    """What `work` makes of one spectrum, or the reject that says why not.

    Parameters
    ----------
    placed : Placed
        As a reader gave it.
    work : callable
        Takes it and its record; raises `RejectedInput` for spectra that are of no use.
    """
    try:
        if isinstance(placed.found, RejectedInput):
            raise placed.found
        return work(placed, placed.found)
    except RejectedInput as error:
        return Reject.from_error(placed.path, error, placed.number)


def name_place(path: str, index: int) -> str:
    """A spectrum by its file, and its number unless it is the first: ``coadd.fits[12]``."""
    return f"{path}[{index}]" if index else path


def read_rows(
    paths: Sequence[str], indices: Sequence[int] | np.ndarray | None = None
) -> list[RawSpectrum]:
    """The spectra of rows of a catalogue; a file that neighbouring rows name is read once.

    Parameters
    ----------
    paths : sequence of str
        Column ``path``.
    indices : sequence of int, optional
        Column ``spectrum``; the first spectrum of each file by default.

    Raises
    ------
    RejectedInput
        If a file or spectrum is not there any more.
    """
    spectra: list[RawSpectrum] = []
    last, found = None, []
    for row, path in enumerate(paths):
        index = 0 if indices is None else int(indices[row])
        if path != last:
            last, found = path, read_records(restore_path(path))
        one = found[index] if index < len(found) else None
        if not isinstance(one, SpectrumRecord):
            raise RejectedInput(
                f"{name_place(path, index)} holds no spectrum any more.",
                "the file has changed since the catalogue was made: put it back.",
            )
        check_record(one)
        spectra.append(build_spectrum(one))
    return spectra


class DuplicateFinder:
    """Remembers spectra by identifier and content, 64 bits each, and names the first holder."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}

    def find(self, content_hash: int, path: str, index: int = 0) -> Reject | None:
        """A reject if a spectrum with `content_hash` was met before, else None."""
        if content_hash not in self._first:
            self._first[content_hash] = name_place(path, index)
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
    task = ReadTask(requirements or Requirements())
    duplicates = DuplicateFinder() if reject_duplicates else None
    for _, result in stream_results(task, paths, processes=processes, chunk_size=chunk_size):
        yield from _build(result, duplicates)


def _build(
    result: Reject | list[ReadSpectrum | Reject], duplicates: DuplicateFinder | None
) -> Iterator[RawSpectrum | Reject]:
    if isinstance(result, Reject):
        yield result
        return
    for one in result:
        if isinstance(one, Reject):
            yield one
            continue
        duplicate = duplicates.find(one.content_hash, *one.place) if duplicates else None
        if duplicate is not None:
            yield duplicate
            continue
        yield take_spectrum(Placed(*one.place, one.record), lambda _, found: build_spectrum(found))
