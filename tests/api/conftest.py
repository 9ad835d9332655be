"""A small model and stars made with it, whose labels and velocities are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmdwarf as jm
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.continuum import pseudo_continuum
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

GRID = PixelGrid.linear(6000.0, 6900.0, 1.0)
N_STAR = 24


class Stars(NamedTuple):
    """Spectra on one wavelength scale, and their truth."""

    wave_aa: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    labels: np.ndarray
    rv_kms: np.ndarray

    def arrays(self, row=None):
        """``(wave, flux, ivar)`` of one star, or of all."""
        if row is None:
            return self.wave_aa, self.flux, self.ivar
        return self.wave_aa, self.flux[row], self.ivar[row]


@pytest.fixture(scope="session")
def model():
    """An untrained network in front of narrow bands, which normalising leaves as they are."""
    rng = np.random.default_rng(6)
    wave = GRID.wave_aa
    centre = np.linspace(6020, 6880, 40) + rng.normal(0, 6, 40)
    width = rng.uniform(3.0, 7.0, 40)
    lines = np.exp(-0.5 * ((wave - centre[:, None]) / width[:, None]) ** 2)
    basis = jnp.asarray(rng.normal(0, 0.06, (8, 40)) @ lines, jnp.float32)
    for _ in range(6):
        basis = basis - pseudo_continuum(basis, jnp.ones((1, GRID.n_pix), bool), GRID)
    network = PayneNetwork(hidden=(24,), n_out=8, activation="tanh")
    return PayneEmulator(
        init_payne(network, jax.random.key(1), 4),
        basis,
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        LabelSpace.mdwarf(),
        GRID,
        Preprocessing(sigma_aa=30.0, masks_aa=((6546.0, 6586.0),), simulated=True),
    )


@pytest.fixture(scope="session")
def stars(model):
    """Moving stars with a continuum and noise, S/N 40."""
    rng = np.random.default_rng(9)
    scaled = rng.uniform(-0.3, 0.3, (N_STAR, 4))
    rv_kms = rng.uniform(-150, 150, N_STAR)
    rest = np.asarray(model.predict_scaled_batch(jnp.asarray(scaled, jnp.float32)))
    wave = np.arange(5960.0, 6940.0, 0.9)
    clean = np.stack(
        [
            np.interp(wave / (1 + speed / SPEED_OF_LIGHT_KMS), GRID.wave_aa, row, left=1, right=1)
            for row, speed in zip(rest, rv_kms, strict=True)
        ]
    ) * (500 * (wave / 6500.0) ** 2)
    flux = clean * (1 + rng.normal(size=clean.shape) / 40.0)
    return Stars(wave, flux, (40.0 / clean) ** 2, model.label_space.unscale(scaled), rv_kms)


@pytest.fixture(scope="session")
def fitter(model):
    """Compiled once for all tests of fits."""
    return jm.Fitter(model)


@pytest.fixture(scope="session")
def fits(fitter, stars):
    """All stars, as rows of arrays."""
    return fitter.fit(stars.arrays())
