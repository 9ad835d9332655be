"""Linear algebra of many small symmetric matrices at once, as arithmetic on vectors of stars.

A batched library call treats a thousand 5 x 5 matrices one after the other; here every operation
runs over all stars, on any device. Elimination needs no pivoting where matrices are positive.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Pairs(NamedTuple):
    """The pairs of k things, each once: a symmetric matrix holds as many numbers.

    Parameters
    ----------
    first, second : (n_pair,)
        Members of each pair, ``first <= second``.
    place : (k, k)
        Which pair each element of a symmetric matrix is.
    """

    first: Int[np.ndarray, n_pair]
    second: Int[np.ndarray, n_pair]
    place: Int[np.ndarray, "k k"]


def list_pairs(k: int) -> Pairs:
    """All pairs of k things.

    Examples
    --------
    >>> first, second, place = list_pairs(2)
    >>> first.tolist(), second.tolist(), place.tolist()
    ([0, 0, 1], [0, 1, 1], [[0, 1], [1, 2]])
    """
    first, second = np.triu_indices(k)
    place = np.zeros((k, k), np.int64)
    place[first, second] = place[second, first] = np.arange(first.size)
    return Pairs(first, second, place)


def solve_positive(
    matrix: Float[Array, "n k k"], right: Float[Array, "n k m"]
) -> Float[Array, "n k m"]:
    """Solve ``matrix @ x = right`` by elimination, for symmetric positive matrices.

    Parameters
    ----------
    matrix : (n, k, k)
        Symmetric.
    right : (n, k, m)

    Returns
    -------
    (n, k, m)
        NaN for each matrix that is not positive definite to working precision.

    Examples
    --------
    >>> solve_positive(jnp.array([[[4.0, 0.0], [0.0, 1.0]]]), jnp.array([[[8.0], [2.0]]])).tolist()
    [[[2.0], [2.0]]]
    """
    size = matrix.shape[-1]
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    positive = diagonal > 0
    # In units of the diagonal, rounding shows as a pivot near the precision of the numbers.
    scale = jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, diagonal, 1)), jnp.nan)
    smallest = 8 * size * jnp.finfo(matrix.dtype).eps
    table = jnp.concatenate(
        [matrix * scale[:, :, None] * scale[:, None, :], right * scale[:, :, None]], axis=-1
    )

    def eliminate(index, table):
        row = jax.lax.dynamic_index_in_dim(table, index, axis=1)
        column = jax.lax.dynamic_index_in_dim(table, index, axis=2)
        pivot = jax.lax.dynamic_index_in_dim(row, index, axis=2)
        row = row / jnp.where(pivot > smallest, pivot, jnp.nan)
        here = (jnp.arange(size) == index)[None, :, None]
        return jnp.where(here, row, table - column * row)

    table = jax.lax.fori_loop(0, size, eliminate, table)
    return table[:, :, size:] * scale[:, :, None]


@jax.jit
def invert_positive(matrix: Float[Array, "n k k"]) -> Float[Array, "n k k"]:
    """Inverses of symmetric positive matrices, NaN where a matrix is not; see `solve_positive`."""
    size = matrix.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
    inverse = solve_positive(matrix, identity)
    return 0.5 * (inverse + jnp.swapaxes(inverse, -1, -2))


@jax.jit
def solve_in_box(
    matrix: Float[Array, "n k k"],
    gradient: Float[Array, "n k"],
    point: Float[Array, "n k"],
    lower: Float[Array, k],
    upper: Float[Array, k],
) -> Float[Array, "n k"]:
    """Step that minimises ``step @ matrix @ step / 2 - gradient @ step`` without leaving a box.

    Coordinates that the free solution takes across a bound are put on it and the others solved
    again, knowing that; two such rounds settle all but contrived cases, and what they leave is
    clipped.

    Parameters
    ----------
    matrix : (n, k, k)
        Symmetric positive.
    gradient : (n, k)
        Descent direction (minus the gradient of the cost).
    point : (n, k)
        Where the step starts, within the bounds.
    lower, upper : (k,)
        Bounds; infinite where there is none.

    Returns
    -------
    (n, k)
    """
    size = matrix.shape[-1]
    fixed: Bool[Array, "n k"] = ((point <= lower) & (gradient < 0)) | (
        (point >= upper) & (gradient > 0)
    )
    identity = jnp.eye(size, dtype=matrix.dtype)

    def solve_again(_, carry):
        fixed, held, _ = carry
        either = fixed[:, :, None] | fixed[:, None, :]
        pull = jnp.sum(matrix * jnp.where(fixed, held, 0)[:, None, :], axis=-1)
        right = jnp.where(fixed, held, gradient - pull)
        step = solve_positive(jnp.where(either, identity, matrix), right[..., None])[..., 0]
        inside = jnp.clip(point + step, lower, upper) - point
        crossing = ~fixed & ((point + step < lower) | (point + step > upper))
        return fixed | crossing, jnp.where(crossing, inside, held), inside

    nothing = jnp.zeros_like(point)
    return jax.lax.fori_loop(0, 3, solve_again, (fixed, nothing, nothing))[2]
