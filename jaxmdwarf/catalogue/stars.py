"""Which spectra are of one star: by identifier, or by place on the sky."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.positions import J2000, positions_at
from jaxmdwarf.diagnostics.matching import as_text, require_radius, unit_vectors
from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

StarKey = Literal["auto", "source_id", "ID", "position"]


def group_stars(
    table: pd.DataFrame,
    *,
    by: StarKey = "auto",
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> Int[np.ndarray, " n"]:
    """Number the stars of a table, one row a spectrum.

    Parameters
    ----------
    table : DataFrame
    by : {"auto", "source_id", "ID", "position"}
        What tells that two spectra are of one star. "auto": equal Gaia identifiers, else places
        within the radius (friends of friends); rows without either go by `ID`. Two rows with
        different Gaia identifiers are never of one star.
    radius_arcsec : float
        For positions.
    epoch_yr : float
        Julian year to which positions are moved, where the table has motions and epochs.

    Returns
    -------
    (n,) int64
        From 0, in the order in which stars appear. A row of which nothing is known is a star alone.

    Raises
    ------
    UsageError
        If the table has nothing of what `by` asks for, or the radius makes no sense.

    Examples
    --------
    >>> import pandas as pd
    >>> visits = pd.DataFrame({"RA": [10.0, 50.0, 10.0002], "Dec": [0.0, 0.0, 0.0]})
    >>> group_stars(visits).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    require_radius(radius_arcsec)
    n = len(table)
    source = _code(table, "source_id") if by in ("auto", "source_id") else np.full(n, -1)
    links = [_link_equal(source)]
    placed = np.zeros(n, bool)
    if by in ("auto", "position"):
        places = positions_at(table, epoch_yr)
        if places is not None:
            placed = np.isfinite(places.ra_deg) & np.isfinite(places.dec_deg)
            links.append(_link_places(places.ra_deg, places.dec_deg, placed, source, radius_arcsec))
    if by == "ID":
        links.append(_link_equal(_code(table, "ID")))
    elif by == "auto":
        links.append(_link_equal(np.where(placed | (source >= 0), -1, _code(table, "ID"))))
    missing = not placed.any() if by == "position" else find_column(table, by) is None
    if n and by != "auto" and missing:
        raise UsageError(
            f"the table has no {by} to tell stars apart by.",
            "choose another: auto, source_id, ID or position.",
        )
    first, second = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(first.size, np.int8), (first, second)), shape=(n, n))
    label = connected_components(graph, directed=False)[1] if n else np.zeros(0, int)
    return _in_order_of_appearance(label)


def count_visits(star: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many rows the star of each row has.

    Examples
    --------
    >>> count_visits(np.array([0, 1, 0])).tolist()
    [2, 1, 2]
    """
    return np.bincount(star)[star] if star.size else np.zeros(0, np.int64)


def _code(table: pd.DataFrame, quantity: str) -> np.ndarray:
    """A number for each identifier, (n,); -1 where there is none."""
    import pandas as pd

    column = find_column(table, quantity)
    if column is None:
        return np.full(len(table), -1)
    values = table[column]
    if values.dtype.kind in "iu":
        codes = pd.factorize(values, use_na_sentinel=True)[0]
        return np.where(values.fillna(0).to_numpy() == 0, -1, codes)
    texts = np.array([as_text(None if value is pd.NA else value) for value in values], object)
    codes = pd.factorize(texts)[0]
    return np.where((texts == "") | (texts == "nan"), -1, codes)


def _link_equal(code: np.ndarray) -> np.ndarray:
    """Pairs of rows, (2, n_link), that chain all rows of one code."""
    rows = np.flatnonzero(code >= 0)
    rows = rows[np.argsort(code[rows], kind="stable")]
    same = code[rows[1:]] == code[rows[:-1]]
    return np.stack([rows[:-1][same], rows[1:][same]])


def _link_places(
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    placed: np.ndarray,
    source: np.ndarray,
    radius_arcsec: float,
) -> np.ndarray:
    """Pairs of rows within the radius that no two identifiers hold apart."""
    import pandas as pd
    from scipy.spatial import cKDTree

    rows = np.flatnonzero(placed)
    # Visits of one star mostly share their position to the last digit: one point for all of them.
    keys = pd.DataFrame({"ra": ra_deg[rows], "dec": dec_deg[rows], "source": source[rows]})
    point = keys.groupby(["ra", "dec", "source"], sort=False).ngroup().to_numpy()
    first = np.zeros(point.max(initial=-1) + 1, np.int64)
    first[point[::-1]] = rows[::-1]
    links = np.stack([rows, first[point]])
    vectors = unit_vectors(ra_deg[first], dec_deg[first])
    chord = 2 * np.sin(np.radians(radius_arcsec / 3600) / 2)
    pairs = cKDTree(vectors).query_pairs(chord, output_type="ndarray") if first.size else []
    near = first[np.asarray(pairs, np.int64).reshape(-1, 2)].T
    one, other = source[near]
    return np.concatenate([links, near[:, (one < 0) | (other < 0) | (one == other)]], axis=1)


def _in_order_of_appearance(label: np.ndarray) -> np.ndarray:
    import pandas as pd

    return pd.factorize(label)[0].astype(np.int64)
