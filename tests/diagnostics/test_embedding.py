"""Maps of two sets: what is alike mixes."""

import numpy as np
import pytest

from jaxmdwarf.diagnostics.embedding import tsne_pairs
from jaxmdwarf.errors import UsageError


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_maps_mix_what_is_alike_and_part_what_is_not(rng):
    first, second = rng.standard_normal((2, 150, 12))
    alike = tsne_pairs(first, second, n=60)
    assert alike.first.shape == alike.second.shape == (60, 2)
    assert alike.mixing == pytest.approx(0.5, abs=0.07)
    apart = tsne_pairs(first, second + 10.0, n=60)
    assert apart.mixing == 0.0
    gap = np.linalg.norm(apart.first.mean(axis=0) - apart.second.mean(axis=0))
    assert gap > apart.first.std()
    again = tsne_pairs(first, second, n=60)
    assert again.mixing == alike.mixing
    np.testing.assert_array_equal(alike.first, again.first)


def test_two_pairs_make_no_map(rng):
    few = rng.standard_normal((2, 5))
    with pytest.raises(UsageError, match="map"):
        tsne_pairs(few, few)
