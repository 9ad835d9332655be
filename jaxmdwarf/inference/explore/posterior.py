"""Posteriors of chosen stars by Hamiltonian Monte Carlo, where a covariance says too little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import choose_batch_size
from jaxmdwarf.inference.explore.landscape import RV
from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.objective import Objective, build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, choose_rows, padded_rows
from jaxmdwarf.inference.results import FitResult

INSTALL_REMEDY = 'install blackjax for it: pip install "jaxmdwarf[posterior]".'

LARGEST_RHAT, LEAST_ESS, LARGEST_DIVERGENT = 1.01, 400.0, 1e-3
"""Chains are trusted within these (the first two: Vehtari et al. 2021)."""

_BLOCK = 50
_SPREAD = 1.5


@dataclass(frozen=True)
class SamplingConfig:
    """How long and how carefully posteriors are sampled.

    Parameters
    ----------
    n_chain : int
        Chains a star.
    n_warmup : int
        Steps in which step size and metric are found; rounded up to a multiple of 100.
    n_draw : int
        Draws kept of each chain; rounded up to a multiple of 50.
    target_acceptance : float
        Mean acceptance that the step size aims at.
    max_doublings : int
        A trajectory has at most ``2**max_doublings`` steps.
    """

    n_chain: int = 4
    n_warmup: int = 300
    n_draw: int = 500
    target_acceptance: float = 0.8
    max_doublings: int = 6

    def __post_init__(self) -> None:
        if self.n_chain < 2 or min(self.n_warmup, self.n_draw, self.max_doublings) < 1:
            raise UsageError(
                f"sampling needs two chains and some steps, got {self}.",
                "without a second chain nobody can tell whether the first has arrived.",
            )
        if not 0.5 <= self.target_acceptance < 1:
            raise UsageError(f"target_acceptance {self.target_acceptance} is not in [0.5, 1).")


class Posterior(NamedTuple):
    """Draws from the posteriors of some stars, and whether to trust them.

    Parameters
    ----------
    names : tuple of str
        Of the last axis of `samples`: labels, "rv" (relative to the frame of the spectra, km/s),
        "poly_0" and so on.
    stars : (n_star,) int
        Rows of the batch.
    samples : (n_star, n_chain, n_draw, n_par)
        Physical units; NaN for stars that could not be sampled.
    rhat : (n_star, n_par)
        Rank-normalised split R-hat: 1 where chains agree.
    ess : (n_star, n_par)
        Effective number of independent draws, all chains together ("bulk").
    n_divergent : (n_star,) int
        Draws whose trajectory went astray.
    acceptance : (n_star,)
        Mean acceptance.
    """

    names: tuple[str, ...]
    stars: Int[np.ndarray, n_star]
    samples: Float[np.ndarray, "n_star n_chain n_draw n_par"]
    rhat: Float[np.ndarray, "n_star n_par"]
    ess: Float[np.ndarray, "n_star n_par"]
    n_divergent: Int[np.ndarray, n_star]
    acceptance: Float[np.ndarray, n_star]

    @property
    def trusted(self) -> Bool[np.ndarray, n_star]:
        """R-hat below 1.01 and 400 effective draws in every parameter, and next to none astray."""
        n_all = self.samples.shape[1] * self.samples.shape[2]
        mixed = (self.rhat < LARGEST_RHAT).all(axis=1) & (self.ess > LEAST_ESS).all(axis=1)
        return mixed & (self.n_divergent <= LARGEST_DIVERGENT * n_all)

    @property
    def mean(self) -> Float[np.ndarray, "n_star n_par"]:
        """Posterior means."""
        return self.samples.mean(axis=(1, 2))

    @property
    def covariance(self) -> Float[np.ndarray, "n_star n_par n_par"]:
        """Posterior covariances."""
        n_star, n_chain, n_draw, n_par = self.samples.shape
        away = (self.samples - self.mean[:, None, None]).reshape(n_star, -1, n_par)
        return np.einsum("sni,snj->sij", away, away) / (n_chain * n_draw - 1)

    def column(self, name: str) -> Float[np.ndarray, "n_star n_all"]:
        """All draws of one parameter, chains joined."""
        if name not in self.names:
            raise UsageError(f"{name!r} was not sampled.", f"use one of {', '.join(self.names)}.")
        values = self.samples[..., self.names.index(name)]
        return values.reshape(len(values), -1)


def sample_posterior(
    problem: FitProblem,
    at: FitResult | Start,
    key: Key[Array, ""],
    *,
    stars: Sequence[int] | np.ndarray | None = None,
    sampling: SamplingConfig | None = None,
    batch_size: int | None = None,
) -> Posterior:
    """Draw from the posteriors of stars, whose fit is where chains start.

    Parameters
    ----------
    problem : FitProblem
        What is a parameter, and what is known beforehand. Fixed labels are not sampled.
    at : FitResult or Start
        Labels and velocities of the fit, one row for each spectrum of the problem.
    key : PRNG key
        Of `jax.random.key`; each star has its own stream, whoever is sampled beside it.
    stars : sequence of int, optional
        Rows of the problem; all by default.
    sampling : SamplingConfig, optional
    batch_size : int, optional
        Stars on the device at once, times the number of chains; by default as many as a fit takes.

    Returns
    -------
    Posterior

    Raises
    ------
    UsageError
        If blackjax is not installed, there is no such star, or nothing is free.
    MismatchError
        If shapes differ.

    Notes
    -----
    The likelihood is ``exp(-cost / 2)`` of what the fit minimises; labels and velocity are uniform
    within their bounds, apart from the priors of the problem, and a polynomial is unbounded. A
    covariance that `FitProblem.continuum_sigma_aa` has widened is not that of this likelihood.

    The sampler is NUTS (Hoffman & Gelman 2014) of blackjax on logits of the scaled labels, with
    the logarithm of their Jacobian, whitened by the curvature at the fit and, half way through
    the warm-up, by the draws of all chains of the star, which also share a step size. Chains
    start about the fit, 1.5 standard deviations wide: valleys that none of them falls into stay
    unseen, and `jaxmdwarf.inference.explore.minima` is there to look for them.
    """
    _require_blackjax()
    sampling, n_spec = sampling or SamplingConfig(), problem.n_spec
    rows = choose_rows(np.arange(n_spec) if stars is None else stars, n_spec)
    problem.require_rows(at)
    layout = problem.layout
    if not layout.n_free:
        raise UsageError("every label is fixed: nothing is left to sample.", "free one of them.")
    points = np.asarray(problem.parameters_at(Start(at.labels, at.residual_kms)))
    problem = replace(problem, warnings=()).pad_to(padded_rows(n_spec))
    size = min(batch_size or choose_batch_size(None, problem.model), len(rows))
    parts = []
    for first in range(0, len(rows), size):
        chosen = rows[first : first + size]
        padded = np.resize(chosen, size)
        part = _sample_part(problem, points[padded], padded, key, sampling)
        parts.append([leaf[: len(chosen)] for leaf in part])
    samples, n_divergent, acceptance = (np.concatenate(leaf) for leaf in zip(*parts, strict=True))
    rhat, ess = _diagnose(samples)
    names = (
        *problem.label_space.names,
        *((RV,) if problem.fit_velocity else ()),
        *(f"poly_{order}" for order in range(layout.n_poly)),
    )
    free = tuple(name for name, held in zip(names, layout.held, strict=True) if not held)
    return Posterior(free, rows, samples, rhat, ess, n_divergent, acceptance)


class _Walk(NamedTuple):
    """Where the chains of some stars are.

    Whitened coordinates w of the free parameters stand for logits ``centre + factor @ w``; the rest
    is dual averaging.
    """

    centre: Float[Array, "n k"]
    factor: Float[Array, "n k k"]
    position: Float[Array, "n n_chain k"]
    log_step: Float[Array, n]
    log_step_mean: Float[Array, n]
    gap: Float[Array, n]
    n_tuned: Int[Array, n]


def _sample_part(problem, points, rows, key, sampling: SamplingConfig):
    """Draws of some stars in physical units, how many diverged, mean acceptance."""
    # Streams by row, so that what a star gets does not depend on its neighbours.
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.asarray(rows))
    walk = _start(problem, rows, points, keys, n_chain=sampling.n_chain)
    blocks = {
        "tune": math.ceil(sampling.n_warmup / (2 * _BLOCK)),
        "draw": math.ceil(sampling.n_draw / _BLOCK),
    }
    count = 0

    def advance(walk, *, tuning):
        nonlocal count
        count += 1
        return _advance(
            problem,
            rows,
            walk,
            keys,
            count,
            tuning,
            sampling.target_acceptance,
            max_doublings=sampling.max_doublings,
        )

    for whitened in (False, True):
        seen = []
        for _ in range(blocks["tune"]):
            walk, logits, _, _, _ = advance(walk, tuning=True)
            seen.append(logits)
        if not whitened:
            # The first steps still remember where the chains began.
            late = jnp.concatenate(seen, axis=1)[:, seen[0].shape[1] * len(seen) // 2 :]
            walk = _whiten_again(walk, late)
    walk = walk._replace(log_step=walk.log_step_mean)
    drawn, divergent, accepted = [], [], []
    for _ in range(blocks["draw"]):
        walk, _, physical, astray, acceptance = advance(walk, tuning=False)
        drawn.append(np.asarray(physical, np.float64))
        divergent.append(np.asarray(astray))
        accepted.append(np.asarray(acceptance))
    samples = np.concatenate(drawn, axis=1).swapaxes(1, 2)
    lost = ~np.isfinite(samples).all(axis=(1, 2, 3))
    samples[lost] = np.nan
    return samples, np.sum(divergent, axis=0, dtype=np.int64), np.mean(accepted, axis=0)


def _map_stars(function, problem, rows, *others):
    """`function(objective, *others)` over stars, each with an objective of its own."""

    def one(row, *others):
        return function(build_objective(problem.take(row[None])), *others)

    return jax.vmap(one)(jnp.asarray(rows), *others)


def _spread_out(objective: Objective, free: Float[Array, k]) -> Float[Array, n_par]:
    """All parameters from the free ones; what is put in columns of fixed labels has no effect."""
    columns = np.flatnonzero(~objective.layout.held)
    return jnp.zeros(objective.layout.n_par, free.dtype).at[columns].set(free)


def _from_logits(objective: Objective, logits: Float[Array, k]) -> Float[Array, n_par]:
    n_bounded = logits.shape[0] - objective.layout.n_poly
    bounded = jax.nn.sigmoid(logits[:n_bounded]) - 0.5
    return _spread_out(objective, jnp.concatenate([bounded, logits[n_bounded:]]))


def _log_density(objective: Objective, logits: Float[Array, k]) -> Float[Array, ""]:
    bounded = logits[: logits.shape[0] - objective.layout.n_poly]
    # Of ds/dz = s' (1 - s'), s' = s + 1/2: uniform within the bounds.
    jacobian = jnp.sum(jax.nn.log_sigmoid(bounded) + jax.nn.log_sigmoid(-bounded))
    return jacobian - 0.5 * objective.cost(_from_logits(objective, logits)[None])[0]


@partial(jax.jit, static_argnames="n_chain")
def _start(problem, rows, points, keys, *, n_chain):
    """Chains about the fit, whitened by its curvature."""

    def one(objective, point, key):
        layout = objective.layout
        free = np.flatnonzero(~layout.held)
        n_bounded = free.size - layout.n_poly
        point = jnp.clip(point, layout.lower, -layout.lower).astype(point.dtype)[None]
        point = objective.settle_polynomial(point)
        curvature = objective.normal_equations(point).curvature[:, free[:, None], free]
        # Uniform priors hold where the data say nothing: 12 is the inverse variance of a range.
        bounds = jnp.where(jnp.arange(free.size) < n_bounded, 12.0, 1e-6)
        covariance = invert_positive(curvature + jnp.diag(bounds).astype(point.dtype))[0]
        sigma = jnp.sqrt(jnp.diagonal(covariance))[:n_bounded]
        # At a bound the logit is infinite and its slope 0: a standard deviation inside, it is not.
        room = jnp.minimum(0.5 - sigma, 0.499)
        inside = jnp.clip(point[0, free[:n_bounded]], -room, room)
        slope = 0.25 - inside * inside
        logit = jnp.log(0.5 + inside) - jnp.log(0.5 - inside)
        stretch = jnp.concatenate([1 / slope, jnp.ones(layout.n_poly, slope.dtype)])
        centre = jnp.concatenate([logit, point[0, layout.n_reported :]])
        factor = jnp.linalg.cholesky(covariance * stretch[:, None] * stretch)
        spread = jax.random.normal(key, (n_chain, free.size), centre.dtype)
        return centre, factor, _SPREAD * spread

    centre, factor, position = _map_stars(one, problem, rows, points, keys)
    zero = jnp.zeros(len(rows), centre.dtype)
    return _Walk(centre, factor, position, zero, zero, zero, zero.astype(jnp.int32))


@partial(jax.jit, static_argnames="max_doublings")
def _advance(problem, rows, walk, keys, number, tuning, target_acceptance, *, max_doublings):
    """`_BLOCK` steps of all chains, tuning the step size or not."""
    from blackjax.mcmc import nuts

    kernel = nuts.build_kernel()

    def one(objective, walk, key):
        def density(white):
            return _log_density(objective, walk.centre + walk.factor @ white)

        def one_step(carry, key):
            states, tuned = carry
            keys = jax.random.split(key, states.position.shape[0])
            states, info = jax.vmap(
                lambda key, state: kernel(
                    key,
                    state,
                    density,
                    jnp.exp(tuned.log_step),
                    jnp.ones_like(walk.centre),
                    max_doublings,
                )
            )(keys, states)
            rate = jnp.where(jnp.isfinite(info.acceptance_rate), info.acceptance_rate, 0)
            new = _average_dually(tuned, target_acceptance - jnp.mean(rate))
            tuned = jax.tree.map(lambda new, old: jnp.where(tuning, new, old), new, tuned)
            return (states, tuned), (states.position, info.is_divergent, rate)

        states = jax.vmap(lambda at: nuts.init(at, density))(walk.position)
        own_keys = jax.random.split(jax.random.fold_in(key, number), _BLOCK)
        tuned = _Tuning(walk.log_step, walk.log_step_mean, walk.gap, walk.n_tuned)
        (states, tuned), (white, astray, rate) = jax.lax.scan(one_step, (states, tuned), own_keys)
        walk = walk._replace(position=states.position, **tuned._asdict())
        logits = walk.centre + white @ walk.factor.T
        physical = jax.vmap(jax.vmap(partial(_to_physical, objective)))(logits)
        # A star without a pixel has priors, but no number of its own.
        physical = jnp.where(objective.n_good[0] > 0, physical, jnp.nan)
        return walk, logits, physical, jnp.sum(astray), jnp.mean(rate)

    return _map_stars(one, problem, rows, walk, keys)


class _Tuning(NamedTuple):
    """The part of `_Walk` that dual averaging changes."""

    log_step: Float[Array, ""]
    log_step_mean: Float[Array, ""]
    gap: Float[Array, ""]
    n_tuned: Int[Array, ""]


def _average_dually(tuned: _Tuning, lack: Float[Array, ""]) -> _Tuning:
    """Nesterov's dual averaging of the step size (Hoffman & Gelman 2014, eq. 6 and section 3.2)."""
    count = tuned.n_tuned + 1
    time = count.astype(tuned.gap.dtype)
    weight = 1 / (time + 10)
    gap = (1 - weight) * tuned.gap + weight * lack
    log_step = jnp.log(10.0).astype(gap.dtype) - jnp.sqrt(time) / 0.05 * gap
    share = time**-0.75
    mean = share * log_step + (1 - share) * tuned.log_step_mean
    return _Tuning(log_step, mean, gap, count)


