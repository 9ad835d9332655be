"""Solvers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.library import LibrarySolver
from jaxmdwarf.inference.solvers.native import BatchLBFGS, LevenbergMarquardt

SOLVERS: dict[str, Callable[..., Solver]] = {
    "lm": LevenbergMarquardt,
    "lbfgs": BatchLBFGS,
    "jaxopt": partial(LibrarySolver, method="jaxopt"),
    "optimistix": partial(LibrarySolver, method="optimistix"),
    "optimistix-lbfgs": partial(LibrarySolver, method="optimistix-lbfgs"),
}
"""Names and what makes the solver; all but the first two are other libraries', for reference."""


def find_solver(solver: str | Solver, **options: Any) -> Solver:
    """The solver of a name, or the solver itself.

    Parameters
    ----------
    solver : str or Solver
        "lm" (Levenberg-Marquardt), "lbfgs" (L-BFGS, as the paper has it), both native to batches;
        "jaxopt", "optimistix" and "optimistix-lbfgs" for reference; or an object of one's own.
    **options
        Of the solver that a name stands for, such as `max_iter`.

    Raises
    ------
    UsageError
        If the name is unknown, or what was given is no solver.

    Examples
    --------
    >>> find_solver("lbfgs", max_iter=60)
    BatchLBFGS(max_iter=60, tol_sigma=0.01)
    """
    if isinstance(solver, Solver):
        return solver
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise UsageError(
            f"solver {solver!r} is unknown.",
            f"use one of {', '.join(SOLVERS)}, or an object of a subclass of Solver.",
        )
    return SOLVERS[solver](**options)
