"""Line opacity tables: the cross-sections of every molecule and atom on (temperature, pressure)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.simulate.atoms.crosssection import CROSS_SECTION_UNIT_CM2, atomic_cross_sections
from jaxmdwarf.simulate.atoms.lines import AtomicLines, load_atomic_lines, load_atomic_species
from jaxmdwarf.simulate.chemistry.network import log_partition_function
from jaxmdwarf.simulate.constants import C_LIGHT, HC_OVER_K_CM
from jaxmdwarf.simulate.interpolation import cubic_weights
from jaxmdwarf.simulate.molecules.linelist import LineList, band_lines
from jaxmdwarf.simulate.molecules.partition import partition_function
from jaxmdwarf.simulate.molecules.species import load_species
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

MOLECULES = ("TiO", "VO", "CaH", "MgH", "FeH", "CaOH")
FOLDED = ("CaOH",)
ATOM_GROUPS: dict[str, tuple[str, ...]] = {
    "Na": ("Na I",),
    "K": ("K I",),
    "Rb": ("Rb I", "Cs I"),
    "Mg": ("Mg I",),
    "Al": ("Al I",),
    "Si": ("Si I", "S I", "C I", "O I"),
    "Ca": ("Ca I",),
    "Ca+": ("Ca II",),
    "Ti": ("Ti I", "Sc I", "Zr I", "Y I"),
    "V": ("V I",),
    "Fe": ("Fe I", "Cr I", "Mn I", "Ni I", "Co I", "Cu I"),
    "Ba+": ("Ba II",),
    "Sr": ("Sr I",),
}
"""Atoms that share one table, named after the one whose density multiplies it.

