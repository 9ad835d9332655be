"""The pseudo-continuum: a Gaussian running mean that bad pixels do not enter (paper, eq. 2-3)."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

PAPER_SIGMA_AA = 30.0
"""Width of the paper's Gaussian, exp(-(dl/sigma)^2): a standard deviation of 21.2 Angstrom."""

_REACH_SIGMA = 4.5
# In units where one good pixel at the centre weighs about one.
_SMALLEST_WEIGHT = 1e-6


@partial(jax.jit, static_argnames=("grid", "sigma_aa"))
def pseudo_continuum(
    flux: Float[Array, "*batch n_pix"],
    good: Bool[Array, "*#batch n_pix"],
    grid: PixelGrid,
    *,
    sigma_aa: float = PAPER_SIGMA_AA,
) -> Float[Array, "*batch n_pix"]:
    """Running mean of the good pixels with Gaussian weights (paper, eq. 2-3).

    F(l) = sum_i f_i w_i / sum_i w_i over good pixels, with w_i = exp(-(l - l_i)^2 / sigma^2): no
    factor 2 in the exponent, as the paper writes it.

    Parameters
    ----------
    flux : (..., n_pix)
        Values at bad pixels are never read, NaN included.
    good : (..., n_pix) bool
        Pixels that enter; leading axes of length 1 serve all spectra.
    grid : PixelGrid
        Linear or logarithmic: the Gaussian is in Angstrom either way.
    sigma_aa : float
        Width of the Gaussian.

    Returns
    -------
    (..., n_pix)
        NaN-free; 0 where no good pixel lies within reach.

    Notes
    -----
    The sum is two banded matrix products: exact gradients, no rounding error carried from a
    bright end of the spectrum to a faint one (as a Fourier transform in float32 does), any grid.

    Examples
    --------
    >>> grid = PixelGrid.linear(6000.0, 6400.0, 1.0)
    >>> continuum = pseudo_continuum(jnp.full((2, 401), 5.0), jnp.ones((1, 401), bool), grid)
    >>> bool(jnp.allclose(continuum, 5.0))
    True
    """
    if flux.shape[-1] != grid.n_pix:
        raise MismatchError(f"spectra have {flux.shape[-1]} pixels, the grid has {grid.n_pix}.")
    total = _smooth(jnp.where(good, flux, 0), grid, float(sigma_aa))
    return total * _inverse_weight(good, flux.dtype, grid, float(sigma_aa))


def _inverse_weight(good, dtype, grid: PixelGrid, sigma_aa: float):
    """One over the sum of the weights of good pixels; 0 where there is none."""
    weight = _smooth(good.astype(dtype), grid, sigma_aa)
    reached = weight > _SMALLEST_WEIGHT
    return jnp.where(reached, 1 / jnp.where(reached, weight, 1), 0)


@partial(jax.jit, static_argnames=("grid", "sigma_aa"))
def transpose_noise(
    values: Float[Array, "*batch n_pix"],
    flux: Float[Array, "*#batch n_pix"],
    good: Bool[Array, "*#batch n_pix"],
    grid: PixelGrid,
    *,
    sigma_aa: float = PAPER_SIGMA_AA,
) -> Float[Array, "*batch n_pix"]:
    """What `values` weigh in the noise of the spectrum before it was normalised.

    Dividing by the running mean takes out the part of the noise that the mean follows: to first
    order the normalised noise is e_i - n_i sum_j w_ij e_j / sum_j w_ij, e being the noise over the
    continuum. Any weighted sum of normalised pixels is a sum of the independent e with the weights
    that this transpose of the operator returns.

    Parameters
    ----------
    values : (..., n_pix)
        Weights of normalised pixels; 0 at bad pixels.
    flux : (..., n_pix)
        Normalised flux n, of the model or of the star.
    good : (..., n_pix) bool
        Pixels that entered the mean.
    grid, sigma_aa
        As in `normalise`.
    """
    inverse = _inverse_weight(good, values.dtype, grid, float(sigma_aa))
    followed = _smooth(jnp.where(good, flux * values * inverse, 0), grid, float(sigma_aa))
    return values - jnp.where(good, followed, 0)


@partial(jax.jit, static_argnames="sigma_aa")
def normalise(
    batch: SpectrumBatch,
    *,
    sigma_aa: float = PAPER_SIGMA_AA,
    window: Bool[Array | np.ndarray, " n_pix"] | None = None,
) -> SpectrumBatch:
    """Divide spectra and their errors by the pseudo-continuum.

    Parameters
    ----------
    batch : SpectrumBatch
        Spectra with ``ivar`` 0 at bad pixels.
    sigma_aa : float
        Width of the Gaussian of eq. 3.
    window : (n_pix,) bool, optional
        Pixels masked in every spectrum (`jaxmdwarf.preprocess.masks.mask_for`): they leave the
        mean and get ivar 0, but their flux is normalised all the same, for figures and indices.

    Returns
    -------
    SpectrumBatch
        Bad pixels, and pixels whose continuum is not positive, hold flux 1 and ivar 0.

    Examples
    --------
    >>> grid = PixelGrid.linear(6000.0, 6400.0, 1.0)
    >>> flux = jnp.linspace(1.0, 2.0, 401)[None, :]
    >>> raw = SpectrumBatch(flux, 100.0 * jnp.ones_like(flux), 100.0 * jnp.ones_like(flux), grid)
    >>> bool(jnp.abs(normalise(raw).flux - 1.0).max() < 0.05)
    True
    """
    valid = batch.ivar > 0
    entering = valid if window is None else valid & ~jnp.asarray(window)
    continuum = pseudo_continuum(batch.flux, entering, batch.grid, sigma_aa=sigma_aa)
    usable = valid & (continuum > 0)
    level = jnp.where(usable, continuum, 1)
    kept = usable if window is None else usable & ~jnp.asarray(window)
    # The mean follows a little of each pixel's own noise: the variance loses 2/S - 1/(sqrt(2) S)
    # of the covariance's row sum, S being the sum of weights (of their squares: S / sqrt 2).
    inverse = _inverse_weight(entering, batch.flux.dtype, batch.grid, float(sigma_aa))
    share = (2.0 - 0.5**0.5) * _centre_weight(batch.grid, float(sigma_aa)) * inverse
    row_sum = jnp.where(kept, batch.ivar, 0) / jnp.where(kept, batch.information, 1)
    remaining = 1 - jnp.clip(share * row_sum, 0, 0.9)
    return SpectrumBatch(
        flux=jnp.where(usable, jnp.where(usable, batch.flux, 1) / level, 1),
        # One factor after the other: the square alone may leave the range of float32.
        ivar=jnp.where(kept, jnp.where(kept, batch.ivar, 0) * level * level / remaining, 0),
        information=jnp.where(kept, jnp.where(kept, batch.information, 0) * level * level, 0),
        grid=batch.grid,
    )


