"""One run: what is finished survives, only the run that it belongs to finds it, one at a time."""

import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxmdwarf.errors import RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.provenance import describe_inputs
from jaxmdwarf.io.rejects import Reject, read_rejects
from jaxmdwarf.workflows import run as run_module
from jaxmdwarf.workflows.run import Chunk, open_output, open_run, settle_accounts, was_writing

PATHS = tuple(f"{letter}.fits" for letter in "abcdefg")
EMPTY = pd.DataFrame({"path": [], "size": []})


class Killed(BaseException):
    pass


def read(path):
    """What a reader process would do: c is broken, d holds what a holds."""
    if path == "c.fits":
        raise RejectedInput("is broken", "mend it")
    return len(path), ord(path[0].replace("d", "a"))


def work_on(seen=None, *, stop_at=None):
    def work(items):
        for path, _ in items:
            if path == stop_at:
                raise Killed
        if seen is not None:
            seen.extend(path for path, _ in items)
        rows = pd.DataFrame([(path, size) for path, size in items], columns=["path", "size"])
        faint = rows["path"] == "e.fits"
        return Chunk(
            rows[~faint].reset_index(drop=True),
            [Reject(path, "is faint", "wait") for path in rows["path"][faint]],
            {"flux": np.arange(2.0 * (~faint).sum()).reshape(-1, 2)},
        )

    return work


@contextmanager
def opened(out, *, about=None, **options):
    with open_output(out, kind="a count", about=about or {"n": 1}, **options) as run:
        yield run


def count(run, work=None, paths=PATHS):
    return run.map_files(
        paths, read, work or work_on(), chunk_size=2, title="counting", processes=1
    )


def stop(out, at="g.fits", **options):
    """A run that is killed at an input; how many chunks it found."""
    with pytest.raises(Killed):
        _stop(out, at, found := [], **options)
    return found[0]


def _stop(out, at, found, **options):
    with opened(out, **options) as run:
        found.append(run.n_done)
        count(run, work_on(stop_at=at))


def test_rows_and_rejects_follow_the_inputs(tmp_path):
    with opened(tmp_path / "T.csv") as run:
        worked = count(run)
        rows, rejects = run.collect(EMPTY)
        chunks = list(run.read_all())
        (tmp_path / "T.csv").write_text("done")
    assert rows["path"].tolist() == ["a.fits", "b.fits", "f.fits", "g.fits"]
    assert [reject.path for reject in rejects] == ["c.fits", "d.fits", "e.fits"]
    assert rejects[1].reason == "the same spectrum as a.fits"
    assert worked.n_row == 4
    assert [len(chunk.arrays["flux"]) for chunk in chunks] == [2, 0, 1, 1]
    assert not (tmp_path / "T.csv.partial").exists()


@pytest.mark.parametrize("stop_at", ["a.fits", "e.fits", "g.fits"])
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, stop_at):
    out = tmp_path / "T.csv"
    stop(out, stop_at)
    done = PATHS.index(stop_at) // 2
    partial = tmp_path / "T.csv.partial"
    # A run that did nothing yet leaves nothing; a chunk that was cut off before its note is redone.
    assert partial.exists() == (done > 0)
    if done:
        (partial / f"chunk-{done:06d}.parquet").write_bytes(b"PAR1")
    seen = []
    with opened(out) as run:
        assert run.n_done == done
        count(run, work_on(seen))
        rows, rejects = run.collect(EMPTY)
    assert not set(PATHS[: 2 * done]) & set(seen)
    assert rows["path"].tolist() == ["a.fits", "b.fits", "f.fits", "g.fits"]
    # The copy of a file that was read before the interruption is still known.
    assert [reject.path for reject in rejects] == ["c.fits", "d.fits", "e.fits"]


