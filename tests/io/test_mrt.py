"""The journal format, byte by byte, and astropy's reader as the judge of what it says."""

import numpy as np
import pytest
from astropy.table import Column, MaskedColumn, Table

from jaxmdwarf.io import mrt
from jaxmdwarf.io.mrt import write_mrt_file


def write(path, columns, notes=None):
    write_mrt_file(path, Table(columns), notes or {})
    text = path.read_text()
    head, _, body = text.rpartition("-" * 80 + "\n")
    return head, body.splitlines()


def test_a_small_table_is_what_the_standard_says(tmp_path):
    columns = [
        Column(["a", "bcd"], "name", description="Who"),
        MaskedColumn([-7, 12], "count", mask=[False, False], description="How many"),
        Column([3000.25, np.nan], "teff", unit="K", description="How hot"),
        Column([1e-9, -2.5e-8], "tiny", description="How small"),
        MaskedColumn([5, 6], "seen", mask=[True, False]),
        Column([True, False], "good", unit="dex"),
    ]
    head, body = write(tmp_path / "T.mrt", columns, {"one": "first", "two": "second"})
    assert body == [
        "a   -7 3000.25   1.00000000E-09   1",
        "bcd 12          -2.50000000E-08 6 0",
    ]
    rule, double = "-" * 80, "=" * 80
    assert head.splitlines() == [
        "Title: Spectra of M dwarfs",
        "Authors: made by jaxmdwarf",
        "Table: one row a spectrum",
        double,
        "Byte-by-byte Description of file: table.dat",
        rule,
        " Bytes Format Units  Label     Explanations",
        rule,
        " 1- 3  A3     ---    name    Who",
        " 5- 6  I2     ---    count   [-7/12] How many",
        " 8-14  F7.2   K      teff    [3000.25/3000.25]? How hot",
        "16-31  E16.8  ---    tiny    How small",
        "   33  I1     ---    seen    [6/6]? Description of seen",
        "   35  I1     [-]    good    [0/1] Description of good",
        rule,
        "Note (1): one: first",
        "Note (2): two: second",
    ]


def test_ranges_hold_what_is_in_the_column_and_are_left_out_where_they_would_be_long(tmp_path):
    columns = [
        Column([-0.126, 0.331], "hundredths"),
        Column([-12.5, 0.25], "exact"),
        Column([0.0, 1e6], "at"),
        Column([0.0, 1000000.5], "beyond"),
        Column([-1000001, 3], "whole"),
        Column([np.nan, np.nan], "empty"),
    ]
    head, body = write(tmp_path / "T.mrt", columns)
    lines = [line for line in head.splitlines() if " ---    " in line]
    found = {
        name: next(line for line in lines if f" {name} " in line.split("---", 1)[1])
        for name in ("hundredths", "exact", "at", "beyond", "whole", "empty")
    }
    assert "[-0.13/0.34] Description" in found["hundredths"]
    assert "[-12.5/0.25] Description" in found["exact"]
    assert "[0/1000000] Description" in found["at"]
    for name in ("beyond", "whole"):
        assert "[" not in found[name]
    assert "? Description" in found["empty"]
    assert [line[-3:] for line in body] == ["   ", "   "]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([1.0, 2.0], "F3.1"),
        ([1.5, -10.0], "F5.1"),
        ([0.25, 3.0], "F4.2"),
        ([0.1234564, 2.0], "F8.6"),
        ([-0.000001, 2.0], "F9.6"),
        ([0.0009, 0.0], "E16.8"),
        ([0.001, 0.0], "F5.3"),
        ([1e11, 0.5], "F14.1"),
        ([1.01e11, 0.5], "E16.8"),
        ([0.0, 0.0], "F3.1"),
    ],
)
def test_columns_are_as_wide_as_their_numbers_need(tmp_path, values, form):
    head, body = write(tmp_path / "T.mrt", [Column(values, "x")])
    (line,) = (line for line in head.splitlines() if " x " in line)
    assert line.split("  ")[1].split()[0] == form or form in line.split()
    assert {len(row) for row in body} == {int(form[1:].split(".")[0])}
    back = Table.read(tmp_path / "T.mrt", format="ascii.mrt")
    np.testing.assert_allclose(back["x"], values, rtol=1e-8, atol=5.1e-7 if form[0] == "F" else 0)


def test_signs_digits_and_points_of_many_numbers(tmp_path):
    rng = np.random.default_rng(1)
    n = 200
    scale = 10.0 ** rng.integers(-5, 7, n)
    numbers = np.round(rng.normal(size=n) * scale, 4)
    numbers[:4] = 0.0, -0.0001, 0.0001, -1.0
    whole = rng.integers(-(10**18), 10**18, n) // 10 ** rng.integers(0, 18, n)
    _, body = write(tmp_path / "T.mrt", [Column(numbers, "x"), Column(whole, "i")])
    for line, number, integer in zip(body, numbers, whole, strict=True):
        first, second = line.split()
        assert first == f"{number:.4f}".replace("-0.0000", "0.0000")
        assert second == str(integer)
    assert len({len(line) for line in body}) == 1


def test_units_are_those_of_the_cds_and_long_lines_are_wrapped(tmp_path):
    columns = [
        Column([1.5], "v", unit="km / s", description="A velocity"),
        Column([1.5], "w", unit="Angstrom", description="long " * 30),
        Column([2.5], "odd", unit=None),
    ]
    head, _ = write(tmp_path / "T.mrt", columns)
    lines = head.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[:14].strip() for line in lines if line[:14].strip().startswith(("1-", "5-"))] == [
        "1- 3  F3.1", "5- 7  F3.1",
    ]  # fmt: skip
    back = Table.read(tmp_path / "T.mrt", format="ascii.mrt")
    assert str(back["v"].unit).replace(" ", "") == "km/s"
    assert back["w"].unit.to("Angstrom") == 1
    assert back["w"].description.split("] ")[1] == ("long " * 30).strip()
    assert back["odd"].unit is None
    # No range of one value is wrong.
    assert "[1.5/1.5] A velocity" in head


def test_blocks_of_rows_are_the_rows_in_one_piece(tmp_path, monkeypatch):
    n = 11
    columns = [Column(np.arange(n) - 5.25, "x"), Column([f"{i}" * (i % 3) for i in range(n)], "t")]
    _, whole = write(tmp_path / "one.mrt", columns)
    monkeypatch.setattr(mrt, "_ROWS_AT_ONCE", 4)
    _, parts = write(tmp_path / "two.mrt", columns)
    assert parts == whole
    assert len(whole) == n
