"""Levenberg-Marquardt where theory is not smooth."""

import jax.numpy as jnp
import numpy as np

from jaxmdwarf.inference.objective import NormalEquations
from jaxmdwarf.inference.solvers.lm import minimise_lm


def test_a_star_at_a_fold_has_converged_when_steps_gain_nothing():
    """The slope of a leaky unit jumps at its fold: full steps go to and fro across it."""
    sigma, data = 0.01, jnp.array([[0.2, -0.2]] * 3)
    steep = jnp.array([1.0, 1.3, 1.6])

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

    bound = 0.5 * jnp.ones(1)
    found = minimise_lm(
        folded, jnp.zeros((3, 1)), -bound, bound, active=jnp.ones(3, bool), max_iter=20
    )
    assert bool(found.converged.all())
    assert int(found.n_iter.max()) < 10
    grid = np.linspace(0.0, 0.06, 6001)
    costs = np.stack([folded(jnp.full((3, 1), x)).cost for x in grid[::20]])
    assert (np.asarray(found.equations.cost) < costs.min(axis=0) + 0.01).all()
