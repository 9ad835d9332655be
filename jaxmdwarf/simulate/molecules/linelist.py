"""Molecular line lists from tables of published constants.

A species is a set of CSV tables under ``data/``: ``<species>_states.csv`` (one row an electronic
state), ``<species>_systems.csv`` (one row a band system) and ``isotopes.csv``; optionally
``<species>_vlevels.csv`` (per-level constants that replace the expansions),
``<species>_potentials.csv`` (extended Morse curves that replace them altogether) and
``<species>_couplings.csv`` (spin-orbit coupling between states, taken in second order). Line
strengths follow from one total rate per system, vibrational moments <v'|mu(r)|v''> and Hoenl-London
factors in intermediate coupling.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.simulate.molecules.franck_condon import (
    PotentialCurve,
    VibrationalLevels,
    curve_from_constants,
    moment_matrix,
    radial_grid,
    solve_vibration,
)
from jaxmdwarf.simulate.molecules.hamiltonian import (
    UNPHYSICAL_CM,
    Basis,
    LevelConstants,
    dipole_amplitudes,
    solve_levels,
)

SECOND_RADIATION_CM_K = 1.438776877
"""hc/k, cm K."""

F_TO_A = 0.66702
"""A = 0.66702 nu^2 f g_lower / g_upper, nu in cm^-1, A in s^-1."""

_PRUNE_TEMPERATURES_K = (2000.0, 3000.0, 4500.0)
_N_V = 26
_STATE_NUMBERS = (
    *("t0_cm", "we", "wexe", "weye", "be", "alphae", "de_cd", "beta_cd", "a_so", "a_so_v"),
    *("lambda_ss", "gamma_sr", "o_ld", "p_ld", "q_ld"),
)
_PARTITION_J = 260


@dataclass(frozen=True)
class ElectronicState:
    """One row of a states table; energies in cm^-1, see `hamiltonian` for their meaning.

    `vlevels` holds per-level replacements {v: {"g_v": ..., "b_v": ...}}, `curve` a published
    potential (its `v0` on a zero common to the molecule) and `t_shift` a correction of its level
    energies in cm^-1.
    """

    name: str
    lambda_qn: int
    two_s: int
    t0_cm: float
    we: float
    wexe: float
    weye: float
    be: float
    alphae: float
    de_cd: float
    beta_cd: float
    a_so: float
    a_so_v: float
    lambda_ss: float
    gamma_sr: float
    o_ld: float
    p_ld: float
    q_ld: float
    reference: str
    vlevels: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = ()
    curve: PotentialCurve | None = None
    t_shift: float = 0.0

    @property
    def basis(self) -> Basis:
        """Signed case (a) basis of this state; a name with ``Sigma-`` marks Sigma^- states."""
        return Basis(self.lambda_qn, self.two_s, "Sigma-" in self.name)

    @property
    def degeneracy(self) -> int:
        """(2S+1)(2 - delta_Lambda0)."""
        return (self.two_s + 1) * (1 if self.lambda_qn == 0 else 2)


@dataclass(frozen=True)
class BandSystem:
    """One row of a systems table.

    `einstein_a_s` is the spontaneous rate of the upper v'=0 level summed over v'' (s^-1); where it
    is empty, `f_el` gives it: A = 0.66702 nu00^2 f_el g''/g'. The moment is constant unless
    `moment_k` is set: then mu(r) ~ 1/2 + arctan(k (r - r0))/pi.
    """

    name: str
    upper: str
    lower: str
    einstein_a_s: float
    f_el: float
    vmax_upper: int
    vmax_lower: int
    jmax: int
    moment_r0: float
    moment_k: float
    reference: str


@dataclass(frozen=True)
class Isotopologue:
    """Masses in u, terrestrial abundance as a fraction."""

    name: str
    mass_1: float
    mass_2: float
    abundance: float

    @property
    def mu(self) -> float:
        """Reduced mass, u."""
        return self.mass_1 * self.mass_2 / (self.mass_1 + self.mass_2)


@dataclass(frozen=True)
class SpinOrbitCoupling:
    """<state_1, Sigma_1 | H_so | state_2, Sigma_2> in cm^-1, at equal Omega > 0."""

    state_1: str
    sigma_1: float
    state_2: str
    sigma_2: float
    so_cm: float


@dataclass(frozen=True)
class Species:
    """A molecule: everything its tables say. The most abundant isotopologue comes first."""

    name: str
    states: tuple[ElectronicState, ...]
    systems: tuple[BandSystem, ...]
    isotopologues: tuple[Isotopologue, ...]
    couplings: tuple[SpinOrbitCoupling, ...] = ()

    def state(self, name: str) -> ElectronicState:
        """The electronic state called `name`."""
        return _pick(self.states, name, f"electronic state of {self.name}")

    def system(self, name: str) -> BandSystem:
        """The band system called `name`."""
        return _pick(self.systems, name, f"band system of {self.name}")

    @property
    def ground(self) -> ElectronicState:
        """The state that is the zero of all energies: the first row of the table."""
        return self.states[0]


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


def _pick(rows, name, what):
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows)
    raise UsageError(f"no {what} is called {name!r}.", f"choose one of: {known}.")


def _read_table(file_name: str) -> list[dict[str, str]] | None:
    path = resources.files(__package__) / "data" / file_name
    if not path.is_file():
        return None
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _number(row: dict[str, str], key: str, default: float = 0.0) -> float:
    text = (row.get(key) or "").strip()
    return float(text) if text else default


def list_species() -> tuple[str, ...]:
    """Names of the species that have a states and a systems table."""
    files = {entry.name for entry in (resources.files(__package__) / "data").iterdir()}
    return tuple(
        sorted(
            name.removesuffix("_states.csv")
            for name in files
            if name.endswith("_states.csv") and name.replace("_states", "_systems") in files
        )
    )


@lru_cache(maxsize=32)
def load_species(name: str) -> Species:
    """Read the tables of one species.

    Parameters
    ----------
    name : str
        For instance ``"TiO"``; `list_species` names them all.

    Raises
    ------
    UsageError
        No such species.
    FormatError
        A table refers to a state or an isotopologue that it does not define.

    Examples
    --------
    >>> tio = load_species("TiO")
    >>> tio.ground.name, tio.isotopologues[0].name
    ('X3Delta', '48Ti16O')
    """
    state_rows = _read_table(f"{name}_states.csv")
    system_rows = _read_table(f"{name}_systems.csv")
    if state_rows is None or system_rows is None:
        raise UsageError(
            f"no molecular tables for {name!r}.", f"choose one of: {', '.join(list_species())}."
        )
    levels: dict[str, dict[int, tuple[tuple[str, float], ...]]] = {}
    for row in _read_table(f"{name}_vlevels.csv") or []:
        values = tuple(
            (key, float(text))
            for key, text in row.items()
            if key not in ("state", "v", "reference") and key and text and text.strip()
        )
        levels.setdefault(row["state"], {})[int(row["v"])] = values
    curves = {row["state"]: row for row in _read_table(f"{name}_potentials.csv") or []}
    states = []
    for row in state_rows:
        curve, shift = None, 0.0
        if row["state"] in curves:
            c = curves[row["state"]]
            v0 = float(c["v0"])
            betas = tuple(_number(c, f"b{i}") for i in range(5))
            curve = PotentialCurve(v0, float(c["re"]), float(c["asymptote"]) - v0, betas)
            shift = _number(c, "t_shift")
        states.append(
            ElectronicState(
                name=row["state"],
                lambda_qn=int(row["lambda_qn"]),
                two_s=int(row["two_s"]),
                **{key: _number(row, key) for key in _STATE_NUMBERS},
                reference=row.get("reference") or "",
                vlevels=tuple(sorted(levels.get(row["state"], {}).items())),
                curve=curve,
                t_shift=shift,
            )
        )
    known = {state.name for state in states}
    systems = []
    for row in system_rows:
        missing = {row["upper"], row["lower"]} - known
        if missing:
            raise FormatError(
                f"{name}_systems.csv: {row['system']} names unknown states {sorted(missing)}.",
                f"add them to {name}_states.csv.",
            )
        systems.append(
            BandSystem(
                name=row["system"],
                upper=row["upper"],
                lower=row["lower"],
                einstein_a_s=_number(row, "einstein_a_s"),
                f_el=_number(row, "f_el"),
                vmax_upper=int(row["vmax_upper"]),
                vmax_lower=int(row["vmax_lower"]),
                jmax=int(row["jmax"]),
                moment_r0=_number(row, "moment_r0"),
                moment_k=_number(row, "moment_k"),
                reference=row.get("reference") or "",
            )
        )
    isotopologues = [
        Isotopologue(
            row["isotopologue"],
            float(row["mass_1"]),
            float(row["mass_2"]),
            float(row["abundance"]),
        )
        for row in _read_table("isotopes.csv") or []
        if row["species"] == name
    ]
    if not isotopologues:
        raise FormatError(f"isotopes.csv has no row for {name}.", "add its masses and abundance.")
    isotopologues.sort(key=lambda isotope: -isotope.abundance)
    couplings = [
        SpinOrbitCoupling(
            row["state_1"],
            float(row["sigma_1"]),
            row["state_2"],
            float(row["sigma_2"]),
            float(row["so_cm"]),
        )
        for row in _read_table(f"{name}_couplings.csv") or []
    ]
    return Species(name, tuple(states), tuple(systems), tuple(isotopologues), tuple(couplings))


class _Molecule(NamedTuple):
    """Solved vibration of all states of one isotopologue."""

    grid: np.ndarray
    levels: dict[str, VibrationalLevels]
    constants: dict[str, LevelConstants]


@lru_cache(maxsize=32)
def _solve_isotopologue(name: str, isotope: int) -> _Molecule:
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
    return _Molecule(grid, levels, constants)


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
    """Effective constants of the lowest `n_v` levels of a state; `t` on the table's own zero."""
    load_species(species).state(state)
    return _first(_solve_isotopologue(species, isotope).constants[state], n_v)


