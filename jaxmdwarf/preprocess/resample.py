"""Flux-conserving resampling of raw spectra (host); sub-pixel Doppler shifts (device)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, RejectedInput, UsageError
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import FASTEST_STAR_KMS, SPEED_OF_LIGHT_KMS, PixelGrid, doppler_factor

_BLOCK_SPECTRA = 32
_FASTEST = FASTEST_STAR_KMS / SPEED_OF_LIGHT_KMS


class Resampled(NamedTuple):
    """Spectra on one grid as numpy arrays, each (n_spec, n_pix).

    See `jaxmdwarf.spectra.SpectrumBatch` for what `ivar` and `information` mean.
    """

    flux: np.ndarray
    ivar: np.ndarray
    information: np.ndarray


def overlap_fraction(raw: RawSpectrum, grid: PixelGrid, *, rv_kms: float = 0.0) -> float:
    """Fraction of the grid's range that `raw` spans, times the fraction of its good pixels there.

    Parameters
    ----------
    raw : RawSpectrum
    grid : PixelGrid
    rv_kms : float
        Velocity whose Doppler shift is taken out first.
    """
    factor = doppler_factor(rv_kms)
    low, high = grid.edges_aa[0], grid.edges_aa[-1]
    first, stop = np.searchsorted(raw.wave_aa, (low * factor, high * factor))
    if stop - first < 2:
        return 0.0
    reach = min(raw.wave_aa[stop - 1] / factor, high) - max(raw.wave_aa[first] / factor, low)
    n_good = np.count_nonzero(raw.ivar[first:stop])
    return float(reach / (high - low) * n_good / (stop - first))


def require_overlap(
    raw: RawSpectrum, grid: PixelGrid, *, rv_kms: float = 0.0, min_fraction: float = 0.5
) -> None:
    """Raise `RejectedInput` where good pixels cover less than `min_fraction` of the grid.

    Parameters
    ----------
    raw : RawSpectrum
    grid : PixelGrid
    rv_kms : float
        Velocity that resampling is to take out.
    min_fraction : float

    Raises
    ------
    RejectedInput
        If they cover less.
    """
    fraction = overlap_fraction(raw, grid, rv_kms=rv_kms)
    if fraction < min_fraction:
        raise refuse_overlap(raw, grid, fraction, min_fraction)


def refuse_overlap(
    raw: RawSpectrum, grid: PixelGrid, fraction: float, min_fraction: float
) -> RejectedInput:
    """The error that says that `raw` covers too little of `grid`.

    Parameters
    ----------
    raw : RawSpectrum
    grid : PixelGrid
    fraction, min_fraction : float
        What good pixels cover, and what they should.
    """
    return RejectedInput(
        f"{raw.meta.path or 'the spectrum'}: good pixels cover {fraction:.0%} of "
        f"{grid.wave_aa[0]:.0f}-{grid.wave_aa[-1]:.0f} Angstrom, not {min_fraction:.0%}.",
        "use spectra of that range, or a grid of another range.",
    )


def resample(
    raws: Sequence[RawSpectrum],
    grid: PixelGrid,
    *,
    rv_kms: float | np.ndarray = 0.0,
    max_bad_fraction: float = 0.25,
    keep_units: bool = True,
    threads: int = 1,
    dtype: type = np.float32,
) -> Resampled:
    """Rebin spectra onto a grid, conserving flux, with exact variances and covariance sums.

    An output pixel is the mean of the flux density over the part of it that good input pixels
    cover. Input pixels end half-way to their neighbours; flux is constant over a pixel.

    Parameters
    ----------
    raws : sequence of RawSpectrum
        Each with pixels of its own; the numbers of pixels may differ.
    grid : PixelGrid
        Output pixels, in the rest frame if velocities are given.
    rv_kms : float or (n_spec,)
        Radial velocities to take out (positive recedes): wavelengths are divided by 1 + v/c.
    max_bad_fraction : float
        An output pixel is bad (flux 0, ivar 0) when more than this fraction of it is covered by
        bad input pixels or by none.
    keep_units : bool
        False divides each spectrum by its mean level (and scales its ivar), which a later
        normalisation does not see and which keeps any unit within the range of float32.
    threads : int
        Threads to spread blocks of spectra over.
    dtype : type
        Type of the result and of the sums; positions are float64 always.

    Returns
    -------
    Resampled
        ``ivar`` is the inverse of the variance of a pixel, ``information`` the inverse of the row
        sum of the covariance between pixels: with weights w_ji of input i in output j and input
        variances s_i, row sum_j = sum_i w_ji s_i sum_k w_ki.

    Raises
    ------
    MismatchError
        If the number of velocities differs from the number of spectra.
    UsageError
        If `max_bad_fraction` is not in [0, 1).

    Notes
    -----
    Variances agree with specutils' FluxConservingResampler and with spectres (Carnall 2017,
    arXiv:1705.05165), which both leave the covariance aside: pixels of 1.4-2 Angstrom put on pixels
    of 1 Angstrom repeat the same photons, and sum(flux^2 ivar) then overstates what was observed.

    Examples
    --------
    >>> wave = np.exp(np.arange(8.6, 9.2, 2.3e-4))
    >>> raw = RawSpectrum(wave, np.ones(wave.size), np.full(wave.size, 100.0))
    >>> out = resample([raw], PixelGrid.linear(6000.0, 8900.0, 1.0), rv_kms=30.0)
    >>> out.flux.shape, bool(np.allclose(out.flux, 1.0))
    ((1, 2901), True)
    """
    if not 0.0 <= max_bad_fraction < 1.0:
        raise UsageError(f"max_bad_fraction {max_bad_fraction} is not in [0, 1).")
    velocity = np.asarray(rv_kms, dtype=np.float64)
    if velocity.ndim and velocity.shape != (len(raws),):
        raise MismatchError(f"{len(raws)} spectra, velocities of shape {velocity.shape}.")
    factor = np.broadcast_to(doppler_factor(velocity), (len(raws),))
    result = Resampled(*(np.empty((len(raws), grid.n_pix), dtype=dtype) for _ in range(3)))
    edges = grid.edges_aa

    def fill(start: int) -> None:
        rows = slice(start, start + _BLOCK_SPECTRA)
        block = _resample_block(
            raws[rows], grid, edges, factor[rows], max_bad_fraction, dtype, keep_units
        )
        for target, values in zip(result, block, strict=True):
            target[rows] = values

    starts = range(0, len(raws), _BLOCK_SPECTRA)
    if threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))
    else:
        for start in starts:
            fill(start)
    return result


def shift_spectra(
    flux: Float[Array, "n_spec n_pix"],
    grid: PixelGrid,
    rv_kms: Float[Array, " n_spec"],
    *,
    to_rest: bool = False,
) -> Float[Array, "n_spec n_pix"]:
    """Doppler-shift spectra on a grid by six-point Lagrange interpolation.

    Differentiable in flux and velocity, and meant for spectra whose resolution element spans 3.3
    pixels or more, where the interpolation error is below 0.5 % of a line's depth (0.1 % at 4).

    Parameters
    ----------
    flux : (n_spec, n_pix)
    grid : PixelGrid
    rv_kms : (n_spec,)
        Positive velocities move features to longer wavelengths.
    to_rest : bool
        Undo the shift instead: divide wavelengths by 1 + v/c.

    Returns
    -------
    (n_spec, n_pix)
        Beyond the ends the outermost value is repeated.
    """
    n_pix = grid.n_pix
    relative = rv_kms / 299_792.458
    # Pixel offsets (small numbers) and not positions, which float32 holds to 2e-4 pixel only.
    change = relative if to_rest else -relative / (1.0 + relative)
    if grid.kind == "linear":
        per_pixel = (grid.wave_aa / grid.step).astype(flux.dtype)
        offset = change[:, None] * per_pixel
    else:
        offset = jnp.broadcast_to(
            jnp.log1p(change)[:, None] / np.asarray(grid.step, flux.dtype), flux.shape
        )
    pixel = np.arange(n_pix, dtype=np.int32)
    offset = jnp.clip(offset, -pixel.astype(flux.dtype), (n_pix - 1 - pixel).astype(flux.dtype))
    whole = jnp.floor(offset)
    t = offset - whole
    base = pixel + whole.astype(jnp.int32)
    shifted = jnp.zeros_like(flux)
    for node, weight in zip(range(-2, 4), _lagrange_weights(t), strict=True):
        at = jnp.clip(base + node, 0, n_pix - 1)
        shifted = shifted + weight * jnp.take_along_axis(flux, at, axis=1)
    return shifted


def _lagrange_weights(t):
    """Weights of the nodes -2..3 at the fraction `t` of a pixel."""
    a, b, c, d, e, f = t + 2, t + 1, t, t - 1, t - 2, t - 3
    return (
        -b * c * d * e * f / 120,
        a * c * d * e * f / 24,
        -a * b * d * e * f / 12,
        a * b * c * e * f / 12,
        -a * b * c * d * f / 24,
        a * b * c * d * e / 120,
    )


def _cell_edges(wave: np.ndarray) -> np.ndarray:
    edges = np.empty(wave.size + 1)
    np.add(wave[1:], wave[:-1], out=edges[1:-1])
    edges[1:-1] *= 0.5
    edges[0] = 1.5 * wave[0] - 0.5 * wave[1]
    edges[-1] = 1.5 * wave[-1] - 0.5 * wave[-2]
    return edges


class _Cells(NamedTuple):
    """Input pixels of a block of spectra as cells, in the frame and units of the output.

    The first and the last cell of a row are empty, and output pixels off the spectrum fall there.
    `bounds` and `position` have one row where all spectra share pixels and velocity.
    """

    bounds: np.ndarray
    position: np.ndarray
    good_width: np.ndarray
    flux: np.ndarray
    variance: np.ndarray
    scale: np.ndarray


def _resample_block(raws, grid, edges, factor, max_bad_fraction, dtype, keep_units):
    """One cache-sized block: locate output edges among input cells, then sum over cells.

    Positions are float64 throughout; the sums are of positive weights, so `dtype` serves them.
    """
    cells = _lay_out_cells(raws, edges, factor, dtype)
    n_spec, n_cell = cells.flux.shape
    cell = cells.position.astype(np.intp)
    inside = (cells.position - cell).astype(dtype)
    step = cell[:, 1:] - cell[:, :-1]
    split = (step > 0).astype(dtype)
    from_last = inside[:, 1:] * split
    # Where both edges lie in one cell their distance counts, else the rest of the first cell.
    from_first = inside[:, 1:] - from_last
    from_first += split
    from_first -= inside[:, :-1]
    many = bool((step > 1).any())
    flat = cell + (np.arange(len(cell), dtype=np.intp) * n_cell)[:, None]
    at = np.empty((n_spec, edges.size), dtype=dtype)
    product = np.empty((n_spec, grid.n_pix), dtype=dtype)

    def sum_over_cells(values, first, last):
        if len(cell) == 1:
            np.take(values, cell[0], axis=1, out=at, mode="clip")
        else:
            np.take(values.reshape(-1), flat, out=at, mode="clip")
        total = first * at[:, :-1]
        np.multiply(last, at[:, 1:], out=product)
        total += product
        if many:
            running = np.zeros((n_spec, n_cell + 1))
            np.cumsum(values, axis=1, out=running[:, 1:])
            upto = np.take_along_axis(running, cell[:, 1:], axis=1)
            after = np.minimum(cell[:, :-1] + 1, cell[:, 1:])
            total += upto - np.take_along_axis(running, after, axis=1)
        return total

    covered = sum_over_cells(cells.good_width, from_first, from_last)
    bad = covered < ((1.0 - max_bad_fraction) * np.diff(edges) * (1 - 1e-5)).astype(dtype)
    np.copyto(covered, np.inf, where=bad)
    per_width = np.divide(1.0, covered, out=covered)
    shared = _integrate_pixels(per_width, grid, edges, cells.bounds).astype(dtype)
    out_flux = sum_over_cells(cells.good_width * cells.flux, from_first, from_last)
    out_flux *= per_width
    weighted = cells.good_width * cells.variance
    row_sum = sum_over_cells(weighted * shared, from_first, from_last)
    row_sum *= per_width
    from_first *= from_first
    from_last *= from_last
    variance = sum_over_cells(weighted * cells.good_width, from_first, from_last)
    variance *= per_width
    variance *= per_width
    for total in (variance, row_sum):
        np.copyto(total, np.inf, where=bad)
        np.divide(1.0, total, out=total)
    if keep_units:
        scale = cells.scale[:, None]
        return out_flux * scale, variance / scale**2, row_sum / scale**2
    return out_flux, variance, row_sum


def _lay_out_cells(raws, edges, factor, dtype) -> _Cells:
    crops, bounds, position = _locate(raws, edges, factor)
    n_spec, n_cell = len(raws), bounds.shape[1] - 1
    flux = np.zeros((n_spec, n_cell))
    ivar = np.zeros((n_spec, n_cell))
    for row, (low, high) in enumerate(crops):
        flux[row, 1 : high - low + 1] = raws[row].flux[low:high]
        ivar[row, 1 : high - low + 1] = raws[row].ivar[low:high]
    good = ivar > 0
    flux *= good
    # Units may be 1e-17 or 1e+14: in units of the mean level nothing leaves the range of float32.
    # Row by row, for cells that other spectra have would round the sum otherwise.
    total = [np.abs(flux[row, 1 : high - low + 1]).sum() for row, (low, high) in enumerate(crops)]
    scale = np.array(total) / np.maximum(np.count_nonzero(good, axis=1), 1)
    scale[scale == 0] = 1.0
    flux /= scale[:, None]
    ivar *= (scale**2)[:, None]
    np.copyto(ivar, np.inf, where=~good)
    return _Cells(
        bounds=bounds,
        position=position,
        good_width=(np.diff(bounds, axis=1) * good).astype(dtype),
        flux=flux.astype(dtype),
        variance=np.divide(1.0, ivar, out=ivar).astype(dtype),
        scale=scale,
    )


class _Located(NamedTuple):
    """Where output edges lie among the cells of spectra, see `_locate`."""

    crops: list[tuple[int, int]]
    bounds: np.ndarray
    position: np.ndarray


def _locate(raws, edges, factor) -> _Located:
    """Which pixels of each spectrum count, the edges of their cells, where the output edges lie.

    A position is the number of a cell (the first is 1) plus the fraction of it on the left. Nothing
    depends on the other spectra of the block, to the last digit; spectra at rest on the same pixels
    share one row of `bounds` and `position`.
    """
    groups: list[list[int]] = []
    kinds = np.where(factor == 1.0, 0, np.where(np.abs(factor - 1.0) <= _FASTEST, 1, 2))
    for row, raw in enumerate(raws):
        for group in groups:
            first = group[0]
            alike = kinds[row] == kinds[first]
            if alike and _same_pixels(raw.wave_aa, raws[first].wave_aa):
                group.append(row)
                break
        else:
            groups.append([row])
    parts = [_locate_alike(raws[group[0]].wave_aa, edges, factor[group]) for group in groups]
    if len(groups) == 1:
        return parts[0]
    n_edge = max(part.bounds.shape[1] for part in parts)
    crops = [(0, 0)] * len(raws)
    bounds, position = np.empty((len(raws), n_edge)), np.empty((len(raws), edges.size))
    for group, part in zip(groups, parts, strict=True):
        n = part.bounds.shape[1]
        bounds[group, :n], position[group] = part.bounds, part.position
        bounds[group, n:] = part.bounds[:, -1:]
        for row, crop in zip(group, part.crops, strict=True):
            crops[row] = crop
    return _Located(crops, bounds, position)


def _locate_alike(wave, edges, factor) -> _Located:
    """Of spectra on one set of pixels, all at rest or all moving."""
    at_rest = factor[0] == 1.0
    located = None if at_rest else _locate_on_log_pixels(wave, edges, factor)
    if located is not None:
        return located
    n_geometry = 1 if at_rest else factor.size
    crops = [_crop(wave, edges, ratio) for ratio in factor]
    n_cell = max(high - low for low, high in crops) + 2
    bounds = np.empty((n_geometry, n_cell + 1))
    position = np.empty((n_geometry, edges.size))
    number = np.arange(1.0, n_cell + 1)
    for row, (low, high) in enumerate(crops[:n_geometry]):
        n = high - low
        cells = bounds[row, 1 : n + 2]
        np.multiply(_cell_edges(wave[low:high]), 1.0 / factor[row], out=cells)
        bounds[row, 0] = cells[0]
        bounds[row, n + 2 :] = cells[-1]
        position[row] = np.interp(edges, cells, number[: n + 1], left=0.5, right=n + 1.5)
    return _Located(crops, bounds, position)


def _locate_on_log_pixels(wave, edges, factor) -> _Located | None:
    """Positions in closed form where pixels are logarithmic, as a survey's are."""
    # Pixels that any star of these velocities shows: their number must not be the list's.
    fastest = max(_FASTEST, np.abs(factor - 1.0).max())
    low, high = _crop(wave, edges, 1.0 - fastest)[0], _crop(wave, edges, 1.0 + fastest)[1]
    cells = _cell_edges(wave[low:high])
    n = cells.size - 1
    if n < 4:
        return None
    ln_step = np.log(cells[-2] / cells[1]) / (n - 2)
    regular = cells[1] * np.exp(ln_step * np.arange(-1.0, n))
    if np.abs(cells - regular)[1:-1].max() > 1e-7 * (cells[2] - cells[1]):
        return None
    # The outermost edges, linearly extrapolated, are off by 1e-4 of a pixel.
    cells = regular
    position = (np.log(edges) - np.log(cells[0])) / ln_step + (np.log(factor) / ln_step)[:, None]
    whole = np.floor(position)
    inside = position - whole
    # expm1(inside * ln_step) / expm1(ln_step): the fraction in wavelength, to ln_step^2.
    inside += 0.5 * ln_step * inside * (inside - 1.0)
    whole += inside
    whole += 1.0
    np.copyto(whole, 0.5, where=position < 0)
    np.copyto(whole, n + 1.5, where=position >= n)
    bounds = np.empty((factor.size, n + 3))
    np.divide(cells, factor[:, None], out=bounds[:, 1:-1])
    bounds[:, 0], bounds[:, -1] = bounds[:, 1], bounds[:, -2]
    return _Located([(low, high)] * factor.size, bounds, whole)


