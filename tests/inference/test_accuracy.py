"""A thousand stars of known labels: the right optimum, the least scatter, from wherever one starts.

Near a bound a star can miss to one side only, so its pulls are not those of a Gaussian. Statistics
are therefore of the stars whose true parameters lie well inside, by the errors that the Fisher
matrix promises. That choice knows nothing of the noise; one by flags or by fitted labels does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.explore.bounds import cramer_rao
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start, squash_to_bounds
from jaxmdwarf.inference.problem import FitProblem, padded_rows
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.shift import largest_shift_kms
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

N_STAR = 1000
N_FEW = padded_rows(1)
SAME_SIGMA = 0.05
ROOM_SIGMA = 3.0
SPACE = LabelSpace.mdwarf()


class Way(NamedTuple):
    """What is fitted, and how."""

    fit_velocity: bool
    solver: str | Solver = "lm"


PIXELS, GRAM, LBFGS = Way(True), Way(False), Way(True, "lbfgs")


def fit_stars(model, batch, way, *, start=None, **schedule):
    problem = FitProblem.from_batch(model, batch, fit_velocity=way.fit_velocity)
    return fit(problem, start=start, solver=way.solver, schedule=FitScheduleConfig(**schedule))


class Survey(NamedTuple):
    """Stars, what they are, and how well a perfect method could know it."""

    batch: SpectrumBatch
    truth: np.ndarray
    least: np.ndarray
    roomy: np.ndarray
    snr: np.ndarray
    way: Way


def bound_errors(model, grid, scaled, rv_kms, ivar, n_par) -> np.ndarray:
    """Cramer-Rao bounds of the labels and, as a fifth, the velocity, from float64 derivatives."""

    @jax.jit
    def linearise(model, scaled):
        slopes = jax.vmap(jax.jacfwd(model.predict_scaled))(scaled)
        return model.predict_scaled_batch(scaled), slopes

    rest, slopes = map(np.asarray, linearise(model, np.float64(scaled)))
    slopes = slopes / np.subtract(SPACE.upper, SPACE.lower)
    least = np.empty((len(scaled), n_par))
    for row, (flux, by_label, speed) in enumerate(zip(rest, slopes, rv_kms, strict=True)):
        doppler = 1 + speed / SPEED_OF_LIGHT_KMS
        at = grid.wave_aa / doppler
        of_labels = CubicSpline(model.grid.wave_aa, by_label)(at)
        by_wave = CubicSpline(model.grid.wave_aa, flux)(at, 1)
        of_velocity = -by_wave * at / (doppler * SPEED_OF_LIGHT_KMS)
        jacobian = np.column_stack([of_labels, of_velocity])[:, :n_par]
        fisher = jacobian.T @ (ivar[row][:, None] * jacobian)
        least[row] = np.sqrt(np.diagonal(np.linalg.inv(fisher)))
    return least


@pytest.fixture(scope="module")
def survey(request, band_model, band_grid, make_model, observe_stars):
    """A thousand stars, S/N 5 to 200; at rest, and known to be, where no velocity is fitted."""
    way = request.param
    rng = np.random.default_rng(41)
    scaled = rng.uniform(-0.3, 0.3, (N_STAR, 4)).astype(np.float32)
    rv_kms = rng.uniform(-15, 15, N_STAR) * way.fit_velocity
    snr = 10 ** rng.uniform(np.log10(5), np.log10(200), N_STAR)
    batch = observe_stars(band_model, band_grid, scaled, rv_kms, snr, rng)
    with jax.enable_x64(True):
        model = make_model(band_grid, dtype=np.float64)
        ivar = np.asarray(batch.ivar, np.float64)
        n_par = 4 + way.fit_velocity
        least = bound_errors(model, band_grid, scaled, rv_kms, ivar, n_par)
    truth = np.column_stack([SPACE.unscale(scaled.astype(np.float64)), rv_kms])[:, :n_par]
    speed = largest_shift_kms(band_grid)
    lower, upper = np.r_[SPACE.lower, -speed][:n_par], np.r_[SPACE.upper, speed][:n_par]
    room = np.minimum(truth - lower, upper - truth) / least
    return Survey(batch, truth, least, (room > ROOM_SIGMA).all(axis=1), snr, way)


@pytest.fixture(scope="module")
def fitted(band_model, survey) -> FitResult:
    return fit_stars(band_model, survey.batch, survey.way)


both_paths = pytest.mark.parametrize(
    "survey", [PIXELS, GRAM], indirect=True, ids=["pixels", "gram"]
)
with_velocity = pytest.mark.parametrize("survey", [PIXELS], indirect=True, ids=["pixels"])
without_velocity = pytest.mark.parametrize("survey", [GRAM], indirect=True, ids=["gram"])
both_ways = pytest.mark.parametrize("way", [PIXELS, GRAM], ids=["pixels", "gram"])


def fitted_parameters(result, survey):
    """Labels and, where it was fitted, velocity, with their errors."""
    if not survey.way.fit_velocity:
        return result.labels, result.errors
    return (
        np.column_stack([result.labels, result.rv_kms]),
        np.column_stack([result.errors, result.e_rv]),
    )


def worst_distance(result, reference, survey):
    """Of any parameter, in standard deviations, star by star."""
    (here, _), (there, errors) = (fitted_parameters(r, survey) for r in (result, reference))
    return (np.abs(here - there) / errors).max(axis=1)


def take(batch, rows):
    """Some spectra, chosen by numpy: JAX compiles every indexing of a new shape by itself."""
    return jax.tree.map(lambda values: jax.device_put(np.asarray(values)[rows]), batch)


def as_batch(flux, ivar, grid):
    """Spectra from numpy arrays whose pixels are independent."""
    return SpectrumBatch(*jax.device_put((flux, ivar, ivar)), grid)


@both_paths
def test_nearly_every_star_converges(fitted):
    assert fitted.converged.mean() >= 0.995


@both_paths
def test_pulls_are_those_of_a_unit_gaussian(fitted, survey):
    found, errors = fitted_parameters(fitted, survey)
    assert survey.roomy.mean() > 0.65
    pulls = ((found - survey.truth) / errors)[survey.roomy]
    assert np.abs(pulls.mean(axis=0)).max() < 0.1
    low, high = np.percentile(pulls, [15.87, 84.13], axis=0)
    for width in (pulls.std(axis=0), 0.5 * (high - low)):
        assert ((width > 0.9) & (width < 1.15)).all()


@both_paths
def test_scatter_is_the_least_that_is_possible(fitted, survey):
    found, errors = fitted_parameters(fitted, survey)
    missed = ((found - survey.truth) / survey.least)[survey.roomy]
    scatter = np.sqrt(np.mean(missed**2, axis=0))
    assert ((scatter > 0.9) & (scatter < 1.1)).all()
    stated = (errors / survey.least)[survey.roomy]
    np.testing.assert_allclose(np.median(stated, axis=0), 1.0, atol=0.02)


@both_paths
def test_bounds_of_the_problem_are_those_of_exact_derivatives(band_model, survey):
    """In float32, through the shift by slices, against float64 and splines."""
    problem = FitProblem.from_batch(band_model, survey.batch, fit_velocity=survey.way.fit_velocity)
    labels, speeds = np.split(survey.truth, [4], axis=1)
    speeds = speeds[:, 0] if survey.way.fit_velocity else np.zeros(N_STAR)
    least = cramer_rao(problem, Start(labels, speeds))
    np.testing.assert_allclose(least.labels, survey.least[:, :4], rtol=0.02)
    if survey.way.fit_velocity:
        np.testing.assert_allclose(least.rv_kms, survey.least[:, 4], rtol=0.02)
    else:
        assert np.isnan(least.rv_kms).all()


@pytest.mark.parametrize(
    "survey",
    [
        # A hundred stars of tests/inference/test_schedule.py start from four points.
        pytest.param(PIXELS, marks=pytest.mark.slow, id="pixels"),
        pytest.param(GRAM, id="gram"),
    ],
    indirect=True,
)
def test_ten_random_starts_reach_one_optimum(band_model, fitted, survey):
    rng = np.random.default_rng(5)
    bright = np.flatnonzero(survey.snr > 20)[:512]
    n_star = len(bright)
    assert n_star == 512
    batch, reference = take(survey.batch, bright), fitted.take(bright)
    same = np.ones(n_star, bool)
    for _ in range(10):
        scaled = rng.uniform(-0.45, 0.45, (n_star, 4)).astype(np.float32)
        start = Start(SPACE.unscale(scaled), rng.uniform(-20, 20, n_star).astype(np.float32))
        found = fit_stars(band_model, batch, survey.way, start=start)
        same &= found.converged & (worst_distance(found, reference, survey) < SAME_SIGMA)
    assert same.mean() >= 0.99


@with_velocity
def test_lbfgs_finds_every_star_where_lm_does(band_model, fitted, survey):
    found = fit_stars(band_model, survey.batch, LBFGS)
    assert found.converged.mean() >= 0.995
    both = found.converged & fitted.converged
    assert worst_distance(found, fitted, survey)[both].max() < SAME_SIGMA


@with_velocity
@pytest.mark.parametrize(
    ("solver", "n"),
    [
        pytest.param("optimistix", N_STAR, marks=pytest.mark.slow),
        pytest.param("optimistix-lbfgs", N_STAR, marks=pytest.mark.slow),
        pytest.param("jaxopt", 128, marks=pytest.mark.slow),
    ],
)
def test_solvers_of_other_libraries_agree(band_model, fitted, survey, solver, n):
    way = Way(True, solver)
    found = fit_stars(band_model, take(survey.batch, range(n)), way, batch_size=n, restarts=0)
    assert found.converged.mean() >= 0.995
    both = found.converged & fitted.converged[:n]
    reference = fitted.take(slice(n))
    assert worst_distance(found, reference, survey)[both].max() < SAME_SIGMA


@without_velocity
def test_gram_systems_and_pixels_have_one_optimum(band_model, fitted, survey):
    slow = fit_stars(band_model, survey.batch, Way(False, LevenbergMarquardt(fast_path=False)))
    assert worst_distance(slow, fitted, survey).max() < SAME_SIGMA
    np.testing.assert_allclose(fitted.errors, slow.errors, rtol=0.02)


@pytest.fixture(scope="module")
def few(band_model, band_grid, observe_stars):
    """Stars at rest, S/N 10 to 200, a twentieth of their pixels bad.

    So many that one star alone, which is padded, is fitted by the same program.
    """
    rng = np.random.default_rng(17)
    scaled = rng.uniform(-0.35, 0.35, (N_FEW, 4)).astype(np.float32)
    snr = 10 ** rng.uniform(1.0, 2.3, N_FEW)
    return observe_stars(band_model, band_grid, scaled, np.zeros(N_FEW), snr, rng, bad=0.05)


@both_ways
def test_one_star_at_a_time_is_the_whole_batch(band_model, few, way):
    whole = fit_stars(band_model, few, way)
    for row in range(0, N_FEW, 4):
        alone = fit_stars(band_model, take(few, [row]), way)
        away = np.abs(alone.labels[0] - whole.labels[row]) / whole.errors[row]
        assert away.max() < SAME_SIGMA
        np.testing.assert_allclose(alone.errors[0], whole.errors[row], rtol=0.02)
        assert alone.flags[0] == whole.flags[row]


@pytest.mark.parametrize("way", [PIXELS, GRAM, LBFGS], ids=["pixels", "gram", "lbfgs"])
def test_what_masked_pixels_hold_changes_no_bit(band_model, few, way):
    flux, ivar = np.asarray(few.flux), np.asarray(few.ivar)
    bad = ivar == 0
    assert bad.any(axis=-1).all()
    results = [
        fit_stars(band_model, as_batch(np.where(bad, held, flux), ivar, few.grid), way)
        for held in (1.0, np.nan, np.inf, -np.inf, 1e30)
    ]
    assert results[0].converged.all()
    for other in results[1:]:
        for name, one, two in zip(FitResult._fields, results[0], other, strict=True):
            np.testing.assert_array_equal(one, two, err_msg=name)


@both_ways
def test_a_masked_stretch_is_one_never_observed(band_model, few, way):
    cut, wave = 240, few.grid.wave_aa
    flux, ivar = np.array(few.flux), np.array(few.ivar)
    shorter = PixelGrid.linear(float(wave[cut]), float(wave[-1]), few.grid.step)
    absent = fit_stars(band_model, as_batch(flux[:, cut:], ivar[:, cut:], shorter), way)
    flux[:, :cut], ivar[:, :cut] = np.nan, 0.0
    masked = fit_stars(band_model, as_batch(flux, ivar, few.grid), way)
    away = np.abs(masked.labels - absent.labels) / absent.errors
    assert away.max() < SAME_SIGMA
    np.testing.assert_allclose(masked.errors, absent.errors, rtol=0.02)
    np.testing.assert_array_equal(masked.n_pix, absent.n_pix)
    np.testing.assert_allclose(masked.chi2, absent.chi2, rtol=1e-3)


def test_gradients_are_finite_at_bounds_and_beyond_the_bijection(band_model, few):
    """In the free variables of solvers without bounds; masked pixels hold NaN, one star nothing."""
    where = np.float32([0.0, 0.5, -0.5, 1e3, -1e6, 0.2])
    flux, ivar = np.array(few.flux)[:6], np.array(few.ivar)[:6]
    assert np.isnan(flux).any()
    flux[5], ivar[5] = np.nan, 0.0
    problem = FitProblem.from_batch(band_model, as_batch(flux, ivar, few.grid))
    free = np.repeat(where[:, None], 5, axis=1)

    @jax.jit
    def differentiate(problem, free):
        objective = build_objective(problem)
        gradient = jax.grad(lambda free: jnp.sum(objective.cost(squash_to_bounds(free))))(free)
        return gradient, objective.normal_equations(squash_to_bounds(free))

    gradient, equations = jax.tree.map(np.asarray, differentiate(problem, free))
    assert np.isfinite(gradient).all()
    assert all(np.isfinite(part).all() for part in equations)
    assert (gradient[:3] != 0).all()
    np.testing.assert_array_equal(gradient[5], 0.0)
