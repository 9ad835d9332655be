"""The correction that is learned from matched label distributions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.anchors import LEAST_ANCHORS, AnchorSample
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.training.transfer.matched import train_matched
from jaxmdwarf.training.transfer.matched_config import MatchedConfig, count_passes
from jaxmdwarf.training.transfer.uncorrected import split_for_matching
from jaxmdwarf.workflows.methods.base import MethodOptions, TransferMethod
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class Matched(TransferMethod):
    """A correction learned from matched label distributions: no networks, a minute.

    Parameters
    ----------
    settings : MatchedConfig
        See `jaxmdwarf.training.transfer.matched`.
    """

    settings: MatchedConfig = field(default_factory=MatchedConfig)

    name = "matched"
    takes_anchors = True

    @classmethod
    def build(cls, options: MethodOptions) -> Matched:
        """With `seed` and `min_snr`; there are no networks of which the others speak."""
        settings, min_snr = MatchedConfig(seed=options.seed), options.min_snr
        return cls(settings if min_snr is None else replace(settings, min_snr=min_snr))

    @property
    def seed(self) -> int:
        """Of the split and the samples."""
        return self.settings.seed

    @property
    def least_common(self) -> int:
        """As the settings have it."""
        return self.settings.least_common

    def split(
        self, domain: ObservedDomain, anchored: Bool[np.ndarray, n_spec] | None = None
    ) -> DomainSplit:
        """Anchors are learned from as far as good spectra are left to validate with."""
        good = np.asarray(domain.snr) >= self.settings.min_snr
        return split_for_matching(domain.n_spec, self.settings, domain.star, anchored, good)

    def knows_enough(self, domain: ObservedDomain, anchors: AnchorSample) -> bool:
        """Whether enough stars of known labels are among the good spectra to be learned from."""
        marked = anchors.mark(domain.n_spec)
        rows = self.split(domain, marked).train
        rows = rows[marked[rows] & (np.asarray(domain.snr)[rows] >= self.settings.min_snr)]
        star = rows if domain.star is None else domain.star[rows]
        return len(np.unique(star)) >= LEAST_ANCHORS

    def require(self, n_spec: int) -> None:
        """Raise `MismatchError` if there are too few spectra to match their distribution."""
        split_for_matching(n_spec, self.settings)

    def train(
        self,
        domain: ObservedDomain,
        emulator: ForwardModel,
        labels,
        *,
        reference: ReferenceSample | None = None,
        anchors: AnchorSample | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> TrainedTransfer:
        """Learn a `jaxmdwarf.models.corrected.CorrectedModel`; nothing is kept in `folder`."""
        progress, settings = progress or Silent(), self.settings
        total = float(count_passes(settings, anchored=anchors is not None))
        with progress.stage("matching distributions", total, unit="passes") as task:

            def report(line: dict[str, Any]) -> None:
                shift, purpose = line["shift"], line["purpose"]
                moved = f"labels moved by {shift['teff']:+.0f} K, {shift['mh']:+.2f} dex"
                task.advance(note=moved if purpose == "correction" else purpose)

            return train_matched(
                emulator,
                domain,
                labels,
                settings,
                reference=reference,
                anchors=anchors,
                on_pass=report,
            )
