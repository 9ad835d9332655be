"""Experiments compare methods fairly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.value_added import add_values
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.simulation import FluxSource, MadeSurvey

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="not run from the repository"
)


@pytest.fixture
def survey(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import simulated_survey

    return simulated_survey


def test_a_star_is_given_its_priors_once(survey, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        survey, "fit_files", lambda files, model, out, **given: calls.append((files, given))
    )
    held = FitConfig(priors=(LabelPrior("mh", -0.1, 0.2),))
    for config in (held, FitConfig()):
        fit = tmp_path / "methods" / "fit.parquet"
        survey._fit(tmp_path / "model", fit, {"b.fits", "a.fits"}, config, Silent())
    (files, own), (_, none) = calls
    assert files == ["a.fits", "b.fits"]
    # Priors that are given replace those of a model, and do not come on top of them.
    assert own["options"].priors == held.priors
    assert none["options"].priors == ("model",)
    fit.write_bytes(b"")
    survey._fit(tmp_path / "model", fit, set(), FitConfig(), Silent())
    assert len(calls) == 2


def test_the_paper_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import lamost_dr10

    done = []

    def stage(name, *, fails=False):
        def run(*arguments, **options):
            if fails and name not in done:
                done.append(name)
                raise KeyboardInterrupt
            done.append(name)
            return {"inputs": arguments[0]}

        return run

    for name, stops in (
        ("clean_files", False),
        ("train_emulator_files", False),
        ("train_transfer_files", True),
        ("fit_files", False),
    ):
        monkeypatch.setattr(lamost_dr10, name, stage(name, fails=stops))
    files = [tmp_path / name for name in ("spectra", "grid", "isochrones", "reference", "gaia")]
    for file in files:
        file.touch()
    read = []
    for name in ("read_grid", "read_isochrones", "read_references"):
        monkeypatch.setattr(lamost_dr10, name, read.append)
    data = lamost_dr10.DataConfig(*map(str, files[:4]))
    paper = lamost_dr10.LamostDr10Config(data=data, out=str(tmp_path / "paper"))
    with pytest.raises(KeyboardInterrupt):
        paper.run()
    outcome = paper.run()
    # Tables are found wanting before hours of work, not after.
    assert read == 2 * list(map(str, files[1:4]))
    assert done.count("clean_files") == done.count("train_emulator_files") == 1
    assert done[-2:] == ["train_transfer_files", "fit_files"]
    # What is fitted is what was selected.
    assert outcome["fit"]["inputs"] == [f"@{tmp_path / 'paper' / 'selected.txt'}"]
    with pytest.raises(UsageError, match="gaia"):
        replace(paper, data=replace(data, gaia=str(files[4]))).run()
    done.clear()
    with pytest.raises(UsageError, match=r"--data\.reference: there is no .*nowhere"):
        replace(paper, data=replace(data, reference=str(tmp_path / "nowhere"))).run()
    with pytest.raises(UsageError, match=r"--data\.spectra: there is no .*\*\.fits"):
        replace(paper, data=replace(data, spectra=str(tmp_path / "*.fits"))).run()
    assert not done


@pytest.fixture
def repeats(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import repeat_visits

    return repeat_visits


def make_survey(n_star=300):
    """Fits of three visits of each star, whose velocities are off by what they state, and truth."""
    rng = np.random.default_rng(3)
    star = np.repeat(np.arange(n_star), 3)
    truth = pd.DataFrame({"obsid": np.arange(star.size) + 7, "source_id": star + 100})
    truth["rv_kms"] = rng.normal(0, 30, n_star)[star]
    truth["kind"] = np.where(star % 10 == 1, "giant", "mdwarf")
    truth["is_binary"], truth["failed"] = star % 10 == 2, star % 10 == 3
    fits = truth[["obsid", "source_id"]].assign(flags=np.where(star % 10 == 4, 1, 0))
    fits["SNRr"] = np.exp(rng.uniform(np.log(5), np.log(40), star.size))
    fits["SNRi"] = fits["SNRr"]
    fits["e_RV"] = 70.0 / fits["SNRr"] + 2.0
    off = rng.normal(size=star.size) * fits["e_RV"]
    fits["RV"] = truth["rv_kms"] + np.where(star % 10 < 5, 1e3, off)
    # The order of a catalogue is not that of the truth.
    return fits.sample(frac=1.0, random_state=1).reset_index(drop=True), truth


def test_coverage_is_of_good_single_stars_that_are_held_out(repeats):
    fits, truth = make_survey()
    catalogue = add_values(fits).table
    held_out = truth[(truth["source_id"] % 10 > 0) & (truth["source_id"] < 380)]
    sample = repeats.pair_with_truth(fits, {"excess": catalogue}, held_out)
    assert len(sample) == 28 * 5 * 3
    assert set(sample["quantity"]) == {"rv"}
    np.testing.assert_allclose(sample["formal"], 70.0 / sample["snr"] + 2.0)
    assert (sample["excess"] >= sample["formal"]).all()
    bins = repeats.judge_coverage(sample)["rv"]
    assert [one["snr"] for one in bins] == [[5.0, 10.0], [10.0, 20.0], [20.0, 40.0]]
    assert sum(one["n"] for one in bins) == len(sample)
    for one in bins:
        assert one["stars"] <= 140
        for kind in ("formal", "excess"):
            assert one[kind]["within_1_sigma"] == pytest.approx(0.68, abs=0.12)
            assert one[kind]["within_2_sigma"] > 0.9
    assert "paper" not in bins[0]
    everything = sample["away"].to_numpy()
    assert sum(one["n"] * one["rms"] ** 2 for one in bins) == pytest.approx(
        np.sum(everything**2), rel=1e-3
    )
    spread = sum(one["n"] * one["rms_of_the_mean"] ** 2 for one in bins) / len(sample)
    assert spread == pytest.approx(np.var(sample["truth"]), rel=1e-3)
    assert bins[0]["scatter"] > bins[2]["scatter"]
    shares, sizes = repeats.render_coverage({"rv": bins}).split("\n\n")
    assert shares.splitlines()[0] == "|  | 5-10 | 10-20 | 20-40 |"
    assert shares.splitlines()[2].split(" | ")[1] == f"{bins[0]['n']} / {bins[0]['stars']}"
    within = (100 * bins[1]["excess"][f"within_{one}_sigma"] for one in (1, 2))
    assert shares.splitlines()[4].startswith("| RV: total | ")
    assert shares.splitlines()[4].split(" | ")[2] == " / ".join(f"{one:.0f}" for one in within)
    assert len(shares.splitlines()) == 5
    assert sizes.splitlines()[2].startswith("| RV (km/s) | ")
    endless = {"rv": [{**bins[0], "snr": [80.0, None]}]}
    assert repeats.render_coverage(endless).startswith("|  | > 80 |")


def test_stars_far_from_the_mean_are_told_apart_and_so_is_a_scale_that_shrinks(repeats):
    rng = np.random.default_rng(0)
    n = 4000
    mh, snr = rng.uniform(-1.2, 0.4, n), rng.uniform(5, 60, n)
    alpha = rng.uniform(0.0, 0.4, n)
    sample = pd.concat(
        [
            pd.DataFrame(
                {
                    "quantity": name,
                    "snr": snr,
                    "truth": truth,
                    "away": shrink * (truth - truth.mean()) + 0.01 * rng.standard_normal(n),
                    "away_lik": 0.02 + 0.01 * rng.standard_normal(n),
                }
            )
            for name, truth, shrink in (("mh", mh, -0.2), ("alpha_m", alpha, -0.5))
        ],
        ignore_index=True,
    )
    sample.loc[:20, "away_lik"] = np.nan
    found = repeats.judge_far_stars(sample)
    poor = (mh > -1.0) & (mh < -0.7)
    assert found["all"]["metal_poor"]["n"] == np.count_nonzero(poor)
    assert found["bright"]["metal_poor"]["n"] == np.count_nonzero(poor & (snr >= 30))
    assert found["all"]["metal_poor"]["bias"] == pytest.approx(0.2 * 0.45, abs=0.01)
    assert found["all"]["metal_poor"]["bias_lik"] == pytest.approx(0.02, abs=0.005)
    assert found["bright"]["alpha_rich"]["bias"] == pytest.approx(-0.5 * 0.125, abs=0.01)
    assert found["all"]["slope"]["away"] == pytest.approx(0.8, abs=0.01)
    assert found["all"]["slope"]["away_lik"] == pytest.approx(1.0, abs=0.01)
    few = repeats.judge_far_stars(sample[sample["quantity"] == "teff"])
    assert few == {name: {"slope": {"away": None, "away_lik": None}} for name in ("bright", "all")}


def test_injected_scatter_is_found_on_the_visits_of_a_survey(repeats):
    catalogue = add_values(make_survey(600)[0]).table
    found = repeats.inject_precision(catalogue, 8, 0)["teff"]
    assert found["injected"] == [433.0, 17.7]
    assert np.abs(found["mean_pull"]).max() < 1.4
    assert found["found"][0] == pytest.approx(433.0, abs=4 * found["errors"][0])


def test_a_survey_has_the_gap_and_the_seed_that_are_asked_for(repeats, monkeypatch, tmp_path):
    made = []

    def simulate(folder, *, config, progress):
        made.append(config)
        folder.mkdir(parents=True)
        pd.DataFrame({"source_id": [1, 2], "file": ["a", "b"]}).to_parquet(folder / "truth.parquet")

    monkeypatch.setattr(repeats, "simulate_files", simulate)
    monkeypatch.setattr(repeats, "train_transfer_files", lambda *args, **more: None)
    monkeypatch.setattr(repeats, "fit_files", lambda *args, **more: None)
    config = repeats.RepeatVisitsConfig(gap=2.0)
    config._make_survey(tmp_path / "5", 5, tmp_path, None)
    assert made[0].seed == 5
    assert made[0].gap == config.survey.gap.scaled(2.0)
    assert made[0].gap.damping == 2.0


def test_surveys_of_another_gap_are_not_taken_up(repeats, monkeypatch, tmp_path):
    monkeypatch.setattr(repeats, "train_theory", lambda *args: tmp_path)

    def stop(self, folder, seed, emulator, progress):
        folder.mkdir()
        raise KeyError(seed)

    monkeypatch.setattr(repeats.RepeatVisitsConfig, "_make_survey", stop)
    first = repeats.RepeatVisitsConfig(out=str(tmp_path), seeds=(3,))
    with pytest.raises(KeyError, match="3"):
        first.run()
    with pytest.raises(KeyError, match="4"):
        replace(first, seeds=(4,)).run()
    with pytest.raises(UsageError):
        replace(first, gap=2.0).run()


def test_a_transfer_sees_all_visits_of_its_stars_and_leaves_some_to_judge(repeats):
    config = repeats.RepeatVisitsConfig(n_train=4)
    truth = pd.DataFrame({"source_id": [5, 5, 6, 7, 7, 7, 8]})
    assert config._seen(truth).tolist() == [True] * 6 + [False]
    with pytest.raises(UsageError, match="nothing is left to judge"):
        repeats.RepeatVisitsConfig(n_train=5000)


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import gap_ablation

    return gap_ablation


def test_each_cause_of_the_gap_is_switched_alone_or_is_the_one_left_out(ablation):
    only = ablation.GapAblationConfig(causes=("telluric_residuals", "physics"))
    gaps = only.list_gaps()
    assert list(gaps) == ["none", "all", "telluric_residuals", "physics"]
    assert gaps["telluric_residuals"].active == ("telluric_residuals",)
    assert gaps["none"].active == ()
    assert len(gaps["physics"].active) == 5
    without = replace(only, mode="without").list_gaps()
    assert set(gaps["all"].active) - set(without["telluric_residuals"].active) == {
        "telluric_residuals"
    }
    with pytest.raises(UsageError, match="unknown"):
        replace(only, causes=("weather",))
    with pytest.raises(UsageError, match="nothing is left to judge"):
        replace(only, n_train=1200)


def make_study(bias, scatter):
    labels = {name: {"bias": bias, "scatter": scatter} for name in ("teff", "logg", "mh")}
    return {fit: {"labels": labels} for fit in ("theory", "theory_with_priors", "transfer")}


def test_causes_cost_what_a_survey_without_a_gap_does_not_show(ablation):
    studies = {"none": make_study(2.0, 3.0), "all": make_study(12.0, 5.0)}
    studies["telluric_residuals"] = make_study(-1.0, 1.0)
    costs = ablation.compare_costs(studies, "none")
    assert costs["all"]["theory"]["teff"] == pytest.approx({"bias": 10.0, "scatter": 4.0})
    assert costs["telluric_residuals"]["transfer"]["mh"] == pytest.approx(
        {"bias": -3.0, "scatter": -(8.0**0.5)}
    )
    assert "none" not in costs


def test_causes_that_are_done_are_not_done_again(ablation, monkeypatch, tmp_path):
    done = []

    def study(self, gap, emulator, sources, progress):
        done.append(gap.active)
        return make_study(float(len(gap.active)), 1.0)

    monkeypatch.setattr(ablation.GapAblationConfig, "_study", study)
    monkeypatch.setattr(ablation, "train_theory", lambda root, n_grid, progress: root)
    monkeypatch.setattr(ablation, "load_model", lambda folder: None)
    config = ablation.GapAblationConfig(out=str(tmp_path / "out"), causes=("damping",))
    config.run()
    outcome = replace(config, causes=("damping", "cosmic_rays")).run()
    assert done == [(), DomainGap.full().active, ("damping",), ("cosmic_rays",)]
    assert outcome["costs"]["all"]["theory"]["teff"]["bias"] == 15.0
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(kept["costs"]) == {"all", "damping", "cosmic_rays"}
    table = (tmp_path / "out" / "costs.md").read_text()
    assert "| damping | +1.0, +0.0 | +1.0, +0.0 | +1.000, +0.000 |" in table
    with pytest.raises(UsageError):
        replace(config, n_train=700).run()


def test_no_star_is_both_learned_from_and_judged(ablation):
    stars = np.array([5, 5, 6, 7, 7, 8, 8, 9])
    reference = {
        name: np.array([5.0, 7.0, 8.0])
        for name in ("source_id", "teff", "logg", "mh", "ra_deg", "dec_deg")
    }
    rows = np.array([0, 2, 3, 4, 5, 6, 7])
    made = MadeSurvey(list(rows), [], rows, {"truth": {"source_id": stars}, "reference": reference})
    learned, judged, known = ablation.divide_survey(made, 4)
    assert learned == [0, 2, 3, 4]
    assert judged == [5, 6, 7]
    assert known["source_id"].tolist() == [5.0, 7.0]


def test_fluxes_of_theory_are_computed_once_for_all_causes_that_leave_it_alone(
    ablation, monkeypatch
):
    calls = []

    def source(gap, *, seed):
        def synthesize(labels):
            calls.append((gap.active, len(labels)))
            return 2.0 * labels

        return FluxSource(np.ones(3), synthesize)

    monkeypatch.setattr(ablation, "nature_source", source)
    sources = ablation._Sources()
    labels = np.arange(8.0).reshape(2, 4)
    for cause in ("cosmic_rays", "lsf_shape", "damping"):
        found = sources.find(DomainGap.only(cause), 31).synthesize(labels)
        np.testing.assert_array_equal(found, 2.0 * labels)
    sources.find(DomainGap.none(), 31).synthesize(labels + 1)
    assert calls == [((), 2), (("damping",), 2), ((), 2)]
