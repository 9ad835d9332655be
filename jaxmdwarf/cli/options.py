"""Options that several commands share: one name, one meaning, one text of help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

SPECTRA_HELP = (
    "Spectra: files, folders (searched through), patterns, or @list.txt with one name a line."
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

JsonOutput = Annotated[
    bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print the result as JSON.")
]


def require_files(files: Sequence[str], command: str) -> None:
    """Raise `UsageError` where a command is given no inputs."""
    from jaxmdwarf.errors import UsageError

    if not files:
        raise UsageError(
            "no spectra were given.", f"name files, folders or patterns after '{command}'."
        )
