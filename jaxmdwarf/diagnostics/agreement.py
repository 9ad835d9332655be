"""How well two measurements agree, with errors by the bootstrap that assume no distribution."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.diagnostics.recovery import compute_pulls
from jaxmdwarf.errors import UsageError, require_one_shape

N_BOOTSTRAP = 200
"""Resamples: their scatter is known to 5 per cent, enough for an error."""

_CENTRAL = 68.27
"""Per cent of a Gaussian within one sigma."""


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
    # One difference has no scatter, and its resamples pretend that it has no error.
    spread = draws.std(axis=0, ddof=1) if n > 1 else np.full(found.size, np.nan)
    told = stated[np.isfinite(stated)]
    pulls = compute_pulls(values, stated)
    pulls = pulls[np.isfinite(pulls)]
    numbers = [float(one) for pair in zip(found, spread, strict=True) for one in pair]
    told_by_errors = [
        float(np.median(told)) if told.size else math.nan,
        _half_width(pulls) if pulls.size else math.nan,
    ]
    return Agreement._make([n, *numbers[:8], *told_by_errors, *numbers[8:]])


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
