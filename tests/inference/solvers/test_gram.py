"""Fits on Gram systems: the solution of the pixels without the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.gram import (
    GramSystem,
    choose_node,
    fit_by_gram,
    gram_equations,
    has_gram_path,
    multiply_shapes,
    place_nodes,
    reduce_stars,
)
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.spectra import SpectrumBatch

N_STAR = 256
FAST, SLOW = LevenbergMarquardt(), LevenbergMarquardt(fast_path=False)
PRIORS = (
    LabelPrior("alpha_m", 0.1, 0.1),
    RelationPrior("logg", ("teff",), ((0,), (1,)), (5.0, -0.3), 0.1, (3400.0,), (1000.0,)),
)


def fit_at_rest(model, batch, solver=FAST, *, start=None, **assumed):
    problem = FitProblem.from_batch(model, batch, fit_velocity=False, **assumed)
    return fit(problem, start=start, solver=solver, schedule=FitScheduleConfig(batch_size=64))


@pytest.fixture(scope="module")
def survey(band_model, band_grid, observe_stars):
    """Stars at rest, S/N 8 to 300, a few beyond the label space."""
    rng = np.random.default_rng(12)
    scaled = rng.uniform(-0.45, 0.45, (N_STAR, 4)).astype(np.float32)
    scaled[:10, 0] = 0.6
    snr = 10 ** rng.uniform(np.log10(8), np.log10(300), N_STAR)
    return observe_stars(band_model, band_grid, scaled, np.zeros(N_STAR), snr, rng)


def test_systems_say_what_the_pixels_say(observe_exactly):
    @jax.jit
    def compare(problem, at):
        objective = build_objective(problem)
        products = multiply_shapes(problem.model, problem.batch.grid)
        state = fit_by_gram(
            objective,
            products,
            at,
            active=jnp.ones(6, bool),
            max_iter=30,
            tol_sigma=1e-4,
            initial_damping=1e-2,
        )
        return (
            gram_equations(objective, reduce_stars(objective, products))(at),
            objective.normal_equations(at),
            state,
            objective.normal_equations(state.parameters),
        )

    with jax.enable_x64(True):
        model, batch, rng = observe_exactly(6)
        problem = FitProblem.from_batch(model, batch, fit_velocity=False, priors=PRIORS)
        found = compare(problem, jax.device_put(rng.uniform(-0.4, 0.4, (6, 4))))
        ours, pixels, state, exact = jax.tree.map(np.asarray, found)
    np.testing.assert_allclose(ours.cost, pixels.cost, rtol=1e-9)
    np.testing.assert_allclose(ours.curvature, pixels.curvature, rtol=1e-9)
    scale = np.abs(pixels.gradient).max()
    np.testing.assert_allclose(ours.gradient, pixels.gradient, atol=1e-9 * scale)
    assert state.converged.all()
    np.testing.assert_allclose(state.equations.cost, exact.cost, rtol=1e-9)
    np.testing.assert_allclose(state.equations.pixel_chi2, exact.pixel_chi2, rtol=1e-9)


@pytest.mark.parametrize(
    "changed",
    [pytest.param({}, marks=pytest.mark.slow), {"priors": PRIORS, "continuum_sigma_aa": 30.0}],
)
def test_the_fast_path_ends_where_the_pixels_end(band_model, survey, changed):
    fast = fit_at_rest(band_model, survey, FAST, **changed)
    slow = fit_at_rest(band_model, survey, SLOW, **changed)
    assert fast.converged.mean() >= 0.99
    both = fast.converged & slow.converged
    distance = np.abs(fast.labels - slow.labels)[both] / slow.errors[both]
    same = distance.max(axis=1) < 0.02
    # A star with two minima may be led to another one by another start, if to no worse a one.
    assert np.median(distance) < 1e-3
    assert same.mean() >= 0.98
    assert np.sum(fast.chi2[both][~same] > slow.chi2[both][~same] + 0.01) <= 2
    np.testing.assert_allclose(fast.errors[both][same], slow.errors[both][same], rtol=5e-3)
    np.testing.assert_allclose(fast.chi2[both][same], slow.chi2[both][same], rtol=1e-4)
    np.testing.assert_allclose(fast.chi2_red[both][same], slow.chi2_red[both][same], rtol=1e-4)
    np.testing.assert_array_equal(fast.flags[both][same], slow.flags[both][same])


def test_a_given_start_is_kept(band_model, survey):
    """From the solution itself one step is left, not a search."""
    first = fit_at_rest(band_model, survey)
    start = Start(first.labels, np.zeros(N_STAR, np.float32))
    again = fit_at_rest(band_model, survey, start=start)
    assert np.median(again.n_iter) <= 2
    assert (np.abs(again.labels - first.labels) / first.errors).max() < 0.02


def test_neighbours_and_padding_do_not_matter(band_model, survey):
    whole = fit_at_rest(band_model, survey)
    order = np.random.default_rng(4).permutation(N_STAR)[:100]
    flux, ivar = (np.asarray(values)[order] for values in (survey.flux, survey.ivar))
    flux = np.pad(np.where(ivar == 0, np.inf, flux), ((0, 9), (0, 0)), constant_values=np.nan)
    ivar = np.pad(ivar, ((0, 9), (0, 0)))
    some = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), survey.grid)
    result = fit_at_rest(band_model, some)
    away = np.abs(result.labels[:100] - whole.labels[order]) / whole.errors[order]
    assert np.nanmax(away) < 0.02
    np.testing.assert_array_equal(result.flags[:100], whole.flags[order])
    assert np.isnan(result.labels[100:]).all()


def test_very_bright_stars_lose_no_digits(make_model, band_grid, observe_stars):
    model = make_model(band_grid)
    rng = np.random.default_rng(3)
    scaled = rng.uniform(-0.4, 0.4, (N_STAR, 4)).astype(np.float32)
    snr = np.full(N_STAR, 2000.0)
    batch = observe_stars(model, band_grid, scaled, np.zeros(N_STAR), snr, rng)
    fast = fit_at_rest(model, batch, FAST)
    slow = fit_at_rest(model, batch, SLOW)
    assert fast.converged.mean() > 0.98
    assert np.quantile(np.abs(fast.labels - slow.labels) / slow.errors, 0.99) < 0.02
    np.testing.assert_allclose(fast.chi2, slow.chi2, rtol=1e-3)


def test_the_node_of_lowest_cost_is_chosen(band_model, survey):
    problem = FitProblem.from_batch(band_model, survey, fit_velocity=False, priors=PRIORS)
    nodes = place_nodes(band_model, per_label=2)

    @jax.jit
    def choose_and_try(problem, nodes):
        objective = build_objective(problem)
        system = reduce_stars(objective, multiply_shapes(problem.model, problem.batch.grid))
        assert isinstance(system, GramSystem)
        chosen = choose_node(objective, system, nodes)
        costs = jax.lax.map(
            lambda node: objective.cost(jnp.broadcast_to(node, chosen.shape)), nodes.scaled
        )
        return objective.cost(chosen), costs

    found, costs = choose_and_try(problem, nodes)
    np.testing.assert_allclose(found, np.min(costs, axis=0), rtol=1e-3)


def test_models_without_a_small_head_are_fitted_on_pixels(band_model, make_model, survey):
    assert has_gram_path(band_model)
    assert not has_gram_path(make_model(survey.grid, n_band=120))
    for assumed in ({}, {"fit_velocity": False, "poly_order": 1}):
        assert not FitProblem.from_batch(band_model, survey, **assumed).labels_alone
    assert FitProblem.from_batch(band_model, survey, fit_velocity=False).labels_alone
