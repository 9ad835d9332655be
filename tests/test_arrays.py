"""Spectra from arrays, lists, quantities and specutils objects: converted, or refused in a line."""

import re

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.table import Table

from jaxmdwarf.arrays import clean_pixels, header_says_air, says_vacuum
from jaxmdwarf.errors import JaxmdwarfError, RejectedInput, UsageError
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import vacuum_to_air

WAVE = np.linspace(6000.0, 8900.0, 500)
FLUX = 3.0 + np.sin(WAVE / 40.0)
IVAR = 16.0 + WAVE / 1000.0
HZ = 299_792_458.0 / (WAVE * 1e-10)


def make(wave=WAVE, flux=FLUX, ivar=IVAR, **options):
    return RawSpectrum.from_arrays(wave, flux, ivar, **options)


def assert_is_the_spectrum(spectrum, rtol=1e-10):
    np.testing.assert_allclose(spectrum.wave_aa, WAVE, rtol=rtol)
    np.testing.assert_allclose(spectrum.flux, FLUX, rtol=max(rtol, 1e-12))
    np.testing.assert_allclose(spectrum.ivar, IVAR, rtol=max(rtol, 1e-12))
    assert not spectrum.meta.had_nonfinite


@pytest.mark.parametrize(
    ("wave", "options"),
    [
        (WAVE, {}),
        (WAVE.tolist(), {}),
        (WAVE * u.AA, {}),
        (WAVE / 10 * u.nm, {}),
        (WAVE / 1e4 * u.um, {}),
        (WAVE / 10, {"wave_unit": "nm"}),
        (WAVE / 1e4, {"wave_unit": "micron"}),
        (WAVE / 1e4, {"wave_unit": u.micron}),
        (WAVE / 1e7, {"wave_unit": "mm"}),
        (Table({"w": WAVE / 10 * u.nm})["w"], {}),
        (vacuum_to_air(WAVE), {"medium": "air"}),
        (vacuum_to_air(WAVE) / 10 * u.nm, {"medium": "air"}),
    ],
)
def test_wavelengths_of_any_unit_become_vacuum_angstrom(wave, options):
    assert_is_the_spectrum(make(wave, **options), rtol=1e-9)


def test_lists_and_quantities_of_flux_give_the_same():
    unit = u.Unit(1e-17 * u.erg / u.s / u.cm**2 / u.AA)
    assert_is_the_spectrum(make(flux=FLUX.tolist(), ivar=IVAR.tolist()))
    assert_is_the_spectrum(make(flux=FLUX * unit))
    assert_is_the_spectrum(make(flux=FLUX * unit, ivar=IVAR / unit**2))
    assert_is_the_spectrum(make(flux=FLUX * unit, ivar=None, sigma=IVAR**-0.5 * unit))
    finer = (IVAR**-0.5 * unit).to(u.W / u.m**2 / u.um)
    assert_is_the_spectrum(make(flux=FLUX * unit, ivar=None, sigma=finer))
    assert_is_the_spectrum(make(ivar=None, sigma=IVAR**-0.5))


@pytest.mark.parametrize(
    "uncertainty",
    [InverseVariance(IVAR), StdDevUncertainty(IVAR**-0.5), VarianceUncertainty(1 / IVAR)],
)
def test_uncertainties_of_astropy_are_understood(uncertainty):
    assert_is_the_spectrum(make(ivar=uncertainty))


def test_one_number_stands_for_all_pixels():
    assert (make(ivar=None, sigma=0.5).ivar == 4.0).all()
    assert (make(ivar=4).ivar == 4.0).all()


def test_flux_per_frequency_becomes_flux_per_wavelength():
    # A source of constant f_nu has f_lambda falling as the square of the wavelength.
    flat = np.full(WAVE.size, 2.0)
    spectrum = make(flux=flat * u.mJy, ivar=None, sigma=0.1 * u.mJy)
    np.testing.assert_allclose(spectrum.flux * WAVE**2 / (spectrum.flux[0] * WAVE[0] ** 2), 1.0)
    np.testing.assert_allclose(spectrum.flux * np.sqrt(spectrum.ivar), 20.0)
    assert 1.0 < np.median(spectrum.flux) < 3.0
    by_frequency = make(HZ * u.Hz, flat * u.mJy, ivar=None, sigma=0.1 * u.mJy)
    np.testing.assert_allclose(by_frequency.wave_aa, WAVE)
    np.testing.assert_allclose(by_frequency.flux, spectrum.flux)


def test_pixels_in_disorder_are_sorted():
    order = np.random.default_rng(3).permutation(WAVE.size)
    assert_is_the_spectrum(make(WAVE[order], FLUX[order], IVAR[order]))
    assert_is_the_spectrum(make(WAVE[::-1], FLUX[::-1], ivar=None, sigma=IVAR[::-1] ** -0.5))


