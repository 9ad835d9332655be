"""The package's own solvers, native to batches: Levenberg-Marquardt and L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.parameters import squash_to_bounds, unsquash_from_bounds
from jaxmdwarf.inference.solvers.base import Solver, SolverState
from jaxmdwarf.inference.solvers.finish import finish_fit
from jaxmdwarf.inference.solvers.lbfgs import minimise_lbfgs
from jaxmdwarf.inference.solvers.lm import minimise_lm
from jaxmdwarf.inference.solvers.surrogate import minimise_with_surrogate


@dataclass(frozen=True)
class LevenbergMarquardt(Solver):
    """Levenberg-Marquardt for a batch: every star has its own damping, none waits to be told.

    Parameters
    ----------
    max_iter, tol_sigma
        As for `Solver`.
    fast_path : bool
        Iterate on Gram systems where the model has a low-rank head and neither velocity nor
        polynomial is fitted (`inference.solvers.gram`): the same solution, sooner. And descend
        under the surrogate of a model that has an accurate one.
    check_surrogate : bool
        Whether the model itself takes the last step after a descent under its surrogate. Without,
        labels are those of the surrogate.
    trusted_sigma : float
        Longest last step, in standard deviations, of a star that is not sent the whole way under
        the model itself.
    """

    fast_path: bool = True
    check_surrogate: bool = True
    trusted_sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trusted_sigma > 0:
            raise UsageError(f"trusted_sigma must be positive, got {self.trusted_sigma}.")

    def solve(
        self,
        objective: Objective,
        parameters: Float[Array, "n n_par"],
        *,
        active: Bool[Array, n],
        max_iter: int | Int[Array, ""],
        damping: Float[Array, n],
    ) -> SolverState:
        """By `minimise_lm` on the pixels, or `minimise_with_surrogate` where there is one."""
        surrogate = objective.model.surrogate()
        if surrogate is not None:
            return minimise_with_surrogate(
                objective,
                surrogate.model,
                parameters,
                active=active,
                max_iter=max_iter,
                tol_sigma=self.tol_sigma,
                initial_damping=damping,
            )
        lower = jnp.asarray(objective.layout.lower, parameters.dtype)
        return minimise_lm(
            objective.normal_equations,
            parameters,
            lower,
            -lower,
            active=active,
            max_iter=max_iter,
            tol_sigma=self.tol_sigma,
            initial_damping=damping,
        )

    def structure(self) -> LevenbergMarquardt:
        """The fast paths are chosen before anything is compiled."""
        return replace(LevenbergMarquardt(), tol_sigma=self.tol_sigma)


@dataclass(frozen=True)
class BatchLBFGS(Solver):
    """L-BFGS on half the chi-square per good pixel, labels behind a smooth bijection.

    The history starts from the curvature at the starting point, so that the first step has the
    right length whatever the S/N. See `Solver` for the parameters.
    """

    def solve(
        self,
        objective: Objective,
        parameters: Float[Array, "n n_par"],
        *,
        active: Bool[Array, n],
        max_iter: int | Int[Array, ""],
        damping: Float[Array, n],
    ) -> SolverState:
        """By `minimise_lbfgs`; damping is handed back."""
        n_good = jnp.maximum(objective.n_good, 1)
        at_start = objective.normal_equations(parameters)
        free = free_of_bounds(objective, parameters)
        _, by_free = jax.jvp(partial(back_to_bounds, objective), (free,), (jnp.ones_like(free),))
        diagonal = jnp.diagonal(at_start.curvature, axis1=-2, axis2=-1)
        ridge = 1e-3 * diagonal + 1e-6 * jnp.max(diagonal, axis=-1, keepdims=True)
        damped = at_start.curvature + ridge[:, :, None] * jnp.eye(free.shape[-1], dtype=free.dtype)
        inverse = invert_positive(damped) / (by_free[:, :, None] * by_free[:, None, :])
        metric = jnp.where(jnp.isfinite(inverse), inverse, 0) * n_good[:, None, None]

        def value_and_gradient(free):
            def total(free):
                values = objective.cost(back_to_bounds(objective, free)) / (2 * n_good)
                return jnp.sum(values), values

            (_, values), gradient = jax.value_and_grad(total, has_aux=True)(free)
            return values, gradient

        found = minimise_lbfgs(
            value_and_gradient,
            free,
            metric,
            active=active,
            max_iter=max_iter,
            tolerance=0.5 * self.tol_sigma**2 / n_good,
        )
        return finish_fit(
            objective,
            back_to_bounds(objective, found.point),
            n_iter=found.n_iter + 2,
            active=active,
            damping=damping,
            tol_sigma=self.tol_sigma,
        )


def free_of_bounds(objective: Objective, parameters: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """Unbounded variables: labels and velocity through a bijection, the polynomial as it is."""
    n_reported = objective.layout.n_reported
    bounded, others = parameters[..., :n_reported], parameters[..., n_reported:]
    return jnp.concatenate([unsquash_from_bounds(bounded), others], axis=-1)


def back_to_bounds(objective: Objective, free: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """The inverse of `free_of_bounds`."""
    n_reported = objective.layout.n_reported
    bounded, others = free[..., :n_reported], free[..., n_reported:]
    return jnp.concatenate([squash_to_bounds(bounded), others], axis=-1)
