"""``jaxmdwarf train-emulator``: The Payne, trained on a grid table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Train the emulator on a grid table and write it as a model directory.

    One fifth of the spectra is held out; eq. 1 of the paper on these is printed and kept in
    MODEL/metrics.json, spectrum by spectrum in MODEL/reconstruction.csv. Ctrl-C leaves
    MODEL.partial, from which the same command goes on.

    Example: jaxmdwarf train-emulator grid.parquet --out emulator
    """

    grid: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="GRID", help="Grid table that 'jaxmdwarf grid' or 'simulate' wrote."),
    ]

    out: Annotated[str, tyro.conf.arg(metavar="MODEL", help="Model directory to write.")]

    hidden: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="N [N ...]", help="Widths of the hidden layers.")
    ] = (200, 200, 200)

    rank: Annotated[
        int,
        tyro.conf.arg(
            metavar="K",
            help="Principal components of the linear head; 0 trains the plain Payne, whose last "
            "layer reaches the pixels. More follow the grid closer, fewer fit faster.",
        ),
    ] = 40

    activation: Annotated[
        Literal["gelu", "silu", "tanh", "leaky_relu"],
        tyro.conf.arg(help="Of the hidden layers; The Payne itself has leaky_relu."),
    ] = "gelu"

    steps: Annotated[int, tyro.conf.arg(metavar="N", help="Optimiser steps, at most.")] = 3000

    learning_rate: Annotated[
        float, tyro.conf.arg(metavar="RATE", help="Peak of the learning-rate schedule.")
    ] = 5e-3

    batch_size: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N", help="Spectra a step.", help_behavior_hint="(default: all of them)"
        ),
    ] = None

    sigma: Annotated[
        float,
        tyro.conf.arg(
            metavar="ANGSTROM", help="Width of the pseudo-continuum (eq. 3); 0: no normalisation."
        ),
    ] = 30.0

    seed: Annotated[
        int, tyro.conf.arg(metavar="SEED", help="Decides the split and the first weights.")
    ] = 0

    resume: Annotated[
        bool, tyro.conf.arg(help="Go on from MODEL.partial if it holds the same training.")
    ] = True

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Train and write; returns the summary."""
        from jaxmdwarf.errors import UsageError
        from jaxmdwarf.training.emulator.config import (
            EmulatorConfig,
            NetworkConfig,
            OptimiserConfig,
            ScheduleConfig,
        )
        from jaxmdwarf.workflows.emulator import train_emulator_files

        if self.rank < 0 or self.sigma < 0 or self.seed < 0:
            raise UsageError(
                f"--rank {self.rank}, --sigma {self.sigma:g} or --seed {self.seed} is negative.",
                "give numbers from 0 on.",
            )
        return train_emulator_files(
            self.grid,
            self.out,
            config=EmulatorConfig(
                network=NetworkConfig(
                    hidden=self.hidden, activation=self.activation, rank=self.rank or None
                ),
                optimiser=OptimiserConfig(
                    learning_rate=self.learning_rate, batch_size=self.batch_size
                ),
                schedule=ScheduleConfig(steps=self.steps),
                seed=self.seed,
            ),
            sigma_aa=self.sigma or None,
            resume=self.resume,
            overwrite=self.overwrite,
            progress=terminal,
        )
