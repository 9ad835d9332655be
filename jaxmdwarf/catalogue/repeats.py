"""Precision from repeat visits, and total errors (paper, sections 2.3 and 4.1, eq. 8-9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.catalogue.columns import COLUMNS, order_columns
from jaxmdwarf.catalogue.label_columns import FORMAL_PREFIX, REPEAT_PREFIX
from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import VELOCITY
from jaxmdwarf.quality import CUT_FLAGS, QualityFlag, find_good

if TYPE_CHECKING:
    import pandas as pd

TotalErrors = Literal["excess", "paper"]

_MAD_TO_SIGMA = 1.482602218505602
_MAD_ERROR = 1.166
"""Relative error of a sigma from the median of n absolute deviations, times sqrt(n)."""

_MISFIT_EDGES = (0.25, 0.5, 1.0, 2.0, 4.0, np.inf)
_N_MISFIT = 12
_LEAST_MISFIT = 100

_MOST_LEVERAGE = 0.9
_N_ROUNDS = 20


@dataclass(frozen=True)
class RepeatConfig:
    """How precision is read off repeat visits.

    Parameters
    ----------
    min_visits : int
        Spectra that a star needs to be counted.
    bin_width : float
        Width of the bins in S/N.
    min_in_bin : float
        Degrees of freedom below which a bin is left out of the fit.
    snr_column : str
        Column of S/N that precision is a function of.
    total : {"excess", "paper"}
        How total errors are made: of the scatter of repeats, what the stated errors do not hold is
        added to them, or all of it, as in the paper; see `combine_errors`.
    """

    min_visits: int = 3
    bin_width: float = 10.0
    min_in_bin: float = 20.0
    snr_column: str = "SNRr"
    total: TotalErrors = "excess"

    def __post_init__(self) -> None:
        if self.min_visits < 2 or not self.bin_width > 0 or not self.min_in_bin > 0:
            raise UsageError(
                f"repeats of {self.min_visits} visits in bins {self.bin_width:g} wide of "
                f"{self.min_in_bin:g} make no sense.",
                "the paper has 3 visits and bins of 10.",
            )


@dataclass(frozen=True)
class Precision:
    """Scatter of repeat visits as a function of S/N: a/(S/N) + b, and what of it is not stated.

    Parameters
    ----------
    column : str
        Of the catalogue.
    a, b, e_a, e_b : float
        In the unit of the column; errors are one sigma.
    excess : (3,)
        By what the square of the scatter is above that of the errors that the fits state:
        coefficients of 1/(S/N)^2, 1/(S/N) and 1, none below 0; NaN where they state none.
    misfit : float
        The same for misfit times the square of the stated error; see `measure_misfit`.
    n_stars, n_visits : int
        That were used.
    snr, scatter, e_scatter, freedom : (n_bin,)
        S/N (harmonic mean), scatter, its error, and degrees of freedom of the bins that were
        fitted.
    stated : (n_bin,)
        Median error that the fits state there; NaN where they state none.
    """

    column: str
    a: float
    b: float
    e_a: float
    e_b: float
    excess: np.ndarray
    misfit: float
    n_stars: int
    n_visits: int
    snr: np.ndarray
    scatter: np.ndarray
    e_scatter: np.ndarray
    freedom: np.ndarray
    stated: np.ndarray

    def predict(self, snr: np.ndarray) -> np.ndarray:
        """Scatter of repeats at a S/N (paper, eq. 9); NaN where S/N is not positive."""
        return _inverse(snr, self.a, self.b)

    def predict_total(
        self, formal: np.ndarray, snr: np.ndarray, misfit: np.ndarray | None = None
    ) -> np.ndarray:
        """Formal errors with what repeats scatter by beyond them; NaN where S/N is not positive."""
        known = 1.0 if misfit is None else 1.0 + self.misfit * misfit
        return np.sqrt(formal**2 * known + _expand(_inverse(snr, 1.0, 0.0)) @ self.excess)


def measure_misfit(
    chi2: Float[np.ndarray, " n"], snr: Float[np.ndarray, " n"], usable: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """By how much a fit is worse than those of spectra of its S/N.

    Parameters
    ----------
    chi2, snr : (n,)
        Reduced chi-square, S/N.
    usable : (n,) bool
        Rows that tell what is usual.

    Returns
    -------
    (n,)
        Chi-square over the median at this S/N, less 1; 0 where it is below or unknown, and for all
        rows of a table that is too short to tell a median.
    """
    told = usable & (snr > 0) & (chi2 > 0) & np.isfinite(chi2)
    if np.count_nonzero(told) < _LEAST_MISFIT:
        return np.zeros(len(chi2))
    at, value = np.log(snr[told]), np.log(chi2[told])
    parts = np.array_split(np.argsort(at, kind="stable"), _N_MISFIT)
    middle, usual = (
        np.array([np.median(column[rows]) for rows in parts]) for column in (at, value)
    )
    known = (snr > 0) & np.isfinite(chi2)
    expected = np.exp(np.interp(np.log(np.where(known, snr, 1.0)), middle, usual))
    return np.where(known, np.maximum(np.where(known, chi2, 0.0) / expected - 1.0, 0.0), 0.0)


def measure_precision(
    values: Float[np.ndarray, " n"],
    snr: Float[np.ndarray, " n"],
    star: Int[np.ndarray, " n"],
    *,
    formal: Float[np.ndarray, " n"] | None = None,
    misfit: Float[np.ndarray, " n"] | None = None,
    column: str = "",
    config: RepeatConfig | None = None,
) -> Precision | None:
    """Fit the scatter of repeat visits by a/(S/N) + b.

    Parameters
    ----------
    values : (n,)
        One quantity; rows that are not finite do not count.
    snr : (n,)
        Rows without a positive one do not count.
    star : (n,)
        Rows of one number are of one star.
    formal : (n,), optional
        Errors that the fits state.
    misfit : (n,), optional
        See `measure_misfit`.
    column : str
        Name for the result.
    config : RepeatConfig, optional

    Returns
    -------
    Precision or None
        None where fewer than two bins have enough visits.

    Notes
    -----
    The paper takes the deviations of visits from the plain mean of their star, and in each bin of
    S/N their standard deviation. Three things differ here. The mean is weighted by the precision
    that is being measured, so that a faint visit does not spoil bright ones. A deviation is divided
    by sqrt(1 - h), h the share of the visit in the weight of its star, since a mean follows what it
    is the mean of: for equal visits this is the factor sqrt(n/(n-1)), without which three visits
    show 0.82 of their scatter. And the scatter is 1.4826 times the median absolute deviation, which
    binaries and failed fits do not move far. Within a bin, deviations are compared after division
    by the fitted curve, so a bin may be as wide as the S/N that it begins with. All is repeated
    until the curve stands still.

    Repeats show what differs from visit to visit. What visits of a star share, an error of the
    model or a drift of the wavelength scale of one instrument, they do not show: precision is a
    lower limit of the error.

    What the stated errors do not hold of that scatter is found from deviations in units of these,
    visit by visit, since spectra of one S/N differ in what they tell. Its square may come out
    negative in a bin; only the sum of its terms may not. One term grows with the misfit: where a
    model does not describe a spectrum, or some of its pixels are worse than they are said to be,
    labels are off by more than the noise (Birge 1932, Phys. Rev. 40 207).
    """
    config = config or RepeatConfig()
    used = np.isfinite(values) & np.isfinite(snr) & (snr > 0)
    used[used] = _count(star[used]) >= config.min_visits
    if not used.any():
        return None
    value, inverse = values[used].astype(np.float64), 1.0 / snr[used].astype(np.float64)
    number = np.unique(star[used], return_inverse=True)[1]
    order, edges = _sort_into_bins(snr[used], config.bin_width)
    a, b = 1.0, 0.0
    for _ in range(_N_ROUNDS):
        deviation, freedom = _deviate(value, number, a * inverse + b)
        rows = _bin_scatter(deviation, freedom, inverse, (a, b), order, edges, config.min_in_bin)
        if len(rows) < 2:
            return None
        x, scatter, error, degrees = rows.T
        before = (a, b)
        (a, b), covariance = _fit_inverse(x, scatter, error)
        if not a + b > 0:
            return None
        if np.allclose(before, (a, b), rtol=1e-5, atol=1e-5 * (a * x.max() + b)):
            break
    excess, stated = np.full(4, np.nan), np.full(len(x), np.nan)
    if formal is not None and np.isfinite(formal[used]).any():
        bins = _list_bins(deviation, freedom, order, edges, config.min_in_bin)
        stated = np.array([_find_median(formal[used][these]) for these, _ in bins])
        misfit = np.zeros(len(values)) if misfit is None else misfit
        excess = _fit_excess(value, formal[used], number, snr[used], misfit[used], config)
    return Precision(
        column=column,
        a=float(a),
        b=float(b),
        e_a=float(np.sqrt(covariance[0, 0])),
        e_b=float(np.sqrt(covariance[1, 1])),
        excess=excess[:3],
        misfit=float(excess[3]),
        n_stars=int(number.max()) + 1,
        n_visits=int(used.sum()),
        snr=1.0 / x,
        scatter=scatter,
        e_scatter=error,
        freedom=degrees,
        stated=stated,
    )


def combine_errors(
    formal: Float[np.ndarray, " n"],
    snr: Float[np.ndarray, " n"],
    precision: Precision,
    total: TotalErrors = "excess",
    *,
    misfit: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Total errors of rows.

    Parameters
    ----------
    formal, snr : (n,)
    precision : Precision
    total : {"excess", "paper"}
        "excess": of the scatter of repeats, only what goes beyond the formal errors is added. This
        is right where these hold the noise of the pixels, as those of our fits do. "paper": the
        root of the sum of the squares of formal error and scatter of repeats (eq. 8), which is
        right where the formal error is one that all visits of a star share: noise of the pixels is
        both, and counts twice.
    misfit : (n,), optional
        See `measure_misfit`; "paper" has no use for it.

    Returns
    -------
    (n,)
        NaN where there is no formal error or no S/N.
    """
    if total == "paper":
        return np.hypot(formal, precision.predict(snr))
    return precision.predict_total(formal, snr, misfit)


