"""From what readers bring to spectra: those that cannot be used are rejects, with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.parts import PackPart, count_spectra, measure_size
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.records import SpectrumRecord, build_spectrum
from jaxmdwarf.spectra import RawSpectrum

T = TypeVar("T")

SPECTRUM_BYTES = 400_000
"""Size of one spectrum in a file of many (DESI's, with their resolution matrices)."""


def build_spectra(
    items: Iterable[tuple[str, SpectrumRecord]], require: Callable[[RawSpectrum], None]
) -> tuple[list[RawSpectrum], list[Reject]]:
    """Spectra of records that were read.

    Parameters
    ----------
    items : iterable of (path, SpectrumRecord)
    require : callable
        Raises `RejectedInput` for spectra that are of no use.
    """
    raws: list[RawSpectrum] = []
    rejects: list[Reject] = []
    for path, record in items:
        try:
            raw = build_spectrum(record)
            require(raw)
        except RejectedInput as error:
            rejects.append(Reject.from_error(path, error, int(record.meta["index"])))
        else:
            raws.append(raw)
    return raws, rejects


def count_rows(paths: Sequence[str], chunk_size: int) -> int:
    """Rows of every compiled call: one shape for a run, no larger than its spectra need.

    Parameters
    ----------
    paths : sequence of str
        Inputs; what a file of many spectra holds is judged by its size.
    chunk_size : int
        Most rows.
    """
    files = [path for path in paths[:chunk_size] if not isinstance(path, PackPart)]
    n_byte = sum(map(measure_size, files))
    n_spectrum = max(count_spectra(paths), n_byte // SPECTRUM_BYTES, 1)
    return min(chunk_size, -(-n_spectrum // 32) * 32)


def split_rows(spectra: Sequence[T], n_row: int) -> Iterator[Sequence[T]]:
    """Parts of at most `n_row`: a chunk of files may hold more spectra than files."""
    for first in range(0, len(spectra), n_row):
        yield spectra[first : first + n_row]
