"""What `jaxmdwarf quickstart` runs: a full domain gap, the default transfer, all in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxmdwarf.quickstart.run import QuickstartConfig, run_quickstart
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class Quickstart:
    """Fit a survey whose nature differs from theory, and see how far off the labels are.

    Nature has other band strengths, damping constants, a steeper atmosphere, active stars and a
    spectrograph with faults; the emulator knows none of it until a transfer has learned it from the
    spectra. With `oracle`, a second emulator that knows nature's physics shows how far that got.
    """

    out: str = "runs/quickstart"
    """Folder to write."""
    n_spectra: int = 1500
    n_grid: int = 1152
    seed: int = 0
    gap: str = "1"
    """As for `jaxmdwarf simulate`: a number, or causes."""
    oracle: bool = True

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Labels of all variants, pulls and counts."""
        metrics = run_quickstart(
            self.out,
            QuickstartConfig(
                n_spectra=self.n_spectra,
                n_grid=self.n_grid,
                seed=self.seed,
                gap=DomainGap.parse(self.gap),
                oracle=self.oracle,
            ),
            progress=progress or Silent(),
        )
        return {name: metrics[name] for name in _SHOWN}


_SHOWN = ("counts", "labels", "labels_snr50", "transfer", "wall_s")
