"""Cycle-StarNet's networks: encoders, decoders and critics of the two domains of spectra.

Two low-level pairs (synthetic, observed) stand around one shared pair and, on the observed side,
one split pair (O'Briain et al. 2021, ApJ 906, 130; the paper's section 3.1). Everything is channels
last and a pure function of its parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.networks.convolution import ConvLayers, ConvolutionForm, Precision

if TYPE_CHECKING:
    from flax import linen as nn

Domain: TypeAlias = Literal["synth", "obs"]
Activation: TypeAlias = Literal["leaky_relu", "silu"]

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
    activation : {"leaky_relu", "silu"}
        What follows each convolution: the authors' leaky ReLU, or x sigmoid(x), whose derivative
        has no steps at which a fit through the networks would stumble.
    split_pooled : bool
        Whether split latents are averaged along the spectrum: `split_latents` numbers a star, where
        the authors' are as many a position. What is borrowed at random in a transfer then has no
        room for a spectrum's labels.
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
        Of matrix products, see `jaxmdwarf.networks.convolution.Precision`; weights are float32.
    convolution : {"auto", "product", "library"}
        See `jaxmdwarf.networks.convolution.ConvolutionForm`.

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
    activation: Activation = "leaky_relu"
    split_pooled: bool = False

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
        for name, known in (
            ("precision", Precision),
            ("convolution", ConvolutionForm),
            ("activation", Activation),
        ):
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

    @classmethod
    def pooled(cls, n_pix: int) -> "CycleStarSizes":
        """`compact` ones with two split latents a star and smooth activations."""
        return replace(cls.compact(n_pix), split_pooled=True, activation="silu")

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


@dataclass(frozen=True)
class CycleStarGenerator:
    """All encoders and decoders; each method is a pure function of the parameters.

    Parameters
    ----------
    sizes : CycleStarSizes

    Examples
    --------
    >>> generator = CycleStarGenerator(CycleStarSizes.compact(500))
    >>> params = generator.init(jax.random.key(0))
    >>> params["encoder_synth"]["conv_0"]["kernel"].shape
    (16, 1, 16)
    >>> shared = generator.encode_synth(params, jnp.ones((2, 500)))
    >>> generator.decode_synth(params, shared).shape
    (2, 500)
    """

    sizes: CycleStarSizes

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Random parameters, float32.

        Kernels are Glorot-uniform and biases 0.01, as in the authors' code.

        Returns
        -------
        dict
            ``{part: {"conv_0": {"kernel", "bias"}, ...}}`` for `GENERATOR_PARTS`; encoders hold
            kernels (k, c_in, c_out), decoders (c_in, k, c_out). With `centred` sizes, parts that
            touch pixels hold ``"centre"`` (n_pix,), one everywhere.
        """
        return _init_generator(self.sizes, key)

    def fill_masked(
        self,
        params: Mapping[str, PyTree],
        domain: Domain,
        flux: Float[Array, "n_spec n_pix"],
        ivar: Float[Array, "n_spec n_pix"],
    ) -> Float[Array, "n_spec n_pix"]:
        """Flux with something fixed in masked pixels, so that nothing in them reaches a network.

        That is the domain's own spectrum in networks with centres, else `flux_mean`.

        Parameters
        ----------
        params : mapping
        domain : {"synth", "obs"}
        flux, ivar : (n_spec, n_pix)
            Pixels whose ivar is 0 may hold anything, NaN too.
        """
        centre: Any = self.sizes.flux_mean
        if self.sizes.centred:
            centre = jax.lax.stop_gradient(params[f"encoder_{domain}"]["centre"])
        return jnp.where(ivar > 0, flux, jnp.asarray(centre, flux.dtype))

    def encode_synth(
        self, params: Mapping[str, PyTree], flux: Float[Array, "n_spec n_pix"]
    ) -> Float[Array, "n_spec length c_shared"]:
        """Shared latents of synthetic spectra."""
        return self._apply(params, "encoder_shared", self._encode_low(params, "synth", flux))

    def encode_obs(
        self, params: Mapping[str, PyTree], flux: Float[Array, "n_spec n_pix"]
    ) -> Latents:
        """Shared and split latents of observed spectra."""
        low = self._encode_low(params, "obs", flux)
        return Latents(self._apply(params, "encoder_shared", low), self._encode_split(params, low))

    def encode_pair(
        self,
        params: Mapping[str, PyTree],
        synth: Float[Array, "n_synth n_pix"],
        obs: Float[Array, "n_obs n_pix"],
    ) -> tuple[Float[Array, "n_synth length c_shared"], Latents]:
        """`encode_synth` and `encode_obs` at once: the shared encoder runs on one larger batch."""
        low_synth = self._encode_low(params, "synth", synth)
        low_obs = self._encode_low(params, "obs", obs)
        both = jnp.concatenate([low_synth, low_obs])
        shared = self._apply(params, "encoder_shared", both)
        split = self._encode_split(params, low_obs)
        n = synth.shape[0]
        return shared[:n], Latents(shared[n:], split)

    def expand_shared(
        self, params: Mapping[str, PyTree], shared: Float[Array, "n_spec length c_shared"]
    ) -> Float[Array, "n_spec low c_low"]:
        """Features that the shared decoder makes, from which either domain renders flux."""
        return self._apply(params, "decoder_shared", shared)

    def expand_split(
        self, params: Mapping[str, PyTree], split: Float[Array, "n_spec length c_split"]
    ) -> Float[Array, "n_spec low c_low_split"]:
        """Features that the split decoder makes, for `render_obs`."""
        return self._apply(params, "decoder_split", split)

    def render_synth(
        self, params: Mapping[str, PyTree], features: Float[Array, "n_spec low c_low"]
    ) -> Float[Array, "n_spec n_pix"]:
        """Synthetic flux from the features of `expand_shared`."""
        return self._render(params, "synth", features)

    def render_obs(
        self,
        params: Mapping[str, PyTree],
        features: Float[Array, "n_spec low c_low"],
        split_features: Float[Array, "n_spec low c_low_split"],
    ) -> Float[Array, "n_spec n_pix"]:
        """Observed flux from the features of `expand_shared` and `expand_split`."""
        both = jnp.concatenate([features, split_features], axis=-1)
        return self._render(params, "obs", both)

    def decode_synth(
        self, params: Mapping[str, PyTree], shared: Float[Array, "n_spec length c_shared"]
    ) -> Float[Array, "n_spec n_pix"]:
        """Synthetic flux of shared latents."""
        return self.render_synth(params, self.expand_shared(params, shared))

    def decode_obs(
        self,
        params: Mapping[str, PyTree],
        shared: Float[Array, "n_spec length c_shared"],
        split: Float[Array, "n_spec length c_split"],
    ) -> Float[Array, "n_spec n_pix"]:
        """Observed flux of shared and split latents."""
        features = self.expand_shared(params, shared)
        return self.render_obs(params, features, self.expand_split(params, split))

    def carry_to_obs(
        self,
        params: Mapping[str, PyTree],
        synth: Float[Array, "n_spec n_pix"],
        split: Float[Array, "n_spec length c_split"],
        *,
        residual: bool = False,
    ) -> Float[Array, "n_spec n_pix"]:
        """Synthetic spectra without masked pixels in the observed domain, with given split latents.

        With `residual` the spectra plus what the two decoders make differently of their latents.
        """
        features = self.expand_shared(params, self.encode_synth(params, synth))
        carried = self.render_obs(params, features, self.expand_split(params, split))
        return synth + carried - self.render_synth(params, features) if residual else carried

    def _encode_split(self, params, low):
        split = self._apply(params, "encoder_split", low)
        if not self.sizes.split_pooled:
            return split
        # Repeated, so that decoders and critics meet the same shapes.
        return jnp.broadcast_to(split.mean(axis=1, keepdims=True), split.shape)

    def _apply(self, params, part, features):
        layers = {key: value for key, value in params[part].items() if key != "centre"}
        return _modules(self.sizes)[part].apply({"params": layers}, features)

    def _encode_low(self, params, domain, flux):
        part = f"encoder_{domain}"
        inside = _enter(self.sizes, params[part], flux, self.sizes.padded_pix)
        return self._apply(params, part, inside)

    def _render(self, params, domain, features):
        sizes, part = self.sizes, f"decoder_{domain}"
        outputs = self._apply(params, part, features)[..., 0]
        before = (sizes.padded_pix - sizes.n_pix) // 2
        centre = params[part]["centre"] if sizes.centred else sizes.flux_mean
        return centre + sizes.flux_spread * outputs[:, before : before + sizes.n_pix]


