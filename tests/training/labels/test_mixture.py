"""A mixture over labels draws stars that exist, quickly and reproducibly."""

import time

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator
from scipy.stats import multivariate_normal

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.labels import mixture as module
from jaxmdwarf.training.labels.isochrones import (
    LabelCutsConfig,
    alpha_of_metallicity,
    isochrone_points,
)
from jaxmdwarf.training.labels.mixture import LabelMixture, MixtureConfig, fit_label_mixture

SPACE = LabelSpace.mdwarf(
    teff=(3000.0, 4000.0), logg=(4.0, 6.0), mh=(-1.0, 0.5), alpha_m=(-0.1, 0.5)
)


@pytest.fixture(scope="module")
def points():
    return isochrone_points(cuts=LabelCutsConfig().widen(teff=120.0, mh=0.18))


@pytest.fixture(scope="module")
def mixture(points):
    return fit_label_mixture(points, SPACE, seed=1)


def test_a_million_draws_take_seconds_and_stay_on_the_main_sequence(points, mixture):
    start = time.process_time()
    draws = mixture.draw(1_000_000, seed=2)
    assert time.process_time() - start < 5
    assert draws.shape == (1_000_000, 4)
    assert SPACE.contains(draws).all()
    unit = np.array([1e-3, 1.0])
    gravity = LinearNDInterpolator(points[:, [0, 2]] * unit, points[:, 1])
    some = draws[:50_000]
    off = some[:, 1] - gravity(some[:, [0, 2]] * unit)
    off = off[np.isfinite(off)]
    assert off.size > 0.99 * len(some)
    assert np.quantile(abs(off), 0.995) < 0.1
    assert abs(off.mean()) < 0.01
    assert 0.015 < off.std() < 0.04  # the width that was asked for, and little more
    assert np.std(some[:, 3] - alpha_of_metallicity(some[:, 2])) < 0.04


def test_draws_fill_the_cuts_up_to_their_edges(mixture):
    draws = mixture.draw(200_000, seed=3)
    for column in (0, 2):
        low, high = SPACE.lower[column], SPACE.upper[column]
        counts, _ = np.histogram(draws[:, column], 10, (low, high))
        assert counts.min() > 0.5 * counts.mean()


def test_seeds_reproduce_and_differ(points, mixture):
    np.testing.assert_array_equal(mixture.draw(1000, seed=4), mixture.draw(1000, seed=4))
    assert not np.array_equal(mixture.draw(1000, seed=4), mixture.draw(1000, seed=5))
    again = fit_label_mixture(points, SPACE, seed=1)
    np.testing.assert_array_equal(again.means, mixture.means)


def test_draws_are_in_random_order(mixture):
    draws = mixture.draw(20_000, seed=6)
    first, second = draws[:10_000].mean(axis=0), draws[10_000:].mean(axis=0)
    assert np.all(abs(first - second) < 5 * draws.std(axis=0) / 100)


def test_bic_finds_the_components_that_are_there():
    rng = np.random.default_rng(0)
    centres = np.array([[3200.0, 5.2, -0.7, 0.3], [3500.0, 4.9, 0.0, 0.0], [3800.0, 4.6, 0.3, 0.2]])
    labels = centres[rng.integers(0, 3, 1500)] + rng.normal(0, (20, 0.02, 0.03, 0.02), (1500, 4))
    config = MixtureConfig(n_components=(1, 2, 3, 4, 5))
    mixture = fit_label_mixture(labels, SPACE, seed=0, config=config)
    assert mixture.n_components == 3
    assert [n for n, _ in mixture.bic] == [1, 2, 3, 4, 5]
    assert min(mixture.bic, key=lambda pair: pair[1])[0] == 3
    np.testing.assert_allclose(np.sort(mixture.means[:, 0]), centres[:, 0], atol=5)


def test_the_sheet_has_the_width_of_the_configuration(points):
    wide = MixtureConfig(n_components=(6,), width=(15.0, 0.08, 0.03, 0.02))
    mixture = fit_label_mixture(points, SPACE, seed=1, config=wide)
    width = np.array(wide.width)
    least = np.linalg.eigvalsh(mixture.covariances / width[:, None] / width[None, :]).min()
    assert least >= 0.25 - 1e-9


def test_log_density_integrates_to_one_and_vanishes_outside():
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    mixture = LabelMixture(
        space,
        np.array([0.6, 0.4]),
        np.array([[3100.0, 0.3], [3700.0, -0.4]]),
        np.array([[[40_000.0, 20.0], [20.0, 0.04]], [[10_000.0, 0.0], [0.0, 0.02]]]),
        inside=1.0,
    )
    teff, mh = np.meshgrid(np.linspace(3000, 4000, 401), np.linspace(-1, 0.5, 301))
    grid = np.column_stack([teff.ravel(), mh.ravel()])
    cell = 1000 / 400 * 1.5 / 300
    share = np.exp(mixture.log_density(grid)).sum() * cell
    normalised = LabelMixture(space, mixture.weights, mixture.means, mixture.covariances, share)
    assert 0.3 < share < 0.9
    assert np.exp(normalised.log_density(grid)).sum() * cell == pytest.approx(1, abs=1e-6)
    assert np.isneginf(normalised.log_density(np.array([[2990.0, 0.0]]))).all()
    # The same share as by counting: what `fit_label_mixture` does.
    inside = space.contains(
        np.concatenate(
            [
                np.random.default_rng(1).multivariate_normal(mean, cov, int(1e5 * weight))
                for weight, mean, cov in zip(
                    mixture.weights, mixture.means, mixture.covariances, strict=True
                )
            ]
        )
    )
    assert inside.mean() == pytest.approx(share, abs=0.01)


