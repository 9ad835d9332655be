"""Fits of expensive models by surrogates: the same minimum, few evaluations, checked at the end."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.objective import LINEARISED_ROWS, build_objective, linearise_flux
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.inference.solvers.surrogate import _Follower, minimise_with_surrogate
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, Surrogate, predict_compiled
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6899.0, 1.0)
SPACE = LabelSpace.mdwarf()
N_STAR = 96


def fit_stars(model, batch, context=None, *, start=None, fit_velocity=False, **solver):
    problem = FitProblem.from_batch(model, batch, context=context, fit_velocity=fit_velocity)
    return fit(
        problem,
        start=start,
        solver=LevenbergMarquardt(**solver),
        schedule=FitScheduleConfig(batch_size=32),
    )


class ExpensiveModel(ForwardModel):
    """A base and what a transfer might add to it: bends of the flux that differ from star to star.

    Its surrogate is `guide`, or misses `surrogate_error` of what is added; or there is none.
    """

    base: ForwardModel
    guide: ForwardModel
    strength: Float[Array, ""]
    shapes: Float[Array, "2 n_pix"]
    followed: bool = eqx.field(static=True, default=True)
    surrogate_error: Float[Array, ""] | None = None

    @property
    def expensive(self) -> bool:
        return self.followed

    @property
    def label_space(self) -> LabelSpace:
        return self.base.label_space

    @property
    def preprocessing(self):
        return self.base.preprocessing

    @property
    def grid(self) -> PixelGrid:
        return self.base.grid

    @property
    def model_error(self):
        return self.base.model_error

    def predict_scaled(self, scaled, context=None):
        own = 0.0 if context is None else context
        bent = jnp.stack([jnp.sin(4 * scaled[0] + own), jnp.tanh(5 * scaled[2]) * scaled[1]])
        return self.base.predict_scaled(scaled) + self.strength * (bent @ self.shapes)

    def surrogate(self):
        if not self.followed:
            return None
        if self.surrogate_error is None:
            return Surrogate(self.guide, accurate=False)
        near = self.strength * (1 - self.surrogate_error)
        return Surrogate(replace(self, strength=near, followed=False), accurate=True)


def scalar(value):
    return jax.device_put(np.float32(value))


def make_shapes(grid):
    return jax.device_put(np.float32([np.sin(grid.wave_aa / 7.0), np.cos(grid.wave_aa / 23.0)]))


@pytest.fixture(scope="module")
def expensive(make_model):
    base = make_model(GRID, margin=0)
    return ExpensiveModel(base, base, scalar(0.04), make_shapes(GRID))


@pytest.fixture(scope="module")
def stars(expensive):
    """Spectra of the model itself, S/N 20 to 100, each star with a phase of its own."""
    rng = np.random.default_rng(2)
    scaled = rng.uniform(-0.35, 0.35, (N_STAR, 4)).astype(np.float32)
    phase = rng.uniform(-1, 1, N_STAR).astype(np.float32)
    predict = jax.jit(type(expensive).predict_scaled_batch)
    clean = np.asarray(predict(expensive, scaled, phase))
    snr = 10 ** rng.uniform(1.3, 2.0, (N_STAR, 1))
    ivar = np.broadcast_to(snr**2, clean.shape).astype(np.float32).copy()
    ivar[rng.random(ivar.shape) < 0.03] = 0
    flux = clean + rng.normal(size=clean.shape) / snr
    flux, phase = jax.device_put((np.float32(flux), phase))
    return SpectrumBatch(flux, *jax.device_put((ivar, ivar)), GRID), phase, scaled


@pytest.fixture(scope="module")
def exact(expensive, stars):
    """The fit without a surrogate: Levenberg-Marquardt with the model's own derivatives."""
    batch, phase, _ = stars
    return fit_stars(replace(expensive, followed=False), batch, phase)


