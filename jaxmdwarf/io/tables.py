"""Tables with units, descriptions, UCDs and provenance, in the format that the file name asks for.

======================  ===================================================================
extension               format
======================  ===================================================================
.fits .fit .fits.gz     binary table; TUNIT, TCOMM and TUCD cards; provenance as JSON in PROVENAN
.parquet                units and descriptions as field metadata and as astropy's own
.vot .votable .xml      VOTable 1.4; provenance as INFO elements
.csv                    plain CSV; the metadata in ``<name>-metadata.json`` beside it
.ecsv                   CSV with a YAML header (astropy)
.mrt .txt               machine-readable ASCII of the AAS journals; provenance in its notes
======================  ===================================================================

Every file is written under a temporary name in its folder and renamed when complete.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.catalogue.columns import FIT_COLUMNS, MEASURE_COLUMNS, Column
from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.provenance import Provenance

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
KNOWN_COLUMNS: dict[str, Column] = {**MEASURE_COLUMNS, **FIT_COLUMNS}
MRT_DECIMALS = 6


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
    name = Path(path).name.lower()
    for extension in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(extension) and name != extension:
            return FORMATS[extension]
    raise UsageError(
        f"the extension of {os.fspath(path)!r} names no table format.",
        f"end the name in one of {' '.join(FORMATS)}.",
    )


def list_products(path: str | os.PathLike[str]) -> list[Path]:
    """The files that `write_table` makes for `path`: the table, and what lies beside it.

    Examples
    --------
    >>> [product.name for product in list_products("T.csv")]
    ['T.csv', 'T.csv-metadata.json']
    """
    table = Path(path)
    return [table, _csv_metadata_path(table)] if choose_format(path) == "csv" else [table]


def write_table(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Column] = KNOWN_COLUMNS,
    provenance: Provenance | None = None,
) -> None:
    """Write `table` in the format that the extension of `path` asks for, atomically.

    Parameters
    ----------
    table : DataFrame
        One row a spectrum; the index is not written. NaN is a missing number, "" a missing text.
    path : path
        Where to; an existing file is replaced when the new one is complete.
    columns : mapping of str to Column
        What the columns mean. Columns that it does not know are written without unit.
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
    described = _describe(table, columns)
    metadata = provenance.as_text() if provenance is not None else {}
    with write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Angstrom is deprecated in VOUnits", and the like
        _WRITERS[kind](described, temporary, metadata)
    if kind == "csv":
        _write_csv_metadata(described, Path(path), metadata)


