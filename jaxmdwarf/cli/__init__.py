"""The command line: one module a command, each a frozen dataclass of options with a `run`."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal

COMMANDS: dict[str, str] = {
    "quickstart": "the whole pipeline on a simulated survey",
    "pack": "spectra of many files in one store, which every command takes in their place",
    "clean": "which spectra of a sample are M dwarfs: selection cuts and k-means cleaning",
    "measure": "S/N, Halpha, TiO5, CaH and spectral type of spectra, without a model",
    "fit": "labels, velocities, errors and flags of spectra with a trained model",
    "merge": "one table of those that fit or measure wrote in parts, with --shard",
    "catalogue": "from fits to a catalogue: total errors, cuts, variables, binaries, ages",
    "fetch": "lists of variable stars and of binaries from VizieR, as local copies",
    "validate": "bias, scatter and honesty of the errors of a catalogue against a reference",
    "crosscheck": "[M/H] against FGK primaries of wide pairs, velocities against Gaia",
    "simulate": "a simulated survey of M dwarfs with known truth, as survey files",
    "grid": "model-grid files of any supported format to one table",
    "train-emulator": "train the emulator on a grid table",
    "train-transfer": "train what carries the emulator's spectra into the observed domain",
    "run": "an experiment: a dataclass of the whole configuration, with overrides",
}
"""Command names and one-line descriptions; command ``a-b`` lives in ``jaxmdwarf.cli.a_b``."""

DONE, FAILED, BAD_USAGE, STOPPED = 0, 1, 2, 130
"""Exit codes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0 done, 1 failed work, 2 bad usage, 130 stopped.
    """
    from jaxmdwarf.cli.signals import rest, stop_when_told

    if argv is None:
        stop_when_told()
        # Tracing programs makes millions of small objects that stay: looking for garbage among them
        # after every 700 is a tenth of a short run.
        gc.set_threshold(50_000, 20, 20)
        # Where in Python an operation was called, which nobody sees here: a tenth of lowering.
        os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _start(arguments)
    except KeyboardInterrupt:
        # Before there was a command that could say so.
        return _say_stopped(None)
    finally:
        # A command that came to its end before it could be told again is not to be told after it.
        rest()


def _start(arguments: Sequence[str]) -> int:
    """Help, or the command with its compiled programs in their place."""
    from jaxmdwarf import __version__

    if arguments in (["--version"], ["-V"], ["version"]):
        print(f"jaxmdwarf {__version__}")
        return DONE
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_list_commands())
        return DONE
    # Before a command is loaded, for some load JAX with the configurations that they offer.
    from jaxmdwarf.cli.compile_cache import forbid_compile_cache, use_compile_cache

    if "--no-compile-cache" in arguments:
        forbid_compile_cache()
        return _run(arguments, "compiled programs are not kept.")
    folder = use_compile_cache()
    return _run(arguments, f"compiled programs are kept in {folder}." if folder else "")


def _run(arguments: Sequence[str], detail: str) -> int:
    """Run a command and turn what it raises into a line and an exit code."""
    from jaxmdwarf.cli.parsing import HelpShown
    from jaxmdwarf.errors import FormatError, JaxmdwarfError, UsageError

    terminal: Terminal | None = None
    try:
        command = _parse(arguments)
        terminal = _open_terminal(command)
        if detail:
            terminal.detail(detail)
        summary: Mapping[str, Any] = command.run(terminal)
        terminal.result(summary)
        return DONE if summary.get("passed", True) else FAILED
    except HelpShown:
        return DONE
    except (UsageError, FormatError) as error:
        # What was named is not there, or is something else.
        return _fail(terminal, str(error), BAD_USAGE)
    except JaxmdwarfError as error:
        return _fail(terminal, str(error), FAILED)
    except KeyboardInterrupt:
        return _say_stopped(terminal)
    except ImportError:
        from jaxmdwarf.cli.signals import was_told

        # A library that was being loaded may have made something else of the interrupt.
        if not was_told():
            raise
        return _say_stopped(terminal)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        text = f"{named}{error.strerror or error}. Remedy: look at the path, its rights, the room."
        return _fail(terminal, text, FAILED)
    except MemoryError:
        text = "out of memory. Remedy: fewer stars at once (--batch-size), or fewer --processes."
        return _fail(terminal, text, FAILED)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        text = "the device is out of memory. Remedy: fewer stars at once (--batch-size N)."
        return _fail(terminal, text, FAILED)
    finally:
        if terminal is not None:
            terminal.close()


def _say_stopped(terminal: Terminal | None) -> int:
    from jaxmdwarf.cli.signals import rest

    rest()
    text = "stopped. Long work resumes with the same command."
    return _fail(terminal, text, STOPPED, traced=False)


def _fail(terminal: Terminal | None, text: str, code: int, *, traced: bool = True) -> int:
    """Say in one line why it ended; the exit code."""
    from jaxmdwarf.catalogue.texts import escape_text

    line = escape_text(f"jaxmdwarf: {' '.join(text.split())}")
    if terminal is None:
        print(line, file=sys.stderr)
        return code
    if traced:
        terminal.detail(traceback.format_exc().rstrip())
    terminal.fail(line)
    return code


def _parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments name, with its options."""
    from jaxmdwarf.cli.parsing import parse, suggest
    from jaxmdwarf.errors import UsageError

    name, *rest = arguments
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        raise UsageError(
            f"there is no {what} {name}.",
            suggest(name, COMMANDS, otherwise="'jaxmdwarf --help' lists the commands."),
        )
    # Only the command that is called is imported, so that it starts at once.
    module = importlib.import_module(f"jaxmdwarf.cli.{name.replace('-', '_')}")
    if hasattr(module, "parse_command"):
        return module.parse_command(rest)
    return parse(module.Command, f"jaxmdwarf {name}", rest)


def _open_terminal(command: Any) -> Terminal:
    from jaxmdwarf.cli.console import Terminal

    shown = command.terminal
    return Terminal(
        json_only=shown.json, quiet=shown.quiet, verbose=shown.verbose, log_file=shown.log_file
    )


def _list_commands() -> str:
    import textwrap

    width = max(map(len, COMMANDS)) + 4
    lines = [
        textwrap.fill(
            line, 79, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width
        )
        for name, line in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: jaxmdwarf COMMAND [OPTIONS]",
            "",
            "From raw low-resolution spectra of M dwarfs to a catalogue.",
            "",
            "commands:",
            *lines,
            "",
            "'jaxmdwarf COMMAND --help' explains a command and its options.",
            "'jaxmdwarf --version' tells the version. To see the whole of it at work:",
            "",
            "  jaxmdwarf quickstart --out first",
        ]
    )
