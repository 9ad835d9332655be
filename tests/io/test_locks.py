"""One process at a time, however the one before it ended."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io import locks
from jaxmdwarf.io.locks import hold_lock


def test_the_holder_is_named_and_the_next_one_gets_it(tmp_path):
    with hold_lock(tmp_path / "lock", work="writing T"):
        with pytest.raises(UsageError, match=rf"\(pid {os.getpid()} on .* is writing T") as caught:
            hold_lock(tmp_path / "lock", work="writing T").__enter__()
        assert "another output path" in caught.value.remedy
    with hold_lock(tmp_path / "lock", work="writing T"):
        pass


def test_a_folder_may_be_removed_while_it_is_held(tmp_path):
    with hold_lock(tmp_path / "lock", work="writing T"):
        (tmp_path / "lock").unlink()
        # Whoever comes now makes a file of its own.
        with hold_lock(tmp_path / "lock", work="writing T"):
            pass


def test_a_full_disk_is_told_by_the_name_of_the_lock_and_leaves_it_free(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(locks.os, "write", write)
        with pytest.raises(WorkFailed, match=rf"no room for {tmp_path / 'lock'}"):
            hold_lock(tmp_path / "lock", work="writing T").__enter__()
    with hold_lock(tmp_path / "lock", work="writing T"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that knows no locks."""

    def flock(file, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def write_owner(path, **owner):
    here = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps({**here, **owner}))


def test_without_locks_a_living_owner_is_obeyed_and_a_dead_one_is_not(tmp_path, without_locks):
    lock = tmp_path / "lock"
    write_owner(lock)
    with pytest.raises(UsageError, match="since 2026"):
        hold_lock(lock, work="writing T").__enter__()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_owner(lock, pid=gone.pid)
    with hold_lock(lock, work="writing T"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        with pytest.raises(UsageError, match=f"pid {os.getpid()}"):
            hold_lock(lock, work="writing T").__enter__()
    with hold_lock(lock, work="writing T"):
        pass


def test_without_locks_an_owner_on_another_host_is_obeyed_until_a_person_knows(
    tmp_path, without_locks
):
    write_owner(tmp_path / "lock", host="node17", pid=1)
    with pytest.raises(UsageError, match="pid 1 on node17") as caught:
        hold_lock(tmp_path / "lock", work="writing T").__enter__()
    assert f"delete {tmp_path / 'lock'}" in caught.value.remedy
