"""SDSS-V spectra of Milky Way Mapper: ``mwmStar`` and ``mwmVisit`` files of Astra.

A file holds all spectra of one star in four tables, of BOSS and APOGEE at either observatory: one
co-added spectrum each (mwmStar) or one a visit (mwmVisit). The optical ones are read, in the order
of the tables and their rows; APOGEE's lie between 1.5 and 1.7 micron.

Frame: Astra shifts spectra to the rest frame of the star by the pipeline's velocity (wavelengths
are multiplied by 1 - v/c). The shift is taken back here, so that wavelengths are barycentric as in
all other files and a catalogue's velocity is that of the star: v is ``xcsao_v_rad`` of visits and
``v_rad`` of co-added spectra. Visits that are in no stack (``in_stack`` false) were not shifted.

Masks: ``pixel_flags`` descends from the or-mask, whose single exposures the pipeline has rejected
already, and is left alone; bad pixels have ivar 0 or NaN flux.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_files import read_numbers
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    LogGrid,
    SpectrumRecord,
    number_or_nan,
    text_or_empty,
)
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS


def matches(file: SpectrumFile) -> bool:
    """Whether tables are named after an instrument and an observatory, with an SDSS_ID."""
    if not file.is_fits or "SDSS_ID" not in file.header:
        return False
    return any(name.startswith(("BOSS/", "APOGEE/")) for name in file.extensions)


def read(file: SpectrumFile) -> list[SpectrumRecord]:
    """All optical spectra of the star, barycentric.

    Raises
    ------
    RejectedInput
        If the file is damaged or holds no optical spectrum.
    """
    from astropy.io import fits

    records: list[SpectrumRecord] = []
    others: list[str] = []
    with file.open() as hdus:
        header = hdus[0].header
        for hdu in hdus[1:]:
            n_row = int(hdu.header.get("NAXIS2", 0))
            if not n_row:
                continue
            if not hdu.name.startswith("BOSS/"):
                others.append(f"{n_row} in {hdu.name}")
                continue
            if not isinstance(hdu, fits.BinTableHDU):
                raise RejectedInput(f"HDU {hdu.name} is no table.", "download the file again.")
            names = {str(name).lower(): name for name in hdu.columns.names}
            missing = {"flux", "ivar"} - set(names)
            if missing:
                raise RejectedInput(
                    f"table {hdu.name} has no column {sorted(missing)[0]}.", "download it again."
                )
            for row in hdu.data:
                values = {name: row[column] for name, column in names.items()}
                records.append(_assemble(file.path, header, hdu.header, values))
    if records:
        return records
    if others:
        raise RejectedInput(
            f"holds no optical spectrum, but spectra of 1.5-1.7 micron ({', '.join(others)}).",
            "give stars that BOSS observed.",
        )
    raise RejectedInput("holds no spectrum: all its tables are empty.", "leave the file out.")


def _assemble(path: str, header: Any, table: Any, row: dict[str, Any]) -> SpectrumRecord:
    flux = np.ravel(read_numbers(row["flux"], "flux"))
    is_visit = "mjd" in row
    velocity = number_or_nan(
        row.get("xcsao_v_rad", row.get("v_rad")) if is_visit else row.get("v_rad")
    )
    if not bool(row.get("in_stack", True)):
        velocity = np.nan
    # A star's velocity is below this; a fill value is not, and was not applied.
    shifted = np.isfinite(velocity) and abs(velocity) < 3_000.0
    factor = 1.0 / (1.0 - velocity / SPEED_OF_LIGHT_KMS) if shifted else 1.0
    cleaned = clean_pixels(flux, np.ravel(read_numbers(row["ivar"], "ivar")))
    identifier = row.get("sdss_id", header.get("SDSS_ID"))
    return SpectrumRecord(
        _wavelengths(table, row, flux.size, factor),
        cleaned.flux,
        cleaned.ivar,
        NO_HEADER
        | {
            "path": path,
            "obsid": text_or_empty(identifier),
            "survey": "SDSS",
            "layout": "sdss-mwm-visit" if is_visit else "sdss-mwm-star",
            "ra_deg": number_or_nan(header.get("RA")),
            "dec_deg": number_or_nan(header.get("DEC")),
            "z": velocity / SPEED_OF_LIGHT_KMS if shifted else np.nan,
            "had_nonfinite": cleaned.had_nonfinite,
        },
        cleaned.why_empty,
    )


def _wavelengths(
    table: Any, row: dict[str, Any], n_pix: int, factor: float
) -> LogGrid | np.ndarray:
    if "wavelength" in row:
        wave = read_numbers(row["wavelength"], "wavelength")
        return np.ravel(wave).astype(np.float64) * factor
    start, step = (number_or_nan(table.get(key)) for key in ("CRVAL", "CDELT"))
    if not (3.0 < start < 4.5 and 1e-6 < step < 1e-2):
        raise RejectedInput(
            "no wavelength column, and keywords CRVAL and CDELT are no log10 of Angstrom.",
            "download the file again.",
        )
    return LogGrid(start + float(np.log10(factor)), step, n_pix)
