"""Rows of a VOTable in its BINARY2 form, made a block at a time.

astropy's writer packs each cell of each row in Python: minutes for half a million rows.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np

ROWS_AT_ONCE = 30_000
"""A multiple of three, so that blocks of base64 join without padding."""


def encode_rows(table: Any) -> Iterator[bytes]:
    """Base64 of the rows of an astropy table of plain and masked columns.

    Parameters
    ----------
    table : astropy.table.Table

    Yields
    ------
    bytes
        Lines of base64. A row is one bit a column that says whether its value is missing, then the
        values, with the most significant byte first (VOTable 1.3, section 6.4).
    """
    columns = [_encode(table[name]) for name in table.colnames]
    n_mask = (len(columns) + 7) // 8
    kind = np.dtype(
        [("missing", np.uint8, (n_mask,))]
        + [(f"c{number}", values.dtype) for number, (values, _) in enumerate(columns)]
    )
    for first in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(first, min(first + ROWS_AT_ONCE, len(table)))
        block = np.zeros(rows.stop - rows.start, kind)
        missing = np.stack([mask[rows] for _, mask in columns], axis=1)
        block["missing"] = np.packbits(missing, axis=1)
        for number, (values, _) in enumerate(columns):
            block[f"c{number}"] = values[rows]
        yield binascii.b2a_base64(block.tobytes())


def count_characters(column: Any) -> int:
    """Width of a column of texts; one character alone would be no array of them."""
    return max(np.asarray(column).dtype.itemsize // 4, 2)


def is_plain(column: Any) -> bool:
    """Whether texts have ASCII characters alone, which take one byte each."""
    codes = np.ascontiguousarray(np.asarray(column)).view(np.uint32)
    return bool(codes.max(initial=0) < 128)


def _encode(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values as they are stored, and which are missing."""
    values = np.asarray(getattr(column, "data", column))
    mask = getattr(column, "mask", None)
    missing = np.zeros(len(values), bool) if mask is None else np.array(mask, bool)
    kind = values.dtype.kind
    if kind == "U":
        values = values.astype(f"<U{count_characters(values)}")
        if is_plain(values):
            return values.astype(f"S{count_characters(values)}"), missing
        codes = np.ascontiguousarray(values).view(np.uint32).reshape(len(values), -1)
        # Two bytes a character: what lies beyond them has the sign for the unknown.
        codes = np.where(codes > 0xFFFF, 0xFFFD, codes).astype(">u2")
        return codes.view(f"V{2 * codes.shape[1]}")[:, 0], missing
    if kind == "b":
        return np.where(values, b"T", b"F"), missing
    if kind == "f":
        missing = missing | ~np.isfinite(values)
        values = np.where(missing, np.nan, values).astype(values.dtype)
    wider = {"i1": "i2", "u2": "i4", "u4": "i8", "u8": "i8"}
    name = f"{kind}{values.dtype.itemsize}"
    return values.astype(f">{wider.get(name, name)}"), missing
