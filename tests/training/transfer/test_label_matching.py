"""Labels are carried onto a population in physical units, the errors of each being part of it."""

import numpy as np

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.transfer.label_matching import Population, match_labels
from jaxmdwarf.training.transfer.label_posterior import Posterior

SPACE = LabelSpace.mdwarf()
WIDTH = np.subtract(SPACE.upper, SPACE.lower)
MIDDLE = 0.5 * np.add(SPACE.upper, SPACE.lower)

# Of Teff and [M/H]; what one spectrum leaves open is most of it, and is correlated.
THEORY = np.array([[180.0**2, 0.3 * 180 * 0.15], [0.3 * 180 * 0.15, 0.15**2]])
UNKNOWN = np.array([[120.0**2, -0.5 * 120 * 0.1], [-0.5 * 120 * 0.1, 0.1**2]])
POPULATION = Population(
    mean=np.array([3500.0, -0.1]),
    covariance=np.array([[250.0**2, -0.2 * 250 * 0.25], [-0.2 * 250 * 0.25, 0.25**2]]),
    relations=(),
    n_star=1000,
)


def draw_posteriors(n: int = 6000) -> Posterior:
    """Posteriors of stars of THEORY's distribution that leave UNKNOWN open."""
    rng = np.random.default_rng(0)
    means = rng.multivariate_normal([3620.0, 0.05], THEORY - UNKNOWN, n)
    labels = np.tile(MIDDLE, (n, 1))
    labels[:, [0, 2]] = means
    covariance = np.zeros((4, 4))
    covariance[np.ix_([0, 2], [0, 2])] = UNKNOWN
    covariance[1, 1], covariance[3, 3] = 0.05**2, 0.04**2
    covariance[0, 1] = covariance[1, 0] = 0.4 * 120 * 0.05
    return Posterior(
        scaled=((labels - MIDDLE) / WIDTH).astype(np.float32),
        covariance=np.broadcast_to(covariance / WIDTH / WIDTH[:, None], (n, 4, 4)),
        amplitudes=np.zeros((n, 0)),
        evidence=np.zeros(n),
        chi2_red=np.ones(n),
    )


def test_the_transport_carries_what_spectra_tell_and_leave_open_onto_the_population():
    found = draw_posteriors()
    matched, stretch, moved = match_labels(found, SPACE, POPULATION, None)
    np.testing.assert_allclose(moved, [-120.0, -0.15], rtol=0.05)
    # Moments of nine tenths of 6000 stars are known to some percent.
    there = stretch @ THEORY @ stretch.T
    scale = np.sqrt(np.diag(POPULATION.covariance))
    np.testing.assert_allclose(
        there / scale / scale[:, None], POPULATION.covariance / scale / scale[:, None], atol=0.05
    )
    # No rotation in units of the population's widths: the least that carries one into the other.
    np.testing.assert_allclose(stretch[0, 1] * scale[1] ** 2, stretch[1, 0] * scale[0] ** 2)
    # Star by star, the map is affine.
    before = found.scaled[:, [0, 2]] * WIDTH[[0, 2]] + MIDDLE[[0, 2]]
    after = matched.scaled[:, [0, 2]] * WIDTH[[0, 2]] + MIDDLE[[0, 2]]
    expected = POPULATION.mean + (before - (POPULATION.mean - moved)) @ stretch.T
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(matched.scaled[:, [1, 3]], found.scaled[:, [1, 3]])


def test_errors_of_labels_turn_with_the_labels():
    found = draw_posteriors(2000)
    matched, stretch, _ = match_labels(found, SPACE, POPULATION, None)
    turn = np.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = stretch.ravel()
    before = found.covariance[0] * WIDTH * WIDTH[:, None]
    after = matched.covariance[0] * WIDTH * WIDTH[:, None]
    np.testing.assert_allclose(after, turn @ before @ turn.T, rtol=1e-6, atol=1e-12)


def test_common_stars_alone_decide_how_all_are_moved():
    found = draw_posteriors(4000)
    common = np.arange(4000) < 2500
    other = found.scaled.copy()
    other[~common, 0] += 0.1
    first = match_labels(found, SPACE, POPULATION, common)
    second = match_labels(found._replace(scaled=other), SPACE, POPULATION, common)
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[0].scaled[common], second[0].scaled[common])
    moved = second[0].scaled[~common, 0] - first[0].scaled[~common, 0]
    np.testing.assert_allclose(moved, 0.1 * first[1][0, 0], rtol=1e-3)
