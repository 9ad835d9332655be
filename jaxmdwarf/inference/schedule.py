"""Fitting stars: labels with covariance and flags, for batches of any size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxmdwarf.inference.config import (
    FitScheduleConfig,
    choose_batch_size,
    choose_group_size,
)
from jaxmdwarf.inference.devices import count_callers, divide_stars, replicate, star_mesh
from jaxmdwarf.inference.nodes import choose_by_pixels, predict_nodes
from jaxmdwarf.inference.objective import build_objective, fitted_margins
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, padded_rows, take_stars
from jaxmdwarf.inference.results import (
    FitResult,
    blank_result,
    put_rows,
    summarise_fit,
    unfinished_rows,
)
from jaxmdwarf.inference.solvers.base import Solver, SolverState
from jaxmdwarf.inference.solvers.by_name import find_solver
from jaxmdwarf.inference.solvers.gram import (
    fit_by_gram,
    has_gram_path,
    multiply_shapes,
    place_nodes,
)
from jaxmdwarf.inference.solvers.lm import measure_step
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.blocks import map_blocks
from jaxmdwarf.quality import QualityFlag

FIRST_DAMPING = 1e-2
"""Damping that a fit starts with, relative to the diagonal of the curvature."""

_FAST_ITER, _FAST_PASSES = 5, 3
_SECOND_SIGMA = 0.5
# Chi-squares of two minima that compete, and of two ways to one minimum, differ by less than these.
_SECONDARY_DELTA_CHI2, _SAME_CHI2 = 9.0, 0.01
# Lists up to this long are padded, so that few shapes are compiled; copies of longer ones cost.
_MOST_PADDED = 1024


def fit_batch(
    problem: FitProblem, *, start: Start | None = None, solver: Solver | str = "lm"
) -> FitResult:
    """Fit all spectra of a problem at once, from one starting point each: pure.

    Compiled once for each shape, model structure and solver.

    Parameters
    ----------
    problem : FitProblem
        Rows without a good pixel come back as NaN with a flag, so batches can be padded.
    start : Start, optional
        The centre of the label space at rest by default.
    solver : Solver or str

    Returns
    -------
    FitResult
        JAX arrays.

    Raises
    ------
    MismatchError
        If the shapes differ.

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
    >>> problem = FitProblem.from_batch(model, SpectrumBatch(flux, ivar, ivar, grid))
    >>> result = fit_batch(problem)
    >>> round(float(result.labels[0, 0])), bool(result.converged[0]), int(result.flags[0])
    (3300, True, 0)
    """
    solver = find_solver(solver)
    result, _, _ = _fit(
        replace(problem, warnings=()),
        problem.parameters_at(start),
        FIRST_DAMPING,
        solver.max_iter,
        solver=solver.structure(),
    )
    return result


def fit(
    problem: FitProblem,
    *,
    start: Start | None = None,
    solver: Solver | str = "lm",
    schedule: FitScheduleConfig | None = None,
    only: Bool[np.ndarray, n_spec] | None = None,
) -> FitResult:
    """Fit any number of stars in batches of one size, gathering those that need longer.

    All stars get a few steps; those that have not converged are gathered into full batches and go
    on. Stars that do not converge at all are started again from other points of the label space,
    and those that end far from where a coarse grid fits best are fitted from there too.
    Under a model that has an accurate surrogate, stars descend there; then the model itself,
    evaluated once or twice for each, takes the last steps. Stars whose first such step is longer
    than `LevenbergMarquardt.trusted_sigma` are flagged; those whose second is too go on under the
    model itself.

    Parameters
    ----------
    problem : FitProblem
    start : Start, optional
        One row for each spectrum; the centre of the label space by default, or the best of a grid
        of points where such a search costs next to nothing.
    solver : Solver or str
    schedule : FitScheduleConfig, optional
        `batch_size` stars are on the device at once.
    only : (n_spec,) bool, optional
        Stars that are fitted, all by default; the others come back as if they had no good pixel.

    Returns
    -------
    FitResult
        numpy arrays.

    Raises
    ------
    MismatchError
        If the shapes differ.
    """
    solver, schedule = find_solver(solver), schedule or FitScheduleConfig()
    n_spec = problem.n_spec
    problem = replace(problem, warnings=())
    if start is not None:
        problem.require_rows(start)
    if n_spec <= _MOST_PADDED and padded_rows(n_spec) != n_spec:
        problem = problem.pad_to(padded_rows(n_spec))
        if start is not None:
            again = np.arange(problem.n_spec) % n_spec
            start = Start(np.asarray(start.labels)[again], np.asarray(start.residual_kms)[again])
    surrogate = None
    if isinstance(solver, LevenbergMarquardt) and solver.fast_path:
        surrogate = _find_accurate(problem.model)
    if surrogate is None:
        found = _fit_under(problem, start, solver, schedule, only)
    else:
        assert isinstance(solver, LevenbergMarquardt)
        found = _fit_under(problem.under(surrogate), start, solver, schedule, only)
        if solver.check_surrogate:
            found = _finish_under(problem, surrogate, found, solver, schedule)
    return found.take(slice(n_spec))


def _find_accurate(model: ForwardModel) -> ForwardModel | None:
    """The surrogate of a model, where its flux is near enough for a descent."""
    surrogate = model.surrogate()
    return surrogate.model if surrogate is not None and surrogate.accurate else None


def _fit_under(
    problem: FitProblem,
    start: Start | None,
    solver: Solver,
    schedule: FitScheduleConfig,
    only: Bool[np.ndarray, n_spec] | None,
) -> FitResult:
    """Fit all stars under one model, with second starts for those that do not converge."""
    searching = start is None
    starting = np.array(problem.parameters_at(start))
    passes = _Passes(problem, solver, schedule)
    free = np.flatnonzero(~problem.layout.held[: problem.layout.n_label])
    result = _blank(problem, problem.n_spec)
    # Padding and empty spectra need no model evaluation.
    seen = np.flatnonzero(np.asarray(_has_pixels(problem.batch.ivar)))
    if only is not None:
        seen = seen[np.isin(seen, np.flatnonzero(only))]
    if not seen.size:
        return result
    put_rows(result, seen, passes.descend(seen, starting[seen], searching=searching))
    for point in restart_points(problem.layout.n_label, schedule.restarts):
        unfinished = unfinished_rows(result)
        if not unfinished.size:
            break
        parameters = starting[unfinished].copy()
        parameters[:, free] = point[free]
        other = passes.descend(unfinished, parameters)
        better = other.converged
        other = other._replace(n_iter=other.n_iter + result.n_iter[unfinished])
        result.n_iter[unfinished] = other.n_iter
        put_rows(result, unfinished[better], other.take(better))
    # Stars that began at their best node have been there; of an expensive model, another descent
    # costs more than a false minimum in a thousand stars.
    began_there = searching and passes.can_search
    expensive = problem.model.expensive
    if schedule.secondary_distance is not None and not expensive and not began_there:
        _try_secondary(passes, problem, result, seen, schedule.secondary_distance)
    return result


def _try_secondary(
    passes: _Passes, problem: FitProblem, result: FitResult, seen: np.ndarray, distance: float
) -> None:
    """Fit stars again that ended far from where their spectra fit best on a coarse grid, in place.

    The lower minimum wins. Two that are apart and about as low are told by a flag.
    """
    space, before = problem.label_space, result.labels
    nodes = passes.choose_nodes(seen)
    away = np.abs(nodes - np.asarray(space.scale(before[seen])))
    away[:, list(problem.layout.fixed)] = 0
    far = np.nan_to_num(away).max(axis=-1) > distance
    rows = seen[far]
    if not rows.size:
        return
    labels = before.copy()
    labels[rows] = np.asarray(space.unscale(nodes[far]))
    start = Start(labels, np.nan_to_num(result.residual_kms))
    other = passes.descend(rows, np.asarray(problem.parameters_at(start))[rows])
    first = result.take(rows)
    both = first.converged & other.converged
    errors = np.fmax(first.errors, other.errors)
    apart = (np.abs(first.labels - other.labels) > errors).any(axis=-1)
    competing = both & apart & (np.abs(first.chi2 - other.chi2) < _SECONDARY_DELTA_CHI2)
    better = other.converged & ~(first.converged & (first.chi2 <= other.chi2 + _SAME_CHI2))
    result.n_iter[rows] += other.n_iter
    other = other._replace(n_iter=result.n_iter[rows])
    put_rows(result, rows[better], other.take(better))
    result.flags[rows[competing]] |= int(QualityFlag.MULTIPLE_MINIMA)


def _finish_under(
    problem: FitProblem,
    surrogate: ForwardModel,
    found: FitResult,
    solver: LevenbergMarquardt,
    schedule: FitScheduleConfig,
) -> FitResult:
    """The last step under the model itself, and the whole way for stars whom a step is not enough.

    Rows without a fit stay as they are.
    """
    rows = np.flatnonzero(np.isfinite(found.chi2))
    if not rows.size:
        return found
    passes = _Passes(problem, solver, schedule, surrogate=surrogate)
    start = Start(found.labels, found.residual_kms)
    parameters = np.asarray(problem.parameters_at(start))[rows]
    left, agreed = rows, np.ones(len(rows), bool)
    for attempt in range(2):
        checked, parameters, sigmas = passes.check(left, parameters, solver.trusted_sigma)
        near = sigmas < solver.trusted_sigma
        if attempt == 0:
            agreed = near
        # A star that had not converged under the surrogate has not by a step under the model.
        settled = near & found.converged[left]
        put_rows(found, left[settled], checked.take(settled))
        found.n_iter[left] = checked.n_iter + attempt
        left, parameters = left[~settled], parameters[~settled]
        if not left.size or not (sigmas[~settled] < _SECOND_SIGMA).any():
            break
    if left.size:
        put_rows(found, left, passes.descend(left, parameters))
    found.flags[rows[~agreed]] |= int(QualityFlag.FAST_PATH_DISAGREED)
    return found


class _Passes:
    """The stars of a run and the compiled programs that take them a few steps further."""

    def __init__(
        self,
        problem: FitProblem,
        solver: Solver,
        schedule: FitScheduleConfig,
        *,
        surrogate: ForwardModel | None = None,
    ) -> None:
        self._problem, self._schedule = problem, schedule
        self._max_iter, self._structure = solver.max_iter, solver.structure()
        self._mesh, self._n_thread = star_mesh(), count_callers()
        model = problem.model
        n_row = -(-problem.n_spec // 32) * 32
        fast = isinstance(solver, LevenbergMarquardt) and solver.fast_path
        self._fast = fast and problem.labels_alone and has_gram_path(model)
        self._sizes = {
            reduced: min(choose_batch_size(schedule, model, reduced=reduced), n_row)
            for reduced in (False, True)
        }
        self._n_together = {
            reduced: choose_group_size(size, model, reduced=reduced)
            for reduced, size in self._sizes.items()
        }
        shapes = nodes = None
        if self._fast:
            shapes = multiply_shapes(model, problem.batch.grid, problem.noise.nuisance)
            nodes = place_nodes(model, problem.fixed)
        self.can_search = nodes is not None
        self._stars, self._fixed = replicate((problem.stars, problem.fixed), self._mesh)
        # One row stands for all: how many there are is no part of what is compiled.
        blank = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), problem.stars)
        # On the device once, and not at every call.
        held = jax.device_put((problem.with_stars(blank), shapes, nodes))
        self._held = replicate(held, self._mesh)
        self._surrogate = replicate(surrogate, self._mesh)

    def descend(
        self, rows: np.ndarray, parameters: np.ndarray, *, searching: bool = False
    ) -> FitResult:
        """Fit from given points in short passes, gathering anew those that need another.

        Where stars are fitted on Gram systems and may search, they start from the best node
        instead. What is left after some passes is fitted on the pixels.
        """
        found = _blank(self._problem, len(rows))
        damping = np.full(len(rows), FIRST_DAMPING, parameters.dtype)
        parameters, waiting, left = parameters.copy(), np.arange(len(rows)), self._max_iter
        fast_left = _FAST_PASSES if self._fast else 0
        while waiting.size and left > 0:
            reduced = fast_left > 0
            steps = min(_FAST_ITER if reduced else self._schedule.first_pass_iter, left)
            part, at, damped = self._run(
                rows[waiting],
                parameters[waiting],
                damping[waiting],
                steps,
                reduced=reduced,
                searching=searching and self.can_search,
            )
            part = part._replace(n_iter=part.n_iter + found.n_iter[waiting])
            put_rows(found, waiting, part)
            parameters[waiting], damping[waiting] = at, damped
            left, fast_left, searching = left - steps, fast_left - 1, False
            waiting = waiting[unfinished_rows(part)]
        return found

    def choose_nodes(self, rows: np.ndarray) -> np.ndarray:
        """Scaled labels at which each spectrum fits best, of the nodes of the label space."""
        problem, _, _ = self._held
        margins = fitted_margins(problem.model.grid, problem.batch.grid)
        nodes = predict_nodes(problem.model, margins, self._fixed)
        choose = partial(_choose_rows, (problem, nodes), mesh=self._mesh)
        return self._in_parts(choose, rows, self._sizes[True])

    def check(self, rows: np.ndarray, parameters: np.ndarray, trusted_sigma: float):
        """One step with the slopes of the surrogate: results, points, how far it led."""
        problem, _, _ = self._held
        step = partial(_check_rows, (problem, self._surrogate, trusted_sigma), mesh=self._mesh)
        return self._in_parts(step, rows, self._sizes[False], parameters)

    def _run(self, rows, parameters, damping, max_iter, *, reduced, searching):
        """Fit `rows` from given points: results, last points, last damping."""
        size = self._sizes[reduced]
        problem, shapes, nodes = self._held
        reduction = (shapes, nodes, np.asarray(searching)) if reduced else None
        fit_rows = partial(
            _fit_rows,
            (problem, reduction, max_iter),
            solver=self._structure,
            mesh=self._mesh,
            n_together=self._n_together[reduced],
        )
        return self._in_parts(fit_rows, rows, size, parameters, damping)

    def _in_parts(self, work, rows, size, *columns):
        """What `work` returns of all rows, given them and their columns in batches of one shape."""
        size *= 1 if self._mesh is None else self._mesh.size

        def do_part(first: int):
            chosen = np.arange(first, min(first + size, len(rows)))
            if size == len(self._stars[1]):
                # All at once: each stays in its row, and nothing is gathered.
                places, source, stars = rows, np.zeros(size, int), self._stars
                source[places] = chosen
            else:
                places, source = np.arange(chosen.size), np.resize(chosen, size)
                stars = take_stars(self._stars, rows[source])
            real = np.isin(np.arange(size), places)
            part = work((stars, *(column[source] for column in columns), real))
            return jax.tree.map(lambda leaf: np.asarray(leaf)[places], part)

        # The first by itself: it compiles what the others call.
        parts = [do_part(0)]
        rest = range(size, len(rows), size)
        if len(rest) > 1 and self._n_thread > 1:
            with ThreadPoolExecutor(self._n_thread) as pool:
                parts += pool.map(do_part, rest)
        else:
            parts += map(do_part, rest)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def restart_points(n_label: int, n_points: int) -> list[np.ndarray]:
    """Well spread scaled labels within (-0.4, 0.4): a Halton sequence, the same in every run."""
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)
    points = []
    for number in range(1, n_points + 1):
        point = np.empty(n_label)
        for axis in range(n_label):
            base, left, share, value = primes[axis % len(primes)], number, 1.0, 0.0
            while left:
                share /= base
                value += share * (left % base)
                left //= base
            point[axis] = 0.8 * (value - 0.5)
        points.append(point)
    return points


@jax.jit
def _has_pixels(ivar):
    return (ivar > 0).any(axis=-1)


@partial(jax.jit, static_argnames="solver")
def _fit(problem, parameters, damping, max_iter, *, solver):
    return _fit_traced(problem, parameters, damping, None, max_iter, True, solver)


@partial(jax.jit, static_argnames=("solver", "mesh", "n_together"))
def _fit_rows(shared, stars, *, solver, mesh, n_together):
    """Fit some stars; the problem that all share comes with one row in their place."""

    def fit_here(shared, stars):
        problem, reduction, max_iter = shared

        def fit_together(stars):
            own, parameters, damping, real = stars
            chosen = problem.with_stars(own)
            return _fit_traced(chosen, parameters, damping, reduction, max_iter, real, solver)

        return map_blocks(fit_together, stars, stars[-1], n_together)

    return divide_stars(fit_here, mesh)(shared, stars)


@partial(jax.jit, static_argnames="mesh")
def _check_rows(shared, stars, *, mesh):
    """One step of some stars under the model, with slopes and weights of its surrogate."""

    def check_here(shared, stars):
        problem, surrogate, trusted_sigma = shared
        own, parameters, real = stars
        chosen = problem.with_stars(own)
        objective = build_objective(chosen.under(surrogate))
        active = (objective.n_good > objective.layout.n_free) & real
        slopes, _ = objective.linearise(parameters)
        residual = objective.under(problem.model).residuals(parameters)
        equations = objective.accumulate(slopes, residual, parameters)
        lower = jnp.asarray(objective.layout.lower, parameters.dtype)
        step, sigmas = measure_step(equations, parameters, lower, -lower)
        near = active & (sigmas < trusted_sigma)
        # Further than that, slopes of the surrogate do not tell the model's own minimum.
        taken = active & (sigmas < _SECOND_SIGMA)
        state = SolverState(
            parameters=jnp.where(taken[:, None], parameters + step, parameters),
            equations=equations,
            damping=jnp.full(sigmas.shape, FIRST_DAMPING, sigmas.dtype),
            converged=near,
            stopped=near,
            n_iter=active.astype(jnp.int32),
        )
        result = summarise_fit(chosen, objective, state, active=active)
        return result, state.parameters, jnp.where(active, sigmas, jnp.inf)

    return divide_stars(check_here, mesh)(shared, stars)


@partial(jax.jit, static_argnames="mesh")
def _choose_rows(shared, stars, *, mesh):
    """The best node of some stars; weights are those of a star without a context."""

    def choose_here(shared, stars):
        (problem, nodes), (own, real) = shared, stars
        chosen = replace(problem.with_stars(own), context=None)
        return chosen.map_blocks(
            lambda some: choose_by_pixels(build_objective(some), nodes), real=real
        )

    return divide_stars(choose_here, mesh)(shared, stars)


def _fit_traced(problem, parameters, damping, reduction, max_iter, real, solver: Solver):
    objective = build_objective(problem)
    active = objective.n_good > objective.layout.n_free
    damping = jnp.broadcast_to(jnp.asarray(damping, parameters.dtype), parameters.shape[:1])
    if reduction is None:
        state = solver.solve(
            objective, parameters, active=active & real, max_iter=max_iter, damping=damping
        )
    else:
        shapes, nodes, searching = reduction
        state = fit_by_gram(
            objective,
            shapes,
            parameters,
            nodes=nodes,
            searching=searching,
            active=active & real,
            max_iter=max_iter,
            tol_sigma=solver.tol_sigma,
            initial_damping=damping,
        )
    result = summarise_fit(problem, objective, state, active=active)
    return result, state.parameters, state.damping


def _blank(problem: FitProblem, n_spec: int) -> FitResult:
    return blank_result(
        n_spec,
        problem.label_space.n_label,
        np.dtype(problem.batch.flux.dtype),
        fit_velocity=problem.fit_velocity,
    )
