"""Stars some at a time inside one compiled program: what they make stays in caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

_BLOCK, _BLOCK_ON_ACCELERATORS = 32, 1024


def choose_block_size() -> int:
    """Stars whose arrays of pixels are in memory together, on the device at hand."""
    return _BLOCK if jax.default_backend() == "cpu" else _BLOCK_ON_ACCELERATORS


def map_blocks(
    work: Callable[[PyTree[Any]], PyTree[Any]],
    stars: PyTree[Any],
    real: Bool[Array, n],
    size: int,
) -> PyTree[Any]:
    """What `work` makes of stars, so many together, up to the last of those that are real.

    Parameters
    ----------
    work : callable
        Takes arrays with a row for each star, and returns such.
    stars : pytree
        Arrays of n rows.
    real : (n,) bool
        The others are padding, and cost nothing where a block has no other.
    size : int
        Rows of a block; all at once where n is no multiple of it.

    Returns
    -------
    pytree
        Arrays of n rows, zeros in blocks behind the last real star.

    Examples
    --------
    >>> map_blocks(lambda x: x + 1, jnp.zeros(6), jnp.arange(6) < 3, 2).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """
    n_block, rest = divmod(len(real), size)
    if rest or n_block <= 1:
        return work(stars)
    blocks = jax.tree.map(lambda leaf: leaf.reshape(n_block, size, *leaf.shape[1:]), stars)

    def do_block(number: Int[Array, ""], found: PyTree[Any]) -> PyTree[Any]:
        own = jax.tree.map(lambda leaf: leaf[number], blocks)
        return jax.tree.map(lambda every, some: every.at[number].set(some), found, work(own))

    shapes = jax.eval_shape(work, jax.tree.map(lambda leaf: leaf[0], blocks))
    blank = jax.tree.map(lambda leaf: jnp.zeros((n_block, *leaf.shape), leaf.dtype), shapes)
    has_real = real.reshape(n_block, size).any(axis=-1)
    n_needed = jnp.max(jnp.where(has_real, jnp.arange(1, n_block + 1), 0))
    found = jax.lax.fori_loop(0, n_needed, do_block, blank)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
