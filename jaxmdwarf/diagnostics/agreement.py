"""How well two measurements agree, with errors by the bootstrap that assume no distribution."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.diagnostics.recovery import SNR_EDGES, compute_pulls
from jaxmdwarf.errors import UsageError, require_one_shape

N_BOOTSTRAP = 200
"""Resamples: their scatter is known to 5 per cent, enough for an error."""

HIGH_SNR = 50.0
"""The bright spectra of the paper's comparisons."""

_CENTRAL = 68.27
"""Per cent of a Gaussian within one sigma."""

_LEAST_IN_BIN = 10
_MOST_BINS = 5


class Agreement(NamedTuple):
    """Differences, one measurement minus the other, in the numbers that papers state.

    Parameters
    ----------
    n : int
        Finite differences.
    bias, e_bias : float
        Median, and its error.
    mean, e_mean : float
    robust_scatter, e_robust_scatter : float
        Half the range of the central 68.27 per cent, which outliers do not move.
    scatter, e_scatter : float
        Standard deviation, outliers included.
    stated_error : float
        Median of the stated errors of the differences.
    pull_width : float
        Half the range of the central 68.27 per cent of differences over their stated errors: 1 if
        these explain all of the scatter.
    excess, e_excess : float
        Scatter that has to be added to every stated error, in quadrature, so that 68.27 per cent of
        the differences lie within one sigma of the bias; 0 if they do without.
    """

    n: int
    bias: float
    e_bias: float
    mean: float
    e_mean: float
    robust_scatter: float
    e_robust_scatter: float
    scatter: float
    e_scatter: float
    stated_error: float
    pull_width: float
    excess: float
    e_excess: float


class AgreementRow(NamedTuple):
    """The agreement of some of the rows: ``by`` is "all", "snr" or "reference"."""

    by: str
    low: float
    high: float
    agreement: Agreement


def measure_agreement(
    difference: Float[np.ndarray, " n"],
    error: Float[np.ndarray, " n"] | None = None,
    *,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Agreement:
    """Bias and scatter of differences, plain, robust and beyond the stated errors.

    Parameters
    ----------
    difference : (n,)
        Values that are not finite do not count.
    error : (n,), optional
        One sigma of each difference. Where it is not positive, the difference has no part in what
        depends on errors.
    n_bootstrap : int
        Resamples with replacement, from which the errors come (Efron 1979, Ann. Stat. 7, 1).
    seed : int
        The same seed gives the same errors.

    Raises
    ------
    UsageError
        If there are fewer than 2 resamples, or the shapes differ.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> difference = 0.1 + 0.5 * rng.standard_normal(4000)
    >>> found = measure_agreement(difference, np.full(4000, 0.3))
    >>> round(found.bias, 1), round(found.scatter, 1), round(found.excess, 1)
    (0.1, 0.5, 0.4)
    >>> 0.9 < found.e_mean / (0.5 / 4000**0.5) < 1.1
    True
    """
    if n_bootstrap < 2:
        raise UsageError(
            f"{n_bootstrap} resamples have no scatter.", "ask for some hundred of them."
        )
    values = np.asarray(difference, np.float64)
    stated = np.full(values.shape, np.nan) if error is None else np.asarray(error, np.float64)
    require_one_shape(difference=values, error=stated)
    kept = np.isfinite(values)
    values, stated = values[kept], stated[kept]
    n = values.size
    if not n:
        return Agreement(0, *(math.nan,) * 12)
    stated = np.where(np.isfinite(stated) & (stated > 0), stated, np.nan)
    found = _summarise(values, stated)
    rng = np.random.default_rng(seed)
    # One after the other: all at once they would take gigabytes for 10^5 stars.
    draws = np.empty((n_bootstrap, found.size))
    for row in draws:
        chosen = rng.integers(0, n, n)
        row[:] = _summarise(values[chosen], stated[chosen])
    # Resamples of one or two differences pretend that these have next to no errors.
    spread = draws.std(axis=0, ddof=1) if n > 2 else np.full(found.size, np.nan)
    told = stated[np.isfinite(stated)]
    pulls = compute_pulls(values, stated)
    pulls = pulls[np.isfinite(pulls)]
    numbers = [float(one) for pair in zip(found, spread, strict=True) for one in pair]
    told_by_errors = [
        float(np.median(told)) if told.size else math.nan,
        _half_width(pulls) if pulls.size else math.nan,
    ]
    return Agreement._make([n, *numbers[:8], *told_by_errors, *numbers[8:]])


def list_agreement(
    measured: Float[np.ndarray, " n"],
    reference: Float[np.ndarray, " n"],
    snr: Float[np.ndarray, " n"],
    *,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> list[AgreementRow]:
    """Agreement of all rows, of bright ones, in bins of S/N, and in bins of the reference.

    Parameters
    ----------
    measured, reference : (n,)
        In one unit.
    snr : (n,)
    n_bootstrap, seed : int
        See `measure_agreement`.

    Returns
    -------
    list of AgreementRow
        Bins of the reference hold equal numbers, at least ten; bins of S/N that are empty are
        left out.

    Notes
    -----
    Errors of the reference lift its highest and lower its lowest values: along the reference even
    two unbiased measurements differ with a slope, which grows with those errors.
    """
    difference = measured - reference

    def row(by: str, low: float, high: float, inside: np.ndarray) -> AgreementRow:
        found = measure_agreement(difference[inside], n_bootstrap=n_bootstrap, seed=seed)
        return AgreementRow(by, float(low), float(high), found)

    rows = [row("all", -math.inf, math.inf, np.ones(difference.shape, bool))]
    spans = [(HIGH_SNR, math.inf), *itertools.pairwise(SNR_EDGES)]
    rows += [row("snr", low, high, (snr >= low) & (snr < high)) for low, high in spans]
    both = np.isfinite(difference)
    n_bin = min(_MOST_BINS, int(both.sum()) // _LEAST_IN_BIN)
    if n_bin > 1:
        edges = np.unique(np.quantile(reference[both], np.linspace(0, 1, n_bin + 1)))
        last = edges[-1]
        for low, high in itertools.pairwise(edges):
            inside = (reference >= low) & (
                (reference < high) | (high == last) & (reference == high)
            )
            rows.append(row("reference", low, high, both & inside))
    return [one for one in rows if one.by == "all" or one.agreement.n]


def _summarise(values: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Median, mean, robust scatter, standard deviation, excess."""
    low, bias, high = np.percentile(values, (50 - _CENTRAL / 2, 50.0, 50 + _CENTRAL / 2))
    plain = values.std(ddof=1) if values.size > 1 else math.nan
    robust = (high - low) / 2 if values.size > 1 else math.nan
    known = np.isfinite(stated)
    excess = math.nan
    if known.any():
        # |d - bias| < sqrt(error^2 + s^2) for 68.27 per cent: s^2 is that percentile of
        # (d - bias)^2 - error^2.
        beyond = (values[known] - bias) ** 2 - stated[known] ** 2
        excess = math.sqrt(max(float(np.percentile(beyond, _CENTRAL)), 0.0))
    return np.array([bias, values.mean(), robust, plain, excess])


def _half_width(values: np.ndarray) -> float:
    low, high = np.percentile(values, (50 - _CENTRAL / 2, 50 + _CENTRAL / 2))
    return float(high - low) / 2