def _angular_momenta(two_s: int, jmax: int) -> np.ndarray:
    return np.arange(jmax + 1) + (0.5 if two_s % 2 else 0.0)


@lru_cache(maxsize=32)
def _lowest_level(name: str, isotope: int) -> float:
    species = load_species(name)
    ground = species.ground
    constants = _solve_isotopologue(name, isotope).constants[ground.name]
    j = _angular_momenta(ground.two_s, 6)
    blocks = solve_levels(ground.basis, constants, j, vectors=False)
    return float(min(energy[0].min() for energy, _ in blocks))


def _moment(system: BandSystem, grid: np.ndarray) -> np.ndarray:
    if system.moment_k == 0.0:
        return np.ones_like(grid)
    return 0.5 + np.arctan(system.moment_k * (grid - system.moment_r0)) / np.pi


def band_rates(species: str, system: str, *, isotope: int = 0) -> np.ndarray:
    """|<v'|mu|v''>|^2 scaled so that A = rate * nu^3, shape (vmax_upper + 1, vmax_lower + 1).

    The scale makes the main isotopologue's total rate of v'=0 the one of the table.
    """
    molecule = load_species(species)
    band = molecule.system(system)
    upper, lower = molecule.state(band.upper), molecule.state(band.lower)

    def squared(index: int) -> tuple[np.ndarray, _Molecule]:
        solved = _solve_isotopologue(species, index)
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
        ga
        / nu**2
        * np.exp(-SECOND_RADIATION_CM_K * e_low / t)
        * -np.expm1(-SECOND_RADIATION_CM_K * nu / t)
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
    solved = _solve_isotopologue(molecule.name, index)
    zero = _lowest_level(molecule.name, index)
    n_up, n_lo = band.vmax_upper + 1, band.vmax_lower + 1
    j = _angular_momenta(upper.two_s, band.jmax)
    levels_u = solve_levels(upper.basis, _first(solved.constants[upper.name], n_up), j)
    levels_l = solve_levels(lower.basis, _first(solved.constants[lower.name], n_lo), j)
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


