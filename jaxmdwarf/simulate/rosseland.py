"""Rosseland mean opacity of cool gas: molecules below 4000 K, H- above.

:func:`rosseland_mean` is what hydrostatic equilibrium uses.  Below about 4000 K it is the analytic
fit of Freedman et al. (2014) to line-by-line means (dust-free, metallicity -0.3 to +1.7 in the
tables, extrapolated below by the fit's own power law); above, where that fit ends, the mean of this
package's continuum, as a polynomial in ln T, ln P and [M/H].
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.simulate.abundances import number_fractions
from jaxmdwarf.simulate.chemistry.equilibrium import equilibrium, mass_density
from jaxmdwarf.simulate.constants import HC_OVER_K_AA
from jaxmdwarf.simulate.continuum import continuum_opacity
from jaxmdwarf.simulate.tables import read_rows

LN10 = float(np.log(10.0))

# Where the polynomial was fitted: ln T (K), ln P (dyn cm^-2), [M/H].
_SPANS = (
    (float(np.log(3000.0)), float(np.log(9000.0))),
    (2.0 * LN10, 8.0 * LN10),
    (-4.0, 1.0),
)
_DEGREES = (10, 6, 7)
# The hand-over from molecules to H-, in K.
_HANDOVER_K = 4200.0
_HANDOVER_WIDTH_K = 150.0


def rosseland_mean_freedman2014(
    temperature_k: Float[ArrayLike, ...],
    pressure_dyn: Float[ArrayLike, ...],
    mh: Float[ArrayLike, ...] = 0.0,
) -> Float[Array, ...]:
    """Rosseland mean of dust-free gas, the analytic fit of Freedman et al.

    Parameters
    ----------
    temperature_k : array_like
        Temperature in K; the fit holds for 75-4000 K.
    pressure_dyn : array_like
        Gas pressure in dyn cm^-2; the fit holds for 1-3e8, and is taken at 1 below that.
    mh : array_like
        Metallicity [M/H] in dex.

    Returns
    -------
    jax.Array
        In cm^2 g^-1.

    Notes
    -----
    Freedman et al. (2014, ApJS 214, 25), equations 3-5 and table 2: the sum of a low-pressure and
    a high-pressure term.
    """
    log_t = jnp.log(jnp.asarray(temperature_k)) / LN10
    # Below its range the fit has a pole, at 1e-3 dyn cm^-2.
    log_p = jnp.log(jnp.maximum(jnp.asarray(pressure_dyn), 1.0)) / LN10
    mh = jnp.asarray(mh)
    # exp((log T + 2.526)^2) reaches 1e17: the tiny c3 joins the exponent.
    spike = jnp.exp((log_t + 2.526) ** 2 + float(np.log(6.09e-15))) / (log_p + 2.954)
    low = 10.602 * jnp.arctan(log_t - 2.882) - spike + 0.843 * mh - 5.490
    cold = log_t < float(np.log10(800.0))
    metals = 0.8321 * mh * (0.5 + jnp.arctan((log_t - 2.5) / 0.2) / np.pi)
    high_cold = -14.051 + log_t * (3.055 + 0.024 * log_t) + log_p * (1.877 - 0.445 * log_t)
    high_warm = 82.241 + log_t * (-55.456 + 8.754 * log_t) + log_p * (0.7048 - 0.0414 * log_t)
    high = jnp.where(cold, high_cold, high_warm) + metals
    return jnp.exp(LN10 * low) + jnp.exp(LN10 * high)


def integrate_continuum(
    temperature_k: Float[ArrayLike, ""],
    pressure_dyn: Float[ArrayLike, ""],
    mh: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    """Rosseland mean of the continuum by quadrature: what the shipped polynomial was fitted to.

    Parameters
    ----------
    temperature_k, pressure_dyn, mh : scalar
        Temperature (K), gas pressure (dyn cm^-2) and metallicity (dex), solar alpha.

    Returns
    -------
    jax.Array
        Scalar, cm^2 g^-1.
    """
    fractions = number_fractions(mh, 0.0)
    densities = equilibrium(temperature_k, pressure_dyn, fractions)
    log_wave = np.linspace(np.log(3650.0), np.log(1.2e5), 400)
    wave = jnp.asarray(np.exp(log_wave), densities.log_n.dtype)
    absorption, scattering = continuum_opacity(wave, densities, n_coarse=400)
    # dB/dT d(ln wave), without constant factors; x = hc / (wave k T)
    x = HC_OVER_K_AA / (wave * densities.temperature_k)
    weight = x**5 / (jnp.exp(0.5 * x) - jnp.exp(-0.5 * x)) ** 2
    mean = jnp.sum(weight) / jnp.sum(weight / (absorption + scattering))
    return mean / mass_density(densities, fractions)


def fit_continuum_mean() -> tuple[np.ndarray, float]:
    """Fit the polynomial of :func:`rosseland_mean_continuum` afresh.

    Returns
    -------
    coefficients : numpy.ndarray
        Chebyshev coefficients, shape ``(11, 7, 8)``: what ``data/rosseland_continuum.csv`` holds.
    worst : float
        Largest residual in ln(opacity) on the nodes.
    """
    nodes = []
    for (low, high), degree in zip(_SPANS, _DEGREES, strict=True):
        n = degree + 4
        nodes.append(0.5 * (low + high - (high - low) * np.cos(np.pi * (np.arange(n) + 0.5) / n)))
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*nodes, indexing="ij")], axis=-1)
    mean = jax.jit(jax.vmap(lambda p: integrate_continuum(jnp.exp(p[0]), jnp.exp(p[1]), p[2])))
    value = np.log(np.asarray(mean(jnp.asarray(grid))))
    t, p, m = (_scale(grid[:, i], _SPANS[i]) for i in range(3))
    design = np.polynomial.chebyshev.chebvander3d(t, p, m, _DEGREES)
    solution = np.linalg.lstsq(design, value, rcond=None)[0]
    worst = float(np.max(np.abs(design @ solution - value)))
    return solution.reshape([degree + 1 for degree in _DEGREES]), worst


@lru_cache(maxsize=1)
def _continuum_coefficients() -> np.ndarray:
    out = np.zeros([degree + 1 for degree in _DEGREES])
    for row in read_rows("jaxmdwarf.simulate", "rosseland_continuum.csv"):
        out[int(row["i_t"]), int(row["i_p"]), int(row["i_mh"])] = float(row["coefficient"])
    return out


def _scale(value, span):
    return (2.0 * value - span[0] - span[1]) / (span[1] - span[0])


def _basis(value: Array, span: tuple[float, float], degree: int) -> Array:
    s = _scale(jnp.clip(value, *span), span)
    basis = [jnp.ones_like(s), s]
    for _ in range(degree - 1):
        basis.append(2.0 * s * basis[-1] - basis[-2])
    return jnp.stack(basis, axis=-1)


def rosseland_mean_continuum(
    temperature_k: Float[ArrayLike, ...],
    pressure_dyn: Float[ArrayLike, ...],
    mh: Float[ArrayLike, ...] = 0.0,
) -> Float[Array, ...]:
    """Rosseland mean of H-, H2-, He- and scattering alone, without any line.

    Parameters
    ----------
    temperature_k : array_like
        Temperature in K, 3000-9000; the end values hold outside.
    pressure_dyn : array_like
        Gas pressure in dyn cm^-2, 1e2-1e8; the end values hold outside.
    mh : array_like
        Metallicity [M/H] in dex, -4 to +1.

    Returns
    -------
    jax.Array
        In cm^2 g^-1, within 5 per cent of :func:`integrate_continuum`.
    """
    log_t, log_p, mh = jnp.broadcast_arrays(
        jnp.log(jnp.asarray(temperature_k)), jnp.log(jnp.asarray(pressure_dyn)), jnp.asarray(mh)
    )
    dtype = jnp.result_type(log_t, log_p, mh)
    t, p, m = (
        _basis(value.astype(dtype), span, degree)
        for value, span, degree in zip((log_t, log_p, mh), _SPANS, _DEGREES, strict=True)
    )
    weight = jnp.asarray(_continuum_coefficients(), dtype)
    high = jax.lax.Precision.HIGHEST
    return jnp.exp(jnp.einsum("...i,...j,...k,ijk->...", t, p, m, weight, precision=high))


def rosseland_mean(
    temperature_k: Float[ArrayLike, ...],
    pressure_dyn: Float[ArrayLike, ...],
    mh: Float[ArrayLike, ...] = 0.0,
) -> Float[Array, ...]:
    """Rosseland mean opacity at all temperatures of an M-dwarf atmosphere.

    Parameters
    ----------
    temperature_k : array_like
        Temperature in K.
    pressure_dyn : array_like
        Gas pressure in dyn cm^-2.
    mh : array_like
        Metallicity [M/H] in dex.

    Returns
    -------
    jax.Array
        In cm^2 g^-1; smooth and differentiable, the geometric mean of the molecular fit and of
        the continuum with a weight that moves from the first to the second about 4200 K, where
        the two agree to 10-30 per cent at solar composition.

    Examples
    --------
    >>> bool(rosseland_mean(6000.0, 1e5) > rosseland_mean(3000.0, 1e5))
    True
    """
    temperature = jnp.asarray(temperature_k)
    warm = jax.nn.sigmoid((temperature - _HANDOVER_K) / _HANDOVER_WIDTH_K)
    cool = rosseland_mean_freedman2014(temperature, pressure_dyn, mh)
    hot = rosseland_mean_continuum(temperature, pressure_dyn, mh)
    return jnp.exp((1.0 - warm) * jnp.log(cool) + warm * jnp.log(hot))
