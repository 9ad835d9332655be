"""Molecular lines computed from published constants: levels, strengths, partition functions."""

from jaxmdwarf.simulate.molecules.linelist import (
    BandHead,
    LineList,
    Species,
    band_lines,
    head_wavelengths,
    level_constants,
    list_species,
    load_species,
    partition_function,
)

__all__ = [
    "BandHead",
    "LineList",
    "Species",
    "band_lines",
    "head_wavelengths",
    "level_constants",
    "list_species",
    "load_species",
    "partition_function",
]
