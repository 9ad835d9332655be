"""Measurements: definitions, frames, bad pixels, honest errors; real spectra against kastredux."""

import csv

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.measure.halpha import HALPHA_AA, measure_halpha
from jaxmdwarf.measure.indices import BAND_INDICES, Measurement, measure_index
from jaxmdwarf.measure.snr import BANDS_AA, estimate_snr
from jaxmdwarf.measure.spectral_type import estimate_spectral_type
from jaxmdwarf.measure.spectrum import measure_spectra, measure_spectrum
from jaxmdwarf.measure.windows import (
    mean_over_window,
    mean_over_windows,
    window_in_vacuum,
)
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import (
    SPEED_OF_LIGHT_KMS,
    air_to_vacuum,
    doppler_factor,
    vacuum_to_air,
)

WAVE = 10.0 ** (3.5682 + 1e-4 * np.arange(3909))
GOOD = np.full(WAVE.size, 1e4)
ROOT_TWO_PI = np.sqrt(2 * np.pi)


def line(wave, ew_aa, sigma_aa=1.5, centre_aa=HALPHA_AA):
    return ew_aa * np.exp(-0.5 * ((wave - centre_aa) / sigma_aa) ** 2) / (sigma_aa * ROOT_TWO_PI)


def test_window_means_integrate_partial_pixels():
    # Pixel 100 of height 1 among zeros: a window that takes a quarter of it.
    wave, flux = np.arange(200.0), np.zeros(200)
    flux[100] = 1.0
    mean = mean_over_window(wave, flux, np.ones(200), 99.75, 101.75)
    assert mean.value == pytest.approx(0.75 / 2.0)
    assert mean.variance == pytest.approx((0.75**2 + 1.0 + 0.25**2) / 4.0)


def test_window_means_are_linear_in_flux_and_blind_to_pixel_size():
    fine = np.linspace(7000.0, 7200.0, 20001)
    coarse = np.linspace(7000.0, 7200.0, 201)
    means = [
        mean_over_window(wave, 3.0 + 0.01 * (wave - 7000.0), np.ones(wave.size), 7100.3, 7110.9)
        for wave in (fine, coarse)
    ]
    assert means[0].value == pytest.approx(4.056, abs=1e-6)
    # Within a pixel the histogram is flat: the two ends of the window do not cancel exactly.
    assert means[1].value == pytest.approx(4.056, abs=2e-4)


@pytest.mark.parametrize("step_aa", [0.3, 1.6, 7.0, 40.0])
def test_windows_read_together_are_the_sums_over_their_pixels(step_aa):
    """The running integrals against the sum that they stand for, bad pixels and all."""
    rng = np.random.default_rng(5)
    wave = 6300.0 + step_aa * np.arange(int(900 / step_aa)) + rng.uniform(-0.1, 0.1) * step_aa
    flux = rng.normal(1.0, 0.3, wave.size)
    ivar = rng.uniform(1.0, 9.0, wave.size) * (rng.random(wave.size) > 0.1)
    windows = np.sort(rng.uniform(6320.0, 7150.0, (30, 2)), axis=1)
    windows[0] = wave[7] + np.array([-0.3, 0.2]) * step_aa  # within one pixel
    windows[1] = wave[[9, 12]]
    middles = 0.5 * (wave[1:] + wave[:-1])
    edges = np.concatenate([[2 * wave[0] - middles[0]], middles, [2 * wave[-1] - middles[-1]]])
    means = mean_over_windows(wave, flux[None], ivar[None], windows)
    for (low, high), *found in zip(windows, means.value[0], means.variance[0], strict=True):
        inside = np.clip(edges, low, high)
        overlap = np.where(ivar > 0, np.diff(inside), 0.0)
        if overlap.sum() < 0.5 * (high - low):
            assert np.isnan(found).all()
            continue
        weight = overlap / overlap.sum()
        variance = np.sum(weight[ivar > 0] ** 2 / ivar[ivar > 0])
        assert found[0] == pytest.approx(weight @ flux, rel=1e-9, abs=1e-9)
        assert found[1] == pytest.approx(variance, rel=1e-9)


def test_bad_pixels_leave_the_mean_and_too_many_make_it_nan():
    flux, ivar = np.full(WAVE.size, 2.0), GOOD.copy()
    hit = np.flatnonzero((WAVE > 7130) & (WAVE < 7132))
    flux[hit], ivar[hit] = 1e6, 0.0
    assert measure_index("tio5", WAVE, flux, ivar).value == pytest.approx(1.0)
    ivar[(WAVE > 7128) & (WAVE < 7134)] = 0.0
    assert np.isnan(measure_index("tio5", WAVE, flux, ivar)).all()


