"""Spectra of one star are told by identifier or place; motions do not part them."""

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time

from jaxmdwarf.catalogue.positions import find_epoch, move_positions, positions_at
from jaxmdwarf.catalogue.stars import count_visits, group_stars
from jaxmdwarf.errors import UsageError


def visits(n_star=40, seed=0):
    rng = np.random.default_rng(seed)
    star = np.sort(np.concatenate([np.arange(n_star), rng.integers(0, n_star, 60)]))
    ra, dec = rng.uniform(0, 360, n_star), np.degrees(np.arcsin(rng.uniform(-1, 1, n_star)))
    table = pd.DataFrame({"RA": ra[star], "Dec": dec[star]})
    table["Dec"] = np.clip(table["Dec"] + rng.uniform(-0.2, 0.2, star.size) / 3600, -90, 90)
    return table, star


def test_visits_within_the_radius_are_of_one_star_in_any_order():
    table, star = visits()
    assert group_stars(table).tolist() == star.tolist()
    order = np.random.default_rng(1).permutation(len(table))
    found = group_stars(table.iloc[order])
    assert pd.factorize(star[order])[0].tolist() == found.tolist()
    assert count_visits(found).tolist() == np.bincount(star)[star[order]].tolist()


def test_across_the_meridian_and_at_the_pole_places_are_near():
    table = pd.DataFrame(
        {"RA": [359.9999, 0.0001, 10.0, 190.0], "Dec": [0.0, 0.0, 89.9999, 89.9999]}
    )
    assert group_stars(table).tolist() == [0, 0, 1, 1]


def test_identifiers_go_before_places_and_rows_without_them_go_by_place():
    table = pd.DataFrame(
        {
            "source_id": pd.array([7, 8, 7, pd.NA], dtype="Int64"),
            "RA": [10.0, 10.0001, 200.0, 200.0001],
            "Dec": [5.0, 5.0, 5.0, 5.0],
        }
    )
    assert group_stars(table).tolist() == [0, 1, 0, 0]
    assert group_stars(table, by="position").tolist() == [0, 0, 1, 1]
    assert group_stars(table, by="source_id").tolist() == [0, 1, 0, 2]


def test_rows_without_a_place_go_by_name_and_those_without_both_are_alone():
    nowhere = {"RA": [np.nan] * 4, "Dec": [np.nan] * 4, "ID": ["GJ 1", "", "GJ 1", ""]}
    assert group_stars(pd.DataFrame(nowhere)).tolist() == [0, 1, 0, 2]
    assert group_stars(pd.DataFrame({"Teff": [1.0, 2.0]})).tolist() == [0, 1]
    assert group_stars(pd.DataFrame({"RA": [], "Dec": []})).tolist() == []
    for by in ("position", "source_id", "ID"):
        with pytest.raises(UsageError, match=f"no {by}"):
            group_stars(pd.DataFrame({"Teff": [1.0]}), by=by)


def test_many_spectra_at_one_place_take_no_pairs():
    # As pairs these would be two thousand million.
    table = pd.DataFrame({"RA": np.full(65_000, 10.0), "Dec": np.full(65_000, 10.0)})
    assert group_stars(table).max() == 0


def test_positions_move_as_astropy_moves_them():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 50), np.degrees(np.arcsin(rng.uniform(-1, 1, 50)))
    east, north = rng.normal(0, 3000, (2, 50))
    here = SkyCoord(
        *(ra * u.deg, dec * u.deg),
        pm_ra_cosdec=east * u.mas / u.yr,
        pm_dec=north * u.mas / u.yr,
        distance=np.full(50, 50.0) * u.pc,
        radial_velocity=np.zeros(50) * u.km / u.s,
        obstime=Time(2016.0, format="jyear", scale="tcb"),
    )
    there = here.apply_space_motion(new_obstime=Time(2000.0, format="jyear", scale="tcb"))
    moved = SkyCoord(*move_positions(ra, dec, east, north, -16.0), unit="deg")
    assert there.separation(moved).mas.max() < 1.0
    assert here.separation(moved).arcsec.max() > 40


def test_epochs_are_told_by_columns_and_by_names():
    gaia = pd.DataFrame({"ra": [10.0], "dec": [0.0], "pmra": [3.6e6 / 16], "pmdec": [0.0]})
    assert find_epoch(gaia) is None
    assert positions_at(gaia).ra_deg.tolist() == [10.0]
    archive = gaia.assign(source_id=1)
    assert positions_at(archive).ra_deg[0] == pytest.approx(9.0, abs=1e-3)
    assert positions_at(gaia, table_epoch_yr=2016.0).ra_deg[0] == pytest.approx(9.0, abs=1e-3)
    stated = archive.assign(ref_epoch=2008.0)
    assert positions_at(stated).ra_deg[0] == pytest.approx(9.5, abs=1e-3)
    vizier = gaia.rename(columns={"ra": "RAJ2000", "dec": "DEJ2000"})
    assert positions_at(vizier).ra_deg.tolist() == [10.0]
    still = archive.assign(pmra=np.nan)
    assert positions_at(still).ra_deg.tolist() == [10.0]
