"""Published relations of M dwarfs: mass, radius, temperature, luminosity, colours and types."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.tables import Columns

LOGG_SUN = 4.438
TEFF_SUN = 5772.0
MBOL_SUN = 4.74

_MASS_POLYNOMIAL = (-0.642, -0.208, -8.43e-4, 7.87e-3, 1.42e-4, -2.13e-4)
_RADIUS_POLYNOMIAL = (1.9305, -0.3466, 0.01647)
_RADIUS_FEH = 0.04458
_FEH_LIMITS = (-1.5, 0.6)

BOLOMETRIC_CORRECTIONS: dict[str, tuple[float, ...]] = {
    "k": (2.6356, -1.1915, -0.0542, -10.3142, 0.1709, 0.1225),
    "g": (-1.0902, 3.6784, -6.0445, 12.8461, -0.2687, 0.4721),
    "bp": (-2.2401, 7.1668, -15.7489, 34.4967, -0.3507, -0.0994),
    "rp": (0.2997, 1.7295, -5.3673, 14.4879, -0.1929, 0.7936),
}
"""m_bol - m in 2MASS Ks and Gaia G, BP, RP: coefficients of 1, x, x^2, x^3, [Fe/H], x [Fe/H] with
x = Teff / 3500 K - 1; our robust fit to the 183 stars of Mann et al. (2015, ApJ 804 64; 2016
erratum), rms 0.03, 0.06, 0.11 and 0.04 mag, 2700-4130 K."""

_TYPE_TEFF = (
    2320.0,
    2620.0,
    2800.0,
    3030.0,
    3200.0,
    3360.0,
    3500.0,
    3680.0,
    3850.0,
    4050.0,
    4440.0,
)
_TYPE = (9.0, 7.5, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0)

_PC_CM, _RSUN_CM = 3.0856776e18, 6.957e10

Relation = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(mass in Msun, [M/H]) -> (Teff in K, radius in Rsun)."""


def mass_from_absolute_k(m_k: np.ndarray) -> np.ndarray:
    """Mass in Msun of main-sequence stars from M_Ks, 4 < M_Ks < 11 (0.075-0.75 Msun).

    Mann et al. (2019, ApJ 871 63), table 6, fifth order without metallicity term (which is
    consistent with zero).

    Examples
    --------
    >>> mass_from_absolute_k(np.array([5.0, 8.0])).round(3).tolist()
    [0.597, 0.18]
    """
    return 10 ** np.polynomial.polynomial.polyval(np.asarray(m_k) - 7.5, _MASS_POLYNOMIAL)


def absolute_k_from_mass(mass: np.ndarray) -> np.ndarray:
    """M_Ks from mass: the inverse of `mass_from_absolute_k`."""
    m_k = np.linspace(3.8, 11.2, 2000)
    return np.interp(-np.asarray(mass), -mass_from_absolute_k(m_k), m_k)


