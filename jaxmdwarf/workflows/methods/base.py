"""What every transfer method is."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.workflows.progress import Progress

LEAST_COMMON_STARS = 60
"""Stars of a reference that must be among the spectra to be compared star for star."""


@dataclass(frozen=True)
class MethodOptions:
    """The few settings of a method that commands offer; a method takes those that it knows.

    Parameters
    ----------
    seed : int
        Decides the split of the spectra, and all weights.
    preset : {"held", "compact", "paper"}
        Small networks with all that holds a transfer, the same with little of it, or those of the
        paper.
    steps : int, optional
        Batches, in place of the preset's.
    batch_size : int, optional
        Spectra of each domain in a batch, in place of the preset's.
    min_snr : float, optional
        Lowest S/N of spectra that a correction is learned from.
    """

    seed: int = 0
    preset: str = "held"
    steps: int | None = None
    batch_size: int | None = None
    min_snr: float | None = None


class TransferMethod(abc.ABC):
    """A way to learn, from few labels or none, how observed spectra differ from an emulator's.

    Subclasses are frozen dataclasses of settings. A new one is a class with `name` and `train`,
    known to commands once `jaxmdwarf.workflows.methods.registry.register_transfer_method` or its
    table has it. A method whose model is of a kind of its own tells
    `jaxmdwarf.io.model_kinds.register_model_kind` how that is kept; `save` and `load` then need
    nothing more.

    Attributes
    ----------
    name : str
        What commands call it.
    takes_anchors : bool
        Whether `train` has a keyword ``anchors``: spectra of known labels
        (`jaxmdwarf.training.transfer.anchors.AnchorSample`), or None.
    matches_distributions : bool
        Whether `train` knows labels as a distribution alone, which then has to be that of the
        observed stars: it is drawn from those stars of the reference that are among the spectra,
        where there are enough, not from all.
    """

    name: ClassVar[str]
    takes_anchors: ClassVar[bool] = False
    matches_distributions: ClassVar[bool] = False

    @abc.abstractmethod
    def train(
        self,
        domain: ObservedDomain,
        emulator: ForwardModel,
        labels: Float[np.ndarray, "n_draw n_label"],
        *,
        reference: ReferenceSample | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> TrainedTransfer:
        """Learn a forward model of observed spectra.

        Parameters
        ----------
        domain : ObservedDomain
            Spectra at rest, normalised, on the emulator's pixels.
        emulator : ForwardModel
        labels : (n_draw, n_label)
            Draws of the synthetic domain, physical units, in the emulator's order.
        reference : ReferenceSample, optional
            Literature labels of stars like the observed ones.
        folder : path, optional
            Where checkpoints and logs may be kept, of this very training alone: what is there is to
            go on from. Nothing is kept without.
        progress : Progress, optional

        Returns
        -------
        TrainedTransfer
            The model, and a dictionary of plain numbers under stable names.
        """

    @classmethod
    def build(cls, options: MethodOptions) -> TransferMethod:
        """The method from what commands offer; those without networks need no preset or steps."""
        return cls()

    @property
    def seed(self) -> int:
        """Of the split of the spectra into training, validation and test."""
        return 0

    @property
    def least_common(self) -> int:
        """Stars of a reference that must be among the spectra to be compared star for star."""
        return LEAST_COMMON_STARS

    def split(
        self, domain: ObservedDomain, anchored: Bool[np.ndarray, n_spec] | None = None
    ) -> DomainSplit:
        """The parts that training makes of the spectra; `anchored` ones are those of known labels.

        Methods hold themselves how many they need of each part; one that splits nothing needs none.
        """
        return split_domain(
            domain.n_spec, seed=self.seed, star=domain.star, anchored=anchored, least=(0, 0, 0)
        )

    def knows_enough(self, domain: ObservedDomain, anchors: AnchorSample) -> bool:
        """Whether anchors that nobody has asked for are worth it."""
        return True

    def require(self, n_spec: int) -> None:
        """Raise what training would, were it given `n_spec` spectra; told before long work."""
        if n_spec < 1:
            raise MismatchError("there is no spectrum to learn from.", "give usable spectra.")

    def describe(self) -> dict[str, Any]:
        """Name and settings, for the model's record."""
        settings: dict[str, Any] = asdict(self) if is_dataclass(self) else {}
        return {"name": self.name, **settings}

    def save(
        self,
        trained: TrainedTransfer,
        path: str | os.PathLike[str],
        *,
        training: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        extras: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Write the model directory; arguments as of `jaxmdwarf.io.models.save_model`."""
        return save_model(
            trained.model, path, training=training, provenance=provenance, extras=extras
        )

    def load(self, path: str | os.PathLike[str]) -> ForwardModel:
        """Read what `save` wrote."""
        return load_model(path)
