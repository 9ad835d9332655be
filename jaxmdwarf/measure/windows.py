"""Means over wavelength windows: partial pixels, bad pixels, errors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.wavelengths import FASTEST_STAR_KMS, air_to_vacuum, doppler_factor

MIN_COVERAGE = 0.5
"""Least fraction of a window that good pixels must cover for its mean to count.

The pseudo-continuum of TiO5 is two and a half survey pixels wide: this allows one bad pixel in it.
"""


class WindowMean(NamedTuple):
    """Mean flux over a window and its variance; NaN where too little of the window is good.

    Parameters
    ----------
    value, variance : float or array
        One for each spectrum and window.
    """

    value: Any
    variance: Any


class Pixels(NamedTuple):
    """A stretch of spectra that share their wavelengths.

    Parameters
    ----------
    wave_aa : (n,) float
        Pixel centres.
    flux, ivar : (..., n) float
        Flux and inverse variance (0: bad).
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
    flux, ivar : (..., n) float
        Flux and inverse variance; ivar 0 is a bad pixel.
    low_aa, high_aa : float
        The stretch, on the scale of `wave_aa`.
    """
    first = max(int(wave_aa.searchsorted(low_aa)) - 1, 0)
    last = min(int(wave_aa.searchsorted(high_aa)) + 1, wave_aa.size)
    if last - first < 2:
        first = last = 0
    wave = wave_aa[first:last]
    edges = np.zeros(wave.size + 1)
    if wave.size:
        edges[1:-1] = 0.5 * (wave[1:] + wave[:-1])
        edges[0] = 2.0 * wave[0] - edges[1]
        edges[-1] = 2.0 * wave[-1] - edges[-2]
    return Pixels(wave, flux[..., first:last], ivar[..., first:last], edges)


def find_span(windows_aa: np.ndarray, moved_aa: np.ndarray) -> tuple[float, float]:
    """The stretch that windows reach in a star of any velocity; wider for what moves faster.

    Where sums begin decides on their last bits: of a stretch that fits the spectra at hand, what is
    measured on one would depend on which others are measured with it.

    Parameters
    ----------
    windows_aa, moved_aa : (..., 2) float
        At rest, and as they are in the spectra at hand.

    Examples
    --------
    >>> at_rest = np.array([[6000.0, 6010.0]])
    >>> [round(edge) for edge in find_span(at_rest, at_rest * 1.0001)]
    [5970, 6040]
    """
    low = float(windows_aa.min()) * doppler_factor(-FASTEST_STAR_KMS)
    high = float(windows_aa.max()) * doppler_factor(FASTEST_STAR_KMS)
    return min(low, float(moved_aa.min())), max(high, float(moved_aa.max()))


def mean_over_window(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, low_aa: float, high_aa: float
) -> WindowMean:
    """Mean flux per Angstrom over one window of one spectrum; see `mean_over_windows`.

    Examples
    --------
    >>> wave = np.arange(7000.0, 7050.0)
    >>> mean = mean_over_window(wave, 2.0 * np.ones(50), 100.0 * np.ones(50), 7010.0, 7014.0)
    >>> mean.value, round(mean.variance, 5)
    (2.0, 0.00219)
    """
    windows = np.array([[low_aa, high_aa]])
    found = mean_over_windows(wave_aa, flux[None], ivar[None], windows)
    return WindowMean(float(found.value[0, 0]), float(found.variance[0, 0]))


def mean_over_windows(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    windows_aa: np.ndarray,
    *,
    stretch: np.ndarray | float = 1.0,
) -> WindowMean:
    """Mean flux per Angstrom over several windows, by exact integration of the pixel histogram.

    Pixels at the ends count by their part inside; bad pixels (ivar 0) leave both the integral and
    the length. All windows are read off the same running integrals, which are linear within a
    pixel: ten windows of a spectrum take hardly longer than one.

    Parameters
    ----------
    wave_aa : (n,) float
        Pixel centres, shared by all spectra.
    flux, ivar : (n_spec, n) float
        Spectra.
    windows_aa : (n_window, 2) float
        The windows at rest; increasing.
    stretch : float or (n_spec,) float
        Doppler factor of each star: wavelengths over those at rest.

    Returns
    -------
    WindowMean
        Arrays (n_spec, n_window). NaN where good pixels cover less than `MIN_COVERAGE` of a window.
    """
    n_spec = len(flux)
    moved = windows_aa * np.reshape(stretch, (-1, 1, 1))
    lows, highs = (
        np.broadcast_to(moved[..., side], (n_spec, windows_aa.shape[-2])) for side in (0, 1)
    )
    pixels = cut_pixels(wave_aa, flux, ivar, *find_span(windows_aa, moved))
    n_pix = pixels.wave_aa.size
    if not n_pix:
        nothing = np.full(lows.shape, np.nan)
        return WindowMean(nothing, nothing)
    edges, good = pixels.edges_aa, pixels.ivar > 0
    width = np.where(good, edges[1:] - edges[:-1], 0.0)
    # Of each pixel: its good length, its flux, its variance, the last two times length (squared).
    parts = np.empty((3, n_spec, n_pix))
    parts[0], parts[1] = width, width * pixels.flux
    parts[2] = width * width / np.where(good, pixels.ivar, 1.0)
    running = np.zeros((3, n_spec, n_pix + 1))
    np.cumsum(parts, axis=2, out=running[:, :, 1:])
    row = np.arange(n_spec)[:, None]

    def reach(bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixel = np.minimum(np.maximum(edges.searchsorted(bound, side="right") - 1, 0), n_pix - 1)
        inside = (bound - edges[pixel]) / (edges[pixel + 1] - edges[pixel])
        inside = np.minimum(np.maximum(inside, 0.0), 1.0)  # windows may reach beyond the pixels
        return pixel, inside, running[:, row, pixel] + inside * parts[:, row, pixel]

    first, before, start = reach(lows)
    last, within, stop = reach(highs)
    length, integral, variance = stop - start
    # The variance of a pixel that counts by a part f goes with f^2, the running integral with f.
    at_first, at_last = parts[2, row, first], parts[2, row, last]
    variance = variance + (before**2 - before) * at_first + (within**2 - within) * at_last
    variance = np.where(first == last, (within - before) ** 2 * at_first, variance)
    length = np.where(length >= MIN_COVERAGE * (highs - lows), length, np.nan)
    return WindowMean(integral / length, variance / length**2)
