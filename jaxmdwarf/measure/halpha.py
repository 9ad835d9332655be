"""Equivalent width of Halpha, emission counted positive (the paper's eq. 10)."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.measure.indices import MIN_CONTINUUM_SNR, Measurement
from jaxmdwarf.measure.windows import MIN_COVERAGE, cut_pixels

HALPHA_AA = 6564.61
"""Vacuum wavelength of Halpha, Angstrom."""

HALF_WIDTH_AA = 7.0
"""Half the integration window (section 4.3, after West et al. 2004, AJ 128, 426)."""

CONTINUUM_AA = ((6555.0, 6560.0), (6570.0, 6575.0))
"""The two local continua, vacuum Angstrom, after West et al. (2008, AJ 135, 785; 2011, AJ 141, 97).

They touch the ends of the integration window, but at R = 1800 each holds less than 0.2 % of the
line's flux. Farther windows meet the TiO and CaH structure around the line: with 6530-6555 and
6575-6600 the M5 template of Bochanski et al. (2007) measures 0.9 Angstrom less.
"""

ACTIVE_ABOVE_AA = 0.75
"""Equivalent width above which a star counts as active (section 4.3)."""

MIN_LINE_COVERAGE = 0.9
"""Least fraction of the integration window that must be good: a masked core is no measurement."""


def measure_halpha(wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Measurement:
    """Equivalent width of Halpha over +-7 Angstrom, positive in emission.

    ``EW = -integral of (1 - F / F_continuum)``, the continuum being the straight line through the
    mean fluxes of the two windows `CONTINUUM_AA`.

    Parameters
    ----------
    wave_aa : (n,) float
        Rest-frame vacuum wavelengths, Angstrom, increasing.
    flux : (n,) float
        Flux per Angstrom, any unit.
    ivar : (n,) float
        Inverse variance; 0 marks a bad pixel.

    Returns
    -------
    Measurement
        Angstrom. The error propagates every pixel once, also where it enters both the line and the
        continuum. NaN if more than 10 % of the window is bad or a continuum is below 3 sigma.

    Examples
    --------
    An emission line of 5 Angstrom on a flat continuum:

    >>> wave = np.arange(6500.0, 6650.0)
    >>> line = 5.0 * np.exp(-0.5 * ((wave - 6564.61) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    >>> ew = measure_halpha(wave, 1.0 + line, np.full(150, 1e4))
    >>> round(ew.value, 1), round(ew.error, 2)
    (5.0, 0.06)
    """
    pixels = cut_pixels(wave_aa, flux, ivar, float(_WINDOWS_AA.min()), float(_WINDOWS_AA.max()))
    good = pixels.ivar > 0
    bounds = np.minimum(np.maximum(pixels.edges_aa, _WINDOWS_AA[:, :1]), _WINDOWS_AA[:, 1:])
    overlap = np.where(good, bounds[:, 1:] - bounds[:, :-1], 0.0)
    total = overlap.sum(axis=1)
    if (total < _LEAST_LENGTH_AA).any():
        return Measurement(np.nan, np.nan)
    # Lost slivers of the window are taken to be like the rest of it.
    length = overlap[0] * (2.0 * HALF_WIDTH_AA / total[0])
    variance = np.where(good, 1.0 / np.where(good, pixels.ivar, 1.0), 0.0)
    weights = overlap[1:] / total[1:, None]
    levels = weights @ pixels.flux
    if not (levels > MIN_CONTINUUM_SNR * np.sqrt(weights**2 @ variance)).all():
        return Measurement(np.nan, np.nan)
    share = (pixels.wave_aa - _CENTRES_AA[0]) / (_CENTRES_AA[1] - _CENTRES_AA[0])
    shares = np.stack([1.0 - share, share])
    continuum = levels @ shares
    ratio = pixels.flux / continuum
    slope = length / continuum - (shares @ (length * ratio / continuum)) @ weights
    return Measurement(float(length @ (ratio - 1.0)), float(np.sqrt(slope**2 @ variance)))


_WINDOWS_AA = np.array([(HALPHA_AA - HALF_WIDTH_AA, HALPHA_AA + HALF_WIDTH_AA), *CONTINUUM_AA])
_CENTRES_AA = _WINDOWS_AA[1:].mean(axis=1)
_LEAST_LENGTH_AA = np.diff(_WINDOWS_AA)[:, 0] * (MIN_LINE_COVERAGE, MIN_COVERAGE, MIN_COVERAGE)


def is_active(ew_halpha_aa: float) -> bool:
    """Whether a star counts as chromospherically active; an unknown width is not active.

    Examples
    --------
    >>> is_active(1.2), is_active(0.7), is_active(float("nan"))
    (True, False, False)
    """
    return bool(ew_halpha_aa > ACTIVE_ABOVE_AA)
