"""Continuous opacity of cool dwarfs: H-, H2- and He- absorption, Rayleigh and Thomson scattering.

Coefficients are per centimetre of path (cm^-1), corrected for stimulated emission.  Not included:
bound-free absorption of metals (it matters below 4000 A), H I Paschen and Balmer continua (above
7000 K), H2+ and collision-induced H2 (the infrared), dust.  Each process is a logarithmic cross
section added to logarithmic densities, so that nothing underflows in float32.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.simulate.chemistry.equilibrium import Densities
from jaxmdwarf.simulate.constants import HC_OVER_K_AA, K_BOLTZMANN

LOG_K_BOLTZMANN = float(np.log(K_BOLTZMANN))
LOG_THOMSON = float(np.log(6.6524587e-25))

# John (1988, A&A 193, 189), table 2: bound-free, threshold in micron and C_n of equation 5.
_HMINUS_THRESHOLD_UM = 1.6419
_HMINUS_BOUND_FREE = (152.519, 49.534, -118.858, 92.536, -34.194, 4.982)
# Ibid., table 3a (wavelengths above 0.3645 micron): rows A, B, C, D, E, F for n = 2..6.
_HMINUS_FREE_FREE = (
    (2483.346, 285.827, -2054.291, 2827.776, -1341.537, 208.952),
    (-3449.889, -1158.382, 8746.523, -11485.632, 5303.609, -812.939),
    (2200.040, 2427.719, -13651.105, 16755.524, -7510.494, 1132.738),
    (-696.271, -1841.400, 8624.970, -10051.530, 4400.067, -655.020),
    (88.283, 444.517, -1863.864, 2095.288, -901.788, 132.985),
)
_POSITIVE = 1e-30  # keeps logarithms finite beyond a threshold


def hminus_bound_free(wave_aa: Float[ArrayLike, ...]) -> Float[Array, ...]:
    """Photodetachment cross section of H- in units of 1e-18 cm^2 per ion.

    Parameters
    ----------
    wave_aa : array_like
        Vacuum wavelength in Angstrom (1250 A to the threshold at 16419 A, zero beyond).

    Returns
    -------
    jax.Array
        Cross section without the factor for stimulated emission.

    Notes
    -----
    John (1988, A&A 193, 189), equations 4 and 5.

    Examples
    --------
    >>> round(float(hminus_bound_free(8500.0)), 1)
    39.9
    """
    wave_um = jnp.asarray(wave_aa) * 1e-4
    inverse = 1.0 / wave_um - 1.0 / _HMINUS_THRESHOLD_UM
    # Clipped before the root: its slope at zero is infinite, and 0 * inf would poison gradients.
    root = jnp.sqrt(jnp.maximum(inverse, 1e-12))
    series = sum(c * root**n for n, c in enumerate(_HMINUS_BOUND_FREE))
    return jnp.where(inverse > 0, wave_um**3 * root**3 * series, 0.0)


def hminus_free_free(
    wave_aa: Float[ArrayLike, ...], temperature_k: Float[ArrayLike, ...]
) -> Float[Array, ...]:
    """Free-free absorption of H- per H atom and unit electron pressure, in 1e-26 cm^4 dyn^-1.

    Parameters
    ----------
    wave_aa : array_like
        Vacuum wavelength in Angstrom, above 3645 A.
    temperature_k : array_like
        Temperature in K (1400-10080 K in the source); broadcast against ``wave_aa``.

    Returns
    -------
    jax.Array
        Absorption coefficient, stimulated emission included.

    Notes
    -----
    John (1988, A&A 193, 189), equation 6 and table 3a.
    """
    wave_um = jnp.asarray(wave_aa) * 1e-4
    theta = 5040.0 / jnp.clip(jnp.asarray(temperature_k), 1400.0, 10080.0)
    total = jnp.zeros_like(wave_um * theta)
    for n, (a, b, c, d, e, f) in enumerate(_HMINUS_FREE_FREE, start=2):
        inverse = 1.0 / wave_um
        series = a * wave_um**2 + b + inverse * (c + inverse * (d + inverse * (e + inverse * f)))
        total = total + theta ** (0.5 * (n + 1)) * series
    return 1e-3 * total  # the source is in 1e-29


@lru_cache(maxsize=1)
def _h2minus_polynomial() -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Smooth fit to Bell's table: coefficients of ln kappa in scaled ln wave and ln theta."""
    path = files("jaxmdwarf.simulate") / "data" / "h2minus_free_free.csv"
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    theta = np.array([float(value) for value in rows[0][1:]])
    table = np.array([[float(value) for value in row] for row in rows[1:]])
    x, y = np.log(table[:, 0]), np.log(theta)
    span_x = (float(x.min()), float(x.max()))
    span_y = (float(y.min()), float(y.max()))
    grid_x, grid_y = np.meshgrid(_scale(x, span_x), _scale(y, span_y), indexing="ij")
    design = np.polynomial.chebyshev.chebvander2d(grid_x.ravel(), grid_y.ravel(), [6, 4])
    solution = np.linalg.lstsq(design, np.log(table[:, 1:]).ravel(), rcond=None)[0]
    return solution.reshape(7, 5), span_x, span_y


