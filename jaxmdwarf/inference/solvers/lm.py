"""Levenberg-Marquardt for a batch: every star has its own damping, none waits to be told."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.linear import solve_in_box
from jaxmdwarf.inference.objective import NormalEquations
from jaxmdwarf.inference.solvers.base import SolverState

LEAST_DAMPING = 1e-5
_MOST_DAMPING = 1e8
# A first rejection goes straight to where damping begins to tell.
_DAMPING_THAT_TELLS = 1e-2
# Tolerances within which a star has converged if the step it asks for gains nothing.
_FOLDED = 5


def minimise_lm(
    normal_equations: Callable[[Float[Array, "n k"]], NormalEquations],
    start: Float[Array, "n k"],
    lower: Float[Array, k],
    upper: Float[Array, k],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""] = 30,
    tol_sigma: float = 0.01,
    initial_damping: float | Float[Array, ""] | Float[Array, n] = 1e-2,
    longest_step: float = 0.4,
) -> SolverState:
    """Minimise many small sums of squares in a box at once.

    Parameters
    ----------
    normal_equations : callable
        Cost and its Gauss-Newton expansion for all stars, `NormalEquations`.
    start : (n, k)
        Starting points, clipped to the box.
    lower, upper : (k,)
        The box.
    active : (n,) bool
        Stars to fit; the others are carried along unchanged.
    max_iter : int
        Steps; one more evaluation finds where the start is.
    tol_sigma : float
        A star has converged once the step that it would take next is below this many standard
        deviations (of the fitted parameters, in the metric of the curvature). That step is
        still taken, so what remains is far less. Or below five times as many, if that step
        gains nothing: so it is where a model has a fold, or costs are at their rounding.
    initial_damping : float or (n,)
    longest_step : float
        Cap on the change of any parameter in one step.

    Returns
    -------
    SolverState

    Notes
    -----
    Each iteration evaluates residuals and Jacobian together at the trial points; a star that
    rejects its trial keeps its old normal equations, a few dozen numbers. So the loop carries no
    pixels, and a rejection, which is rare, costs one evaluation. Steps minimise the damped
    quadratic inside the box (`solve_in_box`), which puts labels exactly on a bound where they
    belong, with none of the flat tails that a change of variables would have there.
    """
    point = jnp.clip(start, lower, upper)
    n_star, n_par = point.shape
    # The first iteration evaluates the start itself: one copy of the model in the program.
    unknown = NormalEquations(
        cost=jnp.full(n_star, jnp.inf, point.dtype),
        gradient=jnp.zeros_like(point),
        curvature=jnp.broadcast_to(jnp.eye(n_par, dtype=point.dtype), (n_star, n_par, n_par)),
        pixel_chi2=jnp.full(n_star, jnp.inf, point.dtype),
    )
    first = SolverState(
        parameters=point,
        equations=unknown,
        damping=jnp.broadcast_to(jnp.asarray(initial_damping, point.dtype), (n_star,)),
        converged=jnp.zeros(point.shape[:1], bool),
        stopped=~active,
        n_iter=jnp.zeros(n_star, jnp.int32),
    )

    def one_iteration(state: SolverState) -> SolverState:
        return _iterate(normal_equations, state, lower, upper, tol_sigma, longest_step)

    def unfinished(carry: tuple[Int[Array, ""], SolverState]):
        count, state = carry
        return (count <= max_iter) & ~state.stopped.all()

    def body(carry: tuple[Int[Array, ""], SolverState]):
        count, state = carry
        return count + 1, one_iteration(state)

    _, final = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), first))
    return final


def _iterate(
    normal_equations, state: SolverState, lower, upper, tol_sigma, longest_step
) -> SolverState:
    """One damped step of all stars that still move, kept where it lowers the cost."""
    # Two costs closer than this cannot be told apart in the working precision: within ten times the
    # tolerance the gradient, which is sharper, decides instead.
    blur = 8 * jnp.finfo(state.parameters.dtype).eps
    haze = 8 * blur
    current = state.equations
    begins = state.n_iter == 0
    step = damped_step(current, state.parameters, lower, upper, state.damping)
    _, sigmas_left = measure_step(current, state.parameters, lower, upper)
    solved = jnp.isfinite(step).all(axis=-1)
    step = jnp.where(solved[:, None], step, 0)
    longest = jnp.max(jnp.abs(step), axis=-1, keepdims=True)
    step = step * jnp.minimum(1, longest_step / jnp.maximum(longest, longest_step))
    bent = square(current.curvature, step)
    predicted = 2 * jnp.sum(current.gradient * step, axis=-1) - bent
    trial_point = jnp.where(
        state.stopped[:, None],
        state.parameters,
        jnp.clip(state.parameters + step, lower, upper),
    )
    trial = normal_equations(trial_point)
    gained = current.cost - trial.cost
    trusted = bent < (10 * tol_sigma) ** 2
    better = gained >= -jnp.where(trusted, haze, blur) * current.cost
    accepted = ~state.stopped & solved & better & jnp.isfinite(trial.cost)
    # Judged by the step without damping, which shortens steps however far the minimum is.
    near = ~begins & solved & (sigmas_left < tol_sigma)
    # Networks of leaky units are folded: across a fold no step gains what slopes promise.
    idle = gained < 0.1 * predicted
    near = near | (~begins & solved & idle & (sigmas_left < _FOLDED * tol_sigma))
    converged = state.converged | (~state.stopped & near)
    raised = jnp.maximum(8 * state.damping, _DAMPING_THAT_TELLS)
    as_foretold = gained > 0.5 * predicted
    damping = jnp.where(
        accepted & ~begins,
        state.damping * jnp.where(as_foretold, 0.1, jnp.where(gained > 0.25 * predicted, 1, 3)),
        jnp.where(accepted, state.damping, raised),
    )
    damping = jnp.clip(damping, LEAST_DAMPING, 2 * _MOST_DAMPING)
    return SolverState(
        parameters=jnp.where(accepted[:, None], trial_point, state.parameters),
        equations=jax.tree.map(
            lambda new, old: jnp.where(accepted.reshape((-1,) + (1,) * (old.ndim - 1)), new, old),
            trial,
            current,
        ),
        damping=jnp.where(state.stopped, state.damping, damping),
        converged=converged,
        stopped=state.stopped | converged | (damping > _MOST_DAMPING),
        n_iter=state.n_iter + (~state.stopped).astype(jnp.int32),
    )


def measure_step(
    equations: NormalEquations,
    point: Float[Array, "n k"],
    lower: Float[Array, k],
    upper: Float[Array, k],
) -> tuple[Float[Array, "n k"], Float[Array, n]]:
    """The (practically) undamped step inside the box, and its length in standard deviations.

    NaN, or infinite, for stars whose curvature is not positive.
    """
    step = damped_step(equations, point, lower, upper, jnp.full(point.shape[0], LEAST_DAMPING))
    return step, jnp.sqrt(square(equations.curvature, step))


def damped_step(equations, point, lower, upper, damping):
    diagonal = jnp.diagonal(equations.curvature, axis1=-2, axis2=-1)
    # A parameter that the data do not see must not make the matrix singular.
    floor = 1e-6 * jnp.max(diagonal, axis=-1, keepdims=True)
    added = damping[:, None].astype(point.dtype) * jnp.maximum(diagonal, floor)
    identity = jnp.eye(point.shape[-1], dtype=point.dtype)
    matrix = equations.curvature + added[:, :, None] * identity
    return solve_in_box(matrix, equations.gradient, point, lower, upper)


def square(matrix: Float[Array, "n k k"], step: Float[Array, "n k"]) -> Float[Array, n]:
    return jnp.sum(step * jnp.sum(matrix * step[:, None, :], axis=-1), axis=-1)
