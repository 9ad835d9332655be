"""Points spread over the label space, and which of them fits a star's spectrum best."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.shift import on_fitted_pixels
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import whiten_priors
from jaxmdwarf.precision import multiply_exactly

NODES_PER_LABEL = 4
"""Nodes along each label."""


def node_points(
    n_label: int, per_label: int = NODES_PER_LABEL
) -> Float[np.ndarray, "n_node n_label"]:
    """Centres of equal cells of the label space, as scaled labels.

    Examples
    --------
    >>> node_points(1, 2).tolist()
    [[-0.25], [0.25]]
    """
    axis = (np.arange(per_label) + 0.5) / per_label - 0.5
    return np.stack(np.meshgrid(*[axis] * n_label, indexing="ij"), axis=-1).reshape(-1, n_label)


def node_labels(
    model: ForwardModel,
    fixed: Float[Array, "n n_label"] | None = None,
    per_label: int = NODES_PER_LABEL,
) -> Float[Array, "m n_label"]:
    """Scaled labels of the nodes of a model.

    Parameters
    ----------
    model : ForwardModel
    fixed : (n, n_label), optional
        Labels that stars are held at, physical units; NaN where they are free. Nodes then differ
        in the free labels alone, and lie at the middle of what the others are fixed to.
    per_label : int
        Nodes along each label.
    """
    space, dtype = model.label_space, model.model_error.dtype
    nodes = jnp.asarray(node_points(space.n_label, per_label), dtype)
    if fixed is None:
        return nodes
    middle = space.scale(jnp.median(fixed, axis=0))
    return jnp.where(jnp.isfinite(middle), middle, nodes)


class SeenNodes(NamedTuple):
    """Nodes of a model's label space as the fitted pixels see them.

    Parameters
    ----------
    scaled : (m, n_label)
    flux, square : (m, n_pix)
        The model there, for a star without a context, and its square.
    """

    scaled: Float[Array, "m n_label"]
    flux: Float[Array, "m n_pix"]
    square: Float[Array, "m n_pix"]


@partial(jax.jit, static_argnames="margins")
def predict_nodes(
    model: ForwardModel,
    margins: tuple[int, int],
    fixed: Float[Array, "n n_label"] | None = None,
) -> SeenNodes:
    """Nodes of a model's label space on the pixels of an objective with these margins."""
    scaled = node_labels(model, fixed)
    flux = on_fitted_pixels(model.predict_scaled_batch(scaled), margins)
    return SeenNodes(scaled, flux, flux * flux)


def choose_by_pixels(objective: Objective, nodes: SeenNodes) -> Float[Array, "n n_label"]:
    """Scaled labels of the node with the lowest chi-square, priors included, for each star.

    Parameters
    ----------
    objective : Objective
    nodes : SeenNodes
        From `predict_nodes`; velocity and polynomial are taken to be zero.
    """
    pulled = multiply_exactly(objective.weight * objective.flux, nodes.flux.T)
    cost = multiply_exactly(objective.weight, nodes.square.T) - 2 * pulled
    expected = whiten_priors(objective.priors, objective.model.label_space, nodes.scaled)
    return nodes.scaled[jnp.argmin(cost + jnp.sum(expected**2, axis=-1), axis=-1)]
