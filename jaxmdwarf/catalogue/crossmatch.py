"""Variables and binaries of other catalogues: the column VBFlag (paper, section 4.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.columns import COLUMNS, order_columns
from jaxmdwarf.catalogue.hats import VARIABLE_FLAGS, find_in_hats
from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.catalogue.positions import J2000, positions_at
from jaxmdwarf.catalogue.quantities import POSITION_PARTS, find_positions
from jaxmdwarf.diagnostics.matching import match_by_key, match_by_position
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import normalise_column

if TYPE_CHECKING:
    import pandas as pd

VARIABLE, BINARY = 1, 2
"""Values of VBFlag."""

_COMPONENT = re.compile(r"(.*?)(?:1|2|a|b|pri|sec|primary|secondary)")
_ALSO_NEEDED = ("refepoch", "epoch", *VARIABLE_FLAGS, *POSITION_PARTS, "de")
_GAIA_NAME = re.compile(r"\s*gaia\s+e?dr\d\s+(\d+)\s*", re.IGNORECASE)


class StarList(NamedTuple):
    """One table of stars of a kind.

    Parameters
    ----------
    name : str
        For counts and for the column VBTables.
    tables : sequence of DataFrame
        A document may hold several.
    hats : str
        Folder of a HATS catalogue in place of tables; see `jaxmdwarf.catalogue.hats`.
    """

    name: str
    tables: Sequence[pd.DataFrame]
    hats: str = ""


class Found(NamedTuple):
    """What one list has of a catalogue.

    Parameters
    ----------
    rows : (n,) bool
    how : str
        What rows were matched by.
    n_list : int
        Rows of the list that count.
    """

    rows: np.ndarray
    how: str
    n_list: int


def add_variability(
    catalogue: pd.DataFrame,
    variables: Sequence[StarList] = (),
    binaries: Sequence[StarList] = (),
    *,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> tuple[pd.DataFrame, dict[str, Found]]:
    """The catalogue with VBFlag and VBTables.

    Parameters
    ----------
    catalogue : DataFrame
        With a column `star`, all spectra of a star are flagged if one of them is found.
    variables, binaries : sequence of StarList
        Without any list, VBFlag is masked everywhere: nothing is known.
    radius_arcsec, epoch_yr : float
        See `find_listed`.

    Returns
    -------
    catalogue : DataFrame
        VBFlag is 1 for rows in a list of variables, 2 for other rows in a list of binaries, else
        0; VBTables names all lists that have the star, joined by ``+``.
    found : dict
        By name of the list.

    Notes
    -----
    Eclipsing binaries are in both kinds of list. In the paper as many stars have a 1 as are found
    among variables (24,276), so 1 goes before 2; VBTables tells of both.

    Examples
    --------
    >>> import pandas as pd
    >>> stars = pd.DataFrame({"source_id": [7, 8, 9]})
    >>> listed = StarList("sb9", [pd.DataFrame({"source_id": [9]})])
    >>> add_variability(stars, binaries=[listed])[0]["VBFlag"].tolist()
    [0, 0, 2]
    """
    import pandas as pd

    names = [one.name for one in (*variables, *binaries)]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two lists have one name: {', '.join(names)}.", "rename one of the files."
        )
    found = {}
    for one in (*variables, *binaries):
        listed = find_listed(catalogue, one, radius_arcsec=radius_arcsec, epoch_yr=epoch_yr)
        if "star" in catalogue:
            star = catalogue["star"].to_numpy()
            listed = listed._replace(rows=np.isin(star, star[listed.rows]))
        found[one.name] = listed
    flag = np.zeros(len(catalogue), np.int32)
    tables = np.full(len(catalogue), "", object)
    for kind, lists in ((BINARY, binaries), (VARIABLE, variables)):
        for one in lists:
            flag[found[one.name].rows] = kind
    for name, listed in found.items():
        before = tables[listed.rows]
        tables[listed.rows] = [f"{text}+{name}" if text else name for text in before]
    done = catalogue.copy(deep=False)
    done["VBFlag"] = flag if found else pd.array([pd.NA] * len(catalogue), dtype="Int32")
    if found:
        done["VBTables"] = tables
    return done[order_columns(map(str, done.columns))], found


def find_listed(
    catalogue: pd.DataFrame,
    listed: StarList,
    *,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> Found:
    """Which rows of a catalogue a list has.

    Parameters
    ----------
    catalogue : DataFrame
    listed : StarList
        Rows whose VarFlag (phot_variable_flag) is not VARIABLE do not count. Matched by the first
        of these that finds a row: Gaia identifiers, also those of the two components of pairs;
        positions; obsid, in lists without positions. What lacks a Gaia identifier, here or there,
        goes by position. Tables without any are refused, unless another table of the document has
        some.
    radius_arcsec : float
        For positions.
    epoch_yr : float
        Epoch of the positions of the catalogue; those of the list are moved to it where motions
        and epoch are known.

    Raises
    ------
    UsageError
        If no table has anything to match by.
    """
    if listed.hats:
        near, n_list = find_in_hats(
            catalogue, listed.hats, radius_arcsec=radius_arcsec, epoch_yr=epoch_yr
        )
        return Found(near, "position", n_list)
    rows = np.zeros(len(catalogue), bool)
    ways: list[str] = []
    n_list = 0
    for table in listed.tables:
        table = _keep_variables(table)
        way, matched = _match_list(catalogue, table, radius_arcsec, epoch_yr)
        if way:
            ways.append(way)
            rows[matched] = True
            n_list += len(table)
    if not ways:
        columns = [str(name) for table in listed.tables for name in table.columns]
        raise UsageError(
            f"{listed.name} and the catalogue have nothing in common to match by; the list has "
            f"{', '.join(columns[:25])}.",
            "it needs a column source_id (and so does the catalogue: --gaia), RA and Dec, or "
            "obsid.",
        )
    return Found(rows, ", ".join(dict.fromkeys(ways)), n_list)


def choose_columns(names: list[str]) -> list[str]:
    """Of the columns of a list, those that a match may need; all, if it needs none.

    Examples
    --------
    >>> choose_columns(["solution_id", "source_id", "ra", "dec", "period", "pmra", "ref_epoch"])
    ['source_id', 'ra', 'dec', 'pmra', 'ref_epoch']
    """
    import pandas as pd

    table = pd.DataFrame(columns=names)
    found = {find_column(table, name) for name in ("RA", "Dec", "pmRA", "pmDE")}
    for name in _SPELLINGS:
        found |= set(_list_identifiers(table, name))
    chosen = [name for name in names if name in found or normalise_column(name) in _ALSO_NEEDED]
    return chosen or names


def _match_list(
    catalogue: pd.DataFrame, table: pd.DataFrame, radius_arcsec: float, epoch_yr: float
) -> tuple[str, np.ndarray]:
    """By what rows were matched (empty: nothing there), and the rows of the catalogue."""
    way = ""
    for name in ("source_id", "obsid"):
        ours = find_column(catalogue, name)
        theirs = _list_identifiers(table, name)
        if ours is None or not theirs:
            continue
        if name == "obsid" and find_positions(table) is not None:
            # Another survey, or another mode of this one, may count its spectra alike.
            continue
        keys, others = (
            read_identifiers(catalogue[ours]),
            [read_identifiers(table[one]) for one in theirs],
        )
        found = np.unique(np.concatenate([match_by_key(keys, one).rows for one in others]))
        if found.size:
            # What has no identifier, on either side, has perhaps a place.
            nameless = np.flatnonzero(find_missing(keys))
            unnamed = np.all([find_missing(one) for one in others], axis=0)
            near = [
                nameless[_match_places(catalogue.iloc[nameless], table, radius_arcsec, epoch_yr)],
                _match_places(catalogue, table[unnamed], radius_arcsec, epoch_yr),
            ]
            also = ", position" if any(one.size for one in near) else ""
            return name + also, np.unique(np.concatenate([found, *near]))
        way = way or name
    found = _match_places(catalogue, table, radius_arcsec, epoch_yr)
    if found.size or (find_positions(catalogue) is not None and find_positions(table) is not None):
        way = f"{way}, position" if way and not found.size else "position"
    return way, found


def _match_places(
    catalogue: pd.DataFrame, table: pd.DataFrame, radius_arcsec: float, epoch_yr: float
) -> np.ndarray:
    """Rows of the catalogue that a row of the table lies near; none without positions."""
    if not len(catalogue) or not len(table):
        return np.zeros(0, np.int64)
    here, there = positions_at(catalogue, epoch_yr), positions_at(table, epoch_yr)
    if here is None or there is None:
        return np.zeros(0, np.int64)
    return match_by_position(
        here.ra_deg, here.dec_deg, there.ra_deg, there.dec_deg, radius_arcsec=radius_arcsec
    ).rows


def find_missing(keys: pd.Series) -> np.ndarray:
    """Which rows have no identifier: empty, 0, or a survey's word for that; (n,) bool.

    Examples
    --------
    >>> import pandas as pd
    >>> find_missing(pd.Series([7, 0, -9999])).tolist()
    [False, True, True]
    >>> find_missing(pd.Series(["7", " ", "-9999"])).tolist()
    [False, True, True]
    """
    if keys.dtype.kind in "iuf":
        return (keys.isna() | (keys <= 0)).fillna(True).to_numpy(bool)
    return (keys.isna() | keys.astype(str).str.strip().isin(("", "nan", "--", "-9999"))).to_numpy(
        bool
    )


def _list_identifiers(table: pd.DataFrame, name: str) -> list[str]:
    """Columns with identifiers of a kind: one, or one for each component of a pair."""
    column = find_column(table, name)
    if column is not None:
        return [column]
    parts = []
    for other in map(str, table.columns):
        component = _COMPONENT.fullmatch(normalise_column(other))
        if component and component[1] in _SPELLINGS[name]:
            parts.append(other)
    return parts


_SPELLINGS = {name: COLUMNS[name].spellings for name in ("source_id", "obsid")}


def read_identifiers(column: pd.Series) -> pd.Series:
    """A column of identifiers, of which ``Gaia DR3 `` in front is taken off."""
    if column.dtype.kind in "iuf" or not len(column):
        return column
    if not _GAIA_NAME.fullmatch(str(column.iloc[0])):
        return column
    return column.astype(str).str.replace(_GAIA_NAME, r"\1", regex=True)


def _keep_variables(table: pd.DataFrame) -> pd.DataFrame:
    names = index_columns(table)
    for name in VARIABLE_FLAGS:
        if name in names:
            return table[table[names[name]].astype(str).str.strip() == "VARIABLE"]
    return table
