"""What kind of object a spectrum shows, without a model: M dwarf or not, and what else.

The evidence is the *band strength*: how deep seven stretches of TiO and CaH are below the flux
between bands, in units of the same sum in the M0 template of the SDSS. It needs no absolute flux
(continua stand on both sides of each band, or next to it) and no colour, and counts CaH as much as
TiO, so that subdwarfs, whose TiO is weak, stay M dwarfs: the ultrasubdwarf of type M0 of Lepine et
al. (2007) has 0.9. LAMOST's stars of types A to G have 0.0 to 0.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

from jaxmdwarf.measure.indices import MIN_CONTINUUM_SNR, Measurement
from jaxmdwarf.measure.metallicity_class import LEAST_DEPTH, SOLAR_TIO5
from jaxmdwarf.measure.windows import WindowMean, mean_over_windows, window_in_vacuum
from jaxmdwarf.wavelengths import FASTEST_STAR_KMS

CLEARLY_WEAKER = 0.40
"""Below this band strength nothing is an M dwarf, whatever its survey says.

K7 templates of the SDSS (Kesseli et al. 2017, [Fe/H] = -0.5 to 0.5) have 0.45 to 0.66, M0
templates 0.83 to 1.27, LAMOST's K5 stars 0.1 to 0.7.
"""

WEAKER = 0.75
"""Midway between the templates K7 and M0 of the SDSS: the boundary where a survey says nothing."""

CLEARLY_STRONGER = 1.35
"""Above this nothing is a K dwarf.

