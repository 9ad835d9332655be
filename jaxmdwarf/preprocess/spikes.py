"""Pixels that hold what no star sends, left out before anything is made of a spectrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jaxmdwarf.spectra import RawSpectrum

SPIKE_HEIGHT = 8.0
"""Flux in units of that around it above which a pixel is no star's; Halpha of a flaring M dwarf has
less at the resolution of survey spectra."""

MOST_PIXELS = 0.15
"""Share of the good pixels above which it is not single pixels that are wrong."""

_BLOCK = 64
_LEAST_LEVEL = 0.1


def leave_out_impossible(raw: RawSpectrum, *, sigma: float) -> RawSpectrum:
    """The spectrum without pixels of significantly negative flux, and without giant spikes.

    A running mean over such a pixel ruins all flux around it, and the first velocity with it: they
    must go before. Smaller ones are told by a fit (`jaxmdwarf.inference.clipping`).

    Parameters
    ----------
    raw : RawSpectrum
    sigma : float
        Least significance of either.

    Returns
    -------
    RawSpectrum
        The same object where nothing is to be left out, or so much that single pixels are not what
        is wrong.

    Examples
    --------
    >>> wave, flux = np.arange(6000.0, 6200.0), np.full(200, 5.0)
    >>> flux[[20, 90]] = 1e6, -1e6
    >>> raw = leave_out_impossible(RawSpectrum(wave, flux, np.ones(200)), sigma=5.0)
    >>> np.flatnonzero(raw.ivar == 0).tolist()
    [20, 90]
    """
    good = raw.ivar > 0
    flux = np.where(good, raw.flux, 0)
    wrong = np.zeros(flux.size, bool)
    if flux.min() < 0:
        wrong = flux * np.sqrt(raw.ivar) < -sigma
    n_good = np.count_nonzero(good)
    if flux.max() * n_good > SPIKE_HEIGHT * flux[~wrong].sum():
        level = _measure_level(flux, good & ~wrong)
        wrong |= (flux > SPIKE_HEIGHT * level) & (flux * np.sqrt(raw.ivar) > sigma)
    n_wrong = np.count_nonzero(wrong)
    if not 0 < n_wrong <= MOST_PIXELS * n_good:
        return raw
    return replace(raw, ivar=np.where(wrong, 0, raw.ivar))


def _measure_level(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Median flux of blocks of pixels, at each pixel the larger of its block's and the next's.

    Blocks without light count as a tenth of the typical one: what rises from there may be noise.
    """
    n_block = -(-flux.size // _BLOCK)
    padded = np.full(n_block * _BLOCK, np.nan)
    padded[: flux.size] = np.where(good, flux, np.nan)
    blocks = padded.reshape(n_block, _BLOCK)
    filled = np.isfinite(blocks).any(axis=1)
    level = np.zeros(n_block)
    level[filled] = np.nanmedian(blocks[filled], axis=1)
    level = np.maximum(level, _LEAST_LEVEL * np.median(level[filled]) if filled.any() else 0)
    wide = np.pad(level, 1, mode="edge")
    around = np.max([wide[:-2], wide[1:-1], wide[2:]], axis=0)
    return np.repeat(around, _BLOCK)[: flux.size]
