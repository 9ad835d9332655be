"""Cycle-StarNet's networks: encoders, decoders and critics of the two domains of spectra.

Two low-level pairs (synthetic, observed) stand around one shared pair and, on the observed side,
one split pair (O'Briain et al. 2021, ApJ 906, 130; the paper's section 3.1). Everything is channels
last and a pure function of its parameters. Strided convolutions are written as slices and one
matrix product: inside `jax.lax.scan` XLA's own convolution is many times slower on a CPU. XLA's own
is there by option, and so are products of fewer digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxmdwarf.errors import MismatchError, UsageError

GENERATOR_PARTS = (
    "encoder_synth",
    "encoder_obs",
    "encoder_shared",
    "encoder_split",
    "decoder_shared",
    "decoder_split",
    "decoder_synth",
    "decoder_obs",
)
"""Keys of the generator's parameters."""

Precision: TypeAlias = Literal["float32", "tf32", "bf16"]
"""How matrix products round their factors; see `CycleStarSizes`."""

ConvolutionForm: TypeAlias = Literal["auto", "product", "library"]
"""How convolutions are computed; see `CycleStarSizes`."""


@dataclass(frozen=True)
class ConvLayers:
    """Strided convolutions in the order of an encoder; decoders run them backwards.

    Parameters
    ----------
    channels : tuple of int
        Channels that leave each layer.
    kernels : tuple of int
        Pixels that each layer sees at once; at least the stride.
    strides : tuple of int
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.kernels) == len(self.strides) > 0:
            raise UsageError(
                f"channels {self.channels}, kernels {self.kernels} and strides {self.strides} "
                "do not describe the same layers.",
                "give one of each for every layer.",
            )
        if min(*self.channels, *self.strides) < 1:
            raise UsageError(f"channels {self.channels} and strides {self.strides} must be >= 1.")
        if any(k < s for k, s in zip(self.kernels, self.strides, strict=True)):
            raise UsageError(
                f"kernels {self.kernels} are shorter than strides {self.strides}: pixels between "
                "them would never be seen.",
                "make each kernel at least as long as its stride.",
            )

    def shorten(self, length: int) -> int:
        """Length after all layers of an input of `length`, without padding."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def lengthen(self, length: int) -> int:
        """Length of the input whose every pixel is used and that leaves `length`."""
        for kernel, stride in zip(self.kernels[::-1], self.strides[::-1], strict=True):
            length = (length - 1) * stride + kernel
        return length

    def __add__(self, other: "ConvLayers") -> "ConvLayers":
        return ConvLayers(
            self.channels + other.channels,
            self.kernels + other.kernels,
            self.strides + other.strides,
        )

    def fit_length(self, length: int) -> int:
        """Smallest length >= `length` of which every pixel is used."""
        shortest = 1
        while self.lengthen(shortest) < length:
            shortest += 1
        return self.lengthen(shortest)


