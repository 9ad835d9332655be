"""From raw spectra to normalised, masked batches on one grid: the steps in their order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.errors import MismatchError, RejectedInput
from jaxmdwarf.preprocess.blocks import choose_block_size, map_blocks
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, normalise
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.preprocess.resample import Resampled, refuse_overlap, resample
from jaxmdwarf.spectra import RawSpectrum, SpectrumBatch
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid


def preprocess_batch(
    raws: Sequence[RawSpectrum],
    grid: PixelGrid = PAPER_GRID,
    *,
    rv_kms: float | np.ndarray = 0.0,
    masks: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    pad_to: int | None = None,
    max_bad_fraction: float = 0.25,
    min_overlap: float = 0.5,
    threads: int | None = None,
) -> SpectrumBatch:
    """Resample, mask and normalise spectra (paper, section 2.4).

    Parameters
    ----------
    raws : sequence of RawSpectrum
    grid : PixelGrid
    rv_kms : float or (n_spec,)
        Radial velocities to take out; 0 leaves the observed frame.
    masks : sequence of (low, high)
        Windows in vacuum Angstrom of the resulting frame, left out of the continuum and the fit.
    sigma_aa : float or None
        Width of the continuum's Gaussian; None leaves the flux as it is, in units of the mean
        level of each spectrum.
    pad_to : int, optional
        Number of rows of the result: rows beyond the spectra hold flux 1 and ivar 0. A run that
        always pads to one number compiles once.
    max_bad_fraction : float
        See `jaxmdwarf.preprocess.resample.resample`.
    min_overlap : float
        Least fraction of the grid that good pixels must cover.
    threads : int, optional
        Host threads for the resampling; the number of cores (at most 8) by default.

    Returns
    -------
    SpectrumBatch
        float32, (pad_to or n_spec, n_pix).

    Raises
    ------
    RejectedInput
        If a spectrum overlaps the grid too little. `preprocess_stream` goes on without it.
    MismatchError
        If there are more spectra than `pad_to`, or the number of velocities differs.

    Examples
    --------
    >>> wave = np.exp(np.arange(8.6, 9.2, 2.3e-4))
    >>> raw = RawSpectrum(wave, wave / 7000.0, np.full(wave.size, 100.0))
    >>> batch = preprocess_batch([raw], pad_to=4)
    >>> batch.flux.shape, bool((batch.ivar[1:] == 0).all())
    ((4, 2901), True)
    """
    n_row = len(raws) if pad_to is None else pad_to
    if n_row < len(raws):
        raise MismatchError(f"{len(raws)} spectra do not fit in a batch of {n_row}.")
    sampled = resample(
        raws,
        grid,
        rv_kms=rv_kms,
        max_bad_fraction=max_bad_fraction,
        keep_units=False,
        threads=threads or min(os.cpu_count() or 1, 8),
    )
    for row, fraction in _find_poor_overlap(sampled, min_overlap):
        raise refuse_overlap(raws[row], grid, fraction, min_overlap)
    return _finish(sampled, grid, masks, sigma_aa, n_row)


class PreprocessedBatch(NamedTuple):
    """One batch of a stream: the spectra, and the inputs of its first rows in order."""

    batch: SpectrumBatch
    raws: list[RawSpectrum]


def preprocess_stream(
    raws: Iterable[RawSpectrum],
    grid: PixelGrid = PAPER_GRID,
    *,
    batch_size: int = 1024,
    velocity_of: Callable[[RawSpectrum], float] | None = None,
    on_reject: Callable[[RawSpectrum, RejectedInput], None] | None = None,
    masks: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    max_bad_fraction: float = 0.25,
    min_overlap: float = 0.5,
    threads: int | None = None,
) -> Iterator[PreprocessedBatch]:
    """Preprocess any number of spectra in batches of one shape, holding one batch at a time.

    Parameters
    ----------
    raws : iterable of RawSpectrum
    grid : PixelGrid
    batch_size : int
        Rows of every batch, padded where there are fewer spectra.
    velocity_of : callable, optional
        Velocity in km/s to take out of a spectrum; none by default.
    on_reject : callable, optional
        Called with each spectrum that overlaps too little and the reason; without it the
        `RejectedInput` is raised.
    masks, sigma_aa, max_bad_fraction, min_overlap, threads
        As in `preprocess_batch`.

    Yields
    ------
    PreprocessedBatch
        A batch with rejected spectra has fewer inputs than rows.
    """

    source = iter(raws)
    while chunk := list(itertools.islice(source, batch_size)):
        rv_kms = 0.0 if velocity_of is None else np.array([velocity_of(raw) for raw in chunk])
        sampled = resample(
            chunk,
            grid,
            rv_kms=rv_kms,
            max_bad_fraction=max_bad_fraction,
            keep_units=False,
            threads=threads or min(os.cpu_count() or 1, 8),
        )
        poor = dict(_find_poor_overlap(sampled, min_overlap))
        for row, fraction in poor.items():
            reason = refuse_overlap(chunk[row], grid, fraction, min_overlap)
            if on_reject is None:
                raise reason
            on_reject(chunk[row], reason)
        if poor:
            kept = [row for row in range(len(chunk)) if row not in poor]
            chunk = [chunk[row] for row in kept]
            sampled = Resampled(*(values[kept] for values in sampled))
        if chunk:
            batch = _finish(sampled, grid, masks, sigma_aa, batch_size)
            yield PreprocessedBatch(batch, chunk)


def _find_poor_overlap(sampled: Resampled, min_overlap: float) -> Iterator[tuple[int, float]]:
    fraction = np.count_nonzero(sampled.ivar, axis=1) / sampled.ivar.shape[1]
    for row in np.flatnonzero(fraction < min_overlap):
        yield int(row), float(fraction[row])


def _finish(
    sampled: Resampled,
    grid: PixelGrid,
    masks: Sequence[tuple[float, float]],
    sigma_aa: float | None,
    n_row: int,
) -> SpectrumBatch:
    batch = SpectrumBatch(
        flux=_pad_rows(sampled.flux, n_row, 1.0),
        ivar=_pad_rows(sampled.ivar, n_row, 0.0),
        information=_pad_rows(sampled.information, n_row, 0.0),
        grid=grid,
    )
    window = mask_for(grid, masks)
    if sigma_aa is None:
        return _mask(batch, window)
    real = np.arange(n_row) < len(sampled.flux)
    return _normalise_blocks(batch, window, real, sigma_aa=float(sigma_aa))


@partial(jax.jit, static_argnames="sigma_aa")
def _normalise_blocks(batch: SpectrumBatch, window, real, *, sigma_aa: float) -> SpectrumBatch:
    def work(some: SpectrumBatch) -> SpectrumBatch:
        return normalise(some, window=window, sigma_aa=sigma_aa)

    found = map_blocks(work, batch, real, choose_block_size())
    flux = jnp.where(real[:, None], found.flux, 1)
    return SpectrumBatch(flux, found.ivar, found.information, batch.grid)


def _pad_rows(values: np.ndarray, n_row: int, fill: float) -> jax.Array:
    missing = n_row - len(values)
    if missing:
        values = np.pad(values, ((0, missing), (0, 0)), constant_values=fill)
    return jax.device_put(values)


@jax.jit
def _mask(batch: SpectrumBatch, window) -> SpectrumBatch:
    return SpectrumBatch(
        flux=batch.flux,
        ivar=jnp.where(window, 0, batch.ivar),
        information=jnp.where(window, 0, batch.information),
        grid=batch.grid,
    )
