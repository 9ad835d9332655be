"""Variables and binaries of other tables are flagged, and no other star."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.ages import join_ages
from jaxmdwarf.catalogue.crossmatch import StarList, add_variability, find_listed
from jaxmdwarf.catalogue.merging import join_gaia
from jaxmdwarf.errors import UsageError

SOURCE = np.array([10**18 + 1, 10**18 + 2, 10**18 + 3, 10**18 + 4])


@pytest.fixture
def stars():
    return pd.DataFrame(
        {
            "source_id": SOURCE,
            "obsid": [1, 2, 3, 4],
            "RA": [10.0, 20.0, 30.0, 40.0],
            "Dec": [0.0, 10.0, 20.0, 30.0],
        }
    )


def find(stars, **columns):
    return find_listed(stars, StarList("list", [pd.DataFrame(columns)]))


def test_lists_are_matched_by_gaia_identifier_however_it_is_written(stars):
    for column, values in {
        "source_id": SOURCE[[1, 3]],
        "Source": SOURCE[[1, 3]].astype(str),
        "GaiaDR3": [f"Gaia DR3 {one}" for one in SOURCE[[1, 3]]],
        "gaia_source_id": pd.array([*SOURCE[[1, 3]], pd.NA], dtype="Int64"),
    }.items():
        found = find(stars, **{column: values})
        assert np.flatnonzero(found.rows).tolist() == [1, 3], column
        assert found.how == "source_id"


def test_both_components_of_pairs_are_found(stars):
    found = find(stars, source_id1=SOURCE[:1], source_id2=SOURCE[2:3])
    assert np.flatnonzero(found.rows).tolist() == [0, 2]


def test_positions_serve_where_no_identifier_matches_and_are_moved(stars):
    by_obsid = find(stars, obsid=["3", "99"])
    assert (by_obsid.how, np.flatnonzero(by_obsid.rows).tolist()) == ("obsid", [2])
    elsewhere = find(stars, obsid=["3"], ra=[40.0], dec=[30.0])  # of another survey
    assert (elsewhere.how, np.flatnonzero(elsewhere.rows).tolist()) == ("position", [3])
    other = {"Source": ["Popper 1980"], "RAJ2000": [30.0], "DEJ2000": [20.0 + 1 / 3600]}
    assert find(stars, **other).how == "position"
    assert np.flatnonzero(find(stars, **other).rows).tolist() == [2]
    # 8 arcsec in the 16 years since J2000.
    moved = {"RA_ICRS": [40.0], "DE_ICRS": [30.0 + 8 / 3600], "pmRA": [0.0], "pmDE": [500.0]}
    assert np.flatnonzero(find(stars, **moved).rows).tolist() == [3]
    assert not find(stars, **{**moved, "pmDE": [0.0]}).rows.any()


def test_what_lacks_an_identifier_goes_by_position(stars):
    ids = pd.array([SOURCE[0], pd.NA], dtype="Int64")
    found = find(stars, source_id=ids, ra=[0.0, 30.0], dec=[-80.0, 20.0])
    assert (np.flatnonzero(found.rows).tolist(), found.how) == ([0, 2], "source_id, position")
    texts = find(stars, source_id=[str(SOURCE[0]), ""], ra=[0.0, 30.0], dec=[-80.0, 20.0])
    assert np.flatnonzero(texts.rows).tolist() == [0, 2]
    stars["source_id"] = pd.array([*SOURCE[:3], pd.NA], dtype="Int64")
    found = find(stars, source_id=SOURCE[[0, 3]], ra=[0.0, 40.0], dec=[-80.0, 30.0])
    assert np.flatnonzero(found.rows).tolist() == [0, 3]


def test_all_spectra_of_a_star_are_flagged_if_one_is_found(stars):
    visits = stars.assign(star=[0, 1, 0, 2])
    done, found = add_variability(visits, binaries=[StarList("x", [pd.DataFrame({"obsid": [3]})])])
    assert done["VBFlag"].tolist() == [2, 0, 2, 0]
    assert found["x"].rows.sum() == 2


def test_only_rows_that_are_called_variable_count(stars):
    found = find(stars, source_id=SOURCE, VarFlag=["VARIABLE", "CONSTANT", "NOT_AVAILABLE", ""])
    assert np.flatnonzero(found.rows).tolist() == [0]
    assert found.n_list == 1


def test_all_tables_of_a_document_count_and_one_without_a_key_is_passed_over(stars):
    orbits = pd.DataFrame({"Period": [3.0]})
    tables = [orbits, pd.DataFrame({"obsid": [1]}), pd.DataFrame({"obsid": [4]})]
    found = find_listed(stars, StarList("sb9", tables))
    assert np.flatnonzero(found.rows).tolist() == [0, 3]
    with pytest.raises(UsageError, match="sb9 and the catalogue have nothing in common"):
        find_listed(stars, StarList("sb9", [orbits]))


def test_variables_go_before_binaries_and_all_lists_are_named(stars):
    variables = [StarList("vari", [pd.DataFrame({"source_id": SOURCE[:2]})])]
    binaries = [
        StarList("sb9", [pd.DataFrame({"source_id": SOURCE[1:3]})]),
        StarList("debcat", [pd.DataFrame({"source_id": SOURCE[2:3]})]),
    ]
    done, found = add_variability(stars, variables, binaries)
    assert done["VBFlag"].tolist() == [1, 1, 2, 0]
    assert done["VBTables"].tolist() == ["vari", "vari+sb9", "sb9+debcat", ""]
    assert {name: int(one.rows.sum()) for name, one in found.items()} == {
        "vari": 2,
        "sb9": 2,
        "debcat": 1,
    }
    nothing, _ = add_variability(stars)
    assert nothing["VBFlag"].isna().all()
    with pytest.raises(UsageError, match="one name"):
        add_variability(stars, variables, variables)


def test_gaia_is_matched_where_its_stars_were_at_j2000(stars):
    motion = np.array([0.0, 0.0, 0.0, -600.0])
    gaia = pd.DataFrame(
        {
            "source_id": SOURCE,
            "ra": stars["RA"],
            "dec": stars["Dec"] + motion * 16 / 3.6e6,
            "pmra": 0.0,
            "pmdec": motion,
            "phot_g_mean_mag": [14.0, 15.0, 16.0, 13.0],
        }
    )
    joined = join_gaia(stars.drop(columns="source_id"), gaia)
    assert joined["Gmag"].tolist() == [14.0, 15.0, 16.0, 13.0]
    assert joined["source_id"].tolist() == SOURCE.tolist()
    assert joined["pmDE"].tolist() == motion.tolist()
    nullable = gaia.assign(source_id=pd.array([pd.NA, *SOURCE[1:]], dtype="Int64"))
    joined = join_gaia(stars.drop(columns="source_id"), nullable)
    assert joined["source_id"].isna().tolist() == [True, False, False, False]


def test_ages_are_joined_in_gyr_and_nonsense_is_refused(stars):
    ages = pd.DataFrame({"obsid": [2, 4], "age_median": [5000.0, -9999.0], "Age_mean": [6e3, 7e3]})
    with pytest.raises(UsageError, match="older than the universe"):
        join_ages(stars, ages.assign(age_median=5000.0))
    ages.attrs["units"] = {"age_median": "Myr", "Age_mean": "Myr"}
    joined = join_ages(stars, ages)
    np.testing.assert_array_equal(joined["Age"], [np.nan, 5.0, np.nan, np.nan])
    np.testing.assert_array_equal(joined["Age_mean"], [np.nan, 6.0, np.nan, 7.0])
    with pytest.raises(UsageError, match="none of Age, Age_mean"):
        join_ages(stars, ages[["obsid"]])
    ages.attrs["units"] = {"age_median": "d"}
    with pytest.raises(UsageError, match="is in d"):
        join_ages(stars, ages)
