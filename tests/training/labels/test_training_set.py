"""The label part of the training set in one call, and the relations that follow from it."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import whiten_priors
from jaxmdwarf.simulate.main_sequence import empirical_relation
from jaxmdwarf.training.labels import training_set
from jaxmdwarf.training.labels.codistribution import CodistributionConfig, perturb_reference
from jaxmdwarf.training.labels.isochrones import LabelCutsConfig, isochrone_points
from jaxmdwarf.training.labels.mixture import LabelMixture, MixtureConfig
from jaxmdwarf.training.labels.training_set import (
    TrainingSetConfig,
    fit_main_sequence_relation,
    sample_training_labels,
)

CONFIG = TrainingSetConfig(
    mixture=MixtureConfig(n_components=(6, 8)),
    codistribution=CodistributionConfig(n_training=20_000),
)


def make_reference(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(3600, 180, n), rng.normal(-0.1, 0.2, n)])


@pytest.fixture(scope="module")
def drawn():
    return sample_training_labels(make_reference(), n_draws=200_000, seed=1, config=CONFIG)


def test_labels_follow_reference_and_main_sequence(drawn):
    labels, reference = drawn.labels, make_reference()
    assert labels.shape == (20_000, 4)
    assert labels.dtype == np.float32
    assert np.median(labels[:, 0]) == pytest.approx(np.median(reference[:, 0]), abs=25)
    assert np.median(labels[:, 2]) == pytest.approx(np.median(reference[:, 1]), abs=0.03)
    # Cool stars are denser; so are metal-poor ones of the same temperature.
    near = abs(labels[:, 2] + 0.1) < 0.1
    assert np.corrcoef(labels[near, 0], labels[near, 1])[0, 1] < -0.9
    near = abs(labels[:, 0] - 3600) < 60
    assert np.corrcoef(labels[near, 1], labels[near, 2])[0, 1] < -0.5


def test_the_report_tells_every_step(drawn):
    report = drawn.report
    assert report["n_components"] in (6, 8)
    assert report["n_draws"] == 200_000
    assert report["n_training"] == 20_000
    assert 1 < report["effective_sample_size"] < 200_000
    assert 0.9 < report["coverage"] <= 1
    assert report["n_points"] > 2000


def test_without_reference_the_draws_are_returned():
    drawn = sample_training_labels(None, n_draws=5000, seed=2, config=CONFIG)
    assert drawn.labels.shape == (5000, 4)
    assert "coverage" not in drawn.report
    again = sample_training_labels(None, n_draws=5000, seed=2, config=CONFIG)
    np.testing.assert_array_equal(drawn.labels, again.labels)
    other = sample_training_labels(None, n_draws=5000, seed=3, config=CONFIG)
    assert not np.array_equal(drawn.labels, other.labels)


def test_a_wrong_reference_moves_the_labels(drawn):
    wrong = perturb_reference(make_reference())
    moved = sample_training_labels(wrong, n_draws=200_000, seed=1, config=CONFIG).labels
    change = np.median(moved, axis=0) - np.median(drawn.labels, axis=0)
    assert 25 < change[0] < 60
    assert 0.06 < change[2] < 0.13


def test_hotter_cuts_reach_hotter_stars():
    cuts = LabelCutsConfig(teff=(3200.0, 4100.0), mh=(-0.8, 0.4))
    config = TrainingSetConfig(cuts=cuts, mixture=MixtureConfig(n_components=(6,)))
    labels = sample_training_labels(None, n_draws=20_000, seed=1, config=config).labels
    assert labels[:, 0].min() >= 3200
    assert 4080 < labels[:, 0].max() <= 4100


def test_relations_predict_gravity_and_alpha(drawn):
    relations = fit_main_sequence_relation(drawn.labels)
    space = LabelSpace.mdwarf()
    pulls = np.asarray(whiten_priors(relations, space, jnp.asarray(space.scale(drawn.labels))))
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.02)
    gravity, alpha = relations
    assert gravity.name == "logg"
    assert 0.015 < gravity.sigma < 0.05
    assert alpha.name == "alpha_m"
    assert 0.01 < alpha.sigma < 0.06
    # Against the isochrone itself.
    points = isochrone_points()
    near = (abs(points[:, 0] - 3600) < 300) & (abs(points[:, 2] + 0.1) < 0.3)
    pulls = np.asarray(whiten_priors((gravity,), space, jnp.asarray(space.scale(points[near]))))
    assert np.abs(pulls).max() < 2


def test_relations_need_labels():
    with pytest.raises(UsageError, match="at least 20"):
        fit_main_sequence_relation(isochrone_points()[:10])
    labels = isochrone_points()
    labels[0, 0] = np.nan
    with pytest.raises(UsageError, match="NaN"):
        fit_main_sequence_relation(labels)
    with pytest.raises(UsageError, match="no isochrone point"):
        sample_training_labels(
            None, seed=1, config=TrainingSetConfig(cuts=LabelCutsConfig(teff=(6000.0, 7000.0)))
        )


def test_relations_are_least_squares_of_quadratics_and_their_scatter():
    """Polynomials that are known, and numpy's own fit of one label."""
    rng = np.random.default_rng(3)
    n = 400
    labels = np.empty((n, 4))
    labels[:, 0], labels[:, 2] = rng.normal(3500, 150, n), rng.uniform(-0.8, 0.3, n)
    t, m = (labels[:, 0] - 3400) / 100, labels[:, 2] + 0.2
    noise = rng.standard_normal((2, n)) * np.array([[0.05], [0.004]])
    labels[:, 1] = 4.9 - 0.06 * t + 0.1 * m + 0.03 * t**2 - 0.08 * t * m + 0.8 * m**2 + noise[0]
    labels[:, 3] = 0.1 - 0.3 * m + 0.15 * m**2 + noise[1]
    gravity, alpha = fit_main_sequence_relation(labels)
    assert gravity.sigma == pytest.approx(0.05, rel=0.1)
    # A scatter below a hundredth is taken for one of a hundredth.
    assert alpha.sigma == 0.01
    assert fit_main_sequence_relation(labels, min_sigma=0.001)[1].sigma == pytest.approx(
        0.004, rel=0.1
    )
    assert gravity.centre == pytest.approx((np.median(labels[:, 0]), np.median(labels[:, 2])))
    assert gravity.scale == pytest.approx((np.std(labels[:, 0]), np.std(labels[:, 2])))
    at = np.array([[3300.0, -0.6], [3500.0, 0.0], [3700.0, 0.2]])
    x = (at - gravity.centre) / gravity.scale
    found = [
        sum(
            c * np.prod(row**p)
            for c, p in zip(gravity.coefficients, np.array(gravity.powers), strict=True)
        )
        for row in x
    ]
    t, m = (at[:, 0] - 3400) / 100, at[:, 1] + 0.2
    expected = 4.9 - 0.06 * t + 0.1 * m + 0.03 * t**2 - 0.08 * t * m + 0.8 * m**2
    np.testing.assert_allclose(found, expected, atol=0.02)
    scaled = (labels[:, 2] - alpha.centre[0]) / alpha.scale[0]
    expected = np.polynomial.polynomial.polyfit(scaled, labels[:, 3], 2)
    np.testing.assert_allclose(alpha.coefficients, expected, rtol=1e-8)
    assert fit_main_sequence_relation(labels[:20])[0].sigma > 0
    with pytest.raises(UsageError, match="to 19 labels"):
        fit_main_sequence_relation(labels[:19])
    # One metallicity alone is no reason to fail.
    labels[:, 2] = -0.3
    assert fit_main_sequence_relation(labels)[1].scale == (1e-6,)


