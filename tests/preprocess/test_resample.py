"""Resampling conserves flux and information, honours bad pixels and agrees with its peers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import jaxmdwarf.preprocess.resample as resample_module
from jaxmdwarf.errors import MismatchError, RejectedInput, UsageError
from jaxmdwarf.preprocess.resample import (
    overlap_fraction,
    require_overlap,
    resample,
    shift_spectra,
)
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid, doppler_factor

LAMOST = 10 ** (3.5682 + 1e-4 * np.arange(3909))
GRIDS = [
    PixelGrid.linear(6450.0, 7000.0, 1.0),
    PixelGrid.logarithmic(6450.0, 7000.0, 2.0e-4),
    PixelGrid.linear(6450.0, 7000.0, 7.0),
]
SHIFT_GRIDS = [PAPER_GRID, PixelGrid.logarithmic(6000.0, 8900.0, 1.5e-4)]


def raw_spectrum(seed=0, bad=0.0, wave=LAMOST):
    rng = np.random.default_rng(seed)
    flux = rng.normal(10.0, 1.0, wave.size)
    ivar = rng.uniform(0.5, 2.0, wave.size)
    ivar[rng.random(wave.size) < bad] = 0.0
    return RawSpectrum(wave, np.where(ivar > 0, flux, 0.0), ivar)


def overlap_matrix(wave, grid, rv_kms=0.0):
    """Length of each input pixel (columns) within each output pixel (rows), by brute force."""
    edges = np.concatenate(
        (
            [1.5 * wave[0] - 0.5 * wave[1]],
            (wave[1:] + wave[:-1]) / 2,
            [1.5 * wave[-1] - wave[-2] / 2],
        )
    ) / doppler_factor(rv_kms)
    left = np.maximum(edges[:-1], grid.edges_aa[:-1, None])
    right = np.minimum(edges[1:], grid.edges_aa[1:, None])
    return np.clip(right - left, 0.0, None)


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log", "coarse"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flux_variance_and_row_sums_are_those_of_the_full_covariance(grid, dtype):
    wave = LAMOST[(LAMOST > 6400) & (LAMOST < 7050)]
    raws = [raw_spectrum(0, wave=wave), raw_spectrum(1, bad=0.03, wave=wave)]
    velocity = np.array([0.0, -120.0])
    out = resample(raws, grid, rv_kms=velocity, max_bad_fraction=0.25, dtype=dtype)
    tolerance = 1e-9 if dtype is np.float64 else 1e-5
    for row, (raw, speed) in enumerate(zip(raws, velocity, strict=True)):
        length = overlap_matrix(raw.wave_aa, grid, speed) * (raw.ivar > 0)
        covered = length.sum(axis=1)
        keep = covered >= 0.75 * grid.widths_aa
        weight = np.where(keep[:, None], length / np.maximum(covered, 1e-9)[:, None], 0.0)
        variance = np.where(raw.ivar > 0, 1 / np.where(raw.ivar > 0, raw.ivar, 1), 0)
        covariance = (weight * variance) @ weight.T
        np.testing.assert_array_equal(out.ivar[row] > 0, keep)
        np.testing.assert_allclose(out.flux[row], weight @ raw.flux, rtol=0, atol=20 * tolerance)
        np.testing.assert_allclose(
            out.ivar[row][keep], 1 / np.diag(covariance)[keep], rtol=3 * tolerance
        )
        np.testing.assert_allclose(
            out.information[row][keep], 1 / covariance.sum(axis=1)[keep], rtol=3 * tolerance
        )
        assert not out.information[row][~keep].any()


def test_agrees_with_specutils_and_spectres():
    specutils = pytest.importorskip("specutils")
    spectres = pytest.importorskip("spectres")
    import astropy.units as u
    from astropy.nddata import InverseVariance
    from specutils.manipulation import FluxConservingResampler

    raw, grid = raw_spectrum(4), PixelGrid.linear(6500.0, 6900.0, 1.0)
    ours = resample([raw], grid, dtype=np.float64)
    flux, error = spectres.spectres(
        grid.wave_aa, raw.wave_aa, raw.flux, spec_errs=raw.ivar**-0.5, verbose=False
    )
    np.testing.assert_allclose(ours.flux[0], flux, rtol=1e-9)
    np.testing.assert_allclose(ours.ivar[0], error**-2, rtol=1e-9)
    spectrum = specutils.Spectrum(
        flux=raw.flux * u.Jy,
        spectral_axis=raw.wave_aa * u.AA,
        uncertainty=InverseVariance(raw.ivar / u.Jy**2),
    )
    theirs = FluxConservingResampler()(spectrum, grid.wave_aa * u.AA)
    np.testing.assert_allclose(ours.flux[0], theirs.flux.value, rtol=1e-9)
    np.testing.assert_allclose(ours.ivar[0], theirs.uncertainty.array, rtol=1e-9)


@pytest.mark.parametrize("width_aa", [3.0, 10.0, 60.0])
@pytest.mark.parametrize("bad", [0.0, 0.02])
def test_information_keeps_the_fisher_information_of_a_feature_and_ivar_does_not(width_aa, bad):
    raw = raw_spectrum(7, bad=bad)
    # Noise that varies by a factor of two along the spectrum, as an instrument's does.
    ivar = (raw.ivar > 0) * (1.5 + 0.5 * np.sin(raw.wave_aa / 40.0))
    raw = RawSpectrum(raw.wave_aa, raw.flux, ivar)
    out = resample([raw], PAPER_GRID, max_bad_fraction=0.25, dtype=np.float64)

    def feature(wave):
        return sum(np.exp(-0.5 * ((wave - c) / width_aa) ** 2) for c in range(6300, 8800, 170))

    native = (feature(raw.wave_aa) ** 2 * raw.ivar).sum()
    with_information = (feature(PAPER_GRID.wave_aa) ** 2 * out.information[0]).sum()
    with_ivar = (feature(PAPER_GRID.wave_aa) ** 2 * out.ivar[0]).sum()
    # A line of 3 Angstrom (sigma) is not much wider than the 2 Angstrom of an input pixel.
    assert with_information == pytest.approx(native, rel=0.02 if width_aa < 5 else 0.003)
    assert with_ivar > 2.0 * native


def test_noise_of_a_fitted_amplitude_is_what_information_says():
    rng = np.random.default_rng(12)
    crop = LAMOST[(LAMOST > 6900) & (LAMOST < 7100)]
    grid = PixelGrid.linear(6920.0, 7080.0, 1.0)
    raws = [RawSpectrum(crop, rng.normal(size=crop.size), np.ones(crop.size)) for _ in range(2000)]
    out = resample(raws, grid, dtype=np.float64)
    feature = np.exp(-0.5 * ((grid.wave_aa - 7000.0) / 8.0) ** 2)
    fisher = (feature**2 * out.information).sum(axis=1)
    amplitude = (feature * out.information * out.flux).sum(axis=1) / fisher
    assert amplitude.std() * np.sqrt(fisher.mean()) == pytest.approx(1.0, abs=0.05)


def test_total_flux_is_conserved_and_rest_frame_moves_lines():
    line = np.exp(-0.5 * ((LAMOST - 7000.0) / 5.0) ** 2)
    raw = RawSpectrum(LAMOST, line, np.ones(LAMOST.size))
    out = resample([raw, raw], PAPER_GRID, rv_kms=np.array([0.0, 300.0]), dtype=np.float64)
    wave, area = PAPER_GRID.wave_aa, 5.0 * np.sqrt(2 * np.pi)
    centroid = (out.flux * wave).sum(axis=1) / out.flux.sum(axis=1)
    np.testing.assert_allclose(
        out.flux.sum(axis=1), [area, area / doppler_factor(300.0)], rtol=1e-4
    )
    np.testing.assert_allclose(centroid, [7000.0, 7000.0 / doppler_factor(300.0)], atol=2e-3)


def test_a_batch_equals_one_by_one_in_threads_and_in_any_units():
    raws = [raw_spectrum(seed, bad=0.01) for seed in range(70)]
    # Neighbours of other layouts, at rest and as fast as no star is; single pixels as well.
    raws[3] = raw_spectrum(98, wave=LAMOST[200:3700])
    raws[5] = raw_spectrum(97, wave=np.arange(5000.0, 9500.0, 1.3))
    raws[35] = raw_spectrum(96, wave=np.arange(5800.0, 9300.0, 1.1))
    raws.append(raw_spectrum(99, wave=LAMOST[100:3700]))
    velocity = np.linspace(-200, 200, len(raws))
    velocity[[7, 9]] = 0.0
    velocity[34] = 90_000.0
    for keep_units in (True, False):
        how = {"grid": PAPER_GRID, "keep_units": keep_units}
        together = resample(raws, **how, rv_kms=velocity, threads=2)
        for row in (0, 3, 5, 7, 8, 33, 34, 35, 70):
            alone = resample([raws[row]], **how, rv_kms=velocity[row : row + 1])
            for one, many in zip(alone, together, strict=True):
                np.testing.assert_array_equal(many[row], one[0])
        alike = resample(raws[10:30], **how, rv_kms=velocity[10:30])
        for some, many in zip(alike, together, strict=True):
            np.testing.assert_array_equal(many[10:30], some)
    faint = RawSpectrum(LAMOST, raws[0].flux * 1e-17, raws[0].ivar * 1e34)
    scaled = resample([faint, raws[0]], PAPER_GRID, keep_units=False)
    for values in scaled:
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


def test_shared_and_separate_geometries_give_one_answer():
    raws = [raw_spectrum(seed, bad=0.02) for seed in range(3)]
    shared = resample(raws, PAPER_GRID, dtype=np.float64)
    apart = resample(raws, PAPER_GRID, rv_kms=np.array([0.0, 1e-9, 0.0]), dtype=np.float64)
    for one, other in zip(shared, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("grid", GRIDS, ids=["linear", "log", "coarse"])
def test_closed_form_positions_are_those_of_the_search(grid, monkeypatch):
    raws = [raw_spectrum(seed, bad=0.02) for seed in range(4)]
    velocity = np.array([-800.0, -3.0, 0.0, 500.0])
    closed = resample(raws, grid, rv_kms=velocity, dtype=np.float64)
    monkeypatch.setattr(resample_module, "_locate_on_log_pixels", lambda *_: None)
    searched = resample(raws, grid, rv_kms=velocity, dtype=np.float64)
    for one, other in zip(closed, searched, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)
    assert any((one != other).any() for one, other in zip(closed, searched, strict=True))


def test_pixels_off_the_spectrum_are_bad_and_little_overlap_is_refused():
    short = raw_spectrum(wave=LAMOST[(LAMOST > 6000.0) & (LAMOST < 7000.0)])
    out = resample([short], PAPER_GRID)
    covered = PAPER_GRID.wave_aa < 6999.0
    assert (out.ivar[0][covered][3:] > 0).all()
    assert not out.ivar[0][PAPER_GRID.wave_aa > 7001.0].any()
    assert np.isfinite(out.flux).all()
    assert overlap_fraction(short, PAPER_GRID) == pytest.approx(1000 / 2900, abs=0.01)
    with pytest.raises(RejectedInput, match="cover 34%"):
        require_overlap(short, PAPER_GRID)
    blue = raw_spectrum(wave=LAMOST[LAMOST < 5000.0])
    assert overlap_fraction(blue, PAPER_GRID) == 0.0
    assert not resample([blue], PAPER_GRID).ivar.any()


def test_bad_calls_say_why():
    with pytest.raises(MismatchError, match="velocities"):
        resample([raw_spectrum()], PAPER_GRID, rv_kms=np.zeros(2))
    with pytest.raises(UsageError, match="max_bad_fraction"):
        resample([raw_spectrum()], PAPER_GRID, max_bad_fraction=1.0)


@pytest.mark.parametrize("grid", SHIFT_GRIDS, ids=["linear", "log"])
def test_shift_and_back_is_the_identity_away_from_the_ends(grid):
    rng = np.random.default_rng(5)
    wave = grid.wave_aa
    sigma = wave / 1800.0 / 2.3548
    lines = rng.uniform(6000, 8900, 300)
    flux = 1 - 0.3 * np.exp(-0.5 * ((wave[:, None] - lines) / sigma[:, None]) ** 2).sum(axis=1)
    flux = np.float32(np.tile(flux, (5, 1)))
    velocity = np.float32([-400.0, -35.5, 0.0, 12.0, 500.0])

    @jax.jit
    def there_and_back(flux, velocity):
        there = shift_spectra(flux, grid, velocity)
        return there, shift_spectra(there, grid, velocity, to_rest=True)

    there, back = map(np.asarray, there_and_back(flux, velocity))
    inside = (wave > 6030) & (wave < 8870)
    np.testing.assert_allclose(back[:, inside], flux[:, inside], atol=6e-3)
    np.testing.assert_array_equal(there[2], flux[2])


@pytest.mark.parametrize("grid", SHIFT_GRIDS, ids=["linear", "log"])
def test_shift_moves_a_line_to_its_doppler_wavelength_and_differentiates(grid):
    def line(v):
        at = 7000.0 * (1 + v / 299_792.458)
        return np.exp(-0.5 * ((grid.wave_aa - at) / 4.0) ** 2)

    rest = np.float32(line(0.0))[None, :]
    move = jax.jit(lambda v: shift_spectra(jnp.asarray(rest), grid, v)[0])
    for v in (-250.0, 37.0, 410.0):
        np.testing.assert_allclose(move(np.float32([v])), line(v), atol=2e-3)
    slope = jax.jit(jax.jacfwd(move))(np.float32([37.0]))[:, 0]
    expected = (line(47.0) - line(27.0)) / 20.0
    np.testing.assert_allclose(slope, expected, atol=0.02 * np.abs(expected).max())


FINE = PixelGrid.linear(6500.0, 6560.0, 1.5)
"""Edges from 6499.25 to 6560.75 Angstrom, which `WHOLE` covers whatever its pixels are."""
LEVELS = st.integers(-8000, 8000).map(lambda number: number / 8.0)
WHOLE = st.integers(20, 80).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=st.floats(0.25, 4.0)),
        *(arrays(float, n, elements=LEVELS) for _ in range(2)),
    )
)
a_few = settings(max_examples=25, deadline=None, derandomize=True)


def make_raw(steps, flux, ivar=None):
    """A spectrum whose pixels have widths of any ratio, from 6490 to 6570 Angstrom."""
    at = np.cumsum(steps)
    wave = 6490.0 + 80.0 * (at - at[0]) / (at[-1] - at[0])
    return RawSpectrum(wave, flux, np.ones(len(flux)) if ivar is None else ivar)


@given(WHOLE, st.floats(-300.0, 300.0))
@a_few
def test_the_integral_of_any_spectrum_over_the_grid_is_kept(pixels, rv_kms):
    steps, flux, _ = pixels
    raw = make_raw(steps, flux)
    factor = doppler_factor(rv_kms)
    (out,) = resample([raw], FINE, rv_kms=rv_kms, dtype=np.float64).flux
    wave = raw.wave_aa / factor
    middle = (wave[1:] + wave[:-1]) / 2
    edges = np.concatenate(([2 * wave[0] - middle[0]], middle, [2 * wave[-1] - middle[-1]]))
    grown = np.concatenate(([0.0], np.cumsum(flux * np.diff(edges))))
    expected = np.diff(np.interp(FINE.edges_aa[[0, -1]], edges, grown))
    np.testing.assert_allclose(np.sum(out) * 1.5, expected, rtol=1e-9, atol=1e-6)


@given(WHOLE, st.floats(-3.0, 3.0), st.integers(0, 19))
@a_few
def test_resampling_is_linear_in_the_flux_of_good_pixels(pixels, weight, bad):
    steps, one, other = pixels
    ivar = np.ones(len(one))
    ivar[bad] = 0.0
    raws = [
        make_raw(steps, np.where(ivar > 0, f, 0), ivar) for f in (one, other, one + weight * other)
    ]
    out = resample(raws, FINE, max_bad_fraction=0.9, dtype=np.float64)
    a, b, both = out.flux
    np.testing.assert_allclose(both, a + weight * b, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(out.ivar, np.broadcast_to(out.ivar[0], out.ivar.shape), rtol=1e-9)


@given(
    arrays(float, FINE.n_pix, elements=LEVELS),
    arrays(float, FINE.n_pix, elements=st.sampled_from([0.3, 0.0, 1e-6, 4e5])),
)
@a_few
def test_pixels_of_the_grid_itself_stay_what_they_are(flux, ivar):
    ivar[3] = 2.0
    flux = np.where(ivar > 0, flux, 0.0)
    out = resample([RawSpectrum(FINE.wave_aa, flux, ivar)], FINE, dtype=np.float64)
    np.testing.assert_allclose(out.flux[0], flux, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(out.ivar[0], ivar, rtol=1e-9)
    np.testing.assert_allclose(out.information[0], ivar, rtol=1e-6)
