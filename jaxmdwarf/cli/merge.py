"""``jaxmdwarf merge``: one table of those that the jobs of one run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Make one table of those that fit or measure wrote with --shard 1/N to N/N.

    All parts must be there, of the same inputs, model, options and version. The table is the one
    that a run without --shard writes; rejects go into <output stem>_rejects.csv.

    Example: jaxmdwarf merge parts/*.fits --out catalogue.fits
    """

    parts: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="TABLES [TABLES ...]",
            help="Tables of all parts, in any order, with their rejects and notes beside them.",
            help_behavior_hint="(required)",
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

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Merge and write; returns the summary."""
        from jaxmdwarf.workflows.sharding import merge_tables

        return merge_tables(self.parts, self.out, overwrite=self.overwrite)
