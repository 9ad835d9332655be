"""Experiments: one short file each, a frozen dataclass that tells its whole story.

Run one from the root of the repository: ``python -m experiments no_gap --out DIR``.
"""

from experiments.no_gap import NoGap
from experiments.quickstart import Quickstart
from experiments.real_lamost import RealLamost

EXPERIMENTS: dict[str, type] = {
    "quickstart": Quickstart,
    "no_gap": NoGap,
    "real_lamost": RealLamost,
}
"""Experiments by name; each has a method ``run(out, progress)`` that returns its numbers."""
