"""What tests of learned corrections share: a theory, and a universe that it does not describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()


def build_theory() -> PayneEmulator:
    """A smooth model: four broad patterns whose strengths are nearly linear in the labels."""
    wave = np.arange(GRID.n_pix)
    rng = np.random.default_rng(1)
    basis = 0.25 * np.stack(
        [np.sin(wave / rng.uniform(3, 30) + rng.uniform(0, 6)) for _ in range(6)]
    )
    network = PayneNetwork(hidden=(8,), n_out=6)
    return PayneEmulator(
        init_payne(network, jax.random.key(3), 4),
        jnp.asarray(basis, jnp.float32),
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        SPACE,
        GRID,
    )


def draw_labels(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    teff, mh = rng.normal(3600.0, 200.0, n), rng.normal(-0.1, 0.2, n)
    logg = 5.1 - 0.5 * (teff - 3400.0) / 1000.0 - 0.05 * mh + rng.normal(0, 0.02, n)
    alpha = np.clip(-0.3 * mh, 0, 0.4) + rng.normal(0, 0.02, n)
    return np.clip(np.stack([teff, logg, mh, alpha], axis=1), SPACE.lower, SPACE.upper)


@pytest.fixture(scope="session")
def theory():
    return build_theory()


@pytest.fixture(scope="session")
def model(theory):
    """Theory with a constant correction of nothing."""
    n_pix = theory.grid.n_pix
    return CorrectedModel(
        theory,
        jnp.zeros((1, n_pix)),
        jnp.zeros((0, n_pix)),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 0),
    )


@pytest.fixture(scope="session")
def sample_labels():
    """A function of n and a seed: labels (n, 4) of a main sequence."""
    return draw_labels


@pytest.fixture(scope="session")
def universe(theory):
    """Theory, and a nature that has one more pattern, here constant, there with temperature."""
    n = 900
    labels = draw_labels(n, 0)
    rng = np.random.default_rng(2)
    flux = np.asarray(theory.predict_scaled_batch(SPACE.scale(jnp.asarray(labels, jnp.float32))))
    wave = np.arange(GRID.n_pix)
    lacking = 0.05 * np.sin(wave / 7.0) + 0.04 * np.exp(-(((wave - 100) / 40.0) ** 2))
    by_teff = 0.01 * np.cos(wave / 11.0)
    missed = lacking + (labels[:, :1] - 3600.0) / 200.0 * by_teff
    snr = rng.uniform(20.0, 100.0, n)
    sigma = np.broadcast_to(1 / snr[:, None], flux.shape)
    noisy = flux + missed + sigma * rng.standard_normal(flux.shape)
    ivar = (sigma**-2).astype(np.float32)
    ivar[:, 40:50] = 0.0
    domain = ObservedDomain(noisy.astype(np.float32), ivar, ivar, GRID, np.zeros(n), snr)
    return theory, domain, labels, flux + missed
