"""Reading survey spectra: layouts by content, masks honoured, and a reason for every bad input."""

import contextlib
import gzip
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.rejects import (
    Reject,
    check_accounts,
    name_rejects_file,
    read_rejects,
    write_rejects,
)
from jaxmdwarf.io.spectra import by_specutils, lamost
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.readers import read_record, read_records, read_spectrum, stream_spectra
from jaxmdwarf.io.spectra.records import LogGrid, Requirements, SpectrumRecord, check_record
from jaxmdwarf.wavelengths import air_to_vacuum
from tests.io.conftest import LAYOUTS, write

WAVE = 10.0 ** (3.5682 + 1e-4 * np.arange(3909))
NEEDED = Requirements()


def test_every_layout_gives_the_same_spectrum(tmp_path, write_spectrum, layout):
    path = write_spectrum(tmp_path / "no_suffix_at_all", layout)
    spectrum = read_spectrum(path)
    meta = spectrum.meta
    assert meta.layout == layout
    # The header's double precision is kept, not the table's single precision (0.2 km/s).
    np.testing.assert_allclose(spectrum.wave_aa, WAVE, rtol=1e-9)
    assert spectrum.flux.dtype == np.dtype("=f4")
    assert (meta.snr_r, meta.snr_i) == pytest.approx((27.0, 49.4))
    assert meta.z == pytest.approx(-1.5e-4)
    assert meta.object_class == "STAR"
    assert meta.subclass == ("M1" if layout == "sdss-coadd" else "M0")
    assert meta.survey == ("SDSS" if layout == "sdss-coadd" else "LAMOST")
    assert not meta.had_nonfinite
    position = (236.97794, 52.815963) if layout == "sdss-coadd" else (99.135923, 27.285577)
    assert (meta.ra_deg, meta.dec_deg) == pytest.approx(position)
    expected = "55862-B6212_sp06-014" if layout == "lamost-subcontinuum" else "740103011"
    assert meta.obsid == expected


def test_gzipped_files_read_alike_whatever_their_name(tmp_path, write_spectrum, layout):
    plain = write_spectrum(tmp_path / "a.fits.gz.txt", layout)
    zipped = tmp_path / "b.fits"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    one, two = read_spectrum(plain), read_spectrum(zipped)
    np.testing.assert_array_equal(one.flux, two.flux)
    assert one.meta.obsid == two.meta.obsid


def test_the_and_mask_kills_pixels_and_the_or_mask_does_not(tmp_path, write_spectrum, layout):
    and_mask = np.zeros(3909, int)
    and_mask[[100, 2000]] = (1, 8) if layout.startswith("lamost") else (1 << 23, 1 << 23 | 1 << 5)
    or_mask = and_mask.copy()
    or_mask[300] = 1 << 23 if layout == "sdss-coadd" else 1
    spectrum = read_spectrum(
        write_spectrum(tmp_path / "a.fits", layout, and_mask=and_mask, or_mask=or_mask)
    )
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [100, 2000]


def test_nonfinite_and_negative_pixels_become_bad_pixels(tmp_path, write_spectrum, layout):
    flux, ivar = np.full(3909, 5.0), np.full(3909, 4.0)
    flux[10], flux[11], ivar[12], ivar[13], ivar[14] = np.nan, -np.inf, np.nan, np.inf, -1.0
    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", layout, flux=flux, ivar=ivar))
    assert spectrum.meta.had_nonfinite
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [10, 11, 12, 13, 14]
    assert spectrum.flux[[10, 11]].tolist() == [0.0, 0.0]
    assert spectrum.flux[14] == 5.0


@pytest.mark.parametrize("layout", ["lamost-subcontinuum", "lamost-wavelength", "lamost-coadd"])
def test_minus_9999_is_missing(tmp_path, write_spectrum, layout):
    meta = read_spectrum(
        write_spectrum(tmp_path / "a.fits", layout, z=-9999.0, snr=(-9999.0, -9999.0))
    ).meta
    assert np.isnan([meta.z, meta.snr_r, meta.snr_i]).all()


def test_wavelengths_said_to_be_in_air_are_converted(tmp_path, write_spectrum):
    def edit(hdus):
        hdus[0].header["VACUUM"] = False

    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", edit=edit))
    np.testing.assert_allclose(spectrum.wave_aa, air_to_vacuum(WAVE), rtol=1e-9)


