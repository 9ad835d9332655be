"""What a reader hands over: plain arrays and header values, cheap to send between processes.

Reader processes must start fast, so nothing here imports JAX; `build_spectrum` makes the
`RawSpectrum` in the process that wants one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.errors import RejectedInput

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

SENTINEL_CEILING = -9000.0
"""Header numbers below this are a survey's way of saying "missing" (-9999)."""


class LogGrid(NamedTuple):
    """Pixels equidistant in log10(wavelength): coefficients in place of four thousand numbers."""

    coeff0: float
    coeff1: float
    n_pix: int


@dataclass(frozen=True)
class SpectrumRecord:
    """One spectrum as read, before it becomes a `RawSpectrum`.

    Parameters
    ----------
    pixels : LogGrid or (n,) float64
        The wavelength solution, vacuum Angstrom.
    flux, ivar : (n,) float
        Finite; bad pixels have ivar 0.
    meta : dict
        The fields of `jaxmdwarf.spectra.SpectrumMeta`.
    why_empty : str
        Where no pixel is good, the reason as a phrase.
    """

    pixels: LogGrid | np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    meta: dict[str, str | float | bool]
    why_empty: str = ""

    @property
    def wave_aa(self) -> np.ndarray:
        """Vacuum wavelength of the pixel centres, (n,), float64, Angstrom; do not write to it."""
        if isinstance(self.pixels, LogGrid):
            return expand_log_grid(self.pixels)
        return self.pixels

    def content_hash(self) -> int:
        """64-bit hash of identifier, flux and ivar: equal for the same spectrum in two files."""
        digest = hashlib.blake2b(str(self.meta.get("obsid", "")).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self.flux).data)
        digest.update(np.ascontiguousarray(self.ivar).data)
        return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass(frozen=True)
class Requirements:
    """What a spectrum must offer to be worth processing.

    Parameters
    ----------
    window_aa : (float, float)
        The wavelengths that matter, vacuum Angstrom.
    min_overlap : float
        Least fraction of the window that the spectrum must cover.
    min_good_fraction : float
        Least fraction of the covered pixels that must be good (ivar > 0).
    """

    window_aa: tuple[float, float] = (6000.0, 8900.0)
    min_overlap: float = 0.5
    min_good_fraction: float = 0.2


@lru_cache(maxsize=256)
def expand_log_grid(grid: LogGrid) -> np.ndarray:
    """Wavelengths of `grid`, (n_pix,), float64, Angstrom; shared between callers and read-only.

    Examples
    --------
    >>> expand_log_grid(LogGrid(3.5682, 1e-4, 3)).round(3).tolist()
    [3699.985, 3700.837, 3701.69]
    """
    wave = 10.0 ** (grid.coeff0 + grid.coeff1 * np.arange(grid.n_pix))
    wave.flags.writeable = False
    return wave


def check_record(record: SpectrumRecord, requirements: Requirements | None = None) -> None:
    """Raise `RejectedInput` unless `record` meets `requirements` (None: any readable spectrum)."""
    wave, flux, ivar = record.wave_aa, record.flux, record.ivar
    if not (wave.ndim == 1 and wave.shape == flux.shape == ivar.shape):
        raise RejectedInput(
            f"wavelength, flux and ivar have shapes {wave.shape}, {flux.shape}, {ivar.shape}.",
            "they must be vectors of one length: check how the file was written.",
        )
    if wave.size < 2 or not isinstance(record.pixels, LogGrid):
        if wave.size < 2 or not np.isfinite(wave).all() or not (wave > 0).all():
            raise RejectedInput(
                "wavelengths are missing or not positive numbers.",
                "check the wavelength solution of the file.",
            )
        if not (np.diff(wave) > 0).all():
            raise RejectedInput(
                "wavelengths are unsorted or repeated.", "sort the pixels and drop the repeats."
            )
    good = ivar > 0
    if not good.any():
        reason = record.why_empty or "ivar is 0 or negative in every pixel"
        raise RejectedInput(f"no good pixel: {reason}.", "leave the spectrum out.")
    if requirements is None:
        return
    low, high = requirements.window_aa
    covered = (min(float(wave[-1]), high) - max(float(wave[0]), low)) / (high - low)
    if covered < requirements.min_overlap:
        raise RejectedInput(
            f"covers {wave[0]:.0f}-{wave[-1]:.0f} A, which is {100 * max(covered, 0.0):.0f} % of "
            f"{low:.0f}-{high:.0f} A.",
            f"at least {100 * requirements.min_overlap:.0f} % is needed: give red-arm spectra, "
            "with wavelengths in Angstrom.",
        )
    first, last = np.searchsorted(wave, (low, high))
    share = float(good[first:last].mean()) if last > first else 0.0
    if share < requirements.min_good_fraction:
        raise RejectedInput(
            f"only {100 * share:.0f} % of the pixels in {low:.0f}-{high:.0f} A are good.",
            f"at least {100 * requirements.min_good_fraction:.0f} % must have ivar > 0: the "
            "spectrum is all but empty, leave it out.",
        )


def build_spectrum(record: SpectrumRecord) -> RawSpectrum:
    """The validated `RawSpectrum` of `record` (imports JAX)."""
    from jaxmdwarf.spectra import RawSpectrum, SpectrumMeta

    return RawSpectrum(record.wave_aa, record.flux, record.ivar, SpectrumMeta(**record.meta))  # type: ignore[arg-type]


def number_or_nan(value: object) -> float:
    """`value` as a float; NaN where it is missing, no number, or a survey's -9999."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) and number > SENTINEL_CEILING else math.nan


def text_or_empty(value: object) -> str:
    """`value` as stripped text, empty where it is missing."""
    return "" if value is None else str(value).strip()
