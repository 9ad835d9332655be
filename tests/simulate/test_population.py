"""A drawn population: labels, photometry, activity and multiplicity agree with each other."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.main_sequence import empirical_relation
from jaxmdwarf.simulate.population import PopulationConfig, sample_population


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


def test_the_active_fraction_rises_to_late_types(dwarfs):
    subtype = np.round(dwarfs["spt"])
    early, late = (dwarfs["active"][subtype == k].mean() for k in (0, 4))
    assert 0.02 < early < 0.15
    assert 0.25 < late < 0.7
    assert (dwarfs["halpha_ew_aa"][dwarfs["active"]] > 0.75).mean() > 0.9
    assert (dwarfs["halpha_ew_aa"][~dwarfs["active"]] == 0).all()


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


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        sample_population(0, seed=0)
    with pytest.raises(UsageError, match=r"0\.08"):
        PopulationConfig(mass_range=(0.01, 0.5))
    with pytest.raises(UsageError, match="increase"):
        PopulationConfig(g_limits=(18.0, 12.0))


def test_radii_scatter_at_constant_luminosity_and_gravities_with_them():
    def scatter(sigma):
        stars = sample_population(3000, seed=4, config=PopulationConfig(radius_scatter=sigma)).stars
        dwarfs = {name: values[stars["kind"] == "mdwarf"] for name, values in stars.items()}
        teff, radius = empirical_relation(dwarfs["mass"], dwarfs["mh"])
        light = dwarfs["teff"] ** 4 * dwarfs["radius"] ** 2
        np.testing.assert_allclose(light, teff**4 * radius**2, rtol=1e-9)
        t, m = dwarfs["teff"] / 250 - 15, dwarfs["mh"] / 0.25
        powers = np.stack([t**i * m**j for i in range(4) for j in range(3)], axis=1)
        found = np.linalg.lstsq(powers, dwarfs["logg"], rcond=None)[0]
        return np.std(np.log(dwarfs["radius"] / radius)), np.std(dwarfs["logg"] - powers @ found)

    radius, gravity = scatter(0.03)
    assert radius == pytest.approx(0.03, rel=0.1)
    # Larger at constant light is cooler, where the sequence has higher gravities.
    assert 0.04 < gravity < 0.055
    assert max(scatter(0.0)) < 0.005


@pytest.mark.parametrize("sigma", [-0.01, 0.3, np.nan])
def test_radii_cannot_scatter_by_any_amount(sigma):
    with pytest.raises(UsageError, match="choose radius_scatter of 0 to"):
        PopulationConfig(radius_scatter=sigma)