def test_a_wavelength_row_of_its_own_beats_the_header(tmp_path, write_spectrum):
    shifted = WAVE * (1 + 1e-4)
    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", wave=shifted))
    np.testing.assert_allclose(spectrum.wave_aa, shifted, rtol=1e-7)


@pytest.mark.parametrize("layout", ["lamost-subcontinuum", "lamost-wavelength", "lamost-coadd"])
def test_what_the_lean_path_leaves_to_astropy_reads_the_same(
    tmp_path, write_spectrum, layout, monkeypatch
):
    def edit(hdus):
        hdus[0].header["LONGTEXT"] = "long text " * 20  # needs CONTINUE cards

    plain = write_spectrum(tmp_path / "a.fits", layout)
    unusual = write_spectrum(tmp_path / "b.fits", layout, edit=edit)
    with pytest.raises(lamost.UnusualFits):
        lamost._decode_lean(SpectrumFile("b", unusual.read_bytes()))
    one, two = read_record(plain), read_record(unusual)
    assert_same_record(one, two)


def test_scaled_integers_are_read_by_astropy(tmp_path, write_spectrum):
    path = write_spectrum(tmp_path / "a.fits")
    image = fits.getdata(path)
    hdu = fits.PrimaryHDU(image.astype(np.float64), header=fits.getheader(path))
    hdu.scale("int32", bscale=0.05, bzero=100.0)
    hdu.writeto(tmp_path / "b.fits")
    spectrum = read_spectrum(tmp_path / "b.fits")
    np.testing.assert_allclose(spectrum.flux, image[0], atol=0.03)


def test_lean_path_equals_astropy_bit_by_bit_on_real_files(real_data):
    files = sorted(real_data.glob("lamost*/*.fits.gz"))
    assert len(files) == 107
    layouts = set()
    for path in files:
        data = gzip.decompress(path.read_bytes())
        file = SpectrumFile(path, data)
        lean = lamost._decode_lean(file)
        assert_same_record(lean, lamost._decode_with_astropy(file))
        layouts.add(lean.meta["layout"])
        header = fits.Header.fromstring(data.decode("latin-1"))
        assert lean.meta["ra_deg"] == header["RA"]
        assert lean.meta["subclass"] == header["SUBCLASS"]
        assert lean.meta["obsid"].endswith(f"{header['FIBERID']:03d}")
    assert layouts == {"lamost-subcontinuum", "lamost-wavelength", "lamost-coadd"}


def test_header_values_of_real_files(real_data):
    first = read_spectrum(real_data / "lamost" / "spec-55862-B6212_sp06-014.fits.gz")
    assert first.meta.obsid == "55862-B6212_sp06-014"
    assert (first.meta.snr_r, first.meta.snr_i) == (27.0, 49.39)
    assert first.wave_aa[0] == pytest.approx(10**3.5682, rel=1e-12)
    sdss = read_spectrum(real_data / "sdss_spec-5047-55833-0936_lite.fits.gz").meta
    assert sdss.obsid == "5682674213417840640"
    assert sdss.snr_r == pytest.approx(54.31134)
    assert sdss.ra_deg == pytest.approx(335.225234)


def test_full_sdss_files_read_as_their_lite_ones(tmp_path, write_spectrum):
    def add_exposures(hdus):
        for index in range(2):
            exposure = fits.BinTableHDU.from_columns(
                [fits.Column(n, "E", array=np.zeros(9)) for n in ("flux", "loglam", "ivar")],
                name=f"B1-{index}",
            )
            hdus.append(exposure)

    lite = read_spectrum(write_spectrum(tmp_path / "lite.fits", "sdss-coadd"))
    full = read_spectrum(write_spectrum(tmp_path / "full.fits", "sdss-coadd", edit=add_exposures))
    np.testing.assert_array_equal(lite.flux, full.flux)


# --- bad input -----------------------------------------------------------------------------------


def bad_not_fits(folder, write):
    path = folder / "bad.fits"
    path.write_text("this is no spectrum\n" * 500)
    return path, "not a FITS file"


def bad_zero_bytes(folder, write):
    path = folder / "bad.fits"
    path.touch()
    return path, "zero bytes"


def bad_zero_bytes_zipped(folder, write):
    path = folder / "bad.fits.gz"
    path.write_bytes(gzip.compress(b""))
    return path, "zero bytes"


