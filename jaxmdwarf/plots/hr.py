"""The Gaia H-R diagram, metallicity as colour: the paper's Figures 11 and 12."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxmdwarf.plots.cells import Limits, find_colours, find_limits, show_medians
from jaxmdwarf.plots.style import BLUE, describe_quantity

PERCENTILES = (15.0, 50.0, 85.0)
_BIN_MAG = 0.1
_FEWEST = 20
"""Stars of a bin of colour from which percentiles are told."""

COLOUR_AXIS, MAGNITUDE_AXIS = "BP − RP (mag)", r"$M_G$ (mag)"


class GaiaSample(NamedTuple):
    """Stars of an H-R diagram, each (n,).

    Parameters
    ----------
    colour : (n,)
        BP - RP, magnitudes.
    absolute : (n,)
        M_G, magnitudes.
    mh : (n,)
        [M/H], dex.
    """

    colour: Float[np.ndarray, " n"]
    absolute: Float[np.ndarray, " n"]
    mh: Float[np.ndarray, " n"]


def plot_hr(
    sample: GaiaSample,
    g_mag: Float[np.ndarray, " n"],
    distance_pc: Float[np.ndarray, " n"],
) -> Figure:
    """The H-R diagram, and beside it how bright and how far the stars are.

    Parameters
    ----------
    sample : GaiaSample
        Of more than 2,000 stars the median [M/H] in each cell is drawn.
    g_mag, distance_pc : (n,)
        Apparent magnitude in G, and parsec.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(7.1, 4.3), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1.0))
    axis = figure.add_subplot(grid[:, 0])
    norm = find_colours(sample.mh)
    points = draw_hr(axis, sample, limits=find_hr_limits(sample), norm=norm)
    figure.colorbar(points, ax=axis, label=describe_quantity("mh").axis, extend="both", aspect=30)
    axis.set_title(f"n = {_count(sample)}", fontsize=10)
    for row, (values, name, clip) in enumerate(
        ((g_mag, "G (mag)", 0.1), (distance_pc, "distance (pc)", 1.0))
    ):
        panel = figure.add_subplot(grid[row, 1])
        kept = values[np.isfinite(values)]
        low, high = find_limits(kept, (0.0, 1.0), clip=clip, room=0.02)
        n_bin = int(np.clip(np.sqrt(kept.size), 8, 40))
        counts, edges = np.histogram(kept, bins=n_bin, range=(low, high))
        panel.stairs(counts, edges, fill=True, color=BLUE, alpha=0.55)
        text = f"median {np.median(kept):.3g}" if kept.size else "no value"
        beyond = int(kept.size - counts.sum())
        text += f"\n{beyond} outside of the panel" if beyond else ""
        panel.set_title(text, fontsize=8)
        panel.set(xlabel=name, ylabel="stars", xlim=(low, high), ylim=(0, None))
        panel.tick_params(labelsize=8)
    return figure


def plot_active_hr(sample: GaiaSample, active: Bool[np.ndarray, " n"]) -> Figure:
    """The stars with Halpha in emission, on lines of the sequence of all stars.

    Parameters
    ----------
    sample : GaiaSample
        All stars; see `trace_sequence`.
    active : (n,) bool

    Returns
    -------
    Figure
        With the limits and the colours that all stars have.
    """
    figure = Figure(figsize=(4.6, 4.5), layout="constrained")
    axis = figure.subplots()
    chosen = GaiaSample(*(column[active] for column in sample))
    limits = find_hr_limits(sample)
    points = draw_hr(axis, chosen, limits=limits, norm=find_colours(sample.mh))
    figure.colorbar(points, ax=axis, label=describe_quantity("mh").axis, extend="both", aspect=30)
    colours, lines = trace_sequence(sample)
    for line, style in zip(lines, ("--", "-", "--"), strict=True):
        axis.plot(colours, line, color="k", linestyle=style, linewidth=1.2)
    if np.isfinite(lines).any():
        axis.legend(
            axis.lines[1:],
            ("median", f"{PERCENTILES[0]:g} and {PERCENTILES[-1]:g} %"),
            title=f"of all stars (n = {_count(sample)})",
            fontsize=8,
            title_fontsize=8,
            loc="lower left",
        )
    axis.set_title(f"Hα in emission: n = {_count(chosen)}", fontsize=10)
    return figure


def trace_sequence(
    sample: GaiaSample,
) -> tuple[Float[np.ndarray, " n_bin"], Float[np.ndarray, "3 n_bin"]]:
    """Percentiles of M_G in bins of colour, 0.1 mag wide.

    Parameters
    ----------
    sample : GaiaSample

    Returns
    -------
    colour : (n_bin,)
        Middles of the bins.
    lines : (3, n_bin)
        15, 50 and 85 per cent (`PERCENTILES`); NaN in bins of fewer than 20 stars.

    Examples
    --------
    >>> colour, lines = trace_sequence(GaiaSample(np.full(21, 2.05), np.arange(21.0), np.zeros(21)))
    >>> colour.round(2).tolist(), lines.round(1).ravel().tolist()
    ([2.05], [3.0, 10.0, 17.0])
    """
    known = np.isfinite(sample.colour + sample.absolute)
    colour, absolute = sample.colour[known], sample.absolute[known]
    number = np.floor(colour / _BIN_MAG + 1e-9).astype(int)
    bins = np.arange(number.min(), number.max() + 1) if number.size else np.arange(0)
    lines = np.full((len(PERCENTILES), bins.size), np.nan)
    order = np.argsort(number, kind="stable")
    first, last = (np.searchsorted(number[order], bins, side) for side in ("left", "right"))
    for column, (start, stop) in enumerate(zip(first, last, strict=True)):
        if stop - start >= _FEWEST:
            lines[:, column] = np.percentile(absolute[order[start:stop]], PERCENTILES)
    return (bins + 0.5) * _BIN_MAG, lines


def find_hr_limits(*samples: GaiaSample) -> tuple[Limits, Limits]:
    """Limits of colour and M_G that all samples fit in, each low before high."""
    colour = np.concatenate([one.colour for one in samples])
    absolute = np.concatenate([one.absolute for one in samples])
    return find_limits(colour, (1.0, 4.0), least=0.5), find_limits(absolute, (4.0, 15.0), least=2.0)


def draw_hr(
    axis: Axes, sample: GaiaSample, *, limits: tuple[Limits, Limits], norm: Normalize
) -> Any:
    """One panel: blue to the left, bright above; returns what a colour bar is made of."""
    points = show_medians(axis, sample.colour, sample.absolute, sample.mh, limits=limits, norm=norm)
    axis.set(xlim=limits[0], ylim=limits[1][::-1], xlabel=COLOUR_AXIS, ylabel=MAGNITUDE_AXIS)
    return points


def _count(sample: GaiaSample) -> int:
    return int(np.isfinite(sample.colour + sample.absolute + sample.mh).sum())
