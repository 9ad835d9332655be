"""Fits of expensive models by a surrogate: its derivatives, and flux of the model itself.

Flux and its derivatives by four labels cost a network five times what flux costs. A surrogate is
nearly the same function and costs next to nothing (theory below a transfer, say). Around a point
where the flux of both is known, the model is taken for ``surrogate + offset + slopes``: the offset
is their difference there, the slopes are what Broyden's update has learned of how it changes
(additive correction of a low-fidelity model; Alexandrov et al. 2001, J. Aircraft 38, 1093). A star
follows that to its minimum, the model is evaluated there, and so on. Once it hardly moves, the
model is linearised where it is: a star has converged by true derivatives of its neighbourhood.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.objective import NormalEquations, Objective
from jaxmdwarf.inference.solvers.base import SolverState
from jaxmdwarf.inference.solvers.lm import minimise_lm, square
from jaxmdwarf.models.base import ForwardModel

REACH_SIGMA = 0.5
"""Standard deviations within which derivatives count as those of a star's neighbourhood."""

_ARRIVED_SIGMA = 0.3
_TELLING_SIGMA = 0.05
_SURROGATE_STEPS = 4
_MOST_STEPS = 3
_FOLDED = 5
_LEAST_DAMPING, _MOST_DAMPING = 1e-5, 1e8


class _Walk(NamedTuple):
    """Where a batch stands, and what is known of the model around there.

    `flux` and `surrogate_flux` are those at `point`, `slopes` the derivatives of their difference,
    `linearised` the points where these were last computed and `known` whether they ever were.
    """

    point: Float[Array, "n k"]
    flux: Float[Array, "n p"]
    surrogate_flux: Float[Array, "n p"]
    slopes: Float[Array, "k n p"]
    equations: NormalEquations
    linearised: Float[Array, "n k"]
    known: Bool[Array, n]
    damping: Float[Array, n]
    resting: Bool[Array, n]
    n_step: Int[Array, ""]
    converged: Bool[Array, n]
    stopped: Bool[Array, n]
    n_iter: Int[Array, n]


def minimise_with_surrogate(
    objective: Objective,
    surrogate: ForwardModel,
    start: Float[Array, "n k"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""] = 30,
    tol_sigma: float = 0.01,
    initial_damping: float | Float[Array, ""] | Float[Array, n] = 1e-2,
) -> SolverState:
    """Minimise chi-square of a batch of stars with few evaluations of the model.

    Parameters
    ----------
    objective : Objective
        Under the model itself.
    surrogate : ForwardModel
        Of the same labels, pixels and context.
    start : (n, k)
    active : (n,) bool
        Stars to fit; the others are carried along unchanged.
    max_iter : int
        Evaluations of the model, linearisations included.
    tol_sigma : float
        A star has converged once the step that it would take next is below this many standard
        deviations and the model was linearised within half a one. Or below five times as many, if
        the last such step gained nothing: so it is where a network has a fold.
    initial_damping : float or (n,)
        Pull towards where flux was last computed, relative to the diagonal of the curvature.

    Returns
    -------
    SolverState
        Equations are those at the parameters but for a last step below the tolerance.
    """
    lower = jnp.asarray(objective.layout.lower, start.dtype)
    follower = _Follower(objective, surrogate, lower, tol_sigma)

    def unfinished(carry):
        count, walk = carry
        return (count < max_iter) & ~walk.stopped.all()

    def body(carry):
        count, walk = carry
        # Linearised for all at once, when no star has anywhere to go without.
        due = (walk.resting | walk.stopped).all() | (walk.n_step >= _MOST_STEPS)
        walk = jax.lax.cond(due, follower.linearise, follower.take_step, walk)
        return count + 1, walk

    first = follower.begin(jnp.clip(start, lower, -lower), active, initial_damping)
    _, last = jax.lax.while_loop(unfinished, body, (jnp.ones((), jnp.int32), first))
    return SolverState(
        last.point, last.equations, last.damping, last.converged, last.stopped, last.n_iter
    )


