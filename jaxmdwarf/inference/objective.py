"""What a fit minimises: weighted residuals, their normal equations, bounds and priors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxmdwarf.inference.linear import solve_positive
from jaxmdwarf.inference.parameters import ParameterLayout
from jaxmdwarf.inference.problem import FitProblem, pin_labels
from jaxmdwarf.inference.scatter import StarScatter
from jaxmdwarf.inference.shift import (
    REACH,
    align_grids,
    edge_pixels,
    on_fitted_pixels,
    pixel_offset,
    shift_by_slices,
    widen_grid,
    with_margins,
)
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior, linearise_priors
from jaxmdwarf.preprocess.continuum import transpose_noise
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

LINEARISED_ROWS = 128
"""Stars under an expensive model whose derivatives are held at once."""

_LANES = 16


class NormalEquations(NamedTuple):
    """Chi-square and its Gauss-Newton expansion at given parameters, one row a star.

    Parameters
    ----------
    cost : (n,)
        ``r^T V^-1 r``, priors included; V is the covariance of a star's pixels.
    gradient : (n, k)
        Descent direction ``J^T V^-1 r``: minus half the derivative of `cost`.
    curvature : (n, k, k)
        ``J^T V^-1 J``, priors included.
    pixel_chi2 : (n,)
        Sum of ``residual**2 / pixel variance``, which is of order the number of pixels for a
        model that describes the star.
    """

    cost: Float[Array, n]
    gradient: Float[Array, "n k"]
    curvature: Float[Array, "n k k"]
    pixel_chi2: Float[Array, n]


class Objective(eqx.Module):
    """The weighted residuals of a batch of stars under a forward model.

    Make it with `build_objective`. Bad pixels hold flux 0 and weight 0, whatever was in the data,
    so that nothing they held can enter a sum or a gradient. A few such pixels are added at the red
    end, up to a multiple of 16.

    Parameters
    ----------
    flux : (n_spec, n_pix)
        Observed, 0 at bad pixels.
    weight : (n_spec, n_pix)
        ``1 / (1/information + model variance)``: what the fit minimises with.
    pixel_weight : (n_spec, n_pix)
        ``1 / (1/ivar + model variance)``: what a reduced chi-square is made of.
    photon_share : (n_spec, n_pix)
        Share of the photon noise in the variance that `weight` stands for.
    model : ForwardModel
    context : pytree or None
        Per-star context of the model.
    polynomials : (n_poly, n_pix)
    fixed : (n_spec, n_label) or None
        Labels that are held, in physical units, NaN where they are free: whatever parameters are
        asked for, these take their place.
    scatter : StarScatter or None
        Directions in which stars scatter about the model: the covariance of the pixels is
        ``1/weight`` on the diagonal and what these add.
    label_error : (n_label, n_label) or None
        Covariance of what scaled labels are off by beside all that pixels tell.
    priors : tuple of Prior
        Each is one more residual, in units of its sigma.
    layout : ParameterLayout
        Static.
    grid : PixelGrid
        Of the pixels above (static).
    margins : (int, int)
        Model pixels left and right of them; negative where they reach beyond the model (static).
    """

    flux: Float[Array, "n_spec n_pix"]
    weight: Float[Array, "n_spec n_pix"]
    pixel_weight: Float[Array, "n_spec n_pix"]
    photon_share: Float[Array, "n_spec n_pix"]
    model: ForwardModel
    context: PyTree[Any] | None
    polynomials: Float[Array, "n_poly n_pix"]
    fixed: Float[Array, "n_spec n_label"] | None
    scatter: StarScatter | None
    label_error: Float[Array, "n_label n_label"] | None
    priors: tuple[Prior, ...]
    grid: PixelGrid = eqx.field(static=True)
    layout: ParameterLayout = eqx.field(static=True)
    margins: tuple[int, int] = eqx.field(static=True)

    @property
    def n_good(self) -> Float[Array, n_spec]:
        """Pixels that enter, per star."""
        return jnp.sum(self.weight > 0, axis=-1).astype(self.flux.dtype)

    @property
    def doubts_model(self) -> bool:
        """Whether errors of the model that all stars share are known."""
        nowhere = jnp.zeros((1, self.layout.n_label), self.flux.dtype)
        wrong = self.model.error_directions(nowhere)
        return self.label_error is not None or wrong is not None

    def under(self, model: ForwardModel) -> Objective:
        """The same residuals and weights with the flux of another model of the same labels."""
        return replace(self, model=model)

    def pin(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_par"]:
        """The same parameters with fixed labels where they are fixed; derivatives by them are 0."""
        return pin_labels(self.fixed, self.layout, self.model.label_space, parameters)

    def predict(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_pix"]:
        """Model flux in the frame of the data."""
        layout, parameters = self.layout, self.pin(parameters)
        rest = self.model.predict_scaled_batch(parameters[:, : layout.n_label], self.context)
        flux = self._to_data_frame(rest, parameters)
        if layout.n_poly:
            flux = flux * (1 + parameters[:, layout.n_reported :] @ self.polynomials)
        return flux

    def residuals(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_pix"]:
        """Observed minus model flux; 0 at bad pixels."""
        return jnp.where(self.weight > 0, self.flux - self.predict(parameters), 0)

    def cost(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, n_spec]:
        """``r^T V^-1 r``, priors included: what is minimised."""
        return self.cost_of(self.residuals(parameters), parameters)

    def cost_of(
        self, residual: Float[Array, "n_spec n_pix"], parameters: Float[Array, "n_spec n_par"]
    ) -> Float[Array, n_spec]:
        """What `cost` is, of residuals that are known already."""
        if self.scatter is None:
            from_pixels = _sum_over_pixels(self.weight * residual * residual)
        else:
            (left,), (amplitude,) = self.scatter.take_out(self.weight, residual[None])
            from_pixels = _sum_over_pixels(self.weight * left * left)
            from_pixels = from_pixels + jnp.sum(amplitude**2, axis=-1)
        return from_pixels + self.prior_equations(parameters)[0]

    def normal_equations(self, parameters: Float[Array, "n_spec n_par"]) -> NormalEquations:
        """Cost, gradient and curvature at `parameters`, from one linearisation of the model."""
        slopes, flux = self.linearise(parameters)
        residual = jnp.where(self.weight > 0, self.flux - flux, 0)
        return self.accumulate(slopes, residual, parameters)

    def noise_curvature(
        self, parameters: Float[Array, "n_spec n_par"], *, continuum_sigma_aa: float | None
    ) -> Float[Array, "n_spec k k"]:
        """``J^T V^-1 C V^-1 J``: the covariance of the gradient under the noise C that is there.

        Resampling has correlated neighbouring pixels, and normalising has taken out the noise that
        the pseudo-continuum follows; V, made of the row sums of the covariance, is right for broad
        features only. The covariance of the solution is ``A^-1 B A^-1``, A being the curvature and
        B this matrix (least squares with approximate weights). Priors count as data.
        """
        slopes, flux = self.linearise(parameters)
        good = self.weight > 0
        columns = jnp.stack(slopes)
        if self.scatter is not None:
            columns = self.scatter.take_out(self.weight, columns).columns
        pulls = self.weight * columns
        before = pulls
        if continuum_sigma_aa is not None:
            before = transpose_noise(pulls, flux, good, self.grid, sigma_aa=continuum_sigma_aa)
        variance = jnp.where(good, 1 / jnp.where(good, self.weight, 1), 0)
        row_sum, model = self.photon_share * variance, (1 - self.photon_share) * variance
        diagonal = jnp.where(good, 1 / jnp.where(good, self.pixel_weight, 1), 0) - model
        # Resampling shares noise between neighbours: what the row sum has beyond the diagonal.
        beside = 0.5 * (row_sum - diagonal)
        between = 0.5 * (beside[:, 1:] + beside[:, :-1])
        one_side = jnp.einsum("inp,np,jnp->nij", before[..., 1:], between, before[..., :-1])
        found = (
            self._scatter_along_directions(pulls, parameters)
            + self._scatter_of_labels(pulls, slopes)
            + jnp.einsum("inp,np,jnp->nij", before, diagonal, before)
            + one_side
            + jnp.swapaxes(one_side, -1, -2)
            + jnp.einsum("inp,np,jnp->nij", pulls, model, pulls)
            + self.prior_equations(parameters)[2]
        )
        held = self.layout.held
        return jnp.where(held[:, None] | held, 0, found) if held.any() else found

    def prior_equations(
        self, parameters: Float[Array, "n_spec n_par"]
    ) -> tuple[
        Float[Array, n_spec], Float[Array, "n_spec n_par"], Float[Array, "n_spec n_par n_par"]
    ]:
        """What the priors add to cost, gradient and curvature; priors count as data."""
        n_label, n_par = self.layout.n_label, self.layout.n_par
        residual, slopes = linearise_priors(
            self.priors, self.model.label_space, self.pin(parameters)[:, :n_label]
        )
        slopes = jnp.pad(slopes, ((0, 0), (0, 0), (0, n_par - n_label)))
        return (
            jnp.sum(residual * residual, axis=-1),
            jnp.sum(slopes * residual[:, :, None], axis=1),
            jnp.sum(slopes[:, :, :, None] * slopes[:, :, None, :], axis=1),
        )

    def _scatter_along_directions(self, pulls, parameters):
        """Covariance of the gradient from what stars scatter along, and from errors of the model.

        The latter are the same for all stars, and so is what they do to the labels.
        """
        found = jnp.zeros((), pulls.dtype)
        if self.scatter is not None:
            along = jnp.einsum("inp,kp->ink", pulls, self.scatter.shapes)
            found = found + jnp.einsum("ink,jnk->nij", along, along)
        wrong = self.model.error_directions(self.pin(parameters)[:, : self.layout.n_label])
        if wrong is not None:
            shapes = on_fitted_pixels(wrong, self.margins)
            along = jnp.einsum("inp,nmp->inm", pulls, shapes)
            found = found + jnp.einsum("inm,jnm->nij", along, along)
        return found

    def _scatter_of_labels(self, pulls, slopes):
        """Covariance of the gradient from errors of labels, as far as labels are the spectrum's."""
        if self.label_error is None:
            return jnp.zeros((), pulls.dtype)
        told = jnp.einsum("inp,jnp->nij", pulls, jnp.stack(slopes[: self.layout.n_label]))
        return jnp.einsum("nia,ab,njb->nij", told, self.label_error, told)

    def linearise(self, parameters):
        """Slopes of the model flux by each parameter, fixed or not, and that flux."""
        return _linearise(self, parameters)

    def accumulate(self, slopes, residual, parameters) -> NormalEquations:
        """Normal equations from slopes and residuals that are known already."""
        n_par = self.layout.n_par
        pairs = [(i, j) for i in range(n_par) for j in range(i, n_par + 1)]

        # Without the barrier some compilers would shift the spectra again for every sum below.
        slopes, residual = jax.lax.optimization_barrier((slopes, residual))
        columns: Any = [*slopes, residual]
        amplitudes = None
        if self.scatter is not None:
            columns, amplitudes = self.scatter.take_out(self.weight, jnp.stack(columns))
        weighted = [self.weight * columns[i] for i in range(n_par)]
        sums = [_sum_over_pixels(weighted[i] * columns[j]) for i, j in pairs]
        cost = _sum_over_pixels(self.weight * (columns[n_par] * columns[n_par]))
        if amplitudes is not None:
            sums = [
                total + jnp.sum(amplitudes[i] * amplitudes[j], axis=-1)
                for total, (i, j) in zip(sums, pairs, strict=True)
            ]
            cost = cost + jnp.sum(amplitudes[n_par] ** 2, axis=-1)
        known = dict(zip(pairs, sums, strict=True))
        gradient = jnp.stack([known[i, n_par] for i in range(n_par)], axis=-1)
        curvature = jnp.stack(
            [
                jnp.stack([known[min(i, j), max(i, j)] for j in range(n_par)], axis=-1)
                for i in range(n_par)
            ],
            axis=-2,
        )
        prior_cost, prior_gradient, prior_curvature = self.prior_equations(parameters)
        gradient, curvature = hold_still(
            self.layout.held, gradient + prior_gradient, curvature + prior_curvature
        )
        return NormalEquations(
            cost=cost + prior_cost,
            gradient=gradient,
            curvature=curvature,
            pixel_chi2=_sum_over_pixels(self.pixel_weight * (residual * residual)),
        )

    def settle_polynomial(
        self, parameters: Float[Array, "n_spec n_par"]
    ) -> Float[Array, "n_spec n_par"]:
        """The same parameters with the best polynomial: one step, for flux is linear in it."""
        layout = self.layout
        if not layout.n_poly:
            return parameters
        tail = slice(layout.n_reported, None)
        equations = self.normal_equations(parameters)
        step = solve_positive(equations.curvature[:, tail, tail], equations.gradient[:, tail, None])
        return parameters.at[:, tail].add(step[..., 0])

    def _offsets(self, parameters):
        return pixel_offset(self.grid, self.layout.velocity_kms(parameters))

    def _to_data_frame(self, rest, parameters):
        wide = with_margins(rest, *self.margins)
        if not self.layout.fit_velocity:
            return wide[..., REACH:-REACH]
        return shift_by_slices(wide, self._offsets(parameters)[0])


