"""What the columns of a parameter array are, where fits start, and bounds made smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace

_MOST_POLY_ORDER = 10


class Start(NamedTuple):
    """Where a fit starts.

    Parameters
    ----------
    labels : (n_spec, n_label)
        Physical units.
    residual_kms : (n_spec,)
        Velocity relative to the frame of the spectra.
    """

    labels: Float[Array | np.ndarray, "n_spec n_label"]
    residual_kms: Float[Array | np.ndarray, n_spec]


@dataclass(frozen=True)
class ParameterLayout:
    """What the columns of a parameter array are: scaled labels, velocity, polynomial.

    The velocity is scaled so that -0.5 and 0.5 are the limits of the residual shift; polynomial
    coefficients multiply Legendre polynomials over the grid, as ``flux * (1 + sum c_j P_j)``.
    Fixed labels keep their columns, which no fit changes.

    Parameters
    ----------
    n_label : int
    fit_velocity : bool
    n_poly : int
        Coefficients of the multiplicative polynomial; 0 for none.
    velocity_limit_kms : float
        Largest residual velocity.
    fixed : tuple of int
        Columns of the labels that are held.
    """

    n_label: int
    fit_velocity: bool
    n_poly: int
    velocity_limit_kms: float
    fixed: tuple[int, ...] = ()

    @property
    def n_reported(self) -> int:
        """Labels, and the velocity where it is fitted."""
        return self.n_label + int(self.fit_velocity)

    @property
    def n_par(self) -> int:
        """Columns: all parameters of a star, fixed labels among them."""
        return self.n_reported + self.n_poly

    @property
    def n_free(self) -> int:
        """Parameters that are fitted."""
        return self.n_par - len(self.fixed)

    @property
    def held(self) -> Bool[np.ndarray, n_par]:
        """Which columns are fixed labels."""
        return np.isin(np.arange(self.n_par), self.fixed)

    @property
    def lower(self) -> Float[np.ndarray, n_par]:
        """Lower bounds; the upper ones are their negatives."""
        return np.r_[np.full(self.n_reported, -0.5), np.full(self.n_poly, -np.inf)]

    def velocity_kms(self, parameters: Float[Array, "n k"]) -> Float[Array, n]:
        """Residual velocities, 0 where they are not fitted."""
        if not self.fit_velocity:
            return jnp.zeros_like(parameters[:, 0])
        return parameters[:, self.n_label] * (2 * self.velocity_limit_kms)

    def physical_scale(self, space: LabelSpace) -> Float[np.ndarray, n_reported]:
        """Physical units (K, dex, km/s) in one unit of each reported parameter."""
        widths = np.subtract(space.upper, space.lower)
        return np.r_[widths, [2 * self.velocity_limit_kms] * int(self.fit_velocity)]


def squash_to_bounds(free: Float[Array, ...]) -> Float[Array, ...]:
    """Map the real line smoothly onto scaled labels in (-0.5, 0.5), nearly the identity inside.

    s = z / (1 + (2 z)^4)^(1/4), for solvers without bounds; at z = 0.25 it is 1.5 % less than z.

    Examples
    --------
    >>> [round(float(s), 2) for s in squash_to_bounds(jnp.array([0.0, 0.1, 10.0]))]
    [0.0, 0.1, 0.5]
    """
    return free / jnp.sqrt(jnp.sqrt(1 + (2 * free) ** 4))


def unsquash_from_bounds(scaled: Float[Array, ...]) -> Float[Array, ...]:
    """The inverse of `squash_to_bounds`; at most 0.499 of the way to a bound."""
    kept = jnp.clip(scaled, -0.499, 0.499)
    return kept / jnp.sqrt(jnp.sqrt(1 - (2 * kept) ** 4))


def require_poly_order(order: int | None) -> None:
    """Raise `UsageError` unless the order of a polynomial can be fitted; None is for none."""
    if order is not None and not 0 <= order <= _MOST_POLY_ORDER:
        raise UsageError(
            f"poly_order {order} is not within 0 and {_MOST_POLY_ORDER}.",
            "give --poly-order 3, say, or leave it out.",
        )
