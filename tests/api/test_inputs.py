"""Whatever holds spectra is read alike; what does not is refused in one line with a remedy."""

import os
from pathlib import Path

import numpy as np
import pytest

import jaxmdwarf as jm
from jaxmdwarf.errors import JaxmdwarfError, RejectedInput, UsageError, WorkFailed

WAVE = np.arange(6000.0, 8900.0)
FLUX = 1.0 + 0.2 * np.sin(WAVE / 60.0)
IVAR = np.full(WAVE.size, 400.0)
SPECTRUM = jm.Spectrum(WAVE, FLUX, IVAR)
DATA = Path(os.environ.get("JAXMDWARF_TEST_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real spectra at hand")


def same(found, expected=SPECTRUM):
    assert np.allclose(found.wave_aa, expected.wave_aa)
    assert np.allclose(found.flux, expected.flux)
    assert np.allclose(found.ivar, expected.ivar)


def with_units():
    import astropy.units as u

    return (WAVE / 10 * u.nm, FLUX * u.mJy / u.mJy, IVAR)


def dimensionless():
    import astropy.units as u

    return (WAVE / 10 * u.dimensionless_unscaled, FLUX, IVAR)


def in_kelvin():
    import astropy.units as u

    return (WAVE * u.K, FLUX, IVAR)


def shuffled():
    order = np.random.default_rng(0).permutation(WAVE.size)
    return WAVE[order], FLUX[order], IVAR[order]


def as_specutils():
    import astropy.units as u
    from astropy.nddata import InverseVariance

    specutils = pytest.importorskip("specutils")
    make = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    return make(
        spectral_axis=WAVE * u.AA,
        flux=FLUX * u.dimensionless_unscaled,
        uncertainty=InverseVariance(IVAR),
    )


def with_deviations():
    from astropy.nddata import StdDevUncertainty

    return WAVE, FLUX, StdDevUncertainty(np.full(WAVE.size, 0.05))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (WAVE, FLUX, IVAR),
        lambda: [WAVE, FLUX, IVAR],
        lambda: (WAVE.tolist(), FLUX.tolist(), IVAR.tolist()),
        lambda: (WAVE, FLUX, 400.0),
        lambda: np.stack([WAVE, FLUX, IVAR]),
        lambda: SPECTRUM,
        lambda: [SPECTRUM],
        lambda: [(WAVE, FLUX, IVAR)],
        with_units,
        shuffled,
        as_specutils,
        with_deviations,
    ],
)
def test_one_spectrum_is_the_same_however_it_is_given(make):
    found = jm.read(make())
    assert (len(found), found.rejects) == (1, ())
    same(found[0])


def test_rows_are_spectra_and_what_they_share_is_given_once():
    flux = np.stack([FLUX, 2 * FLUX, 3 * FLUX])
    for x in (
        (WAVE, flux, 400.0),
        (WAVE, flux, IVAR),
        (WAVE, flux, np.tile(IVAR, (3, 1))),
        (np.tile(WAVE, (3, 1)), flux, IVAR),
        (WAVE, flux.tolist(), IVAR),
    ):
        found = jm.read(x)
        assert len(found) == 3
        for row, spectrum in enumerate(found):
            same(spectrum, jm.Spectrum(WAVE, flux[row], IVAR))


def test_rows_of_a_specutils_object_are_spectra():
    one = as_specutils()
    many = type(one)(
        spectral_axis=one.spectral_axis,
        flux=np.stack([one.flux.value, one.flux.value]) * one.flux.unit,
        uncertainty=type(one.uncertainty)(np.stack([IVAR, IVAR])),
    )
    assert [spectrum.n_pix for spectrum in jm.read(many)] == [WAVE.size] * 2
    assert len(jm.read([one, many])) == 3


def test_one_bad_pixel_is_masked_and_said():
    flux = FLUX.copy()
    flux[7] = np.nan
    spectrum = jm.read((WAVE, flux, IVAR))[0]
    assert spectrum.ivar[7] == 0
    assert spectrum.meta.had_nonfinite


def test_among_several_the_bad_are_set_aside_and_the_others_go_on():
    bad = (WAVE, FLUX, np.zeros(WAVE.size))
    found = jm.read([SPECTRUM, bad, (WAVE, FLUX, IVAR), "nowhere.fits"])
    assert len(found) == 2
    assert [reject.path for reject in found.rejects] == ["spectrum 1", "nowhere.fits"]
    assert all(reject.reason and reject.remedy for reject in found.rejects)
    assert "rejected nowhere.fits: no such file" in repr(found)
    rows = jm.read((WAVE, np.stack([FLUX, FLUX * np.nan]), IVAR))
    assert (len(rows), rows.rejects[0].path) == (1, "spectrum 1")