def test_a_copy_of_what_the_last_finished_chunk_holds_is_still_known(tmp_path):
    paths = ("a.fits", "b.fits", "e.fits", "d.fits")
    with pytest.raises(Killed), opened(tmp_path / "T.csv") as run:
        count(run, work_on(stop_at="e.fits"), paths)
    with opened(tmp_path / "T.csv") as run:
        assert run.n_done == 1
        count(run, paths=paths)
        _, rejects = run.collect(EMPTY)
    assert {one.path: one.reason for one in rejects}["d.fits"] == "the same spectrum as a.fits"


def test_unfinished_work_of_other_settings_is_named_and_kept_until_it_may_go(tmp_path):
    out = tmp_path / "T.csv"
    mine = {"fit": {"n": 1}, "model": "a" * 64}
    stop(out, about=mine)
    other = {"fit": {"n": 2}, "model": "b" * 64}
    with pytest.raises(UsageError, match="n 1 instead of 2, other model") as caught:
        opened(out, about=other).__enter__()
    assert "--overwrite" in caught.value.remedy
    assert stop(out, about=mine, overwrite=True) == 3
    assert stop(out, about=other, overwrite=True) == 0


@dataclass(frozen=True)
class Careful:
    steps: int = 3


@dataclass(frozen=True)
class Hasty:
    steps: int = 3


def test_settings_of_another_class_are_other_settings_though_their_fields_are_the_same(tmp_path):
    out = tmp_path / "T.csv"
    stop(out, about={"fit": {"solver": Careful()}})
    with pytest.raises(UsageError, match=r"fit\.solver\.class .*Careful instead of .*Hasty"):
        opened(out, about={"fit": {"solver": Hasty()}}).__enter__()
    assert stop(out, about={"fit": {"solver": Careful()}}) == 3


def test_a_file_that_was_replaced_since_is_another_input(tmp_path):
    paths = [tmp_path / name for name in ("a.fits", "b.fits")]
    for path in paths:
        path.write_bytes(b"star")
    stop(tmp_path / "T.csv", about=describe_inputs(paths))
    assert stop(tmp_path / "T.csv", about=describe_inputs(paths)) == 3
    replaced = tmp_path / "new"
    replaced.write_bytes(b"moon")
    os.utime(replaced, ns=(0, 10**18))  # as large, and of another date
    replaced.rename(paths[1])
    with pytest.raises(UsageError, match="other inputs"):
        opened(tmp_path / "T.csv", about=describe_inputs(paths)).__enter__()
    paths[1].unlink()
    assert describe_inputs(paths) != describe_inputs(paths[::-1])


def test_no_resume_begins_anew_whatever_is_there(tmp_path):
    stop(tmp_path / "T.csv")
    assert stop(tmp_path / "T.csv", resume=False) == 0
    assert stop(tmp_path / "T.csv") == 3


def test_an_output_is_replaced_only_if_that_is_said(tmp_path):
    out = tmp_path / "T.csv"
    out.write_text("old")
    with pytest.raises(UsageError, match=r"T\.csv exists") as caught:
        opened(out).__enter__()
    assert "--overwrite" in caught.value.remedy
    stop(out, overwrite=True)
    assert out.read_text() == "old"
    with opened(out, overwrite=True) as run:
        assert run.n_done == 3


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    thesis = tmp_path / "T.csv.partial" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="does not hold a count"):
            opened(tmp_path / "T.csv", overwrite=overwrite).__enter__()
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match=r"holds no model\.json"):
        opened(thesis.parent, mark="model.json", overwrite=True).__enter__()


def test_steps_are_done_once_and_keep_plain_numbers(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"n": np.int64(3), "scatter": float("nan")}

    for _ in range(2):
        with open_run(tmp_path / "work", kind="steps", about={}) as run:
            assert run.step("first", make) == {"n": 3, "scatter": None}
            assert run.finished("first")
            assert not run.finished("second")
            assert list(run.seconds) == ["first"]
    assert made == [1]


