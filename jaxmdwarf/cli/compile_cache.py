"""Compiled programs kept between runs, so that only the first run waits for the compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from pathlib import Path

LARGEST_BYTES = 500 * 2**20
"""The folder may grow to this; programs that were used longest ago go first."""

_TRIM_EVERY_S = 7 * 86400.0

_SETTINGS = {
    # Small programs are kept too: a fit has seventy of them, compiled in a tenth of a second each.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def use_compile_cache() -> Path | None:
    """Let JAX keep compiled programs in the user's cache folder.

    Settings of the user's own (``JAX_COMPILATION_CACHE_DIR``, ``JAX_ENABLE_COMPILATION_CACHE``)
    stand. A process that runs JAX already decides for itself, and so does a folder that cannot be
    written: nothing happens then. The environment is changed, and no configuration of JAX, so that
    JAX is imported by those commands alone that need it.

    Returns
    -------
    Path or None
        Where programs are kept; None if they are not.
    """
    if "jax" in sys.modules:
        return None
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "1").lower() in ("0", "false", "no", "off"):
        return None
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(chosen) if chosen else find_cache_folder() / "xla" / _name_machine()
    if not _is_writable(folder):
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not chosen:
        _trim(folder)
    return folder


def forbid_compile_cache() -> None:
    """Compile everything anew, and keep nothing."""
    if "jax" not in sys.modules:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"


def find_cache_folder() -> Path:
    """The user's cache folder for this package, by the customs of the platform."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "jaxmdwarf"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxmdwarf"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "jaxmdwarf"
    return Path.home() / ".cache" / "jaxmdwarf"


def _name_machine() -> str:
    """A name of the kind of processor.

    XLA's programs for a CPU use its instructions, and the keys of JAX's cache do not tell CPUs
    apart: a home folder that several machines share must not hand one the programs of another.
    """
    about = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for name in ("model name", "flags", "Features"):
        about += [line for line in lines if line.startswith(name)][:1]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
    return f"{platform.machine() or 'cpu'}-{digest}"


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _trim(folder: Path) -> None:
    """Remove what was used longest ago, once a week, if the folder has grown too large."""
    note = folder / ".trimmed"
    now = time.time()
    try:
        if now - note.stat().st_mtime < _TRIM_EVERY_S:
            return
    except OSError:
        pass  # never trimmed so far
    try:
        note.touch()
        entries = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file()]
    except OSError:
        return  # another process is at it, or the file system forbids: only room is lost
    total = sum(about.st_size for about, _ in entries)
    for about, path in sorted(entries, key=lambda item: max(item[0].st_atime, item[0].st_mtime)):
        if total <= LARGEST_BYTES:
            return
        Path(path).unlink(missing_ok=True)
        total -= about.st_size
