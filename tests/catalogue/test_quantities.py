"""Numbers and positions as other people's tables have them."""

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from jaxmdwarf.catalogue.merging import join_columns, join_gaia
from jaxmdwarf.catalogue.quantities import find_positions, read_quantity
from jaxmdwarf.errors import UsageError

PLACE = SkyCoord([10.5, 0.0, 359.99, 200.0] * u.deg, [-0.25, 89.5, -45.0, 12.345] * u.deg)


def tables():
    """The same four places in every layout that is met."""
    ra, dec = PLACE.ra.deg, PLACE.dec.deg
    yield "ra dec", pd.DataFrame({"ra": ra, "dec": dec})
    yield "RAdeg DEdeg", pd.DataFrame({"RAdeg": ra, "DEdeg": dec})
    yield "_RAJ2000", pd.DataFrame({"_RAJ2000": ra, "_DEJ2000": dec})
    yield "RA_ICRS", pd.DataFrame({"RA_ICRS": ra, "DE_ICRS": dec})
    for separator in (":", " ", "hms"):
        yield (
            f"sexagesimal {separator}",
            pd.DataFrame(
                {
                    "RAJ2000": PLACE.ra.to_string(u.hour, sep=separator, precision=4, pad=True),
                    "DEJ2000": PLACE.dec.to_string(
                        u.deg, sep=separator.replace("hms", "dms"), precision=3, alwayssign=True
                    ),
                }
            ),
        )
    hours, degrees = PLACE.ra.hms, PLACE.dec.signed_dms
    parts = {"RAh": hours.h.astype(int), "RAm": hours.m.astype(int), "RAs": hours.s.round(4)}
    parts["DE-"] = ["-" if sign < 0 else "+" for sign in degrees.sign]
    parts |= {"DEd": degrees.d.astype(int), "DEm": degrees.m.astype(int), "DEs": degrees.s.round(3)}
    yield "parts", pd.DataFrame(parts)
    in_hours = pd.DataFrame({"RA": PLACE.ra.hour, "DEC": dec})
    in_hours.attrs["units"] = {"RA": "h"}
    yield "hours", in_hours


@pytest.mark.parametrize(("name", "table"), list(tables()), ids=[name for name, _ in tables()])
def test_positions_are_found_in_every_layout(name, table):
    found = find_positions(table)
    np.testing.assert_allclose(found.ra_deg, PLACE.ra.deg, atol=1e-5)
    np.testing.assert_allclose(found.dec_deg, PLACE.dec.deg, atol=1e-5)


def test_positions_off_the_sky_are_none():
    found = find_positions(pd.DataFrame({"ra": [-9999.0, 10.0, 400.0], "dec": [0.0, 95.0, 0.0]}))
    assert np.isnan(found.ra_deg).all()
    assert np.isnan(found.dec_deg).all()
    assert find_positions(pd.DataFrame({"ra": [1.0]})) is None
    renamed = pd.DataFrame({"X": [1.0], "Y": [2.0]})
    assert find_positions(renamed, {"ra": "X", "dec": "Y"}).dec_deg.tolist() == [2.0]


def test_sentinels_are_missing_and_counted():
    table = pd.DataFrame(
        {"T": [3500.0, -9999.0, 0.0, np.nan, 99999.0], "s": [5.0, -999.0, 0, 1, 2]}
    )
    assert read_quantity(table, "T", "teff").n_sentinel == 3
    np.testing.assert_array_equal(read_quantity(table, "T", "teff").values[:2], [3500.0, np.nan])
    assert read_quantity(table, "s", "snr").values.tolist()[2:] == [0.0, 1.0, 2.0]
    assert read_quantity(table, "s", "snr").n_sentinel == 1


@pytest.mark.parametrize(
    "names",
    [
        ("ra", "dec", "phot_g_mean_mag", "parallax", "parallax_error", "ruwe"),
        ("RA_ICRS", "DE_ICRS", "Gmag", "Plx", "e_Plx", "RUWE"),
        ("ra_deg", "dec_deg", "g_mag", "parallax_mas", "e_parallax_mas", "ruwe"),
    ],
)
def test_gaia_tables_are_joined_by_position_whatever_their_names(names):
    stars = pd.DataFrame({"RA": PLACE.ra.deg, "Dec": PLACE.dec.deg + 1 / 3600, "Teff": 3500.0})
    order = [2, 0]
    values = [
        PLACE.ra.deg[order],
        PLACE.dec.deg[order],
        [14.0, 15.0],
        [20.0, 30.0],
        [0.1, 0.2],
        1.0,
    ]
    joined = join_gaia(stars, pd.DataFrame(dict(zip(names, values, strict=True))))
    np.testing.assert_array_equal(joined["Gmag"], [15.0, np.nan, 14.0, np.nan])
    np.testing.assert_array_equal(joined["e_Plx"], [0.2, np.nan, 0.1, np.nan])
    assert list(joined.columns)[:2] == ["RA", "Dec"]
    assert list(joined.columns)[-1] == "Teff"


def test_columns_are_joined_by_identifier_with_their_types():
    stars = pd.DataFrame({"obsid": pd.array([7, None, 9], dtype="Int64"), "path": ["a", "b", "c"]})
    other = pd.DataFrame(
        {"OBSID": ["9", "7", "7"], "flag": [2, 1, 0], "name": ["GJ 9", "GJ 7", "x"]}
    )
    joined = join_columns(stars, other, {"VBFlag": "flag", "name": "name"}, by="obsid")
    assert joined["VBFlag"].tolist() == [1, pd.NA, 2]
    assert joined["name"].tolist() == ["GJ 7", "", "GJ 9"]
    assert list(joined.columns) == ["obsid", "VBFlag", "path", "name"]
    with pytest.raises(UsageError, match="no column 'ruwe'"):
        join_columns(stars, other, {"RUWE": "ruwe"}, by="obsid")
    with pytest.raises(UsageError, match="has no positions"):
        join_columns(stars, other, {"VBFlag": "flag"})
    with pytest.raises(UsageError, match="none of Gmag"):
        join_gaia(stars, other)


def test_three_arcseconds_are_near_unless_another_radius_is_given():
    dec = np.array([10.0, 20.0])
    stars = pd.DataFrame({"RA": 50.0, "Dec": dec})
    other = pd.DataFrame({"ra": 50.0, "dec": dec + np.array([2.95, 3.05]) / 3600, "x": [4.0, 5.0]})
    np.testing.assert_array_equal(join_columns(stars, other, {"x": "x"})["x"], [4.0, np.nan])
    wide = join_columns(stars, other, {"x": "x"}, radius_arcsec=3.1)
    assert wide["x"].tolist() == [4.0, 5.0]
    gaia = other.rename(columns={"x": "phot_g_mean_mag"})
    np.testing.assert_array_equal(join_gaia(stars, gaia)["Gmag"], [4.0, np.nan])
    assert join_gaia(stars, gaia, radius_arcsec=3.1)["Gmag"].tolist() == [4.0, 5.0]


def test_texts_of_single_numbers_are_degrees():
    """Hours are told by their minutes; a table of texts may hold plain degrees."""
    table = pd.DataFrame({"ra": ["10.5", "10 30 00", "nothing", ""], "dec": ["-5.25"] * 4})
    found = find_positions(table)
    np.testing.assert_allclose(found.ra_deg, [10.5, 157.5, np.nan, np.nan])
    np.testing.assert_allclose(found.dec_deg, [-5.25, -5.25, np.nan, np.nan])
