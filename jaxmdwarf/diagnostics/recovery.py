"""How well numbers are recovered: bias, robust scatter, pulls, and all of them by S/N."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import require_one_shape

SNR_EDGES = (5.0, 10.0, 20.0, 50.0, 100.0, math.inf)
"""Bins of S/N in which catalogues are judged."""

PULL_LIMIT = 5.0
"""Pulls beyond this are counted as outliers, and leave the mean."""


class Recovery(NamedTuple):
    """Differences, measured minus reference, in four numbers that a few outliers do not rule.

    Parameters
    ----------
    n : int
        Finite differences.
    bias : float
        Median.
    scatter : float
        Half the range of the central 68.27 per cent: sigma, if the differences are Gaussian.
    e_bias : float
        Standard error of the bias.
    outliers : float
        Share of the differences farther than 5 scatters from the bias.
    """

    n: int
    bias: float
    scatter: float
    e_bias: float
    outliers: float


class Pulls(NamedTuple):
    """Differences over their stated errors: mean 0 and width 1 if the errors are honest.

    Parameters
    ----------
    n : int
        Finite pulls.
    mean : float
        Of the pulls within `PULL_LIMIT`.
    width : float
        Half the range of the central 68.27 per cent.
    std : float
        Standard deviation of the pulls within `PULL_LIMIT`.
    e_mean, e_width : float
        Standard errors of `mean` and `width`.
    outliers : float
        Share beyond `PULL_LIMIT`.
    """

    n: int
    mean: float
    width: float
    std: float
    e_mean: float
    e_width: float
    outliers: float


class SnrBin(NamedTuple):
    """One bin of S/N.

    Parameters
    ----------
    low, high : float
        Its edges; `low` belongs to it.
    snr : float
        Median S/N.
    error : float
        Median stated error.
    recovery : Recovery
    pulls : Pulls
    """

    low: float
    high: float
    snr: float
    error: float
    recovery: Recovery
    pulls: Pulls


class Comparison(NamedTuple):
    """One quantity of a catalogue against a reference."""

    recovery: Recovery
    pulls: Pulls
    by_snr: tuple[SnrBin, ...]


def measure_recovery(difference: Float[np.ndarray, " n"]) -> Recovery:
    """Bias and robust scatter of differences; values that are not finite do not count.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = measure_recovery(3.0 + 2.0 * rng.standard_normal(10_000))
    >>> round(found.bias, 1), round(found.scatter, 1)
    (3.0, 2.0)
    """
    kept = _finite(difference)
    if not kept.size:
        return Recovery(0, math.nan, math.nan, math.nan, math.nan)
    bias, scatter = float(np.median(kept)), _half_width(kept)
    far = np.abs(kept - bias) > 5 * scatter
    # The median of a Gaussian sample scatters by sqrt(pi / 2) more than its mean.
    error = scatter * math.sqrt(math.pi / 2 / kept.size)
    return Recovery(kept.size, bias, scatter, error, float(far.mean()))


def measure_pulls(difference: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"]) -> Pulls:
    """Mean and width of ``difference / error``; errors must be positive to count.

    Parameters
    ----------
    difference : (n,)
        Measured minus reference.
    error : (n,)
        One sigma of the difference, in its unit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pulls = measure_pulls(0.5 * rng.standard_normal(10_000), np.full(10_000, 0.5))
    >>> abs(pulls.mean) < 0.03, abs(pulls.width - 1.0) < 0.03
    (True, True)
    """
    kept = _finite(compute_pulls(difference, error))
    if not kept.size:
        return Pulls(0, *(math.nan,) * 6)
    inside = kept[np.abs(kept) <= PULL_LIMIT]
    width = _half_width(kept)
    return Pulls(
        n=kept.size,
        mean=float(inside.mean()) if inside.size else math.nan,
        width=width,
        std=float(inside.std()) if inside.size else math.nan,
        e_mean=width / math.sqrt(kept.size),
        # Asymptotic variance of (q84 - q16) / 2 for a Gaussian: 1.14 sigma^2 / n.
        e_width=1.07 * width / math.sqrt(kept.size),
        outliers=1.0 - inside.size / kept.size,
    )


def compute_pulls(
    difference: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """``difference / error``, NaN where there is no positive error.

    Parameters
    ----------
    difference : (n,)
        Measured minus reference.
    error : (n,)
        One sigma of the difference, in its unit.
    """
    usable = np.isfinite(error) & (error > 0)
    return np.where(usable, difference, np.nan) / np.where(usable, error, 1.0)


def compare(
    measured: Float[np.ndarray, " n"],
    reference: Float[np.ndarray, " n"],
    error: Float[np.ndarray, " n"],
    snr: Float[np.ndarray, " n"],
    *,
    edges: Sequence[float] = SNR_EDGES,
) -> Comparison:
    """Recovery and pulls of one quantity, for all rows and in bins of S/N.

    Parameters
    ----------
    measured, reference : (n,)
        In one unit.
    error : (n,)
        One sigma of the difference: that of the measurement, with that of the reference in
        quadrature if it has one.
    snr : (n,)
    edges : sequence of float
        Increasing; bins without a row are left out.

    Examples
    --------
    >>> ones = np.ones(4)
    >>> result = compare(3500.0 * ones, 3490.0 * ones, 20.0 * ones, np.array([6.0, 7, 30, 30]))
    >>> result.recovery.bias, [(row.low, row.recovery.n) for row in result.by_snr]
    (10.0, [(5.0, 2), (20.0, 2)])
    """
    difference = measured - reference
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (snr >= low) & (snr < high)
        recovery = measure_recovery(difference[inside])
        if recovery.n:
            stated = _finite(error[inside & np.isfinite(difference)])
            bins.append(
                SnrBin(
                    low=float(low),
                    high=float(high),
                    snr=float(np.median(snr[inside & np.isfinite(difference)])),
                    error=float(np.median(stated)) if stated.size else math.nan,
                    recovery=recovery,
                    pulls=measure_pulls(difference[inside], error[inside]),
                )
            )
    return Comparison(measure_recovery(difference), measure_pulls(difference, error), tuple(bins))


def compare_variants(
    measured: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]],
    truth: Mapping[str, Float[np.ndarray, " n"]],
    *,
    errors: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]] | None = None,
    snr: Float[np.ndarray, " n"] | None = None,
    chosen: Bool[np.ndarray, " n"] | None = None,
) -> dict[str, dict[str, Comparison]]:
    """Bias, scatter and pulls of several fits of the same stars: none, transfers, oracle.

    Parameters
    ----------
    measured : mapping of variant to mapping of label to (n,)
        Rows are the same stars in every variant.
    truth : mapping of label to (n,)
    errors : as `measured`, optional
        Stated errors, for pulls.
    snr : (n,), optional
        For bins of S/N.
    chosen : (n,) bool, optional
        Stars that count, held-out ones with S/N above 50, say.

    Returns
    -------
    dict of variant to dict of label to Comparison

    Notes
    -----
    A star without a finite value in one variant leaves that label in all of them: variants are
    compared on one set of stars, or the one that gives up on hard stars would win.

    Examples
    --------
    >>> truth = {"teff": np.array([3400.0, 3500.0, 3600.0])}
    >>> fits = {"none": {"teff": truth["teff"] + 90.0}, "oracle": {"teff": truth["teff"] + 1.0}}
    >>> table = compare_variants(fits, truth)
    >>> table["none"]["teff"].recovery.bias, table["oracle"]["teff"].recovery.bias
    (90.0, 1.0)
    """
    table: dict[str, dict[str, Comparison]] = {variant: {} for variant in measured}
    for label, known in truth.items():
        with_label = {name: one[label] for name, one in measured.items() if label in one}
        kept = np.isfinite(known) if chosen is None else np.isfinite(known) & chosen
        for values in with_label.values():
            require_one_shape(truth=known, measured=values)
            kept = kept & np.isfinite(values)
        for name, values in with_label.items():
            stated = errors.get(name, {}).get(label) if errors is not None else None
            error = np.full(known.shape, np.nan) if stated is None else stated
            brightness = np.full(known.shape, np.nan) if snr is None else snr
            table[name][label] = compare(
                values[kept], known[kept], error[kept], brightness[kept], edges=SNR_EDGES
            )
    return table


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)[np.isfinite(values)]


def _half_width(values: np.ndarray) -> float:
    low, high = np.percentile(values, (15.865, 84.135))
    return float(high - low) / 2
