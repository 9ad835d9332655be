"""Limits of processor time and memory on the work that is done for one file.

What a file can be known by beforehand is checked before libraries see it
(`jaxmdwarf.io.fits_bytes`, `jaxmdwarf.io.compression`); these limits are for what nobody has
thought of.
A reader process is ours, and may be ended. The process of the user is the user's: there the same
limits raise exceptions, leave alone what somebody else has set, and go with the block.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmdwarf.errors import RejectedInput

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SECONDS = 60.0
"""Processor time for a file of any size; a spectrum takes some milliseconds."""

BYTES_PER_SECOND = 5_000_000
"""A file of many spectra gets a second more for so many bytes."""

MEMORY_BYTES = 4 * 1024**3
"""Memory beyond what the process had at its start, for a file of any size."""

MEMORY_RATIO = 8
"""A large file gets so many times its size besides."""


@contextlib.contextmanager
def bound_work(path: str, base_bytes: int, *, deadly: bool) -> Iterator[None]:
    """Limit what the block, which works on a file, may use.

    Nothing is limited beside the main thread, for which alone handlers of signals are, nor where
    the system has no such limits (Windows).

    Parameters
    ----------
    path : str
    base_bytes : int
        What the process has without it, see `count_memory`; 0 where that is not known.
    deadly : bool
        Whether the process may be ended.

    Raises
    ------
    RejectedInput
        In the block, if it takes too long. What takes twice as long without coming back to Python
        ends the process, if that may be.
    MemoryError
        In the block, if it asks for too much.
    """
    size = _size_of(path)
    with contextlib.ExitStack() as limits:
        if threading.current_thread() is threading.main_thread():
            limits.enter_context(_bound_time(SECONDS + size / BYTES_PER_SECOND, deadly=deadly))
            # Of a process that has more than a reader does by itself this must be known.
            if base_bytes or deadly:
                limits.enter_context(_bound_memory(base_bytes + MEMORY_BYTES + MEMORY_RATIO * size))
        yield


@contextlib.contextmanager
def _bound_time(seconds: float, *, deadly: bool) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return
    timers = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)[: 1 + deadly]
    if any(signal.getitimer(timer) != (0.0, 0.0) for timer in timers):
        yield  # somebody's profiler
        return

    def stop(number: int, frame: Any) -> None:
        raise RejectedInput(
            f"reading took more than {seconds:.3g} s of processor time.",
            "the file may be damaged: look into it.",
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        # Every second again: somebody may catch whatever is raised.
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
        if deadly:
            signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # it may still have gone off until here
        finally:
            for timer in timers:
                signal.setitimer(timer, 0)
            # None: what is not Python's own.
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _bound_memory(n_bytes: int) -> Iterator[None]:
    if resource is None:
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    known = [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([n_bytes, *known]), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def count_memory() -> int:
    """Bytes of data that this process has, 0 where the system does not tell."""
    try:
        words = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(words[5]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0  # its reader says what is wrong with it
