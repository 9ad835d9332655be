"""What is judged of anchors: nested draws of single stars, and groups that are what they say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="not run from the repository"
)


@pytest.fixture(scope="module")
def compare():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from benchmarks import compare_anchors

        yield compare_anchors


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    n = 400
    return pd.DataFrame(
        {
            "obsid": 1000 + np.arange(n),
            "source_id": np.arange(n) // 2,
            "kind": np.where(np.arange(n) % 10 == 0, "giant", "mdwarf"),
            "is_binary": np.arange(n) % 7 == 0,
            "failed": np.arange(n) % 11 == 0,
            "snr_r": rng.uniform(0, 60, n),
            "teff": rng.normal(3500, 200, n),
            "mh": rng.normal(-0.1, 0.2, n),
        }
    )


def test_anchors_are_bright_single_stars_once_each_and_few_are_among_many(compare, truth):
    few, many = (compare.draw_anchors(truth, n, seed=3) for n in (10, 100))
    pd.testing.assert_frame_equal(few, many[:10])
    chosen = truth.iloc[many["row"]]
    assert compare.find_single(chosen).all()
    assert (chosen["snr_r"] > 20).all()
    assert chosen["source_id"].is_unique
    away = many["teff"].to_numpy() - chosen["teff"].to_numpy()
    assert 40 < away.std() < 60
    assert not few.equals(compare.draw_anchors(truth, 10, seed=4))
    with pytest.raises(SystemExit, match="for 300 anchors"):
        compare.draw_anchors(truth, 300, seed=3)


def test_no_star_that_is_learned_from_is_judged(compare, truth):
    seen = compare.find_seen(truth, 101)
    assert seen[:102].all()
    assert not seen[102:].any()


def test_metal_poor_stars_are_told_apart(compare):
    rng = np.random.default_rng(1)
    mh = np.repeat([-0.85, -0.1, -1.2], 200)
    sample = pd.DataFrame(
        {
            "variant": "one",
            "label": "mh",
            "snr": np.tile([20.0, 50.0], 300),
            "mh_true": mh,
            "away": np.where(mh == -0.85, 0.3, 0.0) + 0.1 * rng.standard_normal(600),
            "error": 0.1,
        }
    )
    groups = compare.judge(sample)["one"]["mh"]
    assert [groups[name]["n"] for name in groups] == [600, 300, 200, 100]
    assert abs(groups["metal-poor"]["bias"] - 0.3) < 0.03
    assert abs(groups["metal-poor"]["pull_mean"] - 3) < 0.3
    assert groups["metal-poor, snr above 30"]["pull_width"] < 1.2
    rounded = compare.round_numbers({"a": {"b": 1.23456, "n": 3}})
    assert rounded == {"a": {"b": 1.235, "n": 3}}
