"""Chemical equilibrium of an M-dwarf atmosphere: number densities from temperature and pressure.

Every species ``s`` obeys mass action with free atoms and electrons,
``ln n_s = ln K_s(T) + sum_i nu_si ln n_i``, where ``K_s`` follows from statistical mechanics:
partition functions from published levels and constants (package data), translational partition
functions and published dissociation and ionisation energies.  Temperature enters ``ln K`` as an
exact ``E/T`` and a smooth remainder, expanded once in Chebyshev polynomials of ``ln T``.

The equations left are the balances of H, C, N, O, Si, S and charge, plus Dalton's law for the
total.  All other metals are too rare to change them except through their electrons and oxygen, and
are linear: given the seven densities, each element divides itself among its species in closed form
(which is exact, and keeps its oxygen and electrons in the balances).  Newton's method on the
logarithms of the balances (whose fixed point is the minimum of a convex function, the dual of the
Gibbs energy) takes a fixed number of steps.  Gradients come from one last step differentiated with
the Jacobian held fixed, which is the implicit-function theorem: exact to first order whatever the
iteration did.

No condensates, no ions of molecules other than H2+, no H2-.  Partition functions exclude nuclear
spin.  Below 1000 K and above 12000 K the internal partition functions keep their end values.
"""

from __future__ import annotations

import csv
from functools import lru_cache, partial
from importlib.resources import files
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.simulate.abundances import nucleus_mass, solar_mix

# CODATA 2018, cgs
K_BOLTZMANN = 1.380649e-16
H_PLANCK = 6.62607015e-27
C_LIGHT = 2.99792458e10
U_GRAM = 1.66053906660e-24
ELECTRON_U = 5.48579909065e-4
EV_KELVIN = 11604.518121
CM_KELVIN = 1.438776877  # h c / k in cm K
H_MINUS_AFFINITY_EV = 0.754195

T_MIN, T_MAX = 1000.0, 12000.0  # K, where the partition functions are tabulated
N_CHEBYSHEV = 16
N_NEWTON = 6
MAX_LOG_STEP = 6.0  # largest change of a log density in one Newton step

MAJORS = ("H", "C", "N", "O", "Si", "S")
INERT = ("He", "Ne")
_IONISED = ("H", "C", "Si", "S", *("Li", "Na", "Mg", "Al", "K", "Ca", "Sc", "Ti", "V", "Cr"))
_IONISED_HEAVY = ("Mn", "Fe", "Co", "Ni", "Rb", "Sr", "Y", "Zr", "Ba")


def _rows(name: str) -> list[dict[str, str]]:
    path = files("jaxmdwarf.simulate") / "data" / name
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- partition functions, summed once on the host in float64 -------------------------------------


def _atomic_log_q(row: dict[str, str], temperature: np.ndarray) -> np.ndarray:
    log_t = np.log(temperature)
    return np.polyval([float(row[f"a{i}"]) for i in range(5, -1, -1)], log_t)


def _diatomic_log_q(
    states: list[dict[str, str]], dissociation_ev: float, symmetry: int, temperature: np.ndarray
) -> np.ndarray:
    """Direct sum over the rovibrational levels below dissociation, from the lowest level up."""
    limit = dissociation_ev * EV_KELVIN / CM_KELVIN
    levels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    v = np.arange(200) + 0.5
    zero = None
    for state in states:
        te, we, wexe, weye, be, alpha = (
            float(state[key]) for key in ("te", "we", "wexe", "weye", "be", "alphae")
        )
        vibration = we * v - wexe * v**2 + weye * v**3
        # The Dunham series is used up to where it turns over, where it has lost its meaning.
        turning = np.flatnonzero(np.diff(vibration) <= 0)
        n_v = turning[0] + 1 if turning.size else v.size
        if zero is None:
            zero = te + vibration[0]
        centrifugal = 4.0 * be**3 / we**2
        for i in range(n_v):
            origin = te + vibration[i] - zero
            b_v = be - alpha * v[i]
            if origin > limit or b_v <= 0:
                break
            # To the top of the centrifugal ladder; higher J carry no population.
            j = np.arange(min(400, int(np.sqrt(b_v / (2.0 * centrifugal)))))
            x = j * (j + 1.0)
            energy = origin + b_v * x - centrifugal * x**2
            bound = energy < limit
            spin = np.where(j % 2 == 1, 1.5, 0.5) / 2.0 if symmetry == 2 and be > 20 else None
            weight = float(state["weight"]) * (2.0 * j + 1.0)
            weight = weight / symmetry if spin is None else weight * spin
            levels.append(energy[bound])
            weights.append(weight[bound])
    energy = np.concatenate(levels)
    weight = np.concatenate(weights)
    return np.log(np.exp(-CM_KELVIN * energy / temperature[:, None]) @ weight)


