"""Ages of stars from another table, which the cut of the young needs (paper, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxmdwarf.catalogue.merging import choose_key, join_columns
from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.positions import J2000
from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

AGE_COLUMNS = ("Age", "Age_mean")

_OLDEST_GYR = 20.0
_IN_GYR = {"gyr": 1.0, "": 1.0, "myr": 1e-3, "yr": 1e-9}


def join_ages(
    catalogue: pd.DataFrame,
    ages: pd.DataFrame,
    *,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> pd.DataFrame:
    """The catalogue with ages of its stars.

    Parameters
    ----------
    catalogue : DataFrame
    ages : DataFrame
        With Age (the median, where it is one of a distribution), Age_mean, or both, in Gyr unless
        the table names another unit. Matched by the first of source_id, obsid, path and ID that
        both tables have, else by position.
    radius_arcsec, epoch_yr : float
        For positions; see `jaxmdwarf.catalogue.merging.join_columns`.

    Returns
    -------
    DataFrame
        All rows in their order; NaN where no possible age is given.

    Raises
    ------
    UsageError
        If the table has no ages, or not in Gyr.
    """
    found = {name: find_column(ages, name) for name in AGE_COLUMNS}
    columns = {name: column for name, column in found.items() if column is not None}
    if not columns:
        raise UsageError(
            f"the table of ages has none of {', '.join(AGE_COLUMNS)}; it has "
            f"{', '.join(map(str, ages.columns[:25]))}.",
            "name the column Age, in Gyr.",
        )
    read = ages.copy(deep=False)
    for column in columns.values():
        read[column] = _read_ages(ages, column)
    by = choose_key(catalogue, ages, ("source_id", "obsid", "path", "ID"))
    return join_columns(
        catalogue, read, columns, by=by, radius_arcsec=radius_arcsec, epoch_yr=epoch_yr
    )


def _read_ages(table: pd.DataFrame, column: str) -> np.ndarray:
    unit = str(table.attrs.get("units", {}).get(column, "")).strip().lower()
    if unit not in _IN_GYR:
        raise UsageError(f"column {column} of the ages is in {unit}.", "give ages in Gyr.")
    age = read_numbers(table, column) * _IN_GYR[unit]
    age = np.where(age >= 0, age, np.nan)
    if np.isfinite(age).any() and np.nanmedian(age) > _OLDEST_GYR:
        raise UsageError(
            f"the median of column {column} is {np.nanmedian(age):.4g} Gyr, older than the "
            "universe.",
            "give ages in Gyr, or a table that tells their unit.",
        )
    return np.where(age <= _OLDEST_GYR, age, np.nan)