def test_a_second_run_on_the_same_output_is_told_so(tmp_path):
    with opened(tmp_path / "T.csv") as run:
        count(run)
        with pytest.raises(UsageError, match=r"another process \(pid .*is writing .*T\.csv"):
            opened(tmp_path / "T.csv").__enter__()
        assert run.n_done == 4


def test_a_process_that_was_killed_leaves_no_lock_and_its_chunks(tmp_path):
    out = tmp_path / "T.csv"
    program = (
        "import time; from tests.workflows.test_run import *\n"
        f"with opened({str(out)!r}) as run:\n"
        "    count(run, paths=PATHS[:4]); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"ready\n"
        with pytest.raises(UsageError, match=f"pid {running.pid} on "):
            opened(out).__enter__()
        running.kill()
    with opened(out) as run:
        assert run.n_done == 2


def test_nothing_usable_is_an_error_that_names_the_first_reason(tmp_path):
    rejects = [Reject("c.fits", "is broken", "mend it")]
    rejects_file = tmp_path / "T_rejects.csv"

    def settle():
        with opened(tmp_path / "T.csv") as run:
            count(run, paths=("c.fits",))
            settle_accounts(run, rejects, n_in=1, n_out=0, rejects_file=rejects_file)

    with pytest.raises(WorkFailed, match=r"none of 1 inputs.*c\.fits: is broken") as caught:
        settle()
    assert "T_rejects.csv" in caught.value.remedy
    assert read_rejects(tmp_path / "T_rejects.csv") == rejects
    # The same files may have been mended when the command is given again.
    assert not (tmp_path / "T.csv.partial").exists()


def test_a_damaged_record_does_not_cost_the_work(tmp_path):
    stop(tmp_path / "T.csv")
    record = tmp_path / "T.csv.partial" / "run.json"
    record.write_text(json.dumps({"kind": "a count"}))
    with pytest.raises(UsageError, match="damaged"):
        opened(tmp_path / "T.csv").__enter__()
    assert (tmp_path / "T.csv.partial" / "chunk-000002.json").exists()


def test_the_time_of_the_work_is_that_of_the_work(tmp_path):
    def slow(items):
        time.sleep(0.02)
        return work_on()(items)

    with opened(tmp_path / "T.csv") as run:
        worked = count(run, slow)
    assert (worked.n_row, worked.seconds >= 0.08) == (4, True)


@pytest.mark.parametrize(("n_bug", "stops"), [(2, False), (3, True)])
def test_defects_of_readers_stop_a_run_and_single_strange_files_do_not(tmp_path, n_bug, stops):
    """Of 240 files, 2 are below 1 %; a third is above, in the last of four chunks."""
    paths = [f"{number:03d}.fits" for number in range(240)]
    bugs = [paths[number] for number in (10, 20, 230)[:n_bug]]

    def read(path):
        if path in bugs:
            raise AttributeError("no such thing")
        return len(path), None

    def work(items):
        rows = pd.DataFrame([(path, size) for path, size in items], columns=["path", "size"])
        return Chunk(rows, [])

    def run_all():
        with opened(tmp_path / "T.csv") as run:
            run.map_files(paths, read, work, chunk_size=60, title="counting", processes=1)
            return run.n_done, run.collect(EMPTY)

    if not stops:
        _, (rows, rejects) = run_all()
        assert (len(rows), len(rejects)) == (238, 2)
        assert rejects[0].reason == "AttributeError: no such thing"
        return
    for _ in range(2):
        # Given again, it goes on from the finished chunks, and what went wrong in them counts.
        with pytest.raises(WorkFailed, match=r"3 of 240 inputs ended in errors .*230\.fits: Attr"):
            run_all()
        assert len(list((tmp_path / "T.csv.partial").glob("chunk-*.json"))) == 3
    bugs.clear()
    assert run_all()[0] == 4


def test_what_a_killed_run_left_half_written_is_gone_when_the_next_one_ends(tmp_path):
    out, rejects = tmp_path / "T.csv", tmp_path / "T_rejects.csv"
    stop(out)
    half = [".T.tmp-abcdefgh.csv", ".T_rejects.tmp-abcdefgh.csv", "T.csv.partial/.run.tmp-a.json"]
    for name in (*half, ".U.tmp-abcdefgh.csv"):
        (tmp_path / name).write_text("half")
    folder = tmp_path / "T.csv.partial" / ".model.tmp-a"
    folder.mkdir()
    (folder / "model.json").write_text("half")
    with opened(out, beside=[rejects]) as run:
        assert not (tmp_path / half[2]).exists()
        assert not folder.exists()
        assert run.n_done == 3
    assert [path.name for path in tmp_path.iterdir()] == [".U.tmp-abcdefgh.csv"]


def test_a_run_that_is_killed_while_its_work_folder_goes_leaves_none_that_is_damaged(
    tmp_path, monkeypatch
):
    def die(*folders):
        raise Killed

    monkeypatch.setattr("jaxmdwarf.workflows.run.remove_remains", die)
    with pytest.raises(Killed), opened(tmp_path / "T.csv") as run:
        count(run)
    assert not (tmp_path / "T.csv.partial").exists()
    monkeypatch.undo()
    with opened(tmp_path / "T.csv") as run:
        assert run.n_done == 0
    assert not list(tmp_path.iterdir())


def _stop_writing(out):
    with opened(out) as run:
        assert not was_writing(out)
        run.begin_writing()
        raise Killed


def test_products_beside_an_output_are_its_own_while_its_run_is_unfinished(tmp_path):
    out = tmp_path / "T.csv"
    assert not was_writing(out)
    with pytest.raises(Killed):
        _stop_writing(out)
    assert was_writing(out)
    with opened(out):
        pass
    assert not was_writing(out)


def killing(write, at, before):
    """`write_atomically` in a process that ends at the call `at`, before or after the new name."""
    calls = itertools.count()

    @contextmanager
    def killed(path):
        last = next(calls) == at
        with write(path) as temporary:
            yield temporary
            if last and before:
                raise Killed
        if last:
            raise Killed

    return killed


@given(
    st.text("abcdefgh", min_size=4, max_size=9),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=3),
)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_run_killed_at_any_write_any_number_of_times_ends_the_same(
    tmp_path_factory, monkeypatch, letters, chunk_size, kills
):
    paths = [f"{letter}.fits" for letter in dict.fromkeys(letters)]
    folder = tmp_path_factory.mktemp("run")

    def attempt(name):
        with opened(folder / name) as run:
            options = {"chunk_size": chunk_size, "title": "counting", "processes": 1}
            run.map_files(paths, read, work_on(), **options)
            rows, rejects = run.collect(EMPTY)
            arrays = [chunk.arrays["flux"].tolist() for chunk in run.read_all()]
            return rows.to_dict("list"), rejects, arrays, run.n_in

    whole = attempt("whole.csv")
    assert whole[3] == len(paths) == len(whole[0]["path"]) + len(whole[1])
    for at, before in kills:
        killed = killing(run_module.write_atomically, at, before)
        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr(run_module, "write_atomically", killed)
            attempt("killed.csv")
    assert attempt("killed.csv") == whole


def test_what_stopped_a_run_is_told_even_where_its_folder_cannot_go(tmp_path, monkeypatch):
    """Nothing was kept, so that the folder is to go; a file server may hold files in it."""

    def fail(*arguments, **options):
        raise OSError("busy")

    def work():
        with opened(tmp_path / "T.csv"):
            monkeypatch.setattr(os, "rmdir", fail)
            raise WorkFailed("the reason", "mend it")

    with pytest.raises(WorkFailed, match="the reason"):
        work()


def test_the_time_of_the_work_is_no_longer_than_the_run(tmp_path):
    began = time.perf_counter()
    with opened(tmp_path / "T.csv") as run:
        worked = count(run)
    assert 0 <= worked.seconds <= time.perf_counter() - began