@pytest.mark.parametrize("name", sorted(BAND_INDICES))
def test_windows_are_air_wavelengths(name):
    index = BAND_INDICES[name]
    air = vacuum_to_air(WAVE)
    inside = (air >= index.band_aa[0]) & (air <= index.band_aa[1])
    value = measure_index(name, WAVE, np.where(inside, 0.5, 1.0), GOOD).value
    # Only the two end pixels can be shared with the outside.
    n_inside = np.count_nonzero(inside)
    assert value == pytest.approx(0.5, abs=0.5 / n_inside)
    # Taken for vacuum windows, they would miss more than a pixel (2 Angstrom at 7130).
    low, _ = window_in_vacuum(*index.band_aa)
    assert 1.7 < low - index.band_aa[0] < 2.5


def test_indices_ignore_the_flux_scale_and_follow_the_rest_frame():
    rng = np.random.default_rng(1)
    flux = 1.0 + 0.3 * np.sin(WAVE / 15.0) + 0.01 * rng.normal(size=WAVE.size)
    rest = measure_spectrum(WAVE, flux, GOOD)
    scaled = measure_spectrum(WAVE, 1e-17 * flux, GOOD * 1e34)
    moved = measure_spectrum(WAVE * doppler_factor(150.0), flux, GOOD, rv_kms=150.0)
    for name in ("tio5", "e_tio5", "cah1", "cah2", "cah3", "ew_halpha", "e_ew_halpha"):
        assert getattr(scaled, name) == pytest.approx(getattr(rest, name), rel=1e-6)
        assert getattr(moved, name) == pytest.approx(getattr(rest, name), rel=1e-6)
    assert measure_spectrum(WAVE * doppler_factor(150.0), flux, GOOD).tio5 != rest.tio5


@pytest.mark.parametrize("ew", [-2.0, 0.0, 0.75, 5.0, 40.0])
def test_halpha_is_the_width_of_the_line_and_emission_is_positive(ew):
    flux = 7.0 * (1.0 + 2e-4 * (WAVE - HALPHA_AA)) * (1.0 + line(WAVE, ew))
    assert measure_halpha(WAVE, flux, GOOD).value == pytest.approx(ew, abs=0.02 + 0.012 * abs(ew))


def test_spectra_measured_together_are_measured_as_alone():
    rng = np.random.default_rng(2)
    rv_kms = np.array([-300.0, 0.0, 17.0, 450.0])
    rest = WAVE / doppler_factor(rv_kms)[:, None]
    flux = 1.0 + 0.3 * np.sin(rest / 15.0) + line(rest, 2.0) + 0.05 * rng.normal(size=rest.shape)
    ivar = np.where(rng.random(rest.shape) > 0.03, 400.0, 0.0)
    ivar[2, (rest[2] > 6560) & (rest[2] < 6564)] = 0.0
    together = measure_spectra(WAVE, flux, ivar, rv_kms=rv_kms)
    for row, rv in enumerate(rv_kms):
        alone = vars(measure_spectrum(WAVE, flux[row], ivar[row], rv_kms=rv))
        for name, value in alone.items():
            expected = pytest.approx(float(value), rel=1e-9, nan_ok=True)
            assert float(together[name][row]) == expected, name
    assert np.isnan(together["ew_halpha"][2])
    assert np.isfinite(together["ew_halpha"][[0, 1, 3]]).all()


def test_halpha_with_a_masked_core_is_unknown():
    ivar = np.where(np.abs(WAVE - HALPHA_AA) < 1.0, 0.0, 1e4)
    row = measure_spectrum(WAVE, 1.0 + line(WAVE, 5.0), ivar)
    assert np.isnan([row.ew_halpha, row.e_ew_halpha]).all()
    assert not row.active


@pytest.mark.parametrize("snr", [10.0, 100.0])
def test_errors_are_the_scatter_over_noise(snr):
    rng = np.random.default_rng(7)
    truth = 1.0 + 0.3 * np.sin(WAVE / 15.0) + line(WAVE, 3.0)
    ivar = np.full(WAVE.size, snr**2)
    part = (WAVE > 6300) & (WAVE < 7200)
    wave, truth, ivar = WAVE[part], truth[part], ivar[part]
    rows = [
        measure_spectrum(wave, truth + rng.normal(size=wave.size) / snr, ivar) for _ in range(600)
    ]
    exact = measure_spectrum(wave, truth, ivar)
    for name in ("tio5", "cah1", "cah2", "cah3", "ew_halpha"):
        pulls = [(getattr(r, name) - getattr(exact, name)) / getattr(r, f"e_{name}") for r in rows]
        assert np.mean(pulls) == pytest.approx(0.0, abs=0.15)
        assert np.std(pulls) == pytest.approx(1.0, abs=0.1)


