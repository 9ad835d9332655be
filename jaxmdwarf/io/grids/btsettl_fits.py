"""BT-Settl and BT-NextGen spectra as FITS tables, ``*.BT-Settl.spec.fits.gz``.

The first extension is a binary table with columns Wavelength (micron, vacuum), Flux (W/m2/um) and
the black body; as published on ``https://phoenix.ens-lyon.fr/Grids/BT-Settl/CIFIST2011_2015/FITS/``.
Units in TUNITn are honoured; wavelengths may repeat.
"""

from __future__ import annotations

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_files import open_fits, read_numbers
from jaxmdwarf.io.grids.names import GridLabels, parse_name
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange, finish

LAYOUT = "btsettl-fits"
_W_M2_UM = 0.1
"""W/m2/um in erg/s/cm2/A."""


def matches(name: str, head: bytes) -> bool:
    """Whether the content is FITS with a table; the primary holds no image."""
    return head.startswith(b"SIMPLE  =") and has_no_image(head)


def read(
    data: bytes, name: str, *, air: bool | None = None, wanted: WaveRange | None = None
) -> NativeSpectrum:
    """Read the decompressed bytes of one file; labels from PHX header keys, else from the name.

    Raises
    ------
    RejectedInput
        If there is no table with wavelength and flux, a unit is unknown, or labels are missing.
    """
    from astropy.io import fits

    with open_fits(data) as hdus:
        table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
        if table is None:
            raise RejectedInput("no table in the FITS file.", "give model spectra.")
        columns = {str(column.name).lower(): column for column in table.columns}
        if not {"wavelength", "flux"} <= set(columns):
            raise RejectedInput(
                f"the table has columns {sorted(columns)}.",
                "a BT-Settl table has Wavelength and Flux.",
            )
        wave, flux = (
            read_numbers(table.data[columns[name].name], name).astype(np.float64).ravel()
            for name in ("wavelength", "flux")
        )
        if wave.size != flux.size:
            raise RejectedInput(
                f"{wave.size} wavelengths for {flux.size} fluxes.", "fetch the file again."
            )
        to_aa = _wave_factor(columns["wavelength"].unit, wave)
        with np.errstate(over="ignore"):  # what overflows is refused below
            wave = wave * to_aa
            flux = flux * _flux_factor(columns["flux"].unit)
        # Within the block, which turns whatever astropy says of damaged cards into a reason.
        labels = labels_from_header([hdus[0].header, table.header], name)
    return finish(
        wave,
        flux,
        labels,
        layout=LAYOUT,
        air=bool(air),
        wanted=wanted,
    )


def labels_from_header(headers, name: str) -> GridLabels:
    """Labels from the PHX keys of any of the headers, else from the file name."""
    for header in headers:
        if {"PHXTEFF", "PHXLOGG", "PHXM_H"} <= set(header):
            return GridLabels(
                _read_label(header, "PHXTEFF"),
                _read_label(header, "PHXLOGG"),
                _read_label(header, "PHXM_H"),
                _read_label(header, "PHXALPHA") if "PHXALPHA" in header else 0.0,
            )
    return parse_name(name)


def _read_label(header, key: str) -> float:
    try:
        return float(header[key]) + 0.0
    except (TypeError, ValueError):
        raise RejectedInput(
            f"the header says {key} = {header[key]!r}.", "fetch the file again."
        ) from None


def _wave_factor(unit: object, wave: np.ndarray) -> float:
    known = {
        "um": 1e4,
        "micron": 1e4,
        "microns": 1e4,
        "angstrom": 1.0,
        "angstroms": 1.0,
        "aa": 1.0,
        "a": 1.0,
        "nm": 10.0,
    }
    if not unit:
        # 100 Angstrom or 100 micron: no model stays within both.
        return 1e4 if np.nanmedian(wave) < 100.0 else 1.0
    factor = known.get(str(unit).strip().lower())
    if factor is None:
        raise RejectedInput(f"wavelength unit {unit!r} is unknown.", "use um, nm or Angstrom.")
    return factor


def _flux_factor(unit: object) -> float:
    if not unit:
        return _W_M2_UM
    from astropy import units as u

    target = u.erg / u.s / u.cm**2 / u.AA
    text = str(unit).strip()
    if text.upper() in ("FLAM", "ERG/CM2/S/A"):
        return 1.0
    try:
        return float(u.Unit(text).to(target))
    except (ValueError, TypeError, u.UnitConversionError):
        raise RejectedInput(f"flux unit {unit!r} is unknown.", "use W / (m2 um).") from None


def has_no_image(head: bytes) -> bool:
    """Whether the primary header of a FITS file says that there is no image."""
    for start in range(0, min(len(head), 2880), 80):
        card = head[start : start + 80]
        if card.startswith(b"NAXIS   ="):
            return card[10:].split(b"/")[0].strip() == b"0"
    return False
