"""What every solver is: an objective and starting points to minima, for all stars of a batch."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.objective import NormalEquations, Objective

Self = TypeVar("Self", bound="Solver")


class SolverState(NamedTuple):
    """Where a batch stands.

    Parameters
    ----------
    parameters : (n, k)
        Best so far.
    equations : NormalEquations
        At `parameters`, or one last step below the tolerance before.
    damping : (n,)
        Relative to the diagonal of the curvature; solvers without damping hand back theirs.
    converged, stopped : (n,)
        Stars that found their minimum; stars that are carried unchanged (the converged, the
        inactive, and those that nothing helps).
    n_iter : (n,)
        Model evaluations spent on each star.
    """

    parameters: Float[Array, "n k"]
    equations: NormalEquations
    damping: Float[Array, n]
    converged: Bool[Array, n]
    stopped: Bool[Array, n]
    n_iter: Int[Array, n]


@dataclass(frozen=True)
class Solver(abc.ABC):
    """A way to minimise: a frozen dataclass, so that it can be a static part of a compiled fit.

    A solver of one's own is a subclass with a `solve`; `finish_fit` makes its answer of the points
    at which a method arrived. Objects of it go wherever the package takes a solver.

    Parameters
    ----------
    max_iter : int
        Steps at most.
    tol_sigma : float
        A star has converged once the step that it would take next is below this many standard
        deviations.

    Examples
    --------
    Newton's steps as they come, without a word about whether they lead downhill:

    >>> import jax, jax.numpy as jnp
    >>> from jaxmdwarf.inference.linear import solve_positive
    >>> from jaxmdwarf.inference.solvers.finish import finish_fit
    >>> class Newton(Solver):
    ...     def solve(self, objective, parameters, *, active, max_iter, damping):
    ...         def step(_, point):
    ...             found = objective.normal_equations(point)
    ...             away = solve_positive(found.curvature, found.gradient[..., None])[..., 0]
    ...             return jnp.clip(point + away, -0.5, 0.5)
    ...         point = jax.lax.fori_loop(0, max_iter, step, parameters)
    ...         return finish_fit(objective, point, n_iter=max_iter, active=active,
    ...                           damping=damping, tol_sigma=self.tol_sigma)
    >>> Newton(tol_sigma=0.1).max_iter
    40
    """

    max_iter: int = 40
    tol_sigma: float = 0.01

    def __post_init__(self) -> None:
        if self.max_iter < 1 or not self.tol_sigma > 0:
            raise UsageError(f"steps and tolerance of a solver must be positive, got {self}.")

    @abc.abstractmethod
    def solve(
        self,
        objective: Objective,
        parameters: Float[Array, "n n_par"],
        *,
        active: Bool[Array, n],
        max_iter: int | Int[Array, ""],
        damping: Float[Array, n],
    ) -> SolverState:
        """Minimise the chi-square of all stars; pure, and traced once for each shape.

        Parameters
        ----------
        objective : Objective
        parameters : (n, n_par)
            Where stars start. Columns of fixed labels have no slope.
        active : (n,) bool
            Stars to fit; the others are carried along unchanged, and cost nothing but room.
        max_iter : int
            Steps of this pass, which may be fewer than the solver's own: stars that need more are
            gathered and called again.
        damping : (n,)
            What an earlier pass left off with; solvers without damping hand it back.

        Returns
        -------
        SolverState
        """

    def structure(self: Self) -> Self:
        """The solver without what does not shape the compiled program; see `Solver.solve`."""
        return replace(self, max_iter=Solver.max_iter)
