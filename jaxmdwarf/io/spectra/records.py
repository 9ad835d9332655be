"""What a reader hands over: plain arrays and header values, light to send between processes.

Reader processes must start fast, so nothing here imports JAX; `build_spectrum` makes the
`RawSpectrum` in the process that wants one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.arrays import read_arrays
from jaxmdwarf.catalogue.texts import escape_text
from jaxmdwarf.errors import RejectedInput, UsageError

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

SENTINEL_CEILING = -9000.0
"""Header numbers below this are a survey's way of saying "missing" (-9999)."""

_GAP_STEPS = 20.0
"""Neighbours further apart than this many usual steps have a gap between them, not a pixel."""

Meta = dict[str, str | float | bool | int]

NO_HEADER: Meta = {
    "path": "",
    "obsid": "",
    "designation": "",
    "survey": "",
    "layout": "",
    "ra_deg": math.nan,
    "dec_deg": math.nan,
    "z": math.nan,
    "snr_r": math.nan,
    "snr_i": math.nan,
    "subclass": "",
    "object_class": "",
    "had_nonfinite": False,
    "index": 0,
}
"""Header values of a spectrum of which nothing is known, by field of `SpectrumMeta`."""


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
    what : str
        What it is, for the reason where it covers too little: "the red arm of ...".
    known_hash : int, optional
        `content_hash`, where it stands beside the spectrum in a pack.
    """

    pixels: LogGrid | np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    meta: Meta
    why_empty: str = ""
    what: str = ""
    known_hash: int | None = None

    @classmethod
    def from_arrays(
        cls,
        path: str,
        wave: Any,
        flux: Any,
        ivar: Any = None,
        *,
        sigma: Any = None,
        mask: Any = None,
        wave_unit: Any = None,
        medium: str = "vacuum",
        **header: Any,
    ) -> SpectrumRecord:
        """What a reader makes of the arrays of a file.

        Parameters
        ----------
        path : str
            The file.
        wave, flux, ivar, sigma, mask, wave_unit, medium
            As `jaxmdwarf.spectra.RawSpectrum.from_arrays`.
        **header
            Fields of `SpectrumMeta` that are known: ``obsid=...``, ``z=...``.

        Raises
        ------
        RejectedInput
            If they are no spectrum.

        Examples
        --------
        >>> record = SpectrumRecord.from_arrays("a", [700.1, 700.2], [1, 2], 4.0, wave_unit="nm")
        >>> record.wave_aa.tolist(), record.ivar.tolist(), record.meta["path"]
        ([7001.0, 7002.0], [4.0, 4.0], 'a')
        """
        strangers = sorted(set(header) - set(NO_HEADER))
        if strangers:
            raise UsageError(
                f"{strangers[0]!r} is no field of a spectrum's header.",
                f"use one of {', '.join(NO_HEADER)}.",
            )
        try:
            pixels = read_arrays(
                wave, flux, ivar, sigma=sigma, mask=mask, wave_unit=wave_unit, medium=medium
            )
        except UsageError as error:
            raise RejectedInput(error.message, error.remedy) from None
        meta = NO_HEADER | header | {"path": path, "had_nonfinite": pixels.had_nonfinite}
        return cls(pixels.wave_aa, pixels.flux, pixels.ivar, meta)

    @property
    def wave_aa(self) -> np.ndarray:
        """Vacuum wavelength of the pixel centres, (n,), float64, Angstrom; do not write to it."""
        if isinstance(self.pixels, LogGrid):
            return expand_log_grid(self.pixels)
        return self.pixels

    def content_hash(self) -> int:
        """64-bit hash of identifier, flux and ivar: equal for the same spectrum in two files."""
        if self.known_hash is not None:
            return self.known_hash
        digest = hashlib.blake2b(str(self.meta.get("obsid", "")).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self.flux).data)
        digest.update(np.ascontiguousarray(self.ivar).data)
        return int.from_bytes(digest.digest(), "little", signed=True)


Found = SpectrumRecord | RejectedInput
"""A spectrum of a file, or why one of its spectra cannot be used."""


class Placed(NamedTuple):
    """A spectrum and where it is: by that it is known in catalogues and tables of rejects.

    Parameters
    ----------
    path : str
        Its file, or the one that it came from into a pack.
    number : int
        Which spectrum of that file.
    found : SpectrumRecord or RejectedInput
    """

    path: str
    number: int
    found: Found


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
    covered = _covered_share(wave, low, high, even=isinstance(record.pixels, LogGrid))
    if covered < requirements.min_overlap:
        what = f"{record.what} " if record.what else ""
        remedy = "give red-arm spectra, with wavelengths in Angstrom."
        raise RejectedInput(
            f"{what}covers {wave[0]:.0f}-{wave[-1]:.0f} A, which is {100 * covered:.0f} % of "
            f"{low:.0f}-{high:.0f} A.",
            f"at least {100 * requirements.min_overlap:.0f} % is needed: "
            + ("give spectra that cover it." if what else remedy),
        )
    first, last = np.searchsorted(wave, (low, high))
    share = float(good[first:last].mean()) if last > first else 0.0
    if share < requirements.min_good_fraction:
        raise RejectedInput(
            f"only {100 * share:.0f} % of the pixels in {low:.0f}-{high:.0f} A are good.",
            f"at least {100 * requirements.min_good_fraction:.0f} % must have ivar > 0 and be free "
            "of the survey's mask: leave the spectrum out.",
        )


def _covered_share(wave: np.ndarray, low: float, high: float, *, even: bool) -> float:
    """Fraction of a window that lies between pixels, gaps between arms left out."""
    ends = np.clip((wave[0], wave[-1]), low, high)
    covered = float(ends[1] - ends[0])
    if not even:
        steps = np.diff(wave)
        wide = np.flatnonzero(steps > _GAP_STEPS * np.median(steps))
        covered -= float(
            (np.clip(wave[wide + 1], low, high) - np.clip(wave[wide], low, high)).sum()
        )
    return max(covered, 0.0) / (high - low)


def build_spectrum(record: SpectrumRecord) -> RawSpectrum:
    """The validated `RawSpectrum` of `record` (imports JAX)."""
    from jaxmdwarf.spectra import RawSpectrum, SpectrumMeta

    return RawSpectrum(record.wave_aa, record.flux, record.ivar, SpectrumMeta(**record.meta))  # type: ignore[arg-type]


def number_or_nan(value: object) -> float:
    """`value` as a float; NaN where it is missing, no number, or a survey's -9999."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) and number > SENTINEL_CEILING else math.nan


def whole_or_none(value: object) -> int | None:
    """`value` as an integer; None where it is missing or no whole number.

    Examples
    --------
    >>> [whole_or_none(value) for value in (12, 12.0, " 12 ", "12a", 1.5, float("inf"), None)]
    [12, 12, 12, None, None, None, None]
    """
    try:
        number = float(value)  # type: ignore[arg-type]
        return int(number) if number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def text_or_empty(value: object) -> str:
    """`value` as stripped text, empty where it is missing; control characters are escaped."""
    return "" if value is None or np.ndim(value) else escape_text(str(value).strip())  # type: ignore[arg-type]
