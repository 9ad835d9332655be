"""The way of a solver across the landscape: where it stands after each of its evaluations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.explore.landscape import RV
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit_batch
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.by_name import find_solver


class SolverPaths(NamedTuple):
    """Where a solver stands after 0, 1, ... evaluations of the model, for each star.

    Parameters
    ----------
    labels : (n_step, n_star, n_label)
        Physical units; the first row is the start.
    residual_kms : (n_step, n_star)
        Velocity relative to the frame of the spectra.
    chi2 : (n_step, n_star)
        What is minimised; NaN at the start, where nothing is evaluated yet.
    converged : (n_step, n_star) bool
    label_names : tuple of str
    """

    labels: Float[np.ndarray, "n_step n_star n_label"]
    residual_kms: Float[np.ndarray, "n_step n_star"]
    chi2: Float[np.ndarray, "n_step n_star"]
    converged: Bool[np.ndarray, "n_step n_star"]
    label_names: tuple[str, ...]

    def column(self, name: str) -> Float[np.ndarray, "n_step n_star"]:
        """Steps along one label, or along "rv"."""
        return self.residual_kms if name == RV else self.labels[..., self.label_names.index(name)]

    def take(self, stars: Any) -> SolverPaths:
        """The ways of some stars: rows, a slice or a mask."""
        return SolverPaths(
            self.labels[:, stars],
            self.residual_kms[:, stars],
            self.chi2[:, stars],
            self.converged[:, stars],
            self.label_names,
        )


def trace_paths(
    problem: FitProblem, start: Start, *, solver: Solver | str = "lm", n_step: int = 20
) -> SolverPaths:
    """Follow a solver from given points: the fit is stopped after 1, 2, ... evaluations.

    Parameters
    ----------
    problem : FitProblem
    start : Start
        One row for each spectrum.
    solver : Solver or str
    n_step : int
        Evaluations at most. A star that has converged stays where it is.

    Returns
    -------
    SolverPaths

    Raises
    ------
    UsageError
        If `n_step` is below 1.
    MismatchError
        If the shapes differ.

    Notes
    -----
    A solver may keep what it has learned on its way (L-BFGS its history), so that a stopped fit
    cannot be gone on with; each row is a fit from the start. The limit is no part of the compiled
    program, which serves all rows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.spectra import SpectrumBatch
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    >>> line = 1.0 - jnp.exp(-(((grid.wave_aa - 6100.0) / 3.0) ** 2))
    >>> model = TableModel(jnp.stack([jnp.ones(201), line]), jnp.zeros(201), space, grid)
    >>> flux = model.predict(jnp.array([3300.0]))[None, :]
    >>> ivar = jnp.full((1, 201), 1e4)
    >>> problem = FitProblem.from_batch(model, SpectrumBatch(flux, ivar, ivar, grid))
    >>> paths = trace_paths(problem, Start(np.array([[3800.0]]), np.zeros(1)), n_step=3)
    >>> paths.column("teff").round()[[0, -1], 0].tolist()
    [3800.0, 3300.0]
    """
    if n_step < 1:
        raise UsageError(f"{n_step} steps make no path.", "follow a solver for one step or more.")
    problem.require_rows(start)
    solver = find_solver(solver)
    fits = [
        fit_batch(problem, start=start, solver=replace(solver, max_iter=limit))
        for limit in range(1, n_step + 1)
    ]
    labels = [np.asarray(start.labels, np.float64), *(np.asarray(one.labels) for one in fits)]
    speed = [np.asarray(start.residual_kms), *(np.asarray(one.residual_kms) for one in fits)]
    nowhere = np.full(problem.n_spec, np.nan)
    return SolverPaths(
        labels=np.stack(labels).astype(np.float64),
        residual_kms=np.stack(speed).astype(np.float64),
        chi2=np.stack([nowhere, *(np.asarray(one.chi2, np.float64) for one in fits)]),
        converged=np.stack(
            [np.zeros(problem.n_spec, bool), *(np.asarray(one.converged) for one in fits)]
        ),
        label_names=problem.label_space.names,
    )
