"""Solvers by name: each takes an objective and starting points to a minimum, for all stars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.objective import Objective, squash_to_bounds, unsquash_from_bounds
from jaxmdwarf.inference.settings import SolverName
from jaxmdwarf.inference.solvers.lbfgs import minimise_lbfgs
from jaxmdwarf.inference.solvers.lm import LmState, measure_step, minimise_lm
from jaxmdwarf.inference.solvers.surrogate import minimise_with_surrogate
from jaxmdwarf.models.priors import whiten_priors

_LIBRARY_ITER = 60

FitOne = Callable[[Any, Any], tuple[Any, Any]]
"""One star's share of an objective and its start to its end and the number of iterations."""


def find_solver(name: SolverName) -> Callable[..., LmState]:
    """The solver of that name, called as `solve_lm` is."""
    return _SOLVERS[name]


def solve_lm(
    objective: Objective,
    parameters: Float[Array, "n n_par"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""],
    tol_sigma: float,
    initial_damping: float | Float[Array, ""] | Float[Array, n],
) -> LmState:
    """Levenberg-Marquardt on the pixels: by `minimise_with_surrogate` where there is one.

    Parameters
    ----------
    objective : Objective
    parameters : (n, n_par)
        Where stars start.
    active : (n,) bool
    max_iter, tol_sigma, initial_damping
        As for `minimise_lm`; solvers without damping hand it back.

    Returns
    -------
    LmState
        With the normal equations at (or one last step before) its parameters.
    """
    surrogate = objective.model.surrogate()
    if surrogate is not None:
        return minimise_with_surrogate(
            objective,
            surrogate.model,
            parameters,
            active=active,
            max_iter=max_iter,
            tol_sigma=tol_sigma,
            initial_damping=initial_damping,
        )
    lower = jnp.asarray(objective.layout.lower, parameters.dtype)
    return minimise_lm(
        objective.normal_equations,
        parameters,
        lower,
        -lower,
        active=active,
        max_iter=max_iter,
        tol_sigma=tol_sigma,
        initial_damping=initial_damping,
    )


def solve_lbfgs(
    objective: Objective,
    parameters: Float[Array, "n n_par"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""],
    tol_sigma: float,
    initial_damping: float | Float[Array, ""] | Float[Array, n],
) -> LmState:
    """L-BFGS on half the chi-square per good pixel, labels behind a smooth bijection.

    The history starts from the curvature at the starting point, so that the first step has the
    right length whatever the S/N; see `solve_lm` for the parameters.
    """
    n_good = jnp.maximum(objective.n_good, 1)
    at_start = objective.normal_equations(parameters)
    free = _free(objective, parameters)
    _, by_free = jax.jvp(partial(_bound, objective), (free,), (jnp.ones_like(free),))
    diagonal = jnp.diagonal(at_start.curvature, axis1=-2, axis2=-1)
    ridge = 1e-3 * diagonal + 1e-6 * jnp.max(diagonal, axis=-1, keepdims=True)
    damped = at_start.curvature + ridge[:, :, None] * jnp.eye(free.shape[-1], dtype=free.dtype)
    inverse = invert_positive(damped) / (by_free[:, :, None] * by_free[:, None, :])
    metric = jnp.where(jnp.isfinite(inverse), inverse, 0) * n_good[:, None, None]

    def value_and_gradient(free):
        def total(free):
            values = objective.cost(_bound(objective, free)) / (2 * n_good)
            return jnp.sum(values), values

        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(free)
        return values, gradient

    found = minimise_lbfgs(
        value_and_gradient,
        free,
        metric,
        active=active,
        max_iter=max_iter,
        tolerance=0.5 * tol_sigma**2 / n_good,
    )
    return finish_fit(
        objective,
        _bound(objective, found.point),
        n_iter=found.n_iter + 2,
        active=active,
        damping=initial_damping,
        tol_sigma=tol_sigma,
    )


def solve_by_library(
    take_up: Callable[[Objective], FitOne],
    objective: Objective,
    parameters: Float[Array, "n n_par"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""],
    tol_sigma: float,
    initial_damping: float | Float[Array, ""] | Float[Array, n],
) -> LmState:
    """A library's solver mapped over stars: a reference. It stops by itself, not at `max_iter`.

    Parameters
    ----------
    take_up : callable
        Makes of an objective what fits one star: its share of the objective and where it starts
        (unbounded) to where it ends and the number of iterations.
    objective, parameters, active, max_iter, tol_sigma, initial_damping
        As for `solve_lm`.
    """
    free, n_iter = jax.vmap(take_up(objective))(_stars(objective), _free(objective, parameters))
    return finish_fit(
        objective,
        _bound(objective, free),
        n_iter=jnp.asarray(n_iter, jnp.int32),
        active=active,
        damping=initial_damping,
        tol_sigma=tol_sigma,
    )


