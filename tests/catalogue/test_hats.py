"""A list in HATS partitions gives what the same list gives as a table."""

import sys

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time

from jaxmdwarf.catalogue import hats
from jaxmdwarf.catalogue.crossmatch import StarList, add_variability, find_listed
from jaxmdwarf.catalogue.hats import find_in_hats, find_properties
from jaxmdwarf.errors import UsageError


@pytest.fixture
def stars():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 400), np.degrees(np.arcsin(rng.uniform(-1, 1, 400)))
    table = pd.DataFrame({"RA": ra, "Dec": dec, "pmRA": 0.0, "pmDE": rng.normal(0, 300, 400)})
    return pd.concat([table, table.iloc[:30]], ignore_index=True)


def test_stars_are_taken_to_the_epoch_of_the_list(monkeypatch, tmp_path):
    """What lsdb would do is done by brute force here."""
    table = pd.DataFrame({"RA": [10.0, 200.0, 300.0], "Dec": [-20.0, 50.0, 5.0]})
    table["pmRA"], table["pmDE"] = [900.0, -700.0, 0.0], [-1200.0, 400.0, 0.0]
    then = SkyCoord(
        ra=table["RA"].to_numpy() * u.deg,
        dec=table["Dec"].to_numpy() * u.deg,
        pm_ra_cosdec=table["pmRA"].to_numpy() * u.mas / u.yr,
        pm_dec=table["pmDE"].to_numpy() * u.mas / u.yr,
        obstime=Time(2016.0, format="jyear"),
        distance=20 * u.pc,
    ).apply_space_motion(new_obstime=Time(1991.25, format="jyear"))

    def match(lsdb, listed, ra, dec, radius_arcsec):
        here = SkyCoord(ra * u.deg, dec * u.deg)
        return np.flatnonzero(here.separation(listed[: len(here)]) < radius_arcsec * u.arcsec)

    monkeypatch.setattr(hats, "_import_lsdb", lambda: None)
    monkeypatch.setattr(hats, "_open", lambda lsdb, path: hats._Listed(then, 7, 1991.25))
    monkeypatch.setattr(hats, "_cross_match", match)
    found, n_list = find_in_hats(table, tmp_path, radius_arcsec=0.1, epoch_yr=2016.0)
    assert found.tolist() == [True, True, True]
    assert n_list == 7


@pytest.mark.slow
def test_a_partitioned_list_gives_what_the_table_gives(stars, tmp_path):
    lsdb = pytest.importorskip("lsdb")
    rng = np.random.default_rng(1)
    chosen = stars.iloc[:400:4]
    listed = pd.DataFrame({"ra": chosen["RA"], "pmra": 0.0, "pmdec": chosen["pmDE"]})
    listed["dec"] = chosen["Dec"] + chosen["pmDE"] * 16 / 3.6e6 + rng.normal(0, 0.5, 100) / 3600
    listed["source_id"], listed["VarFlag"] = np.arange(100), ["VARIABLE", "CONSTANT"] * 50
    path = tmp_path / "vari"
    lsdb.from_dataframe(listed, ra_column="ra", dec_column="dec", lowest_order=2).write_catalog(
        path
    )
    assert find_properties(path) is not None
    expected = find_listed(stars, StarList("vari", [listed])).rows
    assert 50 <= expected.sum() < 70
    found, n_list = find_in_hats(stars, path)
    assert found.tolist() == expected.tolist()
    assert n_list == 100
    done, by_name = add_variability(stars, [StarList("vari", [], str(path))])
    assert (done["VBFlag"] == 1).tolist() == expected.tolist()
    assert by_name["vari"].how == "position"


def test_without_lsdb_the_remedy_is_told(stars, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lsdb", None)
    with pytest.raises(UsageError, match="needs the package lsdb") as caught:
        find_in_hats(stars, tmp_path)
    assert "[hats]" in caught.value.remedy
    assert find_properties(tmp_path) is None
