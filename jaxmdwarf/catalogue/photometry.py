"""Teff and log g by photometry and parallax, beside what spectra say (published relations).

Radius and mass follow from the absolute Ks magnitude (Mann et al. 2015, 2019), gravity from both;
temperature from BP - RP and metallicity (Mann et al. 2015, erratum 2016). Relations are of single
main-sequence stars without extinction: an unresolved companion of equal brightness takes 0.1 dex
off log g.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polyder, polyval

from jaxmdwarf.catalogue.crossmatch import BINARY
from jaxmdwarf.catalogue.label_columns import correlation_column
from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LABELS, describe_label
from jaxmdwarf.simulate.main_sequence import (
    bolometric_correction,
    mass_from_absolute_k,
    radius_from_absolute_k,
    surface_gravity,
)

if TYPE_CHECKING:
    import pandas as pd

TEFF_BY_COLOUR = (2.835, -1.893, 0.7860, -0.1594, 0.01243)
"""Teff / 3500 K as a polynomial of BP - RP (Mann et al. 2015, erratum, table 2), beside [Fe/H]:"""

TEFF_BY_FEH = 0.04417

TEFF_SCATTER_K = 49.0
"""Of the stars of Mann et al. (2015) about the relation."""

COLOUR_LIMITS = (1.8, 4.9)
M_KS_LIMITS = (4.6, 9.8)
"""Of the same stars: nothing is extrapolated."""

GRAVITY_SCATTER_DEX = float(np.hypot(0.022, 2 * 0.027) / np.log(10))
"""Mass is known to 2.2 per cent (Mann et al. 2019), radius to 2.7 (2015)."""

KS_BY_G_MAG = 0.07
"""Scatter of Ks as G, Teff and [Fe/H] tell it: `main_sequence.BOLOMETRIC_CORRECTIONS`."""

MAX_RUWE, LEAST_PARALLAX_SNR, MOST_SIGMA = 1.4, 10.0, 5.0
"""Which stars are asked: single, of known distance, and not at odds with their spectrum."""

_GRAVITY, _TEFF = 1, 2
_MAGNITUDE_ERROR, _COLOUR_ERROR = 0.02, 0.01


class Photometric(NamedTuple):
    """What photometry says, one row a star; NaN where it says nothing.

    Parameters
    ----------
    logg, e_logg : (n,)
        dex.
    teff, e_teff : (n,)
        K, at the [M/H] of the row, whose own error is not in `e_teff`.
    """

    logg: np.ndarray
    e_logg: np.ndarray
    teff: np.ndarray
    e_teff: np.ndarray


def read_photometry(table: pd.DataFrame) -> Photometric:
    """Teff and log g of photometry and parallaxes.

    Parameters
    ----------
    table : DataFrame
        A catalogue with Plx, e_Plx and Ksmag or Gmag for log g, with BPmag and RPmag for Teff; Teff
        and M_H of the fit, for [Fe/H] enters both relations and Ks follows from G by Teff.

    Raises
    ------
    UsageError
        If it has the columns for neither.

    Examples
    --------
    A star of M_Ks = 6 at 10 pc:

    >>> import pandas as pd
    >>> row = {"Plx": 100.0, "e_Plx": 0.1, "Ksmag": 6.0, "BPmag": 12.0, "RPmag": 9.7}
    >>> found = read_photometry(pd.DataFrame([{**row, "Teff": 3500.0, "M_H": 0.0}]))
    >>> round(float(found.logg[0]), 2), round(float(found.teff[0]), -1)
    (4.79, 3670.0)
    """
    n = len(table)

    def column(name: str) -> np.ndarray:
        if name not in table:
            return np.full(n, np.nan)
        return table[name].to_numpy(np.float64, na_value=np.nan)

    by_colour = {"BPmag", "RPmag"} <= set(table)
    by_distance = "Plx" in table and not {"Ksmag", "Gmag"}.isdisjoint(table)
    if not (by_colour or by_distance):
        raise UsageError(
            "photometry says nothing: the table has neither BPmag and RPmag nor Plx with Ksmag or "
            "Gmag.",
            "give them with --gaia (gaia in Python).",
        )
    teff, mh = column("Teff"), np.nan_to_num(column("M_H"))
    ks, e_ks = column("Ksmag"), np.nan_to_num(column("e_Ksmag"), nan=_MAGNITUDE_ERROR)
    told = np.isfinite(ks)
    e_teff = np.nan_to_num(column("e_Teff"))
    by_g, steeper = (
        column("Gmag") + bolometric_correction("g", at, mh) - bolometric_correction("k", at, mh)
        for at in (teff, teff + e_teff)
    )
    ks = np.where(told, ks, by_g)
    e_ks = np.where(told, e_ks, np.hypot(KS_BY_G_MAG, steeper - by_g))
    parallax, e_parallax = column("Plx"), column("e_Plx")
    with np.errstate(invalid="ignore", divide="ignore"):
        near = parallax > LEAST_PARALLAX_SNR * e_parallax
        m_ks = np.where(near, ks + 5 * np.log10(parallax / 100.0), np.nan)
        e_m_ks = np.hypot(e_ks, 5 / np.log(10) * e_parallax / parallax)
    inside = (m_ks > M_KS_LIMITS[0]) & (m_ks < M_KS_LIMITS[1])
    logg = np.where(inside, _gravity(m_ks, mh), np.nan)
    slope = (_gravity(m_ks + 0.05, mh) - _gravity(m_ks - 0.05, mh)) / 0.1
    colour = column("BPmag") - column("RPmag")
    inside = (colour > COLOUR_LIMITS[0]) & (colour < COLOUR_LIMITS[1])
    by_colour_k = 3500.0 * (polyval(colour, TEFF_BY_COLOUR) + TEFF_BY_FEH * mh)
    steep = 3500.0 * polyval(colour, polyder(TEFF_BY_COLOUR))
    return Photometric(
        logg,
        np.where(np.isfinite(logg), np.hypot(GRAVITY_SCATTER_DEX, slope * e_m_ks), np.nan),
        np.where(inside, by_colour_k, np.nan),
        np.where(inside, np.hypot(TEFF_SCATTER_K, steep * _COLOUR_ERROR), np.nan),
    )


def _gravity(m_ks: np.ndarray, feh: np.ndarray) -> np.ndarray:
    return surface_gravity(mass_from_absolute_k(m_ks), radius_from_absolute_k(m_ks, feh))


def add_photometry(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Let photometry speak beside the spectra: labels, errors and correlations of a catalogue.

    The fit of a star is a Gaussian of its labels, with the errors and correlations of its row;
    photometry is a measurement of log g, and one of Teff less a multiple of [M/H]. The product of
    all is what the labels become, [M/H] and [alpha/M] included, as far as their errors go together.
    RUWE above 1.4, VBFlag 2, parallaxes below ten errors, and photometry that is five errors away
    from the spectrum leave a row as it is.

    Parameters
    ----------
    table : DataFrame
        See `read_photometry`; with labels and their errors, and `corr_...` where it is known.

    Returns
    -------
    table : DataFrame
        With Logg_phot, Teff_phot, their errors, and PhotUsed: 1 for log g, 2 for Teff, 3 for both.
    notes : tuple of str
        How many rows it entered.

    Raises
    ------
    UsageError
        As `read_photometry`, or if no label has an error.
    """
    labels = [one for one in LABELS.values() if {one.column, one.error_column} <= set(table)]
    names = [one.name for one in labels]
    if not {"teff", "logg"} & set(names):
        raise UsageError(
            "the table has no Teff and no Logg with errors.", "give tables of 'jaxmdwarf fit'."
        )
    found = read_photometry(table)
    values = np.stack([table[one.column].to_numpy(np.float64) for one in labels], axis=1)
    covariance = _read_covariance(table, names)
    single = np.ones(len(table), bool)
    if "RUWE" in table:
        single &= ~(table["RUWE"].to_numpy(np.float64, na_value=np.nan) > MAX_RUWE)
    if "VBFlag" in table:
        single &= table["VBFlag"].fillna(0).to_numpy() != BINARY
    usable = single & np.isfinite(values).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    used = np.zeros(len(table), np.int32)
    n_odd = 0
    for bit, (direction, measured, error) in _list_measurements(names, values, found).items():
        pulls = covariance @ direction
        variance = pulls @ direction + error**2
        away = measured - values @ direction
        ask = usable & np.isfinite(away) & np.isfinite(variance)
        odd = ask & (np.abs(away) > MOST_SIGMA * np.sqrt(variance))
        n_odd += int(odd.sum())
        rows = np.flatnonzero(ask & ~odd)
        gain = pulls[rows] / variance[rows, None]
        values[rows] += gain * away[rows, None]
        covariance[rows] -= gain[:, :, None] * pulls[rows, None, :]
        used[rows] |= bit
    changed = used > 0
    columns: dict[str, np.ndarray] = {
        "Logg_phot": found.logg,
        "e_Logg_phot": found.e_logg,
        "Teff_phot": found.teff,
        "e_Teff_phot": found.e_teff,
        "PhotUsed": used,
    }
    errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    for index, one in enumerate(labels):
        for name, new in ((one.column, values), (one.error_column, errors)):
            columns[name] = np.where(changed, new[:, index], table[name].to_numpy(np.float64))
    for first, second in combinations(range(len(labels)), 2):
        name = correlation_column(labels[first], labels[second]).name
        if name in table:
            new = covariance[:, first, second] / (errors[:, first] * errors[:, second])
            columns[name] = np.where(changed, new, table[name].to_numpy(np.float64))
    notes = [
        f"photometry entered log g of {int((used & _GRAVITY > 0).sum())} and Teff of "
        f"{int((used & _TEFF > 0).sum())} of {len(table)} rows"
    ]
    if n_odd:
        notes.append(
            f"{n_odd} values of photometry are more than {MOST_SIGMA:g} errors from the spectrum "
            "and were left out"
        )
    return table.assign(**columns), tuple(notes)


