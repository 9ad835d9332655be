"""Lists too large for memory: catalogues in HATS partitions, matched by lsdb on Dask."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.positions import J2000, find_epoch, move_positions
from jaxmdwarf.catalogue.quantities import find_positions, read_numbers
from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.labels import normalise_column

if TYPE_CHECKING:
    import pandas as pd

_MARKS = ("hats.properties", "properties", "collection.properties")
_MOST_NEIGHBOURS = 20
VARIABLE_FLAGS = ("varflag", "photvariableflag")
"""Columns that say VARIABLE where Gaia found a star to be so, as they are compared."""


def find_properties(path: str | os.PathLike[str]) -> Path | None:
    """The file by which a folder is known as a HATS catalogue; None for any other path."""
    return next((Path(path) / mark for mark in _MARKS if (Path(path) / mark).is_file()), None)


def find_in_hats(
    catalogue: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    radius_arcsec: float = 3.0,
    epoch_yr: float = J2000,
) -> tuple[np.ndarray, int]:
    """Which rows of a catalogue have a star of a HATS catalogue near them.

    Parameters
    ----------
    catalogue : DataFrame
        With positions. They are moved to the epoch of the list where the catalogue has proper
        motions and the names of the columns of the list tell its epoch.
    path : path
        Folder of a HATS catalogue.
    radius_arcsec : float
    epoch_yr : float
        Of the positions of the catalogue.

    Returns
    -------
    rows : (n,) bool
    n_list : int
        Stars of the list, of any flag.

    Raises
    ------
    UsageError
        If lsdb is not installed, or the catalogue has no positions.
    FormatError
        If the folder is no HATS catalogue.
    """
    lsdb = _import_lsdb()
    listed = _open(lsdb, path)
    places = find_positions(catalogue)
    if places is None:
        raise UsageError("the catalogue has no positions.", "give lists with identifiers.")
    ra, dec = places.ra_deg, places.dec_deg
    east, north = find_column(catalogue, "pmRA"), find_column(catalogue, "pmDE")
    if listed.epoch_yr is not None and east is not None and north is not None:
        motion = read_numbers(catalogue, east), read_numbers(catalogue, north)
        ra, dec = move_positions(ra, dec, *motion, listed.epoch_yr - epoch_yr)
    rows = np.zeros(len(catalogue), bool)
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    if known.size:
        rows[known[_cross_match(lsdb, listed.stars, ra[known], dec[known], radius_arcsec)]] = True
    return rows, listed.n_star


def _import_lsdb() -> Any:
    try:
        import lsdb
    except ImportError as error:
        raise UsageError(
            f"a HATS catalogue needs the package lsdb, which cannot be imported: {error}.",
            "pip install 'jaxmdwarf[hats]', or give the list as one table.",
        ) from None
    return lsdb


class _Listed(NamedTuple):
    """Places of the stars that count, how many there are of any flag, and their epoch."""

    stars: Any
    n_star: int
    epoch_yr: float | None


def _open(lsdb: Any, path: str | os.PathLike[str]) -> _Listed:
    import pandas as pd

    try:
        whole = lsdb.open_catalog(path)
        names = list(map(str, whole.columns))
        info = whole.hc_structure.catalog_info
        places = [info.ra_column, info.dec_column]
        flag = next((one for one in names if normalise_column(one) in VARIABLE_FLAGS), None)
        filters = None if flag is None else [(flag, "==", "VARIABLE")]
        stars = lsdb.open_catalog(path, columns=places, filters=filters)
    except Exception as error:  # of many libraries
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FormatError(
            f"{os.fspath(path)} cannot be read as a HATS catalogue: {line}.", "check the folder."
        ) from None
    # Columns without rows: what names tell, not what a column of epochs says of each star.
    epoch = find_epoch(pd.DataFrame(columns=names), ", ".join(places))
    return _Listed(stars, len(whole), epoch if isinstance(epoch, float) else None)


def _cross_match(
    lsdb: Any, listed: Any, ra: np.ndarray, dec: np.ndarray, radius_arcsec: float
) -> np.ndarray:
    """Numbers of the places that a star of the list lies near."""
    import pandas as pd

    places = pd.DataFrame({"ra": ra, "dec": dec, "row": np.arange(ra.size)})
    # Visits of one star at one place would crowd out others among the neighbours.
    point = places.groupby(["ra", "dec"], sort=False).ngroup().to_numpy()
    once = places.drop_duplicates(["ra", "dec"]).assign(row=np.unique(point))
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        ours = lsdb.from_dataframe(
            once, ra_column="ra", dec_column="dec", margin_threshold=1.5 * radius_arcsec
        )
        # Ours on the right, which has a margin, so that no pair across partitions is missed.
        pairs = listed.crossmatch(
            ours,
            radius_arcsec=radius_arcsec,
            n_neighbors=_MOST_NEIGHBOURS,
            suffixes=("_list", "_ours"),
            suffix_method="all_columns",
        ).compute()
    return np.flatnonzero(np.isin(point, pairs["row_ours"].to_numpy(np.int64)))
