"""How far a training of networks is told to be, and where it is kept."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.loop import TransferRecord
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.methods import cyclestar
from jaxmdwarf.workflows.progress import Silent

SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
GRID = PixelGrid.linear(7000.0, 7015.0, 1.0)


class Recorded(Silent):
    """What was said and how far each stage came."""

    def __init__(self):
        self.said, self.stages, self.steps, self.notes = [], [], [], []

    @contextmanager
    def stage(self, title, total=None, *, unit="", done=0):
        self.stages.append((title, total, unit))
        yield self

    def advance(self, n=1.0, *, note=""):
        self.steps.append(n)
        self.notes.append(note)

    def say(self, text):
        self.said.append(text)


@pytest.mark.parametrize("diverged_at", [None, 70])
def test_steps_of_a_training_are_told_once_each_and_logged(monkeypatch, tmp_path, diverged_at):
    def train(emulator, domain, labels, settings, *, checkpoints, on_interval):
        assert inspect.unwrap(type(checkpoints).restore)(checkpoints, like="state").step == 20
        for step in (30, 50, 60):
            on_interval(TransferRecord(step, {"total": 2.5}, {"gap": 0.25}, 7.0))
        report = SimpleNamespace(diverged_at=diverged_at, kept_step=50)
        return SimpleNamespace(report=report)

    def restore(self, *, like):
        return SimpleNamespace(step=20)

    monkeypatch.setattr(cyclestar, "train_cyclestar", train)
    monkeypatch.setattr(cyclestar.Checkpoints, "restore", restore)
    ones = np.ones((3, GRID.n_pix), np.float32)
    domain = ObservedDomain(ones, ones, ones, GRID, np.zeros(3), np.ones(3))
    emulator = TableModel(jnp.ones((4, GRID.n_pix)), jnp.zeros(GRID.n_pix), SPACE, GRID)
    progress, settings = Recorded(), CycleStarConfig().vary(steps=60)
    train_networks = inspect.unwrap(cyclestar._train_networks)
    train_networks(settings, emulator, domain, np.ones((2, 2)), tmp_path, progress=progress)
    assert progress.stages == [("training the networks", 60.0, "steps")]
    assert progress.steps == [20.0, 10.0, 20.0, 10.0]
    assert progress.notes[1:] == ["loss 2.5, gap 0.25, 7.0 it/s"] * 3
    expected = ["resuming after step 20"]
    if diverged_at:
        expected.append("training diverged before step 70; the model is that of step 50.")
    assert progress.said == expected
    lines = cyclestar.MetricsLog(tmp_path / cyclestar.LOG_NAME).read()
    assert [line["step"] for line in lines] == [30, 50, 60]
