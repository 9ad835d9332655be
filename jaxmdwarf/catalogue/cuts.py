"""Cuts of the paper's section 4: each a bit of ``flags``, and how many rows each would remove."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LABELS, VELOCITY
from jaxmdwarf.measure.spectrum import LOW_SNR_BELOW
from jaxmdwarf.quality import CUT_FLAGS, QualityFlag, find_good

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.labels import LabelSpace

_SNR = ("SNRr", "SNRi")
_TEFF, _LOGG = LABELS["teff"].column, LABELS["logg"].column
_UNCERTAIN = (_TEFF, _LOGG, LABELS["mh"].column, VELOCITY.column)
"""The three parameters of the paper, and radial velocity."""

_MOST_ROUNDS = 50
_BOUNDS = re.compile(r"(\S+) (\S+) (\S+)")


@dataclass(frozen=True)
class CutConfig:
    """Limits of the cuts; None switches a cut off.

    Parameters
    ----------
    min_snr : float or None
        Rows with a lower S/N in r or i.
    max_teff : float or None
        Rows with a higher Teff, K.
    logg_bounds : (low, high) or None
        Bounds of log g in the model; None where nothing tells them: then only rows count of which
        the fit says that log g is at a bound.
    logg_margin : float
        Rows with a log g this near to a bound, dex.
    error_sigma : float or None
        Rows with an error of Teff, log g, [M/H] or RV that is larger than the mean of all by this
        many of their standard deviations, both without what lies beyond.
    max_chi2 : float or None
        Rows with a larger reduced chi-square.
    min_age_gyr : float or None
        Rows with a smaller median or mean age, Gyr. Rows without an age stay.
    """

    min_snr: float | None = LOW_SNR_BELOW
    max_teff: float | None = 4300.0
    logg_bounds: tuple[float, float] | None = None
    logg_margin: float = 0.05
    error_sigma: float | None = 5.0
    max_chi2: float | None = 50.0
    min_age_gyr: float | None = 1.0

    def __post_init__(self) -> None:
        low, high = self.logg_bounds or (0.0, 1.0)
        if not low < high or self.logg_margin < 0 or (self.error_sigma or 1.0) <= 0:
            raise UsageError(
                "limits of the cuts must increase, and margins and sigmas be positive.",
                "as in --cuts.logg-bounds 4 6 --cuts.logg-margin 0.05 --cuts.error-sigma 5.",
            )


class CutStep(NamedTuple):
    """One line of the waterfall.

    Parameters
    ----------
    name : str
        Of the bit, lower case.
    words : str
        What the cut removes, with its limits.
    failing : int
        Rows that fail it.
    removed : int
        Rows that fail it and none before.
    left : int
        Rows that fail neither it nor any before.
    """

    name: str
    words: str
    failing: int
    removed: int
    left: int


class Cuts(NamedTuple):
    """What the cuts say of a table.

    Parameters
    ----------
    flags : (n,) int32
        Those of the rows, with the bits of the cuts.
    first : (n,) int
        Index in `steps` of the first cut that a row fails; -1 for rows that pass all.
    steps : tuple of CutStep
        In the order of the paper.
    skipped : tuple of str
        Cuts that could not be made, and why.
    """

    flags: np.ndarray
    first: np.ndarray
    steps: tuple[CutStep, ...]
    skipped: tuple[str, ...]


def apply_cuts(table: pd.DataFrame, config: CutConfig | None = None) -> Cuts:
    """Find which rows the cuts of the paper would remove.

    Parameters
    ----------
    table : DataFrame
        A catalogue with any of Teff, Logg, M_H, RV, their errors, SNRr, SNRi, chi2_red, Age,
        Age_mean and flags.
    config : CutConfig, optional

    Notes
    -----
    The paper does not say how near to the bounds of log g is near, nor what its thresholds of 5
    sigma are of. Here the margin is 0.05 dex, and thresholds are those of the distribution of the
    errors themselves; an error that is missing, though other rows have one, is beyond.

    Examples
    --------
    >>> import pandas as pd
    >>> found = apply_cuts(pd.DataFrame({"Teff": [3500.0, 4400.0], "chi2_red": [1.0, 60.0]}))
    >>> found.first.tolist(), [(one.name, one.removed) for one in found.steps]
    ([-1, 0], [('too_hot', 1), ('bad_chi2', 0)])
    """
    config = config or CutConfig()
    flags = table["flags"].to_numpy(np.int64) if "flags" in table else np.zeros(len(table), int)
    flags = flags & ~int(CUT_FLAGS)
    first = np.full(len(table), -1)
    steps: list[CutStep] = []
    skipped = []
    for bit, words, failing in _list_cuts(table, config, flags):
        if failing is None:
            skipped.append(words)
            continue
        flags = np.where(failing, flags | int(bit), flags)
        removed = failing & (first < 0)
        first[removed] = len(steps)
        steps.append(
            CutStep(
                str(bit.name).lower(),
                words,
                int(failing.sum()),
                int(removed.sum()),
                int((first < 0).sum()),
            )
        )
    return Cuts(flags.astype(np.int32), first, tuple(steps), tuple(skipped))


def mark_rows(table: pd.DataFrame, cuts: Cuts) -> pd.DataFrame:
    """The table with the bits of the cuts in ``flags``, and with ``good`` by them."""
    return table.assign(flags=cuts.flags, good=find_good(cuts.flags))


def _list_cuts(
    table: pd.DataFrame, config: CutConfig, flags: np.ndarray
) -> Iterator[tuple[QualityFlag, str, Any]]:
    """Bit, words, and rows that fail, of each cut that is on; None for rows: it cannot be made."""
    if config.min_snr is not None and any(name in table for name in _SNR):
        low = np.any(
            [read_numbers(table, name) < config.min_snr for name in _SNR if name in table], axis=0
        )
        yield QualityFlag.LOW_SNR, f"S/N below {config.min_snr:g} in r or i", low
    if config.max_teff is not None and _TEFF in table:
        hot = read_numbers(table, _TEFF) > config.max_teff
        yield QualityFlag.TOO_HOT, f"Teff above {config.max_teff:g} K", hot
    if _LOGG in table:
        yield _cut_logg(table, config, flags)
    if config.error_sigma is not None:
        yield _cut_errors(table, config.error_sigma)
    if config.max_chi2 is not None and "chi2_red" in table:
        large = read_numbers(table, "chi2_red") > config.max_chi2
        yield QualityFlag.BAD_CHI2, f"reduced chi-square above {config.max_chi2:g}", large
    if config.min_age_gyr is not None:
        ages = [read_numbers(table, name) for name in ("Age", "Age_mean") if name in table]
        if ages:
            young = np.any([age < config.min_age_gyr for age in ages], axis=0)
            yield QualityFlag.YOUNG, f"age below {config.min_age_gyr:g} Gyr", young
        else:
            yield QualityFlag.YOUNG, "no cut by age: no ages were given", None


def _cut_logg(
    table: pd.DataFrame, config: CutConfig, flags: np.ndarray
) -> tuple[QualityFlag, str, np.ndarray]:
    near = (flags & int(QualityFlag.LOGG_AT_BOUND)) != 0
    words = "log g at a bound of the model"
    if config.logg_bounds is not None:
        low, high = config.logg_bounds
        logg = read_numbers(table, _LOGG)
        near = near | (logg < low + config.logg_margin) | (logg > high - config.logg_margin)
        words = f"log g within {config.logg_margin:g} dex of {low:g} or {high:g}"
    return QualityFlag.LOGG_NEAR_BOUND, words, near


def _cut_errors(table: pd.DataFrame, sigma: float) -> tuple[QualityFlag, str, Any]:
    limits, failing = [], np.zeros(len(table), bool)
    for column in _UNCERTAIN:
        error = read_numbers(table, f"e_{column}")
        # A label that was held has no errors at all.
        if np.isfinite(error).any():
            limit = find_threshold(error, sigma)
            failing |= ~(error <= limit)
            limits.append(f"{column} {limit:.3g}")
    if not limits:
        return QualityFlag.LARGE_ERROR, "no cut by errors: there are none", None
    words = f"errors beyond {sigma:g} sigma ({', '.join(limits)}) or missing"
    return QualityFlag.LARGE_ERROR, words, failing


def find_threshold(values: np.ndarray, sigma: float) -> float:
    """Mean plus `sigma` standard deviations, of what is not beyond it.

    Examples
    --------
    >>> round(find_threshold(np.array([1.0, 2.0, 3.0] * 30 + [1e6]), 5.0), 2)
    6.08
    """
    left = values[np.isfinite(values)]
    limit = np.inf
    for _ in range(_MOST_ROUNDS):
        # Never below the median: the mean of equal numbers may be a rounding error less than each.
        limit = float(max(left.mean() + sigma * left.std(), np.median(left)))
        kept = left[left <= limit]
        if kept.size == left.size:
            break
        left = kept
    return limit


def write_bounds(space: LabelSpace) -> str:
    """Bounds of the labels of a model, as catalogues keep them.

    Examples
    --------
    >>> from jaxmdwarf.labels import LabelSpace
    >>> write_bounds(LabelSpace(("logg",), ("dex",), (4.0,), (6.0,)))
    'logg 4 6'
    """
    return ", ".join(
        f"{name} {low:g} {high:g}"
        for name, low, high in zip(space.names, space.lower, space.upper, strict=True)
    )


def read_bounds(text: str) -> dict[str, tuple[float, float]]:
    """What `write_bounds` wrote.

    Examples
    --------
    >>> read_bounds("teff 2500 4600, logg 4 6")["logg"]
    (4.0, 6.0)
    """
    found = (_BOUNDS.fullmatch(part.strip()) for part in text.split(","))
    return {one[1]: (float(one[2]), float(one[3])) for one in found if one}
