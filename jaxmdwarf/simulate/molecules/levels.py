"""Levels of molecules: solved vibration of each isotopologue, effective constants of each v."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jaxmdwarf.simulate.molecules.franck_condon import (
    VibrationalLevels,
    curve_from_constants,
    radial_grid,
    solve_vibration,
)
from jaxmdwarf.simulate.molecules.hamiltonian import (
    LevelConstants,
    solve_levels,
)
from jaxmdwarf.simulate.molecules.species import ElectronicState, Species, load_species

_N_V = 26


class SolvedMolecule(NamedTuple):
    """Solved vibration of all states of one isotopologue."""

    grid: np.ndarray
    levels: dict[str, VibrationalLevels]
    constants: dict[str, LevelConstants]


@lru_cache(maxsize=32)
def solve_isotopologue(name: str, isotope: int) -> SolvedMolecule:
    """Vibration and effective constants of all states of one isotopologue (cached).

    Parameters
    ----------
    name : str
        Of the species.
    isotope : int
        Index into ``Species.isotopologues``; 0 is the most abundant.
    """
    species = load_species(name)
    main, this = species.isotopologues[0], species.isotopologues[isotope]
    curves = {
        s.name: s.curve or curve_from_constants(s.we, s.wexe, s.be, s.alphae, main.mu)
        for s in species.states
    }
    radii = [curve.re for curve in curves.values()]
    grid = radial_grid(min(radii), max(radii), main.mu)
    levels = {key: solve_vibration(curve, this.mu, grid, _N_V) for key, curve in curves.items()}
    rho = np.sqrt(main.mu / this.mu)
    constants = {}
    for state in species.states:
        vib = levels[state.name]
        if state.curve is not None:
            constants[state.name] = _constants_from_curve(state, vib, _N_V)
        else:
            constants[state.name] = _constants_from_expansion(state, species.ground, rho, _N_V)
    _add_couplings(species, levels, constants)
    return SolvedMolecule(grid, levels, constants)


def _fine_structure(state: ElectronicState, v: np.ndarray, rho: float) -> dict[str, np.ndarray]:
    one = np.ones_like(v)
    return {
        "a": state.a_so + state.a_so_v * v,
        "lambda_ss": state.lambda_ss * one,
        "gamma": state.gamma_sr * rho**2 * one,
        "o_ld": state.o_ld * one,
        "p_ld": state.p_ld * rho**2 * one,
        "q_ld": state.q_ld * rho**4 * one,
        "shift": np.zeros((len(v), state.two_s + 1)),
    }


def _constants_from_curve(
    state: ElectronicState, vib: VibrationalLevels, n_v: int
) -> LevelConstants:
    v = np.arange(n_v, dtype=float)
    b, d, h = vib.b[:n_v], vib.d[:n_v], vib.h[:n_v]
    # The published curves go with a rotation operator B (N^2 - 2 Lambda^2), <L^2> = 0 (Yurchenko et
    # al. 2016, Comput. Phys. Commun. 202, 262): rewrite it in powers of N^2.
    l2 = 2.0 * state.lambda_qn**2
    return LevelConstants(
        t=vib.g[:n_v] + state.t_shift - b * l2 - d * l2**2,
        b=b + 2 * d * l2,
        d=d,
        h=h,
        **_fine_structure(state, v, 1.0),
    )


def _constants_from_expansion(
    state: ElectronicState, ground: ElectronicState, rho: float, n_v: int
) -> LevelConstants:
    v = np.arange(n_v, dtype=float)
    x = v + 0.5

    def vibration(s: ElectronicState, x: np.ndarray | float, r: float) -> np.ndarray:
        return np.asarray(s.we * r * x - s.wexe * (r * x) ** 2 + s.weye * (r * x) ** 3)

    # t0 joins the v = 0 levels of the main isotopologue; the electronic term is common to all.
    te = state.t0_cm - vibration(state, 0.5, 1.0) + vibration(ground, 0.5, 1.0)
    t = te + vibration(state, x, rho) - vibration(ground, 0.5, rho)
    b = rho**2 * (state.be - state.alphae * rho * x)
    d = rho**4 * (state.de_cd + state.beta_cd * rho * x)
    fine = _fine_structure(state, v, rho)
    names = {"a_v": "a", "lambda_v": "lambda_ss", "gamma_v": "gamma", "o_v": "o_ld"}
    names |= {"p_v": "p_ld", "q_v": "q_ld"}
    for level, values in state.vlevels:
        if level >= n_v:
            continue
        for key, value in values:
            if key == "g_v":
                expansion = te + vibration(state, level + 0.5, 1.0) - vibration(ground, 0.5, 1.0)
                t[level] += value - expansion
            elif key == "b_v":
                b[level] = value * rho**2
            elif key == "d_v":
                d[level] = value * rho**4
            elif key in names:
                fine[names[key]][level] = value
    return LevelConstants(t=t, b=b, d=d, h=np.zeros(n_v), **fine)


def _add_couplings(
    species: Species,
    levels: dict[str, VibrationalLevels],
    constants: dict[str, LevelConstants],
) -> None:
    """Push coupled components apart, level by level, as isolated two-level systems do."""
    for link in species.couplings:
        s1, s2 = species.state(link.state_1), species.state(link.state_2)
        vib1, vib2 = levels[s1.name], levels[s2.name]
        # Sigma-Pi pairs couple to both signs of Lambda: sqrt(2) for one parity, 0 for the other.
        coupling = link.so_cm * (vib1.psi.T @ vib2.psi)
        e1 = vib1.g + s1.a_so * s1.lambda_qn * link.sigma_1
        e2 = vib2.g + s2.a_so * s2.lambda_qn * link.sigma_2
        gap = e1[:, None] - e2[None, :]
        push = 0.5 * np.sign(gap) * (np.sqrt(gap**2 + 4 * coupling**2) - np.abs(gap))
        column1 = round(link.sigma_1 + s1.two_s / 2)
        column2 = round(link.sigma_2 + s2.two_s / 2)
        constants[s1.name].shift[:, column1] += push.sum(axis=1)
        constants[s2.name].shift[:, column2] -= push.sum(axis=0)


def level_constants(species: str, state: str, *, isotope: int = 0, n_v: int = 12) -> LevelConstants:
    """Effective constants of the lowest levels of a state.

    Parameters
    ----------
    species, state : str
        For instance ``"TiO"``, ``"X3Delta"``.
    isotope : int
        Index into ``Species.isotopologues``; 0 is the most abundant.
    n_v : int
        Levels from v = 0.

    Returns
    -------
    LevelConstants
        In cm^-1; `t` on the zero of the species' tables.
    """
    load_species(species).state(state)
    return take_levels(solve_isotopologue(species, isotope).constants[state], slice(n_v))


def angular_momenta(two_s: int, jmax: int) -> np.ndarray:
    """J = 0, 1, ... or 1/2, 3/2, ..., (jmax + 1,).

    Parameters
    ----------
    two_s : int
        Twice the spin; halves come with odd ones.
    jmax : int
        The largest, rounded down.
    """
    return np.arange(jmax + 1) + (0.5 if two_s % 2 else 0.0)


@lru_cache(maxsize=32)
def lowest_level(name: str, isotope: int) -> float:
    """Energy of the lowest level of the ground state on the zero of the tables, cm^-1 (cached).

    Parameters
    ----------
    name : str
        Of the species.
    isotope : int
        Index into ``Species.isotopologues``.
    """
    species = load_species(name)
    ground = species.ground
    constants = solve_isotopologue(name, isotope).constants[ground.name]
    j = angular_momenta(ground.two_s, 6)
    blocks = solve_levels(ground.basis, constants, j, vectors=False)
    return float(min(energy[0].min() for energy, _ in blocks))


def take_levels(constants: LevelConstants, levels: slice) -> LevelConstants:
    """Constants of some vibrational levels.

    Parameters
    ----------
    constants : LevelConstants
    levels : slice
        Of v.
    """
    return LevelConstants(
        **{key: getattr(constants, key)[levels] for key in LevelConstants.__dataclass_fields__}
    )
