"""L-BFGS for a batch: each star has a history and a line search of its own, none waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_SUFFICIENT, _CURVED = 1e-4, 0.9
_MOST_TRIALS = 15


class LbfgsState(NamedTuple):
    """Where a batch stands.

    Parameters
    ----------
    point, gradient : (n, k)
        Best so far, and the gradient of the value there.
    value : (n,)
    direction : (n, k)
        Of the line search under way.
    slope : (n,)
        Of the value along it, at `point`.
    length, low, high : (n,)
        Trial step along `direction`, and the bracket of the steps that can be accepted.
    n_trial : (n,)
        Trials of this line search.
    steps, changes : (m, n, k)
        The last accepted steps and changes of gradient, newest first; 0 where there are none.
    converged, stopped : (n,)
    n_iter : (n,)
        Evaluations.
    """

    point: Float[Array, "n k"]
    gradient: Float[Array, "n k"]
    value: Float[Array, n]
    direction: Float[Array, "n k"]
    slope: Float[Array, n]
    length: Float[Array, n]
    low: Float[Array, n]
    high: Float[Array, n]
    n_trial: Int[Array, n]
    steps: Float[Array, "m n k"]
    changes: Float[Array, "m n k"]
    converged: Bool[Array, n]
    stopped: Bool[Array, n]
    n_iter: Int[Array, n]


def minimise_lbfgs(
    value_and_gradient: Callable[
        [Float[Array, "n k"]], tuple[Float[Array, n], Float[Array, "n k"]]
    ],
    start: Float[Array, "n k"],
    metric: Float[Array, "n k k"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""] = 60,
    tolerance: float | Float[Array, n] = 1e-4,
    history: int = 6,
    longest_step: float = 0.4,
) -> LbfgsState:
    """Minimise many smooth functions at once (Liu & Nocedal 1989, Math. Prog. 45, 503).

    Parameters
    ----------
    value_and_gradient : callable
        Values and gradients of all functions.
    start : (n, k)
    metric : (n, k, k)
        First guess of the inverse Hessians; the history corrects it.
    active : (n,) bool
        Functions to minimise; the others are carried along unchanged.
    max_iter : int
        Evaluations after that of the start.
    tolerance : float or (n,)
        A function has converged once the value that the next step promises to gain, by the
        quadratic model, is below this.
    history : int
        Steps that are remembered.
    longest_step : float
        Cap on the change of any coordinate in the first trial of a step.

    Returns
    -------
    LbfgsState

    Notes
    -----
    One evaluation serves all functions, wherever each stands in its line search: one may be trying
    half a step while its neighbour begins another direction. A step is accepted by the weak Wolfe
    conditions, found by bracketing and quadratic interpolation; where values can no longer be told
    apart in the working precision, by slopes alone (Hager & Zhang 2005, SIAM J. Optim. 16, 170).
    """
    n, k = start.shape
    dtype = start.dtype
    value, gradient = value_and_gradient(start)
    nothing = jnp.zeros((history, n, k), dtype)

    direction = -_apply(metric, gradient)
    slope, length = _begin_search(direction, gradient, longest_step)
    usable = active & jnp.isfinite(value) & jnp.isfinite(slope) & (slope < 0)
    first = LbfgsState(
        point=start,
        gradient=gradient,
        value=value,
        direction=direction,
        slope=slope,
        length=length,
        low=jnp.zeros(n, dtype),
        high=jnp.full(n, jnp.inf, dtype),
        n_trial=jnp.zeros(n, jnp.int32),
        steps=nothing,
        changes=nothing,
        converged=active & (-0.5 * slope < tolerance),
        stopped=~usable | (-0.5 * slope < tolerance),
        n_iter=active.astype(jnp.int32),
    )

    def one_evaluation(state: LbfgsState) -> LbfgsState:
        return _evaluate(value_and_gradient, state, metric, tolerance, longest_step)

    def unfinished(carry):
        count, state = carry
        return (count < max_iter) & ~state.stopped.all()

    def body(carry):
        count, state = carry
        return count + 1, one_evaluation(state)

    return jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), first))[1]


def _begin_search(direction, gradient, longest_step):
    """Slope and first length along a direction."""
    slope = _dot(gradient, direction)
    largest = jnp.max(jnp.abs(direction), axis=-1)
    return slope, jnp.minimum(1, longest_step / jnp.maximum(largest, longest_step))


def _evaluate(value_and_gradient, state: LbfgsState, metric, tolerance, longest_step) -> LbfgsState:
    """One trial of the line search of each function, and the next direction where it is over."""
    going = ~state.stopped
    blur = 8 * jnp.finfo(state.point.dtype).eps
    step = jnp.where(going[:, None], state.length[:, None] * state.direction, 0)
    trial = state.point + step
    value, gradient = value_and_gradient(trial)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all(axis=-1)
    slope = _dot(gradient, state.direction)
    gained = state.value - value
    fell = finite & (gained >= -_SUFFICIENT * state.length * state.slope)
    level = finite & (jnp.abs(gained) <= blur * jnp.abs(state.value))
    level = level & (slope <= -(1 - 2 * _SUFFICIENT) * state.slope)
    low_enough = fell | level
    bent = finite & (slope >= _CURVED * state.slope)
    tired = state.n_trial >= _MOST_TRIALS
    accepted = going & low_enough & (bent | tired)

    low, high, next_length = _narrow_bracket(state, gained, too_long=~low_enough)

    # The next direction of a search that is over.
    change = gradient - state.gradient
    kept = accepted & (_dot(step, change) > 0)
    steps = _push(state.steps, step, kept)
    changes = _push(state.changes, change, kept)
    direction = _next_direction(gradient, steps, changes, metric)
    new_slope, new_length = _begin_search(direction, gradient, longest_step)
    reached = accepted & (-0.5 * new_slope < tolerance) & (new_slope <= 0)
    lost = going & ~accepted & tired
    uphill = accepted & ~(new_slope < 0)

    def choose(new, old):
        chosen = accepted.reshape((-1,) + (1,) * (old.ndim - 1))
        return jnp.where(chosen, new, old)

    return LbfgsState(
        point=choose(trial, state.point),
        gradient=choose(gradient, state.gradient),
        value=choose(value, state.value),
        direction=choose(direction, state.direction),
        slope=choose(new_slope, state.slope),
        length=jnp.where(accepted, new_length, next_length),
        low=jnp.where(accepted, 0, low),
        high=jnp.where(accepted, jnp.inf, high),
        n_trial=jnp.where(accepted, 0, state.n_trial + 1),
        steps=steps,
        changes=changes,
        converged=state.converged | reached,
        stopped=state.stopped | reached | lost | uphill,
        n_iter=state.n_iter + going.astype(jnp.int32),
    )


def _narrow_bracket(state: LbfgsState, gained, *, too_long):
    """The bracket of a search that goes on, and the length of its next trial."""
    low = jnp.where(too_long, state.low, state.length)
    high = jnp.where(too_long, state.length, state.high)
    away = state.length - state.low
    parabola = -0.5 * state.slope * state.length**2 / (-gained - state.slope * state.length)
    parabola = jnp.where(jnp.isfinite(parabola) & (state.low == 0), parabola, low + 0.5 * away)
    inside = jnp.clip(parabola, low + 0.1 * (high - low), high - 0.1 * (high - low))
    middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.5 * state.length)
    next_length = jnp.where(too_long, inside, middle)
    return low, high, next_length


def _next_direction(gradient, steps, changes, metric):
    """The two loops of L-BFGS; pairs of zeros, where there is no history yet, drop out."""
    products = jnp.sum(steps * changes, axis=-1)
    weights = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)
    right, alphas = gradient, []
    for step, change, weight in zip(steps, changes, weights, strict=True):
        alpha = weight * _dot(step, right)
        right = right - alpha[:, None] * change
        alphas.append(alpha)
    right = _apply(metric, right)
    pairs = zip(steps[::-1], changes[::-1], weights[::-1], alphas[::-1], strict=True)
    for step, change, weight, alpha in pairs:
        beta = weight * _dot(change, right)
        right = right + (alpha - beta)[:, None] * step
    return -right


def _push(history, newest, kept):
    pushed = jnp.concatenate([newest[None], history[:-1]])
    return jnp.where(kept[None, :, None], pushed, history)


def _dot(left, right):
    return jnp.sum(left * right, axis=-1)


def _apply(matrix, vector):
    return jnp.sum(matrix * vector[:, None, :], axis=-1)
