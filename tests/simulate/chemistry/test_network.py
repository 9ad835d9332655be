"""Equilibrium constants and partition functions against published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.simulate.chemistry.network import (
    list_particles,
    log_equilibrium_constant,
    log_partition_function,
)
from jaxmdwarf.simulate.constants import K_BOLTZMANN
from jaxmdwarf.simulate.molecules.partition import partition_function
from jaxmdwarf.simulate.tables import read_rows

TEMPERATURES = np.array([2500.0, 3000.0, 3500.0, 4000.0])

# ln K_p (bar) = a/T + b ln T + c + d T + e T^2, atoms -> molecule: fits to the JANAF tables by
# Stock et al. 2018 (MNRAS 479, 865); the third entry is how closely we should agree, in dex.
JANAF = {
    "H2": (51909.6, -1.80117, 0.0872246, 0.000256139, -5.35403e-09, 0.02),
    "CO": (128998.0, -1.75498, -3.16258, 0.000413362, -2.358e-08, 0.03),
    "OH": (50958.6, -1.86657, 1.28296, 0.000327612, -1.27895e-08, 0.05),
    "H2O": (110336.0, -4.17836, 3.17447, 0.000940647, -4.04825e-08, 0.06),
    "SiO": (95880.7, -1.26716, -5.98429, 0.00026172, -1.67404e-08, 0.10),
    "TiO": (80246.9, -0.846602, -7.67141, 0.000151196, -2.20473e-08, 0.10),
    "TiO2": (153310.0, -1.71501, -18.3346, 0.000442822, -4.38785e-08, 0.10),
    "VO": (76173.0, -1.71137, -2.36139, 0.000325571, -2.10832e-08, 0.15),
    "VO2": (149343.0, -2.38363, -13.4037, 0.000609469, -4.47612e-08, 0.10),
    "CaOH": (100318.0, -2.24867, -8.95653, 0.000799317, -5.9143e-08, 0.10),
    "AlO": (61107.7, -1.7902, -1.35971, 0.000768615, -3.9315e-08, 0.10),
    "CaO": (45327.8, -2.48368, 4.66213, 0.0012484, -6.6735e-08, 0.15),
    "N2": (113210.0, -1.79949, -2.03355, 0.000431303, -2.48433e-08, 0.02),
    "CO2": (192841.0, -2.77259, -14.3745, 0.000955278, -5.32731e-08, 0.05),
    "H2S": (87168.5, -4.0315, 3.16992, 0.00108827, -5.46714e-08, 0.06),
    "SiS": (74465.6, -1.05114, -6.74615, 0.000180683, -1.29591e-08, 0.05),
    "H-": (8752.38, -2.50077, 13.5336, 3.39e-07, -2.30826e-11, 0.01),
    "H+": (-157813.0, 2.49924, -14.9094, 4.27e-07, -2.77318e-11, 0.01),
    "Na+": (-59669.1, 2.40644, -14.3021, 7.73e-05, -8.68951e-09, 0.02),
    "K+": (-50428.9, 2.31508, -13.7286, 0.000165367, -2.07326e-08, 0.02),
    "Ca+": (-71024.2, 2.24261, -11.8612, 0.000211708, -2.32751e-08, 0.02),
    "Al+": (-69384.9, 2.46517, -15.7629, 1.61e-05, -1.16897e-09, 0.02),
    "Mg+": (-88761.2, 2.41951, -13.005, 6.48e-05, -6.96143e-09, 0.02),
    "Ti+": (-79011.7, 3.09656, -17.787, -0.000155372, -3.93128e-09, 0.03),
    "V+": (-78361.3, 1.93698, -10.4833, 0.000308091, -2.17895e-08, 0.03),
    "Fe+": (-91228.9, 2.75926, -15.9394, 5.92e-05, -1.43108e-08, 0.08),
    "Ba+": (-60428.6, 2.44662, -13.4711, 0.000319014, -5.49114e-08, 0.03),
}
# The same form fitted to Barklem & Collet (2016, A&A 588, A96) by Woitke et al. (2018, A&A 614, 1).
BARKLEM_COLLET = {
    "TiO": (7.967471e04, -2.147232, 1.023613, 8.858727e-04, -7.822523e-08, 0.05),
    "VO": (7.614749e04, -2.694860, 4.112153, 9.774264e-04, -7.093089e-08, 0.16),
    "MgH": (1.474174e04, -1.665377, 2.412960, 5.175463e-04, -2.263743e-08, 0.10),
    "FeH": (1.738943e04, -1.455738, -0.9264411, 8.183990e-04, -6.072974e-08, 0.20),
    "CrH": (2.239154e04, -1.636321, 1.315004, 4.481169e-04, -3.108727e-08, 0.10),
    "ZrO": (9.167381e04, -1.959262, -0.9350160, 1.016636e-03, -9.434666e-08, 0.10),
    "YO": (8.541027e04, -2.259232, 1.838031, 9.037701e-04, -7.487166e-08, 0.05),
    "CN": (8.980708e04, -1.682454, -2.051591, 3.737830e-04, -1.613254e-08, 0.05),
    "CH": (4.030951e04, -1.681514, 0.2530961, 3.039235e-04, -5.348072e-09, 0.05),
}


def particles():
    return {p.name: p for p in list_particles()[0]}


@pytest.mark.parametrize(
    ("source", "species"),
    [("janaf", s) for s in JANAF] + [("bc", s) for s in BARKLEM_COLLET],
)
def test_equilibrium_constant_agrees_with_published_fit(source, species):
    a, b, c, d, e, tolerance_dex = (JANAF if source == "janaf" else BARKLEM_COLLET)[species]
    t = TEMPERATURES
    published = a / t + b * np.log(t) + c + d * t + e * t**2
    particle = particles()[species]
    n_reactants = sum(particle.elements.values()) - particle.charge
    ours = np.asarray(log_equilibrium_constant(species, t.astype(np.float32)), float)
    ours = ours + (1 - n_reactants) * np.log(K_BOLTZMANN * t / 1e6)
    assert np.max(np.abs(ours - published)) / np.log(10.0) < tolerance_dex


def test_cah_constant_is_that_of_barklem_collet_at_the_spectroscopic_dissociation_energy():
    # They adopt 2.28 eV, above the spectroscopic limit; the rest must agree.
    t = TEMPERATURES
    published = 2.646073e04 / t - 1.687083 * np.log(t) + 2.790737 + 6.214348e-04 * t
    published += -4.768213e-08 * t**2 - (2.28 - 1.70) * 11604.5 / t
    ours = np.asarray(log_equilibrium_constant("CaH", t.astype(np.float32)), float)
    ours = ours - np.log(K_BOLTZMANN * t / 1e6)
    assert np.max(np.abs(ours - published)) / np.log(10.0) < 0.08


@pytest.mark.parametrize(
    ("species", "levels"),
    [  # weights and energies (cm^-1) of the lowest levels, NIST Atomic Spectra Database
        ("O", [(5, 0), (3, 158.265), (1, 226.977), (5, 15867.862)]),
        ("C", [(1, 0), (3, 16.40), (5, 43.40), (5, 10192.63), (1, 21648.01)]),
        ("Na", [(2, 0), (2, 16956.17), (4, 16973.37)]),
        ("K", [(2, 0), (2, 12985.19), (4, 13042.90)]),
        ("Al", [(2, 0), (4, 112.061), (2, 25347.76)]),
        ("Ca+", [(2, 0), (4, 13650.19), (6, 13710.88), (2, 25191.51), (4, 25414.40)]),
        ("Ba+", [(2, 0), (4, 4873.85), (6, 5674.81), (2, 20261.56), (4, 21952.40)]),
        (
            "Fe",
            [
                *[(9, 0), (7, 415.93), (5, 704.01), (3, 888.13), (1, 978.07), (11, 6928.27)],
                *[(9, 7376.76), (7, 7728.06), (5, 7985.78), (3, 8154.71), (9, 11976.24)],
            ],
        ),
        ("Si", [(1, 0), (3, 77.115), (5, 223.157), (5, 6298.85), (1, 15394.37), (5, 33326.05)]),
    ],
)
def test_atomic_partition_function_is_the_sum_over_levels(species, levels):
    t = np.array([2500.0, 3000.0, 3500.0])
    weight, energy = np.array(levels, float).T
    direct = np.exp(-1.438777 * energy / t[:, None]) @ weight
    ours = np.exp(np.asarray(log_partition_function(species, t.astype(np.float32)), float))
    np.testing.assert_allclose(ours, direct, rtol=0.03)


@pytest.mark.parametrize("species", ["TiO", "VO", "CaH", "MgH"])
def test_molecular_partition_function_agrees_with_the_line_lists(species):
    t = np.array([2000.0, 3000.0, 4000.0])
    ours = np.exp(np.asarray(log_partition_function(species, t.astype(np.float32)), float))
    # Ours stops at the dissociation energy, which a weakly bound hydride feels above 3500 K.
    tolerance = [0.02, 0.07, 0.20]
    assert np.all(np.abs(ours / partition_function(species, t) - 1.0) < tolerance)


def test_dissociation_energies_agree_with_the_shared_table():
    rows = read_rows("jaxmdwarf.simulate.molecules", "dissociation.csv")
    shared = {row["species"]: row["d0_ev"] for row in rows}
    for row in read_rows("jaxmdwarf.simulate.chemistry", "molecules.csv"):
        # Where published values differ we take JANAF (SiO, CaOH); see the references.
        if row["species"] in shared:
            assert float(row["dissociation_ev"]) == pytest.approx(
                float(shared[row["species"]]), abs=0.11
            ), row["species"]


def test_first_derivative_of_partition_function_is_smooth():
    slope = jax.vmap(jax.grad(lambda t: log_partition_function("TiO", t)))
    t = jnp.linspace(1500.0, 6000.0, 200)
    # d ln Q / d ln T of a heteronuclear diatomic: 1 (rotation) + 1 (vibration) + electronic states
    value = np.asarray(slope(t) * t)
    assert np.all((value > 1.5) & (value < 4.0))
    assert np.max(np.abs(np.diff(value))) < 0.05
