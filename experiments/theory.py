"""The emulator of simulated theory that experiments share."""

from __future__ import annotations

from pathlib import Path

from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.simulation import nature_source, simulate_grid

GRID = "theory_grid.parquet"
"""Name of the table of the grid."""


def train_theory(root: Path, n_grid: int, progress: Progress) -> Path:
    """The model grid of theory and its emulator, whose folder is returned; done once.

    Parameters
    ----------
    root : Path
        Folder for both.
    n_grid : int
        Spectra of the grid.
    progress : Progress
    """
    grid, model = root / GRID, root / "emulator"
    if not grid.is_file():
        theory = nature_source(DomainGap.none(), seed=0)
        simulate_grid(grid, n_grid, theory, seed=0, progress=progress)
    if not (model / "model.json").is_file():
        train_emulator_files(grid, model, figures=False, progress=progress)
    return model