BAD = {
    "nanometres without a unit": (lambda: (WAVE / 10, FLUX, IVAR), RejectedInput, "wave_unit='nm'"),
    "a quantity without its unit": (dimensionless, RejectedInput, "wave_unit='nm'"),
    "a unit of something else": (in_kelvin, UsageError, "wave_unit='Angstrom'"),
    "microns": (lambda: (WAVE / 1e4, FLUX, IVAR), RejectedInput, "wave_unit='um'"),
    "no uncertainty": (lambda: (WAVE, FLUX), UsageError, "sigma="),
    "one pixel less": (lambda: (WAVE, FLUX[1:], IVAR), UsageError, "each pixel"),
    "ivar of another shape": (lambda: (WAVE, FLUX, IVAR[:10]), UsageError, "one for all"),
    "transposed": (
        lambda: (WAVE, np.ones((WAVE.size, 3)), np.ones((WAVE.size, 3))),
        UsageError,
        "transpose flux?",
    ),
    "an image": (lambda: (WAVE, np.ones((2, 2, 3)), IVAR), UsageError, "n_spectra"),
    "ragged": (lambda: (WAVE, [[1.0, 2.0], [1.0]], IVAR), UsageError, "list of (wave, flux, ivar)"),
    "repeated wavelengths": (lambda: (WAVE * 0 + 6000, FLUX, IVAR), RejectedInput, "np.unique"),
    "all NaN": (lambda: (WAVE, FLUX * np.nan, IVAR), RejectedInput, "ivar > 0"),
    "an empty list": (list, UsageError, "give a path"),
    "no rows": (lambda: (WAVE, np.ones((0, WAVE.size)), IVAR), UsageError, "give a path"),
    "None": (lambda: None, UsageError, "give a path"),
    "flux alone": (lambda: FLUX, UsageError, "(wave, flux, ivar)"),
    "a mapping": (lambda: {"wave": WAVE}, UsageError, "give a path"),
    "a file that is not there": (lambda: "nowhere.fits", RejectedInput, "check the path"),
    "a pattern without a match": (lambda: "nowhere/*.fits", RejectedInput, "check the pattern"),
    "files that are not there": (lambda: ["a.fits", "b.fits"], WorkFailed, "check the path"),
    "nothing usable": (lambda: [(WAVE, FLUX, 0.0)] * 2, WorkFailed, "ivar > 0"),
    "a wrong item": (lambda: [SPECTRUM, 7], UsageError, "give a path"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_spectrum_is_refused_in_one_line_with_a_remedy(case):
    make, kind, remedy = BAD[case]
    with pytest.raises(kind) as caught:
        jm.read(make())
    assert isinstance(caught.value, JaxmdwarfError)
    assert remedy in caught.value.remedy
    assert "\n" not in str(caught.value)


def test_remedies_work():
    same(jm.read((WAVE / 10, FLUX, IVAR), wave_unit="nm")[0])
    same(jm.read((WAVE / 1e4, FLUX, IVAR), wave_unit="um")[0])
    assert jm.read((WAVE, FLUX, IVAR), medium="air")[0].wave_aa[0] > WAVE[0] + 1.5
    with pytest.raises(UsageError, match="medium"):
        jm.read((WAVE, FLUX, IVAR), medium="water")
    with pytest.raises(UsageError, match="processes"):
        jm.read("x.fits", processes=0)


@needs_data
def test_real_files_are_read_alone_in_lists_and_in_folders():
    lamost = sorted((DATA / "lamost").glob("spec-55862-*.fits.gz"))[:3]
    sdss = DATA / "sdss_spec-0618-52049-0372_lite.fits.gz"
    found = jm.read([lamost[0], sdss, SPECTRUM, *lamost[1:]], processes=1)
    names = [spectrum.meta.path for spectrum in found]
    assert names == [str(lamost[0]), str(sdss), "", *map(str, lamost[1:])]
    assert len(jm.read(str(DATA / "lamost" / "spec-55862-B6212_sp06-01*"), processes=1)) == 2
    with pytest.raises(RejectedInput, match=r"index\.csv"):
        jm.read(DATA / "lamost" / "index.csv")
