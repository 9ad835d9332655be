"""Published tables: recognised by their columns, read on their scale, placed at their epoch."""

import itertools

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.positions import positions_at
from jaxmdwarf.catalogue.published import (
    PUBLISHED,
    PublishedTable,
    columns_of,
    find_published,
    prepare_published,
    recognise_table,
)
from jaxmdwarf.catalogue.quantities import find_positions
from jaxmdwarf.diagnostics.matching import match_by_position
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.references import extract_reference_labels
from jaxmdwarf.io.tables import read_table

FILES = {
    "mann2015": "mann15.stars.csv",
    "gaidos2014": "gaidos14.csv",
    "lepine2013": "lepine13.csv",
    "rajpurohit2018": "rajpurohit18.csv",
    "passegger2018": "passegger18_cols1_19.csv",
    "passegger2019": "passegger19_1.csv",
    "schweitzer2019": "schweitzer19.csv",
    "birky2020": "birky2020_safe_minus_holdout.csv.gz",
}


@pytest.mark.parametrize("name", FILES)
def test_real_tables_are_recognised_and_have_all_that_their_entry_names(real_data, name):
    table = read_table(real_data / FILES[name])
    published = recognise_table(table)
    assert published is PUBLISHED[name]
    assert {column for _, column in published.columns} <= set(table.columns)
    ready = prepare_published(table, published)
    assert set(ready.columns) >= {"ra", "dec"}
    assert len(ready.table) == len(table)
    for quantity, low, high in (("teff", 2300, 4800), ("logg", 4.0, 5.6), ("mh", -2.2, 0.8)):
        if quantity in ready.columns:
            values = pd.to_numeric(ready.table[ready.columns[quantity]], errors="coerce")
            assert values.dropna().between(low, high).mean() > 0.99, quantity


def test_no_table_is_taken_for_another():
    signs = [set(one.signs) for one in PUBLISHED.values() if one.signs]
    assert not any(a <= b or b <= a for a, b in itertools.combinations(signs, 2))


def test_epochs_and_units_of_motion_bring_real_tables_together(real_data):
    """Each table against another one, of another epoch or with motions in another unit."""

    def place(name, epoch, given=None):
        table = read_table(real_data / FILES[name])
        ready = prepare_published(table, PUBLISHED[name])
        given = ready.columns if given is None else given
        found = positions_at(ready.table, epoch, table_epoch_yr=ready.epoch_yr, given=given)
        return found[:2]

    def separations(one, other):
        return match_by_position(*one, *other, radius_arcsec=30.0).separation_arcsec

    # Lépine's motions, from J2000 to the 2016 of Passegger's positions, where stars move by 10''.
    still = separations(place("passegger2018", 2016.0), place("lepine2013", 2000.0))
    moved = separations(place("passegger2018", 2016.0), place("lepine2013", 2016.0))
    assert np.median(still) > 5.0
    assert np.median(moved) < 1.5
    # Columns whose name says J2000 were precessed as if 2016 were an equinox.
    precessed = {"ra": "_RAJ2000", "dec": "_DEJ2000"}
    wrong = separations(place("passegger2018", 2016.0, precessed), place("lepine2013", 2000.0))
    assert wrong.size < 10 < still.size
    assert np.median(separations(place("mann2015", 2000.0), place("gaidos2014", 2000.0))) < 1.5
    assert np.median(separations(place("schweitzer2019", 2000.0), place("lepine2013", 2000.0))) < 2


def test_gravities_follow_from_mass_and_radius(real_data):
    ready = prepare_published(read_table(real_data / FILES["mann2015"]), PUBLISHED["mann2015"])
    gravity = ready.table[ready.columns["logg"]]
    sun = 4.438
    expected = sun + np.log10(ready.table["M"]) - 2 * np.log10(ready.table["R"])
    np.testing.assert_allclose(gravity, expected, atol=2e-3)


def test_bad_rows_leave_apogee_and_are_counted():
    table = pd.DataFrame(
        {
            "APOGEE_ID": ["a", "b", "c"],
            "TEFF": [3500.0, 3510.0, 3520.0],
            "TEFF_SPEC": [3400.0, 3410.0, 3420.0],
            "ASPCAPFLAG": np.array([0, 1 << 23, 1 << 4], np.int64),
            "GAIAEDR3_SOURCE_ID": np.array([1, 2, 3], np.int64),
            "GAIAEDR3_PMRA": [1.0, 2.0, 3.0],
        }
    )
    published = recognise_table(table)
    assert published.name == "apogee_dr17"
    ready = prepare_published(table, published)
    assert ready.table["APOGEE_ID"].tolist() == ["a", "c"]
    assert (ready.columns["teff"], ready.columns["pmra"]) == ("TEFF_SPEC", "GAIAEDR3_PMRA")
    assert any(note.startswith("1 of its 3 rows are flagged bad") for note in ready.notes)
    assert len(table) == 3


def test_motions_and_numbers_that_stand_for_none_are_changed_in_a_copy():
    table = pd.DataFrame({"Teff": [3500], "logg": [0.0], "pmRA": [0.25], "zeta": [1.0]})
    ready = prepare_published(table, PUBLISHED["lepine2013"])
    assert ready.table["pmRA"].tolist() == [250.0]
    assert np.isnan(ready.table["logg"][0])
    assert (table["pmRA"][0], table["logg"][0]) == (0.25, 0.0)


def test_a_table_that_is_another_one_is_refused():
    with pytest.raises(UsageError, match=r"no column of Mann et al\. \(2015\)"):
        prepare_published(pd.DataFrame({"x": [1.0]}), PUBLISHED["mann2015"])
    with pytest.raises(UsageError, match="use one of mann2015"):
        find_published("mann2051")
    with pytest.raises(UsageError, match="'t' of x is no quantity"):
        PublishedTable("x", "X", "", columns=(("t", "T"),))


def test_references_of_the_transfer_take_positions_of_the_same_entry(real_data):
    table = read_table(real_data / FILES["passegger2018"])
    labels = extract_reference_labels(table)
    right = find_positions(table, columns_of(table))
    np.testing.assert_array_equal(labels["ra_deg"], right.ra_deg)
    assert abs(labels["ra_deg"][0] - 15 * (5 / 60 + 12.18 / 3600)) < 1e-6
