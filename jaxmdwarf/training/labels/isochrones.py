"""Labels of main-sequence M dwarfs along isochrones: which stars can exist.

Step 1 of the synthetic training set, section 3.3.2 of the paper: PARSEC (Bressan et al. 2012, MNRAS
427 127) at 5 Gyr, within cuts in temperature, gravity and metallicity, with [alpha/M] tied to
[M/H]. Without a file, the empirical relations of `jaxmdwarf.simulate.population` take the place of
the isochrones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.simulate.main_sequence import LOGG_SUN, Relation, empirical_relation, surface_gravity

_ALPHA_RULE = ((-1.0, 0.4), (-0.5, 0.2), (0.0, 0.0))
_RELATION_MASSES = (0.08, 0.70)
_LARGEST_MASS = 0.80
"""Stars above it are no M dwarfs at any metallicity of interest, and have left the main sequence in
old isochrones, whose later phases would otherwise cross the cuts a second time."""
_AGE_TOLERANCE_DEX = 0.15
_N_MASS = 1500


@dataclass(frozen=True)
class LabelCutsConfig:
    """Which part of the label space is covered.

    Parameters
    ----------
    teff, logg, mh : (low, high)
        K and dex; section 3.3.2 of the paper.
    age_gyr : float
        Age of the isochrones. Between 1 and 10 Gyr they agree to 0.03 dex in log g.
    """

    teff: tuple[float, float] = (3000.0, 4000.0)
    logg: tuple[float, float] = (4.0, 6.0)
    mh: tuple[float, float] = (-1.0, 0.5)
    age_gyr: float = 5.0

    def __post_init__(self) -> None:
        for name in ("teff", "logg", "mh"):
            low, high = getattr(self, name)
            if not low < high:
                raise UsageError(f"the cuts in {name} are {low}..{high}: they must increase.")
        if not self.age_gyr > 0:
            raise UsageError(f"an age of {self.age_gyr} Gyr makes no sense.")

    def reach(
        self, teff_mh: Float[np.ndarray, "n 2"], space: LabelSpace, *, share: float = 0.98
    ) -> LabelCutsConfig:
        """Cuts that hold so many stars of a sample at least, as far as a model goes.

        Parameters
        ----------
        teff_mh : (n, 2)
            NaN where nothing is known.
        space : LabelSpace
            Of the model.
        share : float
            Of the stars, in each label.
        """
        ends = np.nanquantile(teff_mh, [(1 - share) / 2, (1 + share) / 2], axis=0)
        reached: dict[str, Any] = {}
        for name, (low, high) in zip(("teff", "mh"), ends.T, strict=True):
            if name not in space.names:
                continue
            index, known = space.index(name), getattr(self, name)
            least, most = float(space.lower[index]), float(space.upper[index])
            reached[name] = (
                min(known[0], max(float(low), least)),
                max(known[1], min(float(high), most)),
            )
        return replace(self, **reached)

    def widen(self, *, teff: float, mh: float) -> LabelCutsConfig:
        """Cuts that reach further by so many K and dex on each side.

        Parameters
        ----------
        teff : float
            K.
        mh : float
            dex.
        """
        return LabelCutsConfig(
            teff=(self.teff[0] - teff, self.teff[1] + teff),
            logg=self.logg,
            mh=(self.mh[0] - mh, self.mh[1] + mh),
            age_gyr=self.age_gyr,
        )


def alpha_of_metallicity(mh: np.ndarray) -> np.ndarray:
    """[alpha/M] that goes with [M/H]: section 3.3.2 of the paper.

    0.0 for [M/H] >= 0, 0.2 at -0.5 and 0.4 at -1.0; the paper gives these points, we interpolate
    linearly between them and hold 0.4 below.

    Examples
    --------
    >>> alpha_of_metallicity(np.array([-2.0, -1.0, -0.75, -0.5, -0.1, 0.3])).round(2).tolist()
    [0.4, 0.4, 0.3, 0.2, 0.04, 0.0]
    """
    knots, alpha = zip(*_ALPHA_RULE, strict=True)
    return np.interp(mh, knots, alpha)


def isochrone_points(
    isochrones: Relation | Mapping[str, np.ndarray] | None = None,
    cuts: LabelCutsConfig | None = None,
    *,
    n_metallicity: int = 41,
    n_along: int = 80,
) -> Float[np.ndarray, "n 4"]:
    """Labels on the main sequence of one age, evenly along the isochrone of each metallicity.

    Tables are interpolated in mass along each isochrone and, at fixed mass, linearly between
    metallicities; points are then laid out at equal steps of arc length in (Teff / 1000 K, log g),
    because tables are sparse where Teff changes fast with mass (near 3550 K at solar metallicity).

    Parameters
    ----------
    isochrones : callable, mapping of columns, or None
        (mass, [M/H]) -> (Teff, radius); or a table with columns ``feh`` ([M/H]), ``log_age``,
        ``Mini``, ``Teff`` and ``logg`` or ``radius``, as `jaxmdwarf.io.isochrones.read_isochrones`
        gives it; None for `empirical_relation`.
    cuts : LabelCutsConfig, optional
    n_metallicity, n_along : int
        Metallicities, and points along each.

    Returns
    -------
    (n, 4)
        Teff, log g, [M/H], [alpha/M]. Where a table ends within the cuts, so do the points: the
        coolest stars of low metallicity are below the least mass of most tables.

    Raises
    ------
    UsageError
        If the table lacks columns or the age, or nothing lies within the cuts.

    Examples
    --------
    >>> labels = isochrone_points(n_metallicity=3, n_along=5)
    >>> labels.shape, labels[[0, 4], 1].round(2).tolist()
    ((15, 4), [5.29, 4.8])
    """
    cuts = cuts or LabelCutsConfig()
    if n_metallicity < 2 or n_along < 2:
        raise UsageError("isochrones need at least two metallicities and two points along each.")
    metallicities, teff, logg = _main_sequences(isochrones, cuts, n_metallicity)
    rows = []
    for mh, teff_along, logg_along in zip(metallicities, teff, logg, strict=True):
        along = _cut_and_space(teff_along, logg_along, cuts, n_along)
        if along is not None:
            rows.append(np.column_stack([*along, np.full(n_along, mh)]))
    if not rows:
        raise UsageError(
            f"no isochrone point lies within {cuts.teff[0]:g}-{cuts.teff[1]:g} K, log g "
            f"{cuts.logg[0]:g}-{cuts.logg[1]:g} and [M/H] {cuts.mh[0]:g}..{cuts.mh[1]:g}.",
            "widen the cuts (--teff LOW HIGH, --mh, --logg) or give isochrones of M dwarfs.",
        )
    labels = np.concatenate(rows)
    return np.column_stack([labels, alpha_of_metallicity(labels[:, 2])])


def _main_sequences(isochrones, cuts: LabelCutsConfig, n_metallicity: int):
    """[M/H] (m,), and Teff and log g (m, n_mass) along mass; NaN where nothing is known."""
    if isinstance(isochrones, Mapping):
        return _from_table(isochrones, cuts, n_metallicity)
    relation = isochrones or empirical_relation
    mass = np.linspace(*_RELATION_MASSES, _N_MASS)
    metallicities = np.linspace(*cuts.mh, n_metallicity)
    teff = np.empty((n_metallicity, _N_MASS))
    logg = np.empty_like(teff)
    for row, mh in enumerate(metallicities):
        teff[row], radius = relation(mass, np.full(mass.size, mh))
        logg[row] = surface_gravity(mass, radius)
    return metallicities, teff, logg


def _from_table(table, cuts: LabelCutsConfig, n_metallicity: int):
    from scipy.interpolate import PchipInterpolator

    feh, mass, teff, logg = _select_age(table, cuts.age_gyr)
    nodes = np.unique(feh)
    if nodes.size < 2:
        raise UsageError(
            f"the isochrones have one metallicity, [M/H] = {nodes[0]:g}.",
            "give isochrones of several: a model that learns from one knows no other.",
        )
    low, high = max(cuts.mh[0], nodes[0]), min(cuts.mh[1], nodes[-1])
    if low > high:
        raise UsageError(
            f"the isochrones have [M/H] {nodes[0]:g}..{nodes[-1]:g}, the cuts {cuts.mh}.",
            "give isochrones of these metallicities, or cut elsewhere (--mh LOW HIGH).",
        )
    masses = np.linspace(mass.min(), mass.max(), _N_MASS)
    tracks = np.full((2, nodes.size, _N_MASS), np.nan)
    for k, node in enumerate(nodes):
        rows = np.flatnonzero(feh == node)
        track_mass, first = np.unique(mass[rows], return_index=True)
        if track_mass.size < 3:
            continue
        rows = rows[first]
        for quantity, values in enumerate((teff, logg)):
            spline = PchipInterpolator(track_mass, values[rows], extrapolate=False)
            tracks[quantity, k] = spline(masses)
    metallicities = np.linspace(low, high, n_metallicity) if high > low else np.array([low])
    between = np.full((2, metallicities.size, _N_MASS), np.nan)
    for column in range(_N_MASS):
        # Isochrones that do not reach this mass are bridged by their neighbours.
        known = np.isfinite(tracks[0, :, column])
        if known.any():
            for quantity in range(2):
                between[quantity, :, column] = np.interp(
                    metallicities, nodes[known], tracks[quantity, known, column], np.nan, np.nan
                )
    return metallicities, between[0], between[1]


def _select_age(table, age_gyr: float):
    """[M/H], initial mass, Teff and log g of the low-mass points of one age."""
    names = ("feh", "log_age", "Mini", "Teff")
    missing = [name for name in names if name not in table]
    if "logg" not in table and "radius" not in table:
        missing.append("logg")
    if missing:
        raise UsageError(
            f"the isochrone table lacks {', '.join(missing)}.",
            f"name its columns {', '.join((*names, 'logg'))}, or read it with read_isochrones.",
        )
    feh, log_age, mass, teff = (np.asarray(table[name], dtype=float) for name in names)
    if "logg" in table:
        logg = np.asarray(table["logg"], dtype=float)
    else:
        logg = LOGG_SUN + np.log10(mass) - 2 * np.log10(np.asarray(table["radius"], dtype=float))
    ages = np.unique(log_age)
    wanted = np.log10(age_gyr) + 9
    nearest = ages[np.argmin(abs(ages - wanted))]
    if abs(nearest - wanted) > _AGE_TOLERANCE_DEX:
        listed = ", ".join(f"{10 ** (age - 9):.3g}" for age in ages[:12])
        raise UsageError(
            f"the isochrones have no age near {age_gyr:g} Gyr; theirs are {listed} Gyr.",
            "ask for one of these (--age-gyr), or compute isochrones of this age.",
        )
    rows = (log_age == nearest) & (mass <= _LARGEST_MASS)
    rows &= np.isfinite(feh) & np.isfinite(teff) & np.isfinite(logg)
    if not rows.any():
        raise UsageError(
            f"the isochrones of {age_gyr:g} Gyr have no star below {_LARGEST_MASS} solar masses.",
            "give isochrones that reach M dwarfs.",
        )
    return feh[rows], mass[rows], teff[rows], logg[rows]


def _cut_and_space(teff, logg, cuts: LabelCutsConfig, n_along: int):
    """Points at equal steps of arc length within the cuts, the ends on the cuts themselves."""
    known = np.flatnonzero(np.isfinite(teff) & np.isfinite(logg))
    if known.size < 2:
        return None
    length = np.hypot(np.diff(teff[known]) / 1000.0, np.diff(logg[known]))
    arc = np.concatenate([[0.0], np.cumsum(length)])
    # A fine walk first: the cuts fall between the masses.
    fine = np.linspace(0.0, arc[-1], 20 * _N_MASS)
    teff, logg = np.interp(fine, arc, teff[known]), np.interp(fine, arc, logg[known])
    inside = (teff >= cuts.teff[0]) & (teff <= cuts.teff[1])
    inside &= (logg >= cuts.logg[0]) & (logg <= cuts.logg[1])
    rows = np.flatnonzero(inside)
    if rows.size < n_along:
        return None
    chosen = rows[np.round(np.linspace(0, rows.size - 1, n_along)).astype(int)]
    return teff[chosen], logg[chosen]
