"""Directions of scatter are found under noise and gaps."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()


def test_directions_are_found_under_noise_and_gaps():
    rng = np.random.default_rng(0)
    true = np.zeros((2, 80))
    true[0, 10:30], true[1, 40:70] = 0.08, 0.04
    data = rng.standard_normal((600, 2)) @ true + 0.05 * rng.standard_normal((600, 80))
    weight = np.full(data.shape, 400.0)
    gaps = rng.random(data.shape) < 0.2
    data[gaps], weight[gaps] = 9.0, 0.0
    found = learn_directions(data, weight, 2)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(true, axis=1), rtol=0.1)
    for row, direction in zip(found, true, strict=True):
        cosine = row @ direction / np.linalg.norm(row) / np.linalg.norm(direction)
        assert abs(cosine) > 0.97
    with pytest.raises(UsageError, match="too few"):
        learn_directions(data[:4], weight[:4], 2)


def test_directions_of_even_noise_are_those_of_probabilistic_components():
    """Tipping & Bishop 1999, eq. 7: eigenvectors of length sqrt(eigenvalue - noise variance)."""
    rng = np.random.default_rng(3)
    true = 0.05 * rng.standard_normal((3, 40)) * np.array([[3.0], [2.0], [1.0]])
    data = (rng.standard_normal((200, 3)) @ true + 0.04 * rng.standard_normal((200, 40))) + 0.02
    found = learn_directions(data, np.full(data.shape, 0.04**-2), 3, n_iter=60, seed=4)
    strength, vectors = np.linalg.eigh(data.T @ data / 200)
    expected = np.sqrt(strength[::-1][:3] - 0.04**2)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), expected, rtol=2e-3)
    for row, vector in zip(found, vectors[:, ::-1].T, strict=False):
        assert abs(row @ vector) == pytest.approx(np.linalg.norm(row), rel=1e-3)
    # Ten iterations are nearly there already.
    usual = learn_directions(data, np.full(data.shape, 0.04**-2), 3)
    np.testing.assert_allclose(np.abs(usual), np.abs(found), atol=0.01)


def test_pixels_that_nobody_saw_get_no_direction_and_good_ones_count_by_their_weights():
    """With noise of one size in each pixel the stationary point is known: it is checked there."""
    rng = np.random.default_rng(5)
    true = 0.1 * np.sin(np.arange(60) / np.array([[4.0], [7.0]]))
    sigma = np.linspace(0.02, 0.2, 60)
    data = rng.standard_normal((400, 2)) @ true + sigma * rng.standard_normal((400, 60))
    weight = np.broadcast_to(sigma**-2, data.shape).copy()
    weight[:, 11], data[:, 11] = 0.0, 5.0
    found = learn_directions(data, weight, 2, n_iter=80).astype(np.float64)
    assert (found[:, 11] == 0).all()
    seen = np.arange(60) != 11
    directions, some = found[:, seen], data[:, seen]
    model = directions.T @ directions + np.diag(sigma[seen] ** 2)
    left = np.linalg.solve(model, some.T @ some / 400 - model)
    # Slope of the likelihood of a Gaussian by its directions: 0 at its maximum.
    slope = directions @ np.linalg.solve(model, left.T)
    size = directions @ np.linalg.inv(model)
    assert np.abs(slope).max() < 0.01 * np.abs(size).max()


def test_five_spectra_a_direction_are_enough_and_none_are_asked_of_none():
    data = np.random.default_rng(0).standard_normal((10, 30))
    assert learn_directions(data, np.ones((10, 30)), 2).shape == (2, 30)
    assert learn_directions(data[:1], np.ones((1, 30)), 0).shape == (0, 30)
    with pytest.raises(UsageError, match=r"9 spectra are too few.*at most 1,"):
        learn_directions(data[:9], np.ones((9, 30)), 2)
    first, again = (learn_directions(data, np.ones((10, 30)), 1, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first, again)
