"""The Kiel diagram: gravity against temperature, metallicity as colour (paper, figure 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from jaxmdwarf.plots.cells import Limits, find_colours, find_limits, show_medians
from jaxmdwarf.plots.style import SEQUENTIAL, describe_quantity
from jaxmdwarf.simulate.main_sequence import (
    Relation,
    empirical_relation,
    isochrone_relation,
    surface_gravity,
)

_METALLICITIES = (-1.0, -0.5, 0.0, 0.5)
_MASSES_MSUN = (0.09, 0.70)
"""What the relations of Mann et al. hold for."""

_TABLE_MASSES_MSUN = (0.08, 1.0)
"""From which tables may give less: up to stars that are no M dwarfs at any metallicity."""

_MEASURED_K = (2600.0, 4200.0)
"""Temperatures of the stars of their bolometric correction."""

LOG_AGE = 9.7
"""5 Gyr, as in the paper."""


class KielSample(NamedTuple):
    """Stars of one panel: Teff in K, log g and [M/H] in dex, each (n,)."""

    teff: Float[np.ndarray, " n"]
    logg: Float[np.ndarray, " n"]
    mh: Float[np.ndarray, " n"]


class Isochrones(NamedTuple):
    """Where main sequences of several metallicities lie.

    Parameters
    ----------
    title : str
        Of the legend.
    lines : tuple of KielSample
        One a metallicity: Teff and log g along it, and [M/H], which is the same all along.
    """

    title: str
    lines: tuple[KielSample, ...]


def trace_isochrones(
    relation: Relation,
    title: str,
    *,
    mh: Sequence[float] = _METALLICITIES,
    masses_msun: tuple[float, float] = _MASSES_MSUN,
) -> Isochrones:
    """Lines of a relation of mass, temperature and radius.

    Parameters
    ----------
    relation : callable
        See `jaxmdwarf.simulate.main_sequence.Relation`.
    title : str
    mh : sequence of float
        Metallicities, dex.
    masses_msun : (low, high)

    Returns
    -------
    Isochrones
        Without points for which the relation gives none.
    """
    mass = np.geomspace(*masses_msun, 120)
    lines = []
    for one in mh:
        metallicity = np.full(mass.size, one)
        teff, radius = relation(mass, metallicity)
        known = np.isfinite(teff + radius)
        logg = surface_gravity(mass[known], radius[known])
        lines.append(KielSample(teff[known], logg, metallicity[known]))
    return Isochrones(title, tuple(one for one in lines if one.teff.size))


@cache
def empirical_isochrones() -> Isochrones:
    """Main sequences of the relations of Mann et al. (2015, ApJ 804 64; 2019, ApJ 871 63).

    As far as the bolometric correction behind them was measured.
    """
    traced = trace_isochrones(empirical_relation, "Mann et al. (2015, 2019)")
    lines = []
    for line in traced.lines:
        measured = (line.teff >= _MEASURED_K[0]) & (line.teff <= _MEASURED_K[1])
        lines.append(KielSample(*(column[measured] for column in line)))
    return Isochrones(traced.title, tuple(lines))


def tabulated_isochrones(table: Mapping[str, np.ndarray]) -> Isochrones:
    """Lines of 5 Gyr from a table of isochrones.

    Parameters
    ----------
    table : mapping
        As `jaxmdwarf.io.isochrones.read_isochrones` returns it.

    Returns
    -------
    Isochrones
        Of the age that is nearest to 5 Gyr, at those of [M/H] = -1, -0.5, 0, 0.5 that lie within
        the table.
    """
    feh, ages = np.asarray(table["feh"], float), np.unique(np.asarray(table["log_age"], float))
    age_gyr = 10 ** (ages[np.argmin(np.abs(ages - LOG_AGE))] - 9)
    low, high = feh.min() - 1e-6, feh.max() + 1e-6
    return trace_isochrones(
        isochrone_relation(table, log_age=LOG_AGE),
        f"isochrones, {age_gyr:.2g} Gyr",
        mh=[one for one in _METALLICITIES if low <= one <= high],
        masses_msun=_TABLE_MASSES_MSUN,
    )


def plot_kiel(samples: Mapping[str, KielSample], *, isochrones: Isochrones | None = None) -> Figure:
    """One panel a sample, on common axes: hot to the left, giants above.

    Parameters
    ----------
    samples : mapping of title to KielSample
        Measured beside true, say; the axes and colours follow all of them. Of more than 2,000
        stars the median [M/H] in each cell is drawn.
    isochrones : Isochrones, optional
        `empirical_isochrones` by default. Their colours are those of their [M/H].

    Returns
    -------
    Figure
    """
    n_panel = max(len(samples), 1)
    figure = Figure(figsize=(4.3 * n_panel + 0.9, 4.0), layout="constrained")
    panels = figure.subplots(1, n_panel, squeeze=False, sharex=True, sharey=True)[0]
    every = list(samples.values())
    limits, norm = find_kiel_limits(*every), find_colours(_join(every, "mh"))
    points = None
    for panel, (title, sample) in zip(panels, samples.items(), strict=False):
        points = draw_kiel(panel, sample, limits=limits, norm=norm, isochrones=isochrones)
        n_star = int(np.isfinite(sample.teff + sample.logg).sum())
        panel.set_title(f"{title} (n = {n_star})", fontsize=10)
    for panel in panels[1:]:
        panel.set_ylabel("")
    if points is not None:
        name_isochrones(panels[0], isochrones)
        figure.colorbar(points, ax=list(panels), label=describe_quantity("mh").axis, extend="both")
    return figure


def find_kiel_limits(*samples: KielSample) -> tuple[Limits, Limits]:
    """Limits of Teff and log g that all samples fit in, each low before high."""
    return (
        find_limits(_join(samples, "teff"), (2500.0, 4300.0), least=300.0),
        find_limits(_join(samples, "logg"), (4.3, 5.5), least=0.4),
    )


def draw_kiel(
    axis: Axes,
    sample: KielSample,
    *,
    limits: tuple[Limits, Limits],
    norm: Normalize,
    isochrones: Isochrones | None = None,
) -> Any:
    """One panel with its isochrones; returns what a colour bar is made of."""
    points = show_medians(axis, sample.teff, sample.logg, sample.mh, limits=limits, norm=norm)
    for line in (isochrones or empirical_isochrones()).lines:
        drawn = axis.plot(
            line.teff, line.logg, color=colormaps[SEQUENTIAL](norm(line.mh[0])), linewidth=1.2
        )
        # Its colour is that of the stars that it runs through.
        drawn[0].set_path_effects([Stroke(linewidth=2.2, foreground="k"), Normal()])
        _name_line(axis, line, limits)
    axis.set(
        xlim=limits[0][::-1],
        ylim=limits[1][::-1],
        xlabel=describe_quantity("teff").axis,
        ylabel=describe_quantity("logg").axis,
    )
    return points


def _name_line(axis: Axes, line: KielSample, limits: tuple[Limits, Limits]) -> None:
    """Its [M/H] on it, at a fifth of what is seen of it from its cool end."""
    seen = np.flatnonzero(
        (line.teff > limits[0][0])
        & (line.teff < limits[0][1])
        & (line.logg > limits[1][0])
        & (line.logg < limits[1][1])
    )
    if seen.size:
        at = seen[seen.size // 5]
        axis.text(
            line.teff[at],
            line.logg[at],
            f"{line.mh[0]:+.1f}" if line.mh[0] else "0.0",
            fontsize=7,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.8},
        )


def name_isochrones(axis: Axes, isochrones: Isochrones | None = None) -> None:
    """What the lines are, where hot stars of high gravity would be: there are none."""
    axis.text(
        0.03,
        0.03,
        f"lines of [M/H]:\n{(isochrones or empirical_isochrones()).title}",
        transform=axis.transAxes,
        fontsize=7.5,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
    )


def _join(samples: Sequence[KielSample], key: str) -> np.ndarray:
    return np.concatenate([getattr(one, key) for one in samples] or [np.zeros(0)])
