"""SLAM: a support-vector regression of the flux of each pixel on the labels, then chi-square.

Zhang et al. (2020, ApJS 246, 9); for LAMOST M dwarfs Li et al. (2021, ApJS 253, 45) with the Teff
and [M/H] of APOGEE.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import KFold
from sklearn.svm import SVR

from benchmarks.peers.common import Estimate, Labeller, Peer, Stars, Training, invert_curvature
from benchmarks.peers.quadratic import scale_labels

GAMMAS, COSTS, WIDTHS = (0.05, 0.3), (0.3, 3.0), (0.1, 0.5)
"""What cross-validation chooses among, pixel by pixel: kernel, penalty, tube (labels and flux have
mean 0 and deviation 1)."""

N_FOLD = 3
_TUNED_EVERY = 40
_FEWEST_STARS = 20


class Regressions(NamedTuple):
    """Support-vector regressions of all pixels.

    Parameters
    ----------
    known : (n, k)
        Scaled labels of the training stars.
    duals : dict of float to ((m,), (n, m))
        By the gamma of the kernel: the pixels that have it, and their dual coefficients.
    intercept, centre, width : (n_pix,)
        Of the regression; of the flux, which is scaled.
    learned : (n_pix,) bool
        Pixels that have a regression.
    """

    known: np.ndarray
    duals: dict[float, tuple[np.ndarray, np.ndarray]]
    intercept: np.ndarray
    centre: np.ndarray
    width: np.ndarray
    learned: np.ndarray

    def predict(self, scaled: np.ndarray) -> np.ndarray:
        """Flux of stars, (m, n_pix): what `SVR.predict` says, all pixels at once."""
        total = np.tile(self.intercept, (len(scaled), 1))
        for gamma, (pixels, dual) in self.duals.items():
            total[:, pixels] += rbf_kernel(scaled, self.known, gamma=gamma) @ dual
        return self.centre + self.width * total


def learn_pixels(scaled: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Regressions:
    """Regressions of all pixels.

    Parameters
    ----------
    scaled : (n, k)
    flux, ivar : (n, n_pix)

    Notes
    -----
    Hyperparameters are found by three-fold cross-validation for every fortieth pixel and shared
    with its neighbours, which see the same bands: a fifteenth of the time.
    """
    good = ivar > 0
    learned = good.sum(axis=0) >= _FEWEST_STARS
    n_star, n_pix = flux.shape
    centre, width = np.ones(n_pix), np.ones(n_pix)
    kernels = {gamma: rbf_kernel(scaled, gamma=gamma) for gamma in GAMMAS}
    dual, chosen, intercept = np.zeros((n_star, n_pix)), np.zeros(n_pix), np.zeros(n_pix)
    tuned = None
    for number, pixel in enumerate(np.flatnonzero(learned)):
        rows = np.flatnonzero(good[:, pixel])
        values = flux[rows, pixel]
        centre[pixel], width[pixel] = values.mean(), max(float(values.std()), 1e-6)
        values = (values - centre[pixel]) / width[pixel]
        own = {gamma: kernel[np.ix_(rows, rows)] for gamma, kernel in kernels.items()}
        if number % _TUNED_EVERY == 0 or tuned is None:
            tuned = _tune_pixel(own, values)
        gamma, cost, tube = tuned
        machine = SVR(kernel="precomputed", C=cost, epsilon=tube).fit(own[gamma], values)
        dual[rows[machine.support_], pixel] = machine.dual_coef_[0]
        chosen[pixel], intercept[pixel] = gamma, machine.intercept_[0]
    own_pixels = {gamma: np.flatnonzero(chosen == gamma) for gamma in GAMMAS}
    duals = {gamma: (pixels, dual[:, pixels]) for gamma, pixels in own_pixels.items()}
    return Regressions(scaled, duals, intercept, centre, width, learned)


def _tune_pixel(kernels: dict[float, np.ndarray], values: np.ndarray) -> tuple[float, ...]:
    """Gamma, C and epsilon with the smallest squared error of stars that were left out."""
    folds = list(KFold(N_FOLD, shuffle=True, random_state=0).split(values))

    def error(choice: tuple[float, ...]) -> float:
        gamma, cost, tube = choice
        total = 0.0
        for train, test in folds:
            machine = SVR(kernel="precomputed", C=cost, epsilon=tube)
            machine.fit(kernels[gamma][np.ix_(train, train)], values[train])
            away = machine.predict(kernels[gamma][np.ix_(test, train)]) - values[test]
            total += float(away @ away)
        return total

    return min(itertools.product(GAMMAS, COSTS, WIDTHS), key=error)


def fit_star(
    machines: Regressions, flux: np.ndarray, ivar: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled labels of a star and their errors, by Levenberg-Marquardt on chi-square."""
    used = (ivar > 0) & machines.learned
    if used.sum() <= start.size:
        return np.full((2, start.size), np.nan)
    root = np.sqrt(np.where(used, ivar, 0.0))

    def residual(at: np.ndarray) -> np.ndarray:
        return root * (machines.predict(at[None])[0] - flux)

    found = least_squares(residual, start, method="lm")
    return found.x, invert_curvature(found.jac)


def train_slam(training: Training, names: tuple[str, ...]) -> Labeller:
    """Learn the pixels from the common stars."""
    scaled, centre, width = scale_labels(training.known, names)
    flux, ivar = (np.asarray(part, np.float64) for part in training.known.stars.rest[1:])
    machines = learn_pixels(scaled, flux, ivar)
    drawn = machines.predict(scaled)

    def label(stars: Stars) -> Estimate:
        found = []
        for one in zip(*(np.asarray(part, np.float64) for part in stars.rest[1:]), strict=True):
            # From the training star whose spectrum as learned is nearest.
            nearest = np.argmin((one[1] * machines.learned * (drawn - one[0]) ** 2).sum(axis=1))
            found.append(fit_star(machines, *one, scaled[nearest]))
        table = np.array(found)
        labels, errors = centre + width * table[:, 0], width * table[:, 1]
        return Estimate(
            dict(zip(names, labels.T, strict=True)), dict(zip(names, errors.T, strict=True))
        )

    return label


SLAM = Peer(
    "support-vector regression per pixel (SLAM)",
    "common stars",
    "Zhang et al. (2020), Li et al. (2021)",
    (("teff", "mh"),),
    train_slam,
)
