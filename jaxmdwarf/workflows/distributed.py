"""One fit on many workers of a Dask cluster, part by part; finished parts stay.

Spectra and rows do not pass the scheduler: what travels is the number of a part. Workers read their
inputs and write their tables themselves, so that they must see inputs, model and output under the
paths of the process that asks. Each part is a job as ``--shard`` makes one
(`jaxmdwarf.workflows.sharding`): resumable, locked, with its rejects and its note beside it.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxmdwarf import __version__
from jaxmdwarf.errors import JaxmdwarfError, UsageError, WorkFailed
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.io.models import DEFAULT_MODEL
from jaxmdwarf.io.parts import count_spectra
from jaxmdwarf.io.provenance import hash_files, hash_values
from jaxmdwarf.io.stream import chunk_paths
from jaxmdwarf.workflows.chunking import CHUNK_BYTES
from jaxmdwarf.workflows.fitting import FitPlan
from jaxmdwarf.workflows.outputs import require_output
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import RECORD_NAME, open_run
from jaxmdwarf.workflows.sharding import Shard, name_shard_note, read_note

if TYPE_CHECKING:
    from distributed import Client

PART_SPECTRA = 5_000
"""Spectra of a part, unless a number of parts is asked for."""

FEWEST_PARTS = 16
"""Parts of short lists: few workers then wait for the last one for a part of their time alone."""

_RETRIES, _CONNECT_S = 2, 10


class _Task(NamedTuple):
    """What all workers are told; each reads once what it stands for.

    Parameters
    ----------
    files : tuple of str
    model, gaia : str or None
        Paths; None of a model is the one of the package.
    out : str
        Folder of the output.
    options : FitConfig
    model_hash, version : str
        Of the model and of the package.
    compiled : str
        Folder of compiled programs; empty for none.
    identity : str
        Hash of all that the results depend on.
    """

    files: tuple[str, ...]
    model: str | None
    gaia: str | None
    out: str
    options: FitConfig
    model_hash: str
    version: str
    compiled: str
    identity: str


def fit_on_workers(
    files: Sequence[str | os.PathLike[str]],
    model_dir: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    cluster: str | Client = "local:2",
    n_part: int | None = None,
    options: FitConfig | None = None,
    gaia: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit every spectrum in `files` on the workers of a cluster.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns, ``@lists`` and packs, under paths that all workers see.
    model_dir : path or None
        A model directory; None takes the model that comes with the package.
    out : path
        A folder, for ``parts/00001.parquet`` and so on, each with its rejects and its note beside
        it: `jaxmdwarf.workflows.sharding.merge_tables` makes one table of them.
    cluster : str or distributed.Client
        ``local:N`` for N processes of this host, which share its cores; the address of a scheduler
        (``tcp://host:8786``); or a client.
    n_part : int, optional
        By default one for every 5,000 spectra, 16 at least: it does not depend on the workers, so
        that a run may go on with others.
    options : FitConfig, optional
    gaia : path, optional
        See `jaxmdwarf.workflows.fitting.fit_files`.
    overwrite : bool
        Whether parts of another run may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, and the folder of the tables.

    Raises
    ------
    UsageError
        Before any work: what `jaxmdwarf.workflows.fitting.fit_files` refuses, a scheduler that
        does not answer or has no worker, workers with another version or that do not see the model
        or the output.
    WorkFailed
        If parts failed, each named, or the scheduler went away; finished parts stay, and the same
        call goes on with the others.
    """
    progress, options = progress or Silent(), options or FitConfig()
    folder = Path(out).absolute()
    require_output(folder, mark=RECORD_NAME, holds="parts of a fit", overwrite=True)
    names = tuple(_absolute(name) for name in files)
    model = None if model_dir is None else os.path.abspath(model_dir)
    table = None if gaia is None else os.path.abspath(gaia)
    plan = FitPlan.prepare(names, model, options=options, gaia=table, leave_out=(folder,))
    n_part = _choose_parts(plan, n_part)
    shards = [Shard(number, n_part) for number in range(1, n_part + 1)]
    with _connect(cluster) as client:
        n_worker = len(client.scheduler_info(n_workers=-1)["workers"])
        about = {**plan.about, "parts": n_part}
        task = _Task(
            files=names,
            model=model,
            gaia=table,
            out=os.fspath(folder),
            options=options,
            model_hash=hash_files(plan.model_dir),
            version=__version__,
            compiled=_find_compile_cache(),
            identity=hash_values(repr(about)),
        )
        with open_run(folder, kind="a fit on workers", about=about, overwrite=overwrite):
            _require_workers(client, task)
            name_part(folder, shards[0]).parent.mkdir(exist_ok=True)
            for line in (*plan.lines, f"{n_part} parts on {n_worker} workers."):
                progress.say(line)
            _work(
                client,
                task,
                {shard: count_spectra(shard.take(plan.inputs).paths) for shard in shards},
                progress,
            )
    return _sum_up(folder, shards)


