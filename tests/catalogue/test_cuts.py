"""Cuts of the paper: a bit each, counted in order, and none lost."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.cuts import (
    CutConfig,
    apply_cuts,
    find_threshold,
    mark_rows,
    read_bounds,
    write_bounds,
)
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.quality import QualityFlag


@pytest.fixture
def table():
    n = 200
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "SNRr": np.full(n, 20.0),
            "SNRi": np.full(n, 30.0),
            "Teff": rng.uniform(3000, 4000, n),
            "e_Teff": rng.normal(40, 5, n),
            "Logg": np.full(n, 4.9),
            "e_Logg": rng.normal(0.05, 0.005, n),
            "M_H": np.full(n, -0.2),
            "e_M_H": rng.normal(0.1, 0.01, n),
            "RV": np.zeros(n),
            "e_RV": rng.normal(5, 0.5, n),
            "chi2_red": np.full(n, 1.2),
            "Age": np.full(n, 5.0),
            "Age_mean": np.full(n, 6.0),
            "flags": np.full(n, int(QualityFlag.INPUT_NAN), np.int32),
        }
    )
    rows.loc[0, "SNRi"] = 4.0
    rows.loc[[0, 1], "Teff"] = 4301.0
    rows.loc[2, "Logg"] = 4.04
    rows.loc[3, "flags"] = int(QualityFlag.LOGG_AT_BOUND)
    rows.loc[4, "e_M_H"] = 0.6
    rows.loc[5, "e_RV"] = np.nan
    rows.loc[6, "chi2_red"] = 51.0
    rows.loc[7, "Age"] = 0.9
    rows.loc[8, "Age_mean"] = 0.9
    rows.loc[9, ["Age", "Age_mean"]] = np.nan
    return rows


EXPECTED = {
    "low_snr": [0],
    "too_hot": [0, 1],
    "logg_near_bound": [2, 3],
    "large_error": [4, 5],
    "bad_chi2": [6],
    "young": [7, 8],
}


def test_each_cut_sets_its_bit_and_no_other(table):
    found = apply_cuts(table, CutConfig(logg_bounds=(4.0, 6.0)))
    assert [one.name for one in found.steps] == list(EXPECTED)
    assert not found.skipped
    for name, rows in EXPECTED.items():
        bit = int(QualityFlag[name.upper()])
        assert np.flatnonzero(found.flags & bit).tolist() == rows
    assert found.flags[50] == int(QualityFlag.INPUT_NAN)
    assert found.flags.dtype == np.int32
    marked = mark_rows(table, found)
    assert np.flatnonzero(~marked["good"]).tolist() == list(range(9))


def test_the_waterfall_counts_each_row_once(table):
    found = apply_cuts(table, CutConfig(logg_bounds=(4.0, 6.0)))
    assert [one.failing for one in found.steps] == [1, 2, 2, 2, 1, 2]
    assert [one.removed for one in found.steps] == [1, 1, 2, 2, 1, 2]
    assert found.steps[-1].left == 200 - 9 == np.count_nonzero(found.first < 0)
    assert found.first[:9].tolist() == [0, 1, 2, 2, 3, 3, 4, 5, 5]


def test_limits_are_options_and_none_switches_a_cut_off(table):
    off = CutConfig(min_snr=None, max_teff=None, error_sigma=None, max_chi2=None, min_age_gyr=None)
    found = apply_cuts(table, off)
    assert [one.name for one in found.steps] == ["logg_near_bound"]
    assert np.flatnonzero(found.first == 0).tolist() == [3]  # the bounds are not known
    warm = apply_cuts(table, CutConfig(max_teff=3500.0, logg_bounds=(3.0, 6.0), logg_margin=0.1))
    assert warm.steps[1].failing == (table["Teff"] > 3500).sum()
    assert warm.steps[1].words == "Teff above 3500 K"
    assert warm.steps[2].failing == 1
    narrow = CutConfig(logg_bounds=(4.0, 6.0), logg_margin=2.5)
    assert apply_cuts(table, narrow).steps[2].failing == len(table)  # near both bounds
    for wrong in ({"logg_bounds": (6.0, 4.0)}, {"logg_margin": -1.0}, {"error_sigma": -5.0}):
        with pytest.raises(UsageError, match="must increase"):
            CutConfig(**wrong)


def test_errors_are_large_beyond_five_standard_deviations_of_the_sample(table):
    usual = np.tile([0.09, 0.11], 100)  # mean 0.1, standard deviation 0.01
    for error, large in ((0.146, 0), (0.158, 1)):
        usual[10] = error
        found = apply_cuts(table.assign(e_M_H=usual, e_RV=5.0))
        assert next(one for one in found.steps if one.name == "large_error").failing == large


def test_cuts_that_cannot_be_made_are_told(table):
    found = apply_cuts(table[["Teff"]])
    assert [one.name for one in found.steps] == ["too_hot"]
    assert "no ages were given" in found.skipped[-1]
    held = apply_cuts(table.assign(e_Logg=np.nan))
    assert held.steps[3].failing == 2  # a label that was held has no errors, and none is missing


def test_cuts_made_again_take_their_old_bits_off(table):
    marked = mark_rows(table, apply_cuts(table))
    loose = apply_cuts(marked, CutConfig(max_teff=5000.0, min_age_gyr=None))
    assert not (loose.flags & int(QualityFlag.TOO_HOT | QualityFlag.YOUNG)).any()


def test_thresholds_are_of_what_lies_within_them():
    rng = np.random.default_rng(1)
    error = np.concatenate([rng.normal(10, 1, 10_000), np.full(300, 1e5), [np.nan]])
    assert find_threshold(error, 5.0) == pytest.approx(15.0, abs=0.1)
    for equal in (0.1, 1 / 3, 61.7):
        assert find_threshold(np.full(997, equal), 5.0) >= equal


def test_bounds_travel_as_text():
    space = LabelSpace(("teff", "logg"), ("K", "dex"), (2500.0, 3.5), (4600.0, 6.25))
    assert read_bounds(write_bounds(space)) == {"teff": (2500.0, 4600.0), "logg": (3.5, 6.25)}
    assert read_bounds("") == {}
