"""What authors state of their tables comes back when the tables are compared."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def found(real_data):
    specification = importlib.util.spec_from_file_location(
        "compare_published", BENCHMARKS / "compare_published.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main([str(real_data)])


def numbers(found, title, name):
    return next(
        row
        for row in found["agreement"]
        if (row["reference"], row["quantity"], row["by"]) == (title, name, "all")
    )


def test_stars_of_the_training_set_lie_within_the_stated_accuracy(found):
    stated = found["stated"]["cross_validation"]
    for name in ("teff", "mh"):
        row = numbers(found, "Mann et al. (2015)", name)
        assert row["n"] == 15
        assert 0.3 * stated[name] < row["scatter"] < stated[name]
        assert abs(row["mean"]) < 3.5 * row["e_mean"]


def test_the_pipeline_is_hotter_and_poorer_in_metals_as_stated(found):
    teff, mh = (numbers(found, "APOGEE DR14 pipeline", name) for name in ("teff", "mh"))
    assert teff["n"] == mh["n"] == 5875
    assert teff["bias"] < -50 * teff["e_bias"]
    assert mh["bias"] > 50 * mh["e_bias"]


def test_the_committed_numbers_are_these(found):
    committed = json.loads((BENCHMARKS / "results" / "real" / "birky2020.json").read_text())
    assert committed["counts"] == found["counts"]
    for old, new in zip(committed["agreement"], found["agreement"], strict=True):
        named = [key for key, value in new.items() if not isinstance(value, float)]
        assert [old[key] for key in named] == [new[key] for key in named]
        for key in new.keys() - set(named):
            assert old[key] == pytest.approx(new[key], rel=1e-6), key
