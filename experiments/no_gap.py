"""Are the errors honest where theory is right? A survey without a domain gap must say yes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxmdwarf.quickstart.products import QuickstartConfig
from jaxmdwarf.quickstart.run import run_quickstart
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class PullLimitsConfig:
    """Within what pulls are called honest.

    Parameters
    ----------
    largest_mean : float
        How far the mean of a pull may be from 0.
    narrowest, widest : float
        Between what its width must lie.
    """

    largest_mean: float = 0.1
    narrowest: float = 0.9
    widest: float = 1.15

    def allow(self, pull: dict[str, float]) -> bool:
        """Whether a pull is within the limits."""
        centred = abs(pull["mean"]) <= self.largest_mean
        return centred and self.narrowest <= pull["width"] <= self.widest


def _without_gap() -> QuickstartConfig:
    # Six in ten spectra are compared: the mean of a pull is then known to 0.026.
    return QuickstartConfig(n_spectra=2500, seed=3, gap=DomainGap.none(), transfer="none")


@dataclass(frozen=True)
class NoGapConfig:
    """Pulls of all labels and of the velocity, nature being theory seen through photon noise.

    Whatever differs from mean 0 and width 1 is the pipeline's own doing: the emulator's error
    (which is the same for all stars of one kind, so that no weight accounts for it), resampling,
    normalisation, the minimum that a fit ends in. Binaries, contaminants and failed spectra are
    left out by truth, flagged fits by their flags.

    Parameters
    ----------
    out : str
        Folder to write.
    pipeline : QuickstartConfig
        The survey and what is trained on it.
    limits : PullLimitsConfig
        What decides whether the experiment passes.
    """

    out: str = "runs/no_gap"
    pipeline: QuickstartConfig = field(default_factory=_without_gap)
    limits: PullLimitsConfig = field(default_factory=PullLimitsConfig)

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Pulls by quantity, and whether all are within the limits."""
        metrics = run_quickstart(
            self.out, self.pipeline, finished="return", progress=progress or Silent()
        )
        honest = {name: self.limits.allow(pull) for name, pull in metrics["pulls"].items()}
        return {
            "pulls": metrics["pulls"],
            "honest": honest,
            "passed": all(honest.values()),
            "emulator": metrics["emulator"],
            "counts": metrics["counts"],
        }