@dataclass(frozen=True)
class CycleStarSizes:
    """Shape and arithmetic of all networks; hashable: it can be static under `jax.jit`.

    Parameters
    ----------
    n_pix : int
        Pixels of the spectra, any number. Inside, spectra are lengthened by `flux_mean` (or the
        centre) at both ends to the next length that passes the strides and back unchanged, and
        cropped again.
    domain : ConvLayers
        Low-level encoders; the low-level decoders run them backwards, then mix channels to flux.
    shared : ConvLayers
        High-level encoder and, backwards, decoder.
    split_channels : tuple of int
        Channels of the split pair, whose kernels and strides are those of `shared`.
    shared_latents, split_latents : int
        Channels of the latents.
    critic_flux : ConvLayers
        The critics' layers on the spectrum.
    critic_latents : tuple of int
        Channels of the critics' 1x1 layers on the latents.
    slope : float
        Of the leaky ReLU below zero.
    latent_norm : bool
        Instance norm of the latents: zero mean, unit variance along the length, per channel. Not
        for `centred` networks: it would forget how far a spectrum is from the centre, and turn
        around at once where labels pass it.
    centred : bool
        Whether encoders, decoders and critics hold a spectrum of their own (see `set_centres`)
        around which they work, and which decoders learn; otherwise they work around `flux_mean`.
    flux_mean, flux_spread : float
        Flux that counts as 0 inside, and as one unit from there: normalised spectra of M dwarfs
        scatter by 0.1 around 1.
    pointwise_flux : bool
        Whether decoders mix flux from the first `domain` channels at every pixel, as the authors'
        do; otherwise their last transposed convolution makes flux itself, which leaves out the
        layer that moves most memory.
    precision : {"float32", "tf32", "bf16"}
        Factors of matrix products: as they are; with the 10-bit mantissas of NVIDIA's matrix units
        (full ones on devices without them); or as bfloat16, products rounded to it too. Sums inside
        a product, everything between products and the weights are float32 in all three.
    convolution : {"auto", "product", "library"}
        Whether convolutions are slices and one matrix product, or XLA's own (cuDNN's on a GPU).
        "auto" is the product, until the other has been measured to be faster on some device.

    Raises
    ------
    UsageError
        If numbers of layers differ or a number is not positive.

    Examples
    --------
    >>> sizes = CycleStarSizes.original(2901)
    >>> sizes.padded_pix, sizes.latent_length
    (3071, 8)
    """

    n_pix: int
    domain: ConvLayers
    shared: ConvLayers
    split_channels: tuple[int, ...]
    shared_latents: int
    split_latents: int
    critic_flux: ConvLayers
    critic_latents: tuple[int, ...]
    slope: float = 0.1
    latent_norm: bool = True
    centred: bool = False
    flux_spread: float = 0.1
    pointwise_flux: bool = True
    flux_mean: float = 1.0
    precision: Precision = "float32"
    convolution: ConvolutionForm = "auto"

    def __post_init__(self) -> None:
        if len(self.split_channels) != len(self.shared.channels):
            raise UsageError(
                f"{len(self.split_channels)} split layers beside {len(self.shared.channels)} "
                "shared ones: they must leave latents of one length.",
                "give as many split channels as shared channels.",
            )
        counts = (self.n_pix, self.shared_latents, self.split_latents, *self.critic_latents)
        if min(*counts, *self.split_channels) < 1 or self.flux_spread <= 0:
            raise UsageError("pixels, latents, channels and the spread of flux must be positive.")
        for name, known in (("precision", Precision), ("convolution", ConvolutionForm)):
            if getattr(self, name) not in get_args(known):
                raise UsageError(
                    f"{name} {getattr(self, name)!r} is unknown.",
                    f"use one of {', '.join(get_args(known))}.",
                )

    @classmethod
    def original(cls, n_pix: int) -> "CycleStarSizes":
        """The authors' public configuration, for spectra of `n_pix` pixels."""
        return cls(
            n_pix=n_pix,
            domain=ConvLayers((32, 64), (7, 7), (4, 4)),
            shared=ConvLayers((128, 256, 512), (7, 7, 7), (4, 2, 2)),
            split_channels=(32, 32, 32),
            shared_latents=25,
            split_latents=4,
            critic_flux=ConvLayers((16, 32, 64, 128, 256), (7,) * 5, (4,) * 5),
            critic_latents=(32, 64, 128, 256, 512),
        )

    @classmethod
    def compact(cls, n_pix: int) -> "CycleStarSizes":
        """Smaller ones that train in minutes on two processor cores."""
        return cls(
            n_pix=n_pix,
            domain=ConvLayers((16, 24), (16, 8), (8, 4)),
            shared=ConvLayers((32, 48), (8, 4), (4, 2)),
            split_channels=(8, 8),
            shared_latents=16,
            split_latents=2,
            critic_flux=ConvLayers((8, 16, 32), (16, 8, 8), (8, 4, 4)),
            critic_latents=(32, 32),
            pointwise_flux=False,
            centred=True,
            latent_norm=False,
        )

    @cached_property
    def split(self) -> ConvLayers:
        """The split encoder's layers."""
        return ConvLayers(self.split_channels, self.shared.kernels, self.shared.strides)

    @cached_property
    def _there_and_back(self) -> ConvLayers:
        return self.domain + self.shared

    @cached_property
    def padded_pix(self) -> int:
        """Pixels that encoders and decoders work on."""
        # Instance norm of a single position would leave nothing of it.
        return max(self._there_and_back.fit_length(self.n_pix), self._there_and_back.lengthen(2))

    @cached_property
    def critic_pix(self) -> int:
        """Pixels that critics work on."""
        return self.critic_flux.fit_length(self.n_pix)

    @cached_property
    def latent_length(self) -> int:
        """Positions along the spectrum of each latent channel."""
        return self._there_and_back.shorten(self.padded_pix)