def radius_from_absolute_k(m_k: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """Radius in Rsun from M_Ks and [Fe/H]: Mann et al. (2015, ApJ 804 64; erratum), equation 5.

    Parameters
    ----------
    m_k : (n,)
        Absolute 2MASS Ks magnitude.
    feh : (n,)
        [Fe/H], held constant below -1.5 and above 0.6.
    """
    radius = np.polynomial.polynomial.polyval(np.asarray(m_k), _RADIUS_POLYNOMIAL)
    return radius * (1 + _RADIUS_FEH * np.clip(feh, *_FEH_LIMITS))


def bolometric_correction(band: str, teff: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """m_bol - m of M dwarfs in ``k``, ``g``, ``bp`` or ``rp``; see `BOLOMETRIC_CORRECTIONS`.

    Parameters
    ----------
    band : {"k", "g", "bp", "rp"}
    teff : (n,)
        K; held constant outside of 2600-4200 K.
    feh : (n,)
        [Fe/H], held constant below -1.5 and above 0.6.

    Returns
    -------
    (n,) magnitudes
    """
    x = np.clip(np.asarray(teff), 2600.0, 4200.0) / 3500.0 - 1
    feh = np.clip(feh, *_FEH_LIMITS)
    a, b, c, d, e, f = BOLOMETRIC_CORRECTIONS[band]
    return a + x * (b + x * (c + x * d)) + feh * (e + f * x)


def empirical_relation(mass: np.ndarray, mh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Teff (K) and radius (Rsun) of M dwarfs of given mass and metallicity.

    Mass gives M_Ks, M_Ks and [Fe/H] the radius, M_Ks and the K-band bolometric correction the
    luminosity, and both together Teff.

    Parameters
    ----------
    mass : (n,)
        Solar masses, 0.08 to 0.70.
    mh : (n,)
        [M/H], taken as [Fe/H]; relations were measured from -0.6 to 0.5 and are held constant
        below -1.5.

    Examples
    --------
    >>> teff, radius = empirical_relation(np.array([0.6, 0.2]), np.zeros(2))
    >>> teff.round(-2).tolist(), radius.round(2).tolist()
    ([4000.0, 3200.0], [0.61, 0.23])
    """
    m_k = absolute_k_from_mass(mass)
    radius = radius_from_absolute_k(m_k, mh)
    teff = np.full(np.shape(mass), 3500.0)
    # The correction depends on Teff weakly (a tenth of a magnitude per 250 K): it contracts.
    for _ in range(12):
        m_bol = m_k + bolometric_correction("k", teff, mh)
        teff = TEFF_SUN * (10 ** (-0.4 * (m_bol - MBOL_SUN)) / radius**2) ** 0.25
    return teff, radius


def isochrone_relation(table: Mapping[str, np.ndarray], *, log_age: float = 9.7) -> Relation:
    """A main-sequence relation from a table of isochrones.

    Parameters
    ----------
    table : mapping of columns (a DataFrame or a dict of arrays)
        ``feh``, ``log_age``, ``Mini`` (Msun), ``Teff`` (K) and ``radius`` (Rsun), one row a point,
        e.g. PARSEC.
    log_age : float
        log10(age/yr); the nearest age of the table is taken.

    Returns
    -------
    Relation
        Interpolates in mass along each isochrone, then linearly in metallicity; NaN outside the
        masses of the isochrones.

    Raises
    ------
    UsageError
        If a column is missing.
    """
    needed = ("feh", "log_age", "Mini", "Teff", "radius")
    missing = [name for name in needed if name not in table]
    if missing:
        raise UsageError(
            f"the isochrone table lacks {', '.join(missing)}.", f"name its columns {needed}."
        )
    feh, age, mass, teff, radius = (np.asarray(table[name], dtype=float) for name in needed)
    ages = np.unique(age)
    chosen = age == ages[np.argmin(abs(ages - log_age))]
    metallicities = np.unique(feh[chosen])
    tracks = []
    for value in metallicities:
        rows = np.flatnonzero(chosen & (feh == value))
        rows = rows[np.argsort(mass[rows])]
        tracks.append((mass[rows], teff[rows], radius[rows]))

    def relation(mass: np.ndarray, mh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mass, mh = np.asarray(mass, dtype=float), np.clip(mh, metallicities[0], metallicities[-1])
        upper = np.clip(np.searchsorted(metallicities, mh), 1, metallicities.size - 1)
        weight = (mh - metallicities[upper - 1]) / (metallicities[upper] - metallicities[upper - 1])
        on_tracks = np.array(
            [
                [np.interp(mass, track[0], track[k], np.nan, np.nan) for track in tracks]
                for k in (1, 2)
            ]
        )
        column = np.arange(mass.size)
        low, high = on_tracks[:, upper - 1, column], on_tracks[:, upper, column]
        teff, radius = low * (1 - weight) + high * weight
        return teff, radius

    return relation


def surface_gravity(mass: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """log g (cgs) from mass and radius.

    Parameters
    ----------
    mass, radius : (n,)
        Solar units.
    """
    return LOGG_SUN + np.log10(mass) - 2 * np.log10(radius)


def spectral_type(teff: np.ndarray) -> np.ndarray:
    """Numerical subtype (0 = M0, negative = K: -1 is K7) that goes with Teff, solar metallicity.

    Anchored at M0 3850, M2 3500 and M4 3200 K; within 80 K of Pecaut & Mamajek (2013) elsewhere.
    """
    return np.interp(teff, _TYPE_TEFF, _TYPE)


def absolute_magnitudes(teff: np.ndarray, radius: np.ndarray, mh: np.ndarray) -> Columns:
    """Absolute magnitudes of M dwarfs, consistent with their labels.

    Parameters
    ----------
    teff : (n,)
        K.
    radius : (n,)
        Solar radii.
    mh : (n,)
        [M/H], taken as [Fe/H].

    Returns
    -------
    Columns
        ``g``, ``bp``, ``rp`` (Gaia) and ``k`` (2MASS Ks).
    """
    m_bol = MBOL_SUN - 10 * np.log10(teff / TEFF_SUN) - 5 * np.log10(radius)
    return {band: m_bol - bolometric_correction(band, teff, mh) for band in ("g", "bp", "rp", "k")}


def dilution(radius: np.ndarray, distance_pc: np.ndarray) -> np.ndarray:
    """(R/d)^2: flux at Earth over flux at the surface.

    Parameters
    ----------
    radius : (n,)
        Solar radii.
    distance_pc : (n,)
    """
    return (radius * _RSUN_CM / (distance_pc * _PC_CM)) ** 2
