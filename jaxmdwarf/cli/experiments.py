"""Where experiments are: in the package, in the source tree, in a file of the user's own."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxmdwarf.cli.parsing import suggest
from jaxmdwarf.errors import UsageError


class Entry(NamedTuple):
    """An experiment that has a name.

    Parameters
    ----------
    target : str
        ``module:attribute`` of a dataclass, or of an instance.
    line : str
        What it shows, in one line.
    """

    target: str
    line: str


BUILT_IN: dict[str, Entry] = {
    "quickstart": Entry(
        "jaxmdwarf.quickstart.experiment:QuickstartExperimentConfig",
        "the whole pipeline on a simulated survey",
    ),
}
"""Experiments that come with the package."""


def find_experiments() -> dict[str, Entry]:
    """All experiments that have names; nothing of them is loaded."""
    return {**BUILT_IN, **_list_source_tree()}


def load_experiment(name: str, known: Mapping[str, Entry]) -> Any:
    """An experiment with its defaults.

    Parameters
    ----------
    name : str
        One of `known`, or ``path/to/file.py:ATTRIBUTE``.
    known : mapping of str to Entry

    Raises
    ------
    UsageError
        If there is no such experiment, or it is none.
    """
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        module = _load_file(Path(path))
        found = getattr(module, attribute, None)
        if found is None:
            names = [key for key, value in vars(module).items() if _is_experiment(value)]
            raise UsageError(
                f"{path} has no {attribute}.",
                suggest(attribute, names, otherwise=f"it has {', '.join(names) or 'none'}."),
            )
    elif name in known:
        module_name, _, attribute = known[name].target.partition(":")
        found = getattr(importlib.import_module(module_name), attribute)
    else:
        raise UsageError(
            f"there is no experiment {name}.",
            suggest(
                name, known, otherwise=f"choose {', '.join(known)}, or path/to/file.py:CONFIG."
            ),
        )
    if not _is_experiment(found):
        raise UsageError(
            f"{name} is no experiment.",
            "give a dataclass, or an instance of one, with a method run(progress).",
        )
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise UsageError(
            f"{name} has fields without a default: {error}.", "give each one."
        ) from None


def _is_experiment(found: Any) -> bool:
    return dataclasses.is_dataclass(found) and callable(getattr(found, "run", None))


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}.", "check the path.")
    name = f"_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError) as error:
        raise UsageError(f"{path} cannot be loaded: {error}.", "correct the file.") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _list_source_tree() -> dict[str, Entry]:
    """Experiments of the folder beside the package, or of the present folder."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        table = root / "experiments" / "__init__.py"
        # Many folders are called so: only one with our table is loaded.
        if not table.is_file() or "EXPERIMENTS" not in table.read_text(encoding="utf-8"):
            continue
        if str(root) not in sys.path:
            sys.path.append(str(root))
        listed = importlib.import_module("experiments").EXPERIMENTS
        return {name: Entry(*entry) for name, entry in listed.items()}
    return {}