def bad_truncated_gzip(folder, write):
    data = gzip.compress(write(folder / "whole.fits").read_bytes())
    path = folder / "bad.fits.gz"
    path.write_bytes(data[: len(data) // 2])
    return path, "truncated gzip"


def bad_damaged_gzip(folder, write):
    data = bytearray(gzip.compress(write(folder / "whole.fits").read_bytes()))
    data[len(data) // 2] ^= 0xFF
    path = folder / "bad.fits.gz"
    path.write_bytes(bytes(data))
    return path, "gzip"


def bad_truncated_fits(folder, write):
    path = write(folder / "bad.fits")
    path.write_bytes(path.read_bytes()[:20000])
    return path, "truncated"


def bad_truncated_header(folder, write):
    path = write(folder / "bad.fits")
    path.write_bytes(path.read_bytes()[:1000])
    return path, "truncated"


def bad_wrong_hdu(folder, write):
    path = folder / "bad.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("mass", "E", array=np.ones(5))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path, "HDU 1 a table of mass"


def bad_empty_primary(folder, write):
    path = folder / "bad.fits"
    fits.PrimaryHDU().writeto(path)
    return path, "HDU 0 empty"


def bad_picture(folder, write):
    path = folder / "bad.fits"
    fits.PrimaryHDU(np.ones((64, 64), dtype=np.float32)).writeto(path)
    return path, r"HDU 0 an image of shape \(64, 64\)"


def bad_missing_keywords(folder, write):
    drop = ("COEFF0", "COEFF1")
    return write(folder / "bad.fits", "lamost-subcontinuum", drop=drop), "COEFF0 and COEFF1"


def bad_all_nan(folder, write):
    return write(folder / "bad.fits", flux=np.full(3909, np.nan)), "no good pixel"


def bad_ivar_zero(folder, write):
    return write(folder / "bad.fits", ivar=np.zeros(3909)), "no good pixel"


def bad_ivar_negative(folder, write):
    return write(folder / "bad.fits", "lamost-coadd", ivar=np.full(3909, -1.0)), "no good pixel"


def bad_all_masked(folder, write):
    return write(
        folder / "bad.fits", "sdss-coadd", and_mask=np.full(3909, 1 << 23)
    ), "BRIGHTSKY of and_mask covers all"


def bad_unsorted(folder, write):
    wave = WAVE.copy()
    wave[[100, 200]] = wave[[200, 100]]
    return write(folder / "bad.fits", "lamost-wavelength", wave=wave), "unsorted or repeated"


def bad_reversed(folder, write):
    return write(folder / "bad.fits", "lamost-wavelength", wave=WAVE[::-1]), "unsorted or repeated"


def bad_repeated(folder, write):
    wave = WAVE.copy()
    wave[100:103] = wave[100]
    return write(folder / "bad.fits", "lamost-coadd", wave=wave), "unsorted or repeated"


def bad_unsorted_sdss(folder, write):
    return write(folder / "bad.fits", "sdss-coadd", wave=WAVE[::-1]), "unsorted or repeated"


def bad_mask(folder, write):
    and_mask = np.zeros(3909)
    and_mask[7] = 1e9
    return write(folder / "bad.fits", "lamost-subcontinuum", and_mask=and_mask), "no mask"


def bad_mask_of_fractions(folder, write):
    return write(folder / "bad.fits", and_mask=np.full(3909, 0.5)), "no mask"


def bad_or_mask(folder, write):
    or_mask = np.zeros(3909)
    or_mask[7] = 1.5
    return write(folder / "bad.fits", or_mask=or_mask), "the or-mask holds numbers that are no mask"


def bad_masks_in_disorder(folder, write):
    mask = np.where(np.arange(3909) < 20, 6.0, 0.0)
    path = write(folder / "bad.fits", "lamost-coadd", and_mask=mask, or_mask=mask.clip(max=4))
    return path, "bits of the and-mask are not in the or-mask"


def bad_byte_order(folder, write):
    path = write(folder / "bad.fits", "lamost-subcontinuum")
    content = path.read_bytes()
    start = content.index(b"END     ") // 2880 * 2880 + 2880
    values = np.frombuffer(content[start : start + 5 * 3909 * 4], ">f4").byteswap()
    path.write_bytes(content[:start] + values.tobytes() + content[start + values.nbytes :])
    return path, "without wavelengths, and its first row holds numbers above"


def bad_type_of_numbers(folder, write):
    path = write(folder / "bad.fits", "lamost-subcontinuum")
    header = path.read_bytes().replace(
        b"BITPIX  =                  -32", b"BITPIX  =" + b"32".rjust(21)
    )
    path.write_bytes(header)
    return path, "without wavelengths, and its first row holds numbers above 1e\\+08"


def bad_counts(folder, write):
    flux = np.full(3909, 50.0)
    flux[3000] = -1e12
    path = write(folder / "bad.fits", "lamost-subcontinuum", flux=flux)
    return path, "first row holds numbers above"


def bad_inverse_variance(folder, write):
    ivar = np.where(np.arange(3909) < 80, -4.0, 4.0)
    path = write(folder / "bad.fits", "lamost-subcontinuum", ivar=ivar)
    return path, "its second row is no inverse variance"


def bad_two_solutions(folder, write):
    def edit(hdus):
        hdus[0].header["CRVAL1"], hdus[0].header["CD1_1"] = 3.5682, 2e-4

    path = write(folder / "bad.fits", "lamost-subcontinuum", edit=edit)
    return path, "COEFF1 = 0.0001 and CD1_1 = 0.0002"


def bad_odd_length(folder, write):
    path = write(folder / "bad.fits")
    path.write_bytes(path.read_bytes() + b"x")
    return path, "bytes long"


def bad_nan_wavelength(folder, write):
    wave = WAVE.copy()
    wave[100] = np.nan
    return write(folder / "bad.fits", "lamost-coadd", wave=wave), "wavelengths"


def bad_blue_only(folder, write):
    return write(folder / "bad.fits", "lamost-coadd", wave=WAVE[:2000]), "0 % of 6000-8900 A"


def bad_nanometres(folder, write):
    return write(folder / "bad.fits", "lamost-coadd", wave=WAVE / 10.0), "covers 370-910 A"


def bad_nearly_empty(folder, write):
    ivar = np.where(WAVE > 8700, 1.0, 0.0)
    return write(folder / "bad.fits", ivar=ivar), "only 6 % of the pixels"


def bad_directory(folder, write):
    path = folder / "bad.fits"
    path.mkdir()
    return path, "is a directory"


def bad_missing(folder, write):
    return folder / "bad.fits", "no such file"


def bad_pipe(folder, write):
    path = folder / "bad.fits"
    os.mkfifo(path)
    return path, "no regular file"


BAD = {name[4:]: function for name, function in list(globals().items()) if name.startswith("bad_")}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_has_a_reason_and_a_remedy(tmp_path, write_spectrum, name):
    path, reason = BAD[name](tmp_path, write_spectrum)
    with pytest.raises(RejectedInput, match=reason) as caught:
        read_spectrum(path, requirements=NEEDED)
    assert caught.value.remedy


def test_an_unreadable_file_has_a_reason(tmp_path, write_spectrum, monkeypatch):
    path = write_spectrum(tmp_path / "a.fits")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser reads everything

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(RejectedInput, match="may not be read") as caught:
        read_spectrum(path)
    assert "permissions" in caught.value.remedy


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_of_bad_input_loses_nothing(tmp_path, write_spectrum, processes):
    folder = tmp_path / "night"
    folder.mkdir()
    for name, make in BAD.items():
        place = tmp_path / name
        place.mkdir()
        path, _ = make(place, write_spectrum)
        if path.exists():
            shutil.move(path, folder / f"{name}.fits")
    for index in range(3):
        write_spectrum(folder / f"good{index}.fits", obsid=index, seed=index)
    shutil.copy(folder / "good0.fits", folder / "good0_again.fits")
    arguments = [folder, str(tmp_path / "none*.fits"), tmp_path / "missing.fits"]
    inputs = expand_inputs(arguments)
    results = list(stream_spectra(inputs.paths, processes=processes, chunk_size=4))
    rejects = [*inputs.rejects, *(r for r in results if isinstance(r, Reject))]
    spectra = [r for r in results if not isinstance(r, Reject)]
    check_accounts(inputs.n_in, len(spectra), len(rejects))
    assert inputs.n_in == len(BAD) - 1 + 4 + 2
    assert [s.meta.obsid for s in spectra] == ["0", "1", "2"]
    assert all(reject.reason and reject.remedy for reject in rejects)
    by_name = {os.path.basename(reject.path): reject for reject in rejects}
    assert by_name["good0_again.fits"].reason.startswith("the same spectrum as")
    assert "without files" in by_name["directory.fits"].reason
    assert "matches no file" in by_name["none*.fits"].reason
    table = name_rejects_file(tmp_path / "out" / "T.fits")
    write_rejects(table, rejects)
    assert table.name == "T_rejects.csv"
    assert read_rejects(table) == rejects


def test_the_solution_may_stand_under_other_keywords(tmp_path, write_spectrum):
    def edit(hdus):
        header = hdus[0].header
        header["CRVAL1"], header["CD1_1"] = header.pop("COEFF0"), header.pop("COEFF1")

    layout = "lamost-subcontinuum"
    spectrum = read_spectrum(write_spectrum(tmp_path / "a.fits", layout, edit=edit))
    np.testing.assert_allclose(spectrum.wave_aa, WAVE, rtol=1e-9)


def test_the_same_flux_with_other_errors_is_no_copy(tmp_path, write_spectrum):
    flux = 100.0 + np.arange(3909.0) % 7
    paths = [
        str(write_spectrum(tmp_path / f"{k}.fits", flux=flux, ivar=np.full(3909, 0.25 + k)))
        for k in range(2)
    ]
    assert not any(isinstance(r, Reject) for r in stream_spectra(paths, processes=1))


def test_duplicates_need_the_same_identifier_and_the_same_pixels(tmp_path, write_spectrum):
    a = write_spectrum(tmp_path / "a.fits", obsid=1, seed=1)
    b = write_spectrum(tmp_path / "b.fits", obsid=2, seed=1)
    c = write_spectrum(tmp_path / "c.fits", obsid=1, seed=2)
    d = write_spectrum(tmp_path / "d.fits", "lamost-coadd", obsid=1, seed=1)
    paths = [str(p) for p in (a, b, c, d)]
    kinds = [isinstance(r, Reject) for r in stream_spectra(paths, processes=1)]
    assert kinds == [False, False, False, True]
    kept = stream_spectra(paths, processes=1, reject_duplicates=False)
    assert not any(isinstance(r, Reject) for r in kept)


def test_accounts_that_do_not_add_up_are_a_defect():
    with pytest.raises(Exception, match="were lost"):
        check_accounts(5, 3, 1)


# --- other formats -------------------------------------------------------------------------------


def write_other(path, *, air=False):
    """A one-dimensional WCS spectrum as specutils writes and reads."""
    import astropy.units as u
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    wave = np.linspace(5500.0, 9000.0, 2000)
    flux = 10.0 + np.sin(wave / 50.0)
    spectrum = Spectrum(
        flux=flux * u.Jy,
        spectral_axis=wave * u.AA,
        uncertainty=StdDevUncertainty(np.full(2000, 0.5)),
    )
    spectrum.write(path, format="tabular-fits", overwrite=True)
    if air:
        with fits.open(path, mode="update") as hdus:
            hdus[1].header["VACUUM"] = False
    return wave, flux


def test_what_specutils_knows_is_read(tmp_path):
    pytest.importorskip("specutils")
    wave, flux = write_other(tmp_path / "a.fits")
    spectrum = read_spectrum(tmp_path / "a.fits")
    np.testing.assert_allclose(spectrum.wave_aa, wave)
    # Jansky are per frequency: the spectrum is per wavelength, in units of mid-spectrum.
    per_wavelength = np.median(wave) ** 2 / wave**2
    np.testing.assert_allclose(spectrum.flux, flux * per_wavelength, rtol=1e-3)
    np.testing.assert_allclose(spectrum.ivar, 4.0 / per_wavelength**2, rtol=2e-3)
    in_air = by_specutils.read_with_specutils(tmp_path / "a.fits", air=True)
    np.testing.assert_allclose(in_air.wave_aa, air_to_vacuum(wave))


def test_a_wcs_in_air_is_converted(tmp_path):
    specutils = pytest.importorskip("specutils")
    import astropy.units as u
    from astropy.nddata import InverseVariance
    from astropy.wcs import WCS

    wcs = WCS(naxis=1)
    wcs.wcs.ctype, wcs.wcs.cunit = ["AWAV"], ["Angstrom"]
    wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = [6000.0], [1.0], [1.0]
    reader = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    spectrum = reader(
        flux=np.ones(100) * u.Jy, wcs=wcs, uncertainty=InverseVariance(np.ones(100) / u.Jy**2)
    )
    record = by_specutils.record_of(spectrum, "a")
    np.testing.assert_allclose(record.wave_aa, air_to_vacuum(6000.0 + np.arange(100)))


def test_without_specutils_the_remedy_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.ones(2000, dtype=np.float32)).writeto(path)
    monkeypatch.setitem(sys.modules, "specutils", None)
    with pytest.raises(RejectedInput, match="specutils is not installed") as caught:
        read_spectrum(path)
    assert 'pip install "jaxmdwarf[specutils]"' in caught.value.remedy


def test_readers_import_neither_jax_nor_astropy():
    code = (
        "import sys, jaxmdwarf.io.spectra.readers, jaxmdwarf.workflows.measuring\n"
        "heavy = {'jax', 'equinox', 'astropy', 'pandas', 'specutils'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_foreign_images_are_not_taken_for_lamost(tmp_path, write_spectrum):
    def edit(hdus):
        hdus[0].header["TELESCOP"] = "SDSS 2.5-M"

    path = write_spectrum(tmp_path / "spSpec.fit", "lamost-subcontinuum", edit=edit)
    assert not lamost.matches(SpectrumFile(path))


def assert_same_record(one, two):
    if isinstance(one.pixels, LogGrid) or isinstance(two.pixels, LogGrid):
        assert one.pixels == two.pixels
    np.testing.assert_array_equal(one.wave_aa, two.wave_aa)
    for name in ("flux", "ivar"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    for key in one.meta:
        assert one.meta[key] == two.meta[key] or key == "path" or one.meta[key] != one.meta[key]


def flip_bit(content, at):
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def test_the_sums_of_a_file_are_held_against_its_content(tmp_path, write_spectrum, layout):
    plain, path = write_spectrum(tmp_path / "plain.fits", layout), tmp_path / "summed.fits"
    with fits.open(plain) as hdus:
        hdus.writeto(path, checksum=True)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_spectrum(path).flux, read_spectrum(plain).flux)
    last = whole.rindex(b"XTENSION") if b"XTENSION" in whole else 0
    # Data that nobody reads and a card that nobody needs count as well.
    path.write_bytes(flip_bit(whole, len(whole) - 3))
    with pytest.raises(RejectedInput, match="DATASUM in HDU") as caught:
        read_spectrum(path)
    assert "fitscheck" in caught.value.remedy
    path.write_bytes(flip_bit(whole, whole.index(b"/ ", last) + 2))
    with pytest.raises(RejectedInput, match="CHECKSUM in HDU"):
        read_spectrum(path)
    # Blank sums say that nobody has computed them, and tables without rows often have others.
    with fits.open(plain) as hdus:
        for hdu in hdus:
            hdu.header["CHECKSUM"], hdu.header["DATASUM"] = "0" * 16, ""
        empty = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[])])
        empty.header["CHECKSUM"], empty.header["DATASUM"] = "HXYWJUYWHUYWHUYW", "12345"
        hdus.append(empty)
        hdus.writeto(path, overwrite=True)
    read_spectrum(path)


