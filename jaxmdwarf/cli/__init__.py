"""The command line: one module a command, each a frozen dataclass of options with a `run`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any

COMMANDS: dict[str, str] = {
    "quickstart": "the whole pipeline on a simulated survey",
    "measure": "S/N, Halpha, TiO5, CaH and spectral type of spectra, without a model",
    "fit": "labels, velocities, errors and flags of spectra with a trained model",
    "validate": "bias, scatter and honesty of the errors of a catalogue against a reference",
    "simulate": "a simulated survey of M dwarfs with known truth, as survey files",
    "grid": "model-grid files of any supported format to one table",
    "train-emulator": "train the emulator on a grid table",
    "train-transfer": "train what carries the emulator's spectra into the observed domain",
}
"""Command names and one-line descriptions; command ``a-b`` lives in ``jaxmdwarf.cli.a_b``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed work, 2 bad usage, 130 stopped)."""
    import tyro

    from jaxmdwarf import __version__
    from jaxmdwarf.cli.console import Terminal
    from jaxmdwarf.errors import JaxmdwarfError, UsageError

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"jaxmdwarf {__version__}")
        return 0
    if not arguments:
        arguments = ["--help"]
    # Only the command that is called is imported, so that it starts at once.
    chosen = [name for name in COMMANDS if name == arguments[0]] or list(COMMANDS)
    # In the list a command has one line; alone it has the whole text of its class.
    lines: dict[str, str | None] = dict(COMMANDS) if len(chosen) > 1 else {}
    members = [
        Annotated[_load(name), tyro.conf.subcommand(name, description=lines.get(name))]
        for name in chosen
    ]
    # A union keeps the subcommand syntax even when a single command is loaded.
    members.append(Annotated[_Version, tyro.conf.subcommand("version")])
    commands: Any = reduce(or_, members)
    options = tyro.cli(
        commands,
        prog="jaxmdwarf",
        args=arguments,
        description="From raw low-resolution spectra of M dwarfs to a catalogue.",
    )
    terminal = Terminal(json_only=bool(getattr(options, "json", False)))
    try:
        summary = options.run(terminal)
    except UsageError as error:
        print(f"jaxmdwarf: {error}", file=sys.stderr)
        return 2
    except JaxmdwarfError as error:
        print(f"jaxmdwarf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxmdwarf: stopped. Long work resumes with the same command.", file=sys.stderr)
        return 130
    terminal.result(summary)
    return 0


def _load(name: str) -> Any:
    return importlib.import_module(f"jaxmdwarf.cli.{name.replace('-', '_')}").Command


@dataclass(frozen=True)
class _Version:
    """Print the version."""

    def run(self, terminal: Any) -> dict[str, str]:
        from jaxmdwarf import __version__

        return {"jaxmdwarf": __version__}