def test_an_undetected_continuum_gives_no_index():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=WAVE.size)
    row = measure_spectrum(WAVE, 0.1 + noise, np.ones(WAVE.size))
    assert np.isnan([row.tio5, row.cah1, row.cah2, row.ew_halpha, row.spt]).all()
    assert row.flags & QualityFlag.LOW_SNR


def test_spectral_type_is_equation_11_within_its_range():
    assert estimate_spectral_type(Measurement(0.6, 0.0)) == pytest.approx((1.735, 0.5))
    assert estimate_spectral_type(Measurement(0.6, 0.1)).error == pytest.approx(1.1879, abs=1e-4)
    for tio5 in (0.96, 0.11, np.nan):
        assert np.isnan(estimate_spectral_type(Measurement(tio5, 0.01))).all()
    for tio5 in (0.9466, 0.1114):
        assert np.isfinite(estimate_spectral_type(Measurement(tio5, 0.01)).value)


def test_header_snr_is_kept_and_a_missing_one_measured():
    flux = np.full(WAVE.size, 0.5)
    row = measure_spectrum(WAVE, flux, GOOD, snr_r=12.0)
    assert (row.snr_r, row.snr_i) == pytest.approx((12.0, 50.0))
    few = np.where((WAVE > 5600) & (WAVE < 5620), 1e4, 0.0)
    assert np.isnan(estimate_snr(WAVE, flux, few, "r"))


@pytest.mark.parametrize(("band", "low", "high"), [("r", 5500.0, 7000.0), ("i", 6900.0, 8200.0)])
def test_snr_is_that_of_the_pixels_of_its_band_alone(band, low, high):
    wave = np.arange(low - 30.0, high + 30.0, 0.5)
    outside = (wave < low) | (wave >= high)
    ivar = np.zeros(wave.size)
    ivar[outside], ivar[(wave >= low) & (wave < low + 25)] = 1e8, 16.0
    ivar[(wave >= high - 25) & (wave < high)] = 16.0
    np.testing.assert_allclose(estimate_snr(wave, np.full(wave.size, 0.5), ivar, band), 2.0)
    # Fifty pixels are enough, and none of them may lie outside.
    ivar[np.flatnonzero(~outside)[:-50]] = 0.0
    assert estimate_snr(wave, np.full(wave.size, 0.5), ivar, band) == pytest.approx(2.0)
    ivar[np.flatnonzero(~outside)[-1]] = 0.0
    assert np.isnan(estimate_snr(wave, np.full(wave.size, 0.5), ivar, band))


def test_few_good_pixels_are_flagged():
    ivar = np.where(WAVE < 7200, 1e4, 0.0)
    flags = measure_spectrum(WAVE, np.ones(WAVE.size), ivar).flags
    assert flags & QualityFlag.FEW_PIXELS
    assert not measure_spectrum(WAVE, np.ones(WAVE.size), GOOD).flags


def test_an_unknown_index_is_named():
    with pytest.raises(UsageError, match="'tio9' is unknown"):
        measure_index("tio9", WAVE, np.ones(WAVE.size), GOOD)


def test_templates_agree_with_kastredux(real_data):
    """All indices on the SDSS templates; Halpha of the same sign wherever it is strong."""
    spectra = np.load(real_data / "bochanski2007_M0_M9_vac.npz")
    rows = kastredux_rows(real_data)
    names = {"tio5": "TiO5", "cah1": "CaH1", "cah2": "CaH2", "cah3": "CaH3", "tio6": "TiO6"}
    names |= {"tio7": "TiO7", "vo1": "VO1", "vo2": "VO2", "color_m": "Color-M"}
    n_compared = 0
    for key in spectra:
        wave, flux, error = spectra[key].T
        ivar = np.divide(1.0, error**2, where=error > 0, out=np.zeros_like(error))
        reference = rows[f"{key}.txt"]
        for name, theirs in names.items():
            ours = measure_index(name, wave, flux, ivar).value
            assert ours == pytest.approx(float(reference[theirs]), abs=0.05), (key, name)
        ew = measure_halpha(wave, flux, ivar).value
        if abs(float(reference["EW_Ha"])) > 1.0:
            assert np.sign(ew) == -np.sign(float(reference["EW_Ha"]))
            n_compared += 1
    assert n_compared >= 5


