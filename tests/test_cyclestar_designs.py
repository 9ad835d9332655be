"""Designs of Cycle-StarNet are judged alike, and once."""

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.networks.cyclestar import CycleStarSizes
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.wavelengths import PixelGrid

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="experiments are not part of an installed package"
)


@pytest.fixture
def designs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import cyclestar_designs

    return cyclestar_designs


def make_result(seed, *, scatter=40.0, shared=0.5, gaps=(0.4, 0.2, 0.21), base="theory"):
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
    settings = {"base": base}
    result = {"seed": seed, "kept": kept, "labels": labels, "curve": curve, "settings": settings}
    spectra = {"gap": 0.6, "linear": 0.55, "boosted": 0.65}
    reference = {
        name: {**labels, "teff": {"bias": 0.0, "scatter": 40.0}, "spectra": spectra}
        for name in REFERENCES
    }
    reference["anchored"]["teff"]["scatter"] = 25.0
    return result, {"seed": seed, **reference}


REFERENCES = ("theory", "matched", "anchored", "oracle")


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"scatter": 50.0}, ["ratio_teff"]),
        # On a better base more is asked.
        ({"base": "anchored"}, ["ratio_teff"]),
        ({"base": "anchored", "scatter": 27.0}, []),
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
    assert "| 0.60 | spectra: 0.55 / 0.65 |" in lines[2]
    assert lines[-1].startswith(f"| {designs.DESIGNS['compact'].words} | 31, 32 |")


def test_every_design_is_a_training_of_its_own_and_takes_what_all_share(designs):
    configs = {
        name: (design.base, design.configure(300, steps=40, seed=5))
        for name, design in designs.DESIGNS.items()
    }
    assert len(set(configs.values())) == len(configs)
    for name, (_, config) in configs.items():
        assert (config.schedule.steps, config.seed) == (40, 5)
        recipe = designs.DESIGNS[name].recipe
        assert config.networks.residual == (recipe != "paper")
        assert config.noise.alike == (recipe == "held" and name != "unlike")
    assert configs["held"][1] == CycleStarConfig.held(steps=40, seed=5)
    assert configs["held"][1] == configs["matched_held"][1] == configs["anchored_held"][1]
    paper = configs["paper"][1]
    assert paper == CycleStarConfig.paper(
        steps=40, seed=5, batch_size=8, own_sizes=paper.networks.own_sizes
    )
    thin, whole = paper.networks.own_sizes, CycleStarSizes.original(300)
    assert thin.shared.channels == tuple(n // 4 for n in whole.shared.channels)
    assert thin.latent_length == whole.latent_length
    assert (thin.shared_latents, thin.latent_norm) == (whole.shared_latents, True)
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
        out=str(tmp_path), designs=("compact", "held"), seeds=(1, 2)
    )
    assert config.run() == {"missed": {"compact": [], "held": []}}
    assert done == [("compact", 1), ("held", 1), ("compact", 2), ("held", 2)]
    (tmp_path / "results" / "held_2.json").unlink()
    config.run()
    assert done[4:] == [("held", 2)]


KEPT = ROOT / "benchmarks" / "results" / "cyclestar"


@pytest.mark.parametrize("folder", ["judged_gap_1", "judged_gap_2", "development", "paper"])
def test_the_tables_of_the_page_are_those_of_the_results(designs, folder):
    page = (ROOT / "docs" / "cyclestar.md").read_text(encoding="utf-8")
    assert designs.tabulate(designs.read_results(KEPT / folder)) in page


def test_the_table_of_the_readme_is_that_of_the_results(designs):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert designs.tabulate_briefly(designs.read_results(KEPT / "judged_gap_1")) in text


def test_the_right_physics_is_nearer_to_what_is_observed_than_theory(designs):
    rng = np.random.default_rng(0)
    grid = PixelGrid.linear(7000.0, 7299.0, 1.0)
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    band = np.exp(-(((grid.wave_aa - 7150.0) / 40.0) ** 2))
    missing = np.where(np.arange(grid.n_pix) % 7 == 0, 0.02, 0.0)
    corners = [1 - (0.2 * i + 0.1 * j) * band for j in (0, 1) for i in (0, 1)]
    theory, nature = (
        TableModel(jnp.asarray(np.array(corners) - lost, jnp.float32), jnp.ones(300), space, grid)
        for lost in (0.0, missing)
    )
    n = 600
    labels = np.c_[rng.uniform(3200, 3800, n), rng.uniform(-0.8, 0.3, n)]
    scaled = space.scale(jnp.asarray(labels, jnp.float32))
    sigma = rng.uniform(0.01, 0.02, (n, 1)) * np.ones(grid.n_pix)
    flux = np.asarray(nature.predict_scaled_batch(scaled)) + sigma * rng.normal(size=sigma.shape)
    ivar = (sigma**-2).astype(np.float32)
    domain = ObservedDomain(flux.astype(np.float32), ivar, ivar, grid, np.zeros(n), 1 / sigma[:, 0])
    draws = np.c_[rng.uniform(3200, 3800, 3000), rng.uniform(-0.8, 0.3, 3000)]
    survey = SimpleNamespace(domain=domain, labels=draws)
    found = designs.compare_spectra(theory, survey, {"theory": theory, "oracle": nature}, seed=1)
    assert found["theory"]["gap"] == 1.0
    assert abs(found["oracle"]["gap"]) < 0.1
    assert found["oracle"]["boosted"] < 0.6 < 0.75 < found["theory"]["boosted"]
    assert found["oracle"]["linear"] < 0.6 < 0.75 < found["theory"]["linear"]


def test_anchors_of_a_survey_are_none_of_the_stars_that_are_judged(designs, monkeypatch):
    from experiments import cyclestar_universe

    n = 400
    grid = PixelGrid.linear(7000.0, 7003.0, 1.0)
    ones = np.ones((n, grid.n_pix), np.float32)
    star = np.arange(n) // 2  # two visits each
    domain = ObservedDomain(ones, ones, ones, grid, np.zeros(n), np.full(n, 50.0), star=star)
    labels = np.c_[np.linspace(3100.0, 3900.0, n), np.zeros(n)]
    every = AnchorSample(np.arange(n), labels, np.ones_like(labels))
    found = SimpleNamespace(sample=every)
    universe = SimpleNamespace(theory=SimpleNamespace(label_space=None))
    monkeypatch.setattr(cyclestar_universe, "find_common_stars", lambda *a: found)
    ask = cyclestar_universe.Universe._find_anchors
    anchors = ask(universe, domain, pd.DataFrame(), pd.DataFrame(), 3)
    split = split_domain(n, seed=3, star=star)
    held = np.concatenate([split.validation, split.test])
    assert len(anchors.rows) == len(split.train)
    assert not set(star[anchors.rows]) & set(star[held])
    assert np.array_equal(anchors.labels, labels[anchors.rows])
    monkeypatch.setattr(cyclestar_universe, "find_common_stars", lambda *a: None)
    with pytest.raises(MismatchError, match="no star of the literature"):
        ask(universe, domain, pd.DataFrame(), pd.DataFrame(), 3)
