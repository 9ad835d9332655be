"""What a fit minimises: weighted residuals, their normal equations, bounds and priors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxmdwarf.inference.shift import (
    REACH,
    align_grids,
    edge_pixels,
    largest_shift_kms,
    on_fitted_pixels,
    pixel_offset,
    shift_by_slices,
    widen_grid,
    with_margins,
)
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior, linearise_priors, require_prior_labels
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
        Sum of ``weight * residual**2``, priors included.
    gradient : (n, k)
        Descent direction ``J^T W r``: minus half the derivative of `cost`.
    curvature : (n, k, k)
        ``J^T W J``, priors included.
    pixel_chi2 : (n,)
        Sum of ``residual**2 / pixel variance``, which is of order the number of pixels for a
        model that describes the star.
    """

    cost: Float[Array, n]
    gradient: Float[Array, "n k"]
    curvature: Float[Array, "n k k"]
    pixel_chi2: Float[Array, n]


@dataclass(frozen=True)
class ParameterLayout:
    """What the columns of a parameter array are: scaled labels, velocity, polynomial.

    The velocity is scaled so that -0.5 and 0.5 are the limits of the residual shift; polynomial
    coefficients multiply Legendre polynomials over the grid, as ``flux * (1 + sum c_j P_j)``.

    Parameters
    ----------
    n_label : int
    fit_velocity : bool
    n_poly : int
        Coefficients of the multiplicative polynomial; 0 for none.
    velocity_limit_kms : float
        Largest residual velocity.
    """

    n_label: int
    fit_velocity: bool
    n_poly: int
    velocity_limit_kms: float

    @property
    def n_reported(self) -> int:
        """Labels, and the velocity where it is fitted."""
        return self.n_label + int(self.fit_velocity)

    @property
    def n_par(self) -> int:
        """All parameters of a star."""
        return self.n_reported + self.n_poly

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds, (n_par,); the upper ones are their negatives."""
        return np.r_[np.full(self.n_reported, -0.5), np.full(self.n_poly, -np.inf)]

    def velocity_kms(self, parameters: Float[Array, "n k"]) -> Float[Array, n]:
        """Residual velocities, 0 where they are not fitted."""
        if not self.fit_velocity:
            return jnp.zeros_like(parameters[:, 0])
        return parameters[:, self.n_label] * (2 * self.velocity_limit_kms)

    def physical_scale(self, space: LabelSpace) -> np.ndarray:
        """Physical units (K, dex, km/s) in one unit of each reported parameter."""
        widths = np.subtract(space.upper, space.lower)
        return np.r_[widths, [2 * self.velocity_limit_kms] * int(self.fit_velocity)]


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
    priors : tuple of Prior
        Each is one more residual, in units of its sigma (static).
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
    priors: tuple[Prior, ...] = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)
    layout: ParameterLayout = eqx.field(static=True)
    margins: tuple[int, int] = eqx.field(static=True)

    @property
    def n_good(self) -> Float[Array, n_spec]:
        """Pixels that enter, per star."""
        return jnp.sum(self.weight > 0, axis=-1).astype(self.flux.dtype)

    def under(self, model: ForwardModel) -> Objective:
        """The same residuals and weights with the flux of another model of the same labels."""
        return replace(self, model=model)

    def predict(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_pix"]:
        """Model flux in the frame of the data."""
        layout = self.layout
        rest = self.model.predict_scaled_batch(parameters[:, : layout.n_label], self.context)
        flux = self._to_data_frame(rest, parameters)
        if layout.n_poly:
            flux = flux * (1 + parameters[:, layout.n_reported :] @ self.polynomials)
        return flux

    def residuals(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, "n_spec n_pix"]:
        """Observed minus model flux; 0 at bad pixels."""
        return jnp.where(self.weight > 0, self.flux - self.predict(parameters), 0)

    def cost(self, parameters: Float[Array, "n_spec n_par"]) -> Float[Array, n_spec]:
        """Sum of ``weight * residual**2``, priors included: what is minimised."""
        return self.cost_of(self.residuals(parameters), parameters)

    def cost_of(
        self, residual: Float[Array, "n_spec n_pix"], parameters: Float[Array, "n_spec n_par"]
    ) -> Float[Array, n_spec]:
        """What `cost` is, of residuals that are known already."""
        from_pixels = _sum_over_pixels(self.weight * residual * residual)
        return from_pixels + self.prior_equations(parameters)[0]

    def normal_equations(self, parameters: Float[Array, "n_spec n_par"]) -> NormalEquations:
        """Cost, gradient and curvature at `parameters`, from one linearisation of the model."""
        slopes, flux = self.linearise(parameters)
        residual = jnp.where(self.weight > 0, self.flux - flux, 0)
        return self.accumulate(slopes, residual, parameters)

    def noise_curvature(
        self, parameters: Float[Array, "n_spec n_par"], *, continuum_sigma_aa: float
    ) -> Float[Array, "n_spec k k"]:
        """``J^T W C W J``: the covariance of the gradient under the noise C that is really there.

        Resampling has correlated neighbouring pixels, and normalising has taken out the noise that
        the pseudo-continuum follows; W, made of the row sums of the covariance, is right for broad
        features only. The covariance of the solution is ``A^-1 B A^-1``, A being the curvature and
        B this matrix (least squares with approximate weights). Priors count as data.
        """
        slopes, flux = self.linearise(parameters)
        good = self.weight > 0
        pulls = jnp.stack([self.weight * slope for slope in slopes])
        before = transpose_noise(pulls, flux, good, self.grid, sigma_aa=continuum_sigma_aa)
        variance = jnp.where(good, 1 / jnp.where(good, self.weight, 1), 0)
        row_sum, model = self.photon_share * variance, (1 - self.photon_share) * variance
        diagonal = jnp.where(good, 1 / jnp.where(good, self.pixel_weight, 1), 0) - model
        # Resampling shares noise between neighbours: what the row sum has beyond the diagonal.
        beside = 0.5 * (row_sum - diagonal)
        between = 0.5 * (beside[:, 1:] + beside[:, :-1])
        one_side = jnp.einsum("inp,np,jnp->nij", before[..., 1:], between, before[..., :-1])
        others = self._scatter_along_nuisance(pulls)
        return (
            others
            + jnp.einsum("inp,np,jnp->nij", before, diagonal, before)
            + one_side
            + jnp.swapaxes(one_side, -1, -2)
            + jnp.einsum("inp,np,jnp->nij", pulls, model, pulls)
            + self.prior_equations(parameters)[2]
        )

    def prior_equations(
        self, parameters: Float[Array, "n_spec n_par"]
    ) -> tuple[
        Float[Array, n_spec], Float[Array, "n_spec n_par"], Float[Array, "n_spec n_par n_par"]
    ]:
        """What the priors add to cost, gradient and curvature; priors count as data."""
        n_label, n_par = self.layout.n_label, self.layout.n_par
        residual, slopes = linearise_priors(
            self.priors, self.model.label_space, parameters[:, :n_label]
        )
        slopes = jnp.pad(slopes, ((0, 0), (0, 0), (0, n_par - n_label)))
        return (
            jnp.sum(residual * residual, axis=-1),
            jnp.sum(slopes * residual[:, :, None], axis=1),
            jnp.sum(slopes[:, :, :, None] * slopes[:, :, None, :], axis=1),
        )

    def _scatter_along_nuisance(self, pulls):
        """Covariance of the gradient from directions in which stars scatter about the model."""
        nuisance = self.model.noise_model().nuisance
        if nuisance is None or nuisance.shape[0] == 0:
            return jnp.zeros((), pulls.dtype)
        shapes = on_fitted_pixels(nuisance, self.margins)
        along = jnp.einsum("inp,kp->ink", pulls, shapes)
        return jnp.einsum("ink,jnk->nij", along, along)

    def linearise(self, parameters):
        """Slopes of the model flux with respect to each parameter, and that flux."""
        layout = self.layout
        scaled = parameters[:, : layout.n_label]
        rest, rest_slopes = linearise_flux(self.model, scaled, self.context)
        slopes = list(self._to_data_frame(rest_slopes, parameters))
        if layout.fit_velocity:
            offset, offset_slope = self._offsets(parameters)
            wide = with_margins(rest, *self.margins)
            flux, by_offset = jax.jvp(
                lambda at: shift_by_slices(wide, at), (offset,), (jnp.ones_like(offset),)
            )
            slopes.append(by_offset * offset_slope * (2 * layout.velocity_limit_kms))
        else:
            flux = self._to_data_frame(rest, parameters)
        if layout.n_poly:
            factor = 1 + parameters[:, layout.n_reported :] @ self.polynomials
            slopes = [slope * factor for slope in slopes]
            slopes += [flux * polynomial for polynomial in self.polynomials]
            flux = flux * factor
        return slopes, flux

    def accumulate(self, slopes, residual, parameters) -> NormalEquations:
        n_par = self.layout.n_par
        pairs = [(i, j) for i in range(n_par) for j in range(i, n_par + 1)]

        # Without the barrier some compilers would shift the spectra again for every sum below.
        slopes, residual = jax.lax.optimization_barrier((slopes, residual))
        columns = [*slopes, residual]
        weighted = [self.weight * slope for slope in slopes]
        sums = [_sum_over_pixels(weighted[i] * columns[j]) for i, j in pairs]
        known = dict(zip(pairs, sums, strict=True))
        gradient = jnp.stack([known[i, n_par] for i in range(n_par)], axis=-1)
        curvature = jnp.stack(
            [
                jnp.stack([known[min(i, j), max(i, j)] for j in range(n_par)], axis=-1)
                for i in range(n_par)
            ],
            axis=-2,
        )
        square = residual * residual
        prior_cost, prior_gradient, prior_curvature = self.prior_equations(parameters)
        return NormalEquations(
            cost=_sum_over_pixels(self.weight * square) + prior_cost,
            gradient=gradient + prior_gradient,
            curvature=curvature + prior_curvature,
            pixel_chi2=_sum_over_pixels(self.pixel_weight * square),
        )

    def _offsets(self, parameters):
        return pixel_offset(self.grid, self.layout.velocity_kms(parameters))

    def _to_data_frame(self, rest, parameters):
        wide = with_margins(rest, *self.margins)
        if not self.layout.fit_velocity:
            return wide[..., REACH:-REACH]
        return shift_by_slices(wide, self._offsets(parameters)[0])


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


def build_objective(
    model: ForwardModel,
    batch: SpectrumBatch,
    *,
    context: PyTree[Any] | None = None,
    fit_velocity: bool = True,
    priors: tuple[Prior, ...] = (),
    poly_order: int | None = None,
) -> Objective:
    """The objective of fitting `model` to `batch`.

    Parameters
    ----------
    model : ForwardModel
        Its grid must hold the pixels of the batch; pixels beyond them serve the shifts.
    batch : SpectrumBatch
        Normalised as the model is; ivar or information 0 marks bad pixels.
    context : pytree, optional
        Per-star context of the model.
    fit_velocity : bool
        Whether a residual velocity is a parameter beside the labels.
    priors : tuple of Prior
    poly_order : int, optional
        Order of a multiplicative polynomial nuisance; None fits none, 0 a factor.

    Returns
    -------
    Objective

    Notes
    -----
    The model error enters the variances as (error * flux)^2 with the model's flux at the centre of
    its label space: fixed weights, the same wherever a fit starts from, so that chi-square stays a
    sum of squares whose minimum is the solution.
    """
    require_prior_labels(priors, model.label_space)
    lacking = edge_pixels(batch.grid, *align_grids(model.grid, batch.grid))
    left, right = fitted_margins(model.grid, batch.grid)
    velocity_limit = largest_shift_kms(batch.grid)
    batch = _pad_pixels(batch)
    dtype = batch.flux.dtype
    space = model.label_space
    n_label = space.n_label
    layout = ParameterLayout(
        n_label,
        fit_velocity,
        0 if poly_order is None else poly_order + 1,
        velocity_limit,
    )
    # With a context each star has a centre of its own: whose neighbour it is must not matter.
    centre = model.predict_centre(context, batch.n_spec)
    model_variance = jnp.square(jnp.asarray(model.model_error, dtype) * centre)
    model_variance = on_fitted_pixels(model_variance, (left, right))
    good = (batch.ivar > 0) & (batch.information > 0) & jnp.isfinite(batch.flux)
    good = good & jnp.isfinite(batch.ivar) & jnp.isfinite(batch.information)
    if fit_velocity:
        good = good & ~jnp.asarray(np.pad(lacking, (0, good.shape[1] - lacking.size)))
    n_fitted = batch.grid.n_pix
    x = 2.0 * np.arange(n_fitted) / (n_fitted - 1) - 1.0
    polynomials = np.polynomial.legendre.legvander(x, max(layout.n_poly - 1, 0)).T[: layout.n_poly]
    weight = _combine_errors(batch.information, model_variance, good)
    return Objective(
        flux=jnp.where(good, batch.flux, 0),
        weight=weight,
        photon_share=weight / jnp.where(good, batch.information, 1),
        pixel_weight=_combine_errors(batch.ivar, model_variance, good),
        model=model,
        context=context,
        polynomials=jnp.asarray(polynomials, dtype),
        priors=priors,
        grid=batch.grid,
        layout=layout,
        margins=(left, right),
    )


def fitted_margins(model_grid: PixelGrid, grid: PixelGrid) -> tuple[int, int]:
    """Model pixels left and right of those that the objective of spectra on `grid` has."""
    left, right = align_grids(model_grid, grid)
    return left, right - (-grid.n_pix % _LANES)


def squash_to_bounds(free: Float[Array, ...]) -> Float[Array, ...]:
    """Map the real line smoothly onto scaled labels in (-0.5, 0.5), nearly the identity inside.

    s = z / (1 + (2 z)^4)^(1/4), for solvers without bounds; at z = 0.25 it is 1.5 % less than z.

    Examples
    --------
    >>> [round(float(s), 2) for s in squash_to_bounds(jnp.array([0.0, 0.1, 10.0]))]
    [0.0, 0.1, 0.5]
    """
    return free / jnp.sqrt(jnp.sqrt(1 + (2 * free) ** 4))


def unsquash_from_bounds(scaled: Float[Array, ...]) -> Float[Array, ...]:
    """The inverse of `squash_to_bounds`; at most 0.499 of the way to a bound."""
    kept = jnp.clip(scaled, -0.499, 0.499)
    return kept / jnp.sqrt(jnp.sqrt(1 - (2 * kept) ** 4))


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
