"""Draws picked after a reference are distributed like it; wrong references are noticed."""

import numpy as np
import pytest
from scipy.stats import norm

from jaxmdwarf.errors import UsageError
from jaxmdwarf.training.labels import codistribution
from jaxmdwarf.training.labels.codistribution import (
    CodistributionConfig,
    check_overlap,
    compute_effective_size,
    measure_distance,
    perturb_reference,
    sample_codistributed,
    select_teff_mh,
)

BOUNDS = ((3000.0, 4000.0), (-1.0, 0.5))


def make_draws(n=200_000, seed=0):
    """Uniform over the bounds, with a gravity that depends on both."""
    rng = np.random.default_rng(seed)
    teff, mh = rng.uniform(3000, 4000, n), rng.uniform(-1.0, 0.5, n)
    logg = 5.2 - 0.5 * (teff - 3000) / 1000 - 0.2 * mh
    return np.column_stack([teff, logg, mh, np.interp(mh, [-1, 0], [0.4, 0.0])])


def make_reference(n=2000, seed=1, *, teff=3550.0, mh=-0.1, sigma=(150.0, 0.2)):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(teff, sigma[0], n), rng.normal(mh, sigma[1], n)])


@pytest.fixture(scope="module")
def draws():
    return make_draws()


@pytest.fixture(scope="module")
def sample(draws):
    return sample_codistributed(draws, make_reference(), seed=3, bounds=BOUNDS)


def test_picked_labels_follow_the_reference(sample):
    reference = make_reference()
    picked = select_teff_mh(sample.labels)
    off = picked.mean(axis=0) - reference.mean(axis=0)
    assert np.all(abs(off) < (8, 0.01))
    np.testing.assert_allclose(picked.std(axis=0), reference.std(axis=0), rtol=0.04)
    assert sample.report.after["overlap"] > 0.94
    assert sample.report.after["ks_teff"] < 0.03
    assert sample.report.before["ks_teff"] > 0.15


def test_correlations_of_the_reference_are_kept(draws):
    rng = np.random.default_rng(5)
    mh = rng.normal(-0.2, 0.2, 3000)
    reference = np.column_stack([3500 + 500 * (mh + 0.2) + rng.normal(0, 60, 3000), mh])
    picked = select_teff_mh(sample_codistributed(draws, reference, seed=1, bounds=BOUNDS).labels)
    expected = np.corrcoef(reference.T)[0, 1]
    assert np.corrcoef(picked.T)[0, 1] == pytest.approx(expected, abs=0.08)


def test_two_dimensions_are_sampled_and_the_others_come_along(sample):
    teff, logg, mh, alpha = sample.labels.T
    np.testing.assert_allclose(logg, 5.2 - 0.5 * (teff - 3000) / 1000 - 0.2 * mh)
    np.testing.assert_allclose(alpha, np.interp(mh, [-1, 0], [0.4, 0.0]))


def test_the_report_counts(draws, sample):
    report = sample.report
    assert report.n_draws == len(draws)
    assert report.n_training == len(sample.labels) == 100_000
    assert 1 < report.effective_sample_size < report.n_draws
    assert 1 / report.n_draws < report.max_weight_share < 0.01
    assert report.coverage == pytest.approx(1 - report.outside_bounds - report.outside_support)
    assert 0.98 < report.coverage <= 1
    assert 0.3 < report.unique_share <= 1
    assert report.as_dict()["after"]["overlap"] == report.after["overlap"]


def test_a_narrow_reference_leaves_fewer_effective_draws(draws):
    narrow = sample_codistributed(
        draws, make_reference(sigma=(50.0, 0.06)), seed=1, bounds=BOUNDS
    ).report
    wide = sample_codistributed(draws, make_reference(), seed=1, bounds=BOUNDS).report
    assert narrow.effective_sample_size < 0.3 * wide.effective_sample_size


def test_a_reference_like_the_draws_costs_nothing(draws):
    report = sample_codistributed(draws, make_draws(20_000, 9), seed=1, bounds=BOUNDS).report
    assert report.effective_sample_size > 0.9 * report.n_draws


