"""Labels are carried onto a population in physical units, the errors of each being part of it."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.transfer.label_matching import (
    Population,
    ReferenceSample,
    describe_population,
    match_labels,
)
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


def test_errors_of_a_reference_are_taken_off_its_widths():
    """Draws of a Gaussian: with stated errors of a part of it, what is left is the other part."""
    rng = np.random.default_rng(1)
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4200.0, 0.6))
    sample = rng.multivariate_normal((3500.0, -0.1), [[90.0**2, 6.0], [6.0, 0.2**2]], 4000)
    labels = np.asarray(sample, np.float32)
    plain = describe_population(space, labels, ReferenceSample(sample), least_scatter={})
    np.testing.assert_allclose(plain.mean, sample.mean(axis=0), rtol=0.01, atol=0.01)
    with_errors = describe_population(
        space, labels, ReferenceSample(sample, errors=(40.0, 0.1)), least_scatter={}
    )
    taken = plain.covariance - with_errors.covariance
    np.testing.assert_allclose(np.diag(taken), [40.0**2, 0.1**2], rtol=1e-6)
    np.testing.assert_allclose(taken[0, 1], 0.0, atol=1e-9)
    # None are taken off where none are stated.
    none = describe_population(
        space, labels, ReferenceSample(sample, errors=(0.0, 0.0)), least_scatter={}
    )
    np.testing.assert_array_equal(plain.covariance, none.covariance)
    of_draws = describe_population(space, labels, None, least_scatter={})
    np.testing.assert_allclose(of_draws.covariance, plain.covariance, rtol=1e-4)
    with pytest.raises(MismatchError, match="the reference has 19 stars"):
        describe_population(space, labels, ReferenceSample(sample[:19]), least_scatter={})
    least = describe_population(space, labels, ReferenceSample(sample[:20]), least_scatter={})
    assert least.n_star == 20
    mh, teff = plain.priors
    assert (mh.mean, mh.sigma) == pytest.approx((plain.mean[1], plain.covariance[1, 1] ** 0.5))
    # Teff given [M/H] at one sigma above its mean, and what scatters then.
    slope = plain.covariance[0, 1] / plain.covariance[1, 1] ** 0.5
    assert teff.coefficients == pytest.approx((plain.mean[0], slope))
    assert teff.sigma == pytest.approx((plain.covariance[0, 0] - slope**2) ** 0.5)
    assert teff.scale == pytest.approx((mh.sigma,))
    assert plain.priors_of_a_star == (mh,)
    np.testing.assert_allclose(
        plain.mean_scaled(space), (plain.mean - [3000, -1]) / [1200, 1.6] - 0.5, atol=1e-9
    )
