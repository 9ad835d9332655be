"""Fits that never touch pixels: each star reduced once to the Gram system of a low-rank model.

Where the flux is ``mean + a(labels) @ V``, chi-square is a quadratic function of the coefficients
a: all that a star has to say is the k x k matrix ``V W V'`` and the vector ``V W r``, W being the
inverse covariance of its pixels. It is expanded about an anchor whose residuals r are taken from
the pixels themselves, so that near the solution nothing is lost to rounding, however bright the
star.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.linear import list_pairs
from jaxmdwarf.inference.nodes import NODES_PER_LABEL, node_labels
from jaxmdwarf.inference.objective import NormalEquations, Objective, fitted_margins, hold_still
from jaxmdwarf.inference.shift import on_fitted_pixels
from jaxmdwarf.inference.solvers.base import SolverState
from jaxmdwarf.inference.solvers.lm import minimise_lm
from jaxmdwarf.models.base import ForwardModel, LowRankHead
from jaxmdwarf.models.priors import whiten_priors
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.wavelengths import PixelGrid

MOST_SHAPES = 96
"""Shapes above which the reduction, which grows with their square, is no gain."""


class GramSystem(NamedTuple):
    """Chi-square of each star as a function of the model's coefficients.

    Parameters
    ----------
    matrix : (n, k, k)
        ``V W V'``.
    anchor : (n, k)
        Coefficients about which the next two are known.
    force : (n, k)
        ``V W r`` with the residuals at the anchor.
    cost : (n,)
        ``r W r`` there.
    """

    matrix: Float[Array, "n k k"]
    anchor: Float[Array, "n k"]
    force: Float[Array, "n k"]
    cost: Float[Array, n]


class LabelNodes(NamedTuple):
    """Points of the label space with their coefficients; any star can start from the best of them.

    Parameters
    ----------
    scaled : (n_node, n_label)
    coefficients : (n_node, k)
    squares : (n_pair, n_node)
        Products of all pairs of coefficients, twice those of unequal ones.
    """

    scaled: Float[Array, "n_node n_label"]
    coefficients: Float[Array, "n_node k"]
    squares: Float[Array, "n_pair n_node"]


def has_gram_path(model: ForwardModel) -> bool:
    """Whether stars can be reduced under this model: a linear head of not too many shapes."""
    head = model.low_rank()
    return head is not None and head.basis.shape[0] <= MOST_SHAPES


@partial(jax.jit, static_argnames="grid")
def multiply_shapes(
    model: ForwardModel, grid: PixelGrid, nuisance: Float[Array, "m n_model"] | None = None
) -> Float[Array, "n_pair n_pix"]:
    """Products of all pairs of shapes on the fitted pixels: one matrix for the stars of a run.

    Shapes are those of the model's head, then the directions in which stars scatter about it.
    """
    margins = fitted_margins(model.grid, grid)
    shapes = _fitted_head(model, *margins).basis
    if nuisance is not None:
        shapes = jnp.concatenate([shapes, on_fitted_pixels(nuisance, margins)])
    first, second, _ = list_pairs(shapes.shape[0])
    return shapes[first] * shapes[second]


@partial(jax.jit, static_argnames="per_label")
def place_nodes(
    model: ForwardModel,
    fixed: Float[Array, "n n_label"] | None = None,
    per_label: int = NODES_PER_LABEL,
) -> LabelNodes:
    """Nodes at the centres of equal cells of the label space, for models without context.

    Labels that are `fixed` have one value at all nodes; see `node_labels`.
    """
    nodes = node_labels(model, fixed, per_label)
    dtype = model.model_error.dtype
    coefficients = jax.vmap(model.coefficients)(nodes)
    first, second, _ = list_pairs(coefficients.shape[-1])
    squares = coefficients[:, first] * coefficients[:, second] * np.where(first == second, 1, 2)
    return LabelNodes(nodes, coefficients, squares.T.astype(dtype))


def choose_node(
    objective: Objective, system: GramSystem, nodes: LabelNodes
) -> Float[Array, "n n_label"]:
    """Scaled labels of the node with the lowest cost, for systems anchored at zero."""
    first, second, _ = list_pairs(system.matrix.shape[-1])
    bent = multiply_exactly(system.matrix[:, first, second], nodes.squares)
    pulled = multiply_exactly(system.force, nodes.coefficients.T)
    expected = whiten_priors(objective.priors, objective.model.label_space, nodes.scaled)
    cost = bent - 2 * pulled + jnp.sum(expected**2, axis=-1)
    return nodes.scaled[jnp.argmin(cost, axis=-1)]


def reduce_stars(objective: Objective, products: Float[Array, "n_pair n_pix"]) -> GramSystem:
    """Gram systems of a batch, anchored at zero coefficients.

    Parameters
    ----------
    objective : Objective
        Of a model with a linear head, without velocity and polynomial.
    products : (n_pair, n_pix)
        From `multiply_shapes`, with the nuisance directions of the problem.

    Returns
    -------
    GramSystem
    """
    head = _fitted_head(objective.model, *objective.margins)
    k, scatter = head.basis.shape[0], objective.scatter
    k_all = k if scatter is None else k + scatter.shapes.shape[0]
    sums = multiply_exactly(objective.weight, products.T)
    anchor = jnp.zeros((objective.flux.shape[0], k), sums.dtype)
    matrix = jnp.take(sums, list_pairs(k_all).place.ravel(), axis=1).reshape(-1, k_all, k_all)
    if scatter is not None:
        matrix = scatter.reduce(matrix[:, :k, :k], matrix[:, :k, k:])
    return GramSystem(matrix, *_look_at_pixels(objective, head, anchor)[:3])


def gram_equations(
    objective: Objective, system: GramSystem
) -> Callable[[Float[Array, "n n_par"]], NormalEquations]:
    """Normal equations of the stars as functions of the labels, from their Gram systems.

    `NormalEquations.pixel_chi2` is not known without pixels: it repeats the cost.
    """

    def evaluate(parameters: Float[Array, "n n_par"]) -> NormalEquations:
        coefficients, slopes = _linearise_coefficients(objective, parameters)
        away = coefficients - system.anchor
        bent = jnp.sum(system.matrix * away[:, None, :], axis=-1)
        force = system.force - bent
        cost = system.cost - jnp.sum(away * (system.force + force), axis=-1)
        return _gather(objective, parameters, system.matrix, slopes, force, cost, cost)

    return evaluate


def fit_by_gram(
    objective: Objective,
    products: Float[Array, "n_pair n_pix"],
    start: Float[Array, "n n_par"],
    *,
    nodes: LabelNodes | None = None,
    searching: bool | Bool[Array, ""] = False,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""],
    tol_sigma: float,
    initial_damping: float | Float[Array, n],
) -> SolverState:
    """Fit a batch on its Gram systems; chi-squares at the end are taken over the pixels.

    Cost, gradient and curvature are those of `Objective.normal_equations` but for rounding, which
    is relative to the cost at the start, not at the solution: a second pass from there sheds it.

    Parameters
    ----------
    objective : Objective
        Of a model with a linear head, without velocity and polynomial.
    products : (n_pair, n_pix)
        From `multiply_shapes`.
    start : (n, n_par)
        Scaled labels.
    nodes : LabelNodes, optional
        Points to start from instead, the best for each star, where `searching`.
    searching : bool
    active, max_iter, tol_sigma, initial_damping
        As for `minimise_lm`.

    Returns
    -------
    SolverState
    """
    lower = jnp.asarray(objective.layout.lower, objective.flux.dtype)
    head = _fitted_head(objective.model, *objective.margins)
    system = reduce_stars(objective, products)
    if nodes is not None:
        start = objective.pin(jnp.where(searching, choose_node(objective, system, nodes), start))
    # Bright stars lose digits when costs are differences from zero coefficients.
    at_start = _look_at_pixels(objective, head, _coefficients(objective, start))
    found = minimise_lm(
        gram_equations(objective, GramSystem(system.matrix, *at_start[:3])),
        start,
        lower,
        -lower,
        active=active,
        max_iter=max_iter,
        tol_sigma=tol_sigma,
        initial_damping=initial_damping,
    )
    _, _, cost, pixel_chi2 = _look_at_pixels(
        objective, head, _coefficients(objective, found.parameters)
    )
    cost = cost + objective.prior_equations(found.parameters)[0]
    return found._replace(equations=found.equations._replace(cost=cost, pixel_chi2=pixel_chi2))


def _fitted_head(model: ForwardModel, left: int, right: int) -> LowRankHead:
    """The linear head on the fitted pixels."""
    head = model.low_rank()
    assert head is not None
    basis, mean = (on_fitted_pixels(part, (left, right)) for part in head)
    return LowRankHead(basis, mean)


def _look_at_pixels(objective: Objective, head: LowRankHead, coefficients):
    """Anchor, ``V W r``, ``r W r`` and chi-square of single pixels, at given coefficients."""
    flux = head.mean + multiply_exactly(coefficients, head.basis)
    residual = jnp.where(objective.weight > 0, objective.flux - flux, 0)
    left, of_scatter = residual, jnp.zeros((), residual.dtype)
    if objective.scatter is not None:
        (left,), (amplitudes,) = objective.scatter.take_out(objective.weight, residual[None])
        of_scatter = jnp.sum(amplitudes**2, axis=-1)
    pulled = objective.weight * left
    return (
        coefficients,
        multiply_exactly(pulled, head.basis.T),
        jnp.sum(pulled * left, axis=-1) + of_scatter,
        jnp.sum(objective.pixel_weight * residual * residual, axis=-1),
    )


def _coefficients(objective: Objective, parameters):
    scaled = objective.pin(parameters)[:, : objective.layout.n_label]
    return jax.vmap(objective.model.coefficients)(scaled, objective.context)


def _linearise_coefficients(objective: Objective, parameters):
    """Coefficients (n, k) and their derivatives by each label (n_label, n, k)."""
    coefficients, push = jax.linearize(lambda at: _coefficients(objective, at), parameters)
    directions = jnp.eye(parameters.shape[-1], dtype=parameters.dtype)[:, None, :]
    directions = jnp.broadcast_to(directions, (parameters.shape[-1], *parameters.shape))
    return coefficients, jax.vmap(push)(directions)


def _gather(objective, parameters, matrix, slopes, force, cost, pixel_chi2) -> NormalEquations:
    """Normal equations by labels from those by coefficients, with the priors."""
    n_label = slopes.shape[0]
    bent = [jnp.sum(matrix * slope[:, None, :], axis=-1) for slope in slopes]
    curvature = jnp.stack(
        [
            jnp.stack([jnp.sum(bent[i] * slopes[j], axis=-1) for j in range(n_label)], axis=-1)
            for i in range(n_label)
        ],
        axis=-2,
    )
    gradient = jnp.stack([jnp.sum(slope * force, axis=-1) for slope in slopes], axis=-1)
    prior_cost, prior_gradient, prior_curvature = objective.prior_equations(parameters)
    curvature = 0.5 * (curvature + jnp.swapaxes(curvature, -1, -2)) + prior_curvature
    held = hold_still(objective.layout.held, gradient + prior_gradient, curvature)
    return NormalEquations(cost + prior_cost, *held, pixel_chi2)