class Latents(NamedTuple):
    """What an observed spectrum is encoded to.

    Parameters
    ----------
    shared : (n_spec, length, shared_latents)
        What synthetic spectra have too.
    split : (n_spec, length, split_latents)
        What only observed spectra have.
    """

    shared: Float[Array, "n_spec length c_shared"]
    split: Float[Array, "n_spec length c_split"]


def convolve_strided(
    inputs: Float[Array, "n length c_in"],
    kernel: Float[Array, "k c_in c_out"],
    stride: int,
    *,
    precision: Precision = "float32",
    convolution: ConvolutionForm = "product",
) -> Float[Array, "n length_out c_out"]:
    """Strided convolution without padding.

    Equal to ``lax.conv_general_dilated(inputs, kernel, (stride,), "VALID",
    dimension_numbers=("NWC", "WIO", "NWC"))``.

    Parameters
    ----------
    inputs : (n, length, c_in)
    kernel : (k, c_in, c_out)
    stride : int
    precision, convolution
        See `CycleStarSizes`; layers of one pixel are matrix products in either form.

    Returns
    -------
    (n, (length - k) // stride + 1, c_out)
    """
    n, length, c_in = inputs.shape
    k, _, c_out = kernel.shape
    if k > 1 and _uses_library(convolution):
        return _round_products(
            lambda left, right, digits: jax.lax.conv_general_dilated(
                left,
                right,
                (stride,),
                "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                precision=digits,
            ),
            inputs,
            kernel,
            precision,
        )
    n_out = (length - k) // stride + 1
    if k == 1 and stride == 1:
        windows = inputs
    else:
        # Blocks of `stride` neighbours: a window is then a few whole blocks and part of another,
        # all contiguous, instead of k strided slices.
        n_whole, rest = divmod(k, stride)
        n_block = n_out + n_whole - (rest == 0)
        short = n_block * stride - length
        inputs = jnp.pad(inputs, ((0, 0), (0, short), (0, 0))) if short > 0 else inputs
        blocks = inputs[:, : n_block * stride].reshape(n, n_block, stride * c_in)
        pieces = [blocks[:, j : j + n_out] for j in range(n_whole)]
        if rest:
            pieces.append(blocks[:, n_whole : n_whole + n_out, : rest * c_in])
        windows = jnp.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
    product = _multiply(
        windows.reshape(n * n_out, k * c_in), kernel.reshape(k * c_in, c_out), precision
    )
    return product.reshape(n, n_out, c_out)


def convolve_transposed(
    inputs: Float[Array, "n length c_in"],
    kernel: Float[Array, "c_in k c_out"],
    stride: int,
    *,
    precision: Precision = "float32",
    convolution: ConvolutionForm = "product",
) -> Float[Array, "n length_out c_out"]:
    """The transpose of a strided convolution; as a product, with shifted sums after it.

    Each input position adds `k` output pixels, `stride` pixels after those of its neighbour.

    Parameters
    ----------
    inputs : (n, length, c_in)
    kernel : (c_in, k, c_out)
    stride : int
    precision, convolution
        See `CycleStarSizes`.

    Returns
    -------
    (n, (length - 1) * stride + k, c_out)
    """
    n, length, c_in = inputs.shape
    _, k, c_out = kernel.shape
    if _uses_library(convolution):
        return _round_products(
            lambda left, right, digits: jax.lax.conv_transpose(
                left,
                right,
                (stride,),
                "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                transpose_kernel=True,
                precision=digits,
            ),
            inputs,
            kernel.transpose(1, 2, 0),
            precision,
        )
    product = _multiply(
        inputs.reshape(n * length, c_in), kernel.reshape(c_in, k * c_out), precision
    )
    product = product.reshape(n, length, k * c_out)
    width = stride * c_out
    n_block = -(-k // stride)
    widths = [width] * (n_block - 1) + [k * c_out - (n_block - 1) * width]
    total: Array | None = None
    # Split, not sliced: the gradient is then put together by copying instead of by adding.
    for j, piece in enumerate(jax.lax.split(product, widths, axis=2)):
        padding = ((0, 0), (j, n_block - 1 - j), (0, width - widths[j]))
        piece = jnp.pad(piece, padding)
        total = piece if total is None else total + piece
    assert total is not None
    pixels = total.reshape(n, (length + n_block - 1) * stride, c_out)
    return pixels[:, : (length - 1) * stride + k]


def _multiply(left, right, precision):
    return _round_products(
        lambda left, right, digits: jnp.matmul(left, right, precision=digits),
        left,
        right,
        precision,
    )


def _round_products(multiply, left, right, precision):
    """``multiply(left, right, digits)`` with factors of the precision asked for, as float32."""
    if precision == "bf16":
        narrow = multiply(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), None)
        return narrow.astype(left.dtype)
    # Left to themselves some accelerators take 10-bit mantissas, which would reach the fitted flux.
    exact = precision == "float32"
    digits = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    return multiply(left, right, digits)


