"""``jaxmdwarf train-transfer``: a forward model of observed spectra, few or none labelled."""

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
    parse_columns,
)
from jaxmdwarf.workflows.methods.registry import build_transfer_method, list_transfer_methods

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Learn how observed spectra, few or none labelled, differ from the emulator's; write a model.

    The spectra are brought to rest with the emulator and normalised; those that cannot be used are
    listed in MODEL_rejects.csv with reason and remedy. Synthetic spectra follow the labels of
    isochrones, as frequent as in the reference. 'jaxmdwarf fit' takes the model as it takes an
    emulator. Ctrl-C leaves MODEL.partial, from which the same command goes on.

    Example: jaxmdwarf train-transfer night1/ --emulator emulator --reference apogee.fits
    --out transfer
    """

    files: SpectrumFiles

    emulator: Annotated[
        str, tyro.conf.arg(metavar="MODEL", help="Model directory that train-emulator wrote.")
    ]

    out: Annotated[str, tyro.conf.arg(metavar="MODEL", help="Model directory to write.")]

    reference: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="Literature labels (Teff, [M/H]) of stars like the observed ones. Those that are "
            "among the spectra the method matched uses star by star (--common-stars). Without, "
            "labels are as frequent as along the isochrones.",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    columns: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME=COLUMN [NAME=COLUMN ...]",
            help="Columns of the reference where the guess by name is wrong: teff mh logg.",
            help_behavior_hint="(default: guessed)",
        ),
    ] = ()

    anchors: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Known labels, with errors, of stars that are among the spectra, matched by path, "
            "obsid, Gaia's source_id or position: they are measurements beside the spectra. Any "
            "of Teff, log g, [M/H] and [alpha/M] may be missing. How well they come out of a "
            "training that is not told them is printed.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    anchor_columns: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME=COLUMN [NAME=COLUMN ...]",
            help="Columns of the anchors where the guess by name is wrong: teff e_teff logg mh "
            "e_mh alpha_m path obsid source_id ra dec ...",
            help_behavior_hint="(default: guessed)",
        ),
    ] = ()

    common_stars: Annotated[
        Literal["anchors", "distribution"],
        tyro.conf.arg(
            help="What stars of the reference that are among the spectra tell the method matched, "
            "where no --anchors are given: each its own Teff and [M/H], or no more than how these "
            "are distributed."
        ),
    ] = "anchors"

    isochrones: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="FILE [FILE ...]",
            help="PARSEC or MIST tables.",
            help_behavior_hint="(default: the package's own relation)",
        ),
    ] = ()

    method: Annotated[
        str,
        tyro.conf.arg(
            metavar="{" + ",".join(list_transfer_methods()) + "}",
            help="A correction learned from matched label distributions (a minute), the paper's "
            "networks, or these on top of the correction.",
        ),
    ] = "matched"

    preset: Annotated[
        Literal["held", "compact", "paper"],
        tyro.conf.arg(
            help="Small networks that train in minutes on two cores, with all that keeps labels "
            "from drifting or without; or the paper's own: five hundred thousand batches, hours "
            "on a GPU."
        ),
    ] = "held"

    steps: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help="Batches that the networks learn from.",
            help_behavior_hint="(default: the preset's)",
        ),
    ] = None

    batch_size: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help="Spectra of each domain in a batch of the networks.",
            help_behavior_hint="(default: the preset's)",
        ),
    ] = None

    velocity: VelocitySource = "fit"

    min_snr: Annotated[
        float, tyro.conf.arg(metavar="S/N", help="Leave out spectra with a lower S/N in r or i.")
    ] = 0.0

    learn_min_snr: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="S/N",
            help="Lowest S/N of spectra that a matched correction is learned from; those below are "
            "judged with it all the same.",
            help_behavior_hint="(default: 10)",
        ),
    ] = None

    max_teff: Annotated[
        float,
        tyro.conf.arg(metavar="K", help="Leave out stars that the emulator fits hotter than this."),
    ] = 4300.0

    m_dwarfs_only: Annotated[
        bool,
        tyro.conf.arg(
            help="Leave out what is no M dwarf by its own spectrum: a model that has learned from "
            "other objects tells them no more."
        ),
    ] = True

    max_spectra: Annotated[
        int,
        tyro.conf.arg(metavar="N", help="Spectra to train on, drawn at random if there are more."),
    ] = 110_000

    teff: Annotated[
        tuple[float, float],
        tyro.conf.arg(metavar="LOW HIGH", help="Range of the synthetic domain in Teff, K."),
    ] = (3000.0, 4000.0)

    logg: Annotated[
        tuple[float, float],
        tyro.conf.arg(metavar="LOW HIGH", help="Range of the synthetic domain in log g, dex."),
    ] = (4.0, 6.0)

    mh: Annotated[
        tuple[float, float],
        tyro.conf.arg(metavar="LOW HIGH", help="Range of the synthetic domain in [M/H], dex."),
    ] = (-1.0, 0.5)

    age_gyr: Annotated[
        float, tyro.conf.arg(metavar="GYR", help="Age of the isochrones that are followed.")
    ] = 5.0

    min_overlap: Annotated[
        float,
        tyro.conf.arg(
            metavar="SHARE",
            help="Least overlap of the labels that the emulator alone finds with those of the "
            "synthetic domain, 0 to 1.",
        ),
    ] = 0.25

    processes: ReaderProcesses = None

    seed: Annotated[
        int, tyro.conf.arg(metavar="SEED", help="Decides the split, the labels, the weights.")
    ] = 0

    resume: Annotated[
        bool, tyro.conf.arg(help="Go on from the checkpoints in MODEL.partial, if there are any.")
    ] = True

    overwrite: Overwrite = False

    force: Annotated[
        bool,
        tyro.conf.arg(
            help="Keep a model that its method finds faulty: critics that are saturated, domains "
            "that are told apart, labels that act otherwise than in theory."
        ),
    ] = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Train and write; returns the summary."""
        from jaxmdwarf.errors import UsageError
        from jaxmdwarf.io.stream import require_processes
        from jaxmdwarf.training.labels.isochrones import LabelCutsConfig
        from jaxmdwarf.training.labels.training_set import TrainingSetConfig
        from jaxmdwarf.workflows.transfer import (
            ObservedConfig,
            TransferConfig,
            train_transfer_files,
        )

        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative.", "give a number from 0 on.")
        require_processes(self.processes)
        method = build_transfer_method(
            self.method,
            seed=self.seed,
            preset=self.preset,
            steps=self.steps,
            batch_size=self.batch_size,
            min_snr=self.learn_min_snr,
        )
        cuts = LabelCutsConfig(self.teff, self.logg, self.mh, self.age_gyr)
        return train_transfer_files(
            self.files,
            self.emulator,
            self.reference or None,
            self.out,
            TransferConfig(
                method=method,
                observed=ObservedConfig(
                    velocity=self.velocity,
                    min_snr=self.min_snr,
                    max_teff=self.max_teff,
                    m_dwarfs_only=self.m_dwarfs_only,
                    max_spectra=self.max_spectra,
                    seed=self.seed,
                ),
                labels=TrainingSetConfig(cuts=cuts),
                reference_columns=parse_columns(self.columns),
                anchor_columns=parse_columns(self.anchor_columns, "--anchor-columns"),
                common_stars=self.common_stars,
                min_overlap=self.min_overlap,
                seed=self.seed,
                force=self.force,
            ),
            anchors=self.anchors,
            isochrones=self.isochrones or None,
            processes=self.processes,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=terminal,
        )