def add_total_errors(
    table: pd.DataFrame, star: Int[np.ndarray, " n"], config: RepeatConfig | None = None
) -> tuple[pd.DataFrame, dict[str, Precision], list[str]]:
    """A table whose errors are total ones, with their parts in ``e_fit_...``, ``e_repeat_...``.

    Parameters
    ----------
    table : DataFrame
        One row a spectrum. Of velocities and labels, of whatever name, all pairs ``X`` and ``e_X``
        count that are no other column of `jaxmdwarf.catalogue.columns`.
    star : (n,)
        See `jaxmdwarf.catalogue.stars.group_stars`.
    config : RepeatConfig, optional

    Returns
    -------
    table : DataFrame
        All rows in their order. Where a precision could not be measured, the error is that of the
        fit alone, and there is no ``e_fit_...`` and ``e_repeat_...``.
    precisions : dict
        By column.
    notes : list of str
        What a reader should know.

    Raises
    ------
    UsageError
        If the table has no such S/N.
    """
    config = config or RepeatConfig()
    if config.snr_column not in table:
        raise UsageError(
            f"the table has no column {config.snr_column} of S/N.",
            "name another, as in --repeats.snr-column SNRi.",
        )
    snr = read_numbers(table, config.snr_column)
    good, bits = np.ones(len(table), bool), np.zeros(len(table), np.int64)
    if "flags" in table:
        # Not those of cuts that were made before, or a catalogue would change with each making.
        bits = table["flags"].to_numpy(np.int64) & ~int(CUT_FLAGS)
        good = find_good(bits)
    misfit = np.zeros(len(table))
    if "chi2_red" in table:
        misfit = measure_misfit(read_numbers(table, "chi2_red"), snr, good)
    done, precisions, notes = table.copy(deep=False), {}, []
    for column in list_measured(table):
        usable = good
        if column == VELOCITY.column:
            # A velocity that was taken from a header is none of ours.
            usable = good & ((bits & int(QualityFlag.FALLBACK_VELOCITY)) == 0)
        kept = f"{FORMAL_PREFIX}{column}"
        formal = read_numbers(table, kept if kept in table else f"e_{column}")
        value = np.where(usable, read_numbers(table, column), np.nan)
        found = measure_precision(
            value, snr, star, formal=formal, misfit=misfit, column=column, config=config
        )
        if found is None:
            notes.append(
                f"e_{column} is the error of the fit alone: too few stars have "
                f"{config.min_visits} good visits to tell how {column} repeats"
            )
            continue
        precisions[column] = found
        done[kept] = formal
        done[f"{REPEAT_PREFIX}{column}"] = found.predict(snr)
        done[f"e_{column}"] = combine_errors(formal, snr, found, config.total, misfit=misfit)
    return done[order_columns(map(str, done.columns))], precisions, notes


