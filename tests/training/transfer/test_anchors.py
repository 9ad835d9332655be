"""Known labels of some stars put all of them on their scale, and are measurements of their own."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.training.transfer.anchors import (
    AnchorSample,
    KnownLabels,
    anchor_labels,
    settle_relations,
)
from jaxmdwarf.training.transfer.label_matching import Population
from jaxmdwarf.training.transfer.label_posterior import Posterior

SPACE = LabelSpace.mdwarf()
WIDTH = np.subtract(SPACE.upper, SPACE.lower)
MEAN, SIGMA = np.array([3500.0, -0.1]), np.array([200.0, 0.25])
POPULATION = Population(MEAN, np.diag(SIGMA**2), (), 1000)
ERROR = np.array([40.0, 0.05, 0.06, 0.05])
"""What spectra leave open."""


def draw_stars(n=600, seed=0):
    """True labels of stars, and posteriors about them: Berkson errors, as posterior means have."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 4))
    labels[:, [0, 2]] = MEAN + SIGMA * rng.standard_normal((n, 2))
    labels[:, 1], labels[:, 3] = 4.9, 0.05
    found = labels + ERROR * rng.standard_normal(labels.shape)
    covariance = np.broadcast_to(np.diag((ERROR / WIDTH) ** 2), (n, 4, 4))
    return labels, make_posterior(found, covariance)


def make_posterior(labels, covariance):
    n = len(labels)
    scaled = SPACE.scale(labels).astype(np.float32)
    return Posterior(scaled, covariance, np.zeros((n, 0)), np.zeros(n), np.ones(n))


def tell(labels, rows, errors, *, names=("teff", "mh"), seed=1, star=None):
    """What is known of some of the stars, with errors, K and dex."""
    columns = [SPACE.index(name) for name in names]
    values, sigma = np.full((2, len(rows), 4), np.nan)
    noise = np.random.default_rng(seed).standard_normal((len(rows), len(names)))
    values[:, columns] = labels[np.ix_(rows, columns)] + noise * errors
    sigma[:, columns] = errors
    sample = AnchorSample(np.asarray(rows), values, sigma)
    return sample.place(SPACE, np.arange(len(labels)), star)


def distort(labels):
    """A scale that is off by a constant, a stretch and a bend, as far as ours is told by it."""
    x, y = ((labels[:, [0, 2]] - MEAN) / SIGMA).T
    moved = labels.copy()
    moved[:, 0] += SIGMA[0] * (0.3 + 0.1 * x)
    moved[:, 2] += SIGMA[1] * (-0.2 + 0.15 * y + 0.1 * (y**2 - 1))
    return moved


def away_from(found, labels):
    return np.asarray(SPACE.unscale(found.scaled.astype(np.float64)) - labels)[:, [0, 2]]


def test_all_stars_are_put_on_the_scale_of_the_anchors():
    labels, matched = draw_stars()
    true = distort(np.asarray(SPACE.unscale(matched.scaled.astype(np.float64))))
    true[:, [0, 2]] += (ERROR[[0, 2]]) * np.random.default_rng(5).standard_normal((600, 2))
    rows = np.arange(0, 600, 3)
    anchored = anchor_labels(matched, SPACE, POPULATION, tell(true, rows, [50.0, 0.08]))
    others = np.setdiff1d(np.arange(600), rows)
    before, after = away_from(matched, true)[others], away_from(anchored.posterior, true)[others]
    # The reference alone is off by 0.3 and 0.2 widths, and at the ends by more.
    assert (np.abs(before.mean(axis=0)) > [50, 0.04]).all()
    assert (np.abs(after.mean(axis=0)) < [15, 0.015]).all()
    middle = np.abs(labels[others, 2] - MEAN[1]) < 0.1
    assert abs(before[middle, 1].mean()) > 0.055 > 0.02 > abs(after[middle, 1].mean())
    np.testing.assert_allclose(anchored.offset, [60.0, -0.05], atol=12)
    assert abs(anchored.offset[1] + 0.05) < 0.015
    assert (anchored.e_offset < [6, 0.01]).all()
    # Priors of later passes are on that scale as well.
    np.testing.assert_allclose(anchored.population.mean, MEAN + anchored.moved)
    np.testing.assert_allclose(anchored.moved / SIGMA, [0.3, -0.2], atol=0.06)
    np.testing.assert_allclose(np.diag(anchored.stretch), [1.1, 1.15], atol=0.06)


