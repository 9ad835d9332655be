import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.population import (
    PopulationConfig,
    absolute_k_from_mass,
    absolute_magnitudes,
    empirical_relation,
    isochrone_relation,
    mass_from_absolute_k,
    sample_population,
    spectral_type,
    surface_gravity,
)


@pytest.fixture(scope="module")
def population():
    return sample_population(6000, seed=11)


@pytest.fixture(scope="module")
def dwarfs(population):
    keep = population.stars["kind"] == "mdwarf"
    return {name: values[keep] for name, values in population.stars.items()}


@pytest.fixture(scope="module")
def mann15(real_data):
    table = np.genfromtxt(
        real_data / "mann15.stars.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    # Radius, Teff and bolometric flux (1e-8 erg/s/cm2) fix the distance.
    flux = table["Fbol"] * 1e-8
    distance_cm = table["R"] * 6.957e10 * table["Teff"] ** 2.0 * np.sqrt(5.670374e-5 / flux)
    return table, 5 * np.log10(distance_cm / 3.0856776e18) - 5


def test_mass_and_absolute_magnitude_are_inverse():
    mass = np.linspace(0.09, 0.69, 30)
    np.testing.assert_allclose(mass_from_absolute_k(absolute_k_from_mass(mass)), mass, rtol=1e-4)


def test_relations_give_the_labels_of_well_studied_stars(mann15):
    table, modulus = mann15
    feh = table["FeH"]
    mass = mass_from_absolute_k(table["Ksmag"] - modulus)
    teff, radius = empirical_relation(mass, feh)
    assert np.std(radius / table["R"] - 1) < 0.035
    assert abs(np.mean(radius / table["R"] - 1)) < 0.01
    assert np.std(teff - table["Teff"]) < 65.0
    assert abs(np.mean(teff - table["Teff"])) < 15.0
    gravity = surface_gravity(table["M"], table["R"])
    assert np.std(surface_gravity(mass, radius) - gravity) < 0.04
    assert np.std(mass / table["M"] - 1) < 0.06


def test_photometry_is_that_of_well_studied_stars(mann15):
    table, modulus = mann15
    magnitude = absolute_magnitudes(table["Teff"], table["R"], table["FeH"])
    for band, column in (("g", "Gmag"), ("rp", "RPmag"), ("k", "Ksmag")):
        difference = magnitude[band] - (table[column] - modulus)
        assert abs(np.median(difference)) < 0.02, band
        assert np.std(difference) < 0.08, band
    colour = magnitude["bp"] - magnitude["rp"] - (table["BPmag"] - table["RPmag"])
    assert abs(np.median(colour)) < 0.03
    assert np.std(colour) < 0.15


def test_an_isochrone_table_is_a_main_sequence_too(real_data):
    table = np.genfromtxt(
        real_data / "parsec_v12S_lowmass_1_3_5_10Gyr.csv", delimiter=",", names=True
    )
    columns = {name: table[name] for name in table.dtype.names}
    relation = isochrone_relation(columns)
    mass = np.array([0.15, 0.3, 0.5])
    teff, radius = relation(mass, np.zeros(3))
    assert (np.diff(teff) > 0).all()
    assert np.isnan(relation(np.array([5.0]), np.zeros(1))[0])
    empirical_teff, empirical_radius = empirical_relation(mass, np.zeros(3))
    np.testing.assert_allclose(teff, empirical_teff, rtol=0.08)
    np.testing.assert_allclose(radius, empirical_radius, rtol=0.09)
    hotter, _ = relation(mass[:2], np.full(2, -1.0))
    assert (hotter > teff[:2]).all()
    drawn = sample_population(200, seed=1, relation=relation)
    assert np.isfinite(drawn.stars["teff"]).all()
    with pytest.raises(UsageError, match="radius"):
        isochrone_relation({name: columns[name] for name in ("feh", "log_age", "Mini", "Teff")})


def test_labels_agree_with_each_other(dwarfs):
    np.testing.assert_allclose(
        dwarfs["logg"], 4.438 + np.log10(dwarfs["mass"]) - 2 * np.log10(dwarfs["radius"]), atol=1e-9
    )
    assert dwarfs["logg"].min() > 4.4
    assert dwarfs["logg"].max() < 5.4
    assert np.corrcoef(dwarfs["teff"], dwarfs["logg"])[0, 1] < -0.8


def test_temperatures_are_those_of_the_survey(dwarfs):
    assert np.mean((dwarfs["teff"] > 3000) & (dwarfs["teff"] < 4000)) > 0.85
    assert dwarfs["teff"].min() > 2600


def test_metallicities_have_an_alpha_trend(dwarfs):
    assert dwarfs["mh"].mean() == pytest.approx(-0.1, abs=0.06)
    assert 0.18 < dwarfs["mh"].std() < 0.35
    poor, rich = dwarfs["mh"] < -0.6, dwarfs["mh"] > 0.0
    assert dwarfs["alpha_m"][poor].mean() > dwarfs["alpha_m"][rich].mean() + 0.12
    assert 0 < np.mean(dwarfs["component"] == "halo") < 0.03


def test_photometry_is_consistent_with_the_labels(dwarfs):
    single = ~dwarfs["is_binary"]
    solar = single & (abs(dwarfs["mh"]) < 0.1)
    order = np.argsort(dwarfs["teff"][solar])
    bins = np.array_split(dwarfs["abs_g"][solar][order], 12)
    assert (np.diff([values.mean() for values in bins]) < 0).all()
    assert (dwarfs["abs_g_system"] > 4).all()
    assert (dwarfs["abs_g_system"] < 15).all()
    colour = dwarfs["bp_mag"] - dwarfs["rp_mag"]
    assert np.mean((colour > 1) & (colour < 5)) > 0.999
    observed = dwarfs["g_mag"] + 5 * np.log10(dwarfs["parallax_mas"] / 100)
    near = dwarfs["parallax_mas"] > 20 * dwarfs["e_parallax_mas"]
    np.testing.assert_allclose(observed[near], dwarfs["abs_g_system"][near], atol=0.5)
    pull = (dwarfs["parallax_mas"] - 1000 / dwarfs["distance_pc"]) / dwarfs["e_parallax_mas"]
    assert pull.std() == pytest.approx(1.0, abs=0.05)


def test_metal_poor_stars_lie_below_the_main_sequence(dwarfs):
    single = ~dwarfs["is_binary"]
    colour = dwarfs["abs_bp"] - dwarfs["abs_rp"]
    near = single & (abs(colour - 2.1) < 0.1)
    poor, rich = near & (dwarfs["mh"] < -0.6), near & (dwarfs["mh"] > 0.1)
    assert dwarfs["abs_g"][poor].mean() > dwarfs["abs_g"][rich].mean() + 0.4


def test_magnitude_limits_hold(population):
    stars = population.stars
    limit = (stars["g_mag"] > 10.9) & (stars["g_mag"] < 18.1)
    assert limit.all()


def test_velocities_are_those_of_the_disc(dwarfs):
    thin, thick = dwarfs["component"] == "thin", dwarfs["component"] == "thick"
    assert 25 < dwarfs["rv_kms"][thin].std() < 45
    assert dwarfs["w_kms"][thick].std() > 1.7 * dwarfs["w_kms"][thin].std()
    young, old = thin & (dwarfs["age_gyr"] < 2), thin & (dwarfs["age_gyr"] > 8)
    assert dwarfs["w_kms"][old].std() > 1.6 * dwarfs["w_kms"][young].std()
    # Space velocity and its projections are the same number.
    tangential = (
        4.74047e-3 * np.hypot(dwarfs["pmra_true"], dwarfs["pmdec_true"]) * dwarfs["distance_pc"]
    )
    total = np.hypot(tangential, dwarfs["rv_kms"])
    sun = np.array([11.1, 12.24, 7.25])[:, None]
    space = np.array([dwarfs["u_kms"], dwarfs["v_kms"], dwarfs["w_kms"]]) - sun
    np.testing.assert_allclose(total, np.linalg.norm(space, axis=0), rtol=1e-6)


def test_the_active_fraction_rises_to_late_types(dwarfs):
    subtype = np.round(dwarfs["spt"])
    early, late = (dwarfs["active"][subtype == k].mean() for k in (0, 4))
    assert 0.02 < early < 0.15
    assert 0.25 < late < 0.7
    assert (dwarfs["halpha_ew_aa"][dwarfs["active"]] > 0.75).mean() > 0.9
    assert (dwarfs["halpha_ew_aa"][~dwarfs["active"]] == 0).all()


def test_a_tenth_of_the_stars_is_observed_three_times(population):
    visits = population.visits
    assert visits["star"].size == 6000
    assert np.mean(np.bincount(visits["star"]) >= 3) >= 0.10
    place = visits["plate"] * 16 * 250 + visits["spectrograph"] * 250 + visits["fibre"]
    assert np.unique(place).size == place.size
    assert visits["fibre"].min() >= 0
    assert visits["fibre"].max() < 250


def test_binaries_move_about_their_centre_of_mass(population):
    stars, visits = population.stars, population.visits
    double = stars["is_binary"][visits["star"]]
    star = visits["star"][double]
    ratio = stars["companion_mass"][star] / stars["mass"][star]
    primary = visits["rv_kms"][double] - stars["rv_kms"][star]
    secondary = visits["companion_rv_kms"][double] - stars["rv_kms"][star]
    np.testing.assert_allclose(primary + ratio * secondary, 0, atol=1e-9)
    np.testing.assert_array_equal(
        visits["rv_kms"][~double], stars["rv_kms"][visits["star"][~double]]
    )
    brighter = stars["abs_g_system"] <= stars["abs_g"] + 1e-12
    assert brighter.all()


def test_companions_raise_ruwe(population):
    stars = population.stars
    assert np.mean(stars["ruwe"][~stars["is_binary"]] > 1.4) < 0.02
    assert 0.2 < np.mean(stars["ruwe"][stars["is_binary"]] > 1.4) < 0.9


def test_contaminants_are_what_they_say(population):
    stars = population.stars
    giant, k_dwarf = stars["kind"] == "giant", stars["kind"] == "kdwarf"
    assert ((stars["logg"][giant] >= 0.99) & (stars["logg"][giant] <= 2.01)).all()
    assert (stars["abs_g"][giant] < 2).all()
    assert ((stars["teff"][k_dwarf] >= 4300) & (stars["teff"][k_dwarf] <= 5000)).all()
    assert 0.03 < k_dwarf.mean() < 0.05


def test_pairs_share_their_metallicity(population):
    pairs, stars = population.pairs, population.stars
    pull = (pairs["primary_feh"] - stars["mh"][pairs["star"]]) / pairs["primary_e_feh"]
    assert 0.8 < pull.std() < 1.2
    assert (pairs["separation_arcsec"] >= 3).all()


def test_the_same_seed_draws_the_same_stars():
    one, two, other = (sample_population(300, seed=seed) for seed in (5, 5, 6))
    for table in ("stars", "visits", "pairs"):
        for name, values in getattr(one, table).items():
            np.testing.assert_array_equal(values, getattr(two, table)[name])
    assert not np.array_equal(one.stars["teff"][:100], other.stars["teff"][:100])


@pytest.mark.parametrize("n", [1, 2, 17])
def test_small_surveys_work(n):
    population = sample_population(n, seed=0)
    assert population.visits["star"].size == n
    assert population.visits["star"].max() == population.stars["teff"].size - 1


def test_spectral_types_have_the_paper_anchors():
    np.testing.assert_allclose(spectral_type(np.array([3850.0, 3500.0, 3200.0])), [0, 2, 4])


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        sample_population(0, seed=0)
    with pytest.raises(UsageError, match=r"0\.08"):
        PopulationConfig(mass_range=(0.01, 0.5))
    with pytest.raises(UsageError, match="increase"):
        PopulationConfig(g_limits=(18.0, 12.0))
