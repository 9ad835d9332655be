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

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.simulate.abundances import nucleus_mass
from jaxmdwarf.simulate.chemistry.chebyshev import chebyshev_basis, multiply_constants
from jaxmdwarf.simulate.chemistry.network import INERT, MAJORS, ReactionNetwork, load_network
from jaxmdwarf.simulate.constants import K_BOLTZMANN, U_GRAM

N_NEWTON = 6
MAX_LOG_STEP = 6.0  # largest change of a log density in one Newton step


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
    network: ReactionNetwork, problem: _Problem, x: Array
) -> tuple[Float[Array, "... n_element n_slot"], Array]:
    """How each trace element divides itself: its shares, and their logarithms."""
    log_w = problem.log_k_trace + multiply_constants(x, network.nu_trace.T)
    log_w = log_w.reshape(*log_w.shape[:-1], len(network.trace_elements), network.n_slot)
    log_w = jax.nn.log_softmax(log_w, axis=-1)
    return jnp.exp(log_w), log_w


def _balances(network: ReactionNetwork, problem: _Problem, y: Array) -> tuple[Array, Array]:
    """Logarithmic residuals ``(..., 8)`` of the balances and their Jacobian ``(..., 8, 8)``.

    ``y`` holds ln n of H, C, N, O, Si, S and e, and of the hydrogen nuclei.
    """
    x, log_nuclei = y[..., :7], y[..., 7]
    n_element, n_slot = len(network.trace_elements), network.n_slot
    # Everything per hydrogen nucleus, capped so that a wild early step stays finite.
    major = jnp.exp(
        jnp.clip(
            problem.log_k_major + multiply_constants(x, network.nu_major.T) - log_nuclei[..., None],
            -85.0,
            60.0,
        )
    )
    share, _ = _trace_shares(network, problem, x)
    trace = jnp.exp(problem.log_eps_trace)[..., None] * share
    flat = trace.reshape(*trace.shape[:-2], n_element * n_slot)

    sums = multiply_constants(major, network.rows_major) + multiply_constants(
        flat, network.rows_trace
    )
    # d sums / d x: each species brings nu_s, and a trace element takes back its mean nu.
    outer_major = network.rows_major[:, :, None] * network.nu_major[:, None, :]
    outer_trace = network.rows_trace[:, :, None] * network.nu_trace[:, None, :]
    slope = multiply_constants(major, outer_major.reshape(-1, 63)) + multiply_constants(
        flat, outer_trace.reshape(-1, 63)
    )
    slope = slope.reshape(*slope.shape[:-1], 9, 7)
    nu = network.nu_trace.reshape(n_element, n_slot, 7)
    rows = network.rows_trace.reshape(n_element, n_slot, 9)
    high = jax.lax.Precision.HIGHEST
    mean_nu = jnp.einsum("...es,esj->...ej", share, jnp.asarray(nu, x.dtype), precision=high)
    row_sum = jnp.einsum("...es,esr->...er", trace, jnp.asarray(rows, x.dtype), precision=high)
    slope = slope - jnp.einsum("...er,...ej->...rj", row_sum, mean_nu, precision=high)
    # d sums / d ln N: the majors, per nucleus, dilute; the traces are per nucleus already.
    dilution = -multiply_constants(major, network.rows_major)

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


def _first_guess(problem: _Problem, network: ReactionNetwork, temperature: Array) -> Array:
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


def _newton(
    network: ReactionNetwork, problem: _Problem, temperature: Array, n_iterations: int
) -> Array:
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
    network = load_network()
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
    network = load_network()
    dtype, shape = temperature.dtype, temperature.shape

    def pick(names):
        # Unsigned: indices that cannot be negative need no arithmetic in either precision.
        index = np.array([network.element_index[name] for name in names], dtype=np.uint32)
        return log_eps[..., index]

    basis = chebyshev_basis(temperature)
    inverse_t = (1.0 / temperature)[..., None]
    log_inert = pick(INERT)
    problem = _Problem(
        log_k_major=inverse_t * jnp.asarray(network.energy_major, dtype)
        + multiply_constants(basis, network.chebyshev_major),
        log_k_trace=inverse_t * jnp.asarray(network.energy_trace, dtype)
        + multiply_constants(basis, network.chebyshev_trace)
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
    log_major = problem.log_k_major + multiply_constants(x, network.nu_major.T)
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
