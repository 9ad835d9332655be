"""Options that several commands share: one name, one meaning, one text of help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

SPECTRA_HELP = (
    "Spectra: files, folders (searched through), patterns, @list.txt with one name a line, and "
    "packs that 'jaxmdwarf pack' wrote (folders or URLs)."
)


def describe_files(help_text: str) -> Any:
    """What ``--help`` says of a command's inputs."""
    return tyro.conf.arg(
        metavar="FILES [FILES ...]", help=help_text, help_behavior_hint="(required)"
    )


SpectrumFiles = Annotated[tuple[str, ...], tyro.conf.Positional, describe_files(SPECTRA_HELP)]

VelocitySource = Annotated[
    Literal["fit", "header"],
    tyro.conf.arg(help="Measure velocities, or take the redshift of the headers."),
]

ReaderProcesses = Annotated[
    int | None,
    tyro.conf.arg(metavar="N", help="Reader processes.", help_behavior_hint="(default: all cores)"),
]

WorkerProcesses = Annotated[
    int | None,
    tyro.conf.arg(metavar="N", help="Worker processes.", help_behavior_hint="(default: all cores)"),
]

ShardNumber = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="I/N",
        help="Work on part I of N of the inputs alone, from 1/N to N/N, each with an --out of its "
        "own; 'jaxmdwarf merge' makes one table of all parts.",
        help_behavior_hint="(default: all inputs)",
    ),
]

Overwrite = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(
        help="Replace the output if it exists, and unfinished work for it with other options.",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True)
class TerminalConfig:
    """What a command shows, and where."""

    json: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Print the result as JSON, on standard output.", help_behavior_hint=""),
    ] = False

    quiet: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Show errors and the result alone.", help_behavior_hint=""),
    ] = False

    verbose: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            aliases=["-v"], help="Show details, and the traceback of errors.", help_behavior_hint=""
        ),
    ] = False

    log_file: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="FILE",
            help="Also write progress, details and errors to this file, at its end.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    no_compile_cache: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Do not keep compiled programs in the user's cache folder, where the next run "
            "finds them. JAX_COMPILATION_CACHE_DIR names another folder.",
            help_behavior_hint="",
        ),
    ] = False


TerminalOptions = Annotated[TerminalConfig, tyro.conf.arg(name="")]
"""The last field of every command; ``--json`` and so on, without a prefix."""

SHOW_ALL = TerminalConfig()
"""Its default."""


def require_files(files: Sequence[str], command: str) -> None:
    """Raise `UsageError` where a command is given no inputs."""
    from jaxmdwarf.errors import UsageError

    if not files:
        raise UsageError(
            "no spectra were given.", f"name files, folders or patterns after '{command}'."
        )


def parse_numbers(words: Sequence[str], option: str) -> dict[str, float]:
    """Numbers by name from ``logg=4.8`` or ``logg=4.8,mh=0``.

    Raises
    ------
    UsageError
        If a word is no name and number, or a name has two numbers.
    """
    from jaxmdwarf.errors import UsageError

    numbers: dict[str, float] = {}
    for item in (part.strip() for word in words for part in word.split(",")):
        name, _, value = item.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(
                f"{option} {item!r} names no number.", f"write for example {option} logg=4.8."
            ) from None
        if not math.isfinite(number):
            raise UsageError(f"{option} {item!r} is no finite number.", "give one.")
        if numbers.setdefault(name, number) != number:
            raise UsageError(f"{option} gives {name} two values.", "give one.")
    return numbers


def parse_columns(words: Sequence[str], option: str = "--columns") -> tuple[tuple[str, str], ...]:
    """Pairs of a quantity and a column from ``teff=TEFF_K`` or ``teff=TEFF_K,mh=FEH``.

    Raises
    ------
    UsageError
        If a word is no such pair, or names a quantity twice.
    """
    from jaxmdwarf.errors import UsageError

    pairs: dict[str, str] = {}
    for item in (part.strip() for word in words for part in word.split(",")):
        name, equals, column = item.partition("=")
        if not (equals and name and column):
            raise UsageError(
                f"{option} {item!r} names no column.", "write for example teff=TEFF_K."
            )
        if pairs.setdefault(name, column) != column:
            raise UsageError(f"{option} names two columns for {name}.", "give one.")
    return tuple(pairs.items())
