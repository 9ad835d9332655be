"""Partition functions of molecules count rotation, vibration, spin and electronic states."""

import numpy as np
import pytest

from jaxmdwarf.simulate.constants import HC_OVER_K_CM
from jaxmdwarf.simulate.molecules.levels import level_constants
from jaxmdwarf.simulate.molecules.partition import partition_function
from jaxmdwarf.simulate.molecules.species import load_species


def test_partition_function_of_tio_is_that_of_rotors_and_oscillators():
    temperature = np.array([1500.0, 3000.0, 4500.0])
    kt = temperature / 1.438776877
    x = level_constants("TiO", "X3Delta")
    spin = sum(np.exp(-x.a[0] * 2 * (s + 1) / kt) for s in (-1, 0, 1))
    estimate = 2 * spin * kt / x.b[0] / (1 - np.exp(-1000.0 / kt))
    ratio = partition_function("TiO", temperature) / estimate
    assert np.all(ratio > 0.99)
    assert ratio[0] < 1.06
    # Excited electronic states and anharmonicity only add, more at higher temperature.
    assert np.all(np.diff(ratio) > 0)
    assert ratio[-1] < 1.35


@pytest.mark.parametrize("name", ["CaH", "VO", "MgH", "FeH", "CaOH"])
def test_partition_function_counts_rotation_vibration_and_spin(name):
    species = load_species(name)
    ground = species.ground
    t = 1000.0
    kt = t / HC_OVER_K_CM
    constants = level_constants(name, ground.name)
    rigid = ground.degeneracy * kt / constants.b[0]
    rigid /= 1 - np.exp(-(constants.t[1] - constants.t[0]) / kt)
    # Fine structure splits the ground state of FeH by about kT and lifts part of its weight.
    ratio = partition_function(name, t) / rigid
    low, high = (0.5, 2.5) if name == "FeH" else (0.9, 1.1)
    assert low < ratio < high
