"""A matched correction finds what theory lacks without seeing a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.emulator import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.domains import ObservedDomain
from jaxmdwarf.training.matched import MatchedTraining, ReferenceSample, train_matched
from jaxmdwarf.training.nuisance import learn_directions
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()
QUICK = MatchedTraining(strengths=(0.2,), n_passes=3, n_nuisance=2, order=1, min_snr=5.0)


def make_theory() -> PayneEmulator:
    """A smooth model: four broad patterns whose strengths are nearly linear in the labels."""
    wave = np.arange(GRID.n_pix)
    rng = np.random.default_rng(1)
    basis = 0.25 * np.stack(
        [np.sin(wave / rng.uniform(3, 30) + rng.uniform(0, 6)) for _ in range(6)]
    )
    network = PayneNetwork(hidden=(8,), n_out=6)
    return PayneEmulator(
        init_payne(network, jax.random.key(3), 4),
        jnp.asarray(basis, jnp.float32),
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        SPACE,
        GRID,
    )


def draw_labels(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    teff, mh = rng.normal(3600.0, 200.0, n), rng.normal(-0.1, 0.2, n)
    logg = 5.1 - 0.5 * (teff - 3400.0) / 1000.0 - 0.05 * mh + rng.normal(0, 0.02, n)
    alpha = np.clip(-0.3 * mh, 0, 0.4) + rng.normal(0, 0.02, n)
    return np.clip(np.stack([teff, logg, mh, alpha], axis=1), SPACE.lower, SPACE.upper)


@pytest.fixture(scope="module")
def universe():
    """Theory, and a nature that has one more pattern, here constant, there with temperature."""
    theory, n = make_theory(), 900
    labels = draw_labels(n, 0)
    rng = np.random.default_rng(2)
    flux = np.asarray(theory.predict_scaled_batch(SPACE.scale(jnp.asarray(labels, jnp.float32))))
    wave = np.arange(GRID.n_pix)
    lacking = 0.05 * np.sin(wave / 7.0) + 0.04 * np.exp(-(((wave - 100) / 40.0) ** 2))
    by_teff = 0.01 * np.cos(wave / 11.0)
    missed = lacking + (labels[:, :1] - 3600.0) / 200.0 * by_teff
    snr = rng.uniform(20.0, 100.0, n)
    sigma = np.broadcast_to(1 / snr[:, None], flux.shape)
    noisy = flux + missed + sigma * rng.standard_normal(flux.shape)
    ivar = (sigma**-2).astype(np.float32)
    ivar[:, 40:50] = 0.0
    domain = ObservedDomain(noisy.astype(np.float32), ivar, ivar, GRID, np.zeros(n), snr)
    return theory, domain, labels, flux + missed


def fit_at_rest(model, domain):
    from jaxmdwarf.inference.fit import FitSettings, fit_stars

    priors = getattr(model, "priors", ())
    settings = FitSettings(fit_velocity=False, priors=priors)
    return fit_stars(model, domain.batch(), settings=settings).labels


def train_again(universe):
    theory, domain, _, _ = universe
    reference = ReferenceSample(draw_labels(800, 5)[:, [0, 2]])
    return train_matched(theory, domain, draw_labels(5000, 6), QUICK, reference=reference)


@pytest.fixture(scope="module")
def trained(universe):
    return train_again(universe)


def test_labels_and_spectra_come_out_right_without_a_label_of_a_star(universe, trained):
    theory, domain, labels, noise_free = universe
    before = fit_at_rest(theory, domain) - labels
    after = fit_at_rest(trained.model, domain) - labels
    # The reference knows its means to 200 / sqrt(800) = 7 K and 0.007 dex.
    assert abs(np.median(before[:, 0])) > 60
    assert abs(np.median(after[:, 0])) < 25
    assert abs(np.median(after[:, 2])) < 0.04
    scaled = SPACE.scale(jnp.asarray(labels, jnp.float32))
    good = domain.ivar[0] > 0
    error_before, error_after = (
        np.sqrt(
            np.mean((np.asarray(model.predict_scaled_batch(scaled)) - noise_free)[:, good] ** 2)
        )
        for model in (theory, trained.model)
    )
    assert error_after < 0.3 * error_before
    assert trained.report["matched_on"] == "all stars"


def test_common_stars_are_matched_where_the_reference_is_a_special_sample(universe):
    theory, domain, labels, _ = universe
    hot = np.flatnonzero(labels[:, 0] > 3600.0)
    sample = ReferenceSample(labels[hot][:, [0, 2]], rows=hot)
    trained = train_matched(theory, domain, draw_labels(5000, 6), QUICK, reference=sample)
    assert trained.report["matched_on"] == "common stars"
    # Priors of the hot half pull the cool half; without them nothing does.
    free = CorrectedModel(
        trained.model.base,
        trained.model.correction,
        trained.model.nuisance,
        trained.model.model_error,
        trained.model.features,
        trained.model.priors[1:],
    )
    after = fit_at_rest(free, domain) - labels
    # Half a Gaussian is no Gaussian: the match is less good. Taken for all stars, it would be off
    # by the distance of the means, 160 K.
    assert abs(np.median(after[hot, 0])) < 60


def test_training_twice_gives_the_same_model_and_it_survives_the_disk(universe, trained, tmp_path):
    first, second = trained.model, train_again(universe).model
    np.testing.assert_array_equal(first.correction, second.correction)
    save_model(first, tmp_path / "model")
    again = load_model(tmp_path / "model")
    scaled = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (5, 4)), jnp.float32)
    np.testing.assert_array_equal(
        again.predict_scaled_batch(scaled), first.predict_scaled_batch(scaled)
    )
    assert again.priors == first.priors
    assert again.noise_scale == first.noise_scale


def test_head_of_a_corrected_model_is_exact(universe):
    theory = universe[0]
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 2)
    rng = np.random.default_rng(0)
    model = CorrectedModel(
        theory,
        jnp.asarray(0.01 * rng.standard_normal((6, GRID.n_pix)), jnp.float32),
        jnp.zeros((0, GRID.n_pix)),
        theory.model_error,
        features,
    )
    scaled = jnp.asarray(rng.uniform(-0.4, 0.4, (7, 4)), jnp.float32)
    head = model.low_rank()
    by_head = head.mean + jax.vmap(model.coefficients)(scaled) @ head.basis
    np.testing.assert_allclose(by_head, model.predict_scaled_batch(scaled), atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(model.predict_scaled)(scaled), model.predict_scaled_batch(scaled), atol=1e-5
    )


def test_masked_pixels_do_not_matter(universe):
    theory, domain, _, _ = universe
    quick = MatchedTraining(strengths=(0.2,), n_passes=1, n_nuisance=0, min_snr=5.0)
    flux = domain.flux.copy()
    flux[:, 40:50] = 77.0
    other = ObservedDomain(
        flux, domain.ivar, domain.information, GRID, domain.frame_kms, domain.snr
    )
    one, two = (
        train_matched(theory, d, draw_labels(2000, 6), quick).model for d in (domain, other)
    )
    np.testing.assert_array_equal(one.correction, two.correction)


def test_too_few_stars_other_grids_and_poor_references_are_refused(universe):
    theory, domain, _, _ = universe
    few = domain.take(np.arange(60))
    with pytest.raises(MismatchError, match="too few"):
        train_matched(theory, few, draw_labels(1000, 0), QUICK)
    with pytest.raises(MismatchError, match="S/N 500 or more"):
        train_matched(theory, domain, draw_labels(1000, 0), MatchedTraining(min_snr=500.0))
    sample = ReferenceSample(np.full((3, 2), 3500.0))
    with pytest.raises(MismatchError, match="at least 20"):
        train_matched(theory, domain, draw_labels(1000, 0), QUICK, reference=sample)
    with pytest.raises(UsageError, match="positive"):
        MatchedTraining(strengths=(0.0,))


def test_directions_are_found_under_noise_and_gaps():
    rng = np.random.default_rng(0)
    true = np.zeros((2, 80))
    true[0, 10:30], true[1, 40:70] = 0.08, 0.04
    data = rng.standard_normal((600, 2)) @ true + 0.05 * rng.standard_normal((600, 80))
    weight = np.full(data.shape, 400.0)
    gaps = rng.random(data.shape) < 0.2
    data[gaps], weight[gaps] = 9.0, 0.0
    found = learn_directions(data, weight, 2)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(true, axis=1), rtol=0.1)
    for row, direction in zip(found, true, strict=True):
        cosine = row @ direction / np.linalg.norm(row) / np.linalg.norm(direction)
        assert abs(cosine) > 0.97
    with pytest.raises(UsageError, match="too few"):
        learn_directions(data[:4], weight[:4], 2)
