"""How far fitted stars are from those that a model was trained on."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.inference.linear import list_pairs, solve_positive
from jaxmdwarf.inference.objective import Objective, build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.shift import on_fitted_pixels
from jaxmdwarf.models.population import TrainingPopulation

_RIDGE, _RELATIVE_RIDGE = 1e-3, 1e-4
# Directions that look alike on the pixels that are left share what lies along them.

_FAR_SIGMA, _FAR_FLUX = 5.0, 0.05
# A residual counts as no larger than the larger of these two: a cosmic ray makes no other star.


class ResidualScores(NamedTuple):
    """What residuals of stars are like, one row a star; NaN where there is no fit.

    Parameters
    ----------
    snr : (n,)
        Root of the mean inverse variance of the normalised flux, as stated.
    chi2 : (n,)
        Mean square of the residuals of single pixels in units of their errors, those of the model
        included, without what lies along the given directions.
    pattern : (n,)
        Mean square amplitude along these directions, in units of what a factor model with
        amplitudes of variance 1 expects of this spectrum.
    """

    snr: np.ndarray
    chi2: np.ndarray
    pattern: np.ndarray


def summarise_residuals(
    problem: FitProblem, result: FitResult, directions: Float[Array | np.ndarray, "k n_pix"]
) -> ResidualScores:
    """Residuals of fitted stars along given directions and beside them.

    Parameters
    ----------
    problem : FitProblem
        May have more rows than `result`: padding.
    result : FitResult
    directions : (k, n_pix)
        On the pixels of the model.
    """
    n_spec = len(result.flags)
    real = np.arange(problem.n_spec) < n_spec
    found = _summarise(problem, parameters_of(problem, result), real, jnp.asarray(directions))
    known = np.isfinite(result.labels).all(axis=-1) & (result.n_pix > 0)
    return ResidualScores(*(np.where(known, np.asarray(part)[:n_spec], np.nan) for part in found))


def find_residuals(
    problem: FitProblem, result: FitResult
) -> tuple[Float[np.ndarray, "n n_pix"], Float[np.ndarray, "n n_pix"]]:
    """Residuals of fitted stars and the weights of their pixels; both 0 at bad pixels.

    Residuals are limited to 5 sigma, or 0.05 where that is more.
    """
    n_spec, n_pix = len(result.flags), problem.batch.grid.n_pix
    residual, weight = _find_residuals(problem, parameters_of(problem, result))
    return np.asarray(residual)[:n_spec, :n_pix], np.asarray(weight)[:n_spec, :n_pix]


def measure_distances(
    problem: FitProblem, result: FitResult, population: TrainingPopulation
) -> Float[np.ndarray, "n 3"]:
    """Distances of fitted stars from those of the training set; see `TrainingPopulation`."""
    space = problem.label_space
    extent = np.asarray(space.upper) - np.asarray(space.lower)
    residuals = summarise_residuals(problem, result, population.directions)
    return population.measure_distances(
        **residuals._asdict(),
        scaled=np.asarray(space.scale(np.asarray(result.labels, np.float64))),
        errors=np.asarray(result.errors, np.float64) / extent,
    )


def parameters_of(problem: FitProblem, result: FitResult) -> Float[Array, "n_spec n_par"]:
    """The solution as parameters of the problem, repeated up to its rows."""
    known = np.isfinite(result.labels).all(axis=-1) & np.isfinite(result.residual_kms)
    centre = problem.centre_start().labels[:1]
    row = np.arange(problem.n_spec) % len(known)
    labels = np.where(known[:, None], result.labels, centre)[row]
    speeds = np.where(known, result.residual_kms, 0.0)[row]
    return problem.parameters_at(Start(labels, speeds))


@jax.jit
def _find_residuals(problem: FitProblem, parameters):
    objective = build_objective(problem)
    parameters = objective.settle_polynomial(parameters)
    return _limited_residuals(objective, parameters), objective.weight


def _limited_residuals(objective: Objective, parameters):
    """Residuals without the excess of single pixels."""
    good = objective.pixel_weight > 0
    sigma = jax.lax.rsqrt(jnp.where(good, objective.pixel_weight, 1))
    largest = jnp.maximum(_FAR_SIGMA * sigma, _FAR_FLUX)
    return jnp.clip(objective.residuals(parameters), -largest, largest)


@jax.jit
def _summarise(problem: FitProblem, parameters, real, directions):
    return problem.map_blocks(partial(_summarise_block, directions), parameters, real=real)


def _summarise_block(directions, problem: FitProblem, parameters):
    objective = build_objective(problem)
    parameters = objective.settle_polynomial(parameters)
    residual = _limited_residuals(objective, parameters)
    weight, pixel_weight = objective.weight, objective.pixel_weight
    shapes = on_fitted_pixels(directions, objective.margins)
    n_direction = shapes.shape[0]
    first, second, place = list_pairs(n_direction)
    gram = (weight @ (shapes[first] * shapes[second]).T)[:, place]
    force = (weight * residual) @ shapes.T
    identity = jnp.eye(n_direction, dtype=force.dtype)
    amplitude = _solve(gram * (1 + _RELATIVE_RIDGE * identity) + _RIDGE * identity, force)
    # Under the factor model the force has the covariance G + G G = G (1 + G).
    told = jnp.sum(amplitude * _solve(gram + identity, force), axis=-1)
    pattern = told / max(n_direction, 1)
    beside = residual - amplitude @ shapes
    n_good = jnp.maximum(objective.n_good, 1)
    chi2 = jnp.sum(pixel_weight * beside**2, axis=-1) / n_good
    stated = jnp.sum(jnp.where(problem.batch.ivar > 0, problem.batch.ivar, 0), axis=-1)
    n_stated = jnp.maximum(jnp.sum(problem.batch.ivar > 0, axis=-1), 1)
    return jnp.sqrt(stated / n_stated), chi2, pattern


def _solve(matrices, vectors):
    return solve_positive(matrices, vectors[..., None])[..., 0]