def _polyatomic_log_q(row: dict[str, str], symmetry: int, temperature: np.ndarray) -> np.ndarray:
    """Rigid rotor and harmonic oscillators; a missing A marks a linear molecule."""
    b = float(row["b"])
    kt = temperature / CM_KELVIN
    if row["a"]:
        a, c = float(row["a"]), float(row["c"])
        rotation = np.sqrt(np.pi * kt**3 / (a * b * c)) / symmetry
    else:
        rotation = kt / (b * symmetry)
    log_q = np.log(float(row["weight"]) * rotation)
    for frequency in row["frequencies"].split():
        log_q = log_q - np.log1p(-np.exp(-float(frequency) / kt))
    return log_q


def _chebyshev_nodes(n: int) -> np.ndarray:
    """Temperatures of ``n`` Chebyshev points in ``ln T``, ascending."""
    s = -np.cos(np.pi * (np.arange(n) + 0.5) / n)
    middle = 0.5 * (np.log(T_MAX) + np.log(T_MIN))
    half = 0.5 * (np.log(T_MAX) - np.log(T_MIN))
    return np.exp(middle + half * s)


def _chebyshev_fit(values: np.ndarray) -> np.ndarray:
    """Coefficients ``(N_CHEBYSHEV, ...)`` of values given on the nodes (first axis)."""
    n = values.shape[0]
    s = -np.cos(np.pi * (np.arange(n) + 0.5) / n)
    return np.polynomial.chebyshev.chebfit(s, values, N_CHEBYSHEV - 1)


# --- the network of species ----------------------------------------------------------------------


class _Species(NamedTuple):
    name: str
    elements: dict[str, int]  # number of nuclei of each element
    charge: int
    energy_k: float  # E/k of formation from free atoms, positive if bound
    log_q: np.ndarray  # internal partition function at the nodes
    log_mass: float  # ln of the mass in u


class _Network(NamedTuple):
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
def _particles() -> tuple[list[_Species], np.ndarray]:
    nodes = _chebyshev_nodes(64)
    mix = solar_mix()
    mass = dict(zip(mix.elements, mix.mass_u, strict=True))
    atoms = {row["species"]: row for row in _rows("atoms.csv")}
    out: list[_Species] = []

    def add(name, elements, charge, energy_k, log_q):
        total = sum(mass[key] * n for key, n in elements.items()) - charge * ELECTRON_U
        out.append(_Species(name, elements, charge, energy_k, log_q, float(np.log(total))))

    for name, row in atoms.items():
        if not name.endswith("+"):
            add(name, {name: 1}, 0, 0.0, _atomic_log_q(row, nodes))
    for name in (*_IONISED, *_IONISED_HEAVY):
        energy = -float(atoms[name]["ionisation_ev"]) * EV_KELVIN
        ion = np.zeros_like(nodes) if name == "H" else _atomic_log_q(atoms[name + "+"], nodes)
        add(name + "+", {name: 1}, 1, energy, ion)
    add("H-", {"H": 1}, -1, H_MINUS_AFFINITY_EV * EV_KELVIN, np.zeros_like(nodes))

    states: dict[str, list[dict[str, str]]] = {}
    for row in _rows("diatomic_states.csv"):
        states.setdefault(row["species"], []).append(row)
    polyatomic = {row["species"]: row for row in _rows("polyatomic_constants.csv")}
    for row in _rows("molecules.csv"):
        name = row["species"]
        elements: dict[str, int] = {}
        for symbol in row["atoms"].split():
            elements[symbol] = elements.get(symbol, 0) + 1
        depth, symmetry = float(row["dissociation_ev"]), int(row["symmetry"])
        if name in polyatomic:
            log_q = _polyatomic_log_q(polyatomic[name], symmetry, nodes)
        else:
            log_q = _diatomic_log_q(states[name], depth, symmetry, nodes)
        energy = depth * EV_KELVIN
        if name == "H2+":  # bound against H and H+, whose electron has left a neutral H
            energy -= float(atoms["H"]["ionisation_ev"]) * EV_KELVIN
            add(name, elements, 1, energy, log_q)
        else:
            add(name, elements, 0, energy, log_q)
    return out, nodes


