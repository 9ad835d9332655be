"""Two-column text of the SVO Theoretical Spectra server (``http://svo2.cab.inta-csic.es/theory``).

A header of lines like ``# teff = 3000 K (value for ...)``, ``# logg = 5 log(cm/s2) (...)``,
``# meta = 0  (...)`` and, depending on the grid, ``# alpha`` or ``# afe``; then wavelength in
Angstrom and flux in erg/cm2/s/A. The server keeps the wavelengths of the original grids, which are
vacuum for BT-Settl and PHOENIX.
"""

from __future__ import annotations

import re

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import GridLabels, parse_name
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange, finish, require_last_line

LAYOUT = "svo-text"
_KEY = re.compile(rb"^#\s*(\w+)\s*=\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)", re.MULTILINE)
_NAMES = {
    "teff": ("teff",),
    "logg": ("logg",),
    "mh": ("meta", "metallicity", "feh", "mh"),
    "alpha_m": ("alpha", "afe", "alpha_fe"),
}


def matches(name: str, head: bytes) -> bool:
    """Whether decompressed text has such a header."""
    return head.lstrip().startswith(b"#") and re.search(rb"^#\s*teff\s*=", head, re.M) is not None


def read(
    data: bytes, name: str, *, air: bool | None = None, wanted: WaveRange | None = None
) -> NativeSpectrum:
    """Read the decompressed bytes of one file.

    Raises
    ------
    RejectedInput
        If the header lacks labels that the name does not have either, or columns make no sense.
    """
    body = data.find(b"\n", data.rfind(b"\n#") + 1) + 1
    values = {key.decode().lower(): float(value) for key, value in _KEY.findall(data[:body])}
    labels = _choose_labels(values, name)
    require_last_line(data)
    tokens = data[body:].split()
    if len(tokens) < 2 or len(tokens) % 2:
        raise RejectedInput("not two columns of numbers.", "fetch the file again.")
    try:
        table = np.array(tokens, dtype=np.float64).reshape(-1, 2)
    except ValueError as error:
        raise RejectedInput(f"not two columns of numbers: {error}.", "check the file.") from None
    return finish(table[:, 0], table[:, 1], labels, layout=LAYOUT, air=bool(air), wanted=wanted)


def _choose_labels(values: dict[str, float], name: str) -> GridLabels:
    """Labels from the header; from the name what the header leaves out."""
    found = {
        label: next((values[key] for key in keys if key in values), None)
        for label, keys in _NAMES.items()
    }
    teff, logg, mh, alpha_m = (found[label] for label in GridLabels._fields)
    if teff is None or logg is None or mh is None:
        return parse_name(name)
    if alpha_m is None:
        try:
            alpha_m = parse_name(name).alpha_m
        except RejectedInput:
            alpha_m = 0.0
    return GridLabels(teff, logg, mh, alpha_m)
