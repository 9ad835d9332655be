"""``jaxmdwarf grid``: model-grid files of any supported format to one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions, WorkerProcesses

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Bring model spectra of any supported format to a survey's resolution, in one table.

    Formats are told by content: BT-Settl text (.spec.7, also .gz .bz2 .xz), BT-Settl and BT-NextGen
    FITS, SVO two-column text, PHOENIX-ACES FITS with its WAVE file, and tables that this command
    made. Files that cannot be used are listed in <output stem>_rejects.csv with reason and remedy.

    Example: jaxmdwarf grid btsettl/ --out grid.parquet --resolution 1800
    """

    inputs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="FILES [FILES ...]",
            help="Model spectra: files, folders (searched through), patterns, or @list.txt.",
            help_behavior_hint="(required)",
        ),
    ]

    out: Annotated[str, tyro.conf.arg(metavar="GRID", help="Table to write, .parquet.")]

    resolution: Annotated[
        float, tyro.conf.arg(metavar="R", help="Resolving power of the result, lambda/FWHM.")
    ] = 1800.0

    start_aa: Annotated[
        float, tyro.conf.arg(metavar="A", help="Centre of the first pixel, vacuum Angstrom.")
    ] = 5940.0

    stop_aa: Annotated[
        float,
        tyro.conf.arg(
            metavar="A",
            help="Centre of the last pixel. The default range is the paper's 6000-8900 with room "
            "for Doppler shifts.",
        ),
    ] = 8960.0

    step_aa: Annotated[float, tyro.conf.arg(metavar="A", help="Pixel width, Angstrom.")] = 1.0

    native_resolution: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="R",
            help="Resolving power that the files already have.",
            help_behavior_hint="(default: too high to matter)",
        ),
    ] = None

    wavelengths: Annotated[
        Literal["by-format", "air", "vacuum"],
        tyro.conf.arg(help="Wavelength scale of the files, if not that of their format."),
    ] = "by-format"

    processes: WorkerProcesses = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Read, convolve and write; returns the summary."""
        from jaxmdwarf.errors import UsageError
        from jaxmdwarf.wavelengths import PixelGrid
        from jaxmdwarf.workflows.gridding import make_grid

        if not self.inputs:
            raise UsageError("no model files were given.", "name folders or files after 'grid'.")
        if not self.stop_aa > self.start_aa:
            raise UsageError(
                f"there is no pixel from {self.start_aa:g} to {self.stop_aa:g} Angstrom.",
                "give a --stop-aa above --start-aa.",
            )
        return make_grid(
            self.inputs,
            self.out,
            resolution=float(self.resolution),
            pixels=PixelGrid.linear(self.start_aa, self.stop_aa, self.step_aa),
            native_resolution=self.native_resolution,
            air=None if self.wavelengths == "by-format" else self.wavelengths == "air",
            processes=self.processes,
            overwrite=self.overwrite,
            progress=terminal,
        )
