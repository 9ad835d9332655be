"""Outlier pixels of fitted stars: which they are, and that fits do without them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxmdwarf.inference.clipping import find_outlier_pixels, leave_out_pixels
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import blank_result
from jaxmdwarf.models.base import predict_compiled
from jaxmdwarf.preprocess.spikes import MOST_PIXELS
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid, doppler_factor

N_STAR, SIGMA = 8, 0.02
LIMIT = 7.0
NOISE = np.random.default_rng(2).normal(size=(N_STAR, 900)).clip(-2.2, 2.2)


@pytest.fixture(scope="module")
def look(band_model, band_grid):
    """Outliers of stars at their true labels, whose residuals are given in sigma."""
    scaled = np.random.default_rng(1).uniform(-0.3, 0.3, (N_STAR, 4)).astype(np.float32)
    rest = np.asarray(predict_compiled(band_model, jax.device_put(scaled)))
    margin = (rest.shape[1] - band_grid.n_pix) // 2
    flux = rest[:, margin : margin + band_grid.n_pix]
    labels = np.asarray(band_model.label_space.unscale(scaled))

    def find(sigmas, *, flags=0, known=True, ivar=SIGMA**-2, limit=LIMIT):
        weights = np.broadcast_to(np.float32(ivar), flux.shape)
        seen = (flux + SIGMA * sigmas).astype(np.float32)
        batch = SpectrumBatch(*map(jax.device_put, (seen, weights, weights)), band_grid)
        nothing = blank_result(N_STAR, 4, np.float32, fit_velocity=True)
        result = nothing._replace(
            labels=np.where(known, labels, np.nan),
            residual_kms=np.zeros(N_STAR, np.float32),
            flags=np.full(N_STAR, flags, np.int32),
        )
        return find_outlier_pixels(FitProblem.from_batch(band_model, batch), result, limit)

    return find


def put(**sigmas):
    """Noise, and residuals of star 3 at pixels."""
    changed = NOISE.copy()
    for pixel, value in sigmas.items():
        changed[3, int(pixel[1:])] = value
    return changed


def places(found):
    assert not found[np.arange(N_STAR) != 3].any()
    return np.flatnonzero(found[3]).tolist()


def test_residuals_beyond_the_limit_are_outliers_of_their_star_alone(look):
    assert not look(NOISE).any()
    assert places(look(put(p100=7.3, p400=-7.3, p600=6.7))) == [100, 400]
    assert places(look(put(p100=7.3, p600=6.7), limit=6.0)) == [100, 600]


def test_where_a_star_is_described_poorly_its_scatter_is_the_unit(look):
    wide = put(p100=60.0, p400=40.0)
    wide[3, [i for i in range(900) if i not in (100, 400)]] *= 6.0
    scatter = np.quantile(np.abs(wide[3]), 0.6827)
    assert 40.0 < LIMIT * scatter < 45.0
    assert places(look(wide)) == [100]


def test_errors_that_are_too_large_make_no_outliers(look):
    assert places(look(put(p100=15.0, p400=12.0), ivar=0.25 * SIGMA**-2)) == [100]


def test_a_giant_goes_before_what_it_may_have_done(look):
    assert places(look(put(p100=1000.0, p400=90.0))) == [100]
    assert places(look(put(p100=1000.0, p400=110.0))) == [100, 400]


def test_wings_go_with_what_they_belong_to(look):
    wings = {"p99": 3.1, "p100": 30.0, "p101": 4.0, "p102": 3.0, "p103": 3.0, "p104": 3.0}
    assert places(look(put(**wings))) == [99, 100, 101, 102, 103]
    assert places(look(put(p400=3.1, p401=6.9, p402=3.1))) == []


def test_stars_without_a_fit_have_none(look):
    spoilt = put(p100=30.0)
    assert places(look(spoilt)) == [100]
    assert not look(spoilt, known=np.arange(N_STAR)[:, None] != 3).any()
    assert not look(spoilt, flags=int(QualityFlag.VELOCITY_AT_EDGE)).any()


@pytest.mark.parametrize("frame_kms", [0.0, 900.0, -900.0])
@pytest.mark.parametrize("step", [0.4, 1.0, 1.7])
def test_own_pixels_are_found_in_any_frame(frame_kms, step):
    grid = PixelGrid.linear(6000.0, 6899.0, 1.0)
    wave = np.arange(5900.0, 7000.0, step)
    raw = RawSpectrum(wave, np.ones(wave.size), np.ones(wave.size))
    outlier = np.zeros(grid.n_pix, bool)
    outlier[[0, 499, 500, 501, 899]] = True
    kept = leave_out_pixels(raw, outlier, grid, frame_kms)
    rest = wave / doppler_factor(frame_kms)
    expected = np.zeros(wave.size, bool)
    for centre in (6000.0, 6499.0, 6500.0, 6501.0, 6899.0):
        expected |= np.abs(rest - centre) < 0.5
    assert expected.any()
    np.testing.assert_array_equal(kept.ivar == 0, expected)
    assert leave_out_pixels(kept, outlier, grid, frame_kms) is kept


def test_more_than_single_pixels_stay():
    grid = PixelGrid.linear(6000.0, 6899.0, 1.0)
    raw = RawSpectrum(grid.wave_aa, np.ones(900), np.ones(900))
    most = int(MOST_PIXELS * 900)
    few, many = np.arange(900) < most, np.arange(900) <= most
    assert np.count_nonzero(leave_out_pixels(raw, few, grid, 0.0).ivar) == 900 - most
    assert leave_out_pixels(raw, many, grid, 0.0) is raw
    half = replace(raw, ivar=np.where(np.arange(900) < 450, 1.0, 0.0))
    assert leave_out_pixels(half, few, grid, 0.0) is half
