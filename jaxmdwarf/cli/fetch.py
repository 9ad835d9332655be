"""``jaxmdwarf fetch``: local copies of lists of variable stars and binaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Fetch published lists of variable stars and binaries from VizieR, for 'catalogue'.

    Names: gaia_variables (for --variables); gaia_eclipsing, gaia_non_single, medan2023,
    kounkel2021, sb9, zheng2023, kovalev2024 (for --binaries). Needs a network and astroquery. A
    copy is DIR/<name>.parquet.

    Example: jaxmdwarf fetch sb9 kounkel2021 --out lists/
    """

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="NAME [NAME ...]", help="Lists to fetch.", help_behavior_hint="(required)"
        ),
    ]

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="Folder to write.")]

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Fetch and write; returns the summary."""
        from jaxmdwarf.workflows.fetching import fetch_lists

        return fetch_lists(self.names, self.out, overwrite=self.overwrite, progress=terminal)
