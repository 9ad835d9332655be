"""L-BFGS of many functions at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxmdwarf.inference.solvers.lbfgs import minimise_lbfgs


def valley(scale):
    """A family of bent valleys; the minimum of each is 0 at (1, 1)."""

    def value_and_gradient(points):
        def total(points):
            x, y = points[:, 0], points[:, 1]
            values = scale * (100 * (y - x * x) ** 2 + (1 - x) ** 2)
            return jnp.sum(values), values

        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(points)
        return values, gradient

    return value_and_gradient


@partial(jax.jit, static_argnames="longest_step")
def compiled(start, scale, active, max_iter, tolerance, **options):
    n, k = start.shape
    metric = jnp.broadcast_to(1e-2 * jnp.eye(k, dtype=start.dtype), (n, k, k))
    how = {"max_iter": max_iter, "tolerance": tolerance, **options}
    return minimise_lbfgs(valley(scale), start, metric, active=active, **how)


def minimise(start, scale, *, active=None, max_iter=300, tolerance=1e-12, **options):
    """One program for all that have the same shape."""
    active = np.ones(len(start), bool) if active is None else active
    found = compiled(start, scale, active, max_iter, tolerance, **options)
    return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def starts():
    return np.random.default_rng(0).uniform(-2, 2, (40, 2))


def test_every_lane_reaches_its_minimum_in_as_few_evaluations_as_scipy(starts):
    with jax.enable_x64(True):
        found = minimise(starts, np.ones(40), longest_step=1.0)
    assert found.converged.all()
    np.testing.assert_allclose(found.point, 1.0, atol=1e-4)
    evaluate = jax.jit(valley(1.0))

    def one(x):
        values, gradient = evaluate(np.float32(x)[None])
        return float(values[0]), np.asarray(gradient[0], np.float64)

    theirs = [minimize(one, start, jac=True, method="L-BFGS-B").nfev for start in starts[:8]]
    assert np.median(found.n_iter) < 2 * np.median(theirs)


def test_a_lane_does_not_care_who_its_neighbours_are(starts):
    scale = (10 ** np.random.default_rng(1).uniform(-2, 2, 40)).astype(np.float32)
    start = starts.astype(np.float32)
    together = minimise(start, scale, max_iter=25, tolerance=1e-6)
    order = np.random.default_rng(2).permutation(40)
    shuffled = minimise(start[order], scale[order], max_iter=25, tolerance=1e-6)
    np.testing.assert_allclose(shuffled.point, together.point[order], rtol=1e-3, atol=1e-3)
    alone = minimise(start[7:8], scale[7:8], max_iter=25, tolerance=1e-6)
    np.testing.assert_allclose(alone.point[0], together.point[7], rtol=1e-3, atol=1e-3)


def test_values_never_rise_and_idle_lanes_stay(starts):
    start, ones = starts.astype(np.float32), np.ones(40, np.float32)
    active = np.arange(40) % 4 > 0
    first = np.asarray(jax.jit(valley(1.0))(start)[0])
    for max_iter in (2, 20):
        found = minimise(start, ones, active=active, max_iter=max_iter)
        assert (found.value <= first * (1 + 1e-5)).all()
        np.testing.assert_array_equal(found.point[~active], start[~active])
        assert found.n_iter.max() <= max_iter + 1
        assert not found.converged[~active].any()


def test_a_function_that_is_not_finite_stops_its_own_lane_only():
    def broken(points):
        values, gradient = valley(1.0)(points)
        bad = jnp.arange(points.shape[0]) == 2
        return jnp.where(bad, jnp.nan, values), jnp.where(bad[:, None], jnp.nan, gradient)

    start = np.full((4, 2), 0.5, np.float32)
    metric = np.tile(np.float32(1e-2 * np.eye(2)), (4, 1, 1))
    minimise = jax.jit(partial(minimise_lbfgs, broken, max_iter=100, tolerance=1e-7))
    found = minimise(start, metric, active=np.ones(4, bool))
    assert np.asarray(found.converged).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found.point[2], start[2])
