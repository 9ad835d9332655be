"""Work on many files in parallel processes: ordered results, bounded memory, no file lost.

Why not `concurrent.futures.ProcessPoolExecutor`: its spawned workers import the caller's main
module again, which breaks scripts and notebooks without a main guard and makes every worker pay
for an import of JAX; and forked workers deadlock once JAX runs threads. Here a worker is a fresh
interpreter that imports what its task needs and talks over its pipes; one thread of the caller
serves each worker.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io.limits import bound_work, count_memory
from jaxmdwarf.io.parts import PackPart, count_spectra, measure_size
from jaxmdwarf.io.registry import pack_extras, unpack_extras
from jaxmdwarf.io.rejects import Reject, UnexpectedReject

CHUNKS_AHEAD = 3
"""Chunks a worker may be ahead of the consumer: enough to keep it busy, little in memory."""

CHUNK_BYTES = 64 * 1024**2
"""Size of files that travel together at most: one of many spectra travels alone."""

_LENGTH = struct.Struct("<Q")
_WORKER = "from jaxmdwarf.io.stream import serve; serve()"


def stream_results(
    task: Callable[[str], Any],
    paths: Iterable[str],
    *,
    processes: int | None = None,
    chunk_size: int = 32,
) -> Iterator[tuple[str, Any]]:
    """Yield ``(path, task(path))`` for every path, in order.

    Parameters
    ----------
    task : callable
        Takes a path; must be picklable by reference (a module-level function or an instance of a
        module-level class). Its module should not import JAX. What does nothing but read says so
        by an attribute ``only_reads``: parts of packs on a disk are then read by threads of this
        process, for handing their arrays over would cost more than reading them does.
    paths : iterable of str
        Consumed as needed.
    processes : int, optional
        Workers; None takes the cores that this process may use. 1, or a single chunk of paths,
        works in this process, and so does anything while a reader is registered that no other
        process can import.
    chunk_size : int
        Paths that travel together, fewer where they are files of more than `CHUNK_BYTES`.

    Yields
    ------
    path, result
        `result` is what the task returned, or a `Reject` where it raised `RejectedInput`, an
        `UnexpectedReject` where it raised anything else (the reason names the error), took more
        time or memory than `jaxmdwarf.io.limits` grants, or its process died. In this process what
        never comes back to Python is not stopped, and beside its main thread nothing is.
    """
    extras = pack_extras()
    # Readers that stand in a script or a notebook exist in this process alone.
    n_workers = (processes or count_cores()) if extras is not None else 1
    chunks = chunk_paths(paths, chunk_size, CHUNK_BYTES)
    first = list(islice(chunks, 2))
    if n_workers == 1 or len(first) < 2:

        def work(path: str) -> Any:
            with bound_work(path, count_memory(), deadly=False):
                return task(path)

        for chunk in _chain(first, chunks):
            for path in chunk:
                yield path, run_one(work, path)
        return
    workers: list[_Worker] = []
    local = threading.local()

    def serve_chunk(chunk: list[str]) -> list[Any]:
        if getattr(task, "only_reads", False) and all(map(_is_near, chunk)):
            return [run_one(task, path) for path in chunk]
        if not hasattr(local, "worker"):
            local.worker = _Worker(task, extras or b"")
            workers.append(local.worker)
        return local.worker.run(chunk)

    pending: deque[tuple[list[str], Future]] = deque()
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="jaxmdwarf-reader")
    try:
        for chunk in _chain(first, chunks):
            pending.append((chunk, pool.submit(serve_chunk, chunk)))
            if len(pending) > CHUNKS_AHEAD * n_workers:
                done, future = pending.popleft()
                yield from zip(done, future.result(), strict=True)
        while pending:
            done, future = pending.popleft()
            yield from zip(done, future.result(), strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.close()


def _is_near(path: str) -> bool:
    return isinstance(path, PackPart) and path.on_disk


def require_processes(processes: int | None) -> None:
    """Raise `UsageError` for a number of worker processes that cannot work."""
    if processes is not None and processes < 1:
        raise UsageError(
            f"{processes} processes cannot work.",
            "give --processes 1 or more, or leave it out for all cores.",
        )


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_one(task: Callable[[str], Any], path: str) -> Any:
    """``task(path)``, or the `Reject` that says why there is no result."""
    try:
        return task(path)
    except RejectedInput as error:
        return Reject.from_error(path, error)
    except MemoryError:
        return Reject(
            path, "out of memory", "the file may be damaged: look into it, or use fewer processes"
        )
    except Exception as error:  # one strange file must not end a run over a million
        return UnexpectedReject.from_exception(path, error)


def serve() -> None:
    """The life of a worker: a task, then chunks of paths, from standard input until it closes."""
    # Ctrl-C, a lost terminal and what batch systems send to all processes are for the parent, which
    # closes the pipe.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into the pipe
    unpack_extras(_receive(source))
    task = _receive(source)
    base_bytes = count_memory()

    def work(path: str) -> Any:
        with bound_work(path, base_bytes, deadly=True):
            return task(path)

    while True:
        try:
            chunk = _receive(source)
        except EOFError:
            return
        try:
            _send(sink, [run_one(work, path) for path in chunk])
        except BrokenPipeError:
            return


class _Worker:
    def __init__(self, task: Callable[[str], Any], extras: bytes) -> None:
        self._task, self._extras = task, extras
        self._process: subprocess.Popen | None = None

    def run(self, chunk: list[str]) -> list[Any]:
        try:
            return self._ask(chunk)
        except (EOFError, OSError):
            self.close()
        # The process died, on one of these files: find it by asking for each alone.
        results = []
        for path in chunk:
            try:
                results += self._ask([path])
            except (EOFError, OSError):
                self.close()
                results.append(
                    Reject(path, "its reader process died", "the file may be damaged or too large")
                )
        return results

    def _ask(self, chunk: list[str]) -> list[Any]:
        if self._process is None:
            self._process = self._start()
        _send(self._process.stdin, chunk)
        return _receive(self._process.stdout)

    def _start(self) -> subprocess.Popen:
        # The worker must find the package wherever the parent found it, and leave the cores to
        # its siblings: linear algebra is not what it is there for.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        _send(process.stdin, self._extras)
        _send(process.stdin, self._task)
        return process

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _send(sink: Any, message: Any) -> None:
    payload = pickle.dumps(message, protocol=5)
    sink.write(_LENGTH.pack(len(payload)))
    sink.write(payload)
    sink.flush()


def _receive(source: Any) -> Any:
    return pickle.loads(_read_exactly(source, _LENGTH.unpack(_read_exactly(source, 8))[0]))


def _read_exactly(source: Any, n_bytes: int) -> bytes:
    data = source.read(n_bytes)
    if len(data) < n_bytes:
        raise EOFError
    return data


def chunk_paths(paths: Iterable[str], size: int, n_bytes: int) -> Iterator[list[str]]:
    """Paths in lists of at most `size`, whose files have about `n_bytes` together at most.

    Parts of packs count as many as their spectra are.
    """
    chunk: list[str] = []
    n_chunk = n_spectrum = 0
    for path in paths:
        n_own, n_new = measure_size(path), count_spectra([path])
        if chunk and (n_spectrum + n_new > size or n_chunk + n_own > n_bytes):
            yield chunk
            chunk, n_chunk, n_spectrum = [], 0, 0
        chunk.append(path)
        n_chunk, n_spectrum = n_chunk + n_own, n_spectrum + n_new
    if chunk:
        yield chunk


def _chain(first: list[list[str]], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield from first
    yield from rest
