"""Tables with units, descriptions, UCDs and provenance, in the format that the file name asks for.

======================  ===================================================================
extension               format
======================  ===================================================================
.fits .fit .fits.gz     binary table; TUNIT, TCOMM and TUCD cards; provenance as JSON in PROVENAN
.parquet                units and descriptions as field metadata and as astropy's own
.vot .votable .xml      VOTable 1.3; provenance as INFO elements
.csv                    plain CSV; the metadata in ``<name>-metadata.json`` beside it
.ecsv                   CSV with a YAML header (astropy)
.mrt .txt               machine-readable ASCII of the AAS journals; provenance in its notes
======================  ===================================================================

Tables of other people may also be ``.tsv``, and any of the texts and VOTables gzipped. Every file
is written under a temporary name in its folder and renamed when complete. The table of quality
flags travels with every table that has a column ``flags``: as FLAG0, FLAG1, ... beside the
provenance.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.catalogue.columns import describe_column
from jaxmdwarf.catalogue.rows import settle_identifiers
from jaxmdwarf.catalogue.texts import PATH_COLUMN, escape_path, escape_text, restore_path
from jaxmdwarf.errors import FormatError, JaxmdwarfError, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.compression import require_bounded
from jaxmdwarf.io.provenance import Provenance
from jaxmdwarf.io.table_formats import (
    CHOOSING,
    READERS,
    WRITERS,
    csv_metadata_path,
    read_all_votables,
    split_metadata,
    write_csv_metadata,
)
from jaxmdwarf.quality import write_flag_cards

if TYPE_CHECKING:
    import pandas as pd

FORMATS: dict[str, str] = {
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".parquet": "parquet",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".csv": "csv",
    ".ecsv": "ecsv",
    ".mrt": "mrt",
    ".txt": "mrt",
}
"""Formats that are written, by extension."""

FREE_BYTES = 1024**3
"""Content of a compressed table up to this size may be compressed by any factor."""

READ_ALSO: dict[str, str] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".dat": "mrt",
    **{
        f"{extension}.gz": kind
        for extension, kind in {**FORMATS, ".tsv": "tsv", ".dat": "mrt"}.items()
        if kind != "parquet" and not extension.endswith(".gz")
    },
}
"""Formats that are only read."""


def choose_format(path: str | os.PathLike[str]) -> str:
    """The table format that the extension of `path` asks for.

    Raises
    ------
    UsageError
        If the extension is not known.

    Examples
    --------
    >>> choose_format("T.fits"), choose_format("night/T.FITS.GZ"), choose_format("T.mrt")
    ('fits', 'fits', 'mrt')
    """
    return _choose_format(path, FORMATS)


def _choose_format(path: str | os.PathLike[str], formats: Mapping[str, str]) -> str:
    name = Path(path).name.lower()
    for extension in sorted(formats, key=len, reverse=True):
        if name.endswith(extension) and name != extension:
            return formats[extension]
    plain = [extension for extension in formats if not extension.endswith(".gz")]
    gzipped = ", all but .parquet gzipped (.gz) or not" if len(formats) > len(FORMATS) else ""
    raise UsageError(
        f"the extension of {os.fspath(path)!r} names no table format.",
        f"end the name in one of {' '.join(plain)}{gzipped}.",
    )


def begin_imports() -> threading.Thread:
    """Import what tables need in a thread of its own, which the caller joins before it needs them.

    They take a second, in which one core would wait while the other loads compiled programs.
    Until then the caller must not import astropy itself: two threads inside one package of
    circular imports may see each other's half-made modules.
    """
    thread = threading.Thread(target=_import_libraries, name="imports", daemon=True)
    thread.start()
    return thread


def _import_libraries() -> None:
    for name in ("pandas", "astropy.table"):
        importlib.import_module(name)


def list_products(path: str | os.PathLike[str]) -> list[Path]:
    """The files that `write_table` makes for `path`: the table, and what lies beside it.

    Examples
    --------
    >>> [product.name for product in list_products("T.csv")]
    ['T.csv', 'T.csv-metadata.json']
    """
    table = Path(path)
    return [table, csv_metadata_path(table)] if choose_format(path) == "csv" else [table]


def write_table(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write `table` in the format that the extension of `path` asks for, atomically.

    Parameters
    ----------
    table : DataFrame
        One row a spectrum; the index is not written. NaN is a missing number, "" a missing text.
        `obsid` becomes integers where all identifiers are. Texts are written as
        `jaxmdwarf.catalogue.texts` says; `read_table` gives back every path.
    path : path
        Where to; an existing file is replaced when the new one is complete.
    columns : mapping of str to Column, optional
        What columns mean that `jaxmdwarf.catalogue.columns` does not know, or not so. Columns that
        neither knows are written without unit.
    provenance : Provenance, optional
        Stored in the metadata of the file.

    Raises
    ------
    UsageError
        If the extension is unknown, the folder cannot be written to, or the journal format is
        asked for a table without rows.
    """
    kind = choose_format(path)
    if kind == "mrt" and not len(table):
        # Its columns get their widths from what they hold.
        raise UsageError(
            f"{os.fspath(path)} would have no rows, which the journal format does not know.",
            "choose another format: .fits, say.",
        )
    given = columns or {}
    described = build_astropy_table(settle_identifiers(table), given)
    metadata = provenance.as_text() if provenance is not None else {}
    if "flags" in described.colnames and "flags" not in given:
        metadata = {**metadata, **write_flag_cards()}
    with write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "dex is no unit of the FITS standard", and the like
        WRITERS[kind](described, temporary, metadata)
        if kind == "csv":
            # Before the table: where that is, all is there, whenever the process is killed.
            write_csv_metadata(described, Path(path), metadata)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of any of the formats of `write_table`, ours or anybody's.

    Parameters
    ----------
    path : path
        The file; its extension names the format.

    Returns
    -------
    DataFrame
        Integers with missing values have pandas' nullable type. ``attrs["provenance"]`` and
        ``attrs["flags"]`` hold what `write_table` stored (texts by keyword; empty for the journal
        format), ``attrs["units"]`` and ``attrs["descriptions"]`` those of the columns. Columns of
        vectors are left out: ``attrs["vectors"]`` names them.

    Raises
    ------
    UsageError
        If there is no such file or its extension is unknown.
    FormatError
        If it cannot be read.
    """
    _require_there(path)
    kind = _choose_format(path, {**FORMATS, **READ_ALSO})
    reader = READERS[kind]
    return _read(path, kind, lambda file: _to_described_frame(*reader(file), kind))


def read_tables(
    path: str | os.PathLike[str], *, choose: Callable[[list[str]], list[str]] | None = None
) -> list[pd.DataFrame]:
    """All tables of a file, of which a VOTable may have several; else as `read_table`.

    Parameters
    ----------
    path : path
    choose : callable, optional
        Names of all columns to those that are wanted: of tables with very many rows the others
        need not enter memory. Formats that cannot leave columns out give all.

    Raises
    ------
    UsageError, FormatError
        As `read_table`.
    """
    _require_there(path)
    kind = _choose_format(path, {**FORMATS, **READ_ALSO})
    if kind == "votable":
        return _read(path, kind, _read_all_frames)
    reader = READERS[kind]
    if choose is not None and kind in CHOOSING:
        reader = partial(reader, choose=choose)
    return [_read(path, kind, lambda file: _to_described_frame(*reader(file), kind))]


def _read_all_frames(path: Path) -> list[pd.DataFrame]:
    tables, metadata = read_all_votables(path)
    return [_to_described_frame(one, metadata, "votable") for one in tables]


def _require_there(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        raise UsageError(f"there is no table {os.fspath(path)}.", "check the path.")


def _read(path: str | os.PathLike[str], kind: str, reader: Callable[[Path], Any]) -> Any:
    try:
        require_bounded(path, free_bytes=FREE_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(Path(path))
    except JaxmdwarfError as error:
        raise FormatError(f"{os.fspath(path)}: {error.message}", error.remedy) from None
    except Exception as error:  # readers raise many kinds
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FormatError(
            f"{os.fspath(path)} cannot be read as {kind}: {line}.", "check the file."
        ) from None


def _to_described_frame(table: Any, metadata: Mapping[str, str], kind: str) -> pd.DataFrame:
    """A table as a DataFrame, with what is known of its columns in ``attrs``."""
    vectors = [name for name in table.colnames if _holds_vectors(table[name])]
    table.remove_columns(vectors)
    frame = _to_frame(table)
    frame.attrs["vectors"] = vectors
    if kind in ("csv", "tsv"):
        frame = settle_identifiers(frame)
    frame.attrs["provenance"], frame.attrs["flags"] = split_metadata(dict(metadata))
    described = {
        name: table[name].description for name in table.colnames if table[name].description
    }
    frame.attrs["descriptions"] = described
    frame.attrs["units"] = {
        name: str(table[name].unit).replace("dex(---)", "dex")
        for name in table.colnames
        if table[name].unit is not None
    }
    for name, description in described.items():
        about = describe_column(name)
        # FITS has no word for dex.
        if about is not None and about.unit and about.description == description:
            frame.attrs["units"].setdefault(name, about.unit)
    return frame


def build_astropy_table(table: pd.DataFrame, columns: Mapping[str, Column] | None = None) -> Any:
    """An astropy Table of plain and masked columns with unit, description and UCD.

    Parameters
    ----------
    table : DataFrame
    columns : mapping of str to Column, optional
        As for `write_table`.

    Returns
    -------
    astropy.table.Table
    """
    from astropy.table import Column as TableColumn
    from astropy.table import MaskedColumn, Table

    given = columns or {}
    described = Table()
    for name in map(str, table.columns):
        about = given.get(name) or describe_column(name) or Column(name, "")
        kept = {
            "unit": about.unit or None,
            "description": about.description or None,
            "meta": {"ucd": about.ucd} if about.ucd else None,
        }
        values = table[name]
        if values.dtype.kind in "iufb":
            missing = values.isna().to_numpy()
            if values.dtype.kind == "f" or not missing.any():
                kind = np.dtype(getattr(values.dtype, "numpy_dtype", values.dtype))
                described[name] = TableColumn(values.to_numpy(dtype=kind), **kept)
            else:
                described[name] = MaskedColumn(
                    values.fillna(False if values.dtype.kind == "b" else 0).to_numpy(
                        dtype=values.dtype.numpy_dtype
                    ),
                    mask=missing,
                    **kept,
                )
        else:
            texts = ["" if value is None else str(value) for value in values.fillna("")]
            texts = list(map(escape_text, texts))
            width = max(map(len, texts), default=0) or 1
            described[name] = TableColumn(np.asarray(texts, dtype=f"<U{width}"), **kept)
    return described


def build_frame(table: Any) -> pd.DataFrame:
    """A DataFrame of an astropy table, as `read_table` makes it of one in a file."""
    return _to_described_frame(table.copy(), {}, "")


def _holds_vectors(column: Any) -> bool:
    """Whether a column holds more than a number or a text a row."""
    if not hasattr(column, "dtype") or column.ndim != 1:
        return True
    if column.dtype.kind != "O":
        return False
    first = next((value for value in column if value is not None), "")
    return not np.isscalar(first) and np.ndim(first) > 0


def _to_frame(table: Any) -> pd.DataFrame:
    import pandas as pd

    frame = {}
    for name in table.colnames:
        column = table[name]
        about = describe_column(name)
        masked = getattr(column, "mask", None) is not None and np.any(column.mask)
        if column.dtype.kind in "SUO":
            filled = column.filled("") if hasattr(column, "filled") else column
            texts = [text.decode() if isinstance(text, bytes) else str(text) for text in filled]
            if name == PATH_COLUMN:
                # ASCII formats hold more escapes than others.
                texts = [escape_path(restore_path(text)) for text in texts]
            frame[name] = pd.Series(texts, dtype=object)
        elif not masked:
            values = np.asarray(column)
            frame[name] = pd.Series(values.astype(values.dtype.newbyteorder("=")))
        elif column.dtype.kind in "iu":
            values = np.asarray(column.filled(0)).astype(np.int64)
            frame[name] = pd.Series(pd.arrays.IntegerArray(values, np.array(column.mask)))
        else:
            values = np.asarray(column.filled(0), dtype=np.float64)
            frame[name] = pd.Series(np.where(np.asarray(column.mask), np.nan, values))
        numbers = frame[name].dtype.kind in "iu" and not frame[name].isna().any()
        if about is not None and about.kind == "bool" and numbers:
            frame[name] = frame[name].astype(bool)  # formats without truth values
    return pd.DataFrame(frame)
