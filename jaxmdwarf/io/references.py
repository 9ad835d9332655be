"""Reference labels of M dwarfs from tables of the literature, of APOGEE, or our own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.published import columns_of, gravity_of_mass_and_radius
from jaxmdwarf.catalogue.quantities import find_positions, read_numbers
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LABELS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("teff", "mh", "logg", "e_teff", "e_mh", "ra_deg", "dec_deg", "source")
"""K, dex, dex, errors of the first two, J2000 degrees (all NaN where unknown), name of the file
without its extensions."""

_QUANTITIES = ("teff", "mh", "logg")
_LARGEST_METAL_FRACTION = 0.07


_DWARF_LOGG = (3.5, 6.0)
_LEAST_LIKELY = 0.5
"""Share of stars whose mass and radius must be those of dwarfs, or the columns hold others."""


def read_references(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read one or several tables of reference labels into one.

    Parameters
    ----------
    paths : path or iterable of paths
        Tables of any format of `jaxmdwarf.io.tables`, gzipped or not. Stars that several of them
        hold stay in it several times: the combined distribution is wanted, as in section 3.3.2 of
        the paper.
    columns : mapping, optional
        ``{"teff": NAME, "mh": NAME, "logg": NAME}`` where the guesses by name are wrong; for all
        tables that have a column of this name.

    Returns
    -------
    DataFrame
        Columns of `COLUMNS`, one row for every star with a Teff or an [M/H]; NaN where a table has
        no (plausible) value. [Fe/H] is taken for [M/H]. Where there is no log g, it follows from
        mass and radius (columns ``M`` and ``R``), if given. ``attrs["dropped"]`` counts, by
        source, rows without any label; ``attrs["without_position"]`` names the sources of which no
        row has a position.

    Raises
    ------
    UsageError
        If a table has no column of temperatures, its numbers are in other units, or `columns` names
        what no table has.
    FormatError
        If it cannot be read.
    """
    import pandas as pd

    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    tables, dropped = [], {}
    there: set[str] = set()
    for path in paths:
        table = read_table(path)
        there |= set(map(str, table.columns))
        labels = extract_reference_labels(table, name=os.fspath(path), columns=columns)
        known = labels[["teff", "mh"]].notna().any(axis=1)
        source = _name_source(path)
        dropped[source] = int((~known).sum())
        tables.append(labels[known].assign(source=source))
    if not tables:
        raise UsageError("no reference table was given.", "name at least one.")
    _require_columns(columns or {}, there)
    combined = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    combined.attrs["dropped"] = dropped
    placed = set(combined["source"][combined["ra_deg"].notna()])
    combined.attrs["without_position"] = [one for one in dropped if one not in placed]
    return combined