def test_the_covariance_turns_with_the_labels():
    _, matched = draw_stars()
    true = distort(np.asarray(SPACE.unscale(matched.scaled.astype(np.float64))))
    anchored = anchor_labels(matched, SPACE, POPULATION, tell(true, np.arange(0, 600, 3), 1e-3))
    found = anchored.posterior
    # Slopes of the map, at stars without anchors.
    rows = np.arange(1, 600, 60)
    for column, scale in ((0, 1.1), (2, None)):
        sigma = np.sqrt(
            found.covariance[rows, column, column] / matched.covariance[0, column, column]
        )
        y = (np.asarray(SPACE.unscale(matched.scaled))[rows, 2] - MEAN[1]) / SIGMA[1]
        expected = scale or 1.15 + 0.2 * 3 * np.tanh(y / 3) * (1 - np.tanh(y / 3) ** 2)
        np.testing.assert_allclose(sigma, expected, atol=0.12)


def test_a_scale_that_is_right_stays_and_few_anchors_move_nothing():
    labels, matched = draw_stars()
    anchored = anchor_labels(matched, SPACE, POPULATION, tell(labels, np.arange(0, 600, 2), 1.0))
    others = np.arange(1, 600, 2)
    moved = (away_from(anchored.posterior, labels) - away_from(matched, labels))[others]
    assert (np.abs(moved.mean(axis=0)) < [5, 0.007]).all()
    few = anchor_labels(
        matched, SPACE, POPULATION, tell(labels, np.arange(5), [50.0], names=("mh",))
    )
    np.testing.assert_array_equal(
        few.posterior.scaled[5:, 0], matched.scaled[5:, 0].astype(np.float32)
    )
    assert np.isnan(few.offset[0])
    assert np.isfinite(few.offset[1])


@pytest.mark.parametrize(("error", "share"), [(40.0, 0.5), (80.0, 0.2), (1e-3, 1.0), (1e6, 0.0)])
def test_an_anchor_is_a_measurement_beside_its_spectrum(error, share):
    """Two errors of 40 K: the middle. With exact labels it is a regression on these."""
    labels, matched = draw_stars()
    known = tell(labels, np.arange(600), [error], names=("teff",))
    anchored = anchor_labels(matched, SPACE, POPULATION, known)
    free = anchor_labels(matched, SPACE, POPULATION, known.forget(np.arange(0, 600, 2)))
    # At stars that forgot their labels, the same map without the measurement.
    rows = np.arange(0, 600, 2)
    alone, both = (one.posterior.scaled[rows, 0] for one in (free, anchored))
    gained = (both - alone) / np.where(
        known.scaled[rows, 0] == alone, 1, known.scaled[rows, 0] - alone
    )
    assert abs(np.median(gained) - share) < 0.06
    variance = anchored.posterior.covariance[rows, 0, 0] * WIDTH[0] ** 2
    expected = (1 - share) * 40.0**2
    assert abs(np.median(variance) - expected) < 0.12 * 40.0**2
    # Labels that are not known stay free, but for chance correlations with those that are.
    moved = (anchored.posterior.scaled - matched.scaled)[:, 2] * WIDTH[2]
    assert moved.std() < 0.012


def test_correlated_labels_follow_the_one_that_is_known():
    labels, matched = draw_stars()
    covariance = np.array(matched.covariance)
    covariance[:, 0, 2] = covariance[:, 2, 0] = 0.8 * np.prod(ERROR[[0, 2]] / WIDTH[[0, 2]])
    rng = np.random.default_rng(7)
    both = rng.multivariate_normal(np.zeros(2), [[1, 0.8], [0.8, 1]], 600) * ERROR[[0, 2]]
    found = labels.copy()
    found[:, [0, 2]] += both
    matched = make_posterior(found, covariance)
    known = tell(labels, np.arange(600), [1e-3], names=("teff",))
    anchored = anchor_labels(matched, SPACE, POPULATION, known)
    before, after = away_from(matched, labels)[:, 1], away_from(anchored.posterior, labels)[:, 1]
    assert after.std() < 0.7 * before.std()


