"""Priors on the labels of a star, widened or narrowed to what the stars of a survey are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.models.priors import LabelPrior, Prior, linearise_priors
from jaxmdwarf.training.transfer.label_posterior import StarSample, estimate_labels

_FAR_SIGMA = 5.0


def learn_star_priors(
    model: CorrectedModel,
    stars: StarSample,
    kept: np.ndarray,
    start: np.ndarray,
    *,
    names: tuple[str, ...],
    least: Mapping[str, float] | None = None,
    n_iter: int = 10,
) -> tuple[Prior, ...]:
    """Mean and width of priors by empirical Bayes: those under which the spectra are most probable.

    Expectation maximisation: labels of all stars under the priors, then the moments of these
    labels, errors included; each star's likelihood is taken for the Gaussian that it is about its
    labels under the priors that are begun with. A reference is bright and near, and the
    moments of most of its stars tell nothing of the wings; a survey's own stars tell of both
    (Robbins 1956; Bovy et al. 2011, Ann. Appl. Stat. 5, 1657, for the deconvolution).

    Parameters
    ----------
    model : CorrectedModel
        Its priors are what is begun with.
    stars : StarSample
    kept : (n,) bool
        Stars that count.
    start : (n_label,)
        Scaled labels to begin fits from.
    names : tuple of str
        Labels whose priors are learned; relations keep their coefficients, and become no tighter.
    least : mapping of label to float, optional
        Widths below which the priors of these do not come: what is known of the population from
        elsewhere. Errors of faint stars that are stated a tenth too large would halve it.
    n_iter : int
        Iterations: few, since what spectra do not tell is better left as it was.
    """
    found = estimate_labels(model, stars, start)
    away, slopes = (
        np.asarray(part, np.float64)
        for part in linearise_priors(
            model.label_priors, model.label_space, jnp.asarray(found.scaled, jnp.float32)
        )
    )
    counts = kept & np.isfinite(found.covariance).all(axis=(1, 2))
    away, slopes, covariance = away[counts], slopes[counts], found.covariance[counts]
    # Labels are where likelihood and priors together are flat: so much the likelihood pulls.
    pull = -np.einsum("npa,np->na", slopes, away)
    values, axes = np.linalg.eigh(
        np.linalg.inv(covariance.astype(np.float64)) - np.einsum("npa,npb->nab", slopes, slopes)
    )
    likelihood = np.einsum("nak,nk,nbk->nab", axes, np.maximum(values, 0), axes)
    old = np.array([prior.sigma for prior in model.label_priors])
    is_mean = np.array([isinstance(prior, LabelPrior) for prior in model.label_priors], bool)
    learns = np.array([prior.name in names for prior in model.label_priors], bool)
    shift, sigma = np.zeros(len(old)), old.copy()
    for _ in range(n_iter):
        here, by_label = (old * away + shift) / sigma, slopes * (old / sigma)[:, None]
        precision = likelihood + np.einsum("npa,npb->nab", by_label, by_label)
        error = np.linalg.inv(precision)
        step = np.einsum("nab,nb->na", error, pull + np.einsum("npa,np->na", by_label, here))
        # Residuals are expected minus label, in units of sigma.
        residual = here - np.einsum("npa,na->np", by_label, step)
        second = residual**2 + np.einsum("npa,nab,npb->np", by_label, error, by_label)
        near = np.abs(residual) < _FAR_SIGMA
        n_near = np.maximum(near.sum(axis=0), 1)
        mean = np.where(is_mean, np.sum(residual * near, axis=0) / n_near, 0)
        width = sigma * np.sqrt(np.sum(second * near, axis=0) / n_near - mean**2)
        shift = np.where(learns, shift - sigma * mean, shift)
        sigma = np.where(learns, np.where(is_mean, width, np.maximum(width, old)), sigma)
    known = least or {}
    return tuple(
        replace(
            prior, mean=prior.mean + float(by), sigma=max(float(to), known.get(prior.name, 0.0))
        )
        if isinstance(prior, LabelPrior)
        else replace(prior, sigma=float(to))
        for prior, by, to in zip(model.label_priors, shift, sigma, strict=True)
    )
