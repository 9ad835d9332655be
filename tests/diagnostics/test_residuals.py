"""Residuals of fits: noise of known size comes out, and masked pixels never enter."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.diagnostics.residuals import (
    gap_closed,
    residual_in_sigma,
    summarise_error,
    summarise_residual,
)
from jaxmdwarf.errors import MismatchError


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


def test_spectra_of_other_shapes_are_refused():
    with pytest.raises((MismatchError, TypeCheckError)):
        residual_in_sigma(np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3)))
