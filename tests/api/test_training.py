"""Models of one's own from the front door: in memory or as directories, and taken by a fit."""

from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxmdwarf as jm
from jaxmdwarf.api.training import _as_grid
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.io.models import describe_model, save_model
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.training.labels.mixture import MixtureConfig
from jaxmdwarf.training.labels.training_set import TrainingSetConfig
from jaxmdwarf.workflows.methods.base import TransferMethod
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.transfer import TransferConfig

TINY = EmulatorConfig(
    network=NetworkConfig(hidden=(24,), rank=6),
    schedule=ScheduleConfig(steps=60, warmup_steps=10, report_every=20),
)


@pytest.fixture(scope="module")
def grid(model):
    """Spectra of the model, with the continuum of a star."""
    scaled = np.random.default_rng(0).uniform(-0.5, 0.5, (60, 4))
    flux = np.asarray(model.predict_scaled_batch(jnp.asarray(scaled, jnp.float32)))
    return ModelGrid(
        labels=model.label_space.unscale(scaled),
        label_space=model.label_space,
        flux=flux * (model.grid.wave_aa / 6500.0) ** 2,
        grid=model.grid,
        resolution=1800.0,
        kind="simulated",
    )


@dataclass(frozen=True)
class Widened(TransferMethod):
    """A method of a user's own: the emulator, with errors as large as told."""

    error: float = 0.02

    name = "widened"

    def train(self, domain, emulator, labels, **more):
        wider = jnp.full(emulator.grid.n_pix, self.error)
        model = eqx.tree_at(lambda one: one.model_error, emulator, wider)
        return TrainedTransfer(
            model, {"n_train": domain.n_spec, "referenced": more["reference"] is not None}
        )


CONFIG = TransferConfig(
    method=Widened(),
    observed=ObservedConfig(max_teff=None, m_dwarfs_only=False, chunk_size=32),
    labels=TrainingSetConfig(mixture=MixtureConfig(n_components=(2,))),
    n_draws=4000,
    min_overlap=0.0,
)


def test_an_emulator_is_trained_in_memory_and_as_a_directory_alike(grid, tmp_path):
    in_memory = jm.train_emulator(grid, config=TINY)
    write_grid(grid, tmp_path / "grid.parquet")
    on_disk = jm.train_emulator(tmp_path / "grid.parquet", tmp_path / "model", config=TINY)
    assert on_disk.folder == tmp_path / "model"
    labels = jnp.asarray(grid.labels[3], jnp.float32)
    expected = in_memory.model.predict(labels)
    assert np.allclose(on_disk.model.predict(labels), expected, atol=1e-4)
    loaded = jm.load_model(on_disk.folder)
    assert np.array_equal(loaded.predict(labels), on_disk.model.predict(labels))
    assert 0 < in_memory.metrics["emulator"]["eq1_median"] < 0.1
    assert "teff: " in repr(in_memory)
    saved = in_memory.save(tmp_path / "again")
    assert describe_model(saved)["training"]["emulator"]["steps"] == 60
    with pytest.raises(UsageError, match="exists"):
        in_memory.save(tmp_path / "again")


def test_a_transfer_is_trained_on_spectra_in_memory(model, stars, tmp_path):
    reference = pd.DataFrame(
        {"Teff": np.linspace(3000, 4000, 80), "[M/H]": np.linspace(-1, 0.4, 80)}
    )
    short = (stars.wave_aa[:200], stars.flux[0, :200], stars.ivar[0, :200])
    spectra = [stars.arrays(row) for row in range(4)] + [short, "nowhere.fits"]
    trained = jm.train_transfer(
        spectra, model, reference=reference, config=CONFIG, out=tmp_path / "transfer"
    )
    assert trained.metrics["counts"] == {"input": 6, "used": 4, "rejected": 2, "not_m_dwarf": 0}
    assert sorted(one.path for one in trained.rejects) == ["nowhere.fits", "spectrum 4"]
    assert trained.metrics["transfer"] == {"method": "widened", "n_train": 4, "referenced": True}
    again = jm.load_model(tmp_path / "transfer")
    assert np.allclose(again.model_error, 0.02)
    assert describe_model(trained.folder)["training"]["config"]["settings"] == {"error": 0.02}
    assert np.isfinite(jm.fit(stars.arrays(0), trained).labels).all()


def test_a_table_of_anchors_in_memory_finds_its_spectra(model, stars):
    @dataclass(frozen=True)
    class Anchored(Widened):
        takes_anchors = True

    known = pd.DataFrame({"path": [f"spectrum {row}" for row in range(6)], "Teff": 3500.0})
    config = replace(CONFIG, method=Anchored())
    spectra = [stars.arrays(row) for row in range(4)]
    with pytest.raises(UsageError, match="only 4 of 4 usable spectra are of stars"):
        jm.train_transfer(spectra, model, anchors=known, config=config)


def test_files_and_a_directory_are_worked_on_as_the_command_does(model, stars, tmp_path):
    saved = save_model(model, tmp_path / "emulator")
    spectra = jm.read(stars.arrays())
    prepared = jm.train_transfer(spectra, saved, config=replace(CONFIG, method=Widened(0.05)))
    assert prepared.folder is None
    assert prepared.metrics["transfer"]["referenced"] is False
    (tmp_path / "notes.txt").write_text("no spectrum")
    with pytest.raises(Exception, match="none of 1 inputs"):
        jm.train_transfer(
            str(tmp_path / "notes.txt"), saved, config=CONFIG, out=tmp_path / "m", processes=1
        )


BAD = {
    "a grid that is not there": (lambda m: jm.train_emulator("none.parquet"), UsageError),
    "no grid": (lambda m: _as_grid(3.0), UsageError),
    "an unknown method": (lambda m: jm.train_transfer("x", m, method="mached"), UsageError),
    "no emulator": (lambda m: jm.train_transfer([jm.Spectrum], 3.0), UsageError),
    "anchors that are none": (lambda m: jm.train_transfer("x", m, anchors=[3500.0]), UsageError),
    "anchors for networks": (
        lambda m: jm.train_transfer("x", m, anchors=pd.DataFrame(), method="cyclestar"),
        UsageError,
    ),
    "a reference that is none": (
        lambda m: jm.train_transfer("x", m, reference=[1.0, 2.0]),
        UsageError,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_is_told_in_one_line(model, case):
    act, kind = BAD[case]
    with pytest.raises(kind) as caught:
        act(model)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