Members are weighted by their solar abundance relative to the first one: elements of one group are
neutral (or ionised) together and form few molecules, so that their ratio hardly changes with depth.
"""

THETA_START, THETA_STEP, N_THETA = 0.84, 0.16, 13
"""Nodes of theta = 5040 K / T: 6000 K down to 1827 K."""
LOG_P_START, LOG_P_STEP, N_LOG_P = 3.0, 0.8, 6
"""Nodes of log10 P (dyn cm^-2): 3 to 7."""

MODE_TOLERANCE = 5e-4
"""Largest error of a cross-section, relative to its maximum over the nodes at that wavelength."""


@dataclass(frozen=True)
class LinePhysics:
    """What the line opacity is made of; nature and theory differ here (see `Physics`)."""

    system_strength: tuple[tuple[str, float], ...] = ()
    missing_systems: tuple[str, ...] = ()
    damping_scale: float = 1.0
    atomic_missing_fraction: float = 0.0
    atomic_shift_fraction: float = 0.0
    atomic_shift_aa: float = 0.0
    atomic_strength_scatter_dex: float = 0.0
    microturbulence_kms: float = 1.5
    seed: int = 0


class CrossSections(eqx.Module):
    """Cross-sections of several species on the nodes, as a product of two thin matrices.

    A table of (nodes, wavelengths) has few independent rows, because all lines of a species react
    alike to temperature and pressure. Its leading singular vectors hold it, weighting every
    wavelength equally, and make the opacity of a star take several times less arithmetic.

    Attributes
    ----------
    nodes : (n_node, n_mode)
    modes : (n_mode, n_wave)
        The cross-section of a species (1e-16 cm^2 per particle) is the sum of ``nodes * modes``
        over its own modes.
    owners : tuple of int, length n_mode
        Index into `names` of the species that each mode belongs to (static).
    names : tuple of str
        Species (static).
    """

    nodes: Float[Array, "n_node n_mode"]
    modes: Float[Array, "n_mode n_wave"]
    owners: tuple[int, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def table(self, name: str) -> Float[Array, "n_node n_wave"]:
        """Cross-sections of one species on all nodes, 1e-16 cm^2."""
        own = np.array(self.owners) == self.names.index(name)
        return self.nodes[:, own] @ self.modes[own]

    def coefficients(
        self,
        ln_particles: Float[Array, "n_species n_depth"],
        weights: Float[Array, "n_depth n_node"],
    ) -> Float[Array, "n_depth n_mode"]:
        """What `modes` is to be multiplied with for the opacity of particles (g^-1, as ln).

        Parameters
        ----------
        ln_particles : (n_species, n_depth)
            Natural log of number density over mass density, g^-1, in the order of `names`.
        weights : (n_depth, n_node)
            Of the nodes at each depth, see `cubic_weights`.
        """
        particles = jnp.exp(ln_particles + np.log(CROSS_SECTION_UNIT_CM2))
        return particles[np.array(self.owners)].T * (weights @ self.nodes)


class OpacityTables(eqx.Module):
    """Line cross-sections tabulated on temperature and pressure.

    Attributes
    ----------
    molecular : CrossSections
        On the nodes of theta = 5040 K / T.
    atomic : CrossSections
        On the nodes of theta by log pressure, per atom of each group's first member.
    grid : PixelGrid
        Fine logarithmic wavelength grid, vacuum (static).
    """

    molecular: CrossSections
    atomic: CrossSections
    grid: PixelGrid = eqx.field(static=True)

    @property
    def wave_aa(self) -> np.ndarray:
        """Fine wavelengths, vacuum Angstrom, (n_wave,)."""
        return self.grid.wave_aa


def table_temperatures() -> np.ndarray:
    """Temperatures of the table nodes in K, (n_theta,), descending."""
    return 5040.0 / (THETA_START + THETA_STEP * np.arange(N_THETA))


def build_opacity_tables(physics: LinePhysics, grid: PixelGrid) -> OpacityTables:
    """Compute all cross-sections on the fine wavelength grid (host, a few seconds).

    Parameters
    ----------
    physics : LinePhysics
        Strengths, missing systems, damping, perturbed atomic lines.
    grid : PixelGrid
        Logarithmic grid, vacuum.
    """
    molecular = [_molecular_table(name, physics, grid) for name in MOLECULES]
    groups, atomic = _atomic_tables(physics, grid)
    return OpacityTables(
        molecular=_compress(MOLECULES, molecular),
        atomic=_compress(groups, atomic),
        grid=grid,
    )


def line_opacity(
    tables: OpacityTables,
    *,
    temperature: Float[Array, " n_depth"],
    pressure: Float[Array, " n_depth"],
    ln_molecules: Float[Array, "n_molecule n_depth"],
    ln_atoms: Float[Array, "n_group n_depth"],
) -> Float[Array, "n_depth n_wave"]:
    """Line absorption coefficient per gram at every depth and wavelength.

    Parameters
    ----------
    temperature, pressure : (n_depth,)
        K and dyn cm^-2.
    ln_molecules : (n_molecule, n_depth)
        Natural log of number density over mass density (g^-1).
    ln_atoms : (n_group, n_depth)
        Natural log of number density over mass density (g^-1).

    Returns
    -------
    (n_depth, n_wave) in cm^2 g^-1
    """
    w_t = cubic_weights(5040.0 / temperature, THETA_START, THETA_STEP, N_THETA)
    w_p = cubic_weights(jnp.log10(pressure), LOG_P_START, LOG_P_STEP, N_LOG_P)
    w_tp = (w_t[:, :, None] * w_p[:, None, :]).reshape(w_t.shape[0], -1)
    coefficients = jnp.concatenate(
        [
            tables.molecular.coefficients(ln_molecules, w_t),
            tables.atomic.coefficients(ln_atoms, w_tp),
        ],
        axis=1,
    )
    modes = jnp.concatenate([tables.molecular.modes, tables.atomic.modes])
    # Interpolation may undershoot zero where a profile is steep in pressure.
    return jnp.maximum(coefficients @ modes, 0.0)


def _compress(names: tuple[str, ...], tables: list[np.ndarray]) -> CrossSections:
    """As many leading singular vectors of each (n_node, n_wave) table as `MODE_TOLERANCE` needs."""
    nodes, modes, owners = [], [], []
    for owner, table in enumerate(tables):
        largest = table.max(axis=0)
        scale = np.where(largest > 0, largest, 1.0)
        weighted = table / scale
        # Left singular vectors from the small Gram matrix: a thin SVD would take a hundred times
        # longer, and their squared values still reach 1e-8 in float64.
        _, vectors = np.linalg.eigh(weighted @ weighted.T)
        rest = weighted.copy()
        for vector in vectors.T[::-1]:
            mode = vector @ weighted
            nodes.append(vector)
            modes.append(mode * scale)
            owners.append(owner)
            rest -= vector[:, None] * mode
            if np.abs(rest).max() < MODE_TOLERANCE:
                break
    return CrossSections(
        nodes=jnp.asarray(np.stack(nodes, axis=1), dtype=jnp.float32),
        modes=jnp.asarray(np.stack(modes), dtype=jnp.float32),
        owners=tuple(owners),
        names=names,
    )


@lru_cache(maxsize=64)
def _system_lines(species: str, system: str, start_aa: float, stop_aa: float) -> LineList:
    return band_lines(species, system, wave_range_aa=(start_aa, stop_aa))


def _molecular_table(name: str, physics: LinePhysics, grid: PixelGrid) -> np.ndarray:
    """Cross-section (n_theta, n_wave) in units of 1e-16 cm^2.

    The partition function is that of the chemistry, since equilibrium constants and populations
    must count the same levels. The line list of CaOH leaves its bend out: the hot bands of that
    ladder fall upon the others, which dividing by the list's own sum over levels stands for.
    """
    strength = dict(physics.system_strength)
    temperatures = table_temperatures()
    if name in FOLDED:
        q = partition_function(name, temperatures)
    else:
        q = np.exp(np.asarray(log_partition_function(name, temperatures), dtype=np.float64))
    wave = grid.wave_aa
    total = np.zeros((N_THETA, grid.n_pix))
    for system in load_species(name).systems:
        label = f"{name} {system.name}"
        if label in physics.missing_systems or name in physics.missing_systems:
            continue
        lines = _system_lines(name, system.name, float(wave[0]) - 5.0, float(wave[-1]) + 5.0)
        if lines.wavenumber_cm.size == 0:
            continue
        position = np.log(1e8 / lines.wavenumber_cm / grid.start_aa) / grid.step
        left = np.floor(position).astype(np.int64)
        inside = (left >= 0) & (left < grid.n_pix - 1)
        left, right_share = left[inside], (position - left)[inside]
        nu = lines.wavenumber_cm[inside]
        # Dividing by the pixel width in wavenumber turns line strengths into a cross-section.
        base = lines.ga_s[inside] / (8.0 * np.pi * C_LIGHT * nu**2) / (nu * grid.step)
        factor = strength.get(label, strength.get(name, 1.0)) / CROSS_SECTION_UNIT_CM2
        for k, temperature in enumerate(temperatures):
            boltzmann = np.exp(-HC_OVER_K_CM * lines.e_lower_cm[inside] / temperature)
            s = (factor / q[k]) * base * boltzmann * -np.expm1(-HC_OVER_K_CM * nu / temperature)
            total[k] += np.bincount(left, s * (1.0 - right_share), grid.n_pix)
            total[k] += np.bincount(left + 1, s * right_share, grid.n_pix)
    main = load_species(name).isotopologues[0]
    mass = main.mass_1 + main.mass_2
    return np.stack(
        [
            _broaden(total[k], temperature, mass, physics, grid)
            for k, temperature in enumerate(temperatures)
        ]
    )


def _broaden(
    table: np.ndarray, temperature: float, mass_amu: float, physics: LinePhysics, grid: PixelGrid
) -> np.ndarray:
    """Convolve with the Doppler profile, which has one width in velocity on a log grid."""
    thermal = 0.1290 * np.sqrt(temperature / mass_amu)  # sqrt(2kT/m) in km/s
    sigma = np.hypot(thermal, physics.microturbulence_kms) / np.sqrt(2.0)
    sigma_pix = sigma / SPEED_OF_LIGHT_KMS / grid.step
    half = int(np.ceil(5 * sigma_pix)) + 2
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / max(sigma_pix, 1e-3)) ** 2)
    return np.convolve(table, kernel / kernel.sum(), mode="same")


def _atomic_tables(
    physics: LinePhysics, grid: PixelGrid
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    lines = load_atomic_lines()
    strength, shift = perturb_atomic_lines(lines, physics)
    sections = atomic_cross_sections(
        lines,
        grid.wave_aa,
        table_temperatures(),
        LOG_P_START + LOG_P_STEP * np.arange(N_LOG_P),
        microturbulence_kms=physics.microturbulence_kms,
        damping_scale=physics.damping_scale,
        strength_scale=strength,
        wave_shift_aa=shift,
    )
    solar = {name: 10.0**atom.solar_abundance for name, atom in load_atomic_species().items()}
    groups, tables = [], []
    for name, members in ATOM_GROUPS.items():
        present = [member for member in members if member in sections]
        if not present:
            continue
        total = sum(
            (solar[member] / solar[members[0]]) * sections[member].astype(np.float64)
            for member in present
        )
        groups.append(name)
        tables.append(np.reshape(total, (N_THETA * N_LOG_P, grid.n_pix)))
    return tuple(groups), tables


def perturb_atomic_lines(
    lines: AtomicLines, physics: LinePhysics
) -> tuple[Float[np.ndarray, " n_line"], Float[np.ndarray, " n_line"]]:
    """How nature's atomic lines differ: factors on gf (0 for a missing line) and displacements.

    Parameters
    ----------
    lines : AtomicLines
    physics : LinePhysics
        Shares of missing and displaced lines, displacement, scatter, seed.

    Returns
    -------
    strength : (n_line,)
        Factor on gf.
    shift_aa : (n_line,)
        Added to the wavelength, Angstrom.

    Notes
    -----
    The strongest third (by log gf minus the Boltzmann exponent at 3300 K) is never missing or
    displaced: laboratory data fail for the many weak lines, not for the strong ones.
    """
    rng = np.random.default_rng(physics.seed)
    n_line = len(lines.wave_aa)
    draw, sign, normal = (
        rng.random(n_line),
        rng.choice([-1.0, 1.0], n_line),
        rng.normal(size=n_line),
    )
    merit = lines.log_gf - lines.e_lower_ev * 5040.0 / 3300.0
    weak = merit < np.quantile(merit, 2.0 / 3.0)
    strength = 10.0 ** (physics.atomic_strength_scatter_dex * normal)
    strength[weak & (draw < physics.atomic_missing_fraction)] = 0.0
    moved = weak & (draw > 1.0 - physics.atomic_shift_fraction)
    return strength, np.where(moved, sign * physics.atomic_shift_aa, 0.0)