def test_a_label_that_is_not_that_of_the_spectrum_is_left_out():
    labels, matched = draw_stars()
    wrong = labels.copy()
    wrong[:3, 0] += 1500.0
    known = tell(wrong, np.arange(100), [30.0, 0.05])
    anchored = anchor_labels(matched, SPACE, POPULATION, known)
    assert anchored.n_far == 3
    assert abs(anchored.offset[0]) < 12
    assert (np.abs(away_from(anchored.posterior, labels)[:3, 0]) < 200).all()


def test_spectra_that_scatter_more_than_they_say_count_less():
    labels, matched = draw_stars()
    honest = tell(labels, np.arange(300), [40.0], names=("teff",))
    sure = matched._replace(covariance=matched.covariance / 100)
    anchored = anchor_labels(sure, SPACE, POPULATION, honest)
    assert abs(anchored.added[0] - 40.0) < 6
    alone = anchor_labels(matched, SPACE, POPULATION, honest)
    assert alone.added[0] < 20
    scatter = away_from(anchored.posterior, labels)[:300, 0].std()
    # Of two measurements to 40 K each.
    assert abs(scatter - 40 / np.sqrt(2)) < 4


def test_visits_of_a_star_count_as_one_and_rows_are_placed():
    labels = np.full((7, 4), np.nan)
    labels[[1, 3, 5], 0] = 3500.0
    labels[[0, 2, 4, 6], 2] = -0.3
    errors = np.where(np.isfinite(labels), 0.1, np.nan)
    sample = AnchorSample(np.array([2, 3, 7, 8, 11, 20, 30]), labels, errors)
    known = sample.place(SPACE, np.array([1, 3, 7, 8, 11, 20, 30]), np.array([9, 1, 1, 2, 3, 4, 5]))
    assert known.share.tolist() == [1, 0.5, 0.5, 1, 1, 1, 1]
    assert known.anchored.tolist() == [False, True, True, True, True, True, True]
    assert known.n_star == 5
    np.testing.assert_allclose(known.scaled[1, 0] * WIDTH[0], 3500.0 - 3550.0)
    np.testing.assert_allclose(known.sigma[2, 2], 0.1 / WIDTH[2])
    assert known.take(np.array([0, 2])).anchored.tolist() == [False, True]
    assert known.forget(np.array([1, 2])).n_star == 4


def test_relations_get_the_zero_point_of_the_anchors():
    relation = RelationPrior(
        "logg", ("teff", "mh"), ((0, 0), (1, 0)), (4.9, -0.1), 0.05, (3500.0, 0.0), (200.0, 1.0)
    )
    population = POPULATION._replace(relations=(relation,))
    rng = np.random.default_rng(0)
    labels = draw_stars(400)[0]
    labels[:, 1] = 4.9 - 0.1 * (labels[:, 0] - 3500) / 200 + 0.08 + 0.02 * rng.standard_normal(400)
    known = tell(labels, np.arange(400), [20.0, 0.03, 0.05], names=("teff", "logg", "mh"))
    settled, moved = settle_relations(population, SPACE, known)
    assert abs(moved["logg"] - 0.08) < 0.01
    assert settled.relations[0].coefficients[0] == pytest.approx(4.9 + moved["logg"])
    # Without gravities nothing is said of the relation.
    none, moved = settle_relations(population, SPACE, tell(labels, np.arange(400), [20.0, 0.05]))
    assert moved == {}
    assert none.relations == (relation,)


def test_anchors_that_make_no_sense_are_refused():
    ones = np.ones((6, 4))
    with pytest.raises(MismatchError, match="increase"):
        AnchorSample(np.array([1, 0, 2, 3, 4, 5]), ones, ones)
    with pytest.raises(MismatchError, match="no error"):
        AnchorSample(np.arange(6), ones, np.zeros((6, 4)))
    with pytest.raises(MismatchError, match="rows"):
        AnchorSample(np.arange(5), ones, ones)
    with pytest.raises(MismatchError, match="0 stars of known labels"):
        AnchorSample(np.arange(6), ones, ones).place(SPACE, np.arange(10, 99), None)
    assert KnownLabels(ones, ones, ones[:, 0], np.arange(6)).n_star == 6