Surveys disagree by a subtype: LAMOST calls stars of 0.7 to 1.2 K7 in one data release, and stars
of 0.9 to 1.8 M0 in another. In between, the survey's own class decides.
"""

GIANT_EXCESS = 1.5
"""TiO5 this many times as deep as in a dwarf with the same CaH (Lepine et al. 2007), and ..."""

GIANT_SODIUM = 0.975
"""... Na I at 8190 Angstrom this close to its continuum make a giant; M dwarfs from M0 on have 0.97
to 0.80, falling with type."""

K_DWARF_CALCIUM = 0.94
"""Ca I 6162 (and neighbours) deeper than this makes a K dwarf; G dwarfs have 0.94 to 0.98."""

HOTTER_HALPHA_AA = -1.15
"""Halpha this deep makes a star earlier than K; K dwarfs have -1.1 to -0.2."""

HIGHEST_BAND = 0.06
"""A band higher than its continuum by this much, at 4 sigma, was hit by a cosmic ray: no star has
one, CaH of the hottest is 2 per cent higher."""

MIN_SHARE = 0.3
"""Least share of the bands (by the depth that they have at M0) that must be seen."""

N_SIGMA = 2.0
"""Errors by which a boundary must be passed; one suffices at `WEAKER`, where no survey says M."""

EMPTY_SNR = 1.0
"""Median S/N per pixel in r and i below which there is no spectrum to speak of, ..."""

EMPTY_SHARE = 0.1
"""... and the share of good pixels."""

KINDS = ("M dwarf", "K dwarf", "giant", "hotter star", "galaxy", "empty", "")
"""Values of the column ``kind``; an empty one is an object that cannot be told."""


class Band(NamedTuple):
    """A band and its continua, windows in air Angstrom; two continua are joined by a line.

    Parameters
    ----------
    band_aa : (float, float)
    continuum_aa : tuple of one or two (float, float)
    depth_m0 : float
        Of the template M0, [Fe/H] = 0, of the SDSS (Kesseli et al. 2017, ApJS 230, 16), as these
        windows measure it.
    """

    band_aa: tuple[float, float]
    continuum_aa: tuple[tuple[float, float], ...]
    depth_m0: float = 0.0


_BEFORE_6651, _BEFORE_7053 = (6620.0, 6645.0), (7035.0, 7052.0)
_BEFORE_6158, _BEFORE_HALPHA = (6110.0, 6150.0), (6500.0, 6545.0)

BANDS: dict[str, Band] = {
    "TiO 6158": Band((6160.0, 6200.0), (_BEFORE_6158, _BEFORE_HALPHA), 0.092),
    "TiO 6187": Band((6205.0, 6260.0), (_BEFORE_6158, _BEFORE_HALPHA), 0.114),
    "TiO 6681": Band((6715.0, 6760.0), (_BEFORE_6651, _BEFORE_7053), 0.077),
    "CaH 6750": Band((6775.0, 6846.0), (_BEFORE_6651, _BEFORE_7053), 0.105),
    "CaH 6903": Band((6952.0, 7000.0), (_BEFORE_6651, _BEFORE_7053), 0.049),
    "TiO 7053": Band((7056.0, 7150.0), (_BEFORE_7053,), 0.068),
    "TiO5": Band((7126.0, 7135.0), ((7042.0, 7046.0),), 0.120),
}
"""The bands whose depths are summed, by what is in them."""

_SODIUM = Band((8172.0, 8209.0), ((8140.0, 8165.0), (8213.0, 8235.0)))
_CALCIUM = Band((6156.0, 6168.0), (_BEFORE_6158,))
_ALL = (*BANDS.values(), _SODIUM, _CALCIUM)
_N_BAND = len(BANDS)
_M0 = np.array([band.depth_m0 for band in BANDS.values()])


class KindOfSpectrum(NamedTuple):
    """What kinds spectra are of.

    Parameters
    ----------
    kind : (n_spec,) object
        One of `KINDS`.
    strength, e_strength : (n_spec,) float
        Band strength, 1 in the M0 template of the SDSS, and its error; NaN where too few bands are
        seen.
    not_m_dwarf : (n_spec,) bool
        Whether the object is no M dwarf; False where that cannot be told.
    """

    kind: np.ndarray
    strength: np.ndarray
    e_strength: np.ndarray
    not_m_dwarf: np.ndarray


def measure_band_strength(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    stretch: np.ndarray | float = 1.0,
) -> Measurement:
    """Depth of the molecular bands of spectra that share their wavelengths.

    Parameters
    ----------
    wave_aa : (n,) float
        Vacuum wavelengths, Angstrom, increasing.
    flux, ivar : (n_spec, n) float
    stretch : float or (n_spec,) float
        Doppler factor of each star: wavelengths over those at rest.

    Returns
    -------
    Measurement
        Arrays (n_spec,): sum of `BANDS`' depths over the sum at M0. A band that a bad pixel or a
        cosmic ray has spoilt is left out of both sums; NaN where less than 30 per cent is left.

    Examples
    --------
    >>> wave = np.arange(6000.0, 8900.0)
    >>> found = measure_band_strength(wave, np.ones((1, 2900)), np.full((1, 2900), 900.0))
    >>> found.value.round(2).tolist(), found.error.round(2).tolist()
    ([0.0], [0.06])
    """
    return _sum_depths(_measure_bands(wave_aa, flux, ivar, stretch))


def classify_spectra(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    stretch: np.ndarray | float,
    indices: Mapping[str, Measurement],
    ew_halpha: np.ndarray,
    snr: np.ndarray,
    classes: Sequence[str] | None = None,
    subclasses: Sequence[str] | None = None,
    header_kms: np.ndarray | float = 0.0,
) -> KindOfSpectrum:
    """Tell M dwarfs from K dwarfs, giants, hotter stars, galaxies and empty spectra.

    Parameters
    ----------
    wave_aa : (n,) float
        Vacuum wavelengths, Angstrom, shared by all spectra.
    flux, ivar : (n_spec, n) float
    stretch : float or (n_spec,) float
        Doppler factor of each star.
    indices : mapping of str to Measurement
        ``tio5``, ``cah2`` and ``cah3`` of `measure_indices`, arrays (n_spec,).
    ew_halpha : (n_spec,) float
        Equivalent width of Halpha, emission positive, Angstrom.
    snr : (n_spec,) float
        The better S/N of the bands r and i; NaN if unknown.
    classes, subclasses : sequence of str, optional
        What the survey calls the objects (``GALAXY``; ``K7``, ``dM0``, ``gM3``). It decides only
        where the spectrum cannot: between `CLEARLY_WEAKER` and `CLEARLY_STRONGER`.
    header_kms : float or (n_spec,) float
        Velocities that headers tell, km/s.

    Returns
    -------
    KindOfSpectrum
        `not_m_dwarf` errs by two sigma on the side of M dwarfs: noise alone flags none.
    """
    n_spec = len(flux)
    bands = _measure_bands(wave_aa, flux, ivar, stretch)
    strength = _sum_depths(bands)
    classes, subclasses = classes or [""] * n_spec, subclasses or [""] * n_spec
    said = list(map(read_class, classes, subclasses))
    says_m, says_giant, says_other = (
        np.array([word == wanted for word in said], bool)
        for wanted in ("M dwarf", "giant", "other")
    )
    far = np.broadcast_to(np.abs(header_kms) > FASTEST_STAR_KMS, n_spec)
    extragalactic = far | np.array([str(one).strip().upper() in _GALAXIES for one in classes], bool)
    says_other = says_other | (far & ~says_m)
    seen = np.isfinite(strength.value)
    with np.errstate(invalid="ignore"):
        upper, lower = (strength.value + sign * N_SIGMA * strength.error for sign in (1, -1))
        clearly_weaker = upper < CLEARLY_WEAKER
        weaker = strength.value + strength.error < WEAKER
        between = seen & ~clearly_weaker & (lower < CLEARLY_STRONGER)
        empty = ~(snr >= EMPTY_SNR) & ~(lower > CLEARLY_WEAKER)
        empty |= np.count_nonzero(ivar, axis=1) < EMPTY_SHARE * wave_aa.size
        metals = bands.ratio[:, -1] < K_DWARF_CALCIUM
        balmer = ew_halpha < HOTTER_HALPHA_AA
    giant = seen & ~clearly_weaker & _is_giant(bands, indices, between, says_giant)
    warm = between & (says_other | (weaker & ~says_m))
    not_m = (clearly_weaker | giant | warm) & ~empty
    kind = np.full(n_spec, "", object)
    kind[seen & ~not_m & (says_m | ~between | (strength.value >= WEAKER))] = "M dwarf"
    kind[not_m & (metals | warm)] = "K dwarf"
    kind[not_m & balmer] = "hotter star"
    kind[not_m & giant] = "giant"
    kind[not_m & extragalactic] = "galaxy"
    kind[empty] = "empty"
    return KindOfSpectrum(kind, strength.value, strength.error, not_m)


def read_class(object_class: str, subclass: str) -> str:
    """What a survey's class says: "M dwarf", "giant" (an M giant), "other", or "" for nothing.

    Examples
    --------
    >>> [read_class("STAR", name) for name in ("dM0", "sdM3", "gM2", "K7", "F9", "Non", "")]
    ['M dwarf', 'M dwarf', 'giant', 'other', 'other', '', '']
    >>> read_class("GALAXY", "Non")
    'other'
    """
    if str(object_class).strip().upper() in _GALAXIES:
        return "other"
    found = _SUBCLASS.match(str(subclass).strip())
    if found is None:
        return ""
    if found["letter"] in "ML":
        return "giant" if found["prefix"] == "g" else "M dwarf"
    return "other"


_GALAXIES = ("GALAXY", "QSO")
_SUBCLASS = re.compile(r"(?P<prefix>u?e?sd|d|g)?(?P<letter>[OBAFGKML])(\d|[IV]|$|\W)")


class _Bands(NamedTuple):
    """Means over all windows, and of each of `_ALL`: continuum, flux over it, error of that."""

    means: WindowMean
    level: np.ndarray
    ratio: np.ndarray
    error: np.ndarray


def _combine(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``values @ weights`` row by row: as one product, rows would round with their number."""
    return (values[:, None] @ weights)[:, 0]


