"""The line-spread function: finely sampled spectra to an instrument's resolution and pixels."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.wavelengths import PixelGrid

FWHM_OF_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian in units of its sigma, 2.3548."""

_REACH_SIGMA = 6.0
_BLOCK_PIXELS = 64
_SQRT_2PI = np.sqrt(2.0 * np.pi)


class LsfWeights(eqx.Module):
    """A linear map from fine samples to pixels, kept as dense blocks along the diagonal.

    Every block serves up to 64 neighbouring pixels from one contiguous stretch of samples, so that
    applying the map is a few dozen matrix products that read each sample about once.

    Parameters
    ----------
    blocks : tuple of (width, n_block_pix)
        Weights of samples ``start .. start + width`` in the pixels of each block.
    starts : tuple of int
        First sample of each block (static).
    n_in : int
        Number of fine samples (static).
    grid : PixelGrid
        The output pixels (static).
    """

    blocks: tuple[Float[Array | np.ndarray, "_width _pix"], ...]
    starts: tuple[int, ...] = eqx.field(static=True)
    n_in: int = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def n_out(self) -> int:
        """Number of output pixels."""
        return self.grid.n_pix

    @property
    def index(self) -> np.ndarray:
        """Samples that enter each pixel, shape (n_out, w) int32; host only."""
        return self._gathered()[0]

    @property
    def weight(self) -> np.ndarray:
        """Weights of the samples in `index`, shape (n_out, w); rows sum to 1; host only."""
        return self._gathered()[1]

    def _gathered(self) -> tuple[np.ndarray, np.ndarray]:
        width = max(block.shape[0] for block in self.blocks)
        index = np.zeros((self.n_out, width), dtype=np.int32)
        weight = np.zeros((self.n_out, width), dtype=np.asarray(self.blocks[0]).dtype)
        row = 0
        for start, block in zip(self.starts, self.blocks, strict=True):
            n_width, n_pix = block.shape
            index[row : row + n_pix] = np.minimum(start + np.arange(width), self.n_in - 1)
            weight[row : row + n_pix, :n_width] = np.asarray(block).T
            row += n_pix
        return index, weight


