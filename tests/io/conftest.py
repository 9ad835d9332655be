"""Small spectra in every survey layout, written as the surveys write them."""

import numpy as np
import pytest
from astropy.io import fits

COEFF0, COEFF1, N_PIX = 3.5682, 1e-4, 3909
LAYOUTS = ("lamost-subcontinuum", "lamost-wavelength", "lamost-coadd", "sdss-coadd")


def wavelengths():
    return 10.0 ** (COEFF0 + COEFF1 * np.arange(N_PIX))


def lamost_header(header, *, obsid, z, snr, old):
    header["TELESCOP"] = "LAMOST"
    header["OBJNAME"] = ("it's", "a quoted quote")
    if old:
        header["SN_R"], header["SN_I"] = snr
    else:
        header["OBSID"] = obsid
        header["SNRR"], header["SNRI"] = snr
    header["LMJD"], header["PLANID"], header["SPID"], header["FIBERID"] = 55862, "B6212", 6, 14
    header["RA"], header["DEC"], header["Z"] = 99.135923, 27.285577, z
    header["CLASS"], header["SUBCLASS"] = "STAR", "M0      "
    header["VACUUM"] = True
    header["COEFF0"], header["COEFF1"] = COEFF0, COEFF1
    return header


def write(
    path,
    layout="lamost-wavelength",
    *,
    seed=1,
    flux=None,
    ivar=None,
    wave=None,
    and_mask=None,
    or_mask=None,
    obsid=740103011,
    z=-1.5e-4,
    snr=(27.0, 49.4),
    drop=(),
    edit=None,
):
    """Write one spectrum; `drop` removes keywords, `edit` changes the HDU list before writing."""
    rng = np.random.default_rng(seed)
    wave = wavelengths() if wave is None else wave
    flux = (100.0 + rng.normal(0, 2, wave.size) if flux is None else flux).astype(">f4")
    ivar = (np.full(wave.size, 0.25) if ivar is None else ivar).astype(">f4")
    and_mask = np.zeros(wave.size) if and_mask is None else and_mask
    or_mask = and_mask if or_mask is None else or_mask
    about = {"obsid": obsid, "z": z, "snr": snr, "old": layout == "lamost-subcontinuum"}
    primary = fits.PrimaryHDU()
    if layout == "sdss-coadd":
        primary.header["TELESCOP"] = "SDSS 2.5-M"
        primary.header["PLUG_RA"], primary.header["PLUG_DEC"] = 237.0, 52.8
        primary.header["RA"], primary.header["DEC"] = 1.0, 2.0
        primary.header["PLATEID"], primary.header["MJD"], primary.header["FIBERID"] = 618, 52049, 7
        coadd = fits.BinTableHDU.from_columns(
            [
                fits.Column("flux", "E", array=flux),
                fits.Column("loglam", "E", array=np.log10(wave)),
                fits.Column("ivar", "E", array=ivar),
                fits.Column("and_mask", "J", array=and_mask),
                fits.Column("or_mask", "J", array=or_mask),
            ],
            name="COADD",
        )
        row = fits.BinTableHDU.from_columns(
            [
                fits.Column("SPECOBJID", "22A", array=[f"  {obsid}"]),
                fits.Column("CLASS", "6A", array=["STAR"]),
                fits.Column("SUBCLASS", "12A", array=["M1"]),
                fits.Column("Z", "E", array=[z]),
                fits.Column("SN_MEDIAN", "5E", array=[[1.0, 2.0, snr[0], snr[1], 5.0]]),
                fits.Column("PLUG_RA", "D", array=[236.97794]),
                fits.Column("PLUG_DEC", "D", array=[52.815963]),
            ],
            name="SPECOBJ",
        )
        hdus = fits.HDUList([primary, coadd, row])
    elif layout == "lamost-coadd":
        lamost_header(primary.header, **about)
        arrays = {
            "FLUX": flux,
            "IVAR": ivar,
            "WAVELENGTH": wave,
            "ANDMASK": and_mask,
            "ORMASK": or_mask,
            "NORMALIZATION": flux / 100.0,
        }
        coadd = fits.BinTableHDU.from_columns(
            [fits.Column(n, f"{wave.size}E", array=[a]) for n, a in arrays.items()], name="COADD"
        )
        hdus = fits.HDUList([primary, coadd])
    else:
        third = wave if layout == "lamost-wavelength" else flux - 100.0
        image = np.stack([flux, ivar, third, and_mask, or_mask]).astype(">f4")
        primary = fits.PrimaryHDU(image)
        lamost_header(primary.header, **about)
        hdus = fits.HDUList([primary])
    for keyword in drop:
        hdus[0].header.remove(keyword, ignore_missing=True)
    if edit is not None:
        edit(hdus)
    hdus.writeto(path, overwrite=True)
    return path


@pytest.fixture
def write_spectrum():
    return write


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param