def read_table(
    path: str | os.PathLike[str], *, columns: Mapping[str, Column] = KNOWN_COLUMNS
) -> pd.DataFrame:
    """Read a table of any of the formats of `write_table`, ours or anybody's.

    Parameters
    ----------
    path : path
        The file; its extension names the format.
    columns : mapping of str to Column
        Columns whose `missing` value is turned back into NaN.

    Returns
    -------
    DataFrame
        ``attrs["provenance"]`` holds what `write_table` stored (a dict of texts; empty for the
        journal format), ``attrs["units"]`` the units by column.

    Raises
    ------
    UsageError
        If there is no such file or its extension is unknown.
    FormatError
        If it cannot be read.
    """
    kind = choose_format(path)
    if not Path(path).is_file():
        raise UsageError(f"there is no table {os.fspath(path)}.", "check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table, metadata = _READERS[kind](Path(path))
    except Exception as error:  # readers raise many kinds
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FormatError(
            f"{os.fspath(path)} cannot be read as {kind}: {line}.", "check the file."
        ) from None
    frame = _to_frame(table)
    for name in frame.columns:
        column = columns.get(str(name))
        if column is not None and column.missing is not None:
            frame[name] = frame[name].replace(column.missing, np.nan)
    frame.attrs["provenance"] = metadata
    frame.attrs["units"] = {
        name: str(table[name].unit).replace("dex(---)", "dex")
        for name in table.colnames
        if table[name].unit is not None
    }
    return frame


def _describe(table: pd.DataFrame, columns: Mapping[str, Column]) -> Any:
    """An astropy Table of plain numpy columns with unit, description and UCD."""
    from astropy.table import Column as TableColumn
    from astropy.table import Table

    described = Table()
    for name in table.columns:
        about = columns.get(str(name), Column(str(name), ""))
        values = table[name]
        if values.dtype.kind in "iufb":
            array = values.to_numpy()
            if array.dtype.kind == "b":
                array = array.astype(np.int16)
            if about.missing is not None:
                array = np.where(np.isnan(array), about.missing, array)
        else:
            texts = ["" if value is None else str(value) for value in values.fillna("")]
            array = np.asarray(texts, dtype=f"<U{max(map(len, texts), default=0) or 1}")
        described[str(name)] = TableColumn(
            array,
            unit=about.unit or None,
            description=about.description or None,
            meta={"ucd": about.ucd} if about.ucd else None,
        )
    return described


def _to_frame(table: Any) -> pd.DataFrame:
    import pandas as pd

    frame = {}
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind in "SU" or column.dtype.kind == "O":
            filled = column.filled("") if hasattr(column, "filled") else column
            texts = [text.decode() if isinstance(text, bytes) else str(text) for text in filled]
            frame[name] = pd.Series(texts, dtype=object)
        elif getattr(column, "mask", None) is not None and np.any(column.mask):
            values = np.asarray(column.filled(0), dtype=np.float64)
            frame[name] = pd.Series(np.where(np.asarray(column.mask), np.nan, values))
        else:
            values = np.asarray(column)
            frame[name] = pd.Series(values.astype(values.dtype.newbyteorder("=")))
    return pd.DataFrame(frame)


def _write_fits(table: Any, path: Path, metadata: dict[str, str]) -> None:
    from astropy.io import fits
    from astropy.table import Table

    # FITS text is ASCII; file names need not be.
    plain = Table(
        {
            name: _to_ascii(table[name]) if table[name].dtype.kind == "U" else table[name].data
            for name in table.colnames
        }
    )
    hdu = fits.table_to_hdu(plain)
    hdu.name = "CATALOG"
    for index, name in enumerate(table.colnames, start=1):
        column = table[name]
        if column.unit is not None:
            hdu.header[f"TUNIT{index}"] = _spell_unit(column.unit, "fits")
        if column.description:
            hdu.header[f"TCOMM{index}"] = column.description
        if column.meta.get("ucd"):
            hdu.header[f"TUCD{index}"] = column.meta["ucd"]
    primary = fits.PrimaryHDU()
    for header in (primary.header, hdu.header):
        if metadata:
            header["CREATOR"] = metadata.get("creator", "")
            header["DATE"] = (metadata.get("created", "").removesuffix("Z"), "UTC")
            header["PROVENAN"] = json.dumps(metadata)
    fits.HDUList([primary, hdu]).writeto(path, overwrite=True)


def _read_fits(path: Path) -> tuple[Any, dict[str, str]]:
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path) as hdus:
        index = next(i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU))
        table = Table.read(hdus[index])
        text = hdus[index].header.get("PROVENAN", "{}")
    return table, json.loads(text)