def _uses_library(convolution):
    if convolution == "auto":
        return False
    return convolution == "library"


_BIAS = 0.01


# One flax module for each part, its layers plain functions: modules within modules cost more time
# to trace than the networks take to run.


def _make_layer(key, shape, axis_in):
    """A Glorot-uniform kernel (its channels in on `axis_in`) and a constant bias."""
    init = nn.initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=axis_in, out_axis=2, batch_axis=()
    )
    return {"kernel": init(key, shape), "bias": jnp.full(shape[-1], _BIAS, jnp.float32)}


class _Encoder(nn.Module):
    """Convolutions, each with a leaky ReLU; then latents if asked for."""

    layers: ConvLayers
    slope: float
    latents: int = 0
    norm: bool = False
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"

    @nn.compact
    def __call__(self, features):
        for name, channels, kernel, stride in _plan(self.layers):
            shape = (kernel, features.shape[-1], channels)
            layer = self.param(name, _make_layer, shape, 1)
            features = _convolve(self, features, layer, stride)
            features = nn.leaky_relu(features, self.slope)
        if self.latents:
            layer = self.param("latents", _make_layer, (1, features.shape[-1], self.latents), 1)
            features = _convolve(self, features, layer, 1)
        return _normalise_instance(features) if self.norm else features


class _Decoder(nn.Module):
    """Transposed convolutions, each with a leaky ReLU.

    With `flux` one channel is mixed from the last ones; with `direct` the last convolution makes
    it, without the ReLU.
    """

    layers: ConvLayers
    slope: float
    flux: bool = False
    direct: bool = False
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"

    @nn.compact
    def __call__(self, features):
        plan = _plan(self.layers, backwards=True)
        for name, channels, kernel, stride in plan:
            shape = (features.shape[-1], kernel, channels)
            layer = self.param(name, _make_layer, shape, 0)
            features = _convolve(self, features, layer, stride, convolve_transposed)
            if not (self.direct and name == plan[-1][0]):
                features = nn.leaky_relu(features, self.slope)
        if self.flux:
            layer = self.param("flux", _make_layer, (1, features.shape[-1], 1), 1)
            features = _convolve(self, features, layer, 1)
        return features


class _Critic(nn.Module):
    """One logit of a spectrum and its latents."""

    flux_layers: ConvLayers
    latent_channels: tuple[int, ...]
    slope: float
    precision: Precision = "float32"
    convolution: ConvolutionForm = "product"

    @nn.compact
    def __call__(self, flux, latents):
        for name, channels, kernel, stride in _plan(self.flux_layers, "flux"):
            layer = self.param(name, _make_layer, (kernel, flux.shape[-1], channels), 1)
            flux = _convolve(self, flux, layer, stride)
            flux = nn.leaky_relu(flux, self.slope)
        for i, channels in enumerate(self.latent_channels):
            shape = (1, latents.shape[-1], channels)
            layer = self.param(f"latents_{i}", _make_layer, shape, 1)
            latents = _convolve(self, latents, layer, 1)
            latents = nn.leaky_relu(latents, self.slope)
        n = flux.shape[0]
        both = jnp.concatenate([flux.reshape(n, -1), latents.reshape(n, -1)], axis=-1)
        layer = self.param("logit", _make_layer, (1, both.shape[-1], 1), 1)
        return (_multiply(both, layer["kernel"][0], self.precision) + layer["bias"])[:, 0]


def _convolve(module, features, layer, stride, form=convolve_strided):
    """One layer of a module, before its ReLU."""
    arithmetic = {"precision": module.precision, "convolution": module.convolution}
    return form(features, layer["kernel"], stride, **arithmetic) + layer["bias"]


