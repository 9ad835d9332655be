"""Velocities against those of another instrument: the paper's Figure 4."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from jaxmdwarf.diagnostics.agreement import Agreement
from jaxmdwarf.plots.style import RED, SEQUENTIAL

_LOW = 0.42
"""Height of the lower panel, the upper one's being 1."""

_CENTRAL = (0.2, 99.8)
"""Percentiles of velocities that axes reach: a handful of wrong ones would make the rest a dot."""


def plot_velocities(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    agreement: Agreement,
    *,
    reference_name: str = "Gaia",
    measured_name: str = "catalogue",
) -> Figure:
    """Density of measured against reference velocities, and of their difference below.

    Parameters
    ----------
    reference, measured : (n,)
        In km/s.
    agreement : Agreement
        Of measured minus reference.
    reference_name, measured_name : str
        For the axes.

    Returns
    -------
    Figure
        Says how many stars lie outside the axes, where some do.
    """
    figure = Figure(figsize=(4.6, 5.2), layout="compressed")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, _LOW))
    known = np.isfinite(reference) & np.isfinite(measured)
    x, y = reference[known], measured[known]
    difference = y - x
    low, high = _limits(np.concatenate([x, y]))
    reach = 4.5 * float(np.nan_to_num(agreement.robust_scatter)) + 1.2 * abs(agreement.bias) or 1.0
    # Cells as fine as the number of stars allows.
    n_cell = int(np.clip(np.sqrt(x.size) / 1.5, 24, 120))
    images = []
    for panel, values, limits, share in (
        (top, y, (low, high), 1.0),
        (bottom, difference, (-reach, reach), _LOW),
    ):
        edges = np.linspace(low, high, n_cell + 1), np.linspace(*limits, int(share * n_cell) + 1)
        counts, *_ = np.histogram2d(x, values, bins=edges)
        images.append((panel, edges, np.where(counts > 0, counts, np.nan)))
    most = max(
        float(np.nanmax(counts)) if np.isfinite(counts).any() else 1.0 for *_, counts in images
    )
    norm = LogNorm(1.0, max(most, 2.0))
    for panel, edges, counts in images:
        mesh = panel.pcolormesh(*edges, counts.T, cmap=SEQUENTIAL, norm=norm, rasterized=True)
    top.plot([low, high], [low, high], color=RED, linestyle="--", linewidth=1.2)
    bottom.axhline(0.0, color=RED, linestyle="--", linewidth=1.2)
    # Equal axes, so that the line of equality stands at 45 degrees; below, of the same width.
    top.set(xlim=(low, high), ylim=(low, high), box_aspect=1.0, ylabel=f"{measured_name} RV (km/s)")
    bottom.set(
        xlim=(low, high),
        ylim=(-reach, reach),
        box_aspect=_LOW,
        xlabel=f"{reference_name} RV (km/s)",
        ylabel=f"{measured_name} − {reference_name}\n(km/s)",
    )
    beyond = int((~((x >= low) & (x <= high) & (np.abs(difference) <= reach))).sum())
    lines = [
        f"n = {agreement.n}",
        f"bias {agreement.bias:+.2f} ± {agreement.e_bias:.2f} km/s",
        f"robust scatter {agreement.robust_scatter:.2f} ± {agreement.e_robust_scatter:.2f} km/s",
        f"scatter {agreement.scatter:.2f} ± {agreement.e_scatter:.2f} km/s",
    ]
    lines += [f"{beyond} outside of a panel"] if beyond else []
    # Readable where wrong velocities lie behind it.
    ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    place = {"transform": top.transAxes, "va": "top", "fontsize": 8}
    top.text(0.04, 0.97, "\n".join(lines), bbox=ground, **place)
    bar = figure.colorbar(mesh, ax=[top, bottom], label="stars in a cell", aspect=40)
    bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    return figure


def _limits(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return -100.0, 100.0
    low, high = (float(one) for one in np.percentile(values, _CENTRAL))
    margin = 0.08 * (high - low) or 10.0
    return low - margin, high + margin
