"""Ages from how far stars move out of the plane of the Galaxy, by zoomies (paper, section 4)."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from jaxmdwarf.catalogue.label_columns import FORMAL_PREFIX
from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import VELOCITY
from jaxmdwarf.quality import find_good

if TYPE_CHECKING:
    import pandas as pd

_ASTROMETRY = {"RA": "ra", "Dec": "dec", "Plx": "parallax", "pmRA": "pmra", "pmDE": "pmdec"}
"""Columns that an orbit needs, and what zoomies calls them."""


def predict_ages(
    table: pd.DataFrame, star: Int[np.ndarray, " n"], spline: str | os.PathLike[str]
) -> pd.DataFrame:
    """The table with ages by the vertical action of each star's orbit (Sagear et al. 2024).

    Parameters
    ----------
    table : DataFrame
        With RA, Dec, Plx, pmRA, pmDE of Gaia, and RV.
    star : (n,)
        See `jaxmdwarf.catalogue.stars.group_stars`: a star has one orbit, with the mean velocity of
        its good visits, weighted by their errors.
    spline : path
        Folder with the relation of age and action, as ``KinematicAgeSpline.write`` of zoomies makes
        it; that of the authors is ``spline_model/`` in their repository.

    Returns
    -------
    DataFrame
        Age is the median and Age_mean the mean of the distribution of the age; NaN for stars
        without a parallax above 0, motion or velocity.

    Raises
    ------
    UsageError
        If zoomies is not installed, there is no such folder, or the table lacks a column.

    Notes
    -----
    zoomies takes one orbit after the other: some hundreds of stars a second.
    """
    lacking = [name for name in (*_ASTROMETRY, VELOCITY.column) if name not in table]
    if lacking:
        raise UsageError(
            f"ages need {', '.join(lacking)}, which the table has not.",
            "give a Gaia table with parallaxes and proper motions: --gaia TABLE.",
        )
    zoomies = _import_zoomies()
    folder = os.path.join(os.fspath(spline), "")
    if not os.path.isdir(folder):
        raise UsageError(
            f"there is no folder {os.fspath(spline)}.",
            "take spline_model/ of the repository of zoomies.",
        )
    orbits = _gather_orbits(table, star)
    age, mean = np.full(len(orbits), np.nan), np.full(len(orbits), np.nan)
    known = np.flatnonzero(orbits.notna().all(axis=1) & (orbits["parallax"] > 0))
    if known.size:
        # It prints, and draws bars, where results go.
        silent = io.StringIO()
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            relation = zoomies.read(directory=folder)
            age[known], mean[known] = _find_ages(zoomies, relation, orbits.iloc[known])
    number = orbits.index.get_indexer(star)
    return table.assign(Age=age[number], Age_mean=mean[number])


def _import_zoomies() -> Any:
    try:
        import zoomies
    except ImportError as error:
        raise UsageError(
            f"ages need the package zoomies, which cannot be imported: {error}.",
            "pip install 'jaxmdwarf[ages]', or give ages in a table (--ages).",
        ) from None
    return zoomies


def _gather_orbits(table: pd.DataFrame, star: np.ndarray) -> pd.DataFrame:
    """Astrometry and velocity by star, under the names of the Gaia archive."""
    import pandas as pd

    orbits = pd.DataFrame({new: read_numbers(table, old) for old, new in _ASTROMETRY.items()})
    column = VELOCITY.column
    kept = f"{FORMAL_PREFIX}{column}"
    error = read_numbers(table, kept if kept in table else f"e_{column}")
    velocity = read_numbers(table, column)
    usable = np.isfinite(velocity) & (error > 0)
    if "flags" in table:
        usable &= find_good(table["flags"].to_numpy())
    weight = np.where(usable, 1.0 / np.where(usable, error, 1.0) ** 2, 0.0)
    sums = pd.DataFrame({"w": weight, "wv": weight * np.where(usable, velocity, 0.0)})
    sums = sums.groupby(star).sum()
    orbits = orbits.groupby(star).first()
    orbits["radial_velocity"] = (sums["wv"] / sums["w"].where(sums["w"] > 0)).to_numpy()
    return orbits


def _find_ages(zoomies: Any, relation: Any, orbits: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Median and mean of the age of each orbit, Gyr."""
    from astropy.table import Table

    action = np.asarray(zoomies.calc_jz(Table.from_pandas(orbits))["Jz"], np.float64)
    possible = np.isfinite(action) & (action > 0)
    median, mean = np.full(action.size, np.nan), np.full(action.size, np.nan)
    if possible.any():
        grid, density = relation.evaluate_ages(np.log(action[possible]))
        share = np.cumsum(np.atleast_2d(density), axis=1)
        share = share / share[:, -1:]
        median[possible] = grid[np.argmax(share >= 0.5, axis=1)]
        mean[possible] = np.diff(share, axis=1, prepend=0.0) @ grid
    return median, mean