def test_a_window_between_two_pixels_has_no_good_one(tmp_path, write_spectrum):
    record = read_record(write_spectrum(tmp_path / "a.fits"))
    low, high = WAVE[2000] + 0.3, WAVE[2001] - 0.3
    check_record(record, Requirements(window_aa=(low - 0.5, high)))
    with pytest.raises(RejectedInput, match="only 0 % of the pixels"):
        check_record(record, Requirements(window_aa=(low, high)))


DAMAGE = {
    "nan": (np.nan, 0.25, 0, 0),
    "inf": (np.inf, 0.25, 0, 0),
    "no ivar": (101.0, 0.0, 0, 0),
    "negative ivar": (102.0, -1.0, 0, 0),
    "infinite ivar": (103.0, np.inf, 0, 0),
    "masked": (104.0, 0.25, 1, 1),
    "once masked": (105.0, 0.25, 0, 1),
    "sound": (-7.5, 3.0, 0, 0),
}
"""Flux, ivar, and-mask and or-mask (in units of a bit that counts) of a pixel."""


@given(st.dictionaries(st.integers(0, 3908), st.sampled_from(sorted(DAMAGE)), max_size=30))
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_good_pixels_keep_their_values_and_bad_ones_have_none(
    tmp_path_factory, write_spectrum, layout, damage
):
    flux, ivar = np.linspace(90.0, 110.0, 3909), np.full(3909, 0.25)
    masks = np.zeros((2, 3909))
    good = np.ones(3909, bool)
    for pixel, kind in damage.items():
        flux[pixel], ivar[pixel], *masks[:, pixel] = DAMAGE[kind]
        good[pixel] = kind in ("once masked", "sound")
    path = tmp_path_factory.mktemp("any") / "a.fits"
    and_mask, or_mask = masks * (1 << 23 if layout == "sdss-coadd" else 8)
    write_spectrum(path, layout, flux=flux, ivar=ivar, and_mask=and_mask, or_mask=or_mask)
    found = read_spectrum(path)
    np.testing.assert_array_equal(found.ivar > 0, good)
    np.testing.assert_array_equal(found.flux[good], flux[good].astype(np.float32))
    np.testing.assert_array_equal(found.ivar[good], ivar[good].astype(np.float32))
    assert np.isfinite(found.flux).all()
    np.testing.assert_allclose(found.wave_aa, WAVE, rtol=1e-9)


