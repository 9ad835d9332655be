"""Bias, scatter and pulls of samples whose answer is known."""

import numpy as np
import pytest

from jaxmdwarf.diagnostics.recovery import (
    PULL_LIMIT,
    compare,
    compare_variants,
    compute_pulls,
    measure_pulls,
    measure_recovery,
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_bias_and_scatter_are_those_of_the_sample(rng):
    found = measure_recovery(40.0 + 60.0 * rng.standard_normal(20_000))
    assert found.bias == pytest.approx(40.0, abs=4 * found.e_bias)
    assert found.scatter == pytest.approx(60.0, rel=0.03)
    assert found.outliers < 1e-3


def test_a_few_wild_values_move_neither_bias_nor_scatter(rng):
    clean = rng.standard_normal(10_000)
    wild = clean.copy()
    wild[:100] = 1e6
    before, after = measure_recovery(clean), measure_recovery(wild)
    assert after.bias == pytest.approx(before.bias, abs=0.03)
    assert after.scatter == pytest.approx(before.scatter, rel=0.03)
    assert after.outliers == pytest.approx(0.01, abs=1e-3)


def test_standard_error_of_the_bias_is_how_much_medians_scatter(rng):
    many = [measure_recovery(rng.standard_normal(200)) for _ in range(500)]
    assert np.std([one.bias for one in many]) == pytest.approx(many[0].e_bias, rel=0.15)


def test_pulls_of_honest_errors_have_unit_width_whatever_the_errors(rng):
    error = 10.0 ** rng.uniform(-2, 2, 20_000)
    pulls = measure_pulls(error * rng.standard_normal(20_000), error)
    assert pulls.mean == pytest.approx(0.0, abs=4 * pulls.e_mean)
    assert pulls.width == pytest.approx(1.0, abs=4 * pulls.e_width)
    assert pulls.std == pytest.approx(1.0, rel=0.03)


def test_errors_half_as_large_double_the_width(rng):
    difference = rng.standard_normal(20_000)
    assert measure_pulls(difference, np.full(20_000, 0.5)).width == pytest.approx(2.0, rel=0.03)


def test_error_of_the_width_is_how_much_widths_scatter(rng):
    ones = np.ones(300)
    many = [measure_pulls(rng.standard_normal(300), ones) for _ in range(500)]
    assert np.std([one.width for one in many]) == pytest.approx(many[0].e_width, rel=0.15)


def test_outlying_pulls_are_counted_and_leave_the_mean():
    difference = np.array([0.1, -0.1, 0.2, -0.2, 100.0])
    pulls = measure_pulls(difference, np.ones(5))
    assert pulls.mean == pytest.approx(0.0)
    assert pulls.outliers == pytest.approx(0.2)
    assert PULL_LIMIT < 100


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_rows_without_an_error_have_no_pull(bad):
    pulls = compute_pulls(np.array([1.0, 1.0]), np.array([0.5, bad]))
    assert pulls[0] == 2.0
    assert np.isnan(pulls[1])
    assert measure_pulls(np.array([1.0, 1.0]), np.array([0.5, bad])).n == 1


def test_nothing_to_compare_gives_nan_and_not_an_error():
    nothing = np.array([np.nan])
    assert measure_recovery(nothing).n == 0
    assert np.isnan(measure_recovery(nothing).scatter)
    assert np.isnan(measure_pulls(nothing, nothing).width)
    assert compare(nothing, nothing, nothing, nothing).by_snr == ()


def test_bins_hold_each_row_once_and_leave_out_those_beyond(rng):
    snr = np.array([4.9, 5.0, 9.99, 10.0, 49.0, 50.0, 1e4, np.nan])
    zeros, ones = np.zeros(8), np.ones(8)
    result = compare(zeros, zeros, ones, snr)
    assert [(row.low, row.recovery.n) for row in result.by_snr] == [
        (5.0, 2),
        (10.0, 1),
        (20.0, 1),
        (50.0, 1),
        (100.0, 1),
    ]
    assert result.recovery.n == 8


def test_bins_show_errors_that_are_honest_only_for_faint_stars(rng):
    n = 4000
    snr = np.repeat([7.0, 70.0], n)
    floor = 0.3
    stated = 10.0 / snr
    difference = np.hypot(stated, floor) * rng.standard_normal(2 * n)
    faint, bright = compare(difference, np.zeros(2 * n), stated, snr).by_snr
    assert faint.pulls.width == pytest.approx(np.hypot(10 / 7, floor) / (10 / 7), rel=0.05)
    assert bright.pulls.width == pytest.approx(np.hypot(1 / 7, floor) * 7, rel=0.05)
    assert bright.error == pytest.approx(1 / 7)


def test_variants_are_compared_on_the_same_stars(rng):
    truth = {"teff": rng.uniform(3000, 4000, 200), "mh": rng.normal(0, 0.2, 200)}
    none = {"teff": truth["teff"] + 100, "mh": truth["mh"] - 0.1}
    oracle = {"teff": truth["teff"] + 5 * rng.standard_normal(200), "mh": truth["mh"] + 0.01}
    oracle["teff"][:50] = np.nan
    snr = np.repeat([8.0, 80.0], 100)
    table = compare_variants({"none": none, "oracle": oracle}, truth, snr=snr)
    assert table["none"]["teff"].recovery.n == table["oracle"]["teff"].recovery.n == 150
    assert table["none"]["mh"].recovery.n == 200
    assert table["none"]["teff"].recovery.bias == pytest.approx(100.0)
    assert abs(table["oracle"]["teff"].recovery.bias) < 2
    assert [row.recovery.n for row in table["none"]["teff"].by_snr] == [50, 100]
    bright = compare_variants({"none": none}, truth, chosen=snr > 50)
    assert bright["none"]["teff"].recovery.n == 100
