"""Are the errors honest: differences over stated errors beside a Gaussian of unit width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxmdwarf.diagnostics.recovery import Pulls
from jaxmdwarf.plots.style import BLUE, RED, describe_quantity

REACH = 5.0


def plot_pulls(
    pulls: Mapping[str, tuple[Float[np.ndarray, " n"], Pulls]], *, title: str = ""
) -> Figure:
    """Histograms of pulls, one panel a quantity; those beyond the axis are counted in the corner.

    Parameters
    ----------
    pulls : mapping of quantity name to (values, summary)
        Values may hold NaN.
    title : str

    Returns
    -------
    Figure
    """
    n_panel = max(len(pulls), 1)
    figure = Figure(figsize=(2.4 * max(n_panel, 2), 2.9), layout="constrained")
    panels = figure.subplots(1, n_panel, squeeze=False, sharey=True)[0]
    x = np.linspace(-REACH, REACH, 201)
    gaussian = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    for panel, (name, (values, summary)) in zip(panels, pulls.items(), strict=False):
        kept = values[np.isfinite(values)]
        n_bin = int(np.clip(kept.size**0.5, 10, 50))
        inside = kept[np.abs(kept) <= REACH]
        counts, edges = np.histogram(inside, bins=n_bin, range=(-REACH, REACH))
        density = counts / max(kept.size, 1) / np.diff(edges)
        panel.stairs(density, edges, fill=True, color=BLUE, alpha=0.45, label="catalogue")
        panel.plot(x, gaussian, color=RED, linewidth=1.2, label="unit Gaussian")
        panel.set_title(describe_quantity(name).symbol, fontsize=10)
        text = f"mean {summary.mean:+.2f}\nwidth {summary.width:.2f}"
        beyond = int(kept.size - inside.size)
        if beyond:
            text += f"\n{beyond} beyond ±{REACH:.0f}"
        panel.text(0.03, 0.97, text, transform=panel.transAxes, va="top", fontsize=8)
        panel.set(xlabel="difference / error", xlim=(-REACH, REACH))
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("density")
    top = panels[0].get_ylim()[1]
    panels[0].set_ylim(0, 1.25 * top)
    if pulls:
        panels[-1].legend(fontsize=7.5, loc="upper right")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
