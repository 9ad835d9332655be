"""Regression of what theory lacks on labels that are themselves uncertain, pixel by pixel."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.inference.linear import list_pairs
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample


def regress_correction(
    model: CorrectedModel, stars: StarSample, found: Posterior, kept: np.ndarray, strength: float
) -> np.ndarray:
    """Spectra of the features: weighted ridge regression in every pixel, labels being uncertain.

    The expectation over a star's labels y ~ N(y0, S) of its squared residual adds f' S f'^T to the
    normal matrix of the features f and takes f' S J^T off the vector, J being theory's gradient.

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
        scaled = jnp.asarray(found.scaled[chunk], jnp.float32)
        predicted, at, slope, pull = (
            np.asarray(part) for part in _features_at(base, features, space, scaled)
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
    prior = np.diag([strength * degree for degree in features.degrees])
    seen = full[:, 0, 0] > 1e-3 * np.median(full[:, 0, 0][full[:, 0, 0] > 0])
    correction = np.zeros((n_feature, model.grid.n_pix), np.float32)
    system = full[seen] + full[seen][:, :1, :1] * (prior + 1e-6 * np.eye(n_feature))
    correction[:, seen] = np.linalg.solve(system, vector.T[seen][..., None])[..., 0].T
    return correction


@partial(jax.jit, static_argnames=("features", "space"))
def _features_at(base, features: LabelFeatures, space: LabelSpace, scaled):
    """Base flux, features, their slopes and those of the base's coefficients, by scaled labels."""
    slope = jax.vmap(jax.jacfwd(lambda one: features.evaluate(space, one)))(scaled)
    pull = jax.vmap(jax.jacfwd(base.coefficients))(scaled)
    return base.predict_scaled_batch(scaled), features.evaluate(space, scaled), slope, pull
