"""Metallicities of the two components of wide pairs: the paper's Figure 18."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxmdwarf.diagnostics.agreement import Agreement
from jaxmdwarf.plots.style import BLUE, GREY, ORANGE, RED, SEQUENTIAL, describe_quantity

_COLOURS = (GREY, BLUE, ORANGE)
_MARKERS = ("o", "s", "D")
_LOW = 0.42
"""Height of the lower panel, the upper one's being 1."""


def plot_wide_pairs(
    primary: Float[np.ndarray, " n"],
    secondary: Float[np.ndarray, " n"],
    snr: Float[np.ndarray, " n"],
    agreements: Sequence[tuple[float, Agreement]],
    *,
    error: Float[np.ndarray, " n"] | None = None,
    snr_name: str = "S/N",
) -> Figure:
    """[M/H] of M dwarfs against [Fe/H] of their FGK primaries, and the difference below.

    Parameters
    ----------
    primary, secondary : (n,)
        In dex.
    snr : (n,)
        Of the secondary.
    agreements : sequence of (threshold, Agreement)
        Samples of increasing S/N, from the whole one to the best: brighter stars lie on top.
    error : (n,), optional
        Of the difference, drawn as its median.
    snr_name : str

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(4.2, 6.3), layout="compressed")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, _LOW))
    colours = _choose_colours(len(agreements))
    size = float(np.clip(6_000.0 / max(primary.size, 1), 4.0, 20.0))
    difference = secondary - primary
    for number, (threshold, one) in enumerate(agreements):
        # A point has the colour of the highest threshold that it passes.
        limits = [limit for limit, _ in agreements[number + 1 : number + 2]]
        inside = (snr > threshold) & (snr <= limits[0] if limits else True)
        look = {
            "s": size * (1.0 + 0.25 * number),
            "color": colours[number],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linewidths": 0.25,
            "alpha": 0.85,
            "edgecolors": "white",
        }
        top.scatter(primary[inside], secondary[inside], label=_describe(threshold, one), **look)
        bottom.scatter(primary[inside], difference[inside], **look)
    low, high = _square_limits(primary, secondary)
    top.plot([low, high], [low, high], color=RED, linestyle="--", linewidth=1.2)
    # Equal axes, so that the line of equality stands at 45 degrees; below, of the same width.
    top.set(xlim=(low, high), ylim=(low, high), box_aspect=1.0)
    bottom.axhline(0.0, color=RED, linestyle="--", linewidth=1.2)
    reach = float(np.nanpercentile(np.abs(difference), 99.5)) * 1.15 or 1.0
    bottom.set(ylim=(-reach, reach), box_aspect=_LOW)
    if error is not None and np.isfinite(error).any():
        # Far below the line of equality there are no stars.
        x, y = low + 0.93 * (high - low), low + 0.13 * (high - low)
        top.errorbar(x, y, float(np.nanmedian(error)), color="k", capsize=2, linewidth=1.0)
        top.annotate(
            "median error\nof a difference", (x, y), (-7, 0), textcoords="offset points",
            ha="right", va="center", fontsize=8,
        )  # fmt: skip
    top.set_ylabel(f"M dwarf {describe_quantity('mh').axis}")
    bottom.set(xlabel="FGK primary [Fe/H] (dex)", ylabel="M dwarf − primary (dex)")
    # Above the panels: inside it would lie on points.
    figure.legend(
        loc="outside upper center",
        title=f"{snr_name} of the M dwarf: n, bias, robust scatter (dex)",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
    )
    return figure


def _describe(threshold: float, one: Agreement) -> str:
    return (
        f"> {threshold:g}: {one.n}, {one.bias:+.3f} ± {one.e_bias:.3f}, "
        f"{one.robust_scatter:.3f} ± {one.e_robust_scatter:.3f}"
    )


def _choose_colours(n: int) -> list:
    if n <= len(_COLOURS):
        return list(_COLOURS[:n])
    from matplotlib import colormaps

    return list(colormaps[SEQUENTIAL](np.linspace(0.0, 0.9, n)))


def _square_limits(*values: np.ndarray) -> tuple[float, float]:
    every = np.concatenate([one[np.isfinite(one)] for one in values])
    if not every.size:
        return -1.0, 1.0
    low, high = float(every.min()), float(every.max())
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin
