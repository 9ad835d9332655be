"""The whole pipeline, with toy physics in place of the simulated: everything there, all counted.

The toy star has bands whose depths follow its labels, so that the labels can be found again.
"""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf import quality
from jaxmdwarf.catalogue.columns import TABLE_1
from jaxmdwarf.diagnostics.recovery import Comparison, Pulls, measure_recovery
from jaxmdwarf.diagnostics.residuals import ResidualSummary
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.measure.kind import BANDS
from jaxmdwarf.measure.windows import window_in_vacuum
from jaxmdwarf.quickstart import findings, report
from jaxmdwarf.quickstart import run as quickstart
from jaxmdwarf.quickstart.products import Outcome, Products, QuickstartConfig, find_held_out
from jaxmdwarf.quickstart.run import run_quickstart
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.wavelengths import PixelGrid, is_within
from jaxmdwarf.workflows.judging import Judgement
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.simulation import FluxSource
from jaxmdwarf.workflows.transfer import TransferConfig

STEPS = (
    "nature_source",
    "train_emulator_files",
    "train_transfer_files",
    "fit_files",
)
WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 4.5e-5))
N_SPECTRA = 200
CONFIG = QuickstartConfig(
    n_spectra=N_SPECTRA,
    n_grid=96,
    seed=2,
    gap=DomainGap.none(),
    oracle=True,
    training=EmulatorConfig(
        network=NetworkConfig(hidden=(48,), rank=8),
        optimiser=OptimiserConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(steps=600),
    ),
    options=TransferConfig(
        method=Matched(
            MatchedConfig(
                order=0,
                strengths=(1.0,),
                n_passes=1,
                n_nuisance=0,
                min_snr=5.0,
                least_common=20,
                n_resample=2,
            )
        ),
        n_draws=20_000,
        # Toy stars are not what isochrones say.
        min_overlap=0.0,
    ),
    fitting=FitConfig(chunk_size=64, schedule=FitScheduleConfig(batch_size=32)),
)


def toy_flux(labels):
    scaled = LabelSpace.mdwarf().scale(np.asarray(labels, np.float64))
    rng = np.random.default_rng(0)
    centre = rng.uniform(5900, 9100, (60, 1))
    bands = np.exp(-0.5 * ((WAVE_AA - centre) / rng.uniform(3, 8, (60, 1))) ** 2)
    depth = 0.35 * (1 + np.tanh(1.5 * scaled @ rng.normal(0, 1, (4, 60))))
    # Beside them, TiO and CaH of an M1, or no star would count as an M dwarf.
    molecules = np.zeros(WAVE_AA.size)
    for band in BANDS.values():
        molecules[is_within(WAVE_AA, window_in_vacuum(*band.band_aa))] = 2 * band.depth_m0
    # The giants and K dwarfs of a survey lie outside the label space.
    return (1e5 * np.exp(-np.clip(depth, 0.0, 1.0) @ bands - molecules)).astype(np.float32)


