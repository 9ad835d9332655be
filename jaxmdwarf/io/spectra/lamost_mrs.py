"""LAMOST medium-resolution files (R 7500): co-added blue and red arms, and single exposures.

Tables COADD_B and COADD_R hold the co-added arms (4950-5350 and 6300-6800 Angstrom, vacuum,
heliocentric; flux, ivar, log10 or plain wavelengths, masks), tables like ``R-84420148`` the
exposures. The red arm is read; it serves models whose pixels it covers, and where a model needs
more, the reject says what the file is.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels, header_says_air
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_files import read_data, read_numbers
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import NO_HEADER, SpectrumRecord, number_or_nan, text_or_empty
from jaxmdwarf.wavelengths import air_to_vacuum

RED_ARM = "COADD_R"
_COLUMNS = ("FLUX", "IVAR", "LOGLAM", "WAVELENGTH", "ANDMASK", "PIXMASK")
_ARM = re.compile(r"^(COADD_[BR]|[BR]-\d+)$")


def matches(file: SpectrumFile) -> bool:
    """Whether tables are named like the arms and exposures of the survey."""
    return file.is_fits and any(_ARM.match(name) for name in file.extensions)


def read(file: SpectrumFile) -> list[SpectrumRecord]:
    """The co-added red arm.

    Raises
    ------
    RejectedInput
        If the file is damaged or has no such arm.
    """
    if RED_ARM not in file.extensions:
        held = ", ".join(name for name in file.extensions if _ARM.match(name))
        raise RejectedInput(
            f"a LAMOST medium-resolution file without a co-added red arm (it holds {held}).",
            "give low-resolution spectra of the star.",
        )
    with file.open() as hdus:
        header, table = hdus[0].header, read_data(hdus[RED_ARM])
        columns = {
            str(name).upper(): np.ravel(table[name])
            for name in table.dtype.names or ()
            if str(name).upper() in _COLUMNS
        }
        for name, values in columns.items():
            read_numbers(values, name)
        in_air = header_says_air(header)
        return [_assemble(file.path, header, columns, in_air=in_air)]


def _assemble(
    path: str, header: Any, columns: dict[str, np.ndarray], *, in_air: bool
) -> SpectrumRecord:
    if "FLUX" not in columns or "IVAR" not in columns:
        raise RejectedInput(
            f"{RED_ARM} has the columns {', '.join(columns) or 'none'}, not flux and ivar.",
            "download the file again.",
        )
    if "LOGLAM" in columns:
        wave = 10.0 ** columns["LOGLAM"].astype(np.float64)
    elif "WAVELENGTH" in columns:
        wave = columns["WAVELENGTH"].astype(np.float64)
    else:
        raise RejectedInput(f"{RED_ARM} has no wavelengths.", "download the file again.")
    order = np.argsort(wave, kind="stable")
    mask = next((columns[name] for name in ("ANDMASK", "PIXMASK") if name in columns), None)
    bad = None if mask is None else (mask != 0)[order]
    cleaned = clean_pixels(
        columns["FLUX"][order], columns["IVAR"][order], bad, mask_name="the mask"
    )
    return SpectrumRecord(
        air_to_vacuum(wave[order]) if in_air else wave[order],
        cleaned.flux,
        cleaned.ivar,
        NO_HEADER
        | {
            "path": path,
            "obsid": text_or_empty(header.get("OBSID", header.get("MOBSID"))),
            "survey": "LAMOST",
            "layout": "lamost-mrs",
            "ra_deg": number_or_nan(header.get("RA")),
            "dec_deg": number_or_nan(header.get("DEC")),
            "z": number_or_nan(header.get("Z")),
            "had_nonfinite": cleaned.had_nonfinite,
        },
        cleaned.why_empty,
        what="the red arm of a LAMOST medium-resolution spectrum",
    )
