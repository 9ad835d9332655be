"""``jm.build_catalogue``: tables of any kind in, an astropy table out."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import jaxmdwarf as jm
from jaxmdwarf.catalogue.value_added import CatalogueConfig
from jaxmdwarf.errors import UsageError


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    star = np.repeat(np.arange(300), 4)
    snr = rng.uniform(6, 60, star.size)
    table = pd.DataFrame({"ID": [f"s{one}" for one in star], "source_id": star + 1, "SNRr": snr})
    table["Teff"] = 3500 + (400 / snr + 20) * rng.normal(size=star.size)
    table["e_Teff"], table["path"] = 10.0, [f"{one}.fits" for one in range(star.size)]
    table.loc[5, "Teff"] = 4400.0
    return table


def test_tables_of_every_kind_give_the_same_catalogue(rows, tmp_path):
    rows.to_parquet(tmp_path / "fits.parquet")
    kinds = [rows, Table.from_pandas(rows), tmp_path / "fits.parquet", [rows[:700], rows[700:]]]
    tables = [jm.build_catalogue(one, binaries={"sb9": rows[["source_id"]][:4]}) for one in kinds]
    for table in tables:
        assert table["Teff"].unit == "K"
        assert table["e_fit_Teff"].description == "Error of Teff by the fit alone, one sigma"
        np.testing.assert_array_equal(table["e_Teff"], tables[0]["e_Teff"])
        assert table["VBFlag"].tolist()[:5] == [2, 2, 2, 2, 0]
        assert "too hot" in table.meta["FLAG23"].lower().replace("_", " ")
    found = tables[0].meta["catalogue"]["repeats"]["Teff"]
    assert found["a"] == pytest.approx(400, abs=4 * found["e_a"])


def test_results_of_fits_tell_the_bounds_of_their_model(fits):
    table = jm.build_catalogue(fits)
    assert len(table) == len(fits)
    steps = [one["words"] for one in table.meta["catalogue"]["waterfall"]]
    low, high = (
        bounds[1] for bounds in (fits.model.label_space.lower, fits.model.label_space.upper)
    )
    assert f"log g within 0.05 dex of {low:g} or {high:g}" in steps
    assert table["VBFlag"].mask.all()


def test_rows_that_cuts_remove_are_told_with_their_reason(rows):
    table = jm.build_catalogue(rows, paper_cuts=True)
    assert len(table) == len(rows) - 1
    assert table.meta["rejects"] == [("5.fits", "Teff above 4300 K")]
    assert len(jm.build_catalogue(rows, config=CatalogueConfig(paper_cuts=True))) == len(table)


def test_what_is_no_table_is_refused(rows):
    with pytest.raises(UsageError, match="int is no table"):
        jm.build_catalogue(3)
    with pytest.raises(UsageError, match="give a mapping"):
        jm.build_catalogue(rows, variables=[rows])
