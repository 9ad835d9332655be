"""CaH, VO, MgH, FeH and CaOH: constants against measured term values, heads and lifetimes."""

import csv
from functools import lru_cache
from importlib import resources

import numpy as np
import pytest

from jaxmdwarf.simulate.molecules.hamiltonian import solve_levels
from jaxmdwarf.simulate.molecules.linelist import (
    SECOND_RADIATION_CM_K,
    band_lines,
    band_rates,
    level_constants,
    load_species,
    partition_function,
)
from jaxmdwarf.wavelengths import vacuum_to_air

SPECIES = ("CaH", "VO", "MgH", "FeH", "CaOH")
DATA = resources.files("jaxmdwarf.simulate.molecules") / "data"

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


def read_rows(name):
    with (DATA / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def term_values(species, state, v, j, parity, zero):
    constants = level_constants(species, state, n_v=8)
    energies = solve_levels(load_species(species).state(state).basis, constants, np.array([j]))
    return energies["ef".index(parity)][0][v, 0] - zero


def lowest_level(species):
    ground = load_species(species).ground
    constants = level_constants(species, ground.name, n_v=8)
    j = np.arange(0.5, 6.0)
    return min(energy[0].min() for energy, _ in solve_levels(ground.basis, constants, j))


@lru_cache(maxsize=32)
def band_opacity(species, system, v_upper, v_lower):
    """Air wavelengths and opacity around a band's heads at 3000 K, at 12 km/s (one sigma)."""
    heads = [
        float(row["wavelength_air_aa"])
        for row in read_rows("heads_other.csv")
        if (row["species"], row["system"]) == (species, system)
        and (int(row["v_upper"]), int(row["v_lower"])) == (v_upper, v_lower)
    ]
    low, high = min(heads) - 60.0, max(heads) + 60.0
    wave = low * np.exp(np.arange(int(np.log(high / low) * 3e5)) / 3e5)
    lines = band_lines(species, system, wave_range_aa=(low, high))
    chosen = (lines.v_upper == v_upper) & (lines.v_lower == v_lower)
    nu = lines.wavenumber_cm[chosen]
    strength = lines.ga_s[chosen] / nu**3
    strength *= np.exp(-SECOND_RADIATION_CM_K * lines.e_lower_cm[chosen] / 3000.0)
    edges = np.append(wave, wave[-1] * np.exp(1 / 3e5))
    opacity, _ = np.histogram(1e8 / nu, bins=edges, weights=strength)
    kernel = np.exp(-0.5 * (np.arange(-60, 61) / 12.0) ** 2)
    return vacuum_to_air(wave), np.convolve(opacity, kernel / kernel.sum(), mode="same")


HEADS = [
    pytest.param(row, id=f"{row['species']}-{row['wavelength_air_aa']}")
    for row in read_rows("heads_other.csv")
    if row["status"] in ("identified", "constants adjusted to it", "from measured constants")
]


@pytest.mark.parametrize("row", HEADS)
def test_opacity_has_an_edge_within_one_angstrom_of_each_published_head(row):
    published = float(row["wavelength_air_aa"])
    wave, opacity = band_opacity(
        row["species"], row["system"], int(row["v_upper"]), int(row["v_lower"])
    )
    slope = np.gradient(opacity, wave) * (1.0 if row["degraded"] == "red" else -1.0)
    peaks = np.flatnonzero((slope[1:-1] > slope[:-2]) & (slope[1:-1] >= slope[2:])) + 1
    # A head is a rise that stands out in its surroundings, not any ripple of the lines.
    strong = peaks[slope[peaks] > 0.12 * slope[np.abs(wave - published) < 45.0].max()]
    assert np.abs(wave[strong] - published).min() < 1.0


@pytest.mark.parametrize("key", CAH_LEVELS)
def test_cah_term_values_within_a_wavenumber(key):
    computed = term_values("CaH", *key, lowest_level("CaH"))
    np.testing.assert_allclose(computed, CAH_LEVELS[key], rtol=0, atol=1.7)


@pytest.mark.parametrize("key", VO_LEVELS)
def test_vo_term_values_within_a_wavenumber(key):
    computed = term_values("VO", *key, lowest_level("VO"))
    np.testing.assert_allclose(computed, VO_LEVELS[key], rtol=0, atol=0.8)


@pytest.mark.parametrize("name", SPECIES)
def test_rates_of_the_lowest_level_add_up_to_the_measured_lifetime(name):
    species = load_species(name)
    for system in species.systems:
        upper = level_constants(name, system.upper).t[0]
        lower = level_constants(name, system.lower).t[: system.vmax_lower + 1]
        nu = np.clip(upper - lower, 0, None)
        total = np.sum(band_rates(name, system.name)[0] * nu**3)
        # What is missing goes to v'' beyond the table.
        assert 0.98 * system.einstein_a_s < total < 1.001 * system.einstein_a_s


def test_cah_a_x_is_nearly_diagonal_and_vo_b_x_is_not():
    cah = band_rates("CaH", "A_X")[0]
    vo = band_rates("VO", "B_X")[0]
    assert cah[0] / cah.sum() > 0.98
    assert 0.55 < vo[0] / vo.sum() < 0.72
    assert vo[1] / vo.sum() > 0.2


@pytest.mark.parametrize("name", ["CaH", "VO", "MgH", "FeH", "CaOH"])
def test_partition_function_counts_rotation_vibration_and_spin(name):
    species = load_species(name)
    ground = species.ground
    t = 1000.0
    kt = t / SECOND_RADIATION_CM_K
    constants = level_constants(name, ground.name)
    rigid = ground.degeneracy * kt / constants.b[0]
    rigid /= 1 - np.exp(-(constants.t[1] - constants.t[0]) / kt)
    # Fine structure splits the ground state of FeH by about kT and lifts part of its weight.
    ratio = partition_function(name, t) / rigid
    low, high = (0.5, 2.5) if name == "FeH" else (0.9, 1.1)
    assert low < ratio < high


@pytest.mark.parametrize("name", SPECIES)
def test_every_constant_has_a_reference(name):
    for table in ("states", "systems"):
        assert all(len(row["reference"]) > 10 for row in read_rows(f"{name}_{table}.csv"))


def test_dissociation_energies_are_bounded_by_spectroscopy():
    rows = read_rows("dissociation.csv")
    d0 = {row["species"]: float(row["d0_ev"]) for row in rows}
    assert len(d0) == len(rows)
    assert all(row["reference"] for row in rows)
    # Atomisation needs more than the strongest of the bonds; CO is the strongest diatomic bond.
    assert d0["H2O"] > 2 * d0["OH"] > d0["H2O"] - 1.0
    assert d0["TiO2"] < 2 * d0["TiO"]
    assert d0["VO2"] < 2 * d0["VO"]
    assert d0["CaOH"] > d0["OH"] + 3.5
    assert max(d0[k] for k in ("CO", "N2", "SiO", "TiO", "VO", "ZrO", "OH", "CN")) == d0["CO"]
    # A fifth of an electronvolt in CaH is a factor of two in its column at 3300 K.
    assert d0["CaH"] <= 1.77