@lru_cache(maxsize=1)
def _network() -> _Network:
    particles, nodes = _particles()
    by_name = {p.name: p for p in particles}
    # ln of (2 pi u k T / h^2)^{3/2}, the translational partition function of one mass unit
    translation = 1.5 * np.log(2.0 * np.pi * U_GRAM * K_BOLTZMANN / H_PLANCK**2 * nodes)
    log_electron = np.log(2.0) + 1.5 * np.log(ELECTRON_U) + translation

    def smooth(p: _Species) -> np.ndarray:
        value = p.log_q + 1.5 * p.log_mass + translation
        for symbol, n in p.elements.items():
            atom = by_name[symbol]
            value = value - n * (atom.log_q + 1.5 * atom.log_mass + translation)
        return value + p.charge * log_electron

    def stoichiometry(p: _Species) -> list[float]:
        return [*(float(p.elements.get(m, 0)) for m in MAJORS), float(-p.charge)]

    def shares(p: _Species) -> list[float]:
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
    trace: list[_Species] = []
    slots: list[int] = []
    for g, group in enumerate(groups):
        for s, p in enumerate(group):
            k = g * n_slot + s
            nu_trace[k] = stoichiometry(p)
            rows_trace[k] = shares(p)
            energy_trace[k] = p.energy_k
            chebyshev_trace[:, k] = _chebyshev_fit(smooth(p))
            padding[k] = 0.0
            trace.append(p)
            slots.append(k)

    # The electron is a particle like the others: unit activity, one in its own balance.
    electron_row = [0.0] * 6 + [0.0, 1.0, 1.0]
    names_major = (*(p.name for p in major), "e-")
    names_trace = tuple(p.name for p in trace)
    return _Network(
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
            [*(_chebyshev_fit(smooth(p)) for p in major), np.zeros(N_CHEBYSHEV)], axis=1
        ),
        chebyshev_trace=chebyshev_trace,
        element_index={name: i for i, name in enumerate(solar_mix().elements)},
        q_names=tuple(p.name for p in particles),
        q_chebyshev=_chebyshev_fit(np.stack([p.log_q for p in particles], axis=1)),
    )


def species_names() -> tuple[str, ...]:
    """Names of every species of the network, in the order of ``Densities.log_n``.

    Examples
    --------
    >>> "TiO" in species_names()
    True
    """
    return _network().species


# --- smooth functions of temperature, in JAX -----------------------------------------------------


def _chebyshev_basis(temperature: Float[Array, ...]) -> Float[Array, "... n_chebyshev"]:
    middle = float(0.5 * (np.log(T_MAX) + np.log(T_MIN)))
    half = float(0.5 * (np.log(T_MAX) - np.log(T_MIN)))
    s = (jnp.log(jnp.clip(temperature, T_MIN, T_MAX)) - middle) / half
    basis = [jnp.ones_like(s), s]
    for _ in range(N_CHEBYSHEV - 2):
        basis.append(2.0 * s * basis[-1] - basis[-2])
    return jnp.stack(basis, axis=-1)


def _matmul(a: Array, b: np.ndarray | Array) -> Array:
    # Full float32 products: the default of some accelerators would round log densities to 1e-2.
    return jnp.matmul(a, jnp.asarray(b, a.dtype), precision=jax.lax.Precision.HIGHEST)


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
    network = _network()
    if species not in network.q_names:
        raise UsageError(
            f"log_partition_function: no partition function for '{species}'.",
            f"Use one of {', '.join(network.q_names)}.",
        )
    temperature = _floating(temperature_k)
    column = network.q_chebyshev[:, network.q_names.index(species)]
    return _matmul(_chebyshev_basis(temperature), column)


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
    network = _network()
    temperature = _floating(temperature_k)
    basis = _chebyshev_basis(temperature)
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
    return float(energy) / temperature + _matmul(basis, column)