@pytest.fixture(scope="module")
def built():
    """How often physics was asked for."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, built):
    folder = tmp_path_factory.mktemp("run") / "first"
    with pytest.MonkeyPatch.context() as patch:

        def toy_source(gap, *, seed):
            built.append(gap)
            return FluxSource(WAVE_AA, toy_flux)

        patch.setattr(quickstart, "nature_source", toy_source)
        metrics = run_quickstart(folder, CONFIG, processes=1)
    return folder, metrics


def test_no_spectrum_is_lost(run):
    folder, metrics = run
    counts = metrics["counts"]
    assert counts["input"] == N_SPECTRA == counts["catalogue"] + counts["rejected"]
    catalogue = read_table(folder / "catalogue.fits")
    assert len(catalogue) == counts["catalogue"]
    assert len(read_rejects(folder / "catalogue_rejects.csv")) == counts["rejected"]
    inputs = {path.name for path in (folder / "survey" / "spectra").iterdir()}
    assert {path.rsplit("/", 1)[-1] for path in catalogue["path"]} <= inputs


def test_metrics_have_the_names_that_others_rely_on(run):
    folder, metrics = run
    written = json.loads((folder / "metrics.json").read_text())
    assert written == metrics
    for name in ("eq1_median", "eq1_p95"):
        assert 0 < written["emulator"][name] < 1
    assert written["fit"]["spectra_per_s"] > 0
    assert 0.9 < written["fit"]["converged_fraction"] <= 1
    assert written["wall_s"] == pytest.approx(sum(written["timing_s"].values()), abs=0.1)
    for group in ("labels", "labels_snr50"):
        for variant in ("none", "transfer", "oracle"):
            assert set(written[group][variant]) == {"teff", "logg", "mh", "alpha_m", "rv"}
            assert {"bias", "scatter"} <= set(written[group][variant]["teff"])
    transfer = written["transfer"]
    for group in ("residual_sigma", "residual_sigma_snr20", "classifier_accuracy"):
        assert set(transfer[group]) == {"none", "transfer", "oracle"}
    # So few bright spectra are held out that no classifier can be trained.
    assert set(transfer["classifier_accuracy"].values()) == {None}
    assert all(0.4 < value < 3 for value in transfer["residual_sigma"].values())
    assert transfer["iterations_per_s"] > 0
    for pull in written["pulls"].values():
        assert {"mean", "width"} <= set(pull)


def test_labels_are_found_again_without_a_domain_gap(run):
    _, metrics = run
    labels = metrics["labels"]["none"]
    assert abs(labels["teff"]["bias"]) < 60
    assert labels["teff"]["scatter"] < 250
    assert abs(labels["mh"]["bias"]) < 0.15
    assert abs(labels["rv"]["bias"]) < 10
    # Without a gap the oracle's grid is that of theory.
    assert metrics["labels"]["oracle"] == labels


def test_transfers_are_judged_on_spectra_that_they_were_not_trained_on(run):
    folder, metrics = run
    observed = read_table(folder / "transfer" / "observed.parquet")
    trained = set(observed["path"][observed["part"] == "train"])
    held_out = find_held_out(Products(folder), CONFIG)
    assert not trained & held_out
    assert trained | held_out == set(read_table(folder / "work" / "fit.parquet")["path"])
    assert metrics["validation"]["transfer"]["catalogue"] == len(held_out)


def test_without_a_gap_one_physics_serves_theory_and_nature(run, built):
    assert built == [DomainGap.none()]


def test_the_catalogue_has_the_columns_of_the_paper(run):
    folder, _ = run
    catalogue = read_table(folder / "catalogue.fits")
    assert set(TABLE_1) - set(catalogue.columns) == {"VBFlag"}  # nothing tells of binaries here
    ours = {"path", "good", "EW_Halpha", "alpha_M", "e_alpha_M", "chi2_red", "n_pix", "flags"}
    assert ours <= set(catalogue.columns)
    assert catalogue.attrs["provenance"]["model_trained_on"] == "a simulation"
    assert catalogue.attrs["units"]["Plx"] == "mas"
    truth = read_table(folder / "survey" / "truth.parquet")
    gaia = read_table(folder / "survey" / "gaia.parquet").set_index("source_id")
    truth.index = truth["obsid"].astype(int)
    for row in catalogue.itertuples():
        star = gaia.loc[truth.loc[row.obsid, "source_id"]]
        assert row.Gmag == pytest.approx(star["g_mag"])


def test_the_value_added_catalogue_has_the_same_rows_and_counts_the_cuts(run):
    folder, metrics = run
    before, after = (read_table(folder / name) for name in ("catalogue.fits", "value_added.fits"))
    assert after["obsid"].tolist() == before["obsid"].tolist()
    assert set(TABLE_1) <= set(after.columns)
    assert (after["e_Teff"].to_numpy() >= before["e_Teff"].to_numpy())[before["good"]].all()
    counts = metrics["value_added"]["counts"]
    assert counts["catalogue"] == len(after) == metrics["counts"]["catalogue"]
    truth = read_table(folder / "survey" / "truth.parquet")
    assert counts["stars"] <= truth["source_id"].nunique()
    steps = [one["name"] for one in metrics["value_added"]["waterfall"]]
    assert steps == ["low_snr", "too_hot", "logg_near_bound", "large_error", "bad_chi2"]
    assert (folder / "value_added_waterfall.csv").exists()


def test_the_report_stands_alone_and_says_that_it_is_a_simulation(run):
    folder, metrics = run
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "url(" not in page
    assert "<script" not in page
    assert "trained on the package's own theory" in page.replace("&#39;", "'")
    assert page.count("data:image/png") == len(list((folder / "figures").glob("*.png"))) >= 11
    counts = metrics["counts"]
    assert f"{counts['input']} files in = {counts['catalogue']} in the catalogue" in page
    for reject in read_rejects(folder / "catalogue_rejects.csv")[:5]:
        assert reject.path.rsplit("/", 1)[-1] in page


def test_the_figures_of_the_paper_that_the_method_has_are_there(run):
    folder, _ = run
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"residuals", "domains", "spectrum", "processing", "kiel"} <= names
    # Those of the catalogue, which has photometry and parallaxes.
    assert {"sky", "hr", "types"} <= names
    # A correction has no training to draw; networks have.
    assert "training" not in names
    judgements = {"none": make_judgement(), "transfer": make_judgement()}
    outcome = Outcome(Products(folder), CONFIG, {}, pd.DataFrame(), None, {}, judgements, {})
    (folder / "transfer" / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "rec_synth": 1 / step}) + "\n" for step in (10, 20))
    )
    assert set(report._plot_transfer(outcome)) == {"residuals", "training"}
    (folder / "transfer" / "metrics.jsonl").write_text("")


def make_judgement():
    summary = ResidualSummary(np.ones(3), np.ones(5), 1.0, 1.0)
    return Judgement(summary, summary, None, PixelGrid.linear(6000.0, 6004.0, 1.0))


def forbid_stages(monkeypatch):
    for name in STEPS:
        monkeypatch.setattr(quickstart, name, None)


def test_a_finished_run_is_told_so_or_gives_its_metrics(run, monkeypatch):
    folder, metrics = run
    forbid_stages(monkeypatch)
    with pytest.raises(UsageError, match="finished quickstart") as caught:
        run_quickstart(folder, CONFIG)
    assert "--overwrite" in caught.value.remedy
    assert run_quickstart(folder, CONFIG, finished="return") == metrics
    # A run with an oracle is also the one without.
    assert run_quickstart(folder, replace(CONFIG, oracle=False), finished="return") == metrics


def test_a_run_that_was_stopped_goes_on_and_one_without_an_oracle_may_get_one(run, monkeypatch):
    folder, metrics = run
    record = folder / "work" / "run.json"
    kept = json.loads(record.read_text())
    kept["steps"]["report"] = kept["steps"].pop("report with oracle")
    record.write_text(json.dumps(kept))
    (folder / "report.html").unlink()
    forbid_stages(monkeypatch)
    # The same figures once more.
    picture = (folder / "figures" / "kiel.png").read_bytes()
    monkeypatch.setattr(report, "render_png", lambda figure: picture)
    plain = run_quickstart(folder, replace(CONFIG, oracle=False), finished="return")
    assert plain["labels"]["none"] == metrics["labels"]["none"]
    again = run_quickstart(folder, CONFIG)
    for name in ("counts", "labels", "pulls", "emulator", "fit"):
        assert again[name] == metrics[name]
    assert (folder / "report.html").exists()


def test_a_folder_of_another_run_is_left_alone(run, tmp_path):
    folder, _ = run
    with pytest.raises(UsageError, match=f"n_spectra {N_SPECTRA} instead of 249"):
        run_quickstart(folder, QuickstartConfig(n_spectra=249))
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="left alone"):
            run_quickstart(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("wrong", [{"n_spectra": 3}, {"n_grid": 0}, {"seed": -1}])
def test_sizes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="quickstart"):
        QuickstartConfig(transfer="none", **wrong)


def test_too_few_spectra_for_a_transfer_are_refused_before_any_work():
    with pytest.raises(UsageError, match="leave the transfer out"):
        QuickstartConfig(n_spectra=100)
    assert QuickstartConfig(n_spectra=100, transfer="none").transfer == "none"
    # A remedy is one that works.
    with pytest.raises(UsageError, match="give at least 200 spectra"):
        QuickstartConfig(n_spectra=3)


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", ".run.tmp-abcdefgh.json")])
def test_a_run_that_was_killed_with_its_first_step_is_not_in_the_way(tmp_path, monkeypatch, left):
    class Begun(Exception):
        pass

    def begin(stages):
        raise Begun

    monkeypatch.setattr(quickstart._Stages, "make_catalogue", begin)
    work = tmp_path / "first" / "work"
    work.mkdir(parents=True)
    for name in left:
        (work / name).touch()
    with pytest.raises(Begun):
        run_quickstart(tmp_path / "first", CONFIG)
    # Folders of somebody else, empty or not, are.
    (tmp_path / "other" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="left alone"):
        run_quickstart(tmp_path / "other", CONFIG)


def test_the_worst_fits_are_shown_with_their_flags(run):
    folder, _ = run
    catalogue = read_table(folder / "catalogue.fits")
    worst = findings.choose_worst(catalogue)
    assert len(worst) == findings.N_WORST
    others = catalogue[~catalogue["path"].isin(worst["path"])]["chi2_red"].to_numpy()
    assert worst["chi2_red"].is_monotonic_decreasing
    assert np.nanmax(others) <= worst["chi2_red"].min()
    assert (folder / "figures" / "worst.png").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h2>The 20 worst fits") : page.index("<h2>Rejected files")]
    for path, flags in zip(worst["path"], worst["flags"], strict=True):
        assert path.rsplit("/", 1)[-1] in section
        assert flags == 0 or any(
            bit.name in section for bit in quality.FLAG_TABLE if int(flags) & bit
        )


def make_metrics(**changed):
    metrics = {
        "counts": {"input": 100, "rejected": 0},
        "fit": {"converged_fraction": 1.0},
        "emulator": {"eq1_median": 0.001},
        "transfer": {"classifier_accuracy": {"none": 0.9, "transfer": 0.55}},
    }
    return {**metrics, **changed}


def make_validation(mean, width):
    pulls = Pulls(50, mean, width, std=1.0, e_mean=0.1, e_width=0.1, outliers=0.0)
    comparison = Comparison(measure_recovery(np.zeros(3)), pulls, ())
    return SimpleNamespace(comparisons={"teff": comparison})


@pytest.mark.parametrize(
    ("metrics", "pulls", "flags", "finding"),
    [
        ({}, (0.2, 1.1), 0, None),
        ({}, (0.2, 2.0), 0, "errors of Teff are too small: pulls are 2.0 wide"),
        ({}, (0.2, 0.5), 0, "errors of Teff are too large"),
        ({}, (-1.6, 1.0), 0, "Teff is off by -1.6 of its errors"),
        ({"emulator": {"eq1_median": 0.02}}, (0.0, 1.0), 0, "the emulator is off by 2.00%"),
        ({"counts": {"input": 100, "rejected": 40}}, (0.0, 1.0), 0, "40 of 100 files"),
        ({"fit": {"converged_fraction": 0.5}}, (0.0, 1.0), 0, "only 50% of the fits"),
        ({"transfer": {"classifier_accuracy": {"none": 0.9}}}, (0.0, 1.0), 0, "tells models"),
        ({}, (0.0, 1.0), int(quality.QualityFlag.BAD_CHI2), "only 0% of the spectra are good"),
    ],
)
def test_a_bad_number_is_told_with_what_helps(metrics, pulls, flags, finding):
    table = pd.DataFrame({"flags": np.full(4, flags)})
    found = findings.list_findings(make_metrics(**metrics), make_validation(*pulls), table)
    if finding is None:
        assert found == []
        assert "No number of this run is bad" in findings.write_findings(found).blocks[0].text
    else:
        ((told, remedy),) = found
        assert finding in told
        assert remedy
        assert findings.write_findings(found).blocks[0].rows == found
