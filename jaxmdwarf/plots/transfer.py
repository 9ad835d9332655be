"""What a transfer learnt and what it is worth: training, residuals, methods, single spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    describe_quantity,
    shade_windows,
)

RECONSTRUCTIONS: tuple[tuple[str, str, str], ...] = (
    ("rec_synth", "synth → synth", BLUE),
    ("rec_obs", "obs → obs", RED),
    ("cycle_synth", "synth → obs → synth", GREEN),
    ("cycle_obs", "obs → synth → obs", ORANGE),
)
ADVERSARIAL: tuple[tuple[str, str, str], ...] = (
    ("adv_synth", "generator, synth", BLUE),
    ("adv_obs", "generator, obs", RED),
    ("critic_synth", "critic, synth", GREEN),
    ("critic_obs", "critic, obs", ORANGE),
)
SCORES: tuple[tuple[str, str, str], ...] = (
    ("val_shared_accuracy", "telling shared latents apart", BLUE),
    ("val_classifier_accuracy", "telling spectra apart", RED),
    ("val_split_explains_shared", "physics in the split latents", GREEN),
    ("val_gap", "gap that is left", ORANGE),
)
"""Keys of training records, how a figure names them, and their colours."""

COLOURS = (GREY, BLUE, ORANGE, RED, GREEN, PURPLE)
_FIT_COLOURS = (BLUE, RED, GREEN, PURPLE, GREY)


def plot_training(records: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Losses, adversarial losses and latent scores along the training (paper, figure 6).

    Parameters
    ----------
    records : sequence of mapping
        Lines of a training log: ``step``, the losses of `jaxmdwarf.training.cyclestar.losses`, the
        same of held-out spectra and the scores under ``val_``. What a record does not have, or has
        as None, is left out.
    title : str

    Returns
    -------
    Figure
        Above the reconstructions (line: training, dashed: held out), below adversarial losses and
        scores.
    """
    figure = Figure(figsize=(10.0, 6.4), layout="constrained")
    panels = figure.subplot_mosaic([["rec", "rec"], ["adv", "scores"]], height_ratios=(1.25, 1))
    held = [(f"val_{key}", "", colour) for key, _, colour in RECONSTRUCTIONS]
    drawn = _plot_series(panels["rec"], records, RECONSTRUCTIONS, linewidth=1.2)
    drawn += _plot_series(panels["rec"], records, held, linewidth=0.9, linestyle="--")
    if drawn and min(drawn) > 0:
        panels["rec"].set_yscale("log")
        # The first steps are far off: what matters is the end.
        low, high = min(drawn), float(np.percentile(drawn, 99))
        # A third of the height above them is for the names.
        panels["rec"].set_ylim(0.8 * low, max(1.3 * high, 2 * low) * (high / low) ** 0.35)
    panels["rec"].set_title("reconstruction and cycle (dashed: held out)", fontsize=10)
    panels["rec"].set_ylabel("weighted square error")
    _plot_series(panels["adv"], records, ADVERSARIAL, linewidth=1.1)
    panels["adv"].axhline(
        2 * np.log(2), color="0.6", linewidth=0.8, linestyle=":", label="undecided critic"
    )
    panels["adv"].set_title("adversarial", fontsize=10)
    panels["adv"].set_ylabel("cross-entropy")
    _plot_series(panels["scores"], records, SCORES, linewidth=1.2)
    panels["scores"].axhline(0.5, color="0.6", linewidth=0.8, linestyle=":", label="not told apart")
    panels["scores"].set_ylim(-0.03, 1.42)
    panels["scores"].set_title("scores of held-out spectra", fontsize=10)
    for panel in panels.values():
        panel.set_xlabel("step")
        if panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8, framealpha=0.9, ncols=2, loc="upper right")
    # Room for the names above curves that may be anywhere.
    low, high = panels["adv"].get_ylim()
    panels["adv"].set_ylim(low, high + 0.4 * (high - low))
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_residuals(
    wave_aa: Float[np.ndarray, " n_pix"],
    per_star: Mapping[str, Float[np.ndarray, " n_spec"]],
    per_pixel: Mapping[str, Float[np.ndarray, " n_pix"]],
    *,
    noise_level: float | None = None,
    unit: str = "σ",
) -> Figure:
    """Residuals of fits before and after a transfer (paper, figure 8).

    Parameters
    ----------
    wave_aa : (n_pix,)
        Vacuum Angstrom.
    per_star, per_pixel : mapping of variant to values
        See `jaxmdwarf.diagnostics.residuals.ResidualSummary`; NaN where there is none.
    noise_level : float, optional
        What noise alone would give.
    unit : str
        Of the residuals.

    Returns
    -------
    Figure
        Histograms over stars, and the profile along the spectrum (thick: running mean).
    """
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.1))
    known = [values[np.isfinite(values)] for values in per_star.values()]
    every = np.concatenate(known) if known else np.zeros(0)
    if every.size:
        low, high = np.percentile(every, (0.2, 97.5))
        edges = np.linspace(low, high + max(high - low, 1e-3) * 0.1, 45)
        for (name, _), values, colour in zip(per_star.items(), known, COLOURS, strict=False):
            mean = f"{values.mean():.3f}" if values.size else "–"
            # Whatever lies beyond the axis is counted in its last bin.
            left.hist(
                np.clip(values, edges[0], edges[-1] - 1e-9),
                edges,
                histtype="step",
                color=colour,
                linewidth=1.4,
                label=f"{name}: {mean}",
            )
    for (name, values), colour in zip(per_pixel.items(), COLOURS, strict=False):
        right.plot(wave_aa, values, color=colour, linewidth=0.6, alpha=0.35)
        right.plot(wave_aa, _smooth(values), color=colour, linewidth=1.4, label=name)
    finite = [values[np.isfinite(values)] for values in per_pixel.values()]
    pixels = np.concatenate(finite) if finite else np.zeros(0)
    if pixels.size:
        top = float(np.percentile(pixels, 99.0))
        right.set_ylim(max(0.0, 0.85 * float(np.percentile(pixels, 0.5))), 1.2 * top)
    if noise_level is not None:
        left.axvline(noise_level, color="0.3", linewidth=0.9, linestyle=":", label="noise alone")
        right.axhline(noise_level, color="0.3", linewidth=0.9, linestyle=":", label="noise alone")
    left.set(xlabel=f"mean |residual| of a star ({unit})", ylabel="stars")
    right.set(xlabel="rest wavelength in vacuum (Å)", ylabel=f"mean |residual| ({unit})")
    if len(wave_aa) > 1:
        right.set_xlim(float(wave_aa[0]), float(wave_aa[-1]))
    if every.size:
        left.set_ylim(top=1.5 * left.get_ylim()[1])  # room for the legend above the bars
        left.legend(fontsize=8, title="mean over stars", title_fontsize=8, loc="upper left")
    if per_pixel:
        right.legend(fontsize=8, ncols=2, loc="upper left", framealpha=0.9)
    return figure


