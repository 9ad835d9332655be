"""Transfer methods: by name, what they make of anchors, and the log of their training."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.methods import cyclestar
from jaxmdwarf.workflows.methods.base import MethodOptions
from jaxmdwarf.workflows.methods.cyclestar import CycleStar, MetricsLog
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.methods.registry import build_transfer_method, find_transfer_method


@pytest.mark.parametrize("name", ["matched", "cyclestar", "matched+cyclestar"])
def test_methods_are_built_from_their_names_and_describe_themselves(name):
    method = build_transfer_method(name, seed=7)
    assert isinstance(method, find_transfer_method(name))
    assert (method.name, method.seed) == (name, 7)
    assert json.loads(json.dumps(method.describe()))["name"] == name
    assert build_transfer_method(method) is method


def test_a_method_that_is_none_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match="Did you mean matched") as caught:
        find_transfer_method("mached")
    assert "matched+cyclestar" in caught.value.remedy
    with pytest.raises(UsageError, match="preset") as caught:
        build_transfer_method("cyclestar", preset="huge")
    assert "held" in caught.value.remedy


def test_networks_are_held_unless_asked_otherwise():
    for name in ("held", "compact", "paper"):
        built = build_transfer_method("cyclestar", preset=name, seed=3)
        assert built.settings == getattr(CycleStarConfig, name)(seed=3)
    assert build_transfer_method("cyclestar", seed=3).settings == CycleStarConfig.held(seed=3)
    held = CycleStarConfig.held(flux_scale=(1.0, 0.1))
    sizes = held.shape(3000)
    assert (sizes.split_pooled, sizes.activation, sizes.split_latents) == (True, "silu", 2)
    assert (held.noise.alike, held.networks.equal_start, held.losses.spectral_norm) == (True,) * 3
    assert held.losses.weights.adversarial < held.losses.weights.obs
    assert min(held.losses.constraints.slopes, held.losses.constraints.alignment) > 0
    assert (held.schedule.keep, held.losses.critics_see) == ("sound", "spectra")


def test_common_stars_that_cannot_be_learned_from_are_no_anchors():
    n = 300
    grid = PixelGrid.linear(6000.0, 6003.0, 1.0)
    ones = np.ones((n, grid.n_pix), np.float32)
    train = split_domain(n, seed=0).train
    known = np.sort(train[:12])
    snr = np.full(n, 50.0)

    def ask(snr, star=None, rows=known):
        domain = ObservedDomain(ones, ones, ones, grid, np.zeros(n), snr, star=star)
        labels = np.full((len(rows), 4), np.nan)
        labels[:, 0] = 3500.0
        return Matched().knows_enough(domain, AnchorSample(rows, labels, np.full_like(labels, 60)))

    assert ask(snr)
    faint = snr.copy()
    faint[known[4:]] = 5.0  # below what is learned from: four are left
    assert not ask(faint)
    faint[known[4]] = 12.0
    assert ask(faint)
    star = np.arange(n)
    star[known] = 1000 + np.arange(12) // 3  # three visits each of four stars
    assert not ask(snr, star)


@pytest.mark.parametrize(("n_known", "moved"), [(5, True), (6, False)])
def test_anchors_leave_twenty_good_spectra_to_validate_with(n_known, moved):
    n = 300
    grid = PixelGrid.linear(6000.0, 6003.0, 1.0)
    ones = np.ones((n, grid.n_pix), np.float32)
    without = split_domain(n, seed=0)
    snr = np.full(n, 50.0)
    snr[without.validation[25:]] = 5.0
    anchored = np.zeros(n, bool)
    anchored[without.validation[:n_known]] = True
    domain = ObservedDomain(ones, ones, ones, grid, np.zeros(n), snr)
    split = Matched().split(domain, anchored)
    assert np.isin(np.flatnonzero(anchored), split.train).all() == moved
    assert len(split.validation) == len(without.validation) - (n_known if moved else 0)


def test_a_log_forgets_what_is_reported_again(tmp_path):
    log = MetricsLog(tmp_path / "log.jsonl")
    for step in (10, 20, 30):
        log.append({"step": step, "loss": float(step)})
    with open(log.path, "a") as file:
        file.write('{"step": 40, "lo')  # killed in mid-line
    again = MetricsLog(log.path)
    again.append({"step": 20, "loss": 0.5})
    assert again.read() == [{"step": 10, "loss": 10.0}, {"step": 20, "loss": 0.5}]


def test_the_first_line_makes_its_folder(tmp_path):
    log = MetricsLog(tmp_path / "new" / "log.jsonl")
    assert log.read() == []
    for step in (0, 1, 1):
        log.append({"step": step})
    assert [line["step"] for line in log.read()] == [0, 1]


@pytest.mark.parametrize("before", [[], [1, 2]])
def test_half_a_line_of_a_killed_run_is_no_line(tmp_path, before):
    log = MetricsLog(tmp_path / "log.jsonl")
    for step in before:
        log.append({"step": step})
    with open(log.path, "a") as file:
        file.write('{"step": 3, "lo')
    again = MetricsLog(log.path)
    for step in (3, 4):
        again.append({"step": step})
    assert [line["step"] for line in again.read()] == [*before, 3, 4]


def test_networks_on_a_correction_leave_anchors_to_it(monkeypatch):
    n, told = 300, {}
    grid = PixelGrid.linear(6000.0, 6003.0, 1.0)
    ones = np.ones((n, grid.n_pix), np.float32)
    domain = ObservedDomain(ones, ones, ones, grid, np.zeros(n), np.full(n, 50.0))
    test = split_domain(n, seed=2).test
    labels = np.full((6, 4), 3500.0)
    anchors = AnchorSample(np.sort(test[:6]), labels, np.ones_like(labels))
    method = build_transfer_method("matched+cyclestar", seed=2)
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    theory, corrected, carried = (
        TableModel(jnp.full((4, grid.n_pix), one), jnp.ones(grid.n_pix), space, grid)
        for one in (1.0, 2.0, 3.0)
    )

    def correct(self, domain, emulator, labels, **more):
        told.update(more, emulator=emulator)
        return TrainedTransfer(corrected, {"anchors": {"n": 6}, "passes": 3})

    def train(self, domain, emulator, labels, **more):
        assert "anchors" not in more
        assert emulator is corrected
        return TrainedTransfer(carried, {"steps": 5})

    monkeypatch.setattr(Matched, "train", correct)
    monkeypatch.setattr(CycleStar, "train", train)
    model, report = method.train(domain, theory, None, anchors=anchors)
    assert model is carried
    assert told["emulator"] is theory
    assert told["anchors"] is anchors
    # Where a command looks for what became of anchors, whoever used them.
    assert report == {"steps": 5, "anchors": {"n": 6}, "matched": {"passes": 3}}
    marked = anchors.mark(n)
    split = method.split(domain, marked)
    assert set(anchors.rows) <= set(split.train)
    assert np.array_equal(
        split.test, Matched.build(MethodOptions(seed=2)).split(domain, marked).test
    )
    assert method.knows_enough(domain, anchors)
    assert not method.knows_enough(domain, AnchorSample(anchors.rows[:2], labels[:2], labels[:2]))


@pytest.mark.parametrize("known", [True, False])
def test_networks_are_laid_upon_theory_with_what_is_known_of_the_stars(monkeypatch, known):
    grid = PixelGrid.linear(6000.0, 6003.0, 1.0)
    ones = np.ones((9, grid.n_pix), np.float32)
    domain = ObservedDomain(ones, ones, ones, grid, np.zeros(9), np.full(9, 50.0))
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    theory, described = (
        TableModel(jnp.full((4, 4), one), jnp.ones(4), space, grid) for one in (1.0, 2.0)
    )
    reference, seen = ReferenceSample(np.full((5, 2), 0.1)), {}

    def describe(emulator, observed, labels, config, *, reference):
        seen.update(emulator=emulator, reference=reference, seed=config.seed)
        return described

    def train(settings, emulator, domain, labels, folder, *, progress):
        seen["base"] = emulator
        report = SimpleNamespace(metrics=lambda: {"steps": 2})
        return TrainedTransfer(emulator, report)

    monkeypatch.setattr(cyclestar, "can_be_matched", lambda *a: known)
    monkeypatch.setattr(cyclestar, "describe_theory", describe)
    monkeypatch.setattr(cyclestar, "_train_networks", train)
    method = CycleStar(CycleStarConfig.held(seed=5), None)
    method.train(domain, theory, np.ones((3, 2)), reference=reference)
    assert seen["base"] is (described if known else theory)
    if known:
        assert seen["emulator"] is theory
        assert seen["reference"] is reference
        assert seen["seed"] == 5