def _plan(layers, name="conv", *, backwards=False):
    order = slice(None, None, -1) if backwards else slice(None)
    rows = zip(layers.channels[order], layers.kernels[order], layers.strides[order], strict=True)
    return [(f"{name}_{i}", *row) for i, row in enumerate(rows)]


def _normalise_instance(features, epsilon=1e-5):
    """Zero mean and unit variance along the length, in each spectrum and channel."""
    deviation = features - features.mean(axis=1, keepdims=True)
    variance = jnp.mean(deviation**2, axis=1, keepdims=True)
    return deviation * jax.lax.rsqrt(variance + epsilon)


@lru_cache(maxsize=32)
def _modules(sizes: CycleStarSizes) -> dict[str, nn.Module]:
    slope = sizes.slope
    how: dict[str, Any] = {"precision": sizes.precision, "convolution": sizes.convolution}
    latents, norm = (sizes.shared_latents, sizes.split_latents), sizes.latent_norm
    domain_encoder = _Encoder(sizes.domain, slope, **how)
    domain_decoder = _Decoder(sizes.domain, slope, flux=True, **how)
    if not sizes.pointwise_flux:
        domain = sizes.domain
        backwards = ConvLayers((1, *domain.channels[:-1]), domain.kernels, domain.strides)
        domain_decoder = _Decoder(backwards, slope, direct=True, **how)
    return {
        "encoder_synth": domain_encoder,
        "encoder_obs": domain_encoder,
        "encoder_shared": _Encoder(sizes.shared, slope, latents[0], norm, **how),
        "encoder_split": _Encoder(sizes.split, slope, latents[1], norm, **how),
        "decoder_shared": _Decoder(sizes.shared, slope, **how),
        "decoder_split": _Decoder(sizes.split, slope, **how),
        "decoder_synth": domain_decoder,
        "decoder_obs": domain_decoder,
        "critic": _Critic(sizes.critic_flux, sizes.critic_latents, slope, **how),
    }


def _apply(sizes, params, part, features):
    layers = {key: value for key, value in params[part].items() if key != "centre"}
    return _modules(sizes)[part].apply({"params": layers}, features)


def init_generator(sizes: CycleStarSizes, key: Key[Array, ""]) -> dict[str, Any]:
    """Random parameters of all encoders and decoders, float32.

    Kernels are Glorot-uniform and biases 0.01, as in the authors' code.

    Returns
    -------
    dict
        ``{part: {"conv_0": {"kernel", "bias"}, ...}}`` for `GENERATOR_PARTS`; encoders hold
        kernels (k, c_in, c_out), decoders (c_in, k, c_out). With `centred` sizes, parts that touch
        pixels hold ``"centre"`` (n_pix,), one everywhere.

    Examples
    --------
    >>> params = init_generator(CycleStarSizes.compact(500), jax.random.key(0))
    >>> params["encoder_synth"]["conv_0"]["kernel"].shape
    (16, 1, 16)
    """
    return _init_generator(sizes, key)


# Compiled whole: one by one, the many small random arrays would each compile their own.
@partial(jax.jit, static_argnums=0)
def _init_generator(sizes, key):
    low = sizes.domain.shorten(sizes.padded_pix)
    c_low, c_shared, c_split = (
        sizes.domain.channels[-1],
        sizes.shared.channels[0],
        sizes.split_channels[0],
    )
    inputs = {
        "encoder_synth": (sizes.padded_pix, 1),
        "encoder_obs": (sizes.padded_pix, 1),
        "encoder_shared": (low, c_low),
        "encoder_split": (low, c_low),
        "decoder_shared": (sizes.latent_length, sizes.shared_latents),
        "decoder_split": (sizes.latent_length, sizes.split_latents),
        "decoder_synth": (low, c_shared),
        "decoder_obs": (low, c_shared + c_split),
    }
    modules = _modules(sizes)
    keys = jax.random.split(key, len(GENERATOR_PARTS))
    params: dict[str, Any] = {}
    for part, part_key in zip(GENERATOR_PARTS, keys, strict=True):
        example = jnp.zeros((1, *inputs[part]), jnp.float32)
        params[part] = dict(modules[part].init(part_key, example)["params"])
        if sizes.centred and part.endswith(("synth", "obs")):
            params[part]["centre"] = jnp.ones(sizes.n_pix, jnp.float32)
    return params


