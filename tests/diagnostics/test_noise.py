"""Mock observations have the noise, the correlation and the gaps of the spectra that lent them."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.diagnostics.noise import (
    match_noise,
    native_width,
    sample_noise,
    simulate_observation,
)
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.continuum import normalise_model
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6500.0, 1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def correlation(noise, lag):
    return float(np.nanmean(noise[:, lag:] * noise[:, :-lag]) / np.nanmean(noise**2))


@pytest.fixture(scope="module")
def surveyed():
    """A flat continuum with a few bands, on native pixels of 69 km/s, through the real pipeline."""
    rng = np.random.default_rng(2)
    wave = np.exp(np.arange(np.log(5950.0), np.log(6560.0), 2.3026e-4))
    model = 1.0 - 0.3 * np.exp(-(((wave - 6250.0) / 40.0) ** 2))
    clean, noisy = [], []
    for _ in range(150):
        ivar = np.full(wave.size, rng.uniform(20.0, 40.0) ** 2)
        ivar[rng.integers(0, wave.size, 5)] = 0.0
        noise = rng.standard_normal(wave.size) / np.sqrt(np.where(ivar > 0, ivar, 1.0))
        clean.append(RawSpectrum(wave, model, ivar))
        noisy.append(RawSpectrum(wave, np.where(ivar > 0, model + noise, 0.0), ivar))
    velocity = rng.uniform(-100, 100, 150)
    return tuple(preprocess_batch(raws, GRID, rv_kms=velocity, masks=()) for raws in (clean, noisy))


def test_noise_has_the_variance_of_the_ivar_whatever_its_correlation(rng):
    width = np.linspace(0.4, 3.0, 200)
    noise = sample_noise((4000, 200), rng, width=width)
    np.testing.assert_allclose(noise.std(axis=0), 1.0, atol=0.06)
    near, far = correlation(noise[:, :30], 1), correlation(noise[:, -30:], 1)
    assert near < 0.3 < 0.6 < far
    assert abs(correlation(noise, 8)) < 0.01


def test_noise_of_a_mock_is_that_of_a_spectrum_that_went_through_the_pipeline(surveyed, rng):
    clean, noisy = surveyed
    base = np.asarray(clean.flux)
    ivar, information = np.asarray(noisy.ivar), np.asarray(noisy.information)
    mock = simulate_observation(base, ivar, rng, information=information, grid=GRID)
    inner = slice(60, -60)
    scale = np.where(ivar > 0, np.sqrt(ivar), np.nan)
    ours, real = (((one - base) * scale)[:, inner] for one in (mock, np.asarray(noisy.flux)))
    assert np.nanstd(ours) == pytest.approx(np.nanstd(real), rel=0.02)
    assert correlation(ours, 1) == pytest.approx(correlation(real, 1), abs=0.03)
    # Dividing by a running mean leaves a negative correlation on its scale.
    assert correlation(ours, 10) == pytest.approx(correlation(real, 10), abs=0.015)
    assert correlation(ours, 10) < -0.02


def test_native_pixels_are_found_from_the_information(surveyed):
    _, noisy = surveyed
    width = native_width(
        np.asarray(noisy.ivar), np.asarray(noisy.information), sigma_pix=np.full(GRID.n_pix, 30.0)
    )
    np.testing.assert_allclose(width, 2.3026e-4 * GRID.wave_aa, rtol=0.06)


def test_independent_pixels_stay_independent(rng):
    ivar = np.full((400, 100), 25.0)
    mock = simulate_observation(np.ones((400, 100)), ivar, rng, information=ivar)
    assert abs(correlation(mock - 1.0, 1)) < 0.02
    assert mock.std() == pytest.approx(0.2, rel=0.02)


def test_a_normalised_model_without_noise_is_not_changed_by_its_own_continuum(rng):
    wave = GRID.wave_aa
    raw = 1.0 - 0.5 * np.exp(-(((wave - 6250.0) / 60.0) ** 2))
    model = np.asarray(normalise_model(jnp.asarray(np.repeat(raw[None], 3, axis=0)), GRID))
    mock = simulate_observation(model, np.full(model.shape, 1e4), rng, grid=GRID, noise_factor=0.0)
    np.testing.assert_allclose(mock, model, atol=2e-6)


def test_bad_pixels_hold_one_and_change_no_other_noise(rng):
    ivar = np.full((2, 50), 100.0)
    ivar[:, 10:20] = 0.0
    model = np.full((2, 50), 0.7)
    model[:, 10:20] = np.nan
    mock = simulate_observation(model, ivar, rng)
    assert (mock[:, 10:20] == 1.0).all()
    assert np.isfinite(mock).all()


def test_seeds_repeat():
    ivar = np.full((3, 40), 9.0)
    first, second, other = (
        simulate_observation(np.ones((3, 40)), ivar, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def make_stars(rng, n=300, n_pix=250, *, inflation=1.3, gap=0.0):
    """Spectra in three directions, stars of all S/N, errors stated too small."""
    directions = np.cumsum(rng.standard_normal((3, n_pix)), axis=1) / 40.0
    stars = 1.0 + 0.3 * rng.standard_normal((n, 3)) @ directions
    sigma = 1.0 / rng.uniform(5, 100, (n, 1))
    ivar = np.repeat(1.0 / sigma**2, n_pix, axis=1)
    ivar[rng.uniform(size=ivar.shape) < 0.03] = 0.0
    structure = gap * rng.standard_normal((n, n_pix))
    return stars + structure + inflation * sigma * rng.standard_normal((n, n_pix)), ivar


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_noise_factor_is_found_and_structure_is_not_taken_for_noise(rng, gap):
    flux, ivar = make_stars(rng, inflation=1.3, gap=gap)
    flux[ivar == 0] = 1e6
    assert match_noise(flux, ivar).factor == pytest.approx(1.3, abs=0.05)


def test_cosmic_rays_are_outliers_and_little_else_is(rng):
    flux, ivar = make_stars(rng, inflation=1.0)
    hit = np.zeros(ivar.shape, bool)
    hit[np.arange(300), rng.integers(0, 250, 300)] = True
    hit &= ivar > 0
    found = match_noise(flux + 20 * hit / np.sqrt(np.where(ivar > 0, ivar, np.inf)), ivar)
    assert found.outlier[hit].mean() > 0.95
    assert found.outlier.sum() < 4 * hit.sum()
    assert not found.outlier[ivar == 0].any()


def test_what_cannot_be_done_is_said(rng):
    with pytest.raises((MismatchError, TypeCheckError)):
        simulate_observation(np.ones((2, 5)), np.ones((3, 5)), rng)
    with pytest.raises(UsageError, match="components"):
        match_noise(np.ones((50, 20)), np.ones((50, 20)))
    with pytest.raises(UsageError, match="no pixel"):
        match_noise(np.ones((200, 20)), np.zeros((200, 20)))
