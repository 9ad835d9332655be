"""What a fit tells of each star: labels, covariance, chi-squares and flags."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxmdwarf.inference.linear import invert_positive
from jaxmdwarf.inference.objective import Objective
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.shift import combine_velocities
from jaxmdwarf.inference.solvers.base import SolverState
from jaxmdwarf.labels import describe_label
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

AT_BOUND = 1e-3
"""A label this close to a bound, as a fraction of its range, counts as at the bound."""

PRIOR_SHARE = 0.5
"""Share of the information on Teff, priors included, above which it is the priors' Teff.

Other labels of most stars lean on priors: log g and [alpha/M] on the relations that are there for
them, [M/H] of all but the brightest stars on the distribution of the training labels. Of models
without a Teff all labels count."""

BAD_CHI2 = 50.0
"""Reduced chi-square above which a fit is flagged (the paper's cut, section 4)."""

HIGH_CHI2 = 5.0
"""Reduced chi-square in units of what stars of that S/N have, above which a fit is flagged."""

MODEL_MISMATCH = 0.01
"""What models are off by beside their own errors, as a share of the flux: stars of S/N s, errors of
the model among the noise, have reduced chi-squares of 1 + (0.01 s)^2."""


class FitResult(NamedTuple):
    """Labels with errors and flags, one row a star; NaN wherever there is no number.

    Parameters
    ----------
    labels : (n_spec, n_label)
        Physical units, in the order of the model's label space; fixed ones as they were given.
    errors : (n_spec, n_label)
        One-sigma errors: square roots of the diagonal of `covariance`. NaN for fixed labels,
        whose rows and columns of `covariance` are NaN too.
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

    def take(self, rows: Any) -> FitResult:
        """Some of the stars: rows, a slice or a mask."""
        return FitResult(*(column[rows] for column in self))


def summarise_fit(
    problem: FitProblem, objective: Objective, state: SolverState, *, active: Bool[Array, n_spec]
) -> FitResult:
    """Physical labels, covariance and flags of the point that a solver reached.

    Parameters
    ----------
    problem : FitProblem
    objective : Objective
        Of the problem, or of its surrogate.
    state : SolverState
    active : (n_spec,) bool
        Stars with more good pixels than free parameters.
    """
    layout, space, frame_kms = objective.layout, objective.model.label_space, problem.frame_kms
    n_label, n_reported = layout.n_label, layout.n_reported
    equations = state.equations
    solved = active & jnp.isfinite(equations.cost)
    scale = jnp.asarray(layout.physical_scale(space), equations.cost.dtype)
    covariance = invert_positive(equations.curvature)
    if problem.continuum_sigma_aa is not None or objective.doubts_model:
        noise = objective.noise_curvature(
            state.parameters, continuum_sigma_aa=problem.continuum_sigma_aa
        )
        covariance = covariance @ noise @ covariance
    covariance = covariance[:, :n_reported, :n_reported] * (scale[:, None] * scale)
    if layout.fit_velocity and problem.noise.velocity_kms is not None:
        covariance = covariance.at[:, n_label, n_label].add(problem.noise.velocity_kms**2)
    held = layout.held[:n_reported]
    variances = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    definite = jnp.isfinite(covariance).all(axis=(-2, -1)) & (held | (variances > 0)).all(axis=-1)
    covariance = jnp.where((solved & definite)[:, None, None], covariance, jnp.nan)
    if held.any():
        covariance = jnp.where(held[:, None] | held, jnp.nan, covariance)
    errors = jnp.sqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1))
    residual_kms = jnp.where(solved, layout.velocity_kms(state.parameters), jnp.nan)
    scaled = state.parameters[:, :n_label]
    labels = space.unscale(scaled)
    if problem.fixed is not None:
        labels = jnp.where(held[:n_label], problem.fixed, labels)
    n_pix = objective.n_good.astype(jnp.int32)
    dof = jnp.maximum(n_pix - layout.n_free, 0)
    chi2_red = jnp.where(solved, equations.pixel_chi2 / jnp.maximum(dof, 1), jnp.nan)

    flags = jnp.zeros(n_pix.shape, jnp.int32)

    def raise_flag(flags, where, flag: QualityFlag):
        return flags | jnp.where(where, int(flag), 0)

    for index, name in enumerate(space.names):
        if index in layout.fixed:
            continue
        at_bound = jnp.abs(scaled[:, index]) > 0.5 - AT_BOUND
        flags = raise_flag(flags, solved & at_bound, describe_label(name).flag_bit)
    if layout.fit_velocity:
        at_edge = jnp.abs(state.parameters[:, n_label]) > 0.5 - AT_BOUND
        flags = raise_flag(flags, solved & at_edge, QualityFlag.VELOCITY_AT_EDGE)
    flags = raise_flag(flags, ~state.converged, QualityFlag.NOT_CONVERGED)
    flags = raise_flag(flags, solved & ~definite, QualityFlag.BAD_COVARIANCE)
    flags = raise_flag(flags, chi2_red > BAD_CHI2, QualityFlag.BAD_CHI2)
    expected = _expect_chi2(objective, equations.pixel_chi2)
    flags = raise_flag(flags, chi2_red > HIGH_CHI2 * expected, QualityFlag.HIGH_CHI2)
    told = [space.names.index("teff")] if "teff" in space.names else range(space.n_label)
    if objective.priors:
        share = share_of_priors(objective, state)[:, np.array(told)]
        leaning = (share > PRIOR_SHARE).any(axis=-1)
        flags = raise_flag(flags, solved & definite & leaning, QualityFlag.PRIOR_DOMINATED)
    flags = raise_flag(flags, n_pix == 0, QualityFlag.NO_GOOD_PIXELS)
    flags = raise_flag(flags, (n_pix > 0) & ~active, QualityFlag.FEW_PIXELS)
    nothing = jnp.full(n_pix.shape, jnp.nan, chi2_red.dtype)
    return FitResult(
        labels=jnp.where(solved[:, None], labels, jnp.nan),
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


def _expect_chi2(objective: Objective, pixel_chi2: Float[Array, n_spec]) -> Float[Array, n_spec]:
    """Reduced chi-square that stars of this S/N have.

    S/N is that of the model's flux, in whatever unit, for outliers of the data must not speak for
    themselves. As a vector in units of its errors it is at least as long as the data less the
    residuals (triangle inequality), which are known without another look at the model.
    """
    data = jnp.sum(objective.pixel_weight * objective.flux**2, axis=-1)
    model = jnp.maximum(jnp.sqrt(data) - jnp.sqrt(pixel_chi2), 0)
    return 1 + MODEL_MISMATCH**2 * model**2 / jnp.maximum(objective.n_good, 1)


def share_of_priors(objective: Objective, state: SolverState) -> Float[Array, "n_spec n_label"]:
    """Share of the information on each label that is the priors' and not the spectrum's.

    Information is the inverse variance of a label, all others free (Fisher matrix): the share is 1
    less the ratio of the variance with priors to that without, 1 where the spectrum alone leaves a
    label undetermined, and 0 for fixed labels.

    Parameters
    ----------
    objective : Objective
    state : SolverState
        At the solution.
    """
    n_label, held = objective.layout.n_label, objective.layout.held
    both = state.equations.curvature
    of_priors = objective.prior_equations(state.parameters)[2]
    if held.any():
        of_priors = jnp.where(held[:, None] | held, 0, of_priors)
    with_priors, without = (
        jnp.diagonal(invert_positive(one), axis1=-2, axis2=-1)[:, :n_label]
        for one in (both, both - of_priors)
    )
    share = jnp.where(jnp.isfinite(without), 1 - with_priors / without, 1)
    return jnp.where(held[:n_label], 0, share)


def blank_result(n_spec: int, n_label: int, dtype, *, fit_velocity: bool) -> FitResult:
    """What is known of stars without a good pixel."""
    n_reported = n_label + int(fit_velocity)

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


def unfinished_rows(result: FitResult) -> np.ndarray:
    """Rows that did not converge though there was something to fit."""
    return np.flatnonzero(~result.converged & np.isfinite(result.chi2))


def put_rows(result: FitResult, rows: np.ndarray, values: FitResult) -> None:
    """Put results of some stars in their rows, in place."""
    for target, column in zip(result, values, strict=True):
        target[rows] = column
