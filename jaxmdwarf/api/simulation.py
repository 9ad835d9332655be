"""Simulated surveys whose truth is known, in memory or as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmdwarf.api.inputs import Spectra, count, read
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.grids.table import ModelGrid, read_grid
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.simulation import (
    RECIPE_NAME,
    make_grid,
    make_survey,
    nature_source,
    simulate_files,
)

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("truth", "gaia", "reference", "pairs")
"""Of a survey, as files: Parquet."""


class SimulatedSurvey:
    """A simulated survey: spectra, what is true of them, and what other catalogues would say.

    Attributes
    ----------
    spectra : Spectra
        As a telescope would have taken them; failed exposures are among its rejects. Of a survey
        on disk they are read when first asked for.
    truth : DataFrame
        Row by row of `spectra`: labels, velocity, activity, companions, ...
    gaia, reference, pairs : DataFrame
        A Gaia-like catalogue, literature labels of some stars, wide pairs with FGK primaries.
    grid : ModelGrid or None
        Theoretical spectra to train an emulator on; None if none were asked for.
    folder : Path or None
        Where it is as files.
    """

    def __init__(
        self,
        tables: Mapping[str, pd.DataFrame],
        *,
        made: tuple[Spectra, np.ndarray] | None = None,
        grid: ModelGrid | None = None,
        folder: Path | None = None,
    ) -> None:
        self._visits, self._made, self.grid, self.folder = tables["truth"], made, grid, folder
        self.gaia, self.reference, self.pairs = (
            tables[name] for name in ("gaia", "reference", "pairs")
        )

    @property
    def spectra(self) -> Spectra:
        """Spectra that were taken, and exposures that failed."""
        return self._spectra_and_rows[0]

    @cached_property
    def truth(self) -> pd.DataFrame:
        """What is true of `spectra`, row by row."""
        return self._visits.iloc[self._spectra_and_rows[1]].reset_index(drop=True)

    @cached_property
    def _spectra_and_rows(self) -> tuple[Spectra, np.ndarray]:
        """Spectra, and their rows among all visits."""
        if self._made is not None:
            return self._made
        assert self.folder is not None
        spectra = read(self.folder / "spectra")
        rows = {name: row for row, name in enumerate(self._visits["file"])}
        return spectra, np.array([rows[Path(one.meta.path).name] for one in spectra], dtype=int)

    def __len__(self) -> int:
        return len(self._visits)

    def __repr__(self) -> str:
        grid = "no grid" if self.grid is None else f"a grid of {count(self.grid.n_spec, 'model')}"
        where = f", in {self.folder}" if self.folder else ""
        return (
            f"simulated survey: {count(len(self), 'spectrum')} of "
            f"{count(self._visits['source_id'].nunique(), 'star')}, "
            f"{count(len(self.reference), 'star')} with reference labels, {grid}{where}"
        )


def simulate(
    n: int = 1000,
    *,
    seed: int = 0,
    gap: str | float | Mapping[str, float] | DomainGap = "full",
    n_grid: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SimulatedSurvey:
    """Simulate a survey of M dwarfs, physics to files, with known truth.

    Parameters
    ----------
    n : int
        Spectra, failed exposures included.
    seed : int
        The same seed gives the same survey.
    gap : str, float, mapping or DomainGap
        How nature differs from the theory that models are trained on: "full", "none", a strength
        from 0 to 1 of all causes, or causes by name: ``"telluric,lsf=0.5"``, ``{"damping": 1.0}``.
    n_grid : int
        Theoretical spectra for `jaxmdwarf.train_emulator`; 0 makes none.
    out : path, optional
        Also write it as files into this folder: spectra in LAMOST's layout, tables, the grid.
    overwrite : bool
        Whether a survey that is in `out` may be replaced.
    progress : Progress, optional

    Returns
    -------
    SimulatedSurvey

    Raises
    ------
    UsageError
        If an argument makes no sense, or `out` holds something else.

    Examples
    --------
    Half a minute of opacities, then some ten spectra a second:

    >>> survey = jm.simulate(200, gap="none", n_grid=256)  # doctest: +SKIP
    >>> survey.spectra[0].flux, survey.truth.loc[0, "teff"]  # doctest: +SKIP
    """
    for name, number, least in (("n", n, 1), ("n_grid", n_grid, 0), ("seed", seed, 0)):
        if number < least:
            raise UsageError(f"{name} is {number}.", f"give a number from {least} on.")
    config = SurveyConfig(n_spectra=n, seed=seed, gap=_parse_gap(gap))
    if out is None:
        return _in_memory(config, n_grid, progress)
    simulate_files(out, config=config, n_grid=n_grid, overwrite=overwrite, progress=progress)
    return load_survey(out)


def _parse_gap(gap: str | float | Mapping[str, float] | DomainGap) -> DomainGap:
    if isinstance(gap, DomainGap):
        return gap
    if isinstance(gap, Mapping):
        return DomainGap.parse(",".join(f"{name}={value}" for name, value in gap.items()) or "0")
    return DomainGap.parse({"full": "1", "none": "0"}.get(str(gap), str(gap)))


def load_survey(folder: str | os.PathLike[str]) -> SimulatedSurvey:
    """A survey that `simulate` or ``jaxmdwarf simulate`` wrote.

    Raises
    ------
    UsageError
        If the folder holds none.
    """
    root = Path(folder)
    if not (root / RECIPE_NAME).is_file():
        raise UsageError(
            f"{root} holds no simulated survey.", "make one with jm.simulate(out=...)."
        )
    tables = {name: read_table(root / f"{name}.parquet") for name in TABLES}
    grid = root / "theory_grid.parquet"
    return SimulatedSurvey(tables, grid=read_grid(grid) if grid.is_file() else None, folder=root)


def _in_memory(config: SurveyConfig, n_grid: int, progress: Progress | None) -> SimulatedSurvey:
    import pandas as pd

    made = make_survey(config, progress=progress)
    grid = None
    if n_grid:
        theory = nature_source(DomainGap.none(), seed=config.seed)
        grid = make_grid(n_grid, theory, seed=config.seed, progress=progress)
    tables = {name: pd.DataFrame(columns) for name, columns in made.tables.items()}
    return SimulatedSurvey(tables, made=(Spectra(made.spectra, made.rejects), made.rows), grid=grid)
