"""Further minima of a landscape: where they lie, how deep, behind which barrier."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.explore.landscape import RV, Landscape
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import AT_BOUND
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.base import Solver

_SAME_SIGMA = 0.3


class Minima(NamedTuple):
    """Minima of some stars, one row each; by star, the deepest first.

    Parameters
    ----------
    star : (n,) int
        Row of the batch.
    labels : (n, n_label)
        Physical units.
    residual_kms : (n,)
        Velocity relative to the frame of the spectra.
    delta_chi2 : (n,)
        Above the star's deepest minimum.
    barrier : (n,)
        How far chi-square climbs, from this minimum, on the lowest way to a deeper one; infinite
        for the deepest. On the grid it was found on.
    at_edge : (n,) bool
        Whether it lies at the edge of the grid, and might go on beyond; after `refine_minima`,
        whether a label lies at a bound of the model.
    label_names : tuple of str
        Columns of `labels`.
    """

    star: Int[np.ndarray, n]
    labels: Float[np.ndarray, "n n_label"]
    residual_kms: Float[np.ndarray, n]
    delta_chi2: Float[np.ndarray, n]
    barrier: Float[np.ndarray, n]
    at_edge: Bool[np.ndarray, n]
    label_names: tuple[str, ...]

    def column(self, name: str) -> Float[np.ndarray, n]:
        """Values of a label, or of the velocity as "rv"."""
        if name == RV:
            return self.residual_kms
        if name not in self.label_names:
            raise UsageError(f"label {name!r} is unknown.", f"use {', '.join(self.label_names)}.")
        return self.labels[:, self.label_names.index(name)]


def find_minima(
    landscape: Landscape, *, least_barrier: float = 1.0, largest_delta_chi2: float = np.inf
) -> Minima:
    """Local minima of a landscape that stand behind a barrier.

    Parameters
    ----------
    landscape : Landscape
        A profile, in which the barriers are those of the whole parameter space; those of a slice
        may be walked around.
    least_barrier : float
        Barriers, in chi-square, below which a dip is a ripple (of rounding, say, or of a network).
    largest_delta_chi2 : float
        Minima further up are left out.

    Returns
    -------
    Minima
        Grid points; `refine_minima` takes them to the bottom.

    Notes
    -----
    The barrier is the persistence of the dip (Edelsbrunner, Letscher & Zomorodian 2002): flood
    the landscape, and see how high water stands in it when it spills into a deeper one. Cells
    with a common corner are neighbours.

    Examples
    --------
    Two valleys, the right one 1 higher, with a pass at 4 between them:

    >>> chi2 = np.array([[9.0, 0.0, 4.0, 1.0, 6.0]])
    >>> grid = np.arange(5.0)[None]
    >>> landscape = Landscape("profile", ("teff",), (grid,), np.array([7]), chi2, np.zeros(1),
    ...     np.zeros(1), np.ones((1, 1)), grid[..., None], 0 * grid, grid > -1, ("teff",))
    >>> found = find_minima(landscape)
    >>> found.column("teff").tolist(), found.delta_chi2.tolist(), found.barrier.tolist()
    ([1.0, 3.0], [0.0, 1.0], [inf, 3.0])
    """
    found = [
        (number, cell, barrier)
        for number, height in enumerate(landscape.delta_chi2)
        for cell, barrier in _flood(height)
        if barrier >= least_barrier and height[cell] <= largest_delta_chi2
    ]
    numbers = np.array([number for number, _, _ in found], np.int64)
    shape = landscape.delta_chi2.shape[1:]
    cells = np.array([cell for _, cell, _ in found], np.int64).reshape(-1, len(shape))
    where = (numbers, *cells.T)
    return Minima(
        star=landscape.stars[numbers],
        labels=landscape.labels[where],
        residual_kms=landscape.residual_kms[where],
        delta_chi2=landscape.delta_chi2[where],
        barrier=np.array([barrier for _, _, barrier in found], float),
        at_edge=((cells == 0) | (cells == np.array(shape) - 1)).any(axis=1),
        label_names=landscape.label_names,
    )


def refine_minima(
    problem: FitProblem,
    minima: Minima,
    *,
    solver: Solver | str = "lm",
    schedule: FitScheduleConfig | None = None,
) -> Minima:
    """Fit from each minimum of a grid, all parameters free, and keep those that differ.

    Parameters
    ----------
    problem : FitProblem
        Whose landscape was searched.
    minima : Minima
        Of `find_minima`.
    solver, schedule
        As for `jaxmdwarf.inference.schedule.fit`; there are no restarts.

    Returns
    -------
    Minima
        Minima of the whole parameter space. Those that came down within 0.3 standard deviations
        of a deeper one, or did not converge, are gone; barriers are those of the grid.
    """
    if not minima.star.size:
        return minima
    dtype = np.dtype(problem.batch.flux.dtype)
    result = fit(
        problem.take(minima.star),
        start=Start(minima.labels.astype(dtype), minima.residual_kms.astype(dtype)),
        solver=solver,
        schedule=replace(schedule or FitScheduleConfig(), restarts=0),
    )
    rows = minima.star
    kept: list[int] = []
    for index in np.lexsort((result.chi2, rows)).tolist():
        if result.converged[index] and not any(
            rows[other] == rows[index] and _same(result, index, other) for other in kept
        ):
            kept.append(index)
    found = np.array(kept, np.int64)
    labels = np.asarray(result.labels, float)[found]
    speeds = np.asarray(result.residual_kms, float)[found]
    star, chi2 = rows[found], np.asarray(result.chi2, float)[found]
    deepest = {row: chi2[star == row].min() for row in np.unique(star)}
    barrier = minima.barrier[found].copy()
    for row, least in deepest.items():
        barrier[(star == row) & (chi2 == least)] = np.inf
    scaled = problem.label_space.scale(labels)
    free = ~problem.layout.held[: problem.layout.n_label]
    return Minima(
        star=star,
        labels=labels,
        residual_kms=speeds,
        delta_chi2=chi2 - np.array([deepest[row] for row in star]),
        barrier=barrier,
        at_edge=(np.abs(scaled[:, free]) > 0.5 - AT_BOUND).any(axis=1),
        label_names=minima.label_names,
    )


def _same(result, one: int, other: int) -> bool:
    """Whether two solutions are one, in units of the deeper one's errors."""
    apart = np.abs(result.labels[one] - result.labels[other])
    error = result.errors[other]
    near = apart < _SAME_SIGMA * np.where(np.isfinite(error), error, 0)
    # Fixed labels have no error, and are the same.
    return bool((near | (apart == 0)).all())


def _flood(height: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """Cells of all local minima, the deepest first, each with its barrier."""
    neighbours = [step for step in product((-1, 0, 1), repeat=height.ndim) if any(step)]
    basin: dict[tuple[int, ...], int] = {}
    # Basins by number of the order in which they began; each knows the one it spilled into.
    bottoms: list[tuple[int, ...]] = []
    spilled: list[int] = []
    barrier: list[float] = []

    def outlet(number: int) -> int:
        while spilled[number] != number:
            number = spilled[number]
        return number

    order = np.argsort(height, axis=None, kind="stable")
    for flat in order:
        cell = tuple(int(i) for i in np.unravel_index(flat, height.shape))
        if not np.isfinite(height[cell]):
            continue
        beside = (tuple(i + d for i, d in zip(cell, step, strict=True)) for step in neighbours)
        met = sorted({outlet(basin[other]) for other in beside if other in basin})
        if not met:
            met = [len(bottoms)]
            bottoms.append(cell)
            spilled.append(met[0])
            barrier.append(np.inf)
        basin[cell] = met[0]
        for shallower in met[1:]:
            spilled[shallower] = met[0]
            barrier[shallower] = float(height[cell] - height[bottoms[shallower]])
    return list(zip(bottoms, barrier, strict=True))
