"""L-BFGS of many functions at once."""

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


def minimise(start, scale, **options):
    n, k = start.shape
    metric = jnp.broadcast_to(1e-2 * jnp.eye(k, dtype=start.dtype), (n, k, k))
    options = {"active": jnp.ones(n, bool), "max_iter": 300, "tolerance": 1e-12, **options}
    return minimise_lbfgs(valley(scale), start, metric, **options)


@pytest.fixture(scope="module")
def starts():
    return np.random.default_rng(0).uniform(-2, 2, (40, 2))


def test_every_lane_reaches_its_minimum_in_as_few_evaluations_as_scipy(starts):
    with jax.enable_x64(True):
        found = minimise(jnp.asarray(starts), jnp.ones(40), longest_step=1.0)
    assert bool(found.converged.all())
    np.testing.assert_allclose(found.point, 1.0, atol=1e-4)

    def one(x):
        values, gradient = valley(1.0)(jnp.asarray(x)[None])
        return float(values[0]), np.asarray(gradient[0], np.float64)

    theirs = [minimize(one, start, jac=True, method="L-BFGS-B").nfev for start in starts[:8]]
    assert np.median(found.n_iter) < 2 * np.median(theirs)


def test_a_lane_does_not_care_who_its_neighbours_are(starts):
    scale = jnp.asarray(10 ** np.random.default_rng(1).uniform(-2, 2, 40), jnp.float32)
    start = jnp.asarray(starts, jnp.float32)
    together = minimise(start, scale, max_iter=25, tolerance=1e-6)
    order = np.random.default_rng(2).permutation(40)
    shuffled = minimise(start[order], scale[order], max_iter=25, tolerance=1e-6)
    np.testing.assert_allclose(shuffled.point, together.point[order], rtol=1e-3, atol=1e-3)
    alone = minimise(start[7:8], scale[7:8], max_iter=25, tolerance=1e-6)
    np.testing.assert_allclose(alone.point[0], together.point[7], rtol=1e-3, atol=1e-3)


def test_values_never_rise_and_idle_lanes_stay(starts):
    start = jnp.asarray(starts, jnp.float32)
    active = jnp.arange(40) % 4 > 0
    first = valley(jnp.ones(40))(start)[0]
    for max_iter in (2, 20):
        found = minimise(start, jnp.ones(40), max_iter=max_iter, active=active)
        assert bool((found.value <= first * (1 + 1e-5)).all())
        np.testing.assert_array_equal(found.point[~active], start[~active])
        assert int(found.n_iter.max()) <= max_iter + 1
        assert not bool(found.converged[~active].any())


def test_a_function_that_is_not_finite_stops_its_own_lane_only():
    def broken(points):
        values, gradient = valley(1.0)(points)
        bad = jnp.arange(points.shape[0]) == 2
        return jnp.where(bad, jnp.nan, values), jnp.where(bad[:, None], jnp.nan, gradient)

    start = jnp.full((4, 2), 0.5)
    found = minimise_lbfgs(
        broken,
        start,
        jnp.broadcast_to(1e-2 * jnp.eye(2), (4, 2, 2)),
        active=jnp.ones(4, bool),
        max_iter=100,
        tolerance=1e-7,
    )
    assert np.asarray(found.converged).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found.point[2], start[2])