def _measure_bands(
    wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray, stretch: np.ndarray | float
) -> _Bands:
    means = mean_over_windows(wave_aa, flux, ivar, _WINDOWS_AA, stretch=stretch)
    # In a matrix product one unknown window would make all continua unknown.
    known = np.isfinite(means.value)
    value, variance = (np.where(known, part, 0.0) for part in means)
    level, of_level = _combine(value, _TO_LEVELS), _combine(variance, _TO_LEVELS**2)
    use = ~(~known @ (_TO_LEVELS != 0))
    use &= level > MIN_CONTINUUM_SNR * np.sqrt(of_level)
    level = np.where(use, level, np.nan)
    ratio = means.value[:, : len(_ALL)] / level
    error = np.sqrt(means.variance[:, : len(_ALL)] + ratio**2 * of_level) / level
    return _Bands(WindowMean(value, variance), level, ratio, error)


def _sum_depths(bands: _Bands) -> Measurement:
    """Sum of the depths over that at M0; pixels that bands share enter the error once."""
    level, ratio, error = (part[:, :_N_BAND] for part in bands[1:])
    with np.errstate(invalid="ignore"):
        fine = 1.0 - ratio > -np.maximum(HIGHEST_BAND, 4.0 * error)
    total = np.where(fine, _M0, 0.0).sum(axis=1)
    total = np.where(total >= MIN_SHARE * _M0.sum(), total, np.nan)
    value = np.where(fine, 1.0 - ratio, 0.0).sum(axis=1) / total
    slopes = _combine(np.where(fine, ratio / level, 0.0), _TO_LEVELS[:, :_N_BAND].T)
    slopes[:, :_N_BAND] -= np.where(fine, 1.0 / level, 0.0)
    variance = (slopes * (slopes + _combine(2.0 * slopes, _NESTED)) * bands.means.variance).sum(
        axis=1
    )
    return Measurement(value, np.sqrt(variance) / total)


