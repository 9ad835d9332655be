"""A spectrum with its fit, and what the fit leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import BLUE, ORANGE, RED

FEATURES: tuple[tuple[float, str], ...] = (
    (6165.0, "TiO γ′"),
    (6385.0, "CaH B"),
    (6564.6, "Hα"),
    (6780.0, "TiO γ"),
    (6930.0, "CaH A"),
    (7095.0, "TiO γ"),
    (7480.0, "VO"),
    (7690.0, "K I"),
    (8190.0, "Na I"),
    (8450.0, "TiO ε"),
    (8510.0, "Ca II"),
    (8675.0, "Ca II"),
    (8880.0, "TiO δ"),
)
"""What marks an M dwarf at low resolution: vacuum Angstrom and name, as a guide to the eye."""


def plot_fit(
    wave_aa: Float[np.ndarray, " n_pix"],
    flux: Float[np.ndarray, " n_pix"],
    sigma: Float[np.ndarray, " n_pix"],
    model: Float[np.ndarray, " n_pix"],
    *,
    masked: Bool[np.ndarray, " n_pix"] | None = None,
    title: str = "",
    features: Sequence[tuple[float, str]] = FEATURES,
) -> Figure:
    """A normalised spectrum, its best model, and the residuals in units of the pixel's error.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Rest frame, vacuum Angstrom.
    flux, sigma, model : (n_pix,)
        Normalised flux, its one-sigma errors (not finite at bad pixels), the model.
    masked : (n_pix,) bool, optional
        Windows that did not enter the fit; shaded.
    title : str
    features : sequence of (wavelength, name)
        Names along the top.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
    good = np.isfinite(sigma) & (sigma > 0)
    known = np.where(good, sigma, 0.0)
    top.fill_between(
        wave_aa,
        np.where(good, flux - known, np.nan),
        np.where(good, flux + known, np.nan),
        color=BLUE,
        alpha=0.18,
        linewidth=0,
    )
    # Bad pixels hold exactly 1; those of the masked windows are shown where they are not bad.
    seen = good | ((flux != 1.0) & (masked if masked is not None else False))
    top.plot(
        wave_aa,
        np.where(seen, flux, np.nan),
        color=BLUE,
        linewidth=0.8,
        label="observed, with its error",
    )
    top.plot(wave_aa, model, color=RED, linewidth=0.9, label="best model")
    low, high = float(model.min()), float(model.max())
    if good.any():
        low = min(low, float(np.percentile(flux[good], 0.2)))
        high = max(high, float(np.percentile(flux[good], 99.8)))
    top.set_ylim(low - 0.16 * (high - low), high + 0.06 * (high - low))
    for wavelength, name in features:
        if wave_aa[0] < wavelength < wave_aa[-1]:
            top.annotate(
                name,
                (wavelength, 1.0),
                xytext=(0, 5),
                textcoords="offset points",
                xycoords=top.get_xaxis_transform(),
                rotation=90,
                va="bottom",
                ha="center",
                fontsize=8,
                color="0.3",
                arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkB": 0},
            )
    pull = np.where(good, (flux - model) / np.where(good, sigma, 1.0), np.nan)
    bottom.axhspan(-1, 1, color=ORANGE, alpha=0.25, linewidth=0, zorder=0)
    bottom.plot(wave_aa, pull, color="0.25", linewidth=0.6)
    bottom.axhline(0.0, color=ORANGE, linewidth=0.9, zorder=1)
    largest = float(np.nanmax(np.abs(pull))) if good.any() else 1.0
    bottom.set_ylim(*(np.array([-1.05, 1.05]) * np.clip(largest, 3.5, 8.0)))
    if masked is not None and masked.any():
        for panel in (top, bottom):
            panel.fill_between(
                wave_aa,
                0.0,
                1.0,
                where=masked,
                color="0.93",
                transform=panel.get_xaxis_transform(),
                zorder=-1,
                label="not fitted" if panel is top else None,
            )
    top.set(ylabel="normalised flux", xlim=(float(wave_aa[0]), float(wave_aa[-1])))
    if title:
        figure.suptitle(title, fontsize=10)
    top.legend(fontsize=8, loc="lower right", ncols=3, framealpha=0.9)
    bottom.set(xlabel="rest wavelength in vacuum (Å)", ylabel="residual (σ)")
    return figure
