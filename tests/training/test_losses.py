"""The paper's metric and the loss, against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.training.losses import mean_distance, mean_square_error, reconstruction_error

RNG = np.random.default_rng(5)


def test_eq_1_is_the_mean_absolute_fraction_of_the_model():
    model, recon = RNG.uniform(0.5, 1.5, (2, 3, 20)).astype(np.float32)
    by_hand = [
        sum(abs(model[k, i] - recon[k, i]) / model[k, i] for i in range(20)) / 20 for k in range(3)
    ]
    np.testing.assert_allclose(reconstruction_error(model, recon), by_hand, rtol=1e-5)


def test_eq_1_divides_by_the_model_and_not_by_the_emulator():
    assert float(reconstruction_error(jnp.array([2.0]), jnp.array([1.0]))) == 0.5
    assert float(reconstruction_error(jnp.array([1.0]), jnp.array([2.0]))) == 1.0


def test_masked_pixels_leave_eq_1_whatever_they_hold():
    model, recon = RNG.uniform(0.5, 1.5, (2, 30)).astype(np.float32)
    good = np.arange(30) % 3 > 0
    broken = np.where(good, recon, np.nan).astype(np.float32)
    np.testing.assert_allclose(
        reconstruction_error(model, broken, good),
        reconstruction_error(model[good], recon[good]),
        rtol=1e-6,
    )


def test_distance_of_coefficients_is_distance_in_pixels():
    basis = np.linalg.qr(RNG.normal(size=(50, 4)))[0].T
    target, output = RNG.normal(size=(2, 6, 4))
    in_pixels = np.mean(np.sum((target @ basis - output @ basis) ** 2, axis=1))
    loss = mean_square_error(jnp.asarray(target), jnp.asarray(output))
    np.testing.assert_allclose(loss, in_pixels, rtol=1e-5)


def test_a_row_of_weight_zero_does_not_count():
    target, output = (jnp.asarray(values) for values in RNG.normal(size=(2, 6, 4)))
    weight = jnp.array([1.0, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(
        mean_square_error(target, output, weight),
        mean_square_error(target[:5], output[:5]),
        rtol=1e-6,
    )


def test_weights_and_distances_are_of_rows():
    target, output = np.zeros((2, 2)), np.array([[3.0, 4.0], [0.0, 2.0]])
    assert float(mean_distance(jnp.asarray(target), jnp.asarray(output))) == 3.5
    weight = jnp.array([1.0, 4.0])
    found = mean_square_error(jnp.asarray(target), jnp.asarray(output), weight)
    assert float(found) == pytest.approx((25 + 4 * 4) / 5)
