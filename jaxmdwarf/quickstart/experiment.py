"""The quickstart as an experiment: its whole configuration can be given another value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxmdwarf.quickstart.products import QuickstartConfig
from jaxmdwarf.quickstart.run import run_quickstart
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class QuickstartExperimentConfig:
    """Fit a survey whose nature differs from theory, and see how far off the labels are.

    Nature has other band strengths, damping constants, a steeper atmosphere, active stars and a
    spectrograph with faults; the emulator knows none of it until a transfer has learned it from the
    spectra. With an oracle, a second emulator that knows nature's physics shows how far that got.

    Parameters
    ----------
    out : str
        Folder to write.
    pipeline : QuickstartConfig
        What `jaxmdwarf quickstart` runs.
    """

    out: str = "runs/quickstart"
    pipeline: QuickstartConfig = field(default_factory=lambda: QuickstartConfig(oracle=True))

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Labels of all variants, pulls and counts."""
        metrics = run_quickstart(
            self.out, self.pipeline, finished="return", progress=progress or Silent()
        )
        return {name: metrics[name] for name in _SHOWN if name in metrics}


_SHOWN = ("counts", "labels", "labels_snr50", "transfer", "wall_s")
