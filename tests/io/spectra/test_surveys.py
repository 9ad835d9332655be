"""Formats of many spectra a file: DESI, Milky Way Mapper, LAMOST medium resolution; SDSS masks."""

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.desi import join_arms
from jaxmdwarf.io.spectra.readers import (
    read_records,
    read_spectra,
    read_spectrum,
    stream_spectra,
)
from jaxmdwarf.io.spectra.records import NO_HEADER, Requirements
from jaxmdwarf.spectra import SpectrumMeta
from jaxmdwarf.wavelengths import air_to_vacuum

from .conftest import BOSS_WAVE, LIGHT_KMS, star, write_desi, write_mrs, write_mwm

NEEDED = Requirements()


def test_records_know_every_field_of_the_header():
    default = vars(SpectrumMeta())
    assert set(NO_HEADER) == set(default)
    for name, value in NO_HEADER.items():
        assert value == default[name] or (value != value and default[name] != default[name])


# --- DESI ----------------------------------------------------------------------------------------


def test_every_target_of_a_desi_file_is_a_spectrum(tmp_path):
    path = write_desi(tmp_path / "coadd-main-dark-1000.fits")
    spectra = read_spectra(path, requirements=NEEDED)
    assert [s.meta.obsid for s in spectra] == [str(39627000000000 + k) for k in range(3)]
    assert [(s.meta.index, s.meta.ra_deg, s.meta.dec_deg) for s in spectra] == [
        (k, 150.0 + k, 2.0 + k) for k in range(3)
    ]
    assert {s.meta.survey for s in spectra} == {"DESI"}
    assert spectra[1].meta.place == f"{path}[1]"
    for row, spectrum in enumerate(spectra):
        wave = spectrum.wave_aa
        np.testing.assert_allclose(wave, np.arange(3600.0, 9824.4, 0.8), atol=1e-6)
        # Pixels of one arm alone are as in the file.
        red = (wave > 6000.4) & (wave < 7500)
        expected = star(np.arange(5760.0, 7620.4, 0.8), seed=10 * row + 1, level=20.0 + row)[0]
        np.testing.assert_allclose(spectrum.flux[red], expected[300 + 1 : 2175], rtol=1e-6)
        assert (spectrum.ivar[red] == 4.0).all()
        # Two measurements of a pixel weigh twice.
        both = (wave > 7519.5) & (wave < 7620.5)
        assert both.sum() == 126
        np.testing.assert_allclose(spectrum.ivar[both], 8.0)
    one = read_spectrum(path, index=2)
    np.testing.assert_array_equal(one.flux, spectra[2].flux)
    with pytest.raises(RejectedInput, match="holds 3 spectra") as caught:
        read_spectrum(path)
    assert "index=0" in caught.value.remedy
    with pytest.raises(RejectedInput, match="no spectrum 7"):
        read_spectrum(path, index=7)


def test_a_desi_mask_counts_in_its_own_arm(tmp_path):
    def edit(images):
        images["R_MASK"][1, 2225] = 1 << 2  # 7540 Angstrom, which Z has too
        images["R_MASK"][1, 500] = 1 << 8  # 6160 Angstrom, which only R has
        images["R_FLUX"][1, 501] = np.nan

    spectra = read_spectra(write_desi(tmp_path / "a.fits", edit=edit))
    masked = [np.flatnonzero(s.ivar == 0).tolist() for s in spectra]
    assert masked[0] == masked[2] == []
    np.testing.assert_allclose(spectra[1].wave_aa[masked[1]], [6160.0, 6160.8])
    at = np.argmin(abs(spectra[1].wave_aa - 7540.0))
    assert spectra[1].ivar[at] == 4.0
    expected = star(np.arange(7520.0, 9824.4, 0.8), seed=12, level=21.0)[0][25]
    assert spectra[1].flux[at] == pytest.approx(expected, rel=1e-6)
    assert [s.meta.had_nonfinite for s in spectra] == [False, True, False]


def test_arms_on_grids_of_their_own_meet_in_the_middle():
    left = (np.arange(10.0, 21.0), np.full((1, 11), 1.0), np.full((1, 11), 3.0))
    right = (np.arange(15.4, 30.0), np.full((1, 15), 2.0), np.full((1, 15), 5.0))
    wave, flux, ivar, nonfinite = join_arms([right, left])
    middle = 0.5 * (15.4 + 20.0)
    assert (np.diff(wave) > 0).all()
    np.testing.assert_array_equal(flux[0], np.where(wave < middle, 1.0, 2.0))
    np.testing.assert_array_equal(ivar[0], np.where(wave < middle, 3.0, 5.0))
    assert not nonfinite.any()


