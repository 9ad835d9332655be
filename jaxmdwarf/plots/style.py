"""What figures share: colours that colour-blind readers can tell apart, names, units, rendering."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmdwarf.labels import Label, describe_label

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "0.55",
)
"""From the palette of Okabe & Ito (2008)."""

SEQUENTIAL = "viridis"
"""Colour map for quantities that grow."""


def describe_quantity(name: str) -> Label:
    """How a label, or the velocity ``"rv"``, is written; unknown names are written as they are."""
    return describe_label(name)


def shade_windows(
    panel: Axes,
    wave_aa: Float[np.ndarray, " n_pix"],
    inside: Bool[np.ndarray, " n_pix"],
    label: str | None = None,
) -> None:
    """Windows in grey behind what a panel shows, whatever its limits are."""
    panel.fill_between(
        wave_aa,
        0.0,
        1.0,
        where=inside,
        color="0.9",
        linewidth=0,
        transform=panel.get_xaxis_transform(),
        zorder=-1,
        label=label,
    )


def render_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": ""})
    return buffer.getvalue()