HEADS = (b"SIMPLE  ", b"XTENSION")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unit", [0, 1, 2])
def test_a_first_card_that_is_damaged_is_a_reason_or_no_matter(tmp_path, layout, unit):
    """astropy makes a unit of it that has no data."""
    path = write(tmp_path / "a.fits", layout)
    content = bytearray(path.read_bytes())
    places = [k for k in range(0, len(content), 2880) if content[k : k + 8] in HEADS]
    if unit < len(places):
        content[places[unit] + 30] = 0xF4
        path.write_bytes(content)
    with contextlib.suppress(RejectedInput):  # any other error is a defect
        for found in read_records(path):
            assert isinstance(found, SpectrumRecord | Reject)
    if layout.startswith("lamost") and unit == 0:
        with pytest.raises(RejectedInput, match="holds no pixels"):
            lamost._decode_with_astropy(SpectrumFile(str(path)))


@pytest.mark.parametrize("unusual", [False, True])
def test_an_or_mask_that_lacks_bits_of_the_and_mask_is_damage_on_either_path(
    tmp_path, write_spectrum, unusual
):
    def edit(hdus):
        if unusual:
            hdus[0].header["LONGTEXT"] = "long text " * 20

    mask = np.zeros(3909)
    mask[100:110] = 8
    path = write_spectrum(
        tmp_path / "a.fits", "lamost-coadd", and_mask=mask, or_mask=0 * mask, edit=edit
    )
    with pytest.raises(RejectedInput, match="mask"):
        read_record(path)
    # A table without an or-mask is read by its and-mask.
    without = tmp_path / "b.fits"
    with fits.open(path) as hdus:
        columns = [column for column in hdus[1].columns if column.name != "ORMASK"]
        table = fits.BinTableHDU.from_columns(columns, name="COADD")
        fits.HDUList([hdus[0], table]).writeto(without)
    record = read_record(without)
    assert (record.ivar[100:110] == 0).all()
    assert (record.ivar[:100] > 0).all()