# Compiled as one, as is the flux below: a fit linearises for its steps and for its errors, and a
# program that is called twice is traced once.
@jax.jit
def _linearise(objective: Objective, parameters):
    layout, parameters = objective.layout, objective.pin(parameters)
    scaled = parameters[:, : layout.n_label]
    rest, rest_slopes = linearise_flux(objective.model, scaled, objective.context)
    slopes = list(objective._to_data_frame(rest_slopes, parameters))
    if layout.fit_velocity:
        offset, offset_slope = objective._offsets(parameters)
        wide = with_margins(rest, *objective.margins)
        flux, by_offset = jax.jvp(
            lambda at: shift_by_slices(wide, at), (offset,), (jnp.ones_like(offset),)
        )
        slopes.append(by_offset * offset_slope * (2 * layout.velocity_limit_kms))
    else:
        flux = objective._to_data_frame(rest, parameters)
    if layout.n_poly:
        factor = 1 + parameters[:, layout.n_reported :] @ objective.polynomials
        slopes = [slope * factor for slope in slopes]
        slopes += [flux * polynomial for polynomial in objective.polynomials]
        flux = flux * factor
    return slopes, flux


@jax.jit
def linearise_flux(
    model: ForwardModel, scaled: Float[Array, "n n_label"], context: PyTree[Any] | None
) -> tuple[Float[Array, "n n_pix"], Float[Array, "n_label n n_pix"]]:
    """Flux of a model and its derivatives by the scaled labels.

    Expensive models, which hold many numbers a pixel while they are linearised, are so in groups of
    `LINEARISED_ROWS` stars: memory then hardly grows with the batch.
    """
    n, n_label = scaled.shape

    def linearise(scaled, context):
        flux, push = jax.linearize(lambda at: model.predict_scaled_batch(at, context), scaled)
        directions = jnp.eye(n_label, dtype=scaled.dtype)[:, None, :]
        directions = jnp.broadcast_to(directions, (n_label, *scaled.shape))
        return flux, jax.vmap(push)(directions)

    if not model.expensive or n <= LINEARISED_ROWS:
        return linearise(scaled, context)
    n_group = -(-n // LINEARISED_ROWS)
    rows = np.arange(n_group * LINEARISED_ROWS).reshape(n_group, LINEARISED_ROWS) % n
    groups = jax.tree.map(lambda leaf: leaf[rows], (scaled, context))
    flux, slopes = jax.lax.map(lambda group: linearise(*group), groups)
    slopes = jnp.moveaxis(slopes, 1, 0).reshape(n_label, -1, flux.shape[-1])
    return flux.reshape(-1, flux.shape[-1])[:n], slopes[:, :n]


def build_objective(problem: FitProblem) -> Objective:
    """The objective of a problem: pure, and traced in every compiled fit.

    Parameters
    ----------
    problem : FitProblem

    Returns
    -------
    Objective

    Notes
    -----
    The model error enters the variances as (error * flux)^2 with the model's flux at the centre of
    its label space: fixed weights, the same wherever a fit starts from, so that chi-square stays a
    sum of squares whose minimum is the solution.
    """
    model, layout, grid = problem.model, problem.layout, problem.batch.grid
    lacking = edge_pixels(grid, *align_grids(model.grid, grid))
    left, right = fitted_margins(model.grid, grid)
    batch = _pad_pixels(scale_errors(problem.batch, problem.noise.scale))
    dtype = batch.flux.dtype
    # With a context each star has a centre of its own: whose neighbour it is must not matter.
    centre = model.predict_centre(problem.context, batch.n_spec)
    model_variance = jnp.square(jnp.asarray(model.model_error, dtype) * centre)
    model_variance = on_fitted_pixels(model_variance, (left, right))
    good = (batch.ivar > 0) & (batch.information > 0) & jnp.isfinite(batch.flux)
    good = good & jnp.isfinite(batch.ivar) & jnp.isfinite(batch.information)
    if layout.fit_velocity:
        good = good & ~jnp.asarray(np.pad(lacking, (0, good.shape[1] - lacking.size)))
    n_fitted = batch.grid.n_pix
    x = 2.0 * np.arange(n_fitted) / (n_fitted - 1) - 1.0
    polynomials = np.polynomial.legendre.legvander(x, max(layout.n_poly - 1, 0)).T[: layout.n_poly]
    weight = _combine_errors(batch.information, model_variance, good)
    scatter = None
    if problem.noise.nuisance is not None and problem.noise.nuisance.shape[0]:
        shapes = on_fitted_pixels(problem.noise.nuisance, (left, right)).astype(dtype)
        scatter = StarScatter.weigh(shapes, weight)
    return Objective(
        flux=jnp.where(good, batch.flux, 0),
        weight=weight,
        photon_share=weight / jnp.where(good, batch.information, 1),
        pixel_weight=_combine_errors(batch.ivar, model_variance, good),
        model=model,
        context=problem.context,
        polynomials=jnp.asarray(polynomials, dtype),
        fixed=problem.fixed,
        scatter=scatter,
        label_error=problem.noise.labels,
        priors=problem.priors,
        grid=batch.grid,
        layout=layout,
        margins=(left, right),
    )


def scale_errors(batch: SpectrumBatch, scale: Float[Array, ""] | float) -> SpectrumBatch:
    """The batch with errors `scale` times as large as stated."""
    ivar, information = (values / scale**2 for values in (batch.ivar, batch.information))
    return SpectrumBatch(batch.flux, ivar, information, batch.grid)


def hold_still(
    held: Bool[np.ndarray, k], gradient: Float[Array, "n k"], curvature: Float[Array, "n k k"]
) -> tuple[Float[Array, "n k"], Float[Array, "n k k"]]:
    """Nothing pulls at what is held, and nothing else depends on it: its step is exactly 0."""
    if isinstance(held, np.ndarray) and not held.any():
        return gradient, curvature
    identity = jnp.eye(curvature.shape[-1], dtype=curvature.dtype)
    either = held[:, None] | held[None, :]
    return jnp.where(held, 0, gradient), jnp.where(either, identity, curvature)


def fitted_margins(model_grid: PixelGrid, grid: PixelGrid) -> tuple[int, int]:
    """Model pixels left and right of those that the objective of spectra on `grid` has."""
    left, right = align_grids(model_grid, grid)
    return left, right - (-grid.n_pix % _LANES)


def _sum_over_pixels(values: Float[Array, "n n_pix"]) -> Float[Array, n]:
    """Sum of rows in `_LANES` interleaved parts, which vector units add side by side."""
    return jnp.sum(jnp.sum(values.reshape(values.shape[0], -1, _LANES), axis=1), axis=-1)


def _combine_errors(inverse_variance, model_variance, good: Bool[Array, "n_spec n_pix"]):
    # 1 / (1/i + m) written without dividing by i, which may be 0.
    known = jnp.where(good, inverse_variance, 0)
    return known / (1 + known * model_variance)


def _pad_pixels(batch: SpectrumBatch) -> SpectrumBatch:
    """The batch with bad pixels at the red end, up to a whole number of `_LANES`."""
    n_more = -batch.grid.n_pix % _LANES
    if n_more == 0:
        return batch
    flux, ivar, information = (
        jnp.pad(values, ((0, 0), (0, n_more)))
        for values in (batch.flux, batch.ivar, batch.information)
    )
    return SpectrumBatch(flux, ivar, information, widen_grid(batch.grid, 0, n_more))