def extract_reference_labels(
    table: pd.DataFrame, *, name: str = "the reference", columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Teff, [M/H] and log g of any table; see `read_references`.

    Examples
    --------
    >>> import pandas as pd
    >>> mann = pd.DataFrame({"Teff": [3500.0, 0.0], "[Fe/H]": [0.1, -0.2], "M": 0.5, "R": 0.5})
    >>> labels = extract_reference_labels(mann)[["teff", "mh", "logg"]]
    >>> labels.round(2).to_numpy().tolist()
    [[3500.0, 0.1, 4.74], [nan, -0.2, 4.74]]
    """
    import pandas as pd

    chosen = _choose_columns(table, columns or {})
    if chosen["teff"] is None:
        raise UsageError(
            f"{name} has no column of effective temperatures; it has "
            f"{', '.join(map(str, table.columns[:30]))}.",
            "name it, as in --columns teff=TEFF_K (columns={'teff': 'TEFF_K'} in Python), or leave "
            "the table out.",
        )
    labels = pd.DataFrame(
        {
            quantity: np.full(len(table), np.nan)
            if column is None
            else read_plausible(table, column, quantity, where=f"{name}, column {column}")
            for quantity, column in chosen.items()
        }
    )
    for quantity in ("teff", "mh"):
        labels[f"e_{quantity}"] = read_numbers(table, f"e_{chosen[quantity]}")
    positions = find_positions(table, columns_of(table))
    labels["ra_deg"] = np.nan if positions is None else positions.ra_deg
    labels["dec_deg"] = np.nan if positions is None else positions.dec_deg
    if chosen["logg"] is None and {"M", "R"} <= set(map(str, table.columns)):
        mass, radius = (read_numbers(table, key) for key in "MR")
        given = np.isfinite(mass) & np.isfinite(radius)
        gravity = gravity_of_mass_and_radius(table, "M", "R")
        likely = (gravity > _DWARF_LOGG[0]) & (gravity < _DWARF_LOGG[1])
        # Columns of these names may also be magnitudes.
        if likely.sum() >= _LEAST_LIKELY * given.sum():
            labels["logg"] = gravity
    return labels


def _require_columns(given: Mapping[str, str], there: Collection[str]) -> None:
    """A column that no table has would be passed over in silence."""
    for quantity, column in given.items():
        if quantity not in _QUANTITIES:
            raise UsageError(
                f"{quantity!r} is no quantity of a reference.",
                f"name columns for {', '.join(_QUANTITIES)}, as in --columns teff=TEFF_K.",
            )
        if column not in there:
            near = get_close_matches(column, there, n=3) or sorted(there)[:30]
            raise UsageError(
                f"no reference has a column {column!r} (for {quantity}).",
                f"name another, as in --columns {quantity}=NAME: there is {', '.join(near)}.",
            )


def _choose_columns(table: pd.DataFrame, given: Mapping[str, str]) -> dict[str, str | None]:
    names = set(map(str, table.columns))
    known = columns_of(table)
    chosen = {}
    for quantity in _QUANTITIES:
        wanted = given.get(quantity)
        chosen[quantity] = (
            wanted if wanted in names else known.get(quantity) or find_column(table, quantity)
        )
    return chosen


def read_plausible(
    table: pd.DataFrame, column: str, quantity: str, *, where: str, option: str = "--columns"
) -> np.ndarray:
    """Numbers of a column of labels, (n,); NaN where no star can have them.

    Parameters
    ----------
    table : DataFrame
    column, quantity : str
    where : str
        What errors call the column.
    option : str
        By which another column is named.

    Raises
    ------
    UsageError
        If most numbers cannot be those of stars: they are in other units.
    """
    values = read_numbers(table, column)
    low, high = LABELS[quantity].plausible
    possible = (values >= low) & (values <= high)
    # -9999 and the like are missing values, not values in other units.
    said = np.isfinite(values) & (values > -99) & (values != 0)
    if said.any() and possible[said].mean() < 0.5:
        raise UsageError(
            f"{where}: the median {quantity} is {np.median(values[said]):.4g}, which is not in "
            f"{LABELS[quantity].unit}.",
            f"values from {low:g} to {high:g} are expected: convert the column, or name another, "
            f"as in {option} {quantity}=NAME.",
        )
    kept = values[possible]
    metal_fraction = (
        quantity == "mh"
        and kept.size >= 5
        and kept.min() > 0
        and kept.max() <= _LARGEST_METAL_FRACTION
    )
    if metal_fraction:
        raise UsageError(
            f"{where}: all values lie between {kept.min():.3g} and {kept.max():.3g}: they look "
            "like metal mass fractions Z.",
            f"give [M/H] or [Fe/H] in dex; another column is named by {option} mh=NAME.",
        )
    return np.where(possible, values, np.nan)


def _name_source(path: str | os.PathLike[str]) -> str:
    name = Path(path).name
    for extension in (".gz", ".csv", ".fits", ".fit", ".parquet", ".ecsv", ".vot", ".mrt", ".txt"):
        name = name.removesuffix(extension)
    return name
