"""Model-grid files of every supported format, and our own grid table.

=====================================  =========================  ===========  ==================
format                                 module                     wavelengths  labels from
=====================================  =========================  ===========  ==================
BT-Settl ``*.spec.7`` text             `.btsettl_text`            vacuum       file name
BT-Settl, BT-NextGen FITS tables       `.btsettl_fits`            vacuum       header, file name
SVO two-column text                    `.svo_text`                vacuum       header, file name
PHOENIX-ACES HiRes FITS + WAVE file    `.phoenix_aces`            vacuum       header, file name
our Parquet table                      `.table`                   vacuum       columns
=====================================  =========================  ===========  ==================

Readers of further formats are registered, see `.registry`.
"""

from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange, finish
from jaxmdwarf.io.grids.registry import (
    GridReader,
    list_grid_readers,
    register_grid_reader,
    unregister_grid_reader,
)
from jaxmdwarf.io.grids.table import ModelGrid, read_grid, write_grid

__all__ = [
    "GridLabels",
    "GridReader",
    "ModelGrid",
    "NativeSpectrum",
    "WaveRange",
    "finish",
    "list_grid_readers",
    "read_grid",
    "register_grid_reader",
    "unregister_grid_reader",
    "write_grid",
]
