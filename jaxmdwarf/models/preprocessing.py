"""What was done to the spectra that a model has learned."""

from dataclasses import dataclass

from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA


@dataclass(frozen=True)
class Preprocessing:
    """What was done to the spectra that a model has learned; a fit does the same to observed ones.

    Hashable, so that it can be a static part of a model.

    Parameters
    ----------
    sigma_aa : float or None
        Width in Angstrom of the Gaussian of the pseudo-continuum (paper, eq. 3); None: not
        normalised.
    masks_aa : tuple of (low, high)
        Windows in vacuum Angstrom that were left out of the pseudo-continuum.
    resolving_power : float or None
        lambda / FWHM of the spectra; None where unknown.
    simulated : bool
        Whether the spectra come from the package's own simulation, not from a published grid.
    """

    sigma_aa: float | None = None
    masks_aa: tuple[tuple[float, float], ...] = ()
    resolving_power: float | None = None
    simulated: bool = False


PAPER_PREPROCESSING = Preprocessing(sigma_aa=PAPER_SIGMA_AA, masks_aa=PAPER_MASKS_AA)
"""The paper's: what models are taken to have learned from that do not say otherwise."""