@dataclass(frozen=True)
class CycleStarCritics:
    """The two critics; each method is a pure function of the parameters.

    Parameters
    ----------
    sizes : CycleStarSizes
    """

    sizes: CycleStarSizes

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Random parameters of both, float32, under ``"synth"`` and ``"obs"``."""
        return _init_critics(self.sizes, key)

    def score_synth(
        self,
        params: Mapping[str, PyTree],
        flux: Float[Array, "n_spec n_pix"],
        shared: Float[Array, "n_spec length c_shared"],
    ) -> Float[Array, "n_spec"]:
        """Logit that flux and latents are a reconstruction, not a transfer; synthetic domain."""
        return self._score(params["synth"], flux, shared)

    def score_obs(
        self,
        params: Mapping[str, PyTree],
        flux: Float[Array, "n_spec n_pix"],
        shared: Float[Array, "n_spec length c_shared"],
        split: Float[Array, "n_spec length c_split"],
    ) -> Float[Array, "n_spec"]:
        """Logit that flux and latents are a reconstruction, not a transfer; observed domain."""
        return self._score(params["obs"], flux, jnp.concatenate([shared, split], axis=-1))

    def _score(self, critic, flux, latents):
        layers = {key: value for key, value in critic.items() if key != "centre"}
        inside = _enter(self.sizes, critic, flux, self.sizes.critic_pix)
        return _modules(self.sizes)["critic"].apply({"params": layers}, inside, latents)


def set_centres(
    networks: Mapping[str, PyTree],
    synth: Float[Array, "n_pix"],
    obs: Float[Array, "n_pix"],
) -> dict[str, Any]:
    """Parameters of a generator or of critics that work around the given spectra.

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


