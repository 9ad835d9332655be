import dataclasses

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.lsf import apply_lsf, lsf_weights
from jaxmdwarf.simulate import instrument
from jaxmdwarf.simulate.gap import CAUSES, INSTRUMENT_CAUSES, DomainGap
from jaxmdwarf.simulate.instrument import (
    CALCIUM_TRIPLET_AA,
    FLUX_UNIT,
    HALPHA_AA,
    NATIVE_GRID,
    RESOLUTION,
    TELLURIC_BANDS,
    LsfSampler,
    Visits,
    observe,
    telluric_depth,
)
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

# A cheap stand-in for the synthesis: continuum, many narrow lines, no physics.
WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 2.7e-5))


def fake_flux(labels: np.ndarray) -> np.ndarray:
    """Surface fluxes whose lines deepen as Teff falls, (n, n_wave)."""
    rng = np.random.default_rng(5)
    depth = np.zeros(WAVE_AA.size)
    depth[rng.integers(0, WAVE_AA.size, 2500)] = rng.random(2500)
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    depth = np.convolve(depth, kernel, mode="same")
    teff = np.asarray(labels)[:, :1]
    x = 1.4388e8 / (WAVE_AA * teff)
    planck = 1.1910e27 * np.pi / WAVE_AA**5 / np.expm1(x)
    return (planck * np.exp(-depth * (4500.0 - teff) / 1500.0)).astype(np.float32)


WAVE = NATIVE_GRID.wave_aa
DILUTION = 3e-20


def make_visits(n, **columns):
    zero, number = np.zeros(n), np.arange(n)
    values = {
        "index": number,
        "star": number,
        "companion": np.full(n, -1),
        "rv_kms": zero,
        "companion_rv_kms": zero,
        "dilution": np.full(n, DILUTION),
        "companion_dilution": zero,
        "helio_kms": zero,
        "plate": number // 2,
        "spectrograph": number % 16,
        "fibre": number % 250,
        "exposure_s": np.full(n, 4500.0),
        "transparency": np.full(n, 0.5),
        "sky_scale": np.ones(n),
        "halpha_ew_aa": zero,
    }
    return Visits(**{**values, **columns})


def stars(n, teff=3500.0):
    return fake_flux(np.tile([teff, 4.8, 0.0, 0.0], (n, 1)))


@pytest.fixture(scope="module")
def ideal():
    return observe(WAVE_AA, stars(6), make_visits(6), gap=DomainGap.none(), seed=1)


def with_only(cause, n=6, **columns):
    visits = make_visits(n, **columns)
    return observe(WAVE_AA, stars(n), visits, gap=DomainGap.only(cause), seed=1)


def test_without_a_gap_nature_is_theory_through_the_same_instrument(ideal):
    weights = lsf_weights(WAVE_AA, NATIVE_GRID, resolution=RESOLUTION)
    theory = apply_lsf(stars(6), weights) * (DILUTION / FLUX_UNIT)
    np.testing.assert_allclose(ideal.noiseless, theory, rtol=2e-4)
    # All stars are alike here: neither plate, fibre nor number may leave a trace.
    np.testing.assert_array_equal(ideal.noiseless, np.tile(ideal.noiseless[0], (6, 1)))
    assert (ideal.mask == 0).all()
    assert (ideal.ivar > 0).all()


def test_the_noise_is_gaussian_and_ivar_tells_it(ideal):
    n = 60
    seen = observe(WAVE_AA, stars(n), make_visits(n), gap=DomainGap.none(), seed=2)
    pull = (seen.flux - seen.noiseless) * np.sqrt(seen.ivar)
    assert pull.std() == pytest.approx(1.0, abs=0.01)
    assert abs(pull.mean()) < 0.01
    assert np.mean(abs(pull) > 3) == pytest.approx(0.0027, abs=0.001)


def test_night_sky_lines_raise_the_noise():
    n = 4
    faint = make_visits(n, dilution=np.full(n, 0.02 * DILUTION))
    seen = observe(WAVE_AA, stars(n), faint, gap=DomainGap.none(), seed=2)
    on_line = np.argmin(abs(WAVE - 8432.5))
    between = np.argmin(abs(WAVE - 8600.0))
    assert seen.sigma[0, on_line] > 1.4 * seen.sigma[0, between]


