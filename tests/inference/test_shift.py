"""Small Doppler shifts by slices of the model."""

from functools import partial

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


@partial(jax.jit, static_argnums=1)
def shift(flux, grid, rv_kms):
    """Flux of one spectrum on a wider grid, moved, on `grid`."""
    return shift_by_slices(flux[None], pixel_offset(grid, rv_kms[None])[0])[0]


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
    shifted = shift(lines(wide.wave_aa).astype(np.float32), grid, np.float32(rv_kms))
    exact = lines(grid.wave_aa / (1 + rv_kms / 299_792.458))
    assert np.abs(np.asarray(shifted) - exact).max() < 5e-4


def test_shifting_there_and_back_is_the_identity():
    grid = GRIDS[0]
    wide, wider = widen_grid(grid, 3, 3), widen_grid(grid, 6, 6)
    there = shift(lines(wider.wave_aa).astype(np.float32), wide, np.float32(20.0))
    back_kms = (1 / (1 + 20.0 / 299_792.458) - 1) * 299_792.458
    back = shift(there, grid, np.float32(back_kms))
    assert np.abs(np.asarray(back) - lines(grid.wave_aa)).max() < 1e-3


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log"])
def test_the_derivative_by_velocity_agrees_with_finite_differences(grid):
    @jax.jit
    def differentiate(flux, speed):
        offset, slope = pixel_offset(grid, speed[None])
        _, by_offset = jax.jvp(
            lambda at: shift_by_slices(flux, at), (offset,), (jnp.ones_like(offset),)
        )
        return (by_offset * slope)[0]

    step = 1e-4
    with jax.enable_x64(True):
        flux = lines(widen_grid(grid, 3, 3).wave_aa)
        exact = differentiate(flux[None], np.float64(11.0))
        ahead, behind = (np.asarray(shift(flux, grid, 11.0 + np.float64(s))) for s in (step, -step))
    np.testing.assert_allclose(exact, (ahead - behind) / (2 * step), atol=1e-9)


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
