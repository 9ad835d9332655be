"""What a spectrum is: as it comes from a file, and as a batch on one pixel grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, RejectedInput
from jaxmdwarf.wavelengths import PixelGrid


@dataclass(frozen=True)
class SpectrumMeta:
    """What the header said. Numbers that were missing are NaN, texts are empty: no sentinels."""

    path: str = ""
    obsid: str = ""
    survey: str = ""
    layout: str = ""
    ra_deg: float = np.nan
    dec_deg: float = np.nan
    z: float = np.nan
    snr_r: float = np.nan
    snr_i: float = np.nan
    subclass: str = ""
    object_class: str = ""
    had_nonfinite: bool = False


@dataclass(frozen=True)
class RawSpectrum:
    """One spectrum as observed, on its own pixels, on the host.

    Parameters
    ----------
    wave_aa : (n,) float64
        Vacuum wavelength of pixel centres, strictly increasing, Angstrom.
    flux : (n,) float
        Flux per Angstrom in any unit; finite everywhere (bad pixels hold 0).
    ivar : (n,) float
        Inverse variance of `flux`; 0 marks a bad pixel, and nothing else does.
    meta : SpectrumMeta
        Identification and header values.

    Raises
    ------
    RejectedInput
        If shapes differ, wavelengths do not increase, values are not finite, ivar is negative,
        or no pixel is good.
    """

    wave_aa: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    meta: SpectrumMeta = field(default_factory=SpectrumMeta)

    def __post_init__(self) -> None:
        if not (
            self.wave_aa.ndim == 1 and self.wave_aa.shape == self.flux.shape == self.ivar.shape
        ):
            raise RejectedInput(
                f"wavelength, flux and ivar have shapes {self.wave_aa.shape}, {self.flux.shape}, "
                f"{self.ivar.shape}.",
                "they must be vectors of one length.",
            )
        if self.wave_aa.size < 2 or not np.all(np.diff(self.wave_aa) > 0):
            raise RejectedInput(
                "wavelengths are unsorted or repeated.", "sort the pixels and drop the repeats."
            )
        if not (np.isfinite(self.flux).all() and np.isfinite(self.ivar).all()):
            raise RejectedInput(
                "flux or ivar is not finite.", "set bad pixels to flux 0 and ivar 0."
            )
        if (self.ivar < 0).any():
            raise RejectedInput("ivar is negative.", "set ivar of bad pixels to 0.")
        if not (self.ivar > 0).any():
            raise RejectedInput("every pixel has ivar 0.", "the spectrum is empty: drop it.")

    @property
    def n_pix(self) -> int:
        """Number of pixels."""
        return self.wave_aa.size


class SpectrumBatch(eqx.Module):
    """Spectra on one pixel grid, ready for the accelerator.

    Parameters
    ----------
    flux : (n_spec, n_pix)
        Flux, or normalised flux after preprocessing.
    ivar : (n_spec, n_pix)
        Inverse variance of a single pixel; 0 marks a bad or masked pixel.
    information : (n_spec, n_pix)
        Weight of a pixel in a fit. Resampling correlates neighbouring pixels, so that summing
        `ivar` counts the same photons twice; this is the inverse of the row sum of the pixel
        covariance, which keeps the information of any feature wider than a pixel. Equal to `ivar`
        when pixels are independent.
    grid : PixelGrid
        The pixel grid (static).

    Notes
    -----
    Chi-squares use `ivar` (the scatter of single pixels), label errors use `information`.
    """

    flux: Float[Array, "n_spec n_pix"]
    ivar: Float[Array, "n_spec n_pix"]
    information: Float[Array, "n_spec n_pix"]
    grid: PixelGrid = eqx.field(static=True)

    def __check_init__(self) -> None:
        shape = self.flux.shape
        if self.ivar.shape != shape or self.information.shape != shape:
            raise MismatchError(
                f"flux {shape}, ivar {self.ivar.shape} and information {self.information.shape} "
                "must have one shape."
            )
        if shape[-1] != self.grid.n_pix:
            raise MismatchError(
                f"spectra have {shape[-1]} pixels, the grid has {self.grid.n_pix}.",
                "resample the spectra onto the grid first.",
            )

    @property
    def n_spec(self) -> int:
        """Number of spectra."""
        return self.flux.shape[0]
