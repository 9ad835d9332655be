"""Pixels that the fit of a star cannot account for: cosmic rays, residual sky, bad columns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.outliers import parameters_of
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.preprocess.spikes import MOST_PIXELS
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PixelGrid, doppler_factor

_ONE_SIGMA = 0.6827
# Bounds of log2 of the squared scatter that is searched for, and halvings to 3 % of the scatter.
_SCATTER_RANGE, _HALVINGS = (0.0, 20.0), 8
_WORST_FIRST = 0.1
# Neighbours of an outlier, so many pixels to either side, that are beyond this share of its limit.
_WINGS, _WING_LIMIT = 3, 0.4


def find_outlier_pixels(
    problem: FitProblem, result: FitResult, limit: float
) -> Bool[np.ndarray, "n n_pix"]:
    """Pixels whose residuals are beyond `limit` times the scatter of all pixels of their star.

    Parameters
    ----------
    problem : FitProblem
        May have more rows than `result`: padding.
    result : FitResult
        Stars without labels, or with a velocity at the edge, which says that the model is not where
        the star is, have no outliers.
    limit : float
        In units of the error of a pixel, that of the model included; or of the scatter of the
        residuals (half the width that holds 68 %) where that is larger, for where a model describes
        all of a star poorly no pixel of it is an outlier.

    Returns
    -------
    (n, n_pix) bool

    Notes
    -----
    What directions of scatter explain of a residual does not count. Pixels beside an outlier, up to
    three, are outliers at two fifths of the limit: wings of lines, cosmic rays that two pixels
    share. Residuals below a tenth of the star's largest are left for another look: a giant takes
    the fit and the pseudo-continuum with it, so that good pixels look wrong until it is gone.
    """
    # Under an accurate surrogate residuals are the same, at a fraction of the price.
    surrogate = problem.model.surrogate()
    if surrogate is not None and surrogate.accurate:
        problem = problem.under(surrogate.model)
    problem = replace(problem, warnings=())
    n_spec, n_pix = len(result.flags), problem.batch.grid.n_pix
    real = np.arange(problem.n_spec) < n_spec
    found = np.asarray(_find(problem, parameters_of(problem, result), real, limit))
    found = found[:n_spec, :n_pix]
    told = np.isfinite(result.labels).all(axis=-1)
    told &= (np.asarray(result.flags) & int(QualityFlag.VELOCITY_AT_EDGE)) == 0
    return found & told[:, None]


def leave_out_pixels(
    raw: RawSpectrum, outlier: Bool[np.ndarray, " n_pix"], grid: PixelGrid, frame_kms: float
) -> RawSpectrum:
    """The spectrum without its own pixels whose centres lie in outlier pixels of a grid.

    Parameters
    ----------
    raw : RawSpectrum
    outlier : (n_pix,) bool
    grid : PixelGrid
        In a frame that moves by `frame_kms`.
    frame_kms : float

    Returns
    -------
    RawSpectrum
        The same object where none does, or where good pixels would be fewer than single wrong ones
        leave.
    """
    at = np.searchsorted(grid.edges_aa * doppler_factor(frame_kms), raw.wave_aa, side="right") - 1
    inside = (at >= 0) & (at < grid.n_pix) & (raw.ivar > 0)
    wrong = inside & outlier[np.clip(at, 0, grid.n_pix - 1)]
    if not 0 < np.count_nonzero(wrong) <= MOST_PIXELS * np.count_nonzero(inside):
        return raw
    return replace(raw, ivar=np.where(wrong, 0, raw.ivar))


@jax.jit
def _find(problem: FitProblem, parameters, real, limit):
    return problem.map_blocks(partial(_find_in_block, limit), parameters, real=real)


def _find_in_block(limit, problem: FitProblem, parameters):
    objective = build_objective(problem)
    residual = objective.residuals(objective.settle_polynomial(parameters))
    if objective.scatter is not None:
        residual = objective.scatter.take_out(objective.weight, residual[None]).columns[0]
    good = objective.pixel_weight > 0
    square = jnp.where(good, objective.pixel_weight * residual**2, 0)
    largest = jnp.max(square, axis=-1, keepdims=True)
    scatter = measure_scatter(square, good)[:, None]
    limit = jnp.maximum(limit**2 * scatter, _WORST_FIRST**2 * largest)
    outlier, wing = square > limit, square > _WING_LIMIT**2 * limit
    for _ in range(_WINGS):
        beside = jnp.pad(outlier, ((0, 0), (1, 1)))
        outlier = outlier | (wing & (beside[:, :-2] | beside[:, 2:]))
    return outlier


def measure_scatter(square, good):
    """The square below which 68 % of the good pixels are, 1 at least.

    By halving: sorting rows takes longer than all the rest.
    """
    wanted = _ONE_SIGMA * jnp.sum(good, axis=-1)
    low, high = (jnp.full(wanted.shape, end, square.dtype) for end in _SCATTER_RANGE)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        below = jnp.sum(good & (square < jnp.exp2(middle)[:, None]), axis=-1)
        return jnp.where(below < wanted, middle, low), jnp.where(below < wanted, high, middle)

    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return jnp.exp2(low)
