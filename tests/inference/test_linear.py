"""Small symmetric systems, solved for many stars at once."""

import jax
import numpy as np
import pytest
from scipy.optimize import lsq_linear

from jaxmdwarf.inference.linear import invert_positive, solve_in_box, solve_positive

# As in fits, one program; operation by operation, dozens would be compiled.
solve_positive, invert_positive, solve_in_box = map(
    jax.jit, (solve_positive, invert_positive, solve_in_box)
)


def random_matrices(n, k, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, k, k + 3))
    scale = 10.0 ** rng.uniform(-spread, spread, (n, k))
    return (root @ np.swapaxes(root, 1, 2)) * scale[:, :, None] * scale[:, None, :]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_solution_and_inverse_agree_with_lapack_over_unequal_scales(size):
    matrix = random_matrices(200, size, spread=3.0)
    right = np.random.default_rng(1).normal(size=(200, size, 2))
    solved = solve_positive(matrix.astype(np.float32), right.astype(np.float32))
    expected = np.linalg.solve(matrix, right)
    scale = np.sqrt(np.einsum("nii->ni", matrix))[:, :, None]
    assert (
        np.abs((np.asarray(solved) - expected) * scale).max()
        < 2e-2 * np.abs(expected * scale).max()
    )
    identity = np.asarray(invert_positive(matrix.astype(np.float32)), np.float64) @ matrix
    typical = np.median(np.abs(np.einsum("nii->ni", identity) - 1))
    assert typical < 1e-4


def test_an_indefinite_matrix_gives_nan_and_leaves_the_others_alone():
    matrix = random_matrices(3, 4).astype(np.float32)
    matrix[1, 2, 2] = -1.0
    inverse = np.asarray(invert_positive(matrix))
    assert np.isnan(inverse[1]).all()
    np.testing.assert_allclose(inverse[[0, 2]], np.linalg.inv(matrix[[0, 2]]), rtol=2e-2, atol=1e-3)


def test_singular_to_working_precision_counts_as_indefinite():
    row = np.array([1.0, 2.0, 3.0])
    matrix = np.outer(row, row)[None] + 1e-9 * np.eye(3)
    assert np.isnan(np.asarray(invert_positive(matrix.astype(np.float32)))).any()


def test_steps_in_a_box_agree_with_bounded_least_squares():
    rng = np.random.default_rng(4)
    matrix = random_matrices(150, 3, seed=5, spread=0.0)
    gradient = rng.normal(size=(150, 3)) * 3
    point = rng.uniform(-0.5, 0.5, (150, 3))
    lower, upper = -0.5 * np.ones(3), 0.5 * np.ones(3)
    step = np.asarray(
        solve_in_box(*(a.astype(np.float32) for a in (matrix, gradient, point, lower, upper)))
    )
    assert ((point + step >= -0.500001) & (point + step <= 0.500001)).all()

    def value(steps):
        quadratic = 0.5 * np.einsum("ni,nij,nj->n", steps, matrix, steps)
        return quadratic - np.einsum("ni,ni->n", gradient, steps)

    best = np.empty_like(step)
    for i in range(150):
        root = np.linalg.cholesky(matrix[i]).T
        target = np.linalg.solve(root.T, gradient[i])
        best[i] = lsq_linear(root, target, (lower - point[i], upper - point[i])).x
    excess = (value(step) - value(best)) / np.maximum(np.abs(value(best)), 1e-9)
    # Coordinates that meet a bound stay there, so now and then a little is left for the next step.
    assert np.median(excess) < 2e-3
    assert np.mean(excess < 0.1) > 0.75
    # A step that gains nothing is rejected and damped: it must stay the exception.
    assert np.mean(value(step) <= 1e-6) > 0.93
