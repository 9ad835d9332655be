"""How repeat visits scatter as a function of S/N: the paper's Figure 10."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxmdwarf.catalogue.columns import describe_column
from jaxmdwarf.catalogue.label_columns import likelihood_columns
from jaxmdwarf.catalogue.repeats import Precision
from jaxmdwarf.labels import LABELS
from jaxmdwarf.plots.style import BLUE, GREY, RED


def plot_precision(precisions: Mapping[str, Precision]) -> Figure:
    """Scatter of repeat visits in bins of S/N, and the fitted curve, one panel a column.

    Parameters
    ----------
    precisions : mapping of str to Precision
        By column of the catalogue; at least one. Those of labels without priors (``*_lik``) are not
        drawn where others are.

    Returns
    -------
    Figure
        Where the fits state errors, their medians are drawn beside.
    """
    alone = {likelihood_columns(label)[0].name for label in LABELS.values()}
    drawn = {name: one for name, one in precisions.items() if name not in alone}
    drawn = drawn or dict(precisions)
    n_column = min(len(drawn), 2)
    n_row = -(-len(drawn) // n_column)
    figure = Figure(figsize=(4.2 * n_column, 2.8 * n_row), layout="constrained")
    axes = figure.subplots(n_row, n_column, squeeze=False).ravel()
    for axis, (name, one) in zip(axes, drawn.items(), strict=False):
        about = describe_column(name)
        unit = f" ({about.unit})" if about is not None and about.unit else ""
        axis.errorbar(one.snr, one.scatter, one.e_scatter, fmt="o", ms=4, color=BLUE)
        snr = np.linspace(max(one.snr.min() / 1.3, 1.0), one.snr.max() * 1.05, 300)
        axis.plot(snr, one.predict(snr), "--", color=RED, label=_write_curve(one))
        if np.isfinite(one.stated).any():
            axis.plot(one.snr, one.stated, ":", color=GREY, label="stated by the fits")
        axis.set(xlabel="S/N", ylabel=f"scatter of {name}{unit}", ylim=(0, None))
        axis.legend(fontsize=8, title=f"{one.n_stars} stars", title_fontsize=8)
    for axis in axes[len(drawn) :]:
        axis.remove()
    return figure


def _write_curve(one: Precision) -> str:
    """a/(S/N) + b, without a term that no bin would show."""
    least = 1e-3 * float(np.max(one.scatter))
    noise, floor = f"{one.a:.3g}/(S/N)", f"{one.b:.2g}"
    if one.a / float(np.min(one.snr)) < least:
        return floor
    return noise if one.b < least else f"{noise} + {floor}"
