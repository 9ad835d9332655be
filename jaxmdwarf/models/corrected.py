"""A synthetic model with a low-rank correction: labels to flux as the observed domain has it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, LowRankHead, NoiseModel
from jaxmdwarf.models.layered import LayeredModel
from jaxmdwarf.models.population import TrainingPopulation
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.precision import multiply_exactly

FEATURE_LIMIT = 3.0
"""Features saturate smoothly this many standard deviations from the centre of the training set."""


class LabelFeatures(eqx.Module):
    """Smooth functions of the labels that a correction is linear in: 1, x, y, x2 - 1, xy, y2 - 1.

    Parameters
    ----------
    names : tuple of str
        The labels x, y ... that the correction depends on.
    centre, scale : tuple of float
        Of each, in its unit: mean and standard deviation of the stars that it was learned from.
    order : {0, 1, 2}
        A constant alone, with linear terms, with quadratic ones.

    Raises
    ------
    UsageError
        If the tuples differ in length, or the order or a scale makes no sense.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    # Each sample that is learned from has its own; a static field would be a program for each.
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    order: int = eqx.field(static=True)

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.centre) == len(self.scale):
            raise UsageError(f"features of {self.names} need as many centres and scales.")
        if self.order not in (0, 1, 2) or not all(scale > 0 for scale in self.scale):
            raise UsageError(f"features need order 0, 1 or 2 and positive scales, got {self}.")

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degree of each feature, in their order."""
        n = len(self.names)
        return tuple(
            [0] + [1] * n * (self.order >= 1) + [2] * (n * (n + 1) // 2) * (self.order == 2)
        )

    def evaluate(
        self, space: LabelSpace, scaled: Float[Array, "*n n_label"]
    ) -> Float[Array, "*n n_feature"]:
        """Features at scaled labels; far from the centre they level off, so that they stay tame.

        Examples
        --------
        >>> features = LabelFeatures(("teff", "mh"), (3500.0, 0.0), (200.0, 0.2), 1)
        >>> space = LabelSpace.mdwarf()
        >>> found = features.evaluate(space, space.scale(jnp.array([3600.0, 5.0, -0.1, 0.0])))
        >>> found.round(2).tolist()
        [1.0, 0.5, -0.5]
        """
        xs = []
        for name, centre, scale in zip(self.names, self.centre, self.scale, strict=True):
            index = space.index(name)
            low, high = space.lower[index], space.upper[index]
            x = (0.5 * (low + high) - centre) / scale + (high - low) / scale * scaled[..., index]
            xs.append(FEATURE_LIMIT * jnp.tanh(x / FEATURE_LIMIT))
        columns = [jnp.ones_like(scaled[..., 0])]
        if self.order >= 1:
            columns += xs
        if self.order >= 2:
            for i, x in enumerate(xs):
                columns += [x * y - (1.0 if i == j else 0.0) for j, y in enumerate(xs) if j >= i]
        return jnp.stack(columns, axis=-1)


def _as_scalar(value: Any) -> Float[Array, ""]:
    return jnp.asarray(value, jnp.float32)


class CorrectedModel(LayeredModel):
    """A base model plus features of the labels times learned spectra; still linear at its end.

    ``flux = base(labels) + features(labels) @ correction``. Observed stars scatter about it along
    a few directions that no label explains (line spread, response, residual sky); those are
    `nuisance`, each with an amplitude drawn from a unit Gaussian for every star.

    Parameters
    ----------
    base : ForwardModel
        With a low-rank head.
    correction : (n_feature, n_pix)
    nuisance : (n_nuisance, n_pix)
        Scaled so that amplitudes have variance 1.
    model_error : (n_pix,)
        One-sigma fractional error that is left.
    features : LabelFeatures
    label_priors : tuple of Prior
        What the training labels say of the stars.
    noise_scale : float
        By how much stated one-sigma errors of the observed spectra fall short of what they should
        be: 1 where they are right.
    population : TrainingPopulation, optional
        What the training stars look like through the model.
    uncertainty : (m, n_feature, n_pix), optional
        Changes of the correction that are as probable as itself: one standard deviation each, in
        m independent directions. They are the same for all stars.
    label_error : (n_label, n_label), optional
        Covariance of what scaled labels were found to be off by beside all this.
    velocity_error : (), optional
        The same of velocities, km/s.

    Raises
    ------
    MismatchError
        If arrays do not match, or the base has no linear head.
    """

    base: ForwardModel
    correction: Float[Array, "n_feature n_pix"]
    nuisance: Float[Array, "n_nuisance n_pix"]
    model_error: Float[Array, "n_pix"]
    features: LabelFeatures
    label_priors: tuple[Prior, ...] = ()
    # No static field: a training changes it at every pass, and would compile anew.
    noise_scale: Float[Array, ""] = eqx.field(converter=_as_scalar, default=1.0)  # type: ignore[assignment]
    population: TrainingPopulation | None = None  # type: ignore[assignment]
    uncertainty: Float[Array, "m n_feature n_pix"] | None = None
    label_error: Float[Array, "n_label n_label"] | None = None
    velocity_error: Float[Array, ""] | None = None

    def __check_init__(self) -> None:
        n_pix = self.base.grid.n_pix
        expected = (len(self.features.degrees), n_pix)
        if self.correction.shape != expected:
            raise MismatchError(
                f"the correction has shape {self.correction.shape}, not {expected}."
            )
        if self.nuisance.ndim != 2 or self.nuisance.shape[1] != n_pix:
            raise MismatchError(f"nuisance directions have shape {self.nuisance.shape}.")
        if self.model_error.shape != (n_pix,):
            raise MismatchError(f"the model error has shape {self.model_error.shape}.")
        if self.uncertainty is not None and self.uncertainty.shape[1:] != expected:
            raise MismatchError(f"the uncertainty has shape {self.uncertainty.shape}.")
        if self.base.low_rank() is None:
            raise MismatchError("a correction needs a base model with a linear head.")

    def coefficients(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "k"]:
        """Coefficients of the base, then the features."""
        return jnp.concatenate(
            [
                self.base.coefficients(scaled, context),
                self.features.evaluate(self.label_space, scaled),
            ]
        )

    def priors(self) -> tuple[Prior, ...]:
        """Those that were learned from the training labels."""
        return self.label_priors

    def noise_model(self) -> NoiseModel:
        """Scale of errors, nuisance directions and errors of labels as they were learned."""
        return NoiseModel(self.noise_scale, self.nuisance, self.label_error, self.velocity_error)

    def error_directions(
        self, scaled: Float[Array, "n n_label"]
    ) -> Float[Array, "n m n_pix"] | None:
        """What the uncertainty of the correction is at these labels."""
        if self.uncertainty is None:
            return self.base.error_directions(scaled)
        features = self.features.evaluate(self.label_space, scaled)
        return jnp.einsum("nf,mfp->nmp", features, self.uncertainty)

    def low_rank(self) -> LowRankHead:
        """Head of the base with the correction below it."""
        head = self.base.low_rank()
        assert head is not None
        return LowRankHead(jnp.concatenate([head.basis, self.correction]), head.mean)

    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Flux of one star."""
        features = self.features.evaluate(self.label_space, scaled)
        return self.base.predict_scaled(scaled, context) + multiply_exactly(
            features, self.correction
        )

    def predict_scaled_batch(
        self, scaled: Float[Array, "n_spec n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_spec n_pix"]:
        """Flux of many stars, as matrix products."""
        features = self.features.evaluate(self.label_space, scaled)
        return self.base.predict_scaled_batch(scaled, context) + multiply_exactly(
            features, self.correction
        )
