"""Simulated spectra as LAMOST low-resolution files, in the three layouts that LAMOST releases used.

Headers keep the keywords of the real files that describe a spectrum (identity, position, exposure,
wavelength solution, classification, signal-to-noise) and say in several places that nothing was
observed. Bytes depend on the content alone: no dates, no host, gzip without time stamp.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from jaxmdwarf.errors import MismatchError, UsageError

LAYOUTS = ("lamost-subcontinuum", "lamost-wavelength", "lamost-coadd")
"""DR1, DR6-DR8 and DR9+; see `jaxmdwarf.io.spectra.lamost`."""

_RELEASES = {
    "lamost-subcontinuum": ("LAMOST DR1", "v2.6.4"),
    "lamost-wavelength": ("LAMOST DR7", "v2.9.8"),
    "lamost-coadd": ("LAMOST DR9", "v2.9.8"),
}
_BLOCK = 2880
_CARD = 80
_MISSING = -9999.0


@dataclass(frozen=True)
class LamostHeader:
    """What the header of one simulated file says.

    Parameters
    ----------
    obsid : int
    file_name : str
        Without folder.
    plan_id : str
    ra_deg, dec_deg : float
    lmjd : int
        Local modified Julian day.
    spectrograph, fibre : int
        From 1.
    exposure_s : float
    helio_kms : float
        Heliocentric correction that was applied.
    subclass, object_class : str
    z : float
        Heliocentric v/c; NaN is written as -9999.
    snr_r, snr_i : float
        NaN is written as -9999.
    seed : int
        Seed of the survey.
    gap : str
        The domain gap in words.
    """

    obsid: int
    file_name: str
    plan_id: str
    ra_deg: float
    dec_deg: float
    lmjd: int
    spectrograph: int
    fibre: int
    exposure_s: float
    helio_kms: float
    subclass: str
    z: float
    snr_r: float
    snr_i: float
    object_class: str = "STAR"
    seed: int = 0
    gap: str = ""


def encode_lamost(
    flux: np.ndarray,
    ivar: np.ndarray,
    mask: np.ndarray,
    header: LamostHeader,
    *,
    layout: str,
    log10_start: float,
    log10_step: float,
) -> bytes:
    """The FITS bytes (not compressed) of one spectrum.

    Parameters
    ----------
    flux, ivar : (n_pix,)
    mask : (n_pix,)
        Not 0 where a pixel is bad; goes to and-mask and or-mask.
    header : LamostHeader
    layout : str
        One of `LAYOUTS`.
    log10_start, log10_step : float
        COEFF0 and COEFF1.

    Raises
    ------
    UsageError
        If the layout is unknown.
    MismatchError
        If the vectors differ in length.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is unknown.", f"use one of {', '.join(LAYOUTS)}.")
    n_pix = flux.size
    if ivar.size != n_pix or mask.size != n_pix:
        raise MismatchError(f"flux, ivar and mask have {n_pix}, {ivar.size}, {mask.size} pixels.")
    if layout == "lamost-subcontinuum":
        third = _without_continuum(np.asarray(flux, dtype=np.float32))
    else:
        third = _wavelengths(n_pix, log10_start, log10_step)
    bad = (np.asarray(mask) != 0).astype(">f4")
    rows = [flux.astype(">f4"), ivar.astype(">f4"), third.astype(">f4"), bad, bad]
    cards = _cards(header, layout, n_pix, log10_start, log10_step)
    if layout != "lamost-coadd":
        return _header_block(cards) + _padded(b"".join(row.tobytes() for row in rows))
    rows.append(np.full(n_pix, _MISSING, dtype=">f4"))
    return (
        _header_block(cards)
        + _table_header(n_pix)
        + _padded(b"".join(row.tobytes() for row in rows))
    )