def plot_methods(
    values: Mapping[str, Mapping[str, float]],
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    limits: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Methods side by side, one panel a quantity: the shorter the bar, the better.

    Parameters
    ----------
    values : mapping of method to mapping of quantity to value
        A quantity that a method lacks, or that is NaN, leaves a gap. Biases keep their sign.
    errors : as `values`, optional
        Standard errors.
    limits : mapping of quantity to float, optional
        Largest size that is wanted; drawn on both sides of zero where values have both signs.
    names : mapping of quantity to str, optional
        Titles; those of `jaxmdwarf.plots.style` by default.

    Returns
    -------
    Figure
    """
    methods = list(values)
    quantities = list(dict.fromkeys(name for one in values.values() for name in one))
    n_panel = max(len(quantities), 1)
    n_column = n_panel if n_panel <= 4 else min(4, -(-n_panel // 2))
    n_row = -(-n_panel // n_column)
    height = 0.28 * max(len(methods), 2) + 0.75
    figure = Figure(figsize=(2.7 * n_column + 1.0, n_row * height + 0.2), layout="constrained")
    panels = figure.subplots(n_row, n_column, squeeze=False, sharey=True)
    for panel, quantity in zip(panels.flat, quantities, strict=False):
        known = np.array([values[method].get(quantity, np.nan) for method in methods], float)
        spread = np.array(
            [(errors or {}).get(method, {}).get(quantity, np.nan) for method in methods], float
        )
        place = np.arange(len(methods))
        colours = [COLOURS[row % len(COLOURS)] for row in place]
        panel.barh(place, np.nan_to_num(known), color=colours, height=0.66)
        shown = np.isfinite(known) & np.isfinite(spread)
        panel.errorbar(
            known[shown], place[shown], xerr=spread[shown], fmt="none", ecolor="0.2", linewidth=1.0
        )
        if np.isnan(known).any():
            for row in place[np.isnan(known)]:
                panel.text(0.0, row, " –", va="center", fontsize=8)
        limit = (limits or {}).get(quantity)
        if limit is not None:
            sides = (-limit, limit) if np.nanmin(np.append(known, 0.0)) < 0 else (limit,)
            for side in sides:
                panel.axvline(side, color="k", linewidth=0.9, linestyle="--")
        panel.axvline(0.0, color="k", linewidth=0.8)
        panel.set_yticks(place, methods, fontsize=9)
        panel.set_title((names or {}).get(quantity, describe_quantity(quantity).axis), fontsize=9.5)
        panel.tick_params(axis="x", labelsize=8)
    if methods:
        panels.flat[0].invert_yaxis()
    for panel in list(panels.flat)[len(quantities) :]:
        panel.set_visible(False)
    return figure


def plot_transferred_fit(
    wave_aa: Float[np.ndarray, " n_pix"],
    observed: Float[np.ndarray, " n_pix"],
    sigma: Float[np.ndarray, " n_pix"],
    fits: Mapping[str, Float[np.ndarray, " n_pix"]],
    *,
    masked: Bool[np.ndarray, " n_pix"] | None = None,
    title: str = "",
) -> Figure:
    """One observed spectrum and its best fits in several domains, each with its residuals.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Rest frame, vacuum Angstrom.
    observed, sigma : (n_pix,)
        Normalised flux and its one-sigma error, not finite or 0 at bad pixels.
    fits : mapping of variant to (n_pix,)
        Best-fit model flux: theory first, then transferred.
    masked : (n_pix,) bool, optional
        Windows that were not fitted; shaded.
    title : str

    Returns
    -------
    Figure
    """
    n_fit = max(len(fits), 1)
    figure = Figure(figsize=(10.5, 3.3 + 1.25 * n_fit), layout="constrained")
    panels = figure.subplots(n_fit + 1, 1, sharex=True, height_ratios=(2.9, *(1,) * n_fit))
    top = panels[0]
    good = np.isfinite(sigma) & (sigma > 0)
    flux = np.where(good, observed, np.nan)
    top.plot(wave_aa, flux, color="0.35", linewidth=0.8, label="observed")
    reach = 3.5
    pairs = zip(panels[1:], fits.items(), _FIT_COLOURS, strict=False)
    for panel, (name, model), colour in pairs:
        drawn = np.where(good, model, np.nan)
        top.plot(wave_aa, drawn, color=colour, linewidth=0.9, label=name)
        pull = (flux - model) / np.where(good, sigma, np.nan)
        panel.axhspan(-1, 1, color=ORANGE, alpha=0.25, linewidth=0, zorder=0)
        panel.axhline(0.0, color=ORANGE, linewidth=0.9, zorder=1)
        panel.plot(wave_aa, pull, color=colour, linewidth=0.6)
        size = np.abs(pull[good])
        if size.size:
            reach = max(reach, min(8.0, float(np.percentile(size, 99.8))))
            text = f"{name}: mean |residual| {size.mean():.3f} σ"
            panel.set_title(text, fontsize=9, loc="left", pad=3)
        panel.set_ylabel("residual (σ)", fontsize=9)
    for panel in panels[1:]:
        panel.set_ylim(-1.05 * reach, 1.05 * reach)
    if masked is not None and masked.any():
        for panel in panels:
            shade_windows(panel, wave_aa, masked)
    top.set(ylabel="normalised flux", xlim=(float(wave_aa[0]), float(wave_aa[-1])))
    if good.any():
        low, high = np.percentile(observed[good], (0.1, 99.9))
        top.set_ylim(low - 0.22 * (high - low), high + 0.08 * (high - low))
    top.legend(fontsize=8, loc="lower right", ncols=n_fit + 1, framealpha=0.9)
    panels[-1].set_xlabel("rest wavelength in vacuum (Å)")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _smooth(values: np.ndarray, half: int = 20) -> np.ndarray:
    """Running mean over finite pixels; gaps stay gaps."""
    known = np.isfinite(values)
    box = np.ones(2 * half + 1)
    if len(values) < len(box):
        return values
    total = np.convolve(np.where(known, values, 0.0), box, mode="same")
    count = np.convolve(known.astype(float), box, mode="same")
    return np.where(known, total / np.maximum(count, 1.0), np.nan)


def _plot_series(
    panel: Any,
    records: Sequence[Mapping[str, Any]],
    series: Sequence[tuple[str, str, str]],
    **look: Any,
) -> list[float]:
    """Plot the keys that records have; the values that were drawn."""
    drawn: list[float] = []
    for key, name, colour in series:
        pairs = [
            (float(one["step"]), float(one[key])) for one in records if one.get(key) is not None
        ]
        kept = [(step, value) for step, value in pairs if np.isfinite(value)]
        if kept:
            steps, values = zip(*kept, strict=True)
            marker = "o" if len(kept) == 1 else None
            panel.plot(
                steps, values, color=colour, label=name or None, marker=marker, markersize=3, **look
            )
            drawn += values
    return drawn