def test_every_kind_of_bad_pixel_is_masked():
    wave, flux, ivar = WAVE.copy(), FLUX.copy(), IVAR.copy()
    flux[3], flux[4], ivar[5], ivar[6], ivar[7], ivar[8] = np.nan, np.inf, np.nan, 0, -1, np.inf
    spectrum = make(wave, flux, ivar, mask=np.arange(WAVE.size) == 9)
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert spectrum.flux[[3, 4]].tolist() == [0.0, 0.0]
    assert spectrum.meta.had_nonfinite
    sigma = IVAR**-0.5
    sigma[[3, 4, 5, 6]] = 0.0, -1.0, np.nan, np.inf
    assert np.flatnonzero(make(ivar=None, sigma=sigma).ivar == 0).tolist() == [3, 4, 5, 6]
    hidden = np.ma.MaskedArray(FLUX, mask=np.arange(WAVE.size) == 11)
    assert np.flatnonzero(make(flux=hidden).ivar == 0).tolist() == [11]
    column = Table({"flux": hidden}, masked=True)["flux"]
    assert np.flatnonzero(make(flux=column).ivar == 0).tolist() == [11]
    wave[20] = np.nan
    assert make(wave).n_pix == WAVE.size - 1


def test_small_units_do_not_underflow():
    sigma = np.full(WAVE.size, 1e-25, np.float32)
    assert (make(flux=FLUX * 1e-23, ivar=None, sigma=sigma).ivar > 0).all()


def test_a_specutils_spectrum_is_taken_as_it_is():
    specutils = pytest.importorskip("specutils")
    spectrum_class = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    given = spectrum_class(
        flux=FLUX * u.Unit("erg / (s cm2 Angstrom)"),
        spectral_axis=WAVE / 10 * u.nm,
        uncertainty=InverseVariance(IVAR * u.Unit("erg / (s cm2 Angstrom)") ** -2),
        mask=np.arange(WAVE.size) == 7,
    )
    spectrum = RawSpectrum.from_arrays(given, obsid="star")
    np.testing.assert_allclose(spectrum.wave_aa, WAVE)
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [7]
    assert spectrum.meta.obsid == "star"
    in_air = RawSpectrum.from_arrays(given, medium="air")
    np.testing.assert_allclose(vacuum_to_air(in_air.wave_aa), WAVE)
    with pytest.raises(UsageError, match="brings its own flux"):
        RawSpectrum.from_arrays(given, FLUX)
    bare = spectrum_class(flux=FLUX * u.Jy, spectral_axis=WAVE * u.AA)
    with pytest.raises(RejectedInput, match="no uncertainty"):
        RawSpectrum.from_arrays(bare)


