"""Places on the sky at one epoch: stars of the solar neighbourhood move by arcseconds in years."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.catalogue.quantities import Positions, find_positions, read_numbers
from jaxmdwarf.labels import normalise_column

if TYPE_CHECKING:
    import pandas as pd

J2000 = 2000.0
GAIA_EPOCH = 2016.0
"""Reference epoch of the third data release of Gaia, Julian years."""

_MAS_PER_RADIAN = np.degrees(1.0) * 3.6e6
_POSSIBLE_EPOCHS = (1850.0, 2150.0)


def move_positions(
    ra_deg: Float[np.ndarray, " n"],
    dec_deg: Float[np.ndarray, " n"],
    pm_ra_masyr: Float[np.ndarray, " n"],
    pm_dec_masyr: Float[np.ndarray, " n"],
    years: Float[np.ndarray, " n"] | float,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Positions after some years of proper motion.

    Parameters
    ----------
    ra_deg, dec_deg : (n,)
        Degrees.
    pm_ra_masyr, pm_dec_masyr : (n,)
        In mas/yr, the first times cos(dec); where one is not finite, the star stays.
    years : float or (n,)
        Negative into the past.

    Returns
    -------
    ra_deg, dec_deg : (n,)

    Notes
    -----
    Along a straight line through space, seen without its radial part (ESA 1997, The Hipparcos
    Catalogue, vol. 1, section 1.2.8): perspective acceleration stays below 0.05 arcsec in 16 years
    for all stars but Barnard's.

    Examples
    --------
    >>> ra, dec = move_positions(np.zeros(1), np.zeros(1), np.array([3.6e6]), np.zeros(1), -1.0)
    >>> (360.0 - ra).round(3).tolist(), dec.tolist()
    ([1.0], [0.0])
    """
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    known = np.isfinite(pm_ra_masyr) & np.isfinite(pm_dec_masyr) & np.isfinite(years)
    east = np.where(known, pm_ra_masyr * years / _MAS_PER_RADIAN, 0.0)
    north = np.where(known, pm_dec_masyr * years / _MAS_PER_RADIAN, 0.0)
    # On the plane that touches the sphere at the star: x to the star, y east, z north.
    outwards = np.cos(dec) - north * np.sin(dec)
    height = np.sin(dec) + north * np.cos(dec)
    moved_ra = np.degrees(ra + np.arctan2(east, outwards)) % 360.0
    moved_dec = np.degrees(np.arctan2(height, np.hypot(outwards, east)))
    still = (east == 0) & (north == 0)
    return np.where(still, ra_deg, moved_ra), np.where(still, dec_deg, moved_dec)


def find_epoch(table: pd.DataFrame, source: str = "") -> np.ndarray | float | None:
    """Epoch of the positions of a table in Julian years; None where nothing tells it.

    Parameters
    ----------
    table : DataFrame
    source : str
        Columns that positions were read from, as `find_positions` names them.

    Returns
    -------
    (n,) array, float or None
        Numbers of a column ``ref_epoch`` or ``epoch``; what names of columns say (``RAJ2000``); or
        2016, of tables with the columns of the Gaia archive, and of VizieR's (``RA_ICRS``).

    Examples
    --------
    >>> import pandas as pd
    >>> find_epoch(pd.DataFrame({"RA_ICRS": [1.0], "pmRA": [3.0]}), "RA_ICRS, DE_ICRS")
    2016.0
    """
    names = index_columns(table)
    for name in ("refepoch", "epoch"):
        if name in names:
            years = read_numbers(table, names[name])
            possible = (years > _POSSIBLE_EPOCHS[0]) & (years < _POSSIBLE_EPOCHS[1])
            if possible.any():
                return np.where(possible, years, np.nan)
    right = normalise_column(source.partition(",")[0])
    for text, epoch in (("2000", J2000), ("2016", GAIA_EPOCH), ("icrs", GAIA_EPOCH)):
        if text in right:
            return epoch
    return GAIA_EPOCH if {"ra", "dec", "pmra", "pmdec", "sourceid"} <= set(names) else None


def find_motions(
    table: pd.DataFrame, given: Mapping[str, str] | None = None
) -> tuple[str | None, str | None]:
    """Columns of the proper motions in mas/yr, towards east (times cos(dec)) and north."""
    given = given or {}
    return (
        given.get("pmra") or find_column(table, "pmRA"),
        given.get("pmdec") or find_column(table, "pmDE"),
    )


def positions_at(
    table: pd.DataFrame,
    epoch_yr: float = J2000,
    *,
    table_epoch_yr: np.ndarray | float | None = None,
    given: Mapping[str, str] | None = None,
) -> Positions | None:
    """Positions of the rows of a table, moved to an epoch as far as motions are known.

    Parameters
    ----------
    table : DataFrame
    epoch_yr : float
        Julian year to move to.
    table_epoch_yr : float or (n,), optional
        Of the positions, where the table does not tell (see `find_epoch`); without it, positions
        of such a table stay.
    given : mapping, optional
        Columns by quantity (``ra``, ``dec``, ``pmra``, ``pmdec``) where guesses from names fail.

    Returns
    -------
    Positions or None
        None where the table has none.
    """
    given = given or {}
    found = find_positions(table, given)
    if found is None:
        return None
    east, north = find_motions(table, given)
    epoch = find_epoch(table, found.source) if table_epoch_yr is None else table_epoch_yr
    if epoch is None or east is None or north is None:
        return found
    ra, dec = move_positions(
        found.ra_deg,
        found.dec_deg,
        read_numbers(table, east),
        read_numbers(table, north),
        epoch_yr - epoch,
    )
    return Positions(ra, dec, found.source)
