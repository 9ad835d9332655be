"""Known labels of some stars put all of them on their scale, and are measurements of their own."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.training.transfer import anchors
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


def test_terms_are_polynomials_that_level_off_and_slopes_are_their_derivatives():
    at = np.random.default_rng(0).normal(0, 2, (30, 2))
    _, slopes = anchors._terms(at)
    small = 1e-3 * at
    x, y = small.T
    polynomials = np.stack([np.ones(30), x, y, x**2 - 1, x * y, y**2 - 1], axis=1)
    np.testing.assert_allclose(anchors._terms(small)[0], polynomials, atol=1e-9)
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        up, down = anchors._terms(at + step)[0], anchors._terms(at - step)[0]
        np.testing.assert_allclose(slopes[:, :, axis], (up - down) / 2e-5, atol=1e-8)
    far = anchors._terms(np.array([[50.0, -80.0]]))[0][0]
    np.testing.assert_allclose(far, [1, 50, -80, 8, -9, 8])


def test_coefficients_are_those_of_ridge_regression_with_the_scatter_that_is_there():
    """Against rows of a least-squares problem; errors stated too small by 0.3 in quadrature."""
    rng = np.random.default_rng(1)
    n = 400
    features = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    variance, share = rng.uniform(0.01, 0.04, n), rng.choice([1.0, 0.5], n)
    truth = np.array([0.5, -0.2, 0.1])
    away = features @ truth + rng.standard_normal(n) * np.sqrt(variance + 0.3**2)
    away[:6] += 8.0
    precision = np.array([5.0, 20.0, 80.0])
    found, weight = anchors._regress(features, away, variance, share, precision)
    assert (weight[:6] == 0).all()
    assert (weight[6:] > 0).all()
    np.testing.assert_allclose(share[6:] / weight[6:] - variance[6:], 0.3**2, atol=0.02)
    root = np.sqrt(weight)
    rows = np.vstack([features * root[:, None], np.diag(np.sqrt(precision))])
    expected = np.linalg.lstsq(rows, np.concatenate([away * root, np.zeros(3)]))[0]
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-4)
    # Rows that differ in nothing else count by their shares.
    few, weight = anchors._regress(
        np.ones((6, 1)), np.array([0.0, 0, 0, 1, 1, 1]), np.full(6, 4.0),
        np.array([1, 1, 1, 0.5, 0.5, 0.5]), np.array([1e-9]),
    )  # fmt: skip
    assert few[0] == pytest.approx(1 / 3)
    np.testing.assert_allclose(weight, np.array([1, 1, 1, 0.5, 0.5, 0.5]) / 4)


def test_few_rows_scatter_by_more_than_their_own_mean_shows():
    """Five numbers about their mean: the scatter is over four of them, not over five."""
    away = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    _, weight = anchors._regress(
        np.ones((5, 1)), away, np.full(5, 1e-6), np.ones(5), np.array([1e-9])
    )
    assert 1 / weight[0] == pytest.approx(np.var(away, ddof=1), rel=0.05)


def test_labels_of_spectrum_and_literature_are_the_mean_of_a_joint_gaussian():
    """Conditioning a Gaussian of all labels on the labels that are known, star by star."""
    rng = np.random.default_rng(2)
    n = 12
    root = rng.standard_normal((4, 4))
    covariance = 1e-4 * np.tile(root @ root.T + 2 * np.eye(4), (n, 1, 1))
    covariance *= rng.uniform(0.5, 2.0, n)[:, None, None]
    scaled = rng.uniform(-0.3, 0.3, (n, 4))
    labels, sigma = np.full((n, 4), np.nan), np.ones((n, 4))
    for column, rows in ((0, np.arange(9)), (2, np.arange(3, 10)), (3, np.arange(3))):
        labels[rows, column] = scaled[rows, column] + 0.005 * rng.standard_normal(rows.size)
        sigma[rows, column] = rng.uniform(0.01, 0.03, rows.size)
    known = KnownLabels(labels, sigma, np.ones(n), np.arange(n))
    has = np.isfinite(labels)
    found, error, added, far = anchors._combine(scaled, covariance, known, has, np.full(4, np.inf))
    assert not far.any()
    # Differences are smaller than errors: nothing is added.
    np.testing.assert_array_equal(added, 0)
    for star in range(n):
        rows = np.flatnonzero(has[star])
        own, noise = covariance[star], np.diag(sigma[star, rows] ** 2)
        total = np.linalg.inv(own[np.ix_(rows, rows)] + noise)
        gain = own[:, rows] @ total
        expected = scaled[star] + gain @ (labels[star, rows] - scaled[star, rows])
        np.testing.assert_allclose(found[star], expected, atol=1e-12)
        np.testing.assert_allclose(error[star], own - gain @ own[rows], atol=1e-12)


def test_what_is_added_to_spectra_is_bounded_and_three_anchors_add_nothing():
    rng = np.random.default_rng(3)
    n = 40
    scaled, own = np.zeros((n, 4)), np.tile(1e-6 * np.eye(4), (n, 1, 1))
    labels = np.full((n, 4), np.nan)
    labels[:, 0], labels[:, 1] = 0.1 * rng.standard_normal((2, n))
    labels[:4, 2] = [0.1, -0.1, 0.2, -0.2]
    known = KnownLabels(labels, np.full((n, 4), 0.01), np.ones(n), np.arange(n))
    most = np.array([np.inf, 0.03, np.inf, np.inf])
    _, error, added, far = anchors._combine(scaled, own, known, np.isfinite(labels), most)
    assert added[0] == pytest.approx(0.1, rel=0.25)
    assert added[1:].tolist() == [0.03, 0, 0]
    # Four sigma of all that there is.
    expected = np.abs(labels[:, 1]) > 4 * np.hypot(0.03, np.hypot(0.01, 1e-3))
    expected |= np.abs(labels[:, 0]) > 4 * np.hypot(added[0], np.hypot(0.01, 1e-3))
    assert expected.any()
    np.testing.assert_array_equal(far, expected)
    # A star's error is its own: with what was added its spectrum counts less, no more.
    near = np.flatnonzero(~far)[-1]
    assert error[near, 3, 3] == pytest.approx(1e-6)
    assert error[near, 0, 0] < 0.011**2


def test_visits_of_four_stars_are_no_scale():
    labels, matched = draw_stars(60)
    star = np.arange(60)
    star[:20] = np.arange(20) % 4
    scaled = np.full((60, 4), np.nan)
    scaled[:20, 0] = SPACE.scale(labels)[:20, 0] + 0.1
    known = KnownLabels(scaled, np.full((60, 4), 0.01), np.ones(60), star)
    four = anchor_labels(matched, SPACE, POPULATION, known)
    assert np.isnan(four.offset).all()
    np.testing.assert_array_equal(four.population.mean, MEAN)
    told = four.describe()
    assert told["offset_from_reference"] == {"teff": None, "mh": None}
    star[:20] = np.arange(20) % 5
    five = anchor_labels(matched, SPACE, POPULATION, known)
    assert five.offset[0] == pytest.approx(210.0, abs=40)
    told = five.describe()
    assert told["offset_from_reference"] == {"teff": five.offset[0], "mh": None}
    assert told["e_offset_from_reference"]["teff"] == five.e_offset[0]
    assert told["population_moved"] == {"teff": five.moved[0], "mh": five.moved[1]}
    assert told["n_far"] == five.n_far


def test_a_relation_without_a_constant_gets_one():
    relation = RelationPrior("logg", ("teff",), ((1,), (2,)), (0.3, 0.1), 0.05, (3500.0,), (200.0,))
    raised = anchors._raise(relation, -0.2)
    assert dict(zip(raised.powers, raised.coefficients, strict=True)) == {
        (1,): 0.3, (2,): 0.1, (0,): -0.2,
    }  # fmt: skip
    assert anchors._raise(raised, 0.5).coefficients == pytest.approx((0.3, 0.1, 0.3))
    assert raised.sigma == 0.05


@pytest.mark.parametrize("rho", [0.6, -0.4])
def test_the_mean_of_a_correlated_population_moves_with_its_bends(rho):
    """Stars off by c x y in temperature are off by c rho in the mean; a stretch has no mean."""
    rng = np.random.default_rng(6)
    # Nearer to the mean than the population, where terms do not level off yet.
    x, y = 0.4 * rng.multivariate_normal(np.zeros(2), [[1, rho], [rho, 1]], 1500).T
    labels = np.zeros((1500, 4))
    labels[:, 0], labels[:, 2] = MEAN[0] + SIGMA[0] * x, MEAN[1] + SIGMA[1] * y
    labels[:, 1], labels[:, 3] = 4.9, 0.05
    matched = make_posterior(labels, np.tile(np.diag((0.02 * ERROR / WIDTH) ** 2), (1500, 1, 1)))
    true = labels.copy()
    true[:, 0] += SIGMA[0] * (0.25 * x * y + 0.1 * y)
    covariance = np.outer(SIGMA, SIGMA) * [[1, rho], [rho, 1]]
    population = POPULATION._replace(covariance=covariance)
    known = tell(true, np.arange(1500), [4.0, 0.005])
    anchored = anchor_labels(matched, SPACE, population, known)
    moved = anchored.population.mean - MEAN
    assert moved[0] == pytest.approx(0.25 * rho * SIGMA[0], abs=4)
    assert moved[1] == pytest.approx(0, abs=0.005)
    assert anchored.stretch[0, 1] == pytest.approx(0.1 * SIGMA[0] / SIGMA[1], rel=0.1)
    wide = anchored.population.covariance
    # Of x + 0.1 y; bends widen nothing here.
    assert wide[0, 0] == pytest.approx(SIGMA[0] ** 2 * (1 + 0.2 * rho + 0.01), rel=0.03)
    assert wide[0, 1] == pytest.approx(np.prod(SIGMA) * (rho + 0.1), rel=0.06)


def test_the_scale_is_a_gaussian_process_about_that_of_the_reference():
    """Kernel of terms with the variances that the reference may be off by, in the dual form."""
    rng = np.random.default_rng(8)
    n, n_star = 40, 5
    at = rng.uniform(-0.5, 0.5, (n, 2))
    labels = np.zeros((n, 4))
    labels[:, [0, 2]], labels[:, 1], labels[:, 3] = MEAN + SIGMA * at, 4.9, 0.05
    matched = make_posterior(labels, np.tile(np.diag((ERROR / WIDTH) ** 2), (n, 1, 1)))
    rows = np.arange(12)
    away = np.stack([60.0 + 40.0 * at[rows, 0], 0.1 - 0.08 * at[rows, 1]], axis=1)
    scaled, sigma = np.full((n, 4), np.nan), np.ones((n, 4))
    scaled[rows[:, None], [0, 2]] = matched.scaled[rows[:, None], [0, 2]] + away / WIDTH[[0, 2]]
    sigma[rows[:, None], [0, 2]] = np.array([90.0, 0.12]) / WIDTH[[0, 2]]
    share = np.where(np.arange(n) < 6, 0.5, 1.0)
    known = KnownLabels(scaled, sigma, share, np.arange(n))
    found = anchor_labels(matched, SPACE, POPULATION._replace(n_star=n_star), known)

    def relate(one, other):
        (x, y), (p, q) = one.T[:, :, None], other.T[:, None, :]
        wide, even = 0.3**2 + np.array([1.0, 0.5]) / n_star, 0.15**2
        return (
            wide[0] + wide[1] * (x * p + y * q)
            + even * ((x * x - 1) * (p * p - 1) + x * y * p * q + (y * y - 1) * (q * q - 1))
        )  # fmt: skip

    others = np.arange(12, n)
    for column, (label, unit) in enumerate(zip((0, 2), SIGMA, strict=True)):
        noise = np.hypot([90.0, 0.12][column], ERROR[label]) / unit
        total = relate(at[rows], at[rows]) + np.diag(noise**2 / share[rows])
        told = np.linalg.solve(total, away[:, column] / unit)
        expected = unit * relate(at[others], at[rows]) @ told
        moved = (found.posterior.scaled - matched.scaled)[others, label] * WIDTH[label]
        np.testing.assert_allclose(moved, expected, rtol=0.03, atol=0.01 * unit)
        weight = share[rows] / noise**2
        assert found.offset[column] == pytest.approx(np.average(away[:, column], weights=weight))
        assert found.e_offset[column] == pytest.approx(unit / np.sqrt(weight.sum()))
    np.testing.assert_array_equal(found.added, 0)


def test_zero_points_of_relations_are_shrunk_by_their_scatter():
    """Six stars 0.08 above, each known to 0.05, of a relation that scatters by 0.05 itself."""
    relation = RelationPrior("logg", ("teff",), ((0,),), (4.9,), 0.05, (3500.0,), (200.0,))
    other = RelationPrior("alpha_m", ("mh",), ((0,),), (0.1,), 0.05, (0.0,), (1.0,))
    labels = np.full((9, 4), np.nan)
    labels[:7, 0], labels[:6, 1], labels[:4, 3], labels[:, 2] = 3600.0, 4.98, 0.3, 0.0
    sigma = np.tile([50.0, 0.05, 0.1, 0.05], (9, 1)) / WIDTH
    known = KnownLabels(SPACE.scale(labels), sigma, np.ones(9), np.arange(9))
    population = POPULATION._replace(relations=(relation, other))
    settled, moved = settle_relations(population, SPACE, known)
    # Weights of 200 each, and the prior's of 400.
    assert moved == pytest.approx({"logg": 0.08 * 1200 / 1600}, rel=1e-4)
    assert settled.relations[0].coefficients == pytest.approx((4.96,), rel=1e-5)
    assert settled.relations[1] is other
    # Visits share the weight of their star; of four stars nothing is said.
    twice = known._replace(star=np.arange(9) % 5, share=np.full(9, 0.5))
    _, moved = settle_relations(population, SPACE, twice)
    assert moved == pytest.approx({"logg": 0.08 * 600 / 1000}, rel=1e-4)
    assert settle_relations(population, SPACE, known._replace(star=np.arange(9) % 4))[1] == {}


@pytest.mark.parametrize(("sigmas", "counts"), [(3.8, True), (4.3, False)])
def test_rows_beyond_four_sigma_of_all_that_there_is_have_no_weight(sigmas, counts):
    rng = np.random.default_rng(0)
    away = np.concatenate([0.2 * rng.standard_normal(400), [0.0]])
    away[:400] -= away[:400].mean()
    scatter = away[:400].std()
    away[400] = sigmas * scatter
    _, weight = anchors._regress(
        np.ones((401, 1)), away, np.full(401, 0.1**2), np.ones(401), np.array([1e-9])
    )
    assert (weight[400] > 0) == counts
    np.testing.assert_allclose(1 / weight[:400], scatter**2, rtol=0.12)


def test_rows_that_are_known_well_decide_which_others_are_far():
    """Eight about 0, known to 0.1, and two at 2.2, known to 0.5: four of their sigmas away."""
    away = np.concatenate([np.linspace(-0.1, 0.1, 8), np.full(2, 2.2)])
    variance = np.repeat([0.1**2, 0.5**2], [8, 2])
    found, weight = anchors._regress(
        np.ones((10, 1)), away, variance, np.ones(10), np.array([1e-9])
    )
    assert found[0] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(weight, np.repeat([100.0, 0.0], [8, 2]))
