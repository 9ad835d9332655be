"""Labels to emergent spectra: atmosphere, chemistry, opacity and transfer, composed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.abundances import number_fractions
from jaxmdwarf.simulate.atmosphere import TemperatureStructure, build_atmosphere
from jaxmdwarf.simulate.chemistry.equilibrium import equilibrium, mass_density
from jaxmdwarf.simulate.continuum import continuum_opacity
from jaxmdwarf.simulate.emergent import emergent_flux, planck_flux
from jaxmdwarf.simulate.opacity import (
    LinePhysics,
    OpacityTables,
    build_opacity_tables,
    line_opacity,
)
from jaxmdwarf.wavelengths import PixelGrid

COARSE_STRIDE = 128
"""The continuum and the Planck function are evaluated on every 128th fine pixel (20-30 A)."""


@dataclass(frozen=True)
class Physics:
    """What a simulated star is made of. The default is the theory that the emulator learns.

    Nature is the same code with other values; each field is one named cause of the domain gap.

    Parameters
    ----------
    system_strength : tuple of (str, float)
        Factors on the strength of band systems, e.g. ``(("TiO gamma", 1.2), ("CaH", 0.8))``; a bare
        species name means all its systems.
    missing_systems : tuple of str
        Band systems (or species) without opacity.
    damping_scale : float
        Factor on the pressure broadening of atomic lines.
    temperature_gradient : float
        Relative steepening of T(tau), see `TemperatureStructure.gradient`.
    surface_cooling : float
        Line blanketing, see `TemperatureStructure.surface_cooling`.
    atomic_missing_fraction, atomic_shift_fraction : float
        Fractions of the weaker atomic lines that are absent and displaced.
    atomic_shift_aa : float
        Displacement in Angstrom.
    atomic_strength_scatter_dex : float
        Scatter of log gf.
    microturbulence_kms : float
        Small-scale velocities.
    seed : int
        Which atomic lines are concerned.
    """

    system_strength: tuple[tuple[str, float], ...] = ()
    missing_systems: tuple[str, ...] = ()
    damping_scale: float = 1.0
    temperature_gradient: float = 0.0
    surface_cooling: float = TemperatureStructure.surface_cooling
    atomic_missing_fraction: float = 0.0
    atomic_shift_fraction: float = 0.0
    atomic_shift_aa: float = 0.0
    atomic_strength_scatter_dex: float = 0.0
    microturbulence_kms: float = 1.5
    seed: int = 0

    def lines(self) -> LinePhysics:
        """The part that decides the opacity tables."""
        return LinePhysics(
            system_strength=self.system_strength,
            missing_systems=self.missing_systems,
            damping_scale=self.damping_scale,
            atomic_missing_fraction=self.atomic_missing_fraction,
            atomic_shift_fraction=self.atomic_shift_fraction,
            atomic_shift_aa=self.atomic_shift_aa,
            atomic_strength_scatter_dex=self.atomic_strength_scatter_dex,
            microturbulence_kms=self.microturbulence_kms,
            seed=self.seed,
        )

    def structure(self) -> TemperatureStructure:
        """The part that decides T(tau)."""
        return replace(
            TemperatureStructure(),
            gradient=self.temperature_gradient,
            surface_cooling=self.surface_cooling,
        )


@dataclass(frozen=True)
class SynthesisConfig:
    """Numerical settings of a synthesis.

    Parameters
    ----------
    start_aa, stop_aa : float
        Wavelength range, vacuum Angstrom.
    ln_step : float
        Step in ln(wavelength): 2.7e-5 is 0.16 A at 6000 and 0.24 A at 9000 A.
    n_depth : int
        Layers of the atmosphere.
    """

    start_aa: float = 5850.0
    stop_aa: float = 9150.0
    ln_step: float = 2.7e-5
    n_depth: int = 40

    def grid(self) -> PixelGrid:
        """The fine grid, a whole number of continuum intervals long."""
        grid = PixelGrid.logarithmic(self.start_aa, self.stop_aa, self.ln_step)
        return grid.padded(0, -grid.n_pix % COARSE_STRIDE)


class Simulator(eqx.Module):
    """Everything a synthesis needs, as one object that a jit boundary sees.

    Attributes
    ----------
    tables : OpacityTables
        Line cross-sections.
    structure : TemperatureStructure
        T(tau) (static).
    n_depth : int
        Layers (static).
    """

    tables: OpacityTables
    structure: TemperatureStructure = eqx.field(static=True)
    n_depth: int = eqx.field(static=True)

    @property
    def wave_aa(self) -> np.ndarray:
        """Wavelengths of the fine grid, vacuum Angstrom, (n_wave,)."""
        return self.tables.wave_aa


def build_simulator(
    physics: Physics | None = None, settings: SynthesisConfig | None = None
) -> Simulator:
    """Prepare a synthesis: line lists and cross-section tables (host, seconds).

    Parameters
    ----------
    physics : Physics, optional
        Theory by default.
    settings : SynthesisConfig, optional
    """
    physics, settings = physics or Physics(), settings or SynthesisConfig()
    return Simulator(
        tables=build_opacity_tables(physics.lines(), settings.grid()),
        structure=physics.structure(),
        n_depth=settings.n_depth,
    )


def surface_flux(simulator: Simulator, labels: Float[Array, 4]) -> Float[Array, " n_wave"]:
    """Emergent flux of one star, differentiable with respect to its labels.

    Parameters
    ----------
    simulator : Simulator
    labels : (4,)
        Teff (K), log g (cgs), [M/H], [alpha/M].

    Returns
    -------
    (n_wave,) flux at the stellar surface, erg s^-1 cm^-2 A^-1
    """
    layers = build_atmosphere(labels, structure=simulator.structure, n_depth=simulator.n_depth)
    abundances = number_fractions(labels[2], labels[3])
    densities = equilibrium(layers.temperature, layers.pressure, abundances)
    ln_rho = jnp.log(mass_density(densities, abundances))
    tables = simulator.tables
    lines = line_opacity(
        tables,
        temperature=layers.temperature,
        pressure=layers.pressure,
        ln_molecules=jnp.stack([densities[name] - ln_rho for name in tables.molecular.names]),
        ln_atoms=jnp.stack([densities[name] - ln_rho for name in tables.atomic.names]),
    )
    coarse = simulator.wave_aa[::COARSE_STRIDE]
    coarse = np.append(coarse, coarse[-1] ** 2 / coarse[-2])
    absorption, scattering = continuum_opacity(coarse, densities, n_coarse=coarse.size)
    continuum = (absorption + scattering) * jnp.exp(-ln_rho)[:, None]
    source = planck_flux(layers.temperature[:, None], jnp.asarray(coarse, labels.dtype)[None, :])
    n_wave = lines.shape[1]
    return emergent_flux(
        lines + _refine(continuum, n_wave), layers.column_mass, _refine(source, n_wave)
    )


def synthesize(
    simulator: Simulator,
    labels: Float[np.ndarray, "n_spec 4"],
    *,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> Float[np.ndarray, "n_spec n_wave"]:
    """Surface fluxes of many stars, in batches of one compiled shape.

    Parameters
    ----------
    simulator : Simulator
    labels : (n_spec, 4)
    batch_size : int
        Stars per call; memory grows by about 10 MB a star.
    on_batch : callable, optional
        Told the number of stars after each batch.

    Returns
    -------
    (n_spec, n_wave) float32, erg s^-1 cm^-2 A^-1

    Raises
    ------
    UsageError
        If a label is not finite.
    """
    labels = np.asarray(labels, dtype=np.float32)
    if not np.isfinite(labels).all():
        raise UsageError("labels to synthesise are not finite.", "drop the rows with NaN.")
    out = np.empty((len(labels), simulator.tables.grid.n_pix), dtype=np.float32)
    for start in range(0, len(labels), batch_size):
        rows = labels[start : start + batch_size]
        padded = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows), axis=0)])
        out[start : start + len(rows)] = np.asarray(_flux_batch(simulator, padded))[: len(rows)]
        if on_batch is not None:
            on_batch(len(rows))
    return out


@eqx.filter_jit
def _flux_batch(simulator: Simulator, labels):
    return jax.vmap(lambda row: surface_flux(simulator, row))(jnp.asarray(labels))


def _refine(coarse: Float[Array, "n_depth n_coarse"], n_wave: int) -> Float[Array, "n_depth n_w"]:
    """Linear interpolation from every 128th pixel, by broadcasting (no gather)."""
    fraction = jnp.arange(COARSE_STRIDE, dtype=coarse.dtype) / COARSE_STRIDE
    left, right = coarse[:, :-1, None], coarse[:, 1:, None]
    fine = left * (1.0 - fraction) + right * fraction
    return fine.reshape(coarse.shape[0], -1)[:, :n_wave]
