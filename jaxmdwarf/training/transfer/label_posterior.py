"""Labels of stars at rest under a corrected model: Gaussian posteriors, nuisance integrated out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.inference.linear import invert_positive, list_pairs
from jaxmdwarf.inference.objective import NormalEquations
from jaxmdwarf.inference.solvers.lm import minimise_lm
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.models.priors import linearise_priors
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.training.transfer.domain import ObservedDomain

_CHUNK, _FEW = 512, 128

_FAR_SIGMA, _FAR_FLUX = 6.0, 0.15


class Posterior(NamedTuple):
    """Labels of stars under a model and its priors, in the Gaussian approximation.

    Parameters
    ----------
    scaled : (n, n_label)
    covariance : (n, n_label, n_label)
        Of the scaled labels.
    amplitudes : (n, n_nuisance)
    evidence : (n,)
        Log marginal likelihood, but for a constant of the number of pixels.
    chi2_red : (n,)
        Mean square residual in units of stated single-pixel errors.
    """

    scaled: Any
    covariance: Any
    amplitudes: Any
    evidence: Any
    chi2_red: Any


def estimate_labels(
    model: CorrectedModel, stars: StarSample, start: Float[np.ndarray, n_label]
) -> Posterior:
    """Labels of all stars at rest, nuisance amplitudes integrated out.

    Parameters
    ----------
    model : CorrectedModel
        Its priors, noise scale and nuisance directions are used.
    stars : StarSample
    start : (n_label,)
        Scaled labels to begin from.
    """
    parts = []
    head = model.low_rank()
    assert head is not None
    shapes = jnp.concatenate([head.basis, model.nuisance])
    first, second, _ = list_pairs(shapes.shape[0])
    products = shapes[first] * shapes[second]
    for chunk in stars.chunks():
        flux, weight, ivar = stars.pixels(chunk, float(model.noise_scale))
        size = len(flux)
        flux, weight, ivar = (pad_rows(values) for values in (flux, weight, ivar))
        part = _estimate(model, products, flux, weight, ivar, jnp.asarray(start, jnp.float32))
        parts.append(jax.tree.map(lambda leaf, n=size: np.asarray(leaf)[:n], part))
    return Posterior(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def pad_rows(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n_more m"]:
    """Rows of zeros added, so that samples of any size share two programs."""
    size = _FEW if len(values) <= _FEW else _CHUNK
    return np.pad(values, ((0, size - len(values)), (0, 0)))


class StarSample:
    """Spectra to learn from, with the weights of a fit; cosmic rays are dropped as they are met.

    Parameters
    ----------
    observed : ObservedDomain
    emulator : ForwardModel
        Its error goes into the weights.
    rows : (n,) int
        Of the domain.
    """

    def __init__(self, observed: ObservedDomain, emulator: ForwardModel, rows: np.ndarray) -> None:
        self._observed, self.rows = observed, rows
        self.snr = observed.snr[rows]
        self.star = None if observed.star is None else observed.star[rows]
        centre = emulator.predict_scaled(jnp.zeros(emulator.label_space.n_label))
        self._model_variance = np.asarray(jnp.square(emulator.model_error * centre), np.float32)
        self._hit: np.ndarray | None = None

    @property
    def n_star(self) -> int:
        """Number of spectra."""
        return len(self.rows)

    def chunks(self) -> list[slice]:
        """Rows of the sample, so many at a time."""
        return [
            slice(first, min(first + _CHUNK, self.n_star))
            for first in range(0, self.n_star, _CHUNK)
        ]

    def pixels(self, chunk: slice, noise_scale: float):
        """Flux, weights of a fit and inverse variances of single pixels, all 0 at bad pixels.

        Parameters
        ----------
        chunk : slice
            Rows of the sample.
        noise_scale : float
            By which stated errors are multiplied.

        Returns
        -------
        flux, weight, ivar : (n, n_pix) float32
        """
        rows = self.rows[chunk]
        flux, ivar, known = (
            np.asarray(values[rows], np.float32)
            for values in (self._observed.flux, self._observed.ivar, self._observed.information)
        )
        good = (ivar > 0) & (known > 0)
        if self._hit is not None:
            good &= ~self._hit[chunk]
        known, ivar = (np.where(good, values / noise_scale**2, 0) for values in (known, ivar))
        # No bright star, whose theory is as wrong as any other's, rules the regression.
        weight = known / (1 + known * (self._model_variance + 0.005**2))
        return np.where(good, flux, 0), weight.astype(np.float32), ivar.astype(np.float32)

    def drop_hits(self, residual_of: Callable[[slice], np.ndarray], noise_scale: float) -> None:
        """Forget pixels that are far from the model and from what it misses in other stars.

        Parameters
        ----------
        residual_of : callable
            Residuals (n, n_pix) of rows of the sample, see `residuals_of`.
        noise_scale : float
            By which stated errors are multiplied.
        """
        self._hit = None
        found = []
        for chunk in self.chunks():
            residual, (_, _, ivar) = residual_of(chunk), self.pixels(chunk, noise_scale)
            typical = np.median(residual, axis=0)
            away = np.abs(residual - typical)
            found.append((away > _FAR_FLUX) & (away * np.sqrt(ivar) > _FAR_SIGMA))
        self._hit = np.concatenate(found)

    def as_domain(self) -> ObservedDomain:
        """These spectra alone, without the pixels that were dropped."""
        domain = self._observed.take(self.rows)
        if self._hit is None:
            return domain
        ivar, known = (np.where(self._hit, 0, part) for part in (domain.ivar, domain.information))
        return replace(domain, ivar=ivar, information=known)

    def take(self, chosen: np.ndarray) -> StarSample:
        """Some of the stars."""
        part = copy.copy(self)
        part.rows, part.snr = self.rows[chosen], self.snr[chosen]
        part._hit = None if self._hit is None else self._hit[chosen]
        return part


def residuals_of(
    model: CorrectedModel, stars: StarSample, found: Posterior, *, without_nuisance: bool = False
) -> Callable[[slice], np.ndarray]:
    """A function of rows of a sample: what a model leaves of their flux, 0 at bad pixels.

    Parameters
    ----------
    model : CorrectedModel
    stars : StarSample
    found : Posterior
        Labels and amplitudes of the stars.
    without_nuisance : bool
        Leave what the nuisance directions describe in the residuals.
    """
    nuisance = np.asarray(model.nuisance)

    def residual_of(chunk: slice) -> np.ndarray:
        flux, weight, _ = stars.pixels(chunk, float(model.noise_scale))
        scaled = np.asarray(found.scaled[chunk], np.float32)
        predicted = np.asarray(_predict(model, pad_rows(scaled)))[: len(scaled)]
        if len(nuisance) and not without_nuisance:
            predicted = predicted + found.amplitudes[chunk] @ nuisance
        return np.where(weight > 0, flux - predicted, 0)

    return residual_of


@jax.jit
def _predict(model: CorrectedModel, scaled):
    return model.predict_scaled_batch(scaled)


@jax.jit
def _estimate(model: CorrectedModel, products, flux, weight, ivar, start) -> Posterior:
    head = model.low_rank()
    assert head is not None
    shapes = jnp.concatenate([head.basis, model.nuisance])
    n_shape, n_model = shapes.shape[0], head.basis.shape[0]
    away = jnp.where(weight > 0, flux - head.mean, 0)
    gram = multiply_exactly(weight, products.T)[:, list_pairs(n_shape).place]
    force = multiply_exactly(weight * away, shapes.T)
    cost = jnp.sum(weight * away * away, axis=-1)
    n_nuisance = n_shape - n_model
    inner = gram[:, n_model:, n_model:] + jnp.eye(n_nuisance)
    # Amplitudes are linear with a Gaussian prior: integrated out in closed form.
    inverse = jnp.linalg.inv(inner)
    across = gram[:, :n_model, n_model:] @ inverse
    reduced = gram[:, :n_model, :n_model] - across @ gram[:, n_model:, :n_model]
    reduced_force = force[:, :n_model] - _each(across, force[:, n_model:])
    reduced_cost = cost - jnp.sum(force[:, n_model:] * _each(inverse, force[:, n_model:]), axis=-1)
    space = model.label_space

    def equations(scaled: Float[Array, "n n_label"]) -> NormalEquations:
        coefficients = jax.vmap(model.coefficients)(scaled)
        slopes = jax.vmap(jax.jacfwd(model.coefficients))(scaled)
        bent = _each(reduced, coefficients)
        gradient = jnp.einsum("nka,nk->na", slopes, reduced_force - bent)
        curvature = jnp.einsum("nka,nkl,nlb->nab", slopes, reduced, slopes)
        residual, by_label = linearise_priors(model.label_priors, space, scaled)
        value = reduced_cost - jnp.sum(coefficients * (2 * reduced_force - bent), axis=-1)
        return NormalEquations(
            cost=value + jnp.sum(residual**2, axis=-1),
            gradient=gradient + jnp.einsum("npa,np->na", by_label, residual),
            curvature=curvature + jnp.einsum("npa,npb->nab", by_label, by_label),
            pixel_chi2=value,
        )

    bound = jnp.full(space.n_label, 0.5)
    state = minimise_lm(
        equations,
        jnp.broadcast_to(start, (flux.shape[0], space.n_label)),
        -bound,
        bound,
        active=(weight > 0).any(axis=-1),
        max_iter=25,
        tol_sigma=0.05,
    )
    scaled = state.parameters
    coefficients = jax.vmap(model.coefficients)(scaled)
    amplitudes = _each(
        inverse, force[:, n_model:] - _each(gram[:, n_model:, :n_model], coefficients)
    )
    fitted = head.mean + multiply_exactly(
        jnp.concatenate([coefficients, amplitudes], axis=-1), shapes
    )
    residual = jnp.where(ivar > 0, flux - fitted, 0)
    n_good = jnp.maximum(jnp.sum(ivar > 0, axis=-1), 1)
    stated = ivar * model.noise_scale**2
    curvature = state.equations.curvature
    # What the weights are depends on the noise scale of the model: they are part of the evidence.
    log_weight = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1)), 0)
    evidence = -0.5 * (
        state.equations.cost
        - jnp.sum(log_weight, axis=-1)
        + jnp.linalg.slogdet(curvature)[1]
        + jnp.linalg.slogdet(inner)[1]
    )
    return Posterior(
        scaled,
        invert_positive(curvature),
        amplitudes,
        evidence,
        jnp.sum(stated * residual**2, axis=-1) / n_good,
    )


def _each(matrices, vectors):
    return jnp.einsum("nij,nj->ni", matrices, vectors)
