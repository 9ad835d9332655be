"""Opening packs, on a disk or behind a URL, and what can be wrong with that."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

from jaxmdwarf.errors import FormatError, JaxmdwarfError, UsageError
from jaxmdwarf.io.packs.layout import PackIndex
from jaxmdwarf.io.parts import PART_ROWS, PackPart

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ROOT = "zarr.json"
_INSTALL = 'pip install "jaxmdwarf[pack]"'


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a remote store.

    Examples
    --------
    >>> is_url("s3://survey/dr9.zarr"), is_url("night1/dr9.zarr")
    (True, False)
    """
    return _URL.match(os.fspath(name)) is not None


def is_pack(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is, or says that it is, a Zarr store: no files are looked for in it."""
    path = os.fspath(folder)
    return path.rstrip(os.sep).endswith(".zarr") or os.path.isfile(os.path.join(path, _ROOT))


def open_root(pack: str, mode: Literal["r", "a"] = "r") -> Any:
    """The root group of a pack.

    Parameters
    ----------
    pack : str
        A path, or a URL that fsspec knows (``s3://``, ``gs://``, ``https://`` ...), which takes
        credentials and addresses from where its library does, as from ``AWS_ENDPOINT_URL``.
    mode : {"r", "a"}
        ``"a"`` makes it where there is none.

    Returns
    -------
    zarr.Group

    Raises
    ------
    UsageError
        If zarr, or what the kind of URL needs, is not installed; there is no store, or it cannot
        be reached.
    FormatError
        If what is there is no Zarr group of version 3.
    """
    try:
        import zarr
    except ImportError:
        raise UsageError("packs need zarr, which is not installed.", f"{_INSTALL}.") from None
    try:
        return zarr.open_group(pack, mode=mode, zarr_format=3)
    except ImportError as error:
        kind = pack.partition(":")[0]
        raise UsageError(
            f"{pack} cannot be opened: {_first_line(error)}.",
            f"install what fsspec needs for {kind}:// (s3fs, gcsfs ...), and {_INSTALL}.",
        ) from None
    except FileNotFoundError:
        if not is_url(pack) and os.path.isdir(pack):
            raise FormatError(
                f"{pack} is no pack: it holds no Zarr group of version 3.",
                "give one that 'jaxmdwarf pack' wrote.",
            ) from None
        raise UsageError(f"there is no pack {pack}.", "check its name.") from None
    except JaxmdwarfError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        if not is_url(pack):
            raise FormatError(
                f"{pack} cannot be read as a pack: {_first_line(error)}.", "pack the files again."
            ) from None
        raise UsageError(
            f"{pack} cannot be reached: {_first_line(error)}.",
            "check its name, the address and the rights.",
        ) from None


def read_index(pack: str, root: Any = None) -> PackIndex:
    """What a pack says of itself.

    Raises
    ------
    UsageError, FormatError
        As `open_root`; also if it is no pack, or one of another version.
    """
    root = open_root(pack) if root is None else root
    return PackIndex.from_attributes(dict(root.attrs), pack)


def find_index(pack: str) -> PackIndex | None:
    """The index of a pack where there is one; None where nothing is in the way of a new one.

    Raises
    ------
    UsageError
        If something else is in the way.
    FormatError
        If it is a pack that this version cannot read.
    """
    if not is_url(pack):
        if not os.path.lexists(pack) or (os.path.isdir(pack) and not os.listdir(pack)):
            return None
        if not os.path.isdir(pack):
            raise UsageError(f"{pack} is a file.", "give another name with --out.")
    elif not _has_store(pack):
        return None
    root = open_root(pack)
    if not dict(root.attrs) and not root.nmembers():
        # Made by a command that was stopped before it wrote anything.
        return None
    return PackIndex.from_attributes(dict(root.attrs), pack)


def list_parts(pack: str) -> list[PackPart]:
    """The spectra of a pack as inputs of a run, in their order.

    Raises
    ------
    UsageError
        If it holds no spectrum: it is still being written.
    FormatError
        If it is no pack of this version.
    """
    index = read_index(pack)
    n_spectrum = index.n_spectrum
    if not n_spectrum:
        raise UsageError(
            f"{pack} holds no spectrum: the command that packs was stopped, or is at work.",
            "give that command again.",
        )
    n_bytes = max(entry.key.n_bytes for entry in index.groups.values())
    return [
        PackPart(pack, index.content, first, last, n_bytes * (last - first))
        for first in range(0, n_spectrum, PART_ROWS)
        for last in [min(first + PART_ROWS, n_spectrum)]
    ]


def _has_store(url: str) -> bool:
    try:
        open_root(url)
    except UsageError as error:
        if error.message.startswith("there is no pack"):
            return False
        raise
    return True


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.rstrip(".")
