"""``jaxmdwarf pack``: spectra of many files in one store."""

from __future__ import annotations

from dataclasses import dataclass
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

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Write spectra of many files into one pack, which every command takes in their place.

    A pack is a Zarr store with the pixels, errors, masks, wavelengths and headers that the files
    have: fits and measurements from it are those from the files, without opening thousands of
    them. Every chunk has a checksum. Inputs that cannot be read are listed in <output
    stem>_rejects.csv with reason and remedy. A run that was stopped resumes when the same command
    is given again. Needs zarr: pip install "jaxmdwarf[pack]".

    Example: jaxmdwarf pack night1/ night2/ --out survey.zarr
    """

    files: SpectrumFiles

    out: Annotated[
        str,
        tyro.conf.arg(
            metavar="PACK",
            help="Pack to write: a folder, or a URL that fsspec knows (s3://BUCKET/survey.zarr).",
        ),
    ]

    append: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Add to the pack that is there. Spectra that it has already are rejects.",
            help_behavior_hint="",
        ),
    ] = False

    processes: ReaderProcesses = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Pack; returns the summary."""
        from jaxmdwarf.workflows.packing import pack_files

        require_files(self.files, "pack")
        return pack_files(
            self.files,
            self.out,
            append=self.append,
            processes=self.processes,
            overwrite=self.overwrite,
            progress=terminal,
        )