@jax.jit
def _whiten_again(walk: _Walk, logits: Float[Array, "n n_draw n_chain k"]) -> _Walk:
    """Centre and spread of what all chains of a star have seen take the place of the fit's."""
    n_star, n_draw, n_chain, size = logits.shape
    seen = logits.reshape(n_star, n_draw * n_chain, size)
    centre = jnp.mean(seen, axis=1)
    away = seen - centre[:, None]
    covariance = jnp.einsum("nsi,nsj->nij", away, away) / (away.shape[1] - 1)
    # Few draws know a covariance badly: the fit's counts as ten more.
    share = away.shape[1] / (away.shape[1] + 10.0)
    fitted = walk.factor @ jnp.swapaxes(walk.factor, -1, -2)
    factor = jnp.linalg.cholesky(share * covariance + (1 - share) * fitted)
    logit = walk.centre[:, None] + jnp.einsum("nij,ncj->nci", walk.factor, walk.position)
    position = jax.scipy.linalg.solve_triangular(
        factor, jnp.swapaxes(logit - centre[:, None], -1, -2), lower=True
    )
    zero = jnp.zeros_like(walk.gap)
    return _Walk(
        centre,
        factor,
        jnp.swapaxes(position, -1, -2),
        zero,
        zero,
        zero,
        jnp.zeros_like(walk.n_tuned),
    )


