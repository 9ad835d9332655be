"""Products: what is written comes back, with units, and appears complete or not at all."""

import json
import os
import shutil
import subprocess
import warnings

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jaxmdwarf.catalogue.columns import COLUMNS, describe_column
from jaxmdwarf.catalogue.rows import list_columns
from jaxmdwarf.catalogue.texts import escape_path, restore_path
from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.provenance import Provenance, gather_provenance, hash_files
from jaxmdwarf.io.tables import choose_format, read_table, read_tables, write_table
from jaxmdwarf.quality import QualityFlag, write_flag_cards

EXTENSIONS = ("fits", "fits.gz", "parquet", "vot", "xml", "csv", "ecsv", "mrt", "txt")
FORMATS = ("fits", "parquet", "vot", "csv", "ecsv", "mrt")
PROVENANCE = Provenance(
    "0.1.0", "2026-01-02T03:04:05Z", "jaxmdwarf measure " + "very_long_name.fits " * 20
)


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "ID": ["J0040+05", "", "J1"],
            "obsid": ["5682674213417840640", "55862-B6212_sp06-014", ""],
            "SNRr": [60.25, np.nan, 12.5],
            "SpT": [1.5, np.nan, 7.0],
            "RV_used": [-12.25, 0.0, 300.5],
            "Activity": np.array([0, 1, 0], np.int32),
            "EW_Halpha": [-0.25, 3.5, np.nan],
            "flags": np.array([0, 8192, 32], dtype=np.int32),
            "good": [True, True, False],
            "path": ["a folder/spec 1.fits", "größe.fits.gz", "c.fits"],
        }
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format_gives_back_what_was_written(tmp_path, rows, extension):
    path = tmp_path / f"T.{extension}"
    write_table(rows, path, provenance=PROVENANCE)
    back = read_table(path)
    assert list(back.columns) == list(rows.columns)
    for name in rows.columns:
        if rows[name].dtype.kind == "f":
            np.testing.assert_allclose(back[name].astype(float), rows[name], rtol=0, atol=1e-6)
        elif rows[name].dtype.kind in "ib":
            assert back[name].dtype.kind == rows[name].dtype.kind
            assert list(back[name]) == list(rows[name])
    assert list(back["obsid"]) == list(rows["obsid"])
    assert list(back["ID"]) == list(rows["ID"])
    assert back["path"][0] == rows["path"][0]
    assert back.attrs["units"]["EW_Halpha"] == "Angstrom"
    assert back.attrs["units"]["RV_used"] == "km / s"
    assert back.attrs["descriptions"]["SNRr"] == COLUMNS["SNRr"].description
    if extension not in ("mrt", "txt"):
        assert back.attrs["provenance"] == PROVENANCE.as_text()
        assert back.attrs["flags"] == write_flag_cards()
    else:
        assert PROVENANCE.created in path.read_text()
        assert "FLAG16: LABEL_AT_BOUND (65536), not good" in path.read_text()


@pytest.mark.parametrize("extension", FORMATS)
def test_missing_numbers_are_nan_or_masked_and_never_a_sentinel(tmp_path, rows, extension):
    table = rows.assign(obsid=["7", "", "123456789012345678"])
    write_table(table, tmp_path / f"T.{extension}")
    back = read_table(tmp_path / f"T.{extension}")
    assert back["obsid"].dtype == "Int64"
    assert back["obsid"].isna().tolist() == [False, True, False]
    assert back["obsid"][2] == 123456789012345678
    assert np.isnan(back["SpT"][1])
    if extension != "parquet":
        content = (tmp_path / f"T.{extension}").read_bytes()
        assert b"-9999" not in content
        assert b"999999" not in content
    if extension in ("fits", "vot", "ecsv"):
        # As astropy's users see it; its reader of Parquet knows no nulls but NaN.
        plain = Table.read(tmp_path / f"T.{extension}")
        plain = Table(plain, masked=True)
        assert plain["obsid"].mask.tolist() == [False, True, False]
        assert plain["obsid"].dtype.kind == "i"
        assert np.isnan(plain["SpT"][1]) or plain["SpT"].mask[1]