def test_isochrones_reach_beyond_the_cuts_and_each_step_has_a_seed_of_its_own(monkeypatch):
    seen = {}
    space = LabelSpace.mdwarf(
        teff=(3200.0, 3800.0), logg=(4.0, 6.0), mh=(-0.6, 0.4), alpha_m=(-0.1, 0.5)
    )
    typical = np.array([3500.0, 5.0, 0.0, 0.1])
    mixture = LabelMixture(
        space, np.ones(1), typical[None], np.diag(np.square([30.0, 0.1, 0.1, 0.05]))[None], 1.0
    )

    def find_points(relation, cuts):
        seen.update(relation=relation, cuts=cuts)
        return np.tile(typical, (5, 1))

    def fit(points, space, *, seed, config):
        seen.update(space=space, fit=seed, config=config)
        return mixture

    def pick(labels, reference, *, seed, config, bounds):
        seen.update(pick=seed, bounds=bounds, n=len(labels), drawn=labels)
        return real_pick(labels, reference, seed=seed, config=config, bounds=bounds)

    real_pick = training_set.sample_codistributed
    for name, function in (
        ("isochrone_points", find_points),
        ("fit_label_mixture", fit),
        ("sample_codistributed", pick),
    ):
        monkeypatch.setattr(training_set, name, function)
    config = TrainingSetConfig(
        cuts=LabelCutsConfig(teff=(3200.0, 3800.0), mh=(-0.6, 0.4)),
        codistribution=CodistributionConfig(n_training=300),
    )
    reference = np.random.default_rng(0).normal((3500.0, 0.0), (20.0, 0.05), (50, 2))
    found = sample_training_labels(
        reference, empirical_relation, n_draws=2000, seed=7, config=config
    )
    assert seen["relation"] is empirical_relation
    # An eighth of 600 K and of 1 dex, about.
    assert seen["cuts"].teff == pytest.approx((3128.0, 3872.0))
    assert seen["cuts"].mh == pytest.approx((-0.72, 0.52))
    assert seen["space"] == space
    assert seen["bounds"] == ((3200.0, 3800.0), (-0.6, 0.4))
    assert seen["n"] == 2000
    assert seen["config"] == config.mixture
    assert seen["fit"] != seen["pick"]
    assert not np.array_equal(seen["drawn"], mixture.draw(2000, seen["fit"]))
    assert not np.array_equal(seen["drawn"], mixture.draw(2000, seen["pick"]))
    assert (found.report["n_points"], found.report["n_draws"]) == (5, 2000)
    assert found.report["n_training"] == 300
    assert found.report["inside_bounds"] == 1.0
    assert found.mixture is mixture
    assert (
        sample_training_labels(None, n_draws=20, seed=7, config=config).report["n_training"] == 20
    )
