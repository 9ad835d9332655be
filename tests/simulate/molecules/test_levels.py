"""Levels of CaH and VO against measured term values."""

from dataclasses import replace

import numpy as np
import pytest

from jaxmdwarf.simulate.molecules.hamiltonian import solve_levels
from jaxmdwarf.simulate.molecules.levels import (
    _add_couplings,
    level_constants,
    solve_isotopologue,
)
from jaxmdwarf.simulate.molecules.species import SpinOrbitCoupling, load_species

# (state, v, J, e or f) -> measured term values in cm^-1 above the lowest level of the molecule:
# CaH from Ram et al. 2011 and Shayesteh et al. 2013, VO from Adam et al. 1995 and Hopkins et al.
# 2009.
CAH_LEVELS = {
    ("X2Sigma+", 0, 13.5, "f"): [879.604],
    ("X2Sigma+", 3, 17.5, "e"): [4852.953],
    ("A2Pi", 0, 1.5, "e"): [14406.897, 14479.177],
    ("A2Pi", 0, 1.5, "f"): [14405.197, 14479.111],
    ("A2Pi", 0, 13.5, "e"): [15195.209, 15337.769],
    ("A2Pi", 0, 13.5, "f"): [15197.628, 15323.445],
    ("A2Pi", 0, 25.5, "f"): [17164.041, 17342.096],
    ("A2Pi", 1, 17.5, "e"): [16980.583, 17156.940],
    ("B2Sigma+", 0, 13.5, "e"): [16546.935],
    ("B2Sigma+", 0, 13.5, "f"): [16678.671],
    ("B2Sigma+", 1, 3.5, "f"): [17087.672],
}
VO_LEVELS = {
    ("X4Sigma-", 0, 20.5, "e"): [209.102, 257.256],
    ("X4Sigma-", 0, 20.5, "f"): [234.602, 276.790],
    ("X4Sigma-", 0, 37.5, "f"): [772.397, 850.618],
    ("B4Pi", 0, 17.5, "e"): [12684.423, 12743.322, 12808.513, 12881.667],
    ("B4Pi", 0, 17.5, "f"): [12685.767, 12740.950, 12808.265, 12881.662],
    ("B4Pi", 0, 33.5, "f"): [13102.701, 13165.149, 13237.172, 13315.277],
    ("C4Sigma-", 0, 30.5, "e"): [17850.830, 17913.481],
    ("C4Sigma-", 0, 30.5, "f"): [17882.386, 17944.091],
}


def term_values(species, state, v, j, parity, zero):
    constants = level_constants(species, state, n_v=8)
    energies = solve_levels(load_species(species).state(state).basis, constants, np.array([j]))
    return energies["ef".index(parity)][0][v, 0] - zero


def lowest_level(species):
    ground = load_species(species).ground
    constants = level_constants(species, ground.name, n_v=8)
    j = np.arange(0.5, 6.0)
    return min(energy[0].min() for energy, _ in solve_levels(ground.basis, constants, j))


@pytest.mark.parametrize("key", CAH_LEVELS)
def test_cah_term_values_within_a_wavenumber(key):
    computed = term_values("CaH", *key, lowest_level("CaH"))
    np.testing.assert_allclose(computed, CAH_LEVELS[key], rtol=0, atol=1.7)


@pytest.mark.parametrize("key", VO_LEVELS)
def test_vo_term_values_within_a_wavenumber(key):
    computed = term_values("VO", *key, lowest_level("VO"))
    np.testing.assert_allclose(computed, VO_LEVELS[key], rtol=0, atol=0.8)


def test_coupled_levels_of_doublets_repel_as_in_second_order():
    """Of components at equal Omega alone: Sigma = 1/2 is the second column of a doublet."""
    solved = solve_isotopologue("CaH", 0)
    link = SpinOrbitCoupling("A2Pi", -0.5, "B2Sigma+", 0.5, 7.0)
    species = replace(load_species("CaH"), couplings=(link,))
    constants = {
        name: replace(one, shift=np.zeros_like(one.shift)) for name, one in solved.constants.items()
    }
    _add_couplings(species, solved.levels, constants)
    upper, lower = solved.levels["B2Sigma+"], solved.levels["A2Pi"]
    a_so = species.state("A2Pi").a_so
    overlap = lower.psi.T @ upper.psi
    gap = (lower.g - 0.5 * a_so)[:, None] - upper.g[None, :]
    pushed = (7.0 * overlap) ** 2 / gap
    far = np.abs(gap).min(axis=1) > 60
    shift = constants["A2Pi"].shift
    np.testing.assert_allclose(shift[far, 0], pushed.sum(axis=1)[far], rtol=0.05, atol=1e-3)
    np.testing.assert_array_equal(shift[:, 1], 0)
    other = constants["B2Sigma+"].shift
    np.testing.assert_array_equal(other[:, 0], 0)
    np.testing.assert_allclose(other[:, 1].sum(), -shift[:, 0].sum(), rtol=1e-9)
    assert shift[0, 0] < -1e-3  # nothing lies below it
