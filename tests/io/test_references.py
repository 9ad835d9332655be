"""Reference labels out of tables of the literature."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.references import (
    COLUMNS,
    extract_reference_labels,
    read_plausible,
    read_references,
)
from jaxmdwarf.io.tables import write_table

# rows with Teff, rows with [M/H], rows with log g, median Teff
LITERATURE = {
    "mann15.stars.csv": (183, 183, 183, 3439),
    "gaidos14.csv": (2973, 1157, 2973, 3735),
    "lepine13.csv": (1397, 0, 1397, 3560),
    "rajpurohit18.csv": (292, 292, 292, 3400),
    "passegger18_cols1_19.csv": (300, 300, 300, 3492),
    "schweitzer19.csv": (293, 293, 293, 3454),
    "birky2020_safe_minus_holdout.csv.gz": (5875, 5875, 0, 3711),
}


@pytest.mark.parametrize("name", LITERATURE)
def test_tables_of_the_literature(real_data, name):
    labels = read_references(real_data / name)
    n_teff, n_mh, n_logg, median = LITERATURE[name]
    assert tuple(labels.columns) == COLUMNS
    assert labels["teff"].notna().sum() == n_teff
    assert labels["mh"].notna().sum() == n_mh
    assert labels["logg"].notna().sum() == n_logg
    assert labels["teff"].median() == pytest.approx(median, abs=1)
    assert labels["teff"].dropna().between(1500, 5000).all()
    assert labels["mh"].dropna().between(-1.5, 1).all()
    assert labels["logg"].dropna().between(3.9, 5.6).all()


def test_birky_labels_are_theirs_and_not_those_of_the_pipeline(real_data):
    path = real_data / "birky2020_safe_minus_holdout.csv.gz"
    labels, raw = read_references(path), pd.read_csv(path)
    np.testing.assert_array_equal(labels["teff"], raw["TEFF"])
    np.testing.assert_array_equal(labels["mh"], raw["FE_H"])


def test_tables_are_combined_with_their_duplicates(real_data):
    names = ["passegger18_cols1_19.csv", "schweitzer19.csv", "passegger18_cols1_19.csv"]
    labels = read_references([real_data / name for name in names])
    assert len(labels) == 300 + 293 + 300
    counts = labels["source"].value_counts()
    assert counts["passegger18_cols1_19"] == 600
    assert labels.attrs["dropped"] == {"passegger18_cols1_19": 0, "schweitzer19": 0}


def test_a_table_without_temperatures_is_refused(real_data):
    with pytest.raises(UsageError, match="no column of effective temperatures; it has recno"):
        read_references(real_data / "passegger19_1.csv")


@pytest.mark.parametrize("extension", ["fits", "parquet", "ecsv", "vot", "csv"])
def test_our_own_formats(tmp_path, extension):
    path = tmp_path / f"reference.{extension}"
    table = pd.DataFrame({"teff": [3500.0, 3600.0], "logg": [4.9, np.nan], "mh": [0.1, -0.3]})
    write_table(table, path)
    labels = read_references(path)
    np.testing.assert_allclose(labels["teff"], [3500, 3600])
    np.testing.assert_allclose(labels["mh"], [0.1, -0.3])
    np.testing.assert_allclose(labels["logg"], [4.9, np.nan])
    assert set(labels["source"]) == {"reference"}


def test_the_catalogue_of_a_fit_is_a_reference(tmp_path):
    table = pd.DataFrame({"Teff": [3500.0], "e_Teff": [20.0], "Logg": [4.9], "[M/H]": [0.1]})
    labels = extract_reference_labels(table)
    assert labels[["teff", "mh", "logg", "e_teff"]].iloc[0].tolist() == [3500.0, 0.1, 4.9, 20.0]
    assert labels[["e_mh", "ra_deg", "dec_deg"]].isna().all(axis=None)


def test_positions_may_be_degrees_or_hours_and_minutes_row_by_row():
    table = pd.DataFrame({"Teff": [3500.0] * 3, "RAJ2000": [10.5, "10 20 30", 400.0], "DEJ2000": 5})
    labels = extract_reference_labels(table)
    np.testing.assert_array_equal(labels["ra_deg"], [10.5, 155.125, np.nan])
    np.testing.assert_array_equal(labels["dec_deg"], [5, 5, np.nan])


def test_tables_without_positions_are_named(tmp_path):
    pd.DataFrame({"Teff": [3500.0], "mh": 0.0, "ra": 5.0, "dec": 4.0}).to_csv(tmp_path / "a.csv")
    pd.DataFrame({"Teff": [3500.0], "mh": 0.0, "ra": 5.0}).to_csv(tmp_path / "b.csv")
    labels = read_references([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert labels.attrs["without_position"] == ["b"]


def test_missing_values_become_nan_and_empty_rows_go(tmp_path):
    table = pd.DataFrame(
        {"Teff": [3500.0, -9999.0, 0.0, 3600.0], "[Fe/H]": [-9999.0, 0.2, -9999.0, np.nan]}
    )
    path = tmp_path / "a.csv"
    table.to_csv(path, index=False)
    labels = read_references(path)
    np.testing.assert_array_equal(labels["teff"], [3500.0, np.nan, 3600.0])
    np.testing.assert_array_equal(labels["mh"], [np.nan, 0.2, np.nan])
    assert labels.attrs["dropped"] == {"a": 1}


def test_gravity_follows_from_mass_and_radius():
    table = pd.DataFrame({"Teff": [3500.0, 3500.0], "M": [1.0, np.nan], "R": [1.0, 0.5]})
    labels = extract_reference_labels(table)
    np.testing.assert_allclose(labels["logg"], [4.438, np.nan])


@pytest.mark.parametrize(("mass", "radius"), [(0.4, 11.5), (8.1, 11.5)])
def test_magnitudes_are_not_taken_for_mass_and_radius(mass, radius):
    table = pd.DataFrame({"Teff": np.full(3, 3500.0), "M": mass, "R": radius})
    assert extract_reference_labels(table)["logg"].isna().all()
    dwarfs = extract_reference_labels(table.assign(M=0.4, R=0.4))
    np.testing.assert_allclose(dwarfs["logg"], 4.836, atol=1e-3)


def test_columns_can_be_named():
    table = pd.DataFrame({"T": [3500.0], "Teff": [3600.0], "Fe": [0.2], "[M/H]": [0.1]})
    labels = extract_reference_labels(table, columns={"teff": "T", "mh": "Fe"})
    assert labels.iloc[0, :2].tolist() == [3500.0, 0.2]


def test_other_units_are_refused():
    mh = np.full(6, 0.1)
    with pytest.raises(UsageError, match=r"median teff is 3\.544, which is not in K"):
        extract_reference_labels(pd.DataFrame({"Teff": np.full(6, np.log10(3500)), "mh": mh}))
    fractions = pd.DataFrame(
        {"Teff": np.full(6, 3500.0), "metallicity": np.linspace(4e-3, 0.03, 6)}
    )
    with pytest.raises(UsageError, match="metal mass fractions"):
        extract_reference_labels(fractions)
    with pytest.raises(UsageError, match="no reference table was given"):
        read_references([])


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ([0.004, 0.01, 0.02, 0.03, 0.07], True),
        ([0.004, 0.01, 0.02, 0.03], False),
        ([0.004, 0.01, 0.02, 0.03, 0.071], False),
        ([0.0, 0.01, 0.02, 0.03, 0.04], False),
        ([-0.01, 0.01, 0.02, 0.03, 0.04], False),
    ],
)
def test_five_small_positive_numbers_are_metal_mass_fractions(values, refused):
    table = pd.DataFrame({"Teff": 3500.0, "mh": values})
    if not refused:
        return np.testing.assert_array_equal(extract_reference_labels(table)["mh"], values)
    with pytest.raises(UsageError, match="metal mass fractions"):
        extract_reference_labels(table)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("teff", 1500.0, 12_000.0), ("logg", -1.0, 7.0), ("mh", -5.0, 1.5)],
)
def test_values_that_no_star_has_are_missing(name, low, high):
    """What users' tables are held against: limits count as possible, what is beyond does not."""
    inside, off = [low, high, 0.5 * (low + high)], 1e-3
    table = pd.DataFrame({"Teff": 3500.0, "mh": -0.1, "logg": 4.9}, index=range(5))
    column = {"teff": "Teff"}.get(name, name)
    table[column] = [*inside, low - off, high + off]
    kept = read_plausible(table, column, name, where="table", option="--columns")
    np.testing.assert_array_equal(np.asarray(kept), [*inside, np.nan, np.nan])
