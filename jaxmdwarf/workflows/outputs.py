"""What can be said of an output before any work: is it free, can it be written, is there room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.rejects import name_rejects_file
from jaxmdwarf.io.tables import FORMATS

OVERWRITE = "add --overwrite (overwrite=True in Python)"
"""How a user allows to replace what is there, in the remedies of errors."""


def require_output(
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    mark: str = "",
    holds: str = "",
    beside: Sequence[str | os.PathLike[str]] = (),
    n_bytes: int = 0,
) -> Path:
    """Hold that `out` can be written, and replaces nothing that it may not.

    Parameters
    ----------
    out : path
        A file, or a folder where `mark` is given.
    overwrite : bool
        Whether an output of the same kind may be replaced. What is none is never replaced.
    mark : str
        Name of the file by which a folder of this kind is known, such as ``model.json``.
    holds : str
        What errors call such a folder's content; `mark` by default.
    beside : sequence of path
        Further files that are written: they may be replaced where `out` may.
    n_bytes : int
        About how large the output and its unfinished parts become.

    Returns
    -------
    Path
        Of `out`.

    Raises
    ------
    UsageError
        If something is in the way, the folder cannot be written to, or the disk is too full.
    """
    target = Path(out)
    if mark:
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target} is a file.", "give the name of a folder.")
        if _has_entries(target) and not (target / mark).is_file():
            raise UsageError(
                f"{target} exists and holds no {holds or mark}; it was left alone.",
                "give another path with --out.",
            )
    elif target.is_dir():
        raise UsageError(f"{target} is a folder.", "give the name of a file.")
    for path in (target, *map(Path, beside)):
        if not overwrite and (path.is_file() or _has_entries(path)):
            raise UsageError(
                f"{path} exists.", f"{OVERWRITE} to replace it, or give another path with --out."
            )
    require_folder(target.parent, n_bytes=n_bytes)
    return target


def require_rejects(out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Where the rejects of `out` go, held not to be where those of another product are.

    ``T.fits`` and ``T.csv`` would both have theirs in ``T_rejects.csv``.

    Parameters
    ----------
    out : path
    overwrite : bool
        Whether those of another product may be replaced.

    Raises
    ------
    UsageError
        If they are there, `out` is not, and another table or folder has the same name but for its
        extension.
    """
    target, rejects = Path(out), name_rejects_file(out)
    if overwrite or target.exists() or not rejects.is_file():
        return rejects
    stem = rejects.name.removesuffix("_rejects.csv")
    for other in (target.with_name(f"{stem}{extension}") for extension in ("", *FORMATS)):
        if other != target and other.exists() and name_rejects_file(other) == rejects:
            raise UsageError(
                f"{rejects} holds the rejects of {other}, and would hold those of {target}.",
                f"give another name with --out, or {OVERWRITE} to replace them.",
            )
    return rejects


def require_folder(folder: str | os.PathLike[str], *, n_bytes: int = 0) -> None:
    """Hold that files of `n_bytes` together can be written into a folder, which may not exist yet.

    Raises
    ------
    UsageError
        If it cannot be made, or written to, or its disk is too full.
    """
    existing = Path(os.path.abspath(folder))
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file, not a folder.", "give another path with --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(
            f"the folder {existing} cannot be written to.", "give an output path you may write to."
        )
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise UsageError(
            f"about {_in_words(n_bytes)} are needed and {_in_words(free)} are free on the disk of "
            f"{existing}.",
            "make room, or give an output path on another disk.",
        )


def _has_entries(path: Path) -> bool:
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is not None


def _in_words(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= 0.1 * size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"
