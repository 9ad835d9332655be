"""What common stars tell of errors that no pixel tells of."""

import numpy as np
import pytest

from jaxmdwarf.training.transfer.label_errors import _find_added


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.3])
def test_what_is_missing_from_stated_errors_is_found(missing):
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.05, 0.3, 1500)
    away = rng.standard_normal(1500) * np.hypot(stated, missing)
    away[:15] += 5.0
    assert abs(_find_added(away, stated) - missing) < 0.04