def test_zeta_tells_subdwarfs_by_their_classes(real_data):
    """Templates of Lepine et al. (2007) fall between the limits of their classes, dwarfs above."""
    limits = {"sdM": (0.5, 0.825), "esdM": (0.2, 0.5), "usdM": (-0.2, 0.21)}
    spectra = np.load(real_data / "lepine2007_subdwarfs_air.npz")
    for key in spectra:
        wave, flux = spectra[key].T[:2].astype(np.float64)
        ivar = np.full(wave.size, 1e4 / np.median(flux) ** 2)
        row = measure_spectrum(air_to_vacuum(wave), flux, ivar)
        low, high = limits[key[: key.index("M") + 1]]
        assert low <= row.zeta <= high, (key, row.zeta)
    dwarfs = np.load(real_data / "bochanski2007_M0_M9_vac.npz")
    for key in sorted(dwarfs)[1:]:  # at M0 TiO is too weak for a number without a large error
        wave, flux, error = dwarfs[key].T
        ivar = np.divide(1.0, error**2, where=error > 0, out=np.zeros_like(error))
        assert measure_spectrum(wave, flux, ivar).zeta == pytest.approx(1.0, abs=0.1)
    k5 = measure_spectrum(WAVE, np.ones(WAVE.size), GOOD)
    assert np.isnan([k5.zeta, k5.e_zeta]).all()


def test_our_snr_repeats_the_surveys(real_data):
    from jaxmdwarf.io.spectra.readers import read_record

    ratios = {band: [] for band in BANDS_AA}
    for path in sorted(real_data.glob("lamost*/*.fits.gz")):
        record = read_record(path)
        for band in BANDS_AA:
            ours = estimate_snr(record.wave_aa, record.flux, record.ivar, band)
            ratios[band].append(ours / record.meta[f"snr_{band}"])
    for band, values in ratios.items():
        assert np.nanmedian(values) == pytest.approx(1.0, abs=0.05), band
        assert np.nanpercentile(values, [5, 95]) == pytest.approx([1.0, 1.0], abs=0.12), band


def kastredux_rows(real_data):
    with open(real_data / "kastredux_indices_dev.csv", newline="") as file:
        return {row["file"].rsplit("/", 1)[-1]: row for row in csv.DictReader(file)}


def test_z_is_velocity_over_c():
    assert doppler_factor(1e-3 * SPEED_OF_LIGHT_KMS) == pytest.approx(1.001)


def test_a_steep_continuum_is_no_halpha_and_lost_pixels_leave_the_width():
    wave = np.arange(6500.0, 6650.0, 0.1)
    sure = np.full(wave.size, 1e8)
    slope = measure_halpha(wave, 1.0 + 0.008 * (wave - HALPHA_AA), sure)
    assert abs(slope.value) < 1e-3
    # Flux that is half as high again over nine Angstrom, and every twentieth pixel lost.
    high = np.where(np.abs(wave - HALPHA_AA) < 4.5, 1.5, 1.0)
    lost = np.where(np.arange(wave.size) % 20 == 0, 0.0, sure)
    assert measure_halpha(wave, high, sure).value == pytest.approx(4.5, rel=0.02)
    assert measure_halpha(wave, high, lost).value == pytest.approx(4.5, rel=0.02)


@pytest.mark.parametrize(("band", "low", "high"), [("r", 5500, 7000), ("i", 6900, 8200)])
def test_signal_to_noise_is_the_median_of_the_good_pixels_of_its_band(band, low, high):
    """Of the pixels from the lower edge on, without the upper one; fifty of them at least."""
    wave = np.arange(5000.0, 9000.0)
    inside = (wave >= low) & (wave < high)
    rng = np.random.default_rng(1)
    flux, ivar = rng.uniform(1, 3, wave.size), rng.uniform(1, 9, wave.size)
    expected = np.median((flux * np.sqrt(ivar))[inside])
    beside = np.where(inside, flux, 1e6)  # what is outside must not count
    assert estimate_snr(wave, beside, ivar, band) == pytest.approx(expected)
    few = np.flatnonzero(inside)[[0, *range(3, 51), -1]]
    sparse = np.zeros(wave.size)
    sparse[few] = 4.0
    assert estimate_snr(wave, flux, sparse, band) == pytest.approx(2 * np.median(flux[few]))
    sparse[few[7]] = 0.0
    assert np.isnan(estimate_snr(wave, flux, sparse, band))
    # Pixels just beyond either edge are no pixels of the band.
    sparse[[low - 5001, high - 5000]] = 4.0
    assert np.isnan(estimate_snr(wave, flux, sparse, band))
