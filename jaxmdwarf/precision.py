"""Matrix products whose rounding is that of float32 on every device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def multiply_exactly(
    left: Float[Array | np.ndarray, "*rows n_sum"], right: Float[Array | np.ndarray, "n_sum n"]
) -> Float[Array, "*rows n"]:
    """Matrix product with factors of full precision.

    The default of some accelerators rounds factors to 10-bit mantissas, an error of 1e-3: more than
    that of an emulator, or of a bright star's spectrum.

    Examples
    --------
    >>> multiply_exactly(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]))
    Array([[11.]], dtype=float32)
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
