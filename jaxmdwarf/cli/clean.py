"""``jaxmdwarf clean``: selection cuts and k-means cleaning, to a list of spectra worth fitting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import (
    SHOW_ALL,
    Overwrite,
    ReaderProcesses,
    SpectrumFiles,
    TerminalOptions,
    require_files,
)
from jaxmdwarf.preprocess.clean import CleaningConfig
from jaxmdwarf.preprocess.selection import SelectionConfig

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Select spectra of M dwarfs by cuts and by their shape, and list them for other commands.

    Cuts on S/N and, with a Gaia table, on RUWE, absolute magnitude and colour come first (section
    2.1 of the paper). Then spectra are grouped by shape, round by round, and groups that do not
    look like M dwarfs are dropped. LIST has one path a line and is given to other commands as
    @LIST; all other inputs are in <LIST stem>_rejects.csv with their reasons. <LIST
    stem>_cleaning/ has a contact sheet of every round: look at them, name groups with
    --cleaning.drop and --cleaning.keep (or in decisions.json, for --decisions), and give the
    command again.

    Example: jaxmdwarf clean night1/ --gaia gaia.fits --out good.txt
    """

    files: SpectrumFiles

    out: Annotated[str, tyro.conf.arg(metavar="LIST", help="List to write, one path a line.")]

    gaia: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Gaia table with parallax, ruwe and magnitudes, under the names of the archive or "
            "of VizieR, matched by obsid, by ID or by position.",
            help_behavior_hint="(default: cuts by S/N alone)",
        ),
    ] = None

    templates: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="FILE [FILE ...]",
            help="Spectra of M dwarfs with which groups must correlate.",
            help_behavior_hint="(default: none, and no such rule)",
        ),
    ] = ()

    decisions: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="FILE",
            help="The decisions.json of an earlier cleaning, as it is or edited, in place of "
            "the options of cuts and cleaning below.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    processes: ReaderProcesses = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    cuts: SelectionConfig = field(default_factory=SelectionConfig)

    cleaning: CleaningConfig = field(default_factory=CleaningConfig)

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Clean and write; returns the summary."""
        from jaxmdwarf.errors import UsageError
        from jaxmdwarf.workflows.cleaning import Decisions, clean_files, read_decisions

        require_files(self.files, "clean")
        given = Decisions(self.cuts, self.cleaning)
        if self.decisions is not None:
            if given != Decisions():
                raise UsageError(
                    "the file of --decisions decides alone, and cuts or rules are given too.",
                    "edit the file, or leave it out.",
                )
            given = read_decisions(self.decisions)
        return clean_files(
            self.files,
            self.out,
            given,
            gaia=self.gaia,
            templates=self.templates,
            processes=self.processes,
            overwrite=self.overwrite,
            progress=terminal,
        )
