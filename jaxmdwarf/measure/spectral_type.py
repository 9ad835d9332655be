"""Spectral subtype from TiO5 (the paper's eq. 11; Reid et al. 1995, Bochanski et al. 2007)."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.measure.indices import Measurement

SLOPE = -10.775
ZERO_POINT = 8.2
SCATTER = 0.5
"""Scatter of the relation, subtypes."""

VALID = (-2.0, 7.0)
"""Range of the relation: -2 is K5, -1 is K7, 0 to 7 are M0 to M7."""


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