def distance_sigma(one, other):
    return np.abs((one.labels - other.labels) / other.errors).max(axis=1)


def test_slopes_of_a_surrogate_lead_to_the_minimum_of_the_model(expensive, stars, exact):
    batch, phase, _ = stars
    found = fit_stars(expensive, batch, phase)
    assert found.converged.mean() > 0.98
    assert np.quantile(distance_sigma(found, exact)[found.converged], 0.99) < 0.05
    np.testing.assert_allclose(found.errors, exact.errors, rtol=0.02)
    np.testing.assert_allclose(found.chi2, exact.chi2, rtol=1e-4, atol=0.05)


def test_the_surrogate_alone_is_far_from_there(expensive, stars, exact):
    batch, _, _ = stars
    alone = fit_stars(expensive.base, batch)
    assert np.median(distance_sigma(alone, exact)) > 2


def test_even_a_surrogate_that_points_elsewhere_leads_to_the_minimum(
    expensive, stars, exact, make_model
):
    batch, phase, _ = stars
    misled = replace(expensive, guide=make_model(GRID, margin=0, seed=11))
    found = fit_stars(misled, batch, phase, max_iter=80)
    assert found.converged.mean() > 0.9
    assert np.median(distance_sigma(found, exact)[found.converged]) < 0.05


def test_a_minimum_counts_where_the_model_was_linearised_near_it(expensive, stars, exact):
    """Slopes from elsewhere are those of another place, however short the step they lead to."""
    batch, phase, _ = stars
    rows = slice(0, 32)
    context, labels = phase[rows], exact.labels[rows]
    batch = SpectrumBatch(batch.flux[rows], batch.ivar[rows], batch.information[rows], GRID)
    problem = FitProblem.from_batch(expensive, batch, context=context, fit_velocity=False)
    point = problem.parameters_at(Start(labels, np.zeros(32, np.float32)))
    away = 3 * np.asarray(exact.errors[rows]) / np.ptp([SPACE.lower, SPACE.upper], axis=0)

    @jax.jit
    def step_from(problem, point, away):
        objective = build_objective(problem)
        lower = jnp.asarray(objective.layout.lower, point.dtype)
        follower = _Follower(objective, expensive.base, lower, 0.05)
        walk = follower.begin(point, jnp.ones(32, bool), 1e-2)
        walk = follower.linearise(walk)
        far = walk._replace(linearised=walk.linearised + away)
        return follower.take_step(walk).converged, follower.take_step(far).converged

    near, far = step_from(problem, point, jnp.asarray(away, jnp.float32))
    assert np.mean(near) > 0.9
    assert not np.any(far)


def test_velocity_is_fitted_along(make_model):
    base = make_model(GRID)
    model = ExpensiveModel(base, base, scalar(0.02), make_shapes(base.grid))
    centre = jax.device_put(np.zeros((4, 4), np.float32))
    flux = np.asarray(predict_compiled(model, centre))[:, 3:-3]
    ivar = np.full(flux.shape, 1e4, np.float32)
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), GRID)
    start = Start(
        np.tile(model.label_space.unscale(np.full(4, 0.15, np.float32)), (4, 1)),
        np.full(4, 10.0, np.float32),
    )
    found = fit_stars(model, batch, start=start, fit_velocity=True)
    assert found.converged.all()
    np.testing.assert_allclose(found.rv_kms, 0, atol=0.1)
    assert (np.abs(model.label_space.scale(found.labels)) < 3e-3).all()


def test_inactive_stars_stay_where_they_are(expensive, stars):
    batch, phase, _ = stars
    problem = FitProblem.from_batch(expensive, batch, context=phase, fit_velocity=False)
    start = np.full((N_STAR, 4), 0.1, np.float32)
    active = np.arange(N_STAR) < 3

    @jax.jit
    def minimise(problem, start, active):
        objective, near = build_objective(problem), problem.model.base
        return minimise_with_surrogate(objective, near, start, active=active, max_iter=12)

    state = jax.tree.map(np.asarray, minimise(problem, start, active))
    np.testing.assert_array_equal(state.parameters[3:], start[3:])
    assert not state.converged[3:].any()
    assert (state.n_iter[3:] == 0).all()
    assert np.abs(state.parameters[:3] - 0.1).max() > 0.01


