"""Selection cuts on the sample, each with its own reason (paper, section 2.1, steps 1-3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import MismatchError, UsageError


@dataclass(frozen=True)
class SelectionConfig:
    """Limits of the cuts; None switches a cut off.

    Parameters
    ----------
    min_snr_r : float or None
        A spectrum stays with a S/N above this in the r band.
    min_snr_i : float or None
        A spectrum stays with a S/N above this in the i band.
    max_ruwe : float or None
        Stars with a Gaia RUWE above this are likely binaries.
    m_g : (low, high) or None
        Absolute G magnitude of M dwarfs, limits excluded.
    bp_rp : (low, high) or None
        Colour BP-RP of M dwarfs, limits excluded.
    keep_missing : tuple of str
        Quantities whose absence does not remove a star: ruwe alone, because the paper removes what
        has a large RUWE, and demands the others to lie within limits. A S/N of -9999 is missing.
    """

    min_snr_r: float | None = 5.0
    min_snr_i: float | None = 5.0
    max_ruwe: float | None = 1.4
    m_g: tuple[float, float] | None = (4.0, 15.0)
    bp_rp: tuple[float, float] | None = (1.0, 5.0)
    keep_missing: tuple[str, ...] = ("ruwe",)

    def __post_init__(self) -> None:
        unknown = set(self.keep_missing) - set(CUT_QUANTITIES)
        if unknown:
            raise UsageError(
                f"keep_missing names {sorted(unknown)}.", f"use names among {list(CUT_QUANTITIES)}."
            )


CUT_QUANTITIES = ("snr_r", "snr_i", "ruwe", "m_g", "bp_rp")
"""Columns that the cuts look at."""


@dataclass(frozen=True)
class Selection:
    """Outcome of the cuts.

    Parameters
    ----------
    keep : (n,) bool
        Rows that pass every cut.
    reasons : dict of str to (n,) bool
        One column a reason: ``<quantity>_outside`` or ``<quantity>_missing``, True where the row
        fails for it. A row may fail for several.
    skipped : tuple of str
        Quantities whose column was not given, so that their cut was not made.
    """

    keep: np.ndarray
    reasons: dict[str, np.ndarray]
    skipped: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Number of rows that fail for each reason."""
        return {name: int(failed.sum()) for name, failed in self.reasons.items()}


def select(columns: Mapping[str, np.ndarray], cuts: SelectionConfig | None = None) -> Selection:
    """Apply the cuts to a table's columns.

    Parameters
    ----------
    columns : mapping of str to (n,) array
        Any of `CUT_QUANTITIES`; other columns are ignored. NaN is a missing value. A quantity
        whose column is absent is not cut on, and named in the result.
    cuts : SelectionConfig, optional
        The paper's by default.

    Raises
    ------
    UsageError
        If no column is one that the cuts look at.
    MismatchError
        If columns differ in length.

    Examples
    --------
    >>> chosen = select({"snr_r": np.array([20.0, 3.0]), "ruwe": np.array([1.0, 2.0])})
    >>> chosen.keep.tolist(), chosen.counts()["ruwe_outside"]
    ([True, False], 1)
    """
    cuts = cuts or SelectionConfig()
    limits = {
        "snr_r": (cuts.min_snr_r, None),
        "snr_i": (cuts.min_snr_i, None),
        "ruwe": (None, cuts.max_ruwe),
        "m_g": cuts.m_g or (None, None),
        "bp_rp": cuts.bp_rp or (None, None),
    }
    given = {
        name: np.asarray(columns[name], dtype=np.float64) for name in limits if name in columns
    }
    if not given:
        raise UsageError(
            f"none of the columns {list(columns)} can be cut on.",
            f"name columns {', '.join(CUT_QUANTITIES)}.",
        )
    lengths = {values.size for values in given.values()}
    if len(lengths) > 1:
        raise MismatchError(f"columns differ in length: {sorted(lengths)}.")
    reasons: dict[str, np.ndarray] = {}
    for name, values in given.items():
        low, high = limits[name]
        if low is None and high is None:
            continue
        missing = ~np.isfinite(values) | (name.startswith("snr") & (values <= -9998.0))
        outside = np.zeros(values.size, dtype=bool)
        if low is not None:
            outside |= ~(values > low)
        if high is not None:
            # RUWE of exactly the limit stays ("> 1.4" is removed); ranges exclude both limits.
            outside |= values > high if name == "ruwe" else ~(values < high)
        reasons[f"{name}_outside"] = outside & ~missing
        if name not in cuts.keep_missing:
            reasons[f"{name}_missing"] = missing
    failed = np.zeros(next(iter(lengths)), dtype=bool)
    for reason in reasons.values():
        failed |= reason
    return Selection(~failed, reasons, tuple(name for name in limits if name not in given))


def absolute_magnitude(g_mag: np.ndarray, parallax_mas: np.ndarray) -> np.ndarray:
    """Absolute magnitude from apparent magnitude and parallax, without extinction.

    NaN where the parallax is not positive: such a star has no distance of this kind.

    Parameters
    ----------
    g_mag : (n,)
        Apparent magnitude.
    parallax_mas : (n,)

    Examples
    --------
    >>> absolute_magnitude(np.array([15.0]), np.array([10.0])).tolist()
    [10.0]
    """
    parallax = np.asarray(parallax_mas, dtype=np.float64)
    positive = parallax > 0
    return np.where(
        positive,
        np.asarray(g_mag) + 5.0 * np.log10(np.where(positive, parallax, 1.0)) - 10.0,
        np.nan,
    )
