"""Solvers by name: each takes an objective and starting points to a minimum, for all stars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.lm import LmState, minimise_lm
from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.settings import SolverName


def find_solver(name: SolverName) -> Callable[..., LmState]:
    """The solver of that name, called as `solve_lm` is."""
    return _SOLVERS[name]


def solve_lm(
    objective: Objective,
    parameters: Float[Array, "n n_par"],
    *,
    active: Bool[Array, n],
    max_iter: int | Int[Array, ""],
    tol_sigma: float,
    initial_damping: float | Float[Array, ""] | Float[Array, n],
) -> LmState:
    """Levenberg-Marquardt on the pixels; see `minimise_lm`.

    Parameters
    ----------
    objective : Objective
    parameters : (n, n_par)
        Where stars start.
    active : (n,) bool
    max_iter, tol_sigma, initial_damping
        As for `minimise_lm`; solvers without damping hand it back.

    Returns
    -------
    LmState
        With the normal equations at (or one last step before) its parameters.
    """
    lower = jnp.asarray(objective.layout.lower, parameters.dtype)
    return minimise_lm(
        objective.normal_equations,
        parameters,
        lower,
        -lower,
        active=active,
        max_iter=max_iter,
        tol_sigma=tol_sigma,
        initial_damping=initial_damping,
    )


_SOLVERS: dict[str, Any] = {"lm": solve_lm}
