"""The Payne as a forward model: a small network, then a linear head to the pixels."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, LowRankHead
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.payne import PayneNetwork, apply_payne
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.wavelengths import PixelGrid


class PayneEmulator(ForwardModel):
    """Labels to normalised flux by The Payne's perceptron (Ting et al. 2019), linear at its end.

    ``flux = mean + network(scaled labels) @ basis``. With a low-rank head the network returns k
    coefficients on a fixed basis of principal components; with the plain one it returns its last
    hidden features and `basis` is the last layer. Either way the head is linear in at most a few
    hundred numbers, which is what the Gram fast path of a fit needs.

    Parameters
    ----------
    params : pytree
        Network parameters (`jaxmdwarf.networks.payne.init_payne`).
    basis : (k, n_pix)
    mean : (n_pix,)
    model_error : (n_pix,)
        One-sigma fractional error found on held-out spectra.
    network : PayneNetwork
    label_space : LabelSpace
    grid : PixelGrid
    preprocessing : Preprocessing
        What was done to the training spectra.

    Raises
    ------
    MismatchError
        If the arrays do not fit the grid or each other.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from jaxmdwarf.networks.payne import init_payne
    >>> network, space = PayneNetwork(hidden=(16,), n_out=3), LabelSpace.mdwarf()
    >>> grid = PixelGrid.linear(6000.0, 6099.0, 1.0)
    >>> emulator = PayneEmulator(
    ...     init_payne(network, jax.random.key(0), space.n_label),
    ...     jnp.ones((3, 100)), jnp.ones(100), jnp.full(100, 0.005), network, space, grid,
    ... )
    >>> emulator.predict(jnp.array([3300.0, 5.0, 0.0, 0.0])).shape
    (100,)
    """

    params: PyTree[Float[Array, "..."]]
    basis: Float[Array, "k n_pix"]
    mean: Float[Array, "n_pix"]
    model_error: Float[Array, "n_pix"]
    network: PayneNetwork = eqx.field(static=True)
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)
    preprocessing: Preprocessing = eqx.field(static=True, default=Preprocessing())

    def __check_init__(self) -> None:
        n_pix = self.grid.n_pix
        width = self.network.n_out or self.network.hidden[-1]
        if self.basis.shape != (width, n_pix):
            raise MismatchError(
                f"the head has shape {self.basis.shape}; network and grid ask for {(width, n_pix)}."
            )
        if self.mean.shape != (n_pix,) or self.model_error.shape != (n_pix,):
            raise MismatchError(
                f"mean {self.mean.shape} and model error {self.model_error.shape} must have the "
                f"{n_pix} pixels of the grid."
            )

    def coefficients(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "k"]:
        """Outputs of the network: coefficients on `basis`."""
        return apply_payne(self.network, self.params, scaled)

    def predict_scaled(
        self, scaled: Float[Array, "n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_pix"]:
        """Normalised flux at scaled labels."""
        return self._flux(self.coefficients(scaled))

    def predict_scaled_batch(
        self, scaled: Float[Array, "n_spec n_label"], context: PyTree[Any] | None = None
    ) -> Float[Array, "n_spec n_pix"]:
        """Normalised flux of many stars, as matrix products."""
        return self._flux(apply_payne(self.network, self.params, scaled))

    def low_rank(self) -> LowRankHead:
        """The linear head; see `ForwardModel.low_rank`."""
        return LowRankHead(self.basis, self.mean)

    def _flux(self, coefficients):
        return self.mean + multiply_exactly(coefficients, self.basis)
