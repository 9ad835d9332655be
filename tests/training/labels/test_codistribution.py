"""Draws picked after a reference are distributed like it; wrong references are noticed."""

import numpy as np
import pytest
from scipy.stats import energy_distance as energy_of_scipy
from scipy.stats import multivariate_normal, norm

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


def test_widths_and_bandwidths_are_those_of_gaussians():
    sample = np.random.default_rng(0).normal((3500.0, 0.0), (120.0, 0.3), (64_000, 2))
    np.testing.assert_allclose(codistribution._robust_width(sample), [119.3, 0.298], rtol=0.02)
    # Scott's rule in two dimensions.
    expected = 64_000 ** (-1 / 6) * np.array([119.3, 0.298])
    np.testing.assert_allclose(codistribution._scott_bandwidth(sample), expected, rtol=0.02)
    same = np.tile([[3500.0, 0.1]], (10, 1))
    np.testing.assert_array_equal(codistribution._robust_width(same), [1.0, 1e-3])


@pytest.mark.parametrize(
    ("bandwidth", "errors", "variance"),
    [
        ((30.0, 0.1), (0.0, 0.0), (100.0**2 - 30.0**2, 0.2**2 - 0.1**2)),
        ((30.0, 0.1), (50.0, 0.1), (100.0**2 - 50.0**2 - 30.0**2, 0.2**2 - 0.1**2 - 0.1**2)),
        # Errors leave a tenth of the variance, and the smoothing of that a twentieth of it all.
        ((10.0, 0.1), (500.0, 9.0), (0.1 * 100.0**2 - 10.0**2, 0.05 * 0.2**2)),
    ],
)
def test_samples_are_narrowed_by_what_smoothing_and_errors_add(bandwidth, errors, variance):
    z = np.random.default_rng(1).standard_normal((500, 2))
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    stars = np.array([3500.0, -0.1]) + z * [100.0, 0.2]
    found = codistribution._take_off_width(stars, np.array(bandwidth), np.array(errors))
    np.testing.assert_allclose(found.mean(axis=0), [3500.0, -0.1])
    np.testing.assert_allclose(found.var(axis=0), variance)
    np.testing.assert_allclose((found - found.mean(axis=0)) / found.std(axis=0), z)


def test_densities_are_gaussians_of_the_bandwidth_mirrored_at_the_edges():
    edges = [np.linspace(3000, 3800, 81), np.linspace(-1, 0.5, 76)]
    bandwidth = np.array([40.0, 0.05])
    stars = np.array([[3405.0, -0.21], [3005.0, 0.03], [3005.0, 0.03]])
    density = codistribution._smooth_density(stars, edges, bandwidth)
    assert density.shape == (80, 75)
    assert density.sum() == pytest.approx(1)
    teff, mh = np.meshgrid(*(edge[:-1] + np.diff(edge) / 2 for edge in edges), indexing="ij")
    at = np.stack([teff, mh], axis=-1)
    expected = np.zeros_like(teff)
    # The second lies half a cell from the edge: its image is on the other side.
    for x, y, count in ((3405, -0.21, 1), (3005, 0.03, 2), (2995, 0.03, 2)):
        expected += count * multivariate_normal([x, y], np.diag(bandwidth**2)).pdf(at)
    expected /= expected.sum()
    np.testing.assert_allclose(density, expected, atol=1e-3 * expected.max())


def test_densities_between_cells_are_bilinear_and_level_beyond():
    edges = [np.linspace(3000, 3040, 5), np.linspace(0.0, 0.6, 4)]
    teff, mh = np.meshgrid([3005, 3015, 3025, 3035], [0.1, 0.3, 0.5], indexing="ij")
    plane = 2.0 + 0.01 * (teff - 3000) + 3.0 * mh
    at = np.array([[3005.0, 0.1], [3012.0, 0.35], [3034.0, 0.45], [3000.0, 0.3], [3020.0, 0.9]])
    found = codistribution._look_up(plane, edges, at)
    np.testing.assert_allclose(found, [2.35, 3.17, 3.69, 2.95, 3.70])


