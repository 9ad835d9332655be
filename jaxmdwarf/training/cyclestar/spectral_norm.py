"""Spectral normalisation of critics: kernels divided by their largest singular value.

One power iteration a step (Miyato et al. 2018, algorithm 1), its vectors part of the state.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def start_vectors(critics: PyTree, key) -> dict[str, Array]:
    """Right singular vectors of the largest singular value of each kernel, by its path."""
    kernels = _kernels(critics)
    keys = jax.random.split(key, len(kernels))
    vectors = {
        name: jax.random.normal(vector_key, (kernel.shape[-1],), jnp.float32)
        for vector_key, (name, kernel) in zip(keys, kernels.items(), strict=True)
    }

    def iterate(_, vectors):
        return {name: _iterate(kernels[name], vector)[0] for name, vector in vectors.items()}

    # A few rounds before the first step, so that it starts from singular values and not below. One
    # program for all of them: ten times as many lines take a minute to compile.
    return jax.lax.fori_loop(0, 10, iterate, vectors)


def normalise_critics(critics: PyTree, singular: Mapping[str, Array]):
    """Critics with kernels of unit spectral norm, new singular vectors, and the way back.

    One power iteration a step (Miyato et al. 2018, algorithm 1); gradients treat the vectors as
    constants, not the singular value.
    """
    if not singular:
        return critics, singular, lambda slopes: slopes
    renewed = {name: _iterate(kernel, singular[name]) for name, kernel in _kernels(critics).items()}
    renewed = jax.lax.stop_gradient(renewed)

    def divide(weights):
        def divide_one(path, leaf):
            name = jax.tree_util.keystr(path)
            if name not in renewed:
                return leaf
            right, left = renewed[name]
            norm = left @ leaf.reshape(-1, leaf.shape[-1]) @ right
            return leaf / jnp.maximum(norm, 1e-12)

        return jax.tree_util.tree_map_with_path(divide_one, weights)

    normalised, pull = jax.vjp(divide, critics)
    vectors = {name: right for name, (right, _) in renewed.items()}
    return normalised, vectors, lambda slopes: pull(slopes)[0]


def _kernels(critics: PyTree) -> dict[str, Array]:
    leaves = jax.tree_util.tree_flatten_with_path(critics)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.ndim > 1}


def _iterate(kernel, right):
    """Right and left singular vectors of the largest singular value after one power iteration."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    left = matrix @ right
    left = left / jnp.maximum(jnp.linalg.norm(left), 1e-12)
    right = left @ matrix
    return right / jnp.maximum(jnp.linalg.norm(right), 1e-12), left
