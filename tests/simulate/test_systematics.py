"""Every cause of the domain gap that acts on spectra does what it says, and nothing else."""

import numpy as np
import pytest

from jaxmdwarf.simulate.gap import CAUSES, INSTRUMENT_CAUSES, DomainGap
from jaxmdwarf.simulate.instrument import NATIVE_GRID
from jaxmdwarf.simulate.observation import observe
from jaxmdwarf.simulate.sky import TELLURIC_BANDS
from jaxmdwarf.simulate.streams import RandomStreams
from jaxmdwarf.simulate.systematics import CALCIUM_TRIPLET_AA, HALPHA_AA, Systematics
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

WAVE = NATIVE_GRID.wave_aa


def relative_change(seen, ideal):
    return seen.noiseless / ideal.noiseless[0] - 1


@pytest.mark.parametrize("cause", [name for name in CAUSES if name not in INSTRUMENT_CAUSES])
def test_causes_in_the_star_leave_the_instrument_alone(cause, ideal, observe_with_only):
    seen = observe_with_only(cause)
    np.testing.assert_array_equal(seen.flux, ideal.flux)
    factor = 1.3 if cause == "ivar_error" else 1.0
    np.testing.assert_allclose(seen.ivar, factor * ideal.ivar, rtol=1e-6)


def test_telluric_residuals_stay_in_their_bands(ideal, observe_with_only):
    helio = np.full(6, 20.0)
    change = relative_change(observe_with_only("telluric_residuals", helio_kms=helio), ideal)
    observatory = WAVE / (1 + 20.0 / SPEED_OF_LIGHT_KMS)
    inside = np.zeros(WAVE.size, dtype=bool)
    for low, high in TELLURIC_BANDS.values():
        band = (observatory > low) & (observatory < high)
        # One pixel of slack, for the residual is interpolated.
        inside |= (observatory > low - 2.5) & (observatory < high + 2.5)
        if low > WAVE[0]:
            assert abs(change[:, band]).max() > 1e-3
    assert (change[:, ~inside] == 0).all()
    # Plates differ, spectra of one spectrograph and plate do not.
    assert not np.allclose(change[0], change[2])


def test_flux_calibration_is_smooth_and_leaves_the_signal_to_noise(ideal, observe_with_only):
    seen = observe_with_only("flux_calibration")
    log_ratio = np.log1p(relative_change(seen, ideal))
    x = np.linspace(-1, 1, WAVE.size)
    for row in log_ratio:
        smooth = np.polynomial.chebyshev.chebval(x, np.polynomial.chebyshev.chebfit(x, row, 6))
        np.testing.assert_allclose(row, smooth, atol=2e-5)
        assert 0.005 < np.ptp(row) < 2.0
    np.testing.assert_allclose(
        seen.flux * np.sqrt(seen.ivar), ideal.flux * np.sqrt(ideal.ivar), rtol=1e-4, atol=1e-3
    )


def test_wavelength_errors_move_lines_and_nothing_else(wave_aa, make_visits):
    flat = np.ones((3, wave_aa.size), dtype=np.float32)
    gap = DomainGap.only("wavelength_solution")
    moved = observe(wave_aa, flat, make_visits(3), gap=gap, seed=1)
    np.testing.assert_allclose(moved.noiseless, moved.noiseless.mean(), rtol=1e-5)
    n = 80
    shift = Systematics(make_visits(n), gap, RandomStreams(3)).wavelength_error()
    wiggle = shift - shift.mean(axis=1, keepdims=True)
    assert 3.0 < wiggle.std() < 5.0
    assert 1.0 < shift.mean(axis=1).std() < 3.5


@pytest.mark.parametrize("cause", ["lsf_shape", "lsf_variation"])
def test_line_spread_functions_keep_the_light_and_change_the_width(
    cause, ideal, wave_aa, observe_with_only, make_visits
):
    flat = np.ones((3, wave_aa.size), dtype=np.float32)
    still_flat = observe(wave_aa, flat, make_visits(3), gap=DomainGap.only(cause), seed=1)
    np.testing.assert_allclose(still_flat.noiseless, still_flat.noiseless.mean(), rtol=1e-5)
    change = relative_change(observe_with_only(cause), ideal)
    assert abs(change).max() > 1e-3
    assert abs(change.mean()) < 2e-3


def test_sky_residuals_lie_on_night_sky_lines(ideal, observe_with_only):
    seen = observe_with_only("sky_residuals")
    np.testing.assert_array_equal(seen.noiseless, ideal.noiseless)
    np.testing.assert_array_equal(seen.ivar, ideal.ivar)
    change = seen.flux - ideal.flux
    assert abs(change[:, abs(WAVE - 8432.5) < 6]).max() > 1.0
    assert abs(change[:, abs(WAVE - 8600.0) < 30]).max() < 1e-2


def test_cosmic_rays_are_few_positive_and_mostly_flagged(
    ideal, wave_aa, observe_with_only, make_stars, make_visits
):
    n = 40
    plain = observe(wave_aa, make_stars(n), make_visits(n), gap=DomainGap.none(), seed=1)
    seen = observe_with_only("cosmic_rays", n)
    np.testing.assert_array_equal(seen.noiseless, plain.noiseless)
    hit = seen.flux != plain.flux
    assert 1 < hit.sum() / n < 15
    assert (seen.flux[hit] > plain.flux[hit]).all()
    flagged = (seen.ivar == 0)[hit].mean()
    assert 0.5 < flagged < 0.85
    assert (seen.ivar[~hit] == plain.ivar[~hit]).all()


def test_dead_pixels_have_no_flux_and_no_weight(ideal, observe_with_only):
    seen = observe_with_only("dead_pixels", 20)
    dead = seen.mask > 0
    assert 0.001 < dead.mean() < 0.03
    assert (seen.flux[dead] == 0).all()
    assert (seen.ivar[dead] == 0).all()
    assert (seen.ivar[~dead] > 0).all()


def test_chromospheres_fill_halpha_and_calcium_of_active_stars_only(ideal, observe_with_only):
    emission = np.array([3.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    seen = observe_with_only("chromosphere", halpha_ew_aa=emission)
    change = relative_change(seen, ideal)
    assert (change[[1, 3, 4, 5]] == 0).all()
    near = abs(WAVE - HALPHA_AA) < 15
    for line in CALCIUM_TRIPLET_AA:
        near |= abs(WAVE - line) < 15
    assert abs(change[0, ~near]).max() < 1e-4
    halpha = abs(WAVE - HALPHA_AA) < 15
    continuum = np.median(ideal.noiseless[0, abs(WAVE - HALPHA_AA) < 25])
    added = (seen.noiseless - ideal.noiseless)[0] / continuum
    assert (added * NATIVE_GRID.widths_aa)[halpha].sum() == pytest.approx(3.0, rel=0.08)


def test_quiet_chromospheres_absorb_halpha_and_leave_calcium(ideal, observe_with_only):
    seen = observe_with_only("chromosphere", halpha_ew_aa=np.full(6, -0.6))
    change = relative_change(seen, ideal)
    halpha = abs(WAVE - HALPHA_AA) < 15
    assert abs(change[:, ~halpha]).max() < 1e-4
    continuum = np.median(ideal.noiseless[0, abs(WAVE - HALPHA_AA) < 25])
    added = (seen.noiseless - ideal.noiseless)[0] / continuum
    assert (added * NATIVE_GRID.widths_aa)[halpha].sum() == pytest.approx(-0.6, rel=0.08)