def _choose_parts(plan: FitPlan, n_part: int | None) -> int:
    if n_part is not None and n_part < 1:
        raise UsageError(f"{n_part} parts are none.", "give --parts 1 or more.")
    paths = plan.inputs.paths
    wanted = n_part or max(-(-count_spectra(paths) // PART_SPECTRA), FEWEST_PARTS)
    # Chunks are not divided: more parts than chunks would be empty.
    n_chunk = sum(1 for _ in chunk_paths(paths, plan.fitter.config.chunk_size, CHUNK_BYTES))
    return max(min(wanted, n_chunk), 1)


def name_part(out: str | os.PathLike[str], shard: Shard) -> Path:
    """Where the table of a part goes.

    Examples
    --------
    >>> name_part("catalogue", Shard(3, 64)).as_posix()
    'catalogue/parts/00003.parquet'
    """
    return Path(out) / "parts" / f"{shard.number:05d}.parquet"


def _absolute(name: str | os.PathLike[str]) -> str:
    """A path as workers in other folders understand it; lists and URLs keep their marks."""
    text = os.fspath(name)
    if "://" in text:
        return text
    return "@" + os.path.abspath(text[1:]) if text.startswith("@") else os.path.abspath(text)


def _find_compile_cache() -> str:
    import jax

    return jax.config.jax_compilation_cache_dir or ""  # type: ignore[attr-defined]


# On workers.

_plans: dict[str, FitPlan] = {}
# The one that is being worked on: a worker prepares it once.


def _fit_part(task: _Task, shard: Shard) -> None:
    """Work on a part, unless it is done."""
    target = name_part(task.out, shard)
    if _is_done(target):
        return
    if task.identity not in _plans:
        wrong = _find_fault(task)
        if wrong:
            raise UsageError(f"this worker {wrong}.", "start it as the others.")
        _plans.clear()
        _plans[task.identity] = FitPlan.prepare(
            task.files, task.model, options=task.options, gaia=task.gaia, leave_out=(task.out,)
        )
    _plans[task.identity].run(target, shard=shard, processes=1)


def _is_done(target: Path) -> bool:
    """Whether the table of a part stands; it is the last file to be written."""
    return target.is_file() and name_shard_note(target).is_file()


def _find_fault(task: _Task) -> str:
    """Why a worker cannot do the task; empty if it can."""
    if __version__ != task.version:
        return f"has version {__version__} of jaxmdwarf, not {task.version}"
    model = task.model or os.fspath(DEFAULT_MODEL)
    found = hash_files(model) if os.path.isdir(model) else ""
    if found != task.model_hash:
        return f"{'has another' if found else 'does not see the'} model at {model}"
    if not os.access(task.out, os.W_OK):
        return f"cannot write to {task.out}"
    if task.compiled and not _find_compile_cache() and os.path.isdir(task.compiled):
        import jax

        jax.config.update("jax_compilation_cache_dir", task.compiled)
    return ""


# Beside the scheduler.


@contextmanager
def _connect(cluster: str | Client) -> Iterator[Client]:
    """A client of workers that are there."""
    try:
        import distributed
    except ImportError:
        raise UsageError("Dask is not installed.", "pip install 'jaxmdwarf[dask]'.") from None
    if not isinstance(cluster, str):
        yield cluster
        return
    local = re.fullmatch(r"local:([1-9]\d*)", cluster)
    if local:
        n_worker = int(local[1])
        with (
            distributed.LocalCluster(
                n_workers=n_worker,
                threads_per_worker=1,
                dashboard_address=":0",
                silence_logs=logging.ERROR,
            ) as host,
            distributed.Client(host) as client,
        ):
            client.register_plugin(_share_cores(n_worker))
            yield client
        return
    if "://" not in cluster:
        raise UsageError(
            f"{cluster!r} is no cluster.",
            "give local:N for N processes of this host, or the address of a scheduler, such as "
            "tcp://host:8786.",
        )
    try:
        client = distributed.Client(cluster, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no scheduler answers at {cluster} ({str(error).splitlines()[0]}).",
            "start one with 'dask scheduler', or check the address.",
        ) from None
    with _quiet_client(), client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError:
            raise UsageError(
                f"the scheduler at {cluster} has no worker.",
                f"start some with 'dask worker {cluster}'.",
            ) from None
        yield client


def _share_cores(n_worker: int) -> Any:
    """A plugin that gives each process of a host cores of its own, before JAX counts them."""
    from distributed import WorkerPlugin

    class OwnCores(WorkerPlugin):
        name = "own-cores"

        def setup(self, worker: Any) -> None:
            if hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                own = cores[int(worker.name) % n_worker :: n_worker]
                os.sched_setaffinity(0, own or cores)

    return OwnCores()


def _require_workers(client: Client, task: _Task) -> None:
    """Raise `UsageError` for the first worker that cannot do the task."""
    try:
        faults: Mapping[str, str] = client.run(_find_fault, task)
    except ImportError as error:
        raise UsageError(
            f"a worker cannot import what it needs: {error}.",
            "install the same jaxmdwarf for all workers.",
        ) from None
    for address, fault in faults.items():
        if fault:
            raise UsageError(
                f"the worker at {address} {fault}.",
                "give all workers one version of jaxmdwarf, and paths that all of them see.",
            )


def _work(client: Client, task: _Task, sizes: Mapping[Shard, int], progress: Progress) -> None:
    """Have all parts done that are not; raise `WorkFailed` for those that cannot."""
    from distributed import as_completed

    call = uuid.uuid4().hex[:12]
    waiting = [shard for shard in sizes if not _is_done(name_part(task.out, shard))]
    before = sum(sizes.values()) - sum(sizes[shard] for shard in waiting)
    futures = {
        client.submit(
            _fit_part,
            task,
            shard,
            # A cluster remembers by its key what failed: every call has keys of its own.
            key=f"jaxmdwarf-{call}-{shard.number}",
            pure=False,
            retries=_RETRIES,
        ): shard
        for shard in waiting
    }
    failed: dict[Shard, str] = {}
    n_lost = 0
    with progress.stage(
        "fitting spectra", float(sum(sizes.values())), unit="spectra", done=float(before)
    ) as stage:
        for future in as_completed(list(futures)):
            shard = futures[future]
            if future.status == "finished":
                stage.advance(float(sizes[shard]))
            elif future.status == "error":
                failed[shard] = _tell_failure(future.exception())
            else:
                n_lost += 1
    kept = f"give the same command: {len(sizes) - len(failed) - n_lost} parts are done and stay."
    if n_lost:
        raise WorkFailed(
            f"the scheduler went away with {n_lost} of {len(sizes)} parts still to be done.",
            f"start one again, with workers, and {kept}",
        )
    if failed:
        named = " ".join(f"Part {shard}: {reason}" for shard, reason in list(failed.items())[:3])
        raise WorkFailed(
            f"{len(failed)} of {len(sizes)} parts failed. {named}",
            f"mend what is named and {kept}",
        )


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Without the client's own pages of traceback where a scheduler is lost: that is told once."""
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _tell_failure(error: BaseException) -> str:
    return str(error) if isinstance(error, JaxmdwarfError) else f"{type(error).__name__}: {error}."


def _sum_up(out: Path, shards: Sequence[Shard]) -> dict[str, Any]:
    """Counts of all parts."""
    import pyarrow.parquet

    tables = [name_part(out, shard) for shard in shards]
    n_in = sum(int(read_note(table)["n_in"]) for table in tables)
    n_out = sum(pyarrow.parquet.ParquetFile(table).metadata.num_rows for table in tables)
    return {
        "parts": len(tables),
        "inputs": n_in,
        "catalogue": n_out,
        "rejected": n_in - n_out,
        "tables": os.fspath(tables[0].parent),
    }
