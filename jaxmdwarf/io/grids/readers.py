"""Any model-grid file to a native spectrum, the format told by content."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids import btsettl_fits, btsettl_text, phoenix_aces, svo_text
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange

FORMATS = {module.LAYOUT: module for module in (svo_text, phoenix_aces, btsettl_fits, btsettl_text)}
"""Readers in the order in which content is tried."""

_HEAD = 8 * 2880


def read_native(
    path: str | os.PathLike[str], *, air: bool | None = None, wanted: WaveRange | None = None
) -> NativeSpectrum:
    """Read one model spectrum of any supported format.

    Parameters
    ----------
    path : path
        Plain or compressed with gzip, bzip2 or xz, told by content.
    air : bool, optional
        Overrides the wavelength scale of the format: True for air, False for vacuum.
    wanted : WaveRange, optional
        Vacuum range to keep.

    Raises
    ------
    RejectedInput
        With reason and remedy, for any file that is not a usable model spectrum.
    """
    name = os.fspath(path)
    data = _read_bytes(Path(path))
    head = data[:_HEAD]
    for reader in FORMATS.values():
        if reader.matches(name, head):
            return reader.read(data, name, air=air, wanted=wanted)
    raise RejectedInput(
        "the content is no known model-grid format.",
        "supported are BT-Settl text and FITS, SVO text, PHOENIX-ACES FITS.",
    )


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedInput(f"unreadable: {error.strerror}.", "check path and rights.") from None
    if not data:
        raise RejectedInput("the file is empty.", "fetch it again.")
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"BZh"):
            return bz2.decompress(data)
        if data.startswith(b"\xfd7zXZ\x00"):
            return lzma.decompress(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise RejectedInput(f"decompression fails: {error}.", "fetch the file again.") from None
    return data
