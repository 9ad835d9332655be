"""A fit on the workers of a cluster: whatever becomes of them, it is the table of one process."""

import inspect
import os
import signal
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from jaxmdwarf import __version__
from jaxmdwarf.cli import main
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.io.inputs import Inputs
from jaxmdwarf.io.models import save_model
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.provenance import hash_files
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows import distributed as module
from jaxmdwarf.workflows.distributed import fit_on_workers, name_part
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.sharding import Shard, merge_tables, name_shard_note
from tests.workflows.test_interruption import make_emulator, write_survey

N_STAR, N_PART, CHUNK = 60, 4, 4
# Few programs to compile: each worker does so for itself.
OPTIONS = FitConfig(chunk_size=CHUNK, velocity="header", clip_sigma=0.0)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(make_emulator(), tmp_path_factory.mktemp("model") / "emulator")


@pytest.fixture(scope="module")
def survey(tmp_path_factory, write_stars):
    return write_survey(tmp_path_factory.mktemp("data") / "survey", N_STAR, write_stars)


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as found,
    ):
        yield found


def kill_in_the_middle(client, out, blocked):
    """Put a folder in the way of a part, and kill -9 a worker once a chunk of another is done."""
    killed = []

    def wait_for(done, seconds):
        until = time.monotonic() + 300.0
        while not done() and time.monotonic() < until:
            time.sleep(seconds)

    def watch():
        wait_for(blocked.parent.exists, 0.005)
        blocked.mkdir()
        wait_for(lambda: list(out.glob("parts/*.partial/chunk-*.json")), 0.02)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


def test_a_worker_is_killed_and_a_part_cannot_be_written(survey, model_dir, client, tmp_path):
    out = tmp_path / "catalogue"
    blocked = name_part(out, Shard(2, N_PART))
    how = {"cluster": client, "n_part": N_PART, "options": OPTIONS}
    thread, killed = kill_in_the_middle(client, out, blocked)
    message = r"1 of 4 parts failed\. Part 2/4: .*is a folder"
    with pytest.raises(WorkFailed, match=message) as caught:
        fit_on_workers([survey], model_dir, out, **how)
    thread.join()
    assert killed
    assert "3 parts are done" in caught.value.remedy
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}
    blocked.rmdir()

    summary = fit_on_workers([survey], model_dir, out, **how)
    again = {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}
    assert {name: again[name] for name in done if name != blocked.name} == {
        name: moment for name, moment in done.items() if name != blocked.name
    }
    assert (summary["parts"], summary["inputs"]) == (N_PART, N_STAR + 2)
    whole, merged = tmp_path / "whole.parquet", tmp_path / "merged.parquet"
    # In a process like theirs: programs of this one are compiled with other options.
    alone = client.submit(fit_files, [survey], model_dir, whole, options=OPTIONS, processes=1)
    one = alone.result()
    merge_tables(sorted(out.glob("parts/*.parquet")), merged)
    assert (summary["catalogue"], summary["rejected"]) == (
        one["catalogue"] + 1,
        one["rejected"] - 1,
    )
    table, expected = read_table(merged), read_table(whole)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert [reject.reason for reject in read_rejects(tmp_path / "merged_rejects.csv")] == [
        reject.reason for reject in read_rejects(tmp_path / "whole_rejects.csv")
    ]


def test_another_run_is_not_gone_on_with(survey, model_dir, client, tmp_path):
    out = tmp_path / "catalogue"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="left alone"):
        fit_on_workers([survey], model_dir, out, cluster=client)
    assert (out / "notes.txt").read_text() == "mine"


def make_task(model_dir, out):
    return module._Task(
        files=(),
        model=str(model_dir),
        gaia=None,
        out=str(out),
        options=OPTIONS,
        model_hash=hash_files(model_dir),
        version=__version__,
        compiled="",
        identity="",
    )


def test_workers_that_cannot_do_it_are_told_before_any_work(model_dir, tmp_path):
    right = make_task(model_dir, tmp_path)
    assert module._find_fault(right) == ""
    for change, message in (
        ({"version": "0.0.1"}, "has version"),
        ({"model_hash": "0"}, "has another model"),
        ({"model": str(tmp_path / "nowhere")}, "does not see the model"),
        ({"out": str(tmp_path / "nowhere")}, "cannot write to"),
    ):
        assert message in module._find_fault(right._replace(**change))


class Lost:
    """A future whose scheduler has gone."""

    status = "cancelled"


def test_a_scheduler_that_goes_away_is_told_in_one_sentence(model_dir, monkeypatch, tmp_path):
    import distributed

    monkeypatch.setattr(distributed, "as_completed", iter)
    client = SimpleNamespace(submit=lambda *_, **__: Lost())
    done = name_part(tmp_path, Shard(1, 3))
    done.parent.mkdir()
    for path in (done, name_shard_note(done)):
        path.touch()
    sizes = {Shard(number, 3): 10 for number in (1, 2, 3)}
    message = "the scheduler went away with 2 of 3 parts still to be done"
    with pytest.raises(WorkFailed, match=message) as caught:
        module._work(client, make_task(model_dir, tmp_path), sizes, Silent())
    assert "1 parts are done" in caught.value.remedy


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("local:0", "is no cluster"),
        ("8", "is no cluster"),
        ("tcp://127.0.0.1:9", "no scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_clusters_that_are_none(survey, model_dir, tmp_path, monkeypatch, cluster, message):
    monkeypatch.setattr(module, "_CONNECT_S", 0.5)
    with pytest.raises(UsageError, match=message):
        fit_on_workers([survey], model_dir, tmp_path / "catalogue", cluster=cluster)
    assert not (tmp_path / "catalogue").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dask", "local:2", "--shard", "1/2"], "--shard and --dask do not go together"),
        (["--parts", "4"], "--parts is for --dask"),
        (["--dask", "local:2", "--parts", "0"], "0 parts are none"),
    ],
)
def test_options_that_do_not_go_together(survey, model_dir, tmp_path, capsys, words, message):
    out = str(tmp_path / "catalogue")
    assert main(["fit", str(survey), "--model", str(model_dir), "--out", out, *words]) == 2
    assert message in capsys.readouterr().err
    assert not os.path.exists(out)


@pytest.mark.parametrize(
    ("n_spectrum", "n_part", "expected"),
    [
        (80_000, None, 16),
        (80_001, None, 17),
        (200_000, None, 40),
        (200_001, None, 41),
        (900, None, 9),
        (1_000_000, 3, 3),
        (900, 30, 9),
        (5, None, 1),
    ],
)
def test_parts_have_five_thousand_spectra_and_no_part_is_empty(n_spectrum, n_part, expected):
    paths = tuple(
        PackPart("s.zarr", "5f", first, min(first + 100, n_spectrum))
        for first in range(0, n_spectrum, 100)
    )
    plan = SimpleNamespace(
        inputs=Inputs(paths, ()), fitter=SimpleNamespace(config=SimpleNamespace(chunk_size=100))
    )
    choose = inspect.unwrap(module._choose_parts)
    assert choose(plan, n_part) == expected
    with pytest.raises(UsageError, match="0 parts are none"):
        choose(plan, 0)