def test_weights_are_cut_at_a_multiple_of_their_mean():
    ratio = np.array([1.0, 1.0, 2.0, 4.0, 12.0])
    weights, clipped = codistribution._clip_weights(ratio, 2.0)
    assert weights.tolist() == [1, 1, 2, 4, 8]
    assert clipped == 0.2
    weights, clipped = codistribution._clip_weights(ratio, 3.0)
    assert (weights.tolist(), clipped) == (ratio.tolist(), 0.0)


def test_each_draw_is_picked_within_one_of_its_expected_number():
    rng = np.random.default_rng(0)
    weights = rng.exponential(1.0, 50)
    weights[[0, 7, 49]] = 0.0
    total = np.zeros(50)
    for _ in range(300):
        picked = codistribution._pick_systematically(weights, 200, rng)
        counts = np.bincount(picked, minlength=50)
        expected = 200 * weights / weights.sum()
        assert (np.abs(counts - expected) < 1).all()
        assert picked.size == 200
        total += counts
    np.testing.assert_allclose(total / 300, expected, atol=0.12)
    assert (np.diff(picked) < 0).any()


def test_overlaps_are_integrals_of_the_smaller_density():
    """Of unit Gaussians two sigma apart: 2 Phi(-1); smoothing by h widens both alike."""
    rng = np.random.default_rng(2)
    first = rng.normal((3500.0, 0.0), (100.0, 0.2), (20_000, 2))
    second = rng.normal((3700.0, 0.0), (100.0, 0.2), (20_000, 2))
    width = np.sqrt(1 + 20_000 ** (-1 / 3))
    expected = 2 * norm.cdf(-1 / width)
    assert codistribution._overlap(first, second) == pytest.approx(expected, abs=0.015)
    assert codistribution._overlap(first, first) == pytest.approx(1.0)
    # The coarser of two smoothings: few stars are no reason to see gaps.
    few = first[:150]
    coarse = np.sqrt(1 + 150 ** (-1 / 3))
    expected = 2 * norm.cdf(-1 / coarse)
    assert codistribution._overlap(few, second) == pytest.approx(expected, abs=0.05)


def test_overlaps_of_two_points_are_those_of_the_gaussians_that_smooth_them():
    """Sixty-four stars at one place: half a kelvin, half a thousandth of a dex."""
    first = np.tile([[3500.0, -0.2]], (64, 1))
    for away in ((1.0, 0.0), (0.0, -0.0015), (-0.6, 0.0008)):
        second = first + np.array(away)
        distance = np.hypot(*(np.array(away) / [0.5, 0.0005]))
        # Cells are a quarter of that wide.
        expected = 2 * norm.cdf(-distance / 2)
        assert codistribution._overlap(first, second) == pytest.approx(expected, abs=0.05)


def test_energies_are_of_thinned_samples_and_never_negative(monkeypatch):
    rng = np.random.default_rng(3)
    # Along one line the energy distance is scipy's, whose square it is.
    x, y = rng.normal(0.0, 1.0, 1200), rng.normal(0.7, 1.3, 1100)
    first, second = (np.stack([values, np.zeros_like(values)], axis=1) for values in (x, y))
    found = codistribution._energy_distance(first, second, rng)
    between = 2 * np.mean(np.abs(x[:, None] - y))
    assert found == pytest.approx(energy_of_scipy(x, y) ** 2 / between, abs=2e-3)
    sizes = []
    monkeypatch.setattr(
        codistribution, "energy_distance", lambda *two: sizes.extend(map(len, two)) or -0.1
    )
    assert codistribution._energy_distance(np.ones((1501, 2)), np.ones((1500, 2)), rng) == 0.0
    assert sizes == [1500, 1500]


