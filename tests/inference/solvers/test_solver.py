"""Solvers are objects: those of the package by name, and anybody's own."""

import inspect
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.linear import solve_positive
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers import native
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.by_name import SOLVERS, find_solver
from jaxmdwarf.inference.solvers.finish import finish_fit
from jaxmdwarf.inference.solvers.library import LibrarySolver
from jaxmdwarf.inference.solvers.native import BatchLBFGS, LevenbergMarquardt
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6319.0, 1.0)


@dataclass(frozen=True)
class ShortenedNewton(Solver):
    """Gauss-Newton steps, none longer than a tenth of the label space."""

    longest: float = 0.1

    def solve(self, objective, parameters, *, active, max_iter, damping):
        def step(_, point):
            found = objective.normal_equations(point)
            away = solve_positive(found.curvature, found.gradient[..., None])[..., 0]
            most = jnp.max(jnp.abs(away), axis=-1, keepdims=True)
            return jnp.clip(point + away * jnp.minimum(1, self.longest / most), -0.5, 0.5)

        return finish_fit(
            objective,
            jax.lax.fori_loop(0, max_iter, step, parameters),
            n_iter=max_iter,
            active=active,
            damping=damping,
            tol_sigma=self.tol_sigma,
        )


@pytest.fixture(scope="module")
def problem(make_model, observe_stars):
    model = make_model(GRID)
    rng = np.random.default_rng(3)
    scaled = rng.uniform(-0.25, 0.25, (20, 4)).astype(np.float32)
    batch = observe_stars(model, GRID, scaled, rng.uniform(-8, 8, 20), np.full(20, 80.0), rng)
    return FitProblem.from_batch(model, batch, fixed={"alpha_m": 0.1})


def test_a_solver_of_ones_own_fits(problem):
    reference = fit(problem)
    own = ShortenedNewton(max_iter=25)
    found = fit(problem, solver=own, schedule=FitScheduleConfig(first_pass_iter=25))
    assert found.converged.mean() > 0.9
    both = found.converged & reference.converged
    away = np.abs(found.labels - reference.labels) / reference.errors
    assert np.nanmax(away[both]) < 0.05
    np.testing.assert_allclose(found.errors[both], reference.errors[both], rtol=0.02)
    np.testing.assert_array_equal(found.labels[:, 3], reference.labels[:, 3])
    assert FitConfig(solver=own).solver is own


def test_a_solver_that_is_stopped_early_says_so(problem):
    schedule = FitScheduleConfig(first_pass_iter=25, restarts=0, secondary_distance=None)
    found = fit(problem, solver=ShortenedNewton(max_iter=1), schedule=schedule)
    assert (np.asarray(found.flags) & int(QualityFlag.NOT_CONVERGED)).mean() > 0.8


def test_names_stand_for_objects():
    kinds = {"lm": LevenbergMarquardt, "lbfgs": BatchLBFGS}
    for name in SOLVERS:
        solver = find_solver(name, max_iter=9)
        assert isinstance(solver, kinds.get(name, LibrarySolver))
        assert solver.max_iter == 9
        assert find_solver(solver) is solver
        # Equal ones are one to the compiler, and steps are an argument of the program.
        assert hash(solver.structure()) == hash(find_solver(name).structure())
        assert solver.structure() == find_solver(name).structure()
    assert FitConfig(solver="lbfgs").solver == BatchLBFGS()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: find_solver("newton"),
        lambda: find_solver(7),
        lambda: FitConfig(solver="newton"),
        lambda: LibrarySolver(method="scipy"),
        lambda: BatchLBFGS(tol_sigma=0.0),
        lambda: LevenbergMarquardt(max_iter=0),
    ],
)
def test_what_is_no_solver_is_refused(wrong):
    with pytest.raises((UsageError, TypeError), match=r"use one of|positive|type"):
        wrong()


def test_a_solver_that_solves_nothing_is_none():
    class Idle(Solver):
        pass

    for made in (Solver, Idle):
        with pytest.raises(TypeError, match="abstract"):
            made()


def test_batches_of_lbfgs_minimise_half_the_chi_square_per_pixel_to_a_share_of_a_sigma(monkeypatch):
    """Of a quadratic chi-square: the curvature is half its matrix, a step of a sigma gains 1."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 3, 3))
    curvature = jnp.asarray(root @ root.transpose(0, 2, 1) + np.eye(3), jnp.float32)
    n_good, seen = jnp.array([50.0, 200.0]), {}
    objective = SimpleNamespace(
        n_good=n_good,
        normal_equations=lambda points: SimpleNamespace(curvature=curvature),
        cost=lambda points: jnp.einsum("ni,nij,nj->n", points, curvature, points),
    )

    def minimise(value_and_gradient, free, metric, *, active, max_iter, tolerance):
        seen.update(metric=metric, tolerance=tolerance, max_iter=max_iter)
        seen["value"], seen["gradient"] = value_and_gradient(free)
        return SimpleNamespace(point=free + 1.0, n_iter=jnp.array([4, 9]))

    def finish(objective, parameters, *, n_iter, active, damping, tol_sigma):
        seen.update(n_iter=n_iter, parameters=parameters, damping=damping, tol_sigma=tol_sigma)
        return "finished"

    # Bounds that are far away: twice the parameter is free.
    monkeypatch.setattr(native, "free_of_bounds", lambda objective, points: 2 * points)
    monkeypatch.setattr(native, "back_to_bounds", lambda objective, free: 0.5 * free)
    monkeypatch.setattr(native, "minimise_lbfgs", minimise)
    monkeypatch.setattr(native, "finish_fit", finish)
    start = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    solve = inspect.unwrap(BatchLBFGS.solve)
    solver = BatchLBFGS(tol_sigma=0.03)
    assert (
        solve(solver, objective, start, active=jnp.ones(2, bool), max_iter=17, damping=jnp.ones(2))
        == "finished"
    )
    np.testing.assert_allclose(seen["tolerance"], 0.5 * 0.03**2 / np.array([50.0, 200.0]))
    chi2 = np.einsum("ni,nij,nj->n", start, curvature, start)
    np.testing.assert_allclose(seen["value"], chi2 / 2 / n_good, rtol=1e-5)
    slope = np.einsum("nij,nj->ni", curvature, start) * 0.5 / np.asarray(n_good)[:, None]
    np.testing.assert_allclose(seen["gradient"], slope, rtol=1e-4, atol=1e-6)
    # Newton's step in the free parameters, but for a thousandth: from the start to 0.
    step = np.einsum("nij,nj->ni", seen["metric"], seen["gradient"])
    np.testing.assert_allclose(step, 2 * start, rtol=0.02, atol=0.01)
    np.testing.assert_allclose(seen["parameters"], start + 0.5, rtol=1e-5)
    assert seen["n_iter"].tolist() == [6, 11]
    assert (seen["tol_sigma"], seen["max_iter"]) == (0.03, 17)
