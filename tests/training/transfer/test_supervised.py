"""Stars with labels from the literature teach what theory lacks; their own errors do not matter."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.training.labels.training_set import fit_main_sequence_relation
from jaxmdwarf.training.transfer import supervised
from jaxmdwarf.training.transfer.label_errors import spread_label_errors
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample, estimate_labels
from jaxmdwarf.training.transfer.supervised import (
    SupervisedConfig,
    combine_labels,
    state_labels,
    train_supervised,
)

CONFIG = SupervisedConfig(order=1, n_nuisance=2, fit_error=(20.0, 0.03))
N_ANCHOR = 100
TEFF_ERROR, MH_ERROR = 60.0, 0.1


@pytest.fixture(scope="module")
def universe(universe):
    """One whose theory is also 150 K too hot and 0.2 dex too metal-rich."""
    theory, domain, labels, _ = universe
    space = theory.label_space

    def predict(shift):
        shifted = np.clip(labels + shift, space.lower, space.upper)
        return np.asarray(theory.predict_scaled_batch(space.scale(jnp.asarray(shifted, "f4"))))

    moved = predict(np.array([150.0, 0.0, 0.2, 0.0])) - predict(np.zeros(4))
    return theory, replace(domain, flux=domain.flux + moved), labels, None


@pytest.fixture(scope="module")
def literature(universe):
    """Labels of all stars with errors, of which those of log g and [alpha/M] are not known."""
    theory, _, labels, _ = universe
    rng = np.random.default_rng(8)
    values = labels.copy()
    values[:, 0] += TEFF_ERROR * rng.standard_normal(len(labels))
    values[:, 2] += MH_ERROR * rng.standard_normal(len(labels))
    # Beyond the model nothing can be said.
    values = np.clip(values, theory.label_space.lower, theory.label_space.upper)
    covariance = np.diag([TEFF_ERROR**2, 0.05**2, MH_ERROR**2, 0.05**2])
    covariance = np.broadcast_to(covariance, (len(labels), 4, 4))
    return state_labels(theory.label_space, values, covariance), values


@pytest.fixture(scope="module")
def relations(universe):
    """Of log g and [alpha/M], without which these spectra do not tell all four labels."""
    return fit_main_sequence_relation(universe[2], min_sigma=0.02)


@pytest.fixture(scope="module")
def anchored(universe, literature, relations):
    theory, domain, _, _ = universe
    rows = np.arange(N_ANCHOR)
    return train_supervised(theory, domain, literature[0], CONFIG, priors=relations, rows=rows)


def test_stars_that_are_no_anchors_get_the_right_labels(universe, anchored):
    theory, domain, labels, _ = universe
    rows = np.arange(500, 600)
    space, others = theory.label_space, StarSample(domain, theory, rows)
    start = np.asarray(space.scale(jnp.asarray(labels.mean(axis=0), jnp.float32)))
    none = replace(
        anchored.model,
        correction=jnp.zeros_like(anchored.model.correction),
        nuisance=jnp.zeros_like(anchored.model.nuisance),
    )
    away = {}
    for name, model in (("theory", none), ("anchored", anchored.model)):
        found = estimate_labels(model, others, start)
        values = np.asarray(space.unscale(found.scaled))
        away[name] = np.abs(np.median(values - labels[rows], axis=0))[[0, 2]]
    assert (away["theory"] > [100.0, 0.15]).all()
    assert (away["anchored"] < [25.0, 0.05]).all()


def test_labels_of_anchors_become_better_than_the_literature_s(universe, literature, anchored):
    theory, _, labels, _ = universe
    truth, given = labels[:N_ANCHOR], literature[1][:N_ANCHOR]
    found = np.asarray(theory.label_space.unscale(anchored.labels.scaled.astype(np.float32)))
    left, stated = (np.std(values - truth, axis=0)[[0, 2]] for values in (found, given))
    assert (left < 0.6 * stated).all()


def test_the_error_of_pixels_is_what_anchors_leave_beyond_noise(universe, literature):
    theory, domain, _, _ = universe
    rng = np.random.default_rng(3)
    wrong = domain.flux.copy()
    wrong[:, 120:160] += 0.06 * rng.standard_normal((len(wrong), 40)).astype(np.float32)
    noisier = replace(domain, flux=wrong)
    found = train_supervised(
        theory,
        noisier,
        literature[0],
        replace(CONFIG, n_nuisance=0),
        rows=np.arange(N_ANCHOR),
    )
    error = np.asarray(found.model.model_error)
    assert np.median(error[125:155]) == pytest.approx(0.06, rel=0.25)
    assert np.median(error[:100]) < 0.015


def test_literature_and_fits_are_weighed_by_their_errors(universe):
    space = universe[0].label_space
    width = np.subtract(space.upper, space.lower)
    errors = np.diag([50.0**2, np.inf, 0.1**2, np.inf])
    known = state_labels(space, np.array([[3600.0, 5.0, -0.4, 0.1]]), errors[None])
    fitted = np.array([[3700.0, 4.8, 0.0, 0.2]])
    own = np.diag([30.0, 0.1, 0.05, 0.05]) ** 2
    covariance = (own / np.outer(width, width))[None]
    none = np.zeros(1)
    found = Posterior((fitted - space.lower) / width - 0.5, covariance, none, none, none)
    mean = combine_labels(known, found, space, (40.0, 0.12))
    values = ((mean.scaled + 0.5) * width + space.lower)[0]
    # Both say equally much of Teff (50 K; 30 and 40 in quadrature); of [M/H] 0.1 and 0.13.
    expected = [3650.0, 4.8, -0.4 * 0.13**2 / (0.1**2 + 0.13**2), 0.2]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    sigma = np.sqrt(np.diag(np.linalg.inv(mean.precision[0]))) * width
    np.testing.assert_allclose(sigma[:2], [50.0 / np.sqrt(2), 0.1], rtol=1e-6)


def test_what_cannot_be_learned_from_is_refused(universe, literature):
    theory, domain, _, _ = universe
    with pytest.raises(MismatchError, match=r"8 anchors are too few.*at least 10"):
        train_supervised(theory, domain, literature[0], CONFIG, rows=np.arange(8))
    with pytest.raises(MismatchError, match="900 spectra, but labels of 20"):
        train_supervised(theory, domain, literature[0].take(np.arange(20)), CONFIG)
    with pytest.raises(UsageError, match="teff = 9000 K lies outside"):
        state_labels(theory.label_space, np.array([[9e3, 5, 0, 0]]), np.eye(4)[None])
    with pytest.raises(UsageError, match="anchor 0 are no covariance"):
        state_labels(theory.label_space, np.array([[3500.0, 5, 0, 0]]), -np.eye(4)[None])
    with pytest.raises(UsageError, match="must be positive"):
        SupervisedConfig(n_passes=0)


def test_differences_beyond_what_is_expected_become_errors_of_labels(universe):
    space = universe[0].label_space
    rng = np.random.default_rng(1)
    known = np.tile([50.0, 0.1], (400, 1))
    away = rng.standard_normal((400, 2)) * np.hypot(known, [80.0, 0.2])
    covariance = np.broadcast_to(np.diag([30.0, 0.1, 0.05, 0.1]) ** 2, (400, 4, 4))
    found = np.sqrt(np.diag(np.asarray(spread_label_errors(space, covariance, away, known))))
    width = np.subtract(space.upper, space.lower)
    np.testing.assert_allclose((found * width)[[0, 2]], [80.0, 0.2], rtol=0.15)
    # Fits that know log g apart from Teff and [M/H] tell nothing of how it would move.
    assert found[1] == found[3] == 0


def test_scatter_beyond_noise_is_that_which_was_put_in_where_enough_anchors_looked():
    rng = np.random.default_rng(6)
    n, n_pix, n_term = 60, 400, 4
    noise, scatter = 0.02, np.where(np.arange(n_pix) < 200, 0.03, 0.0)
    drawn = rng.normal(size=(n, n_pix)) * np.hypot(noise, scatter)
    # As a regression with so many terms leaves them.
    residual = drawn * np.sqrt(1 - n_term / n)
    ivar = np.full((n, n_pix), noise**-2)
    found = supervised._measure_scatter(residual, ivar, n_term)
    assert np.median(found[10:190]) == pytest.approx(0.03, rel=0.06)
    assert np.median(found[210:390]) < 0.01
    for n_good, seen in ((n_term + 2, True), (n_term + 1, False)):
        few = ivar.copy()
        few[n_good:, 50:80] = 0
        some = supervised._measure_scatter(5 * residual, few, n_term)
        assert (some[50:80] > 0).mean() > 0.8 if seen else (some[50:80] == 0).all()
        assert (some[:45] > 0).all()


def test_known_labels_may_go_together_and_others_are_left_out(universe):
    space = universe[0].label_space
    width = np.subtract(space.upper, space.lower)
    errors = np.diag([np.inf, 0.1**2, 0.2**2, 0.05**2])
    errors[1, 2] = errors[2, 1] = 0.6 * 0.1 * 0.2
    values = np.array([[3700.0, 5.2, -0.3, 0.1]])
    known = state_labels(space, values, errors[None])
    middle = 0.5 * np.add(space.upper, space.lower)
    np.testing.assert_allclose(known.scaled, (values - middle) / width)
    assert not known.precision[0, 0].any()
    assert not known.precision[0, :, 0].any()
    # Of two correlated numbers; see any table of the normal distribution of two.
    inner = known.precision[0] / width / width[:, None]
    share = 1 - 0.6**2
    expected = [1 / 0.1**2 / share, 1 / 0.2**2 / share, -0.6 / (0.1 * 0.2) / share, 0.05**-2]
    np.testing.assert_allclose(
        [inner[1, 1], inner[2, 2], inner[1, 2], inner[3, 3]], expected, rtol=1e-9
    )
    taken = known.take(np.array([0, 0]))
    assert taken.scaled.shape == (2, 4)
    assert taken.precision.shape == (2, 4, 4)


def test_what_directions_explain_is_the_mean_of_a_gaussian_given_the_residuals():
    """Of correlated pixels: D' D (D' D + noise)^-1 r, the dense matrix."""
    rng = np.random.default_rng(4)
    directions, residual = rng.normal(size=(2, 12)), rng.normal(size=(3, 12))
    weight = rng.uniform(0.5, 2.0, (3, 12))
    found = supervised._project(residual, weight, directions)
    shared = directions.T @ directions
    for star in range(3):
        total = shared + np.diag(1 / weight[star])
        np.testing.assert_allclose(
            found[star], shared @ np.linalg.solve(total, residual[star]), atol=1e-10
        )


def test_theory_starts_with_features_about_the_anchors(universe):
    theory = universe[0]
    values = np.array([[3400.0, 5.0, -0.6, 0.1], [3600.0, 5.0, 0.0, 0.1], [3800.0, 5.0, 0.0, 0.1]])
    known = state_labels(theory.label_space, values, np.tile(np.eye(4), (3, 1, 1)))
    config = SupervisedConfig(order=2, n_nuisance=3)
    model = supervised._start_model(theory, known, config, ())
    assert model.features.centre == pytest.approx((3600.0, -0.2))
    assert model.features.scale == pytest.approx((np.sqrt(8 / 3) * 100, np.sqrt(0.08)))
    assert model.correction.shape == (6, theory.grid.n_pix)
    assert model.nuisance.shape == (3, theory.grid.n_pix)
    assert not np.any(model.correction)
    assert not np.any(model.nuisance)


@pytest.mark.parametrize(
    ("order", "n_nuisance", "least"), [(0, 0, 3), (1, 0, 9), (2, 0, 18), (0, 1, 5), (1, 4, 20)]
)
def test_anchors_are_three_a_term_and_five_a_direction(
    universe, literature, order, n_nuisance, least
):
    theory, domain, _, _ = universe
    config = SupervisedConfig(order=order, n_nuisance=n_nuisance)
    args = theory, domain, literature[0], config
    supervised._require_anchors(*args, np.arange(least))
    with pytest.raises(MismatchError, match=f"give at least {least}, "):
        supervised._require_anchors(*args, np.arange(least - 1))


def test_scatter_is_smoothed_over_five_pixels_that_were_seen():
    """Residuals of one size in one pixel, of none beside it: a fifth of its variance each."""
    ivar = np.full((30, 40), 1e12)
    residual = np.zeros((30, 40))
    residual[:, 20] = 0.1
    found = supervised._measure_scatter(residual, ivar, 3)
    expected = 1.4826 * 0.1 * np.sqrt(30 / 27 / 5)
    np.testing.assert_allclose(found[18:23], expected, rtol=1e-6)
    assert not found[:18].any()
    assert not found[23:].any()
    ivar[:, 21:23] = 0
    found = supervised._measure_scatter(residual, ivar, 3)
    np.testing.assert_allclose(found[18:21], expected * np.sqrt([5 / 5, 5 / 4, 5 / 3]), rtol=1e-6)
    assert not found[21:23].any()


def test_settings_of_anchors_that_make_no_sense_are_refused():
    SupervisedConfig(n_passes=1, n_nuisance=0)
    for bad in ({"n_nuisance": -1}, {"strength": 0.0}, {"outside": 0.0}, {"fit_error": (0.0, 1.0)}):
        with pytest.raises(UsageError, match="must be positive"):
            SupervisedConfig(**bad)
