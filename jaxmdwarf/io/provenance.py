"""Where a product came from: versions, command, model; stored with every file."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf import __version__
from jaxmdwarf.catalogue.texts import escape_text
from jaxmdwarf.io.parts import PackPart

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "equinox", "optax", "numpy", "astropy", "pandas")


@dataclass(frozen=True)
class Provenance:
    """What it takes to make a product again.

    Parameters
    ----------
    version : str
        Version of jaxmdwarf.
    created : str
        UTC time, ISO 8601.
    command : str
        Command line, quoted for a shell.
    packages : dict
        Versions of the libraries that numbers depend on, Python's among them.
    model_hash : str
        `hash_files` of the model, empty without one.
    notes : dict
        Anything else worth keeping, such as "trained on a simulation".
    """

    version: str
    created: str
    command: str
    packages: Mapping[str, str] = field(default_factory=dict)
    model_hash: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def as_text(self) -> dict[str, str]:
        """Flat pairs of text, for table metadata of any format.

        Examples
        --------
        >>> Provenance("0.1.0", "2026-01-01T00:00:00Z", "jaxmdwarf measure a.fits").as_text()
        {'creator': 'jaxmdwarf 0.1.0', 'created': '2026-01-01T00:00:00Z',
         'command': 'jaxmdwarf measure a.fits'}
        """
        pairs = {
            "creator": f"jaxmdwarf {self.version}",
            "created": self.created,
            "command": self.command,
            "packages": " ".join(f"{name}={version}" for name, version in self.packages.items()),
            "model_hash": self.model_hash,
            **{key: str(value) for key, value in self.notes.items()},
        }
        return {key: value for key, value in pairs.items() if value}


def gather_provenance(
    *,
    command: Sequence[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Provenance:
    """Provenance of a product that is made now.

    Parameters
    ----------
    command : sequence of str, optional
        The command line; None takes this process's own.
    model : path, optional
        Model file or directory, whose hash is stored.
    notes : mapping, optional
        Further pairs.
    """
    words = list(command) if command is not None else [Path(sys.argv[0]).name, *sys.argv[1:]]
    packages = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        version=__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=escape_text(_shorten(shlex.join(words))),
        packages=packages,
        model_hash=hash_files(model) if model is not None else "",
        notes=dict(notes or {}),
    )


def _shorten(command: str, *, end_length: int = 1000) -> str:
    # A shell expands a pattern into thousands of names: both ends tell what was done.
    n_left_out = len(command) - 2 * end_length
    if n_left_out <= 0:
        return command
    return f"{command[:end_length]} ... ({n_left_out} characters) ... {command[-end_length:]}"


def hash_files(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of all names and contents under a directory, as hexadecimal text."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        if file != root:
            digest.update(os.fsencode(file.relative_to(root).as_posix()) + b"\0")
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def hash_values(*values: Any) -> str:
    """SHA-256 of arrays, texts and numbers, and of whatever tree holds them, as hexadecimal text.

    Parameters
    ----------
    values : pytree
        Models, dicts, lists ...: leaves count with dtype, shape and content, and so does what is
        static in a tree.

    Raises
    ------
    TypeError
        If a leaf is an object without a content of its own.

    Examples
    --------
    >>> hash_values({"a": np.zeros(2)}) == hash_values({"a": [0.0, 0.0]})
    False
    """
    import jax

    leaves, structure = jax.tree.flatten(values)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        array = np.asarray(leaf)
        if array.dtype.hasobject:
            raise TypeError(f"{type(leaf).__name__} has no content to hash.")
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe_packs(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """The packs among inputs by name and content, for the notes of a product; empty without any."""
    packs = {path.pack: path.content for path in paths if isinstance(path, PackPart)}
    named = "; ".join(f"{escape_text(pack)} {content}" for pack, content in packs.items())
    return {"packs": named} if named else {}


def describe_inputs(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """What a run that may be resumed notes of its input files: names, sizes and dates, hashed.

    Contents are not read: a file that was replaced has another date. Where they lie counts, and
    their order. A pack is known by what it holds, wherever it is.

    Returns
    -------
    dict
        One entry, whose name says in an error what has changed.

    Examples
    --------
    >>> list(describe_inputs(["a.fits"]))
    ['inputs (by names, sizes and dates)']
    """
    digest = hashlib.sha256()
    for path in paths:
        if isinstance(path, PackPart):
            digest.update(f"{path.content} {path.first} {path.last} {path.rows}\0".encode())
            continue
        try:
            found = os.stat(path)
            state = f"{found.st_size} {found.st_mtime_ns}"
        except (OSError, ValueError):
            state = "missing"  # its reader says so
        digest.update(os.fsencode(os.path.abspath(path)) + b"\0" + state.encode() + b"\0")
    return {"inputs (by names, sizes and dates)": digest.hexdigest()}
