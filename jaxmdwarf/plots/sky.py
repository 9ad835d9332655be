"""Where on the sky the stars are: the paper's Figure 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from jaxmdwarf.plots.cells import DENSE
from jaxmdwarf.plots.style import BLUE, RED, SEQUENTIAL

_CELL_DEG = 3.0
_N_FINE = 720
"""Columns of the mesh that is drawn: each takes the value of the cell that it lies in."""


def plot_sky(ra_deg: Float[np.ndarray, " n"], dec_deg: Float[np.ndarray, " n"]) -> Figure:
    """Stars in Galactic coordinates, in Mollweide's projection; many as density.

    Parameters
    ----------
    ra_deg, dec_deg : (n,)
        ICRS; stars without a position are left out.

    Returns
    -------
    Figure
        The Galactic centre is in the middle, longitude grows to the left; the dashed line is the
        celestial equator. Cells are about 3 by 3 deg all over the sky.
    """
    known = np.isfinite(ra_deg + dec_deg)
    l_deg, b_deg = to_galactic(ra_deg[known], dec_deg[known])
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    x, y = _place(l_deg), np.radians(b_deg)
    if x.size > DENSE:
        edges, density = count_stars(l_deg, b_deg)
        mesh = axis.pcolormesh(
            *edges,
            np.where(density > 0, density, np.nan),
            cmap=SEQUENTIAL,
            norm=LogNorm(),
            rasterized=True,
        )
        bar = figure.colorbar(
            mesh,
            label="stars per square degree",
            orientation="horizontal",
            aspect=40,
            shrink=0.8,
            ticks=LogLocator(subs=(1.0, 2.0, 5.0)),
            format="%g",
        )
        bar.minorticks_off()
    else:
        size = float(np.clip(4_000.0 / max(x.size, 1), 2.0, 20.0))
        axis.scatter(x, y, s=size, color=BLUE, linewidths=0, alpha=0.7)
    equator_l, equator_b = to_galactic(np.linspace(0.0, 360.0, 721), np.zeros(721))
    order = np.argsort(_place(equator_l))
    axis.plot(
        _place(equator_l)[order],
        np.radians(equator_b)[order],
        color=RED,
        linestyle="--",
        linewidth=1.0,
        label="celestial equator",
    )
    axis.grid(color="0.75", linewidth=0.4)
    # Longitudes are written on the equator, where stars may be.
    axis.set_axisbelow(False)
    longitudes = np.arange(-120, 121, 60)
    axis.set_xticks(np.radians(longitudes), [f"{-one % 360}°" for one in longitudes])
    axis.tick_params(labelsize=8)
    for text in axis.get_xticklabels():
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6})
    axis.set(xlabel="Galactic longitude", ylabel="Galactic latitude")
    axis.set_title(f"n = {x.size}", fontsize=10)
    # Outside: stars may be anywhere on the sky.
    figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    return figure


def to_galactic(
    ra_deg: Float[np.ndarray, " n"], dec_deg: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Galactic longitude and latitude in deg, each (n,), of positions in the ICRS.

    Examples
    --------
    >>> l_deg, b_deg = to_galactic(np.array([266.405]), np.array([-28.936]))
    >>> round(float(l_deg[0] + 180) % 360 - 180, 2) + 0.0, round(float(b_deg[0]), 2) + 0.0
    (0.0, 0.0)
    """
    from astropy import units
    from astropy.coordinates import SkyCoord

    place = SkyCoord(ra_deg * units.deg, dec_deg * units.deg).galactic
    return place.l.deg, place.b.deg


def count_stars(
    l_deg: Float[np.ndarray, " n"], b_deg: Float[np.ndarray, " n"]
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Stars per square degree in rows of cells of 3 deg; the nearer a pole, the fewer in a row.

    Parameters
    ----------
    l_deg, b_deg : (n,)

    Returns
    -------
    edges : (n_column + 1,), (n_row + 1,)
        In the plane that is drawn: minus the longitude, and the latitude, in radian.
    density : (n_row, n_column)
        Per square degree; neighbouring columns of one cell have its value.
    """
    rows = np.linspace(-90.0, 90.0, round(180.0 / _CELL_DEG) + 1)
    middle = np.radians(0.5 * (rows[1:] + rows[:-1]))
    n_cell = np.maximum(np.round(360.0 / _CELL_DEG * np.cos(middle)), 3).astype(int)
    row = np.clip(((b_deg + 90.0) / _CELL_DEG).astype(int), 0, n_cell.size - 1)
    turn = np.clip(0.5 + _place(l_deg) / (2 * np.pi), 0.0, 1.0 - 1e-9)
    first = np.concatenate([[0], np.cumsum(n_cell)])
    cell = first[row] + (turn * n_cell[row]).astype(int)
    counts = np.bincount(cell, minlength=first[-1])
    height = np.diff(np.sin(np.radians(rows)))
    area_deg2 = np.degrees(1.0) ** 2 * 2 * np.pi * height / n_cell
    fine = (np.arange(_N_FINE) + 0.5) / _N_FINE
    chosen = first[:-1, None] + (fine * n_cell[:, None]).astype(int)
    edges = np.linspace(-np.pi, np.pi, _N_FINE + 1), np.radians(rows)
    return edges, counts[chosen] / area_deg2[:, None]


def _place(l_deg: np.ndarray) -> np.ndarray:
    """From longitude to the horizontal axis: radian, growing to the left from the centre."""
    return -np.radians((l_deg + 180.0) % 360.0 - 180.0)