def _scale(value, span):
    return (2.0 * value - span[0] - span[1]) / (span[1] - span[0])


def _chebyshev(s: Array, n: int) -> Array:
    basis = [jnp.ones_like(s), s]
    for _ in range(n - 2):
        basis.append(2.0 * s * basis[-1] - basis[-2])
    return jnp.stack(basis[:n], axis=-1)


def h2minus_free_free(
    wave_aa: Float[ArrayLike, ...], temperature_k: Float[ArrayLike, ...]
) -> Float[Array, ...]:
    """Free-free absorption of H2- per H2 molecule and electron pressure, 1e-26 cm^4 dyn^-1.

    Parameters
    ----------
    wave_aa : array_like
        Vacuum wavelength in Angstrom, 3505-151883 A.
    temperature_k : array_like
        Temperature in K, 1400-10080 K; the end values hold outside.

    Returns
    -------
    jax.Array
        Absorption coefficient, stimulated emission included.

    Notes
    -----
    A polynomial in ln(wavelength) and ln(theta) through the table of Bell (1980, J. Phys. B 13,
    1859), within 1 per cent of it.
    """
    coefficients, span_x, span_y = _h2minus_polynomial()
    wave = jnp.asarray(wave_aa)
    theta = 5040.0 / jnp.clip(jnp.asarray(temperature_k), 1400.0, 10080.0)
    wave, theta = jnp.broadcast_arrays(wave, theta)
    x = _chebyshev(_scale(jnp.log(wave), span_x), coefficients.shape[0])
    y = _chebyshev(_scale(jnp.log(theta), span_y), coefficients.shape[1])
    weight = jnp.asarray(coefficients, x.dtype)
    return jnp.exp(jnp.sum(x[..., :, None] * weight * y[..., None, :], axis=(-2, -1)))


def heminus_free_free(
    wave_aa: Float[ArrayLike, ...], temperature_k: Float[ArrayLike, ...]
) -> Float[Array, ...]:
    """Free-free absorption of He- per He atom and unit electron pressure, in 1e-26 cm^4 dyn^-1.

    Parameters
    ----------
    wave_aa : array_like
        Vacuum wavelength in Angstrom.
    temperature_k : array_like
        Temperature in K.

    Returns
    -------
    jax.Array
        Absorption coefficient, stimulated emission included.

    Notes
    -----
    Interpolation formula of Kurucz (1970, SAO Spec. Rep. 309) to the tables of McDowell,
    Williamson & Myerscough (1966); some 30 per cent above John (1994), of a process that makes a
    few per cent of the absorption.
    """
    period = jnp.asarray(wave_aa) / 2.99792458e3  # 1e-15 s
    temperature = jnp.asarray(temperature_k)
    # The three coefficients in units of 1e-40, with the frequency in 1e15 Hz.
    a = 3.397e-6 + period * (-5.216e-6 + 7.039e-5 * period)
    b = -4.116e-2 + period * (1.067e-1 + 8.135e-1 * period)
    c = 5.081e3 + period * (-8.724e2 - 5.659e2 * period)
    per_electron = a * temperature + b + c / temperature
    return per_electron / (temperature * (K_BOLTZMANN * 1e14))


def rayleigh_hydrogen(wave_aa: Float[ArrayLike, ...]) -> Float[Array, ...]:
    """Rayleigh cross section of H I in 1e-27 cm^2 (Dalgarno 1962; wavelengths in Angstrom)."""
    u = (1e3 / jnp.asarray(wave_aa)) ** 2
    return u**2 * (579.9 + u * (1422.0 + u * 2784.0))