def _same_pixels(wave: np.ndarray, other: np.ndarray) -> bool:
    if wave is other:
        return True
    return bool(wave.size == other.size and wave[0] == other[0]) and np.array_equal(wave, other)


def _crop(wave: np.ndarray, edges: np.ndarray, factor: float) -> tuple[int, int]:
    """First and one past the last of the pixels that reach the grid."""
    low, high = np.searchsorted(wave, (edges[0] * factor, edges[-1] * factor))
    # One pixel more on each side, so that a cell cut by the grid keeps its true edges.
    low, high = max(int(low) - 2, 0), min(int(high) + 2, wave.size)
    if high - low < 2:
        low, high = (0, 2) if low == 0 else (wave.size - 2, wave.size)
    return low, high


def _integrate_pixels(values, grid, edges, bounds):
    """Integral over each input cell of the function that holds `values` on the output pixels."""
    n_pix = grid.n_pix
    running = np.zeros((len(values), n_pix + 1))
    np.cumsum(values * np.diff(edges), axis=1, out=running[:, 1:])
    if grid.kind == "linear":
        at = bounds * (1.0 / grid.step) - edges[0] / grid.step
    else:
        at = np.log(bounds * (1.0 / edges[0])) * (1.0 / grid.step)
    np.clip(at, 0.0, n_pix, out=at)
    pixel = np.minimum(at.astype(np.intp), n_pix - 1)
    inside = at - pixel
    if grid.kind == "log":
        inside = np.expm1(inside * grid.step) * (1.0 / np.expm1(grid.step))
    if len(pixel) == 1:
        left = np.take(running, pixel[0], axis=1, mode="clip")
        right = np.take(running, pixel[0] + 1, axis=1, mode="clip")
    else:
        pixel += (np.arange(len(values), dtype=np.intp) * (n_pix + 1))[:, None]
        left = np.take(running.reshape(-1), pixel, mode="clip")
        right = np.take(running.reshape(-1), pixel + 1, mode="clip")
    right -= left
    right *= inside
    right += left
    return np.diff(right, axis=1)
