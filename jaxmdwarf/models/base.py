"""What every forward model is: labels (and what else is known of the star) in, flux out."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import BOUND_SLACK, LabelSpace
from jaxmdwarf.models.population import TrainingPopulation
from jaxmdwarf.models.preprocessing import PAPER_PREPROCESSING, Preprocessing
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid


class LowRankHead(NamedTuple):
    """The linear end of a model: ``flux = mean + coefficients @ basis``, exactly.

    Parameters
    ----------
    basis : (k, n_pix)
        Directions in flux; rows need not be orthogonal.
    mean : (n_pix,)
        Flux at zero coefficients.
    """

    basis: Float[Array, "k n_pix"]
    mean: Float[Array, "n_pix"]


class NoiseModel(NamedTuple):
    """What a model learned of the noise of the observed spectra beside their stated errors.

    Parameters
    ----------
    scale : ()
        By how much stated one-sigma errors of the spectra fall short; 1 where they are right.
    nuisance : (k, n_pix), optional
        Directions in which spectra scatter about the model, with amplitudes of variance 1.
    labels : (n_label, n_label), optional
        Covariance of what scaled labels are off by beside all that pixels tell.
    velocity_kms : (), optional
        What velocities are off by beside it: zero points of wavelength scales.
    """

    scale: Float[Array, ""] | float = 1.0
    nuisance: Float[Array, "k n_pix"] | None = None
    labels: Float[Array, "n_label n_label"] | None = None
    velocity_kms: Float[Array, ""] | None = None


class Surrogate(NamedTuple):
    """A model far less expensive than another one, of the same labels, pixels and context.

    Parameters
    ----------
    model : ForwardModel
    accurate : bool
        Whether its flux is nearly that of the expensive model: a fit may then descend under it,
        and let the expensive one take the last step. Otherwise only its derivatives are near
        enough to be followed, with flux of the expensive model at every step.
    """

    model: "ForwardModel"
    accurate: bool


class ForwardModel(eqx.Module):
    """Labels to normalised flux; the one interface through which stars are fitted.

    A model is written for one star and batched by `jax.vmap`; `predict_scaled_batch` is the place
    for a faster native batch. All methods are pure, differentiable and compile under `jax.jit`;
    dtypes follow the labels and the model's own arrays.

    Attributes
    ----------
    label_space : LabelSpace
        Names, units, bounds and scaling of the labels (static).
    grid : PixelGrid
        Pixels of the predicted flux (static), in the rest frame. It may reach beyond the pixels
        that are fitted, so that a Doppler shift finds flux at the ends.
    model_error : (n_pix,)
        One-sigma fractional error of the prediction in each pixel; a fit adds
        ``(model_error * flux)**2`` to the variances.
    preprocessing : Preprocessing
        What was done to the spectra that the model has learned; the paper's unless it says so.
    expensive : bool
        Whether one evaluation costs far more than the arithmetic on its pixels; False unless it
        says so. Fits take fewer stars at once under expensive models, linearise them in groups,
        and spend no evaluations on starting points that are seldom needed.
    population : TrainingPopulation or None
        What the observed spectra that it has learned from look like through it: fits flag others
        with OUT_OF_DOMAIN. None unless it says so.

    Notes
    -----
    `context` is whatever else the model needs to know of one star (the split latent of a transfer,
    say): a pytree of arrays, mapped beside the labels when batched. Models that need nothing
    ignore it, and None is always a valid value for them.
    """

    label_space: eqx.AbstractVar[LabelSpace]
    grid: eqx.AbstractVar[PixelGrid]
    model_error: eqx.AbstractVar[Float[Array, "n_pix"]]
    # Without a type, or equinox would take them for fields.
    preprocessing = PAPER_PREPROCESSING
    expensive = False
    population = None

    @abc.abstractmethod
    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Flux at scaled labels (-0.5 and +0.5 are the bounds of `label_space`)."""

    def predict(
        self,
        labels: Shaped[Array | np.ndarray, "..."] | Sequence[float] | Mapping[str, float],
        context: PyTree[Any] | None = None,
    ) -> Float[Array, "n_pix"]:
        """Flux at labels in physical units (K, dex), within the bounds of the model.

        Parameters
        ----------
        labels : (n_label,), or mapping of str to float
            In the order of `label_space`, or by name; physical units.
        context : pytree, optional
            Of one star.

        Returns
        -------
        (n_pix,)
            A model knows nothing beyond its bounds: under `jax.jit` or `jax.vmap`, where nothing
            can be raised for one star, flux there is NaN.

        Raises
        ------
        MismatchError
            If there are not as many labels as the model has, or not its own by name.
        UsageError
            If a label lies outside its bounds, or is not a number.
        """
        space = self.label_space
        if isinstance(labels, Mapping):
            if set(labels) != set(space.names):
                raise MismatchError(
                    f"labels {', '.join(labels)} were given to a model of "
                    f"{', '.join(space.names)}.",
                    "give each of these and no other.",
                )
            labels = [labels[name] for name in space.names]
        labels = jnp.asarray(labels)
        if labels.shape != (space.n_label,):
            raise MismatchError(
                f"{labels.shape} labels were given to a model of {', '.join(space.names)}.",
                f"give {space.n_label} numbers for one star, in this order.",
            )
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            labels = labels.astype(jnp.result_type(float))
        if not isinstance(labels, jax.core.Tracer):
            space.require_inside(np.asarray(labels))
        return _predict_inside(self, labels, context)

    def predict_scaled_batch(
        self, scaled: Float[Array, "n_spec n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_spec n_pix"]:
        """Flux of many stars; the leading axis of `context`, where given, is the star too."""
        return jax.vmap(self.predict_scaled)(scaled, context)

    def read_context(self, batch: SpectrumBatch) -> PyTree[Any] | None:
        """What the model wants to know of each star beside its labels, read off its spectrum.

        Parameters
        ----------
        batch : SpectrumBatch
            Observed spectra, at rest and preprocessed as the model's own; rows without a good
            pixel, with which batches are filled up, are allowed.

        Returns
        -------
        pytree or None
            Arrays whose leading axis is the star, for `context` of `predict_scaled_batch`; None
            from models that need nothing, as here.
        """
        return None

    def to_synthetic(self, batch: SpectrumBatch) -> "tuple[ForwardModel, SpectrumBatch] | None":
        """Spectra carried to the domain of theory, and the model to fit them with there.

        The first of the two fits of the paper's section 3.5, whose labels start the second.

        Returns
        -------
        tuple or None
            None from models that transfer nothing, as here.
        """
        return None

    def surrogate(self) -> Surrogate | None:
        """A model far less expensive than this one that a fit may follow.

        Returns
        -------
        Surrogate or None
            None where the model itself is not expensive, as here.
        """
        return None

    def priors(self) -> tuple[Prior, ...]:
        """What is known of the observed stars' labels before a spectrum is seen; nothing here.

        Priors are known by their `key`.
        """
        return ()

    def noise_model(self) -> NoiseModel:
        """What is known of the observed spectra's noise; here that their errors are right."""
        return NoiseModel()

    def error_directions(
        self, scaled: Float[Array, "n n_label"]
    ) -> Float[Array, "n m n_pix"] | None:
        """How the flux may be wrong for all stars alike, beside the error of single pixels.

        Directions in flux at the scaled labels, amplitudes having variance 1: errors that pixels
        share and that change with the labels. A fit adds them to the covariance of its labels.
        None from models that know of no such errors, as here.
        """
        return None

    def predict_centre(self, context: PyTree[Any] | None, n_spec: int) -> Float[Array, "n n_pix"]:
        """Flux at the centre of the label space, to which the model's fractional error is applied.

        Parameters
        ----------
        context : pytree or None
            As for `predict_scaled_batch`.
        n_spec : int

        Returns
        -------
        (1, n_pix) or (n_spec, n_pix)
            One row for all stars where they have no context, else one for each.
        """
        n_row = 1 if context is None else n_spec
        centre = jnp.zeros((n_row, self.label_space.n_label), self.model_error.dtype)
        return self.predict_scaled_batch(centre, context)

    def low_rank(self) -> LowRankHead | None:
        """The linear end of the model, or None if it has none.

        Where it is not None, ``predict_scaled(s) == mean + coefficients(s) @ basis`` to rounding,
        so that a star can be reduced once to a k x k system and fitted without touching pixels.
        Shifts, resampling and reweighting of pixels act on `basis` and `mean` alone.
        """
        return None

    @property
    def keeps_population(self) -> bool:
        """Whether the model has a place for what it knows of its training stars."""
        return any(field.name == "population" for field in fields(self))

    def with_population(self, population: TrainingPopulation | None) -> "ForwardModel":
        """The model with another `population`; only for models that keep one."""
        return replace(self, population=population)  # type: ignore[call-arg]

    def coefficients(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "k"]:
        """Coefficients on the basis of `low_rank`; only for models that have one."""
        raise MismatchError(f"{type(self).__name__} has no linear low-rank head.")

    def require_grid(self, grid: PixelGrid) -> None:
        """Raise `MismatchError` unless the model predicts flux on exactly the pixels of `grid`."""
        if grid != self.grid:
            raise MismatchError(
                f"the spectra are on {grid}, the model on {self.grid}.",
                "resample the spectra onto the grid of the model.",
            )

    def require_labels(self, names: tuple[str, ...]) -> None:
        """Raise `MismatchError` unless the labels of the model are `names`, in this order."""
        if tuple(names) != self.label_space.names:
            raise MismatchError(
                f"labels {tuple(names)} were asked of a model of {self.label_space.names}.",
                "use the model that was trained for these labels.",
            )


class TableModel(ForwardModel):
    """Multilinear in the scaled labels, from flux at the corners of the label space.

    The simplest forward model with a linear head: a check of any fitting engine against a closed
    form, and a stand-in where no emulator is trained yet.

    Parameters
    ----------
    corners : (2**n_label, n_pix)
        Flux at the corners; corner ``i`` has label ``j`` at its upper bound if bit ``j`` of ``i``
        is set.
    label_space, grid, model_error, preprocessing
        As for `ForwardModel`; nothing was done to the spectra unless it is said.
    """

    corners: Float[Array, "n_corner n_pix"]
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)
    preprocessing: Preprocessing = eqx.field(static=True, default=Preprocessing())

    def __check_init__(self) -> None:
        expected = (2**self.label_space.n_label, self.grid.n_pix)
        if self.corners.shape != expected:
            raise MismatchError(f"corners have shape {self.corners.shape}, not {expected}.")

    def coefficients(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "k"]:
        """Multilinear weights of the corners."""
        upper = jnp.asarray(_corner_bits(self.label_space.n_label))
        return jnp.prod(jnp.where(upper, 0.5 + scaled, 0.5 - scaled), axis=-1)

    def low_rank(self) -> LowRankHead:
        """The corners themselves are the basis."""
        return LowRankHead(self.corners, jnp.zeros_like(self.corners[0]))

    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Flux interpolated between the corners."""
        return self.coefficients(scaled) @ self.corners


def _corner_bits(n_label: int) -> Bool[np.ndarray, "n_corner n_label"]:
    return (np.arange(2**n_label)[:, None] >> np.arange(n_label)) % 2 == 1


# One program: a first spectrum would else wait for a hundred, one for each operation.
@jax.jit
def _predict_inside(model: ForwardModel, labels: Float[Array, "n_label"], context: Any):
    space = model.label_space
    flux = model.predict_scaled(space.scale(labels), context)
    return jnp.where(space.contains(labels, slack=BOUND_SLACK), flux, jnp.nan)


@jax.jit
def predict_compiled(
    model: ForwardModel, scaled: Float[Array, "n_spec n_label"]
) -> Float[Array, "n_spec n_pix"]:
    """`ForwardModel.predict_scaled_batch` as one program, for calls that are in no other.

    Operation by operation, each would be compiled by itself: half of a second of a run's first.
    """
    return model.predict_scaled_batch(scaled)
