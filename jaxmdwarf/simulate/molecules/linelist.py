"""Molecular line lists: wavenumbers, lower energies and strengths of the lines of a band system.

Strengths follow from one total rate per system, vibrational moments <v'|mu(r)|v''> and Hoenl-London
factors in intermediate coupling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxmdwarf.simulate.constants import HC_OVER_K_CM
from jaxmdwarf.simulate.molecules.franck_condon import (
    moment_matrix,
)
from jaxmdwarf.simulate.molecules.hamiltonian import (
    UNPHYSICAL_CM,
    dipole_amplitudes,
    solve_levels,
)
from jaxmdwarf.simulate.molecules.levels import (
    SolvedMolecule,
    angular_momenta,
    lowest_level,
    solve_isotopologue,
    take_levels,
)
from jaxmdwarf.simulate.molecules.species import BandSystem, Species, load_species
from jaxmdwarf.wavelengths import vacuum_to_air

F_TO_A = 0.66702
"""A = 0.66702 nu^2 f g_lower / g_upper, nu in cm^-1, A in s^-1."""

_PRUNE_TEMPERATURES_K = (2000.0, 3000.0, 4500.0)


class LineList(NamedTuple):
    """Lines of one system, sorted by wavenumber; every array has shape (n_lines,).

    With the internal partition function Q of `partition_function` the cross-section integrated
    over wavenumber (cm^2 cm^-1, per molecule of the element's natural isotope mixture) is

        ga_s / (8 pi c nu^2) exp(-c2 e_lower / T) (1 - exp(-c2 nu / T)) / Q(T).

    Attributes
    ----------
    wavenumber_cm : vacuum wavenumber, cm^-1.
    e_lower_cm : lower level above the lowest level of the ground state's v=0, cm^-1.
    ga_s : (2J'+1) A times isotopic abundance, s^-1; no partition function. Lines whose
        Lambda-doublets coincide are given once, with the sum of both.
    v_upper, v_lower : vibrational quantum numbers.
    system : name of the band system.
    """

    wavenumber_cm: np.ndarray
    e_lower_cm: np.ndarray
    ga_s: np.ndarray
    v_upper: np.ndarray
    v_lower: np.ndarray
    system: str

    @property
    def wave_aa(self) -> np.ndarray:
        """Vacuum wavelengths, Angstrom."""
        return 1.0e8 / self.wavenumber_cm


class BandHead(NamedTuple):
    """Extreme of one branch: `branch` like R11 (upper and lower component), air Angstrom, J''."""

    branch: str
    wave_air_aa: float
    j_lower: float


def _moment(system: BandSystem, grid: np.ndarray) -> np.ndarray:
    if system.moment_k == 0.0:
        return np.ones_like(grid)
    return 0.5 + np.arctan(system.moment_k * (grid - system.moment_r0)) / np.pi


def band_rates(species: str, system: str, *, isotope: int = 0) -> np.ndarray:
    """|<v'|mu|v''>|^2 scaled so that A = rate * nu^3.

    The scale makes the main isotopologue's total rate of v'=0 the one of the table.

    Parameters
    ----------
    species, system : str
        For instance ``"TiO"``, ``"gamma"``.
    isotope : int
        Index into ``Species.isotopologues``; 0 is the most abundant.

    Returns
    -------
    (vmax_upper + 1, vmax_lower + 1), s^-1 cm^3
    """
    molecule = load_species(species)
    band = molecule.system(system)
    upper, lower = molecule.state(band.upper), molecule.state(band.lower)

    def squared(index: int) -> tuple[np.ndarray, SolvedMolecule]:
        solved = solve_isotopologue(species, index)
        moment = _moment(band, solved.grid)
        m = moment_matrix(solved.levels[upper.name], solved.levels[lower.name], moment)
        return m**2, solved

    main, solved = squared(0)
    t_u = solved.constants[upper.name].t[0]
    t_l = solved.constants[lower.name].t
    nu = np.clip(t_u - t_l, 0.0, None)
    total = band.einstein_a_s
    if total == 0.0:
        ratio = lower.degeneracy / upper.degeneracy
        total = F_TO_A * nu[0] ** 2 * band.f_el * ratio
    scale = total / np.sum(main[0, : len(nu)] * nu**3)
    this = main if isotope == 0 else squared(isotope)[0]
    return scale * this[: band.vmax_upper + 1, : band.vmax_lower + 1]


def band_lines(
    species: str | Species,
    system: str,
    *,
    temperature_max: float = 6000.0,
    isotopes: bool = True,
    wave_range_aa: tuple[float, float] = (5800.0, 9300.0),
    strength_floor: float = 1.0e-4,
) -> LineList:
    """Line list of one band system.

    Parameters
    ----------
    species : str or Species
        For instance ``"TiO"``.
    system : str
        For instance ``"gamma"``.
    temperature_max : float
        Lines must matter at 2000, 3000, 4500 K or this temperature (K).
    isotopes : bool
        All isotopologues at their terrestrial abundance, or the main one at abundance 1.
    wave_range_aa : tuple of float
        Vacuum Angstrom.
    strength_floor : float
        A line is kept if at one of those temperatures it reaches this fraction of the strongest
        line of the system within the range. For the TiO systems the default loses at most 0.2 per
        cent of a system's opacity between 2000 and 4500 K.

    Returns
    -------
    LineList

    Raises
    ------
    UsageError
        No such species or system.
    """
    molecule = load_species(species if isinstance(species, str) else species.name)
    band = molecule.system(system)
    chosen = range(len(molecule.isotopologues)) if isotopes else range(1)
    temperatures = [t for t in _PRUNE_TEMPERATURES_K if t < temperature_max] + [temperature_max]
    strongest = np.zeros(len(temperatures))
    parts = []
    for index in chosen:
        weight = molecule.isotopologues[index].abundance if isotopes else 1.0
        columns = _isotopologue_lines(molecule, band, index, weight, wave_range_aa)
        relative = _relative_strengths(columns, temperatures)
        if relative.shape[1] == 0:
            continue
        strongest = np.maximum(strongest, relative.max(axis=1))
        keep = np.any(relative >= strength_floor * strongest[:, None], axis=0)
        parts.append([column[keep] for column in columns])
    if not parts:
        empty = np.zeros(0)
        return LineList(empty, empty, empty, empty.astype(int), empty.astype(int), system)
    nu, e_low, ga, v_up, v_lo = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(nu)
    return LineList(nu[order], e_low[order], ga[order], v_up[order], v_lo[order], system)


def _relative_strengths(columns: Sequence[np.ndarray], temperatures: list[float]) -> np.ndarray:
    nu, e_low, ga = columns[:3]
    rows = [
        ga / nu**2 * np.exp(-HC_OVER_K_CM * e_low / t) * -np.expm1(-HC_OVER_K_CM * nu / t)
        for t in temperatures
    ]
    return np.array(rows)


def _isotopologue_lines(
    molecule: Species,
    band: BandSystem,
    index: int,
    weight: float,
    wave_range_aa: tuple[float, float],
) -> list[np.ndarray]:
    upper, lower = molecule.state(band.upper), molecule.state(band.lower)
    solved = solve_isotopologue(molecule.name, index)
    zero = lowest_level(molecule.name, index)
    n_up, n_lo = band.vmax_upper + 1, band.vmax_lower + 1
    j = angular_momenta(upper.two_s, band.jmax)
    levels_u = solve_levels(upper.basis, take_levels(solved.constants[upper.name], slice(n_up)), j)
    levels_l = solve_levels(lower.basis, take_levels(solved.constants[lower.name], slice(n_lo)), j)
    rates = band_rates(molecule.name, band.name, isotope=index)
    nu_min, nu_max = 1.0e8 / wave_range_aa[1], 1.0e8 / wave_range_aa[0]
    # Without Lambda-doubling e and f lines coincide: compute one set and count it twice.
    degenerate = upper.lambda_qn >= 2 and lower.lambda_qn >= 2
    found: list[list[np.ndarray]] = []
    for parity_u in (0,) if degenerate else (0, 1):
        energy_u, vector_u = levels_u[parity_u]
        for delta_j in (1, 0, -1):
            parity_l = parity_u if delta_j else 1 - parity_u
            energy_l, vector_l = levels_l[parity_l]
            if energy_u.shape[-1] == 0 or energy_l.shape[-1] == 0:
                continue
            up, lo = _paired(len(j), delta_j)
            amplitude = dipole_amplitudes(upper.basis, lower.basis, j[up], delta_j)
            for v in range(n_up):
                left = np.einsum("jai,jab->jib", vector_u[v, up], amplitude)
                strength = np.einsum("jib,wjbk->wjik", left, vector_l[:, lo], optimize=True) ** 2
                nu = energy_u[v, up][None, :, :, None] - energy_l[:, lo][:, :, None, :]
                e_low = np.broadcast_to(energy_l[:, lo][:, :, None, :], nu.shape)
                ga = weight * (2.0 if degenerate else 1.0) * rates[v][:, None, None, None]
                ga = ga * strength * np.clip(nu, 0, None) ** 3
                keep = (nu > nu_min) & (nu < nu_max) & (strength > 1e-6)
                keep &= (e_low < UNPHYSICAL_CM / 2) & (nu + e_low < UNPHYSICAL_CM / 2)
                v_low = np.broadcast_to(np.arange(n_lo)[:, None, None, None], nu.shape)
                chosen = [nu[keep], e_low[keep] - zero, ga[keep]]
                found.append([*chosen, np.full(chosen[0].shape, v), v_low[keep]])
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def _paired(n_j: int, delta_j: int) -> tuple[slice, slice]:
    """Slices of the common J array for upper and lower levels with J' - J'' = delta_j."""
    if delta_j == 1:
        return slice(1, n_j), slice(0, n_j - 1)
    if delta_j == -1:
        return slice(0, n_j - 1), slice(1, n_j)
    return slice(0, n_j), slice(0, n_j)


def head_wavelengths(
    species: str, system: str, v_upper: int, v_lower: int, *, isotope: int = 0
) -> tuple[BandHead, ...]:
    """Band heads: where a branch turns back, or its origin edge if it never does (Q branches).

    Parameters
    ----------
    species, system : str
        For instance ``"TiO"``, ``"gamma"``.
    v_upper, v_lower : int
        The band.
    isotope : int
        Index into ``Species.isotopologues``; 0 is the most abundant.

    Returns
    -------
    tuple of BandHead
        One per branch (P, Q, R by upper and lower fine-structure component, 1 the lowest in
        energy at that J, e and f apart), sorted by wavelength; air Angstrom.
    """
    molecule = load_species(species)
    band = molecule.system(system)
    upper, lower = molecule.state(band.upper), molecule.state(band.lower)
    solved = solve_isotopologue(species, isotope)
    j = angular_momenta(upper.two_s, band.jmax)
    levels_u = solve_levels(
        upper.basis, take_levels(solved.constants[upper.name], slice(v_upper, v_upper + 1)), j
    )
    levels_l = solve_levels(
        lower.basis, take_levels(solved.constants[lower.name], slice(v_lower, v_lower + 1)), j
    )
    heads = []
    for parity_u in (0, 1):
        for delta_j, letter in ((1, "R"), (0, "Q"), (-1, "P")):
            parity_l = parity_u if delta_j else 1 - parity_u
            up, lo = _paired(len(j), delta_j)
            e_u, e_l = levels_u[parity_u][0][0, up], levels_l[parity_l][0][0, lo]
            amplitude = dipole_amplitudes(upper.basis, lower.basis, j[up], delta_j)
            strength = (
                np.einsum(
                    "jai,jab,jbk->jik",
                    levels_u[parity_u][1][0, up],
                    amplitude,
                    levels_l[parity_l][1][0, lo],
                    optimize=True,
                )
                ** 2
            )
            for i in range(e_u.shape[1]):
                for k in range(e_l.shape[1]):
                    real = (e_u[:, i] < UNPHYSICAL_CM / 2) & (e_l[:, k] < UNPHYSICAL_CM / 2)
                    real &= strength[:, i, k] > 1e-3
                    if real.sum() < 8:
                        continue
                    nu = (e_u[:, i] - e_l[:, k])[real]
                    jj = j[lo][real]
                    red = nu[-1] < nu[0]
                    at = int(np.argmax(nu) if red else np.argmin(nu))
                    wave = float(vacuum_to_air(1.0e8 / nu[at]))
                    name = f"{letter}{i + 1}{k + 1}{'ef'[parity_u]}"
                    heads.append(BandHead(name, wave, float(jj[at])))
    return tuple(sorted(heads, key=lambda head: head.wave_air_aa))
