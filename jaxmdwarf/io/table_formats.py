"""How each file format holds a table: columns with units, descriptions and UCDs, and metadata.

Writers take an astropy table whose columns are plain or masked arrays, with unit, description and
``meta["ucd"]``, and texts by keyword; readers give both back. `jaxmdwarf.io.tables` is the door.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.catalogue.texts import PATH_COLUMN, escape_ascii, escape_cell, restore_cell
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.mrt import write_mrt_file
from jaxmdwarf.io.votable_rows import count_characters, encode_rows, is_plain

Metadata = dict[str, str]
Chooser = Callable[[list[str]], list[str]]
"""Which columns of a table to read, by the names of all."""

_FLAG_CARD = re.compile(r"FLAG\d+")
_LOGARITHM = "dex"
_YAML_WIDTH = 70


def split_metadata(metadata: Metadata) -> tuple[Metadata, Metadata]:
    """Provenance and flag table, which all formats but FITS keep side by side."""
    flags = {key: value for key, value in metadata.items() if _FLAG_CARD.fullmatch(key)}
    return {key: value for key, value in metadata.items() if key not in flags}, flags


def write_fits(table: Any, path: Path, metadata: Metadata) -> None:
    """A binary table: TUNIT, TCOMM, TUCD cards, and descriptions where astropy looks for them."""
    from astropy.io import fits
    from astropy.table import Column, MaskedColumn, Table

    # FITS text is ASCII; file names need not be.
    plain = Table()
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U":
            plain[name] = Column(_to_ascii(name, column))
        elif isinstance(column, MaskedColumn):
            plain[name] = MaskedColumn(
                column.data, mask=column.mask, fill_value=np.iinfo(column.dtype).min
            )
        else:
            plain[name] = Column(column.data)
    hdu = fits.table_to_hdu(plain)
    hdu.name = "CATALOG"
    for index, name in enumerate(table.colnames, start=1):
        column = table[name]
        # The FITS standard has no word for dex, and astropy warns of any other.
        if column.unit is not None and str(column.unit) != _LOGARITHM:
            hdu.header[f"TUNIT{index}"] = _spell_unit(column.unit)
        if column.description:
            hdu.header[f"TCOMM{index}"] = _escape(column.description)
        if column.meta.get("ucd"):
            hdu.header[f"TUCD{index}"] = column.meta["ucd"]
    for line in _serialised_columns(table):
        hdu.header.add_comment(line)
    provenance, flags = split_metadata(metadata)
    primary = fits.PrimaryHDU()
    for header in (primary.header, hdu.header):
        if provenance:
            header["CREATOR"] = provenance.get("creator", "")
            header["DATE"] = (provenance.get("created", "").removesuffix("Z"), "UTC")
            header["PROVENAN"] = json.dumps(provenance)
        for key, text in flags.items():
            header[key] = text
    fits.HDUList([primary, hdu]).writeto(path, overwrite=True)


def read_fits(path: Path) -> tuple[Any, Metadata]:
    """The first binary table of a file."""
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path) as hdus:
        index = next(
            (i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)),
            None,
        )
        if index is None:
            raise ValueError("it holds no table")
        table = Table.read(hdus[index])
        header = hdus[index].header
        metadata = json.loads(header.get("PROVENAN", "{}"))
        metadata |= {key: header[key] for key in header if _FLAG_CARD.fullmatch(key)}
        for number, name in enumerate(table.colnames, start=1):
            if not table[name].description and f"TCOMM{number}" in header:
                table[name].description = header[f"TCOMM{number}"]
    return table, metadata


def _serialised_columns(table: Any) -> list[str]:
    """The comment lines in which astropy keeps what FITS has no cards for.

    Its own writer makes them; here they are made from the table with texts that need not be ASCII,
    and without a second copy of the data.
    """
    from astropy.table.meta import get_yaml_from_table

    described = table.copy(copy_data=False)
    described.meta = {"__serialized_columns__": {}}
    lines = ["--BEGIN-ASTROPY-SERIALIZED-COLUMNS--"]
    for line in get_yaml_from_table(described):
        line = _escape(line)
        parts = [line[i : i + _YAML_WIDTH] for i in range(0, len(line), _YAML_WIDTH)] or [""]
        lines += [f"{part}\\" for part in parts[:-1]] + [parts[-1]]
    return [*lines, "--END-ASTROPY-SERIALIZED-COLUMNS--"]


def write_parquet(table: Any, path: Path, metadata: Metadata) -> None:
    """Units, descriptions and UCDs as field metadata, and as astropy's own."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table import MaskedColumn
    from astropy.table.meta import get_yaml_from_table

    fields, arrays = [], []
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U":
            array = pa.array(column.tolist())
        elif isinstance(column, MaskedColumn):
            array = pa.array(np.asarray(column.data.data), mask=np.asarray(column.mask))
        else:
            array = pa.array(column.data)
        about = _about(column)
        fields.append(pa.field(name, array.type, metadata={k: v for k, v in about.items() if v}))
        arrays.append(array)
    yaml = "\n".join(get_yaml_from_table(table))
    lengths = {
        f"table::len::{name}": str(table[name].dtype.itemsize // 4)
        for name in table.colnames
        if table[name].dtype.kind == "U"
    }  # or astropy warns
    provenance, flags = split_metadata(metadata)
    about = {"provenance": json.dumps(provenance), "table_meta_yaml": yaml, **lengths, **flags}
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=about)), path)


