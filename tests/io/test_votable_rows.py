"""Rows of VOTables: bytes against the standard and astropy's reader."""

import base64
import io

import numpy as np
import pytest
from astropy.io.votable import parse
from astropy.table import Column, MaskedColumn, Table

from jaxmdwarf.io import votable_rows
from jaxmdwarf.io.table_formats import write_votable
from jaxmdwarf.io.votable_rows import count_characters, encode_rows, is_plain


def decode(table):
    return base64.b64decode(b"".join(encode_rows(table)))


def test_one_row_is_the_bytes_of_the_standard():
    """VOTable 1.3, 6.4: bits of what is missing from the left, then values, big-endian."""
    table = Table()
    table["b"] = Column([True])
    table["short"] = MaskedColumn(np.array([7], np.int16), mask=[True])
    table["long"] = Column(np.array([-2], np.int64))
    table["f"] = Column(np.array([np.inf], np.float32))
    table["d"] = Column([1.0])
    table["plain"] = Column(["ab"])
    table["wide"] = Column(["é1"])
    table["u1"] = Column(np.array([200], np.uint8))
    table["u2"] = Column(np.array([40_000], np.uint16))
    expected = (
        bytes([0b01010000, 0b00000000])
        + b"T"
        + b"\0\7"
        + b"\xff" * 7
        + b"\xfe"
        + b"\x7f\xc0\0\0"
        + b"\x3f\xf0"
        + b"\0" * 6
        + b"ab"
        + b"\0\xe9\x001"
        + b"\xc8"
        + b"\0\0\x9c\x40"
    )
    assert decode(table) == expected


def test_astropy_reads_texts_beyond_ascii_and_all_kinds_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    n = 5
    table = Table()
    table["name"] = Column(["größe", "x", "", "Ω𝔸b", "längste 4"])
    table["plain"] = Column(["one", "", "three", "4", "five 5"])
    table["good"] = Column(np.array([True, False, True, True, False]))
    table["maybe"] = MaskedColumn([True, False, True, False, True], mask=[0, 1, 0, 0, 1])
    for kind in ("i2", "i4", "i8", "u1", "u2", "u4"):
        high = np.iinfo(kind).max
        table[kind] = Column(rng.integers(high // 2, high, n).astype(kind))
    table["i1"] = Column(np.array([-128, 127, 0, 1, -1], np.int8))
    table["u8"] = Column(np.arange(n).astype(np.uint64))
    table["f4"] = Column(np.array([1.5, np.nan, np.inf, -2.25, 0.1], np.float32))
    table["f8"] = MaskedColumn([1.5, 2.5, np.nan, -np.inf, 0.1], mask=[0, 1, 0, 0, 0])
    table["none"] = MaskedColumn(np.arange(n), mask=[1, 0, 0, 1, 0])
    write_votable(table, tmp_path / "T.vot", {"key": "a value"})
    document = parse(tmp_path / "T.vot")
    element = document.get_first_table()
    back = element.to_table(use_names_over_ids=True)
    # What lies beyond two bytes a character has the sign for the unknown.
    assert [str(text) for text in back["name"]] == ["größe", "x", "", "Ω\ufffdb", "längste 4"]
    assert [str(text) for text in back["plain"]] == list(table["plain"])
    types = {field.name: field.datatype for field in element.fields}
    assert (types["name"], types["plain"], types["good"]) == ("unicodeChar", "char", "boolean")
    for name in ("good", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
        assert back[name].tolist() == table[name].tolist(), name
    assert np.ma.getmaskarray(back["maybe"]).tolist() == [False, True, False, False, True]
    assert back["maybe"].filled(False).tolist() == [True, False, True, False, False]
    assert np.ma.getmaskarray(back["none"]).tolist() == [True, False, False, True, False]
    for name, known in (("f4", [0, 3, 4]), ("f8", [0, 4])):
        values = np.ma.filled(np.ma.array(back[name]), np.nan)
        assert np.flatnonzero(np.isfinite(values)).tolist() == known
        np.testing.assert_array_equal(values[known], np.asarray(table[name])[known])
    assert {info.name: info.value for info in document.infos} == {"key": "a value"}


@pytest.mark.parametrize("n", [1, 3, 6, 7, 12])
def test_blocks_are_the_rows_in_one_piece(monkeypatch, n):
    table = Table({"a": np.arange(n, dtype=np.int16), "t": [f"{i}é" for i in range(n)]})
    whole = decode(table)
    assert len(whole) == n * (1 + 2 + 2 * table["t"].dtype.itemsize // 4)
    monkeypatch.setattr(votable_rows, "ROWS_AT_ONCE", 3)
    parts = list(encode_rows(table))
    assert len(parts) == -(-n // 3)
    assert b"".join(base64.b64decode(part) for part in parts) == whole
    assert not any(b"=" in part.strip() for part in parts[:-1])


def test_widths_and_alphabets_of_texts():
    assert count_characters(np.array(["", "x"])) == 2
    assert count_characters(np.array(["abc", "x"])) == 3
    assert is_plain(np.array(["abc", "\x7f"]))
    assert not is_plain(np.array(["abc", "\x80"]))
    assert is_plain(np.array([], "<U3"))
    assert io.BytesIO(b"".join(encode_rows(Table({"a": np.zeros(0)})))).read() == b""
