"""Labels against one large catalogue or several, as density: the paper's Figures 15 and 17."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from jaxmdwarf.diagnostics.agreement import measure_agreement
from jaxmdwarf.plots.cells import Limits, share_numbers, show_numbers
from jaxmdwarf.plots.comparison import find_pair_limits, write_agreement
from jaxmdwarf.plots.labels import LabelPair
from jaxmdwarf.plots.style import GREY, RED, describe_quantity

_LOW = 0.45
"""Height of the panels of differences, those above being 1."""


def plot_densities(references: Mapping[str, Mapping[str, LabelPair]]) -> Figure:
    """A column a label; for each reference a row of values, and below it one of differences.

    Parameters
    ----------
    references : mapping of title to mapping of quantity to LabelPair
        Quantities that a reference lacks leave its panels empty.

    Returns
    -------
    Figure
        Panels of values have equal axes. Bias and scatter in the corner are the median of the
        differences and half their central 68 per cent; stars outside of a panel are counted.
    """
    names = list(dict.fromkeys(name for one in references.values() for name in one))
    n_column, n_row = max(len(names), 1), max(len(references), 1)
    figure = Figure(
        figsize=(2.4 * n_column + 1.2, (2.1 * (1 + _LOW) + 0.35) * n_row + 0.7),
        layout="compressed",
    )
    grid = figure.subplots(
        2 * n_row, n_column, squeeze=False, sharex="col", height_ratios=(1.0, _LOW) * n_row
    )
    drawn: list[Any] = []
    for column, name in zip(grid.T, names, strict=False):
        quantity = describe_quantity(name)
        pairs = {title: one[name] for title, one in references.items() if name in one}
        limits = find_pair_limits(list(pairs.values()))
        for title, top, bottom in zip(references, column[::2], column[1::2], strict=True):
            top.set(xlim=limits, ylim=limits, box_aspect=1.0)
            bottom.set(xlim=limits, box_aspect=_LOW)
            if title in pairs:
                drawn += _draw(top, bottom, pairs[title], limits)
            else:
                for panel in (top, bottom):
                    panel.set_yticks([])
                top.text(0.5, 0.5, "not given", transform=top.transAxes, ha="center", color=GREY)
        column[0].set_title(quantity.axis, fontsize=10)
        column[-1].set_xlabel(f"reference {quantity.axis}", fontsize=9)
    for title, top, bottom in zip(references, grid[::2, 0], grid[1::2, 0], strict=False):
        top.set_ylabel(f"{title}\nmeasured", fontsize=9)
        bottom.set_ylabel("measured −\nreference", fontsize=9)
    figure.align_ylabels(grid[:, 0])
    if drawn:
        share_numbers(drawn)
        bar = figure.colorbar(drawn[0], ax=grid, label="stars in a cell", aspect=40)
        bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    return figure


def _draw(top: Any, bottom: Any, pair: LabelPair, limits: Limits) -> list[Any]:
    """Both panels of one quantity of one reference; what was drawn, for common colours."""
    difference = pair.measured - pair.reference
    found = measure_agreement(difference, n_bootstrap=2)
    scatter = float(np.nan_to_num(found.robust_scatter))
    # Of one star there is no scatter, and of none no bias.
    reach = 4.5 * scatter + 1.2 * abs(float(np.nan_to_num(found.bias))) or 1.0
    drawn = [
        show_numbers(top, pair.reference, pair.measured, limits=(limits, limits)),
        show_numbers(
            bottom, pair.reference, difference, limits=(limits, (-reach, reach)), height=_LOW
        ),
    ]
    top.plot(limits, limits, color=RED, linestyle="--", linewidth=1.0)
    bottom.axhline(0.0, color=RED, linestyle="--", linewidth=1.0)
    bottom.set_ylim(-reach, reach)
    for panel in (top, bottom):
        panel.tick_params(labelsize=7.5)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    top.yaxis.set_major_locator(MaxNLocator(4))
    bottom.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    middle, half = 0.5 * (limits[0] + limits[1]), 0.5 * (limits[1] - limits[0])
    # Comparisons with NaN are false.
    inside = np.abs(difference) <= reach
    for side in (pair.measured, pair.reference):
        inside &= np.abs(side - middle) <= half
    beyond = found.n - int(inside.sum())
    write_agreement(top, pair.name, found, beyond=beyond)
    return drawn
