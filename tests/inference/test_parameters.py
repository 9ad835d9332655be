"""What the columns of parameters are, and bounds made smooth."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.inference.parameters import (
    ParameterLayout,
    squash_to_bounds,
    unsquash_from_bounds,
)
from jaxmdwarf.labels import LabelSpace

SPACE = LabelSpace(
    ("teff", "logg", "mh"), ("K", "dex", "dex"), (3000.0, 4.0, -1.5), (4200.0, 5.5, 0.5)
)


def test_columns_are_labels_then_velocity_then_polynomial():
    full = ParameterLayout(3, True, 2, 60.0, fixed=(1,))
    assert (full.n_reported, full.n_par, full.n_free) == (4, 6, 5)
    assert full.held.tolist() == [False, True, False, False, False, False]
    assert full.lower.tolist() == [-0.5] * 4 + [-np.inf] * 2
    assert full.physical_scale(SPACE).tolist() == [1200.0, 1.5, 2.0, 120.0]
    parameters = jnp.array([[0.1, 0.2, 0.3, 0.25, 7.0, 8.0], [0.0, 0.0, 0.0, -0.5, 9.0, 9.0]])
    np.testing.assert_allclose(full.velocity_kms(parameters), [30.0, -60.0])
    still = ParameterLayout(3, False, 0, 60.0)
    assert (still.n_reported, still.n_par, still.n_free) == (3, 3, 3)
    assert not still.held.any()
    assert still.physical_scale(SPACE).tolist() == [1200.0, 1.5, 2.0]
    np.testing.assert_array_equal(still.velocity_kms(parameters[:, :3]), [0.0, 0.0])


def test_the_line_is_squashed_into_the_bounds_and_back():
    z = np.array([-40.0, -1.0, -0.25, 0.0, 0.1, 0.25, 0.5, 3.0], np.float32)
    s = np.asarray(squash_to_bounds(jnp.asarray(z)))
    # s^-4 = z^-4 + 2^4: the two bounds enter as four powers.
    inside = z != 0
    np.testing.assert_allclose(s[inside] ** -4.0, z[inside] ** -4.0 + 16, rtol=1e-5)
    assert (np.sign(s) == np.sign(z)).all()
    assert np.abs(s).max() <= 0.5
    np.testing.assert_allclose(s[5] / 0.25, 1 - 0.015, atol=1e-3)
    near = np.abs(z) < 0.6
    back = np.asarray(unsquash_from_bounds(jnp.asarray(s[near])))
    np.testing.assert_allclose(back, z[near], rtol=2e-5, atol=1e-7)
    # Bounds themselves come from far out, but not from infinity.
    ends = np.asarray(unsquash_from_bounds(jnp.array([-0.5, 0.5, 0.499])))
    assert np.isfinite(ends).all()
    np.testing.assert_allclose(ends, [-ends[2], ends[2], ends[2]])
    np.testing.assert_allclose(squash_to_bounds(jnp.asarray(ends[2])), 0.499, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(squash_to_bounds)(0.0), 1.0)
