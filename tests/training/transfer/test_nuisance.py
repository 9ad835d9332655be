"""Directions of scatter are found under noise and gaps."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()


def test_directions_are_found_under_noise_and_gaps():
    rng = np.random.default_rng(0)
    true = np.zeros((2, 80))
    true[0, 10:30], true[1, 40:70] = 0.08, 0.04
    data = rng.standard_normal((600, 2)) @ true + 0.05 * rng.standard_normal((600, 80))
    weight = np.full(data.shape, 400.0)
    gaps = rng.random(data.shape) < 0.2
    data[gaps], weight[gaps] = 9.0, 0.0
    found = learn_directions(data, weight, 2)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(true, axis=1), rtol=0.1)
    for row, direction in zip(found, true, strict=True):
        cosine = row @ direction / np.linalg.norm(row) / np.linalg.norm(direction)
        assert abs(cosine) > 0.97
    with pytest.raises(UsageError, match="too few"):
        learn_directions(data[:4], weight[:4], 2)
