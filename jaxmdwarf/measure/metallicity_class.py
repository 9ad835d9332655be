"""The metallicity index zeta, which parts dwarfs from subdwarfs (Lepine et al. 2007)."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.measure.indices import Measurement

SOLAR_TIO5 = (-0.050, -0.118, 0.670, -0.164)
"""TiO5 of stars of solar metallicity: powers 0 to 3 of CaH2 + CaH3 (Lepine, Rich & Shara 2007,
ApJ 669, 1235)."""

LEAST_DEPTH = 0.08
"""Where TiO of solar metallicity would be weaker than this (before M0), zeta says nothing."""


def estimate_zeta(tio5: Measurement, cah2: Measurement, cah3: Measurement) -> Measurement:
    """Zeta: depth of TiO5 over that of a star of solar metallicity with the same CaH.

    ``zeta = (1 - TiO5) / (1 - TiO5_solar(CaH2 + CaH3))``: above 0.825 dwarfs, then subdwarfs down
    to 0.5, extreme ones to 0.2, ultrasubdwarfs below.

    Parameters
    ----------
    tio5, cah2, cah3 : Measurement
        Band indices and their errors, taken to be independent; of one spectrum or of several.

    Returns
    -------
    Measurement
        NaN where an index is, or where TiO would be too weak in any star.

    Examples
    --------
    >>> zeta = estimate_zeta(*(Measurement(value, 0.01) for value in (0.5, 0.5, 0.73)))
    >>> round(float(zeta.value), 2), round(float(zeta.error), 3)
    (1.03, 0.031)
    """
    cah = np.asarray(cah2.value) + np.asarray(cah3.value)
    depth = 1.0 - sum(factor * cah**power for power, factor in enumerate(SOLAR_TIO5))
    depth = np.where(depth > LEAST_DEPTH, depth, np.nan)
    slope = sum(
        power * factor * cah ** (power - 1) for power, factor in enumerate(SOLAR_TIO5) if power
    )
    value = (1.0 - np.asarray(tio5.value)) / depth
    error = np.hypot(tio5.error, value * slope * np.hypot(cah2.error, cah3.error)) / depth
    return Measurement(value[()], error[()])
