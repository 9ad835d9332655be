"""Numbers and positions in tables that other people made: units, sentinels, sexagesimal text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.labels import describe_label, normalise_column

if TYPE_CHECKING:
    import pandas as pd

_MISSING_BELOW = -99.0
"""Numbers from here down are a survey's way of saying "missing" (-99, -999, -9999)."""

POSITION_PARTS = ("rah", "ram", "ras", "ded", "dem", "des")
"""Columns of the CDS with the parts of sexagesimal positions, as they are compared."""

_HOURS = ("h", "hourangle", "hour")


class Numbers(NamedTuple):
    """A column as numbers.

    Parameters
    ----------
    values : (n,) float64
        NaN where there is none.
    n_sentinel : int
        Rows whose number can be no value of the quantity, like -9999 or 99999.
    """

    values: np.ndarray
    n_sentinel: int


class Positions(NamedTuple):
    """Places on the sky.

    Parameters
    ----------
    ra_deg, dec_deg : (n,) float64
        J2000 degrees; NaN where there is none.
    source : str
        Where they were found.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    source: str


def read_numbers(table: pd.DataFrame, column: str | None) -> np.ndarray:
    """A column as float64; NaN for text, for missing values, and without such a column.

    Examples
    --------
    >>> import pandas as pd
    >>> read_numbers(pd.DataFrame({"x": ["1.5", "n/a"]}), "x").tolist()
    [1.5, nan]
    """
    import pandas as pd

    if column is None or column not in table.columns:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def read_quantity(table: pd.DataFrame, column: str, quantity: str) -> Numbers:
    """A column that holds a label, a velocity (``"rv"``) or S/N, without impossible numbers.

    Surveys write -9999, 99999 and the like where they have no value: whatever no star can have
    (`jaxmdwarf.labels.Label.plausible`) is missing, and counted.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"v": [12.5, -9999.0, 99999.0, None]})
    >>> read_quantity(table, "v", "rv").values.tolist(), read_quantity(table, "v", "rv").n_sentinel
    ([12.5, nan, nan, nan], 2)
    """
    values = read_numbers(table, column)
    low, high = describe_label(quantity).plausible
    if not math.isfinite(low):
        low = np.nextafter(_MISSING_BELOW, 0.0)
    possible = (values >= low) & (values <= high)
    return Numbers(
        np.where(possible, values, np.nan), int(np.count_nonzero(~possible & ~np.isnan(values)))
    )


def read_errors(
    table: pd.DataFrame, column: str, quantity: str, wanted: str = ""
) -> Float[np.ndarray, " n"]:
    """One-sigma errors of a column of labels or velocities; NaN where none above 0 is stated.

    Parameters
    ----------
    table : DataFrame
    column : str
        Whose errors are asked for.
    quantity : str
        What it holds.
    wanted : str
        Column of the errors, where it is known. Else it is the one that is called as `column` is,
        with ``e_``, ``err_``, ``sigma_`` before or ``_err``, ``_error`` behind it, or as our own.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"feh": [0.1, 0.2], "feh_err": [0.05, -9999.0]})
    >>> read_errors(table, "feh", "mh").tolist()
    [0.05, nan]
    """
    names, base = index_columns(table), normalise_column(column)
    guesses = [f"e{base}", describe_label(quantity).error_column, f"{base}err", f"err{base}"]
    guesses = [wanted, *guesses, f"{base}error", f"sigma{base}"]
    found = (names[one] for one in map(normalise_column, guesses) if one in names)
    errors = read_numbers(table, next(found, None))
    return np.where(errors > 0, errors, np.nan)


def find_positions(table: pd.DataFrame, given: Mapping[str, str] | None = None) -> Positions | None:
    """Positions of the rows of a table; None where nothing looks like one.

    Parameters
    ----------
    table : DataFrame
        With RA and Dec in degrees (or hours or radians, where ``attrs["units"]`` says so), as
        sexagesimal text, or in the columns RAh RAm RAs DE- DEd DEm DEs of the CDS.
    given : mapping, optional
        ``{"ra": NAME, "dec": NAME}`` where the guesses from names are wrong.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"RAJ2000": ["01:00:00"], "DEJ2000": ["-00:30:00"]})
    >>> found = find_positions(table)
    >>> found.ra_deg.tolist(), found.dec_deg.tolist(), found.source
    ([15.0], [-0.5], 'RAJ2000, DEJ2000')
    """
    given = given or {}
    right = given.get("ra") or find_column(table, "ra")
    north = given.get("dec") or find_column(table, "dec")
    if right is not None and north is not None:
        ra, dec = _read_angle(table, right, hours=True), _read_angle(table, north, hours=False)
        return _within_the_sky(ra, dec, f"{right}, {north}")
    names = index_columns(table)
    if not set(POSITION_PARTS) <= set(names):
        return None
    hour, minute, second, degree, arcmin, arcsec = (
        read_numbers(table, names[part]) for part in POSITION_PARTS
    )
    size = np.abs(degree) + np.nan_to_num(arcmin) / 60 + np.nan_to_num(arcsec) / 3600
    sign = np.where(np.signbit(degree), -1.0, 1.0)
    written = next((str(name) for name in table.columns if str(name).strip() == "DE-"), None)
    if written is not None:
        south = table[written].astype(str).str.strip().isin(("-", "−")).to_numpy()
        sign = np.where(south, -1.0, sign)
    ra = 15.0 * (hour + np.nan_to_num(minute) / 60 + np.nan_to_num(second) / 3600)
    return _within_the_sky(ra, sign * size, "RAh ... DEs")


def _within_the_sky(ra: np.ndarray, dec: np.ndarray, source: str) -> Positions:
    known = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
    return Positions(np.where(known, ra, np.nan), np.where(known, dec, np.nan), source)


def _read_angle(table: pd.DataFrame, column: str, *, hours: bool) -> np.ndarray:
    if table[column].dtype.kind in "iuf":
        values = read_numbers(table, column)
        unit = str(table.attrs.get("units", {}).get(column, "")).lower()
        if hours and unit in _HOURS:
            return 15.0 * values
        return np.degrees(values) if unit == "rad" else values
    return np.array([_from_sexagesimal(text, hours=hours) for text in table[column]], np.float64)


def _from_sexagesimal(text: object, *, hours: bool) -> float:
    """Degrees of hours or degrees, minutes, seconds; a number alone is in degrees already."""
    parts = [part for part in re.split(r"[\s:hdms°'\"+\-−]+", str(text)) if part]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return math.nan
    if not numbers:
        return math.nan
    size = sum(number / 60.0**power for power, number in enumerate(numbers[:3]))
    size *= 15.0 if hours and len(numbers) > 1 else 1.0
    return -size if str(text).strip().startswith(("-", "−")) else size
