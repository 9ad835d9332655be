"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxmdwarf.errors import UsageError, WorkFailed


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block succeeds.

    The temporary name keeps all suffixes of `path`, since writers choose formats by them. If the
    block raises, the temporary file is removed and `path` stays as it was.

    Raises
    ------
    UsageError
        If the folder of `path` cannot be written to.
    WorkFailed
        If the disk is full.
    """
    target = Path(path)
    suffixes = "".join(target.suffixes[-2:])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name.removesuffix(suffixes)}.", suffix=suffixes, dir=target.parent
        )
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}.", "give an output path you may write to."
        ) from None
    os.close(handle)
    temporary = Path(name)
    try:
        with _told_if_full(target):
            yield temporary
        # mkstemp makes files that only their owner can read; products follow the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes the place of `path` if the block succeeds.

    If the block raises, the new folder is removed and `path` stays as it was.

    Raises
    ------
    UsageError
        If the folder of `path` cannot be written to.
    WorkFailed
        If the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}.", "give an output path you may write to."
        ) from None
    try:
        with _told_if_full(target):
            yield folder
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        move_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told_if_full(target: Path) -> Iterator[None]:
    """Name the product that did not fit where a library says that the disk is full, or nothing."""
    try:
        yield
    except OSError as error:
        # pyarrow and astropy raise errors of their own making, some of them without a number.
        if error.errno not in _FULL and not any(word in str(error).lower() for word in _FULL_WORDS):
            raise
        raise WorkFailed(
            f"there is no room for {target}: {error.strerror or str(error).splitlines()[0]}.",
            "make room and repeat the same command: what is finished is kept.",
        ) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("errno 28", "no space left", "not enough space", "requested and")


def move_folder(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a finished folder to `target` on the same file system, in place of what is there."""
    folder, target = Path(folder), Path(target)
    # A directory cannot be renamed over another that is not empty: the old one steps aside.
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
