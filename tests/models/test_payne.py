"""The emulator as a forward model: exact linear head, right gradients, shapes that fit."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7039.0, 1.0)
SCALED = np.random.default_rng(3).uniform(-0.5, 0.5, (6, 4)).astype(np.float32)


@pytest.fixture(params=[5, None], ids=["low-rank", "plain"])
def emulator(request):
    network = PayneNetwork(hidden=(24, 24), n_out=request.param)
    keys = jax.random.split(jax.random.key(1), 3)
    width = request.param or 24
    return PayneEmulator(
        params=init_payne(network, keys[0], 4),
        basis=0.1 * jax.random.normal(keys[1], (width, GRID.n_pix)),
        mean=1.0 + 0.1 * jax.random.normal(keys[2], (GRID.n_pix,)),
        model_error=jnp.full(GRID.n_pix, 0.004),
        network=network,
        label_space=SPACE,
        grid=GRID,
    )


def test_flux_is_the_mean_plus_coefficients_on_the_basis(emulator):
    head = emulator.low_rank()
    for row in jnp.asarray(SCALED):
        flux = head.mean + emulator.coefficients(row) @ head.basis
        np.testing.assert_allclose(emulator.predict_scaled(row), flux, rtol=1e-6)


def test_the_native_batch_equals_the_mapped_one_and_single_stars(emulator):
    batch = eqx.filter_jit(lambda model, scaled: model.predict_scaled_batch(scaled))(
        emulator, jnp.asarray(SCALED)
    )
    np.testing.assert_allclose(batch, jax.vmap(emulator.predict_scaled)(SCALED), atol=2e-6)
    np.testing.assert_allclose(batch[2], emulator.predict_scaled(jnp.asarray(SCALED[2])), atol=2e-6)
    assert batch.dtype == jnp.float32


def test_derivatives_agree_with_finite_differences_in_kelvin_and_dex(emulator):
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), emulator)
        labels = jnp.asarray([3300.0, 5.0, -0.4, 0.1], jnp.float64)
        slopes = jax.jacfwd(exact.predict)(labels)
        for k, step in enumerate((1e-2, 1e-5, 1e-5, 1e-5)):
            shift = jnp.zeros(4).at[k].set(step)
            numeric = (exact.predict(labels + shift) - exact.predict(labels - shift)) / (2 * step)
            np.testing.assert_allclose(slopes[:, k], numeric, rtol=1e-6, atol=1e-11)


def test_second_derivatives_are_continuous():
    # Gauss-Newton steps and error estimates assume it: no kinks where a unit switches on.
    network = PayneNetwork(hidden=(24,))
    emulator = PayneEmulator(
        init_payne(network, jax.random.key(0), 4),
        jnp.ones((24, GRID.n_pix)) / 24,
        jnp.ones(GRID.n_pix),
        jnp.zeros(GRID.n_pix),
        network,
        SPACE,
        GRID,
    )
    along = jnp.linspace(-0.5, 0.5, 401)

    def flux(position):
        return emulator.predict_scaled(jnp.array([position, 0.0, 0.0, 0.0]))[0]

    curvature = jax.vmap(jax.grad(jax.grad(flux)))(along)
    assert jnp.abs(jnp.diff(curvature)).max() < 0.05 * jnp.ptp(curvature)


@pytest.mark.parametrize("field", ["basis", "mean", "model_error"])
def test_arrays_that_do_not_fit_the_grid_are_refused(emulator, field):
    with pytest.raises((MismatchError, TypeError)):
        dataclasses.replace(emulator, **{field: getattr(emulator, field)[..., :-1]})


def test_theory_alone_says_nothing_of_the_observed_stars(emulator):
    assert emulator.priors() == ()
    assert emulator.noise_model() == (1.0, None)
    assert emulator.surrogate() is None
    assert not emulator.expensive