def _write_parquet(table: Any, path: Path, metadata: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table.meta import get_yaml_from_table

    fields, arrays = [], []
    for name in table.colnames:
        column = table[name]
        array = pa.array(column.tolist() if column.dtype.kind == "U" else column.data)
        about = {
            "unit": str(column.unit) if column.unit is not None else "",
            "description": column.description or "",
            "ucd": column.meta.get("ucd", ""),
        }
        fields.append(pa.field(name, array.type, metadata={k: v for k, v in about.items() if v}))
        arrays.append(array)
    yaml = "\n".join(get_yaml_from_table(table))
    lengths = {
        f"table::len::{name}": str(table[name].dtype.itemsize // 4)
        for name in table.colnames
        if table[name].dtype.kind == "U"
    }  # or astropy warns
    schema = pa.schema(
        fields, metadata={"provenance": json.dumps(metadata), "table_meta_yaml": yaml, **lengths}
    )
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)


def _read_parquet(path: Path) -> tuple[Any, dict[str, str]]:
    import pyarrow.parquet as pq
    from astropy.table import Column as TableColumn
    from astropy.table import Table

    content = pq.read_table(path)
    table = Table()
    for field in content.schema:
        about = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        column = content.column(field.name)
        values = column.to_numpy() if column.null_count == 0 else column.to_pandas().to_numpy()
        table[field.name] = TableColumn(
            values, unit=about.get("unit"), description=about.get("description")
        )
    stored = (content.schema.metadata or {}).get(b"provenance", b"{}")
    return table, json.loads(stored)


def _write_votable(table: Any, path: Path, metadata: dict[str, str]) -> None:
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info

    document = from_table(table)
    for key, value in metadata.items():
        document.infos.append(Info(name=key, value=value))
    document.to_xml(str(path), tabledata_format="binary2")


def _read_votable(path: Path) -> tuple[Any, dict[str, str]]:
    from astropy.io.votable import parse

    document = parse(str(path))
    table = document.get_first_table().to_table(use_names_over_ids=True)
    return table, {info.name: info.value for info in document.infos}


def _write_csv(table: Any, path: Path, metadata: dict[str, str]) -> None:
    del metadata  # beside it: comments would break plain readers
    table.to_pandas().to_csv(path, index=False)


def _write_csv_metadata(table: Any, path: Path, metadata: dict[str, str]) -> None:
    about = {
        "url": path.name,
        "provenance": metadata,
        "columns": [
            {
                "name": name,
                "unit": str(table[name].unit) if table[name].unit is not None else "",
                "description": table[name].description or "",
                "ucd": table[name].meta.get("ucd", ""),
            }
            for name in table.colnames
        ],
    }
    with write_atomically(_csv_metadata_path(path)) as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _read_csv(path: Path) -> tuple[Any, dict[str, str]]:
    import pandas as pd
    from astropy.table import Table

    # Identifiers of nineteen digits are text: as numbers they would lose their last ones.
    text_columns = {
        name: str for name in pd.read_csv(path, nrows=0).columns if name in ("obsid", "path")
    }
    frame = pd.read_csv(path, dtype=text_columns)
    for name in frame.columns:
        if frame[name].dtype.kind not in "iufb":
            frame[name] = frame[name].fillna("")
    table = Table.from_pandas(frame)
    beside = _csv_metadata_path(path)
    if not beside.is_file():
        return table, {}
    about = json.loads(beside.read_text(encoding="utf-8"))
    for column in about.get("columns", []):
        if column["name"] in table.colnames and column.get("unit"):
            table[column["name"]].unit = column["unit"]
    return table, about.get("provenance", {})


def _csv_metadata_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-metadata.json")


def _write_ecsv(table: Any, path: Path, metadata: dict[str, str]) -> None:
    annotated = table.copy()
    annotated.meta.update(metadata)
    annotated.write(path, format="ascii.ecsv", overwrite=True)


def _read_ecsv(path: Path) -> tuple[Any, dict[str, str]]:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return table, dict(table.meta)


def _write_mrt(table: Any, path: Path, metadata: dict[str, str]) -> None:
    import astropy.units as u
    from astropy.table import MaskedColumn, Table

    plain = Table()
    for name in table.colnames:
        column = table[name]
        if str(column.unit) == "dex":
            column = column.copy()
            column.unit = u.dex(u.one)  # spelled [-] at the CDS
        values = column.data
        if values.dtype.kind == "f":
            # The journal format has no NaN: missing numbers are blank.
            missing = ~np.isfinite(values)
            values = np.round(np.where(missing, 0.0, values).astype(np.float64), MRT_DECIMALS)
            column = MaskedColumn(
                values, mask=missing, unit=column.unit, description=column.description
            )
        plain[name] = column
    plain.write(path, format="ascii.mrt", overwrite=True)
    text = path.read_text(encoding="utf-8")
    lines = [f"{key}: {value}" for key, value in metadata.items()]
    text = text.replace("\nNotes:\n", "\n".join(["\nNotes:", *lines, ""]), 1)
    path.write_text(text, encoding="utf-8")


def _read_mrt(path: Path) -> tuple[Any, dict[str, str]]:
    from astropy.table import Table

    return Table.read(path, format="ascii.mrt"), {}


def _spell_unit(unit: Any, standard: str) -> str:
    try:
        return unit.to_string(standard)
    except ValueError:
        return str(unit)  # no standard knows dex, and every reader does


def _to_ascii(column: Any) -> np.ndarray:
    texts = [text.encode("ascii", "backslashreplace").decode() for text in column]
    width = max((len(text) for text in texts), default=1)
    return np.asarray(texts, dtype=f"<U{max(width, 1)}")


_WRITERS = {
    "fits": _write_fits,
    "parquet": _write_parquet,
    "votable": _write_votable,
    "csv": _write_csv,
    "ecsv": _write_ecsv,
    "mrt": _write_mrt,
}
_READERS = {
    "fits": _read_fits,
    "parquet": _read_parquet,
    "votable": _read_votable,
    "csv": _read_csv,
    "ecsv": _read_ecsv,
    "mrt": _read_mrt,
}
