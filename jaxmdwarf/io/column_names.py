"""Tables of other people: what their columns are called, and gzipped CSV."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

GUESSES: dict[str, tuple[str, ...]] = {
    "teff": ("teff", "teffk", "temperature", "teffapogee"),
    "logg": ("logg", "loggcgs", "gravity"),
    "mh": ("[m/h]", "mh", "metallicity", "mhapogee", "[fe/h]", "feh"),
    "alpha_m": ("alpham", "[alpha/m]", "[a/m]", "am", "[alpha/fe]", "alphafe", "afe"),
    "rv": ("rv", "rvkms", "radialvelocity", "hrv", "vrad", "rvapogee", "rvgaia"),
    "ra": ("ra", "radeg", "raj2000", "raicrs", "ra2016", "raj2016", "alpha"),
    "dec": ("dec", "decdeg", "dej2000", "decj2000", "deicrs", "de", "dej2016", "delta"),
    "obsid": ("obsid",),
    "path": ("path", "file", "filename"),
    "snr": ("snrr", "snr"),
    "snr_i": ("snri",),
}
"""Names under which tables hold a quantity: lower case, without blanks, ``_``, ``-`` and ``.``."""


def read_any_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """`jaxmdwarf.io.tables.read_table`, and gzipped CSV beside it."""
    if not os.fspath(path).lower().endswith(".csv.gz"):
        return read_table(path)
    import pandas as pd

    if not Path(path).is_file():
        raise UsageError(f"there is no table {os.fspath(path)}.", "check the path.")
    try:
        return pd.read_csv(path, low_memory=False)
    except Exception as error:  # pandas raises many kinds
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"{os.fspath(path)} cannot be read as CSV: {line}.") from None


def find_column(table: pd.DataFrame, quantity: str) -> str | None:
    """The column that probably holds `quantity`, None if none does.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"RAJ2000": [0.0], "[Fe/H]": [0.1], "e_[Fe/H]": [0.1]})
    >>> find_column(table, "mh"), find_column(table, "ra"), find_column(table, "rv")
    ('[Fe/H]', 'RAJ2000', None)
    """
    names: dict[str, str] = {}
    for column in map(str, table.columns):
        names.setdefault(re.sub(r"[\s_.\-]", "", column.lower()), column)
    for guess in GUESSES[quantity]:
        if guess in names:
            return names[guess]
    return None
