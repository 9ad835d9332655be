"""All that a fit takes as given: one object for fits, landscapes, posteriors and error bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.parameters import ParameterLayout, Start, require_poly_order
from jaxmdwarf.inference.shift import align_grids, largest_shift_kms
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, NoiseModel
from jaxmdwarf.models.priors import Prior, choose_priors, require_prior_labels
from jaxmdwarf.preprocess.blocks import choose_block_size, map_blocks
from jaxmdwarf.spectra import SpectrumBatch

FixedLabels: TypeAlias = Mapping[str, float | Sequence[float] | np.ndarray]
"""Labels by name, each one value for all stars or one a star, physical units."""

WantedPriors: TypeAlias = str | Prior | Sequence[str | Prior]
"""Priors by name or as they are; see `jaxmdwarf.models.priors.choose_priors`."""

_LEAST_ROWS = 32


class FitProblem(eqx.Module):
    """Spectra, the model that they are fitted with, and all that is assumed of both.

    Make it with `from_batch`, which asks the model for what it knows. Whatever takes a problem
    (`jaxmdwarf.inference.schedule.fit`, landscapes, posteriors, error bounds) minimises or
    explores one and the same chi-square.

    Parameters
    ----------
    model : ForwardModel
    batch : SpectrumBatch
        Normalised spectra in (about) the rest frame, with errors as stated.
    frame_kms : (n_spec,)
        Velocities that were taken out of the spectra.
    context : pytree or None
        Per-star context of the model.
    fixed : (n_spec, n_label) or None
        Labels that are held, physical units, in columns of their own; NaN in all others. None
        where no label is held.
    noise : NoiseModel
        By how much stated errors fall short, and along which directions stars scatter.
    priors : tuple of Prior
    fixed_names : tuple of str
        Labels that are held (static, as is all below).
    fit_velocity : bool
        Whether a residual velocity, within one pixel's shift, is a parameter beside the labels.
    poly_order : int or None
        Order of a multiplicative polynomial over the grid, fitted beside the labels.
    continuum_sigma_aa : float or None
        Width of the pseudo-continuum that the spectra were divided by (eq. 3): the errors then
        know which noise it took out. None takes the pixels as they are.
    warnings : tuple of str
        What was asked for and cannot be, one sentence each.

    Raises
    ------
    UsageError
        If there are no spectra, or the polynomial's order is not within 0 and 10.
    MismatchError
        If the pixel grids or the shapes differ.

    Examples
    --------
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6200.0, 1.0)
    >>> space = LabelSpace(("teff", "logg"), ("K", "dex"), (3000.0, 4.0), (4000.0, 6.0))
    >>> model = TableModel(jnp.ones((4, 201)), jnp.zeros(201), space, grid)
    >>> batch = SpectrumBatch(*[jnp.ones((3, 201))] * 3, grid)
    >>> problem = FitProblem.from_batch(model, batch, fixed={"logg": [4.8, 4.9, 5.0]})
    >>> problem.n_spec, problem[1].fixed.tolist(), problem.layout.n_free
    (3, [[nan, 4.900000095367432]], 2)
    """

    model: ForwardModel
    batch: SpectrumBatch
    frame_kms: Float[Array, n_spec]
    context: PyTree[Any] | None
    fixed: Float[Array, "n_spec n_label"] | None
    noise: NoiseModel
    priors: tuple[Prior, ...] = ()
    fixed_names: tuple[str, ...] = eqx.field(static=True, default=())
    fit_velocity: bool = eqx.field(static=True, default=True)
    poly_order: int | None = eqx.field(static=True, default=None)
    continuum_sigma_aa: float | None = eqx.field(static=True, default=None)
    warnings: tuple[str, ...] = eqx.field(static=True, default=())

    def __check_init__(self) -> None:
        n_spec, n_label = self.n_spec, self.label_space.n_label
        if not n_spec:
            raise UsageError("there are no spectra to fit.", "choose at least one.")
        align_grids(self.model.grid, self.batch.grid)
        if self.frame_kms.shape != (n_spec,):
            raise MismatchError(
                f"{n_spec} spectra, frame velocities of shape {self.frame_kms.shape}.",
                "give one velocity a spectrum.",
            )
        if self.fixed is not None and self.fixed.shape != (n_spec, n_label):
            raise MismatchError(
                f"fixed labels have shape {self.fixed.shape}, not {(n_spec, n_label)}."
            )
        for leaf in jax.tree.leaves(self.context):
            if leaf.shape[:1] != (n_spec,):
                raise MismatchError(
                    f"the context has {leaf.shape[:1]} rows for {n_spec} spectra.",
                    "give one row a spectrum.",
                )
        require_poly_order(self.poly_order)
        require_prior_labels(self.priors, self.label_space)

    @classmethod
    def from_batch(
        cls,
        model: ForwardModel,
        batch: SpectrumBatch,
        *,
        frame_kms: Float[Array | np.ndarray, n_spec] | None = None,
        fit_velocity: bool = True,
        priors: WantedPriors = "model",
        fixed: FixedLabels | None = None,
        poly_order: int | None = None,
        context: PyTree[Any] | Literal["model"] | None = "model",
        noise: NoiseModel | None = None,
        continuum_sigma_aa: float | Literal["model"] | None = "model",
    ) -> FitProblem:
        """The problem of fitting `model` to `batch`, with what the model itself knows.

        Parameters
        ----------
        model : ForwardModel
            Its grid must hold the pixels of the batch; pixels beyond them serve the shifts.
        batch : SpectrumBatch
            Normalised as the model's spectra are; ivar or information 0 marks bad pixels.
        frame_kms : (n_spec,), optional
            Velocities that were taken out of the spectra; none by default.
        fit_velocity : bool
        priors : str, Prior, or a sequence of them
            "model", "none", keys of the model's priors, priors of one's own.
        fixed : mapping of str to float or (n_spec,), optional
            Labels that are held at given values, physical units.
        poly_order : int, optional
        context : pytree, optional
            By default what the model reads off the spectra.
        noise : NoiseModel, optional
            That of the model by default.
        continuum_sigma_aa : float or None
            By default that of the model's preprocessing.

        Raises
        ------
        UsageError
            If a prior or a label is unknown, or a fixed label lies outside the model.
        MismatchError
            If shapes or grids differ.
        """
        batch = jax.tree.map(jnp.asarray, batch)
        dtype, space = batch.flux.dtype, model.label_space
        align_grids(model.grid, batch.grid)
        chosen = choose_priors(priors, model.priors(), space)
        noise = model.noise_model() if noise is None else noise
        if isinstance(context, str):
            context = model.read_context(batch)
        if isinstance(continuum_sigma_aa, str):
            continuum_sigma_aa = model.preprocessing.sigma_aa
        fixed = fixed or {}
        held = _place_fixed(fixed, space, batch.n_spec) if fixed else None
        return cls(
            model=model,
            batch=batch,
            frame_kms=_as_type(np.zeros(batch.n_spec) if frame_kms is None else frame_kms, dtype),
            context=jax.tree.map(jnp.asarray, context),
            fixed=None if held is None else _as_type(held, dtype),
            noise=noise._replace(scale=_as_type(noise.scale, dtype)),
            priors=chosen.priors,
            fixed_names=tuple(name for name in space.names if name in fixed),
            fit_velocity=fit_velocity,
            poly_order=poly_order,
            continuum_sigma_aa=continuum_sigma_aa,
            warnings=chosen.warnings,
        )

    @property
    def n_spec(self) -> int:
        """Number of spectra."""
        return self.batch.n_spec

    @property
    def label_space(self) -> LabelSpace:
        """Labels of the model, with their bounds."""
        return self.model.label_space

    @property
    def layout(self) -> ParameterLayout:
        """What the parameters of a star are."""
        return ParameterLayout(
            self.label_space.n_label,
            self.fit_velocity,
            0 if self.poly_order is None else self.poly_order + 1,
            largest_shift_kms(self.batch.grid),
            tuple(self.label_space.index(name) for name in self.fixed_names),
        )

    @property
    def labels_alone(self) -> bool:
        """Whether neither velocity nor polynomial is a parameter."""
        return not self.fit_velocity and self.poly_order is None

    @property
    def stars(self) -> tuple[SpectrumBatch, Any, Any, Any]:
        """What differs from star to star: spectra, frames, contexts, fixed labels."""
        return (self.batch, self.frame_kms, self.context, self.fixed)

    def __len__(self) -> int:
        return self.n_spec

    def __getitem__(self, rows: Any) -> FitProblem:
        """Some of the spectra: a row, a slice, a list of rows, or a mask of them."""
        if isinstance(rows, slice):
            rows = np.arange(self.n_spec)[rows]
        return self.take(rows)

    def take(self, rows: int | Sequence[int] | Int[Array | np.ndarray, n]) -> FitProblem:
        """Some of the spectra, in the given order.

        Parameters
        ----------
        rows : int, or sequence of them
            From 0; a boolean for each spectrum will do. Under `jax.jit` an array that is traced.

        Raises
        ------
        UsageError
            If there is no such row, or none is chosen.
        """
        if not isinstance(rows, jax.core.Tracer):
            rows = choose_rows(rows, self.n_spec)
        stars = self.stars
        on_host = any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(stars))
        return self.with_stars((_take_on_host if on_host else take_stars)(stars, rows))

    def to_host(self) -> FitProblem:
        """With what differs from star to star as numpy arrays, which take no room on a device."""
        return self._map_stars(np.asarray)

    def to_device(self) -> FitProblem:
        """With all of that as arrays of JAX."""
        return self._map_stars(jnp.asarray)

    @staticmethod
    def join(problems: Sequence[FitProblem]) -> FitProblem:
        """One problem of several that differ in their stars alone, on the host."""
        stars = jax.tree.map(
            lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]),
            *(problem.stars for problem in problems),
        )
        return problems[0].with_stars(stars)

    def under(self, model: ForwardModel) -> FitProblem:
        """The same problem for another model of the same labels, pixels and context."""
        return replace(self, model=model)

    def pad_to(self, n_row: int) -> FitProblem:
        """With rows without a good pixel at the end, so that few shapes are compiled."""
        n_more = n_row - self.n_spec
        if n_more <= 0:
            return self

        def repeat(leaf):
            return jax.device_put(np.resize(np.asarray(leaf), (n_row, *leaf.shape[1:])))

        def blank(leaf):
            return jax.device_put(np.pad(np.asarray(leaf), ((0, n_more), (0, 0))))

        padded = self._map_stars(repeat)
        batch = padded.batch
        batch = SpectrumBatch(
            batch.flux, blank(self.batch.ivar), blank(self.batch.information), batch.grid
        )
        return replace(padded, batch=batch)

    def _map_stars(self, change: Callable[[Any], Any]) -> FitProblem:
        return self.with_stars(jax.tree.map(change, self.stars))

    def with_stars(self, stars: Any) -> FitProblem:
        """The same of other stars, as `stars` gives them."""
        return eqx.tree_at(
            lambda problem: problem.stars, self, stars, is_leaf=lambda leaf: leaf is None
        )

    def map_blocks(
        self, work: Callable[..., PyTree[Any]], *columns: Array, real: Bool[Array, n]
    ) -> PyTree[Any]:
        """What `work` makes of the problem of some stars at a time, inside a compiled program.

        Parameters
        ----------
        work : callable
            Takes a problem of fewer stars and their rows of `columns`; returns arrays with a row
            for each.
        columns : (n_spec, ...)
        real : (n_spec,) bool
            See `jaxmdwarf.preprocess.blocks.map_blocks`.
        """

        def work_here(stars: Any) -> PyTree[Any]:
            own, *rows = stars
            return work(self.with_stars(own), *rows)

        return map_blocks(work_here, (self.stars, *columns), real, choose_block_size())

    def to_synthetic(self) -> FitProblem | None:
        """The problem in the domain of theory; None under models that transfer nothing.

        The first of the two fits of the paper's section 3.5, whose labels start the second.
        """
        carried = self.model.to_synthetic(self.batch)
        if carried is None:
            return None
        model, batch = carried
        return replace(self, model=model, batch=batch, context=None)

    def centre_start(self) -> Start:
        """All stars at the centre of the label space, at rest."""
        space, dtype = self.label_space, np.dtype(self.batch.flux.dtype)
        centre = space.unscale(np.zeros(space.n_label, dtype))
        return Start(
            np.broadcast_to(centre, (self.n_spec, space.n_label)), np.zeros(self.n_spec, dtype)
        )

    def parameters_at(self, start: Start | None) -> Float[Array, "n_spec n_par"]:
        """Scaled labels, velocity and a polynomial of 0, within the bounds.

        Parameters
        ----------
        start : Start, or anything with its two columns
            By default the centre of the label space. Fixed labels are what they are.

        Raises
        ------
        MismatchError
            If shapes differ.
        """
        start = self.centre_start() if start is None else start
        self.require_rows(start)
        dtype = self.batch.flux.dtype
        columns = (_as_type(start.labels, dtype), _as_type(start.residual_kms, dtype))
        return _place(*columns, self.fixed, layout=self.layout, space=self.label_space)

    def pin(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_par"]:
        """The same parameters with fixed labels where they are fixed."""
        return pin_labels(self.fixed, self.layout, self.label_space, parameters)

    def require_rows(self, start: Any) -> None:
        """Raise `MismatchError` unless labels and velocities have one row for each spectrum."""
        expected = (self.n_spec, self.label_space.n_label)
        labels, speeds = jnp.shape(start.labels), jnp.shape(start.residual_kms)
        if labels != expected or speeds != expected[:1]:
            raise MismatchError(
                f"labels of shape {labels} and velocities of shape {speeds} for {self.n_spec} "
                f"spectra and the labels {', '.join(self.label_space.names)}.",
                f"give labels of shape {expected} in physical units and one velocity a spectrum.",
            )


def _take_on_host(stars, rows):
    return jax.tree.map(lambda leaf: leaf[rows], stars)


@jax.jit
def take_stars(stars: PyTree[Any], rows: Int[Array | np.ndarray, n]) -> PyTree[Any]:
    """Rows of `FitProblem.stars`: one program, where array by array there would be five."""
    return _take_on_host(stars, rows)


def _as_type(values: Any, dtype: Any) -> Array:
    """An array on the device; what comes from the host is converted there, not by a program."""
    values = values if isinstance(values, jax.Array) else np.asarray(values, dtype)
    return jnp.asarray(values, dtype)


@partial(jax.jit, static_argnames=("layout", "space"))
def _place(labels, speeds, fixed, *, layout: ParameterLayout, space: LabelSpace):
    """Columns of parameters; one program, for each operation by itself would be one."""
    columns = [jnp.clip(space.scale(labels), -0.5, 0.5)]
    if layout.fit_velocity:
        columns.append(speeds[:, None] / (2 * layout.velocity_limit_kms))
    columns.append(jnp.zeros((labels.shape[0], layout.n_poly), labels.dtype))
    return pin_labels(fixed, layout, space, jnp.concatenate(columns, axis=-1))


def pin_labels(
    fixed: Float[Array, "n n_label"] | None,
    layout: ParameterLayout,
    space: LabelSpace,
    parameters: Float[Array, "n n_par"],
) -> Float[Array, "n n_par"]:
    """Parameters with fixed labels where they are fixed; derivatives by them are 0."""
    if fixed is None:
        return parameters
    scaled = jnp.pad(space.scale(fixed), ((0, 0), (0, layout.n_par - layout.n_label)))
    return jnp.where(jnp.asarray(layout.held), scaled, parameters)


def choose_rows(rows: Any, n_spec: int) -> Int[np.ndarray, n]:
    """Row numbers from a number, a sequence or a mask; `UsageError` where they make no sense."""
    chosen = np.asarray(rows)
    if chosen.dtype == bool and chosen.shape == (n_spec,):
        chosen = np.flatnonzero(chosen)
    if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
        raise UsageError(
            f"rows {chosen.tolist()} are no row numbers.", f"give numbers from 0 to {n_spec - 1}."
        )
    chosen = chosen.astype(np.int64).reshape(-1)
    if not chosen.size or chosen.min() < 0 or chosen.max() >= n_spec:
        raise UsageError(
            f"rows {chosen.tolist()} of {n_spec} spectra.",
            f"give row numbers from 0 to {n_spec - 1}.",
        )
    return chosen


def padded_rows(n_spec: int) -> int:
    """Rows that `n_spec` spectra are padded to, so that few shapes are compiled.

    At most a third of the rows of longer lists are padding.

    Examples
    --------
    >>> [padded_rows(n) for n in (1, 21, 33, 65, 97, 1000)]
    [32, 32, 64, 96, 128, 1024]
    """
    power = _LEAST_ROWS
    while power < n_spec:
        power *= 2
    three_quarters = 3 * power // 4
    return three_quarters if power > 2 * _LEAST_ROWS and n_spec <= three_quarters else power


def _place_fixed(fixed: FixedLabels, space: LabelSpace, n_spec: int) -> np.ndarray:
    """Fixed labels in their columns, (n_spec, n_label); NaN in the others."""
    held = np.full((n_spec, space.n_label), np.nan)
    for name, values in fixed.items():
        index = space.index(name)
        given = np.asarray(values, np.float64)
        if given.shape not in ((), (1,), (n_spec,)):
            raise MismatchError(
                f"the fixed {name} has shape {given.shape} for {n_spec} spectra.",
                "give one value, or one a spectrum.",
            )
        space.require_label_inside(name, given)
        held[:, index] = given
    return held
