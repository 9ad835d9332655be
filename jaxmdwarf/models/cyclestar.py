"""Cycle-StarNet as a forward model: theory's flux, carried to the observed domain."""

from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.models.base import ForwardModel, Surrogate
from jaxmdwarf.models.distilled import Distillate, DistilledModel
from jaxmdwarf.models.layered import LayeredModel
from jaxmdwarf.models.population import TrainingPopulation
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.spectra import SpectrumBatch

_ROWS_AT_ONCE = 128


class CycleStarModel(LayeredModel):
    """Labels to observed flux: a model of theory, then Cycle-StarNet (paper, section 3.5).

    Theory's flux is encoded to shared latents, and decoded to the observed domain together with
    split latents: those of the star's own spectrum (`read_context`), or the training set's mean.

    Parameters
    ----------
    base : ForwardModel
        The model of the synthetic domain; without a context of its own.
    params : pytree
        Of a `jaxmdwarf.networks.cyclestar.CycleStarGenerator`.
    mean_split : (length, c_split)
        Mean split latents of the observed training spectra, for stars whose own are not given.
    sizes : CycleStarSizes
    residual : bool
        Whether flux is ``F_s + D_obs(z_sh, z_sp) - D_synth(z_sh)``: theory's own flux wherever the
        decoders agree, so that errors which both make cancel.
    distillate : Distillate, optional
        A small network that does nearly what the large ones do, for the descent of fits.
    population : TrainingPopulation, optional
        What the training stars look like through the model.

    Notes
    -----
    `model_error` is that of the base model. There is no linear head.

    Raises
    ------
    MismatchError
        If parameters, sizes and pixel grid do not belong together.

    Examples
    --------
    >>> from jaxmdwarf.labels import LabelSpace
    >>> from jaxmdwarf.models.base import TableModel
    >>> from jaxmdwarf.wavelengths import PixelGrid
    >>> grid = PixelGrid.linear(6000.0, 6399.0, 1.0)
    >>> space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    >>> base = TableModel(jnp.ones((2, 400)), jnp.zeros(400), space, grid)
    >>> sizes = CycleStarSizes.compact(400)
    >>> params = CycleStarGenerator(sizes).init(jax.random.key(0))
    >>> mean_split = jnp.zeros((sizes.latent_length, sizes.split_latents))
    >>> CycleStarModel(base, params, mean_split, sizes).predict(jnp.array([3500.0])).shape
    (400,)
    """

    base: ForwardModel
    params: PyTree[Float[Array, "..."]]
    mean_split: Float[Array, "length c_split"]
    sizes: CycleStarSizes = eqx.field(static=True)
    residual: bool = eqx.field(static=True, default=False)
    distillate: Distillate | None = None
    population: TrainingPopulation | None = None  # type: ignore[assignment]
    # Networks to the last pixel.
    expensive = True

    def __check_init__(self) -> None:
        sizes = self.sizes
        if self.base.grid.n_pix != sizes.n_pix:
            raise MismatchError(
                f"the networks have {sizes.n_pix} pixels, their base model {self.base.grid.n_pix}.",
                "use the emulator that the transfer was trained with.",
            )
        expected = _expected_shapes(sizes)
        found = {
            jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.params)
        }
        if found != expected:
            differing = sorted(
                name
                for name in expected.keys() | found.keys()
                if found.get(name) != expected.get(name)
            )
            name = differing[0]
            raise MismatchError(
                f"the parameters belong to another architecture: {name} is "
                f"{found.get(name, 'missing')}, not {expected.get(name, 'there')}, and "
                f"{len(differing) - 1} more differ.",
                "give the sizes that the networks were trained with.",
            )
        latents = (sizes.latent_length, sizes.split_latents)
        if self.mean_split.shape != latents:
            raise MismatchError(
                f"mean split latents have shape {self.mean_split.shape}, not {latents}."
            )

    @property  # type: ignore[misc]
    def model_error(self) -> Float[Array, "n_pix"]:  # type: ignore[override]
        """That of the base model."""
        return self.base.model_error

    def surrogate(self) -> Surrogate:
        """The base model with what was distilled from the networks; without, theory as it is."""
        if self.distillate is None:
            return Surrogate(self.base, accurate=False)
        distilled = DistilledModel(base=self.base, head=self.distillate)  # type: ignore[call-arg]
        return Surrogate(distilled, accurate=True)

    def predict_centre(self, context: PyTree[Any] | None, n_spec: int) -> Float[Array, "1 n_pix"]:
        """Flux at the centre with mean split latents: the same whatever star is fitted."""
        centre = jnp.zeros((1, self.label_space.n_label), self.model_error.dtype)
        return self.predict_scaled_batch(centre)

    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Observed flux at scaled labels; `context` is the star's split latents, if known."""
        own = None if context is None else context[None]
        return self.predict_scaled_batch(scaled[None], own)[0]

    def predict_scaled_batch(
        self, scaled: Float[Array, "n_spec n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_spec n_pix"]:
        """Observed flux of many stars, as matrix products."""
        return self._to_observed(self.base.predict_scaled_batch(scaled), context)

    def read_context(self, batch: SpectrumBatch) -> Float[Array, "n_spec length c_split"]:
        """Split latents of observed spectra; the mean ones where no pixel is good.

        Raises
        ------
        MismatchError
            If the spectra are not on the model's pixels.
        """
        self.require_grid(batch.grid)
        return _read_split(self, batch)

    def transfer_to_observed(
        self,
        synth: Float[Array, "n_spec n_pix"],
        split: Float[Array, "n_spec length c_split"] | None = None,
    ) -> Float[Array, "n_spec n_pix"]:
        """Flux of theory in the observed domain; mean split latents unless others are given."""
        return self._to_observed(synth, split)

    def transfer_to_synthetic(self, batch: SpectrumBatch) -> SpectrumBatch:
        """Observed spectra in the synthetic domain.

        Weights stay those of the pixels that the networks saw: masked pixels stay masked, though
        the networks fill them, for what they fill them with is known from the others only.

        Raises
        ------
        MismatchError
            If the spectra are not on the model's pixels.
        """
        self.require_grid(batch.grid)
        return SpectrumBatch(_to_synthetic(self, batch), batch.ivar, batch.information, batch.grid)

    def to_synthetic(self, batch: SpectrumBatch) -> tuple[ForwardModel, SpectrumBatch]:
        """The base model and the spectra carried to its domain; see `ForwardModel`."""
        return self.base, self.transfer_to_synthetic(batch)

    def _to_observed(self, synth, split):
        generator, params = CycleStarGenerator(self.sizes), self.params
        features = generator.expand_shared(params, generator.encode_synth(params, synth))
        # One star's mean latents serve all: they are decoded once, then repeated.
        split = self.mean_split[None] if split is None else split
        split_features = generator.expand_split(params, split)
        split_features = jnp.broadcast_to(
            split_features, (features.shape[0], *split_features.shape[1:])
        )
        observed = generator.render_obs(params, features, split_features)
        if not self.residual:
            return observed
        return synth + (observed - generator.render_synth(params, features))


@eqx.filter_jit
def _read_split(model, batch):
    generator = CycleStarGenerator(model.sizes)

    def read(row):
        flux, ivar = row[0][None], row[1][None]
        filled = generator.fill_masked(model.params, "obs", flux, ivar)
        split = generator.encode_obs(model.params, filled).split
        return jnp.where(jnp.any(ivar > 0), split[0], model.mean_split)

    return jax.lax.map(read, (batch.flux, batch.ivar), batch_size=_ROWS_AT_ONCE)


@eqx.filter_jit
def _to_synthetic(model, batch):
    generator, params = CycleStarGenerator(model.sizes), model.params

    def transfer(row):
        flux, ivar = row[0][None], row[1][None]
        filled = generator.fill_masked(params, "obs", flux, ivar)
        shared, split = generator.encode_obs(params, filled)
        features = generator.expand_shared(params, shared)
        synth = generator.render_synth(params, features)
        if not model.residual:
            return synth[0]
        observed = generator.render_obs(params, features, generator.expand_split(params, split))
        return jnp.where(ivar > 0, filled + (synth - observed), synth)[0]

    return jax.lax.map(transfer, (batch.flux, batch.ivar), batch_size=_ROWS_AT_ONCE)


@lru_cache(maxsize=32)
def _expected_shapes(sizes: CycleStarSizes) -> dict[str, tuple[int, ...]]:
    params = jax.eval_shape(lambda: CycleStarGenerator(sizes).init(jax.random.key(0)))
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
