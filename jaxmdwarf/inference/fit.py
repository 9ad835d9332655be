"""Fitting stars: settings in, labels with covariance and flags out, for batches of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.lm import LmState, minimise_lm
from jaxmdwarf.inference.objective import Objective, build_objective
from jaxmdwarf.inference.shift import combine_velocities, largest_shift_kms
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

AT_BOUND = 1e-3
"""A label this close to a bound, as a fraction of its range, counts as at the bound."""

FIRST_DAMPING = 1e-2
"""Damping that a fit starts with, relative to the diagonal of the curvature."""

BAD_CHI2 = 50.0
"""Reduced chi-square above which a fit is flagged (the paper's cut, section 4)."""

_BOUND_FLAGS = {
    "teff": QualityFlag.TEFF_AT_BOUND,
    "logg": QualityFlag.LOGG_AT_BOUND,
    "mh": QualityFlag.MH_AT_BOUND,
    "alpha_m": QualityFlag.ALPHA_AT_BOUND,
}


@dataclass(frozen=True)
class FitSettings:
    """How stars are fitted.

    Parameters
    ----------
    solver : {"lm"}
        Levenberg-Marquardt, native to batches.
    fit_velocity : bool
        Fit a residual velocity (within one pixel's shift) jointly with the labels.
    priors : tuple of LabelPrior or RelationPrior
        What is believed of labels, or of relations among them, beside the spectrum.
    poly_order : int, optional
        Order of a multiplicative polynomial over the grid, fitted beside the labels.
    continuum_sigma_aa : float, optional
        Width of the pseudo-continuum that the spectra were divided by (eq. 3): the errors then know
        which noise it took out. None takes the pixels as they are.
    max_iter : int
        Steps of the solver.
    first_pass_iter : int
        Steps after which the stars that need more are gathered from all batches, again and again,
        so that those that have converged are not carried along.
    batch_size : int, optional
        Stars in one compiled call; None takes 32 on a CPU, whose caches then hold all that an
        iteration touches, and 2048 on an accelerator.
    restarts : int
        Other starting points that a star is given which does not converge.
    tol_sigma : float
        See `jaxmdwarf.inference.lm.minimise_lm`.
    """

    solver: Literal["lm"] = "lm"
    fit_velocity: bool = True
    priors: tuple[Prior, ...] = ()
    poly_order: int | None = None
    continuum_sigma_aa: float | None = None
    max_iter: int = 40
    first_pass_iter: int = 7
    batch_size: int | None = None
    restarts: int = 2
    tol_sigma: float = 0.01

    def __post_init__(self) -> None:
        if self.solver != "lm":
            raise UsageError(f"solver {self.solver!r} is unknown.", "use 'lm'.")
        sizes = (self.max_iter, self.first_pass_iter, self.batch_size or 1)
        if min(sizes) < 1 or self.batch_size == 0 or self.restarts < 0:
            raise UsageError(f"iterations and batch size must be positive, got {self}.")
        if self.poly_order is not None and not 0 <= self.poly_order <= 10:
            raise UsageError(f"poly_order {self.poly_order} is not within 0 and 10.")


def choose_batch_size(settings: FitSettings) -> int:
    """Stars in one compiled call, by the settings or the device at hand."""
    if settings.batch_size is not None:
        return settings.batch_size
    return 32 if jax.default_backend() == "cpu" else 2048


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


class FitResult(NamedTuple):
    """Labels with errors and flags, one row a star; NaN wherever there is no number.

    Parameters
    ----------
    labels : (n_spec, n_label)
        Physical units, in the order of the model's label space.
    errors : (n_spec, n_label)
        One-sigma errors: square roots of the diagonal of `covariance`.
    covariance : (n_spec, k, k)
        Of the labels, and of the velocity as the last row where it was fitted; the polynomial, if
        any, is marginalised. From J^T W J at the optimum; not scaled by the reduced chi-square.
    rv_kms, e_rv : (n_spec,)
        Velocity (that of the frame where it was not fitted) and its error.
    residual_kms : (n_spec,)
        The part of the velocity relative to the frame of the spectra.
    chi2 : (n_spec,)
        What was minimised: information-weighted, with priors.
    chi2_red : (n_spec,)
        Scatter of single pixels: sum of residual^2 over pixel variance, by `dof`.
    n_pix : (n_spec,) int32
        Pixels used.
    dof : (n_spec,) int32
        Pixels less parameters.
    n_iter : (n_spec,) int32
        Model evaluations.
    converged : (n_spec,) bool
    flags : (n_spec,) int32
        `jaxmdwarf.quality.QualityFlag`.
    """

    labels: Float[Array | np.ndarray, "n_spec n_label"]
    errors: Float[Array | np.ndarray, "n_spec n_label"]
    covariance: Float[Array | np.ndarray, "n_spec k k"]
    rv_kms: Float[Array | np.ndarray, n_spec]
    e_rv: Float[Array | np.ndarray, n_spec]
    residual_kms: Float[Array | np.ndarray, n_spec]
    chi2: Float[Array | np.ndarray, n_spec]
    chi2_red: Float[Array | np.ndarray, n_spec]
    n_pix: Int[Array | np.ndarray, n_spec]
    dof: Int[Array | np.ndarray, n_spec]
    n_iter: Int[Array | np.ndarray, n_spec]
    converged: Bool[Array | np.ndarray, n_spec]
    flags: Int[Array | np.ndarray, n_spec]


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
        settings=_structure(settings),
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
    n_spec, dtype = batch.n_spec, batch.flux.dtype
    start = start or centre_start(model, n_spec, dtype)
    frame = np.zeros(n_spec, dtype) if frame_kms is None else np.asarray(frame_kms, dtype)
    _require_shapes(model, n_spec, start, frame)
    starting = np.asarray(_start_parameters(model, batch, start, settings))
    structure, batch_size = _structure(settings), choose_batch_size(settings)

    def run(rows: np.ndarray, parameters: np.ndarray, damping: np.ndarray, max_iter: int):
        """Fit `rows` of the batch from given points: results, last points, last damping."""

        def fit_part(first: int):
            chosen = np.arange(first, min(first + batch_size, len(rows)))
            padded = np.resize(chosen, batch_size)
            part = _fit_rows(
                model,
                batch,
                rows[padded],
                parameters[padded],
                damping[padded],
                frame[rows[padded]],
                np.arange(batch_size) < chosen.size,
                context,
                max_iter,
                settings=structure,
            )
            return jax.tree.map(lambda leaf: np.asarray(leaf)[: chosen.size], part)

        parts = [fit_part(first) for first in range(0, len(rows), batch_size)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def descend(rows: np.ndarray, parameters: np.ndarray) -> FitResult:
        """Fit from given points in short passes, gathering anew those that need another."""
        found = _blank_result(model, len(rows), settings, dtype)
        damping = np.full(len(rows), FIRST_DAMPING, dtype)
        parameters, waiting, left = parameters.copy(), np.arange(len(rows)), settings.max_iter
        while waiting.size and left > 0:
            steps = min(settings.first_pass_iter, left)
            part, at, damped = run(rows[waiting], parameters[waiting], damping[waiting], steps)
            part = part._replace(n_iter=part.n_iter + found.n_iter[waiting])
            _put_rows(found, waiting, part)
            parameters[waiting], damping[waiting] = at, damped
            left -= steps
            waiting = waiting[_unfinished(part)]
        return found

    result = _blank_result(model, n_spec, settings, dtype)
    # Padding and empty spectra need no model evaluation.
    seen = np.flatnonzero(np.asarray((batch.ivar > 0).any(axis=-1)))
    _put_rows(result, seen, descend(seen, starting[seen]))
    n_label = model.label_space.n_label
    for point in restart_points(n_label, settings.restarts):
        unfinished = _unfinished(result)
        if not unfinished.size:
            break
        parameters = starting[unfinished]
        parameters[:, :n_label] = point
        other = descend(unfinished, parameters)
        better = other.converged
        other = other._replace(n_iter=other.n_iter + result.n_iter[unfinished])
        result.n_iter[unfinished] = other.n_iter
        _put_rows(result, unfinished[better], FitResult(*(column[better] for column in other)))
    return result


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


def estimate_fit_memory(model: ForwardModel, grid: PixelGrid, settings: FitSettings) -> int:
    """Bytes that `fit_batch` needs on the device for one batch, from above.

    Parameters
    ----------
    model : ForwardModel
    grid : PixelGrid
        Of the spectra.
    settings : FitSettings

    Returns
    -------
    int
        For the batch itself and the arrays of pixels that an iteration makes; what the model
        needs inside is taken as four numbers per pixel and label.
    """
    n_label = model.label_space.n_label
    n_par = n_label + int(settings.fit_velocity)
    n_par += 0 if settings.poly_order is None else settings.poly_order + 1
    per_pixel = 6 + 4 * n_label + 3 * n_par
    weights = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(model)
        if isinstance(leaf, jax.Array | np.ndarray)
    )
    return choose_batch_size(settings) * grid.n_pix * 4 * per_pixel + weights


@partial(jax.jit, static_argnames="settings")
def _fit(model, batch, parameters, damping, frame_kms, context, max_iter, *, settings, real=None):
    objective = build_objective(
        model,
        batch,
        context=context,
        fit_velocity=settings.fit_velocity,
        priors=settings.priors,
        poly_order=settings.poly_order,
    )
    lower = jnp.asarray(objective.layout.lower, parameters.dtype)
    active = objective.n_good > objective.layout.n_par
    state = minimise_lm(
        objective.normal_equations,
        parameters,
        lower,
        -lower,
        active=active if real is None else active & real,
        max_iter=max_iter,
        tol_sigma=settings.tol_sigma,
        initial_damping=damping,
    )
    result = summarise_fit(
        objective, state, frame_kms, active=active, continuum_sigma_aa=settings.continuum_sigma_aa
    )
    return result, state.parameters, state.damping


@partial(jax.jit, static_argnames="settings")
def _fit_rows(
    model, batch, rows, parameters, damping, frame_kms, real, context, max_iter, *, settings
):
    # Gathering inside keeps one compiled shape whatever rows are fitted.
    chosen = SpectrumBatch(batch.flux[rows], batch.ivar[rows], batch.information[rows], batch.grid)
    context = jax.tree.map(lambda leaf: leaf[rows], context)
    return _fit(
        model,
        chosen,
        parameters,
        damping,
        frame_kms,
        context,
        max_iter,
        settings=settings,
        real=real,
    )


def summarise_fit(
    objective: Objective,
    state: LmState,
    frame_kms: Float[Array, n_spec],
    *,
    active: Bool[Array, n_spec],
    continuum_sigma_aa: float | None = None,
) -> FitResult:
    """Physical labels, covariance and flags of the point that a solver reached."""
    layout, space = objective.layout, objective.model.label_space
    n_label, n_reported = layout.n_label, layout.n_reported
    equations = state.equations
    solved = active & jnp.isfinite(equations.cost)
    scale = jnp.asarray(layout.physical_scale(space), equations.cost.dtype)
    covariance = invert_positive(equations.curvature)
    if continuum_sigma_aa is not None:
        noise = objective.noise_curvature(state.parameters, continuum_sigma_aa=continuum_sigma_aa)
        covariance = covariance @ noise @ covariance
    covariance = covariance[:, :n_reported, :n_reported] * (scale[:, None] * scale)
    variances = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    definite = jnp.isfinite(covariance).all(axis=(-2, -1)) & (variances > 0).all(axis=-1)
    covariance = jnp.where((solved & definite)[:, None, None], covariance, jnp.nan)
    errors = jnp.sqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1))
    residual_kms = jnp.where(solved, layout.velocity_kms(state.parameters), jnp.nan)
    scaled = state.parameters[:, :n_label]
    n_pix = objective.n_good.astype(jnp.int32)
    dof = jnp.maximum(n_pix - layout.n_par, 0)
    chi2_red = jnp.where(solved, equations.pixel_chi2 / jnp.maximum(dof, 1), jnp.nan)

    flags = jnp.zeros(n_pix.shape, jnp.int32)

    def raise_flag(flags, where, flag: QualityFlag):
        return flags | jnp.where(where, int(flag), 0)

    for index, name in enumerate(space.names):
        at_bound = jnp.abs(scaled[:, index]) > 0.5 - AT_BOUND
        bound_flag = _BOUND_FLAGS.get(name, QualityFlag.OK)
        flags = raise_flag(flags, solved & at_bound, bound_flag)
    if layout.fit_velocity:
        at_edge = jnp.abs(state.parameters[:, n_label]) > 0.5 - AT_BOUND
        flags = raise_flag(flags, solved & at_edge, QualityFlag.VELOCITY_AT_EDGE)
    flags = raise_flag(flags, ~state.converged, QualityFlag.NOT_CONVERGED)
    flags = raise_flag(flags, solved & ~definite, QualityFlag.BAD_COVARIANCE)
    flags = raise_flag(flags, chi2_red > BAD_CHI2, QualityFlag.BAD_CHI2)
    flags = raise_flag(flags, n_pix == 0, QualityFlag.NO_GOOD_PIXELS)
    flags = raise_flag(flags, (n_pix > 0) & ~active, QualityFlag.FEW_PIXELS)
    nothing = jnp.full(n_pix.shape, jnp.nan, chi2_red.dtype)
    return FitResult(
        labels=jnp.where(solved[:, None], space.unscale(scaled), jnp.nan),
        errors=errors[:, :n_label],
        covariance=covariance,
        rv_kms=jnp.where(solved, combine_velocities(frame_kms, residual_kms), jnp.nan),
        e_rv=(
            errors[:, n_label] * (1 + frame_kms / SPEED_OF_LIGHT_KMS)
            if layout.fit_velocity
            else nothing
        ),
        residual_kms=residual_kms,
        chi2=jnp.where(solved, equations.cost, jnp.nan),
        chi2_red=chi2_red,
        n_pix=n_pix,
        dof=dof,
        n_iter=state.n_iter,
        converged=state.converged,
        flags=flags,
    )


