"""Cycle-StarNet's networks: the authors' shapes, exact convolutions, any number of pixels."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.networks.convolution import ConvLayers, convolve_strided, convolve_transposed
from jaxmdwarf.networks.cyclestar import (
    GENERATOR_PARTS,
    CycleStarCritics,
    CycleStarGenerator,
    CycleStarSizes,
    count_parameters,
    equate_domains,
    set_centres,
)
from jaxmdwarf.networks.payne import PayneNetwork, init_payne

TINY = CycleStarSizes(
    n_pix=100,
    domain=ConvLayers((3, 4), (5, 3), (3, 2)),
    shared=ConvLayers((5,), (3,), (2,)),
    split_channels=(3,),
    shared_latents=4,
    split_latents=2,
    critic_flux=ConvLayers((4, 4), (7, 5), (4, 4)),
    critic_latents=(6, 5),
)
GENERATOR = CycleStarGenerator(TINY)
SPECTRA = jax.device_put(np.float32(1 + 0.1 * np.random.default_rng(3).normal(size=(3, 100))))


def draw(*shapes):
    """Normal deviates of some shapes."""
    rng = np.random.default_rng(0)
    return jax.device_put([rng.normal(size=shape).astype(np.float32) for shape in shapes])


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@jax.jit
def reconstruct(params, flux):
    return GENERATOR.decode_obs(params, *GENERATOR.encode_obs(params, flux))


@pytest.fixture(scope="module")
def networks():
    return GENERATOR.init(jax.random.key(0)), CycleStarCritics(TINY).init(jax.random.key(1))


def test_the_original_sizes_are_those_of_the_authors():
    sizes = CycleStarSizes.original(2900)
    params, critics = (
        jax.eval_shape(kind(sizes).init, jax.random.key(0))
        for kind in (CycleStarGenerator, CycleStarCritics)
    )
    assert set(params) == set(GENERATOR_PARTS)

    def kernels(layers):
        return [layers[name]["kernel"].shape for name in layers]

    # Encoders: kernel, channels in, channels out.
    assert kernels(params["encoder_synth"]) == [(7, 1, 32), (7, 32, 64)]
    assert shapes(params["encoder_obs"]) == shapes(params["encoder_synth"])
    assert kernels(params["encoder_shared"]) == [
        (7, 64, 128),
        (7, 128, 256),
        (7, 256, 512),
        (1, 512, 25),
    ]
    assert kernels(params["encoder_split"]) == [(7, 64, 32), (7, 32, 32), (7, 32, 32), (1, 32, 4)]
    # Decoders: channels in, kernel, channels out; a last 1x1 convolution makes flux.
    assert kernels(params["decoder_shared"]) == [(25, 7, 512), (512, 7, 256), (256, 7, 128)]
    assert kernels(params["decoder_split"]) == [(4, 7, 32), (32, 7, 32), (32, 7, 32)]
    assert kernels(params["decoder_synth"]) == [(128, 7, 64), (64, 7, 32), (1, 32, 1)]
    assert kernels(params["decoder_obs"]) == [(160, 7, 64), (64, 7, 32), (1, 32, 1)]
    for domain, latents in (("synth", 25), ("obs", 29)):
        critic = critics[domain]
        assert [critic[f"flux_{i}"]["kernel"].shape for i in range(5)] == [
            (7, 1, 16),
            (7, 16, 32),
            (7, 32, 64),
            (7, 64, 128),
            (7, 128, 256),
        ]
        assert [critic[f"latents_{i}"]["kernel"].shape for i in range(5)] == [
            (1, latents, 32),
            (1, 32, 64),
            (1, 64, 128),
            (1, 128, 256),
            (1, 256, 512),
        ]
        assert critic["logit"]["kernel"].shape == (1, 2 * 256 + 8 * 512, 1)
    payne = PayneNetwork(hidden=(300, 300), n_out=2900)
    emulator = jax.eval_shape(lambda key: init_payne(payne, key, 4), jax.random.key(0))
    assert count_parameters(params) == 2_686_815
    assert count_parameters(critics) == 971_586
    total = sum(count_parameters(part) for part in (params, critics, emulator))
    assert round(total / 1e6, 2) == 4.62


@pytest.mark.parametrize(("kernel", "stride"), [(7, 4), (7, 2), (8, 4), (1, 1), (5, 1)])
def test_strided_convolution_equals_that_of_lax(kernel, stride):
    inputs, weights = draw((2, 61, 3), (kernel, 3, 5))

    def peer(inputs, weights):
        return jax.lax.conv_general_dilated(
            inputs, weights, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )

    @partial(jax.jit, static_argnums=0)
    def differentiate(function, inputs, weights):
        value, pull = jax.vjp(function, inputs, weights)
        return value, *pull(jnp.cos(value))

    ours = differentiate(lambda x, w: convolve_strided(x, w, stride), inputs, weights)
    theirs = differentiate(peer, inputs, weights)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 4), (7, 2), (5, 1), (4, 4)])
def test_transposed_convolution_is_the_transpose_of_lax(kernel, stride):
    inputs, weights = draw((2, 9, 5), (kernel, 3, 5))

    @jax.jit
    def both(inputs, weights):
        def forward(outputs):
            return jax.lax.conv_general_dilated(
                outputs, weights, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
            )

        example = jnp.zeros((2, 8 * stride + kernel, 3))
        (expected,) = jax.linear_transpose(forward, example)(inputs)
        return convolve_transposed(inputs, weights.transpose(2, 0, 1), stride), expected

    ours, expected = both(inputs, weights)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("form", [convolve_strided, convolve_transposed])
def test_the_librarys_convolution_and_its_gradients_are_those_of_the_product(form):
    shape, length = ((7, 3, 5), 10) if form is convolve_strided else ((3, 7, 3), 183)
    inputs, kernel, outside = draw((2, 45, 3), shape, (2, length, shape[-1]))

    def differentiate(convolution):
        def product(inputs, kernel):
            seen = form(inputs, kernel, 4, convolution=convolution)
            assert seen.shape == outside.shape
            return jnp.sum(outside * seen)

        return jax.jit(jax.value_and_grad(product, argnums=(0, 1)))(inputs, kernel)

    ours, theirs = differentiate("product"), differentiate("library")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), ours, theirs)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_products_of_fewer_digits_stay_near_those_of_float32(networks, precision, tolerance):
    rounding = CycleStarGenerator(dataclasses.replace(TINY, precision=precision))

    @jax.jit
    def decode(params, flux):
        return rounding.decode_obs(params, *rounding.encode_obs(params, flux))

    exact = np.asarray(reconstruct(networks[0], SPECTRA))
    rounded = np.asarray(decode(networks[0], SPECTRA))
    assert rounded.dtype == np.float32
    assert np.abs(rounded - exact).max() < tolerance * np.ptp(exact)
    # A processor has no short mantissas of 10 bits, but it has those of bfloat16.
    assert (rounded != exact).any() or precision == "tf32"


def test_one_mean_and_one_deviation_scale_all_flux(networks):
    params, _ = networks
    scaled = dataclasses.replace(TINY, flux_mean=0.9, flux_spread=0.05)
    moved = 0.9 + 0.5 * (np.asarray(SPECTRA) - 1)

    @jax.jit
    def compare(flux, moved):
        other = CycleStarGenerator(scaled)
        latents = GENERATOR.encode_synth(params, flux)
        inside = (GENERATOR.decode_synth(params, latents) - 1) / 0.1
        of_moved = (other.decode_synth(params, latents) - 0.9) / 0.05
        return (latents, other.encode_synth(params, moved)), (inside, of_moved)

    for one, two in compare(SPECTRA, moved):
        np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize("n_pix", [1, 57, 100, 101, 223])
def test_any_number_of_pixels_passes(n_pix):
    sizes = dataclasses.replace(TINY, n_pix=n_pix)
    flux = jax.device_put(np.ones((2, n_pix), np.float32))

    def run(key):
        params, critics = CycleStarGenerator(sizes).init(key), CycleStarCritics(sizes).init(key)
        latents = CycleStarGenerator(sizes).encode_obs(params, flux)
        decoded = (
            CycleStarGenerator(sizes).decode_synth(params, latents.shared),
            CycleStarGenerator(sizes).decode_obs(params, *latents),
        )
        return latents, decoded, CycleStarCritics(sizes).score_obs(critics, flux, *latents)

    latents, decoded, score = jax.eval_shape(run, jax.random.key(0))
    assert latents.shared.shape == (2, sizes.latent_length, 4)
    assert latents.split.shape == (2, sizes.latent_length, 2)
    assert all(spectra.shape == (2, n_pix) for spectra in decoded)
    assert score.shape == (2,)


@pytest.mark.parametrize("n_pix", [1, 500, 2815, 2816, 2900, 2901, 3909])
@pytest.mark.parametrize("name", ["original", "compact"])
def test_padding_reaches_the_next_length_that_passes_there_and_back(name, n_pix):
    sizes = getattr(CycleStarSizes, name)(n_pix)
    layers = sizes.domain + sizes.shared
    assert sizes.padded_pix >= n_pix
    assert layers.lengthen(layers.shorten(sizes.padded_pix)) == sizes.padded_pix
    shorter = layers.shorten(sizes.padded_pix) - 1
    assert shorter == 1 or layers.lengthen(shorter) < n_pix  # two positions at least, for the norm
    if name == "original" and n_pix > 1:
        assert (sizes.padded_pix - 1023) % 256 == 0


def test_every_pixel_is_seen_by_encoders_and_critics(networks):
    params, critics = networks

    def look(synth, obs, to_judge_synth, to_judge_obs):
        shared, latents = GENERATOR.encode_pair(params, synth, obs)
        seen = sum((latent**3).sum() for latent in (shared, *latents))
        synth_logits = CycleStarCritics(TINY).score_synth(critics, to_judge_synth, shared)
        return (
            seen
            + synth_logits.sum()
            + CycleStarCritics(TINY).score_obs(critics, to_judge_obs, *latents).sum()
        )

    slopes = jax.jit(jax.grad(look, argnums=(0, 1, 2, 3)))(*[SPECTRA] * 4)
    for slope in slopes:
        assert np.all(np.abs(slope) > 0)


def test_latents_have_zero_mean_and_unit_variance_along_the_spectrum(networks):
    latents = jax.tree.map(np.asarray, jax.jit(GENERATOR.encode_obs)(networks[0], SPECTRA))
    for latent in latents:
        np.testing.assert_allclose(latent.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(latent.std(axis=1), 1, atol=0.05)


def test_encoding_both_domains_at_once_changes_nothing(networks):
    @jax.jit
    def encode(params, synth, obs):
        apart = GENERATOR.encode_synth(params, synth), GENERATOR.encode_obs(params, obs)
        return GENERATOR.encode_pair(params, synth, obs), apart

    together, apart = encode(networks[0], SPECTRA, SPECTRA[:2])
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), together, apart)


def test_a_fresh_network_decodes_flux_near_the_continuum(networks):
    assert np.abs(reconstruct(networks[0], SPECTRA) - 1).max() < 0.3


def test_pooled_split_latents_are_as_many_numbers_a_star_as_channels(networks):
    sizes = dataclasses.replace(TINY, latent_norm=False)

    @partial(jax.jit, static_argnums=0)
    def encode(sizes, params, flux):
        return CycleStarGenerator(sizes).encode_obs(params, flux)

    along = encode(sizes, networks[0], SPECTRA)
    pooled = encode(dataclasses.replace(sizes, split_pooled=True), networks[0], SPECTRA)
    assert np.asarray(along.split).std(axis=1).max() > 1e-3
    mean = np.asarray(along.split).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(pooled.split, np.broadcast_to(mean, along.split.shape), atol=1e-6)
    np.testing.assert_array_equal(pooled.shared, along.shared)


def test_a_smooth_activation_leaves_a_network_without_corners(networks):
    sizes = dataclasses.replace(TINY, latent_norm=False)

    @partial(jax.jit, static_argnums=0)
    def follow(sizes, params, amount):
        def bend(amount):
            latents = CycleStarGenerator(sizes).encode_synth(params, 1 + amount * (SPECTRA - 1))
            return latents.sum()

        return jax.vmap(jax.grad(bend))(amount)

    # Along a line through flux the derivative of corners is a staircase: most steps are none.
    amount = jnp.linspace(0.9, 1.1, 40)
    changed = {
        kind: np.mean(
            np.diff(follow(dataclasses.replace(sizes, activation=kind), networks[0], amount)) != 0
        )
        for kind in ("leaky_relu", "silu")
    }
    assert changed["silu"] > 0.9
    assert changed["leaky_relu"] < 0.7


def test_equal_domains_encode_alike_and_carry_nothing(networks):
    params = equate_domains(networks[0])
    assert shapes(params) == shapes(networks[0])

    @jax.jit
    def look(params, flux):
        latents = GENERATOR.encode_obs(params, flux)
        carried = GENERATOR.carry_to_obs(params, flux, latents.split, residual=True)
        return GENERATOR.encode_synth(params, flux), latents, carried

    synth, obs, carried = look(params, SPECTRA)
    np.testing.assert_allclose(synth, obs.shared, atol=1e-6)
    np.testing.assert_allclose(carried, SPECTRA, atol=1e-6)
    # What the split latents say is only to be learned, and can be: their rows have a gradient.
    slopes = jax.jit(jax.grad(lambda params: look(params, SPECTRA)[2][0, :20].sum()))(params)
    assert np.any(slopes["decoder_obs"]["conv_0"]["kernel"][5:])


CENTRED = dataclasses.replace(TINY, centred=True)


def add_centres(networks, kind):
    """What `init` makes of centred sizes, of parameters that there are: none is drawn anew."""
    expected = jax.eval_shape(kind(CENTRED).init, jax.random.key(0))
    flat = {"centre": jax.device_put(np.ones(100, np.float32))}
    made = {
        part: {**layers, **(flat if "centre" in expected[part] else {})}
        for part, layers in networks.items()
    }
    assert shapes(made) == shapes(expected)
    return made


def test_a_network_with_centres_decodes_about_them(networks):
    synth = np.float32(1 - 0.5 * np.sin(np.arange(100.0)) ** 2)
    obs = np.linspace(0.4, 1.2, 100, dtype=np.float32)
    params, critics = (
        set_centres(add_centres(made, kind), *jax.device_put((synth, obs)))
        for made, kind in zip(networks, (CycleStarGenerator, CycleStarCritics), strict=True)
    )

    @partial(jax.jit, static_argnums=0)
    def run(sizes, params, critics, synth, obs):
        latents = CycleStarGenerator(sizes).encode_obs(params, obs[None])
        score = CycleStarCritics(sizes).score_synth(critics, synth[None], latents.shared)
        decoded = (
            CycleStarGenerator(sizes).decode_synth(params, latents.shared),
            CycleStarGenerator(sizes).decode_obs(params, *latents),
        )
        return latents.shared, score, *decoded

    shared, score, as_synth, as_obs = run(CENTRED, params, critics, synth, obs)
    assert np.abs(as_synth - synth).max() < 0.3
    assert np.abs(as_obs - obs).max() < 0.3
    # At its centre a network sees what one about the continuum sees of a flat spectrum.
    flat = run(TINY, *networks, *np.ones((2, 100), np.float32))
    np.testing.assert_allclose(shared, flat[0], atol=1e-5)
    np.testing.assert_allclose(score, flat[1], atol=1e-5)
    np.testing.assert_allclose(as_obs - obs, flat[3] - 1, atol=1e-5)


def test_centres_of_other_pixels_or_networks_without_them_are_refused(networks):
    centred = add_centres(networks[0], CycleStarGenerator)
    with pytest.raises(MismatchError):
        set_centres(centred, jnp.ones(99), jnp.ones(99))
    with pytest.raises(MismatchError):
        set_centres(networks[0], jnp.ones(100), jnp.ones(100))


def test_the_first_call_inside_a_scan_is_the_function_itself(networks):
    params, _ = networks

    def step(flux, _):
        return GENERATOR.decode_synth(params, GENERATOR.encode_synth(params, flux)), None

    scanned, _ = jax.jit(lambda flux: jax.lax.scan(step, flux, length=2))(SPECTRA)
    alone = jax.jit(lambda flux: step(flux, None)[0])
    expected = alone(alone(SPECTRA))
    np.testing.assert_allclose(scanned, expected, atol=1e-5)


def test_networks_follow_double_precision(networks):
    with jax.enable_x64(True):
        params, flux = jax.tree.map(
            lambda leaf: jax.device_put(np.asarray(leaf, np.float64)), (networks[0], SPECTRA)
        )
        double = reconstruct(params, flux)
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(double, reconstruct(networks[0], SPECTRA), atol=1e-5)


def test_sizes_are_hashable_and_compact_ones_are_small():
    assert hash(CycleStarSizes.compact(2901)) == hash(CycleStarSizes.compact(2901))
    sizes = CycleStarSizes.compact(2901)
    params = jax.eval_shape(CycleStarGenerator(sizes).init, jax.random.key(0))
    assert count_parameters(params) < 300_000


@pytest.mark.parametrize(
    "broken",
    [
        lambda: ConvLayers((3,), (3, 3), (2, 2)),
        lambda: ConvLayers((3,), (2,), (4,)),
        lambda: ConvLayers((0,), (2,), (1,)),
        lambda: dataclasses.replace(TINY, split_channels=(3, 3)),
        lambda: dataclasses.replace(TINY, n_pix=0),
        lambda: dataclasses.replace(TINY, split_latents=0),
    ],
)
def test_impossible_sizes_are_refused(broken):
    with pytest.raises(UsageError):
        broken()


@pytest.mark.parametrize("broken", [{"precision": "float8"}, {"convolution": "winograd"}])
def test_unknown_arithmetic_is_refused(broken):
    with pytest.raises((UsageError, TypeCheckError)):
        dataclasses.replace(TINY, **broken)


def test_spectra_of_other_pixels_are_refused(networks):
    with pytest.raises(MismatchError):
        GENERATOR.encode_synth(networks[0], jnp.ones((1, 99)))


def test_parameters_have_types_of_their_own(networks):
    # Weakly typed ones turn into others at the first update, and all that was compiled is again.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(networks))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(networks))


def test_without_the_pointwise_layer_the_last_convolution_makes_flux():
    sizes = dataclasses.replace(TINY, pointwise_flux=False)
    example = jax.eval_shape(CycleStarGenerator(sizes).init, jax.random.key(0))
    params = jax.tree.unflatten(
        jax.tree.structure(example), draw(*(leaf.shape for leaf in jax.tree.leaves(example)))
    )
    kernels = {name: layer["kernel"].shape for name, layer in params["decoder_synth"].items()}
    assert kernels == {"conv_0": (5, 3, 3), "conv_1": (3, 5, 1)}
    # Linear at its end: twice the last layer is twice the distance from the continuum.
    (shared,) = draw((2, sizes.latent_length, 4))
    last = params["decoder_synth"]["conv_1"]
    twice = jax.tree.map(lambda leaf: jax.device_put(2 * np.asarray(leaf)), last)
    doubled = {**params, "decoder_synth": {**params["decoder_synth"], "conv_1": twice}}
    decode = jax.jit(lambda params: CycleStarGenerator(sizes).decode_synth(params, shared) - 1)
    once = np.asarray(decode(params))
    np.testing.assert_allclose(decode(doubled), 2 * once, atol=1e-6)
    assert np.any(once < 0)
