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
    """Mean flux per Angstrom over one window; see `mean_over_windows`.

    Examples
    --------
    >>> wave = np.arange(7000.0, 7050.0)
    >>> mean = mean_over_window(wave, 2.0 * np.ones(50), 100.0 * np.ones(50), 7010.0, 7014.0)
    >>> mean.value, round(mean.variance, 5)
    (2.0, 0.00219)
    """
    return mean_over_windows(wave_aa, flux, ivar, np.array([[low_aa, high_aa]]))[0]


def mean_over_windows(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows_aa: np.ndarray
) -> list[WindowMean]:
    """Mean flux per Angstrom over several windows, by exact integration of the pixel histogram.

    Pixels at the ends count by their part inside; bad pixels (ivar 0) leave both the integral and
    the length. All windows are read off the same running integrals, which are linear within a
    pixel: ten windows of one spectrum take hardly longer than one.

    Parameters
    ----------
    wave_aa, flux, ivar : (n,) float
        A spectrum.
    windows_aa : (n_window, 2) float
        The windows, on the scale of `wave_aa`.

    Returns
    -------
    list of WindowMean
        NaN where good pixels cover less than `MIN_COVERAGE` of a window.
    """
    lows, highs = windows_aa[:, 0], windows_aa[:, 1]
    pixels = cut_pixels(wave_aa, flux, ivar, float(lows.min()), float(highs.max()))
    n_pix = pixels.wave_aa.size
    if not n_pix:
        return [WindowMean(np.nan, np.nan)] * len(windows_aa)
    edges, good = pixels.edges_aa, pixels.ivar > 0
    width = np.where(good, edges[1:] - edges[:-1], 0.0)
    # Of each pixel: its good length, its flux, its variance, the last two times length (squared).
    parts = np.empty((3, n_pix))
    parts[0], parts[1] = width, width * pixels.flux
    parts[2] = width * width / np.where(good, pixels.ivar, 1.0)
    running = np.zeros((3, n_pix + 1))
    np.cumsum(parts, axis=1, out=running[:, 1:])

    def reach(bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixel = np.minimum(np.maximum(edges.searchsorted(bound, side="right") - 1, 0), n_pix - 1)
        inside = (bound - edges[pixel]) / (edges[pixel + 1] - edges[pixel])
        inside = np.minimum(np.maximum(inside, 0.0), 1.0)  # windows may reach beyond the pixels
        return pixel, inside, running[:, pixel] + inside * parts[:, pixel]

    first, before, start = reach(lows)
    last, within, stop = reach(highs)
    length, integral, variance = stop - start
    # The variance of a pixel that counts by a part f goes with f^2, the running integral with f.
    variance = variance + (before**2 - before) * parts[2, first]
    variance = variance + (within**2 - within) * parts[2, last]
    alone = first == last
    if alone.any():
        variance = np.where(alone, (within - before) ** 2 * parts[2, first], variance)
    enough = length >= MIN_COVERAGE * (highs - lows)
    length = np.where(enough, length, np.nan)
    return list(map(WindowMean, (integral / length).tolist(), (variance / length**2).tolist()))


def average_means(means: Sequence[WindowMean]) -> WindowMean:
    """The plain average of window means, as for an index with two pseudo-continua."""
    n = len(means)
    return WindowMean(
        sum(mean.value for mean in means) / n, sum(mean.variance for mean in means) / n**2
    )
