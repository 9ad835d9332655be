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
    suffixes = _end_of_names(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=_begin_of_names(target), suffix=suffixes, dir=target.parent
        )
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}.", "give an output path you may write to."
        ) from None
    os.close(handle)
    temporary = Path(name)
    try:
        with told_if_full(target):
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
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}{_MARK}", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}.", "give an output path you may write to."
        ) from None
    try:
        with told_if_full(target):
            yield folder
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        move_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def told_if_full(target: Path) -> Iterator[None]:
    """Raise `WorkFailed` that names `target` where the system or a library says: the disk is full.

    Other errors pass as they are.
    """
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


def remove_remains(*paths: str | os.PathLike[str]) -> None:
    """Remove what writers of these files and folders left unfinished beside them when killed.

    Only for who alone may write them: what another process is writing would go, too.

    Parameters
    ----------
    *paths : path
        The targets, which stay as they are.
    """
    for target in map(Path, paths):
        if not target.parent.is_dir():
            continue
        file_names = (_begin_of_names(target), _end_of_names(target))
        for entry in os.scandir(target.parent):
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith(f".{target.name}{_MARK}"):
                    shutil.rmtree(entry, ignore_errors=True)
            elif entry.name.startswith(file_names[0]) and entry.name.endswith(file_names[1]):
                os.unlink(entry)


def is_unfinished(name: str) -> bool:
    """Whether a file name is one that `write_atomically` gives before a file is complete."""
    return name.startswith(".") and _MARK in name


_MARK = ".tmp-"


def _begin_of_names(target: Path) -> str:
    return f".{target.name.removesuffix(_end_of_names(target))}{_MARK}"


def _end_of_names(target: Path) -> str:
    return "".join(target.suffixes[-2:])


def move_folder(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a finished folder to `target` on the same file system, in place of what is there."""
    folder, target = Path(folder), Path(target)
    # A directory cannot be renamed over another that is not empty: the old one steps aside.
    old = set_aside(target) if target.exists() else None
    folder.rename(target)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def set_aside(path: str | os.PathLike[str]) -> Path:
    """Give a folder a hidden name beside, by which `remove_remains` knows it; where it is now."""
    path = Path(path)
    around = Path(tempfile.mkdtemp(prefix=f".{path.name}{_MARK}", dir=path.parent))
    path.rename(around / path.name)
    return around


def move_files(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Move a finished folder to `target` on the same file system: at once where that is free.

    Else its files take the places of those of the same names, one after the other; all others
    stay.
    """
    folder, target = Path(folder), Path(target)
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()
        folder.rename(target)
        return
    for path in sorted(folder.iterdir()):
        os.replace(path, target / path.name)
    folder.rmdir()
