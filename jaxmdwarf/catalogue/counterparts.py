"""Stars of other tables in a catalogue, and the one row of each that is to speak for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.crossmatch import find_missing, read_identifiers
from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.catalogue.positions import J2000, positions_at
from jaxmdwarf.catalogue.quantities import read_errors, read_quantity
from jaxmdwarf.diagnostics.matching import match_by_key, match_by_position
from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


class Step(NamedTuple):
    """One line of a waterfall.

    Parameters
    ----------
    name : str
        What had to hold.
    removed, left : int
        Rows for which it did not, and those that go on.
    """

    name: str
    removed: int
    left: int

    def then(self, name: str, left: int) -> Step:
        """The next line, after which `left` rows go on."""
        return Step(name, self.left - left, left)


def match_stars(
    table: pd.DataFrame,
    stars: pd.DataFrame,
    *,
    name: str,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> tuple[np.ndarray, str]:
    """Which star each row of a table is of.

    Parameters
    ----------
    table : DataFrame
        Several rows may be of one star.
    stars : DataFrame
        One row a star.
    name : str
        What errors call the two.
    radius_arcsec : float
        For rows that are matched by position: those without a Gaia identifier, and all where no
        identifier is in both tables.
    epoch_yr : float
        Julian year at which positions are compared; they are moved there where motions and epoch
        are known.

    Returns
    -------
    star : (n_row,) int
        Row of `stars`, -1 for none.
    how : str
        What rows were matched by.

    Raises
    ------
    UsageError
        If the tables have neither identifiers nor positions in common.
    """
    star = np.full(len(table), -1)
    ours, theirs = find_column(table, "source_id"), find_column(stars, "source_id")
    nameless, ways = np.arange(len(table)), []
    if ours is not None and theirs is not None:
        keys = read_identifiers(table[ours])
        found = match_by_key(keys, read_identifiers(stars[theirs]))
        missing = find_missing(keys)
        known = ~missing[found.rows]
        star[found.rows[known]] = found.reference_rows[known]
        ways = ["source_id"]
        if known.any():
            nameless = np.flatnonzero(missing)
    here = positions_at(table.iloc[nameless], epoch_yr)
    there = positions_at(stars, epoch_yr)
    if here is not None and there is not None:
        near = match_by_position(*here[:2], *there[:2], radius_arcsec=radius_arcsec)
        star[nameless[near.rows]] = near.reference_rows
        if near.rows.size or not ways:
            ways.append(f"position within {radius_arcsec:g} arcsec")
    if not ways:
        raise UsageError(
            f"{name} have nothing in common to match by: {list_columns(table)}; and "
            f"{list_columns(stars)}.",
            "both need a column source_id, or RA and Dec.",
        )
    return star, ", ".join(ways)


def choose_rows(star: np.ndarray, n_star: int, rank: np.ndarray) -> np.ndarray:
    """The row of each star with the highest rank; -1 for stars without a row.

    Parameters
    ----------
    star : (n_row,) int
        Star of each row, -1 for none.
    n_star : int
    rank : (n_row,) float
        NaN is below all numbers; of equal ones the first row counts.

    Examples
    --------
    >>> choose_rows(np.array([1, 1, -1, 0]), 3, np.array([5.0, 9.0, 99.0, np.nan])).tolist()
    [3, 1, -1]
    """
    order = np.argsort(-np.nan_to_num(rank, nan=-np.inf), kind="stable")
    order = order[star[order] >= 0]
    chosen = np.full(n_star, -1)
    seen, first = np.unique(star[order], return_index=True)
    chosen[seen] = order[first]
    return chosen


def require_column(table: pd.DataFrame, wanted: str, *guesses: str, what: str, remedy: str) -> str:
    """The column `wanted`, or without a wish the first of `guesses` that is there.

    Parameters
    ----------
    table : DataFrame
    wanted : str
        Empty for none.
    *guesses : str
        Names, as `jaxmdwarf.labels.normalise_column` writes them.
    what, remedy : str
        For the error.

    Raises
    ------
    UsageError
        If it is not there, or none of them is.
    """
    column = wanted if wanted in table.columns else ""
    names = index_columns(table)
    if not wanted:
        column = next((names[guess] for guess in guesses if guess in names), "")
    if not column:
        missing = f"has no column {wanted!r}" if wanted else "has no column that looks like it"
        raise UsageError(f"{what}: the table {missing}; it has {list_columns(table)}.", remedy)
    return column


def read_with_error(table: pd.DataFrame, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """A label or the velocity with its errors, each (n,); NaN where there is none.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"feh": [0.1, -9999.0], "feh_err": [0.05, -9999.0]})
    >>> [column.tolist() for column in read_with_error(table, "mh")]
    [[0.1, nan], [0.05, nan]]
    """
    column = find_column(table, quantity)
    if column is None:
        return np.full(len(table), np.nan), np.full(len(table), np.nan)
    values = read_quantity(table, column, quantity).values
    return values, np.where(np.isfinite(values), read_errors(table, column, quantity), np.nan)


def read_snr(table: pd.DataFrame, wanted: str = "") -> tuple[np.ndarray, str]:
    """S/N of the rows of a catalogue, (n,), and the column that has it.

    Raises
    ------
    UsageError
        If the column that is wanted, or without a wish any of S/N in r or i, is not there.
    """
    guess = find_column(table, "snr") or find_column(table, "snr_i") or ""
    column = require_column(
        table,
        wanted or guess,
        what="S/N of the catalogue",
        remedy="name a column with --snr-column.",
    )
    return read_quantity(table, column, "snr").values, column


def list_columns(table: pd.DataFrame) -> str:
    """The first names of columns, for messages."""
    names = list(map(str, table.columns))
    if not names:
        return "none that tells a star"
    return ", ".join(names[:25]) + (f" and {len(names) - 25} more" if len(names) > 25 else "")
