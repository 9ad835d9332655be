"""What holds a transfer: each term against numpy written by hand, and where its gradient goes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.diagnostics.two_sample import energy_distance
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, equate_domains
from jaxmdwarf.training.cyclestar.constraints import (
    ConstraintWeights,
    constrain_passes,
    identity_loss,
    latent_dependence,
    latent_distance,
    latent_loss,
    slope_excess,
    spectra_distance,
    split_divergence,
)
from jaxmdwarf.training.cyclestar.losses import Domains, Passes, run_passes
from jaxmdwarf.wavelengths import PixelGrid
from tests.training.cyclestar.small import small_sizes

N, N_PIX, LENGTH = 6, 48, 3
GRID = PixelGrid.linear(7000.0, 7047.0, 1.0)
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
SIZES = small_sizes(N_PIX)


def make_passes(seed=0, **given):
    """Passes of random numbers, but for what is given."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=(N, *shape)).astype(np.float32)

    names = {
        name: draw(LENGTH, 2 if "split" in name else 4)
        if name.startswith(("shared", "split"))
        else 1 + 0.1 * draw(N_PIX)
        for name in Passes._fields
    }
    return Passes(**{name: jnp.asarray(value) for name, value in {**names, **given}.items()})


@pytest.fixture(scope="module")
def domains():
    rng = np.random.default_rng(1)
    flux = 1 + 0.1 * rng.normal(size=(2, N, N_PIX)).astype(np.float32)
    ivar = rng.uniform(100, 1e4, flux.shape).astype(np.float32)
    ivar[rng.random(ivar.shape) < 0.1] = 0
    return Domains(*map(jnp.asarray, (flux[0], ivar[0], flux[1], ivar[1])))


MEAN = jnp.full(N_PIX, 0.98)
BASIS = jnp.asarray(np.random.default_rng(7).normal(size=(3, N_PIX)), jnp.float32)


def test_without_weights_nothing_is_asked(domains):
    total, parts = constrain_passes(
        domains, make_passes(), ConstraintWeights(), mean=MEAN, basis=BASIS
    )
    assert (float(total), parts) == (0.0, {})
    assert not ConstraintWeights(slopes=1.0).any_of_passes
    with pytest.raises(UsageError, match="negative"):
        ConstraintWeights(slopes=-1.0)


def test_terms_are_weighed_and_the_prior_is_of_latents_without_their_noise(domains):
    weights = ConstraintWeights(
        identity=2.0,
        latents=3.0,
        split_prior=5.0,
        independence=7.0,
        alignment=11.0,
        spectra=17.0,
        slopes=13.0,
    )
    assert weights.any_of_passes
    passes = make_passes()
    mean = passes.split_obs - 1.0
    total, parts = constrain_passes(
        domains, passes, weights, mean=MEAN, basis=BASIS, split_mean=mean
    )
    assert float(parts["split_prior"]) == pytest.approx(float(split_divergence(mean)), rel=1e-6)
    assert float(parts["independence"]) == pytest.approx(
        float(latent_dependence(mean, passes.shared_obs)), rel=1e-6
    )
    expected = sum(getattr(weights, name) * float(value) for name, value in parts.items())
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert set(parts) == {item.name for item in dataclasses.fields(weights)} - {"slopes"}


def test_the_identity_loss_is_the_change_of_good_pixels_in_their_errors(domains):
    passes = make_passes()
    expected = 0.0
    for flux, ivar, changed in (
        (domains.synth, domains.synth_ivar, passes.synth_obs),
        (domains.obs, domains.obs_ivar, passes.obs_synth),
    ):
        good = ivar > 0
        expected += np.mean(np.asarray(ivar * (flux - changed) ** 2, np.float64)[good])
    assert float(identity_loss(domains, passes)) == pytest.approx(expected, rel=1e-5)
    same = make_passes(synth_obs=domains.synth, obs_synth=domains.obs)
    assert float(identity_loss(domains, same)) == 0.0


