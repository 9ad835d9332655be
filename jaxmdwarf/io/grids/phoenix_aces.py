"""PHOENIX-ACES high-resolution spectra (Husser et al. 2013, A&A 553, A6).

``lte03000-5.00-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits``: flux in erg/s/cm2/cm in the primary
image, labels in PHXTEFF, PHXLOGG, PHXM_H, PHXALPHA; wavelengths (vacuum Angstrom) in
``WAVE_PHOENIX-ACES-AGSS-COND-2011.fits``, found beside the spectrum or in a folder above it. The
medium-resolution files, whose header gives the wavelengths (CRVAL1, CDELT1, CTYPE1 with AWAV for
air and LOG for ln(wavelength)), are read too.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.compression import read_file_bytes
from jaxmdwarf.io.fits_files import open_fits, read_data, read_numbers
from jaxmdwarf.io.grids.btsettl_fits import has_no_image, labels_from_header
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange, finish

LAYOUT = "phoenix-aces"
WAVE_FILE = "WAVE_PHOENIX-ACES-AGSS-COND-2011.fits"
_PER_CM = 1e-8
"""erg/s/cm2/cm in erg/s/cm2/A."""
_FOLDERS_UP = 4


def matches(name: str, head: bytes) -> bool:
    """Whether the content is FITS whose primary image carries the PHX keys."""
    return (
        head.startswith(b"SIMPLE  =")
        and not has_no_image(head)
        and (b"PHXTEFF" in head or "PHOENIX-ACES" in os.path.basename(name))
    )


def is_wave_file(name: str) -> bool:
    """Whether a file is not a spectrum but the wavelengths of others."""
    return os.path.basename(name).startswith("WAVE_PHOENIX")


def read(
    data: bytes, name: str, *, air: bool | None = None, wanted: WaveRange | None = None
) -> NativeSpectrum:
    """Read the bytes of one file; `name` must be its path, from which the WAVE file is found.

    Raises
    ------
    RejectedInput
        If there is no image, no wavelengths, or their numbers differ.
    """
    with open_fits(data) as hdus:
        # astropy leaves a unit whose first card is damaged without data.
        header, image = hdus[0].header, getattr(hdus[0], "data", None)
        labels = labels_from_header([header], name)
        stated = None
        if "CRVAL1" in header and "CDELT1" in header and image is not None:
            stated = _wave_from_header(header, image.size)
    if image is None or image.ndim != 1:
        raise RejectedInput("the primary image is not one spectrum.", "use the HiRes files.")
    flux = read_numbers(image, "the primary image").astype(np.float64)
    wave, in_air = stated or (_wave_beside(name), False)
    if wave.size != flux.size:
        raise RejectedInput(
            f"{flux.size} fluxes but {wave.size} wavelengths.",
            f"put the {WAVE_FILE} of the same release beside the spectra.",
        )
    return finish(
        wave,
        flux * _PER_CM,
        labels,
        layout=LAYOUT,
        air=in_air if air is None else air,
        wanted=wanted,
    )


def _wave_from_header(header, n_pix: int) -> tuple[np.ndarray, bool]:
    kind = str(header.get("CTYPE1", "")).upper()
    index = np.arange(n_pix) + 1.0 - float(header.get("CRPIX1", 1.0))
    wave = float(header["CRVAL1"]) + float(header["CDELT1"]) * index
    return (np.exp(wave) if "LOG" in kind else wave), kind.startswith("AWAV")


def _wave_beside(name: str) -> np.ndarray:
    folder = Path(name).resolve().parent
    for candidate in (folder, *list(folder.parents)[:_FOLDERS_UP]):
        for file in (WAVE_FILE, WAVE_FILE + ".gz"):
            if (candidate / file).is_file():
                return _read_wave(str(candidate / file))
    raise RejectedInput(
        f"there is no {WAVE_FILE} beside the spectrum or above it.",
        f"put {WAVE_FILE} into the folder of the spectra.",
    )


@lru_cache(maxsize=2)
def _read_wave(path: str) -> np.ndarray:
    try:
        with open_fits(read_file_bytes(path)) as hdus:
            wave = read_numbers(read_data(hdus[0]), "the primary image").astype(np.float64)
    except RejectedInput as error:
        raise RejectedInput(f"{path}: {error.message}", "fetch that file again.") from None
    if wave.ndim != 1:
        raise RejectedInput(f"{path} holds no vector of wavelengths.", "fetch that file again.")
    wave.flags.writeable = False
    return wave
