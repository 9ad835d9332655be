"""The Kiel diagram: gravity against temperature, metallicity as colour (paper, figure 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import SEQUENTIAL, describe_quantity


class KielSample(NamedTuple):
    """Stars of one panel: Teff in K, log g and [M/H] in dex, each (n,)."""

    teff: Float[np.ndarray, " n"]
    logg: Float[np.ndarray, " n"]
    mh: Float[np.ndarray, " n"]


def plot_kiel(samples: Mapping[str, KielSample]) -> Figure:
    """One panel a sample, on common axes: hot to the left, giants above.

    Parameters
    ----------
    samples : mapping of title to KielSample
        Measured beside true, say; the axes and colours follow all of them.

    Returns
    -------
    Figure
    """
    n_panel = max(len(samples), 1)
    figure = Figure(figsize=(4.3 * n_panel + 0.9, 4.0), layout="constrained")
    panels = figure.subplots(1, n_panel, squeeze=False, sharex=True, sharey=True)[0]
    every = [np.concatenate([getattr(one, key) for one in samples.values()]) for key in _KEYS]
    teff, logg, mh = (values[np.isfinite(values)] for values in every)
    points = None
    for panel, (title, sample) in zip(panels, samples.items(), strict=False):
        shades = {}
        if mh.size:
            shades = dict(zip(("vmin", "vmax"), np.percentile(mh, (2, 98)), strict=True))
        points = panel.scatter(
            sample.teff,
            sample.logg,
            c=sample.mh,
            s=float(np.clip(20_000.0 / max(teff.size, 1), 2.0, 22.0)),
            cmap=SEQUENTIAL,
            linewidths=0,
            **shades,
        )
        n_star = int(np.isfinite(sample.teff + sample.logg).sum())
        panel.set_title(f"{title} (n = {n_star})", fontsize=10)
        panel.set_xlabel(describe_quantity("teff").axis)
    if teff.size and logg.size:
        low, high = np.percentile(teff, (0.2, 99.8))
        panels[0].set_xlim(high + 60, low - 60)
        low, high = np.percentile(logg, (0.5, 99.5))
        panels[0].set_ylim(high + 0.12, low - 0.12)
    panels[0].set_ylabel(describe_quantity("logg").axis)
    if points is not None:
        figure.colorbar(points, ax=list(panels), label=describe_quantity("mh").axis, extend="both")
    return figure


_KEYS = ("teff", "logg", "mh")
