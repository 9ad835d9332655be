"""Flags that a fit raises by what stars of a S/N have."""

import jax
import numpy as np
import pytest

from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import HIGH_CHI2, MODEL_MISMATCH
from jaxmdwarf.inference.schedule import fit_batch
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import NoiseModel, TableModel
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6200.0, 1.0)
N_STAR, N_PIX = 16, 201


@pytest.fixture(scope="module")
def fit_in_unit():
    """Fits stars whose S/N and mismatch (a share of the flux) are given, in a unit of flux."""
    space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    line = 1.0 - np.exp(-(((GRID.wave_aa - 6100.0) / 3.0) ** 2))
    corners = np.stack([np.ones(N_PIX), line])
    sign = np.random.default_rng(1).choice([-1.0, 1.0], (N_STAR, N_PIX))

    def fit(snr, mismatch, *, unit=1.0, model_error=0.0, spike=0.0):
        snr, mismatch = np.asarray(snr)[:, None], np.asarray(mismatch)[:, None]
        flux = (0.7 + 0.3 * line) * (1 + sign * np.hypot(mismatch, 1 / snr))
        flux[:, 30] += spike
        ivar = np.broadcast_to(snr**2 / unit**2, flux.shape)
        arrays = [np.asarray(one, np.float32) for one in (unit * flux, ivar, ivar)]
        parts = np.float32(unit * corners), np.full(N_PIX, unit * model_error, np.float32)
        model = TableModel(*map(jax.device_put, parts), space, GRID)
        batch = SpectrumBatch(*map(jax.device_put, arrays), GRID)
        found = fit_batch(FitProblem.from_batch(model, batch))
        return np.asarray(found.chi2_red), (np.asarray(found.flags) & QualityFlag.HIGH_CHI2) > 0

    return fit


@pytest.mark.parametrize("unit", [1.0, 1e-15, 1e4])
def test_chi_squares_are_told_by_the_snr_in_any_unit_of_flux(fit_in_unit, unit):
    """Limits are those of 1 % of the flux: 5 (1 + (0.01 s)^2)."""
    snr = np.tile([10.0, 50.0, 150.0, 400.0], 4)
    limit = HIGH_CHI2 * (1 + (MODEL_MISMATCH * snr) ** 2)
    factor = np.repeat([0.4, 0.8, 1.25, 2.5], 4)
    # Noise is 1 of the chi-square, and mismatch the rest.
    chi2, told = fit_in_unit(snr, np.sqrt(np.maximum(factor * limit - 1, 0)) / snr, unit=unit)
    np.testing.assert_allclose(chi2, np.maximum(factor * limit, 1), rtol=0.1)
    assert told[snr > 20].tolist() == (factor > 1)[snr > 20].tolist()
    assert told[snr < 20].tolist() == [False, False, True, True]


def test_errors_of_the_model_are_noise(fit_in_unit):
    """With 2 % of the model's own, no S/N is above 50, and no limit above 6.25."""
    snr = np.full(N_STAR, 1000.0)
    chi2, told = fit_in_unit(snr, np.linspace(0.03, 0.07, N_STAR), model_error=0.02)
    assert 2 < chi2.min() < 3
    assert not told[chi2 < 5.8].any()
    assert told[chi2 > 6.25].all()
    assert told.sum() > 3


def test_an_outlier_does_not_speak_for_itself(fit_in_unit):
    chi2, told = fit_in_unit(np.full(N_STAR, 50.0), np.zeros(N_STAR), spike=1e3)
    assert chi2.min() > 1e4
    assert told.all()


def test_what_velocities_scatter_beside_is_added_in_quadrature():
    space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    line = 1.0 - 0.5 * np.exp(-(((GRID.wave_aa - 6100.0) / 4.0) ** 2))
    flux = np.broadcast_to(np.float32(0.5 + 0.5 * line), (4, N_PIX))
    ivar = np.full(flux.shape, 1e4, np.float32)
    parts = np.float32(np.stack([np.ones(N_PIX), line])), np.zeros(N_PIX, np.float32)
    model = TableModel(*map(jax.device_put, parts), space, GRID)
    batch = SpectrumBatch(*map(jax.device_put, (flux, ivar, ivar)), GRID)

    def error(velocity_kms):
        noise = NoiseModel(np.float32(1.0), velocity_kms=velocity_kms)
        return np.asarray(fit_batch(FitProblem.from_batch(model, batch, noise=noise)).e_rv)

    alone = error(None)
    assert (alone > 0.5).all()
    np.testing.assert_allclose(error(np.float32(4.0)) ** 2, alone**2 + 16.0, rtol=1e-4)
