"""The same weights and batch give PyTorch's losses, and its weights after several updates."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmdwarf.networks.cyclestar import ConvLayers, CycleStarSizes, init_critics, init_generator
from jaxmdwarf.training.cyclestar.losses import Domains, LossWeights, transfer_gradients

torch = pytest.importorskip("torch")
PEER = Path(__file__).parents[2] / "benchmarks" / "peers" / "cyclestar_torch.py"
WEIGHTS = LossWeights(synth=3.0, obs=9.0)


def load_peer():
    spec = importlib.util.spec_from_file_location("cyclestar_torch", PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@partial(jax.jit, static_argnums=0)
def take_step(sizes, params, critics, moments, domains):
    adam = optax.adam(1e-4, b1=0.5, b2=0.999)
    gradients = transfer_gradients(sizes, params, critics, domains, WEIGHTS)
    slopes = {"generator": gradients.generator, "critics": gradients.critics}
    updates, moments = adam.update(slopes, moments)
    players = optax.apply_updates({"generator": params, "critics": critics}, updates)
    return players["generator"], players["critics"], moments, gradients.losses


def test_losses_and_updates_are_those_of_pytorch():
    sizes = CycleStarSizes(
        n_pix=300,
        domain=ConvLayers((8, 16), (7, 7), (4, 2)),
        shared=ConvLayers((16, 16), (7, 5), (2, 2)),
        split_channels=(8, 8),
        shared_latents=5,
        split_latents=2,
        critic_flux=ConvLayers((8, 16), (7, 7), (4, 4)),
        critic_latents=(8, 16),
    )
    params, critics = (
        init_generator(sizes, jax.random.key(0)),
        init_critics(sizes, jax.random.key(1)),
    )
    moments = optax.adam(1e-4).init({"generator": params, "critics": critics})
    peer = load_peer().Training(sizes, WEIGHTS)
    peer.copy_weights(params, critics)
    rng = np.random.default_rng(2)
    flux = (1 + 0.1 * rng.normal(size=(2, 4, 300))).astype(np.float32)
    ivar = rng.uniform(100, 1e4, flux.shape).astype(np.float32)
    ivar[rng.random(flux.shape) < 0.1] = 0
    arrays = flux[0], ivar[0], flux[1], ivar[1]
    domains = Domains(*map(jnp.asarray, arrays))
    # Adam's first updates are signs of gradients: where those are zero to rounding, they differ.
    for tolerance in (1e-5, 2e-3, 2e-3):
        theirs = peer.step(*map(torch.from_numpy, arrays))
        params, critics, moments, ours = take_step(sizes, params, critics, moments, domains)
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value.numpy(), rtol=tolerance, err_msg=name)
