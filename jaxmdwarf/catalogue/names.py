"""What the columns of other people's tables are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxmdwarf.catalogue.columns import COLUMNS
from jaxmdwarf.labels import LABELS, VELOCITY, describe_label, normalise_column

if TYPE_CHECKING:
    import pandas as pd

OTHER_QUANTITIES: dict[str, str] = {
    "ra": "RA",
    "dec": "Dec",
    "obsid": "obsid",
    "path": "path",
    "source_id": "source_id",
    "pmra": "pmRA",
    "pmdec": "pmDE",
    "snr": "SNRr",
    "snr_i": "SNRi",
}
"""Columns of what is no label, by the names that options and functions have for it."""


def list_quantities() -> list[str]:
    """Names that `find_column` knows: labels, velocity, positions, motions, identifiers, S/N."""
    return [*LABELS, VELOCITY.name, *OTHER_QUANTITIES]


def find_column(table: pd.DataFrame, quantity: str) -> str | None:
    """The column that probably holds `quantity`, None if none does.

    Parameters
    ----------
    table : DataFrame
    quantity : str
        One of `list_quantities`, or a column of `jaxmdwarf.catalogue.columns`; any other name is
        taken for that of a label.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"RAJ2000": [0.0], "[Fe/H]": [0.1], "e_[Fe/H]": [0.1]})
    >>> find_column(table, "mh"), find_column(table, "ra"), find_column(table, "rv")
    ('[Fe/H]', 'RAJ2000', None)
    """
    names = index_columns(table)
    column = COLUMNS.get(OTHER_QUANTITIES.get(quantity, quantity))
    for guess in (column or describe_label(quantity)).spellings:
        if guess in names:
            return names[guess]
    return None


def index_columns(table: pd.DataFrame) -> dict[str, str]:
    """Columns by how `jaxmdwarf.labels.normalise_column` writes them; of two alike, the first.

    Examples
    --------
    >>> import pandas as pd
    >>> index_columns(pd.DataFrame(columns=["T_eff", "Teff", "ref_epoch"]))
    {'teff': 'T_eff', 'refepoch': 'ref_epoch'}
    """
    names: dict[str, str] = {}
    for name in map(str, table.columns):
        names.setdefault(normalise_column(name), name)
    return names
