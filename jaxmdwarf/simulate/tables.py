"""Tables: columns of one length, and rows of the data files that the simulation comes with."""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np

Columns = dict[str, np.ndarray]
"""A table: column names to arrays of one length."""


def read_rows(package: str, name: str) -> list[dict[str, str]]:
    """Rows of a comma-separated data file of a package, by the names in its first line.

    Parameters
    ----------
    package : str
        Dotted name of the package whose folder ``data`` holds the file.
    name : str
        Of the file.
    """
    path = resources.files(package) / "data" / name
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
