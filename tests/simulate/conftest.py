"""Fixtures of the simulation's tests: a population, and stars observed without a synthesis."""

import numpy as np
import pytest

from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.observation import observe
from jaxmdwarf.simulate.population import sample_population
from jaxmdwarf.simulate.visits import Visits

WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 2.7e-5))


@pytest.fixture(scope="session")
def population():
    return sample_population(6000, seed=11)


@pytest.fixture(scope="session")
def dwarfs(population):
    keep = population.stars["kind"] == "mdwarf"
    return {name: values[keep] for name, values in population.stars.items()}


@pytest.fixture(scope="session")
def wave_aa():
    """Fine wavelengths of the stand-in for a synthesis."""
    return WAVE_AA


@pytest.fixture(scope="session")
def dilution():
    return 3e-20


@pytest.fixture(scope="session")
def make_stars():
    """A function of n: surface fluxes (n, n_wave) with a continuum and many narrow lines."""
    rng = np.random.default_rng(5)
    depth = np.zeros(WAVE_AA.size)
    depth[rng.integers(0, WAVE_AA.size, 2500)] = rng.random(2500)
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    depth = np.convolve(depth, kernel, mode="same")
    teff = 3500.0
    planck = 1.1910e27 * np.pi / WAVE_AA**5 / np.expm1(1.4388e8 / (WAVE_AA * teff))
    one = (planck * np.exp(-depth * (4500.0 - teff) / 1500.0)).astype(np.float32)
    return lambda n: np.tile(one, (n, 1))


@pytest.fixture(scope="session")
def make_visits(dilution):
    """A function of n and columns: visits of n different stars."""

    def make(n, **columns):
        zero, number = np.zeros(n), np.arange(n)
        values = {
            "index": number,
            "star": number,
            "companion": np.full(n, -1),
            "rv_kms": zero,
            "companion_rv_kms": zero,
            "dilution": np.full(n, dilution),
            "companion_dilution": zero,
            "helio_kms": zero,
            "plate": number // 2,
            "spectrograph": number % 16,
            "fibre": number % 250,
            "exposure_s": np.full(n, 4500.0),
            "transparency": np.full(n, 0.5),
            "sky_scale": np.ones(n),
            "halpha_ew_aa": zero,
        }
        return Visits(**{**values, **columns})

    return make


@pytest.fixture(scope="session")
def ideal(make_stars, make_visits):
    """Six stars observed without a gap."""
    return observe(WAVE_AA, make_stars(6), make_visits(6), gap=DomainGap.none(), seed=1)


@pytest.fixture(scope="session")
def observe_with_only(make_stars, make_visits):
    """A function of a cause, n and columns: stars observed with one cause of the gap."""

    def observe_with(cause, n=6, **columns):
        visits = make_visits(n, **columns)
        return observe(WAVE_AA, make_stars(n), visits, gap=DomainGap.only(cause), seed=1)

    return observe_with
