"""What a spectrum is: as it comes from a file, and as a batch on one pixel grid."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.arrays import is_specutils, read_arrays, read_specutils
from jaxmdwarf.errors import MismatchError, RejectedInput, UsageError
from jaxmdwarf.wavelengths import PixelGrid


@dataclass(frozen=True)
class SpectrumMeta:
    """What the header said. Numbers that were missing are NaN, texts are empty: no sentinels.

    Parameters
    ----------
    path : str
        File, empty for a spectrum that came as arrays.
    index : int
        Which spectrum of the file, from 0; a file of one spectrum has index 0.
    obsid : str
        Identifier of the observation or target.
    designation : str
        The survey's name of the object; empty where it gives none.
    survey, layout : str
        Who wrote the file, and in which format.
    ra_deg, dec_deg : float
        Position, degrees.
    z : float
        Redshift v/c of the spectrum in the frame it is given in.
    snr_r, snr_i : float
        Signal-to-noise ratio per pixel in r and i.
    subclass, object_class : str
        The survey's own classification.
    had_nonfinite : bool
        Whether pixels that were not finite have been masked.
    """

    path: str = ""
    obsid: str = ""
    designation: str = ""
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
    index: int = 0

    @property
    def place(self) -> str:
        """File, and which spectrum of it unless it is the first: ``night.fits[12]``."""
        return f"{self.path}[{self.index}]" if self.index else self.path


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

    @classmethod
    def from_arrays(
        cls,
        wave: Any,
        flux: Any = None,
        ivar: Any = None,
        *,
        sigma: Any = None,
        mask: Any = None,
        wave_unit: Any = None,
        medium: str | None = None,
        **header: Any,
    ) -> RawSpectrum:
        """A spectrum from whatever holds one: arrays, lists, quantities, a specutils object.

        Parameters
        ----------
        wave : (n,) array, list, astropy Quantity or Column; or a specutils spectrum
            Pixel centres. Numbers without a unit are Angstrom; lengths in any unit are converted,
            and so are frequencies and wavenumbers of a Quantity. Pixels may come in any order;
            those without a wavelength are dropped. A specutils ``Spectrum`` or ``Spectrum1D``
            brings all that follows with it.
        flux : (n,)
            Flux density per wavelength in any unit; a Quantity per frequency (Jy) is converted.
        ivar : (n,) or float, optional
            Inverse variance, 0 (or NaN, or negative) for bad pixels; or an astropy uncertainty.
        sigma : (n,) or float, optional
            Standard deviation in place of `ivar`.
        mask : (n,) bool, optional
            True for bad pixels.
        wave_unit : str or astropy Unit, optional
            Unit of `wave` where it carries none: ``"Angstrom"``, ``"nm"``, ``"um"`` ...
        medium : {"vacuum", "air"}, optional
            What `wave` is measured in; air is converted to vacuum. None takes vacuum, or what a
            specutils object says.
        **header
            Fields of `SpectrumMeta`: ``obsid="Gl 699"``, ``z=-3.7e-4``, ``ra_deg=269.45`` ...

        Returns
        -------
        RawSpectrum

        Raises
        ------
        UsageError
            If arguments are missing or contradict each other: no uncertainty, lengths that differ,
            images, units of something else.
        RejectedInput
            If the numbers are no spectrum: nanometres without a unit, repeated wavelengths, no
            good pixel.

        Examples
        --------
        >>> spectrum = RawSpectrum.from_arrays(
        ...     [700.2, 700.1, 700.3], [2.0, 1.0, float("nan")], sigma=0.5, wave_unit="nm"
        ... )
        >>> spectrum.wave_aa.round(1).tolist(), spectrum.flux.tolist(), spectrum.ivar.tolist()
        ([7001.0, 7002.0, 7003.0], [1.0, 2.0, 0.0], [4.0, 4.0, 0.0])
        """
        known = [entry.name for entry in fields(SpectrumMeta)]
        strangers = sorted(set(header) - set(known))
        if strangers:
            raise UsageError(
                f"{strangers[0]!r} is no field of a spectrum's header.",
                f"use one of {', '.join(known)}.",
            )
        if is_specutils(wave):
            extra = {"flux": flux, "ivar": ivar, "sigma": sigma, "mask": mask, "unit": wave_unit}
            given = [name for name, value in extra.items() if value is not None]
            if given:
                raise UsageError(
                    f"a specutils spectrum brings its own {given[0]}.", "give it alone."
                )
            pixels = read_specutils(wave, medium=medium)
        else:
            if flux is None:
                raise UsageError(
                    "there are wavelengths but no flux.",
                    "pass wave, flux and ivar=... or sigma=...",
                )
            pixels = read_arrays(
                wave,
                flux,
                ivar,
                sigma=sigma,
                mask=mask,
                wave_unit=wave_unit,
                medium=medium or "vacuum",
            )
        header["had_nonfinite"] = pixels.had_nonfinite or bool(header.get("had_nonfinite"))
        return cls(pixels.wave_aa, pixels.flux, pixels.ivar, SpectrumMeta(**header))

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
