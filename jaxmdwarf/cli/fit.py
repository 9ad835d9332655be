"""``jaxmdwarf fit``: labels, velocities, errors and flags with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmdwarf.cli.options import (
    SHOW_ALL,
    Overwrite,
    ReaderProcesses,
    SpectrumFiles,
    TerminalOptions,
    VelocitySource,
    require_files,
)

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Fit Teff, log g, [M/H], [alpha/M] and velocity of spectra with a trained model.

    One row a spectrum; inputs that cannot be used are listed in <output stem>_rejects.csv with
    reason and remedy. A run that was stopped resumes when the same command is given again. Of the
    rates that are printed, spectra_per_s is end to end; fit_spectra_per_s is that of the fits
    alone, without reading and without compiling (compile_s).

    Example: jaxmdwarf fit night1/ --model MODEL --out catalogue.fits
    """

    files: SpectrumFiles

    model: Annotated[
        str, tyro.conf.arg(metavar="MODEL", help="Model directory, as train-emulator writes it.")
    ]

    out: Annotated[
        str,
        tyro.conf.arg(
            metavar="TABLE",
            help="Catalogue to write; the extension chooses the format: .fits .parquet .vot .csv "
            ".ecsv .mrt",
        ),
    ]

    velocity: VelocitySource = "fit"

    min_snr: Annotated[
        float,
        tyro.conf.arg(metavar="S/N", help="Reject spectra with a lower S/N in r or i."),
    ] = 0.0

    batch_size: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help="Stars in one compiled call.",
            help_behavior_hint="(default: 32 on a CPU, 2048 on an accelerator)",
        ),
    ] = None

    chunk_size: Annotated[
        int,
        tyro.conf.arg(metavar="N", help="Files between two entries in the record of a run."),
    ] = 1024

    poly_order: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help="Order of a multiplicative polynomial that is fitted beside the labels.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    domain: Annotated[
        Literal["both", "observed", "synthetic"],
        tyro.conf.arg(
            help="Where a model that transfers spectra is fitted: in the synthetic domain, in the "
            "observed one, or in the second from the labels of the first."
        ),
    ] = "both"

    no_priors: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Do not use the priors of labels that come with the model.",
            help_behavior_hint="",
        ),
    ] = False

    gaia: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Gaia table with parallax, ruwe and magnitudes under the names of the archive or "
            "of VizieR, matched by obsid, by ID or within 3 arcsec.",
            help_behavior_hint="(default: no Gaia columns)",
        ),
    ] = None

    processes: ReaderProcesses = None

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Fit and write; returns the summary."""
        from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
        from jaxmdwarf.workflows.fitting import fit_files

        require_files(self.files, "fit")
        return fit_files(
            self.files,
            self.model,
            self.out,
            options=FitConfig(
                velocity=self.velocity,
                min_snr=self.min_snr,
                chunk_size=self.chunk_size,
                domain=self.domain,
                priors=("none",) if self.no_priors else ("model",),
                poly_order=self.poly_order,
                schedule=FitScheduleConfig(batch_size=self.batch_size),
            ),
            gaia=self.gaia,
            processes=self.processes,
            overwrite=self.overwrite,
            progress=terminal,
        )
