"""Molecules as tables of published constants: states, band systems, isotopologues, couplings.

A species is a set of CSV tables under ``data/``: ``<species>_states.csv`` (one row an electronic
state), ``<species>_systems.csv`` (one row a band system) and ``isotopes.csv``; optionally
``<species>_vlevels.csv`` (per-level constants that replace the expansions),
``<species>_potentials.csv`` (extended Morse curves that replace them altogether) and
``<species>_couplings.csv`` (spin-orbit coupling between states, taken in second order).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.simulate.molecules.franck_condon import (
    PotentialCurve,
)
from jaxmdwarf.simulate.molecules.hamiltonian import (
    Basis,
)
from jaxmdwarf.simulate.tables import read_rows

_PACKAGE = "jaxmdwarf.simulate.molecules"
_STATE_NUMBERS = (
    *("t0_cm", "we", "wexe", "weye", "be", "alphae", "de_cd", "beta_cd", "a_so", "a_so_v"),
    *("lambda_ss", "gamma_sr", "o_ld", "p_ld", "q_ld"),
)


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


def _pick(rows, name, what):
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows)
    raise UsageError(f"no {what} is called {name!r}.", f"choose one of: {known}.")


def _read_table(file_name: str) -> list[dict[str, str]] | None:
    """Rows of a table of this package, or None where a species has no such table."""
    if not (resources.files(_PACKAGE) / "data" / file_name).is_file():
        return None
    return read_rows(_PACKAGE, file_name)


def _number(row: dict[str, str], key: str, default: float = 0.0) -> float:
    text = (row.get(key) or "").strip()
    return float(text) if text else default


def list_species() -> tuple[str, ...]:
    """Names of the species that have a states and a systems table."""
    files = {entry.name for entry in (resources.files(_PACKAGE) / "data").iterdir()}
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
    states = _read_states(name, state_rows)
    known = {state.name for state in states}
    for row in system_rows:
        missing = {row["upper"], row["lower"]} - known
        if missing:
            raise FormatError(
                f"{name}_systems.csv: {row['system']} names unknown states {sorted(missing)}.",
                f"add them to {name}_states.csv.",
            )
    couplings = tuple(
        SpinOrbitCoupling(
            row["state_1"],
            float(row["sigma_1"]),
            row["state_2"],
            float(row["sigma_2"]),
            float(row["so_cm"]),
        )
        for row in _read_table(f"{name}_couplings.csv") or []
    )
    systems = tuple(_read_system(row) for row in system_rows)
    return Species(name, states, systems, _read_isotopologues(name), couplings)


def _read_states(name: str, rows: list[dict[str, str]]) -> tuple[ElectronicState, ...]:
    """States of a molecule, with what its tables of levels and potentials say of them."""
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
    for row in rows:
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
    return tuple(states)


def _read_system(row: dict[str, str]) -> BandSystem:
    return BandSystem(
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


def _read_isotopologues(name: str) -> tuple[Isotopologue, ...]:
    """Those of one molecule, the most abundant first."""
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
    return tuple(sorted(isotopologues, key=lambda isotope: -isotope.abundance))
