"""Labels are carried onto a population in physical units, the errors of each being part of it."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.training.transfer import label_matching
from jaxmdwarf.training.transfer.label_matching import (
    Population,
    ReferenceSample,
    describe_population,
    follow_relations,
    match_labels,
    relate,
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
    sample = rng.multivariate_normal((3500.0, -0.1), [[90.0**2, 6.0], [6.0, 0.2**2]], 1000)
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


GRAVITY = RelationPrior(
    "logg", ("teff", "mh"), ((0, 0), (1, 0), (0, 1)), (4.9, -0.1, -0.05), 0.07,
    (3500.0, -0.2), (200.0, 0.5),
)  # fmt: skip
ALPHA = RelationPrior("alpha_m", ("mh",), ((0,), (2,)), (0.1, 0.2), 0.05, (0.3,), (1.0,))


def expect(labels):
    """Gravities and [alpha/M] by the two relations, written out."""
    teff, _, mh, _ = labels.T
    return 4.9 - 0.1 * (teff - 3500) / 200 - 0.05 * (mh + 0.2) / 0.5, 0.1 + 0.2 * (mh - 0.3) ** 2


def draw_labels(n, seed=3):
    rng = np.random.default_rng(seed)
    labels = np.column_stack(
        [rng.normal(3550, 150, n), np.zeros(n), rng.normal(-0.1, 0.2, n), np.zeros(n)]
    )
    logg, alpha = expect(labels)
    labels[:, 1], labels[:, 3] = logg + rng.normal(0.1, 0.05, n), alpha + rng.normal(-0.05, 0.04, n)
    return labels


def test_relations_are_of_physical_labels_and_distances_of_scaled_ones():
    labels = draw_labels(20)
    scaled = (labels - MIDDLE) / WIDTH
    expected, distance = relate((GRAVITY, ALPHA), SPACE, scaled)
    for column, name, there in zip((1, 3), ("logg", "alpha_m"), expect(labels), strict=True):
        np.testing.assert_allclose(
            expected[name] * WIDTH[column] + MIDDLE[column], there, atol=3e-6
        )
        away = (labels[:, column] - there) / WIDTH[column]
        np.testing.assert_allclose(distance[name], away, atol=3e-6)


def test_labels_that_follow_keep_their_distance_from_the_relations():
    labels = draw_labels(20)
    by = np.random.default_rng(0).normal(0, 0.05, (20, 2))
    moved = follow_relations((GRAVITY, ALPHA), SPACE, (labels - MIDDLE) / WIDTH, [0, 2], by)
    after = moved * WIDTH + MIDDLE
    np.testing.assert_allclose(after[:, [0, 2]], labels[:, [0, 2]] + by * WIDTH[[0, 2]])
    for column, before, now in zip((1, 3), expect(labels), expect(after), strict=True):
        np.testing.assert_allclose(after[:, column] - now, labels[:, column] - before, atol=1e-5)


def test_matched_stars_are_about_the_relations_on_the_mean_and_keep_what_is_their_own():
    labels = draw_labels(300)
    n = len(labels)
    labels[:20, 0] = SPACE.upper[0] - 0.009 * WIDTH[0]  # fits at an edge of the model
    labels[20:24, 0] = SPACE.upper[0] - 0.011 * WIDTH[0]
    covariance = np.broadcast_to(np.diag(np.square([50, 0.05, 0.05, 0.05] / WIDTH)), (n, 4, 4))
    found = Posterior(
        ((labels - MIDDLE) / WIDTH).astype(np.float32),
        covariance,
        np.zeros((n, 0)),
        *np.ones((2, n)),
    )
    population = POPULATION._replace(relations=(GRAVITY, ALPHA))
    matched, _, moved = match_labels(found, SPACE, population, None)
    after = matched.scaled * WIDTH + MIDDLE
    inside = np.arange(n) >= 20
    for column, before, now in zip((1, 3), expect(labels), expect(after), strict=True):
        own = labels[:, column] - before
        expected = own - np.median(own[inside])
        free = np.abs(matched.scaled).max(axis=1) < 0.5
        np.testing.assert_allclose((after[:, column] - now)[free], expected[free], atol=2e-5)
        assert abs(np.median(own)) > 0.04
    # Those at the edge have no say, others that are far do not have much.
    centre = population.mean - moved
    assert (np.abs(centre - [3550, -0.1]) < [25, 0.05]).all()
    some = Posterior(*(column[20:] for column in found))
    again = match_labels(some, SPACE, population, None)
    np.testing.assert_allclose(again[2], moved, rtol=1e-6)


def test_the_transport_carries_one_covariance_into_the_other_and_moves_least():
    unit = np.array([200.0, 0.3])
    stretch = label_matching._transport(THEORY, POPULATION.covariance, unit)
    np.testing.assert_allclose(stretch @ THEORY @ stretch.T, POPULATION.covariance, rtol=1e-9)
    inner = stretch / unit[:, None] * unit
    np.testing.assert_allclose(inner, inner.T, rtol=1e-9)
    assert (np.linalg.eigvalsh(inner) > 0).all()


@pytest.mark.parametrize("errors", [(0.0, 0.0), (10.0, 0.03), (60.0, 0.08), (500.0, 0.1)])
def test_errors_of_a_reference_leave_a_tenth_of_its_variance_in_any_direction(errors):
    covariance = np.array([[1e4, 18.0], [18.0, 0.04]])  # 100 K and 0.2 dex, correlated by 0.9
    sample = np.random.default_rng(0).multivariate_normal((3500.0, -0.1), covariance, 400)
    _, plain = label_matching._describe_distribution(sample, (0.0, 0.0))
    _, left = label_matching._describe_distribution(sample, errors)
    share = np.linalg.eigvals(np.linalg.solve(plain, left))
    assert (share > 0.1 - 1e-9).all()
    taken = np.linalg.eigvals(np.linalg.solve(plain, np.diag(np.square(errors))))
    np.testing.assert_allclose(np.sort(share), np.sort(1 - np.minimum(taken, 0.9)), rtol=1e-6)
    if taken.max() < 0.9:
        np.testing.assert_allclose(plain - left, np.diag(np.square(errors)), atol=1e-6)
    # Without care the second of these would leave a population that no prior can be made of.
    assert (taken.max() > 0.9) == (errors[0] > 10.0)


def test_a_twelfth_of_contaminants_has_no_say_in_moments():
    clean = np.random.default_rng(0).normal((3500.0, -0.1), (100.0, 0.2), (1100, 2))
    mean, covariance = label_matching._robust_moments(np.vstack([clean, np.full((100, 2), 5e3)]))
    assert (np.abs(mean - clean.mean(axis=0)) < [8, 0.02]).all()
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [100, 0.2], rtol=0.1)


def test_every_second_of_very_many_labels_describes_them(monkeypatch):
    # That of the Gaussian that is drawn from, in a moment.
    monkeypatch.setattr(
        label_matching, "_robust_moments", lambda sample: (sample.mean(axis=0), np.cov(sample.T))
    )
    labels = draw_labels(100_000)
    labels[1::2, 1] += 1.0
    sample = draw_labels(44_000)[:, [0, 2]]
    sample[::400] = np.nan
    population = describe_population(
        SPACE, labels, ReferenceSample(sample), least_scatter={"logg": 0.02, "alpha_m": 0.3}
    )
    assert population.n_star == (44_000 - 110) // 2
    assert (np.abs(population.mean - [3550, -0.1]) < [5, 0.01]).all()
    gravity, alpha = population.relations
    assert gravity.sigma == pytest.approx(0.05, rel=0.03)
    assert alpha.sigma == 0.3
    at_centre = np.array([[3600.0, 0.0, -0.2, 0.0]])
    expected, _ = relate(population.relations, SPACE, (at_centre - MIDDLE) / WIDTH)
    logg, of_alpha = expect(at_centre)
    assert expected["logg"] * WIDTH[1] + MIDDLE[1] == pytest.approx(logg + 0.1, abs=0.003)
    assert expected["alpha_m"] * WIDTH[3] + MIDDLE[3] == pytest.approx(of_alpha - 0.05, abs=0.003)
    # The fits of stars start there.
    start = population.mean_scaled(SPACE)
    typical = np.array([[*population.mean[:1], 0.0, population.mean[1], 0.0]])
    logg, of_alpha = expect(typical)
    np.testing.assert_allclose(
        start * WIDTH + MIDDLE,
        [population.mean[0], logg[0] + 0.1, population.mean[1], of_alpha[0] - 0.05],
        atol=0.01,
    )
    edge = population._replace(mean=np.array([9000.0, -0.1]), relations=())
    assert edge.mean_scaled(SPACE)[0] == 0.45


def test_the_width_of_a_reference_has_its_wings_and_not_its_errors():
    rng = np.random.default_rng(3)
    mh = np.where(rng.random(5000) < 0.1, rng.normal(-0.7, 0.2, 5000), rng.normal(0, 0.15, 5000))
    seen = mh + 0.1 * rng.standard_normal(5000)
    width = label_matching._find_width(np.r_[seen, np.full(5, 9.0)], 0.1)
    assert width == pytest.approx(mh.std(), rel=0.03)
    robust = np.sqrt(label_matching._robust_moments(np.stack([mh, seen], axis=1))[1][0, 0])
    assert width > 1.2 * robust
    assert label_matching._find_width(mh, 9.0) == pytest.approx(np.sqrt(0.1) * mh.std(), rel=0.04)
    labels = draw_labels(4000)
    sample = ReferenceSample(labels[:, [0, 2]], (50.0, 0.1))
    least = {"logg": 0.05, "alpha_m": 0.06}
    told = describe_population(SPACE, labels, sample, least_scatter=least)
    expected = np.sqrt(labels[:, 2].var() - 0.01)
    assert told.width_mh == pytest.approx(expected, rel=0.1)
    assert describe_population(SPACE, labels, None, least_scatter=least).width_mh == 0.0