def test_inverse_variance_weights_pixels_that_two_arms_share():
    wave = np.array([1.0, 2.0, 3.0])
    joined = join_arms(
        [
            (wave, np.array([[1.0, 1.0, 1.0]]), np.array([[1.0, 1.0, 3.0]])),
            (wave[2:] + 0.001, np.array([[5.0]]), np.array([[1.0]])),
        ]
    )
    np.testing.assert_allclose(joined[1], [[1.0, 1.0, 2.0]])
    np.testing.assert_allclose(joined[2], [[1.0, 1.0, 4.0]])


def test_rows_of_a_desi_file_that_cannot_serve_are_named(tmp_path):
    def edit(images):
        for arm in "BRZ":
            images[f"{arm}_IVAR"][1] = 0
        images["R_MASK"][3] = images["Z_MASK"][3] = 1

    path = write_desi(tmp_path / "a.fits", 4, edit=edit, objtype=["SKY", "TGT", "TGT", "TGT"])
    found = list(stream_spectra([str(path)], processes=1))
    rejects = [one for one in found if isinstance(one, Reject)]
    assert [r.spectrum for r in rejects] == [0, 1, 3]
    assert "sky fibre" in rejects[0].reason
    assert "in every pixel of every arm" in rejects[1].reason
    # What is left, the blue arm, is of no use.
    assert "of the pixels in 6000-8900 A are good" in rejects[2].reason
    assert [one.meta.index for one in found if not isinstance(one, Reject)] == [2]


def test_a_missing_arm_is_a_gap_and_not_covered(tmp_path):
    arms = {"B": (3600.0, 6010.0), "Z": (8500.0, 9824.0)}
    path = write_desi(tmp_path / "a.fits", 1, arms=arms)
    with pytest.raises(RejectedInput, match="which is 14 % of 6000-8900 A"):
        read_spectrum(path, requirements=NEEDED)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda images: images.update(R_IVAR=images["R_IVAR"][:2]), "arm R has wavelengths"),
        (lambda images: images.update(Z_WAVELENGTH=images["Z_WAVELENGTH"][::-1]), "do not incr"),
        (
            lambda images: images.update(
                {
                    f"{a}_{n}": images[f"{a}_{n}"][:2]
                    for a in "BRZ"
                    for n in ("FLUX", "IVAR", "MASK")
                }
            ),
            "FIBERMAP has 3 rows for 2 spectra",
        ),
    ],
)
def test_desi_files_that_contradict_themselves_are_refused(tmp_path, change, reason):
    with pytest.raises(RejectedInput, match=reason):
        read_records(write_desi(tmp_path / "a.fits", edit=change))


# --- Milky Way Mapper ----------------------------------------------------------------------------


def test_a_star_file_keeps_its_identifier_and_goes_back_to_the_barycentre(tmp_path):
    path = write_mwm(tmp_path / "mwmStar-0.6.0-54392544.fits", (1, 0, 1, 0), v_rad=35.0)
    spectrum = read_spectrum(path, requirements=NEEDED)
    assert spectrum.meta.obsid == "54392544"
    assert spectrum.meta.z * LIGHT_KMS == pytest.approx(35.0)
    assert (spectrum.meta.ra_deg, spectrum.meta.dec_deg) == (150.0, 2.0)
    # Astra multiplied by 1 - v/c.
    np.testing.assert_allclose(spectrum.wave_aa * (1 - 35.0 / LIGHT_KMS), BOSS_WAVE, rtol=1e-12)
    np.testing.assert_array_equal(spectrum.flux, star(BOSS_WAVE, seed=0)[0])
    assert (spectrum.ivar > 0).all()


def test_every_optical_visit_is_a_spectrum(tmp_path):
    path = write_mwm(
        tmp_path / "mwmVisit-0.6.0-54392544.fits",
        (2, 1, 3, 0),
        visits=True,
        v_rad=-80.0,
        in_stack=[True, False],
    )
    spectra = read_spectra(path)
    assert len(spectra) == 3
    assert {s.meta.obsid for s in spectra} == {"54392544"}
    shifted = BOSS_WAVE / (1 + 80.0 / LIGHT_KMS)
    np.testing.assert_allclose(spectra[0].wave_aa, shifted, rtol=1e-9)
    np.testing.assert_allclose(spectra[2].wave_aa, shifted, rtol=1e-9)
    # A visit that is in no stack was not shifted, and its velocity is not relied on.
    np.testing.assert_allclose(spectra[1].wave_aa, BOSS_WAVE, rtol=1e-9)
    assert np.isnan(spectra[1].meta.z)
    assert spectra[0].meta.z * LIGHT_KMS == pytest.approx(-80.0)
    np.testing.assert_array_equal(spectra[2].flux, star(BOSS_WAVE, seed=10)[0])