def _list_measurements(
    names: Sequence[str], values: np.ndarray, found: Photometric
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By bit: direction among the labels, what was measured along it, its error."""
    listed = {}
    if "logg" in names:
        listed[_GRAVITY] = (_unit(names, "logg"), found.logg, found.e_logg)
    if "teff" in names:
        direction, measured = _unit(names, "teff"), found.teff
        if "mh" in names:
            # Teff less this multiple of [M/H] is what the colour says.
            per_dex = 3500.0 * TEFF_BY_FEH
            direction = direction - per_dex * _unit(names, "mh")
            measured = measured - per_dex * values[:, names.index("mh")]
        listed[_TEFF] = (direction, measured, found.e_teff)
    return listed


def _unit(names: Sequence[str], name: str) -> np.ndarray:
    return np.array([float(one == name) for one in names])


def _read_covariance(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Covariance (n, k, k) of the labels by errors and correlations; unknown ones count as none."""
    labels = [describe_label(name) for name in names]
    errors = np.stack([table[one.error_column].to_numpy(np.float64) for one in labels], axis=1)
    correlation = np.tile(np.eye(len(labels)), (len(table), 1, 1))
    for first, second in combinations(range(len(labels)), 2):
        name = correlation_column(labels[first], labels[second]).name
        if name in table:
            values = table[name].to_numpy(np.float64)
            correlation[:, first, second] = correlation[:, second, first] = values
    return correlation * errors[:, :, None] * errors[:, None, :]
