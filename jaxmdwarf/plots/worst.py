"""Many small spectra with their models: the fits that a reader of a report should see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import GREY, ORANGE

_LIMITS = (0.5, 99.5)
"""Percentiles of the fitted pixels that a panel shows: a cosmic ray would flatten the spectrum."""


class SmallFit(NamedTuple):
    """One panel.

    Parameters
    ----------
    flux, model : (n_pix,)
        Normalised.
    fitted : (n_pix,) bool
        Pixels that entered the fit; the others are left open.
    title : str
    """

    flux: Float[np.ndarray, " n_pix"]
    model: Float[np.ndarray, " n_pix"]
    fitted: Bool[np.ndarray, " n_pix"]
    title: str


def plot_small_fits(
    wave_aa: Float[np.ndarray, " n_pix"], fits: Sequence[SmallFit], *, n_column: int = 2
) -> Figure:
    """Spectra and the models that were fitted to them, a small panel each.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Rest frame, vacuum Angstrom.
    fits : sequence of SmallFit
    n_column : int

    Returns
    -------
    Figure
    """
    n_row = max(1, -(-len(fits) // n_column))
    figure = Figure(figsize=(5.0 * n_column, 0.5 + 1.15 * n_row), layout="constrained")
    panels = figure.subplots(n_row, n_column, sharex=True, squeeze=False)
    for panel, one in zip(panels.flat, fits, strict=False):
        panel.plot(wave_aa, np.where(one.fitted, one.flux, np.nan), color=GREY, linewidth=0.6)
        panel.plot(wave_aa, np.where(one.fitted, one.model, np.nan), color=ORANGE, linewidth=0.8)
        if one.fitted.any():
            model = one.model[one.fitted]
            low, high = np.percentile(one.flux[one.fitted], _LIMITS)
            low, high = min(low, model.min()), max(high, model.max())
            panel.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        panel.set_title(one.title, fontsize=8, loc="left", pad=2)
        panel.tick_params(labelsize=7)
    for panel in panels.flat[len(fits) :]:
        panel.set_visible(False)
    inside = wave_aa[np.any([one.fitted for one in fits], axis=0)] if fits else wave_aa[:0]
    if inside.size:
        panels[0, 0].set_xlim(inside[0], inside[-1])
    figure.supxlabel("rest wavelength, vacuum (Å)", fontsize=9)
    figure.supylabel("normalised flux", fontsize=9)
    return figure
