"""From what readers bring to spectra: those that cannot be used are rejects, with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.records import SpectrumRecord, build_spectrum
from jaxmdwarf.spectra import RawSpectrum


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
            rejects.append(Reject.from_error(path, error))
        else:
            raws.append(raw)
    return raws, rejects
