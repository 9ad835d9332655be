"""SDSS and BOSS spectra: ``spec-PLATE-MJD-FIBER`` files, lite or full, of all data releases.

The co-added spectrum is table COADD in HDU 1 (flux, loglam, ivar, and_mask, one row a pixel), the
catalogue row is HDU 2 (SPECOBJ or SPALL); the single exposures of full files are not read.

Masks: of the bits of and_mask (SPPIXMASK), 0 to 15 describe the fibre (many pixels rejected, near a
bright one, smear exposures taken) and are set in every pixel of sound spectra; most of the others
are warnings, and pixels without data have ivar 0 besides their bit. A pixel is bad if its ivar is 0
or if BRIGHTSKY is set, the bit that the survey's own redshift code masks in and_mask.

Wavelengths: loglam is single precision (0.2 km/s); where it lies on the survey's grid of 1e-4 dex
the grid itself is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels, header_says_air
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_files import read_data, read_numbers
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    LogGrid,
    SpectrumRecord,
    expand_log_grid,
    number_or_nan,
    text_or_empty,
    whole_or_none,
)
from jaxmdwarf.wavelengths import air_to_vacuum

BRIGHTSKY = 1 << 23
"""SPPIXMASK: sky level > flux + 10 flux errors, and > 1.25 times its median around."""

STEP_DEX = 1e-4
BANDS = "ugriz"
COADD_COLUMNS = ("FLUX", "LOGLAM", "IVAR")


def matches(file: SpectrumFile) -> bool:
    """Whether the first table has a row a pixel, with flux, loglam and ivar."""
    return file.is_fits and set(COADD_COLUMNS) <= set(file.columns(1))


def read(file: SpectrumFile) -> list[SpectrumRecord]:
    """The co-added spectrum.

    Raises
    ------
    RejectedInput
        If the file is damaged.
    """
    from astropy.io import fits

    with file.open() as hdus:
        coadd = _columns(read_data(hdus[1]))
        for name in COADD_COLUMNS:
            read_numbers(coadd[name], name)
        is_table = len(hdus) > 2 and isinstance(hdus[2], fits.BinTableHDU)
        row = _columns(hdus[2].data) if is_table and len(hdus[2].data) else {}
        return [_assemble(hdus[0].header, coadd, row, file.path)]


def _columns(table: Any) -> dict[str, np.ndarray]:
    return {str(name).upper(): np.asarray(table[name]) for name in table.dtype.names or ()}


def _assemble(
    header: Any, coadd: dict[str, np.ndarray], row: dict[str, np.ndarray], path: str
) -> SpectrumRecord:
    loglam = np.asarray(coadd["LOGLAM"], dtype=np.float64).ravel()
    pixels: LogGrid | np.ndarray = _on_survey_grid(loglam)
    if header_says_air(header):
        pixels = air_to_vacuum(expand_log_grid(pixels) if isinstance(pixels, LogGrid) else pixels)
    bad = None
    if "AND_MASK" in coadd:
        mask = read_numbers(coadd["AND_MASK"], "and_mask")
        if mask.dtype.kind == "f":
            raise RejectedInput("and_mask holds no bits.", "download the file again.")
        bad = (np.ravel(mask) & BRIGHTSKY) != 0
    cleaned = clean_pixels(
        coadd["FLUX"].ravel(), coadd["IVAR"].ravel(), bad, mask_name="BRIGHTSKY of and_mask"
    )

    def first(*names: str) -> Any:
        for name in names:
            if name in row and np.ravel(row[name]).size:
                return np.ravel(row[name])[0]
        return None

    def signal_to_noise(band: str) -> float:
        values = np.ravel(row.get("SN_MEDIAN", ()))
        index = BANDS.index(band)
        # Zero is the table's default for "not measured".
        return number_or_nan(values[index]) or np.nan if values.size == len(BANDS) else np.nan

    def position(*names: str) -> float:
        # RA and DEC of the primary header are the plate's centre, PLUG_RA and PLUG_DEC the fibre's.
        return number_or_nan(first(*names, *(f"{name}CAT" for name in names[-1:])))

    meta = NO_HEADER | {
        "path": path,
        "obsid": _identifier(header, first),
        "survey": "SDSS",
        "layout": "sdss-coadd",
        "ra_deg": _first_finite(
            position("PLUG_RA", "FIBER_RA", "RA"), number_or_nan(header.get("PLUG_RA"))
        ),
        "dec_deg": _first_finite(
            position("PLUG_DEC", "FIBER_DEC", "DEC"), number_or_nan(header.get("PLUG_DEC"))
        ),
        "z": number_or_nan(first("Z")),
        "snr_r": float(signal_to_noise("r")),
        "snr_i": float(signal_to_noise("i")),
        "subclass": text_or_empty(first("SUBCLASS")),
        "object_class": text_or_empty(first("CLASS")),
        "had_nonfinite": cleaned.had_nonfinite,
    }
    return SpectrumRecord(pixels, cleaned.flux, cleaned.ivar, meta, cleaned.why_empty)


def _on_survey_grid(loglam: np.ndarray) -> LogGrid | np.ndarray:
    """The survey's own grid if `loglam` repeats it in single precision, else its wavelengths."""
    with np.errstate(invalid="ignore", over="ignore"):
        steps = loglam / STEP_DEX
        nearest = np.rint(steps)
        on_grid = (np.abs(steps - nearest) < 0.01).all() and (np.diff(nearest) == 1).all()
        if loglam.size > 1 and on_grid:
            return LogGrid(float(nearest[0]) * STEP_DEX, STEP_DEX, loglam.size)
        return 10.0**loglam


def _identifier(header: Any, first: Any) -> str:
    identifier = text_or_empty(first("SPECOBJID", "SPECOBJ_ID"))
    if identifier not in ("", "0", "-9999"):
        return identifier
    plate = whole_or_none(header.get("PLATEID", first("PLATE", "FIELD")))
    date = whole_or_none(header.get("MJD", first("MJD")))
    fibre = whole_or_none(header.get("FIBERID", first("FIBERID")))
    if plate is None or date is None or fibre is None:
        return text_or_empty(first("SDSS_ID", "CATALOGID"))
    return f"{plate:04d}-{date}-{fibre:04d}"


def _first_finite(*values: float) -> float:
    return next((value for value in values if np.isfinite(value)), float("nan"))
