"""First velocities: a grid of shifted templates against all stars, as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.shift import (
    REACH,
    combine_velocities,
    largest_shift_kms,
    pixel_offset,
    shift_by_slices,
    widen_grid,
)
from jaxmdwarf.lsf import apply_lsf, lsf_weights
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, normalise_model
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.preprocess.resample import shift_spectra
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid, doppler_factor

SECONDARY_DELTA_CHI2 = 16.0
"""A second minimum this close in chi-square (4 sigma, in units of the best reduced chi-square)
counts as competing."""

SECONDARY_SEPARATION_KMS = 170.0
"""Minima closer than a resolution element at R = 1800 are one."""

REST_LINES_AA = (7701.08, 8544.44, 8664.52)
"""K I and Ca II lines, vacuum Angstrom, that stand free of blends in K and M dwarfs."""

_FINE_OFFSETS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class VelocityGrid:
    """Velocities that are searched.

    Parameters
    ----------
    low_kms, high_kms : float
        Range.
    step_kms : float
        Coarse step; the search is refined between.
    """

    low_kms: float = -600.0
    high_kms: float = 600.0
    step_kms: float = 40.0

    def __post_init__(self) -> None:
        if not (self.step_kms > 0 and self.high_kms - self.low_kms >= 4 * self.step_kms):
            raise UsageError(
                f"velocities {self.low_kms}..{self.high_kms} in steps of {self.step_kms} km/s are "
                "no grid.",
                "give a range of at least four steps.",
            )

    @property
    def values(self) -> np.ndarray:
        """Grid points, km/s."""
        n_step = round((self.high_kms - self.low_kms) / self.step_kms)
        return self.low_kms + self.step_kms * np.arange(n_step + 1)


class VelocityBank(eqx.Module):
    """Normalised templates at every velocity of a grid, on the pixels of the observed spectra.

    Parameters
    ----------
    shifted : (n_velocity, n_template, n_pix + 6)
        Templates less 1, three more pixels on each side.
    labels : (n_template, n_label)
        What each template is: stellar labels, or its number for empirical ones.
    trusted : (n_pix,)
        1 where all templates have flux at all velocities, else 0.
    velocities : tuple of float
        km/s (static).
    grid : PixelGrid
        Of the spectra (static).
    fit_amplitude : bool
        Whether the contrast of a template is free (static): for empirical templates, whose depths
        need not match the star's.
    """

    shifted: Float[Array, "n_velocity n_template n_wide"]
    labels: Float[Array, "n_template n_label"]
    trusted: Float[Array, n_pix]
    velocities: tuple[float, ...] = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)
    fit_amplitude: bool = eqx.field(static=True, default=False)

    @property
    def n_template(self) -> int:
        """Number of templates."""
        return self.shifted.shape[1]


class VelocityResult(NamedTuple):
    """Velocities of a batch, one row a star; NaN where there was nothing to measure.

    Parameters
    ----------
    rv_kms, e_rv : (n_spec,)
        From the parabola through the minimum of chi-square at the best template; the error from
        its curvature, sqrt(2 / chi2''), widened by the root of the reduced chi-square where that
        is above 1, as templates are never quite the star.
    template : (n_spec,) int32
        Number of the best template.
    labels : (n_spec, n_label)
        Its labels.
    chi2_red : (n_spec,)
    secondary_kms : (n_spec,)
        Velocity of the second-best separate minimum, NaN without one.
    secondary_delta_chi2 : (n_spec,)
        How much worse it is, in units of max(1, chi2_red).
    flags : (n_spec,) int32
        VELOCITY_AT_EDGE, MULTIPLE_MINIMA, NO_GOOD_PIXELS.
    """

    rv_kms: Float[Array, n_spec]
    e_rv: Float[Array, n_spec]
    template: Int[Array, n_spec]
    labels: Float[Array, "n_spec n_label"]
    chi2_red: Float[Array, n_spec]
    secondary_kms: Float[Array, n_spec]
    secondary_delta_chi2: Float[Array, n_spec]
    flags: Int[Array, n_spec]


def bank_from_model(
    model: ForwardModel,
    grid: PixelGrid,
    *,
    nodes: Sequence[int] | np.ndarray | None = None,
    velocities: VelocityGrid | None = None,
) -> VelocityBank:
    """A bank of model spectra at the nodes of a regular grid of labels.

    Parameters
    ----------
    model : ForwardModel
    grid : PixelGrid
        Of the spectra.
    nodes : sequence of int, or array (n_template, n_label), optional
        Nodes along each label, placed at the centres of as many equal cells; or labels in
        physical units. By default 6 along the first label (Teff), 4 along [M/H], 2 along others.
    velocities : VelocityGrid, optional

    Returns
    -------
    VelocityBank
    """
    space = model.label_space
    if nodes is None:
        nodes = [6 if name == "teff" else 4 if name == "mh" else 2 for name in space.names]
    array = np.asarray(nodes)
    if array.ndim == 1:
        if array.size != space.n_label:
            raise MismatchError(f"{array.size} numbers of nodes for the labels {space.names}.")
        axes = [(np.arange(count) + 0.5) / count - 0.5 for count in array]
        scaled = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, space.n_label)
        labels = space.unscale(scaled)
    else:
        labels, scaled = array.astype(float), space.scale(array.astype(float))
    dtype = model.model_error.dtype
    flux = predict_compiled(model, scaled.astype(dtype))
    return _build_bank(flux, model.grid, grid, labels, velocities, fit_amplitude=False)


def bank_from_templates(
    templates: Sequence[tuple[np.ndarray, np.ndarray]],
    grid: PixelGrid,
    *,
    resolution: float = 1800.0,
    native_resolution: float | None = None,
    own_velocity_kms: float | Sequence[float] | np.ndarray = 0.0,
    velocities: VelocityGrid | None = None,
    masks: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    sigma_aa: float = PAPER_SIGMA_AA,
    fit_amplitude: bool = True,
) -> VelocityBank:
    """A bank of empirical or theoretical template spectra.

    Parameters
    ----------
    templates : sequence of (wave_aa, flux)
        Vacuum Angstrom, increasing, at rest; any sampling finer than the pixels.
    grid : PixelGrid
        Of the spectra.
    resolution : float
        Resolving power of the spectra.
    native_resolution : float, optional
        That of the templates; None for templates that are (nearly) unresolved by `resolution`.
    own_velocity_kms : float or sequence of float
        Velocities that the templates themselves still have; `measure_line_velocity` finds them.
    velocities : VelocityGrid, optional
    masks, sigma_aa
        Normalisation, as in `jaxmdwarf.preprocess.preprocess_batch`.
    fit_amplitude : bool
        See `VelocityBank`.

    Returns
    -------
    VelocityBank
        `labels` is the number of each template, shape (n_template, 1).
    """
    own = doppler_factor(np.broadcast_to(own_velocity_kms, (len(templates),)))
    templates = [
        (np.asarray(wave, np.float64) / factor, np.asarray(values))
        for (wave, values), factor in zip(templates, own, strict=True)
    ]
    velocities = velocities or VelocityGrid()
    reach = max(abs(velocities.low_kms), abs(velocities.high_kms)) / SPEED_OF_LIGHT_KMS
    margin = int(np.ceil(reach * grid.wave_aa[-1] / np.min(grid.widths_aa))) + 2 * REACH
    low = max(float(wave[0]) for wave, _ in templates)
    high = min(float(wave[-1]) for wave, _ in templates)
    wide = widen_grid(grid, margin, margin)
    covered = (wide.edges_aa[:-1] >= low) & (wide.edges_aa[1:] <= high)
    first, last = np.flatnonzero(covered)[[0, -1]] if covered.any() else (0, -1)
    used = widen_grid(wide, -int(first), int(last) - wide.n_pix + 1) if last > first else None
    if used is None or used.n_pix < grid.n_pix // 2:
        raise MismatchError(
            f"the templates share {low:.0f}-{high:.0f} Angstrom, the spectra cover "
            f"{grid.wave_aa[0]:.0f}-{grid.wave_aa[-1]:.0f}.",
            "use templates of the range of the spectra.",
        )
    rows = []
    for wave, values in templates:
        weights = lsf_weights(
            wave, used, resolution=resolution, native_resolution=native_resolution
        )
        level = float(np.median(np.abs(values)))
        rows.append(apply_lsf((values / level).astype(np.float32), weights))
    flux = normalise_model(
        jnp.asarray(np.stack(rows)), used, sigma_aa=sigma_aa, window=mask_for(used, masks)
    )
    numbers = np.arange(len(rows), dtype=float)[:, None]
    return _build_bank(flux, used, grid, numbers, velocities, fit_amplitude=fit_amplitude)


def measure_velocity(batch: SpectrumBatch, bank: VelocityBank) -> VelocityResult:
    """Velocities of spectra from a bank of templates.

    Chi-square of every star with every template at every velocity is two matrix products,
    ``sum w d^2 - 2 (w d) @ T + w @ T^2``; around the best grid point the best template is shifted
    in quarter steps, and a parabola through the lowest three points gives velocity and error.

    Parameters
    ----------
    batch : SpectrumBatch
        Normalised, in the observer's frame.
    bank : VelocityBank
        On the grid of the batch.

    Returns
    -------
    VelocityResult

    Examples
    --------
    >>> grid = PixelGrid.linear(6000.0, 6600.0, 1.0)
    >>> wave = np.arange(5900.0, 6700.0, 0.5)
    >>> template = 1 - 0.5 * np.exp(-(((wave - 6300.0) / 8.0) ** 2))
    >>> bank = bank_from_templates([(wave, template)], grid, masks=())
    >>> seen = np.interp(grid.wave_aa / (1 + 100 / 299792.458), wave, template)
    >>> flux = normalise_model(jnp.asarray(seen, jnp.float32)[None, :], grid)
    >>> ivar = jnp.full_like(flux, 1e4)
    >>> bool(abs(measure_velocity(SpectrumBatch(flux, ivar, ivar, grid), bank).rv_kms[0] - 100) < 3)
    True
    """
    if batch.grid != bank.grid:
        raise MismatchError(
            f"the spectra are on {batch.grid}, the templates on {bank.grid}.",
            "make the bank for the grid of the spectra.",
        )
    return _measure(batch, bank)


def measure_line_velocity(
    wave_aa: np.ndarray, flux: np.ndarray, *, lines_aa: Sequence[float] = REST_LINES_AA
) -> float:
    """Velocity of a clean spectrum from strong single lines, km/s: the zero point of a template.

    Empirical templates were brought to rest by their makers to within some km/s, and hand what is
    left on to every star. Each line is fitted by a Gaussian on a sloping continuum.

    Parameters
    ----------
    wave_aa, flux : (n,)
        Vacuum Angstrom.
    lines_aa : sequence of float
        Rest wavelengths of absorption lines.

    Returns
    -------
    float
        Mean over the lines.

    Raises
    ------
    MismatchError
        If the spectrum does not hold the lines.
    """
    from scipy.optimize import least_squares

    speeds = []
    for line in lines_aa:
        near = np.abs(wave_aa - line) < 9.0
        if np.count_nonzero(near) < 8:
            raise MismatchError(
                f"the spectrum does not sample the line at {line:.1f} Angstrom.",
                "give lines within its range.",
            )
        x, y = wave_aa[near] - line, flux[near] / np.median(flux[near])

        def miss(p, x=x, y=y):
            return p[0] + p[1] * x - p[2] * np.exp(-0.5 * ((x - p[3]) / p[4]) ** 2) - y

        centre = least_squares(miss, [1.0, 0.0, 0.2, 0.0, 2.0]).x[3]
        speeds.append(SPEED_OF_LIGHT_KMS * centre / line)
    return float(np.mean(speeds))


@jax.jit
def _measure(batch: SpectrumBatch, bank: VelocityBank) -> VelocityResult:
    dtype = batch.flux.dtype
    good = (batch.information > 0) & (batch.ivar > 0) & jnp.isfinite(batch.flux)
    good = good & (bank.trusted > 0)
    weight = jnp.where(good, batch.information, 0)
    # Less 1, so that chi-squares are not small differences of large numbers.
    data = jnp.where(good, batch.flux - 1, 0)
    n_good = jnp.sum(good, axis=-1)
    n_velocity, n_template, _ = bank.shifted.shape
    core = bank.shifted[..., REACH:-REACH].reshape(n_velocity * n_template, -1)
    high = jax.lax.Precision.HIGHEST
    cross = jnp.matmul(weight * data, core.T, precision=high)
    square = jnp.matmul(weight, (core * core).T, precision=high)
    total = jnp.sum(weight * data * data, axis=-1)
    shape = (-1, n_velocity, n_template)
    explained = _explained(cross, square, fit_amplitude=bank.fit_amplitude).reshape(shape)
    coarse = total[:, None, None] - explained

    velocities = jnp.asarray(bank.velocities, dtype)
    step = velocities[1] - velocities[0]
    best = jnp.argmin(coarse.reshape(coarse.shape[0], -1), axis=-1)
    at_velocity, template = best // n_template, best % n_template
    profile = jnp.min(coarse, axis=-1)

    # Slices reach one pixel; three quarters of a step each way, within that, enclose the minimum.
    chosen = bank.shifted[at_velocity, template]
    fine_step = step / 4

    def chi2_at(number):
        speed = jnp.full(chosen.shape[:1], number * fine_step, dtype)
        shifted = shift_by_slices(chosen, pixel_offset(bank.grid, speed)[0])
        by_cross = jnp.sum(weight * data * shifted, axis=-1)
        by_square = jnp.sum(weight * shifted * shifted, axis=-1)
        return total - _explained(by_cross, by_square, fit_amplitude=bank.fit_amplitude)

    # A loop on the device: written out, it was most of the program that is compiled.
    fine_chi2 = jax.lax.map(chi2_at, jnp.asarray(_FINE_OFFSETS, dtype)).T
    lowest = jnp.clip(jnp.argmin(fine_chi2, axis=-1), 1, len(_FINE_OFFSETS) - 2)
    three = jnp.take_along_axis(fine_chi2, lowest[:, None] + jnp.arange(-1, 2), axis=-1)
    shift, curvature, least = _parabola(three)
    offset = (lowest - len(_FINE_OFFSETS) // 2 + shift) * fine_step
    rv_kms = combine_velocities(velocities[at_velocity], offset)
    e_rv = fine_step * jnp.sqrt(2 / curvature)

    dof = jnp.maximum(n_good - 2 - int(bank.fit_amplitude), 1)
    chi2_red = least / dof
    unit = jnp.maximum(chi2_red, 1)
    secondary_kms, secondary_chi2 = _find_secondary(profile, velocities, rv_kms)
    secondary_delta = (secondary_chi2 - least) / unit
    at_edge = (at_velocity == 0) | (at_velocity == n_velocity - 1)
    empty = n_good < 3
    flags = (
        jnp.where(empty, int(QualityFlag.NO_GOOD_PIXELS), 0)
        | jnp.where(~empty & at_edge, int(QualityFlag.VELOCITY_AT_EDGE), 0)
        | jnp.where(
            ~empty & (secondary_delta < SECONDARY_DELTA_CHI2), int(QualityFlag.MULTIPLE_MINIMA), 0
        )
    ).astype(jnp.int32)

    def known(values):
        lost = empty.reshape((-1,) + (1,) * (values.ndim - 1))
        return jnp.where(lost, jnp.nan, values)

    return VelocityResult(
        rv_kms=known(rv_kms),
        e_rv=known(jnp.where(curvature > 0, e_rv * jnp.sqrt(unit), jnp.nan)),
        template=template.astype(jnp.int32),
        labels=known(bank.labels[template].astype(dtype)),
        chi2_red=known(chi2_red),
        secondary_kms=known(secondary_kms),
        secondary_delta_chi2=known(secondary_delta),
        flags=flags,
    )


def _explained(cross, square, *, fit_amplitude: bool):
    """By how much a template lowers chi-square below that of a flat spectrum."""
    if not fit_amplitude:
        return 2 * cross - square
    positive = square > 0
    amplitude = jnp.where(positive, jnp.maximum(cross, 0) / jnp.where(positive, square, 1), 0)
    return amplitude * cross


def _parabola(three):
    """Offset of the minimum (in steps), second derivative, least value of three samples."""
    left, middle, right = three[..., 0], three[..., 1], three[..., 2]
    curvature = left - 2 * middle + right
    slope = 0.5 * (right - left)
    bent = curvature > 0
    shift = jnp.where(bent, -slope / jnp.where(bent, curvature, 1), 0)
    shift = jnp.clip(shift, -1, 1)
    return shift, curvature, middle + slope * shift + 0.5 * curvature * shift * shift


def _find_secondary(profile, velocities, best_kms):
    """The best velocity that is not within a resolution element of the best one.

    Minima between grid points are found by a parabola. A single minimum so wide that velocities a
    resolution element away fit nearly as well has a secondary one too: such a velocity is not
    determined.
    """
    step = velocities[1] - velocities[0]
    left, middle, right = profile[:, :-2], profile[:, 1:-1], profile[:, 2:]
    shift, _, least = _parabola(jnp.stack([left, middle, right], axis=-1))
    local = (middle <= left) & (middle <= right)
    ends = ((0, 0), (1, 1))
    at = velocities + jnp.pad(jnp.where(local, shift * step, 0), ends)
    least = profile.at[:, 1:-1].set(jnp.where(local, least, middle))
    separate = jnp.abs(at - best_kms[:, None]) > SECONDARY_SEPARATION_KMS
    candidates = jnp.where(separate, least, jnp.inf)
    chosen = jnp.argmin(candidates, axis=-1)[:, None]
    value = jnp.take_along_axis(candidates, chosen, axis=-1)[:, 0]
    where = jnp.take_along_axis(at, chosen, axis=-1)[:, 0]
    return jnp.where(jnp.isfinite(value), where, jnp.nan), value


def _build_bank(
    flux, flux_grid: PixelGrid, grid: PixelGrid, labels, velocities, *, fit_amplitude: bool
) -> VelocityBank:
    velocities = velocities or VelocityGrid()
    # Offsets of the fine search reach three quarters of a step.
    longest = 4.0 / 3.0 * largest_shift_kms(grid)
    if velocities.step_kms > longest:
        raise UsageError(
            f"velocity steps of {velocities.step_kms} km/s are coarser than the pixels allow.",
            f"use at most {longest:.0f} km/s.",
        )
    wide = widen_grid(grid, REACH, REACH)
    shifted, trusted = _shift_all(
        flux,
        velocities.values.astype(flux.dtype),
        flux_grid=flux_grid,
        wide=wide,
    )
    return VelocityBank(
        shifted=shifted,
        labels=jax.device_put(np.asarray(labels, flux.dtype)),
        trusted=trusted,
        velocities=tuple(velocities.values.tolist()),
        grid=grid,
        fit_amplitude=fit_amplitude,
    )


@partial(jax.jit, static_argnames=("flux_grid", "wide"))
def _shift_all(flux, velocities, *, flux_grid: PixelGrid, wide: PixelGrid):
    contrast = flux - 1
    left = _left_of(flux_grid, wide)
    right = flux_grid.n_pix + left - wide.n_pix
    lacking = (max(left, 0), max(-right, 0))
    pixel = np.arange(wide.n_pix) - left

    def at_velocity(speed):
        moved = shift_spectra(contrast, flux_grid, jnp.full(contrast.shape[:1], speed))
        moved = jnp.pad(moved, ((0, 0), lacking), mode="edge")
        start = max(-left, 0)
        return moved[:, start : start + wide.n_pix]

    shifted = jax.lax.map(at_velocity, velocities)
    # Pixels whose flux at some velocity would come from beyond the templates.
    reach = jnp.max(jnp.abs(velocities)) / SPEED_OF_LIGHT_KMS
    in_pixels = wide.wave_aa if wide.kind == "linear" else np.ones(wide.n_pix)
    travel = reach * (in_pixels / wide.step) + REACH
    inside = (pixel - travel >= 0) & (pixel + travel <= flux_grid.n_pix - 1)
    return shifted, inside[REACH:-REACH].astype(contrast.dtype)


def _left_of(flux_grid: PixelGrid, wide: PixelGrid) -> int:
    """Pixels by which `wide` begins left of `flux_grid` (negative: right of it)."""
    if flux_grid.kind == wide.kind == "linear":
        offset = (flux_grid.start_aa - wide.start_aa) / wide.step
    elif flux_grid.kind == wide.kind:
        offset = float(np.log(flux_grid.start_aa / wide.start_aa)) / wide.step
    else:
        offset = np.nan
    same_step = np.isclose(flux_grid.step, wide.step, rtol=1e-9)
    if not (same_step and np.isfinite(offset) and abs(offset - round(offset)) < 1e-3):
        raise MismatchError(
            f"templates on {flux_grid} and spectra on {wide} do not share pixels.",
            "resample one of them.",
        )
    return round(offset)
