"""Atomic line data and partition functions, read from the tables beside the code.

``data/atomic_lines.csv`` holds the lines from 5850 to 9150 A (vacuum) that matter in dwarfs of
2500 to 4300 K, chosen from the Gaia-ESO line list (Heiter et al. 2021, A&A 645, A106; 4200-9200 A)
by abundance, oscillator strength, excitation and ionisation at 2600, 3200 and 3900 K, with a quota
for each species. Wavelengths were converted from air. What was done to the published numbers:

- hyperfine and isotopic components closer than 0.15 A are one line with their total gf at their
  gf-weighted mean wavelength; ``hfs_rms_aa`` is their gf-weighted rms spread, which the opacity
  adds to the Doppler width;
- van der Waals: ABO theory (Anstee & O'Mara 1995; Barklem, O'Mara & Ross 1998) turned into a width
  at 10^4 K and the velocity exponent ``vdw_alpha``; else the logarithmic width of Kurucz as
  published; else the approximation of Unsold (1955) with the enhancement the list asks for
  (``vdw_source`` tells which); the last two scale as T^0.3, that is ``vdw_alpha`` = 0.4;
- Na I 5896 has the gf of NIST ASD (half that of 5890; the list's value breaks the doublet's 2:1);
- ``gamma_rad`` is the classical damping constant where the list has none;
- ``gamma_stark`` is not in the list and follows Kurucz's estimate 1e-8 n_eff^5 for the upper level.

``gf_main_source`` names where the oscillator strengths of the species mainly come from, to the best
of our knowledge; for a single row the references of the list itself are the authority (weak lines
of the iron group are mostly Kurucz's calculations).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.simulate.tables import read_rows

# The polynomials of Irwin (1981) were fitted on this interval, K.
_PARTITION_RANGE_K = (1000.0, 16000.0)


class AtomicLines(NamedTuple):
    """A table of atomic lines, one entry per line, sorted by wavelength; all NumPy arrays.

    Attributes
    ----------
    species : (n_line,) str
        Element and ionisation stage, e.g. "Na I".
    wave_aa : (n_line,) float64
        Vacuum wavelength, Angstrom.
    e_lower_ev : (n_line,) float64
        Excitation energy of the lower level, eV.
    log_gf : (n_line,) float64
        log10 of the weighted oscillator strength.
    gamma_rad : (n_line,) float64
        log10 of the natural width (FWHM, angular frequency), 1/s.
    gamma_stark : (n_line,) float64
        log10 of the quadratic Stark width per electron at 10^4 K, cm^3/s.
    gamma_vdw : (n_line,) float64
        log10 of the van der Waals width (FWHM, angular frequency) per H atom at 10^4 K, cm^3/s.
    vdw_alpha : (n_line,) float64
        Velocity exponent: the van der Waals width per H atom grows as T^((1 - alpha)/2).
    hfs_rms_aa : (n_line,) float64
        Rms spread of unresolved hyperfine and isotopic components, Angstrom.
    vdw_source, gf_main_source, reference : (n_line,) str
        Where the numbers come from (see the module's text).
    """

    species: np.ndarray
    wave_aa: np.ndarray
    e_lower_ev: np.ndarray
    log_gf: np.ndarray
    gamma_rad: np.ndarray
    gamma_stark: np.ndarray
    gamma_vdw: np.ndarray
    vdw_alpha: np.ndarray
    hfs_rms_aa: np.ndarray
    vdw_source: np.ndarray
    gf_main_source: np.ndarray
    reference: np.ndarray

    def take(self, index: np.ndarray) -> AtomicLines:
        """The lines that `index` (boolean or integer) selects."""
        return AtomicLines(*(column[index] for column in self))


class AtomicSpecies(NamedTuple):
    """What one atom or ion is, apart from its lines.

    Attributes
    ----------
    mass_u : float
        Standard atomic weight, atomic mass units.
    ionisation_ev : float
        Energy that takes the next electron, eV; 0 for the bare proton.
    solar_abundance : float
        log10 of the element's number per 10^12 hydrogen nuclei in the Sun (Asplund et al. 2021).
    ln_u_coefficients : (6,) float64
        ln U = sum_k a_k (ln T)^k, 1000 to 16,000 K (Irwin 1981, ApJS 45, 621).
    """

    mass_u: float
    ionisation_ev: float
    solar_abundance: float
    ln_u_coefficients: np.ndarray


def _read_columns(name: str) -> dict[str, list[str]]:
    rows = read_rows("jaxmdwarf.simulate.atoms", name)
    return {key: [row[key] for row in rows] for key in rows[0]}


_CSV_NAME = {"wave_aa": "wave_vac_aa"}
_TEXT = ("species", "vdw_source", "gf_main_source", "reference")
# Plausible ranges: a slipped column or a wrong unit shows here.
_RANGE = {
    "wave_aa": (5840.0, 9160.0),
    "e_lower_ev": (0.0, 8.0),
    "log_gf": (-6.0, 2.0),
    "gamma_rad": (3.0, 9.5),
    "gamma_stark": (-9.0, -2.5),
    "gamma_vdw": (-8.5, -5.5),
    "vdw_alpha": (0.0, 1.0),
    "hfs_rms_aa": (0.0, 0.5),
}


@cache
def load_atomic_lines() -> AtomicLines:
    """Read and check the table of atomic lines that the package carries.

    Returns
    -------
    AtomicLines
        Sorted by wavelength. The same object every time: its arrays are read-only.

    Raises
    ------
    FormatError
        If the installed table is damaged: not sorted, out of range, or of an unknown species.

    Examples
    --------
    >>> lines = load_atomic_lines()
    >>> [round(float(w), 2) for w in lines.wave_aa[lines.species == "Ca II"]]
    [8500.36, 8544.44, 8664.52]
    """
    text = _read_columns("atomic_lines.csv")
    columns: dict[str, np.ndarray] = {}
    for field in AtomicLines._fields:
        values = text[_CSV_NAME.get(field, field)]
        columns[field] = np.array(values) if field in _TEXT else np.array(values, dtype=np.float64)
        columns[field].setflags(write=False)
    for field, (low, high) in _RANGE.items():
        bad = ~((columns[field] >= low) & (columns[field] <= high))
        if bad.any():
            raise FormatError(
                f"atomic_lines.csv: {field} leaves {low}..{high} in data row {bad.argmax() + 1}.",
                "reinstall the package.",
            )
    if np.any(np.diff(columns["wave_aa"]) < 0):
        raise FormatError("atomic_lines.csv is not sorted by wavelength.", "reinstall the package.")
    unknown = set(columns["species"]) - set(load_atomic_species())
    if unknown:
        raise FormatError(
            f"atomic_lines.csv has species without partition function: {sorted(unknown)}.",
            "reinstall the package.",
        )
    return AtomicLines(**columns)


@cache
def load_atomic_species() -> dict[str, AtomicSpecies]:
    """Masses, ionisation energies, solar abundances and partition functions, by species name.

    Returns
    -------
    dict of str to AtomicSpecies
        First two ionisation stages ("Na I", "Na II") of every element with lines, and of H, He,
        C, N, O, P, S and Cl.
    """
    text = _read_columns("partition.csv")
    table = {}
    for i, name in enumerate(text["species"]):
        coefficients = np.array([float(text[f"a{k}"][i]) for k in range(6)])
        coefficients.setflags(write=False)
        table[name] = AtomicSpecies(
            mass_u=float(text["mass_u"][i]),
            ionisation_ev=float(text["ionisation_ev"][i]),
            solar_abundance=float(text["solar_abundance"][i]),
            ln_u_coefficients=coefficients,
        )
    return table


def partition_function(
    species: str, temperature: Float[np.ndarray, "*shape"] | float
) -> Float[np.ndarray, "*shape"]:
    """Internal partition function of an atom or ion.

    Parameters
    ----------
    species : str
        E.g. "Ti I".
    temperature : (*shape,) float
        Temperature in K. Outside 1000 to 16,000 K the value at the nearer end is returned.

    Returns
    -------
    (*shape,) float64
        Irwin (1981, ApJS 45, 621), to some per cent (see the tests).

    Raises
    ------
    UsageError
        If the species is not in the table.

    Examples
    --------
    >>> round(float(partition_function("Na I", 3000.0)), 2)
    2.0
    """
    table = load_atomic_species()
    if species not in table:
        raise UsageError(f"no partition function for {species!r}.", f"known: {', '.join(table)}.")
    ln_t = np.log(np.clip(np.asarray(temperature, dtype=np.float64), *_PARTITION_RANGE_K))
    return np.asarray(np.exp(np.polyval(table[species].ln_u_coefficients[::-1], ln_t)))
