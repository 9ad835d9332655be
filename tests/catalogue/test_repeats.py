"""Precision from repeats finds what was put in; total errors cover the truth."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.repeats import (
    RepeatConfig,
    add_total_errors,
    combine_errors,
    measure_misfit,
    measure_precision,
)
from jaxmdwarf.errors import UsageError
from jaxmdwarf.quality import QualityFlag

# What the paper finds at S/N 10 and 100 (section 4.1), as a and b of eq. 9.
PAPER = {"RV": (66.7, 3.03), "Teff": (433.0, 17.7), "Logg": (0.55, 0.015), "M_H": (1.0, 0.04)}


def observe(rng, n_star=3000, visits=(3, 7)):
    """Star and S/N of the visits of a survey."""
    star = np.repeat(np.arange(n_star), rng.integers(*visits, n_star))
    base = np.exp(rng.uniform(np.log(6), np.log(120), n_star))[star]
    return star, np.clip(base * np.exp(rng.normal(0, 0.4, star.size)), 5, 300)


@pytest.mark.parametrize("column", PAPER)
def test_the_injected_curve_comes_back_within_its_errors(column):
    a, b = PAPER[column]
    pulls = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        star, snr = observe(rng)
        truth = rng.normal(0, 10 * b, star.max() + 1)[star] + 1e4 * b
        found = measure_precision(truth + (a / snr + b) * rng.normal(size=star.size), snr, star)
        pulls.append(((found.a - a) / found.e_a, (found.b - b) / found.e_b))
        assert found.e_a < 0.1 * a
        assert found.e_b < 0.1 * b
    pulls = np.array(pulls)
    assert np.abs(pulls).max() < 4
    assert np.abs(pulls.mean(axis=0)).max() < 1.2  # of 12: 4 sigma
    assert pulls.std(axis=0).max() < 1.8


def test_three_visits_show_the_whole_of_their_scatter():
    rng = np.random.default_rng(3)
    star = np.repeat(np.arange(4000), 3)
    snr = np.tile([10.0, 15.0, 50.0], 4000) + rng.uniform(0, 3, star.size)
    values = rng.normal(0, 1000.0, 4000)[star] + 30.0 * rng.normal(size=star.size)
    found = measure_precision(values, snr, star)
    np.testing.assert_allclose(found.predict(snr), 30.0, rtol=0.05)
    assert (found.n_stars, found.n_visits) == (4000, 12000)


def test_binaries_do_not_spoil_the_curve_and_bad_rows_do_not_count():
    rng = np.random.default_rng(4)
    star, snr = observe(rng)
    a, b = PAPER["RV"]
    values = (a / snr + b) * rng.normal(size=star.size)
    binary = rng.random(star.max() + 1) < 0.05
    moved = values + np.where(binary[star], rng.normal(0, 60, star.size), 0)
    moved[::50], snr = np.nan, np.where(np.arange(snr.size) % 77 == 0, -9999.0, snr)
    found = measure_precision(moved, snr, star)
    usable = snr > 0
    np.testing.assert_allclose(found.predict(snr[usable]), a / snr[usable] + b, rtol=0.12)
    assert np.isnan(found.predict(snr[~usable])).all()


def test_too_few_repeats_measure_nothing():
    rng = np.random.default_rng(5)
    assert measure_precision(rng.normal(size=50), np.full(50, 20.0), np.arange(50)) is None
    pairs = np.repeat(np.arange(500), 2)
    snr = rng.uniform(5, 100, 1000)
    assert measure_precision(rng.normal(size=1000), snr, pairs) is None
    two = RepeatConfig(min_visits=2)
    assert measure_precision(rng.normal(size=1000), snr, pairs, config=two).n_stars == 500
    one_bin = np.full(1000, 20.0)
    assert measure_precision(rng.normal(size=1000), one_bin, pairs, config=two) is None
    assert measure_precision(np.zeros(1000), snr, pairs, config=two) is None


def test_values_without_scatter_at_high_snr_have_no_floor_below_zero():
    rng = np.random.default_rng(6)
    star, snr = observe(rng)
    found = measure_precision(400 / snr**1.2 * rng.normal(size=star.size), snr, star)
    assert found.b >= 0
    assert found.a > 0


def survey(seed, shared):
    """Labels of repeat visits; the fits state an error of what `shared` says.

    shared: what all visits of a star have in common, of the size that the fits state; else the
    stated errors are a part of what differs from visit to visit.
    """
    rng = np.random.default_rng(seed)
    star, snr = observe(rng, n_star=4000)
    table = pd.DataFrame({"SNRr": snr, "flags": np.int32(0)})
    truth = {}
    for column, (a, b) in PAPER.items():
        stated = np.exp(rng.normal(0, 0.2, star.max() + 1)) * b
        truth[column] = rng.normal(0, 10 * b, star.max() + 1)[star]
        repeat = (a / snr + b) * rng.normal(size=star.size)
        common = (stated * rng.normal(size=stated.size))[star] if shared else 0.0
        table[column] = truth[column] + repeat + common
        table[f"e_{column}"] = stated[star] if shared else 0.7 * (a / snr + b)
    return table, star, truth


@pytest.mark.parametrize(("shared", "total"), [(True, "paper"), (False, "excess")])
def test_total_errors_cover_the_truth_in_each_bin_of_snr(shared, total):
    table, star, truth = survey(7, shared)
    done, precisions, notes = add_total_errors(table, star, RepeatConfig(total=total))
    assert set(precisions) == set(PAPER)
    assert not notes
    for column in PAPER:
        pull = np.abs((done[column] - truth[column]) / done[f"e_{column}"])
        for low, high in ((5, 10), (10, 20), (20, 40), (40, 80), (80, 300)):
            inside = pull[(table["SNRr"] >= low) & (table["SNRr"] < high)]
            assert np.mean(inside < 1) == pytest.approx(0.68, abs=0.03), (column, low)
            assert np.mean(inside < 2) == pytest.approx(0.95, abs=0.02), (column, low)


def test_all_parts_of_total_errors_are_kept_and_either_rule_can_be_made_of_them():
    table, star, _ = survey(8, True)
    eq_8 = RepeatConfig(total="paper")
    done, precisions, _ = add_total_errors(table, star, eq_8)
    repeat = precisions["Teff"].predict(table["SNRr"].to_numpy())
    np.testing.assert_array_equal(done["e_repeat_Teff"], repeat)
    np.testing.assert_allclose(done["e_Teff"], np.hypot(table["e_Teff"], repeat))
    np.testing.assert_array_equal(done["e_fit_Teff"], table["e_Teff"])
    names = list(done.columns)
    first = names.index("e_Teff")
    assert names[first : first + 3] == ["e_Teff", "e_fit_Teff", "e_repeat_Teff"]
    by_default, _, _ = add_total_errors(done, star)
    assert (by_default["e_Teff"] < done["e_Teff"]).all()
    again, _, _ = add_total_errors(by_default, star, eq_8)
    np.testing.assert_allclose(again["e_Teff"], done["e_Teff"])
    np.testing.assert_array_equal(again["e_fit_Teff"], done["e_fit_Teff"])


def test_only_good_rows_and_measured_velocities_tell_precision():
    table, star, _ = survey(9, True)
    flagged = table.copy()
    bad = np.random.default_rng(0).random(len(table)) < 0.3
    flagged.loc[bad, ["RV", "Teff"]] += 1e4
    flagged["flags"] = np.where(bad, int(QualityFlag.NOT_CONVERGED), 0).astype(np.int32)
    done, precisions, _ = add_total_errors(flagged, star)
    assert precisions["Teff"].predict(np.array([20.0]))[0] < 60
    assert np.isfinite(done["e_Teff"]).all()
    flagged["flags"] = np.where(bad, int(QualityFlag.FALLBACK_VELOCITY), 0).astype(np.int32)
    _, by_header, _ = add_total_errors(flagged, star)
    assert by_header["RV"].n_visits < by_header["Teff"].n_visits


def test_without_repeats_errors_stay_formal_and_it_is_said():
    table, _, _ = survey(10, True)
    done, precisions, notes = add_total_errors(table, np.arange(len(table)))
    assert not precisions
    assert "e_Teff is the error of the fit alone" in " ".join(notes)
    np.testing.assert_array_equal(done["e_Teff"], table["e_Teff"])
    assert "e_fit_Teff" not in done
    with pytest.raises(UsageError, match="no column SNRz"):
        add_total_errors(table, np.arange(len(table)), RepeatConfig(snr_column="SNRz"))
    for wrong in ({"min_visits": 1}, {"bin_width": 0.0}):
        with pytest.raises(UsageError, match="no sense"):
            RepeatConfig(**wrong)


@pytest.mark.parametrize("seed", [12, 13, 14])
def test_noise_that_the_fits_state_is_counted_once(seed):
    # Errors of spectra of one S/N differ, by some tens of per cent or by a factor.
    rng = np.random.default_rng(seed)
    star, snr = observe(rng)
    formal = (433.0 / snr + 17.7) * np.exp(rng.normal(0, 0.4, star.size))
    values = rng.normal(0, 200.0, star.max() + 1)[star] + formal * rng.normal(size=star.size)
    found = measure_precision(values, snr, star, formal=formal)
    total = combine_errors(formal, snr, found)
    assert (total >= formal).all()
    assert np.median(total / formal) < 1.02
    assert np.median(combine_errors(formal, snr, found, "paper") / formal) > 1.3
    # What the fits do not know is found, whatever they know beside it.
    more = 300.0 / snr + 25.0
    values += more * rng.normal(size=star.size)
    found = measure_precision(values, snr, star, formal=formal)
    total, true = combine_errors(formal, snr, found), np.hypot(formal, more)
    for low, high in ((5, 10), (10, 20), (20, 40), (40, 80), (80, 300)):
        inside = (snr >= low) & (snr < high)
        assert np.median((total / true)[inside]) == pytest.approx(1.0, abs=0.05)


def test_errors_that_are_larger_than_the_scatter_stay():
    rng = np.random.default_rng(15)
    star, snr = observe(rng, n_star=500)
    values = (433.0 / snr + 17.7) * rng.normal(size=star.size)
    large = np.full(star.size, 400.0)
    found = measure_precision(values, snr, star, formal=large)
    np.testing.assert_array_equal(combine_errors(large, snr, found), large)
    np.testing.assert_array_equal(found.stated, np.full(len(found.snr), 400.0))
    unknown = measure_precision(values, snr, star, formal=np.full(star.size, np.nan))
    assert np.isnan(unknown.excess).all()
    assert np.isnan(unknown.stated).all()


def test_misfit_is_chi_square_beyond_what_is_usual_at_that_snr():
    snr = np.exp(np.random.default_rng(0).uniform(np.log(5), np.log(200), 4000))
    usual = 1.0 + (snr / 200.0) ** 2
    bad = np.arange(4000) % 20 == 0
    chi2 = np.where(bad, 4.0, 1.0) * usual
    chi2[:3], usable = (np.nan, 0.0, -1.0), np.arange(4000) % 7 > 0
    found = measure_misfit(chi2, snr, usable)
    assert not found[:3].any()
    np.testing.assert_allclose(found[20::20], 3.0, atol=0.6)
    assert found[~bad].max() < 0.2
    assert not measure_misfit(chi2[:90], snr[:90], usable[:90]).any()


@pytest.mark.parametrize("seed", [16, 17])
def test_errors_of_bad_fits_grow_as_their_visits_scatter(seed):
    rng = np.random.default_rng(seed)
    star, snr = observe(rng, n_star=4000)
    table = pd.DataFrame({"SNRr": snr, "flags": np.int32(0)})
    bad = rng.random(star.size) < 0.15
    table["chi2_red"] = 1.0 + (snr / 60.0) ** 2
    table["chi2_red"] *= np.where(bad, rng.uniform(2.0, 9.0, star.size), 1.0)
    formal = (433.0 / snr + 17.7) * np.exp(rng.normal(0, 0.2, star.size))
    misfit = measure_misfit(table["chi2_red"].to_numpy(), snr, np.ones(star.size, bool))
    true = formal * np.sqrt(1.0 + 0.4 * misfit)
    table["Teff"] = rng.normal(3600, 200, star.max() + 1)[star] + true * rng.normal(size=star.size)
    table["e_Teff"] = formal
    done, precisions, _ = add_total_errors(table, star)
    assert precisions["Teff"].misfit == pytest.approx(0.4, abs=0.15)
    ratio = (done["e_Teff"] / true).to_numpy()
    # Some 2,000 deviations of bad fits, in five bins: 3 % of their errors.
    assert np.median(ratio[bad]) == pytest.approx(1.0, abs=0.1)
    assert np.median(ratio[~bad]) == pytest.approx(1.0, abs=0.02)
    # Without chi-square, bad fits are not told.
    plain, _, _ = add_total_errors(table.drop(columns="chi2_red"), star)
    assert np.median((plain["e_Teff"] / true)[bad]) < 0.7
