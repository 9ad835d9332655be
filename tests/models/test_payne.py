"""The emulator as a forward model: exact linear head, right gradients, shapes that fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import NoiseModel, predict_compiled
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7039.0, 1.0)
predict = jax.jit(lambda emulator, scaled: emulator.predict_scaled(scaled))
SCALED = np.random.default_rng(3).uniform(-0.5, 0.5, (6, 4)).astype(np.float32)


@pytest.fixture(scope="module", params=[5, None], ids=["low-rank", "plain"])
def emulator(request):
    network = PayneNetwork(hidden=(24, 24), n_out=request.param)
    rng, width = np.random.default_rng(1), request.param or 24
    basis, mean = 0.1 * rng.normal(size=(width, GRID.n_pix)), rng.normal(1.0, 0.1, GRID.n_pix)
    error = np.full(GRID.n_pix, 0.004)
    arrays = dict(zip(("basis", "mean", "model_error"), (basis, mean, error), strict=True))
    return PayneEmulator(
        params=init_payne(network, jax.random.key(1), 4),
        **jax.device_put(arrays),
        network=network,
        label_space=SPACE,
        grid=GRID,
    )


def test_flux_is_the_mean_plus_coefficients_on_the_basis(emulator):
    @jax.jit
    def by_head(emulator, row):
        head = emulator.low_rank()
        return head.mean + emulator.coefficients(row) @ head.basis

    for row in SCALED:
        np.testing.assert_allclose(predict(emulator, row), by_head(emulator, row), rtol=1e-6)


def test_the_native_batch_equals_the_mapped_one_and_single_stars(emulator):
    batch = np.asarray(predict_compiled(emulator, SCALED))
    mapped = jax.jit(lambda emulator, scaled: jax.vmap(emulator.predict_scaled)(scaled))
    np.testing.assert_allclose(batch, mapped(emulator, SCALED), atol=2e-6)
    np.testing.assert_allclose(batch[2], predict(emulator, SCALED[2]), atol=2e-6)
    assert batch.dtype == np.float32


def test_derivatives_agree_with_finite_differences_in_kelvin_and_dex(emulator):
    labels, steps = np.array([3300.0, 5.0, -0.4, 0.1]), np.diag([1e-2, 1e-5, 1e-5, 1e-5])

    @jax.jit
    def differentiate(emulator, labels, moved):
        return jax.jacfwd(emulator.predict)(labels), jax.vmap(emulator.predict)(moved)

    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, float)), emulator)
        moved = labels + np.stack([steps, -steps], axis=1).reshape(8, 4)
        slopes, flux = map(np.asarray, differentiate(exact, labels, moved))
    numeric = (flux[::2] - flux[1::2]) / (2 * np.diag(steps)[:, None])
    np.testing.assert_allclose(slopes.T, numeric, rtol=1e-6, atol=1e-11)


def test_second_derivatives_are_continuous():
    # Gauss-Newton steps and error estimates assume it: no kinks where a unit switches on.
    network = PayneNetwork(hidden=(24,))
    emulator = PayneEmulator(
        init_payne(network, jax.random.key(0), 4),
        *jax.device_put((np.full((24, 40), 1 / 24), np.ones(40), np.zeros(40))),
        network,
        SPACE,
        GRID,
    )
    along = np.linspace(-0.5, 0.5, 401, dtype=np.float32)

    def flux(position):
        return emulator.predict_scaled(jnp.array([position, 0.0, 0.0, 0.0]))[0]

    curvature = np.asarray(jax.jit(jax.vmap(jax.grad(jax.grad(flux))))(along))
    assert np.abs(np.diff(curvature)).max() < 0.05 * np.ptp(curvature)


@pytest.mark.parametrize("field", ["basis", "mean", "model_error"])
def test_arrays_that_do_not_fit_the_grid_are_refused(emulator, field):
    with pytest.raises((MismatchError, TypeError)):
        dataclasses.replace(emulator, **{field: getattr(emulator, field)[..., :-1]})


def test_theory_alone_says_nothing_of_the_observed_stars(emulator):
    assert emulator.priors() == ()
    assert emulator.noise_model() == NoiseModel()
    assert emulator.surrogate() is None
    assert not emulator.expensive
