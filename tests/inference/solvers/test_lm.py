"""Levenberg-Marquardt where theory is not smooth."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.inference.objective import NormalEquations
from jaxmdwarf.inference.solvers.lm import minimise_lm


def test_a_star_at_a_fold_has_converged_when_steps_gain_nothing():
    """The slope of a leaky unit jumps at its fold: full steps go to and fro across it."""
    sigma, data = 0.01, np.float32([[0.2, -0.2]] * 3)
    steep = np.float32([1.0, 1.3, 1.6])

    def folded(at):
        x = at - 0.03
        slope = jnp.stack([jnp.where(x > 0, steep[:, None], 1.0), jnp.ones_like(x)], axis=-1)
        flux = jnp.stack([x[:, 0] * slope[:, 0, 0], -x[:, 0]], axis=-1)
        residual = (0.01 * data - flux) / sigma
        slopes = jnp.stack([slope[:, 0, 0], -jnp.ones(3)], axis=-1) / sigma
        cost = jnp.sum(residual**2, axis=-1)
        gradient = jnp.sum(slopes * residual, axis=-1)[:, None]
        curvature = jnp.sum(slopes**2, axis=-1)[:, None, None]
        return NormalEquations(cost, gradient, curvature, cost)

    @jax.jit
    def minimise(start, bound, grid):
        found = minimise_lm(folded, start, -bound, bound, active=jnp.ones(3, bool), max_iter=20)
        return found, jax.lax.map(lambda x: folded(jnp.full((3, 1), x)).cost, grid)

    grid = np.linspace(0.0, 0.06, 301, dtype=np.float32)
    start, bound = np.zeros((3, 1), np.float32), np.full(1, 0.5, np.float32)
    found, costs = jax.tree.map(np.asarray, minimise(start, bound, grid))
    assert found.converged.all()
    assert found.n_iter.max() < 10
    assert (found.equations.cost < costs.min(axis=0) + 0.01).all()
