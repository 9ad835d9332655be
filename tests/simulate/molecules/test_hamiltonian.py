"""Rotational levels and strengths against formulae of textbooks."""

import numpy as np
import pytest

from jaxmdwarf.simulate.molecules.hamiltonian import (
    UNPHYSICAL_CM,
    Basis,
    LevelConstants,
    dipole_amplitudes,
    solve_levels,
)


def constants(n_sigma, **values):
    names = ["t", "b", "d", "h", "a", "lambda_ss", "gamma", "o_ld", "p_ld", "q_ld"]
    base = dict.fromkeys(names, 0.0) | values
    arrays = {key: np.array([value], dtype=float) for key, value in base.items()}
    return LevelConstants(**arrays, shift=np.zeros((1, n_sigma)))


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        (Basis(3, 2), Basis(2, 2)),  # TiO gamma
        (Basis(1, 2), Basis(2, 2)),  # TiO gamma', epsilon
        (Basis(2, 2), Basis(2, 2)),  # TiO alpha
        (Basis(1, 0), Basis(0, 0)),  # TiO phi
        (Basis(1, 1), Basis(0, 1)),  # CaH A-X, MgH A-X
        (Basis(0, 1), Basis(0, 1)),  # CaH B-X
        (Basis(1, 3), Basis(0, 3, True)),  # VO B-X
        (Basis(0, 3, True), Basis(0, 3, True)),  # VO C-X
        (Basis(2, 3), Basis(2, 3)),  # FeH F-X
    ],
)
def test_rotational_strengths_of_an_upper_level_sum_to_its_weight(upper, lower):
    half = upper.two_s % 2 / 2
    j = np.arange(12) + half
    cu = constants(upper.two_s + 1, b=0.5, d=1e-6, a=30.0, lambda_ss=2.0, gamma=0.05, p_ld=0.1)
    cl = constants(lower.two_s + 1, b=0.55, d=1e-6, a=25.0, lambda_ss=1.0, gamma=0.02, q_ld=0.01)
    up, lo = solve_levels(upper, cu, j), solve_levels(lower, cl, j)
    middle = slice(1, len(j) - 1)
    for parity in (0, 1):
        energy, vector = up[parity]
        total = np.zeros(energy[0, middle].shape)
        for delta_j in (1, 0, -1):
            _, other = lo[parity if delta_j else 1 - parity]
            amplitude = dipole_amplitudes(upper, lower, j[middle], delta_j)
            rows = np.arange(1, len(j) - 1) - delta_j
            factor = np.einsum("jai,jab,jbk->jik", vector[0, middle], amplitude, other[0, rows])
            total += (factor**2).sum(axis=-1)
        exists = energy[0, middle] < UNPHYSICAL_CM / 2
        weight = np.broadcast_to((2 * j[middle] + 1)[:, None], total.shape)
        np.testing.assert_allclose(total[exists], weight[exists], rtol=1e-10)


def test_singlet_pi_sigma_factors_are_those_of_hoenl_and_london():
    j = np.arange(2.0, 9.0)
    upper, lower = Basis(1, 0), Basis(0, 0)
    e_up, f_up = upper.parity_vectors()
    r = (e_up[:, 0] @ dipole_amplitudes(upper, lower, j, 1)[:, :, 0].T) ** 2
    p = (e_up[:, 0] @ dipole_amplitudes(upper, lower, j, -1)[:, :, 0].T) ** 2
    q = (f_up[:, 0] @ dipole_amplitudes(upper, lower, j, 0)[:, :, 0].T) ** 2
    np.testing.assert_allclose(r, j + 1)
    np.testing.assert_allclose(p, j)
    np.testing.assert_allclose(q, 2 * j + 1)


def test_doublet_sigma_levels_follow_the_spin_rotation_formula():
    b, gamma = 4.2, 0.04
    j = np.arange(8) + 0.5
    e, f = solve_levels(Basis(0, 1), constants(2, b=b, gamma=gamma), j)
    n_e, n_f = j - 0.5, j + 0.5
    np.testing.assert_allclose(e[0][0, :, 0], b * n_e * (n_e + 1) + gamma / 2 * n_e, atol=1e-9)
    np.testing.assert_allclose(f[0][0, :, 0], b * n_f * (n_f + 1) - gamma / 2 * (n_f + 1))


@pytest.mark.parametrize("two_s", [1, 2, 3])
def test_without_spin_orbit_coupling_levels_depend_on_n_alone(two_s):
    lam = 2
    j = np.arange(6, 12) + two_s % 2 / 2
    energy, _ = solve_levels(Basis(lam, two_s), constants(two_s + 1, b=1.5, d=1e-5), j)[0]
    n = j[:, None] + np.arange(-two_s, two_s + 1, 2) / 2
    np.testing.assert_allclose(energy[0], 1.5 * n * (n + 1) - 1e-5 * (n * (n + 1)) ** 2)


def test_lambda_doubling_of_a_doublet_pi_has_brown_and_merers_sign():
    p = -0.6
    j = np.array([0.5, 1.5])
    e, f = solve_levels(Basis(1, 1), constants(2, b=0.5, a=1000.0, p_ld=p), j)
    np.testing.assert_allclose(f[0][0, :, 0] - e[0][0, :, 0], p * (j + 0.5), rtol=2e-3)


def test_sigma_minus_levels_have_the_other_reflection_symmetry():
    j = np.arange(2, 8) + 0.5
    spin = constants(4, b=0.5)
    n_plus = [solve_levels(Basis(0, 3), spin, j)[k][0][0] for k in (0, 1)]
    n_minus = [solve_levels(Basis(0, 3, True), spin, j)[k][0][0] for k in (0, 1)]
    np.testing.assert_allclose(n_plus[0], n_minus[1])
    np.testing.assert_allclose(n_plus[1], n_minus[0])
    # Sigma+, S = 3/2: the e levels are N = J - 1/2 and J + 3/2.
    n = j[:, None] + np.array([-0.5, 1.5])
    np.testing.assert_allclose(n_plus[0], 0.5 * n * (n + 1))


def test_sigma_sigma_lines_change_n_by_one():
    basis = Basis(0, 1)
    j = np.arange(1, 8) + 0.5
    # e has N = J - 1/2, f has N = J + 1/2: Q lines from e to f keep N + 1, R lines add one.
    for delta_j, parity, change in ((1, 0, 1), (-1, 0, -1), (1, 1, 1), (-1, 1, -1)):
        n_up = j + (-0.5 if parity == 0 else 0.5)
        n_low = j - delta_j + (-0.5 if parity == 0 else 0.5)
        assert np.all(n_up - n_low == change)
    e, f = basis.parity_vectors()
    q_fe = f[:, 0] @ dipole_amplitudes(basis, basis, j, 0) @ e[:, 0]
    r_ee = e[:, 0] @ dipole_amplitudes(basis, basis, j, 1) @ e[:, 0]
    # At large N the Q satellite fades against the main branch.
    assert np.all(np.diff(q_fe**2 / r_ee**2) < 0)