def test_mapper_files_without_optical_spectra_say_so(tmp_path):
    with pytest.raises(RejectedInput, match=r"1.5-1.7 micron \(2 in APOGEE/LCO\)"):
        read_spectrum(write_mwm(tmp_path / "a.fits", (0, 0, 0, 2)))
    with pytest.raises(RejectedInput, match="all its tables are empty"):
        read_spectrum(write_mwm(tmp_path / "b.fits", (0, 0, 0, 0)))


# --- LAMOST medium resolution --------------------------------------------------------------------


def test_medium_resolution_is_named_or_read_where_it_covers(tmp_path):
    path = write_mrs(tmp_path / "med.fits", ("COADD_B", "COADD_R", "R-84420148"))
    with pytest.raises(RejectedInput) as caught:
        read_spectrum(path, requirements=NEEDED)
    reason = caught.value.message
    assert "the red arm of a LAMOST medium-resolution spectrum covers 6300-6800 A" in reason
    assert "17 % of 6000-8900 A" in reason
    red = read_spectrum(path, requirements=Requirements(window_aa=(6350.0, 6750.0)))
    assert (red.meta.layout, red.meta.obsid) == ("lamost-mrs", "600904224")
    assert red.wave_aa[0] == pytest.approx(6300.0)
    assert (red.ivar > 0).all()
    with pytest.raises(RejectedInput, match=r"without a co-added red arm \(it holds COADD_B"):
        read_spectrum(write_mrs(tmp_path / "b.fits", ("COADD_B", "B-84420148")))


# --- masks and keywords of SDSS and LAMOST -------------------------------------------------------


@pytest.mark.parametrize("bit", [bit for bit in range(29) if bit != 23])
def test_bits_of_the_fibre_and_warnings_drop_no_pixel(tmp_path, write_spectrum, bit):
    mask = np.full(3909, 1 << bit)
    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", "sdss-coadd", and_mask=mask))
    assert (spectrum.ivar > 0).all()


def test_bright_sky_drops_its_pixels_and_a_spectrum_without_others_is_named(
    tmp_path, write_spectrum
):
    mask = np.where(np.arange(3909) < 100, 1 << 23 | 1 << 4, 1 << 4)
    some = read_spectrum(write_spectrum(tmp_path / "a.fits", "sdss-coadd", and_mask=mask))
    assert np.flatnonzero(some.ivar == 0).tolist() == list(range(100))
    path = write_spectrum(tmp_path / "b.fits", "sdss-coadd", and_mask=np.full(3909, 1 << 23))
    with pytest.raises(RejectedInput, match="BRIGHTSKY of and_mask covers all pixels") as caught:
        read_spectrum(path)
    assert "download" not in caught.value.remedy


@pytest.mark.parametrize("value", [False, 0, "F"])
@pytest.mark.parametrize("layout", ["lamost-wavelength", "lamost-coadd", "sdss-coadd"])
def test_air_is_understood_however_it_is_written(tmp_path, write_spectrum, layout, value):
    def edit(hdus):
        hdus[0].header["VACUUM"] = value

    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", layout, edit=edit))
    in_vacuum = read_spectrum(write_spectrum(tmp_path / "b.fits", layout))
    np.testing.assert_allclose(spectrum.wave_aa, air_to_vacuum(in_vacuum.wave_aa), rtol=1e-9)


def test_a_file_without_the_keyword_is_in_vacuum(tmp_path, write_spectrum):
    path = write_spectrum(tmp_path / "a.fits", drop=("VACUUM",))
    np.testing.assert_allclose(
        read_spectrum(path).wave_aa, read_spectrum(write_spectrum(tmp_path / "b.fits")).wave_aa
    )


# --- damage that would keep astropy busy ---------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("NAXIS", 2147483647),
        ("TFIELDS", 2147483647),
        ("NAXIS2", -5),
        ("NAXIS1", -2147483648),
        ("GCOUNT", -1),
        ("PCOUNT", -7),
        ("NAXIS2", 4_000_000_000),
    ],
)
def test_impossible_sizes_are_refused_at_once(tmp_path, card, value):
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("mass", "E", array=np.ones(5))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    data = path.read_bytes()
    start = data.index(f"{card:<8}= ".encode(), 2880)
    changed = f"{card:<8}= {value:>20}".encode()
    path.write_bytes(data[:start] + changed + data[start + len(changed) :])
    with pytest.raises(RejectedInput, match=r"damaged header|truncated"):
        read_records(path)