def _take_up_jaxopt(objective: Objective) -> FitOne:
    import jaxopt

    def fit_one(star, start):
        solver = jaxopt.LBFGS(
            lambda free: _value_of_one(objective, star, _bound(objective, free)),
            maxiter=_LIBRARY_ITER,
            tol=1e-5,
            linesearch="backtracking",
        )
        found = solver.run(start)
        return found.params, found.state.iter_num

    return fit_one


def _take_up_optimistix(objective: Objective) -> FitOne:
    """Levenberg-Marquardt."""
    import optimistix

    solver: Any = optimistix.LevenbergMarquardt(rtol=1e-4, atol=1e-4)

    def fit_one(star, start):
        def residuals(free, _):
            return _whitened_of_one(objective, star, free)

        found: Any = optimistix.least_squares(
            residuals, solver, start, max_steps=_LIBRARY_ITER, throw=False
        )
        return found.value, found.stats["num_steps"]

    return fit_one


def _take_up_optimistix_lbfgs(objective: Objective) -> FitOne:
    import optimistix

    solver: Any = optimistix.LBFGS(rtol=1e-4, atol=1e-6)

    def fit_one(star, start):
        def value(free, _):
            return _value_of_one(objective, star, _bound(objective, free))

        found: Any = optimistix.minimise(
            value, solver, start, max_steps=4 * _LIBRARY_ITER, throw=False
        )
        return found.value, found.stats["num_steps"]

    return fit_one


def finish_fit(
    objective: Objective,
    point: Float[Array, "n n_par"],
    *,
    n_iter: Int[Array, n],
    active: Bool[Array, n],
    damping: float | Float[Array, ""] | Float[Array, n],
    tol_sigma: float,
) -> LmState:
    """Normal equations where a solver arrived, and whether they agree that it has arrived.

    The covariance needs them anyhow. The Gauss-Newton step that they ask for must be below ten
    tolerances; it is taken, as the last step of `minimise_lm` is.
    """
    lower = jnp.asarray(objective.layout.lower, point.dtype)
    point = jnp.where(jnp.isfinite(point), jnp.clip(point, lower, -lower), 0)
    equations = objective.normal_equations(point)
    step, length = measure_step(equations, point, lower, -lower)
    near = active & (length < 10 * tol_sigma)
    # What the step gains: nothing to speak of but at a bound, which the bijection never reaches.
    gained = 2 * jnp.sum(equations.gradient * step, axis=-1) - length**2
    cost = jnp.where(near, equations.cost - gained, equations.cost)
    return LmState(
        parameters=jnp.where(near[:, None], jnp.clip(point + step, lower, -lower), point),
        equations=equations._replace(cost=cost),
        damping=jnp.broadcast_to(jnp.asarray(damping, point.dtype), n_iter.shape),
        converged=near,
        stopped=near | ~active,
        n_iter=jnp.where(active, n_iter, 0),
    )


def _free(objective: Objective, parameters):
    """Unbounded variables: labels and velocity through the bijection, the polynomial as it is."""
    n_reported = objective.layout.n_reported
    bounded, others = parameters[..., :n_reported], parameters[..., n_reported:]
    return jnp.concatenate([unsquash_from_bounds(bounded), others], axis=-1)


def _bound(objective: Objective, free):
    """The inverse of `_free`."""
    n_reported = objective.layout.n_reported
    bounded, others = free[..., :n_reported], free[..., n_reported:]
    return jnp.concatenate([squash_to_bounds(bounded), others], axis=-1)


def _stars(objective: Objective):
    """What differs from star to star."""
    return (
        objective.flux,
        objective.weight,
        objective.pixel_weight,
        objective.photon_share,
        objective.context,
    )


def _one_star(objective: Objective, star) -> Objective:
    """The objective of one star, given its share of `_stars`."""
    alone = jax.tree.map(lambda leaf: leaf[None], star)
    return eqx.tree_at(_stars, objective, alone, is_leaf=lambda leaf: leaf is None)


def _value_of_one(objective: Objective, star, parameters):
    """Half the chi-square per good pixel."""
    one = _one_star(objective, star)
    return one.cost(parameters[None])[0] / (2 * jnp.maximum(one.n_good[0], 1))


def _whitened_of_one(objective: Objective, star, free):
    """Residuals whose squares sum to the chi-square per good pixel."""
    one = _one_star(objective, star)
    parameters = _bound(objective, free)[None]
    labels = parameters[:, : one.layout.n_label]
    pixels = jnp.sqrt(one.weight) * one.residuals(parameters)
    priors = whiten_priors(one.priors, one.model.label_space, labels)
    return jnp.concatenate([pixels[0], priors[0]]) / jnp.sqrt(jnp.maximum(one.n_good[0], 1))


_SOLVERS: dict[str, Any] = {
    "lm": solve_lm,
    "lbfgs": solve_lbfgs,
    "jaxopt": partial(solve_by_library, _take_up_jaxopt),
    "optimistix": partial(solve_by_library, _take_up_optimistix),
    "optimistix-lbfgs": partial(solve_by_library, _take_up_optimistix_lbfgs),
}