def _to_physical(objective: Objective, logits: Float[Array, k]) -> Float[Array, k]:
    """Free parameters in physical units."""
    layout, space = objective.layout, objective.model.label_space
    parameters = _from_logits(objective, logits)
    labels = space.unscale(parameters[: layout.n_label])
    others = parameters[layout.n_label :]
    if layout.fit_velocity:
        others = others.at[0].multiply(2 * layout.velocity_limit_kms)
    return jnp.concatenate([labels, others])[np.flatnonzero(~layout.held)]


def _diagnose(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R-hat and effective sizes, (n_star, n_par) each; NaN where samples are."""
    from blackjax import diagnostics

    n_star, _, _, n_par = samples.shape
    rhat, ess = np.full((n_star, n_par), np.nan), np.full((n_star, n_par), np.nan)
    known = np.isfinite(samples).all(axis=(1, 2, 3))
    if known.any():
        # Deviations, as single precision would lose them beside a temperature of 3500 K.
        away = samples[known] - samples[known].mean(axis=(1, 2), keepdims=True)
        columns = jnp.asarray(away.transpose(1, 2, 0, 3).reshape(*samples.shape[1:3], -1))
        rhat[known] = np.asarray(jax.jit(diagnostics.rhat)(columns)).reshape(-1, n_par)
        ess[known] = np.asarray(jax.jit(diagnostics.ess_bulk)(columns)).reshape(-1, n_par)
    return rhat, ess


def _require_blackjax() -> None:
    try:
        import blackjax  # noqa: F401
    except ImportError as error:
        raise UsageError("posteriors are sampled with blackjax.", INSTALL_REMEDY) from error
