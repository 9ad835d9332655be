"""A spectrum on its way to a fit: the paper's Figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import BLUE, RED, shade_windows
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, pseudo_continuum
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid


def plot_processing(
    raw: RawSpectrum,
    *,
    grid: PixelGrid = PAPER_GRID,
    rv_kms: float = 0.0,
    masks: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    sigma_aa: float = PAPER_SIGMA_AA,
    title: str = "",
) -> Figure:
    """Spectrum with pseudo-continuum, its error, both after division; masked windows in grey.

    Parameters
    ----------
    raw : RawSpectrum
    grid : PixelGrid
    rv_kms : float
        Velocity that is taken out, km/s.
    masks : sequence of (low, high)
        Windows that enter neither the continuum nor a fit, vacuum Angstrom of the rest frame.
    sigma_aa : float
        Of the continuum's Gaussian, Angstrom.
    title : str

    Returns
    -------
    Figure
        Bad pixels are gaps. The flux is in units of its mean.

    Raises
    ------
    RejectedInput
        If the spectrum covers less than half of the grid.
    """
    wave, masked = grid.wave_aa, mask_for(grid, masks)
    batch = preprocess_batch([raw], grid, rv_kms=rv_kms, masks=(), sigma_aa=None)
    good = batch.ivar > 0
    continuum = pseudo_continuum(
        batch.flux, good & jnp.asarray(~masked), grid, sigma_aa=float(sigma_aa)
    )
    flux, level, ivar = (
        np.asarray(one, np.float64)[0] for one in (batch.flux, continuum, batch.ivar)
    )
    known = (ivar > 0) & (level > 0)
    flux, level = np.where(ivar > 0, flux, np.nan), np.where(level > 0, level, np.nan)
    error = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), np.nan)
    figure = Figure(figsize=(7.1, 6.2), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True, height_ratios=(1.5, 1.0, 1.5, 1.0))
    panels[0].plot(wave, flux, color="0.15", linewidth=0.6, label="observed")
    panels[0].plot(wave, level, color=RED, linewidth=1.2, label="pseudo-continuum")
    panels[1].plot(wave, error, color=BLUE, linewidth=0.6)
    panels[2].plot(wave, flux / level, color="0.15", linewidth=0.6)
    panels[2].axhline(1.0, color=RED, linewidth=0.8)
    panels[3].plot(wave, error / level, color=BLUE, linewidth=0.6)
    names = ("flux / mean", "error", "normalised\nflux", "normalised\nerror")
    for panel, name, values in zip(
        panels, names, (flux, error, flux / level, error / level), strict=True
    ):
        shade_windows(panel, wave, masked, "masked")
        _limit(panel, values[known & ~masked], from_zero="error" in name)
        panel.set_ylabel(name, fontsize=9)
        panel.tick_params(labelsize=8, direction="in", top=True, right=True)
    panels[0].legend(fontsize=8, loc="lower right", ncols=3)
    panels[-1].set_xlabel("rest wavelength in vacuum (Å)" if rv_kms else "wavelength in vacuum (Å)")
    panels[-1].set_xlim(float(wave[0]), float(wave[-1]))
    figure.align_ylabels(panels)
    if title:
        panels[0].set_title(title, fontsize=9, loc="left")
    return figure


def _limit(panel: Any, values: np.ndarray, *, from_zero: bool) -> None:
    """Limits that a cosmic ray does not set."""
    if not values.size:
        return
    low, high = (float(one) for one in np.percentile(values, (0.1, 99.7)))
    room = 0.1 * (high - low) or 0.1
    panel.set_ylim(0.0 if from_zero else low - room, high + 2 * room)