def rayleigh_h2(wave_aa: Float[ArrayLike, ...]) -> Float[Array, ...]:
    """Rayleigh cross section of H2 in 1e-27 cm^2 (Dalgarno & Williams 1962, ApJ 136, 690)."""
    u = (1e3 / jnp.asarray(wave_aa)) ** 2
    return u**2 * (814.0 + u * (1280.0 + u * 1610.0))


def rayleigh_helium(wave_aa: Float[ArrayLike, ...]) -> Float[Array, ...]:
    """Rayleigh cross section of He I in 1e-27 cm^2 (Dalgarno 1962, as in Kurucz 1970)."""
    u = (1e3 / jnp.asarray(wave_aa)) ** 2
    return 54.84 * u**2 * (1.0 + u * (0.244 + 0.0594 * u / (1.0 - 0.29 * u))) ** 2


def _coefficients(wave: Array, densities: Densities) -> tuple[Array, Array]:
    """Absorption and scattering at every (..., wavelength), no interpolation."""
    temperature = densities.temperature_k[..., None]

    def log_n(name):
        return densities[name][..., None]

    log_electron_pressure = log_n("e-") + jnp.log(temperature) + LOG_K_BOLTZMANN
    stimulated = -jnp.expm1(-HC_OVER_K_AA / (wave * temperature))
    absorption = jnp.exp(
        log_n("H-") + float(np.log(1e-18)) + jnp.log(stimulated)
    ) * hminus_bound_free(wave)
    for name, cross_section in (
        ("H", hminus_free_free),
        ("H2", h2minus_free_free),
        ("He", heminus_free_free),
    ):
        factor = log_n(name) + log_electron_pressure + float(np.log(1e-26))
        absorption = absorption + jnp.exp(factor) * cross_section(wave, temperature)
    scattering = jnp.exp(log_n("e-") + LOG_THOMSON) * jnp.ones_like(wave)
    for name, rayleigh in (
        ("H", rayleigh_hydrogen),
        ("H2", rayleigh_h2),
        ("He", rayleigh_helium),
    ):
        scattering = scattering + jnp.exp(log_n(name) + float(np.log(1e-27))) * rayleigh(wave)
    return absorption, scattering


def continuum_opacity(
    wave_aa: Float[ArrayLike, " n_wave"], densities: Densities, *, n_coarse: int = 128
) -> tuple[Float[Array, "... n_wave"], Float[Array, "... n_wave"]]:
    """Continuous absorption and scattering coefficients.

    Parameters
    ----------
    wave_aa : array_like
        Vacuum wavelengths in Angstrom, ascending, within 3650-150000 A; shape ``(n_wave,)``.
    densities : Densities
        From :func:`~jaxmdwarf.simulate.chemistry.equilibrium.equilibrium`, of any leading shape,
        for example ``(n_depth,)``; carries the temperature.
    n_coarse : int
        The coefficients are computed on this many equidistant wavelengths and interpolated
        linearly (128 on 6000-9000 A is every 24 A, right to 5e-5).  With ``n_wave`` no larger,
        they are computed directly.

    Returns
    -------
    absorption, scattering : jax.Array
        In cm^-1, shape ``(..., n_wave)``.  Divide by
        :func:`~jaxmdwarf.simulate.chemistry.equilibrium.mass_density` for cm^2 g^-1.

    Examples
    --------
    >>> from jaxmdwarf.simulate.abundances import number_fractions
    >>> from jaxmdwarf.simulate.chemistry.equilibrium import equilibrium
    >>> densities = equilibrium(3000.0, 1e5, number_fractions(0.0, 0.0))
    >>> absorption, scattering = continuum_opacity(jnp.linspace(6000.0, 9000.0, 500), densities)
    >>> absorption.shape
    (500,)
    """
    wave = jnp.asarray(wave_aa, densities.log_n.dtype)
    if wave.shape[0] <= n_coarse:
        return _coefficients(wave, densities)
    coarse = jnp.linspace(wave[0], wave[-1], n_coarse)
    position = (wave - wave[0]) / (coarse[1] - coarse[0])
    left = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, n_coarse - 2)
    fraction = position - left
    absorption, scattering = _coefficients(coarse, densities)

    def interpolate(values):
        return values[..., left] * (1.0 - fraction) + values[..., left + 1] * fraction

    return interpolate(absorption), interpolate(scattering)
