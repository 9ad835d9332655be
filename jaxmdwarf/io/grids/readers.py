"""Any model-grid file to a native spectrum, the format told by content."""

from __future__ import annotations

import os

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.compression import read_file_bytes
from jaxmdwarf.io.fits_bytes import is_fits, list_hdus, require_checksums
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange
from jaxmdwarf.io.grids.registry import GRID_READERS

_HEAD = 8 * 2880


def read_native(
    path: str | os.PathLike[str], *, air: bool | None = None, wanted: WaveRange | None = None
) -> NativeSpectrum:
    """Read one model spectrum of any known format.

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
    data = read_file_bytes(name)
    head = data[:_HEAD]
    readers = GRID_READERS.entries()
    for reader in readers:
        if reader.matches(name, head):
            if is_fits(data):
                require_checksums(data, list_hdus(data))
            return reader.read(data, name, air=air, wanted=wanted)
    raise RejectedInput(
        "the content is no known model-grid format.",
        f"give files of {', '.join(reader.name for reader in readers)}, or register a reader "
        "(help(jaxmdwarf.io.grids.registry)).",
    )
