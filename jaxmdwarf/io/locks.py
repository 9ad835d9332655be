"""One process at a time on one output: a locked file that names who holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.atomic import told_if_full

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def hold_lock(path: str | os.PathLike[str], *, work: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; its folder must exist.

    Parameters
    ----------
    path : path
        The file; it stays (empty) when the block is left, unless the block removes it.
    work : str
        What the holder does, for the error, such as "writing catalogue.fits".

    Raises
    ------
    UsageError
        If another process holds it, or this one already does; with its number, host and start.
    WorkFailed
        If the disk is full.

    Notes
    -----
    The lock is ``flock`` on the open file, not the existence of the file: the kernel lets it go
    however the process ends, so that nothing is stale after a crash or a power cut, and no number
    of a dead process that another one got since can be taken for its owner. Linux carries it over
    NFS. Where a file system knows no locks (Lustre without ``-o flock``), what is written in the
    file decides: an owner that lives, or that is on another host, where nobody can tell, is obeyed.
    """
    file = _acquire(Path(path), work)
    try:
        yield
    finally:
        file.truncate(0)
        file.close()


def _acquire(path: Path, work: str) -> TextIO:
    while True:
        # Kept open, to hold the lock.
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _lock(file)
        except BlockingIOError:
            owner = _describe(_read_owner(file))
            file.close()
            raise UsageError(
                f"another process{owner} is {work}.",
                "wait for it or stop it, or give another output path; if it is gone for sure, "
                f"delete {path}.",
            ) from None
        # The holder before may have removed its folder between our opening and our locking.
        if _is_at(file, path):
            break
        file.close()
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    try:
        with told_if_full(path):
            file.truncate(0)
            # Not through the buffer, which would be written again when the file is closed.
            os.write(file.fileno(), json.dumps(holder).encode())
    except (OSError, WorkFailed):
        file.close()
        raise
    return file


def _lock(file: TextIO) -> None:
    """Raise `BlockingIOError` if another has the lock."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            raise
        except OSError:
            pass  # no locks on this file system: the written owner decides
    owner = _read_owner(file)
    if owner and (owner.get("host") != socket.gethostname() or _lives(int(owner.get("pid", 0)))):
        raise BlockingIOError


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_owner(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict[str, Any]) -> str:
    if not {"pid", "host", "since"} <= owner.keys():
        return ""
    return f" (pid {owner['pid']} on {owner['host']}, since {owner['since']})"


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
