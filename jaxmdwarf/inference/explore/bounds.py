"""The smallest errors that any method could have: what spectra say of labels, at given labels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, padded_rows
from jaxmdwarf.inference.results import FitResult


class ErrorBounds(NamedTuple):
    """Cramer-Rao bounds of some stars, one row each; NaN where nothing is known.

    Parameters
    ----------
    labels : (n_spec, n_label)
        Least one-sigma errors in physical units; NaN for fixed labels.
    rv_kms : (n_spec,)
        That of the velocity; NaN where it is no parameter.
    """

    labels: Float[np.ndarray, "n_spec n_label"]
    rv_kms: Float[np.ndarray, n_spec]


def cramer_rao(problem: FitProblem, at: FitResult | Start) -> ErrorBounds:
    """Cramer-Rao bounds: least errors of any unbiased estimate at given labels.

    Parameters
    ----------
    problem : FitProblem
        Its noise, priors, fixed labels and further parameters count. Priors count as data, which
        makes it the bound of van Trees (1968) for one value of the labels.
    at : FitResult or Start
        Labels and velocities, one row for each spectrum: true ones, say, or those of a fit.

    Returns
    -------
    ErrorBounds
        Square roots of the diagonal of the inverse Fisher matrix ``J^T W J``, W being the weights
        of the fit: what is right where the noise of pixels is independent and as it is stated.
        Dividing by a pseudo-continuum takes noise out, which the errors of a fit know
        (`FitProblem.continuum_sigma_aa`) and these bounds do not: such errors are lower by some
        per cent.

    Raises
    ------
    MismatchError
        If shapes differ.

    Examples
    --------
    One line of depth 0.3 and 1 at the two ends of 1000 K tells 0.0007 of its depth per kelvin:

    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.spectra import SpectrumBatch
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    >>> line = np.exp(-(((grid.wave_aa - 6100.0) / 3.0) ** 2))
    >>> corners = jnp.asarray(np.stack([1 - 0.3 * line, 1 - line]), jnp.float32)
    >>> model = TableModel(corners, jnp.zeros(201), space, grid)
    >>> ivar = jnp.full((1, 201), 1e4)
    >>> batch = SpectrumBatch(jnp.ones((1, 201)), ivar, ivar, grid)
    >>> problem = FitProblem.from_batch(model, batch, fit_velocity=False)
    >>> at = Start(np.array([[3500.0]]), np.zeros(1))
    >>> expected = 1 / np.sqrt(1e4 * np.sum((0.0007 * line) ** 2))
    >>> bool(abs(cramer_rao(problem, at).labels[0, 0] / expected - 1) < 1e-4)
    True
    """
    n_spec, layout = problem.n_spec, problem.layout
    parameters = np.asarray(problem.parameters_at(Start(at.labels, at.residual_kms)))
    padded = replace(problem, warnings=()).pad_to(padded_rows(n_spec))
    rows = np.arange(padded.n_spec) % n_spec
    variances = np.asarray(_least_variances(padded, parameters[rows]), np.float64)[:n_spec]
    scale = layout.physical_scale(problem.label_space)
    errors = np.sqrt(variances[:, : layout.n_reported]) * scale
    errors[:, list(layout.fixed)] = np.nan
    speeds = errors[:, layout.n_label] if layout.fit_velocity else np.full(n_spec, np.nan)
    return ErrorBounds(errors[:, : layout.n_label], speeds)


@jax.jit
def _least_variances(problem: FitProblem, parameters):
    objective = build_objective(problem)
    parameters = objective.settle_polynomial(parameters)
    inverse = invert_positive(objective.normal_equations(parameters).curvature)
    variances = jnp.diagonal(inverse, axis1=-2, axis2=-1)
    known = (variances > 0) & (objective.n_good > 0)[:, None]
    return jnp.where(known, variances, jnp.nan)
