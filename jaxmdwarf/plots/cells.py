"""Points of many stars: single ones where they are few, cells where they would overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from jaxmdwarf.plots.style import SEQUENTIAL

DENSE = 2_000
"""More points than this overlap in a panel of a column's width: cells take their place."""

Limits = tuple[float, float]


def find_limits(
    values: Float[np.ndarray, " n"],
    otherwise: Limits,
    *,
    clip: float = 0.3,
    room: float = 0.05,
    least: float = 0.0,
) -> Limits:
    """What all but the outermost values span, with some room.

    Parameters
    ----------
    values : (n,)
        NaN are left out.
    otherwise : (float, float)
        Where there is no value.
    clip : float
        Per cent of the values that may lie outside, at either end.
    room : float
        Added at either end, as a share of the span.
    least : float
        Least span, so that one star lies in the middle of a panel.

    Examples
    --------
    >>> find_limits(np.array([1.0, 3.0, np.nan]), (0.0, 1.0), clip=0.0, room=0.5)
    (0.0, 4.0)
    >>> find_limits(np.array([np.nan]), (0.0, 1.0))
    (0.0, 1.0)
    """
    kept = values[np.isfinite(values)]
    if not kept.size:
        return otherwise
    low, high = (float(one) for one in np.percentile(kept, (clip, 100 - clip)))
    lacking = 0.5 * max(least - (high - low), 0.0)
    low, high = low - lacking, high + lacking
    margin = room * (high - low) if high > low else 0.05 * (abs(high) or 1.0)
    return low - margin, high + margin


def find_colours(values: Float[np.ndarray, " n"]) -> Normalize:
    """Colours that the central 96 per cent of the values span, for panels that share them.

    Examples
    --------
    >>> colours = find_colours(np.array([np.nan, 0.0, 1.0]))
    >>> round(colours.vmin, 2), round(colours.vmax, 2)
    (0.02, 0.98)
    """
    return Normalize(*find_limits(values, (-1.0, 0.5), clip=2.0, room=0.0, least=0.02))


def show_medians(
    axis: Axes,
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    *,
    limits: tuple[Limits, Limits],
    norm: Normalize,
) -> Any:
    """Stars coloured by a value; of more than `DENSE`, the median in each cell.

    Parameters
    ----------
    axis : Axes
    x, y, values : (n,)
        Stars that lack one of them are left out.
    limits : ((low, high), (low, high))
        Of x and y: cells are laid there, whichever way the axes run.
    norm : Normalize
        Of the colours.

    Returns
    -------
    PathCollection or PolyCollection
        For a colour bar.
    """
    known = np.isfinite(x + y + values)
    x, y, values = x[known], y[known], values[known]
    look: dict[str, Any] = {"cmap": SEQUENTIAL, "norm": norm}
    if x.size <= DENSE:
        size = float(np.clip(9_000.0 / max(x.size, 1), 3.0, 20.0))
        return axis.scatter(x, y, c=values, s=size, linewidths=0, **look)
    return axis.hexbin(
        x,
        y,
        C=values,
        reduce_C_function=np.median,
        gridsize=_count_cells(x.size),
        extent=(*limits[0], *limits[1]),
        mincnt=1,
        linewidths=0.1,
        **look,
    )


def show_numbers(
    axis: Axes,
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    limits: tuple[Limits, Limits],
    height: float = 1.0,
) -> Any:
    """How many points lie in each cell, however few they are.

    Parameters
    ----------
    axis : Axes
    x, y : (n,)
        Points that lack one of them are left out.
    limits : ((low, high), (low, high))
        Of x and y.
    height : float
        Of the panel over its width, so that cells are about as high as wide.

    Returns
    -------
    PolyCollection
        With a logarithmic norm of its own; see `share_numbers`.
    """
    known = np.isfinite(x + y)
    n_cell = _count_cells(int(known.sum()))
    return axis.hexbin(
        x[known],
        y[known],
        # The default number of rows, n / sqrt(3), is that of a square panel.
        gridsize=(n_cell, max(round(n_cell * height / 3**0.5), 2)),
        extent=(*limits[0], *limits[1]),
        cmap=SEQUENTIAL,
        mincnt=1,
        norm=LogNorm(),
        linewidths=0.1,
    )


def share_numbers(drawn: list[Any]) -> None:
    """Give what `show_numbers` returned the same colours for the same numbers."""
    most = max((float(np.max(np.append(one.get_array(), 1.0))) for one in drawn), default=1.0)
    norm = LogNorm(1.0, max(most, 2.0))
    for one in drawn:
        one.set_norm(norm)


def _count_cells(n: int) -> int:
    """Cells across a panel: as fine as the number of stars allows."""
    return int(np.clip(np.sqrt(n) / 1.2, 25, 90))
