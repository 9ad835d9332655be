"""The line-spread function keeps flux, centroid and width, whatever the sampling."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.lsf import FWHM_OF_SIGMA, apply_lsf, lsf_weights
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6900.0, 7100.0, 1.0)
FINE = np.exp(np.arange(np.log(6800.0), np.log(7200.0), 2.7e-5))


def line_at(wave, centre, width):
    """Narrow Gaussian line of unit area."""
    return np.exp(-0.5 * ((wave - centre) / width) ** 2) / (width * np.sqrt(2 * np.pi))


def moments(grid, flux):
    """Area, centroid and standard deviation of a line on pixels."""
    mass = flux * grid.widths_aa
    centre = (mass * grid.wave_aa).sum() / mass.sum()
    return mass.sum(), centre, np.sqrt((mass * (grid.wave_aa - centre) ** 2).sum() / mass.sum())


@pytest.mark.parametrize("centre", [7000.0, 7000.37, 6993.81])
@pytest.mark.parametrize("resolution", [1500.0, 2000.0])
def test_a_line_keeps_area_and_centroid_and_gets_the_width_of_the_resolution(centre, resolution):
    weights = lsf_weights(FINE, GRID, resolution=resolution, dtype=np.float64)
    area, centroid, sigma = moments(GRID, apply_lsf(line_at(FINE, centre, 0.3), weights))
    expected = np.sqrt((centre / resolution / FWHM_OF_SIGMA) ** 2 + 0.3**2 + 1.0 / 12)
    assert area == pytest.approx(1.0, abs=1e-5)
    assert centroid == pytest.approx(centre, abs=2e-3)
    assert sigma == pytest.approx(expected, rel=1e-3)


def test_a_pixel_holds_the_mean_of_the_convolved_flux_over_its_width():
    weights = lsf_weights(FINE, GRID, resolution=1800.0, dtype=np.float64)
    centre = 7000.2
    flux = apply_lsf(line_at(FINE, centre, 0.4), weights)
    sigma = np.hypot(centre / 1800.0 / FWHM_OF_SIGMA, 0.4)
    fine = np.linspace(-0.5, 0.5, 2001)
    expected = line_at(GRID.wave_aa[:, None] + fine, centre, sigma).mean(axis=1)
    np.testing.assert_allclose(flux, expected, atol=1e-5)


@pytest.mark.parametrize("step_aa", [0.02, 0.2, 1.0, 2.0])
def test_width_and_area_do_not_depend_on_the_sampling(step_aa):
    wave = np.arange(6800.0, 7200.0, step_aa)
    weights = lsf_weights(wave, GRID, resolution=1800.0, dtype=np.float64)
    area, centroid, sigma = moments(GRID, apply_lsf(line_at(wave, 7000.2, 2.0), weights))
    expected = np.sqrt((7000.2 / 1800.0 / FWHM_OF_SIGMA) ** 2 + 4.0 + 1.0 / 12)
    assert area == pytest.approx(1.0, abs=1e-3)
    assert centroid == pytest.approx(7000.2, abs=5e-3)
    assert sigma == pytest.approx(expected, rel=5e-3)


def test_resolution_may_vary_over_the_pixels():
    power = np.linspace(1500.0, 2100.0, GRID.n_pix)
    weights = lsf_weights(FINE, GRID, resolution=power, dtype=np.float64)
    for centre in (6950.0, 7050.0):
        area, _, sigma = moments(GRID, apply_lsf(line_at(FINE, centre, 0.3), weights))
        local = np.interp(centre, GRID.wave_aa, power)
        expected = np.sqrt((centre / local / FWHM_OF_SIGMA) ** 2 + 0.3**2 + 1.0 / 12)
        assert sigma == pytest.approx(expected, rel=3e-3)
        assert area == pytest.approx(1.0, abs=1e-3)


def test_native_resolution_is_removed_in_quadrature():
    twice = lsf_weights(FINE, GRID, resolution=1800.0, native_resolution=3000.0, dtype=np.float64)
    native = line_at(FINE, 7000.0, 7000.0 / 3000.0 / FWHM_OF_SIGMA)
    _, _, sigma = moments(GRID, apply_lsf(native, twice))
    assert sigma == pytest.approx(np.hypot(7000 / 1800 / FWHM_OF_SIGMA, np.sqrt(1 / 12)), rel=1e-3)
    with pytest.raises(UsageError, match="native"):
        lsf_weights(FINE, GRID, resolution=3000.0, native_resolution=1800.0)


def test_wings_move_light_outwards_and_keep_the_area():
    line = line_at(FINE, 7000.0, 0.3)
    plain = apply_lsf(line, lsf_weights(FINE, GRID, resolution=1800.0, dtype=np.float64))
    for shape in ({"h4": 0.05}, {"wing_fraction": 0.1, "wing_scale": 3.0}):
        weights = lsf_weights(FINE, GRID, resolution=1800.0, dtype=np.float64, **shape)
        winged = apply_lsf(line, weights)
        far = np.abs(GRID.wave_aa - 7000.0) > 5.0
        assert moments(GRID, winged)[0] == pytest.approx(1.0, abs=1e-4)
        assert winged[far].sum() > 1.2 * plain[far].sum()
        assert moments(GRID, winged)[1] == pytest.approx(7000.0, abs=2e-3)


def test_a_constant_stays_constant_also_at_the_ends_and_on_ragged_sampling():
    rng = np.random.default_rng(3)
    wave = np.sort(rng.uniform(6899.0, 7101.0, 4000))
    weights = lsf_weights(wave, GRID, resolution=1800.0)
    np.testing.assert_allclose(apply_lsf(np.ones((3, wave.size)), weights), 1.0, atol=1e-6)


def test_index_and_weight_describe_the_same_map():
    weights = lsf_weights(FINE, GRID, resolution=1800.0)
    flux = np.random.default_rng(1).normal(size=FINE.size).astype(np.float32)
    gathered = np.einsum("ow,ow->o", flux[weights.index], weights.weight)
    np.testing.assert_allclose(apply_lsf(flux, weights), gathered, atol=1e-5)


def test_numpy_and_jax_agree_and_the_transpose_is_the_gradient():
    weights = lsf_weights(FINE, GRID, resolution=1800.0)
    flux = np.random.default_rng(2).normal(size=(4, FINE.size)).astype(np.float32)
    on_device = jax.jit(apply_lsf)(jnp.asarray(flux), weights)
    np.testing.assert_allclose(on_device, apply_lsf(flux, weights), atol=1e-5)
    gradient = jax.grad(lambda f: apply_lsf(f, weights)[70])(jnp.asarray(flux[0]))
    assert float(gradient.sum()) == pytest.approx(1.0, abs=1e-5)


def test_bad_calls_say_why():
    with pytest.raises(MismatchError, match="cover"):
        lsf_weights(FINE, PixelGrid.linear(6000.0, 7000.0, 1.0), resolution=1800.0)
    with pytest.raises(MismatchError, match="increasing"):
        lsf_weights(FINE[::-1], GRID, resolution=1800.0)
    with pytest.raises(UsageError, match="positive"):
        lsf_weights(FINE, GRID, resolution=-1.0)
    weights = lsf_weights(FINE, GRID, resolution=1800.0)
    with pytest.raises(MismatchError, match="samples"):
        apply_lsf(np.ones(5), weights)


@pytest.mark.parametrize(("first", "good"), [(6000.04, True), (6000.06, False)])
def test_samples_define_pixels_whose_centres_they_reach(first, good):
    """The cell of a sample begins half a step, 0.05 Angstrom, before it."""
    grid = PixelGrid.linear(6000.0, 6100.0, 1.0)
    wide = np.arange(5990.0, 6110.0, 0.1)
    at = np.linspace(first, 12_100.0 - first, 1000)
    for samples in (np.r_[wide[wide < 5999.9], at], np.r_[at, wide[wide > 6100.1]]):
        with nullcontext() if good else pytest.raises(MismatchError, match="cover"):
            lsf_weights(samples, grid, resolution=1800.0)
