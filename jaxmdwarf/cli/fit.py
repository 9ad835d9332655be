"""``jaxmdwarf fit``: labels, velocities, errors and flags with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmdwarf.cli.options import (
    SHOW_ALL,
    Overwrite,
    ReaderProcesses,
    ShardNumber,
    SpectrumFiles,
    TerminalOptions,
    VelocitySource,
    parse_numbers,
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
        str,
        tyro.conf.arg(
            metavar="MODEL",
            help="Model directory that train-transfer or train-emulator wrote, or DIR/transfer of "
            "quickstart.",
        ),
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

    clip_sigma: Annotated[
        float,
        tyro.conf.arg(
            metavar="SIGMA",
            help="Leave out pixels further than this from the best model and fit the star again; 0 "
            "keeps all pixels.",
        ),
    ] = 7.0

    wavelength_drift: Annotated[
        bool,
        tyro.conf.arg(
            help="Put wavelength scales right that drift beyond doubt, held from 8400 Angstrom on."
        ),
    ] = True

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
        tyro.conf.arg(metavar="N", help="Files that are read, fitted and kept together."),
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

    window_aa: Annotated[
        tuple[float, float],
        tyro.conf.arg(
            metavar="LOW HIGH", help="Rest wavelengths that are fitted, vacuum Angstrom."
        ),
    ] = (6000.0, 8900.0)

    fix: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="LABEL=VALUE [LABEL=VALUE ...]",
            help="Labels that are held, as in logg=4.8; they come back without an error.",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    priors: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME [NAME ...]",
            help="Priors of labels that come with the model: 'model' for all of them, 'none', or "
            "names of some.",
        ),
    ] = ("model",)

    solver: Annotated[
        str,
        tyro.conf.arg(
            metavar="{lm,lbfgs,...}",
            help="Levenberg-Marquardt, L-BFGS as in the paper, or a solver of another library, for "
            "comparison: a wrong name lists all.",
        ),
    ] = "lm"

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

    shard: ShardNumber = None

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
                clip_sigma=self.clip_sigma,
                wavelength_drift=self.wavelength_drift,
                chunk_size=self.chunk_size,
                domain=self.domain,
                priors=self.priors,
                fixed=parse_numbers(self.fix, "--fix"),
                window_aa=self.window_aa,
                solver=self.solver,
                poly_order=self.poly_order,
                schedule=FitScheduleConfig(batch_size=self.batch_size),
            ),
            gaia=self.gaia,
            processes=self.processes,
            shard=self.shard,
            overwrite=self.overwrite,
            progress=terminal,
        )
