"""Principal components and splits of a grid are what they are said to be."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator import data as module
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig
from jaxmdwarf.training.emulator.data import prepare_training_set, project_vectors, split_rows
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


def draw_vectors(n_row, n_pix, rank=3, seed=0):
    rng = np.random.default_rng(seed)
    sizes = 5.0 * 0.3 ** np.arange(rank)
    return 2.0 + rng.standard_normal((n_row, rank)) * sizes @ rng.standard_normal((rank, n_pix))


@pytest.mark.parametrize("n_pix", [20, 60])
def test_coefficients_are_in_units_of_the_distance_from_the_mean(n_pix):
    vectors = draw_vectors(40, n_pix)
    inputs = np.random.default_rng(1).standard_normal((40, 2))
    config = EmulatorConfig(network=NetworkConfig(rank=5), validation_fraction=0.25, seed=3)
    found = project_vectors(inputs, vectors, config)
    train, held = found.train_rows, found.held_rows
    assert (len(train), len(held)) == (30, 10)
    np.testing.assert_allclose(found.scaled, inputs[train], rtol=1e-6)
    np.testing.assert_allclose(found.held_scaled, inputs[held], rtol=1e-6)
    away = vectors[train] - vectors[train].mean(axis=0)
    unit = np.sqrt(np.mean(np.sum(away**2, axis=1)))
    assert float(found.unit) == pytest.approx(unit, rel=1e-5)
    for rows, coefficients in ((train, found.coefficients), (held, found.held_coefficients)):
        again = found.mean + unit * np.asarray(coefficients) @ np.asarray(found.basis)
        np.testing.assert_allclose(again, vectors[rows], atol=2e-4)
    # As many as there are, not as many as are asked for; the strongest first.
    assert found.basis.shape == (3, n_pix)
    spread = np.linalg.svd(away, compute_uv=False)[:3] / np.sqrt(30) / unit
    np.testing.assert_allclose(found.spread, spread, rtol=1e-4)


def test_vectors_that_are_all_alike_have_a_unit_of_one():
    config = EmulatorConfig(network=NetworkConfig(rank=2))
    found = project_vectors(np.zeros((10, 1)), np.full((10, 5), 3.0), config)
    assert float(found.unit) == 1.0
    assert (np.asarray(found.coefficients) == 0).all()
    np.testing.assert_array_equal(found.mean, 3.0)


def test_components_are_of_some_of_very_many_rows_and_of_all_where_they_must_be_exact(monkeypatch):
    seen = []

    def find(deviation, rank):
        seen.append((len(deviation), rank))
        return np.eye(2, 6)

    monkeypatch.setattr(module, "_COMPONENT_ROWS", 30)
    monkeypatch.setattr(module, "_principal_components", find)
    vectors = draw_vectors(100, 6)
    for rank in (4, None):
        config = EmulatorConfig(network=NetworkConfig(rank=rank), validation_fraction=0.2)
        project_vectors(np.zeros((100, 1)), vectors, config)
    config = EmulatorConfig(network=NetworkConfig(rank=4), validation_fraction=0.7)
    project_vectors(np.zeros((100, 1)), vectors, config)
    # Every third of eighty, all of them, and all of thirty.
    assert seen == [(27, 4), (80, 80), (30, 4)]


def test_the_strongest_are_those_that_are_no_rounding():
    strength = np.array([1e-3, 5.0, 1e-15, 2.0, -1e-16])
    assert module._strongest(strength, 2).tolist() == [1, 3]
    assert module._strongest(strength, 5).tolist() == [1, 3, 0]
    assert len(module._strongest(np.zeros(3), 5)) == 1


def test_at_least_one_row_is_held_out_and_two_are_learned_from():
    assert [len(rows) for rows in split_rows(3, 0.01, seed=0)] == [2, 1]
    assert [len(rows) for rows in split_rows(10, 0.25, seed=0)] == [8, 2]
    with pytest.raises(MismatchError, match="2 spectra"):
        split_rows(2, 0.01, seed=0)
    train, held = split_rows(50, 0.5, seed=1)
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    assert not set(train) & set(held)
