"""Flax modules of Cycle-StarNet: an encoder, a decoder, a critic.

One module for each part, its layers plain functions: modules within modules cost more time to trace
than the networks take to run.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmdwarf.networks.convolution import (
    ConvLayers,
    ConvolutionForm,
    Precision,
    convolve_strided,
    convolve_transposed,
    multiply_rounded,
)

_BIAS = 0.01


def _make_layer(key, shape, axis_in):
    """A Glorot-uniform kernel (its channels in on `axis_in`) and a constant bias."""
    init = nn.initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=axis_in, out_axis=2, batch_axis=()
    )
    return {"kernel": init(key, shape), "bias": jnp.full(shape[-1], _BIAS, jnp.float32)}


class Encoder(nn.Module):
    """Convolutions, each with its activation; then latents if asked for."""

    layers: ConvLayers
    slope: float
    latents: int = 0
    norm: bool = False
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, features):
        for name, channels, kernel, stride in _plan(self.layers):
            shape = (kernel, features.shape[-1], channels)
            layer = self.param(name, _make_layer, shape, 1)
            features = _convolve(self, features, layer, stride)
            features = _activate(self, features)
        if self.latents:
            layer = self.param("latents", _make_layer, (1, features.shape[-1], self.latents), 1)
            features = _convolve(self, features, layer, 1)
        return _normalise_instance(features) if self.norm else features


class Decoder(nn.Module):
    """Transposed convolutions, each with its activation.

    With `flux` one channel is mixed from the last ones; with `direct` the last convolution makes
    it, without an activation.
    """

    layers: ConvLayers
    slope: float
    flux: bool = False
    direct: bool = False
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, features):
        plan = _plan(self.layers, backwards=True)
        for name, channels, kernel, stride in plan:
            shape = (features.shape[-1], kernel, channels)
            layer = self.param(name, _make_layer, shape, 0)
            features = _convolve(self, features, layer, stride, convolve_transposed)
            if not (self.direct and name == plan[-1][0]):
                features = _activate(self, features)
        if self.flux:
            layer = self.param("flux", _make_layer, (1, features.shape[-1], 1), 1)
            features = _convolve(self, features, layer, 1)
        return features


class Critic(nn.Module):
    """One logit of a spectrum and its latents."""

    flux_layers: ConvLayers
    latent_channels: tuple[int, ...]
    slope: float
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, flux, latents):
        for name, channels, kernel, stride in _plan(self.flux_layers, "flux"):
            layer = self.param(name, _make_layer, (kernel, flux.shape[-1], channels), 1)
            flux = _convolve(self, flux, layer, stride)
            flux = _activate(self, flux)
        for i, channels in enumerate(self.latent_channels):
            shape = (1, latents.shape[-1], channels)
            layer = self.param(f"latents_{i}", _make_layer, shape, 1)
            latents = _convolve(self, latents, layer, 1)
            latents = _activate(self, latents)
        n = flux.shape[0]
        both = jnp.concatenate([flux.reshape(n, -1), latents.reshape(n, -1)], axis=-1)
        layer = self.param("logit", _make_layer, (1, both.shape[-1], 1), 1)
        return (multiply_rounded(both, layer["kernel"][0], self.precision) + layer["bias"])[:, 0]


def _convolve(module, features, layer, stride, form=convolve_strided):
    """One layer of a module, before its activation."""
    arithmetic = {"precision": module.precision, "convolution": module.convolution}
    return form(features, layer["kernel"], stride, **arithmetic) + layer["bias"]


def _activate(module, features):
    """What follows a layer of a module."""
    if module.activation == "silu":
        return nn.silu(features)
    return nn.leaky_relu(features, module.slope)


def _plan(layers, name="conv", *, backwards=False):
    order = slice(None, None, -1) if backwards else slice(None)
    rows = zip(layers.channels[order], layers.kernels[order], layers.strides[order], strict=True)
    return [(f"{name}_{i}", *row) for i, row in enumerate(rows)]


def _normalise_instance(features, epsilon=1e-5):
    """Zero mean and unit variance along the length, in each spectrum and channel."""
    deviation = features - features.mean(axis=1, keepdims=True)
    variance = jnp.mean(deviation**2, axis=1, keepdims=True)
    return deviation * jax.lax.rsqrt(variance + epsilon)
