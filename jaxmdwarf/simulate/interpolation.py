"""Cubic interpolation weights on uniform nodes: how tabulated opacities meet a depth point."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def cubic_weights(x: Float[Array, " n"], nodes_start: float, nodes_step: float, n_nodes: int):
    """Weights w (n, n_nodes) such that ``w @ table`` interpolates a table on uniform nodes.

    Four-point Lagrange interpolation, continuous everywhere and exact for cubics; beyond the
    ends the outermost value is held, because opacities must not be extrapolated.

    Parameters
    ----------
    x : (n,)
        Where to interpolate.
    nodes_start, nodes_step, n_nodes
        The uniform nodes.

    Returns
    -------
    (n, n_nodes) array of the dtype of `x`

    Examples
    --------
    >>> import numpy as np
    >>> nodes = np.arange(6.0)
    >>> w = cubic_weights(jnp.array([2.5]), 0.0, 1.0, 6)
    >>> float((w @ nodes**3)[0])
    15.625
    """
    position = jnp.clip((x - nodes_start) / nodes_step, 0.0, n_nodes - 1.0)
    cell = jnp.clip(jnp.floor(position), 1.0, n_nodes - 3.0)
    # Offset of every node from the left inner node of the cell: -1, 0, 1, 2 take part.
    offset = jnp.arange(n_nodes, dtype=x.dtype) - cell[:, None]
    s = (position - cell)[:, None]
    return jnp.select(
        [offset == -1.0, offset == 0.0, offset == 1.0, offset == 2.0],
        [
            -s * (s - 1.0) * (s - 2.0) / 6.0,
            (s + 1.0) * (s - 1.0) * (s - 2.0) / 2.0,
            -(s + 1.0) * s * (s - 2.0) / 2.0,
            (s + 1.0) * s * (s - 1.0) / 6.0,
        ],
        0.0,
    )