def test_wrong_input_says_what_is_wrong(points, mixture):
    with pytest.raises(UsageError, match="at least one"):
        mixture.draw(0, seed=1)
    with pytest.raises(UsageError, match="NaN"):
        fit_label_mixture(np.where(points > 5, np.nan, points), SPACE, seed=1)
    with pytest.raises(UsageError, match="too few"):
        fit_label_mixture(points[:30], SPACE, seed=1)
    with pytest.raises(UsageError, match="do not fit"):
        fit_label_mixture(points[:, :3], SPACE, seed=1)
    with pytest.raises(UsageError, match="must be above 0"):
        MixtureConfig(width=(0.0, 0.02, 0.02, 0.02))
    elsewhere = LabelSpace.mdwarf(teff=(5000.0, 6000.0))
    with pytest.raises(WorkFailed, match="lies within the bounds"):
        fit_label_mixture(points, elsewhere, seed=1, config=MixtureConfig(n_components=(2,)))


def test_log_density_is_that_of_scipy_s_gaussians_over_the_share_inside():
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    weights, means = np.array([0.3, 0.7]), np.array([[3100.0, 0.3], [3700.0, -0.4]])
    covariances = np.array([[[40_000.0, 30.0], [30.0, 0.04]], [[10_000.0, -5.0], [-5.0, 0.02]]])
    at = np.random.default_rng(0).uniform(space.lower, space.upper, (20, 2))
    density = sum(
        weight * multivariate_normal(mean, covariance).pdf(at)
        for weight, mean, covariance in zip(weights, means, covariances, strict=True)
    )
    found = LabelMixture(space, weights, means, covariances, 0.8).log_density(at)
    np.testing.assert_allclose(np.exp(found), density / 0.8, rtol=1e-9)


def test_untruncated_draws_have_the_moments_of_the_mixture():
    weights, means = np.array([0.25, 0.75]), np.array([[-1.0, 2.0], [3.0, -1.0]])
    covariances = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.15], [-0.15, 0.4]]])
    draws = module._sample_untruncated(
        weights, means, covariances, 40_000, np.random.default_rng(1)
    )
    first = draws[:, 0] < 1
    assert first.mean() == pytest.approx(0.25, abs=0.01)
    for rows, mean, covariance in zip((first, ~first), means, covariances, strict=True):
        np.testing.assert_allclose(draws[rows].mean(axis=0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(draws[rows].T), covariance, atol=0.02)


def test_narrow_directions_are_raised_to_half_the_blur_and_others_stay():
    width = np.array([10.0, 0.02])
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    scale = width[:, None] * width

    def build(first, second):
        return turn @ np.diag([first, second]) @ turn.T * scale

    found = module._floor_covariances(np.array([build(0.01, 4.0), build(0.3, 0.26)]), width)
    np.testing.assert_allclose(found, [build(0.25, 4.0), build(0.3, 0.26)])


def test_the_search_ends_once_two_numbers_in_a_row_are_worse():
    rng = np.random.default_rng(2)
    one = rng.standard_normal((400, 2))
    best, bic = module._fit_best(one, (1, 2, 3, 4, 5), 1, 7)
    assert best.n_components == 1
    assert [n for n, _ in bic] == [1, 2, 3]
    assert bic[0][1] == pytest.approx(best.bic(one))
    # Scikit-learn takes seeds of 32 bits alone.
    again, _ = module._fit_best(one, (1,), 1, 2**32 + 7)
    np.testing.assert_array_equal(again.means_, best.means_)


def test_points_are_blurred_by_the_width_and_as_many_as_the_components_need():
    """A point that is everywhere the same has the covariance of the blur alone."""
    where = np.tile([[3500.0, 5.0, -0.2, 0.2]], (3000, 1))
    width = (30.0, 0.05, 0.1, 0.02)
    config = MixtureConfig(n_components=(1,), width=width)
    found = fit_label_mixture(where, SPACE, seed=3, config=config)
    np.testing.assert_allclose(found.means[0], where[0], atol=3.0)
    spread = np.sqrt(np.diag(found.covariances[0]))
    np.testing.assert_allclose(spread, width, rtol=0.06)
    assert found.inside > 0.99
    config = MixtureConfig(n_components=(1, 2), n_init=1)
    points = np.random.default_rng(0).normal(where[0], width, (80, 4))
    assert [n for n, _ in fit_label_mixture(points, SPACE, seed=1, config=config).bic] == [1, 2]
    few = fit_label_mixture(points[:79], SPACE, seed=1, config=config)
    assert [n for n, _ in few.bic] == [1]
    with pytest.raises(UsageError, match="39 label points are too few for a mixture of 1"):
        fit_label_mixture(points[:39], SPACE, seed=1, config=config)
    for bad in ({"n_components": ()}, {"n_components": (0, 2)}, {"width": (1.0, 0.0, 1.0, 1.0)}):
        with pytest.raises(UsageError):
            MixtureConfig(**bad)
