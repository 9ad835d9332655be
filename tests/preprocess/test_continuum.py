"""The pseudo-continuum is eq. 2-3 of the paper over good pixels only, with safe gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.continuum import (
    normalise,
    normalise_model,
    pseudo_continuum,
    transpose_noise,
)
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid

LOG_GRID = PixelGrid.logarithmic(6000.0, 6900.0, 2.3e-4)
RNG = np.random.default_rng(0)


def batch_of(flux, ivar, grid=PAPER_GRID):
    return SpectrumBatch(*jax.device_put((flux, ivar, 0.7 * ivar)), grid)


@pytest.mark.parametrize(
    "grid", [PixelGrid.linear(6000.0, 6900.0, 1.0), LOG_GRID], ids=["linear", "log"]
)
@pytest.mark.parametrize("sigma_aa", [8.0, 30.0])
def test_it_is_the_literal_sum_of_the_paper(grid, sigma_aa):
    wave = grid.wave_aa
    flux = RNG.uniform(1.0, 9.0, (2, grid.n_pix))
    good = RNG.random((2, grid.n_pix)) > 0.1
    weight = np.exp(-(((wave[:, None] - wave) / sigma_aa) ** 2)) * grid.widths_aa[:, None]
    expected = (flux * good) @ weight / (good @ weight)
    ours = pseudo_continuum(*jax.device_put((flux, good)), grid, sigma_aa=sigma_aa)
    np.testing.assert_allclose(ours, expected, rtol=5e-6)


def test_masked_pixels_do_not_enter_even_as_nan():
    flux = RNG.uniform(1.0, 2.0, (1, PAPER_GRID.n_pix))
    ivar = np.full(flux.shape, 50.0)
    ivar[0, 100:140] = 0.0
    poisoned = flux.copy()
    poisoned[0, 100:140] = np.nan
    clean, dirty = normalise(batch_of(flux, ivar)), normalise(batch_of(poisoned, ivar))
    np.testing.assert_array_equal(clean.flux, dirty.flux)
    assert not np.asarray(dirty.ivar)[0, 100:140].any()
    np.testing.assert_array_equal(np.asarray(dirty.flux)[0, 100:140], 1.0)

    @jax.jit
    @jax.grad
    def differentiate(values, ivar, information):
        out = normalise(SpectrumBatch(values, ivar, information, PAPER_GRID))
        return (out.flux**2).sum() + out.ivar.sum()

    gradient = np.asarray(differentiate(*map(np.float32, (poisoned, ivar, dirty.ivar))))
    assert np.isfinite(gradient).all()
    assert not gradient[0, 100:140].any()


def test_gradient_agrees_with_finite_differences():
    flux = np.float32(RNG.uniform(1.0, 2.0, (1, 401)))
    grid = PixelGrid.linear(6000.0, 6400.0, 1.0)
    direction, weight = np.float32(RNG.normal(size=(2, 1, 401)))

    @jax.jit
    def value(x):
        return (weight * normalise_model(x, grid)).sum()

    analytic = jax.jit(lambda *at: jax.jvp(value, at[:1], at[1:])[1])(flux, direction)
    step = np.float32(1e-2)
    numeric = (value(flux + step * direction) - value(flux - step * direction)) / (2 * step)
    assert float(analytic) == pytest.approx(float(numeric), rel=1e-3)


def test_scale_does_not_matter_and_signal_to_noise_is_kept():
    flux = RNG.uniform(1.0, 2.0, (1, PAPER_GRID.n_pix))
    ivar = RNG.uniform(10.0, 90.0, flux.shape)
    one = normalise(batch_of(flux, ivar))
    # Fluxes from 1e-15 (erg/s/cm2/A) to 1e+14 (at the stellar surface) stay within float32.
    for scale in (1e-15, 1e3, 1e14):
        other = normalise(batch_of(flux * scale, ivar / scale**2))
        np.testing.assert_allclose(other.flux, one.flux, rtol=1e-5)
        np.testing.assert_allclose(other.ivar, one.ivar, rtol=2e-5)
    kept = np.asarray(one.flux) * np.sqrt(one.information) / (flux * np.sqrt(0.7 * ivar))
    np.testing.assert_allclose(kept, 1.0, rtol=1e-5)


def smooth_noise(n_spec, width):
    """Unit-variance noise of boxcar-correlated pixels, and the row sum of its covariance."""
    white = np.random.default_rng(8).normal(size=(n_spec, PAPER_GRID.n_pix + width - 1))
    total = np.cumsum(np.pad(white, ((0, 0), (1, 0))), axis=1)
    return (total[:, width:] - total[:, :-width]) / np.sqrt(width), float(width)


@pytest.mark.parametrize("width", [1, 2])
def test_stated_errors_know_the_noise_that_the_mean_follows(width):
    noise, row_sum = smooth_noise(400, width)
    ivar = np.full(noise.shape, 0.02**-2)
    batch = jax.device_put((1.0 + 0.02 * noise, ivar, ivar / row_sum))
    after = normalise(SpectrumBatch(*batch, PAPER_GRID))
    scatter = float(np.mean((np.asarray(after.flux) - 1.0) ** 2 * np.asarray(after.ivar)))
    # Without the correction: 0.976 for independent pixels, 0.952 for pairs.
    assert scatter == pytest.approx(1.0, abs=0.004)


@pytest.fixture(scope="module")
def normalised_noise():
    noise, _ = smooth_noise(2000, 1)
    ivar = np.full(noise.shape, 0.02**-2)
    batch = jax.device_put((1.0 + 0.02 * noise, ivar, ivar))
    return np.asarray(normalise(SpectrumBatch(*batch, PAPER_GRID)).flux) - 1.0


@pytest.mark.parametrize("width", [6.0, 25.0])
def test_transposed_noise_predicts_the_scatter_of_a_weighted_sum(normalised_noise, width):
    """A broad feature is measured better than its pixels' errors say; the transpose knows."""
    feature = np.float32(np.exp(-0.5 * ((PAPER_GRID.wave_aa - 7500.0) / width) ** 2))[None]
    measured = np.std(normalised_noise @ feature[0])
    ones = np.ones_like(feature)
    before = transpose_noise(*jax.device_put((feature, ones, ones > 0)), PAPER_GRID)
    predicted = 0.02 * np.sqrt(np.sum(np.asarray(before) ** 2))
    assert measured == pytest.approx(predicted, rel=0.05)
    assert predicted < 0.02 * np.sqrt(np.sum(feature**2)) * (0.95 if width < 10 else 0.7)


