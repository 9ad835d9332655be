"""Directions in which stars scatter about a model, integrated out of every sum over pixels.

A star's residuals are ``amplitudes @ shapes + noise``, amplitudes being drawn from a unit Gaussian:
their covariance is the diagonal one of the noise and a low-rank one beside it. Its inverse is never
built (Woodbury). The best amplitudes of a column of pixels (a residual, a slope) are found and
taken out; sums over what remains, with the cost of the amplitudes, are the sums under the whole
covariance, and nothing is lost to rounding, for no large number is taken from another.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmdwarf.inference.linear import invert_positive, list_pairs
from jaxmdwarf.precision import multiply_exactly

_RELATIVE_FLOOR = 1e-5
"""Least precision of an amplitude's prior relative to what pixels say: matrices stay positive."""


class Cleaned(NamedTuple):
    """Columns of pixels without what directions explain of them.

    Parameters
    ----------
    columns : (c, n, n_pix)
    amplitudes : (c, n, k)
        In units of their prior's standard deviations.
    """

    columns: Float[Array, "c n n_pix"]
    amplitudes: Float[Array, "c n k"]


class StarScatter(eqx.Module):
    """The directions of a batch of stars, ready to be taken out; make it with `weigh`.

    Parameters
    ----------
    shapes : (k, n_pix)
        On the fitted pixels, scaled so that amplitudes have variance 1.
    precision : (n, k)
        Of the amplitudes' priors: 1, and a trifle more for the brightest stars.
    inverse : (n, k, k)
        Of ``diag(precision) + shapes W shapes'``, W being the weights of a star's pixels.
    """

    shapes: Float[Array, "k n_pix"]
    precision: Float[Array, "n k"]
    inverse: Float[Array, "n k k"]

    @classmethod
    def weigh(cls, shapes: Float[Array, "k n_pix"], weight: Float[Array, "n n_pix"]) -> StarScatter:
        """With the weights of the stars' pixels."""
        first, second, place = list_pairs(shapes.shape[0])
        told = multiply_exactly(weight, (shapes[first] * shapes[second]).T)[:, place]
        precision = 1 + _RELATIVE_FLOOR * jnp.diagonal(told, axis1=-2, axis2=-1)
        identity = jnp.eye(shapes.shape[0], dtype=shapes.dtype)
        return cls(shapes, precision, invert_positive(told + precision[:, :, None] * identity))

    def take_out(
        self, weight: Float[Array, "n n_pix"], columns: Float[Array, "c n n_pix"]
    ) -> Cleaned:
        """Columns less the directions times their best amplitudes.

        Parameters
        ----------
        weight : (n, n_pix)
            As for `weigh`.
        columns : (c, n, n_pix)
            Residuals or slopes.
        """
        pulled = multiply_exactly(weight * columns, self.shapes.T)
        amplitudes = jnp.einsum(
            "nkl,cnl->cnk", self.inverse, pulled, precision=jax.lax.Precision.HIGHEST
        )
        taken = columns - multiply_exactly(amplitudes, self.shapes)
        return Cleaned(taken, amplitudes * jnp.sqrt(self.precision))

    def reduce(
        self, matrix: Float[Array, "n m m"], across: Float[Array, "n m k"]
    ) -> Float[Array, "n m m"]:
        """Sums of products of shapes of a model, ``V W V'``, under the whole covariance.

        Parameters
        ----------
        matrix : (n, m, m)
            ``V W V'``.
        across : (n, m, k)
            ``V W shapes'``.
        """
        return matrix - jnp.einsum(
            "nmk,nkl,njl->nmj", across, self.inverse, across, precision=jax.lax.Precision.HIGHEST
        )
