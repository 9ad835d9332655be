"""Limits of processor time and memory on the work that a reader process does for one file.

What a file can be known by beforehand is checked before libraries see it
(`jaxmdwarf.io.fits_bytes`, `jaxmdwarf.io.compression`); these limits are for what nobody has
thought of.
They hold in reader processes alone: the process of the user is the user's.
"""

from __future__ import annotations

import contextlib
import os
import signal
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
def bound_work(path: str, base_bytes: int = 0) -> Iterator[None]:
    """Limit what the block, which works on a file, may use; for the main thread of a worker.

    Parameters
    ----------
    path : str
    base_bytes : int
        What the process has without it, see `count_memory`.

    Raises
    ------
    RejectedInput
        In the block, if it takes too long. What takes twice as long without coming back to Python
        ends the process.
    MemoryError
        In the block, if it asks for too much.
    """
    size = _size_of(path)
    if not hasattr(signal, "setitimer") or resource is None:
        yield
        return
    seconds = SECONDS + size / BYTES_PER_SECOND
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    memory = base_bytes + MEMORY_BYTES + MEMORY_RATIO * size
    if most != resource.RLIM_INFINITY:
        memory = min(memory, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, most))

    def stop(number: int, frame: Any) -> None:
        raise RejectedInput(
            f"reading took more than {seconds:.3g} s of processor time.",
            "the file may be damaged: look into it.",
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    # Every second again: somebody may catch whatever is raised.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


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
