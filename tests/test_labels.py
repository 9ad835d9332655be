"""The registry of labels: one place that knows what a label is, open to users."""

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxmdwarf.catalogue.columns import describe_column, order_columns
from jaxmdwarf.catalogue.names import find_column, list_quantities
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LABELS, Label, LabelSpace, describe_label, register_label
from jaxmdwarf.plots.style import describe_quantity
from jaxmdwarf.quality import QualityFlag

CARBON = Label(
    "c_o",
    "dex",
    "[C/O]",
    column="C_O",
    ucd="phys.abund",
    description="Carbon over oxygen",
    lower=-0.5,
    upper=0.5,
    aliases=("[c/o]", "carbonoveroxygen"),
)


@pytest.fixture
def carbon():
    known = dict(LABELS)
    yield register_label(CARBON)
    LABELS.clear()
    LABELS.update(known)


def test_a_label_that_is_registered_is_known_everywhere(carbon):
    assert describe_label("c_o") is CARBON
    assert describe_column("C_O").description == "Carbon over oxygen"
    assert describe_column("e_C_O").unit == "dex"
    assert describe_quantity("c_o").axis == "[C/O] (dex)"
    assert "c_o" in list_quantities()
    table = pd.DataFrame({"CARBON_over_oxygen": [0.1]})
    assert find_column(table, "c_o") == "CARBON_over_oxygen"
    assert order_columns(["path", "e_C_O", "C_O", "alpha_M"]) == ["alpha_M", "C_O", "e_C_O", "path"]
    assert LabelSpace.named(["teff", "c_o"]).upper == (4600.0, 0.5)


def test_labels_that_nobody_registered_get_what_can_be_said_of_any():
    label = describe_label("[N/Fe]")
    assert (label.column, label.error_column, label.axis) == ("N_Fe", "e_N_Fe", "[N/Fe]")
    assert label.flag_bit is QualityFlag.LABEL_AT_BOUND
    assert describe_label("2nd").column == "label_2nd"
    assert "[N/Fe]" not in LABELS
    with pytest.raises(UsageError, match="has bounds nan"):
        LabelSpace.named(["teff", "[N/Fe]"])


def test_columns_of_labels_are_their_own():
    for wrong in ({"column": "[C/O]"}, {"column": "_c"}, {"error_column": "e.C"}):
        with pytest.raises(UsageError, match="plain column name"):
            Label("c_o", **wrong)
    with pytest.raises(UsageError, match="that of the label 'teff'"):
        register_label(Label("temperature", "K", column="Teff"))
    with pytest.raises(UsageError, match="is the velocity"):
        register_label(Label("rv"))
    with pytest.raises(UsageError, match="column 'SNRr' is that of"):
        register_label(Label("snr", column="SNRr"))
    with pytest.raises(UsageError, match="must increase"):
        Label("c_o", lower=1.0, upper=0.0)
    assert set(LABELS) == {"teff", "logg", "mh", "alpha_m"}


def test_the_four_labels_of_the_paper_keep_their_names_and_bounds():
    space = LabelSpace.mdwarf()
    assert space.names == ("teff", "logg", "mh", "alpha_m")
    assert space.units == ("K", "dex", "dex", "dex")
    assert space.lower == (2500.0, 3.5, -2.5, -0.2)
    assert LabelSpace.mdwarf(mh=(-1.0, 0.5)).lower == (2500.0, 3.5, -1.0, -0.2)
    bits = [LABELS[name].flag_bit for name in space.names]
    assert [bit.name for bit in bits] == [
        *("TEFF_AT_BOUND", "LOGG_AT_BOUND", "MH_AT_BOUND", "ALPHA_AT_BOUND")
    ]
    assert all(math.isfinite(np.sum(LABELS[name].plausible)) for name in space.names)


BOUNDS = st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0.01, 1e4)), min_size=1, max_size=5)


@given(BOUNDS, st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_scaling_is_a_line_through_the_bounds_and_back(bounds, data):
    low, width = np.array(bounds).T
    high = low + width
    names = tuple(f"label{number}" for number in range(len(bounds)))
    space = LabelSpace(names, ("",) * len(bounds), tuple(low), tuple(high))
    rows = arrays(float, (3, space.n_label), elements=st.floats(-0.9, 0.9))
    scaled = data.draw(rows)
    labels = space.unscale(scaled)
    # Weighted means of the bounds: no width, no difference.
    expected = low * (0.5 - scaled) + high * (0.5 + scaled)
    np.testing.assert_allclose(labels, expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(space.scale(labels), scaled, rtol=0, atol=1e-9)
    far = np.abs(np.abs(scaled) - 0.5) > 1e-6
    inside = (np.abs(scaled) < 0.5).all(axis=1)
    if far.all():
        np.testing.assert_array_equal(space.contains(labels), inside)
        np.testing.assert_array_equal(space.contains(labels, slack=0.41), np.ones(3, bool))
        for row, good in zip(labels, inside, strict=True):
            with nullcontext() if good else pytest.raises(UsageError, match="lies outside"):
                space.require_inside(row)


@given(arrays(float, (4, 3), elements=st.floats(-1e4, 1e4), unique=True))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_smallest_space_holds_all_rows_and_none_beyond(labels):
    space = LabelSpace.bounding(("a", "b", "c"), ("K", "", "dex"), labels)
    assert space.contains(labels).all()
    for column in range(3):
        assert space.lower[column] in labels[:, column]
        assert space.upper[column] in labels[:, column]


@pytest.mark.parametrize(
    ("name", "value", "options", "text"),
    [
        ("teff", 3456.78, {}, "3456.8 K"),
        ("mh", 0.12345, {"signed": True}, "+0.123 dex"),
        ("mh", -0.12345, {"unit": False}, "-0.123"),
        ("mh", math.nan, {"signed": True}, "–"),
    ],
)
def test_values_are_written_with_their_digits_and_none_where_there_is_none(
    name, value, options, text
):
    assert describe_label(name).write(value, **options) == text
