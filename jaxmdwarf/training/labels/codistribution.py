"""Label sets whose distribution follows a reference sample, and how far two samples are apart.

Step 3 of the synthetic training set, section 3.3.2 of the paper: the draws of the mixture cover the
space of the observed stars but not with their frequencies; co-distributed sampling in (Teff,
[M/H]) gives them those of a reference sample of the literature. Here by importance: each draw is
weighted by the ratio of the two densities and picked in proportion.

Samples are arrays (n, 2) of Teff and [M/H], or (n, 3) and (n, 4) in the order of labels (Teff,
log g, [M/H], [alpha/M]).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmdwarf.diagnostics.two_sample import energy_distance
from jaxmdwarf.errors import UsageError

_CELL = (10.0, 0.02)
_LARGEST_SAMPLE = 50_000
_LARGEST_ENERGY_SAMPLE = 1500
_UNDERSMOOTHING = 0.7
"""Scott's rule is right for a Gaussian; samples cut at 4000 K are skew, and it would round them."""


@dataclass(frozen=True)
class CodistributionConfig:
    """How draws are picked after a reference.

    Parameters
    ----------
    n_training : int
        Labels that are picked.
    min_coverage : float
        Least share of the reference that the draws must cover.
    min_reference : int
        Fewest reference stars within the bounds of the draws.
    reference_errors : (teff, mh)
        Errors of the reference, K and dex. They widen its distribution; what they add is taken off.
    max_ratio : float
        Largest weight, in units of the mean weight: keeps single draws from standing for many.
    support_level : float
        Where the density of the draws is below this share of its mean over all draws, nothing can
        be picked: the reference stars there are not covered.
    """

    n_training: int = 100_000
    min_coverage: float = 0.5
    min_reference: int = 20
    reference_errors: tuple[float, float] = (0.0, 0.0)
    max_ratio: float = 100.0
    support_level: float = 0.01

    def __post_init__(self) -> None:
        if self.n_training < 1:
            raise UsageError(f"{self.n_training} training labels were asked for.")
        if not 0 <= self.min_coverage <= 1:
            raise UsageError(f"a coverage of {self.min_coverage} is no share between 0 and 1.")
        if min(self.reference_errors) < 0:
            raise UsageError(f"errors of the reference are negative: {self.reference_errors}.")


@dataclass(frozen=True)
class CodistributionReport:
    """What came of co-distributed sampling.

    Parameters
    ----------
    n_draws, n_training : int
        Before and after.
    n_reference, n_within : int
        Reference stars with both labels, and those within the bounds of the draws.
    coverage : float
        Share of the reference, of all stars, where draws exist.
    outside_bounds, outside_support : float
        Shares of the reference beyond the bounds of the draws, and within them but where no draw
        is (no isochrone passes there).
    effective_sample_size : float
        (sum of weights)^2 / sum of squared weights, of the draws (Kish 1965).
    max_weight_share : float
        The largest weight over the sum of weights.
    clipped_share : float
        Share of the draws whose weight was cut to `CodistributionConfig.max_ratio`.
    unique_share : float
        Share of the picked labels that are different draws.
    bandwidth_teff, bandwidth_mh : float
        Smoothing of the reference, K and dex.
    before, after : DistributionDistance as dict
        Reference against draws, and against the picked labels.
    """

    n_draws: int
    n_training: int
    n_reference: int
    n_within: int
    coverage: float
    outside_bounds: float
    outside_support: float
    effective_sample_size: float
    max_weight_share: float
    clipped_share: float
    unique_share: float
    bandwidth_teff: float
    bandwidth_mh: float
    before: dict[str, float]
    after: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for metrics.json."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CodistributedSample:
    """Picked labels (n, 4) and the report of how they were picked."""

    labels: Float[np.ndarray, "n n_label"]
    report: CodistributionReport


