"""Catalogues with columns of other tables: rows are matched by identifier or by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxmdwarf.catalogue.columns import COLUMNS, order_columns
from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.positions import J2000, positions_at
from jaxmdwarf.diagnostics.matching import Matches, match_by_key, match_by_position
from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

GAIA_COLUMNS = ("Gmag", "BPmag", "RPmag", "Plx", "e_Plx", "RUWE")
"""What the paper's Table 1 takes from Gaia."""

GAIA_ALSO = ("source_id", "pmRA", "pmDE", "Ksmag", "e_Ksmag")
"""Taken besides, where the table has it: other tables are matched by it, or photometry wants it."""

Key = Literal["position", "source_id", "ID", "obsid", "path"]


def join_gaia(
    catalogue: pd.DataFrame,
    gaia: pd.DataFrame,
    *,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> pd.DataFrame:
    """The catalogue with the photometry and astrometry of its stars (Table 1).

    Parameters
    ----------
    catalogue : DataFrame
    gaia : DataFrame
        With the names of the Gaia archive, of VizieR, or ours. Rows are matched by `obsid` or by
        `ID` if both tables have it, else by position.
    radius_arcsec : float
        For positions.
    epoch_yr : float
        Epoch of the positions of the catalogue; those of Gaia are moved to it.

    Returns
    -------
    DataFrame
        All rows in their order; NaN where a star is not in `gaia`.

    Raises
    ------
    UsageError
        If `gaia` has none of the columns, or nothing to match by.
    """
    found = {name: find_column(gaia, name) for name in GAIA_COLUMNS}
    columns = {name: column for name, column in found.items() if column is not None}
    if not columns:
        raise UsageError(
            f"the Gaia table has none of {', '.join(GAIA_COLUMNS)}; it has "
            f"{', '.join(map(str, gaia.columns[:25]))}.",
            "keep the names of the Gaia archive: phot_g_mean_mag, parallax, ruwe, ...",
        )
    also = {name: find_column(gaia, name) for name in GAIA_ALSO}
    columns |= {name: column for name, column in also.items() if column is not None}
    by = choose_key(catalogue, gaia, ("obsid", "ID"))
    return join_columns(
        catalogue, gaia, columns, by=by, radius_arcsec=radius_arcsec, epoch_yr=epoch_yr
    )


def count_gaia(joined: pd.DataFrame, gaia: pd.DataFrame) -> int:
    """Rows of a table that got something from `gaia` by `join_gaia`."""
    known = [name for name in GAIA_COLUMNS if find_column(gaia, name) is not None]
    return int(joined[known].notna().any(axis=1).sum())


def choose_key(catalogue: pd.DataFrame, table: pd.DataFrame, keys: Sequence[Key]) -> Key:
    """The first of some identifiers that both tables have; else their positions."""
    for key in keys:
        if find_column(table, key) is not None and key in catalogue:
            return key
    return "position"


def join_columns(
    catalogue: pd.DataFrame,
    table: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    by: Key = "position",
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> pd.DataFrame:
    """The catalogue with columns of another table, each row with those of its star.

    Parameters
    ----------
    catalogue : DataFrame
    table : DataFrame
        Of equal identifiers the first row counts; of positions the nearest.
    columns : mapping of str to str
        Column of `table` by the name that it gets; one that the catalogue has is replaced.
    by : {"position", "source_id", "ID", "obsid", "path"}
    radius_arcsec : float
        For positions.
    epoch_yr : float
        Epoch of the positions of the catalogue; those of `table` are moved to it where it has
        motions and an epoch (see `jaxmdwarf.catalogue.positions.positions_at`).

    Returns
    -------
    DataFrame
        All rows in their order, columns in the order of catalogues. NaN, or an empty text, where a
        star is not in `table`; missing integers are masked.

    Raises
    ------
    UsageError
        If a table lacks a column.

    Examples
    --------
    >>> import pandas as pd
    >>> stars = pd.DataFrame({"obsid": [7, 8], "Teff": [3400.0, 3500.0]})
    >>> gaia = pd.DataFrame({"obsid": ["8", "9"], "phot_g_mean_mag": [14.5, 15.0]})
    >>> joined = join_columns(stars, gaia, {"Gmag": "phot_g_mean_mag"}, by="obsid")
    >>> joined["Gmag"].tolist()
    [nan, 14.5]
    """
    import pandas as pd

    for column in columns.values():
        if column not in table:
            raise UsageError(
                f"the table to be joined has no column {column!r}.",
                f"its columns are {', '.join(map(str, table.columns[:25]))}.",
            )
    matches = _match(catalogue, table, by, radius_arcsec, epoch_yr)
    joined = catalogue.copy(deep=False)
    for name, column in columns.items():
        values = table[column].array.take(matches.reference_rows)
        known = COLUMNS.get(name)
        if values.dtype.kind in "iu" or (known is not None and known.kind == "int"):
            whole = pd.array([pd.NA] * len(catalogue), dtype="Int64")
            whole[matches.rows] = values
            joined[name] = whole
        elif values.dtype.kind == "f":
            numbers = np.full(len(catalogue), np.nan)
            numbers[matches.rows] = values
            joined[name] = numbers
        else:
            texts = np.full(len(catalogue), "", dtype=object)
            texts[matches.rows] = values
            joined[name] = texts
    return joined[order_columns(map(str, joined.columns))]


def _match(
    catalogue: pd.DataFrame, table: pd.DataFrame, by: str, radius_arcsec: float, epoch_yr: float
) -> Matches:
    def pair(name: str) -> tuple[pd.Series, pd.Series]:
        ours, theirs = find_column(catalogue, name), find_column(table, name)
        if ours is None or theirs is None:
            where = "the catalogue" if ours is None else "the table to be joined"
            raise UsageError(
                f"{where} has no column {name} to match rows by {by}.", "match by something else."
            )
        return catalogue[ours], table[theirs]

    if by != "position":
        return match_by_key(*pair(by))
    ours, theirs = positions_at(catalogue, epoch_yr), positions_at(table, epoch_yr)
    if ours is None or theirs is None:
        where = "the catalogue" if ours is None else "the table to be joined"
        raise UsageError(f"{where} has no positions.", "match by an identifier.")
    return match_by_position(
        ours.ra_deg, ours.dec_deg, theirs.ra_deg, theirs.dec_deg, radius_arcsec=radius_arcsec
    )
