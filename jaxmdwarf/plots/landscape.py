"""Landscapes of chi-square: maps of pairs, cuts along one parameter, and draws upon them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.explore.landscape import Landscape
from jaxmdwarf.inference.explore.minima import Minima
from jaxmdwarf.inference.explore.paths import SolverPaths
from jaxmdwarf.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, describe_quantity

PAIR_LEVELS = (2.30, 6.18, 11.83)
"""Delta chi-square that hold 68.27, 95.45 and 99.73 % for two parameters (Avni 1976; Press et al.,
Numerical Recipes, section 15.6): quantiles of chi-square of two degrees of freedom."""

MAP_REACH = 40.0
"""Delta chi-square at which the colour of a map ends."""

_COLOURS = "Blues_r"


def plot_pair(
    landscape: Landscape,
    *,
    row: int = 0,
    covariance: Float[np.ndarray, "2 2"] | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    minima: Minima | None = None,
    samples: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]] | None = None,
    paths: Mapping[str, SolverPaths] | None = None,
    title: str = "",
) -> Figure:
    """A map of delta chi-square over two parameters of one star.

    Parameters
    ----------
    landscape : Landscape
        Over two parameters.
    row : int
        Which of its stars, by position.
    covariance : (2, 2), optional
        Of the two parameters, by the fit: its ellipses are dashed, at the levels of the contours.
    marks : mapping of str to (x, y), optional
        Points to show, "truth" say, or "start".
    minima : Minima, optional
        Those of the star are numbered; labels only.
    samples : ((n,), (n,)), optional
        Draws from the posterior.
    paths : mapping of str to SolverPaths, optional
        Ways of solvers by what to call them, all their stars; a cross where each begins.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    UsageError
        If the landscape is not over a pair.
    """
    _require_axes(landscape, 2)
    figure = Figure(figsize=(5.4, 4.3), layout="constrained")
    axis = figure.subplots()
    mesh, handles = _plot_map(axis, landscape, row, covariance, marks or {}, minima, samples)
    for (text, one), colour in zip((paths or {}).items(), (RED, ORANGE, PURPLE), strict=False):
        handles.append(_plot_paths(axis, landscape.names, one, text, colour))
    bar = figure.colorbar(mesh, ax=axis, extend="max", label=r"$\Delta\chi^2$")
    for level in PAIR_LEVELS:
        bar.ax.axhline(level, color="k", linewidth=0.8)
    axis.set_title(title or landscape.kind, fontsize=10)
    _put_legend(figure, handles, 3)
    return figure


def plot_pair_beside(
    first: Landscape,
    second: Landscape,
    *,
    row: int = 0,
    covariance: Float[np.ndarray, "2 2"] | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    minima: Minima | None = None,
    titles: tuple[str, str] | None = None,
) -> Figure:
    """Two maps of one pair on common axes: slice and profile, say, or two stars' profiles.

    Parameters
    ----------
    first, second : Landscape
        Over the same two parameters.
    row, covariance, marks, minima
        As for `plot_pair`; the covariance is drawn on both.
    titles : (str, str), optional

    Returns
    -------
    Figure
    """
    for landscape in (first, second):
        _require_axes(landscape, 2)
    if first.names != second.names:
        raise UsageError(f"landscapes over {first.names} and {second.names} share no axes.")
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    mesh: Any = None
    handles: list[Any] = []
    for panel, landscape, title in zip(
        panels, (first, second), titles or (first.kind, second.kind), strict=True
    ):
        mesh, handles = _plot_map(panel, landscape, row, covariance, marks or {}, minima, None)
        panel.set_title(title, fontsize=10)
    panels[1].set_ylabel("")
    bar = figure.colorbar(mesh, ax=panels, extend="max", label=r"$\Delta\chi^2$")
    for level in PAIR_LEVELS:
        bar.ax.axhline(level, color="k", linewidth=0.8)
    _put_legend(figure, handles, 5)
    return figure


def plot_cut(
    profile: Landscape,
    *,
    row: int = 0,
    along: Landscape | None = None,
    error: float | None = None,
    marks: Mapping[str, float] | None = None,
    minima: Minima | None = None,
    samples: Float[np.ndarray, " n"] | None = None,
    highest: float = 16.0,
    title: str = "",
) -> Figure:
    """Delta chi-square along one parameter of one star.

    Parameters
    ----------
    profile : Landscape
        Over one parameter.
    row : int
        Which of its stars, by position.
    along : Landscape, optional
        The slice on the same axis.
    error : float, optional
        One standard deviation by the fit: its parabola is dashed.
    marks : mapping of str to float, optional
        Values to show, "truth" say.
    minima : Minima, optional
        Those of the star, with their barriers in the legend.
    samples : (n,), optional
        Draws from the posterior; their histogram is drawn as -2 ln of its height.
    highest : float
        Upper end of the axis of delta chi-square.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    UsageError
        If the landscape is not over one parameter.
    """
    _require_axes(profile, 1)
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    name = profile.names[0]
    quantity = describe_quantity(name)
    for level, text in ((1.0, "1σ"), (4.0, "2σ"), (9.0, "3σ")):
        if level < highest:
            axis.axhline(level, color="0.85", linewidth=0.8, zorder=0)
            axis.annotate(
                text,
                (1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(-3, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=GREY,
            )
    x = profile.axes[0][row]
    if samples is not None:
        _plot_histogram(axis, samples, x, highest)
    if along is not None:
        _require_axes(along, 1)
        axis.plot(along.axes[0][row], along.delta_chi2[row], color=ORANGE, label="slice")
    axis.plot(x, profile.delta_chi2[row], color=BLUE, linewidth=2, label="profile")
    if error is not None and np.isfinite(error):
        fine = np.linspace(x[0], x[-1], 400)
        centre = profile.point[row, 0]
        lift = profile.chi2_point[row] - profile.chi2_min[row]
        parabola = lift + ((fine - centre) / error) ** 2
        axis.plot(
            fine,
            parabola,
            "--",
            color="k",
            linewidth=1,
            label=f"error of the fit, {quantity.write(error)}",
        )
    for (text, value), colour in zip((marks or {}).items(), (RED, PURPLE, GREEN), strict=False):
        axis.axvline(value, color=colour, linewidth=1.1, linestyle=":", label=text)
    if minima is not None:
        for number, where in enumerate(_of_star(minima, int(profile.stars[row])), start=1):
            value = minima.column(name)[where]
            height = minima.delta_chi2[where]
            barrier = minima.barrier[where]
            text = f"{number}: Δχ² = {height:.1f}"
            if np.isfinite(barrier):
                text += f", behind a barrier of {barrier:.1f}"
            axis.plot(value, height, "v", color=RED, markersize=7, label=text, zorder=5)
    axis.set(
        xlabel=quantity.axis,
        ylabel=r"$\Delta\chi^2$",
        xlim=(x[0], x[-1]),
        ylim=(-0.03 * highest, highest),
    )
    if title:
        axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, loc="upper center", framealpha=0.9)
    return figure


def _plot_map(axis: Axes, landscape, row, covariance, marks, minima, samples) -> Any:
    x, y = landscape.axes[0][row], landscape.axes[1][row]
    values = np.ma.masked_invalid(landscape.delta_chi2[row].T)
    # The square root spreads the inner contours, in which one is interested.
    mesh = axis.pcolormesh(
        x,
        y,
        values,
        cmap=_COLOURS,
        norm=PowerNorm(0.5, 0.0, MAP_REACH),
        shading="gouraud",
        rasterized=True,
    )
    axis.contour(x, y, values, levels=PAIR_LEVELS, colors="k", linewidths=(1.6, 1.1, 0.7))
    handles = [
        Line2D(
            [],
            [],
            color="k",
            linewidth=1.3,
            label="Δχ² = " + ", ".join(f"{level:g}" for level in PAIR_LEVELS),
        )
    ]
    if samples is not None:
        inside = [np.asarray(column) for column in samples]
        axis.plot(*inside, ".", color=RED, markersize=1.6, alpha=0.35, zorder=3)
        handles.append(Line2D([], [], marker=".", linestyle="", color=RED, label="posterior draws"))
    if covariance is not None and np.isfinite(covariance).all():
        handles.append(_plot_ellipses(axis, landscape.point[row], covariance))
    (dot,) = axis.plot(
        *landscape.point[row],
        "o",
        color="w",
        markeredgecolor="k",
        markersize=6,
        label="fit",
        linestyle="",
        zorder=5,
    )
    handles.append(dot)
    for (text, point), marker in zip(marks.items(), "*sDP", strict=False):
        (dot,) = axis.plot(
            *point,
            marker,
            color=GREEN,
            markeredgecolor="k",
            linestyle="",
            markersize=12 if marker == "*" else 7,
            label=text,
            zorder=5,
        )
        handles.append(dot)
    if minima is not None:
        handles.append(_number_minima(axis, minima, landscape, row))
    axis.set(
        xlabel=describe_quantity(landscape.names[0]).axis,
        ylabel=describe_quantity(landscape.names[1]).axis,
        xlim=(x[0], x[-1]),
        ylim=(y[0], y[-1]),
    )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(labelsize=8.5)
    return mesh, handles


def _plot_ellipses(axis: Axes, centre: np.ndarray, covariance: np.ndarray) -> Line2D:
    """Contours that a Gaussian of this covariance would have; returns a handle for the legend."""
    angle = np.linspace(0, 2 * np.pi, 181)
    circle = np.linalg.cholesky(np.asarray(covariance, float)) @ [np.cos(angle), np.sin(angle)]
    for level in PAIR_LEVELS:
        shape = centre[:, None] + np.sqrt(level) * circle
        axis.plot(*shape, "--", color=ORANGE, linewidth=1.1)
    return Line2D([], [], color=ORANGE, linestyle="--", label="covariance of the fit")


def _plot_paths(
    axis: Axes, names: tuple[str, ...], paths: SolverPaths, text: str, colour: str
) -> Line2D:
    """The ways of one solver, a dot after each evaluation; returns a handle for the legend."""
    x, y = (paths.column(name) for name in names)
    axis.plot(x, y, ".-", color=colour, markersize=4, linewidth=1.1, alpha=0.9, zorder=4)
    axis.plot(x[0], y[0], "x", color="k", markersize=6, zorder=4)
    return Line2D([], [], color=colour, marker=".", linewidth=1.1, label=text)


def _number_minima(axis: Axes, minima, landscape, row: int) -> Line2D:
    """Mark the minima of a star, the deepest as 1; returns a handle for the legend."""
    for number, where in enumerate(_of_star(minima, int(landscape.stars[row])), start=1):
        first, second = (minima.column(name)[where] for name in landscape.names)
        at = (float(first), float(second))
        axis.plot(*at, "v", color=RED, markeredgecolor="k", markersize=7, zorder=6)
        axis.annotate(
            str(number),
            at,
            xytext=(6, 4),
            textcoords="offset points",
            color=RED,
            fontsize=9,
            fontweight="bold",
        )
    return Line2D([], [], marker="v", color=RED, markeredgecolor="k", linestyle="", label="minima")


def _put_legend(figure: Figure, handles: list[Any], n_column: int) -> None:
    # Outside, for inside it would hide a part of the map.
    figure.legend(
        handles=handles, loc="outside lower center", ncols=n_column, fontsize=8, frameon=False
    )


def _plot_histogram(axis: Axes, samples: np.ndarray, x: np.ndarray, highest: float) -> None:
    """Draws as -2 ln of their density over its largest: what a profile is to be held against."""
    kept = samples[np.isfinite(samples)]
    counts, edges = np.histogram(kept, bins=40, range=(x[0], x[-1]))
    if not counts.any():
        return
    smooth = np.convolve(counts, (0.25, 0.5, 0.25), mode="same")
    height = -2 * np.log(np.maximum(counts, 1e-300) / smooth.max())
    height = np.where(counts > 0, height, np.nan)
    axis.stairs(
        np.minimum(height, 2 * highest),
        edges,
        baseline=None,
        color=GREY,
        label="posterior, -2 ln p",
    )


def _of_star(minima: Minima, star: int) -> list[int]:
    return np.flatnonzero(minima.star == star).tolist()


def _require_axes(landscape: Landscape, number: int) -> None:
    if len(landscape.names) != number:
        raise UsageError(
            f"the landscape is over {' and '.join(landscape.names)}.",
            "draw one parameter with plot_cut, two with plot_pair.",
        )