def test_window_leaves_the_mean_but_keeps_its_flux():
    window = mask_for(PAPER_GRID, PAPER_MASKS_AA)
    flux = np.ones((1, PAPER_GRID.n_pix))
    emission = (PAPER_GRID.wave_aa > 6560) & (PAPER_GRID.wave_aa < 6570)
    flux[0, emission] = 8.0
    of_model, window_there = jax.device_put((flux, window))
    out = normalise(batch_of(flux, np.ones_like(flux)), window=window_there)
    seen = np.asarray(out.flux)
    np.testing.assert_allclose(seen[0, ~emission], 1.0, atol=1e-6)
    np.testing.assert_allclose(seen[0, emission], 8.0, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(out.ivar)[0] == 0, window)
    model = normalise_model(of_model, PAPER_GRID, window=window_there)
    np.testing.assert_allclose(model, seen, rtol=1e-6)


def test_no_continuum_no_pixel():
    flux = RNG.normal(1.0, 0.1, (3, PAPER_GRID.n_pix))
    flux[1] *= -1.0
    ivar = np.ones_like(flux)
    ivar[2] = 0.0
    out = normalise(batch_of(flux, ivar))
    kept = np.asarray(out.ivar)
    assert (kept[0] > 0).all()
    assert not kept[1:].any()
    np.testing.assert_array_equal(np.asarray(out.flux)[1:], 1.0)


def test_bad_calls_say_why():
    with pytest.raises(MismatchError, match="pixels"):
        pseudo_continuum(jnp.ones((1, 5)), jnp.ones((1, 5), bool), PAPER_GRID)
    with pytest.raises(UsageError, match="positive"):
        pseudo_continuum(jnp.ones((1, 2901)), jnp.ones((1, 2901), bool), PAPER_GRID, sigma_aa=0.0)
    with pytest.raises(UsageError, match="ends before"):
        mask_for(PAPER_GRID, [(7000.0, 6900.0)])


def test_the_papers_masks():
    masked = mask_for(PAPER_GRID, PAPER_MASKS_AA)
    assert int(masked.sum()) == 61 + 41 + 26 + 36 + 201 + 101 + 141
    assert masked[(PAPER_GRID.wave_aa == 7150.0) | (PAPER_GRID.wave_aa == 8240.0)].all()
