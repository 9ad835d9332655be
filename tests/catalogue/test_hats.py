"""A list in HATS partitions gives what the same list gives as a table."""

import sys

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.crossmatch import StarList, add_variability, find_listed
from jaxmdwarf.catalogue.hats import find_in_hats, find_properties
from jaxmdwarf.errors import UsageError


@pytest.fixture
def stars():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 400), np.degrees(np.arcsin(rng.uniform(-1, 1, 400)))
    table = pd.DataFrame({"RA": ra, "Dec": dec, "pmRA": 0.0, "pmDE": rng.normal(0, 300, 400)})
    return pd.concat([table, table.iloc[:30]], ignore_index=True)


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
