"""Drift of a wavelength scale: velocities that change along a spectrum, found and undone.

In LAMOST spectra of 2011 the scale of the red arm is off by 40 to 100 km/s at 6000 Angstrom, while
its red end, which the pipeline holds to OH lines of the sky, is right. A star's velocity is then an
average over features that contradict each other, and its lines are not where the model has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmdwarf.inference.clipping import measure_scatter
from jaxmdwarf.inference.linear import list_pairs, solve_positive
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.outliers import parameters_of
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import doppler_factor

KNOTS_AA = (6000.0, 6500.0, 7000.0, 7500.0, 8000.0)
"""Where the drift has values of its own, straight lines between; the first holds further blueward.
"""

HELD_AA = 8400.0
"""From here on the scale is taken to be right: OH lines of the sky, by which pipelines refine it,
crowd there, and the calcium triplet tells the velocity."""

TOLD_AA = 6500.0
"""Where the size of a drift is told, relative to `HELD_AA`."""

STEP_KMS = 40.0
"""Standard deviation of the drift from knot to knot before a spectrum has said anything."""

LEAST_CHI2, LEAST_KMS = 30.0, 10.0
"""A drift is undone that lowers chi-square by this much, in units of the scatter of the residuals
(squared), and is this large at `TOLD_AA`: pixels and models that are not quite right feign smaller
ones."""

LEAST_HELD = 40
"""Good pixels beyond `HELD_AA` without which no drift can be told from a velocity."""

_OUTLIER = 5.0


class Drift(NamedTuple):
    """Drifts of the wavelength scales of spectra, one row a star; NaN where there is no fit.

    Parameters
    ----------
    coefficients : (n, m)
        By how much pixels at `KNOTS_AA` recede faster than the star, km/s: the most probable ones.
    covariance : (n, m, m)
        With errors of the pixels widened by the scatter of the residuals where that is larger.
    gain : (n,)
        By how much the coefficients lower chi-square, in the same units.
    moved_kms : (n,)
        How much further the star's velocity is when its drift is taken out.
    spread : (n, k, m)
        What a parameter that is reported (physical labels, velocity) gains for each km/s of the
        coefficients.
    """

    coefficients: Float[np.ndarray, "n m"]
    covariance: Float[np.ndarray, "n m m"]
    gain: Float[np.ndarray, n]
    moved_kms: Float[np.ndarray, n]
    spread: Float[np.ndarray, "n k m"]

    @property
    def size_kms(self) -> Float[np.ndarray, n]:
        """Drift at `TOLD_AA`."""
        return self.coefficients @ _basis(np.array([TOLD_AA]))[:, 0]

    @property
    def e_size(self) -> Float[np.ndarray, n]:
        """Its error."""
        told = _basis(np.array([TOLD_AA]))[:, 0]
        return np.sqrt(np.einsum("i,nij,j->n", told, self.covariance, told))

    @property
    def covariance_of_labels(self) -> Float[np.ndarray, "n k k"]:
        """What not knowing the drift adds to the covariance of labels and velocity."""
        return np.einsum("nai,nij,nbj->nab", self.spread, self.covariance, self.spread)


def blank_drift(n_spec: int, n_reported: int) -> Drift:
    """What is known of the drifts of spectra that have not been looked at."""

    def nothing(*shape: int) -> np.ndarray:
        return np.full((n_spec, *shape), np.nan)

    m = len(KNOTS_AA)
    return Drift(nothing(m), nothing(m, m), nothing(), nothing(), nothing(n_reported, m))


def measure_drift(
    problem: FitProblem, result: FitResult, known: Float[np.ndarray, "n m"] | None = None
) -> Drift:
    """Drifts about the solution of a fit, by one linear step with all its parameters free.

    Parameters
    ----------
    problem : FitProblem
        With a fitted velocity; may have more rows than `result`: padding.
    result : FitResult
        Stars without labels, with a velocity at the edge or without good pixels where the scale is
        right have no drift.
    known : (n, m), optional
        Coefficients that have been taken out of the spectra already; those returned are what is
        left, towards which the prior of the sum pulls.

    Returns
    -------
    Drift

    Notes
    -----
    Residuals count as no larger than five times their scatter, so that a cosmic ray in one window
    makes no drift. A step is linear in the shift: beyond half a pixel it takes two or three.
    """
    surrogate = problem.model.surrogate()
    if surrogate is not None and surrogate.accurate:
        problem = problem.under(surrogate.model)
    problem = replace(problem, warnings=())
    n_spec = len(result.flags)
    taken = np.zeros((problem.n_spec, len(KNOTS_AA)), problem.batch.flux.dtype)
    if known is not None:
        taken[:n_spec] = known
    real = np.arange(problem.n_spec) < n_spec
    *found, n_held = _measure(problem, parameters_of(problem, result), taken, real)
    told = np.isfinite(result.labels).all(axis=-1)
    told &= (np.asarray(result.flags) & int(QualityFlag.VELOCITY_AT_EDGE)) == 0
    told &= np.asarray(n_held)[:n_spec] >= LEAST_HELD

    def mark(column):
        column = np.array(column[:n_spec], np.float64)
        column[~told] = np.nan
        return column

    return Drift(*(mark(column) for column in found))


def can_drift(wave_aa: Float[np.ndarray, n]) -> bool:
    """Whether fitted pixels reach far enough for a drift to be told from a velocity."""
    return bool(wave_aa[0] < HELD_AA and np.count_nonzero(wave_aa > HELD_AA) >= LEAST_HELD)


def find_drifting(drift: Drift) -> np.ndarray:
    """Rows whose drift is beyond doubt and large enough to matter."""
    with np.errstate(invalid="ignore"):
        return np.flatnonzero((drift.gain > LEAST_CHI2) & (np.abs(drift.size_kms) > LEAST_KMS))


def undo_drift(raw: RawSpectrum, coefficients: Float[np.ndarray, m]) -> RawSpectrum:
    """The spectrum with the wavelengths that its pixels have without a drift."""
    drift_kms = coefficients @ _basis(raw.wave_aa)
    return replace(raw, wave_aa=raw.wave_aa / doppler_factor(drift_kms))


def _basis(wave_aa: np.ndarray) -> np.ndarray:
    """Drift at wavelengths for 1 km/s at each knot, (m, n)."""
    ends = np.eye(len(KNOTS_AA) + 1)[:-1]
    return np.stack([np.interp(wave_aa, (*KNOTS_AA, HELD_AA), end) for end in ends])


def _stiffness() -> np.ndarray:
    """Inverse covariance of the drift at the knots: a random walk from `HELD_AA`."""
    steps = np.eye(len(KNOTS_AA)) - np.eye(len(KNOTS_AA), k=1)
    return steps.T @ steps / STEP_KMS**2


@jax.jit
def _measure(problem: FitProblem, parameters, taken, real):
    return problem.map_blocks(_measure_rows, parameters, taken, real=real)


def _measure_rows(problem: FitProblem, parameters, taken):
    objective = build_objective(problem)
    layout, dtype = objective.layout, parameters.dtype
    parameters = objective.settle_polynomial(parameters)
    slopes, flux = objective.linearise(parameters)
    residual = jnp.where(objective.weight > 0, objective.flux - flux, 0)
    scatter = _scatter_of(objective, residual)
    limit = _OUTLIER * jnp.sqrt(scatter)[:, None]
    one_sigma = jnp.where(objective.weight > 0, 1 / jnp.sqrt(objective.weight), 0)
    residual = jnp.clip(residual, -limit * one_sigma, limit * one_sigma)

    per_kms = slopes[layout.n_label] / (2 * layout.velocity_limit_kms)
    wave = problem.batch.grid.wave_aa
    padded = np.r_[wave, np.full(objective.flux.shape[1] - wave.size, wave[-1])]
    basis = jnp.asarray(_basis(padded), dtype)
    n_shape, n_par = len(basis), layout.n_par
    first, second, place = list_pairs(n_shape)
    # Slopes by the drifts are one column times fixed shapes: sums over pixels are matrix products.
    pulled = objective.weight * per_kms
    bent = multiply_exactly(pulled * per_kms, (basis[first] * basis[second]).T)[:, place]
    columns = jnp.concatenate([jnp.stack(slopes), residual[None]])
    beside = jnp.zeros((), dtype)
    if objective.scatter is not None:
        columns, amplitudes = objective.scatter.take_out(objective.weight, columns)
        beside = jnp.einsum("ank,bnk->nab", amplitudes, amplitudes)
        directions = objective.scatter.shapes
        along = multiply_exactly(
            pulled, (basis[:, None] * directions).reshape(-1, pulled.shape[-1]).T
        )
        bent = objective.scatter.reduce(bent, along.reshape(-1, n_shape, len(directions)))
    sums = jnp.einsum("anp,np,bnp->nab", columns, objective.weight, columns) + beside
    told = jnp.swapaxes(multiply_exactly(pulled * columns, basis.T), 0, 1)

    _, pull, stiffness = objective.prior_equations(parameters)
    held = layout.held
    curvature = sums[:, :n_par, :n_par] + stiffness
    gradient, across = sums[:, :n_par, -1] + pull, told[:, :n_par]
    if held.any():
        curvature = jnp.where(held[:, None] | held, jnp.eye(n_par, dtype=dtype), curvature)
        gradient, across = jnp.where(held, 0, gradient), jnp.where(held[:, None], 0, across)
    solved = solve_positive(curvature, jnp.concatenate([across, gradient[:, :, None]], axis=-1))
    by_shape, by_gradient = solved[:, :, :-1], solved[:, :, -1]
    least = bent - jnp.einsum("npi,npj->nij", across, by_shape)
    force = told[:, -1] - jnp.einsum("npi,np->ni", across, by_gradient)

    # The prior speaks in km/s, the pixels in units of what they really scatter.
    least, force = least / scatter[:, None, None], force / scatter[:, None]
    unit_matrix = jnp.eye(n_shape, dtype=dtype)
    stiff = jnp.asarray(_stiffness(), dtype)
    right = jnp.concatenate(
        [
            (force - taken @ stiff)[:, :, None],
            jnp.broadcast_to(unit_matrix, least.shape),
        ],
        axis=-1,
    )
    answer = solve_positive(least + stiff, right)
    coefficients, covariance = answer[:, :, 0], answer[:, :, 1:]
    gain = 2 * jnp.einsum("ni,ni->n", coefficients, force) - jnp.einsum(
        "ni,nij,nj->n", coefficients, least, coefficients
    )
    unit = jnp.asarray(layout.physical_scale(problem.label_space), dtype)
    spread = -by_shape[:, : layout.n_reported] * unit[:, None]
    moved = jnp.einsum("ni,ni->n", spread[:, layout.n_label], coefficients)
    n_held = jnp.sum((objective.weight > 0) & (padded > HELD_AA), axis=-1)
    return coefficients, covariance, gain, moved, spread, n_held


def _scatter_of(objective, residual):
    good = objective.pixel_weight > 0
    if objective.scatter is not None:
        residual = objective.scatter.take_out(objective.weight, residual[None]).columns[0]
    return measure_scatter(jnp.where(good, objective.pixel_weight * residual**2, 0), good)
