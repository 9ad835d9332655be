"""The end of a fit by any method: normal equations where it arrived, and whether they agree."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.solvers.base import SolverState
from jaxmdwarf.inference.solvers.lm import measure_step


def finish_fit(
    objective: Objective,
    point: Float[Array, "n n_par"],
    *,
    n_iter: int | Int[Array, ""] | Int[Array, n],
    active: Bool[Array, n],
    damping: float | Float[Array, ""] | Float[Array, n],
    tol_sigma: float,
) -> SolverState:
    """Normal equations where a solver arrived, and whether they agree that it has arrived.

    The covariance needs them anyhow. The Gauss-Newton step that they ask for must be below ten
    tolerances; it is taken, as the last step of `minimise_lm` is.

    Parameters
    ----------
    objective : Objective
    point : (n, n_par)
        Where each star is; clipped to the bounds.
    n_iter : int or (n,)
        Model evaluations so far.
    active : (n,) bool
    damping : float or (n,)
        Handed on.
    tol_sigma : float
    """
    lower = jnp.asarray(objective.layout.lower, point.dtype)
    point = jnp.where(jnp.isfinite(point), jnp.clip(point, lower, -lower), 0)
    point = objective.pin(point)
    equations = objective.normal_equations(point)
    step, length = measure_step(equations, point, lower, -lower)
    near = active & (length < 10 * tol_sigma)
    # What the step gains: nothing to speak of but at a bound, which the bijection never reaches.
    gained = 2 * jnp.sum(equations.gradient * step, axis=-1) - length**2
    cost = jnp.where(near, equations.cost - gained, equations.cost)
    n_star = point.shape[:1]
    moved = objective.pin(jnp.clip(point + step, lower, -lower))
    return SolverState(
        parameters=jnp.where(near[:, None], moved, point),
        equations=equations._replace(cost=cost),
        damping=jnp.broadcast_to(jnp.asarray(damping, point.dtype), n_star),
        converged=near,
        stopped=near | ~active,
        n_iter=jnp.where(active, jnp.asarray(n_iter, jnp.int32), 0),
    )
