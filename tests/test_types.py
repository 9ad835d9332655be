"""Shapes and types of arguments are checked wherever the tests go."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.transfer.label_posterior import pad_rows
from jaxmdwarf.wavelengths import PixelGrid


def test_arrays_of_other_shapes_are_refused():
    # However often others have passed.
    for _ in range(10):
        assert pad_rows(np.zeros((3, 2))).shape == (128, 2)
    for wrong in (np.zeros(3), [1.0, 2.0], np.zeros((3, 2), int)):
        with pytest.raises(TypeCheckError):
            pad_rows(wrong)


def test_fields_of_classes_are_held_to_their_types():
    PixelGrid("linear", 6000.0, 1.0, 3)
    with pytest.raises(TypeCheckError):
        PixelGrid("linear", 6000.0, 1.0, 3.5)
    with pytest.raises(TypeCheckError):
        LabelSpace(("teff",), ("K",), (3000.0,), 4000.0)
