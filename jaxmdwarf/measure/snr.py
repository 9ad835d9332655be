"""Signal-to-noise per pixel in the r and i bands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

BANDS_AA: dict[str, tuple[float, float]] = {"r": (5500.0, 7000.0), "i": (6900.0, 8200.0)}
"""Vacuum Angstrom. So chosen that the median below repeats the survey's own header values: on 106
LAMOST spectra the ratio to the header is 1.03 in r and 1.00 in i (median)."""

MIN_PIXELS = 50


def estimate_snr(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, band: Literal["r", "i"]
) -> float:
    """Median of flux over its error per pixel in a band.

    Parameters
    ----------
    wave_aa, flux, ivar : (n,) float
        A spectrum; bad pixels (ivar 0) do not count.
    band : {"r", "i"}
        5500-7000 or 6900-8200 Angstrom.

    Returns
    -------
    float
        NaN with fewer than 50 good pixels in the band.

    Examples
    --------
    >>> wave = np.arange(6000.0, 8900.0)
    >>> round(estimate_snr(wave, np.full(2900, 2.0), np.full(2900, 25.0), "i"), 3)
    10.0
    """
    low, high = BANDS_AA[band]
    first, last = wave_aa.searchsorted((low, high))
    weight = ivar[first:last]
    good = weight > 0
    if np.count_nonzero(good) < MIN_PIXELS:
        return math.nan
    return float(np.median(flux[first:last][good] * np.sqrt(weight[good])))


def find_snr(raw: RawSpectrum, band: Literal["r", "i"]) -> float:
    """S/N per pixel as the header has it, or estimated where it has none."""
    given = raw.meta.snr_r if band == "r" else raw.meta.snr_i
    return given if math.isfinite(given) else estimate_snr(raw.wave_aa, raw.flux, raw.ivar, band)
