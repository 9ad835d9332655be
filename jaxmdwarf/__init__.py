"""jaxmdwarf: raw low-resolution spectra of M dwarfs in, a catalogue out.

>>> import jaxmdwarf as jm

Spectra are read from arrays, lists, astropy quantities, specutils objects and files:

>>> import numpy as np
>>> wave = np.linspace(600.0, 890.0, 2901)
>>> jm.read((wave, np.ones(2901), 400.0), wave_unit="nm")
1 spectrum, 0 rejects
  spectrum 0: 2901 pixels, 6000-8900 Angstrom

Everything below is imported when it is first used; importing the package itself imports neither JAX
nor any room of the package, and touches no device.

===================  ===================================================================
`read`               spectra from whatever holds them
`load_model`         a model directory
`Spectrum`           one spectrum; ``Spectrum.from_arrays`` knows units, air and masks
===================  ===================================================================

The package is a house of rooms with a one-way flow of data; each room imports only rooms above it:
``errors labels arrays spectra quality wavelengths lsf`` -> ``simulate`` -> ``measure`` ->
``preprocess`` -> ``networks`` -> ``models`` -> ``inference`` -> ``diagnostics`` -> ``training`` ->
``catalogue`` -> ``io`` -> ``plots`` -> ``report`` -> ``workflows`` -> ``quickstart`` -> ``api`` ->
``cli``. What is imported from a room may change; what this page names stays.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxmdwarf.api.inputs import read
    from jaxmdwarf.io.models import load_model
    from jaxmdwarf.spectra import RawSpectrum as Spectrum

__all__ = ["Spectrum", "__version__", "load_model", "read"]

_HOMES = {
    "Spectrum": "jaxmdwarf.spectra:RawSpectrum",
    "load_model": "jaxmdwarf.io.models:load_model",
    "read": "jaxmdwarf.api.inputs:read",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