def equate_domains(generator: Mapping[str, PyTree]) -> dict[str, Any]:
    """A generator whose observed domain starts as a copy of its synthetic one.

    Both encode and decode alike and split latents do nothing yet: a residual transfer changes
    nothing but the centres, where the networks have any. Both domains then go their own ways.

    Parameters
    ----------
    generator : mapping
        Parameters of a `CycleStarGenerator`.
    """
    renewed: dict[str, Any] = {part: dict(layers) for part, layers in generator.items()}
    for kind in ("encoder", "decoder"):
        copied = {k: v for k, v in generator[f"{kind}_synth"].items() if k != "centre"}
        renewed[f"{kind}_obs"] |= copied
    # The first layer of the observed decoder has rows of its own for what split latents say.
    first = "conv_0"
    known, wide = (generator[f"decoder_{domain}"][first]["kernel"] for domain in ("synth", "obs"))
    added = jnp.zeros((wide.shape[0] - known.shape[0], *known.shape[1:]), known.dtype)
    kernel = jnp.concatenate([known, added])
    renewed["decoder_obs"][first] = {**renewed["decoder_obs"][first], "kernel": kernel}
    return renewed


def count_parameters(params: PyTree) -> int:
    """Numbers in all arrays of a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@lru_cache(maxsize=32)
def _modules(sizes: CycleStarSizes) -> "dict[str, nn.Module]":
    # Not above: a fit of a model without these networks need not wait for flax.
    from jaxmdwarf.networks.cyclestar_layers import Critic, Decoder, Encoder

    slope = sizes.slope
    names = ("precision", "convolution", "activation")
    how: dict[str, Any] = {name: getattr(sizes, name) for name in names}
    latents, norm = (sizes.shared_latents, sizes.split_latents), sizes.latent_norm
    domain_encoder = Encoder(sizes.domain, slope, **how)
    domain_decoder = Decoder(sizes.domain, slope, flux=True, **how)
    if not sizes.pointwise_flux:
        domain = sizes.domain
        backwards = ConvLayers((1, *domain.channels[:-1]), domain.kernels, domain.strides)
        domain_decoder = Decoder(backwards, slope, direct=True, **how)
    return {
        "encoder_synth": domain_encoder,
        "encoder_obs": domain_encoder,
        "encoder_shared": Encoder(sizes.shared, slope, latents[0], norm, **how),
        "encoder_split": Encoder(sizes.split, slope, latents[1], norm, **how),
        "decoder_shared": Decoder(sizes.shared, slope, **how),
        "decoder_split": Decoder(sizes.split, slope, **how),
        "decoder_synth": domain_decoder,
        "decoder_obs": domain_decoder,
        "critic": Critic(sizes.critic_flux, sizes.critic_latents, slope, **how),
    }


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
