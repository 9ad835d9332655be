"""Spectral subtypes: from TiO5 as the paper has it, and from all bands on the scale of the SDSS.

The two scales differ where M dwarfs begin. Reid et al. (1995) put M0 at a TiO5 of 0.76; templates
of the SDSS, and surveys that are classified by them, call 0.83 to 0.88 M0: -0.7 to -1.3 by eq. 11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from jaxmdwarf.measure.indices import Measurement

SLOPE = -10.775
ZERO_POINT = 8.2
SCATTER = 0.5
"""Scatter of the relation, subtypes."""

VALID = (-2.0, 7.0)
"""Range of the relation: -2 is K5, -1 is K7, 0 to 7 are M0 to M7."""


BAND_TYPES: tuple[tuple[float, float], ...] = (
    (-1.0, 0.63),
    (0.0, 1.25),
    (1.0, 2.24),
    (2.0, 3.05),
    (3.0, 4.14),
    (4.0, 4.71),
    (5.0, 5.17),
    (6.0, 5.74),
    (7.0, 6.34),
)
"""Subtypes and band strengths (`jaxmdwarf.measure.kind`) of the templates of the SDSS: means of
Bochanski et al. (2007, AJ 133, 531; from M0 on) and of Kesseli et al. (2017, ApJS 230, 16) of
[Fe/H] = 0 and 0.5. From M8 on the bands saturate."""

BAND_SCATTER = 0.4
"""Scatter of the templates of Kesseli et al. of [Fe/H] from -0.5 to 1 about the relation."""

WEAKEST_BANDS = 0.40
"""Band strength below which there is no subtype: there is no template of K5."""


def estimate_band_type(strength: Measurement) -> Measurement:
    """Spectral subtype from the strength of all bands, on the scale of the templates of the SDSS.

    Parameters
    ----------
    strength : Measurement
        Of `jaxmdwarf.measure.kind.measure_band_strength`, of one spectrum or of several.

    Returns
    -------
    Measurement
        As of `estimate_spectral_type`; the error is the scatter of the templates (0.4) and that of
        the strength in quadrature. NaN before K7 and from M8 on.

    Examples
    --------
    >>> spt = estimate_band_type(Measurement(2.5, 0.1))
    >>> round(float(spt.value), 2), round(float(spt.error), 2)
    (1.32, 0.42)
    """
    subtypes, strengths = np.array(BAND_TYPES).T
    given = np.asarray(strength.value, np.float64)
    slopes = np.diff(subtypes) / np.diff(strengths)
    part = np.clip(np.searchsorted(strengths, given) - 1, 0, len(slopes) - 1)
    value = subtypes[part] + slopes[part] * (given - strengths[part])
    with np.errstate(invalid="ignore"):
        valid = (given >= WEAKEST_BANDS) & (value <= VALID[1] + 0.5)
    error = np.hypot(BAND_SCATTER, slopes[part] * np.asarray(strength.error))
    return Measurement(np.where(valid, value, np.nan)[()], np.where(valid, error, np.nan)[()])


def estimate_spectral_type(tio5: Measurement) -> Measurement:
    """Spectral subtype ``SpT = -10.775 TiO5 + 8.2``.

    Parameters
    ----------
    tio5 : Measurement
        The index and its error, of one spectrum or of several.

    Returns
    -------
    Measurement
        Subtype as a number (-2 is K5, -1 is K7, 0 is M0). The error is the scatter of the relation
        (0.5) and the propagated error of TiO5 in quadrature. NaN outside the range -2 to 7.

    Examples
    --------
    >>> spt = estimate_spectral_type(Measurement(0.6, 0.02))
    >>> round(float(spt.value), 2), round(float(spt.error), 2)
    (1.73, 0.54)
    """
    value = SLOPE * np.asarray(tio5.value) + ZERO_POINT
    valid = (value >= VALID[0]) & (value <= VALID[1])
    error = np.hypot(SCATTER, SLOPE * np.asarray(tio5.error))
    return Measurement(np.where(valid, value, np.nan)[()], np.where(valid, error, np.nan)[()])


def read_subtypes(subclasses: Iterable[str]) -> Float[np.ndarray, " n"]:
    """Subtypes as numbers from what pipelines of surveys write, on the scale of `SpT`.

    Parameters
    ----------
    subclasses : iterable of str
        Such as ``dM3``, ``M3``, ``sdM1.5`` or ``K7V``.

    Returns
    -------
    (n,)
        -2 is K5, -1 is K7, 0 to 9 are M0 to M9. NaN for giants, for all others, and for blanks.

    Examples
    --------
    >>> read_subtypes(["dM3", "M0.5V", "K7", "K5", "K3", "gM1", "F9", ""]).tolist()
    [3.0, 0.5, -1.0, -2.0, nan, nan, nan, nan]
    """
    known: dict[str, float] = {}
    values = []
    for text in map(str, subclasses):
        # A catalogue has some ten of them, and up to millions of rows.
        if text not in known:
            found = _SUBTYPE.match(text.strip())
            named = found["k"] or found["m"] if found else ""
            known[text] = _K_TYPES[named] if named in _K_TYPES else float(named[1:] or "nan")
        values.append(known[text])
    return np.array(values, np.float64)


_K_TYPES = {"K5": -2.0, "K7": -1.0}
_SUBTYPE = re.compile(r"(u?e?sd|d)?((?P<k>K[57])(?![\d.])|(?P<m>M\d(\.\d)?))(?!\d)(?!I)")
