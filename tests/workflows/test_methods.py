"""Transfer methods: by name, what they make of anchors, and the log of their training."""

import json

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.methods.cyclestar import MetricsLog
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
    with pytest.raises(UsageError, match="preset"):
        build_transfer_method("cyclestar", preset="huge")


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