def read_parquet(path: Path, choose: Chooser | None = None) -> tuple[Any, Metadata]:
    """Any Parquet file, or some of its columns; lists stay what they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table import Column, MaskedColumn, Table

    names = None if choose is None else choose(pq.read_schema(path).names)
    content = pq.read_table(path, columns=names)
    table = Table()
    for field in content.schema:
        about = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        column = content.column(field.name)
        exact = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
        kept = {"unit": about.get("unit"), "description": about.get("description")}
        if column.null_count and exact:
            mask = column.is_null().to_numpy()
            values = column.fill_null(False if pa.types.is_boolean(field.type) else 0).to_numpy()
            table[field.name] = MaskedColumn(values, mask=mask, **kept)
        else:
            values = column.to_numpy() if not column.null_count else column.to_pandas().to_numpy()
            table[field.name] = Column(values, **kept)
        if about.get("ucd"):
            table[field.name].meta["ucd"] = about["ucd"]
    stored = content.schema.metadata or {}
    metadata = json.loads(stored.get(b"provenance", b"{}"))
    cards = {key.decode(): value.decode() for key, value in stored.items()}
    return table, metadata | split_metadata(cards)[1]


def write_votable(table: Any, path: Path, metadata: Metadata) -> None:
    """VOTable 1.3, the last in which Angstrom is a unit without a warning.

    Truth values are booleans (astropy's own choice, single bits, is read by few) and units those of
    the CDS, so the document is built here field by field.
    """
    from astropy.io.votable.tree import Field, Info, Resource, TableElement, VOTableFile

    document = VOTableFile(version="1.3")
    config = {f"version_1_{n}_or_later": n < 4 for n in range(1, 6)}
    element = TableElement(document, name="CATALOG", config=config)
    for name in table.colnames:
        column, about = table[name], _about(table[name])
        kind, size = column.dtype.kind, column.dtype.itemsize
        text = {"arraysize": str(count_characters(column))} if kind == "U" else {}
        characters = "char" if kind == "U" and is_plain(column) else "unicodeChar"
        field = Field(
            document,
            ID=name,
            name=name,
            datatype=characters if kind == "U" else _VOTABLE_TYPES[f"{kind}{size}"],
            unit=about["unit"] or None,
            ucd=about["ucd"] or None,
            config=config,
            **text,
        )
        field.description = about["description"] or None
        element.fields.append(field)
    # Of one row astropy makes the frame; the rows themselves are encoded together.
    element.create_arrays(1)
    resource = Resource()
    resource.tables.append(element)
    document.resources.append(resource)
    for key, value in metadata.items():
        document.infos.append(Info(name=key, value=value))
    frame = io.BytesIO()
    document.to_xml(frame, tabledata_format="binary2")
    before, after = _STREAM.split(frame.getvalue(), maxsplit=1)
    with open(path, "wb") as file:
        file.write(before + b'<STREAM encoding="base64">\n')
        file.writelines(encode_rows(table))
        file.write(b"</STREAM>" + after)


_STREAM = re.compile(rb'<STREAM encoding="base64">.*?</STREAM>', re.DOTALL)

_VOTABLE_TYPES = {
    "b1": "boolean",
    "u1": "unsignedByte",
    "i1": "short",
    "i2": "short",
    "i4": "int",
    "i8": "long",
    "u2": "int",
    "u4": "long",
    "u8": "long",
    "f4": "float",
    "f8": "double",
}


def read_votable(path: Path) -> tuple[Any, Metadata]:
    """The first table of a document."""
    from astropy.io.votable import parse

    document = parse(str(path))
    return _describe_votable(document.get_first_table()), _list_infos(document)


def read_all_votables(path: Path) -> tuple[list[Any], Metadata]:
    """Every table of a document."""
    from astropy.io.votable import parse

    document = parse(str(path))
    return [_describe_votable(one) for one in document.iter_tables()], _list_infos(document)


def _list_infos(document: Any) -> Metadata:
    return {info.name: info.value for info in document.infos}


def _describe_votable(element: Any) -> Any:
    table = element.to_table(use_names_over_ids=True)
    for name in table.colnames:
        if table[name].description:
            table[name].description = " ".join(table[name].description.split())
    return table


def write_csv(table: Any, path: Path, metadata: Metadata) -> None:
    """Plain CSV; metadata go beside it, since comments would break plain readers."""
    del metadata
    frame = table.to_pandas()
    for name in table.colnames:
        if table[name].dtype.kind == "U" and name != PATH_COLUMN:
            frame[name] = list(map(escape_cell, table[name].tolist()))
    frame.to_csv(path, index=False)


def write_csv_metadata(table: Any, path: Path, metadata: Metadata) -> None:
    """What the columns of ``path`` are, as JSON beside it."""
    provenance, flags = split_metadata(metadata)
    about = {
        "url": path.name,
        "provenance": provenance,
        "flags": flags,
        "columns": [{"name": name, **_about(table[name])} for name in table.colnames],
    }
    with write_atomically(csv_metadata_path(path)) as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")


def csv_metadata_path(path: Path) -> Path:
    """Where the metadata of a CSV file lie."""
    return path.with_name(f"{path.name}-metadata.json")


def read_csv(path: Path, choose: Chooser | None = None) -> tuple[Any, Metadata]:
    """Values between commas, tabs, semicolons or bars, after lines of comment; gzipped or not."""
    import pandas as pd
    from astropy.table import Table

    layout = _find_layout(path)
    names = pd.read_csv(path, nrows=0, **layout).columns
    if choose is not None:
        layout["usecols"] = names = choose([str(name) for name in names])
    # Identifiers of nineteen digits are text: as numbers they would lose their last ones.
    text_columns = {name: str for name in names if str(name).lower() in _IDENTIFIERS}
    frame = pd.read_csv(path, dtype=text_columns, low_memory=False, **layout)
    for name in frame.columns:
        if frame[name].dtype.kind not in "iufb":
            frame[name] = list(map(restore_cell, frame[name].fillna("").astype(str)))
    table = Table.from_pandas(frame)
    beside = csv_metadata_path(path)
    if not beside.is_file():
        return table, {}
    about = json.loads(beside.read_text(encoding="utf-8"))
    for column in about.get("columns", []):
        if column["name"] in table.colnames:
            target = table[column["name"]]
            target.unit = column.get("unit") or None
            target.description = column.get("description") or None
    return table, {**about.get("provenance", {}), **about.get("flags", {})}


def _find_layout(path: Path) -> dict[str, Any]:
    """What separates values, and how many lines of comment come first, for pandas."""
    import gzip

    name = path.name.lower()
    tabbed = name.removesuffix(".gz").endswith((".tsv", ".tab"))
    opened = gzip.open if name.endswith(".gz") else open
    n_comment, header = 0, ""
    with opened(path, "rt", encoding="utf-8", errors="replace") as lines:
        for header in lines:
            if header.strip() and not header.startswith("#"):
                break
            n_comment += 1
    own = "\t" if tabbed else ","
    # That of the name wins a draw: a table of one column has none.
    separator = max((own, *_SEPARATORS), key=header.count)
    return {"sep": separator, "skiprows": n_comment}


_SEPARATORS = (",", "\t", ";", "|")
_IDENTIFIERS = ("obsid", "path", "id", "source_id", "specobjid")


def write_ecsv(table: Any, path: Path, metadata: Metadata) -> None:
    """CSV with a YAML header."""
    annotated = table.copy()
    annotated.meta.update(metadata)
    annotated.write(path, format="ascii.ecsv", overwrite=True)


def read_ecsv(path: Path) -> tuple[Any, Metadata]:
    """Of astropy's."""
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return table, {str(key): value for key, value in table.meta.items() if isinstance(value, str)}


def write_mrt(table: Any, path: Path, metadata: Metadata) -> None:
    """Machine-readable ASCII of the AAS journals: metadata in its notes, 0 and 1 for truth."""
    from astropy.table import Column, Table

    plain = Table()
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U":
            about = {"unit": column.unit, "description": column.description}
            plain[name] = Column(_to_ascii(name, column), **about)
        else:
            plain[name] = column
    write_mrt_file(path, plain, metadata)


def read_mrt(path: Path) -> tuple[Any, Metadata]:
    """Of the AAS journals, or of the CDS with its description in the same file."""
    from astropy.table import Table

    try:
        table = Table.read(path, format="ascii.mrt")
    except Exception:  # tables of the CDS have another header
        table = Table.read(path, format="ascii.cds")
    for name in table.colnames:
        if table[name].description:
            # The writer puts the range of the values in front.
            table[name].description = _MRT_RANGE.sub("", table[name].description)
    return table, {}


_MRT_RANGE = re.compile(r"^\[[-+0-9.e]*/[-+0-9.e]*\]\??\s*|^\?\s+")


def _about(column: Any) -> Metadata:
    return {
        "unit": str(column.unit) if column.unit is not None else "",
        "description": column.description or "",
        "ucd": column.meta.get("ucd", ""),
    }


def _spell_unit(unit: Any) -> str:
    try:
        return unit.to_string("fits")
    except ValueError:
        return str(unit)  # a unit that the standard does not know


def _escape(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _to_ascii(name: str, column: Any) -> np.ndarray:
    if is_plain(column):
        return np.asarray(column)
    # Paths are to come back, what they hold written byte by byte.
    escape = escape_ascii if name == PATH_COLUMN else _escape
    texts = [escape(text) for text in column]
    width = max((len(text) for text in texts), default=1)
    return np.asarray(texts, dtype=f"<U{max(width, 1)}")


WRITERS: dict[str, Callable[[Any, Path, Metadata], None]] = {
    "fits": write_fits,
    "parquet": write_parquet,
    "votable": write_votable,
    "csv": write_csv,
    "ecsv": write_ecsv,
    "mrt": write_mrt,
}
CHOOSING = ("parquet", "csv", "tsv")
"""Formats of which some columns can be read without the others."""
READERS: dict[str, Callable[..., tuple[Any, Metadata]]] = {
    "fits": read_fits,
    "parquet": read_parquet,
    "votable": read_votable,
    "csv": read_csv,
    "tsv": read_csv,
    "ecsv": read_ecsv,
    "mrt": read_mrt,
}
