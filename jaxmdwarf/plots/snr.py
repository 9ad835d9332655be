"""How good the spectra of a survey are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from jaxmdwarf.plots.style import BLUE, ORANGE, RED


def plot_snr(snr_r: Float[np.ndarray, " n"], snr_i: Float[np.ndarray, " n"]) -> Figure:
    """Histogram of the S/N per pixel in r and i, with the paper's limit and the share below 20.

    Parameters
    ----------
    snr_r, snr_i : (n,)
        Values that are not positive are counted in the legend only.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(6.2, 3.3), layout="constrained")
    axis = figure.subplots()
    bins = np.geomspace(1.0, 400.0, 40)
    for values, name, colour, filled in (
        (snr_i, "i", ORANGE, False),
        (snr_r, "r", BLUE, True),
    ):
        kept = values[np.isfinite(values) & (values > 0)]
        label = (
            f"{name}: no value"
            if not kept.size
            else (f"{name}: median {np.median(kept):.0f}, {np.mean(kept < 20):.0%} below 20")
        )
        counts, edges = np.histogram(np.clip(kept, bins[0], bins[-1]), bins=bins)
        axis.stairs(
            counts,
            edges,
            fill=filled,
            color=colour,
            alpha=0.5 if filled else 1.0,
            linewidth=1.5,
            label=label,
        )
    axis.axvline(5.0, color=RED, linestyle="--", linewidth=1.2, label="5: flagged below")
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 5, 10, 20, 50, 100, 200, 400])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="S/N per pixel", ylabel="spectra", xlim=(bins[0], bins[-1]))
    axis.legend(fontsize=8)
    return figure
