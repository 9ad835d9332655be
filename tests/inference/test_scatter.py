"""Directions in which stars scatter, in the likelihood: what a dense covariance would say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit, fit_batch
from jaxmdwarf.inference.solvers.gram import gram_equations, multiply_shapes, reduce_stars
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.models.base import NoiseModel
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.spectra import SpectrumBatch

PRIORS = (LabelPrior("alpha_m", 0.1, 0.1),)


def draw_shapes(n_pix, n_shape, rng, dtype=np.float32):
    """Smooth random directions, 2 per cent of the flux."""
    x = np.linspace(0, 1, n_pix)
    waves = np.sin(x * rng.uniform(20, 200, (n_shape, 1)) + rng.uniform(0, 6, (n_shape, 1)))
    return jnp.asarray(0.02 * waves, dtype)


@pytest.fixture(scope="module")
def scattered(band_model, band_grid, observe_stars):
    """A problem of 64 stars at rest that scatter along four directions, and their labels."""
    rng = np.random.default_rng(8)
    scaled = rng.uniform(-0.3, 0.3, (64, 4)).astype(np.float32)
    snr = 10 ** rng.uniform(1, 2.3, 64)
    batch = observe_stars(band_model, band_grid, scaled, np.zeros(64), snr, rng)
    shapes = draw_shapes(band_model.grid.n_pix, 4, rng)
    flux = batch.flux + rng.standard_normal((64, 4)).astype(np.float32) @ shapes[:, 3:-3]
    batch = SpectrumBatch(flux, batch.ivar, batch.information, batch.grid)
    problem = FitProblem.from_batch(
        band_model,
        batch,
        fit_velocity=False,
        priors=PRIORS,
        noise=NoiseModel(1.0, shapes),
        continuum_sigma_aa=None,
    )
    return problem, np.asarray(band_model.label_space.unscale(scaled))


@pytest.mark.parametrize("velocity", [False, True])
def test_equations_are_those_of_the_whole_covariance(observe_exactly, velocity):
    with jax.enable_x64(True):
        model, batch, rng = observe_exactly(3)
        shapes = draw_shapes(model.grid.n_pix, 3, rng, np.float64)
        problem = FitProblem.from_batch(
            model, batch, fit_velocity=velocity, noise=NoiseModel(1.0, shapes)
        )
        objective = build_objective(problem)
        at = jnp.asarray(rng.uniform(-0.2, 0.2, (3, 4 + velocity)))
        found = objective.normal_equations(at)
        slopes, _ = objective.linearise(at)
        residual, weight = np.asarray(objective.residuals(at)), np.asarray(objective.weight)
        directions = np.asarray(objective.scatter.shapes)
        for star in range(3):
            good = weight[star] > 0
            scatter = directions[:, good]
            inverse = np.linalg.inv(np.diag(1 / weight[star, good]) + scatter.T @ scatter)
            slope = np.stack([np.asarray(one)[star, good] for one in slopes])
            left = residual[star, good]
            # The floor under the brightest stars' amplitudes is all that is between the two.
            np.testing.assert_allclose(found.cost[star], left @ inverse @ left, rtol=1e-4)
            curvature = slope @ inverse @ slope.T
            np.testing.assert_allclose(found.curvature[star], curvature, rtol=1e-3)
            unit = np.sqrt(np.diag(curvature))
            np.testing.assert_allclose(
                found.gradient[star] / unit, slope @ inverse @ left / unit, atol=1e-2
            )
        np.testing.assert_allclose(objective.cost(at), found.cost, rtol=1e-12)
        if not velocity:
            system = reduce_stars(objective, multiply_shapes(model, problem.batch.grid, shapes))
            ours = gram_equations(objective, system)(at)
            np.testing.assert_allclose(ours.cost, found.cost, rtol=1e-9)
            np.testing.assert_allclose(ours.curvature, found.curvature, rtol=1e-7)
            scale = float(jnp.abs(found.gradient).max())
            np.testing.assert_allclose(ours.gradient, found.gradient, atol=1e-8 * scale)


def test_pixels_and_gram_systems_end_at_one_solution(scattered):
    problem, _ = scattered
    fast, slow = (
        fit(
            problem,
            solver=LevenbergMarquardt(fast_path=path),
            schedule=FitScheduleConfig(batch_size=64),
        )
        for path in (True, False)
    )
    assert fast.converged.all()
    assert slow.converged.all()
    assert np.max(np.abs(fast.labels - slow.labels) / slow.errors) < 0.05
    np.testing.assert_allclose(fast.errors, slow.errors, rtol=0.01)
    np.testing.assert_allclose(fast.chi2, slow.chi2, rtol=1e-3)


def test_labels_are_sharper_and_their_errors_right(scattered):
    problem, truth = scattered
    known, ignorant = (
        fit_batch(one) for one in (problem, replace_noise(problem, NoiseModel(1.0, None)))
    )
    away = np.abs(np.asarray(known.labels) - truth)
    assert np.median(away / np.abs(np.asarray(ignorant.labels) - truth)) < 0.8
    pulls = (np.asarray(known.labels) - truth) / np.asarray(known.errors)
    assert 0.85 < np.std(pulls) < 1.15
    assert np.std((np.asarray(ignorant.labels) - truth) / np.asarray(ignorant.errors)) > 2


def test_what_labels_are_off_by_adds_to_what_pixels_leave_open_and_not_to_what_priors_say(
    scattered,
):
    problem, _ = scattered
    at = np.random.default_rng(3).normal(size=(4, 4)) * 0.03
    off = jnp.asarray(at @ at.T, jnp.float32)
    shapes = problem.noise.nuisance
    plain, wider = (
        fit_batch(replace_noise(problem, NoiseModel(1.0, shapes, labels), ()))
        for labels in (None, off)
    )
    extent = np.subtract(problem.label_space.upper, problem.label_space.lower)
    added = np.asarray(wider.covariance - plain.covariance) / extent / extent[:, None]
    np.testing.assert_allclose(added, np.broadcast_to(off, added.shape), rtol=0.02, atol=2e-5)
    # A label that its prior holds cannot be off by more than the prior leaves.
    held = (LabelPrior("alpha_m", 0.1, 1e-4),)
    told = fit_batch(replace_noise(problem, NoiseModel(1.0, shapes, off), held))
    assert np.max(told.errors[:, 3]) < 1e-3


def test_padding_and_bad_pixels_say_nothing(scattered):
    problem, _ = scattered
    alone = fit_batch(problem.take(range(20)))
    bad = problem.batch.ivar == 0
    batch = problem.batch
    spoiled = SpectrumBatch(
        jnp.where(bad, jnp.nan, batch.flux), batch.ivar, batch.information, batch.grid
    )
    padded = FitProblem.from_batch(
        problem.model,
        spoiled,
        fit_velocity=False,
        priors=PRIORS,
        noise=problem.noise,
        continuum_sigma_aa=None,
    )
    padded = fit_batch(padded.take(range(20)).pad_to(32))
    assert np.max(np.abs(padded.labels[:20] - alone.labels) / alone.errors) < 0.01
    assert np.isnan(padded.labels[20:]).all()


def test_without_directions_nothing_changes(scattered):
    problem, _ = scattered
    nothing = jnp.zeros((0, problem.model.grid.n_pix), jnp.float32)
    one, other = (
        fit_batch(replace_noise(problem, NoiseModel(1.0, nuisance))) for nuisance in (None, nothing)
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def replace_noise(problem, noise, priors=PRIORS):
    return FitProblem.from_batch(
        problem.model,
        problem.batch,
        fit_velocity=False,
        priors=priors,
        noise=noise,
        continuum_sigma_aa=None,
    )
