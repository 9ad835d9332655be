"""What a model that is laid over another one takes from it, from labels to noise."""

import equinox as eqx
from jaxtyping import Array, Float

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, NoiseModel
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.wavelengths import PixelGrid


class LayeredModel(ForwardModel):
    """A forward model that changes the flux of another one.

    Attributes
    ----------
    base : ForwardModel
    """

    base: eqx.AbstractVar[ForwardModel]

    @property  # type: ignore[misc]
    def label_space(self) -> LabelSpace:  # type: ignore[override]
        """That of the base model."""
        return self.base.label_space

    @property  # type: ignore[misc]
    def grid(self) -> PixelGrid:  # type: ignore[override]
        """That of the base model."""
        return self.base.grid

    @property  # type: ignore[override]
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]
        """That of the base model: spectra of both domains are preprocessed alike."""
        return self.base.preprocessing

    def priors(self) -> tuple[Prior, ...]:
        """Those of the base model: what it learned of the same stars holds here too."""
        return self.base.priors()

    def error_directions(
        self, scaled: Float[Array, "n n_label"]
    ) -> Float[Array, "n m n_pix"] | None:
        """Those of the base model."""
        return self.base.error_directions(scaled)

    def noise_model(self) -> NoiseModel:
        """That of the base model, for the same reason."""
        return self.base.noise_model()