def lsf_weights(
    wave_in_aa: np.ndarray,
    grid_out: PixelGrid,
    *,
    resolution: float | np.ndarray,
    h4: float = 0.0,
    wing_fraction: float = 0.0,
    wing_scale: float = 3.0,
    native_resolution: float | np.ndarray | None = None,
    dtype: type = np.float32,
) -> LsfWeights:
    """Weights that convolve fine samples with the line-spread function and average over pixels.

    A pixel receives the mean, over its own width, of the flux density convolved with the
    line-spread function: the integral over the pixel is analytic (differences of the cumulative
    profile), so narrow lines keep their flux and centroid wherever they fall in a pixel.

    Parameters
    ----------
    wave_in_aa : (n_in,) array
        Increasing wavelengths of the samples (any spacing), Angstrom. A sample stands for the cell
        that ends half-way to its neighbours.
    grid_out : PixelGrid
        The instrument's pixels.
    resolution : float or (n_out,) array
        Resolving power lambda/FWHM of the Gaussian core, at the output pixels if an array.
    h4 : float
        Fourth Gauss-Hermite coefficient (van der Marel & Franx 1993, ApJ 407, 525): positive is
        more peaked with wider wings. The profile is rescaled to unit area.
    wing_fraction, wing_scale : float
        Fraction of the light in a second Gaussian, `wing_scale` times wider.
    native_resolution : float or (n_out,) array, optional
        Resolving power the samples already have, removed in quadrature.
    dtype : type
        Floating-point type of the weights.

    Returns
    -------
    LsfWeights
        To be applied with `apply_lsf`; rows sum to 1, so a constant stays constant.

    Raises
    ------
    UsageError
        If the resolution is not positive or exceeds what the samples have.
    MismatchError
        If wavelengths do not increase or do not cover the pixels.

    Notes
    -----
    Where samples are finer than one sigma the sum over samples converges geometrically; where
    they are coarser the flux is taken constant over a cell, whose variance is taken off the
    kernel, so that second moments stay exact.

    Examples
    --------
    >>> wave = np.exp(np.arange(np.log(6450.0), np.log(6650.0), 2.7e-5))
    >>> weights = lsf_weights(wave, PixelGrid.linear(6500.0, 6600.0, 1.0), resolution=1800.0)
    >>> apply_lsf(np.ones((2, wave.size), dtype=np.float32), weights).shape
    (2, 101)
    """
    wave = np.asarray(wave_in_aa, dtype=np.float64)
    if wave.ndim != 1 or wave.size < 2 or not np.all(np.diff(wave) > 0):
        raise MismatchError(
            "the fine wavelengths are not an increasing vector.", "sort them and drop repeats."
        )
    if not (0.0 <= wing_fraction < 1.0 and wing_scale > 0 and abs(h4) < 0.3):
        raise UsageError(
            f"line-spread function with h4={h4}, wing_fraction={wing_fraction}, "
            f"wing_scale={wing_scale} is no profile.",
            "use |h4| < 0.3, 0 <= wing_fraction < 1, wing_scale > 0.",
        )
    middle = 0.5 * (wave[1:] + wave[:-1])
    cell_edges = np.concatenate(
        ([1.5 * wave[0] - 0.5 * wave[1]], middle, [1.5 * wave[-1] - 0.5 * wave[-2]])
    )
    edges = grid_out.edges_aa
    # A sample at the very centre of the outermost pixel is the least that can define it.
    slack = 0.5 * np.array([edges[1] - edges[0], edges[-1] - edges[-2]]) * (1 + 1e-9)
    if cell_edges[0] > edges[0] + slack[0] or cell_edges[-1] < edges[-1] - slack[1]:
        raise MismatchError(
            f"samples cover {wave[0]:.2f}-{wave[-1]:.2f} Angstrom, "
            f"pixels {edges[0]:.2f}-{edges[-1]:.2f}.",
            "use pixels within the range of the spectrum.",
        )
    sigma = _sigma_at(wave, grid_out, resolution, native_resolution)
    reach = _REACH_SIGMA * (max(1.0, wing_scale) if wing_fraction > 0 else 1.0)
    width_of_cell = np.diff(cell_edges)
    cumulative = _Profile(h4, wing_fraction, wing_scale)

    blocks, starts = [], []
    for first in range(0, grid_out.n_pix, _BLOCK_PIXELS):
        block_edges = edges[first : first + _BLOCK_PIXELS + 1]
        low = block_edges[0] - reach * np.interp(block_edges[0], wave, sigma)
        high = block_edges[-1] + reach * np.interp(block_edges[-1], wave, sigma)
        start = int(np.clip(np.searchsorted(cell_edges, low) - 1, 0, wave.size - 1))
        stop = int(np.clip(np.searchsorted(cell_edges, high), start + 1, wave.size))
        cells = slice(start, stop)
        share = cumulative.share_of_cells(
            wave[cells], width_of_cell[cells], sigma[cells], block_edges
        )
        weight = share * (width_of_cell[cells, None] / np.diff(block_edges))
        blocks.append((weight / weight.sum(axis=0)).astype(dtype))
        starts.append(start)
    return LsfWeights(tuple(blocks), tuple(starts), int(wave.size), grid_out)


def apply_lsf(flux: Float[Array | np.ndarray, "*batch n_in"], weights: LsfWeights):
    """Convolve and bin spectra with weights from `lsf_weights`.

    Parameters
    ----------
    flux : (..., n_in)
        Flux density at the fine samples; numpy stays numpy, JAX arrays stay on their device (and
        the function can be jitted and differentiated). The dtype is kept.
    weights : LsfWeights
        The map.

    Returns
    -------
    (..., n_out)
        Mean flux density in each pixel.

    Raises
    ------
    MismatchError
        If the spectra do not have the number of samples the weights were made for.
    """
    if flux.shape[-1] != weights.n_in:
        raise MismatchError(
            f"spectra have {flux.shape[-1]} samples, the weights were made for {weights.n_in}.",
            "make the weights from the wavelengths of these spectra.",
        )
    xp = np if isinstance(flux, np.ndarray) else jnp
    return xp.concatenate(
        [
            flux[..., start : start + block.shape[0]] @ block.astype(flux.dtype)
            for start, block in zip(weights.starts, weights.blocks, strict=True)
        ],
        axis=-1,
    )