def test_wavelengths_are_told_from_other_rows_by_their_range_and_evenness():
    grid = LogGrid(3.5682, 1e-4, 3909)
    wave = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    shuffled = np.random.default_rng(0).permutation(wave)
    told = lamost._runs_through_wavelengths
    for row in (wave, 1.005 * wave, shuffled):
        assert told(row, grid)
        assert told(row, None) or row is not shuffled
    # The header decides for a row that runs as it says, whatever lies in between.
    assert told(np.r_[wave[:2], np.ones(3905), wave[-2:]], grid)
    assert not told(np.r_[wave[:2], np.ones(3905), wave[-2:]], None)
    assert not told(np.r_[wave[:2], np.ones(3905), 1.02 * wave[-2:]], grid)
    assert not told(np.r_[0.98 * wave[:1], np.ones(3906), wave[-2:]], grid)
    # In disorder: nine tenths of it in the optical, over more than a fifth, without holes.
    outside = shuffled.copy()
    outside[:380] = 20_000.0
    assert told(outside, None)
    for wrong in (20_000.0, 2_000.0):
        outside[:400] = wrong
        assert not told(outside, None)
    assert not told(5000 + 0.2 * shuffled, None)
    assert not told(100 * np.round(shuffled / 100), None)
    assert not told(np.full(3909, 1.0), None)
    assert not told(3.0 * shuffled, None)
