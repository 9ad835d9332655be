"""Names of files and texts of headers: nothing unprintable leaves, every path comes back."""

import csv
import io
import os

import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmdwarf.catalogue.texts import (
    escape_ascii,
    escape_cell,
    escape_lines,
    escape_path,
    escape_text,
    restore_cell,
    restore_path,
)

NAMES = st.binary(max_size=40).map(os.fsdecode)


@given(NAMES, st.booleans())
@example("a\\x0a.fits", False)
@example("\\x5cx0a", True)
@example(" nan ", False)
@example("nan", True)
@example("NULL", False)
@example("\udce9\u0085é", True)
@settings(max_examples=300, deadline=None)
def test_every_path_comes_back_from_printable_text(name, ascii_only):
    text = escape_ascii(escape_path(name)) if ascii_only else escape_path(name)
    assert restore_path(text) == name
    assert text.isprintable()
    text.encode("ascii" if ascii_only else "utf-8")
    assert text == text.strip(" ")
    assert not text.startswith(("=", "+", "-", "@", "#"))
    # What pandas does not take for missing comes back from CSV as it was.
    if text:
        cells = io.StringIO()
        csv.writer(cells).writerow([text, "x"])
        assert pd.read_csv(io.StringIO(cells.getvalue()), header=None, dtype=str)[0][0] == text


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_texts_are_printable_and_stay_as_they_are_where_they_were(text):
    assert escape_text(text).isprintable()
    assert escape_text(text) == text or not text.isprintable()
    assert escape_lines(text).split("\n") == [escape_text(line) for line in text.split("\n")]
    assert escape_cell(text)[:1] not in ("=", "@")
    assert restore_cell(escape_cell(text)) == escape_text(text) or text.startswith("'")
