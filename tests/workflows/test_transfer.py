"""From files to a transfer: nothing lost, resumed where it was stopped, refused before hours."""

import json
import shutil
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.rows import describe_kinds
from jaxmdwarf.cli import main
from jaxmdwarf.errors import MismatchError, UsageError, WorkFailed
from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.io.models import describe_model, load_model, save_model
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import ReadTask
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.continuum import pseudo_continuum
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.training.labels.isochrones import LabelCutsConfig
from jaxmdwarf.training.labels.mixture import MixtureConfig
from jaxmdwarf.training.labels.training_set import TrainingSetConfig, sample_training_labels
from jaxmdwarf.training.transfer.distil import DistillationConfig
from jaxmdwarf.training.transfer.domain import split_domain
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import transfer as stages
from jaxmdwarf.workflows.methods import registry
from jaxmdwarf.workflows.methods.base import TransferMethod
from jaxmdwarf.workflows.methods.cyclestar import (
    CycleStar,
    MatchedThenCycleStar,
    MetricsLog,
    NotedCheckpoints,
)
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.methods.registry import (
    build_transfer_method,
    list_transfer_methods,
    register_transfer_method,
)
from jaxmdwarf.workflows.observed import ObservedConfig, prepare_observed
from jaxmdwarf.workflows.packing import pack_files
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.transfer import (
    TransferConfig,
    choose_reference,
    train_transfer_files,
)

GRID = PixelGrid.linear(6000.0, 6500.0, 1.0)
N_STAR = 60
TINY = CycleStarSizes(
    n_pix=GRID.n_pix,
    domain=ConvLayers((4,), (8,), (8,)),
    shared=ConvLayers((6,), (4,), (4,)),
    split_channels=(3,),
    shared_latents=3,
    split_latents=1,
    critic_flux=ConvLayers((4,), (8,), (8,)),
    critic_latents=(4,),
    centred=True,
)
OPTIONS = TransferConfig(
    method=CycleStar(
        CycleStarConfig().vary(own_sizes=TINY, batch_size=8, steps=30, report_every=10),
        DistillationConfig(
            n_spectra=64,
            training=EmulatorConfig(
                network=NetworkConfig(hidden=(8,), rank=4),
                schedule=ScheduleConfig(steps=40, report_every=20),
            ),
        ),
    ),
    observed=ObservedConfig(
        velocity="header",
        chunk_size=32,
        max_teff=None,
        m_dwarfs_only=False,  # toy spectra have no bands
        schedule=FitScheduleConfig(batch_size=32),
    ),
    labels=TrainingSetConfig(mixture=MixtureConfig(n_components=(2,))),
    n_draws=4000,
    min_overlap=0.0,
    force=True,  # thirty steps learn nothing that could stand
)


