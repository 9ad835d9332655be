"""Designs of Cycle-StarNet are judged alike, and once."""

from pathlib import Path

import pytest

from jaxmdwarf.errors import UsageError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="experiments are not part of an installed package"
)


@pytest.fixture
def designs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import cyclestar_designs

    return cyclestar_designs


def make_result(seed, *, scatter=40.0, shared=0.5, gaps=(0.4, 0.2, 0.21)):
    """What is kept of one design and seed, and of the references of that seed."""
    labels = {
        "teff": {"bias": 5.0, "scatter": scatter},
        "logg": {"bias": 0.01, "scatter": 0.03},
        "mh": {"bias": -0.02, "scatter": 0.15},
        "converged": 1.0,
        "unflagged": 0.99,
        "residual_sigma": 0.98,
        "gap_closed": 0.9,
    }
    kept = {
        "gap": min(gaps),
        "shared_linear": shared,
        "shared_boosted": shared,
        "shared_explains_split": 0.01,
        "split_explains_shared": 0.2,
        "slope_cosine_teff": 0.95,
        "slope_cosine_mh": 0.8,
    }
    curve = [{"step": 10 * i, "gap": gap, "labels": labels} for i, gap in enumerate(gaps, 1)]
    result = {"seed": seed, "kept": kept, "labels": labels, "curve": curve}
    reference = {name: {**labels, "teff": {"bias": 0.0, "scatter": 40.0}} for name in REFERENCES}
    return result, {"seed": seed, **reference}


REFERENCES = ("theory", "matched", "oracle")


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"scatter": 50.0}, ["ratio_teff"]),
        ({"shared": 0.7}, ["shared_linear", "shared_boosted"]),
        ({"gaps": (0.2, 0.3)}, ["gap_rise"]),
        # Gaps that are closed scatter about 0.
        ({"gaps": (0.004, -0.002, 0.002)}, []),
    ],
    ids=lambda value: next(iter(value), "sound") if isinstance(value, dict) else None,
)
def test_a_design_misses_what_the_mean_of_its_seeds_misses(designs, changes, missed):
    pairs = [make_result(seed, **changes) for seed in (31, 32)]
    found = {
        "references": [reference for _, reference in pairs],
        "compact": [result for result, _ in pairs],
    }
    summary = designs.summarise(found)["compact"]
    assert summary["missed"] == missed
    assert summary["cosine"] == [0.8, 0.8]
    lines = designs.tabulate(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith(f"| {designs.DESIGNS['compact'].words} | 31, 32 |")


def test_every_design_is_a_training_of_its_own_and_takes_what_all_share(designs):
    configs = {
        name: (design.base, design.configure(300, steps=40, seed=5))
        for name, design in designs.DESIGNS.items()
    }
    assert len(set(configs.values())) == len(configs)
    for name, (_, config) in configs.items():
        assert (config.schedule.steps, config.seed, config.networks.residual) == (40, 5, True)
        assert config.shape(300).split_pooled == designs.DESIGNS[name].pooled
    assert configs["compact"][1].shape(300).activation == "leaky_relu"
    assert configs["all"][1].shape(300).activation == "silu"
    assert configs["all"][1] == configs["matched_all"][1]
    with pytest.raises(UsageError, match="unknown"):
        designs.CycleStarDesignsConfig(designs=("no_such",))
    with pytest.raises(UsageError, match="divide"):
        designs.CycleStarDesignsConfig(steps=1000, label_steps=3)


def test_what_is_done_of_a_design_is_not_done_again(designs, monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(designs.Universe, "survey", lambda self, seed: seed)
    monkeypatch.setattr(designs, "StarJudge", lambda *a: None)

    def judge(universe, survey, judge, results, seed, progress):
        designs.write_json(results / f"references_{seed}.json", make_result(seed)[1])

    def train(self, name, seed, *more):
        done.append((name, seed))
        return make_result(seed)[0]

    monkeypatch.setattr(designs, "_judge_references", judge)
    monkeypatch.setattr(designs.CycleStarDesignsConfig, "_train", train)
    config = designs.CycleStarDesignsConfig(
        out=str(tmp_path), designs=("compact", "all"), seeds=(1, 2)
    )
    assert config.run() == {"missed": {"compact": [], "all": []}}
    assert done == [("compact", 1), ("all", 1), ("compact", 2), ("all", 2)]
    (tmp_path / "results" / "all_2.json").unlink()
    config.run()
    assert done[4:] == [("all", 2)]


def test_the_table_of_the_page_is_that_of_the_results(designs):
    page = (ROOT / "docs" / "cyclestar.md").read_text(encoding="utf-8")
    found = designs.read_results(ROOT / "benchmarks" / "results" / "cyclestar")
    assert designs.tabulate(found) in page