@pytest.mark.parametrize("rv_kms", [-300.0, 41.7, 250.0])
def test_a_line_moves_by_its_velocity(rv_kms):
    flux = np.ones((1, WAVE_AA.size), dtype=np.float32) * 1e5
    flux += (1e6 * np.exp(-0.5 * ((WAVE_AA - 7777.0) / 0.3) ** 2)).astype(np.float32)
    visits = make_visits(1, rv_kms=np.array([rv_kms]))
    seen = observe(WAVE_AA, flux, visits, gap=DomainGap.none(), seed=1)
    line = seen.noiseless[0] - np.median(seen.noiseless[0])
    near = abs(WAVE - 7777.0) < 40
    # Pixels widen with wavelength: a centroid needs their widths.
    weight = line[near] * NATIVE_GRID.widths_aa[near]
    centroid = (weight * WAVE[near]).sum() / weight.sum()
    measured = (centroid / 7777.0 - 1) * SPEED_OF_LIGHT_KMS
    assert measured == pytest.approx(rv_kms, abs=1.0)


def test_batches_do_not_matter():
    n = 7
    gap = DomainGap.full()
    visits = make_visits(n, halpha_ew_aa=np.full(n, 2.0), helio_kms=np.linspace(-20, 20, n))
    whole = observe(WAVE_AA, stars(n), visits, gap=gap, seed=4)
    part = visits.take(np.array([2, 3, 5]))
    part = dataclasses.replace(part, star=np.arange(3))
    piece = observe(WAVE_AA, stars(3), part, gap=gap, seed=4)
    rows = [2, 3, 5]
    np.testing.assert_allclose(piece.flux, whole.flux[rows], rtol=2e-4, atol=1e-3)
    np.testing.assert_array_equal(piece.mask, whole.mask[rows])
    np.testing.assert_allclose(piece.ivar, whole.ivar[rows], rtol=2e-4)


def test_a_companion_adds_its_light_at_its_own_velocity():
    one = stars(1)
    visits = make_visits(
        1,
        companion=np.zeros(1, dtype=int),
        companion_rv_kms=np.array([80.0]),
        companion_dilution=np.array([0.3 * DILUTION]),
    )
    both = observe(WAVE_AA, one, visits, gap=DomainGap.none(), seed=1, companion_flux=one)
    alone = observe(WAVE_AA, one, make_visits(1), gap=DomainGap.none(), seed=1)
    moving = make_visits(1, rv_kms=np.array([80.0]), dilution=np.array([0.3 * DILUTION]))
    second = observe(WAVE_AA, one, moving, gap=DomainGap.none(), seed=1)
    np.testing.assert_allclose(both.noiseless, alone.noiseless + second.noiseless, rtol=1e-5)
    with pytest.raises(MismatchError, match="companion"):
        observe(WAVE_AA, one, visits, gap=DomainGap.none(), seed=1)


def relative_change(seen, ideal):
    return seen.noiseless / ideal.noiseless[0] - 1


@pytest.mark.parametrize("cause", [name for name in CAUSES if name not in INSTRUMENT_CAUSES])
def test_causes_in_the_star_leave_the_instrument_alone(cause, ideal):
    seen = with_only(cause)
    np.testing.assert_array_equal(seen.flux, ideal.flux)
    factor = 1.3 if cause == "ivar_error" else 1.0
    np.testing.assert_allclose(seen.ivar, factor * ideal.ivar, rtol=1e-6)


def test_telluric_residuals_stay_in_their_bands(ideal):
    helio = np.full(6, 20.0)
    change = relative_change(with_only("telluric_residuals", helio_kms=helio), ideal)
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


def test_telluric_bands_look_like_the_atmosphere():
    depth = {
        name: telluric_depth(np.arange(*bounds, 0.5)) for name, bounds in TELLURIC_BANDS.items()
    }
    assert depth["O2 A"].max() > 2.5 * depth["O2 B"].max() > 5 * depth["O2 gamma"].max()
    # The A band has its sharp head on the blue side and fades to the red.
    wave = np.arange(*TELLURIC_BANDS["O2 A"], 0.5)
    assert wave[np.argmax(depth["O2 A"])] < 7612
    assert telluric_depth(np.array([7700.0]))[0] < 0.05


def test_flux_calibration_is_smooth_and_leaves_the_signal_to_noise(ideal):
    seen = with_only("flux_calibration")
    log_ratio = np.log1p(relative_change(seen, ideal))
    x = np.linspace(-1, 1, WAVE.size)
    for row in log_ratio:
        smooth = np.polynomial.chebyshev.chebval(x, np.polynomial.chebyshev.chebfit(x, row, 6))
        np.testing.assert_allclose(row, smooth, atol=2e-5)
        assert 0.005 < np.ptp(row) < 2.0
    np.testing.assert_allclose(
        seen.flux * np.sqrt(seen.ivar), ideal.flux * np.sqrt(ideal.ivar), rtol=1e-4, atol=1e-3
    )


