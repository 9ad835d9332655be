"""Parallel work over files: in order, nothing lost, bounded, whatever the workers do."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io import limits
from jaxmdwarf.io.fits_files import open_fits
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import Reject, UnexpectedReject
from jaxmdwarf.io.spectra.records import SpectrumRecord, number_or_nan
from jaxmdwarf.io.stream import CHUNKS_AHEAD, run_one, stream_results

try:
    import resource
except ImportError:  # Windows
    resource = None

needs_limits = pytest.mark.skipif(
    resource is None or not os.path.exists("/proc/self/statm"), reason="no limits to set"
)

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


class OnlyReads:
    only_reads = True

    def __call__(self, path):
        if path.endswith("[3:4]"):
            raise RejectedInput("a chunk is damaged.", "restore it.")
        return os.getpid()


def test_parts_of_packs_on_a_disk_are_read_by_this_process():
    parts = [PackPart("here.zarr", "", n, n + 1) for n in range(6)]
    found = list(stream_results(OnlyReads(), parts, processes=2, chunk_size=1))
    assert [path for path, _ in found] == parts
    assert isinstance(found[3][1], Reject)
    assert {result for n, (_, result) in enumerate(found) if n != 3} == {os.getpid()}
    assert not PackPart("s3://bucket/there.zarr", "", 0, 1).on_disk


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


@pytest.fixture
def greedy(tmp_path, monkeypatch):
    (tmp_path / "greedy_tasks.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(limits, "SECONDS", limits.SECONDS)  # the module changes it
    import greedy_tasks

    yield greedy_tasks
    del sys.modules["greedy_tasks"]


GREEDY = """
import hashlib, time

from jaxmdwarf.io import limits

limits.SECONDS = 0.3

def work(path):
    if path == "loop":
        while True:
            try:
                sum(range(1000))
            except ValueError:
                pass
    if path == "long":
        began = time.process_time()
        while time.process_time() - began < 1.5 * limits.SECONDS:
            sum(range(1000))
    if path == "deaf":
        # One call into a library, in which no handler of signals runs.
        return hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
    if path == "huge":
        return len(bytearray(6 * 1024**3))
    return path
"""


def test_a_file_takes_no_more_than_its_share(greedy):
    """Time in Python, time in a library that never comes back, and memory."""
    paths = ["a", "loop", "b", "deaf", "c", "huge", "d"]
    found = dict(stream_results(greedy.work, paths, processes=2, chunk_size=2))
    assert [found[name] for name in "abcd"] == list("abcd")
    assert found["loop"].reason == "reading took more than 0.3 s of processor time"
    assert found["deaf"].reason == "its reader process died"
    assert found["huge"].reason == "out of memory"


def what_the_process_has():
    timers = signal.getitimer(signal.ITIMER_VIRTUAL), signal.getitimer(signal.ITIMER_PROF)
    return *timers, signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_DATA)


@needs_limits
@pytest.mark.parametrize(("processes", "chunk_size"), [(1, 2), (2, 32)])
def test_limits_hold_in_the_process_of_the_user_and_go_again(greedy, processes, chunk_size):
    before = what_the_process_has()
    found = {}
    for path, result in stream_results(
        greedy.work, ["a", "loop", "huge", "b"], processes=processes, chunk_size=chunk_size
    ):
        found[path] = result
        assert what_the_process_has() == before
    assert [found[name] for name in "ab"] == list("ab")
    assert found["loop"].reason == "reading took more than 0.3 s of processor time"
    assert found["huge"].reason == "out of memory"
    assert np.empty(6 * 1024**3, np.uint8).size > 0


@needs_limits
def test_a_profiler_of_the_users_goes_on(greedy):
    heard = []
    before = signal.signal(signal.SIGVTALRM, lambda number, frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
        assert dict(stream_results(greedy.work, ["long"], processes=1)) == {"long": "long"}
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[1] > 0
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert len(heard) > 10


def test_beside_the_main_thread_work_is_done_without_limits(greedy):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: dict(stream_results(greedy.work, ["long"], processes=1)))
        assert asked.result() == {"long": "long"}


def test_the_limits_are_those_that_the_page_promises():
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    rate = limits.BYTES_PER_SECOND / 1e6
    assert f"| {limits.SECONDS:g} s, and 1 s more for every {rate:g} MB |" in page
    room = limits.MEMORY_BYTES / 2**30
    assert f"| {room:g} GiB and {limits.MEMORY_RATIO} times its size" in page


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
