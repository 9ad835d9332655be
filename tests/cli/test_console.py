"""Progress where there is no terminal: plain lines with counts, rate and ETA."""

import json
import re
import time

import pytest

from jaxmdwarf.cli import console
from jaxmdwarf.cli.console import Meter, Terminal, format_seconds
from jaxmdwarf.workflows.progress import CompileClock, Progress, Silent


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rate_and_eta_are_those_of_the_last_minute(clock):
    meter = Meter("fitting spectra", 1000.0, "spectra", clock=clock)
    assert (meter.rate, meter.eta_s) == (None, None)
    # The first chunk waits for the compiler, those after it do not.
    clock.now += 50
    meter.advance(100.0)
    for _ in range(8):
        clock.now += 10
        meter.advance(100.0)
    assert meter.rate == pytest.approx(10.0)
    assert meter.eta_s == pytest.approx(10.0)
    assert meter.overall_rate == pytest.approx(900 / 130)
    assert meter.describe() == (
        "fitting spectra: 900/1000 (90 %), 10 spectra/s, 0:02:10 so far, ETA 0:00:10"
    )
    assert meter.conclude().endswith("900 of 1000 spectra in 0:02:10, 6.9 spectra/s end to end")


def test_what_an_earlier_run_did_counts_as_done_and_not_for_the_rate(clock):
    meter = Meter("fitting", 100.0, "spectra", done=50.0, clock=clock)
    clock.now += 10
    meter.advance(10.0)
    assert meter.count == 60
    assert meter.rate == pytest.approx(1.0)
    assert meter.eta_s == pytest.approx(40.0)
    assert meter.conclude() == (
        "fitting: 10 of 50 spectra in 0:00:10, 1.0 spectra/s end to end; 50 were done before"
    )


def test_slow_work_is_counted_by_the_minute(clock):
    meter = Meter("training", 10.0, "steps", clock=clock)
    clock.now += 30
    meter.advance(2.0)
    assert "4 steps/min" in meter.describe()


def test_the_eta_grows_while_nothing_comes(clock):
    meter = Meter("fitting", 100.0, "spectra", clock=clock)
    clock.now += 10
    meter.advance(50.0)
    soon = meter.eta_s
    clock.now += 30
    assert meter.eta_s > soon


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723.0, "1:02:03")]
)
def test_seconds_as_people_write_them(seconds, text):
    assert format_seconds(seconds) == text


def test_plain_lines_come_by_the_clock_even_while_nothing_advances(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.02)
    with Terminal().stage("fitting spectra", 4, unit="spectra") as stage:
        time.sleep(0.1)
        stage.advance(3, note="loss 0.1")
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fitting spectra: 0/4 (0 %)")
    assert any(re.search(r"3/4 \(75 %\), .* spectra/s, .*ETA .*loss 0.1", line) for line in lines)
    assert lines[-1].startswith("fitting spectra: 3 of 4 spectra in 0:00:00")
    assert lines[-1].endswith("end to end")


def test_quiet_shows_nothing_but_the_result_and_the_log_has_everything(capsys, tmp_path):
    log = tmp_path / "run.log"
    terminal = Terminal(quiet=True, log_file=str(log))
    with terminal.stage("fitting", 2, unit="spectra") as stage:
        stage.advance(2)
    terminal.say("a note")
    terminal.result({"table": "c.fits"})
    terminal.close()
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.split() == ["table", "c.fits"]
    lines = log.read_text().splitlines()
    assert [line.split(" ", 1)[1].split(":")[0] for line in lines] == [
        "fitting",
        "a note",
        "result",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ", line) for line in lines)


def test_nested_results_are_written_as_words(capsys):
    Terminal().result({"kept": 3, "steps": {"read": 5, "S/N": 4}, "lost": ["a", "b"], "more": []})
    assert capsys.readouterr().out.splitlines() == [
        "kept   3",
        "steps  read: 5, S/N: 4",
        "lost   a, b",
        "more   none",
    ]


def test_details_are_for_those_who_ask(capsys):
    Terminal().detail("compiled programs are kept")
    assert capsys.readouterr().err == ""
    Terminal(verbose=True).detail("compiled programs are kept")
    assert "kept" in capsys.readouterr().err


def test_json_goes_alone_to_standard_output(capsys):
    terminal = Terminal(json_only=True)
    terminal.say("a note")
    terminal.result({"n": 3, "path": "a"})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"n": 3, "path": "a"}
    assert "a note" in shown.err


@pytest.mark.parametrize("progress", [Silent(), Terminal(quiet=True)])
def test_both_are_progress(progress):
    assert isinstance(progress, Progress)
    with progress.stage("x", 3, unit="things", done=1) as task:
        task.advance()


def test_the_compile_clock_counts_what_overlaps_once():
    clock = CompileClock()
    for start, end in ((1.0, 2.0), (2.5, 3.0), (0.5, 3.5), (4.0, 5.0)):
        clock._add(start, end)
    assert clock.seconds == pytest.approx(4.0)


def test_the_compile_clock_hears_the_compiler():
    import jax
    import jax.numpy as jnp

    clock = CompileClock.start()
    jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.arange(7.0)).block_until_ready()
    heard = clock.stop()
    assert heard > 0
    jax.jit(lambda x: jnp.cos(x) * 1.25)(jnp.arange(7.0)).block_until_ready()
    assert clock.seconds == heard
