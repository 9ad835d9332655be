"""How unlike the model stars are: numbers whose expectation is known, from stars of known kind."""

import jax
import numpy as np
import pytest

from jaxmdwarf.inference.explore.bounds import cramer_rao
from jaxmdwarf.inference.outliers import find_residuals, parameters_of, summarise_residuals
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6319.0, 1.0)
SPACE = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
N_STAR, N_PIX, SIGMA = 64, 320, 0.01


@pytest.fixture(scope="module")
def model():
    line = np.exp(-(((GRID.wave_aa - 6150.0) / 5.0) ** 2))
    corners = np.stack([1 - 0.3 * line, 1 - 0.8 * line]).astype(np.float32)
    return TableModel(*jax.device_put((corners, np.zeros(N_PIX, np.float32))), SPACE, GRID)


@pytest.fixture(scope="module")
def directions():
    x = np.linspace(0, 1, N_PIX)
    return (0.005 * np.stack([np.sin(9 * x), np.cos(14 * x)])).astype(np.float32)


def observe(model, amplitudes, directions, *, spike=0.0, seed=1):
    """A problem of stars of 3300 K with these amplitudes, and the truth as a result."""
    rng = np.random.default_rng(seed)
    line = np.exp(-(((GRID.wave_aa - 6150.0) / 5.0) ** 2))
    flux = 1 - (0.3 + 0.5 * 0.3) * line + amplitudes @ directions
    flux = flux + SIGMA * rng.normal(size=(N_STAR, N_PIX))
    flux[:, 200] += spike
    ivar = np.full(flux.shape, SIGMA**-2)
    ivar[:, ::10] = 0
    ivar[:, 100:110] *= 4
    arrays = [np.asarray(one, np.float32) for one in (flux, ivar, ivar)]
    batch = SpectrumBatch(*map(jax.device_put, arrays), GRID)
    problem = FitProblem.from_batch(model, batch, fit_velocity=False)
    zero, one = np.zeros(N_STAR, np.float32), np.ones(N_STAR, np.int32)
    labels = np.full((N_STAR, 1), 3300.0, np.float32)
    result = FitResult(
        labels, labels, labels[:, None], zero, zero, zero, zero, zero, one, one, one, one > 0, one
    )
    return problem, result, arrays


def test_residuals_of_the_models_kind_have_numbers_of_one(model, directions):
    rng = np.random.default_rng(0)
    amplitudes = rng.normal(size=(N_STAR, 2))
    problem, result, (_, ivar, _) = observe(model, amplitudes, directions)
    found = summarise_residuals(problem, result, directions)
    good = ivar[0] > 0
    np.testing.assert_allclose(found.snr, np.sqrt(ivar[0][good].mean()), rtol=1e-4)
    # Nine good pixels have twice the noise that is stated.
    share = (good & (ivar[0] > 2e4)).sum() / good.sum()
    expected = 1 + 3 * share
    assert found.chi2.mean() == pytest.approx(expected, abs=4 * np.sqrt(2 / 288 / N_STAR))
    assert found.pattern.mean() == pytest.approx(1.0, abs=0.25)
    # Twice the amplitude is four times what is no noise of the pattern (1 in 37 is), and no other
    # chi-square.
    problem, result, _ = observe(model, 2 * amplitudes, directions)
    twice = summarise_residuals(problem, result, directions)
    assert twice.pattern.mean() / found.pattern.mean() == pytest.approx(3.92, rel=0.05)
    np.testing.assert_allclose(twice.chi2, found.chi2, rtol=0.02)
    # Along nothing all of it is beside.
    without = summarise_residuals(problem, result, np.zeros((1, N_PIX), np.float32))
    assert np.median(without.chi2 - twice.chi2) == pytest.approx(0.5, abs=0.25)


def test_single_pixels_count_as_no_more_than_five_sigma_or_a_twentieth(model, directions):
    nothing = np.zeros((N_STAR, 2))
    problem, result, (flux, ivar, _) = observe(model, nothing, directions, spike=40 * SIGMA)
    line = np.exp(-(((GRID.wave_aa - 6150.0) / 5.0) ** 2))
    result = result._replace(labels=np.full((N_STAR, 1), 3300.0, np.float32))
    residual, weight = find_residuals(problem, result)
    assert residual.shape == weight.shape == (N_STAR, N_PIX)
    np.testing.assert_array_equal(residual[:, ::10], 0)
    np.testing.assert_allclose(weight, ivar, rtol=1e-5)
    # Pixel 200 is bad; the spike is seen in none, and in pixel 201 once it is there.
    expected = np.where(ivar > 0, flux - (1 - 0.45 * line), 0)
    np.testing.assert_allclose(residual, np.clip(expected, -0.05, 0.05), atol=2e-6)
    changed = flux.copy()
    changed[:, 201] += 0.4
    batch = SpectrumBatch(*map(jax.device_put, (changed, ivar, ivar)), GRID)
    spiked = FitProblem.from_batch(model, batch, fit_velocity=False)
    np.testing.assert_allclose(find_residuals(spiked, result)[0][:, 201], 0.05, rtol=1e-5)
    # Where noise is large, five sigma are more.
    noisy = np.where(ivar > 0, np.float32(0.05**-2), 0).astype(np.float32)
    batch = SpectrumBatch(*map(jax.device_put, (changed, noisy, noisy)), GRID)
    faint = FitProblem.from_batch(model, batch, fit_velocity=False)
    np.testing.assert_allclose(find_residuals(faint, result)[0][:, 201], 0.25, rtol=1e-5)


def test_stars_without_a_fit_have_no_numbers(model, directions):
    problem, result, _ = observe(model, np.zeros((N_STAR, 2)), directions)
    labels, n_pix = result.labels.copy(), result.n_pix.copy()
    labels[3], n_pix[5] = np.nan, 0
    found = summarise_residuals(problem, result._replace(labels=labels, n_pix=n_pix), directions)
    for part in found:
        assert np.flatnonzero(np.isnan(part)).tolist() == [3, 5]
    few = result.take(slice(0, 3))
    assert parameters_of(problem, few).shape == (N_STAR, 1)
    np.testing.assert_allclose(parameters_of(problem, few), -0.2, atol=1e-6)
    assert summarise_residuals(problem, few, directions).chi2.shape == (3,)


def test_bounds_are_of_stars_that_were_observed(model):
    """A prior alone makes no bound: nothing is known of the star."""
    flux = np.ones((2, N_PIX), np.float32)
    ivar = np.stack([np.full(N_PIX, 1e4), np.zeros(N_PIX)]).astype(np.float32)
    batch = SpectrumBatch(*map(jax.device_put, (flux, ivar, ivar)), GRID)
    prior = LabelPrior("teff", 3500.0, 20.0)
    problem = FitProblem.from_batch(model, batch, fit_velocity=False, priors=(prior,))
    found = cramer_rao(problem, Start(np.full((2, 1), 3500.0), np.zeros(2)))
    line = np.exp(-(((GRID.wave_aa - 6150.0) / 5.0) ** 2))
    of_pixels = 1e4 * np.sum((0.0005 * line) ** 2)
    np.testing.assert_allclose(found.labels[0, 0], (of_pixels + 20.0**-2) ** -0.5, rtol=1e-3)
    assert np.isnan(found.labels[1, 0])
    assert np.isnan(found[1]).all()
