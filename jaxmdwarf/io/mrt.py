"""Machine-readable ASCII as the CDS and the AAS journals have it, written a column at a time.

astropy's writer goes through rows in Python (minutes for half a million) and takes the format of a
column from how single numbers print, so that one tiny number leaves a column two digits. Here the
digits of a whole column are made at once, as bytes of a fixed width.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DECIMALS = 6
"""Most digits after the point of a number that is not tiny."""

_EXPONENT_DIGITS = 8
_BEFORE_NUMBER, _NO_BREAK = re.compile(r" (?=[-+]?[0-9])"), "\0"
_TINY = 1e-3
_LARGEST = 1e11
_LARGEST_TOLD = 1e6
_WIDTH = 80
_ROWS_AT_ONCE = 50_000
_BLANK, _ZERO, _POINT, _MINUS = (ord(one) for one in " 0.-")
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_TITLE = "Title: Spectra of M dwarfs\nAuthors: made by jaxmdwarf\nTable: one row a spectrum\n"


class Field(NamedTuple):
    """One column of the file.

    Parameters
    ----------
    name, unit, description : str
    form : str
        As Fortran has it: A12, I5, F9.3, E15.8.
    width, decimals : int
    values : (n,) array
        Bytes of `width`, integers, or floats.
    missing : (n,) bool
    """

    name: str
    unit: str
    description: str
    form: str
    width: int
    decimals: int
    values: np.ndarray
    missing: np.ndarray


def write_mrt_file(path: Path, table: Any, notes: Mapping[str, str]) -> None:
    """Write an astropy table of plain and masked columns.

    Parameters
    ----------
    path : Path
    table : astropy.table.Table
        Texts are ASCII; truth values are written as 0 and 1; NaN and masked values are blank.
    notes : mapping
        Texts that go into numbered notes: readers such as TOPCAT take any other line for data.
    """
    fields = [_describe(table[name]) for name in table.colnames]
    rule, double = "-" * _WIDTH, "=" * _WIDTH
    head = [_TITLE + double, "Byte-by-byte Description of file: table.dat", rule]
    head += [" Bytes Format Units  Label     Explanations", rule, *_list_bytes(fields), rule]
    if notes:
        head += [f"Note ({n}): {key}: {text}" for n, (key, text) in enumerate(notes.items(), 1)]
        head += [rule]
    with open(path, "wb") as file:
        file.write("\n".join([*head, ""]).encode("utf-8"))
        for first in range(0, len(table), _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, len(table)))
            file.write(_format_rows(fields, rows).tobytes())


def _describe(column: Any) -> Field:
    values = np.asarray(getattr(column, "data", column))
    mask = getattr(column, "mask", None)
    missing = np.zeros(len(values), bool) if mask is None else np.array(mask, bool)
    decimals = 0
    if values.dtype.kind == "U":
        values = values.astype("S")
        width = max(values.dtype.itemsize, 1)
        form = f"A{width}"
    elif values.dtype.kind in "iub":
        values = np.where(missing, 0, values).astype(np.int64)
        width = _count_places(values)
        form = f"I{width}"
    else:
        missing |= ~np.isfinite(values)
        values = np.where(missing, 0.0, values).astype(np.float64)
        size = np.abs(values)
        smallest = size.min(where=size > 0, initial=np.inf)
        if size.max(initial=0.0) > _LARGEST or (smallest < np.inf and size.max() < _TINY):
            width = _EXPONENT_DIGITS + 8
            form = f"E{width}.{_EXPONENT_DIGITS}"
        else:
            decimals = _count_decimals(values)
            width = _count_places(_scale(values, decimals), decimals)
            form = f"F{width}.{decimals}"
    name = str(column.name)
    return Field(
        name,
        _spell_unit(column.unit),
        column.description or f"Description of {name}",
        form,
        width,
        decimals,
        values,
        missing,
    )


def _scale(values: np.ndarray, decimals: int) -> np.ndarray:
    return np.rint(values * 10.0**decimals).astype(np.int64)


def _count_decimals(values: np.ndarray) -> int:
    """Digits after the point that a column needs, one to `DECIMALS`."""
    finest = _scale(values, DECIMALS)
    for decimals in range(1, DECIMALS):
        if not np.any(finest % 10 ** (DECIMALS - decimals)):
            return decimals
    return DECIMALS


def _count_places(whole: np.ndarray, decimals: int = 0) -> int:
    """Width of whole numbers, with a point in them if some of their digits come after it."""
    low, high = int(whole.min(initial=0)), int(whole.max(initial=0))
    least = decimals + 1
    digits = max(len(str(high)), least), (max(len(str(-low)), least) + 1) if low < 0 else 0
    return max(digits) + (decimals > 0)


def _spell_unit(unit: Any) -> str:
    if unit is None or not str(unit):
        return "---"
    if str(unit) == "dex":
        return "[-]"  # a logarithm of a pure number
    try:
        return unit.to_string("cds")
    except ValueError:
        return str(unit).replace(" ", "")  # a unit that the CDS does not know


def _list_bytes(fields: Sequence[Field]) -> Iterator[str]:
    total = sum(one.width for one in fields) + len(fields) - 1
    count = len(str(total))
    label = max(7, *(len(one.name) for one in fields))
    start = 1
    for one in fields:
        end = start + one.width - 1
        place = f"{start:{count}d}-{end:{count}d}" if end > start else f"{start:{2 * count + 1}d}"
        units = max(6, len(one.unit))
        head = f"{place}  {one.form:<6s} {one.unit:<{units}s} {one.name:<{label}s} "
        text = f"{_tell_range(one)}{one.description}"
        # A line that begins with a number and has three words more reads as another column.
        bound = _BEFORE_NUMBER.sub(_NO_BREAK, text)
        # Bytes and label are never broken, however long.
        room = max(_WIDTH - len(head), 24)
        # Nor are words at their hyphens: readers put a blank between lines.
        lines = textwrap.wrap(bound, room, break_long_words=False, break_on_hyphens=False)
        lines = [line.replace(_NO_BREAK, " ") for line in lines]
        yield head + lines[0]
        yield from (" " * len(head) + line for line in lines[1:])
        start = end + 2


def _tell_range(field: Field) -> str:
    """Least and largest value, and a question mark where some are missing."""
    empty = "?" if field.missing.any() else ""
    known = field.values[~field.missing] if empty else field.values
    low, high = (0, 0) if field.form[0] == "A" or not known.size else (known.min(), known.max())
    if field.form[0] in "AE" or not known.size or max(abs(low), abs(high)) > _LARGEST_TOLD:
        return f"{empty} " if empty else ""
    if field.form[0] == "F":
        scale = 10.0 ** min(field.decimals, 2)
        low, high = np.floor(low * scale) / scale, np.ceil(high * scale) / scale
    return f"[{low:.10g}/{high:.10g}]{empty} "


def _format_rows(fields: Sequence[Field], rows: slice) -> np.ndarray:
    """Lines of the file as bytes, (n_row, width of a line)."""
    n = rows.stop - rows.start
    width = sum(one.width for one in fields) + len(fields)
    lines = np.full((n, width), _BLANK, np.uint8)
    lines[:, -1] = ord("\n")
    start = 0
    for one in fields:
        place = lines[:, start : start + one.width]
        values = one.values[rows]
        if one.form[0] == "A":
            _put_bytes(place, values)
        elif one.form[0] == "E":
            text = np.char.mod(f"%{one.width}.{_EXPONENT_DIGITS}E", values).astype(f"S{one.width}")
            _put_bytes(place, text)
        else:
            whole = _scale(values, one.decimals) if one.form[0] == "F" else values
            _put_digits(place, whole, one.decimals)
        place[one.missing[rows]] = _BLANK
        start += one.width + 1
    return lines


def _put_bytes(place: np.ndarray, texts: np.ndarray) -> None:
    n, width = place.shape
    codes = np.ascontiguousarray(texts).view(np.uint8).reshape(n, -1)[:, :width]
    place[:, : codes.shape[1]] = np.where(codes == 0, _BLANK, codes)


def _put_digits(place: np.ndarray, whole: np.ndarray, decimals: int) -> None:
    """Digits of whole numbers, the last of them to the right, a point before the decimals."""
    left, column = np.abs(whole), place.shape[1] - 1
    count = np.maximum(np.searchsorted(_POWERS, left, side="right"), decimals + 1)
    for number in range(int(count.max(initial=0))):
        if number == decimals and decimals:
            place[:, column] = _POINT
            column -= 1
        left, digit = np.divmod(left, 10)
        place[:, column] = np.where(number < count, digit + _ZERO, _BLANK)
        column -= 1
    negative = np.flatnonzero(whole < 0)
    before = place.shape[1] - 1 - count[negative] - (decimals > 0)
    place[negative, before] = _MINUS