def test_latents_are_compared_in_units_of_their_spread():
    passes = make_passes()
    reread = make_passes(
        shared_synth_obs=passes.shared_synth,
        shared_obs_synth=passes.shared_obs,
        split_synth_obs=passes.split_obs,
    )
    assert float(latent_loss(reread)) == 0.0
    # The mean star for all: what is left out is all that latents tell.
    blank = {
        name: np.broadcast_to(getattr(passes, of).mean(axis=0), getattr(passes, of).shape)
        for name, of in (
            ("shared_synth_obs", "shared_synth"),
            ("shared_obs_synth", "shared_obs"),
            ("split_synth_obs", "split_obs"),
        )
    }
    assert float(latent_loss(make_passes(**blank))) == pytest.approx(1.0, rel=1e-5)
    larger = Passes(*(10.0 * one for one in passes))
    assert float(latent_loss(larger)) == pytest.approx(float(latent_loss(passes)), rel=1e-5)
    slopes = jax.grad(latent_loss)(passes)
    for name in ("shared_synth", "shared_obs", "split_obs"):
        assert not np.any(getattr(slopes, name)), name
    assert np.any(slopes.split_synth_obs)


def test_the_prior_of_split_latents_is_their_divergence_from_a_unit_gaussian():
    rng = np.random.default_rng(2)
    mean, sigma = rng.normal(size=(N, 1, 2)), 0.5

    def divergence(mean):
        kl = 0.5 * (mean**2 + sigma**2 - 1 - np.log(sigma**2))
        return kl.sum(axis=-1).mean()

    # Repeated along the spectrum, numbers count once.
    found = split_divergence(jnp.asarray(np.repeat(mean, LENGTH, axis=1), jnp.float32))
    nothing = divergence(np.zeros_like(mean))
    assert float(found) == pytest.approx(divergence(mean) - nothing, rel=1e-5)


def test_dependence_is_the_mean_squared_correlation_and_moves_split_latents_alone():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(40, LENGTH, 4)).astype(np.float32)
    split = rng.normal(size=(40, 1, 2)).astype(np.float32)
    split[:, 0, 0] = shared[:, 1, 2] - 2 * shared[:, 0, 3]
    split = np.repeat(split, LENGTH, axis=1)
    flat = shared.reshape(40, -1)
    expected = np.mean(
        [
            np.corrcoef(split[:, 0, i], flat[:, j])[0, 1] ** 2
            for i in range(2)
            for j in range(flat.shape[1])
        ]
    )
    found, slopes = jax.value_and_grad(latent_dependence, argnums=(0, 1))(
        jnp.asarray(split), jnp.asarray(shared)
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert np.any(slopes[0])
    assert not np.any(slopes[1])


def test_latents_of_one_distribution_are_at_no_distance():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 60, LENGTH, 2)).astype(np.float32)
    near = float(latent_distance(jnp.asarray(first), jnp.asarray(second)))
    assert abs(near) < 0.03
    second = second * 1.5 + 0.4
    both = np.concatenate([first, second]).reshape(120, -1)
    scaled = (both / both.std(axis=0)).astype(np.float64)
    value, slopes = jax.value_and_grad(latent_distance)(jnp.asarray(first), jnp.asarray(second))
    assert float(value) == pytest.approx(energy_distance(scaled[:60], scaled[60:]), rel=1e-3)
    assert np.isfinite(slopes).all()
    assert np.any(slopes)


def test_spectra_are_compared_by_their_coefficients_both_ways(domains):
    passes = make_passes()
    found = float(spectra_distance(domains, passes, MEAN, BASIS))
    expected = 0.0
    for transfer, transfer_ivar, flux, ivar in (
        (passes.synth_obs, domains.synth_ivar, domains.obs, domains.obs_ivar),
        (passes.obs_synth, domains.obs_ivar, domains.synth, domains.synth_ivar),
    ):
        first, second = (
            np.where(weight > 0, values - MEAN, 0.0).astype(np.float64) @ np.asarray(BASIS.T)
            for values, weight in ((transfer, transfer_ivar), (flux, ivar))
        )
        spread = np.concatenate([first, second]).std(axis=0)
        expected += energy_distance(first / spread, second / spread)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    # What masked pixels hold is nobody's business.
    holes = {
        name: jnp.where(ivar > 0, flux, 99.0)
        for name, flux, ivar in (
            ("synth_obs", passes.synth_obs, domains.synth_ivar),
            ("obs_synth", passes.obs_synth, domains.obs_ivar),
        )
    }
    assert float(spectra_distance(domains, make_passes(**holes), MEAN, BASIS)) == found


