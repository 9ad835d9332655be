"""BT-Settl text spectra, ``lteTTT.T-G.G-M.Ma+A.A.BT-Settl.spec.7``.

Fortran records of wavelength (Angstrom, vacuum), log10 of the flux, log10 of the black body, and
line identifications. The flux in erg/s/cm2/A is 10**(F + DF) with DF = -8 for the BT-Settl
grids (``https://phoenix.ens-lyon.fr/Grids/FORMAT``). Exponents are written with D (and without any
letter where they have three digits), columns 13 and 12 characters wide run into each other where a
value is negative, and records come in the order in which processors finished.
"""

from __future__ import annotations

import re

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import parse_name
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange, finish, require_last_line

LAYOUT = "btsettl-text"
LOG_FLUX_OFFSET = -8.0
"""DF of the BT-Settl grids: log10 of the factor to erg/s/cm2/A."""

LEAST_RECORDS = 0.9
"""Share of lines that must be records: overflowing numbers of Fortran are stars."""

# The letter makes an exponent of exactly two digits; three digits push the letter out.
_NUMBER = rb"[+-]?\d+\.?\d*(?:[DEde][+-]?\d\d|[+-]\d\d\d(?!\.|\d))?"
_RECORD = re.compile(rb"^[ \t]*(" + _NUMBER + rb")[ \t]*(" + _NUMBER + rb")", re.MULTILINE)


def matches(name: str, head: bytes) -> bool:
    """Whether decompressed text looks like such a file."""
    first = head.lstrip()[:1]
    return first.isdigit() and b"\x00" not in head and _RECORD.match(head) is not None


def read(
    data: bytes,
    name: str,
    *,
    air: bool | None = None,
    wanted: WaveRange | None = None,
    log_flux_offset: float = LOG_FLUX_OFFSET,
) -> NativeSpectrum:
    """Read the decompressed bytes of one file.

    Parameters
    ----------
    data : bytes
    name : str
        File name: it carries the labels.
    air : bool, optional
        Wavelengths are in air; by default they are in vacuum, as in this format.
    wanted : WaveRange, optional
        Range to keep.
    log_flux_offset : float
        DF of the grid.

    Raises
    ------
    RejectedInput
        If the name has no labels, or records make no sense.
    """
    labels = parse_name(name)
    require_last_line(data)
    wave, log_flux = _parse_records(data)
    if wave.size == 0:
        raise RejectedInput("no record of wavelength and flux.", "check that the file is whole.")
    n_line = data.count(b"\n")
    if wave.size < LEAST_RECORDS * n_line:
        raise RejectedInput(
            f"only {wave.size} of {n_line} lines begin with a wavelength and a flux.",
            "the file is damaged or of another format: fetch it again.",
        )
    log_flux = log_flux + log_flux_offset
    if np.nanmedian(log_flux) > 30:
        raise RejectedInput(
            f"the flux is no logarithm: half of it is above {np.nanmedian(log_flux):.3g}.",
            "give files of this format, with log10 of the flux.",
        )
    with np.errstate(over="ignore"):
        flux = 10.0**log_flux
    return finish(
        wave,
        flux,
        labels,
        layout=LAYOUT,
        air=bool(air),
        wanted=wanted,
        flux_name=f"the flux is no logarithm: 10**(F {log_flux_offset:+g})",
    )


def _parse_records(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    # Half a million records a file: converted at once where every number is in plain notation.
    records = _RECORD.findall(data.translate(bytes.maketrans(b"Dd", b"ee")))
    columns = []
    for texts in zip(*records, strict=True):
        try:
            columns.append(np.array(texts).astype(np.float64))
        except ValueError:
            columns.append(np.array([_fortran_float(text) for text in texts]))
    if not columns:
        return np.empty(0), np.empty(0)
    return columns[0], columns[1]


def _fortran_float(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        # 1.23456+123: the sign of the exponent stands where the letter should.
        at = max(text.rfind(b"+"), text.rfind(b"-"))
        return float(text[:at] + b"e" + text[at:])
