"""Labels in the file names of PHOENIX model grids."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from jaxmdwarf.errors import RejectedInput


class GridLabels(NamedTuple):
    """Labels of one model spectrum: K, dex of cm/s2, dex, dex."""

    teff: float
    logg: float
    mh: float
    alpha_m: float


_NAME = re.compile(
    r"""lte(?P<teff>\d+(?:\.\d+)?)
        (?P<logg>[+-]\d+(?:\.\d+)?)
        (?P<mh>[+-]\d+(?:\.\d+)?)
        (?:a(?P<alpha>[+-]?\d+(?:\.\d+)?)|\.Alpha=(?P<alpha_aces>[+-]?\d+(?:\.\d+)?))?
        (?=[._]|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_KELVIN_FROM = 1000.0


def parse_name(name: str) -> GridLabels:
    """Labels from a file name of the PHOENIX family.

    The pattern is ``lte{Teff}-{log g}{[M/H]}a{[alpha/M]}``. The sign before log g is a separator
    turned round (``-4.5`` is log g = 4.5, ``+0.5`` is log g = -0.5) while those of [M/H] and
    [alpha/M] are their own. Teff is in units of 100 K, or in K where it is 1000 or more
    (``lte02300`` of PHOENIX-ACES). PHOENIX-ACES writes ``.Alpha=+0.20``; without any alpha
    it is 0.

    Parameters
    ----------
    name : str
        File name, with or without folders.

    Raises
    ------
    RejectedInput
        If the name does not follow the pattern.

    Examples
    --------
    >>> parse_name("lte030.0-4.5-0.5a+0.2.BT-Settl.spec.7.xz")
    GridLabels(teff=3000.0, logg=4.5, mh=-0.5, alpha_m=0.2)
    >>> parse_name("lte02300-5.00-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits")
    GridLabels(teff=2300.0, logg=5.0, mh=0.0, alpha_m=0.0)
    """
    base = os.path.basename(name)
    found = _NAME.match(base)
    if found is None:
        raise RejectedInput(
            f"the name {base!r} carries no labels.",
            "name model files like lte030.0-4.5-0.0a+0.0.BT-Settl.spec.7 (Teff/100, log g, [M/H], "
            "[alpha/M]).",
        )
    teff = float(found["teff"])
    return GridLabels(
        teff=teff if teff >= _KELVIN_FROM else 100.0 * teff,
        logg=-float(found["logg"]) + 0.0,
        mh=float(found["mh"]) + 0.0,
        alpha_m=float(found["alpha"] or found["alpha_aces"] or 0.0) + 0.0,
    )
