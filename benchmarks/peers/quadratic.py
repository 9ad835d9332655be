"""The Cannon: flux of each pixel is quadratic in the labels, with a scatter of its own.

Ness et al. (2015, ApJ 808, 16); for M dwarfs Birky et al. (2020, ApJ 892, 31) with Teff and [Fe/H].
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from benchmarks.peers.common import (
    Estimate,
    KnownStars,
    Labeller,
    Peer,
    Stars,
    Training,
    invert_curvature,
)

SCATTERS = (0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
"""Scatter of a pixel beside the stated errors, of which each pixel takes the likeliest."""


def expand_quadratic(scaled: np.ndarray) -> np.ndarray:
    """1, labels, and their products, (n, 1 + k + k (k + 1) / 2)."""
    rows, columns = np.triu_indices(scaled.shape[-1])
    ones = np.ones((*scaled.shape[:-1], 1))
    return np.concatenate([ones, scaled, scaled[..., rows] * scaled[..., columns]], axis=-1)


def expand_slopes(scaled: np.ndarray) -> np.ndarray:
    """Derivatives of `expand_quadratic` at one star, (n_feature, k)."""
    k = scaled.size
    rows, columns = np.triu_indices(k)
    unit = np.eye(k)
    products = scaled[rows][:, None] * unit[columns] + scaled[columns][:, None] * unit[rows]
    return np.concatenate([np.zeros((1, k)), unit, products])


def fit_pixels(
    scaled: np.ndarray, flux: np.ndarray, ivar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and scatter of all pixels by maximum likelihood.

    Parameters
    ----------
    scaled : (n, k)
        Labels of the training stars.
    flux, ivar : (n, n_pix)

    Returns
    -------
    coefficients : (n_pix, n_feature)
    scatter : (n_pix,)
        Infinite where too few stars have the pixel.
    """
    features = expand_quadratic(scaled)
    n_feature = features.shape[1]
    pairs = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    enough = (ivar > 0).sum(axis=0) > 2 * n_feature
    coefficients = np.zeros((flux.shape[1], n_feature))
    scatter = np.full(flux.shape[1], np.inf)
    lowest = np.full(flux.shape[1], np.inf)
    for trial in SCATTERS:
        weight = ivar / (1.0 + ivar * trial**2)
        curvature = (weight.T @ pairs).reshape(-1, n_feature, n_feature)
        # Pixels that no star has would be singular; they are not used.
        curvature[~enough] = np.eye(n_feature)
        right = (weight * flux).T @ features
        solved = np.linalg.solve(curvature, right[..., None])[..., 0]
        known = weight > 0
        cost = np.where(
            known,
            weight * (flux - features @ solved.T) ** 2 - np.log(np.where(known, weight, 1.0)),
            0.0,
        ).sum(axis=0)
        better = enough & (cost < lowest)
        coefficients[better], scatter[better] = solved[better], trial
        lowest = np.where(better, cost, lowest)
    return coefficients, scatter


def fit_star(
    coefficients: np.ndarray, scatter: np.ndarray, flux: np.ndarray, ivar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled labels of a star and their errors, by Levenberg-Marquardt from the mean labels."""
    used = (ivar > 0) & np.isfinite(scatter)
    root = np.sqrt(ivar[used] / (1.0 + ivar[used] * scatter[used] ** 2))
    theta, seen = coefficients[used], flux[used]
    k = int((np.sqrt(8 * coefficients.shape[1] + 1) - 3) / 2)
    if used.sum() <= k:
        return np.full((2, k), np.nan)

    def residual(at: np.ndarray) -> np.ndarray:
        return root * (theta @ expand_quadratic(at) - seen)

    def slopes(at: np.ndarray) -> np.ndarray:
        return root[:, None] * (theta @ expand_slopes(at))

    found = least_squares(residual, np.zeros(k), jac=slopes, method="lm")
    return found.x, invert_curvature(slopes(found.x))


def scale_labels(known: KnownStars, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Labels of the common stars with mean 0 and deviation 1; with that mean and deviation."""
    labels = np.stack([known.labels[name] for name in names], axis=1)
    centre, width = labels.mean(axis=0), labels.std(axis=0)
    return (labels - centre) / width, centre, width


def train_cannon(training: Training, names: tuple[str, ...]) -> Labeller:
    """Learn the pixels from the common stars; `names` are the labels that span the model."""
    scaled, centre, width = scale_labels(training.known, names)
    flux, ivar = (np.asarray(part, np.float64) for part in training.known.stars.rest[1:])
    coefficients, scatter = fit_pixels(scaled, flux, ivar)

    def label(stars: Stars) -> Estimate:
        rows = zip(*(np.asarray(part, np.float64) for part in stars.rest[1:]), strict=True)
        found = np.array([fit_star(coefficients, scatter, *row) for row in rows])
        labels, errors = centre + width * found[:, 0], width * found[:, 1]
        return Estimate(
            dict(zip(names, labels.T, strict=True)), dict(zip(names, errors.T, strict=True))
        )

    return label


CANNON = Peer(
    "quadratic label model (The Cannon)",
    "common stars",
    "Ness et al. (2015), Birky et al. (2020)",
    (("teff", "mh"), ("teff", "logg", "mh")),
    train_cannon,
)
