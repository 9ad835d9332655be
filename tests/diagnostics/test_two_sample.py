"""Two-sample tests: sets of one distribution score one half, others do not."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.diagnostics.noise import simulate_observation
from jaxmdwarf.diagnostics.two_sample import (
    ClassifierConfig,
    classifier_accuracy,
    classifier_two_sample_test,
    latent_scores,
)
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6239.0, 1.0)


KINDS = ("linear", "mlp", "boosted")


@pytest.fixture
def rng():
    return np.random.default_rng(4)


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
    score = classifier_accuracy(models, observed, config=ClassifierConfig(kind))
    assert score.accuracy == pytest.approx(0.5, abs=4 * score.e_accuracy)
    assert score.e_accuracy < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_errors_that_are_stated_too_small_are_no_cue(rng, kind):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng, inflation=2.0)
    config = ClassifierConfig(kind)
    matched = classifier_accuracy(models, observed, config=config)
    assert matched.noise_factor == pytest.approx(2.0, rel=0.05)
    assert matched.accuracy == pytest.approx(0.5, abs=4 * matched.e_accuracy)


def test_stated_errors_are_a_cue_for_a_classifier_that_sees_scatter(rng):
    models, observed = stars(rng, 240), observe(stars(rng, 240), rng, inflation=2.0)
    score = classifier_accuracy(
        models, observed, match_noise=False, config=ClassifierConfig("boosted")
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
        classifier_accuracy(models, observed, config=ClassifierConfig(seed=seed))
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(scores[0].correct, scores[1].correct)
    assert (scores[0].correct != scores[2].correct).any()


def test_sets_of_different_sizes_are_balanced(rng):
    first, second = rng.standard_normal((900, 6)), rng.standard_normal((120, 6))
    score = classifier_two_sample_test(first, second)
    assert len(score.correct) == 120
    assert score.accuracy == pytest.approx(0.5, abs=4 * score.e_accuracy)


def test_only_the_rows_asked_for_take_part(rng):
    first, second = rng.standard_normal((2, 500, 6))
    score = classifier_two_sample_test(first, second + 3.0, config=ClassifierConfig(max_pairs=100))
    assert len(score.rows) == 100
    assert np.unique(score.rows).size == 100


def test_too_few_spectra_and_odd_shapes_are_refused(rng):
    few = rng.standard_normal((12, 5))
    with pytest.raises(UsageError, match="too few"):
        classifier_two_sample_test(few, few)
    with pytest.raises((MismatchError, TypeCheckError)):
        classifier_two_sample_test(few, rng.standard_normal((12, 4)))
    with pytest.raises((UsageError, TypeCheckError)):
        ClassifierConfig("quantum")
    with pytest.raises(UsageError, match="cannot work"):
        ClassifierConfig(n_fold=1)


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
