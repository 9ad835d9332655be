"""Numbers of an agreement are those that were put in, and their errors are how they scatter."""

import numpy as np
import pytest

from jaxmdwarf.diagnostics.agreement import list_agreement, measure_agreement
from jaxmdwarf.errors import UsageError


def test_outliers_move_the_plain_scatter_and_not_the_robust_one():
    rng = np.random.default_rng(0)
    difference = 3.0 + 2.0 * rng.standard_normal(3000)
    clean = measure_agreement(difference)
    difference[:60] += 100.0
    found = measure_agreement(difference)
    assert found.bias == pytest.approx(3.0, abs=0.2)
    assert found.robust_scatter == pytest.approx(clean.robust_scatter, abs=0.1)
    assert found.scatter > 10 > 5 * clean.scatter / 2
    assert found.e_scatter > 5 * clean.e_scatter
    assert np.isnan([found.stated_error, found.pull_width, found.excess]).all()


def test_bootstrap_errors_are_how_the_numbers_scatter_between_samples():
    rng = np.random.default_rng(1)
    found = [
        measure_agreement(rng.uniform(-2, 2, 200), np.full(200, 0.5), n_bootstrap=40)
        for _ in range(60)
    ]
    for name in ("bias", "mean", "robust_scatter", "scatter", "excess"):
        happened = np.std([getattr(one, name) for one in found])
        stated = np.median([getattr(one, f"e_{name}") for one in found])
        assert stated == pytest.approx(happened, rel=0.25), name


@pytest.mark.parametrize(("stated", "excess", "width"), [(1.0, 2.0, 5**0.5), (3.0, 0.0, 0.745)])
def test_what_stated_errors_do_not_explain_is_the_excess(stated, excess, width):
    rng = np.random.default_rng(2)
    error = np.full(20_000, stated)
    error[:50] = np.nan
    error[50:90] = 0.0
    difference = rng.standard_normal(20_000) * 5**0.5
    found = measure_agreement(difference, error, n_bootstrap=20)
    assert found.excess == pytest.approx(excess, abs=4 * found.e_excess + 1e-9)
    assert found.pull_width == pytest.approx(width, rel=0.03)
    assert found.stated_error == stated
    assert found.n == 20_000


def test_errors_of_different_size_are_weighed_star_by_star():
    # Median errors say nothing here: half of the stars have far larger ones.
    rng = np.random.default_rng(3)
    error = np.where(np.arange(20_000) % 2, 0.1, 5.0)
    found = measure_agreement(np.hypot(error, 1.0) * rng.standard_normal(20_000), error)
    assert found.excess == pytest.approx(1.0, abs=4 * found.e_excess)
    assert found.e_excess < 0.05


def test_no_difference_one_and_too_few_resamples():
    assert measure_agreement(np.array([np.nan, np.inf])).n == 0
    one = measure_agreement(np.array([2.0]), np.array([1.0]))
    assert (one.n, one.bias) == (1, 2.0)
    assert np.isnan([one.scatter, one.e_bias]).all()
    with pytest.raises(UsageError, match="some hundred"):
        measure_agreement(np.zeros(3), n_bootstrap=1)


def test_errors_of_the_bootstrap_are_those_of_gaussian_samples():
    n = 900
    found = measure_agreement(7.0 + 3.0 * np.random.default_rng(2).standard_normal(n))
    assert found.n == n
    assert found.bias == pytest.approx(7.0, abs=0.4)
    assert found.robust_scatter == pytest.approx(3.0, rel=0.1)
    # Standard errors of mean, median and standard deviation of n Gaussian numbers.
    assert found.e_mean == pytest.approx(3.0 / np.sqrt(n), rel=0.15)
    assert found.e_bias == pytest.approx(1.2533 * 3.0 / np.sqrt(n), rel=0.3)
    assert found.e_scatter == pytest.approx(3.0 / np.sqrt(2 * n), rel=0.2)


def test_the_seed_fixes_the_errors_and_nothing_else():
    difference = np.random.default_rng(4).standard_normal(50)
    one, same, other = (measure_agreement(difference, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_equal(one, same)
    assert one.e_bias != other.e_bias
    assert one.bias == other.bias


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_differences_have_no_errors(n):
    found = measure_agreement(np.arange(n, dtype=float))
    assert found.n == n
    assert np.isnan(found.e_bias)
    assert np.isfinite(found.bias) == (n > 0)


def test_bins_hold_every_row_once_and_show_a_trend():
    rng = np.random.default_rng(6)
    n = 103
    teff, snr = rng.uniform(3000, 4000, n), rng.uniform(5, 200, n)
    measured = teff + 0.1 * (teff - 3500)
    measured[:3] = np.nan
    rows = list_agreement(measured, teff, snr, n_bootstrap=10)
    by = {name: [row for row in rows if row.by == name] for name in ("all", "snr", "reference")}
    assert by["all"][0].agreement.n == 100
    assert (by["snr"][0].low, by["snr"][0].high) == (50.0, np.inf)
    assert sum(row.agreement.n for row in by["snr"][1:]) == 100
    assert [row.agreement.n for row in by["reference"]] == [20] * 5
    biases = [row.agreement.bias for row in by["reference"]]
    assert biases == sorted(biases)
    assert biases[0] < -20 < 20 < biases[-1]
