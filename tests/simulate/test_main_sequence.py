"""Relations of M dwarfs give back the stars that they were measured on."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.main_sequence import (
    absolute_k_from_mass,
    absolute_magnitudes,
    empirical_relation,
    isochrone_relation,
    mass_from_absolute_k,
    spectral_type,
    surface_gravity,
)
from jaxmdwarf.simulate.population import sample_population


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


def test_spectral_types_have_the_paper_anchors():
    np.testing.assert_allclose(spectral_type(np.array([3850.0, 3500.0, 3200.0])), [0, 2, 4])
