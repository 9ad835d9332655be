"""Smooth functions of temperature as Chebyshev series in ln T."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

T_MIN, T_MAX = 1000.0, 12000.0
"""Range of temperatures in which partition functions are tabulated, K."""

N_CHEBYSHEV = 16
"""Terms of each series."""


def chebyshev_nodes(n: int) -> np.ndarray:
    """Temperatures of ``n`` Chebyshev points in ``ln T``, ascending."""
    s = -np.cos(np.pi * (np.arange(n) + 0.5) / n)
    middle = 0.5 * (np.log(T_MAX) + np.log(T_MIN))
    half = 0.5 * (np.log(T_MAX) - np.log(T_MIN))
    return np.exp(middle + half * s)


def fit_chebyshev(values: np.ndarray) -> np.ndarray:
    """Coefficients ``(N_CHEBYSHEV, ...)`` of values given on the nodes (first axis)."""
    n = values.shape[0]
    s = -np.cos(np.pi * (np.arange(n) + 0.5) / n)
    return np.polynomial.chebyshev.chebfit(s, values, N_CHEBYSHEV - 1)


def chebyshev_basis(temperature: Float[Array, ...]) -> Float[Array, "... n_chebyshev"]:
    """Polynomials at temperatures (K), those at the ends beyond the range."""
    middle = float(0.5 * (np.log(T_MAX) + np.log(T_MIN)))
    half = float(0.5 * (np.log(T_MAX) - np.log(T_MIN)))
    s = (jnp.log(jnp.clip(temperature, T_MIN, T_MAX)) - middle) / half
    basis = [jnp.ones_like(s), s]
    for _ in range(N_CHEBYSHEV - 2):
        basis.append(2.0 * s * basis[-1] - basis[-2])
    return jnp.stack(basis, axis=-1)


def multiply_constants(values: Array, constants: np.ndarray | Array) -> Array:
    """Matrix product with constants of the network, in the precision of the values.

    Parameters
    ----------
    values : (..., n)
    constants : (n,) or (n, m)
    """
    # Full float32 products: the default of some accelerators would round log densities to 1e-2.
    return jnp.matmul(
        values, jnp.asarray(constants, values.dtype), precision=jax.lax.Precision.HIGHEST
    )
