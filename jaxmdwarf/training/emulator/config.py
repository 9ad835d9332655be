"""How an emulator is trained: a tree of frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.payne import PayneNetwork


@dataclass(frozen=True)
class NetworkConfig:
    """What is trained.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers. Three of 200 cost a fit less than The Payne's two of 300, and
        come closer to the grid.
    activation : str
        See `jaxmdwarf.networks.payne.PayneNetwork`.
    rank : int or None
        Principal components of the linear head; None trains the plain Payne, whose last layer
        goes from the last hidden features to the pixels.
    """

    hidden: tuple[int, ...] = (200, 200, 200)
    activation: str = "gelu"
    rank: int | None = 40

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise UsageError(
                f"rank must be at least 1, or None, got {self.rank}.",
                "give --rank 40, or --rank 0 (None in Python) for no linear head.",
            )
        PayneNetwork(self.hidden, None, self.activation)


@dataclass(frozen=True)
class OptimiserConfig:
    """How a step is taken.

    Parameters
    ----------
    learning_rate : float
        Peak of a warm-up and cosine schedule.
    batch_size : int or None
        Spectra a step, drawn with replacement; None takes all of them, one step an epoch.
    weight_decay : float
        Of adamw.
    second_moment_decay : float
        Adam's beta 2.
    largest_update : float
        Largest root mean square of Adam's update of one array, in learning rates.
    averaging : float
        Decay a step of the running average of the parameters, which is what is validated and
        kept: it takes out the noise of large steps.
    """

    learning_rate: float = 5e-3
    batch_size: int | None = None
    weight_decay: float = 1e-4
    second_moment_decay: float = 0.99
    largest_update: float = 0.3
    averaging: float = 0.99

    def __post_init__(self) -> None:
        for name in ("learning_rate", "largest_update"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{name} must be positive, got {getattr(self, name)}.",
                    "give a small number, as in --learning-rate 0.005.",
                )
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(
                f"batch_size must be at least 1, or None, got {self.batch_size}.",
                "leave --batch-size out to take all spectra at every step.",
            )
        if not 0 <= self.averaging < 1:
            raise UsageError(
                f"averaging must lie in [0, 1), got {self.averaging}.", "give 0.99, or 0 for none."
            )


@dataclass(frozen=True)
class ScheduleConfig:
    """How many steps are taken.

    Parameters
    ----------
    steps : int
        Optimiser steps at most.
    warmup_steps : int
        Steps over which the learning rate rises.
    report_every : int
        Steps a dispatch: validation, early stopping and checkpoints happen in between.
    patience : int
        Steps without a better validation loss after which training stops. They count from the
        middle of the schedule on; before, it is the large learning rate that holds the loss up.
    """

    steps: int = 3000
    warmup_steps: int = 200
    report_every: int = 100
    patience: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "report_every", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name} must be positive, got {getattr(self, name)}.",
                    "give a whole number, as in --steps 3000.",
                )
        if self.warmup_steps < 0:
            raise UsageError(
                f"warmup_steps must not be negative, got {self.warmup_steps}.", "give 0 for none."
            )


@dataclass(frozen=True)
class EmulatorConfig:
    """How an emulator is trained.

    Parameters
    ----------
    network : NetworkConfig
    optimiser : OptimiserConfig
    schedule : ScheduleConfig
    validation_fraction : float
        Spectra held out (paper, section 2.2: 8:2).
    seed : int
        Decides the split, the first parameters and the batches.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    validation_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UsageError(
                "the validation fraction must lie between 0 and 1, got "
                f"{self.validation_fraction}.",
                "hold one fifth out: 0.2.",
            )
