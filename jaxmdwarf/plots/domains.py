"""Two domains on one plane, before and after they were brought together (paper, figure 7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxmdwarf.diagnostics.embedding import PairMap
from jaxmdwarf.plots.style import BLUE, ORANGE


def plot_domains(
    maps: Mapping[str, PairMap], *, names: tuple[str, str] = ("synthetic", "observed")
) -> Figure:
    """One panel a map: t-SNE of theory and observed, of shared latents, of transferred spectra.

    Parameters
    ----------
    maps : mapping of title to PairMap
        From `jaxmdwarf.diagnostics.embedding.tsne_pairs`.
    names : (first, second)
        What the two sets of each map are.

    Returns
    -------
    Figure
        The points of the two sets are drawn in a mixed order, so that neither hides the other.
    """
    n_panel = max(len(maps), 1)
    figure = Figure(figsize=(3.6 * n_panel + 0.3, 4.0), layout="constrained")
    panels = figure.subplots(1, n_panel, squeeze=False)[0]
    for panel, (title, one) in zip(panels, maps.items(), strict=False):
        points = np.concatenate([one.first, one.second])
        colours = np.repeat([BLUE, ORANGE], [len(one.first), len(one.second)])
        order = np.random.default_rng(0).permutation(len(points))
        panel.scatter(
            points[order, 0],
            points[order, 1],
            c=colours[order],
            s=float(np.clip(6000.0 / max(len(points), 1), 1.0, 12.0)),
            linewidths=0,
            alpha=0.8,
        )
        panel.set_title(f"{title}\nmixing {one.mixing:.2f} (0.5 is perfect)", fontsize=10)
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel("t-SNE 1")
    panels[0].set_ylabel("t-SNE 2")
    for colour, name in zip((BLUE, ORANGE), names, strict=True):
        panels[0].scatter([], [], c=colour, s=24, label=name)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