def init_critics(sizes: CycleStarSizes, key: Key[Array, ""]) -> dict[str, Any]:
    """Random parameters of the two critics, float32, under ``"synth"`` and ``"obs"``."""
    return _init_critics(sizes, key)


@partial(jax.jit, static_argnums=0)
def _init_critics(sizes, key):
    flux = jnp.zeros((1, sizes.critic_pix, 1), jnp.float32)
    module = _modules(sizes)["critic"]
    critics: dict[str, Any] = {}
    for domain, domain_key in zip(("synth", "obs"), jax.random.split(key), strict=True):
        channels = sizes.shared_latents + (sizes.split_latents if domain == "obs" else 0)
        latents = jnp.zeros((1, sizes.latent_length, channels), jnp.float32)
        critics[domain] = dict(module.init(domain_key, flux, latents)["params"])
        if sizes.centred:
            critics[domain]["centre"] = jnp.ones(sizes.n_pix, jnp.float32)
    return critics


def set_centres(
    networks: Mapping[str, PyTree],
    synth: Float[Array, "n_pix"],
    obs: Float[Array, "n_pix"],
) -> dict[str, Any]:
    """Parameters of `init_generator` or `init_critics` that work around the given spectra.

    Usually the mean spectra of the two training sets. Decoders of a fresh network then return
    about these; encoders and critics see the difference from them.

    Parameters
    ----------
    networks : mapping
        Parameters made with ``centred=True``.
    synth, obs : (n_pix,)

    Raises
    ------
    MismatchError
        If the networks were made without centres or for other pixels.
    """
    renewed: dict[str, Any] = {part: dict(layers) for part, layers in networks.items()}
    centres = {"synth": synth, "obs": obs}
    touched = [part for part in renewed if part.endswith(("synth", "obs"))]
    for part in touched:
        old = renewed[part].get("centre")
        new = centres["synth" if part.endswith("synth") else "obs"]
        if old is None or old.shape != new.shape:
            raise MismatchError(
                f"{part} holds no spectrum of {new.shape[-1]} pixels to work around.",
                "make networks with CycleStarSizes(..., centred=True) for these pixels.",
            )
        renewed[part]["centre"] = new
    return renewed


def fill_masked(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    domain: Literal["synth", "obs"],
    flux: Float[Array, "n_spec n_pix"],
    ivar: Float[Array, "n_spec n_pix"],
) -> Float[Array, "n_spec n_pix"]:
    """Flux with something fixed in masked pixels, so that nothing in them reaches a network.

    That is the domain's own spectrum in networks with centres, else `flux_mean`.

    Parameters
    ----------
    sizes, params
        Of the generator.
    domain : {"synth", "obs"}
    flux, ivar : (n_spec, n_pix)
        Pixels whose ivar is 0 may hold anything, NaN too.
    """
    centre: Any = sizes.flux_mean
    if sizes.centred:
        centre = jax.lax.stop_gradient(params[f"encoder_{domain}"]["centre"])
    return jnp.where(ivar > 0, flux, jnp.asarray(centre, flux.dtype))


def encode_synth(
    sizes: CycleStarSizes, params: Mapping[str, PyTree], flux: Float[Array, "n_spec n_pix"]
) -> Float[Array, "n_spec length c_shared"]:
    """Shared latents of synthetic spectra."""
    low = _encode_low(sizes, params, "encoder_synth", flux)
    return _apply(sizes, params, "encoder_shared", low)


def encode_obs(
    sizes: CycleStarSizes, params: Mapping[str, PyTree], flux: Float[Array, "n_spec n_pix"]
) -> Latents:
    """Shared and split latents of observed spectra."""
    low = _encode_low(sizes, params, "encoder_obs", flux)
    return Latents(
        _apply(sizes, params, "encoder_shared", low), _apply(sizes, params, "encoder_split", low)
    )


def encode_pair(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    synth: Float[Array, "n_synth n_pix"],
    obs: Float[Array, "n_obs n_pix"],
) -> tuple[Float[Array, "n_synth length c_shared"], Latents]:
    """`encode_synth` and `encode_obs` at once: the shared encoder runs on one larger batch."""
    low_synth = _encode_low(sizes, params, "encoder_synth", synth)
    low_obs = _encode_low(sizes, params, "encoder_obs", obs)
    shared = _apply(sizes, params, "encoder_shared", jnp.concatenate([low_synth, low_obs]))
    split = _apply(sizes, params, "encoder_split", low_obs)
    n = synth.shape[0]
    return shared[:n], Latents(shared[n:], split)


