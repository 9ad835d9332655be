"""Parallel work over files: in order, nothing lost, bounded, whatever the workers do."""

import os
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io import limits
from jaxmdwarf.io.fits_files import open_fits
from jaxmdwarf.io.rejects import Reject, UnexpectedReject
from jaxmdwarf.io.spectra.records import SpectrumRecord, number_or_nan
from jaxmdwarf.io.stream import CHUNKS_AHEAD, run_one, stream_results

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


GREEDY = """
import hashlib

from jaxmdwarf.io import limits

limits.SECONDS = 0.3

def work(path):
    if path == "loop":
        while True:
            try:
                sum(range(1000))
            except ValueError:
                pass
    if path == "deaf":
        # One call into a library, in which no handler of signals runs.
        return hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
    if path == "huge":
        return len(bytearray(6 * 1024**3))
    return path
"""


def test_a_file_takes_no_more_than_its_share(tmp_path, monkeypatch):
    """Time in Python, time in a library that never comes back, and memory."""
    (tmp_path / "greedy_tasks.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import greedy_tasks

    monkeypatch.setattr(limits, "SECONDS", limits.SECONDS)
    paths = ["a", "loop", "b", "deaf", "c", "huge", "d"]
    found = dict(stream_results(greedy_tasks.work, paths, processes=2, chunk_size=2))
    assert [found[name] for name in "abcd"] == list("abcd")
    assert found["loop"].reason == "reading took more than 0.3 s of processor time"
    assert found["deaf"].reason == "its reader process died"
    assert found["huge"].reason == "out of memory"


def test_errors_that_readers_do_not_expect_are_told_from_rejects(tmp_path):
    def fail(path):
        if path == "expected":
            raise RejectedInput("is broken.", "mend it.")
        return SpectrumRecord.from_arrays(path, [1.0, 2.0], [1.0, 2.0], 1.0, colour="red")

    expected, other = run_one(fail, "expected"), run_one(fail, "b.fits")
    assert type(expected) is Reject
    assert isinstance(other, UnexpectedReject)
    assert other.path == "b.fits"
    # The place in the package, by which it can be reported.
    assert re.fullmatch(r"UsageError: 'colour' is no field .* \(records.py:\d+\)", other.reason)
    assert pickle.loads(pickle.dumps(other)) == other
    assert type(pickle.loads(pickle.dumps(other))) is UnexpectedReject


def test_only_what_astropy_raises_is_the_fault_of_a_file(tmp_path):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.zeros(10)).writeto(path)
    content = path.read_bytes()
    with (
        pytest.raises(RejectedInput, match="Extension 'FLUX' not found"),
        open_fits(content) as hdus,
    ):
        hdus["FLUX"]
    with pytest.raises(ZeroDivisionError), open_fits(content):
        number_or_nan(1 / 0)
    with pytest.raises(ValueError, match="broadcast"), open_fits(content) as hdus:
        hdus[0].data + np.zeros(3)
