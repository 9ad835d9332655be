"""How far two sets of vectors are apart: scores that training stops by, without any critic."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import MismatchError

_RIDGE = 1e-3
_HALVES = ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2)))


class ComparisonBasis(NamedTuple):
    """Directions in which spectra are compared.

    Parameters
    ----------
    mean : (n_pix,)
        Mean of the good observed spectra.
    basis : (k, n_pix)
        Their strongest orthonormal principal components.
    """

    mean: Float[np.ndarray, "n_pix"]
    basis: Float[np.ndarray, "k n_pix"]


def find_comparison_basis(
    flux: Float[np.ndarray, "n n_pix"],
    ivar: Float[np.ndarray, "n n_pix"],
    *,
    n_component: int = 16,
    n_spec: int = 2000,
) -> ComparisonBasis:
    """Principal components of the brighter half of spectra (`n_spec` at most), bad pixels left out.

    Faint spectra would add directions of noise, and pixels hit by cosmic rays directions of their
    own, in which nothing can be compared: deviations count as five robust widths at most.

    Parameters
    ----------
    flux, ivar : (n, n_pix)
        Observed and normalised; ivar 0 marks bad pixels.
    n_component : int
    n_spec : int
        Spectra at most.

    Raises
    ------
    MismatchError
        If no pixel is good.
    """
    good = ivar > 0
    if not good.any():
        raise MismatchError("every pixel of every observed spectrum is masked.")
    # The median error is that of the star, whatever single pixels do.
    brightest = np.argsort(-np.median(ivar, axis=1), kind="stable")
    brightest = brightest[: min(n_spec, max(len(flux) // 2, n_component))]
    flux, good = np.asarray(flux[brightest], np.float64), good[brightest]
    count = good.sum(axis=0)
    mean = np.where(count > 0, np.where(good, flux, 0).sum(axis=0) / np.maximum(count, 1), 1.0)
    deviation = np.where(good, flux - mean, 0.0)
    width = 1.4826 * np.median(np.abs(deviation), axis=0)
    deviation = np.clip(deviation, -5.0 * width, 5.0 * width)
    _, _, vectors = np.linalg.svd(deviation, full_matrices=False)
    return ComparisonBasis(
        mean.astype(np.float32), vectors[:n_component].astype(np.float32, copy=True)
    )


def marginal_distance(first: Float[np.ndarray, "n k"], second: Float[np.ndarray, "m k"]) -> float:
    """How far two clouds are apart, direction by direction, in robust widths of `first`.

    The sum over directions of the squared differences of mean and of width (a squared Fréchet
    distance that leaves correlations out), less what finite samples of one cloud would give: about
    0 for equal clouds, possibly below. Values beyond four widths count as four, so that single
    broken spectra do not rule. With the full covariances, that of a few hundred spectra in sixteen
    directions is lost in sampling noise.

    Parameters
    ----------
    first, second : (n, k), (m, k)

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(2000, 2))
    >>> abs(marginal_distance(cloud[:1000], cloud[1000:])) < 0.01
    True
    >>> 0.8 < marginal_distance(cloud[:1000], cloud[1000:] + [0.0, 1.0]) < 1.2
    True
    """
    centre = np.median(first, axis=0)
    width = np.maximum(1.4826 * np.median(np.abs(first - centre), axis=0), 1e-12)
    clouds = [
        np.clip((np.asarray(cloud, np.float64) - centre) / width, -4.0, 4.0)
        for cloud in (first, second)
    ]
    means, widths = ([f(cloud, axis=0) for cloud in clouds] for f in (np.mean, np.std))
    # Variances of a mean and of a standard deviation: s^2 / n and about s^2 / 2n.
    by_chance = sum(1.5 * s**2 / len(cloud) for s, cloud in zip(widths, clouds, strict=True))
    apart = (means[0] - means[1]) ** 2 + (widths[0] - widths[1]) ** 2
    return float(np.sum(apart - by_chance))


def discriminant_accuracy(
    first: Float[np.ndarray, "n k"], second: Float[np.ndarray, "m k"], *, n_component: int = 16
) -> float:
    """Accuracy with which a linear discriminant tells two clouds apart; 0.5: it cannot.

    Learned on every other row and applied to the rest, both ways, after projection on the strongest
    `n_component` principal components of both clouds together.

    Parameters
    ----------
    first, second : (n, k), (m, k)
    n_component : int

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(400, 3))
    >>> discriminant_accuracy(cloud[:200], cloud[200:] + 9.0)
    1.0
    """
    both = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    centred = both - both.mean(axis=0)
    _, strength, vectors = np.linalg.svd(centred, full_matrices=False)
    kept = vectors[:n_component][strength[:n_component] > 1e-9 * max(strength[0], 1e-300)]
    projected = centred @ kept.T / np.maximum((centred @ kept.T).std(axis=0), 1e-12)
    clouds = projected[: len(first)], projected[len(first) :]
    right, n_test = 0, 0
    for learn, judge in _HALVES:
        means = [cloud[learn].mean(axis=0) for cloud in clouds]
        covariances = [np.atleast_2d(np.cov(cloud[learn], rowvar=False)) for cloud in clouds]
        within = covariances[0] + covariances[1] + _RIDGE * np.eye(len(kept))
        direction = np.linalg.solve(within, means[1] - means[0])
        threshold = direction @ (means[0] + means[1]) / 2.0
        right += int(np.sum(clouds[0][judge] @ direction < threshold))
        right += int(np.sum(clouds[1][judge] @ direction >= threshold))
        n_test += len(clouds[0][judge]) + len(clouds[1][judge])
    return right / max(n_test, 1)


def explained_fraction(
    given: Float[np.ndarray, "n k"], wanted: Float[np.ndarray, "n m"], *, n_component: int = 8
) -> float:
    """Fraction of the variance of `wanted` that a linear map of `given` tells, on rows unseen.

    Both are reduced to their strongest principal components; below 0 counts as 0. Of split and
    shared latents: how much of the physics the split latent has taken.

    Parameters
    ----------
    given, wanted : (n, k), (n, m)
        Row by row of the same spectra.
    n_component : int
        Of each.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> explained_fraction(x, x @ np.array([[1.0, 2.0], [0.0, 1.0]])) > 0.99
    True
    """
    given, wanted = _reduce(given, n_component), _reduce(wanted, n_component)
    missed = total = 0.0
    for learn, judge in _HALVES:
        x, y = given[learn], wanted[learn]
        normal = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(normal, x.T @ y)
        missed += float(np.sum((wanted[judge] - given[judge] @ weights) ** 2))
        total += float(np.sum(wanted[judge] ** 2))
    return max(0.0, 1.0 - missed / max(total, 1e-300))


def latent_change(before: Float[np.ndarray, "n k"], after: Float[np.ndarray, "n k"]) -> float:
    """Mean absolute change of latents, each over the range that it takes.

    The validation score of Cycle-StarNet (O'Briain et al. 2021): what a spectrum's latents lose
    when it is transferred and encoded again; 0 is perfect.

    Parameters
    ----------
    before, after : (n, k)
        Row by row of the same spectra.

    Examples
    --------
    >>> latent_change(np.array([[0.0], [1.0]]), np.array([[0.5], [1.0]]))
    0.25
    """
    low = np.minimum(before.min(axis=0), after.min(axis=0))
    high = np.maximum(before.max(axis=0), after.max(axis=0))
    return float(np.mean(np.abs(before - after) / np.maximum(high - low, 1e-12)))


def _reduce(values: np.ndarray, n_component: int) -> np.ndarray:
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    projected = centred @ vectors[:n_component].T
    return projected / np.maximum(projected.std(axis=0)[:1], 1e-12)
