"""Parallel work over files: in order, nothing lost, bounded, whatever the workers do."""

import os
import subprocess
import sys
import threading

import pytest

from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.stream import CHUNKS_AHEAD, stream_results

TASKS = """
import os, time
from jaxmdwarf.errors import RejectedInput

def work(path):
    print("noise on standard output")
    number = int(path)
    time.sleep(0.001 * (number % 3))
    if number % 10 == 3:
        raise RejectedInput("ends in three.", "leave it out.")
    if number % 10 == 5:
        raise ValueError("odd")
    if number == 17:
        os._exit(9)
    return number * number

def echo(path):
    return path
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "stream_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import stream_tasks

    yield stream_tasks
    del sys.modules["stream_tasks"]


def test_results_come_in_order_and_none_is_lost(tasks):
    paths = [str(n) for n in range(40)]
    results = list(stream_results(tasks.work, paths, processes=2, chunk_size=3))
    assert [path for path, _ in results] == paths
    for path, result in results:
        number = int(path)
        if number == 17:
            assert result == Reject(
                path, "its reader process died", "the file may be damaged or too large"
            )
        elif number % 10 == 3:
            assert result == Reject(path, "ends in three", "leave it out")
        elif number % 10 == 5:
            assert result.reason == "ValueError: odd"
        else:
            assert result == number * number


def test_inputs_are_taken_only_as_results_are_used(tasks):
    taken = []

    def paths():
        for number in range(1000):
            taken.append(number)
            yield str(number)

    stream = stream_results(tasks.echo, paths(), processes=2, chunk_size=5)
    for _ in range(10):
        next(stream)
    assert len(taken) <= 5 * (2 * CHUNKS_AHEAD + 4)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("jaxmdwarf-reader")]


def test_closing_early_ends_the_workers(tasks):
    stream = stream_results(tasks.echo, (str(n) for n in range(100)), processes=2, chunk_size=5)
    next(stream)
    stream.close()
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True
    )
    assert "jaxmdwarf.io.stream" not in children.stdout


def test_a_script_without_a_main_guard_works(tmp_path):
    """Spawned multiprocessing workers would run the script again, and again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from jaxmdwarf.io.spectra.readers import stream_spectra\n"
        "paths = [f'none{i}.fits' for i in range(100)]\n"
        "print(sum(1 for _ in stream_spectra(paths, processes=2, chunk_size=10)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "100\n"
    assert done.stderr == ""
