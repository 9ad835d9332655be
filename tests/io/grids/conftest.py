"""Small model files, written as their publishers write them."""

import bz2
import gzip
import lzma

import numpy as np
import pytest
from astropy.io import fits

COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def model_flux(wave, teff=3000.0):
    """A smooth slope with three lines, erg/s/cm2/A; lines mark the wavelength scale."""
    flux = 1e6 * (wave / 7000.0) ** (teff / 1000.0 - 1.0)
    for centre, depth in ((6300.0, 0.5), (7000.0, 0.8), (8500.0, 0.3)):
        flux = flux * (1 - depth * np.exp(-0.5 * ((wave - centre) / 1.5) ** 2))
    return flux


def fortran_d(value, width, digits):
    """Fortran's 1PDw.d: one digit before the point, D exponent, no D for three digits."""
    mantissa, exponent = f"{value:.{digits}E}".split("E")
    sign, number = exponent[0], exponent[1:].lstrip("0").rjust(2, "0")
    text = f"{mantissa}D{sign}{number}" if len(number) == 2 else f"{mantissa}{sign}{number}"
    return text.rjust(width)


def spec7_bytes(wave, flux, *, style="fixed", seed=0):
    """Records in the order of several processors, with black body and line identification."""
    log_flux = np.log10(flux) + 8.0
    order = np.random.default_rng(seed).permutation(wave.size)
    order = np.concatenate([order, order[:5]])
    lines = []
    for k in order:
        at = fortran_d(wave[k], 13, 7) if style == "exponent" else f"{wave[k]:13.5f}"
        if style == "glued":
            # Values of -10 and below fill their 12 columns and touch what stands before them.
            at, value = f"{wave[k]:13.8f}"[:13], log_flux[k] - 28.0
        else:
            value = log_flux[k]
        record = at + fortran_d(value, 12, 5) + fortran_d(-3.25, 12, 5)
        lines.append(record + "  1.2345D-03 22.01 8.4413D+00 101.02\n")
    return "".join(lines).encode()


def svo_bytes(wave, flux, *, teff=3000, logg=5, meta=-0.5, alpha=0.2):
    """Text of the SVO theoretical spectra server."""
    header = (
        "# BT-Settl (CIFIST) \n"
        f"# teff = {teff} K (value for the effective temperature for the model. Temperatures are "
        "given in K)\n"
        f"# logg = {logg} log(cm/s2) (value for Log(G) for the model.)\n"
        f"# meta = {meta}  (value for the Metallicity for the model.)\n"
        f"# alpha = {alpha}  (Value for the alpha element enhancement)\n"
        "#\n"
        "# column 1: WAVELENGTH (ANGSTROM), Wavelength in Angstrom\n"
        "# column 2: FLUX (ERG/CM2/S/A), Flux in erg/cm2/s/A\n"
    )
    rows = "".join(f"          {x:.10g}      {y:.6g}\n" for x, y in zip(wave, flux, strict=True))
    return (header + rows).encode()


def btsettl_fits_hdus(wave, flux, *, keys=None, unit="um", aa_in_unit=1e-4):
    """Binary table in micron and W/m2/um, as on the Lyon server."""
    columns = [
        fits.Column("Wavelength", "D", unit=unit, array=wave * aa_in_unit),
        fits.Column("Flux", "D", unit="W / (m2 um)", array=flux * 10.0),
        fits.Column("BBFlux", "D", unit="W / (m2 um)", array=flux * 9.0),
    ]
    primary = fits.PrimaryHDU()
    for key, value in (keys or {}).items():
        primary.header[key] = value
    return fits.HDUList([primary, fits.BinTableHDU.from_columns(columns)])


def write_aces(folder, wave, flux, *, teff=3000, logg=5.0, mh=0.0, alpha=0.0, below=False):
    """HiRes file with PHX keys, and the WAVE file beside it or above it."""
    folder.mkdir(parents=True, exist_ok=True)
    wave_folder = folder.parent if below else folder
    fits.PrimaryHDU(wave).writeto(
        wave_folder / "WAVE_PHOENIX-ACES-AGSS-COND-2011.fits", overwrite=True
    )
    hdu = fits.PrimaryHDU((flux * 1e8).astype(np.float32))
    hdu.header["UNIT"] = ("erg/s/cm^2/cm", "Unit of flux")
    hdu.header["WAVE"] = "../WAVE_PHOENIX-ACES-AGSS-COND-2011.fits"
    hdu.header["PHXTEFF"] = (teff, "[K] effective temperature")
    hdu.header["PHXLOGG"] = (logg, "[cm/s^2] log (surface gravity)")
    hdu.header["PHXM_H"] = (mh, "[M/H] metallicity (rel. sol. - Asplund &a 2009)")
    hdu.header["PHXALPHA"] = (alpha, "[a/M] alpha element enhancement")
    enhanced = f".Alpha={alpha:+.2f}" if alpha else ""
    sign = f"{mh:+.1f}" if mh else "-0.0"
    name = f"lte{teff:05d}-{logg:.2f}{sign}{enhanced}.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"
    hdu.writeto(folder / name, overwrite=True)
    return folder / name


@pytest.fixture(scope="session")
def fine_wave():
    return np.arange(5850.0, 9060.0, 0.2)
