"""A spectrum with its fit, and what the fit leaves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxmdwarf.plots.style import BLUE, RED, shade_windows

WIDTH_IN, HEIGHT_IN = 7.1, 4.3
"""Two columns of a journal: type is then as large on paper as it is set here."""

_TEXT_PT = 8.0
_MEAN_GLYPH_EM = 0.62
"""Generous width of a letter: names are set apart without asking a renderer."""
_PANEL_PT = 0.88 * WIDTH_IN * 72.0
_LETTERS_A_LINE = 100


class Feature(NamedTuple):
    """A line or a band that marks an M dwarf at low resolution.

    Parameters
    ----------
    name : str
    at_aa : tuple of float
        The lines of a multiplet, or both ends of a band; vacuum Angstrom, increasing.
    is_band : bool
        Bands become bars, lines ticks.
    """

    name: str
    at_aa: tuple[float, ...]
    is_band: bool = False


FEATURES: tuple[Feature, ...] = (
    Feature("TiO", (6159.7, 6223.0), True),
    Feature("CaH", (6347.0, 6392.0), True),
    Feature("Hα", (6564.6,)),
    Feature("TiO", (6653.0, 6750.0), True),
    Feature("CaH", (6752.0, 7052.0), True),
    Feature("TiO", (7055.0, 7272.0), True),
    Feature("VO", (7336.0, 7536.0), True),
    Feature("K I", (7667.0, 7701.1)),
    Feature("TiO", (7703.0, 7853.0), True),
    Feature("VO", (7855.0, 7975.0), True),
    Feature("Na I", (8185.5, 8197.1)),
    Feature("TiO", (8434.0, 8490.0), True),
    Feature("Ca II", (8500.4, 8544.4, 8664.5)),
    Feature("TiO", (8862.0, 8952.0), True),
)
"""Bands after Kirkpatrick, Henry & McCarthy (1991), lines after NIST; all in vacuum."""


def plot_fit(
    wave_aa: Float[np.ndarray, " n_pix"],
    flux: Float[np.ndarray, " n_pix"],
    sigma: Float[np.ndarray, " n_pix"],
    model: Float[np.ndarray, " n_pix"],
    *,
    masked: Bool[np.ndarray, " n_pix"] | None = None,
    title: str = "",
    subtitle: str = "",
    features: Sequence[Feature] = FEATURES,
) -> Figure:
    """A normalised spectrum, its best model, and the residuals in units of the pixel's error.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Rest frame, vacuum Angstrom.
    flux, sigma, model : (n_pix,)
        Normalised flux, its one-sigma errors (not finite at bad pixels), the model.
    masked : (n_pix,) bool, optional
        Windows that did not enter the fit; shaded.
    title, subtitle : str
        Above the figure, the second in grey.
    features : sequence of Feature
        Named above the spectrum, in as many rows as keep their names apart.

    Returns
    -------
    Figure
        For `savefig`, or for a notebook to show.
    """
    known = [one for one in features if one.at_aa[-1] > wave_aa[0] and one.at_aa[0] < wave_aa[-1]]
    limits = (float(wave_aa[0]), float(wave_aa[-1]))
    rows = _arrange(known, limits)
    n_row = max(rows, default=-1) + 1
    layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0)
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout=layout)
    grid = figure.add_gridspec(3, 1, height_ratios=(0.27 * max(n_row, 0.2), 3, 1.2))
    top = figure.add_subplot(grid[1])
    bottom = figure.add_subplot(grid[2], sharex=top)
    names = figure.add_subplot(grid[0], sharex=top)
    _mark_features(names, top, known, rows, limits)
    good = np.isfinite(sigma) & (sigma > 0)
    _plot_spectrum(top, wave_aa, flux, sigma, model, good, masked)
    _plot_residual(bottom, wave_aa, (flux - model) / np.where(good, sigma, np.nan))
    if masked is not None and masked.any():
        for panel in (top, bottom):
            shade_windows(panel, wave_aa, masked, "not fitted" if panel is top else None)
    top.set(xlim=limits)
    top.legend(
        fontsize=_TEXT_PT,
        loc="lower left",
        ncols=3,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.2,
    )
    for panel in (top, bottom):
        panel.tick_params(labelsize=_TEXT_PT, direction="in", top=True, right=True)
        panel.yaxis.label.set_fontsize(_TEXT_PT + 1)
        panel.xaxis.label.set_fontsize(_TEXT_PT + 1)
    top.tick_params(labelbottom=False)
    figure.align_ylabels([top, bottom])
    _write_titles(names, title, subtitle)
    return figure


def _plot_spectrum(panel: Axes, wave_aa, flux, sigma, model, good, masked) -> None:
    known = np.where(good, sigma, 0.0)
    panel.fill_between(
        wave_aa,
        np.where(good, flux - known, np.nan),
        np.where(good, flux + known, np.nan),
        color=BLUE,
        alpha=0.25,
        linewidth=0,
    )
    # Bad pixels hold exactly 1; those of the masked windows are shown where they are not bad.
    seen = good | ((flux != 1.0) & (masked if masked is not None else False))
    panel.plot(
        wave_aa, np.where(seen, flux, np.nan), color=BLUE, linewidth=0.7, label="observed ± σ"
    )
    panel.plot(wave_aa, model, color=RED, linewidth=0.9, label="best model")
    shown = np.isfinite(model)
    low, high = (float(model[shown].min()), float(model[shown].max())) if shown.any() else (0, 2)
    if good.any():
        low = min(low, float(np.percentile(flux[good], 0.2)))
        high = max(high, float(np.percentile(flux[good], 99.8)))
    if not high > low:
        low, high = low - 0.1, high + 0.1
    # The legend gets a strip of its own.
    panel.set_ylim(low - 0.17 * (high - low), high + 0.05 * (high - low))
    panel.set_ylabel("normalised flux")


def _plot_residual(panel: Axes, wave_aa, pull) -> None:
    panel.axhspan(-1, 1, color="0.75", alpha=0.6, linewidth=0, zorder=0)
    panel.plot(wave_aa, pull, color="0.15", linewidth=0.5)
    panel.axhline(0.0, color=RED, linewidth=0.8, zorder=1)
    finite = np.abs(pull[np.isfinite(pull)])
    panel.set_ylim(*(np.array([-1.05, 1.05]) * np.clip(finite.max(initial=1.0), 3.5, 8.0)))
    panel.set(xlabel="rest wavelength in vacuum (Å)", ylabel="residual (σ)")


def _write_titles(names: Axes, title: str, subtitle: str) -> None:
    """Both above the names of the features, the second in as many lines as it needs."""
    lines = textwrap.wrap(subtitle, _LETTERS_A_LINE)
    room = 1.45 * _TEXT_PT * len(lines) + 5.0
    names.set_title(title, fontsize=_TEXT_PT + 1, loc="left", pad=room)
    names.annotate(
        "\n".join(lines),
        (0.0, 1.0),
        (0.0, 3.0),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=_TEXT_PT,
        color="0.3",
        va="bottom",
    )


def _half_width(name: str, limits: tuple[float, float]) -> float:
    """Angstrom that half of a name covers, with room around it."""
    aa_per_pt = (limits[1] - limits[0]) / _PANEL_PT
    return 0.5 * (len(name) + 1) * _MEAN_GLYPH_EM * _TEXT_PT * aa_per_pt


def _place(one: Feature, limits: tuple[float, float]) -> tuple[float, tuple[float, float]]:
    """Centre of the name of a feature, and all that the feature covers."""
    low, high = np.clip([one.at_aa[0], one.at_aa[-1]], *limits)
    half = _half_width(one.name, limits)
    centre = float(np.clip(0.5 * (low + high), limits[0] + half, limits[1] - half))
    return centre, (min(float(low), centre - half), max(float(high), centre + half))


def _arrange(features: Sequence[Feature], limits: tuple[float, float]) -> list[int]:
    """The row of each feature: the lowest in which it meets no other.

    Lines come first, since their ticks pass through all rows below.
    """
    taken: list[list[tuple[float, float]]] = []
    rows = [0] * len(features)
    for index in sorted(range(len(features)), key=lambda index: features[index].is_band):
        span = _place(features[index], limits)[1]
        row = 0
        while row < len(taken) and any(
            span[1] > other[0] and span[0] < other[1] for other in taken[row]
        ):
            row += 1
        if row == len(taken):
            taken.append([])
        taken[row].append(span)
        rows[index] = row
    return rows


def _mark_features(
    names: Axes, spectrum: Axes, features: Sequence[Feature], rows: Sequence[int], limits
) -> None:
    """Names in a panel without a frame; ticks of lines run on through the spectrum."""
    names.set_axis_off()
    names.set_ylim(0.0, max(rows, default=0) + 1.0)
    grey: dict[str, Any] = {"color": "0.35", "solid_capstyle": "butt"}
    for one, row in zip(features, rows, strict=True):
        low, high = np.clip([one.at_aa[0], one.at_aa[-1]], *limits)
        if one.is_band:
            names.plot([low, high], [row + 0.2] * 2, linewidth=1.8, **grey)
        else:
            names.plot([low, high], [row + 0.28] * 2, linewidth=0.8, **grey)
            for line in one.at_aa:
                if limits[0] < line < limits[1]:
                    names.plot([line] * 2, [0.0, row + 0.28], linewidth=0.8, **grey)
                    spectrum.axvline(line, color="0.5", linewidth=0.6, linestyle=":", zorder=0)
        names.text(
            _place(one, limits)[0],
            row + 0.34,
            one.name,
            ha="center",
            va="bottom",
            fontsize=_TEXT_PT,
            color="0.2",
        )
