"""Line lists of molecules: band heads, lifetimes, isotopes, sums."""

from functools import lru_cache

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.constants import HC_OVER_K_CM
from jaxmdwarf.simulate.molecules.levels import level_constants
from jaxmdwarf.simulate.molecules.linelist import band_lines, band_rates, head_wavelengths
from jaxmdwarf.simulate.molecules.species import list_species, load_species
from jaxmdwarf.simulate.tables import read_rows
from jaxmdwarf.wavelengths import vacuum_to_air


def published(name):
    return read_rows("jaxmdwarf.simulate.molecules", name)


TIO_HEADS = [row for row in published("heads.csv") if row["status"] != "doubtful"]


@pytest.mark.parametrize(
    "row",
    TIO_HEADS,
    ids=lambda row: "{system}({v_upper},{v_lower}){head}".format(**row),
)
def test_tio_heads_lie_where_the_laboratory_saw_them(row):
    heads = head_wavelengths("TiO", row["system"], int(row["v_upper"]), int(row["v_lower"]))
    same = [h.wave_air_aa for h in heads if h.branch[:3] == row["head"]]
    assert min(abs(wave - float(row["wavelength_air_aa"])) for wave in same) < 1.0


OTHER_HEADS = [
    row
    for row in published("heads_other.csv")
    if row["status"] == "identified" and len(row["head"]) == 4
]


@pytest.mark.parametrize(
    "row", OTHER_HEADS, ids=lambda row: "{species}({v_upper},{v_lower}){head}".format(**row)
)
def test_other_heads_lie_where_the_laboratory_saw_them(row):
    band = row["system"], int(row["v_upper"]), int(row["v_lower"])
    heads = head_wavelengths(row["species"], *band)
    wave = next(h.wave_air_aa for h in heads if h.branch == row["head"])
    # The list gives whole Angstrom.
    assert abs(wave - float(row["wavelength_air_aa"])) < 1.5


def test_lines_carry_the_tabulated_radiative_lifetime():
    lines = band_lines(
        "TiO", "gamma", isotopes=False, wave_range_aa=(4000.0, 60_000.0), strength_floor=0.0
    )
    species = load_species("TiO")
    rate = species.system("gamma").einstein_a_s
    # Lines that end in v' = 0, summed over everything: A times the number of upper sublevels.
    chosen = lines.v_upper == 0
    j = np.arange(species.system("gamma").jmax + 1)
    omegas = (2, 3, 4)
    weight = sum(2 * np.sum(2 * j[j >= omega] + 1) for omega in omegas)
    assert abs(lines.ga_s[chosen].sum() / (rate * weight) - 1) < 0.08


def test_heavier_titanium_shifts_the_gamma_0_1_band_to_the_blue():
    species = load_species("TiO")
    index = [isotope.name for isotope in species.isotopologues].index("50Ti16O")
    light = head_wavelengths("TiO", "gamma", 0, 1)
    heavy = head_wavelengths("TiO", "gamma", 0, 1, isotope=index)
    shift_cm = 1e8 / heavy[0].wave_air_aa - 1e8 / light[0].wave_air_aa
    # Vibration scales with rho: v'' = 1 sinks by 1.5 quanta of X, v' = 0 by half a quantum of A.
    rho = np.sqrt(species.isotopologues[0].mu / species.isotopologues[index].mu)
    expected = (1 - rho) * (1.5 * 1009.0 - 0.5 * 868.0)
    assert abs(shift_cm / expected - 1) < 0.08


def test_abundances_share_out_the_line_strength():
    everything = band_lines("TiO", "delta").ga_s.sum()
    alone = band_lines("TiO", "delta", isotopes=False).ga_s.sum()
    assert abs(everything / alone - 1) < 0.02


@pytest.mark.parametrize("name", list_species())
def test_every_species_gives_lines_in_the_right_place(name):
    species = load_species(name)
    for system in species.systems:
        upper, lower = species.state(system.upper), species.state(system.lower)
        assert upper.two_s == lower.two_s
        assert abs(upper.lambda_qn - lower.lambda_qn) <= 1
        lines = band_lines(name, system.name, isotopes=False)
        assert np.all(np.diff(lines.wavenumber_cm) >= 0)
        assert np.all(lines.e_lower_cm >= -1e-6)
        assert np.all(lines.ga_s > 0)
        assert lines.system == system.name


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(UsageError, match="TiO"):
        load_species("TiO2")
    with pytest.raises(UsageError, match="gamma_prime"):
        band_lines("TiO", "omega")


SPECIES = ("CaH", "VO", "MgH", "FeH", "CaOH")


@lru_cache(maxsize=32)
def band_opacity(species, system, v_upper, v_lower):
    """Air wavelengths and opacity around a band's heads at 3000 K, at 12 km/s (one sigma)."""
    heads = [
        float(row["wavelength_air_aa"])
        for row in published("heads_other.csv")
        if (row["species"], row["system"]) == (species, system)
        and (int(row["v_upper"]), int(row["v_lower"])) == (v_upper, v_lower)
    ]
    low, high = min(heads) - 60.0, max(heads) + 60.0
    wave = low * np.exp(np.arange(int(np.log(high / low) * 3e5)) / 3e5)
    lines = band_lines(species, system, wave_range_aa=(low, high))
    chosen = (lines.v_upper == v_upper) & (lines.v_lower == v_lower)
    nu = lines.wavenumber_cm[chosen]
    strength = lines.ga_s[chosen] / nu**3
    strength *= np.exp(-HC_OVER_K_CM * lines.e_lower_cm[chosen] / 3000.0)
    edges = np.append(wave, wave[-1] * np.exp(1 / 3e5))
    opacity, _ = np.histogram(1e8 / nu, bins=edges, weights=strength)
    kernel = np.exp(-0.5 * (np.arange(-60, 61) / 12.0) ** 2)
    return vacuum_to_air(wave), np.convolve(opacity, kernel / kernel.sum(), mode="same")


HEADS = [
    pytest.param(row, id=f"{row['species']}-{row['wavelength_air_aa']}")
    for row in published("heads_other.csv")
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