def test_known_errors_of_the_reference_are_taken_off(draws):
    errors = (80.0, 0.1)
    truth = make_reference(4000, sigma=(150.0, 0.15))
    observed = truth + np.random.default_rng(8).normal(0, errors, truth.shape)
    config = CodistributionConfig(reference_errors=errors)
    picked = sample_codistributed(draws, observed, seed=1, bounds=BOUNDS, config=config).labels
    np.testing.assert_allclose(select_teff_mh(picked).std(axis=0), truth.std(axis=0), rtol=0.06)


def test_a_small_reference_gives_no_wider_labels(draws):
    reference = make_reference(60)
    picked = select_teff_mh(sample_codistributed(draws, reference, seed=1, bounds=BOUNDS).labels)
    np.testing.assert_allclose(picked.std(axis=0), reference.std(axis=0), rtol=0.1)


def test_a_sample_cut_at_the_bounds_keeps_its_density_up_to_them(draws):
    rng = np.random.default_rng(4)
    reference = np.column_stack([rng.uniform(3400, 4000, 4000), rng.normal(0.0, 0.15, 4000)])
    picked = sample_codistributed(draws, reference, seed=1, bounds=BOUNDS).labels[:, 0]
    counts, _ = np.histogram(picked, 10, (3500, 4000))
    np.testing.assert_allclose(counts, counts.mean(), rtol=0.15)


def test_seeds_reproduce_and_differ(draws, sample):
    again = sample_codistributed(draws, make_reference(), seed=3, bounds=BOUNDS)
    np.testing.assert_array_equal(again.labels, sample.labels)
    other = sample_codistributed(draws, make_reference(), seed=4, bounds=BOUNDS)
    assert not np.array_equal(other.labels, sample.labels)


def test_rows_with_nan_and_other_layouts_change_nothing(draws, sample):
    reference = make_reference()
    labels = np.column_stack([reference[:, 0], np.full(len(reference), 4.8), reference[:, 1]])
    labels = np.vstack([labels, [np.nan, 4.8, 0.0], [3500.0, 4.8, np.nan]])
    again = sample_codistributed(draws, labels, seed=3, bounds=BOUNDS)
    np.testing.assert_array_equal(again.labels, sample.labels)
    assert again.report.n_reference == len(reference)


def test_references_beyond_the_draws_are_refused(draws):
    with pytest.raises(UsageError, match="fewer than 20"):
        sample_codistributed(draws, make_reference(teff=5500.0), seed=1, bounds=BOUNDS)
    with pytest.raises(UsageError, match="lie beyond 3000-4000 K"):
        sample_codistributed(draws, make_reference(teff=4150.0), seed=1, bounds=BOUNDS)
    hot = draws[draws[:, 0] > 3700]
    with pytest.raises(UsageError, match="no isochrone passes"):
        sample_codistributed(hot, make_reference(teff=3300.0), seed=1, bounds=BOUNDS)
    with pytest.raises(UsageError, match="median Teff"):
        sample_codistributed(draws, make_reference()[:, ::-1], seed=1, bounds=BOUNDS)
    with pytest.raises(UsageError, match="shape"):
        sample_codistributed(draws, np.ones((30, 1)), seed=1)


def test_stars_beyond_the_draws_lower_the_coverage(draws):
    reference = make_reference(2000)
    reference[:500, 0] += 2000
    report = sample_codistributed(draws, reference, seed=1, bounds=BOUNDS).report
    assert report.coverage == pytest.approx(0.75, abs=0.02)
    assert report.outside_bounds == pytest.approx(0.25, abs=0.02)


