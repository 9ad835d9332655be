"""One model spectrum on its native sampling, and what every reader makes sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.wavelengths import air_to_vacuum

FLUX_FACTOR = 10.0
"""Largest ratio, either way, of a model's flux to that of a black body of its Teff over the same
wavelengths. M dwarfs have 0.5-1 of it in the red (2,300-3,900 K), hotter stars closer to 1."""

PEAK_FACTOR = 1_000.0
"""No sample of a model is this many times brighter than the black body, where that shines."""

_HC_PER_K_CM = 1.438776877
_FIRST_RADIATION_ERG_CM2_S = 3.741771852e-5
_PLAUSIBLE = {
    "teff": (300.0, 200_000.0),
    "logg": (-3.0, 10.0),
    "mh": (-7.0, 3.0),
    "alpha_m": (-3.0, 3.0),
}
_BLACK_BODY_FROM_AA = 4_000.0
_BLACK_BODY_FROM_K = 1_500.0
_GAP_STEPS = 50.0
_TAIL_BYTES, _TAIL_LINES = 10_000, 20
_GAP_AA = 2.0


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
    flux_name: str = "the flux",
) -> NativeSpectrum:
    """Sort, drop repeats, convert air to vacuum, cut to the wanted range, check.

    Parameters
    ----------
    wave : (n,)
        Angstrom, in any order.
    flux : (n,)
        erg/s/cm2/A at the stellar surface: its scale is held against the black body of Teff.
    labels : GridLabels
    layout : str
        Format.
    air : bool
        Whether `wave` is in air.
    wanted : WaveRange or None
        Vacuum range to keep.
    flux_name : str
        What `flux` is, for the reason where its scale is wrong.

    Raises
    ------
    RejectedInput
        If labels are not those of a star, too few finite samples or no positive flux remain, the
        flux cannot be that of the labels, or a stretch of the spectrum is missing.
    """
    _require_labels(labels)
    wave = np.asarray(wave, dtype=np.float64)
    flux = np.asarray(flux, dtype=np.float64)
    used = np.isfinite(wave) & ~np.isnan(flux) & (wave > 0)
    if wanted is not None:
        around = wanted.with_margin()
        used &= (wave >= around.low_aa) & (wave <= around.high_aa)
    # Models computed on several processors arrive in pieces, whose ends repeat wavelengths.
    wave, first = np.unique(wave[used], return_index=True)
    flux = flux[used][first]
    if air:
        wave = air_to_vacuum(wave)
    if wanted is not None:
        inside = (wave >= wanted.low_aa) & (wave <= wanted.high_aa)
        wave, flux = wave[inside], flux[inside]
    if wave.size < 10:
        covered = "" if wanted is None else f" in {wanted.low_aa:.0f}-{wanted.high_aa:.0f} Angstrom"
        raise RejectedInput(
            f"only {wave.size} usable samples{covered}.",
            "use a file that covers the range, or ask for another range (--start-aa, --stop-aa).",
        )
    if np.isinf(flux).any():
        raise RejectedInput(
            f"the flux overflows at {wave[np.isinf(flux)][0]:.2f} A.",
            "the file is damaged there: fetch it again.",
        )
    if not (flux > 0).any() or (flux < 0).any():
        raise RejectedInput("the flux is negative or zero.", "check the flux scale of the file.")
    _require_flux_scale(wave, flux, labels, flux_name)
    _require_no_gap(wave)
    return NativeSpectrum(wave, flux, labels, layout)


def require_last_line(text: bytes) -> None:
    """Refuse text that ends within a line, as a file does that was cut short.

    Raises
    ------
    RejectedInput
        If the last line has no end and is shorter than all those before it.
    """
    *before, last = text[-_TAIL_BYTES:].split(b"\n")
    whole = [len(line.rstrip()) for line in before[-_TAIL_LINES:] if line.strip()]
    if last.strip() and len(whole) > 1 and len(last) < min(whole):
        raise RejectedInput(
            f"the last line is cut off: {last.decode('latin-1').strip()!r}.",
            "the file was not transferred to its end: fetch it again.",
        )


def black_body_flux(wave_aa: np.ndarray, teff: float) -> np.ndarray:
    """Flux through the surface of a black body, pi B, erg/s/cm2/A.

    Its integral over all wavelengths is sigma Teff^4.

    Examples
    --------
    >>> wave = np.geomspace(500.0, 5e6, 200_000)
    >>> float(np.trapezoid(black_body_flux(wave, 3000.0), wave) / (5.670374e-5 * 3000.0**4))
    1.000...
    """
    wave_cm = np.asarray(wave_aa, dtype=np.float64) * 1e-8
    with np.errstate(over="ignore"):
        return (
            1e-8
            * _FIRST_RADIATION_ERG_CM2_S
            / wave_cm**5
            / np.expm1(_HC_PER_K_CM / (wave_cm * teff))
        )


def _require_labels(labels: GridLabels) -> None:
    for name, value in labels._asdict().items():
        low, high = _PLAUSIBLE[name]
        if not low <= value <= high:
            raise RejectedInput(
                f"{name} = {value:g} is not that of a star.",
                f"give models with {name} from {low:g} to {high:g}; see the header and the name.",
            )


def _require_flux_scale(
    wave: np.ndarray, flux: np.ndarray, labels: GridLabels, flux_name: str
) -> None:
    """Hold the flux against the black body of the same temperature, over the same range."""
    # Ultraviolet and X-rays are not those of a black body, nor is the red of brown dwarfs.
    red = wave >= _BLACK_BODY_FROM_AA
    wave, flux = wave[red], flux[red]
    if wave.size < 10 or labels.teff < _BLACK_BODY_FROM_K:
        return
    thermal = black_body_flux(wave, labels.teff)
    with np.errstate(over="ignore"):  # an infinite ratio is refused like any other
        ratio = float(np.trapezoid(flux, wave) / np.trapezoid(thermal, wave))
    if not 1 / FLUX_FACTOR <= ratio <= FLUX_FACTOR:
        raise RejectedInput(
            f"{flux_name} is {ratio:.1e} times that of a black body of Teff = {labels.teff:.0f} K.",
            "give the flux at the star's surface in the format's own unit: not normalised, not as "
            "seen from the Earth, and a logarithm where the format asks for one.",
        )
    peak = int(np.argmax(flux / thermal))
    if flux[peak] > PEAK_FACTOR * thermal[peak]:
        raise RejectedInput(
            f"a flux of {flux[peak]:.1e} at {wave[peak]:.2f} A is {flux[peak] / thermal[peak]:.0e} "
            f"times that of a black body of {labels.teff:.0f} K.",
            "the file is damaged there: fetch it again.",
        )


def _require_no_gap(wave: np.ndarray) -> None:
    """Records come in no order of wavelength, so that a file cut short has holes."""
    steps = np.diff(wave)
    widest = int(np.argmax(steps))
    if steps[widest] > max(_GAP_STEPS * float(np.median(steps)), _GAP_AA):
        raise RejectedInput(
            f"nothing between {wave[widest]:.1f} and {wave[widest + 1]:.1f} A.",
            "the file seems to be cut short: fetch it again.",
        )
