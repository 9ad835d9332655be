"""Model atmospheres of cool dwarfs: temperature and pressure against Rosseland optical depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.simulate.rosseland import rosseland_mean


@dataclass(frozen=True)
class TemperatureStructure:
    """How temperature runs with Rosseland optical depth, relative to a grey atmosphere.

    The defaults of the first five were set once so that brightness temperatures in fifteen windows
    between 6130 and 8800 Angstrom, in pseudo-continua and in TiO and VO bands, agree with those of
    published PHOENIX spectra (solar, log g 5, 3000-3900 K; Husser et al. 2013 as distributed with
    VSPEC) to 1-2 per cent; ``benchmarks/calibrate_temperature.py`` repeats it. No line strength was
    adjusted for that.

    Parameters
    ----------
    anchor_depth : float
        Rosseland optical depth where the temperature equals Teff. It lies well above 2/3 because
        H- makes the red optical some five times more opaque than the Rosseland mean.
    surface_cooling : float
        Fractional drop of temperature below the grey one at vanishing optical depth: lines
        blanket the surface layers of real atmospheres.
    cooling_depth : float
        Rosseland optical depth where half of that drop is reached.
    cooling_power : float
        How sharply the drop sets in with optical depth.
    adiabatic_gradient : float
        d ln T / d ln P that convection imposes in dwarfs; dissociating H2 keeps it far below the
        0.3-0.4 of an inert gas.
    giant_adiabatic_gradient : float
        The same below `GIANT_LOGG`, where hydrogen is atomic. With the dwarfs' gradient the outer
        layers of giants would stay too warm for TiO.
    giant_cooling_depth : float
        `cooling_depth` of giants, set so that TiO5 is 0.7 at 3750 K, as in giants of type M1.
    gradient : float
        Fractional steepening of the temperature about the anchor: dT/T = gradient *
        tanh(log10(tau / anchor_depth)); 0 in theory, one of nature's causes.
    """

    anchor_depth: float = 0.082
    surface_cooling: float = 0.35
    cooling_depth: float = 0.0057
    cooling_power: float = 1.59
    adiabatic_gradient: float = 0.075
    giant_adiabatic_gradient: float = 0.4
    giant_cooling_depth: float = 0.01
    gradient: float = 0.0


DWARF_LOGG, GIANT_LOGG = 3.5, 2.5
"""Gravities between which the temperature structure goes from that of dwarfs to that of giants."""


class Atmosphere(NamedTuple):
    """One atmosphere, from the top inwards.

    Attributes
    ----------
    tau_rosseland, temperature, pressure, column_mass : (n_depth,)
        Rosseland optical depth; temperature in K; gas pressure in dyn cm^-2; mass above in
        g cm^-2.
    """

    tau_rosseland: Float[Array, " n_depth"]
    temperature: Float[Array, " n_depth"]
    pressure: Float[Array, " n_depth"]
    column_mass: Float[Array, " n_depth"]


def optical_depth_scale(n_depth: int = 40) -> np.ndarray:
    """Rosseland optical depths of the layers, 1e-6 to 10^1.2, equidistant in the logarithm.

    TiO band heads become opaque some three decades above the Rosseland photosphere and the
    cores of Na and K resonance lines higher still; below 10^1.2 no photon of the optical escapes.
    """
    return np.logspace(-6.0, 1.2, n_depth)


def grey_temperature(tau, teff):
    """Grey radiative equilibrium, T^4 = 3/4 Teff^4 (tau + q(tau)), q a fit to Hopf's function.

    The fit q = 0.7104 - 0.1331 exp(-3.4488 tau) (Mihalas 1978, Stellar Atmospheres, section 3.3, is
    the source of the two limits 0.5774 and 0.7104) gives temperatures to 0.4 per cent.

    Parameters
    ----------
    tau : array
        Rosseland optical depth.
    teff : array
        Effective temperature, K; broadcast against `tau`.
    """
    hopf = 0.7104 - 0.1331 * jnp.exp(-3.4488 * tau)
    return teff * (0.75 * (tau + hopf)) ** 0.25


def build_atmosphere(
    labels: Float[Array, 4],
    *,
    structure: TemperatureStructure,
    n_depth: int = 40,
) -> Atmosphere:
    """Integrate hydrostatic equilibrium inwards along the Rosseland optical-depth scale.

    Parameters
    ----------
    labels : (4,)
        Teff (K), log g (cgs), [M/H] and [alpha/M] (dex).
    structure : TemperatureStructure
        Departures from grey.
    n_depth : int
        Number of layers.

    Returns
    -------
    Atmosphere

    Notes
    -----
    dP/dtau = g / kappa_R(T, P, [M/H]) by Heun steps in ln tau. Where the grey gradient exceeds the
    adiabatic one, convection carries the flux and the temperature follows the adiabat: the smaller
    of the two slopes is taken through a smooth minimum, so that labels stay differentiable.
    """
    teff, logg, mh, _ = labels
    gravity = 10.0**logg
    ln_tau = jnp.asarray(np.log(optical_depth_scale(n_depth)), dtype=labels.dtype)
    step = ln_tau[1] - ln_tau[0]
    giant = jnp.clip((DWARF_LOGG - logg) / (DWARF_LOGG - GIANT_LOGG), 0.0, 1.0)
    gradient_span = structure.giant_adiabatic_gradient - structure.adiabatic_gradient
    adiabatic_gradient = structure.adiabatic_gradient + giant * gradient_span
    depth_span = structure.giant_cooling_depth - structure.cooling_depth
    cooling_depth = structure.cooling_depth + giant * depth_span

    def radiative_temperature(x):
        tau = jnp.exp(x)
        cooling = structure.surface_cooling / (
            1.0 + (tau / cooling_depth) ** structure.cooling_power
        )
        steepening = structure.gradient * jnp.tanh(
            (x - np.log(structure.anchor_depth)) / np.log(10.0)
        )
        return grey_temperature(tau, teff) * (1.0 - cooling) * (1.0 + steepening)

    def slopes(x, ln_temperature, ln_pressure):
        kappa = rosseland_mean(jnp.exp(ln_temperature), jnp.exp(ln_pressure), mh)
        dlnp = jnp.exp(x - ln_pressure) * gravity / kappa
        radiative = jax.grad(lambda y: jnp.log(radiative_temperature(y)))(x)
        adiabatic = adiabatic_gradient * dlnp
        # Harmonic-like smooth minimum of two positive slopes, sharp to ten per cent.
        dlnt = (radiative**-4 + adiabatic**-4) ** -0.25
        return dlnt, dlnp

    ln_t_top = jnp.log(radiative_temperature(ln_tau[0]))
    # Constant opacity above the first layer: P = g tau / kappa, solved by fixed point.
    ln_p_top = jnp.log(gravity * jnp.exp(ln_tau[0]) / 1e-2)
    for _ in range(6):
        kappa = rosseland_mean(jnp.exp(ln_t_top), jnp.exp(ln_p_top), mh)
        ln_p_top = 0.5 * (ln_p_top + ln_tau[0] + jnp.log(gravity / kappa))

    def heun(state, x):
        ln_t, ln_p = state
        dt0, dp0 = slopes(x, ln_t, ln_p)
        dt1, dp1 = slopes(x + step, ln_t + step * dt0, ln_p + step * dp0)
        nxt = (ln_t + 0.5 * step * (dt0 + dt1), ln_p + 0.5 * step * (dp0 + dp1))
        return nxt, nxt

    top = (ln_t_top, ln_p_top)
    _, (ln_t, ln_p) = jax.lax.scan(heun, top, ln_tau[:-1])
    temperature = jnp.exp(jnp.concatenate([ln_t_top[None], ln_t]))
    pressure = jnp.exp(jnp.concatenate([ln_p_top[None], ln_p]))
    # Convection takes temperature out of the layers that radiate; the whole run is scaled so that
    # the anchor has the effective temperature again.
    at_surface = jnp.interp(jnp.log(structure.anchor_depth), ln_tau, temperature)
    return Atmosphere(
        jnp.exp(ln_tau), temperature * (teff / at_surface), pressure, pressure / gravity
    )
