"""Principal components and splits of a grid are what they are said to be."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.data import prepare_training_set, split_rows
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7199.0, 1.0)


def test_the_basis_is_orthonormal_and_the_strongest_there_is(grid_of_spectra, tiny):
    labels, flux = grid_of_spectra
    for rows in (slice(0, 100), slice(0, 600)):  # fewer, and more, spectra than pixels
        training_set = prepare_training_set(
            labels[rows], flux[rows], label_space=SPACE, grid=GRID, config=tiny
        )
        basis = np.asarray(training_set.basis)
        np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-5)
        deviation = flux[rows][training_set.train_rows] - np.asarray(training_set.mean)
        strengths = np.linalg.svd(deviation, compute_uv=False)
        left = np.sum((deviation - deviation @ basis.T @ basis) ** 2)
        np.testing.assert_allclose(left, np.sum(strengths[6:] ** 2), rtol=1e-3)


def test_what_is_held_out_has_no_part_in_mean_and_basis(grid_of_spectra, tiny):
    labels, flux = (values[:60] for values in grid_of_spectra)
    first = prepare_training_set(labels, flux, label_space=SPACE, grid=GRID, config=tiny)
    other = flux.copy()
    other[first.held_rows] += 0.3
    second = prepare_training_set(labels, other, label_space=SPACE, grid=GRID, config=tiny)
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.basis, second.basis)
    assert np.abs(second.held_coefficients - first.held_coefficients).max() > 0.1


def test_the_split_is_eight_to_two_disjoint_and_by_seed():
    train, held = split_rows(1152, 0.2, seed=4)
    assert (len(train), len(held)) == (922, 230)
    assert not set(train) & set(held)
    np.testing.assert_array_equal(held, split_rows(1152, 0.2, seed=4)[1])
    assert set(held) != set(split_rows(1152, 0.2, seed=5)[1])


def test_shapes_that_do_not_fit_are_refused(grid_of_spectra, tiny):
    labels, flux = (values[:30] for values in grid_of_spectra)
    for bad in ((labels[:20], flux), (labels[:, :3], flux), (labels, flux[:, 1:])):
        with pytest.raises((MismatchError, TypeError)):
            prepare_training_set(*bad, label_space=SPACE, grid=GRID, config=tiny)
    with pytest.raises(MismatchError, match="too few"):
        prepare_training_set(labels[:2], flux[:2], label_space=SPACE, grid=GRID, config=tiny)
