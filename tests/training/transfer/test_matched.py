"""A matched correction finds what theory lacks without seeing a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.transfer import matched
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.matched import (
    MatchedConfig,
    ReferenceSample,
    StarSample,
    estimate_labels,
    train_matched,
)
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()
QUICK = MatchedConfig(strengths=(0.2,), n_passes=3, n_nuisance=2, order=1, min_snr=5.0)


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


def sample_labels(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    teff, mh = rng.normal(3600.0, 200.0, n), rng.normal(-0.1, 0.2, n)
    logg = 5.1 - 0.5 * (teff - 3400.0) / 1000.0 - 0.05 * mh + rng.normal(0, 0.02, n)
    alpha = np.clip(-0.3 * mh, 0, 0.4) + rng.normal(0, 0.02, n)
    return np.clip(np.stack([teff, logg, mh, alpha], axis=1), SPACE.lower, SPACE.upper)


@pytest.fixture(scope="module")
def universe():
    """Theory, and a nature that has one more pattern, here constant, there with temperature."""
    theory, n = make_theory(), 900
    labels = sample_labels(n, 0)
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
    from jaxmdwarf.inference.schedule import FitSettings, fit_stars

    settings = FitSettings(fit_velocity=False, priors=model.priors())
    return fit_stars(model, domain.batch(), settings=settings).labels


def train_again(universe):
    theory, domain, _, _ = universe
    reference = ReferenceSample(sample_labels(800, 5)[:, [0, 2]])
    return train_matched(theory, domain, sample_labels(5000, 6), QUICK, reference=reference)


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
    trained = train_matched(theory, domain, sample_labels(5000, 6), QUICK, reference=sample)
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
    quick = MatchedConfig(strengths=(0.2,), n_passes=1, n_nuisance=0, min_snr=5.0)
    flux = domain.flux.copy()
    flux[:, 40:50] = 77.0
    other = ObservedDomain(
        flux, domain.ivar, domain.information, GRID, domain.frame_kms, domain.snr
    )
    one, two = (
        train_matched(theory, d, sample_labels(2000, 6), quick).model for d in (domain, other)
    )
    np.testing.assert_array_equal(one.correction, two.correction)


def correct_nothing(theory, **traits) -> CorrectedModel:
    return CorrectedModel(
        theory,
        jnp.zeros((1, GRID.n_pix)),
        jnp.zeros((0, GRID.n_pix)),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 0),
        **traits,
    )


@pytest.mark.parametrize("true_scale", [1.0, 1.4])
def test_evidence_tells_by_how_much_stated_errors_fall_short(true_scale):
    theory, n = make_theory(), 200
    rng = np.random.default_rng(4)
    labels = sample_labels(n, 3)
    flux = np.asarray(theory.predict_scaled_batch(SPACE.scale(jnp.asarray(labels, jnp.float32))))
    snr = rng.uniform(20.0, 60.0, n)
    stated = np.broadcast_to(1 / snr[:, None], flux.shape)
    noisy = flux + true_scale * stated * rng.standard_normal(flux.shape)
    ivar = (stated**-2).astype(np.float32)
    ivar[:, 90:100] = 0.0
    domain = ObservedDomain(noisy.astype(np.float32), ivar, ivar, GRID, np.zeros(n), snr)
    stars = StarSample(domain, theory, np.arange(n))
    evidence = {}
    for wrong in (0.8, 1.0, 1.25):
        model = correct_nothing(theory, noise_scale=jnp.asarray(wrong * true_scale, jnp.float32))
        evidence[wrong] = np.mean(estimate_labels(model, stars, np.zeros(4)).evidence)
    # A scale wrong by a factor f costs each of 190 pixels ln f + (1 / f^2 - 1) / 2: 5.5 and 8.2.
    assert 3.0 < evidence[1.0] - evidence[1.25] < 9.0
    assert 4.0 < evidence[1.0] - evidence[0.8] < 13.0


def test_chosen_stars_keep_their_pixels_and_their_hits(universe, monkeypatch):
    theory, domain, _, _ = universe
    monkeypatch.setattr(matched, "_CHUNK", 100)
    rows = np.arange(5, 255)
    stars = StarSample(domain, theory, rows)
    unhit = stars.pixels(slice(0, 100), 1.0)[1]
    hits = [(3, 20), (120, 60), (249, 199)]
    residual = np.zeros((rows.size, GRID.n_pix), np.float32)
    for star, pixel in hits:
        residual[star, pixel] = 0.9
    stars.drop_hits(lambda chunk: residual[chunk], 1.0)
    every = [
        np.concatenate(parts)
        for parts in zip(*(stars.pixels(chunk, 1.3) for chunk in stars.chunks()), strict=True)
    ]
    assert all(every[1][star, pixel] == every[2][star, pixel] == 0 for star, pixel in hits)
    before = unhit > 0
    before[3, 20] = False
    np.testing.assert_array_equal(every[1][:100] > 0, before)
    chosen = np.array([249, 120, 7, 3])
    some = stars.take(chosen)
    assert some.n_star == 4
    np.testing.assert_array_equal(some.snr, domain.snr[rows[chosen]])
    for taken, whole in zip(some.pixels(slice(0, 4), 1.3), every, strict=True):
        np.testing.assert_array_equal(taken, whole[chosen])
    # Nor does taking some change the others.
    np.testing.assert_array_equal(stars.pixels(slice(200, 250), 1.3)[1], every[1][200:])


def test_a_strength_gives_the_same_whatever_else_is_tried(universe):
    theory, domain, _, _ = universe
    flux = domain.flux.copy()
    rng = np.random.default_rng(8)
    # Cosmic rays, many of them close to where a pixel is one: which pixels are hits must not depend
    # on what was tried.
    places = rng.integers(0, len(flux), 600), rng.integers(0, 200, 600)
    flux[places] += rng.uniform(0.1, 0.25, 600)
    hit = ObservedDomain(flux, domain.ivar, domain.information, GRID, domain.frame_kms, domain.snr)
    alone, last = (
        train_matched(
            theory,
            hit,
            sample_labels(2000, 6),
            MatchedConfig(strengths=strengths, n_passes=1, n_nuisance=1, order=1, min_snr=5.0),
        ).report
        for strengths in ((0.2,), (0.6, 0.2))
    )
    assert last["evidence"]["0.2"] == alone["evidence"]["0.2"]
    assert last["evidence"]["0.2"] != last["evidence"]["0.6"]


def test_too_few_stars_other_grids_and_poor_references_are_refused(universe):
    theory, domain, _, _ = universe
    few = domain.take(np.arange(60))
    with pytest.raises(MismatchError, match="too few"):
        train_matched(theory, few, sample_labels(1000, 0), QUICK)
    with pytest.raises(MismatchError, match="S/N 500 or more"):
        train_matched(theory, domain, sample_labels(1000, 0), MatchedConfig(min_snr=500.0))
    sample = ReferenceSample(np.full((3, 2), 3500.0))
    with pytest.raises(MismatchError, match="at least 20"):
        train_matched(theory, domain, sample_labels(1000, 0), QUICK, reference=sample)
    with pytest.raises(UsageError, match="positive"):
        MatchedConfig(strengths=(0.0,))


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
