"""Small files of several spectra, written as the surveys write them."""

import numpy as np
from astropy.io import fits
from astropy.table import Table

LIGHT_KMS = 299_792.458
DESI_ARMS = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}
BOSS_WAVE = 10 ** (3.5523 + 1e-4 * np.arange(4648))
APOGEE_WAVE = 10 ** (4.179 + 6e-6 * np.arange(200))


def star(wave, seed=0, level=20.0, sigma=0.5):
    """Flux of an M dwarf with noise, and its inverse variance."""
    flux = level * (wave / 7000.0) ** 4
    for head, depth in ((6160, 0.3), (6650, 0.25), (7055, 0.5), (7590, 0.45), (8430, 0.3)):
        flux = flux * (1 - depth * np.exp(-(wave - head) / 120.0) * (wave > head))
    noise = np.random.default_rng(seed).normal(size=wave.size)
    return (flux + sigma * noise).astype("f4"), np.full(wave.size, sigma**-2, "f4")


def write_desi(path, n_target=3, *, arms=DESI_ARMS, edit=None, objtype=None, shift_aa=0.0):
    """A coadd file: FIBERMAP, then five images an arm; `edit` changes the dict of images."""
    fibermap = Table(
        {
            "TARGETID": 39627000000000 + np.arange(n_target),
            "COADD_FIBERSTATUS": np.zeros(n_target, "i4"),
            "TARGET_RA": 150.0 + np.arange(n_target),
            "TARGET_DEC": 2.0 + np.arange(n_target),
            "OBJTYPE": np.array(objtype or ["TGT"] * n_target),
        }
    )
    images = {}
    for number, (arm, (low, high)) in enumerate(arms.items()):
        wave = np.arange(low, high + 0.4, 0.8) + number * shift_aa
        pairs = [star(wave, seed=10 * row + number, level=20.0 + row) for row in range(n_target)]
        images[f"{arm}_WAVELENGTH"] = wave
        images[f"{arm}_FLUX"] = np.array([flux for flux, _ in pairs])
        images[f"{arm}_IVAR"] = np.array([ivar for _, ivar in pairs])
        images[f"{arm}_MASK"] = np.zeros((n_target, wave.size), "u4")
        images[f"{arm}_RESOLUTION"] = np.zeros((n_target, 11, wave.size), "f4")
    if edit is not None:
        edit(images)
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(fibermap)]
    hdus[1].name = "FIBERMAP"
    for name, image in images.items():
        # DESI compresses its masks.
        kind = fits.CompImageHDU if name.endswith("_MASK") else fits.ImageHDU
        hdus.append(kind(image, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def write_mwm(path, rows, *, visits=False, v_rad=35.0, in_stack=None):
    """An Astra file; `rows` has the number of spectra in each of its four tables."""
    primary = fits.PrimaryHDU()
    primary.header["SDSS_ID"], primary.header["RA"], primary.header["DEC"] = 54392544, 150.0, 2.0
    hdus = [primary]
    names = ("BOSS/APO", "BOSS/LCO", "APOGEE/APO", "APOGEE/LCO")
    for number, (name, n_row) in enumerate(zip(names, rows, strict=True)):
        wave = BOSS_WAVE if number < 2 else APOGEE_WAVE
        pairs = [star(wave, seed=10 * number + row) for row in range(n_row)]
        table = Table({"sdss_id": np.full(n_row, 54392544, "i8"), "snr": np.full(n_row, 30.0)})
        if visits:
            table["mjd"] = np.arange(n_row, dtype="i4") + 59000
            table["xcsao_v_rad" if number < 2 else "v_rad"] = np.full(n_row, v_rad, "f4")
            table["in_stack"] = np.array([*(in_stack or ()), *[True] * n_row][:n_row], bool)
        else:
            table["v_rad"] = np.full(n_row, v_rad, "f4")
            table["wavelength"] = np.broadcast_to(wave, (n_row, wave.size)).copy()
        for column, at in (("flux", 0), ("ivar", 1)):
            values = [pair[at] for pair in pairs]
            table[column] = np.array(values).reshape(n_row, wave.size).astype("f4")
        # Every bit of the or-mask may be set in sound spectra.
        table["pixel_flags"] = np.full((n_row, wave.size), 1 << 16, "i8")
        hdu = fits.table_to_hdu(table)
        hdu.name = name
        hdu.header["CRVAL"] = float(np.log10(wave[0]))
        hdu.header["CDELT"] = float(np.log10(wave[1] / wave[0]))
        hdu.header["NPIXELS"] = wave.size
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def write_mrs(path, names=("COADD_B", "COADD_R"), red=(6300.0, 6800.0)):
    """A medium-resolution LAMOST file: co-added arms and exposures."""
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"], primary.header["OBSID"] = "LAMOST", 600904224
    primary.header["RA"], primary.header["DEC"] = 99.1, 27.2
    hdus = [primary]
    for name in names:
        low, high = (4950.0, 5350.0) if "B" in name.replace("COADD", "") else red
        wave = np.arange(low, high, 0.13)
        flux, ivar = star(wave)
        zeros = np.zeros(wave.size, "i4")
        hdu = fits.table_to_hdu(
            Table(
                {
                    "FLUX": flux,
                    "IVAR": ivar,
                    "LOGLAM": np.log10(wave),
                    "ANDMASK": zeros,
                    "ORMASK": zeros + 1,
                }
            )
        )
        hdu.name = name
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path