def test_distance_sees_shifts_and_widening():
    first, second = make_reference(3000, 1), make_reference(3000, 2)
    same = measure_distance(first, second)
    assert max(same.ks_teff, same.ks_mh) < 0.05
    assert same.energy < 0.005
    assert same.overlap > 0.93
    shifted = measure_distance(first, perturb_reference(second, widen=1.0))
    assert shifted.shift_teff == pytest.approx(-50, abs=15)
    assert shifted.shift_mh == pytest.approx(-0.1, abs=0.03)
    assert min(shifted.ks_teff, shifted.ks_mh) > 0.08
    assert shifted.energy > 10 * same.energy
    widened = measure_distance(perturb_reference(second, shift_teff=0.0, shift_mh=0.0), first)
    assert widened.width_teff == pytest.approx(1.3, abs=0.08)
    assert widened.width_mh == pytest.approx(1.3, abs=0.08)
    apart = measure_distance(first, make_reference(teff=5500.0))
    assert apart.overlap < 0.01
    assert apart.ks_teff > 0.99
    assert 0.5 < apart.energy < 1


def test_overlap_falls_with_distance():
    overlaps = [
        measure_distance(make_reference(), make_reference(seed=7, teff=3550.0 + shift)).overlap
        for shift in (0, 75, 150, 300, 600)
    ]
    assert np.all(np.diff(overlaps) < 0)


def test_fits_of_other_stars_are_refused_and_biased_ones_are_not():
    reference = make_reference()
    biased = perturb_reference(reference, shift_teff=120.0, shift_mh=-0.15, widen=1.4)
    assert check_overlap(biased, reference).overlap > 0.4
    other = make_reference(seed=5, teff=4300.0, mh=0.2)
    with pytest.raises(UsageError, match=r"off by \+7\d\d K.*Remedy"):
        check_overlap(other, reference)


def test_perturbing_keeps_what_it_does_not_concern():
    labels = make_draws(500)
    labels[3, 2] = np.nan
    perturbed = perturb_reference(labels)
    np.testing.assert_array_equal(perturbed[:, [1, 3]], labels[:, [1, 3]])
    assert np.isnan(perturbed[3, 2])
    difference = np.nanmedian(perturbed, axis=0) - np.nanmedian(labels, axis=0)
    np.testing.assert_allclose(difference[[0, 2]], [50, 0.1])
    np.testing.assert_allclose(
        np.nanstd(perturbed, axis=0)[[0, 2]], 1.3 * np.nanstd(labels, axis=0)[[0, 2]]
    )


def test_effective_size_lies_between_one_and_n():
    rng = np.random.default_rng(0)
    for _ in range(5):
        weights = rng.exponential(1.0, 50) ** rng.integers(1, 5)
        assert 1 <= compute_effective_size(weights) <= 50
    assert compute_effective_size(np.eye(5)[0]) == 1


def test_each_number_of_a_distance_is_of_its_own_label():
    """Gaussians of known shift in one label and known width in the other."""
    rng = np.random.default_rng(4)
    first = rng.normal((3500.0, -0.1), (100.0, 0.3), (20_000, 2))
    second = rng.normal((3440.0, -0.1), (100.0, 0.15), (20_000, 2))
    found = measure_distance(first, second)
    # Of two Gaussians d sigma apart, and of two about one mean with widths of 2 and 1.
    at = np.sqrt(2 * np.log(2) / (1 - 0.25))
    assert found.ks_teff == pytest.approx(2 * norm.cdf(0.3) - 1, abs=0.015)
    assert found.ks_mh == pytest.approx(norm.cdf(at) - norm.cdf(at / 2), abs=0.015)
    assert found.shift_teff == pytest.approx(60.0, abs=4)
    assert found.shift_mh == pytest.approx(0.0, abs=0.012)
    assert found.width_teff == pytest.approx(1.0, rel=0.03)
    assert found.width_mh == pytest.approx(2.0, rel=0.03)
    assert found.energy > 0.005
    gone = first.copy()
    gone[::7, 1] = np.nan
    again = measure_distance(gone, second)
    assert again.ks_mh == pytest.approx(found.ks_mh, abs=0.01)


def test_large_samples_are_thinned_to_different_rows():
    rng = np.random.default_rng(0)
    sample = np.arange(200.0).reshape(100, 2)
    assert codistribution._thin(sample, rng, 100) is sample
    few = codistribution._thin(sample, rng, 90)
    assert len(np.unique(few, axis=0)) == len(few) == 90
    assert (few[:, 1] - few[:, 0] == 1).all()
