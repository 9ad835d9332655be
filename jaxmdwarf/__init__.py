"""jaxmdwarf: raw low-resolution spectra of M dwarfs in, a catalogue out.

Spectra come as arrays, lists, astropy quantities, specutils objects, files or folders:

>>> import numpy as np
>>> import jaxmdwarf as jm
>>> wave = np.linspace(600.0, 890.0, 2901)
>>> flux = np.where((wave > 712.0) & (wave < 720.0), 0.6, 1.0)
>>> table = jm.measure((wave, flux, 900.0), velocity=0.0, wave_unit="nm")
>>> print(f"M{table['SpT'][0]:.1f}, TiO5 {table['TiO5'][0]:.2f} +- {table['e_TiO5'][0]:.2f}")
M1.7, TiO5 0.60 +- 0.01

Three lines from arrays to labels and a figure, with a model directory (that of ``jaxmdwarf
quickstart --out first`` is ``first/transfer``):

>>> fits = jm.fit((wave, flux, ivar), jm.load_model("model"))  # doctest: +SKIP
>>> fits.write("catalogue.fits")  # doctest: +SKIP
>>> fits.plot().savefig("fit.png")  # doctest: +SKIP

=====================  =================================================================
`fit`, `Fitter`        labels, velocities, errors, flags and figures of spectra
`measure`              S/N, Halpha, TiO5, CaH and spectral types, without a model
`read`, `Spectrum`     spectra from whatever holds them
`load_model`           a model directory
`train_emulator`       a model of a grid of theoretical spectra
`train_transfer`       that model, taught by unlabelled spectra what theory lacks
`build_catalogue`      of fits: total errors from repeat visits, cuts, variables, binaries, ages
`simulate`             a survey whose truth is known
=====================  =================================================================

Everything above is imported when it is first used; ``import jaxmdwarf`` imports neither JAX nor
any room of the package, and touches no device. Errors are those of `jaxmdwarf.errors`: one line,
with a remedy.

The package is a house of rooms with a one-way flow of data; each room imports only rooms above it:
``errors labels arrays spectra quality wavelengths lsf`` -> ``simulate`` -> ``measure`` ->
``preprocess`` -> ``networks`` -> ``models`` -> ``inference`` -> ``diagnostics`` -> ``training`` ->
``catalogue`` -> ``io`` -> ``plots`` -> ``report`` -> ``workflows`` -> ``quickstart`` -> ``api`` ->
``cli``. What rooms hold may change; what this page names stays.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Two rooms have the names of functions. A package that has been imported is never bound to its
# name again, so after this the names are free for what `__getattr__` finds; from the rooms one
# imports as ever: ``from jaxmdwarf.simulate.gap import DomainGap``.
for _room in ("measure", "simulate"):
    importlib.import_module(f"jaxmdwarf.{_room}")
    del globals()[_room]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxmdwarf.api.cataloguing import build_catalogue
    from jaxmdwarf.api.fitting import Fitter, fit
    from jaxmdwarf.api.inputs import read
    from jaxmdwarf.api.measuring import measure
    from jaxmdwarf.api.simulation import simulate
    from jaxmdwarf.api.training import train_emulator, train_transfer
    from jaxmdwarf.io.models import load_model
    from jaxmdwarf.spectra import RawSpectrum as Spectrum

__all__ = [
    "Fitter",
    "Spectrum",
    "__version__",
    "build_catalogue",
    "fit",
    "load_model",
    "measure",
    "read",
    "simulate",
    "train_emulator",
    "train_transfer",
]

_HOMES = {
    "Fitter": "jaxmdwarf.api.fitting:Fitter",
    "Spectrum": "jaxmdwarf.spectra:RawSpectrum",
    "build_catalogue": "jaxmdwarf.api.cataloguing:build_catalogue",
    "fit": "jaxmdwarf.api.fitting:fit",
    "load_model": "jaxmdwarf.io.models:load_model",
    "measure": "jaxmdwarf.api.measuring:measure",
    "read": "jaxmdwarf.api.inputs:read",
    "simulate": "jaxmdwarf.api.simulation:simulate",
    "train_emulator": "jaxmdwarf.api.training:train_emulator",
    "train_transfer": "jaxmdwarf.api.training:train_transfer",
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
