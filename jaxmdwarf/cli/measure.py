"""``jaxmdwarf measure``: quantities read off spectra without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import (
    SHOW_ALL,
    SPECTRA_HELP,
    Overwrite,
    ShardNumber,
    TerminalOptions,
    WorkerProcesses,
    describe_files,
    require_files,
)

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Measure S/N, Halpha, TiO5, CaH and spectral type of spectra, without a model.

    One row a spectrum; inputs that cannot be used are listed in <output stem>_rejects.csv with
    reason and remedy.

    Example: jaxmdwarf measure night1/ --out T.fits
    """

    files: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        describe_files(
            f"{SPECTRA_HELP} Formats are told by content: LAMOST, SDSS, BOSS, SDSS-V, DESI, and "
            "what specutils reads if it is installed."
        ),
    ]

    out: Annotated[
        str,
        tyro.conf.arg(
            metavar="TABLE",
            help="Table to write; the extension chooses the format: .fits .parquet .vot .csv .ecsv "
            ".mrt",
        ),
    ]

    velocity_table: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Table with the velocity of each spectrum, matched by its column obsid or path.",
            help_behavior_hint="(default: the redshift in the header; 0 and a flag without one)",
        ),
    ] = None

    velocity_column: Annotated[
        str, tyro.conf.arg(metavar="NAME", help="Column of the velocity table, km/s.")
    ] = "rv"

    processes: WorkerProcesses = None

    shard: ShardNumber = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Measure and write; returns the summary."""
        from jaxmdwarf.workflows.measuring import measure_files

        require_files(self.files, "measure")
        return measure_files(
            self.files,
            self.out,
            velocity_table=self.velocity_table,
            velocity_column=self.velocity_column,
            processes=self.processes,
            shard=self.shard,
            overwrite=self.overwrite,
            progress=terminal,
        )
