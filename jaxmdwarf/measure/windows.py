"""Means over wavelength windows: partial pixels, bad pixels, errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jaxmdwarf.wavelengths import air_to_vacuum

MIN_COVERAGE = 0.5
"""Least fraction of a window that good pixels must cover for its mean to count.

The pseudo-continuum of TiO5 is two and a half survey pixels wide: this allows one bad pixel in it.
"""


class WindowMean(NamedTuple):
    """Mean flux over a window and its variance; NaN where too little of the window is good."""

    value: float
    variance: float


class Pixels(NamedTuple):
    """A stretch of a spectrum.

    Parameters
    ----------
    wave_aa, flux, ivar : (n,) float
        Pixel centres, flux and inverse variance (0: bad).
    edges_aa : (n + 1,) float64
        Pixel edges, midway between the centres.
    """

    wave_aa: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    edges_aa: np.ndarray

    def overlap_with(self, low_aa: float, high_aa: float) -> tuple[np.ndarray, float]:
        """Length of each good pixel inside a window, (n,) Angstrom, and the fraction covered."""
        inside = np.clip(self.edges_aa, low_aa, high_aa)
        overlap = np.where(self.ivar > 0, inside[1:] - inside[:-1], 0.0)
        return overlap, float(overlap.sum()) / (high_aa - low_aa)


@lru_cache(maxsize=128)
def window_in_vacuum(low_air_aa: float, high_air_aa: float) -> tuple[float, float]:
    """Vacuum limits (Angstrom) of a window that was published in air.

    Examples
    --------
    >>> tuple(round(edge, 2) for edge in window_in_vacuum(7126.0, 7135.0))
    (7127.96, 7136.97)
    """
    low, high = air_to_vacuum(np.asarray([low_air_aa, high_air_aa]))
    return float(low), float(high)


def cut_pixels(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, low_aa: float, high_aa: float
) -> Pixels:
    """The pixels that touch the stretch from `low_aa` to `high_aa`.

    Parameters
    ----------
    wave_aa : (n,) float
        Pixel centres, increasing, Angstrom.
    flux, ivar : (n,) float
        Flux and inverse variance; ivar 0 is a bad pixel.
    low_aa, high_aa : float
        The stretch, on the scale of `wave_aa`.
    """
    first = max(int(wave_aa.searchsorted(low_aa)) - 1, 0)
    last = min(int(wave_aa.searchsorted(high_aa)) + 1, wave_aa.size)
    wave = wave_aa[first:last]
    if wave.size < 2:
        return Pixels(wave[:0], flux[:0], ivar[:0], np.zeros(1))
    edges = np.empty(wave.size + 1)
    edges[1:-1] = 0.5 * (wave[1:] + wave[:-1])
    edges[0] = 2.0 * wave[0] - edges[1]
    edges[-1] = 2.0 * wave[-1] - edges[-2]
    return Pixels(wave, flux[first:last], ivar[first:last], edges)


def mean_over_window(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, low_aa: float, high_aa: float
) -> WindowMean:
    """Mean flux per Angstrom over a window, by exact integration of the pixel histogram.

    Pixels at the ends count by their part inside; bad pixels (ivar 0) leave both the integral and
    the length.

    Parameters
    ----------
    wave_aa, flux, ivar : (n,) float
        A spectrum.
    low_aa, high_aa : float
        The window, on the scale of `wave_aa`.

    Returns
    -------
    WindowMean
        NaN if good pixels cover less than `MIN_COVERAGE` of the window.

    Examples
    --------
    >>> wave = np.arange(7000.0, 7050.0)
    >>> mean = mean_over_window(wave, 2.0 * np.ones(50), 100.0 * np.ones(50), 7010.0, 7014.0)
    >>> mean.value, round(mean.variance, 5)
    (2.0, 0.00219)
    """
    pixels = cut_pixels(wave_aa, flux, ivar, low_aa, high_aa)
    overlap, coverage = pixels.overlap_with(low_aa, high_aa)
    if coverage < MIN_COVERAGE:
        return WindowMean(np.nan, np.nan)
    good = overlap > 0
    weight = overlap[good] / overlap.sum()
    value = float(weight @ pixels.flux[good])
    variance = float((weight**2 / pixels.ivar[good]).sum(dtype=np.float64))
    return WindowMean(value, variance)


def average_means(means: Sequence[WindowMean]) -> WindowMean:
    """The plain average of window means, as for an index with two pseudo-continua."""
    n = len(means)
    return WindowMean(
        sum(mean.value for mean in means) / n, sum(mean.variance for mean in means) / n**2
    )
