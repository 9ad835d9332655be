"""Iterative k-means cleaning of a sample (paper, section 2.1, step 4), exactly repeatable.

Spectra are grouped by the shape of their flux; groups whose mean does not look like an M dwarf
are dropped; what remains is grouped again, until a round drops nothing. What to drop is a rule on
the mean of the group plus a list that a person edits after looking at the contact sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid, air_to_vacuum

# TiO5 of Reid, Hawley & Gizis (1995, AJ 110, 1838); its windows are in air.
_TIO5_BAND_AIR_AA = (7126.0, 7135.0)
_TIO5_SIDE_AIR_AA = (7042.0, 7046.0)
_LARGEST_FEATURE = 10.0


@dataclass(frozen=True)
class CleaningConfig:
    """How a sample is cleaned; the same configuration and data give exactly the same result.

    Parameters
    ----------
    n_clusters : int
        Groups in each round (fewer when fewer than `min_members` spectra a group are left).
    max_rounds : int
        The cleaning ends after this many rounds, or with the first that drops nothing.
    min_members : int
        Average number of spectra a group should have at least.
    max_tio5 : float or None
        A group is dropped when the TiO5 ratio of its mean exceeds this: no TiO band, no M dwarf.
        M0 has 0.76, K7 about 0.85.
    min_tio5 : float or None
        A group is dropped when the ratio is less than this: later than M9, or broken.
    max_negative_fraction : float or None
        A group is dropped when more than this fraction of its mean is negative.
    max_roughness : float or None
        A group is dropped when its mean jumps from bin to bin by more than this fraction of its
        level; means of real M dwarfs have 0.01 to 0.04.
    min_correlation : float or None
        A group is dropped when no template correlates this well with its mean, both divided by a
        smooth continuum, outside the masks of the fit; only if templates are given.
    drop : tuple of (round, group)
        Groups to drop whatever the rules say: pairs of a round from 1 on and a group from 0 on.
    keep : tuple of (round, group)
        Groups to keep whatever the rules say.
    seed : int
        Seed of the starting centres.
    """

    n_clusters: int = 20
    max_rounds: int = 8
    min_members: int = 5
    max_tio5: float | None = 0.9
    min_tio5: float | None = 0.05
    max_negative_fraction: float | None = 0.05
    max_roughness: float | None = 0.1
    min_correlation: float | None = 0.5
    drop: tuple[tuple[int, int], ...] = ()
    keep: tuple[tuple[int, int], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_clusters < 2 or self.max_rounds < 1 or self.min_members < 1:
            raise UsageError(
                "cleaning needs at least 2 clusters, 1 round and 1 member a cluster.",
                "leave --cleaning.n-clusters, --cleaning.max-rounds, --cleaning.min-members out.",
            )
        both = set(self.drop) & set(self.keep)
        if both:
            raise UsageError(
                f"cleaning is told both to drop and to keep {sorted(both)}.",
                "name each group after --cleaning.drop or --cleaning.keep alone.",
            )


@dataclass(frozen=True)
class ClusterRow:
    """What a round found about one group."""

    round: int
    cluster: int
    n_members: int
    tio5: float
    correlation: float
    negative_fraction: float
    roughness: float
    dropped: bool
    reason: str


@dataclass(frozen=True)
class CleaningRound:
    """One round: the groups, their means, and who was in them.

    Parameters
    ----------
    rows : tuple of ClusterRow
        In order of rising TiO5 ratio (late M dwarfs first), which is also the group number.
    means : (n_cluster, n_bin)
        Mean shapes.
    members : (n_left,) int
        Rows of the sample that entered the round.
    cluster : (n_left,) int
        Their group.
    """

    rows: tuple[ClusterRow, ...]
    means: np.ndarray
    members: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class Cleaning:
    """Outcome of a cleaning.

    Parameters
    ----------
    keep : (n,) bool
        Spectra that survived every round.
    dropped_in_round : (n,) int
        Round in which a spectrum was dropped, 0 for survivors, -1 for spectra without data.
    dropped_in_cluster : (n,) int
        Group with which it was dropped, -1 for the others.
    rounds : tuple of CleaningRound
    grid : PixelGrid
        Bins of the shapes.
    """

    keep: np.ndarray
    dropped_in_round: np.ndarray
    dropped_in_cluster: np.ndarray
    rounds: tuple[CleaningRound, ...]
    grid: PixelGrid


def shape_features(batch: SpectrumBatch, *, bin_aa: float = 4.0) -> tuple[np.ndarray, PixelGrid]:
    """Flux in coarse bins, in units of its mean: what spectra are grouped by.

    Parameters
    ----------
    batch : SpectrumBatch
        Spectra on a linear grid, not divided by a continuum (``sigma_aa=None``), so that the shape
        of the flux still tells a K star, a galaxy or a failed calibration.
    bin_aa : float
        Width of the bins.

    Returns
    -------
    features : (n_spec, n_bin) float32
        Bins without good pixels are interpolated; a spectrum without any is NaN.
    grid : PixelGrid

    Raises
    ------
    UsageError
        If the grid is not linear or the bins are narrower than its pixels.
    """
    grid = bin_grid(batch.grid, bin_aa=bin_aa)
    n_bin, per_bin = grid.n_pix, round(grid.step / batch.grid.step)
    used = n_bin * per_bin
    flux = np.asarray(batch.flux, dtype=np.float64)[:, :used].reshape(-1, n_bin, per_bin)
    good = (np.asarray(batch.ivar)[:, :used] > 0).reshape(-1, n_bin, per_bin)
    count = good.sum(axis=2)
    binned = np.where(good, flux, 0.0).sum(axis=2) / np.maximum(count, 1)
    filled = count > 0
    level = np.abs(np.where(filled, binned, 0.0)).sum(axis=1) / np.maximum(filled.sum(axis=1), 1)
    features = np.full((batch.n_spec, n_bin), np.nan, dtype=np.float32)
    number = np.arange(n_bin)
    for row in np.flatnonzero((level > 0) & np.isfinite(level)):
        use = filled[row]
        values = np.interp(number, number[use], binned[row, use]) / level[row]
        # One cosmic-ray hit must not make a group of its own.
        features[row] = np.clip(values, -_LARGEST_FEATURE, _LARGEST_FEATURE)
    return features, grid


def bin_grid(grid: PixelGrid, *, bin_aa: float = 4.0) -> PixelGrid:
    """Bins of whole pixels of a linear grid.

    Parameters
    ----------
    grid : PixelGrid
        Linear.
    bin_aa : float
        Width of a bin, Angstrom, rounded to whole pixels.

    Raises
    ------
    UsageError
        If the grid is not linear or the bins are narrower than its pixels.

    Examples
    --------
    >>> bin_grid(PixelGrid.linear(6000.0, 6010.0, 1.0)).wave_aa.tolist()
    [6001.5, 6005.5]
    """
    if grid.kind != "linear":
        raise UsageError("cleaning works on linear grids.", "resample onto a linear grid first.")
    per_bin = round(bin_aa / grid.step)
    if per_bin < 1:
        raise UsageError(f"bins of {bin_aa} Angstrom are narrower than the pixels.")
    start = grid.start_aa + 0.5 * (per_bin - 1) * grid.step
    return PixelGrid("linear", start, per_bin * grid.step, grid.n_pix // per_bin)


def clean(
    features: np.ndarray,
    grid: PixelGrid,
    config: CleaningConfig | None = None,
    *,
    templates: np.ndarray | None = None,
) -> Cleaning:
    """Group, judge, drop, and group again.

    Parameters
    ----------
    features : (n_spec, n_bin)
        From `shape_features`.
    grid : PixelGrid
        Its bins.
    config : CleaningConfig, optional
    templates : (n_template, n_bin), optional
        Shapes of M dwarfs (any scale) in the same bins, for the correlation rule.

    Returns
    -------
    Cleaning

    Raises
    ------
    MismatchError
        If features or templates do not have the grid's bins.
    UsageError
        If no spectrum has data, or `drop`/`keep` name a group that does not exist.

    Notes
    -----
    k-means runs on one thread: sums in a fixed order are what makes a repeat bit-identical.
    """
    config = config or CleaningConfig()
    if features.ndim != 2 or features.shape[1] != grid.n_pix:
        raise MismatchError(f"features {features.shape} do not have {grid.n_pix} bins.")
    if templates is not None and (templates.ndim != 2 or templates.shape[1] != grid.n_pix):
        raise MismatchError(f"templates {templates.shape} do not have {grid.n_pix} bins.")
    usable = np.isfinite(features).all(axis=1)
    if not usable.any():
        raise UsageError("no spectrum has data to be grouped by.", "check the input.")
    dropped_in_round = np.where(usable, 0, -1)
    dropped_in_cluster = np.full(len(features), -1)
    rounds = []
    for number in range(1, config.max_rounds + 1):
        members = np.flatnonzero(dropped_in_round == 0)
        if members.size < 2:
            break
        done = _run_round(number, features, members, grid, config, templates)
        rounds.append(done)
        bad = np.array([row.dropped for row in done.rows])
        if not bad.any():
            break
        fallen = bad[done.cluster]
        dropped_in_round[members[fallen]] = number
        dropped_in_cluster[members[fallen]] = done.cluster[fallen]
    _check_lists(config, rounds)
    return Cleaning(
        dropped_in_round == 0, dropped_in_round, dropped_in_cluster, tuple(rounds), grid
    )


def measure_shapes(
    means: np.ndarray, grid: PixelGrid, templates: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """TiO5 ratio, negative fraction, roughness and best template correlation of mean shapes.

    Parameters
    ----------
    means : (n, n_bin)
    grid : PixelGrid
    templates : (n_template, n_bin), optional

    Returns
    -------
    dict of str to (n,) array
        ``correlation`` is NaN without templates.
    """
    tio5 = _band_mean(means, grid, _TIO5_BAND_AIR_AA) / _band_mean(means, grid, _TIO5_SIDE_AIR_AA)
    level = np.abs(means).mean(axis=1)
    jumps = np.diff(means, n=2, axis=1) / np.sqrt(6.0)
    correlation = np.full(len(means), np.nan)
    if templates is not None:
        shapes, patterns = _flatten(means, grid), _flatten(templates, grid)
        correlation = (shapes @ patterns.T).max(axis=1)
    return {
        "tio5": tio5,
        "correlation": correlation,
        "negative_fraction": (means <= 0).mean(axis=1),
        "roughness": np.sqrt((jumps**2).mean(axis=1)) / level,
    }


def _run_round(number, features, members, grid, config, templates) -> CleaningRound:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n_clusters = int(np.clip(members.size // config.min_members, 2, config.n_clusters))
    # An integer state, other in every round: the same start would find the same groups again.
    model = KMeans(n_clusters, n_init=4, random_state=config.seed + 1000 * number)
    with threadpool_limits(1):
        found = model.fit_predict(np.ascontiguousarray(features[members], dtype=np.float32))
    names, cluster = np.unique(found, return_inverse=True)
    means = np.stack([features[members[cluster == k]].mean(axis=0) for k in range(names.size)])
    order = np.argsort(measure_shapes(means, grid)["tio5"], kind="stable")
    cluster, means = np.argsort(order, kind="stable")[cluster], means[order]
    measured = measure_shapes(means, grid, templates)
    rows = []
    for k in range(len(means)):
        values = {name: float(column[k]) for name, column in measured.items()}
        dropped, reason = _judge(number, k, values, config)
        rows.append(
            ClusterRow(
                round=number,
                cluster=k,
                n_members=int((cluster == k).sum()),
                dropped=dropped,
                reason=reason,
                **values,
            )
        )
    return CleaningRound(tuple(rows), means, members, cluster)


def _judge(number, cluster, values, config) -> tuple[bool, str]:
    if (number, cluster) in config.keep:
        return False, "kept by the list"
    if (number, cluster) in config.drop:
        return True, "dropped by the list"
    rules: Sequence[tuple[str, float | None, bool]] = (
        ("tio5", config.max_tio5, True),
        ("tio5", config.min_tio5, False),
        ("negative_fraction", config.max_negative_fraction, True),
        ("roughness", config.max_roughness, True),
        ("correlation", config.min_correlation, False),
    )
    broken = []
    for name, limit, from_above in rules:
        value = values[name]
        if limit is None or (name == "correlation" and np.isnan(value)):
            continue
        # Written so that a NaN breaks the rule.
        if not (value <= limit if from_above else value >= limit):
            broken.append(f"{name} {value:.3g} {'>' if from_above else '<'} {limit:g}")
    return bool(broken), "; ".join(broken)


def _check_lists(config: CleaningConfig, rounds: list[CleaningRound]) -> None:
    there = {(row.round, row.cluster) for done in rounds for row in done.rows}
    absent = sorted((set(config.drop) | set(config.keep)) - there)
    if absent:
        raise UsageError(
            f"the cleaning has no (round, group) {absent}.",
            "take the numbers from the tables of this very cleaning.",
        )


def _band_mean(values: np.ndarray, grid: PixelGrid, window_air_aa) -> np.ndarray:
    low, high = air_to_vacuum(np.array(window_air_aa))
    edges = grid.edges_aa
    share = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
    if share.sum() == 0:
        raise UsageError(
            f"the grid does not reach {low:.0f}-{high:.0f} Angstrom.", "cleaning needs TiO5."
        )
    return values @ (share / share.sum())


def _flatten(shapes: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Shapes over their running mean, centred and of unit length: dot products correlate."""
    wave = grid.wave_aa
    # Telluric bands and Halpha differ between night skies and stars, not between types.
    clear = ~mask_for(grid, PAPER_MASKS_AA)
    kernel = np.exp(-(((wave[clear, None] - wave[clear]) / 60.0) ** 2))
    shapes = shapes[:, clear]
    smooth = shapes @ kernel / kernel.sum(axis=0)
    floor = 0.02 * np.abs(shapes).mean(axis=1, keepdims=True)
    flat = shapes / np.maximum(smooth, floor)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