def make_emulator():
    """An untrained network in front of narrow bands, which normalising leaves as they are."""
    rng = np.random.default_rng(6)
    wave = GRID.wave_aa
    centre = np.linspace(6015, 6485, 24) + rng.normal(0, 5, 24)
    lines = np.exp(-0.5 * ((wave - centre[:, None]) / rng.uniform(3, 7, (24, 1))) ** 2)
    basis = jnp.asarray(rng.normal(0, 0.06, (6, 24)) @ lines, jnp.float32)
    good = jnp.ones((1, GRID.n_pix), bool)
    for _ in range(6):
        basis = basis - pseudo_continuum(basis, good, GRID)
    network = PayneNetwork(hidden=(16,), n_out=6, activation="tanh")
    return PayneEmulator(
        init_payne(network, jax.random.key(1), 4),
        basis,
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        LabelSpace.mdwarf(),
        GRID,
        Preprocessing(sigma_aa=30.0, resolving_power=1800.0, simulated=True),
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(make_emulator(), tmp_path_factory.mktemp("model") / "emulator")


@pytest.fixture(scope="module")
def survey(tmp_path_factory, write_stars):
    """LAMOST files of moving stars, one empty file and one spectrum twice."""
    folder = tmp_path_factory.mktemp("survey")
    rng = np.random.default_rng(9)
    emulator = make_emulator()
    labels = sample_training_labels(n_draws=N_STAR, seed=3, config=OPTIONS.labels).labels
    rest = np.asarray(
        emulator.predict_scaled_batch(emulator.label_space.scale(jnp.asarray(labels)))
    )
    rv_kms = rng.uniform(-150, 150, N_STAR)
    write_stars(folder, GRID, rest, rv_kms, 30.0, rng, log10_start=3.765, n_pix=620, snr_r=30.0)
    (folder / "star-010-empty.fits").write_bytes(b"")
    shutil.copy(folder / "star-005.fits.gz", folder / "star-070-again.fits.gz")
    return folder, rest, rv_kms


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    labels = sample_training_labels(n_draws=400, seed=5, config=OPTIONS.labels).labels
    path = tmp_path_factory.mktemp("reference") / "literature.csv"
    pd.DataFrame({"teff": labels[:, 0], "mh": labels[:, 2]}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def train(survey, model_dir, reference):
    """Trains on the survey: labels as frequent as the reference has them, one compiled program."""

    def run(out, options=OPTIONS, **more):
        files = [survey[0]]
        return train_transfer_files(files, model_dir, reference, out, options, processes=1, **more)

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "transfer"
    return out, train(out)


def with_networks(**changes):
    method = OPTIONS.method
    return replace(OPTIONS, method=replace(method, settings=method.settings.vary(**changes)))


def prepare(folder, cache, options=OPTIONS.observed):
    return prepare_observed([folder], make_emulator(), options, cache=cache, processes=1)


def test_spectra_are_at_rest_normalised_and_every_input_is_accounted_for(survey, tmp_path):
    folder, rest, rv_kms = survey
    prepared = prepare(folder, tmp_path / "cache")
    assert prepared.n_in == N_STAR + 2 == prepared.domain.n_spec + len(prepared.rejects)
    row = prepared.table["obsid"].astype(int).to_numpy() - 1000
    domain = prepared.domain
    assert np.allclose(domain.frame_kms, rv_kms[row], atol=0.01)
    good = domain.ivar > 0
    pull = (domain.flux - rest[row])[good] * np.sqrt(domain.ivar[good])
    assert abs(np.median(np.abs(pull)) / 0.6745 - 1) < 0.1
    assert domain.names == tuple(prepared.table["path"])


def test_a_cache_is_read_instead_of_the_files_and_only_for_the_same_call(
    survey, tmp_path, monkeypatch
):
    folder, cache = survey[0], tmp_path / "cache"
    first = prepare(folder, cache)
    (cache / "chunk-000001.json").unlink()  # as if killed in the second chunk
    done, opened = {str(path) for path in sorted(folder.iterdir())[:32]}, []
    read = ReadTask.__call__
    monkeypatch.setattr(
        ReadTask, "__call__", lambda self, path: opened.append(path) or read(self, path)
    )
    again = prepare(folder, cache)
    assert len(opened) == N_STAR + 2 - 32
    assert not done & set(opened)
    assert np.array_equal(again.domain.flux, first.domain.flux)
    assert [tuple(reject) for reject in again.rejects] == [
        tuple(reject) for reject in first.rejects
    ]
    other = replace(OPTIONS.observed, min_snr=1.0)
    with pytest.raises(UsageError, match=r"options\.min_snr 0\.0 instead of 1\.0"):
        prepare(folder, cache, other)
    opened.clear()
    prepare_observed([folder], make_emulator(), other, cache=cache, overwrite=True, processes=1)
    assert len(opened) == N_STAR + 2


def test_a_pack_gives_the_domain_of_its_files(survey, tmp_path):
    pytest.importorskip("zarr")
    files = sorted(survey[0].glob("star-0[0-3]*.gz"))
    pack_files(files, tmp_path / "survey.zarr", processes=1)
    options = replace(OPTIONS.observed, max_spectra=20)
    expected, prepared = (
        prepare_observed(some, make_emulator(), options, cache=tmp_path / name, processes=1)
        for name, some in (("files", files), ("pack", [tmp_path / "survey.zarr"]))
    )
    assert np.array_equal(prepared.domain.flux, expected.domain.flux)
    assert np.array_equal(prepared.domain.information, expected.domain.information)
    pd.testing.assert_frame_equal(prepared.table, expected.table, check_exact=True)
    left, others = ([one[:2] for one in some.rejects] for some in (prepared, expected))
    assert left == others
    assert len(left) == len(files) - 20


def test_too_many_files_are_chosen_from_at_random_and_the_others_say_so(survey, tmp_path):
    prepared = prepare(survey[0], tmp_path / "c", replace(OPTIONS.observed, max_spectra=20))
    assert prepared.n_in == N_STAR + 2
    left = [reject for reject in prepared.rejects if "not among the 20" in reject.reason]
    assert len(left) == N_STAR + 2 - 20


def test_what_is_no_m_dwarf_by_its_bands_is_left_out_and_counted(survey, tmp_path, monkeypatch):
    everything = prepare(survey[0], tmp_path / "all")
    assert everything.n_not_m_dwarf == 0
    strange = set(everything.table["path"].iloc[[3, 17]])

    def describe(wave_aa, flux, ivar, *, metas, **more):
        columns, _ = describe_kinds(wave_aa, flux, ivar, metas=metas, **more)
        not_m = [meta["path"] in strange for meta in metas]
        return columns, np.where(not_m, int(QualityFlag.NOT_M_DWARF), 0)

    monkeypatch.setattr("jaxmdwarf.catalogue.rows.describe_kinds", describe)
    options = replace(OPTIONS.observed, m_dwarfs_only=True)
    prepared = prepare(survey[0], tmp_path / "m dwarfs", options)
    assert prepared.n_not_m_dwarf == 2
    assert prepared.domain.n_spec == everything.domain.n_spec - 2
    assert not strange & set(prepared.table["path"])
    assert strange <= {reject.path for reject in prepared.rejects}


def test_stars_that_are_too_hot_are_left_out_with_their_temperature(survey, tmp_path):
    everything = prepare(survey[0], tmp_path / "all")
    limit = float(everything.table["Teff"].median())
    options = replace(OPTIONS.observed, max_teff=limit)
    prepared = prepare(survey[0], tmp_path / "cool", options)
    hot = [reject for reject in prepared.rejects if "fitted Teff" in reject.reason]
    assert len(hot) == int((everything.table["Teff"] > limit).sum()) > 10
    assert prepared.table["Teff"].max() <= limit
    coldest = replace(options, max_teff=1.0)
    with pytest.raises(WorkFailed, match="none of 62 inputs"):
        prepare(survey[0], tmp_path / "coldest", coldest)


def test_the_model_directory_holds_the_transfer_and_its_history(trained):
    out, summary = trained
    model = load_model(out)
    assert isinstance(model, CycleStarModel)
    assert model.predict(jnp.array([3400.0, 4.9, 0.0, 0.0])).shape == (GRID.n_pix,)
    assert not out.with_name("transfer.partial").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["counts"] == {
        "input": N_STAR + 2,
        "used": N_STAR,
        "rejected": 2,
        "not_m_dwarf": 0,
    }
    assert metrics["transfer"]["steps"] == summary["steps"] == 30
    distilled = metrics["transfer"]["distillation"]
    assert 0 < distilled["rms"] < distilled["untouched_rms"]
    assert model.surrogate().accurate
    assert set(metrics["transfer"]["classifier_accuracy"]) == {"none", "transfer"}
    assert metrics["training_labels"]["n_training"] > 100
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert len(pd.read_parquet(out / "observed.parquet")) == N_STAR
    assert len(read_rejects(out.with_name("transfer_rejects.csv"))) == 2
    about = describe_model(out)
    assert about["training"]["config"]["method"] == "cyclestar"
    assert about["provenance"]["source"]["reference"] == ["literature.csv"]


def test_a_faulty_transfer_is_refused_and_kept_when_forced(train, tmp_path, monkeypatch):
    fault = "the critic of the observed domain is saturated"
    monkeypatch.setattr(
        "jaxmdwarf.training.cyclestar.loop.find_faults", lambda scores, limits: (fault,)
    )
    strict = replace(OPTIONS, force=False)
    with pytest.raises(WorkFailed, match="not fit to be a model") as caught:
        train(tmp_path / "faulty", strict)
    assert fault in str(caught.value)
    assert "--force" in caught.value.remedy
    assert not (tmp_path / "faulty").exists()
    # What was learned is there still: nothing is trained again.
    monkeypatch.setattr(
        "jaxmdwarf.training.cyclestar.loop.continue_transfer",
        lambda *a: pytest.fail("trained again"),
    )
    train(tmp_path / "faulty")
    metrics = json.loads((tmp_path / "faulty" / "metrics.json").read_text())
    assert metrics["transfer"]["faults"] == [fault]


class Stopped(KeyboardInterrupt):
    pass


def test_a_stopped_run_goes_on_without_reading_again_and_ends_the_same(
    train, trained, tmp_path, monkeypatch
):
    append = MetricsLog.append

    def stop_at_20(self, line):
        append(self, line)
        if line["step"] == 20:  # after the line, before the checkpoint
            raise Stopped

    monkeypatch.setattr(MetricsLog, "append", stop_at_20)
    with pytest.raises(Stopped):
        train(tmp_path / "cut")
    assert (tmp_path / "cut.partial" / "training" / "checkpoints").is_dir()
    monkeypatch.setattr(MetricsLog, "append", append)
    monkeypatch.setattr(
        "jaxmdwarf.workflows.observed.preprocess_batch", lambda *a, **k: pytest.fail("read again")
    )
    train(tmp_path / "cut")

    def losses(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        return [{**line, "iterations_per_s": 0} for line in lines]

    cut, whole = tmp_path / "cut", trained[0]
    assert losses(cut) == losses(whole)
    arrays = [np.load(folder / "arrays.npz") for folder in (cut, whole)]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[1].files)


def test_checkpoints_of_other_settings_are_never_silently_replaced(train, tmp_path, monkeypatch):
    def take_no_step(state, data, config, n_step):
        return state._replace(step=state.step + n_step), {"total": jnp.zeros(())}

    def stop(self, step, state):
        self._store.save(step, state)
        raise Stopped

    monkeypatch.setattr(NotedCheckpoints, "save", stop)
    monkeypatch.setattr("jaxmdwarf.training.cyclestar.loop.continue_transfer", take_no_step)
    monkeypatch.setattr(
        "jaxmdwarf.training.cyclestar.loop.validate_transfer", lambda *a, **k: {"gap": 1.0}
    )
    with pytest.raises(Stopped):
        train(tmp_path / "model")
    wider = with_networks(own_sizes=replace(TINY, shared_latents=5))
    with pytest.raises(UsageError, match="sizes") as caught:
        train(tmp_path / "model", wider)
    assert "--overwrite" in caught.value.remedy
    with pytest.raises(Stopped):
        train(tmp_path / "model", wider, resume=False)
    with pytest.raises(Stopped):
        train(tmp_path / "model", overwrite=True)


def test_what_cannot_work_is_told_before_training(train, survey, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(CycleStar, "train", lambda *a, **k: pytest.fail("trained"))
    few = with_networks(batch_size=64)
    with pytest.raises(MismatchError, match="60 usable spectra are too few"):
        train(tmp_path / "few", few)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "sample_labels", lambda *a, **k: pytest.fail("sampled labels"))
        with pytest.raises(MismatchError, match="60 usable spectra are too few"):
            train(tmp_path / "few", replace(few, method=Matched()))
    apart = tmp_path / "apart.csv"
    pd.DataFrame({"teff": np.linspace(3000, 3050, 99), "mh": np.linspace(-0.9, -0.8, 99)}).to_csv(
        apart
    )
    strict = replace(OPTIONS, min_overlap=0.999)
    with pytest.raises(UsageError, match="overlap"):
        train_transfer_files([survey[0]], model_dir, apart, tmp_path / "apart", strict, processes=1)
    with pytest.raises(UsageError, match="no file"):
        train_transfer_files([survey[0]], model_dir, tmp_path / "none.csv", tmp_path / "m", OPTIONS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(UsageError, match=r"holds no model\.json"):
        train(tmp_path / "mine")


def test_the_command_passes_its_options_on(monkeypatch, capsys):
    seen = {}

    def record(files, emulator, reference, out, options, **more):
        seen.update(files=files, reference=reference, options=options, out=out, **more)
        return {"out": out}

    monkeypatch.setattr(stages, "train_transfer_files", record)
    command = ["train-transfer", "a.fits", "b.fits", "--emulator", "E", "--out", "M"]
    more = ["--method", "matched+cyclestar", "--preset", "paper", "--steps", "70", "--seed", "4"]
    assert main([*command, *more, "--reference", "r.csv", "--no-resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "M"}
    options = seen["options"]
    assert (seen["files"], seen["reference"]) == (("a.fits", "b.fits"), ("r.csv",))
    method = options.method
    assert (method.name, options.seed, seen["resume"]) == ("matched+cyclestar", 4, False)
    assert method.matched.seed == method.networks.seed == method.seed == 4
    training = method.networks.settings
    assert (training.networks.sizes, training.schedule.steps) == ("original", 70)
    assert training.schedule.report_every == 70
    assert main([*command, "--seed", "-1"]) == 2
    assert main([*command, "--method", "cyclestar", "--steps", "0"]) == 2
    capsys.readouterr()
    assert main([*command, "--method", "cycelstar"]) == 2
    assert "Did you mean cyclestar?" in " ".join(capsys.readouterr().err.split())


def test_an_emulator_that_is_not_there_is_bad_usage(tmp_path, capsys):
    missing = str(tmp_path / "none")
    assert main(["train-transfer", "x", "--emulator", missing, "--out", str(tmp_path / "m")]) == 2
    assert "none" in capsys.readouterr().err


def test_labels_are_matched_to_the_stars_that_were_observed():
    rng = np.random.default_rng(0)
    spectra = pd.DataFrame({"RA": rng.uniform(0, 360, 300), "Dec": rng.uniform(-5, 60, 300)})
    # Half of the reference is elsewhere on the sky, and cooler.
    reference = pd.DataFrame(
        {
            "teff": np.r_[np.full(100, 3700.0), np.full(100, 3100.0)],
            "mh": 0.0,
            "e_teff": 60.0,
            "e_mh": np.nan,
            "ra_deg": np.r_[spectra["RA"][:100], rng.uniform(0, 360, 100)],
            "dec_deg": np.r_[spectra["Dec"][:100], np.full(100, -80.0)],
        }
    )
    found = choose_reference(spectra, reference)
    assert found.rows.tolist() == list(range(100))
    assert (found.teff_mh[:, 0] == 3700.0).all()
    assert found.errors == (60.0, 0.0)
    # Where nothing is placed nothing is in common, however few would be enough.
    lost = choose_reference(spectra, reference.assign(ra_deg=np.nan), least_common=0)
    assert lost.rows is None
    assert len(lost.teff_mh) == 200
    # Too few in common: the whole reference stands for all spectra.
    few = choose_reference(spectra[70:], reference)
    assert few.rows is None
    assert len(few.teff_mh) == 200


@dataclass(frozen=True)
class Dimmed(TransferMethod):
    """A user's own method: the emulator, with errors as large as told."""

    error: float = 0.02

    name = "dimmed"

    def train(self, domain, emulator, labels, **more):
        wider = eqx.tree_at(
            lambda one: one.model_error, emulator, jnp.full(emulator.grid.n_pix, self.error)
        )
        return TrainedTransfer(wider, {"error": self.error})


@dataclass(frozen=True)
class Noted(TransferMethod):
    """A method that tells what anchors it was given."""

    name = "noted"
    takes_anchors = True

    def train(self, domain, emulator, labels, *, anchors=None, **more):
        told = {} if anchors is None else {"anchors": {"rows": anchors.rows.tolist()}}
        return TrainedTransfer(emulator, told)


def test_anchors_reach_the_method_and_are_on_record(train, survey, tmp_path):
    options = replace(OPTIONS, method=Noted())
    # Stars that chance would hold out.
    held = split_domain(N_STAR, seed=0).test
    known = tmp_path / "known.csv"
    pd.DataFrame({"obsid": 1000 + held, "Teff": 3400.0, "e_Teff": 50.0}).to_csv(known, index=False)
    told = []
    progress = Silent()
    progress.say = told.append
    train(tmp_path / "model", options, anchors=known, progress=progress)
    about = describe_model(tmp_path / "model")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["anchors"]["matched"] == len(held) == len(metrics["anchors"]["rows"])
    assert metrics["anchors"]["assumed_errors"] == {}
    assert about["provenance"]["source"]["anchors"] == ["known.csv"]
    assert any("rows matched by obsid" in line for line in told)
    table = pd.read_parquet(tmp_path / "model" / "observed.parquet")
    assert set(table["obsid"][table["anchor"]].astype(int)) == set(1000 + held)
    # Too many of the test stars are known for the rest to be a test: the split stays.
    assert (table["part"][table["anchor"]] == "test").all()
    fewer = known.with_name("fewer.csv")
    pd.read_csv(known).drop(columns="e_Teff")[:1].merge(
        pd.DataFrame({"obsid": 1000 + split_domain(N_STAR, seed=0).train[:5], "Teff": 3300.0}),
        how="outer",
    ).to_csv(fewer, index=False)
    train(tmp_path / "other", options, anchors=fewer)
    table = pd.read_parquet(tmp_path / "other" / "observed.parquet")
    assert table["anchor"].sum() == 6
    assert (table["part"][table["anchor"]] == "train").all()
    metrics = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert metrics["anchors"]["assumed_errors"] == {"teff": 80.0}


def test_stars_of_the_reference_are_anchors_unless_their_distribution_is_asked_for(
    train, survey, model_dir, reference, tmp_path, monkeypatch
):
    options = replace(OPTIONS, method=Noted())
    train(tmp_path / "first", options)
    assert "anchors" not in json.loads((tmp_path / "first" / "metrics.json").read_text())
    spectra = pd.read_parquet(tmp_path / "first" / "observed.parquet")
    assert "anchor" not in spectra
    known = pd.read_csv(reference)
    known.loc[:6, ["ra", "dec"]] = spectra[["RA", "Dec"]].to_numpy()[:7]
    placed = tmp_path / "placed.csv"
    known.to_csv(placed, index=False)
    for common_stars, n in (("anchors", 7), ("distribution", 0)):
        out = tmp_path / common_stars
        chosen = replace(options, common_stars=common_stars)
        train_transfer_files([survey[0]], model_dir, placed, out, chosen, processes=1)
        metrics = json.loads((out / "metrics.json").read_text())
        assert len(metrics.get("anchors", {"rows": []})["rows"]) == n
        table = pd.read_parquet(out / "observed.parquet")
        assert ("anchor" in table) == bool(n)
        assert describe_model(out)["training"]["config"]["common_stars"] == common_stars
    monkeypatch.setattr(Noted, "knows_enough", lambda self, domain, anchors: False)
    again = replace(options, common_stars="anchors")
    train_transfer_files([survey[0]], model_dir, placed, tmp_path / "few", again, processes=1)
    assert "anchors" not in json.loads((tmp_path / "few" / "metrics.json").read_text())
    wrong = replace(options)
    object.__setattr__(wrong, "common_stars", "anchor")
    with pytest.raises(UsageError, match="common_stars is 'anchor'"):
        wrong.__post_init__()
    # The paper's networks have no use for labels of single stars.
    assert not OPTIONS.method.takes_anchors


@dataclass(frozen=True)
class Spread(Noted):
    """A method that knows labels as a distribution."""

    name = "spread"
    takes_anchors = False
    matches_distributions = True

    @property
    def least_common(self):
        return 5


@dataclass(frozen=True)
class Listed(Spread):
    """One that compares as few stars, and knows more of them."""

    name = "listed"
    matches_distributions = False


def test_domains_that_are_made_alike_hold_the_stars_that_were_observed(
    train, survey, model_dir, reference, tmp_path, monkeypatch
):
    sample, asked, told = stages.sample_labels, [], []

    def record(known, settings, *args, **more):
        asked.append(known)
        told.append(settings.cuts)
        return sample(known, settings, *args, **more)

    monkeypatch.setattr(stages, "sample_labels", record)
    train(tmp_path / "first", replace(OPTIONS, method=Spread()))
    spectra = pd.read_parquet(tmp_path / "first" / "observed.parquet")
    known = pd.read_csv(reference)
    known.loc[:24, ["ra", "dec"]] = spectra[["RA", "Dec"]].to_numpy()[:25]
    known.loc[:3, "teff"] = 4050.0
    placed = tmp_path / "placed.csv"
    known.to_csv(placed, index=False)
    for method in (Spread(), Listed()):
        options = replace(OPTIONS, method=method)
        train_transfer_files(
            [survey[0]], model_dir, placed, tmp_path / method.name, options, processes=1
        )
    assert told[0] == told[2] == LabelCutsConfig()
    # Whatever the cuts, the hottest of those that were observed are among the labels.
    assert told[1].teff[1] > 4040.0
    # Without stars in common all of the reference has to do; it does for other methods anyway.
    assert [len(one) for one in asked] == [len(known), 25, len(known)]
    assert sorted(asked[1][:, 0]) == sorted(known["teff"][:25])
    assert CycleStar.matches_distributions
    assert MatchedThenCycleStar.matches_distributions


def test_anchors_of_no_use_are_refused_before_spectra_are_read(
    train, tmp_path, monkeypatch, reference
):
    def read(*args, **more):
        raise AssertionError("spectra were read")

    monkeypatch.setattr(stages, "prepare_observed", read)
    with pytest.raises(UsageError, match="nothing tells which spectra"):
        train(tmp_path / "m", replace(OPTIONS, method=Noted()), anchors=reference)
    with pytest.raises(UsageError, match="takes no anchors"):
        train(tmp_path / "m", anchors=reference)
    assert not list(tmp_path.iterdir())


def test_a_method_of_a_users_own_trains_saves_and_loads(train, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    register_transfer_method(Dimmed)
    assert list_transfer_methods()[-1] == "dimmed"
    method = build_transfer_method("dimmed")
    summary = train(tmp_path / "own", replace(OPTIONS, method=method))
    assert (summary["method"], summary["error"]) == ("dimmed", 0.02)
    assert np.allclose(method.load(tmp_path / "own").model_error, 0.02)
    assert describe_model(tmp_path / "own")["training"]["config"]["settings"] == {"error": 0.02}

    class Other(Dimmed):
        name = "matched"

    with pytest.raises(UsageError, match="registered already"):
        register_transfer_method(Other)