def expand_shared(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    shared: Float[Array, "n_spec length c_shared"],
) -> Float[Array, "n_spec low c_low"]:
    """Features that the shared decoder makes, from which either domain renders flux."""
    return _apply(sizes, params, "decoder_shared", shared)


def expand_split(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    split: Float[Array, "n_spec length c_split"],
) -> Float[Array, "n_spec low c_low_split"]:
    """Features that the split decoder makes, for `render_obs`."""
    return _apply(sizes, params, "decoder_split", split)


def render_synth(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    features: Float[Array, "n_spec low c_low"],
) -> Float[Array, "n_spec n_pix"]:
    """Synthetic flux from the features of `expand_shared`."""
    return _render(sizes, params, "decoder_synth", features)


def render_obs(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    features: Float[Array, "n_spec low c_low"],
    split_features: Float[Array, "n_spec low c_low_split"],
) -> Float[Array, "n_spec n_pix"]:
    """Observed flux from the features of `expand_shared` and `expand_split`."""
    both = jnp.concatenate([features, split_features], axis=-1)
    return _render(sizes, params, "decoder_obs", both)


def decode_synth(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    shared: Float[Array, "n_spec length c_shared"],
) -> Float[Array, "n_spec n_pix"]:
    """Synthetic flux of shared latents."""
    return render_synth(sizes, params, expand_shared(sizes, params, shared))


def decode_obs(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    shared: Float[Array, "n_spec length c_shared"],
    split: Float[Array, "n_spec length c_split"],
) -> Float[Array, "n_spec n_pix"]:
    """Observed flux of shared and split latents."""
    return render_obs(
        sizes, params, expand_shared(sizes, params, shared), expand_split(sizes, params, split)
    )


def criticise_synth(
    sizes: CycleStarSizes,
    critic: Mapping[str, PyTree],
    flux: Float[Array, "n_spec n_pix"],
    shared: Float[Array, "n_spec length c_shared"],
) -> Float[Array, "n_spec"]:
    """Logit that flux and latents are a reconstruction, not a transfer; synthetic domain."""
    return _criticise(sizes, critic, flux, shared)


def criticise_obs(
    sizes: CycleStarSizes,
    critic: Mapping[str, PyTree],
    flux: Float[Array, "n_spec n_pix"],
    shared: Float[Array, "n_spec length c_shared"],
    split: Float[Array, "n_spec length c_split"],
) -> Float[Array, "n_spec"]:
    """Logit that flux and latents are a reconstruction, not a transfer; observed domain."""
    return _criticise(sizes, critic, flux, jnp.concatenate([shared, split], axis=-1))


def count_parameters(params: PyTree) -> int:
    """Numbers in all arrays of a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _criticise(sizes, critic, flux, latents):
    layers = {key: value for key, value in critic.items() if key != "centre"}
    inside = _enter(sizes, critic, flux, sizes.critic_pix)
    return _modules(sizes)["critic"].apply({"params": layers}, inside, latents)


def _encode_low(sizes, params, part, flux):
    return _apply(sizes, params, part, _enter(sizes, params[part], flux, sizes.padded_pix))


def _enter(sizes, layers, flux, length):
    """Flux in units of its spread about the centre, padded: (n_spec, length, 1)."""
    if flux.shape[-1] != sizes.n_pix:
        raise MismatchError(
            f"spectra have {flux.shape[-1]} pixels, the networks {sizes.n_pix}.",
            "use networks that were made for this pixel grid.",
        )
    # Decoders learn their centre; where it only shifts an input it stays as it was set.
    centre = jax.lax.stop_gradient(layers["centre"]) if sizes.centred else sizes.flux_mean
    before = (length - sizes.n_pix) // 2
    after = length - sizes.n_pix - before
    return jnp.pad((flux - centre) / sizes.flux_spread, ((0, 0), (before, after)))[..., None]


def _render(sizes, params, part, features):
    outputs = _apply(sizes, params, part, features)[..., 0]
    before = (sizes.padded_pix - sizes.n_pix) // 2
    centre = params[part]["centre"] if sizes.centred else sizes.flux_mean
    return centre + sizes.flux_spread * outputs[:, before : before + sizes.n_pix]
