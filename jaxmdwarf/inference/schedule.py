"""Fitting stars: labels with covariance and flags, for batches of any size."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.inference.devices import divide_stars, replicate, star_mesh
from jaxmdwarf.inference.nodes import choose_by_pixels, predict_nodes
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.results import (
    FitResult,
    blank_result,
    put_rows,
    summarise_fit,
    unfinished_rows,
)
from jaxmdwarf.inference.settings import FitSettings, choose_batch_size, compiled_settings
from jaxmdwarf.inference.shift import largest_shift_kms
from jaxmdwarf.inference.solvers.gram import (
    fit_by_gram,
    has_gram_path,
    multiply_shapes,
    place_nodes,
)
from jaxmdwarf.inference.solvers.library import find_solver
from jaxmdwarf.inference.solvers.lm import LmState, measure_step
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch

FIRST_DAMPING = 1e-2
"""Damping that a fit starts with, relative to the diagonal of the curvature."""

_FAST_ITER, _FAST_PASSES = 5, 3
_SECOND_SIGMA = 0.5
# Chi-squares of two minima that compete, and of two ways to one minimum, differ by less than these.
_RIVAL_DELTA_CHI2, _SAME_CHI2 = 9.0, 0.01


class Start(NamedTuple):
    """Where a fit starts.

    Parameters
    ----------
    labels : (n_spec, n_label)
        Physical units.
    residual_kms : (n_spec,)
        Velocity relative to the frame of the spectra.
    """

    labels: Float[Array | np.ndarray, "n_spec n_label"]
    residual_kms: Float[Array | np.ndarray, n_spec]


def fit_batch(
    model: ForwardModel,
    batch: SpectrumBatch,
    *,
    start: Start | None = None,
    frame_kms: Float[Array | np.ndarray, n_spec] | None = None,
    context: PyTree[Any] | None = None,
    settings: FitSettings | None = None,
) -> FitResult:
    """Fit one batch: pure, compiled once for each shape, model structure and settings.

    Parameters
    ----------
    model : ForwardModel
    batch : SpectrumBatch
        Normalised spectra in (about) the rest frame. Rows without a good pixel come back as NaN
        with a flag, so batches can be padded.
    start : Start, optional
        The centre of the label space at rest by default.
    frame_kms : (n_spec,), optional
        Velocities that were taken out of the spectra.
    context : pytree, optional
        Per-star context of the model.
    settings : FitSettings, optional

    Returns
    -------
    FitResult
        JAX arrays.

    Raises
    ------
    MismatchError
        If the pixel grids or the shapes differ.

    Examples
    --------
    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    >>> line = 1.0 - jnp.exp(-(((grid.wave_aa - 6100.0) / 3.0) ** 2))
    >>> model = TableModel(jnp.stack([jnp.ones(201), line]), jnp.zeros(201), space, grid)
    >>> flux = model.predict(jnp.array([3300.0]))[None, :]
    >>> ivar = jnp.full((1, 201), 1e4)
    >>> result = fit_batch(model, SpectrumBatch(flux, ivar, ivar, grid))
    >>> round(float(result.labels[0, 0])), bool(result.converged[0]), int(result.flags[0])
    (3300, True, 0)
    """
    settings = settings or FitSettings()
    n_spec, dtype = batch.n_spec, batch.flux.dtype
    start = start or centre_start(model, n_spec, dtype)
    frame = jnp.zeros(n_spec, dtype) if frame_kms is None else jnp.asarray(frame_kms, dtype)
    _require_shapes(model, n_spec, start, frame)
    result, _, _ = _fit(
        model,
        batch,
        _start_parameters(model, batch, start, settings),
        FIRST_DAMPING,
        frame,
        context,
        settings.max_iter,
        settings=compiled_settings(settings),
    )
    return result


def fit_stars(
    model: ForwardModel,
    batch: SpectrumBatch,
    *,
    start: Start | None = None,
    frame_kms: Float[Array | np.ndarray, n_spec] | None = None,
    context: PyTree[Any] | None = None,
    settings: FitSettings | None = None,
) -> FitResult:
    """Fit any number of stars in batches of one size, gathering those that need longer.

    All stars get a few steps; those that have not converged are gathered into full batches and go
    on. Stars that do not converge at all are started again from other points of the label space.
    Under a model that has an accurate surrogate, stars descend there; then the model itself,
    evaluated once or twice for each, takes the last steps. Stars whose first such step is longer
    than ``settings.trusted_sigma`` are flagged; those whose second is too go on under the model
    itself.

    Parameters
    ----------
    model, batch, start, frame_kms, context, settings
        As for `fit_batch`; `settings.batch_size` stars are on the device at once.

    Returns
    -------
    FitResult
        numpy arrays.
    """
    settings = settings or FitSettings()
    surrogate = _find_accurate(model) if settings.may_descend else None
    n_spec, dtype = batch.n_spec, batch.flux.dtype
    frame = np.zeros(n_spec, dtype) if frame_kms is None else np.asarray(frame_kms, dtype)
    if surrogate is None:
        return _fit_under(model, batch, start, frame, context, settings)
    found = _fit_under(surrogate, batch, start, frame, context, settings)
    if not settings.check_surrogate:
        return found
    return _finish_under(model, surrogate, batch, found, frame, context, settings)


def _find_accurate(model: ForwardModel) -> ForwardModel | None:
    """The surrogate of a model, where its flux is near enough for a descent."""
    surrogate = model.surrogate()
    return surrogate.model if surrogate is not None and surrogate.accurate else None


def _fit_under(model, batch, start, frame, context, settings: FitSettings) -> FitResult:
    """Fit all stars under one model, with second starts for those that do not converge."""
    n_spec, dtype = batch.n_spec, batch.flux.dtype
    searching = start is None
    start = start or centre_start(model, n_spec, dtype)
    _require_shapes(model, n_spec, start, frame)
    starting = np.asarray(_start_parameters(model, batch, start, settings))
    passes = _Passes(model, batch, frame, context, settings)
    n_label = model.label_space.n_label
    result = blank_result(n_spec, n_label, dtype, fit_velocity=settings.fit_velocity)
    # Padding and empty spectra need no model evaluation.
    seen = np.flatnonzero(np.asarray((batch.ivar > 0).any(axis=-1)))
    put_rows(result, seen, passes.descend(seen, starting[seen], searching=searching))
    for point in restart_points(n_label, settings.restarts):
        unfinished = unfinished_rows(result)
        if not unfinished.size:
            break
        parameters = starting[unfinished]
        parameters[:, :n_label] = point
        other = passes.descend(unfinished, parameters)
        better = other.converged
        other = other._replace(n_iter=other.n_iter + result.n_iter[unfinished])
        result.n_iter[unfinished] = other.n_iter
        put_rows(result, unfinished[better], FitResult(*(column[better] for column in other)))
    # Stars that began at their best node have been there; of an expensive model, another descent
    # costs more than a false minimum in a thousand stars.
    began_there = searching and passes.can_search
    if settings.rival_distance is not None and not model.expensive and not began_there:
        _try_rivals(passes, model, batch, result, seen, settings)
    return result


def _try_rivals(passes, model, batch, result: FitResult, seen, settings: FitSettings) -> None:
    """Fit stars again that ended far from where their spectra fit best on a coarse grid, in place.

    The lower minimum wins. Two that are apart and about as low are told by a flag.
    """
    space, before = model.label_space, result.labels
    nodes = passes.choose_nodes(seen)
    away = np.abs(nodes - np.asarray(space.scale(before[seen])))
    far = np.nan_to_num(away).max(axis=-1) > settings.rival_distance
    rows = seen[far]
    if not rows.size:
        return
    labels = before.copy()
    labels[rows] = np.asarray(space.unscale(nodes[far]))
    start = Start(labels, np.nan_to_num(result.residual_kms))
    parameters = np.asarray(_start_parameters(model, batch, start, settings))
    other = passes.descend(rows, parameters[rows])
    first = FitResult(*(column[rows] for column in result))
    both = first.converged & other.converged
    errors = np.fmax(first.errors, other.errors)
    apart = (np.abs(first.labels - other.labels) > errors).any(axis=-1)
    rivals = both & apart & (np.abs(first.chi2 - other.chi2) < _RIVAL_DELTA_CHI2)
    better = other.converged & ~(first.converged & (first.chi2 <= other.chi2 + _SAME_CHI2))
    result.n_iter[rows] += other.n_iter
    other = other._replace(n_iter=result.n_iter[rows])
    put_rows(result, rows[better], FitResult(*(column[better] for column in other)))
    result.flags[rows[rivals]] |= int(QualityFlag.MULTIPLE_MINIMA)


def _finish_under(
    model, surrogate, batch, found: FitResult, frame, context, settings: FitSettings
) -> FitResult:
    """The last step under the model itself, and the whole way for stars whom a step is not enough.

    Rows without a fit stay as they are.
    """
    passes = _Passes(model, batch, frame, context, settings, surrogate=surrogate)
    rows = np.flatnonzero(np.isfinite(found.chi2))
    start = Start(found.labels, found.residual_kms)
    parameters = np.asarray(_start_parameters(model, batch, start, settings))[rows]
    if not rows.size:
        return found
    left, agreed = rows, np.ones(len(rows), bool)
    for attempt in range(2):
        checked, parameters, sigmas = passes.check(left, parameters)
        near = sigmas < settings.trusted_sigma
        if attempt == 0:
            agreed = near
        # A star that had not converged under the surrogate has not by a step under the model.
        settled = near & found.converged[left]
        put_rows(found, left[settled], FitResult(*(column[settled] for column in checked)))
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
        model,
        batch,
        frame_kms,
        context,
        settings: FitSettings,
        *,
        surrogate: ForwardModel | None = None,
    ) -> None:
        self._settings, self._structure = settings, compiled_settings(settings)
        self._n_label, self._dtype = model.label_space.n_label, batch.flux.dtype
        self._frame = frame_kms
        self._mesh = star_mesh()
        n_row = -(-batch.n_spec // 32) * 32
        fast = settings.may_reduce and has_gram_path(model)
        self._sizes = {
            reduced: min(choose_batch_size(settings, model, reduced=reduced), n_row)
            for reduced in (False, True)
        }
        # Where an iteration is expensive, a few stars that are left do not fill up a whole batch.
        self._few = max(self._sizes[False] // 8, 1) if model.expensive else 0
        shapes = nodes = None
        if fast:
            shapes = multiply_shapes(model, batch.grid)
            nodes = place_nodes(model)
        self._fast, self.can_search = fast, nodes is not None
        self._held = replicate((model, batch, context, shapes, nodes), self._mesh)
        self._surrogate = replicate(surrogate, self._mesh)

    def descend(
        self, rows: np.ndarray, parameters: np.ndarray, *, searching: bool = False
    ) -> FitResult:
        """Fit from given points in short passes, gathering anew those that need another.

        Where stars are fitted on Gram systems and may search, they start from the best node
        instead. What is left after some passes is fitted on the pixels.
        """
        settings = self._settings
        found = blank_result(
            len(rows), self._n_label, self._dtype, fit_velocity=settings.fit_velocity
        )
        damping = np.full(len(rows), FIRST_DAMPING, self._dtype)
        parameters, waiting, left = parameters.copy(), np.arange(len(rows)), settings.max_iter
        fast_left = _FAST_PASSES if self._fast else 0
        while waiting.size and left > 0:
            reduced = fast_left > 0
            steps = min(_FAST_ITER if reduced else settings.first_pass_iter, left)
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
        model, batch, _, _, _ = self._held
        choose = partial(
            _choose_rows,
            (model, batch, predict_nodes(model)),
            settings=self._structure,
            mesh=self._mesh,
        )
        return self._in_parts(choose, rows, self._sizes[False])

    def check(self, rows: np.ndarray, parameters: np.ndarray):
        """One step under the model with the surrogate's slopes: results, points, how far it led."""
        model, batch, context, _, _ = self._held
        step = partial(
            _check_rows,
            (model, self._surrogate, batch, context, self._settings.trusted_sigma),
            settings=self._structure,
            mesh=self._mesh,
        )
        return self._in_parts(step, rows, self._sizes[False], parameters, self._frame[rows])

    def _run(self, rows, parameters, damping, max_iter, *, reduced, searching):
        """Fit `rows` from given points: results, last points, last damping."""
        few = not reduced and len(rows) <= 2 * self._few
        size = self._few if few else self._sizes[reduced]
        model, batch, context, shapes, nodes = self._held
        reduction = (shapes, nodes, np.asarray(searching)) if reduced else None
        fit = partial(
            _fit_rows,
            (model, batch, context, reduction, max_iter),
            settings=self._structure,
            mesh=self._mesh,
        )
        return self._in_parts(fit, rows, size, parameters, self._frame[rows], damping)

    def _in_parts(self, work, rows, size, *columns):
        """What `work` returns of all rows, given them and their columns in batches of one shape."""
        size *= 1 if self._mesh is None else self._mesh.size

        def do_part(first: int):
            chosen = np.arange(first, min(first + size, len(rows)))
            padded = np.resize(chosen, size)
            real = np.arange(size) < chosen.size
            part = work((rows[padded], *(column[padded] for column in columns), real))
            return jax.tree.map(lambda leaf: np.asarray(leaf)[: chosen.size], part)

        parts = [do_part(first) for first in range(0, len(rows), size)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def centre_start(model: ForwardModel, n_spec: int, dtype: Any = np.float32) -> Start:
    """Start all stars at the centre of the label space, at rest."""
    space = model.label_space
    centre = space.unscale(np.zeros(space.n_label, dtype))
    return Start(np.broadcast_to(centre, (n_spec, space.n_label)), np.zeros(n_spec, dtype))


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


@partial(jax.jit, static_argnames="settings")
def _fit(model, batch, parameters, damping, frame_kms, context, max_iter, *, settings):
    return _fit_traced(
        model, batch, parameters, damping, frame_kms, context, None, max_iter, True, settings
    )


@partial(jax.jit, static_argnames=("settings", "mesh"))
def _fit_rows(shared, stars, *, settings, mesh):
    """Fit some rows of a batch; gathering inside keeps one compiled shape whatever they are."""

    def fit_here(shared, stars):
        model, batch, context, reduction, max_iter = shared
        rows, parameters, frame_kms, damping, real = stars
        chosen, context = _take_rows(batch, context, rows)
        return _fit_traced(
            model, chosen, parameters, damping, frame_kms, context, reduction, max_iter, real,
            settings,
        )  # fmt: skip

    return divide_stars(fit_here, mesh)(shared, stars)


@partial(jax.jit, static_argnames=("settings", "mesh"))
def _check_rows(shared, stars, *, settings, mesh):
    """One step of some rows under the model, with slopes and weights of its surrogate."""

    def check_here(shared, stars):
        model, surrogate, batch, context, trusted_sigma = shared
        rows, parameters, frame_kms, real = stars
        chosen, context = _take_rows(batch, context, rows)
        objective = _build(surrogate, chosen, context, settings)
        active = (objective.n_good > objective.layout.n_par) & real
        slopes, _ = objective.linearise(parameters)
        residual = objective.under(model).residuals(parameters)
        equations = objective.accumulate(slopes, residual, parameters)
        lower = jnp.asarray(objective.layout.lower, parameters.dtype)
        step, sigmas = measure_step(equations, parameters, lower, -lower)
        near = active & (sigmas < trusted_sigma)
        # Further than that, slopes of the surrogate do not tell the model's own minimum.
        taken = active & (sigmas < _SECOND_SIGMA)
        state = LmState(
            parameters=jnp.where(taken[:, None], parameters + step, parameters),
            equations=equations,
            damping=jnp.full(sigmas.shape, FIRST_DAMPING, sigmas.dtype),
            converged=near,
            stopped=near,
            n_iter=active.astype(jnp.int32),
        )
        result = _summarise(objective, state, frame_kms, active, settings)
        return result, state.parameters, jnp.where(active, sigmas, jnp.inf)

    return divide_stars(check_here, mesh)(shared, stars)


@partial(jax.jit, static_argnames=("settings", "mesh"))
def _choose_rows(shared, stars, *, settings, mesh):
    """The best node of some rows; weights are those of a star without a context."""

    def choose_here(shared, stars):
        model, batch, nodes = shared
        chosen, _ = _take_rows(batch, None, stars[0])
        return choose_by_pixels(_build(model, chosen, None, settings), *nodes)

    return divide_stars(choose_here, mesh)(shared, stars)


def _take_rows(batch, context, rows):
    chosen = SpectrumBatch(batch.flux[rows], batch.ivar[rows], batch.information[rows], batch.grid)
    return chosen, jax.tree.map(lambda leaf: leaf[rows], context)


def _build(model, batch, context, settings):
    return build_objective(
        model,
        batch,
        context=context,
        fit_velocity=settings.fit_velocity,
        priors=settings.priors,
        poly_order=settings.poly_order,
    )


def _summarise(objective, state, frame_kms, active, settings) -> FitResult:
    return summarise_fit(
        objective, state, frame_kms, active=active, continuum_sigma_aa=settings.continuum_sigma_aa
    )


def _fit_traced(
    model, batch, parameters, damping, frame_kms, context, reduction, max_iter, real, settings
):
    objective = _build(model, batch, context, settings)
    active = objective.n_good > objective.layout.n_par
    how = {
        "active": active & real,
        "max_iter": max_iter,
        "tol_sigma": settings.tol_sigma,
        "initial_damping": damping,
    }
    if reduction is None:
        state = find_solver(settings.solver)(objective, parameters, **how)
    else:
        shapes, nodes, searching = reduction
        state = fit_by_gram(objective, shapes, parameters, nodes=nodes, searching=searching, **how)
    result = _summarise(objective, state, frame_kms, active, settings)
    return result, state.parameters, state.damping


def _start_parameters(
    model: ForwardModel, batch: SpectrumBatch, start: Start, settings: FitSettings
) -> Array:
    """Scaled labels, velocity and polynomial of a start."""
    dtype = batch.flux.dtype
    scaled = jnp.clip(model.label_space.scale(jnp.asarray(start.labels, dtype)), -0.5, 0.5)
    columns = [scaled]
    if settings.fit_velocity:
        speeds = jnp.asarray(start.residual_kms, dtype)
        columns.append(speeds[:, None] / (2 * largest_shift_kms(batch.grid)))
    n_poly = 0 if settings.poly_order is None else settings.poly_order + 1
    columns.append(jnp.zeros((batch.n_spec, n_poly), dtype))
    return jnp.concatenate(columns, axis=-1)


def _require_shapes(model: ForwardModel, n_spec: int, start: Start, frame) -> None:
    expected = (n_spec, model.label_space.n_label)
    if start.labels.shape != expected or start.residual_kms.shape != (n_spec,):
        raise MismatchError(
            f"start has labels {start.labels.shape} and velocities {start.residual_kms.shape} for "
            f"{n_spec} spectra and the labels {model.label_space.names}.",
            f"give labels of shape {expected} in physical units and one velocity a spectrum.",
        )
    if frame.shape != (n_spec,):
        raise MismatchError(f"{n_spec} spectra, frame velocities of shape {frame.shape}.")
