"""Columns: one name each, described, with errors in the unit of their value."""

import re
from pathlib import Path

import pytest

from jaxmdwarf.catalogue.columns import (
    COLUMNS,
    TABLE_1,
    describe_column,
    order_columns,
    write_column_page,
)
from jaxmdwarf.catalogue.rows import list_columns
from jaxmdwarf.labels import LABELS
from jaxmdwarf.quality import FLAG_TABLE, HARMFUL_FLAGS, QualityFlag, write_flag_page

ROOT = Path(__file__).parents[2]
ALL = [*COLUMNS, *(name for one in LABELS.values() for name in (one.column, one.error_column))]
MEASURED = ["RV", *(one.column for one in LABELS.values())]


@pytest.mark.parametrize("name", ALL)
def test_columns_are_plain_identifiers_with_unit_ucd_and_description(name):
    column = describe_column(name)
    assert column.name == name
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
    assert column.description.isascii()
    assert 0 < len(column.description) < 70  # longer ones are broken into lines by VOTable and MRT
    assert column.ucd
    if name.startswith("e_"):
        value = describe_column(name[2:])
        assert column.unit == value.unit
        assert column.ucd == f"stat.error;{value.ucd}"


@pytest.mark.parametrize("name", MEASURED)
def test_parts_of_total_errors_are_described_like_these_and_follow_them(name):
    total, formal, repeat = (describe_column(f"e_{part}{name}") for part in ("", "fit_", "repeat_"))
    assert (formal.unit, formal.ucd) == (total.unit, total.ucd)
    assert (repeat.unit, repeat.ucd) == (total.unit, total.ucd.replace("error", "stdev"))
    assert 0 < max(len(formal.description), len(repeat.description)) < 70
    expected = [name, total.name, formal.name, repeat.name]
    assert order_columns(expected[::-1]) == expected


def test_measure_and_fit_name_the_same_thing_alike():
    measured, fitted = list_columns("measure"), list_columns("fit")
    assert set(measured) - set(fitted) == {"RV_used"}
    common = [name for name in fitted if name in measured]
    assert common == [name for name in measured if name in fitted]
    gaia = {"Gmag", "BPmag", "RPmag", "Plx", "e_Plx", "RUWE"}
    assert set(TABLE_1) - set(fitted) - gaia == {"VBFlag"}
    assert len(TABLE_1) == 24
    assert order_columns(TABLE_1) == list(TABLE_1)


def test_flags_are_never_renumbered():
    names = [
        *("NOT_CONVERGED", "TEFF_AT_BOUND", "LOGG_AT_BOUND", "MH_AT_BOUND", "ALPHA_AT_BOUND"),
        *("LOW_SNR", "FEW_PIXELS", "BAD_CHI2", "VELOCITY_AT_EDGE", "MULTIPLE_MINIMA", "INPUT_NAN"),
        *("FAST_PATH_DISAGREED", "BAD_COVARIANCE", "NO_HEADER_VELOCITY", "NO_GOOD_PIXELS"),
        *("FALLBACK_VELOCITY", "LABEL_AT_BOUND", "NOT_M_DWARF", "NOT_STELLAR_VELOCITY"),
        *("PRIOR_DOMINATED", "OUT_OF_DOMAIN", "HIGH_CHI2", "VELOCITY_UNLIKE_HEADER"),
    ]
    expected = {name: 1 << bit for bit, name in enumerate(names)}
    cuts = ("TOO_HOT", "LOGG_NEAR_BOUND", "LARGE_ERROR", "YOUNG")
    later = ("OUTLIERS_CLIPPED", "WAVELENGTH_DRIFT")
    expected |= {name: 1 << bit for bit, name in enumerate((*cuts, *later), 23)}
    assert {flag.name: int(flag) for flag in QualityFlag} == expected
    assert max(QualityFlag) < 2**31  # flags are 32-bit integers
    assert list(FLAG_TABLE) == list(QualityFlag)
    for note in FLAG_TABLE.values():
        assert note.meaning
        assert note.advice
    informative = set(QualityFlag) - {bit for bit in QualityFlag if bit & HARMFUL_FLAGS}
    assert {flag.name for flag in informative} == {
        *("MULTIPLE_MINIMA", "INPUT_NAN", "FAST_PATH_DISAGREED", "NO_HEADER_VELOCITY"),
        *("FALLBACK_VELOCITY", "NOT_STELLAR_VELOCITY", "PRIOR_DOMINATED", "OUT_OF_DOMAIN"),
        *("HIGH_CHI2", "VELOCITY_UNLIKE_HEADER", *later),
    }


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not run from the repository")
@pytest.mark.parametrize(
    ("name", "module", "write"),
    [
        ("flags.md", "jaxmdwarf.quality", write_flag_page),
        ("columns.md", "jaxmdwarf.catalogue.columns", write_column_page),
    ],
)
def test_pages_made_from_registries_are_current(name, module, write):
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == write(), (
        f"write it again: python -c 'from {module} import {write.__name__}; "
        f'print({write.__name__}(), end="")\' > docs/{name}'
    )
