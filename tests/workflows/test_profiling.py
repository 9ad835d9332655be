"""The clock of stages: inner ones count for themselves, threads add up."""

import threading
import time

import jax.numpy as jnp
import pytest

from jaxmdwarf.inference.stages import Stages
from jaxmdwarf.workflows.profiling import StageClock


def test_a_stage_inside_another_counts_for_itself_alone():
    clock = StageClock()
    with clock.stage("outer"):
        time.sleep(0.02)
        with clock.stage("inner"):
            time.sleep(0.2)
    assert list(clock.seconds) == ["inner", "outer"]
    assert 0.2 <= clock.seconds["inner"] < 2
    assert 0.02 <= clock.seconds["outer"] < clock.seconds["inner"]


def test_threads_add_up_and_a_failure_is_counted():
    clock = StageClock()

    def fail():
        with clock.stage("work"):
            time.sleep(0.1)
            raise ValueError("gone")

    def work():
        with pytest.raises(ValueError, match="gone"):
            fail()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds["work"] >= 0.2


@pytest.mark.parametrize("stages", [Stages(), StageClock()])
def test_values_are_handed_on(stages):
    values = jnp.arange(3)
    with stages.stage("any"):
        assert stages.settle(values) is values


def test_seconds_are_told_to_a_hundredth(monkeypatch):
    ticks = iter([10.0, 11.23456])
    monkeypatch.setattr("jaxmdwarf.workflows.profiling.time.perf_counter", lambda: next(ticks))
    clock = StageClock()
    with clock.stage("work"):
        pass
    assert clock.seconds == {"work": 1.23}
