"""Atomic lines of cool dwarfs: line data, partition functions, Voigt profiles, cross-sections."""

from jaxmdwarf.simulate.atoms.crosssection import (
    CROSS_SECTION_UNIT_CM2,
    Perturbers,
    atomic_cross_sections,
    perturber_densities,
)
from jaxmdwarf.simulate.atoms.lines import (
    AtomicLines,
    AtomicSpecies,
    load_atomic_lines,
    load_atomic_species,
    partition_function,
)
from jaxmdwarf.simulate.atoms.voigt import voigt_hjerting, voigt_profile

__all__ = [
    "CROSS_SECTION_UNIT_CM2",
    "AtomicLines",
    "AtomicSpecies",
    "Perturbers",
    "atomic_cross_sections",
    "load_atomic_lines",
    "load_atomic_species",
    "partition_function",
    "perturber_densities",
    "voigt_hjerting",
    "voigt_profile",
]
