"""First velocities from banks of templates."""

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.velocity import (
    VelocityGrid,
    bank_from_model,
    bank_from_templates,
    measure_line_velocity,
    measure_velocity,
)
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid

N_STAR = 200
BOCHANSKI = "bochanski2007_M0_M9_vac.npz"


@pytest.fixture(scope="module")
def bank(band_model, band_grid):
    return bank_from_model(band_model, band_grid, velocities=VelocityGrid(-400.0, 400.0, 40.0))


@pytest.fixture(scope="module")
def moving(band_model, band_grid, observe_stars):
    rng = np.random.default_rng(3)
    n = N_STAR
    scaled = rng.uniform(-0.35, 0.35, (n, 4)).astype(np.float32)
    rv_kms = rng.uniform(-300, 300, n)
    snr = 10 ** rng.uniform(1.0, 2.0, n)
    return observe_stars(band_model, band_grid, scaled, rv_kms, snr, rng), rv_kms


def test_velocities_come_back_within_their_errors(bank, moving):
    batch, rv_kms = moving
    result = measure_velocity(batch, bank)
    pulls = (np.asarray(result.rv_kms) - rv_kms) / np.asarray(result.e_rv)
    clean = np.asarray(result.flags) == 0
    assert clean.mean() > 0.8
    assert np.mean(np.abs(pulls[clean]) < 4) > 0.97
    assert np.median(np.abs(pulls[clean])) < 1.0
    # Good enough that the joint fit, which reaches 33 km/s, finds the minimum from here.
    assert np.mean(np.abs(np.asarray(result.rv_kms) - rv_kms)[clean] < 25) > 0.97


def test_a_template_that_is_the_star_gives_unit_width_pulls(band_model, band_grid, observe_stars):
    rng = np.random.default_rng(4)
    n = 300
    scaled = np.tile(np.float32([[0.1, -0.2, 0.1, 0.0]]), (n, 1))
    rv_kms = rng.uniform(-150, 150, n)
    batch = observe_stars(band_model, band_grid, scaled, rv_kms, np.full(n, 40.0), rng)
    labels = band_model.label_space.unscale(scaled[:1])
    bank = bank_from_model(
        band_model, band_grid, nodes=labels, velocities=VelocityGrid(-400.0, 400.0, 40.0)
    )
    result = measure_velocity(batch, bank)
    pulls = (np.asarray(result.rv_kms) - rv_kms) / np.asarray(result.e_rv)
    assert abs(pulls.mean()) < 0.15
    assert 0.88 < pulls.std() < 1.12
    assert (np.asarray(result.flags) == 0).mean() > 0.98


def test_bad_pixels_padding_and_faint_stars_are_flagged_not_trusted(bank, moving):
    batch, _ = moving
    flux, ivar = np.array(batch.flux), np.array(batch.ivar)
    flux[ivar == 0] = np.nan
    flux[1], ivar[1] = np.random.default_rng(0).normal(1, 1.0, flux.shape[1]), 1.0
    ivar[0] = 0.0
    result = measure_velocity(SpectrumBatch(*jax.device_put((flux, ivar, ivar)), batch.grid), bank)
    flags = np.asarray(result.flags)
    assert flags[0] == int(QualityFlag.NO_GOOD_PIXELS)
    assert np.isnan(np.asarray(result.rv_kms)[0])
    assert np.isnan(np.asarray(result.e_rv)[0])
    # Pure noise: other velocities are as good, or none within the range is.
    assert flags[1] & int(QualityFlag.MULTIPLE_MINIMA | QualityFlag.VELOCITY_AT_EDGE)
    whole = measure_velocity(batch, bank)
    np.testing.assert_array_equal(np.asarray(result.rv_kms)[2:], np.asarray(whole.rv_kms)[2:])


def test_stated_errors_that_are_too_small_do_not_make_velocities_surer(bank, moving):
    batch, _ = moving
    ivar = jax.device_put(100 * np.asarray(batch.ivar))
    bold = SpectrumBatch(batch.flux, ivar, ivar, batch.grid)
    honest, result = measure_velocity(batch, bank), measure_velocity(bold, bank)
    # Chi-square is a hundred times as large: the widening by its root takes back the factor of ten.
    ratio = np.asarray(result.e_rv) / np.asarray(honest.e_rv)
    assert 0.9 < np.nanmedian(ratio) < 1.1