def _first(constants: LevelConstants, n_v: int) -> LevelConstants:
    return LevelConstants(
        **{key: getattr(constants, key)[:n_v] for key in LevelConstants.__dataclass_fields__}
    )


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
        energy at that J, e and f apart), sorted by wavelength; air Angstrom (Morton 2000).
    """
    molecule = load_species(species)
    band = molecule.system(system)
    upper, lower = molecule.state(band.upper), molecule.state(band.lower)
    solved = _solve_isotopologue(species, isotope)
    j = _angular_momenta(upper.two_s, band.jmax)
    levels_u = solve_levels(upper.basis, _one(solved.constants[upper.name], v_upper), j)
    levels_l = solve_levels(lower.basis, _one(solved.constants[lower.name], v_lower), j)
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
                    wave = float(_vacuum_to_air(1.0e8 / nu[at]))
                    name = f"{letter}{i + 1}{k + 1}{'ef'[parity_u]}"
                    heads.append(BandHead(name, wave, float(jj[at])))
    return tuple(sorted(heads, key=lambda head: head.wave_air_aa))


def _one(constants: LevelConstants, v: int) -> LevelConstants:
    return LevelConstants(
        **{key: getattr(constants, key)[v : v + 1] for key in LevelConstants.__dataclass_fields__}
    )


def _vacuum_to_air(wave_aa: np.ndarray | float) -> np.ndarray | float:
    s = (1.0e4 / wave_aa) ** 2
    n = 1.0 + 8.34254e-5 + 2.406147e-2 / (130.0 - s) + 1.5998e-4 / (38.9 - s)
    return wave_aa / n


@lru_cache(maxsize=16)
def _partition_levels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Energies above the lowest level and weights of all bound levels, summed into bins."""
    species = load_species(name)
    molecule = _solve_isotopologue(name, 0)
    zero = _lowest_level(name, 0)
    energies, weights = [], []
    for state in species.states:
        c = molecule.constants[state.name]
        # Expansions turn over at high v: those levels are no levels.
        rising = np.concatenate([[True], np.diff(c.t) > 0.2 * (c.t[1] - c.t[0])])
        n_v = int(np.argmin(rising)) if not rising.all() else c.n_v
        j = _angular_momenta(state.two_s, _PARTITION_J)
        for energy, _ in solve_levels(state.basis, _first(c, max(n_v, 1)), j, vectors=False):
            e = energy - zero
            real = energy < UNPHYSICAL_CM / 2
            # A level that falls with J has passed the top of its expansion. Below the J where all
            # spin components exist, the order of an inverted multiplet changes without that.
            complete = np.asarray(real.all(axis=2, keepdims=True))[:, :-1]
            bound = np.ones_like(real)
            bound[:, 1:] = np.cumprod(
                (np.diff(energy, axis=1) > 0) | ~complete, axis=1, dtype=int
            ).astype(bool)
            keep = real & bound
            weight = np.broadcast_to((2 * j + 1)[None, :, None], e.shape)
            energies.append(e[keep])
            weights.append(weight[keep])
    e, w = np.concatenate(energies), np.concatenate(weights)
    # Five-cm^-1 bins keep the mean energy of their members: exact to 1e-6 above 100 K.
    bins = np.floor(e / 5.0).astype(int)
    total = np.bincount(bins, weights=w)
    mean = np.bincount(bins, weights=w * e) / np.where(total > 0, total, 1.0)
    return mean[total > 0], total[total > 0]


def partition_function(species_name: str, temperature: np.ndarray | float) -> np.ndarray:
    """Internal partition function by direct summation over all listed electronic states.

    Parameters
    ----------
    species_name : str
        For instance ``"TiO"``.
    temperature : array_like
        Kelvin, any shape.

    Returns
    -------
    numpy.ndarray
        Q(T) of the main isotopologue, zero of energy at its lowest level; counts spin and
        Lambda-doublets, not nuclear spin. Same shape as `temperature`.
    """
    energy, weight = _partition_levels(species_name)
    t = np.asarray(temperature, dtype=float)
    boltzmann = np.exp(-SECOND_RADIATION_CM_K * energy / t[..., None])
    return np.asarray(boltzmann @ weight)
