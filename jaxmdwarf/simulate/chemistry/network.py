"""The network of species: what each is made of, and its equilibrium constant with temperature."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.abundances import solar_mix
from jaxmdwarf.simulate.chemistry.chebyshev import (
    N_CHEBYSHEV,
    chebyshev_basis,
    chebyshev_nodes,
    fit_chebyshev,
    multiply_constants,
)
from jaxmdwarf.simulate.chemistry.partition import atomic_log_q, diatomic_log_q, polyatomic_log_q
from jaxmdwarf.simulate.constants import ELECTRON_U, EV_KELVIN, H_PLANCK, K_BOLTZMANN, U_GRAM
from jaxmdwarf.simulate.tables import read_rows

H_MINUS_AFFINITY_EV = 0.754195

MAJORS = ("H", "C", "N", "O", "Si", "S")
INERT = ("He", "Ne")
_IONISED = ("H", "C", "Si", "S", *("Li", "Na", "Mg", "Al", "K", "Ca", "Sc", "Ti", "V", "Cr"))
_IONISED_HEAVY = ("Mn", "Fe", "Co", "Ni", "Rb", "Sr", "Y", "Zr", "Ba")


class Particle(NamedTuple):
    """An atom, ion or molecule of the network."""

    name: str
    elements: dict[str, int]  # number of nuclei of each element
    charge: int
    energy_k: float  # E/k of formation from free atoms, positive if bound
    log_q: np.ndarray  # internal partition function at the nodes
    log_mass: float  # ln of the mass in u


class ReactionNetwork(NamedTuple):
    """Everything that the balances need of the species, as arrays."""

    species: tuple[str, ...]  # every species of the output
    names_major: tuple[str, ...]
    names_trace: tuple[str, ...]
    trace_elements: tuple[str, ...]
    trace_slot: np.ndarray  # (n_trace,) flat index into the padded (n_element, n_slot) layout
    n_slot: int
    nu_major: np.ndarray  # (n_major, 7) stoichiometry in H C N O Si S e
    nu_trace: np.ndarray  # (n_element * n_slot, 7), zero where padded
    padding: np.ndarray  # (n_element * n_slot,) 0, or -inf where there is no species
    rows_major: np.ndarray  # (n_major, 9) shares in the sums: six elements, e donors, e takers, all
    rows_trace: np.ndarray
    energy_major: np.ndarray
    energy_trace: np.ndarray
    chebyshev_major: np.ndarray  # (N_CHEBYSHEV, n_major), the smooth remainder of ln K
    chebyshev_trace: np.ndarray
    element_index: dict[str, int]  # into abundance arrays
    q_names: tuple[str, ...]
    q_chebyshev: np.ndarray  # (N_CHEBYSHEV, n_q) ln of internal partition functions


@lru_cache(maxsize=1)
def list_particles() -> tuple[list[Particle], np.ndarray]:
    """All species but the electron, and the temperatures (K) of their partition functions."""
    nodes = chebyshev_nodes(64)
    mix = solar_mix()
    mass = dict(zip(mix.elements, mix.mass_u, strict=True))
    atoms = {row["species"]: row for row in read_rows("jaxmdwarf.simulate.chemistry", "atoms.csv")}
    out: list[Particle] = []

    def add(name, elements, charge, energy_k, log_q):
        total = sum(mass[key] * n for key, n in elements.items()) - charge * ELECTRON_U
        out.append(Particle(name, elements, charge, energy_k, log_q, float(np.log(total))))

    for name, row in atoms.items():
        if not name.endswith("+"):
            add(name, {name: 1}, 0, 0.0, atomic_log_q(row, nodes))
    for name in (*_IONISED, *_IONISED_HEAVY):
        energy = -float(atoms[name]["ionisation_ev"]) * EV_KELVIN
        ion = np.zeros_like(nodes) if name == "H" else atomic_log_q(atoms[name + "+"], nodes)
        add(name + "+", {name: 1}, 1, energy, ion)
    add("H-", {"H": 1}, -1, H_MINUS_AFFINITY_EV * EV_KELVIN, np.zeros_like(nodes))

    states: dict[str, list[dict[str, str]]] = {}
    for row in read_rows("jaxmdwarf.simulate.chemistry", "diatomic_states.csv"):
        states.setdefault(row["species"], []).append(row)
    polyatomic = {
        row["species"]: row
        for row in read_rows("jaxmdwarf.simulate.chemistry", "polyatomic_constants.csv")
    }
    for row in read_rows("jaxmdwarf.simulate.chemistry", "molecules.csv"):
        name = row["species"]
        elements: dict[str, int] = {}
        for symbol in row["atoms"].split():
            elements[symbol] = elements.get(symbol, 0) + 1
        depth, symmetry = float(row["dissociation_ev"]), int(row["symmetry"])
        if name in polyatomic:
            log_q = polyatomic_log_q(polyatomic[name], symmetry, nodes)
        else:
            log_q = diatomic_log_q(states[name], depth, symmetry, nodes)
        energy = depth * EV_KELVIN
        if name == "H2+":  # bound against H and H+, whose electron has left a neutral H
            energy -= float(atoms["H"]["ionisation_ev"]) * EV_KELVIN
            add(name, elements, 1, energy, log_q)
        else:
            add(name, elements, 0, energy, log_q)
    return out, nodes


@lru_cache(maxsize=1)
def load_network() -> ReactionNetwork:
    """The network as arrays (cached)."""
    particles, nodes = list_particles()
    by_name = {p.name: p for p in particles}
    # ln of (2 pi u k T / h^2)^{3/2}, the translational partition function of one mass unit
    translation = 1.5 * np.log(2.0 * np.pi * U_GRAM * K_BOLTZMANN / H_PLANCK**2 * nodes)
    log_electron = np.log(2.0) + 1.5 * np.log(ELECTRON_U) + translation

    def smooth(p: Particle) -> np.ndarray:
        value = p.log_q + 1.5 * p.log_mass + translation
        for symbol, n in p.elements.items():
            atom = by_name[symbol]
            value = value - n * (atom.log_q + 1.5 * atom.log_mass + translation)
        return value + p.charge * log_electron

    def stoichiometry(p: Particle) -> list[float]:
        return [*(float(p.elements.get(m, 0)) for m in MAJORS), float(-p.charge)]

    def shares(p: Particle) -> list[float]:
        atoms = [float(p.elements.get(m, 0)) for m in MAJORS]
        return [*atoms, float(max(p.charge, 0)), float(max(-p.charge, 0)), 1.0]

    reacting = [p for p in particles if p.name not in INERT]
    major = [p for p in reacting if set(p.elements) <= set(MAJORS)]
    trace_elements = tuple(
        e for e in solar_mix().elements if e not in MAJORS and e not in INERT and e in by_name
    )
    groups = [[p for p in reacting if e in p.elements] for e in trace_elements]
    n_slot = max(len(group) for group in groups)
    n_pad = len(groups) * n_slot
    nu_trace = np.zeros((n_pad, 7))
    rows_trace = np.zeros((n_pad, 9))
    energy_trace = np.zeros(n_pad)
    chebyshev_trace = np.zeros((N_CHEBYSHEV, n_pad))
    padding = np.full(n_pad, -np.inf)
    trace: list[Particle] = []
    slots: list[int] = []
    for g, group in enumerate(groups):
        for s, p in enumerate(group):
            k = g * n_slot + s
            nu_trace[k] = stoichiometry(p)
            rows_trace[k] = shares(p)
            energy_trace[k] = p.energy_k
            chebyshev_trace[:, k] = fit_chebyshev(smooth(p))
            padding[k] = 0.0
            trace.append(p)
            slots.append(k)

    # The electron is a particle like the others: unit activity, one in its own balance.
    electron_row = [0.0] * 6 + [0.0, 1.0, 1.0]
    names_major = (*(p.name for p in major), "e-")
    names_trace = tuple(p.name for p in trace)
    return ReactionNetwork(
        species=(*names_major, *INERT, *names_trace),
        names_major=names_major,
        names_trace=names_trace,
        trace_elements=trace_elements,
        trace_slot=np.array(slots, dtype=np.uint32),
        n_slot=n_slot,
        nu_major=np.array([*(stoichiometry(p) for p in major), [0.0] * 6 + [1.0]]),
        nu_trace=nu_trace,
        padding=padding,
        rows_major=np.array([*(shares(p) for p in major), electron_row]),
        rows_trace=rows_trace,
        energy_major=np.array([*(p.energy_k for p in major), 0.0]),
        energy_trace=energy_trace,
        chebyshev_major=np.stack(
            [*(fit_chebyshev(smooth(p)) for p in major), np.zeros(N_CHEBYSHEV)], axis=1
        ),
        chebyshev_trace=chebyshev_trace,
        element_index={name: i for i, name in enumerate(solar_mix().elements)},
        q_names=tuple(p.name for p in particles),
        q_chebyshev=fit_chebyshev(np.stack([p.log_q for p in particles], axis=1)),
    )


def species_names() -> tuple[str, ...]:
    """Names of every species of the network, in the order of ``Densities.log_n``.

    Examples
    --------
    >>> "TiO" in species_names()
    True
    """
    return load_network().species


def log_partition_function(species: str, temperature_k: Float[ArrayLike, ...]) -> Float[Array, ...]:
    """Natural logarithm of the internal partition function of an atom, ion or molecule.

    Parameters
    ----------
    species : str
        For example ``"Ti"``, ``"Ca+"``, ``"TiO"`` or ``"H2O"``.
    temperature_k : array_like
        Temperature in K; outside 1000-12000 K the value at the end is returned.

    Returns
    -------
    jax.Array
        ``ln Q``, energies counted from the lowest level, without nuclear spin, smooth in T.

    Raises
    ------
    UsageError
        If the species has no partition function here.

    Notes
    -----
    Atoms: polynomials of Irwin (1981, ApJS 45, 621).  Diatomics: direct sums over vibration and
    rotation, up to the dissociation energy, with the constants of ``data/diatomic_states.csv``.
    Polyatomics: rigid rotor and harmonic oscillators (``data/polyatomic_constants.csv``).

    These go with the number densities of :func:`equilibrium`.  A line list whose energies leave
    out a part of the molecule's motion (the bend and the OH stretch of CaOH) has to be divided by
    its own, smaller partition function, if the sequence bands left out fall on those listed.

    Examples
    --------
    >>> round(float(jnp.exp(log_partition_function("Na", 3000.0))), 1)
    2.0
    """
    network = load_network()
    if species not in network.q_names:
        raise UsageError(
            f"log_partition_function: no partition function for '{species}'.",
            f"Use one of {', '.join(network.q_names)}.",
        )
    temperature = _floating(temperature_k)
    column = network.q_chebyshev[:, network.q_names.index(species)]
    return multiply_constants(chebyshev_basis(temperature), column)


def log_equilibrium_constant(
    species: str, temperature_k: Float[ArrayLike, ...]
) -> Float[Array, ...]:
    """Natural logarithm of ``n_s / prod_i n_i^nu_i``, mass action from free atoms and electrons.

    Parameters
    ----------
    species : str
        A species of :func:`species_names` other than a neutral atom or the electron.
    temperature_k : array_like
        Temperature in K.

    Returns
    -------
    jax.Array
        ``ln K`` with number densities in cm^-3; an ion carries its electron with exponent -1,
        so that ``K("Na+") = n(Na+) n_e / n(Na)`` and ``K("TiO") = n(TiO) / (n(Ti) n(O))``.

    Raises
    ------
    UsageError
        If the species is not in the network.
    """
    network = load_network()
    temperature = _floating(temperature_k)
    basis = chebyshev_basis(temperature)
    if species in network.names_major:
        k = network.names_major.index(species)
        energy, column = network.energy_major[k], network.chebyshev_major[:, k]
    elif species in network.names_trace:
        k = network.trace_slot[network.names_trace.index(species)]
        energy, column = network.energy_trace[k], network.chebyshev_trace[:, k]
    else:
        raise UsageError(
            f"log_equilibrium_constant: '{species}' is not in the network.",
            f"Use one of {', '.join(network.species)}.",
        )
    return float(energy) / temperature + multiply_constants(basis, column)


def _floating(value: ArrayLike) -> Array:
    # Python numbers are weakly typed: alone they take the default precision, not float32.
    return jnp.asarray(value, jnp.result_type(value, float))
