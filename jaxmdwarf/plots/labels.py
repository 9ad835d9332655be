"""Recovered labels against known ones: one to one, differences, and how they depend on S/N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, ScalarFormatter

from jaxmdwarf.diagnostics.recovery import Comparison, measure_recovery
from jaxmdwarf.plots.style import BLUE, GREY, RED, SEQUENTIAL, describe_quantity


class LabelPair(NamedTuple):
    """One quantity, measured and known.

    Parameters
    ----------
    name : str
        Of a label, or ``"rv"``.
    measured, reference : (n,)
    """

    name: str
    measured: Float[np.ndarray, " n"]
    reference: Float[np.ndarray, " n"]


def plot_recovery(
    pairs: Sequence[LabelPair],
    snr: Float[np.ndarray, " n"],
    *,
    reference_name: str = "truth",
    snr_name: str = "S/N in r",
) -> Figure:
    """One column a quantity: measured against reference above, the difference below; colour is S/N.

    Parameters
    ----------
    pairs : sequence of LabelPair
    snr : (n,)
    reference_name, snr_name : str
        For the axes.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(2.35 * max(len(pairs), 2) + 0.7, 4.3), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False, sharex="col", height_ratios=(1.6, 1))
    low_snr, high_snr = _snr_range(snr)
    norm = LogNorm(low_snr, high_snr)
    # Bright stars lie on top: they are the ones that should follow the line.
    order = np.argsort(np.nan_to_num(snr, nan=0.0))
    size = float(np.clip(9000.0 / max(snr.size, 1), 1.5, 12.0))
    points = None
    for (top, bottom), pair in zip(grid.T, pairs, strict=True):
        quantity = describe_quantity(pair.name)
        x, y, colour = pair.reference[order], pair.measured[order], snr[order]
        difference = y - x
        look = {"c": colour, "s": size, "cmap": SEQUENTIAL, "norm": norm, "linewidths": 0}
        points = top.scatter(x, y, **look)
        bottom.scatter(x, difference, **look)
        found = measure_recovery(difference)
        # Equal axes: the line of equality stands at 45 degrees, and above it is room for text.
        both = _limits(np.concatenate([x, y]), 0.5, 0.06)
        top.plot(both, both, color="k", linewidth=0.9, linestyle="--")
        top.set(xlim=both, ylim=both, box_aspect=1)
        bottom.axhline(0.0, color="k", linewidth=0.9, linestyle="--")
        if found.n:
            reach = 5 * max(found.scatter, 1e-9) + abs(found.bias)
            bottom.set_ylim(-reach, reach)
        bottom.set_box_aspect(0.62)
        text = (
            f"n = {found.n}\nbias {quantity.write(found.bias, signed=True)}\n"
            f"scatter {quantity.write(found.scatter)}"
        )
        ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
        place = {"transform": top.transAxes, "va": "top", "fontsize": 7.5}
        top.text(0.04, 0.975, text, bbox=ground, **place)
        top.set_title(quantity.axis, fontsize=10)
        bottom.set_xlabel(f"{reference_name} {quantity.axis}")
        bottom.xaxis.set_major_locator(MaxNLocator(4))
        for axis in (top, bottom):
            axis.tick_params(labelsize=8)
    grid[0, 0].set_ylabel("measured")
    grid[1, 0].set_ylabel(f"measured − {reference_name}")
    if points is not None:
        bar = figure.colorbar(points, ax=grid, label=snr_name, aspect=40, extend="both")
        _plain_log_axis(bar.ax.yaxis, low_snr, high_snr)
    return figure


def plot_by_snr(comparisons: Mapping[str, Comparison], *, snr_name: str = "S/N in r") -> Figure:
    """Scatter, bias and stated error in bins of S/N, one panel a quantity.

    Parameters
    ----------
    comparisons : mapping of quantity name to Comparison
        Bins of fewer than 5 rows are not drawn.
    snr_name : str

    Returns
    -------
    Figure
    """
    n_panel = max(len(comparisons), 1)
    figure = Figure(figsize=(2.45 * max(n_panel, 2), 3.1), layout="constrained")
    panels = figure.subplots(1, n_panel, squeeze=False)[0]
    for panel, (name, comparison) in zip(panels, comparisons.items(), strict=False):
        rows = [row for row in comparison.by_snr if row.recovery.n >= 5]
        snr = [row.snr for row in rows]
        panel.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        panel.plot(
            snr,
            [row.recovery.scatter for row in rows],
            "o-",
            color=BLUE,
            markersize=4,
            label="scatter",
        )
        panel.plot(
            snr,
            [row.error for row in rows],
            "s--",
            color=GREY,
            markersize=3.5,
            label="stated error",
        )
        panel.errorbar(
            snr,
            [row.recovery.bias for row in rows],
            [row.recovery.e_bias for row in rows],
            fmt="^-",
            color=RED,
            markersize=4,
            linewidth=1.0,
            label="bias",
        )
        if rows:
            panel.set_xscale("log")
            panel.set_xlim(0.8 * min(snr), 1.25 * max(snr))
            _plain_log_axis(panel.xaxis, 0.8 * min(snr), 1.25 * max(snr))
        panel.set_title(describe_quantity(name).axis, fontsize=10)
        panel.set_xlabel(snr_name)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("measured − reference")
    handles, names = panels[0].get_legend_handles_labels()
    # Outside, for inside it would hide a curve of one panel or another.
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def _snr_range(snr: np.ndarray) -> tuple[float, float]:
    known = snr[np.isfinite(snr) & (snr > 0)]
    low, high = np.percentile(known, (2, 98)) if known.size else (1.0, 100.0)
    return (float(low), float(high)) if low < high else (0.5 * float(low), 2.0 * float(low))


def _plain_log_axis(axis: Any, low: float, high: float) -> None:
    """Ticks at round numbers, written out."""
    axis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def _limits(values: np.ndarray, clip: float, room: float) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if not kept.size:
        return 0.0, 1.0
    low, high = np.percentile(kept, (clip, 100 - clip))
    margin = room * (high - low) or 0.05 * (abs(high) or 1.0)
    return float(low - margin), float(high + margin)