def _is_giant(
    bands: _Bands, indices: Mapping[str, Measurement], between: np.ndarray, says_giant: np.ndarray
) -> np.ndarray:
    """CaH and Na I too weak for the TiO; the survey's word where the lines do not gainsay it."""
    tio5, cah2, cah3 = (indices[name] for name in ("tio5", "cah2", "cah3"))
    cah = Polynomial(SOLAR_TIO5)(cah2.value + cah3.value)
    slope = Polynomial(SOLAR_TIO5).deriv()(cah2.value + cah3.value)
    # In giants CaH can be as weak as where zeta, a ratio to it, has no meaning any more.
    expected = np.maximum(1.0 - cah, LEAST_DEPTH)
    excess = (1.0 - tio5.value) / expected
    error = np.hypot(tio5.error, excess * slope * np.hypot(cah2.error, cah3.error)) / expected
    sodium, of_sodium = bands.ratio[:, _N_BAND], N_SIGMA * bands.error[:, _N_BAND]
    with np.errstate(invalid="ignore"):
        weak_cah = excess - N_SIGMA * error > GIANT_EXCESS
        weak_sodium = sodium - of_sodium > GIANT_SODIUM
        strong_sodium = sodium + of_sodium < GIANT_SODIUM
    return (weak_cah & weak_sodium & ~between) | (says_giant & ~strong_sodium)


def _lay_out(bands: Sequence[Band]) -> tuple[np.ndarray, np.ndarray]:
    """Windows in vacuum, bands first, and the matrix (window, band) that makes continua of them."""
    shared = list(dict.fromkeys(window for band in bands for window in band.continuum_aa))
    windows = [*(band.band_aa for band in bands), *shared]
    matrix = np.zeros((len(windows), len(bands)))
    for column, band in enumerate(bands):
        middle = sum(band.band_aa) / 2
        centres = [sum(window) / 2 for window in band.continuum_aa]
        rows = [len(bands) + shared.index(window) for window in band.continuum_aa]
        if len(rows) == 1:
            matrix[rows[0], column] = 1.0
        else:
            share = (middle - centres[0]) / (centres[1] - centres[0])
            matrix[rows, column] = 1.0 - share, share
    return np.array([window_in_vacuum(*window) for window in windows]), matrix


_WINDOWS_AA, _TO_LEVELS = _lay_out(_ALL)

# The mean over a window (column) in another (row) shares its noise with that by their lengths.
_LENGTHS_AA = np.diff(_WINDOWS_AA)[:, 0]
_NESTED = (_WINDOWS_AA[:, None, 0] <= _WINDOWS_AA[:, 0]) & (
    _WINDOWS_AA[:, None, 1] >= _WINDOWS_AA[:, 1]
)
_NESTED = np.where(np.eye(len(_WINDOWS_AA)) > 0, 0.0, _NESTED * _LENGTHS_AA / _LENGTHS_AA[:, None])
