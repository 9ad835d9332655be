"""Element abundances: what a star is made of, as a function of ``mh`` and ``alpha_m``.

The solar mix is that of Caffau et al. (2011, Sol. Phys. 268, 255) for the elements they analysed
and of Asplund et al. (2009, ARA&A 47, 481) for the rest, the mix of the BT-Settl CIFIST models.
``mh`` scales every element heavier than helium; ``alpha_m`` scales O, Ne, Mg, Si, S, Ca and Ti
on top of that, while carbon and nitrogen follow ``mh`` alone.  The helium number fraction stays
solar.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.simulate.tables import read_rows

LN10 = float(np.log(10.0))


class SolarMix(NamedTuple):
    """The reference composition, one entry an element in a fixed order.

    Attributes
    ----------
    elements : tuple of str
        Chemical symbols; every abundance array of this room has its last axis in this order.
    log_eps : numpy.ndarray
        ``log10(n_X / n_H) + 12``, shape ``(n_element,)``.
    mass_u : numpy.ndarray
        Atomic masses in unified mass units, shape ``(n_element,)``.
    is_metal, is_alpha : numpy.ndarray
        1.0 where ``mh``, respectively ``alpha_m``, scales the element, else 0.0.
    """

    elements: tuple[str, ...]
    log_eps: np.ndarray
    mass_u: np.ndarray
    is_metal: np.ndarray
    is_alpha: np.ndarray


@lru_cache(maxsize=1)
def solar_mix() -> SolarMix:
    """Read the solar composition (cached).

    Returns
    -------
    SolarMix
        Symbols, logarithmic abundances, masses and scaling flags.

    Examples
    --------
    >>> solar_mix().elements[:4]
    ('H', 'He', 'Li', 'C')
    """
    rows = read_rows("jaxmdwarf.simulate", "abundances.csv")
    elements = tuple(row["element"] for row in rows)
    return SolarMix(
        elements=elements,
        log_eps=np.array([float(row["log_eps"]) for row in rows]),
        mass_u=np.array([float(row["mass_u"]) for row in rows]),
        is_metal=np.array([0.0 if name in ("H", "He") else 1.0 for name in elements]),
        is_alpha=np.array([float(row["alpha"]) for row in rows]),
    )


def number_fractions(
    mh: Float[ArrayLike, ...] = 0.0, alpha_m: Float[ArrayLike, ...] = 0.0
) -> Float[Array, "... n_element"]:
    """Number of atoms of each element per hydrogen nucleus.

    Parameters
    ----------
    mh : array_like
        Metallicity [M/H] in dex; scales every element heavier than helium.
    alpha_m : array_like
        Alpha enhancement [alpha/M] in dex; scales O, Ne, Mg, Si, S, Ca and Ti besides.
        Broadcast against ``mh``.

    Returns
    -------
    jax.Array
        Shape ``broadcast(mh, alpha_m).shape + (n_element,)``, in the order of
        ``solar_mix().elements``.  Differentiable in both arguments.

    Examples
    --------
    >>> eps = number_fractions(-1.0, 0.4)
    >>> round(float(eps[solar_mix().elements.index("Fe")] * 1e6), 2)
    3.31
    """
    mix = solar_mix()
    dtype = jnp.result_type(mh, alpha_m, float)
    mh, alpha_m = jnp.broadcast_arrays(jnp.asarray(mh, dtype), jnp.asarray(alpha_m, dtype))
    dex = (
        jnp.asarray(mix.log_eps - 12.0, dtype)
        + mh[..., None] * jnp.asarray(mix.is_metal, dtype)
        + alpha_m[..., None] * jnp.asarray(mix.is_alpha, dtype)
    )
    return jnp.exp(LN10 * dex)


def as_mapping(fractions: Float[Array, "... n_element"]) -> Mapping[str, Float[Array, ...]]:
    """Name the entries of an abundance array.

    Parameters
    ----------
    fractions : array
        As returned by :func:`number_fractions`.

    Returns
    -------
    Mapping
        Element symbol to number per hydrogen nucleus.

    Raises
    ------
    MismatchError
        If the last axis does not hold one entry per element.
    """
    elements = solar_mix().elements
    if fractions.shape[-1] != len(elements):
        raise MismatchError(
            f"as_mapping: the last axis holds {fractions.shape[-1]} abundances, not one for each "
            f"of the {len(elements)} elements ({', '.join(elements)}).",
            "Build the array with number_fractions.",
        )
    return MappingProxyType({name: fractions[..., i] for i, name in enumerate(elements)})


def nucleus_mass(fractions: Float[Array, "... n_element"]) -> Float[Array, ...]:
    """Mass in unified mass units that comes with one hydrogen nucleus.

    Parameters
    ----------
    fractions : array
        As returned by :func:`number_fractions`.

    Returns
    -------
    jax.Array
        ``sum_X eps_X m_X``, about 1.37 for the solar mix.
    """
    return jnp.sum(fractions * jnp.asarray(solar_mix().mass_u, fractions.dtype), axis=-1)
