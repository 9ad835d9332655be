"""Flax module of The Payne: where its random parameters come from."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class PayneMLP(nn.Module):
    """The layers of `jaxmdwarf.networks.payne.PayneNetwork` (Ting et al. 2019, ApJ 879, 69)."""

    hidden: tuple[int, ...]
    n_out: int | None
    activation: str

    @nn.compact
    def __call__(self, scaled):
        """Outputs (..., n_out) of scaled labels (..., n_label)."""
        activation = getattr(nn, self.activation)
        features = scaled
        for layer, width in enumerate(self.hidden):
            # Scaled labels span one unit: slopes of order 2 and spread-out offsets put the bends
            # of the first layer inside the label space, where they are of use.
            first = layer == 0
            scale = 4.0 if first else 1.0
            features = nn.Dense(
                width,
                name=f"hidden_{layer}",
                kernel_init=nn.initializers.variance_scaling(scale, "fan_in", "normal"),
                bias_init=_uniform_offsets if first else nn.initializers.zeros,
                precision=jax.lax.Precision.HIGHEST,
            )(features)
            features = activation(features)
        if self.n_out is None:
            return features
        return nn.Dense(self.n_out, name="out", precision=jax.lax.Precision.HIGHEST)(features)


def _uniform_offsets(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
