"""Metrics of the gap between two domains: what is known by construction comes out."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.diagnostics.gap import (
    ClassifierConfig,
    classifier_accuracy,
    compare_variants,
    gap_closed,
    latent_scores,
    residual_in_sigma,
    separate,
    summarise_error,
    summarise_residual,
    tsne_pairs,
)
from jaxmdwarf.diagnostics.observation import simulate_observation
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6239.0, 1.0)
KINDS = ("linear", "mlp", "boosted")


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_the_share_that_is_closed():
    assert gap_closed(2.0, 2.0, 1.0) == 0.0
    assert gap_closed(2.0, 1.0, 1.0) == 1.0
    assert gap_closed(2.0, 1.68, 1.6) == pytest.approx(0.8)
    assert gap_closed(2.0, 2.5, 1.0) == pytest.approx(-0.5)
    # No distance to close: a ratio would be noise.
    assert np.isnan(gap_closed(1.0, 0.9, 1.0))
    assert np.isnan(gap_closed(1.0, 0.9, 1.2))


def test_gaussian_noise_leaves_0_8_sigma_and_overstated_ivar_more(rng):
    ivar = np.full((200, 500), 400.0)
    noise = rng.standard_normal((200, 500)) / 20.0
    summary = summarise_residual(1.0 + noise, np.ones((200, 500)), ivar)
    assert summary.mean == pytest.approx(np.sqrt(2 / np.pi), rel=0.01)
    overstated = summarise_residual(1.0 + noise, np.ones((200, 500)), 1.3 * ivar)
    assert overstated.mean == pytest.approx(np.sqrt(1.3) * summary.mean)
    assert summary.per_star.shape == (200,)
    assert summary.per_pixel.shape == (500,)
    assert summary.per_pixel.mean() == pytest.approx(summary.mean)


@pytest.mark.parametrize("value", [0.0, 1e9, np.nan])
def test_masked_pixels_never_enter_a_residual(rng, value):
    flux, ivar = 1.0 + 0.1 * rng.standard_normal((5, 40)), np.full((5, 40), 100.0)
    ivar[:, 7:9] = ivar[4] = 0.0
    before = summarise_residual(flux, np.ones((5, 40)), ivar)
    flux[ivar == 0] = value
    after = summarise_residual(flux, np.ones((5, 40)), ivar)
    np.testing.assert_array_equal(before.per_star, after.per_star)
    np.testing.assert_array_equal(before.per_pixel, after.per_pixel)
    assert np.isnan(after.per_star[4])
    assert np.isnan(after.per_pixel[7:9]).all()
    assert np.isfinite(after.mean)
    np.testing.assert_array_equal(residual_in_sigma(flux, np.ones((5, 40)), ivar), after.per_star)


def test_one_cosmic_ray_rules_a_pixel_unless_it_is_clipped(rng):
    ivar, model = np.full((300, 40), 100.0), np.ones((300, 40))
    flux = model + 0.1 * rng.standard_normal((300, 40))
    flux[5, 20] += 200.0
    assert summarise_residual(flux, model, ivar).per_pixel[20] > 5
    clipped = summarise_residual(flux, model, ivar, clip=10.0)
    assert clipped.per_pixel[20] == pytest.approx(0.8, abs=0.2)
    assert clipped.per_star[5] < 1.5


def test_error_against_noise_free_truth_knows_no_noise(rng):
    truth = 1.0 + 0.1 * rng.standard_normal((3, 30))
    good = rng.uniform(size=truth.shape) < 0.9
    summary = summarise_error(truth, np.where(good, truth - 0.02, 50.0), good)
    np.testing.assert_allclose(summary.per_star, 0.02)


def stars(rng, n=300):
    """Noise-free spectra of two labels."""
    wave = GRID.wave_aa
    bands = np.stack([np.exp(-(((wave - 6060) / 25) ** 2)), np.exp(-(((wave - 6150) / 9) ** 2))])
    return (1.0 - rng.uniform(0.1, 0.5, (n, 2)) @ bands).astype(np.float32)


def observe(flux, rng, *, inflation=1.0):
    """Stars of all S/N with random bad pixels; errors are stated too small by `inflation`."""
    ivar = np.repeat(rng.uniform(8, 80, (len(flux), 1)) ** 2, flux.shape[1], axis=1)
    ivar[rng.uniform(size=ivar.shape) < 0.02] = 0.0
    ivar = ivar.astype(np.float32)
    noisy = simulate_observation(flux, ivar, rng, grid=GRID, noise_factor=inflation)
    return SpectrumBatch(jnp.asarray(noisy), jnp.asarray(ivar), jnp.asarray(ivar), GRID)


@pytest.mark.parametrize("kind", KINDS)
def test_spectra_of_one_distribution_cannot_be_told_apart(rng, kind):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng)
    score = classifier_accuracy(models, observed, settings=ClassifierConfig(kind))
    assert score.accuracy == pytest.approx(0.5, abs=4 * score.e_accuracy)
    assert score.e_accuracy < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_errors_that_are_stated_too_small_are_no_cue(rng, kind):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng, inflation=2.0)
    settings = ClassifierConfig(kind)
    matched = classifier_accuracy(models, observed, settings=settings)
    assert matched.noise_factor == pytest.approx(2.0, rel=0.05)
    assert matched.accuracy == pytest.approx(0.5, abs=4 * matched.e_accuracy)


def test_believed_errors_are_a_cue_for_a_classifier_that_sees_scatter(rng):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng, inflation=2.0)
    score = classifier_accuracy(
        models, observed, match_noise=False, settings=ClassifierConfig("boosted")
    )
    assert score.noise_factor == 1.0
    assert score.accuracy > 0.6


def test_spectra_with_another_band_are_told_apart_the_better_the_brighter(rng):
    models, observed = stars(rng), observe(stars(rng), rng)
    band = 0.03 * np.exp(-(((GRID.wave_aa - 6200) / 8) ** 2)).astype(np.float32)
    score = classifier_accuracy(models + band, observed)
    assert score.accuracy > 0.8
    snr = np.sqrt(np.median(observed.ivar, axis=1))
    assert score.select(snr > 45)[0] > 0.93
    assert score.select(snr > 45)[0] > score.select(snr < 20)[0]


def test_neither_the_places_nor_the_values_of_bad_pixels_tell_anything(rng):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng)
    ivar = np.array(observed.ivar)
    ivar[:, 100:110] = 0.0
    bad = ivar == 0
    scores = []
    for value in (1.0, 1e4, np.nan):
        flux = np.where(bad, np.float32(value), observed.flux)
        batch = SpectrumBatch(jnp.asarray(flux), jnp.asarray(ivar), jnp.asarray(ivar), GRID)
        models[:, 100:110] = value
        scores.append(classifier_accuracy(models, batch))
    assert scores[0].accuracy == pytest.approx(0.5, abs=4 * scores[0].e_accuracy)
    for other in scores[1:]:
        np.testing.assert_array_equal(scores[0].correct, other.correct)


def test_the_same_seed_gives_the_same_score_and_another_one_another(rng):
    models, observed = stars(rng, 150), observe(stars(rng, 150), rng)
    scores = [
        classifier_accuracy(models, observed, settings=ClassifierConfig(seed=seed))
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(scores[0].correct, scores[1].correct)
    assert (scores[0].correct != scores[2].correct).any()


def test_sets_of_different_sizes_are_balanced(rng):
    first, second = rng.standard_normal((900, 6)), rng.standard_normal((120, 6))
    score = separate(first, second)
    assert len(score.correct) == 120
    assert score.accuracy == pytest.approx(0.5, abs=4 * score.e_accuracy)


def test_only_the_rows_asked_for_take_part(rng):
    first, second = rng.standard_normal((2, 500, 6))
    score = separate(first, second + 3.0, settings=ClassifierConfig(max_pairs=100))
    assert len(score.rows) == 100
    assert np.unique(score.rows).size == 100


def test_too_few_spectra_and_odd_shapes_are_refused(rng):
    few = rng.standard_normal((12, 5))
    with pytest.raises(UsageError, match="too few"):
        separate(few, few)
    with pytest.raises((MismatchError, TypeCheckError)):
        separate(few, rng.standard_normal((12, 4)))
    with pytest.raises((MismatchError, TypeCheckError)):
        residual_in_sigma(np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3)))
    with pytest.raises((UsageError, TypeCheckError)):
        ClassifierConfig("quantum")
    with pytest.raises(UsageError, match="cannot work"):
        ClassifierConfig(n_fold=1)
    with pytest.raises(UsageError, match="map"):
        tsne_pairs(few[:2], few[:2])


def test_latents_of_one_distribution_are_shared_and_shifted_ones_are_not(rng):
    first, second = rng.standard_normal((2, 500, 7, 3))
    shared = latent_scores(first, second)
    assert shared.accuracy == pytest.approx(0.5, abs=4 * shared.e_accuracy)
    assert abs(shared.distance) < 0.01
    apart = latent_scores(first, second + 2.0)
    assert apart.accuracy > 0.99
    assert apart.distance > 0.3
    collapsed = latent_scores(first, 1e-3 * second)
    assert collapsed.distance > 0.1


def test_maps_mix_what_is_alike_and_part_what_is_not(rng):
    first, second = rng.standard_normal((2, 150, 12))
    alike = tsne_pairs(first, second, n=60)
    assert alike.first.shape == alike.second.shape == (60, 2)
    assert alike.mixing == pytest.approx(0.5, abs=0.07)
    apart = tsne_pairs(first, second + 10.0, n=60)
    assert apart.mixing == 0.0
    gap = np.linalg.norm(apart.first.mean(axis=0) - apart.second.mean(axis=0))
    assert gap > apart.first.std()
    again = tsne_pairs(first, second, n=60)
    assert again.mixing == alike.mixing
    np.testing.assert_array_equal(alike.first, again.first)


def test_variants_are_compared_on_the_same_stars(rng):
    truth = {"teff": rng.uniform(3000, 4000, 200), "mh": rng.normal(0, 0.2, 200)}
    none = {"teff": truth["teff"] + 100, "mh": truth["mh"] - 0.1}
    oracle = {"teff": truth["teff"] + 5 * rng.standard_normal(200), "mh": truth["mh"] + 0.01}
    oracle["teff"][:50] = np.nan
    snr = np.repeat([8.0, 80.0], 100)
    table = compare_variants({"none": none, "oracle": oracle}, truth, snr=snr)
    assert table["none"]["teff"].recovery.n == table["oracle"]["teff"].recovery.n == 150
    assert table["none"]["mh"].recovery.n == 200
    assert table["none"]["teff"].recovery.bias == pytest.approx(100.0)
    assert abs(table["oracle"]["teff"].recovery.bias) < 2
    assert [row.recovery.n for row in table["none"]["teff"].by_snr] == [50, 100]
    bright = compare_variants({"none": none}, truth, chosen=snr > 50)
    assert bright["none"]["teff"].recovery.n == 100
