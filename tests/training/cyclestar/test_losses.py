"""Equations 4 to 7 against numpy written by hand; masks that hold; players that stay apart."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarCritics, CycleStarGenerator, CycleStarSizes
from jaxmdwarf.training.cyclestar.losses import (
    Domains,
    LossWeights,
    Scores,
    adversarial_loss,
    critic_loss,
    cycle_loss,
    generator_loss,
    r1_penalty,
    reconstruction_loss,
    run_passes,
    score_passes,
    show_passes,
    train_critic_loss,
    transfer_gradients,
    weighted_distance,
)

N, N_PIX = 3, 60
SIZES = CycleStarSizes(
    n_pix=N_PIX,
    domain=ConvLayers((4,), (5,), (3,)),
    shared=ConvLayers((5,), (3,), (2,)),
    split_channels=(3,),
    shared_latents=4,
    split_latents=2,
    critic_flux=ConvLayers((4, 4), (7, 5), (4, 4)),
    critic_latents=(6,),
)
GENERATOR = CycleStarGenerator(SIZES)
WEIGHTS = LossWeights(synth=3.0, obs=9.0, adversarial=2.0)
PARAMS = GENERATOR.init(jax.random.key(0))
CRITICS = CycleStarCritics(SIZES).init(jax.random.key(1))


@pytest.fixture(scope="module")
def domains():
    rng = np.random.default_rng(4)
    flux = 1 + 0.1 * rng.normal(size=(2, N, N_PIX)).astype(np.float32)
    ivar = rng.uniform(100, 1e4, (2, N, N_PIX)).astype(np.float32)
    ivar[rng.random(ivar.shape) < 0.1] = 0
    return Domains(*map(jnp.asarray, (flux[0], ivar[0], flux[1], ivar[1])))


@partial(jax.jit, static_argnames="residual")
def run(domains, residual=False):
    return run_passes(SIZES, PARAMS, domains, residual=residual)


@jax.jit
def run_plainly(domains, residual):
    """The paper's section 3.2, one spectrum's road at a time; `residual` is 0 or 1."""

    def to_synth(shared, start, own):
        return GENERATOR.decode_synth(PARAMS, shared) + residual * (start - own)

    def to_obs(shared, split, start, own):
        return GENERATOR.decode_obs(PARAMS, shared, split) + residual * (start - own)

    synth = jnp.where(domains.synth_ivar > 0, domains.synth, 1.0)
    obs = jnp.where(domains.obs_ivar > 0, domains.obs, 1.0)
    z_synth = GENERATOR.encode_synth(PARAMS, synth)
    z_obs, split = GENERATOR.encode_obs(PARAMS, obs)
    synth_synth = GENERATOR.decode_synth(PARAMS, z_synth)
    obs_obs = GENERATOR.decode_obs(PARAMS, z_obs, split)
    synth_obs = to_obs(z_synth, split, synth, synth_synth)
    obs_synth = to_synth(z_obs, obs, obs_obs)
    # Where there is no spectrum to add to, the decoder's own flux stands.
    synth_obs = jnp.where(
        domains.synth_ivar > 0,
        synth_obs,
        GENERATOR.decode_obs(PARAMS, z_synth, split),
    )
    obs_synth = jnp.where(domains.obs_ivar > 0, obs_synth, GENERATOR.decode_synth(PARAMS, z_obs))
    z_there, split_there = GENERATOR.encode_obs(PARAMS, synth_obs)
    own = GENERATOR.decode_obs(PARAMS, z_there, split_there)
    synth_obs_synth = to_synth(z_there, synth_obs, own)
    z_back = GENERATOR.encode_synth(PARAMS, obs_synth)
    own = GENERATOR.decode_synth(PARAMS, z_back)
    obs_synth_obs = to_obs(z_back, split, obs_synth, own)
    return (
        *(synth_synth, obs_obs, synth_obs, obs_synth, synth_obs_synth, obs_synth_obs),
        *(z_synth, z_obs, split, split_there, z_there, z_back),
    )


@pytest.mark.parametrize("residual", [False, True])
def test_passes_are_those_of_the_paper(domains, residual):
    passes = run(domains, residual=residual)
    for name, ours, theirs in zip(
        passes._fields, passes, run_plainly(domains, float(residual)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)


def test_critics_may_be_shown_spectra_or_reconstructions_filled_alike(domains):
    passes = run(domains)

    @partial(jax.jit, static_argnames=("spectra", "refill"))
    def show(spectra=False, refill=False):
        return show_passes(SIZES, PARAMS, domains, passes, spectra=spectra, refill=refill)

    assert show_passes(SIZES, PARAMS, domains, passes) is passes
    seen, filled = show(spectra=True), show(refill=True)
    for name, flux, ivar in (
        ("synth_synth", domains.synth, domains.synth_ivar),
        ("obs_obs", domains.obs, domains.obs_ivar),
    ):
        good = np.asarray(ivar) > 0
        for shown, expected in ((seen, flux), (filled, getattr(passes, name))):
            np.testing.assert_array_equal(
                getattr(shown, name), np.where(good, np.asarray(expected), np.float32(1))
            )
    np.testing.assert_array_equal(seen.synth_obs, passes.synth_obs)


def test_noise_on_split_latents_is_in_all_that_is_made_of_them(domains):
    noise = np.random.default_rng(8).normal(size=(N, 1, 2)).astype(np.float32)

    @jax.jit
    def run_noisy(noise):
        return run_passes(SIZES, PARAMS, domains, split_noise=noise)

    noisy, plain = run_noisy(noise), run(domains)
    np.testing.assert_allclose(noisy.split_obs, plain.split_obs + noise, atol=1e-5)
    np.testing.assert_allclose(noisy.shared_obs, plain.shared_obs, atol=1e-5)
    for name in ("obs_obs", "synth_obs", "obs_synth_obs"):
        assert np.abs(getattr(noisy, name) - getattr(plain, name)).max() > 1e-4, name


def distance(flux, ivar, prediction):
    flux, ivar, prediction = (np.asarray(a, np.float64) for a in (flux, ivar, prediction))
    return sum(
        ivar[i, j] * (flux[i, j] - prediction[i, j]) ** 2
        for i in range(N)
        for j in range(N_PIX)
        if ivar[i, j] > 0
    ) / np.count_nonzero(ivar)


def test_equation_4_and_6_are_masked_mean_squares_in_units_of_the_errors(domains):
    passes = run(domains)
    synth, synth_ivar, obs, obs_ivar = domains
    for loss, (synth_out, obs_out) in (
        (reconstruction_loss(domains, passes), (passes.synth_synth, passes.obs_obs)),
        (cycle_loss(domains, passes), (passes.synth_obs_synth, passes.obs_synth_obs)),
    ):
        np.testing.assert_allclose(loss.synth, distance(synth, synth_ivar, synth_out), rtol=1e-5)
        np.testing.assert_allclose(loss.obs, distance(obs, obs_ivar, obs_out), rtol=1e-5)


def test_the_distance_of_noise_alone_is_one_and_that_of_nothing_zero():
    rng = np.random.default_rng(0)
    ivar = rng.uniform(10, 1000, (20, 500))
    flux = 1 + rng.normal(size=ivar.shape) / np.sqrt(ivar)
    ivar[:, :200] = 0
    value = weighted_distance(jnp.asarray(flux), jnp.asarray(ivar), jnp.ones(ivar.shape))
    np.testing.assert_allclose(value, 1, atol=0.05)
    nothing = weighted_distance(jnp.asarray(flux), jnp.zeros(ivar.shape), jnp.ones(ivar.shape))
    assert nothing == 0


SCORES = Scores(
    *(jnp.asarray(row) for row in np.random.default_rng(1).normal(0, 2, (4, N)).astype(np.float32))
)


def cross_entropy(target, logits):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return np.mean(-target * np.log(p) - (1 - target) * np.log(1 - p))


def test_equation_5_is_cross_entropy_of_reconstructions_and_transfers():
    loss = critic_loss(SCORES)
    synth = cross_entropy(1, SCORES.synth_real) + cross_entropy(0, SCORES.synth_fake)
    obs = cross_entropy(1, SCORES.obs_real) + cross_entropy(0, SCORES.obs_fake)
    np.testing.assert_allclose(loss, (synth, obs), rtol=1e-5)
    np.testing.assert_allclose(adversarial_loss(SCORES, form="paper"), (-synth, -obs), rtol=1e-5)
    np.testing.assert_allclose(
        adversarial_loss(SCORES),
        (cross_entropy(1, SCORES.synth_fake), cross_entropy(1, SCORES.obs_fake)),
        rtol=1e-5,
    )


def test_critics_that_are_right_lose_nothing_and_stay_finite_when_sure():
    sure = Scores(*(jnp.full(N, sign * 1e4) for sign in (1.0, -1.0, 1.0, -1.0)))
    np.testing.assert_allclose(critic_loss(sure), 0, atol=1e-6)
    wrong = critic_loss(Scores(*(-logits for logits in sure)))
    np.testing.assert_allclose(wrong, 2e4, rtol=1e-5)


def test_each_critic_judges_spectra_beside_the_latents_that_made_them(domains):
    passes = run(domains)
    scores = score_passes(SIZES, CRITICS, passes)
    critics = CycleStarCritics(SIZES)
    expected = (
        critics.score_synth(CRITICS, passes.synth_synth, passes.shared_synth),
        critics.score_synth(CRITICS, passes.obs_synth, passes.shared_obs),
        critics.score_obs(CRITICS, passes.obs_obs, passes.shared_obs, passes.split_obs),
        critics.score_obs(CRITICS, passes.synth_obs, passes.shared_synth, passes.split_obs),
    )
    for ours, theirs in zip(scores, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    reread = score_passes(SIZES, CRITICS, passes, reencoded_split=True).obs_fake
    expected = critics.score_obs(
        CRITICS, passes.synth_obs, passes.shared_synth, passes.split_synth_obs
    )
    np.testing.assert_allclose(reread, expected, atol=1e-5)


@partial(jax.jit, static_argnames=("form", "weights"))
def lose(params, critics, domains, form="non_saturating", weights=WEIGHTS):
    return generator_loss(SIZES, params, critics, domains, weights, form=form)


@pytest.mark.parametrize("form", ["non_saturating", "paper"])
def test_equation_7_weighs_its_parts(domains, form):
    total, parts = lose(PARAMS, CRITICS, domains, form=form)
    passes = run(domains)
    adversarial = adversarial_loss(score_passes(SIZES, CRITICS, passes), form=form)
    reconstruction, cycle = reconstruction_loss(domains, passes), cycle_loss(domains, passes)
    expected = (
        3 * (reconstruction.synth + cycle.synth)
        + 9 * (reconstruction.obs + cycle.obs)
        + 2 * (adversarial.synth + adversarial.obs)
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(parts["cycle_obs"], cycle.obs, rtol=1e-4)
    np.testing.assert_allclose(parts["adv_synth"], adversarial.synth, rtol=1e-4)


@jax.jit
def both_gradients(domains):
    return transfer_gradients(SIZES, PARAMS, CRITICS, domains, WEIGHTS)


@pytest.mark.parametrize("rubbish", [0.0, 1e6, np.nan, np.inf])
def test_what_masked_pixels_hold_changes_nothing(domains, rubbish):
    spoilt = domains._replace(
        synth=jnp.where(domains.synth_ivar > 0, domains.synth, rubbish),
        obs=jnp.where(domains.obs_ivar > 0, domains.obs, rubbish),
    )
    ours, theirs = both_gradients(spoilt), both_gradients(domains)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_neither_player_moves_the_other(domains):
    to_critics = jax.jit(jax.grad(lambda critics: lose(PARAMS, critics, domains)[0]))(CRITICS)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(to_critics))

    def critics_lose(params):
        passes = run_passes(SIZES, params, domains)
        return train_critic_loss(SIZES, CRITICS, passes, r1=1.0)[0]

    to_generator = jax.jit(jax.grad(critics_lose))(PARAMS)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(to_generator))


def test_gradients_from_one_pass_are_those_of_the_two_losses(domains):
    both = both_gradients(domains)
    alone = jax.jit(jax.grad(lambda params: lose(params, CRITICS, domains)[0]))(PARAMS)
    passes = run(domains)

    def critics_lose(critics):
        return train_critic_loss(SIZES, critics, passes)[0]

    critics_alone = jax.jit(jax.grad(critics_lose))(CRITICS)
    for ours, theirs in ((both.generator, alone), (both.critics, critics_alone)):
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
        assert largest > 0
        for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4 * largest)
    np.testing.assert_allclose(
        both.losses["critic_obs"], critic_loss(score_passes(SIZES, CRITICS, passes)).obs, rtol=1e-4
    )


def test_the_r1_penalty_is_half_the_squared_slope_of_a_linear_critic(domains):
    # One layer without bends: with slope 1 of the leaky ReLU the logit is linear in the flux.
    sizes = dataclasses.replace(SIZES, slope=1.0)
    passes = run(domains)

    def logit(flux):
        return CycleStarCritics(sizes).score_synth(CRITICS, flux, passes.shared_synth[:1])[0]

    slope = jax.grad(logit)(passes.synth_synth[:1])
    expected = 0.5 * float(jnp.sum((sizes.flux_spread * slope) ** 2))
    silent = jax.tree.map(jnp.zeros_like, CRITICS["obs"])
    value = r1_penalty(sizes, {"synth": CRITICS["synth"], "obs": silent}, passes)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert expected > 0


def test_negative_weights_are_refused():
    with pytest.raises(UsageError):
        LossWeights(synth=-1.0)


def test_the_penalty_is_of_both_critics_and_losses_of_critics_name_what_they_said(domains):
    """Critics of one layer without bends: slopes are the same for all stars, and of both."""
    sizes = dataclasses.replace(SIZES, slope=1.0)
    passes = run(domains)
    silent = {"synth": jax.tree.map(jnp.zeros_like, CRITICS["synth"]), "obs": CRITICS["obs"]}

    def logit(flux):
        latents = passes.shared_obs[:1], passes.split_obs[:1]
        return CycleStarCritics(sizes).score_obs(silent, flux, *latents)[0]

    slope = jax.jit(jax.grad(logit))(passes.obs_obs[:1])
    expected = 0.5 * float(jnp.sum((sizes.flux_spread * slope) ** 2))

    @partial(jax.jit, static_argnames="r1")
    def train(critics, r1):
        return train_critic_loss(sizes, critics, passes, r1=r1)

    total, parts = train(silent, r1=3.0)
    assert float(parts["r1"]) == pytest.approx(expected, rel=1e-4)
    without, plain = train(silent, r1=0.0)
    assert float(total) == pytest.approx(float(without) + 3.0 * expected, rel=1e-5)
    assert "r1" not in plain
    scores = score_passes(sizes, silent, passes)
    assert float(without) == pytest.approx(float(sum(critic_loss(scores))), rel=1e-5)
    for name, logits in (
        ("real_synth", scores.synth_real), ("fake_synth", scores.synth_fake),
        ("real_obs", scores.obs_real), ("fake_obs", scores.obs_fake),
    ):  # fmt: skip
        said = np.mean(1 / (1 + np.exp(-np.asarray(logits, np.float64))))
        assert float(plain[name]) == pytest.approx(said, rel=1e-5)
