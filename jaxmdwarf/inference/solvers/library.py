"""Solvers of other libraries, mapped over stars, for reference: jaxopt and optimistix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.scatter import StarScatter
from jaxmdwarf.inference.solvers.base import Solver, SolverState
from jaxmdwarf.inference.solvers.finish import finish_fit
from jaxmdwarf.inference.solvers.native import back_to_bounds, free_of_bounds
from jaxmdwarf.models.priors import whiten_priors

Method: TypeAlias = Literal["jaxopt", "optimistix", "optimistix-lbfgs"]
"""L-BFGS of jaxopt; Levenberg-Marquardt and L-BFGS of optimistix."""

_LIBRARY_ITER = 60

FitOne = Callable[[Any, Any], tuple[Any, Any]]
"""One star's share of an objective and its start to its end and the number of iterations."""


@dataclass(frozen=True)
class LibrarySolver(Solver):
    """A library's solver mapped over stars: a reference. It stops by itself, not at `max_iter`.

    Parameters
    ----------
    max_iter, tol_sigma
        As for `Solver`.
    method : {"jaxopt", "optimistix", "optimistix-lbfgs"}
    """

    method: Method = "optimistix"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(Method):
            raise UsageError(
                f"no library has the method {self.method!r}.",
                f"use one of {', '.join(get_args(Method))}.",
            )

    def solve(
        self,
        objective: Objective,
        parameters: Float[Array, "n n_par"],
        *,
        active: Bool[Array, n],
        max_iter: int | Int[Array, ""],
        damping: Float[Array, n],
    ) -> SolverState:
        """Each star by itself, from unbounded variables; damping is handed back."""
        take_up = _METHODS[self.method]
        free, n_iter = jax.vmap(take_up(objective))(
            _stars(objective), free_of_bounds(objective, parameters)
        )
        return finish_fit(
            objective,
            back_to_bounds(objective, free),
            n_iter=jnp.asarray(n_iter, jnp.int32),
            active=active,
            damping=damping,
            tol_sigma=self.tol_sigma,
        )


def _take_up_jaxopt(objective: Objective) -> FitOne:
    import jaxopt

    def fit_one(star, start):
        solver = jaxopt.LBFGS(
            lambda free: _value_of_one(objective, star, back_to_bounds(objective, free)),
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
            return _value_of_one(objective, star, back_to_bounds(objective, free))

        found: Any = optimistix.minimise(
            value, solver, start, max_steps=4 * _LIBRARY_ITER, throw=False
        )
        return found.value, found.stats["num_steps"]

    return fit_one


def _stars(objective: Objective):
    """What differs from star to star."""
    scatter = objective.scatter
    return _fields(objective), None if scatter is None else (scatter.precision, scatter.inverse)


def _fields(objective: Objective):
    """Those parts of it that are fields of the objective."""
    return (
        objective.flux,
        objective.weight,
        objective.pixel_weight,
        objective.photon_share,
        objective.context,
        objective.fixed,
    )


def _one_star(objective: Objective, star) -> Objective:
    """The objective of one star, given its share of `_stars`."""
    fields, own = jax.tree.map(lambda leaf: leaf[None], star)
    one = eqx.tree_at(_fields, objective, fields, is_leaf=lambda leaf: leaf is None)
    if objective.scatter is None:
        return one
    return replace(one, scatter=StarScatter(objective.scatter.shapes, *own))


def _value_of_one(objective: Objective, star, parameters):
    """Half the chi-square per good pixel."""
    one = _one_star(objective, star)
    return one.cost(parameters[None])[0] / (2 * jnp.maximum(one.n_good[0], 1))


def _whitened_of_one(objective: Objective, star, free):
    """Residuals whose squares sum to the chi-square per good pixel."""
    one = _one_star(objective, star)
    parameters = one.pin(back_to_bounds(objective, free)[None])
    labels = parameters[:, : one.layout.n_label]
    residual, amplitudes = one.residuals(parameters), jnp.zeros((1, 0), parameters.dtype)
    if one.scatter is not None:
        (residual,), (amplitudes,) = one.scatter.take_out(one.weight, residual[None])
    pixels = jnp.sqrt(one.weight) * residual
    priors = whiten_priors(one.priors, one.model.label_space, labels)
    parts = jnp.concatenate([pixels[0], amplitudes[0], priors[0]])
    return parts / jnp.sqrt(jnp.maximum(one.n_good[0], 1))


_METHODS: dict[str, Callable[[Objective], FitOne]] = {
    "jaxopt": _take_up_jaxopt,
    "optimistix": _take_up_optimistix,
    "optimistix-lbfgs": _take_up_optimistix_lbfgs,
}
