"""Pixels that no star can have are left out before anything else is done."""

import numpy as np
import pytest

from jaxmdwarf.preprocess.spikes import MOST_PIXELS, leave_out_impossible
from jaxmdwarf.spectra import RawSpectrum

WAVE = np.arange(6000.0, 6900.0, 1.5)
LINE = np.exp(-0.5 * ((WAVE - 6564.6) / 3.0) ** 2)


def spectrum(flux, sigma=1.0, bad=()):
    ivar = np.full(WAVE.size, sigma**-2.0)
    ivar[list(bad)] = 0
    return RawSpectrum(WAVE, np.asarray(flux, float), ivar)


def left_out(raw, sigma=7.0):
    kept = leave_out_impossible(raw, sigma=sigma)
    np.testing.assert_array_equal(kept.flux, raw.flux)
    return np.flatnonzero((kept.ivar == 0) & (raw.ivar > 0)).tolist()


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_giants_of_either_sign_go_in_any_unit(unit):
    flux = 50.0 * (WAVE / 6500.0) ** 6
    flux[[3, 250, 251, 599]] = [1e7, -1e7, 900.0, -8.0]
    assert left_out(spectrum(unit * flux, sigma=unit)) == [3, 250, 251, 599]


@pytest.mark.parametrize(
    "flux",
    [
        50.0 * (WAVE / 6500.0) ** 6,
        np.where(WAVE < 6500, 1.0, 30.0),
        20.0 * (1 + 6.0 * LINE),
        np.random.default_rng(1).normal(0.3, 1.0, WAVE.size),
    ],
    ids=["late type", "step", "flare", "noise"],
)
def test_what_a_star_can_have_stays(flux):
    raw = spectrum(flux)
    assert leave_out_impossible(raw, sigma=7.0) is raw


def test_significance_counts():
    flux = np.full(WAVE.size, 20.0)
    flux[[100, 300]] = -6.5, 1000.0
    assert left_out(spectrum(flux)) == [300]
    assert left_out(spectrum(flux), sigma=6.0) == [100, 300]
    assert left_out(spectrum(flux, sigma=200.0)) == []


def test_bad_pixels_neither_count_nor_hide_others():
    flux = np.full(WAVE.size, 20.0)
    flux[[100, 300]] = 1e9, 400.0
    assert left_out(spectrum(flux, bad=[100])) == [300]


def test_what_is_wrong_everywhere_is_left_as_it_is():
    flux = np.full(WAVE.size, 20.0)
    n = int(MOST_PIXELS * WAVE.size)
    flux[: n + 1] = -20.0
    raw = spectrum(flux)
    assert leave_out_impossible(raw, sigma=7.0) is raw
    flux[0] = 20.0
    assert left_out(spectrum(flux)) == list(range(1, n + 1))
