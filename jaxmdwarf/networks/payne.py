"""The Payne's network: a multilayer perceptron from scaled labels to spectra or coefficients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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


def init_payne(network: PayneNetwork, key: Key[Array, ""], n_label: int) -> dict[str, Any]:
    """Random parameters, float32: ``{"hidden_0": {"kernel": (n_label, width), "bias"}, ...}``.

    Examples
    --------
    >>> params = init_payne(PayneNetwork(hidden=(8,), n_out=3), jax.random.key(0), n_label=4)
    >>> sorted(params), params["out"]["kernel"].shape
    (['hidden_0', 'out'], (8, 3))
    """
    from jaxmdwarf.networks.payne_layers import PayneMLP

    layers = PayneMLP(network.hidden, network.n_out, network.activation)
    return layers.init(key, jnp.zeros((n_label,), jnp.float32))["params"]


def list_shapes(network: PayneNetwork, n_label: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the parameters of a network, layer by layer, without flax.

    Examples
    --------
    >>> list_shapes(PayneNetwork(hidden=(8,), n_out=3), n_label=4)
    {'hidden_0': {'kernel': (4, 8), 'bias': (8,)}, 'out': {'kernel': (8, 3), 'bias': (3,)}}
    """
    named = [(f"hidden_{layer}", width) for layer, width in enumerate(network.hidden)]
    if network.n_out is not None:
        named.append(("out", network.n_out))
    widths = [n_label, *network.hidden]
    return {
        name: {"kernel": (before, width), "bias": (width,)}
        for before, (name, width) in zip(widths, named, strict=False)
    }


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

    Notes
    -----
    The layers of `jaxmdwarf.networks.payne_layers.PayneMLP` without flax, which takes five times as
    long to trace them: a fit traces them a dozen times before it begins.
    """
    activation = getattr(jax.nn, network.activation)
    features = scaled
    for layer in range(len(network.hidden)):
        features = activation(_apply_dense(params[f"hidden_{layer}"], features))
    return features if network.n_out is None else _apply_dense(params["out"], features)


def _apply_dense(layer, features):
    last = (((features.ndim - 1,), (0,)), ((), ()))
    kernel, precision = layer["kernel"], jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(features, kernel, last, precision=precision) + layer["bias"]
