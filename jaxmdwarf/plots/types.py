"""Spectral types of the survey's pipeline beside those from TiO5: the paper's Figure 13."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxmdwarf.diagnostics.agreement import measure_agreement
from jaxmdwarf.plots.style import BLUE, ORANGE

TYPES = tuple(range(-2, 8))
"""Subtypes as numbers: -2 is K5, -1 is K7, 0 to 7 are M0 to M7."""


def plot_types(subclass: Float[np.ndarray, " n"], spt: Float[np.ndarray, " n"]) -> Figure:
    """Two histograms of subtypes, one whole subtype a bin.

    Parameters
    ----------
    subclass : (n,)
        Of the header, as a number (`jaxmdwarf.measure.spectral_type.read_subtypes`).
    spt : (n,)
        From TiO5. Spectra without one of the two count in the other's histogram alone.

    Returns
    -------
    Figure
        Tells the offset and the scatter of the difference, TiO5 minus header.
    """
    figure = Figure(figsize=(5.2, 3.5), layout="constrained")
    axis = figure.subplots()
    edges = np.array([TYPES[0] - 0.5, *(one + 0.5 for one in TYPES)])
    for values, name, colour, filled in (
        (subclass, "survey's pipeline", ORANGE, True),
        (spt, "from TiO5", BLUE, False),
    ):
        kept = values[np.isfinite(values)]
        counts, _ = np.histogram(kept, bins=edges)
        axis.stairs(
            counts,
            edges,
            fill=filled,
            color=colour,
            alpha=0.6 if filled else 1.0,
            linewidth=1.8,
            label=f"{name} (n = {kept.size})",
        )
    found = measure_agreement(spt - subclass, n_bootstrap=2)
    if found.n:
        axis.legend(
            fontsize=8,
            title=f"TiO5 − pipeline: median {found.bias:+.2f}, mean {found.mean:+.2f},\n"
            f"standard deviation {found.scatter:.2f}, robust {found.robust_scatter:.2f} "
            f"(n = {found.n})",
            title_fontsize=8,
        )
    else:
        axis.legend(fontsize=8, title="no spectrum has both", title_fontsize=8)
    axis.set_xticks(TYPES, ["K5", "K7", *(f"M{one}" for one in TYPES[2:])])
    # Room for the legend above the highest bar.
    axis.set(xlabel="spectral subtype", ylabel="spectra", xlim=(edges[0], edges[-1]))
    axis.set_ylim(0, 1.35 * (axis.get_ylim()[1] or 1.0))
    return figure