def _floating(value: ArrayLike) -> Array:
    # Python numbers are weakly typed: alone they take the default precision, not float32.
    return jnp.asarray(value, jnp.result_type(value, float))


# --- the equilibrium -----------------------------------------------------------------------------


class Densities(eqx.Module):
    """Number densities of every species, as natural logarithms (float32 holds no 1e-40).

    Attributes
    ----------
    temperature_k : jax.Array
        Temperature in K, shape ``(...)``.
    pressure_dyn : jax.Array
        Gas pressure in dyn cm^-2, shape ``(...)``.
    log_n : jax.Array
        ``ln(n / cm^-3)``, shape ``(..., n_species)`` in the order of ``species``.
    log_nuclei : jax.Array
        ``ln`` of the density of hydrogen nuclei in all forms, cm^-3, shape ``(...)``.
    species : tuple of str
        Names (static).

    Examples
    --------
    >>> from jaxmdwarf.simulate.abundances import number_fractions
    >>> n = equilibrium(3000.0, 1e5, number_fractions(0.0, 0.0))
    >>> bool(n["H2"] > n["H"])
    True
    """

    temperature_k: Float[Array, ...]
    pressure_dyn: Float[Array, ...]
    log_n: Float[Array, "... n_species"]
    log_nuclei: Float[Array, ...]
    species: tuple[str, ...] = eqx.field(static=True)

    def __getitem__(self, name: str) -> Float[Array, ...]:
        """``ln(n / cm^-3)`` of one species."""
        if name not in self.species:
            raise UsageError(
                f"Densities: no species '{name}'.", f"Use one of {', '.join(self.species)}."
            )
        return self.log_n[..., self.species.index(name)]

    def number(self, name: str) -> Float[Array, ...]:
        """Number density of one species in cm^-3 (zero where float32 underflows)."""
        return jnp.exp(self[name])


class _Problem(NamedTuple):
    """What the balances depend on, and what gradients flow through."""

    log_k_major: Array  # (..., n_major)
    log_k_trace: Array  # (..., n_element * n_slot), -inf where padded
    log_eps_major: Array  # (..., 6)
    log_eps_trace: Array  # (..., n_element)
    inert: Array  # (...)
    log_total: Array  # (...) ln of all particles, P / k T


def _trace_shares(
    network: _Network, problem: _Problem, x: Array
) -> tuple[Float[Array, "... n_element n_slot"], Array]:
    """How each trace element divides itself: its shares, and their logarithms."""
    log_w = problem.log_k_trace + _matmul(x, network.nu_trace.T)
    log_w = log_w.reshape(*log_w.shape[:-1], len(network.trace_elements), network.n_slot)
    log_w = jax.nn.log_softmax(log_w, axis=-1)
    return jnp.exp(log_w), log_w


def _balances(network: _Network, problem: _Problem, y: Array) -> tuple[Array, Array]:
    """Logarithmic residuals ``(..., 8)`` of the balances and their Jacobian ``(..., 8, 8)``.

    ``y`` holds ln n of H, C, N, O, Si, S and e, and of the hydrogen nuclei.
    """
    x, log_nuclei = y[..., :7], y[..., 7]
    n_element, n_slot = len(network.trace_elements), network.n_slot
    # Everything per hydrogen nucleus, capped so that a wild early step stays finite.
    major = jnp.exp(
        jnp.clip(
            problem.log_k_major + _matmul(x, network.nu_major.T) - log_nuclei[..., None],
            -85.0,
            60.0,
        )
    )
    share, _ = _trace_shares(network, problem, x)
    trace = jnp.exp(problem.log_eps_trace)[..., None] * share
    flat = trace.reshape(*trace.shape[:-2], n_element * n_slot)

    sums = _matmul(major, network.rows_major) + _matmul(flat, network.rows_trace)
    # d sums / d x: each species brings nu_s, and a trace element takes back its mean nu.
    outer_major = network.rows_major[:, :, None] * network.nu_major[:, None, :]
    outer_trace = network.rows_trace[:, :, None] * network.nu_trace[:, None, :]
    slope = _matmul(major, outer_major.reshape(-1, 63)) + _matmul(flat, outer_trace.reshape(-1, 63))
    slope = slope.reshape(*slope.shape[:-1], 9, 7)
    nu = network.nu_trace.reshape(n_element, n_slot, 7)
    rows = network.rows_trace.reshape(n_element, n_slot, 9)
    high = jax.lax.Precision.HIGHEST
    mean_nu = jnp.einsum("...es,esj->...ej", share, jnp.asarray(nu, x.dtype), precision=high)
    row_sum = jnp.einsum("...es,esr->...er", trace, jnp.asarray(rows, x.dtype), precision=high)
    slope = slope - jnp.einsum("...er,...ej->...rj", row_sum, mean_nu, precision=high)
    # d sums / d ln N: the majors, per nucleus, dilute; the traces are per nucleus already.
    dilution = -_matmul(major, network.rows_major)

    total = sums[..., 8] + problem.inert
    elements = sums[..., :6]
    donors, takers = sums[..., 6], sums[..., 7]
    residual = jnp.concatenate(
        [
            jnp.log(elements) - problem.log_eps_major,
            (jnp.log(takers) - jnp.log(donors))[..., None],
            (jnp.log(total) + log_nuclei - problem.log_total)[..., None],
        ],
        axis=-1,
    )
    d_sums = jnp.concatenate([slope, dilution[..., None]], axis=-1)  # (..., 9, 8)
    d_elements = d_sums[..., :6, :] / elements[..., None]
    d_charge = d_sums[..., 7, :] / takers[..., None] - d_sums[..., 6, :] / donors[..., None]
    d_total = d_sums[..., 8, :] / total[..., None] + jnp.asarray(np.eye(8)[7], x.dtype)
    jacobian = jnp.concatenate([d_elements, d_charge[..., None, :], d_total[..., None, :]], axis=-2)
    return residual, jacobian


def _solve(matrix: Array, right: Array) -> Array:
    """Gauss-Jordan without pivoting, batched over leading axes as whole-array arithmetic.

    The matrix is a row-scaled symmetric positive one bordered by the total, which needs no pivots;
    a batched LAPACK call would cost more than the chemistry itself.
    """
    n = right.shape[-1]
    m = jnp.concatenate([matrix, right[..., None]], axis=-1)
    for k in range(n):
        pivot = m[..., k, :] / m[..., k, k : k + 1]
        # Less one in row k, which leaves the pivot row itself there.
        column = m[..., :, k] - jnp.asarray(np.eye(n)[k], m.dtype)
        m = m - column[..., None] * pivot[..., None, :]
    return m[..., n]


def _first_guess(problem: _Problem, network: _Network, temperature: Array) -> Array:
    """Closed forms: the H / H2 quadratic, CO and H2O as sinks, electrons from the alkalis."""
    eps = jnp.exp(problem.log_eps_major)
    index = {name: i for i, name in enumerate(network.names_major)}

    def log_k(name):
        return problem.log_k_major[..., index[name]]

    # n_H + K n_H^2 = total / (1 + He per particle), solved without cancellation.
    log_t = problem.log_total - 0.15
    z = jnp.log(4.0) + log_k("H2") + log_t
    log_h = log_t + jnp.log(2.0) - jnp.logaddexp(0.0, 0.5 * jnp.logaddexp(0.0, z))
    log_nuclei = log_t + jnp.log1p(jax.nn.sigmoid(z))
    hydrogen = [log_k("OH") + log_h, log_k("H2O") + 2.0 * log_h]
    log_free = jax.nn.logsumexp(jnp.stack([jnp.zeros_like(log_h), *hydrogen], -1), axis=-1)

    def abundance(name):
        return problem.log_eps_major[..., MAJORS.index(name)] + log_nuclei

    left = jnp.maximum(eps[..., 3] - eps[..., 1] - eps[..., 4], 0.02 * eps[..., 3])
    log_o = jnp.log(left) + log_nuclei - log_free
    log_c = abundance("C") - jnp.logaddexp(0.0, log_k("CO") + log_o)
    log_si = abundance("Si") - jnp.logaddexp(0.0, log_k("SiO") + log_o)
    log_s = abundance("S") - jnp.logaddexp(0.0, log_k("H2S") + 2.0 * log_h)
    z = jnp.log(4.0) + log_k("N2") + abundance("N")
    log_n = abundance("N") + jnp.log(2.0) - jnp.logaddexp(0.0, 0.5 * jnp.logaddexp(0.0, z))
    # Each donor alone gives n_e = min(sqrt(K n), n) roughly; the largest is near the truth.
    guesses = [0.5 * (log_k("H+") + log_h)]
    for name in ("K", "Na", "Ca", "Al", "Mg"):
        e = network.trace_elements.index(name)
        slot = network.trace_slot[network.names_trace.index(name + "+")]
        donor = problem.log_eps_trace[..., e] + log_nuclei
        guesses.append(jnp.minimum(0.5 * (problem.log_k_trace[..., slot] + donor), donor))
    log_e = jax.nn.logsumexp(jnp.stack(guesses, -1), axis=-1)
    return jnp.stack([log_h, log_c, log_n, log_o, log_si, log_s, log_e, log_nuclei], axis=-1)


def _newton(network: _Network, problem: _Problem, temperature: Array, n_iterations: int) -> Array:
    def step(_, y):
        residual, jacobian = _balances(network, problem, y)
        delta = _solve(jacobian, residual)
        # A common factor keeps the direction, in which the convex function is known to fall.
        largest = jnp.max(jnp.abs(delta), axis=-1, keepdims=True)
        return y - delta * jnp.minimum(1.0, MAX_LOG_STEP / jnp.maximum(largest, 1e-30))

    guess = _first_guess(problem, network, temperature)
    return jax.lax.fori_loop(0, n_iterations, step, guess)


def equilibrium(
    temperature_k: Float[ArrayLike, ...],
    pressure_dyn: Float[ArrayLike, ...],
    abundances: Float[ArrayLike, "... n_element"],
    *,
    n_iterations: int = N_NEWTON,
) -> Densities:
    """Number densities of atoms, ions, molecules and electrons in chemical equilibrium.

    Parameters
    ----------
    temperature_k : array_like
        Temperature in K.
    pressure_dyn : array_like
        Gas pressure in dyn cm^-2, all particles included; broadcast against ``temperature_k``.
    abundances : array
        Atoms per hydrogen nucleus from :func:`~jaxmdwarf.simulate.abundances.number_fractions`.
        Its leading axes are broadcast against the temperature too (for stars by depths, pass
        ``abundances[:, None, :]`` or use ``vmap``).
    n_iterations : int
        Newton steps, fixed so that the graph is.

    Returns
    -------
    Densities
        Natural logarithms of number densities in cm^-3; differentiable once in all three inputs.

    Raises
    ------
    MismatchError
        If the last axis of ``abundances`` does not hold one entry per element.

    Notes
    -----
    Converges for 1000-9000 K, 1-1e8 dyn cm^-2, [M/H] -4..+1 (tested).  First derivatives are
    exact by the implicit-function theorem; second derivatives are not (the Jacobian is held fixed).

    Examples
    --------
    >>> from jaxmdwarf.simulate.abundances import number_fractions
    >>> densities = equilibrium(3200.0, 1e5, number_fractions(0.0, 0.0))
    >>> bool(densities["CO"] > densities["C"])
    True
    """
    network = _network()
    abundances = jnp.asarray(abundances)
    if abundances.shape[-1] != len(network.element_index):
        raise MismatchError(
            f"equilibrium: abundances end in an axis of {abundances.shape[-1]}, not one entry for "
            f"each of {len(network.element_index)} elements.",
            "Build the array with number_fractions.",
        )
    dtype = jnp.result_type(temperature_k, pressure_dyn, abundances, float)
    temperature = jnp.asarray(temperature_k, dtype)
    pressure = jnp.asarray(pressure_dyn, dtype)
    log_eps = jnp.log(jnp.asarray(abundances, dtype))
    shape = jnp.broadcast_shapes(temperature.shape, pressure.shape, log_eps.shape[:-1])
    return _equilibrium(
        jnp.broadcast_to(temperature, shape),
        jnp.broadcast_to(pressure, shape),
        jnp.broadcast_to(log_eps, (*shape, log_eps.shape[-1])),
        n_iterations,
    )


@partial(jax.jit, static_argnums=3)
def _equilibrium(
    temperature: Array, pressure: Array, log_eps: Array, n_iterations: int
) -> Densities:
    # Compiled here so that calls outside any jit reuse the compilation.
    network = _network()
    dtype, shape = temperature.dtype, temperature.shape

    def pick(names):
        # Unsigned: indices that cannot be negative need no arithmetic in either precision.
        index = np.array([network.element_index[name] for name in names], dtype=np.uint32)
        return log_eps[..., index]

    basis = _chebyshev_basis(temperature)
    inverse_t = (1.0 / temperature)[..., None]
    log_inert = pick(INERT)
    problem = _Problem(
        log_k_major=inverse_t * jnp.asarray(network.energy_major, dtype)
        + _matmul(basis, network.chebyshev_major),
        log_k_trace=inverse_t * jnp.asarray(network.energy_trace, dtype)
        + _matmul(basis, network.chebyshev_trace)
        + jnp.asarray(network.padding, dtype),
        log_eps_major=pick(MAJORS),
        log_eps_trace=pick(network.trace_elements),
        inert=jnp.sum(jnp.exp(log_inert), axis=-1),
        log_total=jnp.log(pressure) - jnp.log(temperature) - float(np.log(K_BOLTZMANN)),
    )
    frozen = jax.lax.stop_gradient(problem)
    start = jax.lax.stop_gradient(_newton(network, frozen, temperature, n_iterations))
    residual, jacobian = _balances(network, problem, start)
    y = start - _solve(jax.lax.stop_gradient(jacobian), residual)

    x, log_nuclei = y[..., :7], y[..., 7]
    log_major = problem.log_k_major + _matmul(x, network.nu_major.T)
    _, log_w = _trace_shares(network, problem, x)
    log_trace = (log_w + problem.log_eps_trace[..., None]).reshape(*shape, -1)
    log_trace = log_trace[..., network.trace_slot] + log_nuclei[..., None]
    return Densities(
        temperature_k=temperature,
        pressure_dyn=pressure,
        log_n=jnp.concatenate([log_major, log_inert + log_nuclei[..., None], log_trace], axis=-1),
        log_nuclei=log_nuclei,
        species=network.species,
    )


# --- what the atmosphere asks for ----------------------------------------------------------------


def mass_density(
    densities: Densities, abundances: Float[ArrayLike, "... n_element"]
) -> Float[Array, ...]:
    """Mass density in g cm^-3.

    Parameters
    ----------
    densities : Densities
        From :func:`equilibrium`.
    abundances : array
        The abundances it was computed with.

    Returns
    -------
    jax.Array
        Shape of the temperature.
    """
    # The two constants are combined first: the product with u alone would underflow float32.
    return jnp.exp(
        densities.log_nuclei
        + jnp.log(nucleus_mass(jnp.asarray(abundances)))
        + float(np.log(U_GRAM))
    )


def mean_molecular_weight(
    densities: Densities, abundances: Float[ArrayLike, "... n_element"]
) -> Float[Array, ...]:
    """Mean mass of a particle in unified mass units (1.27 for solar H I gas, 2.35 for H2).

    Parameters
    ----------
    densities : Densities
        From :func:`equilibrium`.
    abundances : array
        The abundances it was computed with.

    Returns
    -------
    jax.Array
        Shape of the temperature.
    """
    log_total = jnp.log(densities.pressure_dyn) - jnp.log(densities.temperature_k)
    log_total = log_total - float(np.log(K_BOLTZMANN))
    return jnp.exp(densities.log_nuclei - log_total) * nucleus_mass(jnp.asarray(abundances))


def electron_pressure(densities: Densities) -> Float[Array, ...]:
    """Electron pressure ``n_e k T`` in dyn cm^-2.

    Parameters
    ----------
    densities : Densities
        From :func:`equilibrium`.

    Returns
    -------
    jax.Array
        Shape of the temperature.
    """
    return jnp.exp(densities["e-"] + jnp.log(densities.temperature_k) + float(np.log(K_BOLTZMANN)))