def test_wavelength_errors_move_lines_and_nothing_else():
    flat = np.ones((3, WAVE_AA.size), dtype=np.float32)
    gap = DomainGap.only("wavelength_solution")
    moved = observe(WAVE_AA, flat, make_visits(3), gap=gap, seed=1)
    np.testing.assert_allclose(moved.noiseless, moved.noiseless.mean(), rtol=1e-5)
    n = 80
    shift = instrument._wavelength_error(make_visits(n), gap, instrument._Streams(3))
    wiggle = shift - shift.mean(axis=1, keepdims=True)
    assert 3.0 < wiggle.std() < 5.0
    assert 1.0 < shift.mean(axis=1).std() < 3.5


@pytest.mark.parametrize("cause", ["lsf_shape", "lsf_variation"])
def test_line_spread_functions_keep_the_light_and_change_the_width(cause, ideal):
    flat = np.ones((3, WAVE_AA.size), dtype=np.float32)
    still_flat = observe(WAVE_AA, flat, make_visits(3), gap=DomainGap.only(cause), seed=1)
    np.testing.assert_allclose(still_flat.noiseless, still_flat.noiseless.mean(), rtol=1e-5)
    change = relative_change(with_only(cause), ideal)
    assert abs(change).max() > 1e-3
    assert abs(change.mean()) < 2e-3


def line_moments(sampler, width):
    spike = np.zeros((1, WAVE_AA.size), dtype=np.float32)
    spike[0, WAVE_AA.size // 2] = 1.0
    grid = sampler.coarse_log_wave
    profile = sampler.mix(sampler.convolve(spike), np.full((1, grid.size), width))[0]
    x = grid - np.log(WAVE_AA[WAVE_AA.size // 2])
    near = abs(x) < 5e-3
    area = profile[near].sum()
    variance = (profile[near] * x[near] ** 2).sum() / area
    kurtosis = (profile[near] * x[near] ** 4).sum() / area / variance**2
    return area, variance, kurtosis


def test_the_width_follows_its_setting_and_wings_raise_the_kurtosis():
    sampler = LsfSampler(WAVE_AA, n_widths=3)
    area, variance, kurtosis = line_moments(sampler, 1.0)
    sigma = 1 / (RESOLUTION * 2.3548)
    assert variance == pytest.approx(sigma**2 + NATIVE_GRID.step**2 / 12, rel=0.01)
    assert kurtosis == pytest.approx(3.0, abs=0.1)
    for width in (0.85, 1.2):
        new_area, new_variance, _ = line_moments(sampler, width)
        assert new_area == pytest.approx(area, rel=1e-3)
        assert new_variance - variance == pytest.approx((width**2 - 1) * sigma**2, rel=0.03)
    shaped = LsfSampler(WAVE_AA, shape_strength=1.0)
    assert line_moments(shaped, 1.0)[2] > 4.0


def test_sky_residuals_lie_on_night_sky_lines(ideal):
    seen = with_only("sky_residuals")
    np.testing.assert_array_equal(seen.noiseless, ideal.noiseless)
    np.testing.assert_array_equal(seen.ivar, ideal.ivar)
    change = seen.flux - ideal.flux
    assert abs(change[:, abs(WAVE - 8432.5) < 6]).max() > 1.0
    assert abs(change[:, abs(WAVE - 8600.0) < 30]).max() < 1e-2


def test_cosmic_rays_are_few_positive_and_mostly_flagged(ideal):
    n = 40
    plain = observe(WAVE_AA, stars(n), make_visits(n), gap=DomainGap.none(), seed=1)
    seen = with_only("cosmic_rays", n)
    np.testing.assert_array_equal(seen.noiseless, plain.noiseless)
    hit = seen.flux != plain.flux
    assert 1 < hit.sum() / n < 15
    assert (seen.flux[hit] > plain.flux[hit]).all()
    flagged = (seen.ivar == 0)[hit].mean()
    assert 0.5 < flagged < 0.85
    assert (seen.ivar[~hit] == plain.ivar[~hit]).all()


def test_dead_pixels_have_no_flux_and_no_weight(ideal):
    seen = with_only("dead_pixels", 20)
    dead = seen.mask > 0
    assert 0.001 < dead.mean() < 0.03
    assert (seen.flux[dead] == 0).all()
    assert (seen.ivar[dead] == 0).all()
    assert (seen.ivar[~dead] > 0).all()


def test_chromospheres_fill_halpha_and_calcium_of_active_stars_only(ideal):
    emission = np.array([3.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    seen = with_only("chromosphere", halpha_ew_aa=emission)
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


def test_shapes_are_checked():
    with pytest.raises(MismatchError, match="disagree"):
        observe(WAVE_AA, stars(1)[:, :-1], make_visits(1), gap=DomainGap.none(), seed=0)
    with pytest.raises(MismatchError, match="shape"):
        make_visits(2, rv_kms=np.zeros(3))
    with pytest.raises(MismatchError, match="equidistant"):
        LsfSampler(np.linspace(5850.0, 9150.0, 16000))
