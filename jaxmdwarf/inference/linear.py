"""Linear algebra of many small symmetric matrices at once, as arithmetic on vectors of stars.

A batched library call treats a thousand 5 x 5 matrices one after the other; written out by
element, every operation runs over all stars, on any device, and compiles to a few fused loops.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def solve_positive(
    matrix: Float[Array, "n k k"], right: Float[Array, "n k m"]
) -> Float[Array, "n k m"]:
    """Solve ``matrix @ x = right`` by Cholesky factors, for symmetric positive matrices.

    Parameters
    ----------
    matrix : (n, k, k)
        Symmetric; only the lower triangle is read.
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
    # In units of the diagonal, rounding shows as a pivot near the precision of the numbers.
    diagonal = jnp.stack([matrix[:, i, i] for i in range(size)], axis=-1)
    positive = diagonal > 0
    scale = jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, diagonal, 1)), jnp.nan)
    smallest = 8 * size * jnp.finfo(matrix.dtype).eps
    lower: list[list[Array]] = []
    for i in range(size):
        row: list[Array] = []
        for j in range(i + 1):
            value = matrix[:, i, j] * scale[:, i] * scale[:, j]
            for m in range(j):
                value = value - row[m] * (lower[j][m] if j < i else row[m])
            if i == j:
                kept = value > smallest
                row.append(jnp.where(kept, jnp.sqrt(jnp.where(kept, value, 1)), jnp.nan))
            else:
                row.append(value / lower[j][j])
        lower.append(row)
    forward: list[Array] = []
    for i in range(size):
        value = right[:, i] * scale[:, i, None]
        for m in range(i):
            value = value - lower[i][m][:, None] * forward[m]
        forward.append(value / lower[i][i][:, None])
    back: list[Array] = [forward[0]] * size
    for i in reversed(range(size)):
        value = forward[i]
        for m in range(i + 1, size):
            value = value - lower[m][i][:, None] * back[m]
        back[i] = value / lower[i][i][:, None]
    return jnp.stack([back[i] * scale[:, i, None] for i in range(size)], axis=1)


def invert_positive(matrix: Float[Array, "n k k"]) -> Float[Array, "n k k"]:
    """Inverses of symmetric positive matrices, NaN where a matrix is not; see `solve_positive`."""
    size = matrix.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
    inverse = solve_positive(matrix, identity)
    return 0.5 * (inverse + jnp.swapaxes(inverse, -1, -2))


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
    held = jnp.zeros_like(point)
    identity = jnp.eye(size, dtype=matrix.dtype)
    step = held
    for _ in range(3):
        either = fixed[:, :, None] | fixed[:, None, :]
        pull = jnp.sum(matrix * jnp.where(fixed, held, 0)[:, None, :], axis=-1)
        right = jnp.where(fixed, held, gradient - pull)
        step = solve_positive(jnp.where(either, identity, matrix), right[..., None])[..., 0]
        inside = jnp.clip(point + step, lower, upper) - point
        crossing = ~fixed & (inside != step)
        held = jnp.where(crossing, inside, held)
        fixed = fixed | crossing
        step = inside
    return step
