"""Blocks of stars: each is worked on once, padding is not."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.preprocess.blocks import map_blocks


def test_blocks_end_with_the_last_real_star():
    seen = []

    def work(stars):
        jax.debug.callback(lambda values: seen.append(values.tolist()), stars[0])
        return 2 * stars[0], stars[0][:, None] + jnp.arange(3)

    real = np.arange(12) < 5
    values = np.arange(12.0)
    doubled, table = jax.jit(lambda v, r: map_blocks(work, (v, r), r, 4))(values, real)
    jax.effects_barrier()
    assert sorted(seen) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    np.testing.assert_array_equal(doubled, np.where(values < 8, 2 * values, 0))
    np.testing.assert_array_equal(table[:8], values[:8, None] + np.arange(3))
