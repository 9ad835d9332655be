"""How well an emulator gives back its grid: over its labels (paper, figure 3) and in pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from jaxmdwarf.labels import describe_label
from jaxmdwarf.plots.style import BLUE, ORANGE, shade_windows


def plot_reconstruction(
    labels: Float[np.ndarray, "n n_label"],
    error: Float[np.ndarray, "n"],
    *,
    names: Sequence[str],
    units: Sequence[str],
) -> Figure:
    """Eq. 1 of each spectrum as colour over the label space (paper, figure 3), and its histogram.

    Parameters
    ----------
    labels : (n, n_label)
        Labels of held-out spectra; the first one is the common axis of the panels.
    error : (n,)
        Eq. 1, a fraction.
    names, units : sequence of str, length n_label

    Returns
    -------
    Figure
    """
    n_panel = max(1, labels.shape[1] - 1)
    figure = Figure(figsize=(3.6 * (n_panel + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, n_panel + 1)
    percent = 100.0 * np.asarray(error)
    titles = [describe_label(name, unit).axis for name, unit in zip(names, units, strict=True)]
    # Points of a regular grid hide each other: the worst come last, on top.
    order = np.argsort(percent)
    for panel, axis in enumerate(axes[:-1]):
        column = min(panel + 1, labels.shape[1] - 1)
        points = axis.scatter(
            labels[order, 0],
            labels[order, column],
            c=percent[order],
            s=14,
            cmap="viridis_r",
            vmin=0.0,
            vmax=max(float(np.percentile(percent, 95)), 1e-6),
        )
        axis.set(xlabel=titles[0], ylabel=titles[column])
        axis.invert_xaxis()
    figure.colorbar(points, ax=list(axes[:-1]), label="eq. 1 (%)", extend="max")
    axes[-1].hist(percent, bins=30, color="#2166ac")
    median, high = np.median(percent), np.percentile(percent, 95)
    axes[-1].axvline(median, color="0.2", linewidth=1.0, label=f"median {median:.3f} %")
    axes[-1].axvline(
        high, color="0.2", linewidth=1.0, linestyle="--", label=f"95th percentile {high:.3f} %"
    )
    axes[-1].set(xlabel="eq. 1 (%)", ylabel="held-out spectra")
    axes[-1].legend(fontsize=7)
    figure.suptitle(f"reconstruction of {len(percent)} held-out spectra", fontsize=10)
    return figure


def plot_pixel_error(
    wave_aa: Float[np.ndarray, "n_pix"],
    model_error: Float[np.ndarray, "n_pix"],
    masked: Bool[np.ndarray, "n_pix"] | None = None,
) -> Figure:
    """One-sigma fractional error of the emulator in each pixel; masked windows are shaded.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Vacuum Angstrom.
    model_error : (n_pix,)
        Fractions.
    masked : (n_pix,) bool, optional
        Pixels that do not enter fits.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(10.0, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.plot(wave_aa, 100.0 * np.asarray(model_error), color="#2166ac", linewidth=0.7)
    if masked is not None:
        shade_windows(axis, wave_aa, masked)
    axis.set(
        xlabel="vacuum wavelength (Å)",
        ylabel="emulator error (%)",
        xlim=(float(wave_aa[0]), float(wave_aa[-1])),
    )
    axis.set_ylim(bottom=0.0)
    return figure


def plot_emulator_training(
    step: Float[np.ndarray, " n"], loss: Float[np.ndarray, " n"], held_loss: Float[np.ndarray, " n"]
) -> Figure:
    """The loss of an emulator while it is trained, on what it learns from and on held-out spectra.

    Parameters
    ----------
    step : (n,)
    loss, held_loss : (n,)
        Mean squared error of the scaled coefficients, as the training minimises it.

    Returns
    -------
    Figure
    """
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.semilogy(step, loss, color=BLUE, label="learned from")
    axis.semilogy(step, held_loss, color=ORANGE, label="held out")
    axis.set(xlabel="step", ylabel="loss")
    axis.legend(fontsize=8)
    return figure
