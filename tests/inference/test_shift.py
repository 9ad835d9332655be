"""Small Doppler shifts by slices of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.inference.shift import (
    align_grids,
    combine_velocities,
    edge_pixels,
    largest_shift_kms,
    pixel_offset,
    shift_by_slices,
    widen_grid,
    with_margins,
)
from jaxmdwarf.wavelengths import PixelGrid

GRIDS = [
    PixelGrid.linear(6000.0, 6400.0, 1.0),
    PixelGrid.logarithmic(6000.0, 6400.0, 1.5e-4),
]


def lines(wave):
    return 1.0 - sum(
        0.5 * np.exp(-0.5 * ((wave - centre) / 2.0) ** 2) for centre in (6050, 6111.3, 6207.7, 6350)
    )


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log"])
@pytest.mark.parametrize("rv_kms", [-45.0, -20.0, -1.0, 0.0, 13.0, 44.0])
def test_a_shift_moves_lines_as_doppler_says(grid, rv_kms):
    wide = widen_grid(grid, 3, 3)
    limit = largest_shift_kms(grid)
    rv_kms = float(np.clip(rv_kms, -limit, limit))
    offset, _ = pixel_offset(grid, jnp.array([rv_kms]))
    shifted = shift_by_slices(jnp.asarray(lines(wide.wave_aa))[None], offset)[0]
    exact = lines(grid.wave_aa / (1 + rv_kms / 299_792.458))
    assert np.abs(np.asarray(shifted) - exact).max() < 5e-4


def test_shifting_there_and_back_is_the_identity():
    grid = GRIDS[0]
    wide, wider = widen_grid(grid, 3, 3), widen_grid(grid, 6, 6)
    flux = jnp.asarray(lines(wider.wave_aa))[None]
    there = shift_by_slices(flux, pixel_offset(wide, jnp.array([20.0]))[0])
    back_kms = (1 / (1 + 20.0 / 299_792.458) - 1) * 299_792.458
    back = shift_by_slices(there, pixel_offset(grid, jnp.array([back_kms]))[0])
    assert np.abs(np.asarray(back[0]) - lines(grid.wave_aa)).max() < 1e-3


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log"])
def test_the_derivative_by_velocity_agrees_with_finite_differences(grid):
    with jax.enable_x64(True):
        flux = jnp.asarray(lines(widen_grid(grid, 3, 3).wave_aa))[None]

        def moved(speed):
            return shift_by_slices(flux, pixel_offset(grid, speed[None])[0])[0]

        offset, slope = pixel_offset(grid, jnp.array([11.0]))
        _, by_offset = jax.jvp(
            lambda at: shift_by_slices(flux, at), (offset,), (jnp.ones_like(offset),)
        )
        step = 1e-4
        numeric = (moved(jnp.array(11.0 + step)) - moved(jnp.array(11.0 - step))) / (2 * step)
        np.testing.assert_allclose((by_offset * slope)[0], numeric, atol=1e-9)


def test_velocities_multiply_as_wavelength_ratios_do():
    ratio = (1 + 150.0 / 299_792.458) * (1 - 12.0 / 299_792.458)
    assert combine_velocities(150.0, -12.0) == pytest.approx((ratio - 1) * 299_792.458, abs=1e-9)


def test_margins_of_a_wider_model_are_used_and_missing_ones_are_marked():
    grid = GRIDS[0]
    model_grid = widen_grid(grid, 5, 1)
    left, right = align_grids(model_grid, grid)
    assert (left, right) == (5, 1)
    wide = with_margins(jnp.asarray(model_grid.wave_aa), left, right)
    assert wide.shape == (grid.n_pix + 6,)
    assert float(wide[3]) == pytest.approx(grid.wave_aa[0])
    lacking = edge_pixels(grid, left, right)
    assert lacking.sum() == 2
    assert lacking[-2:].all()


@pytest.mark.parametrize(
    "other",
    [
        PixelGrid.linear(6000.5, 6400.5, 1.0),
        PixelGrid.linear(5990.0, 6200.0, 1.0),
        PixelGrid.linear(6000.0, 6400.0, 0.5),
        PixelGrid.logarithmic(6000.0, 6400.0, 1.5e-4),
    ],
)
def test_grids_that_do_not_hold_the_pixels_are_refused(other):
    with pytest.raises(MismatchError, match="resample the spectra"):
        align_grids(other, GRIDS[0])
