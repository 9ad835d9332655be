"""``jaxmdwarf quickstart``: the whole pipeline on a simulated survey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, ReaderProcesses, TerminalOptions
from jaxmdwarf.workflows.methods.registry import list_transfer_methods

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Run the whole pipeline on a simulated survey, and judge it against the truth.

    Simulates a survey as files, trains an emulator on a simulated model grid, learns from all
    spectra, few of them labelled, how they differ from it, fits and measures every file, and writes
    DIR/catalogue.fits, report.html (open it first), metrics.json and figures. Minutes on two cores.
    A run that was stopped goes on when the command is given again.

    Example: jaxmdwarf quickstart --out first --seed 1
    """

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="Folder to write.")] = "quickstart"

    seed: Annotated[int, tyro.conf.arg(metavar="SEED", help="Seed of everything random.")] = 0

    n: Annotated[int, tyro.conf.arg(metavar="N", help="Spectra of the survey.")] = 1500

    grid: Annotated[
        int, tyro.conf.arg(metavar="N", help="Theoretical spectra that the emulator learns from.")
    ] = 1152

    gap: Annotated[
        str,
        tyro.conf.arg(
            metavar="GAP",
            help="How simulated nature differs from theory: 0 (not at all) to 1 (fully), or causes "
            "as in 'jaxmdwarf simulate --help'.",
        ),
    ] = "1"

    transfer: Annotated[
        str,
        tyro.conf.arg(
            metavar="{" + ",".join((*list_transfer_methods(), "none")) + "}",
            help="How theory is carried into the observed domain: a correction learned from "
            "matched label distributions, the paper's networks, both, or not at all.",
        ),
    ] = "matched"

    oracle: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Also fit with an emulator of nature's own physics: the best that any transfer "
            "could reach. Takes about twice as long.",
            help_behavior_hint="",
        ),
    ] = False

    processes: ReaderProcesses = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Run everything; returns the metrics, or the lines that a person wants to see."""
        from jaxmdwarf.quickstart.products import QuickstartConfig
        from jaxmdwarf.quickstart.run import run_quickstart, summarise
        from jaxmdwarf.simulate.gap import DomainGap

        metrics = run_quickstart(
            self.out,
            QuickstartConfig(
                n_spectra=self.n,
                n_grid=self.grid,
                seed=self.seed,
                gap=DomainGap.parse(self.gap),
                transfer=self.transfer,
                oracle=self.oracle,
            ),
            processes=self.processes,
            overwrite=self.overwrite,
            progress=terminal,
        )
        return metrics if self.terminal.json else summarise(metrics, self.out)