STAIRS = np.repeat(WAVE[::2], 2)
BAD = {
    "nanometres": ({"wave": WAVE / 10}, "600-890: nanometres", "wave_unit='nm'"),
    "micron": ({"wave": WAVE / 1e4}, "0.6-0.89: microns", "wave_unit='um'"),
    "log10": ({"wave": np.log10(WAVE)}, "log10 of Angstrom", r"10\*\*wave"),
    "ln": ({"wave": np.log(WAVE)}, "natural logarithms", "np.exp"),
    "hertz": ({"wave": HZ}, "frequencies", "wave_unit='Hz'"),
    "hertz without flux unit": ({"wave": HZ * u.Hz}, "per Hz or per Angstrom", "u.Jy"),
    "a velocity": ({"wave": WAVE * u.km / u.s}, "no unit of wavelength", "Angstrom"),
    "no unit": ({"wave_unit": "furlongs"}, "'furlongs' is unknown", "Angstrom"),
    "two units": ({"wave": WAVE * u.AA, "wave_unit": "nm"}, "wave_unit says nm", "only one"),
    "repeats": ({"wave": STAIRS}, "repeated", "np.unique"),
    "all NaN wavelengths": ({"wave": WAVE * np.nan}, "positive numbers", "every pixel"),
    "image": ({"flux": np.ones((3, 500))}, r"shape \(3, 500\)", "flux\\[0\\]"),
    "one number": ({"flux": 3.0}, r"shape \(\)", "a list"),
    "short flux": ({"flux": FLUX[:-2]}, "ivar has 500 values, flux 498", "each pixel"),
    "edges": ({"wave": np.append(WAVE, 8905.0)}, "501 values, flux 500", "centres"),
    "short mask": ({"mask": [True]}, "mask has 1 values", "each pixel"),
    "no uncertainty": ({"ivar": None}, "no uncertainty", "sigma="),
    "two uncertainties": ({"sigma": IVAR}, "either ivar or sigma", "each pixel"),
    "texts": ({"flux": ["a"] * 500}, "no vector of numbers", "numpy array"),
    "complex": ({"flux": FLUX * 1j}, "no vector of numbers", "numpy array"),
    "magnitudes": ({"flux": FLUX * u.ABmag}, "a logarithm", "linear"),
    "sigma in Jy": (
        {"flux": FLUX * u.W / u.m**2 / u.um, "ivar": None, "sigma": IVAR * u.Jy},
        "sigma has the unit Jy",
        "sigma.to",
    ),
    "ivar with a unit": ({"ivar": IVAR / u.Jy**2}, "flux has none", "as a Quantity"),
    "medium": ({"medium": "water"}, "'water' is unknown", "air"),
    "no flux": ({"flux": None}, "no flux", "pass wave, flux"),
    "stranger": ({"obs_id": "x"}, "'obs_id' is no field", "obsid"),
    "all masked": ({"mask": np.ones(500)}, "the mask covers all pixels", "ivar > 0"),
    "all NaN": ({"flux": FLUX * np.nan}, "NaN or infinite in every pixel", "ivar > 0"),
    "no weight": ({"ivar": 0.0}, "ivar is 0 or negative in every pixel", "ivar > 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_spectrum_is_refused_in_a_line_with_a_remedy(name):
    options, message, remedy = BAD[name]
    with pytest.raises(JaxmdwarfError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
    assert re.search(remedy, caught.value.remedy), caught.value.remedy


@pytest.mark.parametrize("value", [True, 1, 1.0, "T", "t", " T ", "true", b"T", np.True_])
def test_ways_to_write_vacuum(value):
    assert says_vacuum(value) is True
    assert not header_says_air({"VACUUM": value})


@pytest.mark.parametrize("value", [False, 0, 0.0, "F", "'F'", "false", "NO", b"F", np.int32(0)])
def test_ways_to_write_air(value):
    assert says_vacuum(value) is False
    assert header_says_air({"VACUUM": value, "CTYPE1": "WAVE"})


@pytest.mark.parametrize("value", [None, "", "?", 2, -1, float("nan")])
def test_a_keyword_that_says_nothing_leaves_the_word_to_others(value):
    assert says_vacuum(value) is None
    assert not header_says_air({"VACUUM": value})
    assert header_says_air({"VACUUM": value, "AIRORVAC": "air"})
    assert header_says_air({"VACUUM": value, "CTYPE1": "AWAV-LOG"})


def test_reasons_for_no_good_pixel_tell_mask_from_emptiness():
    ones, nans = np.ones(4), np.full(4, np.nan)
    everywhere = np.ones(4, bool)
    assert clean_pixels(ones, ones).why_empty == ""
    assert "NaN" in clean_pixels(nans, ones, everywhere).why_empty
    assert clean_pixels(ones, 0 * ones, everywhere).why_empty.startswith("ivar is 0")
    assert "a mask covers all pixels" in clean_pixels(ones, ones, everywhere).why_empty
    half = np.array([1.0, 1.0, 0.0, 0.0])
    assert "all 2 of 4" in clean_pixels(ones, half, everywhere).why_empty


@pytest.mark.parametrize("huge", [1e3, 1e5, 1e10, 1e15])
def test_a_huge_sigma_marks_a_bad_pixel_as_ivar_0_does(huge):
    sigma = np.linspace(1.0, 3.0, 101)
    marked, bad = np.array([3, 40, 100]), np.zeros(101, bool)
    bad[marked] = True
    cleaned = clean_pixels(np.full(101, 7.0), np.where(bad, huge, sigma) ** -2)
    np.testing.assert_array_equal(cleaned.ivar, np.where(bad, 0, sigma**-2))
    assert not cleaned.had_nonfinite


def test_pixels_that_are_only_noisy_are_kept():
    # Thirty times as noisy as half of the pixels, as at the ends of an arm.
    ivar = np.ones(100)
    ivar[:20] = 1 / 30.0**2
    np.testing.assert_array_equal(clean_pixels(np.ones(100), ivar).ivar, ivar)
    # The median is that of good pixels alone.
    ivar[50:] = 0
    np.testing.assert_array_equal(clean_pixels(np.ones(100), ivar).ivar, ivar)


@pytest.mark.parametrize("unit", ["m", "AA", "K", "s", "GHz", "mag", "deg", "km/s", "1/cm"])
def test_flux_in_units_that_are_none_of_flux_is_refused(unit):
    wave, flux = np.linspace(6000.0, 7000.0, 50), np.ones(50) * u.Unit(unit)
    with pytest.raises(UsageError, match=r"flux (has the unit|is in)"):
        RawSpectrum.from_arrays(wave, flux, ivar=np.ones(50))


@pytest.mark.parametrize("unit", ["adu", "electron/s", "ct", "erg/(s AA)", "W/(m2 um sr)", ""])
def test_flux_in_any_linear_unit_is_taken(unit):
    wave, flux = np.linspace(6000.0, 7000.0, 50), np.ones(50) * u.Unit(unit)
    taken = RawSpectrum.from_arrays(wave, flux, ivar=np.full(50, 4.0))
    np.testing.assert_array_equal(taken.flux, 1.0)
    np.testing.assert_array_equal(taken.ivar, 4.0)