@pytest.fixture(scope="module")
def world():
    wave = GRID.wave_aa
    band = [np.exp(-(((wave - centre) / 6.0) ** 2)) for centre in (7012.0, 7030.0)]
    corners = [1.0 - 0.2 * i * band[0] - 0.2 * j * band[1] for j in (0, 1) for i in (0, 1)]
    emulator = TableModel(
        jnp.asarray(np.array(corners), jnp.float32), jnp.full(N_PIX, 1e-3), SPACE, GRID
    )
    return emulator, CycleStarGenerator(SIZES).init(jax.random.key(0))


# A leaky ReLU has corners, which differences step over.
SMOOTH = dataclasses.replace(SIZES, activation="silu")


@partial(jax.jit, static_argnames="residual")
def measure(emulator, params, scaled, directions, split, residual):
    excess = slope_excess(SMOOTH, params, emulator, scaled, directions, split, residual=residual)

    def carry(at):
        synth = emulator.predict_scaled_batch(at)
        return synth, CycleStarGenerator(SMOOTH).carry_to_obs(
            params, synth, split, residual=residual
        )

    step = 0.02
    ends = [carry(scaled + sign * step * directions) for sign in (1.0, -1.0)]
    return excess, [(up - down) / (2 * step) for up, down in zip(*ends, strict=True)]


def test_slopes_are_those_of_finite_differences(world):
    rng = np.random.default_rng(5)
    scaled = rng.uniform(-0.3, 0.3, (N, 2)).astype(np.float32)
    directions = np.eye(2, dtype=np.float32)[rng.integers(0, 2, N)]
    split = rng.normal(size=(N, SIZES.latent_length, 2)).astype(np.float32)
    found, (theory, carried) = measure(*world, scaled, directions, split, residual=False)
    share = ((carried - theory) ** 2).sum(axis=1) / (theory**2).sum(axis=1)
    assert float(found) == pytest.approx(float(share.mean()), rel=0.02)
    # Domains that start equal leave slopes alone in the residual form.
    emulator, params = world
    equal = equate_domains(params)
    found, _ = measure(emulator, equal, scaled, directions, split, residual=True)
    assert float(found) < 1e-10


def test_masked_pixels_of_a_transfer_tell_the_way_back_nothing(world, domains):
    _, params = world

    @partial(jax.jit, static_argnames="refill")
    def run(params, refill):
        return run_passes(SIZES, params, domains, refill=refill)

    filled, plain = run(params, refill=True), run(params, refill=False)
    for flux, before, ivar in (
        (filled.synth_obs, plain.synth_obs, domains.synth_ivar),
        (filled.obs_synth, plain.obs_synth, domains.obs_ivar),
    ):
        masked = np.asarray(ivar) == 0
        assert np.all(np.asarray(flux)[masked] == 1.0)
        np.testing.assert_allclose(
            np.asarray(flux)[~masked], np.asarray(before)[~masked], atol=1e-5
        )
    again = CycleStarGenerator(SIZES).encode_obs(params, filled.synth_obs)
    np.testing.assert_allclose(filled.shared_synth_obs, again.shared, atol=1e-5)
    assert np.abs(filled.shared_synth_obs - plain.shared_synth_obs).max() > 1e-3


def test_sizes_of_a_narrow_smooth_network_are_refused_if_unknown():
    with pytest.raises((UsageError, TypeCheckError)):
        dataclasses.replace(SIZES, activation="step")
