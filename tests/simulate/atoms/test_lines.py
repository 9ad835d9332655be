"""Atomic lines and partition functions against known physics."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.atoms.lines import (
    AtomicLines,
    load_atomic_lines,
    load_atomic_species,
    partition_function,
)
from jaxmdwarf.wavelengths import vacuum_to_air

# Air wavelengths of well-known lines (NIST ASD), Angstrom.
KNOWN_AIR = {
    "Na I": [5889.951, 5895.924, 8183.255, 8194.82],
    "K I": [7664.90, 7698.96, 6911.08, 6938.76],
    "Rb I": [7800.26, 7947.60],
    "Cs I": [8521.13, 8943.47],
    "Li I": [6707.76],
    "Ca I": [6102.72, 6122.22, 6162.17, 6439.08, 6462.57, 6493.78, 6572.78, 6717.69, 7148.15],
    "Ca II": [8498.02, 8542.09, 8662.14],
    "Ti I": [8377.86, 8382.54, 8412.36, 8426.50, 8434.96, 8435.65, 8675.37, 8682.98],
    "Fe I": [8327.06, 8387.77, 8468.41, 8514.07, 8661.90, 8688.63, 8824.22, 6677.99],
    "V I": [6090.21, 6243.10],
    "Cr I": [7355.9, 7400.2, 7462.3],
    "Mn I": [6013.5, 6016.6, 6021.8],
    "Ni I": [7714.3, 7788.9],
    "Mg I": [8806.76, 8736.02],
    "Ba II": [5853.67, 6141.71, 6496.90],
}


def find(lines: AtomicLines, species: str, air_aa: float) -> int:
    """Index of the strongest line of a species within 0.1 A of an air wavelength."""
    air = vacuum_to_air(lines.wave_aa)
    near = (lines.species == species) & (np.abs(air - air_aa) < 0.1)
    assert near.any(), f"{species} {air_aa} is missing"
    return int(np.where(near, lines.log_gf, -99.0).argmax())


class TestTable:
    def test_known_lines_are_there_at_their_air_wavelengths(self):
        lines = load_atomic_lines()
        for species, waves in KNOWN_AIR.items():
            for wave in waves:
                find(lines, species, wave)

    def test_size_and_sorting(self):
        lines = load_atomic_lines()
        assert 250 <= lines.wave_aa.size <= 1000
        assert (np.diff(lines.wave_aa) >= 0).all()
        assert all("Heiter" in r for r in lines.reference)

    def test_arrays_cannot_be_overwritten(self):
        with pytest.raises(ValueError, match="read-only"):
            load_atomic_lines().log_gf[0] = 0.0

    @pytest.mark.parametrize(
        ("species", "strong", "weak", "ratio"),
        [
            ("Na I", 5889.951, 5895.924, 2.0),
            ("K I", 7664.90, 7698.96, 2.0),
            ("Na I", 8194.824, 8183.255, 9 / 5),
            ("Rb I", 7800.26, 7947.60, 2.0),
            ("Cs I", 8521.13, 8943.47, 2.0),
            ("Ca II", 8542.09, 8498.02, 9.0),
            ("Ca II", 8662.14, 8498.02, 5.0),
        ],
    )
    def test_multiplet_ratios_follow_ls_coupling(self, species, strong, weak, ratio):
        lines = load_atomic_lines()
        gf = 10.0**lines.log_gf
        assert gf[find(lines, species, strong)] / gf[find(lines, species, weak)] == pytest.approx(
            ratio, rel=0.05
        )

    def test_alkali_resonance_f_values(self):
        # The two resonance lines carry nearly all of the valence electron's oscillator strength.
        lines = load_atomic_lines()
        for species, air in {"Na I": (5889.951, 5895.924), "K I": (7664.90, 7698.96)}.items():
            f = sum(10.0 ** lines.log_gf[find(lines, species, w)] for w in air) / 2.0
            assert 0.95 < f < 1.06

    def test_natural_width_of_resonance_line_is_its_own_decay_rate(self):
        # A two-level atom decays only by this line: gamma = A_ul = 6.67e15 gf / (g_u lambda^2).
        lines = load_atomic_lines()
        for species, air in [("Na I", 5889.951), ("K I", 7664.90), ("Rb I", 7800.26)]:
            i = find(lines, species, air)
            a_ul = 6.6702e15 * 10.0 ** lines.log_gf[i] / (4.0 * lines.wave_aa[i] ** 2)
            assert 10.0 ** lines.gamma_rad[i] == pytest.approx(a_ul, rel=0.15)

    def test_abo_width_of_sodium_d(self):
        # sigma = 407 a.u., alpha = 0.273 (Barklem et al. 1998), at 10^4 K: log10 = -7.53 (VALD).
        lines = load_atomic_lines()
        i = find(lines, "Na I", 5889.951)
        assert lines.gamma_vdw[i] == pytest.approx(-7.53, abs=0.01)
        assert lines.vdw_alpha[i] == pytest.approx(0.273)


class TestPartitionFunction:
    # Sums over NIST levels: g0 alone, or with the few levels within 1 eV.
    @pytest.mark.parametrize(
        ("species", "levels"),
        [
            ("Na I", [(2, 0.0), (6, 2.103), (2, 3.191), (10, 3.617)]),
            ("K I", [(2, 0.0), (2, 1.610), (4, 1.617), (2, 2.607), (10, 2.670)]),
            ("Ca I", [(1, 0.0), (1, 1.879), (3, 1.886), (5, 1.899), (15, 2.523), (5, 2.709)]),
            ("Ca II", [(2, 0.0), (4, 1.692), (6, 1.700)]),
            ("Al I", [(2, 0.0), (4, 0.01389)]),
            ("Ba II", [(2, 0.0), (4, 0.604), (6, 0.704)]),
        ],
    )
    @pytest.mark.parametrize("temperature", [2500.0, 3500.0])
    def test_agrees_with_a_sum_over_low_levels(self, species, levels, temperature):
        direct = sum(g * np.exp(-e / (8.617333e-5 * temperature)) for g, e in levels)
        assert float(partition_function(species, temperature)) == pytest.approx(direct, rel=0.03)

    def test_iron_group_grows_with_temperature_and_unknown_species_is_named(self):
        for species in ("Fe I", "Ti I", "V I"):
            assert (np.diff(partition_function(species, np.linspace(1500, 6000, 30))) > 0).all()
        with pytest.raises(UsageError, match="Xx I"):
            partition_function("Xx I", 3000.0)

    def test_every_element_has_both_stages(self):
        table = load_atomic_species()
        for name in table:
            element = name.split()[0]
            assert {f"{element} I", f"{element} II"} <= set(table)
