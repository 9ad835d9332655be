"""Labels against several references: one to one, a panel for each (paper, figures 14 and 15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxmdwarf.diagnostics.agreement import Agreement, measure_agreement
from jaxmdwarf.plots.cells import Limits, find_limits, show_numbers
from jaxmdwarf.plots.labels import LabelPair
from jaxmdwarf.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    describe_quantity,
)

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_MARKERS = "os^DvPX<>h"
_DENSE = 500
"""More points than this overlap: their number is drawn in place of them."""
_CLIP = 0.2
_ROOM_ABOVE = 0.22


def plot_agreement(references: Mapping[str, Mapping[str, LabelPair]]) -> Figure:
    """A column a label, a row a reference; above them all references together, if several.

    Parameters
    ----------
    references : mapping of title to mapping of quantity to LabelPair
        Quantities that a reference lacks leave its panel empty.

    Returns
    -------
    Figure
        Both axes of a panel have the same limits, those of its label; bias and scatter in the
        corner are medians and half the central 68 per cent.
    """
    names = list(dict.fromkeys(name for one in references.values() for name in one))
    several = len(references) > 1
    n_row, n_column = len(references) + several, max(len(names), 1)
    figure = Figure(figsize=(2.5 * n_column + 0.6, 2.45 * n_row + 0.3), layout="constrained")
    grid = figure.subplots(n_row, n_column, squeeze=False)
    limits = {
        name: find_pair_limits([one[name] for one in references.values() if name in one])
        for name in names
    }
    for column, name in zip(grid.T, names, strict=False):
        pairs = {title: one[name] for title, one in references.items() if name in one}
        for axis in column:
            _frame(axis, limits[name])
        if several:
            _draw_together(column[0], pairs, list(references))
            _write_numbers(column[0], name, list(pairs.values()))
        for axis, title in zip(column[several:], references, strict=True):
            if title in pairs:
                _draw_points(axis, pairs[title], limits[name])
                _write_numbers(axis, name, [pairs[title]])
            else:
                axis.text(0.7, 0.25, "not given", transform=axis.transAxes, ha="center", color=GREY)
        column[0].set_title(describe_quantity(name).axis, fontsize=10)
        column[-1].set_xlabel(f"reference {describe_quantity(name).axis}", fontsize=9)
    rows = ["all references"] * several + list(references)
    for axis, title in zip(grid[:, 0], rows, strict=True):
        axis.set_ylabel(f"{title}\nmeasured", fontsize=9)
    if several and names:
        handles: dict[str, Any] = {}
        for axis in grid[0]:
            handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
        handles = {title: handles[title] for title in references if title in handles}
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=min(len(handles), 3) or 1,
            fontsize=8.5,
            frameon=False,
        )
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                # As large as each other, however small the points of a rich reference are.
                handle.set_sizes([18.0])
    return figure


def _draw_together(axis: Any, pairs: Mapping[str, LabelPair], titles: list[str]) -> None:
    """All references in one panel, the most numerous below."""
    by_size = sorted(pairs, key=lambda title: -pairs[title].reference.size)
    for title in by_size:
        index = titles.index(title)
        pair = pairs[title]
        size = float(np.clip(4000.0 / max(pair.reference.size, 1), 2.0, 16.0))
        axis.scatter(
            pair.reference,
            pair.measured,
            s=size,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            linewidths=0,
            alpha=0.8,
            label=title,
        )


def _draw_points(axis: Any, pair: LabelPair, limits: tuple[float, float]) -> None:
    known = np.isfinite(pair.measured - pair.reference)
    x, y = pair.reference[known], pair.measured[known]
    if x.size > _DENSE:
        show_numbers(axis, x, y, limits=(limits, limits))
    else:
        axis.scatter(
            x,
            y,
            s=float(np.clip(2000.0 / max(x.size, 1), 5.0, 16.0)),
            color=BLUE,
            alpha=0.7,
            linewidths=0,
        )


def _write_numbers(axis: Any, name: str, pairs: list[LabelPair]) -> None:
    difference = np.concatenate([pair.measured - pair.reference for pair in pairs])
    write_agreement(axis, name, measure_agreement(difference, n_bootstrap=2))


def write_agreement(axis: Axes, name: str, found: Agreement, *, beyond: int = 0) -> None:
    """Number, bias and scatter of differences of a quantity, in the upper left of its panel.

    Parameters
    ----------
    axis : Axes
    name : str
        Of the quantity, for its unit and digits.
    found : Agreement
    beyond : int
        How many stars the panel does not show.
    """
    quantity = describe_quantity(name)
    text = (
        f"n = {found.n}\nbias {quantity.write(found.bias, signed=True)}\n"
        f"scatter {quantity.write(found.robust_scatter)}"
    )
    axis.text(
        0.04,
        0.965,
        text + (f"\n{beyond} outside" if beyond else ""),
        transform=axis.transAxes,
        va="top",
        fontsize=7.5,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
    )


def _frame(axis: Any, limits: tuple[float, float]) -> None:
    axis.plot(limits, limits, color="k", linewidth=0.9, linestyle="--", zorder=3)
    axis.set(xlim=limits, ylim=limits)
    axis.set_aspect("equal")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(4))
    axis.tick_params(labelsize=7.5)


def find_pair_limits(pairs: Sequence[LabelPair]) -> Limits:
    """What all but the outermost values of both sides of all pairs span, with room for numbers."""
    sides = [np.zeros(0)]
    for pair in pairs:
        known = np.isfinite(pair.measured - pair.reference)
        sides += [pair.measured[known], pair.reference[known]]
    low, high = find_limits(np.concatenate(sides), (0.0, 1.0), clip=_CLIP)
    return low, high + _ROOM_ABOVE * (high - low)
