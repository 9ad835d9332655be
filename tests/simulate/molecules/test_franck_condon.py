"""Vibration in a potential: levels of Morse, complete overlaps, constants that come back."""

import numpy as np
import pytest

from jaxmdwarf.simulate.molecules.franck_condon import (
    HBAR2_2MU,
    PotentialCurve,
    curve_from_constants,
    moment_matrix,
    radial_grid,
    solve_vibration,
)


def test_morse_curve_has_morses_levels_and_complete_overlaps():
    mu, de, beta, re = 12.0, 45_000.0, 1.8, 1.62
    curve = PotentialCurve(100.0, re, de, (beta,))
    grid = radial_grid(re, re, mu)
    levels = solve_vibration(curve, mu, grid, 12)
    we = 2 * beta * np.sqrt(de * HBAR2_2MU / mu)
    wexe = beta**2 * HBAR2_2MU / mu
    x = np.arange(12) + 0.5
    np.testing.assert_allclose(levels.g, 100.0 + we * x - wexe * x**2, atol=1e-3)
    be = HBAR2_2MU / mu / re**2
    assert abs(levels.d[0] / (4 * be**3 / we**2) - 1) < 0.03
    shifted = PotentialCurve(0.0, re + 0.03, de, (beta,))
    other = solve_vibration(shifted, mu, grid, 12)
    q = moment_matrix(other, levels, np.ones_like(grid)) ** 2
    assert abs(q[0].sum() - 1) < 1e-6
    assert 0.05 < q[0, 1] < 0.6


@pytest.mark.parametrize(
    ("we", "wexe", "be", "alphae", "mu"),
    [(1009.2, 4.56, 0.5354, 0.0030, 11.994), (1298.4, 19.2, 4.277, 0.097, 0.983)],
)
def test_curve_from_constants_returns_its_constants(we, wexe, be, alphae, mu):
    curve = curve_from_constants(we, wexe, be, alphae, mu)
    levels = solve_vibration(curve, mu, radial_grid(curve.re, curve.re, mu), 4)
    steps = np.diff(levels.g)
    assert abs(steps[0] / (we - 2 * wexe) - 1) < 2e-3
    assert abs((steps[0] - steps[1]) / (2 * wexe) - 1) < 0.1
    assert abs((levels.b[0] - levels.b[1]) / alphae - 1) < 0.1


def test_wavefunctions_begin_positive_and_are_orthonormal():
    """Levels of isotopologues have one sign, by the lobe at the inner wall."""
    mu = 12.0
    curve = PotentialCurve(100.0, 1.62, 45_000.0, (1.8,))
    grid = radial_grid(1.62, 1.62, mu)
    psi = solve_vibration(curve, mu, grid, 12).psi
    np.testing.assert_allclose(psi.T @ psi, np.eye(12), atol=1e-9)
    large = np.abs(psi) > 0.3 * np.abs(psi).max(axis=0)
    for level in range(12):
        inner = psi[np.flatnonzero(large[:, level])[0], level]
        assert inner > 0
        # As many nodes as quanta.
        known = psi[np.abs(psi[:, level]) > 1e-6, level]
        assert np.count_nonzero(np.diff(np.sign(known))) == level