class _Follower:
    """A model and its surrogate at the same stars, and the moves of a batch between them."""

    def __init__(self, objective: Objective, surrogate: ForwardModel, lower, tol_sigma) -> None:
        self.objective, self.below = objective, objective.under(surrogate)
        self.lower, self.tol_sigma = lower, tol_sigma

    def begin(self, point, active, initial_damping) -> _Walk:
        """Where the surrogate is known alone: its difference from the model has no slopes yet."""
        n, k = point.shape
        flux = self.objective.predict(point)
        return self.stand(
            _Walk(
                point=point,
                flux=flux,
                surrogate_flux=flux,
                slopes=jnp.zeros((k, *flux.shape), flux.dtype),
                equations=None,  # type: ignore[arg-type]
                linearised=point,
                known=jnp.zeros(n, bool),
                damping=jnp.broadcast_to(jnp.asarray(initial_damping, flux.dtype), (n,)),
                resting=jnp.zeros(n, bool),
                n_step=jnp.zeros((), jnp.int32),
                converged=jnp.zeros(n, bool),
                stopped=~active,
                n_iter=active.astype(jnp.int32),
            )
        )

    def stand(self, walk: _Walk) -> _Walk:
        """Equations at the point itself."""
        slopes, surrogate_flux = self.below.linearise(walk.point)
        equations = self._equations_at(jnp.stack(slopes) + walk.slopes, walk.flux, walk.point)
        return walk._replace(surrogate_flux=surrogate_flux, equations=equations)

    def linearise(self, walk: _Walk) -> _Walk:
        """True derivatives where every star stands."""
        slopes, flux = self.objective.linearise(walk.point)
        surrogate_slopes, _ = self.below.linearise(walk.point)
        going = ~walk.stopped
        return self.stand(
            walk._replace(
                flux=flux,
                slopes=jnp.stack(slopes) - jnp.stack(surrogate_slopes),
                linearised=walk.point,
                known=walk.known | going,
                resting=walk.stopped,
                n_step=jnp.zeros((), jnp.int32),
                n_iter=walk.n_iter + going,
            )
        )

    def take_step(self, walk: _Walk) -> _Walk:
        """A step along the corrected surrogate, kept where the model itself costs less there."""
        going = ~walk.stopped & ~walk.resting
        current = walk.equations
        inner = minimise_lm(
            self._correct_surrogate(walk),
            walk.point,
            self.lower,
            -self.lower,
            active=going,
            max_iter=_SURROGATE_STEPS,
            tol_sigma=self.tol_sigma,
            initial_damping=_LEAST_DAMPING,
        )
        trial = jnp.where(going[:, None], inner.parameters, walk.point)
        step = trial - walk.point
        promised = current.cost - inner.equations.cost
        sigmas = jnp.sqrt(square(current.curvature, step))
        flux = self.objective.predict(trial)
        surrogate_flux = self.below.predict(trial)
        slopes = _learn_slopes(
            walk, step, flux, surrogate_flux, telling=going & (sigmas > _TELLING_SIGMA)
        )
        cost = self.objective.cost_of(self._residual_of(flux), trial)
        gained = current.cost - cost
        blur = 64 * jnp.finfo(flux.dtype).eps
        accepted = going & jnp.isfinite(cost) & (gained >= -blur * current.cost)
        chosen = accepted[:, None]
        idle = gained < 0.1 * promised
        near = going & ((sigmas < self.tol_sigma) | (idle & (sigmas < _FOLDED * self.tol_sigma)))
        arrived = going & ~walk.known & (sigmas < _ARRIVED_SIGMA)
        damping = jnp.where(
            accepted,
            walk.damping * jnp.where(gained > 0.5 * promised, 0.1, 1.0),
            jnp.maximum(8 * walk.damping, 1e-2),
        )
        damping = jnp.clip(damping, _LEAST_DAMPING, 2 * _MOST_DAMPING)
        moved = self.stand(
            walk._replace(
                point=jnp.where(chosen, trial, walk.point),
                flux=jnp.where(chosen, flux, walk.flux),
                slopes=slopes,
            )
        )
        lost = going & (damping > _MOST_DAMPING)
        reach = jnp.sqrt(square(moved.equations.curvature, moved.point - walk.linearised))
        converged = near & walk.known & (reach < REACH_SIGMA)
        return moved._replace(
            damping=jnp.where(going, damping, walk.damping),
            resting=walk.resting | near | arrived,
            n_step=walk.n_step + 1,
            converged=walk.converged | converged,
            stopped=walk.stopped | converged | lost,
            n_iter=walk.n_iter + going,
        )

    def _correct_surrogate(self, walk: _Walk):
        """Normal equations of surrogate, offset and slopes, held to the anchor by the damping."""
        diagonal = jnp.diagonal(walk.equations.curvature, axis1=-2, axis2=-1)
        pull = walk.damping[:, None] * diagonal

        def evaluate(parameters):
            slopes, flux = self.below.linearise(parameters)
            away = parameters - walk.point
            flux = flux + (walk.flux - walk.surrogate_flux)
            flux = flux + jnp.sum(walk.slopes * away.T[:, :, None], axis=0)
            found = self._equations_at(jnp.stack(slopes) + walk.slopes, flux, parameters)
            return found._replace(
                cost=found.cost + jnp.sum(pull * away * away, axis=-1),
                gradient=found.gradient - pull * away,
                curvature=found.curvature
                + pull[:, :, None] * jnp.eye(pull.shape[-1], dtype=pull.dtype),
            )

        return evaluate

    def _residual_of(self, flux):
        return jnp.where(self.objective.weight > 0, self.objective.flux - flux, 0)

    def _equations_at(self, slopes, flux, parameters) -> NormalEquations:
        return self.objective.accumulate(list(slopes), self._residual_of(flux), parameters)


def _learn_slopes(walk: _Walk, step, flux, surrogate_flux, *, telling):
    """Broyden's update of the slopes of the difference, from steps that rise above rounding."""
    learned = (flux - walk.flux) - (surrogate_flux - walk.surrogate_flux)
    learned = learned - jnp.sum(walk.slopes * step.T[:, :, None], axis=0)
    length = jnp.sum(step * step, axis=-1)
    share = jnp.where(telling[:, None], step / jnp.maximum(length, 1e-30)[:, None], 0)
    return walk.slopes + share.T[:, :, None] * learned
