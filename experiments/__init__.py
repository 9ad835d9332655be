"""Experiments: one short file each, a frozen dataclass that tells its whole story.

Run one from the root of the repository: ``python -m experiments no_gap --out DIR``.
"""

from experiments.lamost_dr10 import LamostDr10
from experiments.no_gap import NoGap
from experiments.quickstart import Quickstart
from experiments.real_lamost import RealLamost
from experiments.simulated_survey import SimulatedSurvey

EXPERIMENTS: dict[str, type] = {
    "quickstart": Quickstart,
    "no_gap": NoGap,
    "real_lamost": RealLamost,
    "simulated_survey": SimulatedSurvey,
    "lamost_dr10": LamostDr10,
}
"""Experiments by name; each has a method ``run(out, progress)`` that returns its numbers."""