@dataclass(frozen=True)
class DistributionDistance:
    """How far two samples of (Teff, [M/H]) are apart.

    Parameters
    ----------
    shift_teff, shift_mh : float
        Difference of medians, first minus second.
    width_teff, width_mh : float
        Ratio of the robust widths (16th to 84th percentile), first over second.
    ks_teff, ks_mh : float
        Largest differences of the cumulative distributions (Kolmogorov-Smirnov), 0 to 1.
    energy : float
        Normalised energy distance, 0 (same distribution) to 1 (nothing in common), in units of the
        second sample's width (Szekely & Rizzo 2013, J. Stat. Plan. Inf. 143 1249).
    overlap : float
        Integral of the smaller of the two smoothed densities: 1 for the same distribution, 0 for
        disjoint ones; the share of the first that the second accounts for.
    """

    shift_teff: float
    shift_mh: float
    width_teff: float
    width_mh: float
    ks_teff: float
    ks_mh: float
    energy: float
    overlap: float


def sample_codistributed(
    draws: Float[np.ndarray, "n n_label"],
    reference: Float[np.ndarray, "n_reference n_column"],
    *,
    seed: int,
    config: CodistributionConfig | None = None,
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> CodistributedSample:
    """Pick draws so that their (Teff, [M/H]) follow a reference sample.

    Densities are histograms smoothed by Gaussians, mirrored at the bounds, so that a sample that
    was cut there keeps its density up to the cut. The smoothing of the reference (0.7 of Scott's
    rule) and its errors are taken off its width first: picked labels are as wide as the reference,
    not wider.

    Parameters
    ----------
    draws : (n, 3 or 4)
        Labels, e.g. of `LabelMixture.draw`.
    reference : (n_reference, 2, 3 or 4)
        Rows with NaN in Teff or [M/H] are left out.
    seed : int
    config : CodistributionConfig, optional
    bounds : ((low, high), (low, high)), optional
        Of Teff and [M/H]; those of the draws if left out.

    Returns
    -------
    CodistributedSample

    Raises
    ------
    UsageError
        If the reference has too few stars, or too few where draws are.
    """
    config = config or CodistributionConfig()
    at = select_teff_mh(draws, "the draws")
    stars = select_teff_mh(reference, "the reference sample")
    limits = np.asarray(bounds or list(zip(at.min(axis=0), at.max(axis=0), strict=True)))
    inside = np.all((stars >= limits[:, 0]) & (stars <= limits[:, 1]), axis=1)
    within = stars[inside]
    if len(within) < config.min_reference:
        raise UsageError(
            f"{len(within)} of {len(stars)} reference stars lie within {limits[0, 0]:.0f}-"
            f"{limits[0, 1]:.0f} K and [M/H] {limits[1, 0]:.2f}..{limits[1, 1]:.2f}, where the "
            f"synthetic labels are: fewer than {config.min_reference}. {_describe(stars)}",
            "check units and columns of the reference (--columns teff=NAME mh=NAME), give more "
            "stars, or widen the cuts (--teff LOW HIGH, --mh LOW HIGH).",
        )
    edges = [
        np.linspace(low, high, max(int(np.ceil((high - low) / step)), 1) + 1)
        for (low, high), step in zip(limits, _CELL, strict=True)
    ]
    sampled_density = _smooth_density(at, edges, 0.4 * _scott_bandwidth(at))
    bandwidth = _UNDERSMOOTHING * _scott_bandwidth(within)
    narrowed = _take_off_width(within, bandwidth, np.asarray(config.reference_errors))
    reference_density = _smooth_density(narrowed, edges, bandwidth)

    sampled_density_at = _look_up(sampled_density, edges, at)
    floor = config.support_level * float(np.mean(sampled_density_at))
    supported = _look_up(sampled_density, edges, within) >= floor
    coverage = float(supported.sum() / len(stars))
    if coverage < config.min_coverage:
        raise UsageError(
            f"synthetic labels exist for {coverage:.0%} of {len(stars)} reference stars: "
            f"{1 - inside.mean():.0%} lie beyond {limits[0, 0]:.0f}-{limits[0, 1]:.0f} K and [M/H] "
            f"{limits[1, 0]:.2f}..{limits[1, 1]:.2f}, {np.sum(~supported) / len(stars):.0%} where "
            f"no isochrone passes. {_describe(stars)}",
            "check the reference, or widen the cuts (--teff LOW HIGH, --mh LOW HIGH) and "
            "give isochrones that reach its stars (--isochrones).",
        )
    ratio = _look_up(reference_density, edges, at) / np.maximum(sampled_density_at, floor)
    weights, clipped = _clip_weights(ratio, config.max_ratio)
    rng = np.random.default_rng(seed)
    picked = _pick_systematically(weights, config.n_training, rng)
    sample = np.asarray(draws)[picked]
    report = CodistributionReport(
        n_draws=len(at),
        n_training=config.n_training,
        n_reference=len(stars),
        n_within=len(within),
        coverage=coverage,
        outside_bounds=float(1 - inside.mean()),
        outside_support=float(np.sum(~supported) / len(stars)),
        effective_sample_size=compute_effective_size(weights),
        max_weight_share=float(weights.max() / weights.sum()),
        clipped_share=clipped,
        unique_share=float(np.unique(picked).size / picked.size),
        bandwidth_teff=float(bandwidth[0]),
        bandwidth_mh=float(bandwidth[1]),
        before=asdict(measure_distance(within, at, seed=seed)),
        after=asdict(measure_distance(within, at[picked], seed=seed)),
    )
    return CodistributedSample(sample, report)


def measure_distance(
    first: Float[np.ndarray, "n_first n_column"],
    second: Float[np.ndarray, "n_second m_column"],
    *,
    seed: int = 0,
) -> DistributionDistance:
    """How far two samples are apart in Teff and [M/H]; rows with NaN are left out.

    Parameters
    ----------
    first, second : (n, 2, 3 or 4), (m, 2, 3 or 4)
        See `sample_codistributed` for the columns.
    seed : int
        Of the thinning of large samples.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> first = rng.normal((3500.0, 0.0), (200.0, 0.2), (2000, 2))
    >>> distance = measure_distance(first, first + (100.0, 0.0))
    >>> round(distance.shift_teff), round(distance.ks_teff, 1), distance.overlap > 0.7
    (-100, 0.2, True)
    """
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    first = _thin(select_teff_mh(first, "the first sample"), rng, _LARGEST_SAMPLE)
    second = _thin(select_teff_mh(second, "the second sample"), rng, _LARGEST_SAMPLE)
    shift = np.median(first, axis=0) - np.median(second, axis=0)
    width, other = _robust_width(first), _robust_width(second)
    ks = [float(ks_2samp(first[:, k], second[:, k]).statistic) for k in range(2)]
    return DistributionDistance(
        shift_teff=float(shift[0]),
        shift_mh=float(shift[1]),
        width_teff=float(width[0] / other[0]),
        width_mh=float(width[1] / other[1]),
        ks_teff=ks[0],
        ks_mh=ks[1],
        energy=_energy_distance(first / other, second / other, rng),
        overlap=_overlap(first, second),
    )


def check_overlap(
    observed: Float[np.ndarray, "n_observed n_column"],
    reference: Float[np.ndarray, "n_reference m_column"],
    *,
    min_overlap: float = 0.25,
) -> DistributionDistance:
    """Whether the labels of observed stars are distributed at all like a reference.

    Parameters
    ----------
    observed : (n, 2, 3 or 4)
        Labels fitted to the observed sample, e.g. with the untransferred emulator. They may be
        biased: some shift is what transfer is for.
    reference : (m, 2, 3 or 4)
        Reference sample or training labels.
    min_overlap : float
        Least `DistributionDistance.overlap`.

    Returns
    -------
    DistributionDistance

    Raises
    ------
    UsageError
        If they overlap less.
    """
    distance = measure_distance(observed, reference)
    if distance.overlap < min_overlap:
        raise UsageError(
            "the labels of the observed stars overlap those of the reference by "
            f"{distance.overlap:.2f} (1 for equal distributions; at least {min_overlap} is asked). "
            f"Medians of the observed are off by {distance.shift_teff:+.0f} K and "
            f"{distance.shift_mh:+.2f} dex, widths {distance.width_teff:.2f} and "
            f"{distance.width_mh:.2f} times those of the reference; Kolmogorov-Smirnov "
            f"{distance.ks_teff:.2f} and {distance.ks_mh:.2f}, energy distance "
            f"{distance.energy:.2f}.",
            "choose a reference of the same kind of stars, cut the observed sample to its range "
            "(--max-teff, --min-snr), check the units of the reference and the emulator, or ask "
            "for less (--min-overlap).",
        )
    return distance


def perturb_reference(
    labels: Float[np.ndarray, "n n_column"],
    *,
    shift_teff: float = 50.0,
    shift_mh: float = 0.1,
    widen: float = 1.3,
) -> Float[np.ndarray, "n n_column"]:
    """A wrong reference: shifted, and widened about its median, in Teff and [M/H].

    For the sensitivity of a transfer to the reference it was given.

    Parameters
    ----------
    labels : (n, 2, 3 or 4)
    shift_teff, shift_mh : float
        K and dex.
    widen : float
        Factor on the distance from the median.

    Examples
    --------
    >>> perturb_reference(np.array([[3400.0, 0.0], [3500.0, 0.0], [3600.0, 0.2]])).round(2).tolist()
    [[3420.0, 0.1], [3550.0, 0.1], [3680.0, 0.36]]
    """
    columns = _columns_of(np.shape(labels), "the reference sample")
    perturbed = np.array(labels, dtype=np.float64)
    middle = np.nanmedian(perturbed[:, columns], axis=0)
    perturbed[:, columns] = (
        middle + widen * (perturbed[:, columns] - middle) + np.array([shift_teff, shift_mh])
    )
    return perturbed


def compute_effective_size(weights: Float[np.ndarray, " n"]) -> float:
    """Number of equally weighted draws that are worth as much (Kish 1965, Survey Sampling).

    Examples
    --------
    >>> compute_effective_size(np.array([1.0, 1.0, 0.0])), compute_effective_size(np.ones(5))
    (2.0, 5.0)
    """
    return float(weights.sum() ** 2 / np.sum(weights**2))


def select_teff_mh(
    sample: Float[np.ndarray, "n n_column"], name: str = "the sample"
) -> Float[np.ndarray, "m 2"]:
    """Teff and [M/H] of a sample in any of the layouts of this module, rows with NaN left out.

    Parameters
    ----------
    sample : (n, 2, 3 or 4)
    name : str
        What errors call it.

    Raises
    ------
    UsageError
        If no row is finite, or Teff is not in K.
    """
    sample = np.asarray(sample, dtype=np.float64)
    at = sample[:, _columns_of(sample.shape, name)]
    at = at[np.isfinite(at).all(axis=1)]
    if not len(at):
        raise UsageError(f"{name} has no star with Teff and [M/H].", "check its columns.")
    if not 1000 < np.median(at[:, 0]) < 12000:
        raise UsageError(
            f"{name} has a median Teff of {np.median(at[:, 0]):.4g} K.",
            "give the columns Teff in K and [M/H] in dex, in this order.",
        )
    return at


def _columns_of(shape: tuple[int, ...], name: str) -> list[int]:
    if len(shape) != 2 or shape[1] not in (2, 3, 4):
        raise UsageError(
            f"{name} has shape {shape}.",
            "give rows of (Teff, [M/H]) or of (Teff, log g, [M/H], [alpha/M]).",
        )
    return [0, 1] if shape[1] == 2 else [0, 2]


def _describe(stars: np.ndarray) -> str:
    low, high = np.percentile(stars, [5, 95], axis=0)
    return (
        f"Nine tenths of the reference lie in {low[0]:.0f}-{high[0]:.0f} K and "
        f"[M/H] {low[1]:.2f}..{high[1]:.2f}."
    )


def _robust_width(sample: np.ndarray) -> np.ndarray:
    low, high = np.percentile(sample, [16, 84], axis=0)
    return np.maximum(0.5 * (high - low), np.array([1.0, 1e-3]))


def _scott_bandwidth(sample: np.ndarray) -> np.ndarray:
    return _robust_width(sample) * len(sample) ** (-1 / 6)


def _take_off_width(stars, bandwidth, errors) -> np.ndarray:
    """Shrink a sample about its mean so that smoothing restores its width less its errors."""
    variance = np.maximum(stars.var(axis=0), 1e-12)
    # Errors above the width itself cannot be: keep a tenth of the variance.
    true = np.maximum(variance - errors**2, 0.1 * variance)
    shrink = np.sqrt(np.maximum(true - bandwidth**2, 0.05 * variance) / variance)
    return stars.mean(axis=0) + (stars - stars.mean(axis=0)) * shrink


def _smooth_density(sample, edges, bandwidth) -> np.ndarray:
    """Density per cell, shape (n_teff, n_mh), summing to 1 over the cells."""
    from scipy.ndimage import gaussian_filter

    counts, _, _ = np.histogram2d(sample[:, 0], sample[:, 1], bins=edges)
    cells = [width / (edge[1] - edge[0]) for width, edge in zip(bandwidth, edges, strict=True)]
    smooth = gaussian_filter(counts, cells, mode="reflect", truncate=5.0)
    return smooth / smooth.sum()


def _look_up(density, edges, at) -> np.ndarray:
    """Bilinear interpolation between cell centres."""
    from scipy.ndimage import map_coordinates

    index = [
        (column - edge[0]) / (edge[1] - edge[0]) - 0.5
        for column, edge in zip(at.T, edges, strict=True)
    ]
    return map_coordinates(density, index, order=1, mode="nearest")


def _clip_weights(ratio, max_ratio: float) -> tuple[np.ndarray, float]:
    largest = max_ratio * ratio.mean()
    return np.minimum(ratio, largest), float(np.mean(ratio > largest))


def _pick_systematically(weights, n: int, rng) -> np.ndarray:
    """Indices in proportion to weights, each within one of its expected number, shuffled."""
    cumulative = np.cumsum(weights)
    positions = (np.arange(n) + rng.random()) * (cumulative[-1] / n)
    picked = np.minimum(np.searchsorted(cumulative, positions, side="right"), weights.size - 1)
    return rng.permutation(picked)


def _energy_distance(first, second, rng) -> float:
    first, second = (_thin(sample, rng, _LARGEST_ENERGY_SAMPLE) for sample in (first, second))
    return max(energy_distance(first, second), 0.0)


def _thin(sample, rng, largest: int) -> np.ndarray:
    if len(sample) <= largest:
        return sample
    return sample[rng.choice(len(sample), largest, replace=False)]


def _overlap(first, second) -> float:
    both = np.concatenate([first, second])
    # One smoothing for both: the coarser.
    bandwidth = np.maximum(_scott_bandwidth(first), _scott_bandwidth(second))
    low, high = both.min(axis=0) - 4 * bandwidth, both.max(axis=0) + 4 * bandwidth
    edges = [
        np.linspace(
            low[k], high[k], int(np.clip((high[k] - low[k]) / (0.25 * bandwidth[k]), 20, 600))
        )
        for k in range(2)
    ]
    densities = [_smooth_density(sample, edges, bandwidth) for sample in (first, second)]
    return float(np.minimum(*densities).sum())
