"""Molecular band indices of M dwarfs: mean flux in a band over mean flux in its pseudo-continuum.

Windows are published in air and converted here; spectra are in vacuum and in the star's rest frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.measure.windows import (
    mean_over_windows,
    window_in_vacuum,
)

MIN_CONTINUUM_SNR = 3.0
"""A ratio to a pseudo-continuum detected more weakly than this has no useful error: it is NaN."""


class Measurement(NamedTuple):
    """A number and its one-sigma error, or one of each a spectrum; NaN where there is none.

    Parameters
    ----------
    value, error : float or (n_spec,) array
    """

    value: Any
    error: Any


@dataclass(frozen=True)
class BandIndex:
    """Definition of an index, windows in air Angstrom.

    Parameters
    ----------
    name : str
        As in the literature, lower case.
    band_aa : (float, float)
        The numerator.
    continuum_aa : tuple of one or two (float, float)
        The denominator: the average of the mean fluxes of these windows.
    source : str
        Where it was defined.
    """

    name: str
    band_aa: tuple[float, float]
    continuum_aa: tuple[tuple[float, float], ...]
    source: str


_REID = "Reid, Hawley & Gizis 1995, AJ 110, 1838"
_LEPINE = "Lepine, Rich & Shara 2003, AJ 125, 1598"
_NEAR_7044 = ((7042.0, 7046.0),)

BAND_INDICES: dict[str, BandIndex] = {
    index.name: index
    for index in (
        BandIndex("tio5", (7126.0, 7135.0), _NEAR_7044, _REID),
        BandIndex("cah1", (6380.0, 6390.0), ((6345.0, 6355.0), (6410.0, 6420.0)), _REID),
        BandIndex("cah2", (6814.0, 6846.0), _NEAR_7044, _REID),
        BandIndex("cah3", (6960.0, 6990.0), _NEAR_7044, _REID),
        BandIndex("tio6", (7745.0, 7765.0), ((7550.0, 7570.0),), _LEPINE),
        BandIndex("tio7", (8440.0, 8470.0), ((8400.0, 8420.0),), _LEPINE),
        BandIndex("vo1", (7430.0, 7470.0), ((7550.0, 7570.0),), _LEPINE),
        BandIndex("vo2", (7920.0, 7960.0), ((8130.0, 8150.0),), _LEPINE),
        BandIndex("color_m", (8105.0, 8155.0), ((6510.0, 6560.0),), _LEPINE),
    )
}
"""The indices by name; `tio5` is the paper's eq. 12."""


def measure_index(
    name: str, wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray
) -> Measurement:
    """Measure one band index.

    Parameters
    ----------
    name : str
        A key of `BAND_INDICES`.
    wave_aa : (n,) float
        Rest-frame vacuum wavelengths, Angstrom, increasing.
    flux : (n,) float
        Flux per Angstrom, any unit.
    ivar : (n,) float
        Inverse variance; 0 marks a bad pixel.

    Returns
    -------
    Measurement
        The ratio, with the error of independent pixels; NaN where a window is not covered or the
        pseudo-continuum is below 3 sigma.

    Raises
    ------
    UsageError
        If `name` is unknown.

    Examples
    --------
    >>> wave = np.arange(7000.0, 7200.0)
    >>> flux = np.where(wave > 7100, 0.6, 1.0)
    >>> tio5 = measure_index("tio5", wave, flux, np.full(200, 1e4))
    >>> round(tio5.value, 3), round(tio5.error, 4)
    (0.6, 0.0043)
    """
    found = measure_indices((name,), wave_aa, flux[None], ivar[None])[name]
    return Measurement(float(found.value[0]), float(found.error[0]))


def measure_indices(
    names: tuple[str, ...],
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    stretch: np.ndarray | float = 1.0,
) -> dict[str, Measurement]:
    """Measure several band indices of several spectra at once; see `measure_index`.

    Parameters
    ----------
    names : tuple of str
        Keys of `BAND_INDICES`.
    wave_aa : (n,) float
        Vacuum wavelengths, Angstrom, shared by all spectra.
    flux, ivar : (n_spec, n) float
    stretch : float or (n_spec,) float
        Doppler factor of each star: wavelengths over those at rest.

    Returns
    -------
    dict of str to Measurement
        Arrays (n_spec,).
    """
    layout = _lay_out(names)
    means = mean_over_windows(wave_aa, flux, ivar, layout.windows_aa, stretch=stretch)
    band, band_variance = means.value[:, layout.band], means.variance[:, layout.band]
    one, other = layout.continuum
    level = 0.5 * (means.value[:, one] + means.value[:, other])
    # Of two pseudo-continua the average counts; where there is one, it stands in both places.
    share = np.where(one == other, 0.5, 0.25)
    variance = share * (means.variance[:, one] + means.variance[:, other])
    with np.errstate(invalid="ignore"):
        level = np.where(level > MIN_CONTINUUM_SNR * np.sqrt(variance), level, np.nan)
    ratio = band / level
    error = np.sqrt(band_variance + ratio**2 * variance) / level
    return {name: Measurement(ratio[:, k], error[:, k]) for k, name in enumerate(names)}


class _Layout(NamedTuple):
    """Windows of several indices, and which of them are bands and (first, second) continua."""

    windows_aa: np.ndarray
    band: np.ndarray
    continuum: np.ndarray


@lru_cache(maxsize=32)
def _lay_out(names: tuple[str, ...]) -> _Layout:
    windows: list[tuple[float, float]] = []
    bands, continua = [], []
    for name in names:
        if name not in BAND_INDICES:
            raise UsageError(
                f"band index {name!r} is unknown.", f"use one of {', '.join(BAND_INDICES)}."
            )
        index = BAND_INDICES[name]
        first = len(windows)
        bands.append(first)
        continua.append((first + 1, first + len(index.continuum_aa)))
        windows += [window_in_vacuum(*one) for one in (index.band_aa, *index.continuum_aa)]
    return _Layout(np.array(windows), np.array(bands), np.array(continua).T)