@pytest.mark.parametrize("extension", ["fits", "vot", "ecsv", "parquet", "mrt"])
def test_astropy_reads_units_and_descriptions_without_a_warning(tmp_path, extension):
    names = list_columns("fit")
    texts = {name for name in names if (c := describe_column(name)) and c.kind == "text"}
    table = pd.DataFrame({name: ["x", "y"] if name in texts else [1.25, 2.5] for name in names})
    table["obsid"], table["flags"], table["good"] = [1, 2], [0, 1], [True, False]
    path = tmp_path / f"T.{extension}"
    write_table(table, path, provenance=PROVENANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = Table.read(path, format="ascii.mrt") if extension == "mrt" else Table.read(path)
    assert back.colnames == names
    for name in names:
        column = describe_column(name)
        assert back[name].description.endswith(column.description)  # MRT puts the range in front
        # FITS has no word for dex.
        expected = "" if extension == "fits" and column.unit == "dex" else column.unit
        unit = "" if back[name].unit is None else str(back[name].unit).replace("dex(---)", "dex")
        assert unit.replace(" ", "") == expected
        if extension in ("fits", "vot"):
            assert back[name].meta["ucd"] == column.ucd


def test_lines_of_a_description_that_begin_with_numbers_are_no_columns(tmp_path):
    """astropy takes three words after a number for a format, a unit and a name."""
    described = {name: column for name, column in COLUMNS.items() if column.kind == "float"}
    for length in range(12, 26):
        table = pd.DataFrame({name: [1.25, 2.5] for name in (*described, "x" * length)})
        write_table(table, tmp_path / f"{length}.mrt", provenance=PROVENANCE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = Table.read(tmp_path / f"{length}.mrt", format="ascii.mrt")
        assert back.colnames == list(table.columns)
        for name, column in described.items():
            assert back[name].description.endswith(column.description)


@pytest.mark.skipif(shutil.which("stilts") is None, reason="STILTS is not installed")
@pytest.mark.parametrize("extension", ["fits", "vot", "mrt"])
def test_stilts_opens_the_file_and_finds_no_fault(tmp_path, rows, extension):
    path = tmp_path / f"T.{extension}"
    write_table(rows.assign(obsid=["7", "", "12"]), path, provenance=PROVENANCE)

    def run(*words):
        done = subprocess.run(["stilts", *words], capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout

    wanted = "keepcols 'obsid SNRr EW_Halpha flags'"
    table = run("tpipe", str(path), f"cmd={wanted}", "ofmt=csv").splitlines()
    assert table[0] == "obsid,SNRr,EW_Halpha,flags"
    assert [line.split(",")[0] for line in table[1:]] == ["7", "", "12"]
    assert [line.split(",")[1] for line in table[1:]] == ["60.25", "", "12.5"]
    if extension == "vot":
        assert not run("votlint", str(path))


def test_fits_columns_carry_unit_description_and_ucd(tmp_path, rows):
    write_table(rows, tmp_path / "T.fits", provenance=PROVENANCE)
    header = fits.getheader(tmp_path / "T.fits", 1)
    index = 1 + list(rows.columns).index("EW_Halpha")
    assert header[f"TUNIT{index}"] == "Angstrom"
    assert header[f"TCOMM{index}"] == COLUMNS["EW_Halpha"].description
    assert header[f"TUCD{index}"] == COLUMNS["EW_Halpha"].ucd
    assert header["CREATOR"] == "jaxmdwarf 0.1.0"
    assert header["FLAG5"].startswith(f"LOW_SNR ({int(QualityFlag.LOW_SNR)}), not good: signal")
    assert json.loads(header["PROVENAN"])["command"] == PROVENANCE.command


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_column_survives_every_format_under_its_own_name(tmp_path, extension):
    names = [*COLUMNS, "Teff", "e_Teff", "M_H", "e_M_H", "alpha_M"]
    values = {"float": [1.25, np.nan], "text": ["x", ""], "identifier": ["12", ""]}
    values |= {"int": [3, 4], "bool": [True, False]}
    table = pd.DataFrame({name: values[describe_column(name).kind] for name in names})
    write_table(table, tmp_path / f"T.{extension}")
    back = read_table(tmp_path / f"T.{extension}")
    assert list(back.columns) == names
    assert all(name.isidentifier() for name in names)
    assert back["M_H"][0] == 1.25
    assert np.isnan(back["Teff"][1])
    assert back.attrs["units"]["M_H"] == "dex"


@pytest.mark.parametrize("extension", [e for e in EXTENSIONS if e not in ("mrt", "txt")])
def test_a_table_without_rows_is_still_a_table(tmp_path, rows, extension):
    write_table(rows.iloc[:0], tmp_path / f"T.{extension}")
    assert list(read_table(tmp_path / f"T.{extension}").columns) == list(rows.columns)


@pytest.mark.parametrize("extension", ["mrt", "txt"])
def test_the_journal_format_refuses_a_table_without_rows(tmp_path, rows, extension):
    path = tmp_path / f"T.{extension}"
    with pytest.raises(UsageError, match="no rows") as caught:
        write_table(rows.iloc[:0], path)
    assert "another format" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, rows, monkeypatch):
    path = tmp_path / "T.fits"
    write_table(rows, path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(fits.HDUList, "writeto", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(rows.iloc[:1], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["T.fits"]


def test_bad_names_and_bad_files_are_told(tmp_path):
    with pytest.raises(UsageError, match="names no table format"):
        choose_format("T.doc")
    with pytest.raises(UsageError, match="no table"):
        read_table(tmp_path / "none.fits")
    (tmp_path / "bad.fits").write_text("hello")
    with pytest.raises(FormatError, match="cannot be read as fits"):
        read_table(tmp_path / "bad.fits")


@pytest.mark.parametrize("name", ["t.tsv", "t.csv.gz", "t.tsv.gz", "t.ecsv.gz", "t.vot.gz"])
def test_tables_that_people_bring_may_be_tabbed_or_gzipped(tmp_path, name):
    table = pd.DataFrame({"Teff": [3500.5, 3600.25], "Name": ["GJ 1", "a, b"]})
    if ".csv" in name or ".tsv" in name:
        table.to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
    else:
        import gzip

        write_table(table, tmp_path / name.removesuffix(".gz"))
        content = (tmp_path / name.removesuffix(".gz")).read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(content))
    back = read_table(tmp_path / name)
    assert back["Teff"].tolist() == [3500.5, 3600.25]
    assert back["Name"].tolist() == ["GJ 1", "a, b"]


def test_a_model_hash_sees_names_and_contents(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / "weights.bin").write_bytes(b"1")
    first = hash_files(model)
    assert gather_provenance(command=["x"], model=model).model_hash == first
    (model / "weights.bin").rename(model / "other.bin")
    renamed = hash_files(model)
    (model / "other.bin").write_bytes(b"2")
    assert len({first, renamed, hash_files(model)}) == 3


def test_provenance_shortens_endless_commands_but_keeps_both_ends():
    command = ["jaxmdwarf", "measure", *(f"file{i}.fits" for i in range(5000)), "--out", "T.fits"]
    text = gather_provenance(command=command).command
    assert len(text) < 3000
    assert text.startswith("jaxmdwarf measure file0.fits")
    assert text.endswith("--out T.fits")


def test_the_journal_format_keeps_six_decimals_of_every_number_and_tiny_ones(tmp_path):
    rng = np.random.default_rng(0)
    n = 60
    table = pd.DataFrame(
        {
            "M_H": np.append(rng.normal(0, 1, n - 1), 5e-6),
            "Logg": np.round(rng.normal(5, 0.2, n), 2),
            "RV": np.where(np.arange(n) == 3, -0.5, rng.normal(0, 500, n)),
            "tiny": rng.normal(0, 1e-9, n),
            "huge": rng.normal(0, 1e18, n),
            "same": np.zeros(n),
            "obsid": rng.integers(-9 * 10**17, 9 * 10**17, n),
            "nothing": np.full(n, np.nan),
            "name": ["x" * (i % 7) for i in range(n)],
        }
    )
    write_table(table, tmp_path / "T.mrt")
    text = (tmp_path / "T.mrt").read_text()
    assert max(map(len, text.rpartition("-" * 80)[0].splitlines())) <= 80
    back = read_table(tmp_path / "T.mrt")
    for name in ("M_H", "Logg", "RV", "same"):
        np.testing.assert_allclose(back[name], table[name], rtol=0, atol=5.1e-7)
    for name in ("tiny", "huge"):
        np.testing.assert_allclose(back[name], table[name], rtol=1e-8)
    assert back["obsid"].tolist() == table["obsid"].tolist()
    assert back["name"].tolist() == table["name"].tolist()
    assert back["nothing"].isna().all()


@pytest.mark.parametrize("extension", ["vot", "mrt"])
def test_blocks_of_rows_join_without_a_seam(tmp_path, monkeypatch, extension):
    monkeypatch.setattr("jaxmdwarf.io.votable_rows.ROWS_AT_ONCE", 6)
    monkeypatch.setattr("jaxmdwarf.io.mrt._ROWS_AT_ONCE", 6)
    n = 20
    table = pd.DataFrame(
        {
            "ID": [f"größe {i}" if i == 7 else f"J{i}" for i in range(n)],
            "obsid": pd.array([None if i == 9 else i for i in range(n)], dtype="Int64"),
            "Teff": np.where(np.arange(n) == 11, np.nan, 3000.25 + np.arange(n)),
            "good": np.arange(n) % 2 == 0,
        }
    )
    write_table(table, tmp_path / f"T.{extension}")
    back = read_table(tmp_path / f"T.{extension}")
    assert back["obsid"].isna().tolist() == table["obsid"].isna().tolist()
    assert back["obsid"].fillna(0).tolist() == table["obsid"].fillna(0).tolist()
    np.testing.assert_array_equal(back["Teff"], table["Teff"])
    assert back["good"].astype(bool).tolist() == table["good"].tolist()
    if extension == "vot":
        assert back["ID"].tolist() == table["ID"].tolist()


def test_all_tables_of_a_votable_are_read(tmp_path):
    from astropy.io.votable.tree import Resource, TableElement, VOTableFile

    document = VOTableFile()
    resource = Resource()
    document.resources.append(resource)
    for number in range(2):
        one = Table({"source_id": [number, 10 + number]})
        resource.tables.append(TableElement.from_table(document, one))
    document.to_xml(str(tmp_path / "T.vot"))
    tables = read_tables(tmp_path / "T.vot")
    assert [one["source_id"].tolist() for one in tables] == [[0, 10], [1, 11]]
    assert read_table(tmp_path / "T.vot")["source_id"].tolist() == [0, 10]
    pd.DataFrame({"source_id": [3]}).to_csv(tmp_path / "T.csv", index=False)
    assert len(read_tables(tmp_path / "T.csv")) == 1


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_texts_are_read_whatever_separates_their_values(tmp_path, separator):
    lines = ["# SB9, 2021", "#", "source_id,ra,name", "5682674213417840640,10.5,GJ 1", "7,11.5,#2"]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(lines).replace(",", separator).replace("SB9; ", "SB9, "))
    back = read_table(path)
    assert back["source_id"].tolist() == ["5682674213417840640", "7"]
    assert back["ra"].tolist() == [10.5, 11.5]
    assert back["name"].tolist() == ["GJ 1", "#2"]


@pytest.mark.parametrize("extension", ["parquet", "csv", "fits"])
def test_columns_that_are_not_wanted_are_left_out_where_a_format_can(tmp_path, rows, extension):
    write_table(rows, tmp_path / f"T.{extension}")
    (some,) = read_tables(tmp_path / f"T.{extension}", choose=lambda names: names[1:3])
    assert {"obsid", "SNRr"} <= set(some.columns)
    assert (len(some.columns) == 2) is (extension != "fits")
    assert list(some["obsid"]) == list(rows["obsid"])


def test_a_csv_table_is_not_there_before_what_its_columns_are(tmp_path, rows, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxmdwarf.io.tables.write_csv_metadata", stop)
        with pytest.raises(KeyboardInterrupt):
            write_table(rows, tmp_path / "T.csv")
    assert not list(tmp_path.iterdir())
    write_table(rows, tmp_path / "T.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"T.csv", "T.csv-metadata.json"}


ANY_ROWS = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=12).map(os.fsdecode),
        st.just(np.nan) | st.floats(-1e6, 1e6),
        st.integers(0, 2**31 - 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("extension", FORMATS)
@given(ANY_ROWS)
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_rows_hold_comes_back_from_every_format(tmp_path_factory, extension, values):
    rows = [(escape_path(name), *rest) for name, *rest in values]
    table = pd.DataFrame(rows, columns=["path", "RV_used", "flags", "good"])
    table = table.astype({"flags": np.int32})
    path = tmp_path_factory.mktemp("any") / f"T.{extension}"
    write_table(table, path)
    back = read_table(path)
    assert list(back.columns) == list(table.columns)
    assert [restore_path(text) for text in back["path"]] == [name for name, *_ in values]
    assert list(back["flags"]) == list(table["flags"])
    assert list(back["good"]) == list(table["good"])
    digits = 5.1e-7 if extension == "mrt" else 0
    np.testing.assert_allclose(back["RV_used"].astype(float), table["RV_used"], 1e-15, digits)


def test_a_text_far_down_a_csv_leaves_the_numbers_above_it_texts(tmp_path):
    """Pandas may read so wide a table a thousand rows at a time, each with a type of its own."""
    path, n_row = tmp_path / "wide.csv", 1100
    names = ["code", *(f"c{number}" for number in range(600))]
    rows = ["007" + "," * 600] * n_row + ["x7" + "," * 600]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")
    (table,) = read_tables(path, choose=lambda names: names[:1])
    found = table["code"].tolist()
    assert set(found[:n_row]) == {"007"}
    assert found[n_row] == "x7"
