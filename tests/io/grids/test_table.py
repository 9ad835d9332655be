"""The grid table comes back as it was written, and refuses what it is not."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxmdwarf.errors import FormatError, MismatchError, UsageError
from jaxmdwarf.io.grids import ModelGrid, read_grid, write_grid
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.wavelengths import PixelGrid


def small_grid(**changes):
    rng = np.random.default_rng(0)
    grid = PixelGrid.linear(6000.0, 6050.0, 1.0)
    content = {
        "labels": rng.uniform([2500, 4, -1, 0], [4000, 5.5, 0.5, 0.4], (6, 4)),
        "label_space": LabelSpace.mdwarf(),
        "flux": rng.uniform(1e4, 1e7, (6, grid.n_pix)).astype(np.float32),
        "grid": grid,
        "resolution": 1800.0,
        "kind": "simulated",
        "sources": tuple(f"node {k}" for k in range(6)),
        "provenance": {"seed": 3, "note": "test"},
    }
    return ModelGrid(**{**content, **changes})


def test_a_grid_comes_back_exactly(tmp_path):
    one = small_grid()
    write_grid(one, tmp_path / "grid.parquet")
    other = read_grid(tmp_path / "grid.parquet")
    np.testing.assert_array_equal(other.labels, one.labels)
    np.testing.assert_array_equal(other.flux, one.flux)
    assert other.flux.dtype == np.float32
    assert (other.grid, other.label_space) == (one.grid, one.label_space)
    assert (other.resolution, other.kind) == (1800.0, "simulated")
    assert other.sources == one.sources
    assert other.provenance == one.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["grid.parquet"]


def test_another_version_is_refused_by_name(tmp_path):
    path = tmp_path / "grid.parquet"
    write_grid(small_grid(), path)
    table = pq.read_table(path)
    description = json.loads(table.schema.metadata[b"jaxmdwarf"])
    description["version"] = 99
    pq.write_table(table.replace_schema_metadata({b"jaxmdwarf": json.dumps(description)}), path)
    with pytest.raises(FormatError, match="version 99"):
        read_grid(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1.0]}), path)
    with pytest.raises(FormatError, match="not a grid"):
        read_grid(path)
    path.write_text("not parquet")
    with pytest.raises(FormatError, match="Parquet"):
        read_grid(path)
    with pytest.raises(UsageError, match="no grid table"):
        read_grid(tmp_path / "nothing.parquet")


def test_shapes_and_values_are_checked_at_the_door():
    with pytest.raises(MismatchError, match="flux"):
        small_grid(flux=np.ones((6, 3), dtype=np.float32))
    with pytest.raises(MismatchError, match="labels"):
        small_grid(labels=np.ones((6, 3)))
    with pytest.raises(MismatchError, match="finite"):
        small_grid(flux=np.full((6, 51), np.nan, dtype=np.float32))
    with pytest.raises(UsageError, match="kind"):
        small_grid(kind="observed")


def edit_grid(path, table, **changes):
    """A grid whose description, but not its columns, says something else; None removes an entry."""
    description = {**json.loads(table.schema.metadata[b"jaxmdwarf"]), **changes}
    description = {name: value for name, value in description.items() if value is not None}
    pq.write_table(table.replace_schema_metadata({b"jaxmdwarf": json.dumps(description)}), path)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("kind", "resolution", "pixels", "labels", "provenance")),
        {"version": None},
        {"pixels": {"a": 1}},
        {"pixels": []},
        {"labels": {"names": ["teff"]}},
        {"labels": 3},
        {"resolution": "high"},
        {"resolution": -1800.0},
        {"provenance": 3},
        {"kind": 3},
    ],
    ids=str,
)
def test_a_description_that_was_edited_is_a_damaged_grid(tmp_path, changes):
    path = tmp_path / "grid.parquet"
    write_grid(small_grid(), path)
    edit_grid(path, pq.read_table(path), **changes)
    with pytest.raises(FormatError, match=r"damaged grid table|version") as caught:
        read_grid(path)
    assert caught.value.remedy


def test_columns_that_were_edited_are_a_damaged_grid(tmp_path):
    path, other = tmp_path / "grid.parquet", tmp_path / "other.parquet"
    write_grid(small_grid(), path)
    table = pq.read_table(path)
    place = table.column_names.index
    changes = [
        table.drop_columns(["flux"]),
        table.drop_columns(["teff"]),
        table.drop_columns(["source"]),
        table.set_column(place("flux"), "flux", pa.array(["x"] * 6)),
        table.set_column(place("flux"), "flux", pa.array([[1.0, 2.0]] * 6)),
        table.set_column(place("teff"), "teff", pa.array([-1.0] * 6)),
        table.set_column(place("teff"), "teff", pa.array(["hot"] * 6)),
        table.set_column(place("source"), "source", pa.array(range(6))),
    ]
    for changed in changes:
        pq.write_table(changed, other)
        with pytest.raises(FormatError, match="damaged grid table"):
            read_grid(other)
    labels = json.loads(table.schema.metadata[b"jaxmdwarf"])["labels"]
    edit_grid(other, table, labels={**labels, "names": ["teff"] * 4})
    with pytest.raises(FormatError, match="named twice"):
        read_grid(other)