def test_limits_of_coverage_bounds_and_counts():
    draws = make_draws(20_000)
    reference = make_reference(400, sigma=(100.0, 0.1))
    reference[:100, 0] = 5000.0
    # Three quarters are within, exactly; stars on a bound are.
    reference[100] = (3000.0, -0.1)
    for least, passes in ((0.74, True), (0.76, False)):
        config = CodistributionConfig(min_coverage=least, n_training=1000)
        if passes:
            report = sample_codistributed(draws, reference, seed=1, bounds=BOUNDS, config=config)
            assert report.report.n_within == 300
            assert report.report.n_reference == 400
            assert report.report.outside_bounds == 0.25
        else:
            with pytest.raises(UsageError, match="exist for 75% of 400"):
                sample_codistributed(draws, reference, seed=1, bounds=BOUNDS, config=config)
    for n, passes in ((20, True), (19, False)):
        config = CodistributionConfig(n_training=1000, min_reference=20)
        few = make_reference(n, sigma=(50.0, 0.05))
        if passes:
            sample_codistributed(draws, few, seed=1, bounds=BOUNDS, config=config)
        else:
            with pytest.raises(UsageError, match="19 of 19 reference stars"):
                sample_codistributed(draws, few, seed=1, bounds=BOUNDS, config=config)
    for bad in (
        {"n_training": 0}, {"min_coverage": -0.1}, {"min_coverage": 1.1},
        {"reference_errors": (0.0, -1.0)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            CodistributionConfig(**bad)
    CodistributionConfig(n_training=1, min_coverage=0.0)
    CodistributionConfig(min_coverage=1.0)


def test_smoothing_and_weights_are_reported_as_they_were(draws):
    reference = make_reference(2000)
    config = CodistributionConfig(n_training=5000, max_ratio=2.0)
    report = sample_codistributed(draws, reference, seed=1, bounds=BOUNDS, config=config).report
    inside = reference[(reference[:, 0] < 4000) & (np.abs(reference[:, 1] + 0.25) < 0.75)]
    width = np.ptp(np.percentile(inside, [16, 84], axis=0), axis=0) / 2
    expected = 0.7 * width * len(inside) ** (-1 / 6)
    found = report.bandwidth_teff, report.bandwidth_mh
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Uniform draws: the share where the reference's density is more than twice the draws'.
    density = multivariate_normal((3550.0, -0.1), np.diag([150.0**2, 0.2**2])).pdf(draws[:, [0, 2]])
    density = density / density.mean()
    assert report.clipped_share == pytest.approx((density > 2).mean(), abs=0.02)
    weights = np.minimum(density, 2)
    expected = weights.sum() ** 2 / np.sum(weights**2)
    assert report.effective_sample_size == pytest.approx(expected, rel=0.05)
    assert report.max_weight_share == pytest.approx(2 / weights.sum(), rel=0.05)


def test_layouts_are_told_by_their_columns():
    rows = np.column_stack([np.full(5, 3500.0), np.full(5, 5.0), np.full(5, -0.5), np.full(5, 0.2)])
    assert select_teff_mh(rows).tolist() == [[3500.0, -0.5]] * 5
    assert select_teff_mh(rows[:, :3]).tolist() == [[3500.0, -0.5]] * 5
    assert select_teff_mh(rows[:, [0, 2]]).tolist() == [[3500.0, -0.5]] * 5
    for teff in (1000.0, 12_000.0):
        with pytest.raises(UsageError, match="median Teff"):
            select_teff_mh(np.array([[teff, 0.0]]))
    for teff in (1001.0, 11_999.0):
        assert select_teff_mh(np.array([[teff, 0.0]])).shape == (1, 2)
    with pytest.raises(UsageError, match="no star with Teff"):
        select_teff_mh(np.full((3, 2), np.nan))
    assert "3100-3900 K and [M/H] -0.79..0.09" in codistribution._describe(
        np.stack([np.linspace(3055.56, 3944.44, 1001), np.linspace(-0.844, 0.144, 1001)], axis=1)
    )
    biased = make_reference(2000, teff=3750.0)
    other = make_reference(2000, seed=4)
    overlap = measure_distance(biased, other).overlap
    assert check_overlap(biased, other, min_overlap=overlap).overlap == overlap
    with pytest.raises(UsageError, match="overlap"):
        check_overlap(biased, other, min_overlap=overlap + 1e-9)
