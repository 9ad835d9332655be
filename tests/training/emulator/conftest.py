"""What tests of emulators share: a grid of spectra of two bands, and an emulator trained on it."""

from dataclasses import replace

import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.emulator.train import train_emulator
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7199.0, 1.0)


def draw_bands(labels):
    """Normalised flux with two bands that saturate, in the way of TiO and of a hydride."""
    teff, logg, mh, alpha = np.asarray(labels, dtype=np.float64).T[..., None]
    wave = GRID.wave_aa
    oxide = np.exp(-(wave - 7054.0) / 60.0) * (wave > 7054.0) * (1.0 + 0.5 * np.sin(wave / 2.0))
    hydride = np.exp(-(((wave - 7150.0) / 15.0) ** 2)) * (1.0 + 0.4 * np.cos(wave / 3.0))
    depth = 10 ** (1.2 * (mh + alpha) - (teff - 3400.0) / 600.0) * oxide
    depth = depth + 10 ** (0.4 * (logg - 5.0) + 0.6 * mh) * hydride
    return (1.0 / (1.0 + depth) ** 0.4).astype(np.float32)


@pytest.fixture(scope="session")
def saturating_bands():
    """A function of labels (n, 4): spectra (n, n_pix)."""
    return draw_bands


@pytest.fixture(scope="session")
def tiny():
    """A configuration that trains in a moment."""
    return EmulatorConfig(
        network=NetworkConfig(hidden=(32, 32), rank=6),
        optimiser=OptimiserConfig(learning_rate=3e-3),
        schedule=ScheduleConfig(steps=60, warmup_steps=10, report_every=20),
    )


@pytest.fixture(scope="session")
def vary():
    """A function of a configuration and sections: the same with other values in these."""

    def change(config, **sections):
        changed = {name: replace(getattr(config, name), **new) for name, new in sections.items()}
        return replace(config, **changed)

    return change


@pytest.fixture(scope="session")
def grid_of_spectra():
    rng = np.random.default_rng(11)
    labels = SPACE.unscale(rng.uniform(-0.5, 0.5, (600, 4)))
    return labels, draw_bands(labels)


@pytest.fixture(scope="session")
def trained(grid_of_spectra):
    labels, flux = grid_of_spectra
    config = EmulatorConfig(
        network=NetworkConfig(hidden=(96, 96), rank=16), schedule=ScheduleConfig(steps=1500)
    )
    return train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)
