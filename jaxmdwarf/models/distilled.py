"""What a transfer does to theory's flux, distilled to a small network with a linear head."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.models.base import ForwardModel, LowRankHead
from jaxmdwarf.models.layered import LayeredModel
from jaxmdwarf.networks.payne import PayneNetwork, apply_payne
from jaxmdwarf.precision import multiply_exactly


class Distillate(eqx.Module):
    """Difference of transferred and theory's flux, as a function of labels and split latents.

    Split latents enter by their strongest components, each within one unit for the stars that it
    was learned from; beyond them it stays what it is at the edge.

    Parameters
    ----------
    params : pytree
        Of `network`.
    basis : (k, n_pix)
    mean : (n_pix,)
        The difference at zero coefficients.
    split_mean : (length, c_split)
    projection : (length * c_split, m)
        Deviations from `split_mean` to components.
    network : PayneNetwork
        Of ``n_label + m`` numbers to `k` coefficients.

    Raises
    ------
    MismatchError
        If the arrays do not fit each other.
    """

    params: PyTree[Float[Array, "..."]]
    basis: Float[Array, "k n_pix"]
    mean: Float[Array, "n_pix"]
    split_mean: Float[Array, "length c_split"]
    projection: Float[Array, "n_split m"]
    network: PayneNetwork = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.basis.shape != (self.network.n_out, self.mean.size):
            raise MismatchError(
                f"the head has shape {self.basis.shape}, not {(self.network.n_out, self.mean.size)}"
            )
        if self.projection.shape[0] != self.split_mean.size:
            raise MismatchError(
                f"{self.projection.shape[0]} rows project {self.split_mean.size} split latents."
            )

    def compress(self, split: Float[Array, "*batch length c_split"]) -> Float[Array, "*batch m"]:
        """Components of split latents, within -0.5 and 0.5."""
        away = split - self.split_mean
        away = away.reshape(*away.shape[:-2], -1)
        found = multiply_exactly(away, self.projection)
        return jnp.clip(found, -0.5, 0.5)

    def coefficients(
        self, scaled: Float[Array, "*batch n_label"], components: Float[Array, "*batch m"]
    ) -> Float[Array, "*batch k"]:
        """Coefficients on `basis`."""
        inputs = jnp.concatenate([scaled, components.astype(scaled.dtype)], axis=-1)
        return apply_payne(self.network, self.params, inputs)


class DistilledModel(LayeredModel):
    """Theory and a `Distillate`: linear at its end, so that stars can be fitted on Gram systems.

    It takes the context of the transfer that it stands for, and is close to it where that was
    trained. It is the transfer's surrogate for the descent of a fit, whose last step is taken
    under the transfer itself.

    Parameters
    ----------
    base : ForwardModel
        Of theory, with a linear head.
    head : Distillate
    """

    base: ForwardModel
    head: Distillate

    def __check_init__(self) -> None:
        if self.base.low_rank() is None:
            raise MismatchError("a distilled model needs a base with a linear head.")
        if self.head.mean.shape != (self.base.grid.n_pix,):
            raise MismatchError(
                f"the head has {self.head.mean.size} pixels, the base {self.base.grid.n_pix}."
            )

    @property  # type: ignore[misc]
    def model_error(self) -> Float[Array, "n_pix"]:  # type: ignore[override]
        """That of the base model."""
        return self.base.model_error

    def low_rank(self) -> LowRankHead:
        """Shapes of the base, then those of the difference."""
        base = self._base_head()
        return LowRankHead(
            jnp.concatenate([base.basis, self.head.basis]), base.mean + self.head.mean
        )

    def coefficients(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "k"]:
        """Coefficients of the base and of the difference; mean split latents without a context."""
        return jnp.concatenate(
            [self.base.coefficients(scaled), self.head.coefficients(scaled, self._read(context))]
        )

    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Flux at scaled labels; `context` is the star's split latents, if known."""
        added = self.head.coefficients(scaled, self._read(context))
        return self.base.predict_scaled(scaled) + self._spread(added)

    def predict_scaled_batch(
        self, scaled: Float[Array, "n_spec n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_spec n_pix"]:
        """Flux of many stars, as matrix products."""
        components = self._read(context)
        components = jnp.broadcast_to(components, (scaled.shape[0], components.shape[-1]))
        added = self.head.coefficients(scaled, components)
        return self.base.predict_scaled_batch(scaled) + self._spread(added)

    def _base_head(self) -> LowRankHead:
        head = self.base.low_rank()
        assert head is not None
        return head

    def _read(self, context):
        return self.head.compress(self.head.split_mean if context is None else context)

    def _spread(self, coefficients):
        return self.head.mean + multiply_exactly(coefficients, self.head.basis)
