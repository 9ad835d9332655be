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
from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal
    from jaxmdwarf.inference.config import FitConfig


@dataclass(frozen=True)
class Command:
    """Fit Teff, log g, [M/H], [alpha/M] and velocity of spectra with a trained model.

    One row a spectrum; inputs that cannot be used are listed in <output stem>_rejects.csv with
    reason and remedy. A run that was stopped resumes when the same command is given again. Of the
    rates that are printed, spectra_per_s is end to end; fit_spectra_per_s is that of the fits
    alone, without reading and without compiling (compile_s).

    Example: jaxmdwarf fit night1/ --out catalogue.fits --model MODEL
    """

    files: SpectrumFiles

    out: Annotated[
        str,
        tyro.conf.arg(
            metavar="TABLE",
            help="Catalogue to write; the extension chooses the format: .fits .parquet .vot .csv "
            ".ecsv .mrt; with --dask a folder of Parquet tables.",
        ),
    ]

    model: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="MODEL",
            help="Model directory that train-transfer or train-emulator wrote, or DIR/transfer of "
            "quickstart.",
            help_behavior_hint="(default: the model that comes with the package, for a first look "
            "at real spectra; what it is and how well it does is said)",
        ),
    ] = None

    velocity: VelocitySource = "fit"

    min_snr: Annotated[
        float,
        tyro.conf.arg(
            metavar="S/N",
            help="Reject spectra with a lower S/N in r or i: the header's, or measured where it "
            "has none.",
        ),
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

    likelihood_labels: Annotated[
        bool,
        tyro.conf.arg(help="Also find labels by the spectra alone, without priors: a fifth more."),
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

    dask: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="CLUSTER",
            help="Fit on the workers of a Dask cluster: local:N for N processes of this host, or "
            "the address of a scheduler, such as tcp://host:8786. --out is then a folder.",
            help_behavior_hint="(default: in this process)",
        ),
    ] = None

    parts: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help="Parts that the workers of --dask share.",
            help_behavior_hint="(default: one for every 5,000 spectra, 16 at least)",
        ),
    ] = None

    overwrite: Overwrite = False

    profile: Annotated[
        bool,
        tyro.conf.arg(
            help="Also tell the seconds of each stage; two chunks are worked on at once, so that "
            "they add up to more than the run."
        ),
    ] = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Fit and write; returns the summary."""
        from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig

        require_files(self.files, "fit")
        options = FitConfig(
            velocity=self.velocity,
            min_snr=self.min_snr,
            clip_sigma=self.clip_sigma,
            wavelength_drift=self.wavelength_drift,
            likelihood_labels=self.likelihood_labels,
            chunk_size=self.chunk_size,
            domain=self.domain,
            priors=self.priors,
            fixed=parse_numbers(self.fix, "--fix"),
            window_aa=self.window_aa,
            solver=self.solver,
            poly_order=self.poly_order,
            schedule=FitScheduleConfig(batch_size=self.batch_size),
        )
        if self.dask is not None:
            return self._run_on_workers(self.dask, options, terminal)
        if self.parts is not None:
            raise UsageError("--parts is for --dask.", "give --shard I/N for jobs of your own.")
        from jaxmdwarf.workflows.fitting import fit_files

        return fit_files(
            self.files,
            self.model,
            self.out,
            options=options,
            gaia=self.gaia,
            processes=self.processes,
            shard=self.shard,
            overwrite=self.overwrite,
            profile=self.profile,
            progress=terminal,
        )

    def _run_on_workers(
        self, cluster: str, options: FitConfig, terminal: Terminal
    ) -> dict[str, Any]:
        from jaxmdwarf.workflows.distributed import fit_on_workers

        alone = {
            "--shard": self.shard is not None,
            "--processes": self.processes is not None,
            "--profile": self.profile,
        }
        for name, given in alone.items():
            if given:
                raise UsageError(
                    f"{name} and --dask do not go together.",
                    "leave one of them out: the workers of --dask share the parts among them, and "
                    "each reads its own files.",
                )
        return fit_on_workers(
            self.files,
            self.model,
            self.out,
            cluster=cluster,
            n_part=self.parts,
            options=options,
            gaia=self.gaia,
            overwrite=self.overwrite,
            progress=terminal,
        )