def test_a_velocity_beyond_the_grid_is_at_its_edge(band_model, band_grid, observe_stars, bank):
    rng = np.random.default_rng(5)
    # As many as there are elsewhere: their program serves.
    scaled, rv_kms = np.zeros((N_STAR, 4), np.float32), np.zeros(N_STAR)
    rv_kms[0] = 430.0
    batch = observe_stars(band_model, band_grid, scaled, rv_kms, np.full(N_STAR, 200.0), rng)
    flags = np.asarray(measure_velocity(batch, bank).flags)
    assert flags[0] & int(QualityFlag.VELOCITY_AT_EDGE)
    assert not (flags[1:] & int(QualityFlag.VELOCITY_AT_EDGE)).any()


def test_the_contrast_of_a_template_may_differ_from_the_star():
    grid = PixelGrid.linear(6000.0, 6600.0, 1.0)
    wave = np.arange(5900.0, 6700.0, 0.25)
    lines = sum(np.exp(-(((wave - centre) / 5.0) ** 2)) for centre in (6103.0, 6250.0, 6444.0))
    bank = bank_from_templates(
        [(wave, 1 - 0.6 * lines)], grid, masks=(), velocities=VelocityGrid(-200.0, 200.0, 40.0)
    )
    star = np.interp(grid.wave_aa / (1 - 70 / 299_792.458), wave, 1 - 0.3 * lines)
    flux = np.float32(star / star.mean())[None]
    ivar = np.full_like(flux, 1e4)
    result = measure_velocity(SpectrumBatch(*jax.device_put((flux, ivar, ivar)), grid), bank)
    assert float(np.asarray(result.rv_kms)[0]) == pytest.approx(-70.0, abs=2.5)


def test_a_template_tells_its_own_velocity_by_its_lines():
    wave = np.arange(7600.0, 8800.0, 0.3)
    flux = 1.0 + 1e-4 * (wave - 8000)
    for line in (7701.08, 8544.44, 8664.52):
        centre = line * (1 - 6.5 / 299_792.458)
        flux = flux - 0.3 * np.exp(-0.5 * ((wave - centre) / 2.0) ** 2)
    assert measure_line_velocity(wave, flux) == pytest.approx(-6.5, abs=0.1)
    with pytest.raises(MismatchError, match="7701"):
        measure_line_velocity(wave[wave > 8000], flux[wave > 8000])


def test_unusable_grids_are_refused(band_model, band_grid, bank, moving):
    with pytest.raises(UsageError, match="four steps"):
        VelocityGrid(-50.0, 50.0, 40.0)
    with pytest.raises(UsageError, match="coarser than the pixels"):
        bank_from_model(band_model, band_grid, velocities=VelocityGrid(-600.0, 600.0, 120.0))
    with pytest.raises(MismatchError, match="numbers of nodes"):
        bank_from_model(band_model, band_grid, nodes=[2, 2])
    wave = np.arange(4000.0, 5000.0)
    with pytest.raises(MismatchError, match="range of the spectra"):
        bank_from_templates([(wave, np.ones(1000))], band_grid)
    other = PixelGrid.linear(6000.0, 6100.0, 1.0)
    flux = jax.device_put(np.ones((1, 101), np.float32))
    with pytest.raises(MismatchError, match="make the bank"):
        measure_velocity(SpectrumBatch(flux, flux, flux, other), bank)


def test_velocities_of_real_m_dwarfs_agree_with_their_headers(real_data):
    """Bochanski templates on the M dwarfs of the LAMOST plate with version 2.9.8 of the pipeline.

    The twelve stars of plate B6212 (pipeline 2.6.4) are left out: their wavelength scale is
    stretched by 50-60 km/s between 6000 and 8900 Angstrom, and their header velocities lie 60-120
    km/s below what any part of their spectra shows, so neither can serve as truth.
    """
    from jaxmdwarf.io.spectra.readers import read_spectrum
    from jaxmdwarf.preprocess.batch import preprocess_batch

    stored = np.load(real_data / BOCHANSKI)
    templates = [(stored[name][:, 0], stored[name][:, 1]) for name in stored.files[:6]]
    own = [measure_line_velocity(*template) for template in templates]
    bank = bank_from_templates(
        templates, PAPER_GRID, own_velocity_kms=own, velocities=VelocityGrid(-400.0, 400.0)
    )
    paths = sorted((real_data / "lamost").glob("spec-58575-*"))
    raws = [read_spectrum(path) for path in paths]
    raws = [raw for raw in raws if np.isfinite(raw.meta.snr_i)]
    assert len(raws) >= 6
    result = measure_velocity(preprocess_batch(raws), bank)
    miss = np.asarray(result.rv_kms) - [raw.meta.z * 299_792.458 for raw in raws]
    assert (np.asarray(result.flags) == 0).all()
    assert abs(np.median(miss)) < 5.0
    assert 1.4826 * np.median(np.abs(miss - np.median(miss))) < 10.0
