"""What models that are laid over another one have of it: labels, pixels, treatment, traits."""

import equinox as eqx

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, ObservedTraits
from jaxmdwarf.models.emulator import Treatment
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

    @property
    def treatment(self) -> Treatment:
        """That of the base model: both domains are treated alike."""
        return self.base.treatment  # type: ignore[attr-defined]

    def observed_traits(self) -> ObservedTraits:
        """Those of the base model: what it learned of the same stars holds here too."""
        return self.base.observed_traits()