def compress(data: bytes, *, level: int = 1) -> bytes:
    """gzip without time stamp and file name: the same bytes for the same content."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    # RFC 1952: magic, deflate, no flags, no time, fastest, unknown system; CRC-32 and length.
    head = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x04\xff"
    tail = zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
    return head + body + tail


def write_lamost_files(
    folder: str | os.PathLike[str],
    flux: np.ndarray,
    ivar: np.ndarray,
    mask: np.ndarray,
    headers: Iterable[LamostHeader],
    *,
    layouts: Iterable[str],
    log10_start: float,
    log10_step: float,
    n_threads: int = 2,
) -> list[Path]:
    """Write one gzipped file for each spectrum.

    Parameters
    ----------
    folder : path
        Existing folder.
    flux, ivar, mask : (n, n_pix)
    headers : n LamostHeader
        Their `file_name` names the files.
    layouts : n str
    log10_start, log10_step : float
        COEFF0 and COEFF1.
    n_threads : int
        Compression runs outside the interpreter lock, so threads share it.

    Returns
    -------
    list of Path
        In the order of the spectra.
    """
    target = Path(folder)

    def write(row: int, header: LamostHeader, layout: str) -> Path:
        path = target / header.file_name
        data = encode_lamost(
            flux[row],
            ivar[row],
            mask[row],
            header,
            layout=layout,
            log10_start=log10_start,
            log10_step=log10_step,
        )
        if path.suffix == ".gz":
            data = compress(data)
        # A file is there whole or not at all, also after Ctrl-C.
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(data)
        partial.replace(path)
        return path

    with ThreadPoolExecutor(max_workers=n_threads) as pool:
        return list(pool.map(write, range(len(flux)), headers, layouts))


def _without_continuum(flux: np.ndarray) -> np.ndarray:
    """Flux minus a running mean of 401 pixels, which stands in for LAMOST's continuum."""
    kernel = 401
    padded = np.pad(flux.astype(np.float64), kernel // 2, mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    return flux - (total[kernel:] - total[:-kernel]) / kernel


@lru_cache(maxsize=4)
def _wavelengths(n_pix: int, log10_start: float, log10_step: float) -> np.ndarray:
    return 10 ** (log10_start + log10_step * np.arange(n_pix))


Card = tuple[str, object, str]


def _cards(
    header: LamostHeader, layout: str, n_pix: int, log10_start: float, log10_step: float
) -> list[Card]:
    release, pipeline = _RELEASES[layout]
    is_image = layout != "lamost-coadd"
    file_name = header.file_name.removesuffix(".gz")
    snr_names = ("SN_", "") if layout == "lamost-subcontinuum" else ("SNR", "")
    cards: list[Card] = [
        ("SIMPLE", True, "FITS standard"),
        ("BITPIX", -32 if is_image else 8, "Bits per value"),
        ("NAXIS", 2 if is_image else 0, "Number of axes"),
    ]
    if is_image:
        cards += [("NAXIS1", n_pix, "Pixels"), ("NAXIS2", 5, "Rows")]
    cards += [
        ("EXTEND", True, "There may be extensions"),
        ("COMMENT", "SIMULATED SPECTRUM: nothing in this file was observed.", ""),
        ("COMMENT", "Only the red part of LAMOST's wavelength range is simulated.", ""),
        ("COMMENT", "--------FILE INFORMATION", ""),
        ("SIMULAT", True, "Simulated, not observed"),
        ("SIMSEED", header.seed, "Seed of the simulated survey"),
        ("SIMGAP", header.gap[:60], "Domain gap of the simulation"),
        ("FILENAME", file_name, ""),
    ]
    if layout != "lamost-subcontinuum":
        cards.append(("OBSID", header.obsid, "Unique number ID of this spectrum"))
    cards.append(("AUTHOR", "jaxmdwarf", "Who made this file"))
    if layout != "lamost-subcontinuum":
        cards.append(("DATA_V", release, "Release whose layout this file has"))
    if layout == "lamost-wavelength":
        cards.append(("EXTEN0", "Flux, Inverse, Wavelength, Andmask, Ormask", "Rows"))
        cards.append(("EXTNAME", "Flux", "The extension name"))
    elif layout == "lamost-subcontinuum":
        cards += [
            ("ROW1", "Flux", ""),
            ("ROW2", "Inverse", ""),
            ("ROW3", "Subcontinuum", ""),
            ("ROW4", "Andmask", ""),
            ("ROW5", "Ormask", ""),
        ]
    cards += [
        ("N_EXTEN", 1 if is_image else 2, "Number of HDUs"),
        ("ORIGIN", "simulation", "Where this file comes from"),
        ("COMMENT", "--------OBSERVATION PARAMETERS", ""),
        ("TELESCOP", "LAMOST", "Telescope that is simulated"),
        ("LMJD", header.lmjd, "Local Modified Julian Day"),
        ("MJD", header.lmjd - 1, "Modified Julian Day"),
        ("PLANID", header.plan_id, "Plan ID in use"),
        ("RA", round(header.ra_deg, 6), "[deg] Right ascension of object"),
        ("DEC", round(header.dec_deg, 6), "[deg] Declination of object"),
        ("DESIG", _designation(header.ra_deg, header.dec_deg), "Designation of the target"),
        ("FIBERID", header.fibre, "Fiber ID of Object"),
        ("OBJTYPE", "Star", "Object type from input catalog"),
        ("RADECSYS", "FK5", "Equatorial coordinate system"),
        ("EQUINOX", 2000.0, "Equinox in years"),
        ("EXPTIME", round(header.exposure_s, 2), "[s] Exposure time"),
        ("SPID", header.spectrograph, "Spectrograph ID"),
        ("COMMENT", "--------DATA REDUCTION PARAMETERS", ""),
        ("HELIO", True, "Heliocentric correction"),
        ("HELIO_RV", round(header.helio_kms, 5), "[km/s] Heliocentric correction"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("NWORDER", 2, "Number of linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", log10_start, "Central wavelength (log10) of first pixel"),
        ("COEFF1", log10_step, "Log10 dispersion per pixel"),
        ("CRVAL1", log10_start, "Central wavelength (log10) of first pixel"),
        ("CD1_1", log10_step, "Log10 dispersion per pixel"),
        ("CRPIX1", 1, "Starting pixel (1-indexed)"),
        ("CTYPE1", "LINEAR", ""),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("COMMENT", "--------SPECTRA ANALYSIS RESULTS", ""),
        ("VERSPIPE", pipeline, "Pipeline whose layout this file has"),
        ("CLASS", header.object_class, "Class of object"),
        ("SUBCLASS", _subclass(header.subclass, layout), "Subclass of object"),
        ("Z", _or_missing(header.z, 8), "Redshift of object"),
        (f"{snr_names[0]}R", _or_missing(header.snr_r, 2), "SNR of r filter"),
        (f"{snr_names[0]}I", _or_missing(header.snr_i, 2), "SNR of i filter"),
    ]
    return cards


def _subclass(subclass: str, layout: str) -> str:
    # DR1 wrote M0 where later releases write dM0.
    return subclass.removeprefix("d") if layout == "lamost-subcontinuum" else subclass


def _or_missing(value: float, digits: int) -> float:
    return round(float(value), digits) if np.isfinite(value) else _MISSING


def _designation(ra_deg: float, dec_deg: float) -> str:
    hours = ra_deg % 360 / 15
    sign, dec = ("-" if dec_deg < 0 else "+"), abs(dec_deg)
    # Designations truncate, never round.
    return (
        f"SIM J{int(hours):02d}{int(hours * 60 % 60):02d}{int(hours * 360000 % 6000) / 100:05.2f}"
        f"{sign}{int(dec):02d}{int(dec * 60 % 60):02d}{int(dec * 36000 % 600) / 10:04.1f}"
    )


def _format_card(keyword: str, value: object, comment: str) -> str:
    if keyword == "COMMENT":
        return f"COMMENT {value}".ljust(_CARD)[:_CARD]
    if isinstance(value, bool):
        text = ("T" if value else "F").rjust(20)
    elif isinstance(value, int | np.integer):
        text = str(int(value)).rjust(20)
    elif isinstance(value, float | np.floating):
        text = _format_float(float(value)).rjust(20)
    else:
        quoted = str(value).replace("'", "''")
        text = f"'{quoted.ljust(8)}'".ljust(20)
    return f"{keyword:<8}= {text} / {comment}".ljust(_CARD)[:_CARD]


def _format_float(value: float) -> str:
    text = f"{value:.10G}"
    return text if any(mark in text for mark in ".E") else text + ".0"


def _header_block(cards: Iterable[Card]) -> bytes:
    text = "".join(_format_card(*card) for card in cards) + "END".ljust(_CARD)
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode("ascii")


def _padded(data: bytes) -> bytes:
    return data + b"\x00" * (-len(data) % _BLOCK)


@lru_cache(maxsize=4)
def _table_header(n_pix: int) -> bytes:
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")
    cards: list[Card] = [
        ("XTENSION", "BINTABLE", "Binary table"),
        ("BITPIX", 8, "Required value"),
        ("NAXIS", 2, "Required value"),
        ("NAXIS1", 4 * n_pix * len(names), "Number of bytes per row"),
        ("NAXIS2", 1, "Number of rows"),
        ("PCOUNT", 0, "Normally 0 (no varying arrays)"),
        ("GCOUNT", 1, "Required value"),
        ("TFIELDS", len(names), "Number of columns in table"),
        ("EXTNAME", "COADD", "The extension name"),
    ]
    for number, name in enumerate(names, start=1):
        cards += [(f"TTYPE{number}", name, ""), (f"TFORM{number}", f"{n_pix}E", "")]
    return _header_block(cards)
