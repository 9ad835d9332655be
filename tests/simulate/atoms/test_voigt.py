"""Voigt profiles against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import voigt_profile as scipy_voigt
from scipy.special import wofz

from jaxmdwarf.simulate.atoms.voigt import voigt_hjerting, voigt_profile


class TestVoigt:
    def test_against_the_faddeeva_function_in_float32(self):
        v = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 400)]).astype(np.float32)
        a = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, 60)]).astype(np.float32)
        v, a = np.meshgrid(v, a)
        exact = wofz(v.astype(float) + 1j * a.astype(float)).real
        got = np.asarray(voigt_hjerting(jnp.asarray(v), jnp.asarray(a)), dtype=float)
        counts = exact > 1e-30
        np.testing.assert_allclose(got[counts], exact[counts], rtol=2e-5)
        assert (got >= 0).all()

    def test_profile_against_scipy(self):
        x = np.linspace(-30, 30, 601)
        for sigma, hwhm in [(1.0, 0.01), (0.3, 2.0), (2.0, 2.0)]:
            got = voigt_profile(
                jnp.asarray(x, jnp.float32),
                jnp.full(x.shape, np.sqrt(2) * sigma, jnp.float32),
                jnp.full(x.shape, hwhm, jnp.float32),
            )
            np.testing.assert_allclose(got, scipy_voigt(x, sigma, hwhm), rtol=1e-4)

    def test_gradients_are_finite_and_right(self):
        # dH/dv = -2 Re(z w), dH/da = 2 Im(z w) - 2/sqrt(pi)
        v = np.array([0.0, 0.3, 1.0, 3.0, 5.4, 5.6, 50.0, 1e4])
        slopes = jax.jit(jax.vmap(jax.grad(voigt_hjerting, argnums=(0, 1))))
        for a in (1e-4, 0.1, 1.0, 10.0):
            arguments = jnp.asarray(v, jnp.float32), jnp.full(v.shape, a, jnp.float32)
            got_v, got_a = slopes(*arguments)
            z = v + 1j * a
            zw = z * wofz(z)
            np.testing.assert_allclose(got_v, -2 * zw.real, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(
                got_a, 2 * zw.imag - 2 / np.sqrt(np.pi), rtol=1e-3, atol=1e-6
            )

    def test_gradient_at_zero_damping_is_finite(self):
        slopes = jax.jit(jax.grad(voigt_hjerting, argnums=(0, 1)))
        gradient = np.asarray(slopes(jnp.float32(0.7), jnp.float32(0.0)))
        assert np.isfinite(gradient).all()
