import gzip

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.spectra.lamost_writer import (
    LAYOUTS,
    LamostHeader,
    compress,
    encode_lamost,
    write_lamost_files,
)
from jaxmdwarf.io.spectra.readers import read_spectrum

N_PIX = 1886
SOLUTION = {"log10_start": 3.7710, "log10_step": 1e-4}
EXAMPLES = {
    "lamost-subcontinuum": "spec-55862-B6212_sp06-014.fits.gz",
    "lamost-wavelength": "spec-58575-HD103621N361936B01_sp03-011.fits.gz",
    "lamost-coadd": "spec-55859-F5902_sp01-013_dr8.fits.gz",
}


def make_header(**values):
    return LamostHeader(
        **{
            "obsid": 740103011,
            "file_name": "spec-58575-SIM00001B01_sp03-011.fits.gz",
            "plan_id": "SIM00001B01",
            "ra_deg": 158.553802,
            "dec_deg": -3.892729,
            "lmjd": 58575,
            "spectrograph": 3,
            "fibre": 11,
            "exposure_s": 4500.0,
            "helio_kms": 18.81046,
            "subclass": "dM1",
            "z": -7.754e-05,
            "snr_r": 34.91,
            "snr_i": 78.49,
            **values,
        }
    )


@pytest.fixture
def spectrum():
    rng = np.random.default_rng(1)
    flux = (100 + rng.normal(size=N_PIX)).astype(np.float32)
    ivar = rng.uniform(0.5, 2, N_PIX).astype(np.float32)
    mask = np.zeros(N_PIX, dtype=np.uint8)
    mask[17:21] = 1
    ivar[17:21] = 0
    return flux, ivar, mask


def write(folder, spectrum, layout, **values):
    flux, ivar, mask = (row[None] for row in spectrum)
    return write_lamost_files(
        folder, flux, ivar, mask, [make_header(**values)], layouts=[layout], **SOLUTION
    )[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_reader_gets_back_what_was_written(tmp_path, spectrum, layout):
    flux, ivar, mask = spectrum
    back = read_spectrum(write(tmp_path, spectrum, layout))
    assert back.meta.layout == layout
    good = mask == 0
    np.testing.assert_array_equal(back.flux[good], flux[good])
    np.testing.assert_array_equal(back.ivar, ivar)
    np.testing.assert_allclose(back.wave_aa, 10 ** (3.7710 + 1e-4 * np.arange(N_PIX)), rtol=1e-9)
    assert back.meta.ra_deg == pytest.approx(158.553802)
    assert back.meta.z == pytest.approx(-7.754e-05)
    assert (back.meta.snr_r, back.meta.snr_i) == (34.91, 78.49)
    assert back.meta.subclass == ("M1" if layout == "lamost-subcontinuum" else "dM1")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_astropy_finds_the_files_in_order(tmp_path, spectrum, layout):
    with fits.open(write(tmp_path, spectrum, layout), checksum=True) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert header["SIMULAT"] is True
        assert header["COEFF0"] == 3.771
        assert header["DESIG"] == "SIM J103412.91-035333.8"
        if layout == "lamost-coadd":
            assert hdus[0].data is None
            assert hdus["COADD"].data["FLUX"].shape == (1, N_PIX)
        else:
            assert hdus[0].data.shape == (5, N_PIX)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_keywords_are_those_of_real_files(tmp_path, spectrum, layout, real_data):
    ours = fits.open(write(tmp_path, spectrum, layout))
    real = fits.open(real_data / "lamost" / EXAMPLES[layout])
    with ours, real:
        assert len(ours) == len(real)
        new = set(ours[0].header) - set(real[0].header) - {"COMMENT", ""}
        assert new <= {"SIMULAT", "SIMSEED", "SIMGAP", "ROW1", "ROW2", "ROW3", "ROW4", "ROW5"}
        for keyword in ("OBSID", "RA", "DEC", "Z", "CLASS", "SUBCLASS", "SNRR", "SN_R", "PLANID"):
            assert (keyword in ours[0].header) == (keyword in real[0].header), keyword
        for keyword in set(ours[0].header) & set(real[0].header) - {"COMMENT", ""}:
            mine, theirs = ours[0].header[keyword], real[0].header[keyword]
            numbers = isinstance(mine, int | float) and isinstance(theirs, int | float)
            assert numbers or isinstance(mine, type(theirs)), keyword
        if len(ours) > 1:
            assert ours[1].columns.names == real[1].columns.names
            assert ours[1].header["EXTNAME"] == real[1].header["EXTNAME"]
        else:
            assert ours[0].data.dtype == real[0].data.dtype


def test_missing_numbers_are_written_as_the_survey_writes_them(tmp_path, spectrum):
    path = write(tmp_path, spectrum, LAYOUTS[2], z=np.nan, snr_r=np.nan, snr_i=np.nan)
    assert fits.getheader(path)["Z"] == -9999
    assert np.isnan(read_spectrum(path).meta.z)


def test_the_same_content_gives_the_same_bytes(tmp_path, spectrum):
    one = write(tmp_path, spectrum, LAYOUTS[1]).read_bytes()
    two = write(tmp_path, spectrum, LAYOUTS[1]).read_bytes()
    assert one == two
    assert one[4:8] == b"\0\0\0\0"
    assert not list(tmp_path.glob("*.part"))


def test_compression_is_ordinary_gzip():
    data = bytes(range(256)) * 50
    assert gzip.decompress(compress(data)) == data


def test_bad_calls_are_refused(spectrum):
    flux, ivar, mask = spectrum
    with pytest.raises(UsageError, match="lamost-coadd"):
        encode_lamost(flux, ivar, mask, make_header(), layout="dr7", **SOLUTION)
    with pytest.raises(MismatchError, match="pixels"):
        encode_lamost(flux, ivar[:-1], mask, make_header(), layout=LAYOUTS[0], **SOLUTION)


def test_cards_have_the_digits_of_the_survey(tmp_path, spectrum):
    header = make_header(
        helio_kms=18.1234567, ra_deg=158.12345678, dec_deg=-3.12345678, exposure_s=4500.123,
        z=-7.123456789e-5, snr_r=34.123, snr_i=78.987,
    )  # fmt: skip
    content = encode_lamost(*spectrum, header, layout="lamost-coadd", **SOLUTION)
    (tmp_path / "a.fits").write_bytes(content)
    cards = fits.getheader(tmp_path / "a.fits")
    found = [cards[name] for name in ("HELIO_RV", "RA", "DEC", "EXPTIME", "LMJD", "MJD")]
    assert found == [18.12346, 158.123457, -3.123457, 4500.12, 58575, 58574]
    assert cards["Z"] == -7.123e-5
    assert [cards[name] for name in cards if name.startswith("SNR")][-2:] == [34.12, 78.99]
    assert (cards["COEFF0"], cards["COEFF1"]) == (3.771, 1e-4)
    assert (cards["CRVAL1"], cards["CD1_1"], cards["CRPIX1"]) == (3.771, 1e-4, 1)
    assert (cards["SPID"], cards["FIBERID"], cards["NWORDER"]) == (3, 11, 2)
