"""Are the errors honest where theory is right? A survey without a domain gap must say yes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxmdwarf.quickstart.run import QuickstartConfig, run_quickstart
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class NoGap:
    """Pulls of all labels and of the velocity, nature being theory seen through photon noise.

    Whatever differs from mean 0 and width 1 is the pipeline's own doing: the emulator's error
    (which is the same for all stars of one kind, so that no weight accounts for it), resampling,
    normalisation, the minimum that a fit ends in. Binaries, contaminants and failed spectra are
    left out by truth, flagged fits by their flags.
    """

    out: str = "runs/no_gap"
    """Folder to write."""
    n_spectra: int = 2500
    """Of which six in ten are compared: the mean of a pull is then known to 0.026."""
    n_grid: int = 1152
    seed: int = 3
    largest_mean: float = 0.1
    """How far the mean of a pull may be from 0."""
    narrowest: float = 0.9
    widest: float = 1.15
    """Between what the width of the pulls must lie."""

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Pulls by quantity, and whether all are within the limits."""
        metrics = run_quickstart(
            self.out,
            QuickstartConfig(
                n_spectra=self.n_spectra,
                n_grid=self.n_grid,
                seed=self.seed,
                gap=DomainGap.none(),
                transfer="none",
            ),
            progress=progress or Silent(),
        )
        honest = {
            name: abs(pull["mean"]) <= self.largest_mean
            and self.narrowest <= pull["width"] <= self.widest
            for name, pull in metrics["pulls"].items()
        }
        return {
            "pulls": metrics["pulls"],
            "honest": honest,
            "passed": all(honest.values()),
            "emulator": metrics["emulator"],
            "counts": metrics["counts"],
        }