def _structure(settings: FitSettings) -> FitSettings:
    """Settings that shape the compiled program; the rest are its arguments or the host's."""
    default = FitSettings()
    return replace(
        settings,
        max_iter=default.max_iter,
        first_pass_iter=default.first_pass_iter,
        batch_size=default.batch_size,
        restarts=default.restarts,
    )


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


def _blank_result(model: ForwardModel, n_spec: int, settings: FitSettings, dtype) -> FitResult:
    """What is known of stars without a good pixel."""
    n_label = model.label_space.n_label
    n_reported = n_label + int(settings.fit_velocity)

    def nothing(*shape: int) -> np.ndarray:
        return np.full((n_spec, *shape), np.nan, dtype)

    flags = int(QualityFlag.NO_GOOD_PIXELS | QualityFlag.NOT_CONVERGED)
    return FitResult(
        labels=nothing(n_label),
        errors=nothing(n_label),
        covariance=nothing(n_reported, n_reported),
        rv_kms=nothing(),
        e_rv=nothing(),
        residual_kms=nothing(),
        chi2=nothing(),
        chi2_red=nothing(),
        n_pix=np.zeros(n_spec, np.int32),
        dof=np.zeros(n_spec, np.int32),
        n_iter=np.zeros(n_spec, np.int32),
        converged=np.zeros(n_spec, bool),
        flags=np.full(n_spec, flags, np.int32),
    )


def _unfinished(result: FitResult) -> np.ndarray:
    """Rows that did not converge though there was something to fit."""
    return np.flatnonzero(~result.converged & np.isfinite(result.chi2))


def _put_rows(result: FitResult, rows: np.ndarray, values: FitResult) -> None:
    for target, column in zip(result, values, strict=True):
        target[rows] = column
