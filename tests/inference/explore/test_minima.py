"""Minima of landscapes and their barriers against flooding at every height."""

import numpy as np
import pytest
from scipy import ndimage

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.explore.landscape import Landscape
from jaxmdwarf.inference.explore.minima import _flood, find_minima


def flood_by_heights(height):
    """Barrier of each minimum: the water level at which its lake first holds a lower cell."""
    corners = np.ones((3,) * height.ndim)
    levels = np.unique(height[np.isfinite(height)])
    local = (height == ndimage.minimum_filter(height, footprint=corners, mode="nearest")) & (
        np.isfinite(height)
    )
    found = {}
    for cell in map(tuple, np.argwhere(local)):
        found[cell] = np.inf
        for level in levels[levels >= height[cell]]:
            lakes, _ = ndimage.label(height <= level, structure=corners)
            if height[lakes == lakes[cell]].min() < height[cell]:
                found[cell] = level - height[cell]
                break
    return found


@pytest.mark.parametrize("shape", [(40,), (9, 8), (5, 4, 6)])
def test_barriers_are_those_of_water_that_rises(shape):
    for seed in range(4):
        height = np.random.default_rng(seed).normal(size=shape)
        height[np.random.default_rng(seed).random(shape) < 0.1] = np.nan
        height = np.where(np.isnan(height), np.inf, height)
        found = _flood(height)
        assert dict(found) == pytest.approx(flood_by_heights(height))
        depths = [height[cell] for cell, _ in found]
        assert depths == sorted(depths)
        assert sum(np.isinf(barrier) for _, barrier in found) >= 1


def landscape(delta_chi2):
    n_star, n_one, n_two = delta_chi2.shape
    labels = np.stack(
        np.broadcast_arrays(
            3000 + 100.0 * np.arange(n_one)[:, None], 4 + 0.5 * np.arange(n_two)[None]
        ),
        axis=-1,
    )
    labels = np.broadcast_to(labels, (n_star, n_one, n_two, 2))
    speeds = np.broadcast_to(np.arange(n_two, dtype=float), delta_chi2.shape)
    axes = np.arange(n_one, dtype=float)[None], np.arange(n_two, dtype=float)[None]
    return Landscape(
        "profile", ("teff", "logg"), axes, np.array([5, 9])[:n_star], delta_chi2, np.zeros(n_star),
        np.zeros(n_star), np.ones((n_star, 2)), labels, speeds, delta_chi2 > -1, ("teff", "logg"),
    )  # fmt: skip


def test_minima_are_told_by_star_with_what_lies_there():
    one = np.full((5, 6), 9.0)
    one[1, 1], one[3, 4], one[0, 5] = 0.0, 2.0, 8.5
    two = np.full((5, 6), 20.0)
    two[4, 2] = 0.0
    found = find_minima(landscape(np.stack([one, two])))
    assert found.star.tolist() == [5, 5, 9]
    assert found.column("teff").tolist() == [3100.0, 3300.0, 3400.0]
    assert found.column("logg").tolist() == [4.5, 6.0, 5.0]
    assert found.column("rv").tolist() == [1.0, 4.0, 2.0]
    assert found.delta_chi2.tolist() == [0.0, 2.0, 0.0]
    assert found.barrier.tolist() == [np.inf, 7.0, np.inf]
    assert found.at_edge.tolist() == [False, False, True]
    with pytest.raises(UsageError, match="unknown"):
        found.column("mh")
    # The limits themselves count.
    assert find_minima(landscape(one[None]), least_barrier=0.5).delta_chi2.tolist() == [0, 2, 8.5]
    assert find_minima(landscape(one[None]), least_barrier=7.0).delta_chi2.tolist() == [0, 2]
    assert find_minima(landscape(one[None]), least_barrier=7.1).delta_chi2.tolist() == [0]
    assert find_minima(landscape(one[None]), largest_delta_chi2=2.0).delta_chi2.tolist() == [0, 2]
    assert find_minima(landscape(one[None]), largest_delta_chi2=1.9).delta_chi2.tolist() == [0]
    assert find_minima(landscape(one[None]), largest_delta_chi2=-1.0).star.size == 0
