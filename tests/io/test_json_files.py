"""JSON that strict readers take."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from jaxmdwarf.io.json_files import plain_json, to_json, write_json


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ("a",)
    limit: float = float("inf")


def test_everything_that_products_hold_becomes_plain(tmp_path):
    value = {
        "array": np.array([[1.0, np.nan]], np.float32),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "config": {"inner": Inner()},
        5: (Path("a") / "b", None, "text"),
    }
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "array": [[1.0, None]],
        "count": 3,
        "flag": True,
        "config": {"inner": {"names": ["a"], "limit": None}},
        "5": ["a/b", None, "text"],
    }
    assert plain_json(plain_json(value)) == plain_json(value)


@dataclass(frozen=True)
class Other(Inner):
    pass


def test_classes_are_named_where_that_is_asked_for():
    one, other = (
        plain_json({"config": [kind(("b",), 2.0)]}, name_classes=True) for kind in (Inner, Other)
    )
    assert one["config"][0].pop("class").endswith(".Inner")
    assert other["config"][0].pop("class").endswith(".Other")
    assert one == other == plain_json({"config": [Inner(("b",), 2.0)]})


def test_what_is_no_value_is_refused():
    with pytest.raises(TypeError):
        to_json({"f": print})
