"""The spectrograph: line-spread functions keep the light and have the width they are given."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.simulate.instrument import (
    _H4,
    _WING_FRACTION,
    _WING_SCALE,
    NATIVE_GRID,
    RESOLUTION,
    LsfSampler,
    _transfer,
)


def line_moments(wave_aa, sampler, width):
    spike = np.zeros((1, wave_aa.size), dtype=np.float32)
    spike[0, wave_aa.size // 2] = 1.0
    grid = sampler.coarse_log_wave
    profile = sampler.mix(sampler.convolve(spike), np.full((1, grid.size), width))[0]
    x = grid - np.log(wave_aa[wave_aa.size // 2])
    near = abs(x) < 5e-3
    area = profile[near].sum()
    variance = (profile[near] * x[near] ** 2).sum() / area
    kurtosis = (profile[near] * x[near] ** 4).sum() / area / variance**2
    return area, variance, kurtosis


def test_the_width_follows_its_setting_and_wings_raise_the_kurtosis(wave_aa):
    sampler = LsfSampler(wave_aa, n_widths=3)
    area, variance, kurtosis = line_moments(wave_aa, sampler, 1.0)
    sigma = 1 / (RESOLUTION * 2.3548)
    assert variance == pytest.approx(sigma**2 + NATIVE_GRID.step**2 / 12, rel=0.01)
    assert kurtosis == pytest.approx(3.0, abs=0.1)
    for width in (0.85, 1.2):
        new_area, new_variance, _ = line_moments(wave_aa, sampler, width)
        assert new_area == pytest.approx(area, rel=1e-3)
        assert new_variance - variance == pytest.approx((width**2 - 1) * sigma**2, rel=0.03)
    shaped = LsfSampler(wave_aa, shape_strength=1.0)
    assert line_moments(wave_aa, shaped, 1.0)[2] > 4.0


def test_wavelengths_must_be_logarithmic():
    with pytest.raises(MismatchError, match="equidistant"):
        LsfSampler(np.linspace(5850.0, 9150.0, 16000))


def test_the_transform_is_that_of_the_profile_it_stands_for():
    """A Gauss-Hermite core (van der Marel & Franx 1993) and Gaussian wings, seen by pixels."""
    width2, strength = 1.44, 0.8
    sigma = np.sqrt(width2) / (RESOLUTION * np.sqrt(8 * np.log(2)))
    x = np.linspace(-20, 20, 40_001) * sigma
    y = x / sigma
    core = np.exp(-0.5 * y**2) * (1 + strength * _H4 * (4 * y**4 - 12 * y**2 + 3) / np.sqrt(24))
    wings = np.exp(-0.5 * (y / _WING_SCALE) ** 2)
    share = strength * _WING_FRACTION
    profile = (1 - share) * core / core.sum() + share * wings / wings.sum()
    wavenumber = np.array([0.0, 0.05, 0.3, 1.0, 1.7, 3.0]) / sigma
    half = wavenumber[1:] * NATIVE_GRID.step / 2
    expected = np.cos(wavenumber[:, None] * x) @ profile
    expected[1:] *= np.sin(half) / half
    np.testing.assert_allclose(_transfer(wavenumber, width2, strength), expected, atol=1e-6)