def list_measured(table: pd.DataFrame) -> list[str]:
    """Columns of velocity and labels that have an error beside them.

    Examples
    --------
    >>> import pandas as pd
    >>> names = ["RV", "e_RV", "Teff", "e_Teff", "e_fit_Teff", "Plx", "e_Plx", "C_O", "e_C_O"]
    >>> list_measured(pd.DataFrame(columns=names))
    ['RV', 'Teff', 'C_O']
    """
    names = list(map(str, table.columns))
    return [
        name
        for name in names
        if f"e_{name}" in names
        and (name not in COLUMNS or name == VELOCITY.column)
        and not f"e_{name}".startswith((FORMAL_PREFIX, REPEAT_PREFIX))
    ]


def _inverse(snr: np.ndarray, a: float, b: float) -> np.ndarray:
    positive = np.asarray(snr) > 0
    return np.where(positive, a / np.where(positive, snr, 1.0) + b, np.nan)


def _sort_into_bins(snr: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows by bin of S/N, and where in it bins begin and the last ends."""
    place = (snr // width).astype(np.int64)
    order = np.argsort(place, kind="stable")
    edges = np.flatnonzero(np.diff(place[order], prepend=-1, append=np.iinfo(np.int64).max))
    return order, edges


def _find_median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def _count(star: np.ndarray) -> np.ndarray:
    _, number, count = np.unique(star, return_inverse=True, return_counts=True)
    return count[number]


def _deviate(
    value: np.ndarray, number: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Deviations from the weighted means of stars in sigma, and degrees of freedom of each."""
    weight = 1.0 / sigma**2
    total = np.bincount(number, weight)
    # About one visit of each star, so that large values lose no digits.
    origin = np.zeros(total.size)
    origin[number] = value
    mean = origin + np.bincount(number, weight * (value - origin[number])) / total
    freedom = 1.0 - weight / total[number]
    usable = freedom > 1.0 - _MOST_LEVERAGE
    deviation = (value - mean[number]) / (sigma * np.sqrt(np.where(usable, freedom, 1.0)))
    return np.where(usable, deviation, np.nan), np.where(usable, freedom, 0.0)


def _list_bins(
    deviation: np.ndarray,
    freedom: np.ndarray,
    order: np.ndarray,
    edges: np.ndarray,
    min_in_bin: float,
) -> Iterator[tuple[np.ndarray, float]]:
    """Rows that show a deviation, and their degrees of freedom, of bins that have enough."""
    for first, last in pairwise(edges.tolist()):
        these = order[first:last]
        these = these[np.isfinite(deviation[these])]
        degrees = float(freedom[these].sum())
        if degrees >= min_in_bin:
            yield these, degrees


def _bin_scatter(
    deviation: np.ndarray,
    freedom: np.ndarray,
    inverse: np.ndarray,
    curve: tuple[float, float],
    order: np.ndarray,
    edges: np.ndarray,
    min_in_bin: float,
) -> np.ndarray:
    """Mean 1/(S/N), scatter, its error, and degrees of freedom of each bin, (n_bin, 4)."""
    rows = []
    for these, degrees in _list_bins(deviation, freedom, order, edges, min_in_bin):
        x = inverse[these].mean()
        expected = curve[0] * x + curve[1]
        ratio = _MAD_TO_SIGMA * np.median(np.abs(deviation[these]))
        # Errors by the curve: by the scatter itself, bins that came out low would weigh more.
        rows.append((x, ratio * expected, _MAD_ERROR * expected / degrees**0.5, degrees))
    return np.array(rows, np.float64).reshape(-1, 4)


def _fit_inverse(
    x: np.ndarray, scatter: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """a, b >= 0 of ``a x + b``, and their covariance."""
    from scipy.optimize import curve_fit

    if not np.all(scatter > 0):
        return np.zeros(2), np.zeros((2, 2))
    # In units of the scatter, for labels differ by orders of magnitude.
    unit = scatter.mean()
    found, covariance = curve_fit(
        lambda x, a, b: a * x + b,
        x,
        scatter / unit,
        p0=(1.0 / x.max(), 0.1),
        sigma=error / unit,
        absolute_sigma=True,
        bounds=(0.0, np.inf),
    )
    return found * unit, covariance * unit**2


def _fit_excess(
    value: np.ndarray,
    formal: np.ndarray,
    number: np.ndarray,
    snr: np.ndarray,
    misfit: np.ndarray,
    config: RepeatConfig,
) -> np.ndarray:
    """Coefficients of what the squares of deviations have beyond those of formal errors, (4,)."""
    from scipy.optimize import nnls

    known = np.isfinite(formal) & (formal > 0)
    value, formal, snr, misfit = value[known], formal[known], snr[known], misfit[known]
    number = np.unique(number[known], return_inverse=True)[1]
    # In units of the errors, for labels differ by orders of magnitude.
    unit2 = float(np.median(formal**2))
    square = formal**2 / unit2
    terms, found = np.column_stack([_expand(1.0 / snr), square * misfit]), np.zeros(4)
    # Every row is in a bin of S/N, bad fits in one of misfit as well: each kind of bin tells the
    # terms that it is made by.
    order, edges = _sort_into_bins(np.digitize(misfit, _MISFIT_EDGES), 1.0)
    binnings = [_sort_into_bins(snr, config.bin_width), (order, edges[edges >= _n_good(misfit)])]
    for _ in range(_N_ROUNDS):
        variance = square + terms @ found
        deviation, freedom = _deviate(value, number, np.sqrt(unit2 * variance))
        rows = []
        for order, edges in binnings:
            for these, degrees in _list_bins(deviation, freedom, order, edges, config.min_in_bin):
                ratio = _MAD_TO_SIGMA * np.median(np.abs(deviation[these]))
                typical, at = np.median(variance[these]), np.median(terms[these], axis=0)
                more = at @ found + (ratio**2 - 1.0) * typical
                rows.append((*at, more, 2.0 * _MAD_ERROR * typical / degrees**0.5))
        if not rows:
            return np.full(4, np.nan)
        *at, more, error = np.array(rows).T
        before = found
        found, _ = nnls(np.stack(at, axis=1) / error[:, None], more / error)
        if np.allclose(terms @ before, terms @ found, rtol=1e-4, atol=1e-6):
            break
    return found * (unit2, unit2, unit2, 1.0)


def _n_good(misfit: np.ndarray) -> int:
    return int(np.count_nonzero(misfit < _MISFIT_EDGES[0]))


def _expand(inverse: np.ndarray) -> np.ndarray:
    """Square, first and zeroth power of 1/(S/N): (a x + b)^2 is a sum of these, (n, 3)."""
    return np.stack([inverse**2, inverse, np.ones_like(inverse)], axis=-1)
