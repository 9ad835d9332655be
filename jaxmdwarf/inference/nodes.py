"""Points spread over the label space, and which of them a star's spectrum likes best."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.shift import on_fitted_pixels
from jaxmdwarf.models.base import ForwardModel, predict_compiled
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


def predict_nodes(model: ForwardModel) -> tuple[Float[Array, "m n_label"], Float[Array, "m n_pix"]]:
    """Nodes of a model's label space and its flux there, for a star without a context."""
    scaled = jnp.asarray(node_points(model.label_space.n_label), model.model_error.dtype)
    return scaled, predict_compiled(model, scaled)


def choose_by_pixels(
    objective: Objective, scaled: Float[Array, "m n_label"], flux: Float[Array, "m n_pix"]
) -> Float[Array, "n n_label"]:
    """Scaled labels of the node with the lowest chi-square, priors included, for each star.

    Parameters
    ----------
    objective : Objective
    scaled, flux
        From `predict_nodes`; velocity and polynomial are taken to be zero.
    """
    there = on_fitted_pixels(flux, objective.margins)
    pulled = multiply_exactly(objective.weight * objective.flux, there.T)
    cost = multiply_exactly(objective.weight, (there * there).T) - 2 * pulled
    believed = whiten_priors(objective.priors, objective.model.label_space, scaled)
    return scaled[jnp.argmin(cost + jnp.sum(believed**2, axis=-1), axis=-1)]
