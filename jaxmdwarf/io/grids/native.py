"""One model spectrum on its native sampling, and what every reader makes sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.wavelengths import air_to_vacuum


@dataclass(frozen=True)
class NativeSpectrum:
    """A model spectrum as published, sorted, in vacuum.

    Parameters
    ----------
    wave_aa : (n,) float64
        Increasing vacuum wavelengths, Angstrom.
    flux : (n,) float64
        erg/s/cm2/A at the stellar surface.
    labels : GridLabels
    layout : str
        Format the spectrum was read from.
    """

    wave_aa: np.ndarray
    flux: np.ndarray
    labels: GridLabels
    layout: str


@dataclass(frozen=True)
class WaveRange:
    """Vacuum wavelengths that matter; readers drop the rest early, since files are large."""

    low_aa: float
    high_aa: float

    def with_margin(self) -> WaveRange:
        """A range wide enough to hold this one on the air scale too."""
        return WaveRange(self.low_aa - 5.0, self.high_aa + 5.0)


def finish(
    wave: np.ndarray,
    flux: np.ndarray,
    labels: GridLabels,
    *,
    layout: str,
    air: bool,
    wanted: WaveRange | None,
) -> NativeSpectrum:
    """Sort, drop repeats, convert air to vacuum, cut to the wanted range, check.

    Raises
    ------
    RejectedInput
        If too few finite samples or no positive flux remain.
    """
    wave = np.asarray(wave, dtype=np.float64)
    flux = np.asarray(flux, dtype=np.float64)
    finite = np.isfinite(wave) & np.isfinite(flux) & (wave > 0)
    if wanted is not None:
        around = wanted.with_margin()
        finite &= (wave >= around.low_aa) & (wave <= around.high_aa)
    # Models computed on several processors arrive in pieces, whose ends repeat wavelengths.
    wave, first = np.unique(wave[finite], return_index=True)
    flux = flux[finite][first]
    if air:
        wave = air_to_vacuum(wave)
    if wanted is not None:
        inside = (wave >= wanted.low_aa) & (wave <= wanted.high_aa)
        wave, flux = wave[inside], flux[inside]
    if wave.size < 10:
        covered = "" if wanted is None else f" in {wanted.low_aa:.0f}-{wanted.high_aa:.0f} Angstrom"
        raise RejectedInput(
            f"only {wave.size} usable samples{covered}.",
            "use a file that covers the range, or ask for another range.",
        )
    if not (flux > 0).any() or (flux < 0).any():
        raise RejectedInput("the flux is negative or zero.", "check the flux scale of the file.")
    return NativeSpectrum(wave, flux, labels, layout)
