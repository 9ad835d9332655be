"""Regression of what theory lacks on labels that are themselves uncertain, pixel by pixel."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from jaxmdwarf.inference.linear import list_pairs
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample, pad_rows


def regress_correction(
    model: CorrectedModel,
    stars: StarSample,
    found: Posterior,
    kept: np.ndarray,
    strength: float,
    outside: float = 1.0,
) -> np.ndarray:
    """Spectra of the features: weighted ridge regression in every pixel, labels being uncertain.

    The expectation over a star's labels y ~ N(y0, S) of its squared residual adds f' S f'^T to the
    normal matrix of the features f and takes f' S J^T off the vector, J being theory's gradient.
    Slopes of spectra are made of what theory's spectra are made of, for the most part, and noise is
    not: what is outside of their span is shrunk more.

    Parameters
    ----------
    model : CorrectedModel
        Its features, base and nuisance directions are used, its correction is not.
    stars : StarSample
    found : Posterior
        Labels that the stars are taken to have.
    kept : (n,) bool
        Stars to learn from.
    strength : float
        Weight of the prior of a linear term relative to the data's.
    outside : float
        How many times as much weighs the prior of what theory's spectra do not span.

    Returns
    -------
    (n_feature, n_pix) float32
    """
    space, features, base = model.label_space, model.features, model.base
    n_feature = len(features.degrees)
    first, second, place = list_pairs(n_feature)
    head = base.low_rank()
    assert head is not None
    basis = np.asarray(head.basis)
    matrix = np.zeros((first.size, model.grid.n_pix))
    vector = np.zeros((n_feature, model.grid.n_pix))
    crossed = np.zeros((n_feature * len(basis), model.grid.n_pix))
    nuisance = np.asarray(model.nuisance)
    for chunk in stars.chunks():
        flux, weight, _ = stars.pixels(chunk, float(model.noise_scale))
        weight = weight * kept[chunk, None]
        scaled = np.asarray(found.scaled[chunk], np.float32)
        predicted, at, slope, pull = (
            np.asarray(part)[: len(scaled)]
            for part in _features_at(base, features, space, pad_rows(scaled))
        )
        residual = flux - predicted
        if len(nuisance):
            residual = residual - found.amplitudes[chunk] @ nuisance
        covariance = found.covariance[chunk]
        wide = at[:, :, None] * at[:, None, :] + np.einsum(
            "nia,nab,njb->nij", slope, covariance, slope, optimize=True
        )
        mixed = np.einsum("nia,nab,nkb->nik", slope, covariance, pull, optimize=True)
        matrix += wide[:, first, second].T.astype(np.float32) @ weight
        vector += at.T @ (weight * residual)
        crossed += mixed.reshape(len(at), -1).T.astype(np.float32) @ weight
    vector -= np.einsum("ikp,kp->ip", crossed.reshape(n_feature, len(basis), -1), basis)
    full = np.moveaxis(matrix[place], -1, 0)
    seen = full[:, 0, 0] > 1e-3 * np.median(full[:, 0, 0][full[:, 0, 0] > 0])
    correction = np.zeros((n_feature, model.grid.n_pix), np.float32)
    # Dozens of small products: threads that wait for each other cost more than they share.
    with threadpool_limits(limits=1, user_api="blas"):
        correction[:, seen] = _solve_pixels(
            full[seen],
            vector.T[seen],
            basis[:, seen],
            np.array(features.degrees),
            strength,
            outside,
        ).T
    return correction


def _solve_pixels(full, vector, basis, degrees, strength: float, outside: float) -> np.ndarray:
    """Features (n_pix, n_feature) from normal equations of each pixel, with the priors.

    A term c with slopes is ``alpha @ basis`` and what is outside of it; both have Gaussian priors,
    relative to the weight of the data. The latter is eliminated pixel by pixel, then alpha is
    found for all pixels and terms together.
    """
    n_feature, of_data = len(degrees), full[:, :1, :1]
    identity = np.eye(n_feature)
    prior = of_data * np.diag(outside * strength * degrees)
    inverse = np.linalg.inv(full + prior + 1e-6 * of_data * identity)
    sloped = np.flatnonzero(degrees)
    if not sloped.size:
        return np.einsum("pij,pj->pi", inverse, vector)
    pulled = prior @ inverse
    left = (prior - pulled @ prior)[:, sloped][:, :, sloped]
    right = np.einsum("pij,pj->pi", pulled, vector)[:, sloped]
    k, n_sloped = len(basis), sloped.size
    system = np.empty((n_sloped, k, n_sloped, k))
    for i in range(n_sloped):
        for j in range(i, n_sloped):
            system[i, :, j] = (basis * left[:, i, j]) @ basis.T
            system[j, :, i] = system[i, :, j]
    within = (basis * of_data[:, 0, 0]) @ basis.T
    for i, degree in enumerate(degrees[sloped]):
        system[i, :, i] += strength * degree * within
    matrix = system.reshape(n_sloped * k, -1)
    matrix += 1e-9 * np.diag(np.diagonal(matrix))
    alpha = np.linalg.solve(matrix, (basis @ right).T.reshape(-1)).reshape(n_sloped, k)
    spanned = np.zeros((len(full), n_feature))
    spanned[:, sloped] = (alpha @ basis).T
    return np.einsum("pij,pj->pi", inverse, vector + np.einsum("pij,pj->pi", prior, spanned))


@partial(jax.jit, static_argnames="space")
def _features_at(base, features: LabelFeatures, space: LabelSpace, scaled):
    """Base flux, features, their slopes and those of the base's coefficients, by scaled labels."""
    slope = jax.vmap(jax.jacfwd(lambda one: features.evaluate(space, one)))(scaled)
    pull = jax.vmap(jax.jacfwd(base.coefficients))(scaled)
    return base.predict_scaled_batch(scaled), features.evaluate(space, scaled), slope, pull