@partial(jax.jit, static_argnames=("grid", "sigma_aa"))
def normalise_model(
    flux: Float[Array, "*batch n_pix"],
    grid: PixelGrid,
    *,
    sigma_aa: float = PAPER_SIGMA_AA,
    window: Bool[Array | np.ndarray, " n_pix"] | None = None,
) -> Float[Array, "*batch n_pix"]:
    """Normalise noise-free spectra exactly as `normalise` does observed ones.

    Parameters
    ----------
    flux : (..., n_pix)
        Positive model flux.
    grid, sigma_aa, window
        As in `normalise`; the same window keeps models and observations on one footing.
    """
    good = jnp.ones((1,) * (flux.ndim - 1) + (grid.n_pix,), dtype=bool)
    if window is not None:
        good = good & ~jnp.asarray(window)
    continuum = pseudo_continuum(flux, good, grid, sigma_aa=sigma_aa)
    positive = continuum > 0
    return jnp.where(positive, flux / jnp.where(positive, continuum, 1), 1)


@partial(jax.jit, static_argnames=("grid", "sigma_aa"))
def _smooth(values, grid: PixelGrid, sigma_aa: float):
    to_nodes, to_pixels = _two_gaussians(grid, sigma_aa)
    return _apply_band(_apply_band(values, to_nodes), to_pixels)


@lru_cache(maxsize=16)
def _centre_weight(grid: PixelGrid, sigma_aa: float) -> float:
    """What a pixel weighs in its own mean, in the units of `_smooth`."""
    middle = grid.n_pix // 2
    alone = np.zeros(grid.n_pix)
    alone[middle] = 1.0
    # With numpy: a program of its own would have to be compiled for one number.
    to_nodes, to_pixels = _two_gaussians(grid, sigma_aa)
    return float(_apply_band_on_host(_apply_band_on_host(alone, to_nodes), to_pixels)[middle])


def _apply_band(values, band: _Band):
    return jnp.concatenate(
        [
            values[..., start : start + block.shape[0]] @ block.astype(values.dtype)
            for start, block in zip(band.starts, band.blocks, strict=True)
        ],
        axis=-1,
    )


def _apply_band_on_host(values: np.ndarray, band: _Band) -> np.ndarray:
    blocks = zip(band.starts, band.blocks, strict=True)
    return np.concatenate([values[start : start + len(block)] @ block for start, block in blocks])


class _Band(NamedTuple):
    """A banded matrix as dense blocks: first input and weights (n_input, n_output) of each."""

    starts: tuple[int, ...]
    blocks: tuple[np.ndarray, ...]


@lru_cache(maxsize=16)
def _two_gaussians(grid: PixelGrid, sigma_aa: float) -> tuple[_Band, _Band]:
    """Pixels to sparse nodes, and nodes to pixels.

    A Gaussian is the convolution of two that are narrower by sqrt(2); on nodes sigma/3 apart the
    sum equals the integral to exp(-(1.5 pi)^2) = 2e-10, with a fifth of the arithmetic.
    """
    if not sigma_aa > 0:
        raise UsageError(f"the continuum width must be positive, got {sigma_aa} Angstrom.")
    wave = grid.wave_aa
    half, spacing = sigma_aa / np.sqrt(2.0), sigma_aa / 3.0
    reach = _REACH_SIGMA * half
    nodes = np.arange(wave[0] - reach, wave[-1] + reach + spacing, spacing)
    first = _band(wave, nodes, half, grid.widths_aa)
    return first, _band(nodes, wave, half, np.ones(nodes.size))


def _band(source: np.ndarray, target: np.ndarray, width: float, measure: np.ndarray) -> _Band:
    reach = _REACH_SIGMA * width
    starts, blocks = [], []
    typical = float(np.median(measure))
    per_block = max(8, round(2.0 * reach / float(np.median(np.diff(target)))))
    for first in range(0, target.size, per_block):
        centre = target[first : first + per_block]
        start = int(np.searchsorted(source, centre[0] - reach))
        stop = int(np.searchsorted(source, centre[-1] + reach))
        distance = (source[start:stop, None] - centre) / width
        weight = np.exp(-(distance**2)) * (measure[start:stop, None] / typical)
        starts.append(start)
        blocks.append(weight.astype(np.float32))
    return _Band(tuple(starts), tuple(blocks))
