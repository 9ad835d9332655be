"""Priors on the labels of a star, widened or narrowed to what the stars of a survey are."""

from __future__ import annotations

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
    n_iter: int = 4,
) -> tuple[Prior, ...]:
    """Mean and width of priors by empirical Bayes: those under which the spectra are most probable.

    Expectation maximisation: labels of all stars under the priors, then the moments of these
    labels, errors included. A reference is bright and near, and moments of most of its stars tell
    nothing of the wings; a survey's own stars tell of both (Robbins 1956; Bovy et al. 2011, Ann.
    Appl. Stat. 5, 1657, for the deconvolution).

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
    n_iter : int
        Iterations: few, since what spectra do not tell is better left as it was.
    """
    first = model.label_priors
    for _ in range(n_iter):
        found = estimate_labels(model, stars, start)
        residual, slopes = (
            np.asarray(part, np.float64)
            for part in linearise_priors(
                model.label_priors, model.label_space, jnp.asarray(found.scaled, jnp.float32)
            )
        )
        spread = np.einsum("npa,nab,npb->np", slopes, found.covariance, slopes)
        learned = []
        for j, prior in enumerate(model.label_priors):
            some = kept & (np.abs(residual[:, j]) < _FAR_SIGMA) & np.isfinite(spread[:, j])
            if prior.name not in names or not some.any():
                learned.append(prior)
                continue
            # Residuals are expected minus label, in units of sigma.
            away, second = residual[some, j], residual[some, j] ** 2 + spread[some, j]
            if isinstance(prior, LabelPrior):
                shift = away.mean()
                width = prior.sigma * np.sqrt(second.mean() - shift**2)
                mean = prior.mean - prior.sigma * shift
                learned.append(replace(prior, mean=float(mean), sigma=float(width)))
            else:
                width = prior.sigma * np.sqrt(second.mean())
                learned.append(replace(prior, sigma=float(max(width, first[j].sigma))))
        model = replace(model, label_priors=tuple(learned))  # type: ignore[type-var]
    return model.label_priors
