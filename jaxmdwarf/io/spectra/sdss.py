"""SDSS and BOSS spectra: ``spec-PLATE-MJD-FIBER`` files, lite or full, of all data releases.

The co-added spectrum is table COADD in HDU 1 (flux, loglam, ivar, and_mask, one row a pixel), the
catalogue row is HDU 2 (SPECOBJ or SPALL); the single exposures of full files are not read.

Masks: as for LAMOST, a pixel is bad if any bit of and_mask is set (set in every exposure), besides
those whose ivar is 0 already.

Wavelengths: loglam is single precision (0.2 km/s); where it lies on the survey's grid of 1e-4 dex
the grid itself is taken.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels, header_says_air
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.spectra.fits_bytes import read_file_bytes
from jaxmdwarf.io.spectra.records import (
    LogGrid,
    SpectrumRecord,
    build_spectrum,
    check_record,
    number_or_nan,
    text_or_empty,
)
from jaxmdwarf.wavelengths import air_to_vacuum

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

STEP_DEX = 1e-4
BANDS = "ugriz"
COADD_COLUMNS = ("FLUX", "LOGLAM", "IVAR")


def read_sdss(path: str | os.PathLike[str]) -> RawSpectrum:
    """Read the co-added spectrum of one SDSS or BOSS spec file, lite or full.

    Parameters
    ----------
    path : str or path
        A FITS file, gzipped or not.

    Returns
    -------
    RawSpectrum
        Vacuum wavelengths; ivar 0 where and_mask is set or a value is not finite. S/N is the
        pipeline's median per pixel in r and i.

    Raises
    ------
    RejectedInput
        If the file is no such spectrum, is damaged, or holds no good pixel.
    """
    record = decode_sdss(read_file_bytes(path), str(path))
    if record is None:
        raise RejectedInput(
            "not an SDSS spec file (no table with flux, loglam and ivar in HDU 1).",
            "use read_spectrum, which knows other formats.",
        )
    check_record(record)
    return build_spectrum(record)


def decode_sdss(data: bytes, path: str) -> SpectrumRecord | None:
    """The spectrum in the bytes of a FITS file, or None if they are not an SDSS spec file."""
    from astropy.io import fits

    try:
        with fits.open(io.BytesIO(data), memmap=False) as hdus:
            if len(hdus) < 2 or not isinstance(hdus[1], fits.BinTableHDU):
                return None
            coadd = _columns(hdus[1].data)
            if not all(name in coadd for name in COADD_COLUMNS):
                return None
            is_table = len(hdus) > 2 and isinstance(hdus[2], fits.BinTableHDU)
            row = _columns(hdus[2].data) if is_table and len(hdus[2].data) else {}
            return _assemble(hdus[0].header, coadd, row, path)
    except RejectedInput:
        raise
    except Exception as error:  # astropy raises many kinds for damaged files
        raise RejectedInput(f"not readable as FITS ({error}).", "download it again.") from None


def _columns(table: Any) -> dict[str, np.ndarray]:
    return {name.upper(): np.asarray(table[name]) for name in table.dtype.names or ()}


def _assemble(
    header: Any, coadd: dict[str, np.ndarray], row: dict[str, np.ndarray], path: str
) -> SpectrumRecord:
    loglam = np.asarray(coadd["LOGLAM"], dtype=np.float64).ravel()
    pixels: LogGrid | np.ndarray = _on_survey_grid(loglam)
    if header_says_air(header):
        pixels = air_to_vacuum(10.0**loglam)
    bad = np.ravel(coadd["AND_MASK"]) != 0 if "AND_MASK" in coadd else None
    cleaned = clean_pixels(coadd["FLUX"].ravel(), coadd["IVAR"].ravel(), bad)

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

    meta: dict[str, str | float | bool] = {
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
    plate = header.get("PLATEID", first("PLATE", "FIELD"))
    date, fibre = header.get("MJD", first("MJD")), header.get("FIBERID", first("FIBERID"))
    if plate is None or date is None or fibre is None:
        return text_or_empty(first("SDSS_ID", "CATALOGID"))
    return f"{int(plate):04d}-{int(date)}-{int(fibre):04d}"


def _first_finite(*values: float) -> float:
    return next((value for value in values if np.isfinite(value)), float("nan"))
