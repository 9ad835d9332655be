"""Cycle-StarNet as a forward model: whose latents it uses, what it does where decoders agree."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(7000.0, 7079.0, 1.0)
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 1.0))
SIZES = CycleStarSizes(
    n_pix=80,
    domain=ConvLayers((3, 4), (5, 3), (3, 2)),
    shared=ConvLayers((5,), (3,), (2,)),
    split_channels=(3,),
    shared_latents=4,
    split_latents=2,
    critic_flux=ConvLayers((4,), (7,), (4,)),
    critic_latents=(6,),
)
GENERATOR = CycleStarGenerator(SIZES)
RNG = np.random.default_rng(0)
BASE = TableModel(
    jax.device_put(np.float32(1 + 0.2 * RNG.normal(size=(4, 80)))),
    jax.device_put(np.full(80, 0.004, np.float32)),
    SPACE,
    GRID,
)
PARAMS = GENERATOR.init(jax.random.key(0))
SCALED = jax.device_put(np.float32(RNG.uniform(-0.5, 0.5, (5, 2))))

# One program each; layer by layer, every call would compile dozens.
compute = eqx.filter_jit(lambda method, *arguments: method(*arguments))


def make_model(*, params=PARAMS, sizes=SIZES, residual=False):
    shape = (sizes.latent_length, sizes.split_latents)
    mean_split = jax.device_put(np.random.default_rng(5).normal(size=shape).astype(np.float32))
    return CycleStarModel(BASE, params, mean_split, sizes, residual)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def model(request):
    return make_model(residual=request.param)


@pytest.fixture(scope="module")
def batch():
    flux = (1 + 0.1 * RNG.normal(size=(5, 80))).astype(np.float32)
    ivar = np.full((5, 80), 400.0, np.float32)
    ivar[RNG.random((5, 80)) < 0.1] = 0
    ivar[3] = 0
    return SpectrumBatch(*jax.device_put((flux, ivar, 0.5 * ivar)), GRID)


def test_theory_is_encoded_and_decoded_with_the_split_latents_of_the_star(model, batch):
    @jax.jit
    def by_hand(params, synth, split):
        shared = GENERATOR.encode_synth(params, synth)
        flux = GENERATOR.decode_obs(params, shared, split)
        change = flux - GENERATOR.decode_synth(params, shared)
        return synth + change if model.residual else flux

    split = compute(model.read_context, batch)
    synth = compute(BASE.predict_scaled_batch, SCALED)
    expected = by_hand(PARAMS, synth, split)
    flux = compute(model.predict_scaled_batch, SCALED, split)
    np.testing.assert_allclose(flux, expected, atol=1e-5)
    carried = compute(model.transfer_to_observed, synth, split)
    np.testing.assert_allclose(carried, expected, atol=1e-5)
    own = jax.device_put((np.asarray(SCALED)[2], np.asarray(split)[2]))
    one = compute(model.predict_scaled, *own)
    np.testing.assert_allclose(one, flux[2], atol=1e-5)


def test_the_context_is_what_the_encoder_reads_and_masked_pixels_do_not_reach_it(model, batch):
    ivar = np.asarray(batch.ivar)
    filled, spoilt = (np.where(ivar > 0, batch.flux, held) for held in (1, np.nan))
    split = compute(model.read_context, batch)
    expected = np.array(compute(GENERATOR.encode_obs, PARAMS, jax.device_put(filled)).split)
    expected[3] = model.mean_split
    np.testing.assert_allclose(split, expected, atol=1e-5)
    spoilt = eqx.tree_at(lambda b: b.flux, batch, jax.device_put(spoilt))
    np.testing.assert_array_equal(compute(model.read_context, spoilt), split)
    one, other = (compute(model.transfer_to_synthetic, b).flux for b in (spoilt, batch))
    np.testing.assert_array_equal(one, other)


def test_without_a_context_the_mean_split_latents_are_used(model):
    mean = np.broadcast_to(model.mean_split, (5, *model.mean_split.shape))
    predict = model.predict_scaled_batch
    expected = compute(predict, SCALED, jax.device_put(mean))
    np.testing.assert_allclose(compute(predict, SCALED), expected, atol=1e-6)
    alone = compute(model.predict_scaled, jax.device_put(np.asarray(SCALED)[0]))
    np.testing.assert_allclose(alone, expected[0], atol=1e-5)
    other = compute(predict, SCALED, jax.device_put(mean + np.float32(1)))
    assert np.abs(np.asarray(expected) - other).max() > 1e-5


def test_observed_spectra_are_carried_to_the_domain_of_the_base_model(model, batch):
    @jax.jit
    def by_hand(params, flux, ivar):
        latents = GENERATOR.encode_obs(params, jnp.where(ivar > 0, flux, 1.0))
        expected = GENERATOR.decode_synth(params, latents.shared)
        change = expected - GENERATOR.decode_obs(params, *latents)
        return jnp.where(ivar > 0, flux + change, expected) if model.residual else expected

    theory, carried = compute(model.to_synthetic, batch)
    assert type(theory) is type(BASE)
    np.testing.assert_array_equal(theory.corners, BASE.corners)
    np.testing.assert_allclose(carried.flux, by_hand(PARAMS, batch.flux, batch.ivar), atol=1e-5)
    np.testing.assert_array_equal(carried.ivar, batch.ivar)
    np.testing.assert_array_equal(carried.information, batch.information)
    assert np.isfinite(carried.flux).all()


def test_where_the_decoders_agree_the_residual_form_is_theory_itself():
    # The observed decoder is made the synthetic one: its first kernel ignores the split features.
    params = {part: dict(layers) for part, layers in PARAMS.items()}
    first = dict(params["decoder_obs"]["conv_0"])
    kernel = np.array(params["decoder_synth"]["conv_0"]["kernel"])
    beyond = first["kernel"].shape[0] - len(kernel)
    first["kernel"] = jax.device_put(np.pad(kernel, ((0, beyond), (0, 0), (0, 0))))
    params["decoder_obs"] = {**params["decoder_synth"], "conv_0": first}
    model = make_model(params=params, residual=True)
    np.testing.assert_allclose(
        compute(model.predict_scaled_batch, SCALED),
        compute(BASE.predict_scaled_batch, SCALED),
        atol=1e-6,
    )


def test_it_is_a_forward_model_of_the_base_models_labels_and_pixels(model):
    assert model.label_space == SPACE
    assert model.grid == GRID
    np.testing.assert_array_equal(model.model_error, BASE.model_error)
    assert model.low_rank() is None
    assert model.preprocessing == BASE.preprocessing


def test_a_fit_can_follow_its_derivatives(model):
    at = np.asarray(SCALED)[0]
    slope = np.asarray(jax.jit(jax.jacfwd(model.predict_scaled))(at))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, np.float64)), model)
        step = np.array([1e-5, 0.0])
        ahead, behind = (
            np.asarray(compute(double.predict_scaled, jax.device_put(at + s * step)))
            for s in (1, -1)
        )
        expected = (ahead - behind) / 2e-5
    # A leaky ReLU may bend between the two points: most pixels must agree, not all.
    close = np.abs(slope[:, 0] - expected) < 1e-3 * (1 + np.abs(expected))
    assert close.mean() > 0.9


def test_models_of_theory_alone_read_no_context_and_carry_nothing(batch):
    assert BASE.read_context(batch) is None
    assert BASE.to_synthetic(batch) is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda: make_model(sizes=dataclasses.replace(SIZES, n_pix=81)),
        lambda: make_model(sizes=dataclasses.replace(SIZES, shared_latents=5)),
        lambda: make_model(sizes=dataclasses.replace(SIZES, centred=True)),
        lambda: make_model(params={k: v for k, v in PARAMS.items() if k != "decoder_obs"}),
        lambda: CycleStarModel(BASE, PARAMS, jnp.zeros((2, 2)), SIZES),
    ],
    ids=["pixels", "latents", "centres", "parts", "mean"],
)
def test_parts_that_do_not_belong_together_are_refused(broken):
    with pytest.raises(MismatchError):
        broken()


def test_spectra_on_other_pixels_are_refused(model):
    flux = jax.device_put(np.ones((1, 80), np.float32))
    other = SpectrumBatch(flux, flux, flux, PixelGrid.linear(7001.0, 7080.0, 1.0))
    with pytest.raises(MismatchError):
        model.read_context(other)
    with pytest.raises(MismatchError):
        model.to_synthetic(other)


def test_what_the_base_learned_of_the_stars_holds_behind_the_networks():
    assert make_model().priors() == ()
    assert make_model().noise_model() == BASE.noise_model()
    corrected = CorrectedModel(
        BASE,
        *jax.device_put((np.zeros((1, 80), np.float32), np.full((2, 80), 0.01, np.float32))),
        BASE.model_error,
        LabelFeatures(("teff",), (3500.0,), (200.0,), 0),
        (LabelPrior("mh", -0.1, 0.2),),
        jnp.asarray(1.3),
    )
    model = dataclasses.replace(make_model(), base=corrected)
    assert model.priors() == (LabelPrior("mh", -0.1, 0.2),)
    noise = model.noise_model()
    assert float(noise.scale) == pytest.approx(1.3)
    np.testing.assert_array_equal(noise.nuisance, corrected.nuisance)


def test_its_surrogate_is_theory_whose_slopes_are_followed(model):
    assert model.expensive
    assert not BASE.expensive
    assert model.surrogate() == (BASE, False)
    assert BASE.surrogate() is None
