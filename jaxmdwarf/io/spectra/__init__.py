"""Files of spectra of every supported survey; see `registry` for readers of one's own."""

from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import SpectrumRecord
from jaxmdwarf.io.spectra.registry import (
    SpectrumReader,
    list_readers,
    register_reader,
    unregister_reader,
)

__all__ = [
    "SpectrumFile",
    "SpectrumReader",
    "SpectrumRecord",
    "list_readers",
    "register_reader",
    "unregister_reader",
]
