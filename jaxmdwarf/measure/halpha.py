"""Equivalent width of Halpha, emission counted positive (the paper's eq. 10)."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.measure.indices import MIN_CONTINUUM_SNR, Measurement
from jaxmdwarf.measure.windows import MIN_COVERAGE, cut_pixels, find_span

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


def measure_halpha(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    stretch: np.ndarray | float = 1.0,
) -> Measurement:
    """Equivalent width of Halpha over +-7 Angstrom, positive in emission.

    ``EW = -integral of (1 - F / F_continuum)``, the continuum being the straight line through the
    mean fluxes of the two windows `CONTINUUM_AA`.

    Parameters
    ----------
    wave_aa : (n,) float
        Vacuum wavelengths, Angstrom, increasing; shared by all spectra.
    flux : (n,) or (n_spec, n) float
        Flux per Angstrom, any unit.
    ivar : (n,) or (n_spec, n) float
        Inverse variance; 0 marks a bad pixel.
    stretch : float or (n_spec,) float
        Doppler factor of each star: wavelengths over those at rest.

    Returns
    -------
    Measurement
        Angstrom at rest, a float or (n_spec,). The error propagates every pixel once, also where it
        enters both the line and the continuum. NaN if more than 10 % of the window is bad or a
        continuum is below 3 sigma.

    Examples
    --------
    An emission line of 5 Angstrom on a flat continuum:

    >>> wave = np.arange(6500.0, 6650.0)
    >>> line = 5.0 * np.exp(-0.5 * ((wave - 6564.61) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    >>> ew = measure_halpha(wave, 1.0 + line, np.full(150, 1e4))
    >>> round(ew.value, 1), round(ew.error, 2)
    (5.0, 0.06)
    """
    if flux.ndim == 1:
        one = measure_halpha(wave_aa, flux[None], ivar[None], stretch=stretch)
        return Measurement(float(one.value[0]), float(one.error[0]))
    n_spec = len(flux)
    stretch = np.broadcast_to(np.asarray(stretch, np.float64), n_spec)
    windows = _WINDOWS_AA * stretch[:, None, None]
    pixels = cut_pixels(wave_aa, flux, ivar, *find_span(_WINDOWS_AA, windows))
    if not pixels.wave_aa.size:
        return Measurement(np.full(n_spec, np.nan), np.full(n_spec, np.nan))
    good = pixels.ivar > 0
    # Axes: spectrum, window (the line and its two continua), pixel.
    bounds = np.minimum(np.maximum(pixels.edges_aa, windows[:, :, :1]), windows[:, :, 1:])
    overlap = np.where(good[:, None], bounds[:, :, 1:] - bounds[:, :, :-1], 0.0)
    overlap /= stretch[:, None, None]
    total = overlap.sum(axis=2)
    total = np.where((total < _LEAST_LENGTH_AA).any(axis=1, keepdims=True), np.nan, total)
    # Lost slivers of the window are taken to be like the rest of it.
    length = overlap[:, 0] * (2.0 * HALF_WIDTH_AA / total[:, :1])
    variance = np.where(good, 1.0 / np.where(good, pixels.ivar, 1.0), 0.0)
    weights = overlap[:, 1:] / total[:, 1:, None]
    levels = (weights @ pixels.flux[:, :, None])[:, :, 0]
    noise = np.sqrt((weights**2 @ variance[:, :, None])[:, :, 0])
    with np.errstate(invalid="ignore"):
        seen = (levels > MIN_CONTINUUM_SNR * noise).all(axis=1, keepdims=True)
    levels = np.where(seen, levels, np.nan)
    rest_aa = pixels.wave_aa / stretch[:, None]
    share = (rest_aa - _CENTRES_AA[0]) / (_CENTRES_AA[1] - _CENTRES_AA[0])
    shares = np.stack([1.0 - share, share], axis=1)
    continuum = (levels[:, :, None] * shares).sum(axis=1)
    ratio = pixels.flux / continuum
    along = length * ratio / continuum
    slope = length / continuum - ((shares @ along[:, :, None]) * weights).sum(axis=1)
    width = (length * (ratio - 1.0)).sum(axis=1)
    return Measurement(width, np.sqrt((slope**2 * variance).sum(axis=1)))


_WINDOWS_AA = np.array([(HALPHA_AA - HALF_WIDTH_AA, HALPHA_AA + HALF_WIDTH_AA), *CONTINUUM_AA])
_CENTRES_AA = _WINDOWS_AA[1:].mean(axis=1)
_LEAST_LENGTH_AA = np.diff(_WINDOWS_AA)[:, 0] * (MIN_LINE_COVERAGE, MIN_COVERAGE, MIN_COVERAGE)


def is_active(ew_halpha_aa):
    """Whether stars count as chromospherically active; an unknown width is not active.

    Examples
    --------
    >>> is_active(1.2), is_active(0.7), is_active(float("nan"))
    (True, False, False)
    """
    return ew_halpha_aa > ACTIVE_ABOVE_AA
