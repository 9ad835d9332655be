"""The Payne's network: a multilayer perceptron from scaled labels to spectra or coefficients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxmdwarf.errors import UsageError

ACTIVATIONS = ("gelu", "silu", "tanh", "leaky_relu")
"""Activations to choose from; all but the last have continuous derivatives."""


@dataclass(frozen=True)
class PayneNetwork:
    """Shape of the network.

    Parameters
    ----------
    hidden : tuple of int
        Width of each hidden layer.
    n_out : int or None
        Outputs of a final linear layer; None leaves that layer out and returns the last hidden
        features, for a linear head that lives outside the network.
    activation : {"gelu", "silu", "tanh", "leaky_relu"}
        A fit follows derivatives of the spectrum, so smooth ones serve better than The Payne's
        leaky ReLU, and reach smaller errors too.
    """

    hidden: tuple[int, ...] = (300, 300)
    n_out: int | None = None
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(
                f"hidden layers {self.hidden} are not widths of at least one layer.",
                "give positive numbers, as in --hidden 200 200 200.",
            )
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"activation {self.activation!r} is unknown.",
                f"use one of {', '.join(ACTIVATIONS)}.",
            )


class PayneMLP(nn.Module):
    """The layers of `PayneNetwork` (Ting et al. 2019, ApJ 879, 69)."""

    network: PayneNetwork

    @nn.compact
    def __call__(self, scaled):
        """Outputs (..., n_out) of scaled labels (..., n_label)."""
        activation = getattr(nn, self.network.activation)
        features = scaled
        for layer, width in enumerate(self.network.hidden):
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
        if self.network.n_out is None:
            return features
        return nn.Dense(self.network.n_out, name="out", precision=jax.lax.Precision.HIGHEST)(
            features
        )


def init_payne(network: PayneNetwork, key: Key[Array, ""], n_label: int) -> dict[str, Any]:
    """Random parameters, float32: ``{"hidden_0": {"kernel": (n_label, width), "bias"}, ...}``.

    Examples
    --------
    >>> params = init_payne(PayneNetwork(hidden=(8,), n_out=3), jax.random.key(0), n_label=4)
    >>> sorted(params), params["out"]["kernel"].shape
    (['hidden_0', 'out'], (8, 3))
    """
    return PayneMLP(network).init(key, jnp.zeros((n_label,), jnp.float32))["params"]


def apply_payne(
    network: PayneNetwork, params: Mapping[str, PyTree], scaled: Float[Array, "*batch n_label"]
) -> Float[Array, "*batch n_out"]:
    """Outputs of the network; pure, so that `jax.jit`, `jax.vmap` and gradients apply.

    Parameters
    ----------
    network : PayneNetwork
    params : mapping
        As from `init_payne`.
    scaled : (..., n_label)
        Labels scaled to [-0.5, 0.5].
    """
    outputs: Any = PayneMLP(network).apply({"params": params}, scaled)
    return outputs


def _uniform_offsets(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
