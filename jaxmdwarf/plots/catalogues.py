"""H-R and Kiel diagrams of several catalogues side by side: the paper's Figure 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxmdwarf.plots.cells import find_colours
from jaxmdwarf.plots.hr import GaiaSample, draw_hr, find_hr_limits
from jaxmdwarf.plots.kiel import (
    Isochrones,
    KielSample,
    draw_kiel,
    find_kiel_limits,
    name_isochrones,
)
from jaxmdwarf.plots.style import GREY, describe_quantity


class CatalogueSample(NamedTuple):
    """Stars of one catalogue, with its own labels and Gaia's photometry.

    Parameters
    ----------
    hr : GaiaSample
    kiel : KielSample
        NaN where a catalogue has no such label.
    """

    hr: GaiaSample
    kiel: KielSample


def plot_catalogues(
    catalogues: Mapping[str, CatalogueSample], *, isochrones: Isochrones | None = None
) -> Figure:
    """A column a catalogue: its H-R diagram above, its Kiel diagram below.

    Parameters
    ----------
    catalogues : mapping of title to CatalogueSample
        Colours are the [M/H] of each catalogue, on one scale.
    isochrones : Isochrones, optional
        See `jaxmdwarf.plots.kiel.plot_kiel`.

    Returns
    -------
    Figure
        Without the upper row where no star of any catalogue has photometry and a parallax.
    """
    every = list(catalogues.values())
    hr, kiel = [one.hr for one in every], [one.kiel for one in every]
    has_hr = any(np.isfinite(one.colour + one.absolute + one.mh).any() for one in hr)
    n_column, n_row = max(len(every), 1), 1 + has_hr
    figure = Figure(figsize=(2.5 * n_column + 1.2, 2.7 * n_row + 0.3), layout="constrained")
    grid = figure.subplots(n_row, n_column, squeeze=False, sharex="row", sharey="row")
    norm = find_colours(np.concatenate([one.mh for one in kiel] or [np.zeros(0)]))
    points = None
    for column, (title, one) in zip(grid.T, catalogues.items(), strict=False):
        if has_hr:
            draw_hr(column[0], one.hr, limits=find_hr_limits(*hr), norm=norm)
        points = draw_kiel(
            column[-1], one.kiel, limits=find_kiel_limits(*kiel), norm=norm, isochrones=isochrones
        )
        known = np.isfinite(one.kiel.mh)
        if not np.isfinite(one.kiel.teff + one.kiel.logg)[known].any():
            column[-1].text(
                0.6, 0.8, "not given", transform=column[-1].transAxes, ha="center", color=GREY
            )
        column[0].set_title(f"{title}\n(n = {int(known.sum())})", fontsize=9)
        for panel in column:
            panel.tick_params(labelsize=8)
    for panel in grid[:, 1:].ravel():
        panel.set_ylabel("")
    if points is not None:
        name_isochrones(grid[-1, 0], isochrones)
        figure.colorbar(
            points, ax=grid, label=describe_quantity("mh").axis, extend="both", aspect=40
        )
    return figure
