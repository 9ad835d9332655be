"""The same weights and batch give the losses and gradients of an implementation in PyTorch."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarCritics, CycleStarGenerator, CycleStarSizes
from jaxmdwarf.training.cyclestar.losses import Domains, LossWeights, transfer_gradients

torch = pytest.importorskip("torch", reason="the peer is written in PyTorch: install the extra")
PEER = Path(__file__).parents[3] / "benchmarks" / "peers" / "cyclestar_torch.py"
WEIGHTS = LossWeights.real()
N_PIX = 300
SIZES = CycleStarSizes(
    n_pix=N_PIX,
    domain=ConvLayers((8, 16), (7, 7), (4, 2)),
    shared=ConvLayers((16, 16), (7, 5), (2, 2)),
    split_channels=(8, 8),
    shared_latents=5,
    split_latents=2,
    critic_flux=ConvLayers((8, 16), (7, 7), (4, 4)),
    critic_latents=(8, 16),
    flux_mean=0.977,
    flux_spread=0.052,
)


@pytest.fixture(scope="module")
def peer_module():
    spec = importlib.util.spec_from_file_location("cyclestar_torch", PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(2)
    flux = (1 + 0.1 * rng.normal(size=(2, 4, N_PIX))).astype(np.float32)
    ivar = rng.uniform(100, 1e4, flux.shape).astype(np.float32)
    ivar[rng.random(flux.shape) < 0.1] = 0
    return flux[0], ivar[0], flux[1], ivar[1]


def init_networks(sizes):
    return CycleStarGenerator(sizes).init(jax.random.key(0)), CycleStarCritics(sizes).init(
        jax.random.key(1)
    )


@partial(jax.jit, static_argnums=(0, 4))
def find_gradients(sizes, params, critics, domains, reencoded_split=False):
    return transfer_gradients(
        sizes, params, critics, domains, WEIGHTS, reencoded_split=reencoded_split
    )


ADAM_EPS = 1e-2
"""Far above the rounding of gradients, whose bare signs Adam's first updates would be otherwise."""


@partial(jax.jit, static_argnums=0)
def take_step(sizes, params, critics, moments, domains):
    adam = optax.adam(1e-4, b1=0.5, b2=0.999, eps=ADAM_EPS)
    gradients = transfer_gradients(sizes, params, critics, domains, WEIGHTS)
    slopes = {"generator": gradients.generator, "critics": gradients.critics}
    updates, moments = adam.update(slopes, moments)
    players = optax.apply_updates({"generator": params, "critics": critics}, updates)
    return players["generator"], players["critics"], moments, gradients.losses


def test_losses_and_updates_are_those_of_pytorch(peer_module, arrays):
    params, critics = init_networks(SIZES)
    moments = optax.adam(1e-4).init({"generator": params, "critics": critics})
    peer = peer_module.Training(SIZES, WEIGHTS, eps=ADAM_EPS)
    peer.copy_weights(params, critics)
    domains = Domains(*map(jnp.asarray, arrays))
    for _ in range(3):
        theirs = peer.step(*map(torch.from_numpy, arrays))
        params, critics, moments, ours = take_step(SIZES, params, critics, moments, domains)
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value.numpy(), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("reencoded_split", [False, True])
def test_gradients_are_those_of_pytorch(peer_module, arrays, reencoded_split):
    params, critics = init_networks(SIZES)
    options = {"reencoded_split": reencoded_split}
    peer, ours_there = (peer_module.Training(SIZES, WEIGHTS, **options) for _ in range(2))
    peer.copy_weights(params, critics)
    theirs = peer.differentiate(*map(torch.from_numpy, arrays))
    domains = Domains(*map(jnp.asarray, arrays))
    ours = find_gradients(SIZES, params, critics, domains, reencoded_split)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours.losses[name], value.numpy(), rtol=1e-4, err_msg=name)
    # Gradients take the way of weights into the other's layout.
    ours_there.copy_weights(ours.generator, ours.critics)
    # Biases before an instance norm have none but rounding: they are held to the largest of all.
    largest = max(float(w.grad.abs().max()) for part in peer.modules() for w in part.parameters())
    for found, expected in zip(ours_there.modules(), peer.modules(), strict=True):
        for (name, mine), other in zip(
            found.named_parameters(), expected.parameters(), strict=True
        ):
            scale = max(float(other.grad.abs().max()), 1e-3 * largest)
            assert float((mine.detach() - other.grad).abs().max()) < 1e-4 * scale, name
