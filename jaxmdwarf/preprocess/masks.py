"""Wavelength windows that never enter a fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.wavelengths import PixelGrid

PAPER_MASKS_AA: tuple[tuple[float, float], ...] = (
    (6270.0, 6330.0),
    (6546.0, 6586.0),
    (6700.0, 6725.0),
    (6850.0, 6885.0),
    (7150.0, 7350.0),
    (7587.0, 7687.0),
    (8100.0, 8240.0),
)
"""Windows of the paper's section 2.4, vacuum Angstrom, both ends included.

The paper gives telluric absorption and chromospheric activity as the reason. In order: O2 gamma
and night-sky [O I] 6300; Halpha; around Li I 6708; O2 B; H2O; O2 A; H2O (with the Na I doublet).
"""


def mask_for(grid: PixelGrid, windows: Sequence[tuple[float, float]]) -> np.ndarray:
    """Pixels whose centre lies in any window, shape (n_pix,), True where masked.

    Parameters
    ----------
    grid : PixelGrid
    windows : sequence of (low, high)
        Vacuum Angstrom; both ends belong to the window.

    Raises
    ------
    UsageError
        If a window ends before it begins.

    Examples
    --------
    >>> grid = PixelGrid.linear(6000.0, 8900.0, 1.0)
    >>> int(mask_for(grid, [(6546.0, 6586.0)]).sum())
    41
    """
    wave = grid.wave_aa
    masked = np.zeros(grid.n_pix, dtype=bool)
    for low, high in windows:
        if not low <= high:
            raise UsageError(f"mask window {low}-{high} Angstrom ends before it begins.")
        masked |= (wave >= low) & (wave <= high)
    return masked
