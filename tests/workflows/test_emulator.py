"""From a grid table to a model directory: nothing lost on interruption, nothing invented."""

import csv
import json
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.io.models import describe_model, load_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.preprocess.continuum import normalise_model
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.training.emulator.accuracy import reconstruct
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import emulator as pipeline
from jaxmdwarf.workflows.emulator import normalise_grid, train_emulator_files, train_grid_emulator

PIXELS = PixelGrid.linear(6900.0, 7299.0, 1.0)
TINY = EmulatorConfig(
    network=NetworkConfig(hidden=(24,), rank=4),
    schedule=ScheduleConfig(steps=60, warmup_steps=10, report_every=20),
)


@pytest.fixture
def model_grid():
    labels = LabelSpace.mdwarf().unscale(np.random.default_rng(0).uniform(-0.4, 0.4, (60, 4)))
    wave = PIXELS.wave_aa
    band = np.exp(-(wave - 7054.0) / 60.0) * (wave > 7054.0)
    depth = 10 ** (labels[:, 2:3] - (labels[:, :1] - 3400.0) / 500.0)
    flux = 1e6 * (labels[:, :1] / 3400.0) ** 4 * wave / 7000.0 / (1.0 + depth * band)
    return ModelGrid(
        labels=labels,
        label_space=LabelSpace.mdwarf(),
        flux=flux.astype(np.float32),
        grid=PIXELS,
        resolution=1800.0,
        kind="simulated",
        provenance={"made_by": "a test"},
    )


class Watched:
    """A `Progress` that remembers, and presses Ctrl-C after some advances."""

    def __init__(self, interrupt_after=None):
        self.said, self.advanced, self._left = [], 0.0, interrupt_after

    @contextmanager
    def stage(self, title, total=None, *, unit="", done=0):
        yield self

    def say(self, text):
        self.said.append(text)

    def advance(self, n=1.0, *, note=""):
        self.advanced += n
        if self._left is not None and note:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt


def test_the_directory_holds_the_model_and_what_is_known_of_it(tmp_path, model_grid):
    write_grid(model_grid, tmp_path / "grid.parquet")
    progress = Watched()
    summary = train_emulator_files(
        tmp_path / "grid.parquet", tmp_path / "model", config=TINY, progress=progress
    )
    assert progress.advanced == TINY.schedule.steps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.parquet", "model"]
    about = describe_model(tmp_path / "model")
    assert about["trained_on_simulation"] is summary["trained_on_simulation"] is True
    assert about["spectra"]["masks_aa"] == [list(window) for window in PAPER_MASKS_AA]
    assert about["training"]["config"]["seed"] == 0
    assert len(about["provenance"]["source"]["grid_sha256"]) == 64
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["emulator"]["eq1_median"] == summary["eq1_median"]
    log = (tmp_path / "model" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [20, 40, 60]
    for name in ("reconstruction.png", "pixel_error.png"):
        assert (tmp_path / "model" / name).read_bytes().startswith(b"\x89PNG")


def test_the_table_of_eq_1_is_that_of_the_saved_model(tmp_path, model_grid):
    train_grid_emulator(model_grid, tmp_path / "model", config=TINY, figures=False)
    with open(tmp_path / "model" / "reconstruction.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60
    assert sum(row["held_out"] == "1" for row in rows) == 12
    masked = mask_for(PIXELS, PAPER_MASKS_AA)
    target = normalise_grid(model_grid, sigma_aa=30.0, masked=masked)
    recon = reconstruct(load_model(tmp_path / "model"), model_grid.labels)
    by_hand = np.mean((np.abs(target - recon) / target)[:, ~masked], axis=1)
    np.testing.assert_allclose([float(row["eq1"]) for row in rows], by_hand, rtol=1e-3)
    np.testing.assert_array_equal([float(row["mh"]) for row in rows], model_grid.labels[:, 2])


def test_interrupted_training_resumes_to_the_uninterrupted_model(tmp_path, model_grid):
    write_grid(model_grid, tmp_path / "grid.parquet")

    def run(name, progress=None):
        train_emulator_files(
            tmp_path / "grid.parquet",
            tmp_path / name,
            config=TINY,
            figures=False,
            progress=progress,
        )

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Watched(interrupt_after=2))
    assert not (tmp_path / "stopped").exists()
    assert (
        len(
            (tmp_path / "stopped.partial" / "checkpoints" / "training.jsonl")
            .read_text()
            .splitlines()
        )
        == 2
    )
    again = Watched()
    run("stopped", again)
    assert again.said == ["resuming after step 40 of 60"]
    assert not (tmp_path / "stopped.partial").exists()
    whole, resumed = load_model(tmp_path / "whole"), load_model(tmp_path / "stopped")
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    logs = [(tmp_path / name / "training.jsonl").read_text() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]


def test_another_configuration_is_refused_until_it_may_replace_and_no_resume_starts_anew(
    tmp_path, model_grid
):
    def train(name, config=TINY, progress=None, **options):
        train_grid_emulator(
            model_grid, tmp_path / name, config=config, figures=False, progress=progress, **options
        )

    with pytest.raises(KeyboardInterrupt):
        train("m", progress=Watched(2))
    with pytest.raises(UsageError, match=r"config\.seed 0 instead of 1"):
        train("m", replace(TINY, seed=1))
    other = Watched()
    train("m", replace(TINY, seed=1), other, overwrite=True)
    assert other.said == []
    with pytest.raises(KeyboardInterrupt):
        train("n", progress=Watched(2))
    anew = Watched()
    train("n", progress=anew, resume=False)
    assert anew.said == []
    with pytest.raises(UsageError, match="n exists"):
        train("n")


def test_checkpoints_are_written_as_time_goes_by(tmp_path, model_grid, monkeypatch):
    kept = []
    monkeypatch.setattr(pipeline, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(
        pipeline, "_keep", lambda store, state, config: kept.append(int(state.step))
    )
    train_grid_emulator(model_grid, tmp_path / "m", config=TINY, figures=False)
    assert kept == [20, 40, 60]


def test_the_grid_is_normalised_like_any_model_and_its_scale_does_not_matter(model_grid):
    masked = mask_for(PIXELS, PAPER_MASKS_AA)
    flux = normalise_grid(model_grid, sigma_aa=30.0, masked=masked)
    # Surface fluxes in cgs units reach 1e10, whose square float32 cannot hold.
    bright = replace(model_grid, flux=model_grid.flux * np.float32(1e20))
    np.testing.assert_allclose(
        normalise_grid(bright, sigma_aa=30.0, masked=masked), flux, rtol=1e-5
    )
    row = jax.numpy.asarray(model_grid.flux[3] / model_grid.flux[3].mean())
    np.testing.assert_allclose(
        flux[3], normalise_model(row, PIXELS, sigma_aa=30.0, window=masked), rtol=1e-5
    )
    plain = normalise_grid(model_grid, sigma_aa=None, masked=masked)
    np.testing.assert_allclose(plain.mean(axis=1), 1.0, rtol=1e-5)


def test_labels_that_never_change_are_left_out_and_bounds_hold_the_grid(tmp_path, model_grid):
    labels = model_grid.labels.copy()
    labels[:, 3] = 0.2
    progress = Watched()
    trained, _ = train_grid_emulator(
        replace(model_grid, labels=labels),
        tmp_path / "m",
        config=TINY,
        figures=False,
        progress=progress,
    )
    space = trained.emulator.label_space
    assert space.names == ("teff", "logg", "mh")
    np.testing.assert_allclose(space.upper, labels[:, :3].max(axis=0))
    assert progress.said == ["alpha_m is 0.2 in all spectra: the model will not have this label"]
    with pytest.raises(UsageError, match="same labels"):
        train_grid_emulator(
            replace(model_grid, labels=np.ones((60, 4))), tmp_path / "n", config=TINY
        )


def test_flux_that_is_not_positive_is_named(tmp_path, model_grid):
    flux = model_grid.flux.copy()
    flux[5, 7] = 0.0
    sources = tuple(f"lte{k:03d}.spec.7" for k in range(60))
    with pytest.raises(MismatchError, match=r"1 spectra .* lte005\.spec\.7"):
        train_grid_emulator(
            replace(model_grid, flux=flux, sources=sources), tmp_path / "m", config=TINY
        )


def test_an_output_that_is_not_a_model_is_left_alone_before_any_work(tmp_path, model_grid):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    progress = Watched()
    with pytest.raises(UsageError, match="left alone"):
        train_grid_emulator(model_grid, tmp_path / "data", config=TINY, progress=progress)
    assert progress.advanced == 0


def test_a_full_disk_is_told_before_any_work(tmp_path, model_grid, monkeypatch, full_disk):
    monkeypatch.setattr(pipeline, "_learn", lambda *a, **k: pytest.fail("began to learn"))
    with pytest.raises(UsageError, match=r"are needed and 1\.0 kB are free"):
        train_grid_emulator(model_grid, tmp_path / "m", config=TINY)
