"""How much memory a batch of stars needs, and whether there is as much."""

from __future__ import annotations

import jax
import numpy as np

from jaxmdwarf.inference.settings import FitSettings, choose_batch_size
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.wavelengths import PixelGrid


def estimate_fit_memory(model: ForwardModel, grid: PixelGrid, settings: FitSettings) -> int:
    """Bytes that `fit_batch` needs on the device for one batch, from above.

    Parameters
    ----------
    model : ForwardModel
    grid : PixelGrid
        Of the spectra.
    settings : FitSettings

    Returns
    -------
    int
        For the batch itself and the arrays of pixels that an iteration makes; what the model
        needs inside is taken as four numbers per pixel and label.
    """
    n_label = model.label_space.n_label
    n_par = n_label + int(settings.fit_velocity)
    n_par += 0 if settings.poly_order is None else settings.poly_order + 1
    per_pixel = 6 + 4 * n_label + 3 * n_par
    weights = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(model)
        if isinstance(leaf, jax.Array | np.ndarray)
    )
    return choose_batch_size(settings) * grid.n_pix * 4 * per_pixel + weights
