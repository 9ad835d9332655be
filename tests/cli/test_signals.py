"""Ends that are not the program's own: signals, full disks, another process on the output."""

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main, signals
from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.workflows import measuring
from tests.io.conftest import write

N_FILE = 60
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    content = write(folder / "a.fits").read_bytes()
    for number in range(N_FILE):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (folder / f"{number:03d}.fits").write_bytes(changed)
    (folder / "a.fits").unlink()
    return folder


# Whatever has started the tests may ignore SIGHUP, as nohup does; then a run does so, too.
PROGRAM = """
import signal
import sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import time
import jaxmdwarf.workflows.measuring as measuring
from jaxmdwarf.cli import main
from jaxmdwarf.workflows.run import Run
measuring.CHUNK_SIZE = 5
last = int(sys.argv.pop(1))
keep = Run.keep
def keep_and_wait(run, number, chunk):
    keep(run, number, chunk)
    if number == last:
        time.sleep(120)
Run.keep = keep_and_wait
sys.exit(main())
"""


def start(night, out, last_chunk=-1):
    """``jaxmdwarf measure`` as a process of its own, with processes of its own.

    After `last_chunk` it waits: sixty files may be done before the test has its turn again.
    """
    program = [sys.executable, "-c", PROGRAM, str(last_chunk)]
    command = [*program, "measure", str(night), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--processes", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(path, process):
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_leaves_what_resumes(night, tmp_path, capsys, monkeypatch, name):
    out = tmp_path / "T.csv"
    process = start(night, out, last_chunk=8)
    wait_for(tmp_path / "T.csv.partial" / "chunk-000001.json", process)
    os.killpg(process.pid, getattr(signal, name))
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    last = shown.strip().splitlines()[-1]
    assert last == "jaxmdwarf: stopped. Long work resumes with the same command."
    assert "Traceback" not in shown
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no reader process is left
    monkeypatch.setattr(measuring, "CHUNK_SIZE", 5)
    assert main(["measure", str(night), "--out", str(out), "--processes", "1"]) == 0
    assert "of 60 files are done" in capsys.readouterr().err
    assert read_table(out)["obsid"].tolist() == [740_000_000 + k for k in range(N_FILE)]


LOSING = """
import os
import signal
import sys
import time
import jaxmdwarf.workflows.measuring as measuring
from jaxmdwarf.cli import main, signals
from jaxmdwarf.workflows.run import Run
signals.AGAIN_S = 0.2
class Loses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
def clean_slowly():
    try:
        yield from range(10)
    finally:
        time.sleep(0.5)
        print("iterators closed", flush=True)
def close_for_another_reason():
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
def keep(run, number, chunk):
    if how == "finalizer":
        Loses()
    else:
        for _ in close_for_another_reason():
            break
    print("lost", flush=True)
    for _ in clean_slowly():
        try:
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
            print("cleaned up", flush=True)
def rest():
    signals_rest()
    # Whoever is impatient tells it again when it is already on its way out.
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
signals_rest, signals.rest = signals.rest, rest
how = sys.argv.pop(1)
Run.keep = keep
sys.exit(main())
"""


@pytest.mark.parametrize(("how", "n_printed"), [("finalizer", 1), ("iterator", 0)])
def test_a_stop_that_was_lost_is_told_again_and_cleaning_up_is_not_disturbed(
    night, tmp_path, how, n_printed
):
    command = ["measure", str(night), "--out", str(tmp_path / "T.csv"), "--processes", "1"]
    done = subprocess.run(
        [sys.executable, "-c", LOSING, how, *command], capture_output=True, text=True, timeout=50
    )
    # Python tells of the one that it drops in a finalizer, and of no other.
    assert done.stderr.count("Exception ignored in") == n_printed
    assert done.stdout.split("\n") == ["lost", "cleaned up", "iterators closed", ""]
    assert done.returncode == 130
    assert done.stderr.strip().endswith(
        "jaxmdwarf: stopped. Long work resumes with the same command."
    )


def test_of_two_runs_on_one_output_one_is_told_and_the_table_is_whole(night, tmp_path):
    out = tmp_path / "T.csv"
    first = start(night, out)
    wait_for(tmp_path / "T.csv.partial", first)
    second = start(night, out)
    shown = [process.communicate(timeout=120)[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 2]
    told = shown[codes.index(2)].strip().splitlines()[-1]
    assert f"(pid {(first, second)[codes.index(0)].pid} on " in told or "T.csv exists" in told
    assert "Traceback" not in "".join(shown)
    assert read_table(out)["obsid"].tolist() == [740_000_000 + k for k in range(N_FILE)]
    assert not (tmp_path / "T.csv.partial").exists()


@pytest.fixture
def small_disk():
    """Files may have at most so many bytes; beyond, writing fails as on a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(
    night, tmp_path, capsys, monkeypatch, small_disk
):
    out = tmp_path / "T.csv"
    words = ["measure", str(night), "--out", str(out), "--processes", "1"]
    small_disk(8_000)
    assert main(words) == 1
    # Nothing was finished, so that nothing is left.
    assert not list(tmp_path.iterdir())
    small_disk(resource.RLIM_INFINITY)
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].startswith(f"jaxmdwarf: there is no room for {out}.partial/chunk-000000.")
    assert "make room and repeat the same command" in shown[-1]
    assert not any("Traceback" in line for line in shown)

    def write_on_a_full_disk(*arguments, **options):
        small_disk(8_000)
        try:
            write_table(*arguments, **options)
        finally:
            small_disk(resource.RLIM_INFINITY)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "write_table", write_on_a_full_disk)
        assert main(words) == 1
    assert f"no room for {out}:" in capsys.readouterr().err
    assert not out.exists()
    assert main(words) == 0
    assert "60 of 60 files are done" in capsys.readouterr().err
    assert len(read_table(out)) == N_FILE


@pytest.mark.parametrize("extension", ["fits", "fits.gz", "parquet", "vot", "csv", "ecsv", "mrt"])
def test_tables_of_every_format_say_that_the_disk_is_full(tmp_path, small_disk, extension):
    values = np.random.default_rng(0).normal(size=(400, 8))
    path = tmp_path / f"T.{extension}"
    small_disk(10_000)
    with pytest.raises(WorkFailed, match=f"no room for {path}:"):
        write_table(pd.DataFrame(values, columns=list("abcdefgh")), path)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_there_is_a_command_is_one_line(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxmdwarf.cli.compile_cache.use_compile_cache", interrupt)
    assert main(["measure", "night", "--out", "T.csv"]) == 130
    assert capsys.readouterr().err == (
        "jaxmdwarf: stopped. Long work resumes with the same command.\n"
    )


def test_a_library_that_loses_an_interrupt_while_it_is_loaded_is_no_error(monkeypatch, capsys):
    def lose(arguments):
        raise ImportError("initialization failed")

    monkeypatch.setattr("jaxmdwarf.cli._parse", lose)
    with pytest.raises(ImportError, match="initialization failed"):
        main(["measure", "night"])
    monkeypatch.setattr("jaxmdwarf.cli.signals._told", True)
    assert main(["measure", "night"]) == 130
    assert "stopped." in capsys.readouterr().err


def test_a_command_that_ends_all_the_same_is_not_told_after_its_end(monkeypatch):
    monkeypatch.setattr("jaxmdwarf.cli.signals._told", True)
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signals._stop)
        signal.setitimer(signal.ITIMER_REAL, 60.0, 1.0)
        assert main(["--version"]) == 0
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, before)
