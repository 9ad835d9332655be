"""Products: what is written comes back, with units, and appears complete or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from jaxmdwarf.catalogue.columns import FIT_COLUMNS, MEASURE_COLUMNS
from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.provenance import Provenance, gather_provenance, hash_files
from jaxmdwarf.io.tables import choose_format, read_table, write_table

EXTENSIONS = ("fits", "fits.gz", "parquet", "vot", "xml", "csv", "ecsv", "mrt", "txt")
PROVENANCE = Provenance(
    "0.1.0", "2026-01-02T03:04:05Z", "jaxmdwarf measure " + "very_long_name.fits " * 20
)


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "path": ["a folder/spec 1.fits", "größe.fits.gz", "c.fits"],
            "obsid": ["5682674213417840640", "55862-B6212_sp06-014", ""],
            "snr_r": [60.25, np.nan, 12.5],
            "ew_halpha": [-0.25, 3.5, np.nan],
            "active": [False, True, False],
            "spt": [1.5, np.nan, 7.0],
            "rv_used": [-12.25, 0.0, 300.5],
            "flags": np.array([0, 8192, 32], dtype=np.int32),
        }
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format_gives_back_what_was_written(tmp_path, rows, extension):
    path = tmp_path / f"T.{extension}"
    write_table(rows, path, columns=MEASURE_COLUMNS, provenance=PROVENANCE)
    back = read_table(path)
    assert list(back.columns) == list(rows.columns)
    for name in rows.columns:
        if rows[name].dtype.kind == "f":
            np.testing.assert_allclose(back[name].astype(float), rows[name], rtol=0, atol=1e-6)
        elif rows[name].dtype.kind in "ib":
            assert list(back[name].astype(int)) == list(rows[name].astype(int))
    assert list(back["obsid"]) == list(rows["obsid"])
    assert back["path"][0] == rows["path"][0]
    assert back.attrs["units"]["ew_halpha"] == "Angstrom"
    assert back.attrs["units"]["rv_used"] == "km / s"
    if extension not in ("mrt", "txt"):
        assert back.attrs["provenance"] == PROVENANCE.as_text()
    else:
        assert PROVENANCE.created in path.read_text()


def test_missing_subtypes_are_minus_9999_in_files_and_nan_in_memory(tmp_path, rows):
    write_table(rows, tmp_path / "T.fits", columns=MEASURE_COLUMNS)
    assert fits.getdata(tmp_path / "T.fits")["spt"].tolist() == [1.5, -9999.0, 7.0]
    assert np.isnan(fits.getdata(tmp_path / "T.fits")["snr_r"][1])
    assert np.isnan(read_table(tmp_path / "T.fits")["spt"][1])


def test_fits_columns_carry_unit_description_and_ucd(tmp_path, rows):
    write_table(rows, tmp_path / "T.fits", columns=MEASURE_COLUMNS, provenance=PROVENANCE)
    header = fits.getheader(tmp_path / "T.fits", 1)
    index = 1 + list(rows.columns).index("ew_halpha")
    assert header[f"TUNIT{index}"] == "Angstrom"
    assert header[f"TCOMM{index}"] == MEASURE_COLUMNS["ew_halpha"].description
    assert header[f"TUCD{index}"] == MEASURE_COLUMNS["ew_halpha"].ucd
    assert header["CREATOR"] == "jaxmdwarf 0.1.0"
    assert json.loads(header["PROVENAN"])["command"] == PROVENANCE.command


def test_votable_carries_ucds_and_parquet_units_for_astropy(tmp_path, rows):
    write_table(rows, tmp_path / "T.vot", columns=MEASURE_COLUMNS)
    assert MEASURE_COLUMNS["ew_halpha"].ucd in (tmp_path / "T.vot").read_text(errors="replace")
    write_table(rows, tmp_path / "T.parquet", columns=MEASURE_COLUMNS)
    assert str(Table.read(tmp_path / "T.parquet")["rv_used"].unit) == "km / s"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_fit_column_survives_every_format(tmp_path, extension):
    texts = {"path", "obsid", "Subclass"}
    table = pd.DataFrame(
        {name: ["x", "y"] if name in texts else [1.25, np.nan] for name in FIT_COLUMNS}
    )
    write_table(table, tmp_path / f"T.{extension}", columns=FIT_COLUMNS)
    back = read_table(tmp_path / f"T.{extension}")
    assert list(back.columns) == list(FIT_COLUMNS)
    assert back["[M/H]"][0] == 1.25
    assert np.isnan(back["Teff"][1])
    assert back.attrs["units"]["Logg"] == "dex"


@pytest.mark.parametrize("extension", [e for e in EXTENSIONS if e not in ("mrt", "txt")])
def test_a_table_without_rows_is_still_a_table(tmp_path, rows, extension):
    write_table(rows.iloc[:0], tmp_path / f"T.{extension}", columns=MEASURE_COLUMNS)
    assert list(read_table(tmp_path / f"T.{extension}").columns) == list(rows.columns)


@pytest.mark.parametrize("extension", ["mrt", "txt"])
def test_the_journal_format_refuses_a_table_without_rows(tmp_path, rows, extension):
    path = tmp_path / f"T.{extension}"
    with pytest.raises(UsageError, match="no rows") as caught:
        write_table(rows.iloc[:0], path, columns=MEASURE_COLUMNS)
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


def test_columns_have_descriptions_and_errors_have_the_unit_of_their_value():
    for columns in (MEASURE_COLUMNS, FIT_COLUMNS):
        for name, column in columns.items():
            assert column.name == name
            assert column.description
            assert column.ucd
            if name.startswith("e_"):
                assert column.unit == columns[name[2:]].unit


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