def test_derivatives_in_groups_are_those_of_all_at_once(expensive):
    n = LINEARISED_ROWS + 5
    rng = np.random.default_rng(4)
    scaled = rng.uniform(-0.4, 0.4, (n, 4)).astype(np.float32)
    phase = rng.uniform(-1, 1, n).astype(np.float32)
    linearise = jax.jit(linearise_flux)
    in_groups = linearise(expensive, scaled, phase)
    at_once = linearise(replace(expensive, followed=False), scaled, phase)
    for one, other in zip(in_groups, at_once, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_an_accurate_surrogate_is_checked_in_one_evaluation(expensive, stars, exact):
    batch, phase, _ = stars
    near = replace(expensive, surrogate_error=scalar(1e-3))
    found = fit_stars(near, batch, phase)
    assert found.converged.all()
    assert not (found.flags & int(QualityFlag.FAST_PATH_DISAGREED)).any()
    assert (found.n_iter == 1).all()
    assert np.quantile(distance_sigma(found, exact), 0.95) < 0.05


def test_a_surrogate_that_is_wrong_is_told_and_put_right(expensive, stars, exact):
    batch, phase, _ = stars
    wrong = replace(expensive, surrogate_error=scalar(0.5))
    found = fit_stars(wrong, batch, phase)
    told = (found.flags & int(QualityFlag.FAST_PATH_DISAGREED)) > 0
    assert told.mean() > 0.9
    assert np.quantile(distance_sigma(found, exact)[found.converged], 0.98) < 0.05
    unchecked = fit_stars(wrong, batch, phase, check_surrogate=False)
    assert np.median(distance_sigma(unchecked, exact)) > 1
    slow = fit_stars(wrong, batch, phase, fast_path=False)
    assert not (slow.flags & int(QualityFlag.FAST_PATH_DISAGREED)).any()
    assert np.median(distance_sigma(slow, exact)) < 0.05


def test_stars_without_pixels_are_told_from_those_with_a_surrogate(expensive, stars):
    batch, phase, _ = stars
    flux, ivar = np.array(batch.flux), np.array(batch.ivar)
    flux[1], ivar[1] = np.nan, 0
    near = replace(expensive, surrogate_error=scalar(1e-3))
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), GRID)
    found = fit_stars(near, batch, phase)
    assert np.isnan(found.labels[1]).all()
    assert found.flags[1] & int(QualityFlag.NO_GOOD_PIXELS)
    assert np.isfinite(np.delete(found.labels, 1, axis=0)).all()


def test_order_and_company_of_stars_do_not_matter(expensive, stars):
    batch, phase, _ = stars
    near = replace(expensive, surrogate_error=scalar(0.02))
    whole = fit_stars(near, batch, phase)
    # Twenty stars beside copies of another one: as many as before, for whom there is a program.
    rows = np.random.default_rng(0).permutation(N_STAR)
    rows[20:] = rows[20]
    some, of_some = jax.tree.map(
        lambda values: jax.device_put(np.asarray(values)[rows]), (batch, phase)
    )
    other = fit_stars(near, some, of_some)
    assert np.abs((other.labels - whole.labels[rows]) / whole.errors[rows]).max() < 0.02
    agreed = int(QualityFlag.FAST_PATH_DISAGREED)
    np.testing.assert_array_equal(other.flags & agreed, whole.flags[rows] & agreed)


def test_a_step_that_is_trusted_is_positive():
    with pytest.raises(UsageError, match="trusted_sigma"):
        LevenbergMarquardt(trusted_sigma=0.0)
