"""The landscape that a fit descends: chi-square on grids of one or two parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.config import choose_batch_size
from jaxmdwarf.inference.objective import Objective, build_objective, hold_still
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, choose_rows, padded_rows
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import restart_points
from jaxmdwarf.inference.solvers.lm import minimise_lm

RV = "rv"
"""Name of the velocity as an axis: km/s relative to the frame of the spectra."""

Point: TypeAlias = Start | FitResult
"""Labels and velocities of stars: what a fit found, or anything else."""

_LEAST_GRID = 3


class Landscape(NamedTuple):
    """Chi-square over one or two parameters of some stars, relative to the lowest that was met.

    The trailing axes of the arrays are the grid: ``n_grid`` stands for one axis or for two.

    Parameters
    ----------
    kind : {"slice", "profile"}
        Whether all other parameters were held, or minimised over at each grid point.
    names : tuple of str
        One or two of the labels, or "rv".
    axes : tuple of (n_star, n_i)
        Grid points along each axis, for each star, in physical units.
    stars : (n_star,) int
        Rows of the batch.
    delta_chi2 : (n_star, *n_grid)
        Zero or more; NaN for stars without a good pixel.
    chi2_min : (n_star,)
        Cost at the lowest of the grid points and the given point.
    chi2_point : (n_star,)
        Cost at the given point.
    point : (n_star, n_axis)
        The given point along the axes.
    labels : (n_star, *n_grid, n_label)
        Labels at each grid point: in a profile, where the others went.
    residual_kms : (n_star, *n_grid)
        Velocity there, relative to the frame of the spectra.
    converged : (n_star, *n_grid) bool
        Whether the minimisation did; in a slice, whether there is a number.
    label_names : tuple of str
        Of the last axis of `labels`.
    """

    kind: Literal["slice", "profile"]
    names: tuple[str, ...]
    axes: tuple[Float[np.ndarray, "n_star _"], ...]
    stars: Int[np.ndarray, n_star]
    delta_chi2: Float[np.ndarray, "n_star ..."]
    chi2_min: Float[np.ndarray, n_star]
    chi2_point: Float[np.ndarray, n_star]
    point: Float[np.ndarray, "n_star n_axis"]
    labels: Float[np.ndarray, "n_star ... n_label"]
    residual_kms: Float[np.ndarray, "n_star ..."]
    converged: Bool[np.ndarray, "n_star ..."]
    label_names: tuple[str, ...]


def slice_objective(
    problem: FitProblem,
    at: Point,
    axes: Mapping[str, Shaped[np.ndarray, ...]],
    *,
    stars: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
) -> Landscape:
    """Chi-square along one or two parameters, the others held where they are.

    Parameters
    ----------
    problem : FitProblem
    at : FitResult or Start
        Where the other parameters are held, one row for each spectrum of the problem. A
        polynomial, if the problem has one, is held where it is best for the given labels and
        velocity.
    axes : mapping of str to (n_i,) or (n_star, n_i)
        One or two parameters, free labels or "rv", and their grid points in physical units, the
        same for all stars or each star's own; see `axes_around` and `axes_across`.
    stars : sequence of int, optional
        Rows of the problem; all by default.
    batch_size : int, optional
        Grid points on the device at once; by default as many as a fit takes stars.

    Returns
    -------
    Landscape

    Raises
    ------
    UsageError
        If a name is unknown or fixed, a grid has fewer than 3 points, does not increase, or leaves
        the bounds.
    MismatchError
        If shapes differ.

    Examples
    --------
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
    >>> at = Start(np.array([[3300.0]]), np.zeros(1))
    >>> teff = np.array([3200.0, 3300.0, 3400.0])
    >>> problem = FitProblem.from_batch(model, SpectrumBatch(flux, ivar, ivar, grid))
    >>> found = slice_objective(problem, at, {"teff": teff})
    >>> found.delta_chi2.round(0).tolist()
    [[376.0, 0.0, 376.0]]
    """
    work = _Work(problem, at, axes, stars, batch_size)
    base = work.point_parameters()
    chi2_point, _ = work.look_at_point(base)
    rows, held = work.grid_parameters(base)
    cost = work.evaluate(rows, held)
    return work.assemble("slice", chi2_point, held, cost, np.isfinite(cost))


def profile_objective(
    problem: FitProblem,
    at: Point,
    axes: Mapping[str, Shaped[np.ndarray, ...]],
    *,
    stars: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    restarts: int = 0,
    max_iter: int = 40,
    tol_sigma: float = 0.01,
) -> Landscape:
    """Chi-square along one or two parameters, the others minimised over at each grid point.

    Parameters
    ----------
    problem, at, axes, stars, batch_size
        As for `slice_objective`.
    restarts : int
        Further starting points of the other labels, spread over their space, of which the best
        solution is kept: for landscapes with several valleys.
    max_iter, tol_sigma
        Of each minimisation; see `jaxmdwarf.inference.solvers.lm.minimise_lm`.

    Returns
    -------
    Landscape

    Raises
    ------
    UsageError, MismatchError
        As `slice_objective`.

    Notes
    -----
    Delta chi-square of a profile, not of a slice, is what confidence regions are made of: 1 for
    one standard deviation of one parameter, 2.30 for 68.3 % of two (Avni 1976; Wilks 1938). Where
    a model is linear in its parameters the profile is the parabola of the covariance, and a slice
    that of the curvature, which is narrower.

    Each grid point starts from the given point or from where its curvature foretells the others,
    whichever costs less; so a profile never lies above a slice.

    Examples
    --------
    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.spectra import SpectrumBatch
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff", "logg"), ("K", "dex"), (3000.0, 4.0), (4000.0, 6.0))
    >>> shallow, deep = (1.0 - a * np.exp(-(((grid.wave_aa - 6100.0) / 3.0) ** 2)) for a in (0, 1))
    >>> corners = jnp.asarray(np.stack([shallow, deep, deep, 2 * deep - shallow]))
    >>> model = TableModel(corners, jnp.zeros(201), space, grid)
    >>> flux = model.predict(jnp.array([3300.0, 5.0]))[None, :]
    >>> ivar = jnp.full((1, 201), 1e4)
    >>> at = Start(np.array([[3300.0, 5.0]]), np.zeros(1))
    >>> problem = FitProblem.from_batch(model, SpectrumBatch(flux, ivar, ivar, grid))
    >>> axes = {"teff": np.linspace(3200, 3400, 3)}

    One line cannot tell both labels: the profile is flat where the slice is steep.

    >>> bool((profile_objective(problem, at, axes).delta_chi2 < 0.01).all())
    True
    >>> slice_objective(problem, at, axes).delta_chi2.round(0).tolist()
    [[376.0, 0.0, 376.0]]
    """
    if restarts < 0:
        raise UsageError(f"restarts must not be negative, got {restarts}.")
    work = _Work(problem, at, axes, stars, batch_size, max_iter, tol_sigma)
    base = work.point_parameters()
    chi2_point, curvature = work.look_at_point(base)
    rows, held = work.grid_parameters(base)
    foretold = work.foretell_others(rows, held, base, curvature)
    best, cost, converged = work.minimise(rows, held, foretold)
    for point in restart_points(work.layout.n_label, restarts):
        start = held.copy()
        others = ~(work.held | work.layout.held)[: work.layout.n_label]
        start[:, : work.layout.n_label][:, others] = point[others]
        other, other_cost, other_converged = work.minimise(rows, start, start)
        better = other_cost < cost
        best[better], cost[better] = other[better], other_cost[better]
        converged[better] = other_converged[better]
    return work.assemble("profile", chi2_point, best, cost, converged)


def axes_around(
    problem: FitProblem,
    result: FitResult,
    names: Sequence[str],
    *,
    stars: Sequence[int] | np.ndarray | None = None,
    n_sigma: float = 4.0,
    n_grid: int = 41,
) -> dict[str, np.ndarray]:
    """Grids of so many standard deviations about a fit, cut at the bounds of the model.

    Parameters
    ----------
    problem : FitProblem
    result : FitResult
        Of its fit.
    names : sequence of str
        Labels, or "rv".
    stars : sequence of int, optional
        Rows; all by default.
    n_sigma : float
        Reach on both sides. Where a fit has no error the grid spans the whole range.
    n_grid : int
        Odd numbers put the fit itself on the grid, unless the bounds cut it.

    Returns
    -------
    dict of str to (n_star, n_grid)
    """
    rows = choose_rows(np.arange(problem.n_spec) if stars is None else stars, problem.n_spec)
    axes = {}
    for name, (low, high) in _ranges(problem, names).items():
        if name == RV:
            centre, error = result.residual_kms, result.e_rv
        else:
            index = problem.label_space.index(name)
            centre, error = result.labels[:, index], result.errors[:, index]
        middle = np.asarray(centre, np.float64)[rows]
        reach = n_sigma * np.asarray(error, np.float64)[rows]
        known = np.isfinite(middle) & np.isfinite(reach)
        first = np.where(known, np.maximum(middle - reach, low), low)
        last = np.where(known, np.minimum(middle + reach, high), high)
        axes[name] = np.linspace(first, last, n_grid, axis=-1)
    return axes


def axes_across(
    problem: FitProblem, names: Sequence[str], *, n_grid: int = 41
) -> dict[str, np.ndarray]:
    """Grids over the whole range of the named parameters, dict of str to (n_grid,).

    Examples
    --------
    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.spectra import SpectrumBatch
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    >>> model = TableModel(jnp.ones((2, 201)), jnp.zeros(201), space, grid)
    >>> blank = jnp.ones((1, 201))
    >>> problem = FitProblem.from_batch(model, SpectrumBatch(blank, blank, blank, grid))
    >>> axes_across(problem, ["teff"], n_grid=3)["teff"].tolist()
    [3000.0, 3500.0, 4000.0]
    """
    return {
        name: np.linspace(low, high, n_grid)
        for name, (low, high) in _ranges(problem, names).items()
    }


class _Work:
    """The grid points of one call, and the compiled programs that take them in parts."""

    def __init__(
        self,
        problem: FitProblem,
        at: Point,
        axes: Mapping[str, np.ndarray],
        stars: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
        max_iter: int = 40,
        tol_sigma: float = 0.01,
    ) -> None:
        space, n_spec = problem.label_space, problem.n_spec
        self._space, self.layout = space, problem.layout
        self.stars = choose_rows(np.arange(n_spec) if stars is None else stars, n_spec)
        problem.require_rows(at)
        self._at = at
        self.names = tuple(axes)
        self.axes = _check_axes(problem, axes, self.stars)
        self._columns = [space.n_label if name == RV else space.index(name) for name in self.names]
        self.held = np.zeros(self.layout.n_par, bool)
        self.held[self._columns] = True
        self.shape = (len(self.stars), *(axis.shape[1] for axis in self.axes))
        # Few sizes, so that few programs are compiled.
        most = 1 << (int(np.prod(self.shape)) - 1).bit_length()
        self._size = min(batch_size or choose_batch_size(None, problem.model), most)
        self._point = np.asarray(problem.parameters_at(Start(at.labels, at.residual_kms)))
        self._problem = replace(problem, warnings=()).pad_to(padded_rows(n_spec))
        self._max_iter, self._tol_sigma = max_iter, tol_sigma

    def point_parameters(self) -> np.ndarray:
        """Parameters of the given point, polynomial included, (n_star, n_par)."""
        base = np.clip(self._point[self.stars], self.layout.lower, -self.layout.lower)
        if self.layout.n_poly:
            (base,) = self._in_parts(_settle, self.stars, base)
        return base

    def look_at_point(self, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost and curvature at the given point."""
        cost, curvature = self._in_parts(_look, self.stars, base)
        return cost, curvature

    def grid_parameters(self, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the batch and parameters of all grid points, the others as in `base`."""
        n_star, n_point = self.shape[0], int(np.prod(self.shape[1:]))
        rows = np.repeat(self.stars, n_point)
        parameters = np.repeat(base, n_point, axis=0)
        for number, (column, axis) in enumerate(zip(self._columns, self.axes, strict=True)):
            scaled = self._scale_axis(self.names[number], axis)
            along = scaled.reshape(
                n_star, *(-1 if i == number else 1 for i in range(len(self.axes)))
            )
            parameters[:, column] = np.broadcast_to(along, self.shape).reshape(-1)
        return rows, parameters

    def foretell_others(
        self, rows: np.ndarray, held: np.ndarray, base: np.ndarray, curvature: np.ndarray
    ) -> np.ndarray:
        """Where the parabola at the given point has the others, within the bounds."""
        fixed, free = np.flatnonzero(self.held), np.flatnonzero(~self.held)
        start = held.copy()
        if not free.size:
            return start
        matrix = curvature.astype(np.float64)
        # What the data do not see stays where it is.
        solvable = np.isfinite(matrix).all(axis=(1, 2))
        matrix[~solvable] = np.eye(self.layout.n_par)
        inverse = np.linalg.pinv(matrix[:, free[:, None], free], rcond=1e-6, hermitian=True)
        slope = -inverse @ matrix[:, free[:, None], fixed]
        n_point = len(rows) // len(self.stars)
        away = held[:, fixed].astype(np.float64) - np.repeat(base[:, fixed], n_point, axis=0)
        shift = np.einsum("nfh,nh->nf", np.repeat(slope, n_point, axis=0), away)
        lower = self.layout.lower[free]
        start[:, free] = np.clip(held[:, free] + shift, lower, -lower)
        return start

    def evaluate(self, rows: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        """Costs as they are."""
        return self._in_parts(_evaluate, rows, parameters)[0]

    def minimise(self, rows, first, second) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parameters, cost and convergence from the better of two starts, the axes held."""
        program = partial(_profile, tol_sigma=self._tol_sigma)
        return self._in_parts(program, rows, first, second, shared=(self.held, self._max_iter))

    def assemble(self, kind, chi2_point, parameters, cost, converged) -> Landscape:
        """The result in physical units."""
        layout, shape = self.layout, self.shape
        cost = cost.astype(np.float64).reshape(shape)
        flat = cost.reshape(shape[0], -1)
        every = np.column_stack([flat, chi2_point.astype(np.float64)])
        lowest = np.where(np.isfinite(every), every, np.inf).min(axis=1)
        lowest = np.where(np.isfinite(lowest), lowest, np.nan)
        above = cost - lowest.reshape(-1, *(1 for _ in shape[1:]))
        labels = self._space.unscale(parameters[:, : layout.n_label].astype(np.float64))
        speed = np.zeros(len(parameters))
        if layout.fit_velocity:
            speed = parameters[:, layout.n_label] * (2.0 * layout.velocity_limit_kms)
        given = np.column_stack(
            [np.asarray(self._at.labels, np.float64), np.asarray(self._at.residual_kms)]
        )
        return Landscape(
            kind=kind,
            names=self.names,
            axes=self.axes,
            stars=self.stars,
            delta_chi2=above,
            chi2_min=lowest,
            chi2_point=chi2_point.astype(np.float64),
            point=given[self.stars][:, self._columns],
            labels=labels.reshape(*shape, -1),
            residual_kms=speed.astype(np.float64).reshape(shape),
            converged=converged.reshape(shape),
            label_names=self._space.names,
        )

    def _in_parts(self, program, rows: np.ndarray, *columns: np.ndarray, shared=()):
        """Run a compiled program over parts of one size, so that memory stays bounded."""
        parts = []
        for first in range(0, len(rows), self._size):
            chosen = np.arange(first, min(first + self._size, len(rows)))
            padded = np.resize(chosen, self._size)
            part = program(
                self._problem, rows[padded], tuple(column[padded] for column in columns), *shared
            )
            parts.append([np.asarray(leaf)[: chosen.size] for leaf in part])
        return tuple(np.concatenate(leaves) for leaves in zip(*parts, strict=True))

    def _scale_axis(self, name: str, axis: np.ndarray) -> np.ndarray:
        low, high = _range(self._space, self.layout.velocity_limit_kms, name)
        return np.clip((axis - low) / (high - low) - 0.5, -0.5, 0.5)


def _or_nan(objective: Objective, cost: Float[Array, n]) -> Float[Array, n]:
    return jnp.where(objective.n_good > 0, cost, jnp.nan)


@jax.jit
def _evaluate(problem, rows, columns):
    objective = build_objective(problem.take(rows))
    return (_or_nan(objective, objective.cost(columns[0])),)


@jax.jit
def _settle(problem, rows, columns):
    return (build_objective(problem.take(rows)).settle_polynomial(columns[0]),)


@jax.jit
def _look(problem, rows, columns):
    objective = build_objective(problem.take(rows))
    equations = objective.normal_equations(columns[0])
    return _or_nan(objective, equations.cost), equations.curvature


@partial(jax.jit, static_argnames="tol_sigma")
def _profile(problem, rows, columns, held, max_iter, *, tol_sigma):
    objective = build_objective(problem.take(rows))
    first, second = columns

    def others_alone(parameters):
        # What is held is an argument of the program: one serves all axes.
        equations = objective.normal_equations(parameters)
        gradient, curvature = hold_still(held, equations.gradient, equations.curvature)
        return equations._replace(gradient=gradient, curvature=curvature)

    lower_cost = objective.cost(second) < objective.cost(first)
    start = jnp.where(lower_cost[:, None], second, first)
    lower = jnp.asarray(objective.layout.lower, first.dtype)
    state = minimise_lm(
        others_alone,
        start,
        lower,
        -lower,
        active=(objective.n_good > 0) & jnp.isfinite(start).all(axis=-1),
        max_iter=max_iter,
        tol_sigma=tol_sigma,
    )
    return state.parameters, _or_nan(objective, state.equations.cost), state.converged


def _range(space, velocity_limit_kms: float, name: str) -> tuple[float, float]:
    if name == RV:
        return -velocity_limit_kms, velocity_limit_kms
    if name not in space.names:
        raise UsageError(
            f"axis {name!r} is unknown.", f"use one of {', '.join((*space.names, RV))}."
        )
    index = space.index(name)
    return space.lower[index], space.upper[index]


def _ranges(problem: FitProblem, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    limit = problem.layout.velocity_limit_kms
    return {name: _range(problem.label_space, limit, name) for name in names}


def _check_axes(
    problem: FitProblem, axes: Mapping[str, np.ndarray], stars: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Axes of each star, (n_star, n_i) float64; `UsageError` where they make no sense."""
    if not 1 <= len(axes) <= 2:
        raise UsageError(f"{len(axes)} axes {tuple(axes)}.", "give one parameter, or a pair.")
    if RV in axes and not problem.fit_velocity:
        raise UsageError(
            "the velocity is an axis, but no parameter of the problem.",
            "make the problem with fit_velocity=True.",
        )
    for name in axes:
        if name in problem.fixed_names:
            raise UsageError(
                f"{name} is an axis, and fixed by the problem.", "leave it out of `fixed`."
            )
    checked = []
    for name, (low, high) in _ranges(problem, tuple(axes)).items():
        values = np.asarray(axes[name], np.float64)
        if values.ndim == 1:
            values = np.broadcast_to(values, (len(stars), values.size))
        if values.ndim != 2 or len(values) != len(stars):
            raise MismatchError(
                f"the axis {name!r} has shape {np.shape(axes[name])} for {len(stars)} stars.",
                "give one row of grid points, or one a star.",
            )
        if values.shape[1] < _LEAST_GRID:
            raise UsageError(
                f"the axis {name!r} has {values.shape[1]} grid points.",
                f"give at least {_LEAST_GRID}.",
            )
        if not (np.isfinite(values).all() and (np.diff(values, axis=1) > 0).all()):
            raise UsageError(f"grid points of {name!r} do not increase, or are not finite.")
        slack = 1e-6 * (high - low)
        if values.min() < low - slack or values.max() > high + slack:
            raise UsageError(
                f"the axis {name!r} runs from {values.min():g} to {values.max():g}, the model from "
                f"{low:g} to {high:g}.",
                "stay within the bounds, as axes_around and axes_across do.",
            )
        checked.append(values)
    return tuple(checked)