class _Profile:
    """Cumulative line-spread profile in units of sigma, and its integral."""

    def __init__(self, h4: float, wing_fraction: float, wing_scale: float) -> None:
        self._a = h4 / np.sqrt(24.0)
        self._components = [(1.0 - wing_fraction, 1.0)]
        if wing_fraction > 0:
            self._components.append((wing_fraction, wing_scale))

    def share_of_cells(
        self, centre: np.ndarray, width: np.ndarray, sigma: np.ndarray, edges: np.ndarray
    ) -> np.ndarray:
        """Fraction of each cell's light (n_cell) between neighbouring edges: (n_cell, n_pix)."""
        share = np.zeros((centre.size, edges.size - 1))
        for fraction, scale in self._components:
            share += fraction * self._component(centre, width, scale * sigma, edges)
        return share

    def _component(self, centre, width, sigma, edges):
        coarse = width > sigma
        points = np.diff(self._once((edges - centre[:, None]) / _column(sigma)), axis=1)
        if coarse.any():
            sigma_cell = np.sqrt(np.maximum(sigma**2 - width**2 / 12, (1e-3 * width) ** 2))
            centre, width, sigma_cell = centre[coarse], width[coarse], sigma_cell[coarse]
            left = (edges - (centre - 0.5 * width)[:, None]) / _column(sigma_cell)
            right = (edges - (centre + 0.5 * width)[:, None]) / _column(sigma_cell)
            within = (self._twice(left) - self._twice(right)) * _column(sigma_cell / width)
            points[coarse] = np.diff(within, axis=1)
        return points

    def _once(self, y: np.ndarray) -> np.ndarray:
        if self._a == 0:
            return _cumulative(y)
        return _cumulative(y) - 4 * self._a * y**3 * _normal(y) / (1 + 3 * self._a)

    def _twice(self, y: np.ndarray) -> np.ndarray:
        value = y * _cumulative(y) + _normal(y)
        if self._a == 0:
            return value
        return value + 4 * self._a * (y**2 + 2) * _normal(y) / (1 + 3 * self._a)


def _cumulative(y: np.ndarray) -> np.ndarray:
    # Imported here, for it takes a quarter of a second that a fit does not need.
    from scipy.special import ndtr

    return ndtr(y)


def _normal(y: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * y**2) / _SQRT_2PI


def _column(x: np.ndarray) -> np.ndarray:
    return x[:, None]


def _sigma_at(wave, grid, resolution, native_resolution) -> np.ndarray:
    """Sigma of the kernel (Angstrom) at the wavelengths where the light is emitted."""

    def power_at(value) -> np.ndarray:
        value = np.asarray(value, dtype=np.float64)
        if value.ndim and value.shape != (grid.n_pix,):
            raise MismatchError(
                f"resolution has shape {value.shape}, the grid {grid.n_pix} pixels.",
                "give one number, or one value per output pixel.",
            )
        if not (np.isfinite(value).all() and (value > 0).all()):
            raise UsageError("the resolution must be positive and finite.")
        return np.interp(wave, grid.wave_aa, value) if value.ndim else np.full(wave.shape, value)

    # Each photon is spread by the profile at its own wavelength, which conserves the light of a
    # line also where the resolution varies.
    inverse2 = 1.0 / power_at(resolution) ** 2
    if native_resolution is not None:
        inverse2 = inverse2 - 1.0 / power_at(native_resolution) ** 2
        if (inverse2 < 0).any():
            raise UsageError(
                f"resolution {np.max(resolution):g} exceeds the native resolution of the samples.",
                "ask for a lower resolution.",
            )
    return np.maximum(wave * np.sqrt(inverse2) / FWHM_OF_SIGMA, 1e-9)
