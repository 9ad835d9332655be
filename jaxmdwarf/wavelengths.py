"""Wavelength scales: pixel grids, air and vacuum, Doppler factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxmdwarf.errors import UsageError

SPEED_OF_LIGHT_KMS = 299_792.458

FASTEST_STAR_KMS = 1500.0
"""No star of the Galaxy recedes as fast; the fastest known has 1,017 (Koposov et al. 2020, MNRAS
491, 2465)."""


@dataclass(frozen=True)
class PixelGrid:
    """A regular pixel grid in vacuum Angstrom, linear or logarithmic.

    Parameters
    ----------
    kind : {"linear", "log"}
        Whether pixel centres are equidistant in wavelength or in ln(wavelength).
    start_aa : float
        Centre of the first pixel, vacuum Angstrom.
    step : float
        Pixel width: Angstrom if linear, natural-log step if logarithmic.
    n_pix : int
        Number of pixels.

    Examples
    --------
    >>> grid = PixelGrid.linear(6000.0, 8900.0, 1.0)
    >>> grid.n_pix, float(grid.wave_aa[0]), float(grid.wave_aa[-1])
    (2901, 6000.0, 8900.0)
    """

    kind: Literal["linear", "log"]
    start_aa: float
    step: float
    n_pix: int

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "log"):
            raise UsageError(f"pixel grid kind {self.kind!r} is unknown.", "use 'linear' or 'log'.")
        if not (self.start_aa > 0 and self.step > 0 and self.n_pix >= 2):
            raise UsageError(
                f"pixel grid needs start > 0, step > 0 and at least two pixels, got {self}."
            )

    @classmethod
    def linear(cls, start_aa: float, stop_aa: float, step_aa: float) -> PixelGrid:
        """Grid with pixel centres from `start_aa` to `stop_aa` inclusive, `step_aa` apart."""
        return cls("linear", start_aa, step_aa, round((stop_aa - start_aa) / step_aa) + 1)

    @classmethod
    def logarithmic(cls, start_aa: float, stop_aa: float, ln_step: float) -> PixelGrid:
        """Grid with centres from `start_aa` to about `stop_aa`, `ln_step` apart in ln(wave)."""
        n_pix = round(float(np.log(stop_aa / start_aa)) / ln_step) + 1
        return cls("log", start_aa, ln_step, n_pix)

    @property
    def wave_aa(self) -> np.ndarray:
        """Pixel centres, vacuum Angstrom, shape (n_pix,), float64."""
        return self._at(np.arange(self.n_pix, dtype=np.float64))

    @property
    def edges_aa(self) -> np.ndarray:
        """Pixel edges, vacuum Angstrom, shape (n_pix + 1,), float64."""
        return self._at(np.arange(self.n_pix + 1, dtype=np.float64) - 0.5)

    @property
    def widths_aa(self) -> np.ndarray:
        """Pixel widths in Angstrom, shape (n_pix,), float64."""
        return np.diff(self.edges_aa)

    def padded(self, n_left: int, n_right: int) -> PixelGrid:
        """The same sampling with `n_left` and `n_right` more pixels at the two ends."""
        start = float(self._at(np.array([-float(n_left)]))[0])
        return PixelGrid(self.kind, start, self.step, self.n_pix + n_left + n_right)

    def _at(self, index: np.ndarray) -> np.ndarray:
        if self.kind == "linear":
            return self.start_aa + self.step * index
        return self.start_aa * np.exp(self.step * index)


PAPER_GRID = PixelGrid.linear(6000.0, 8900.0, 1.0)
"""The paper's pixels (section 2.4): 6000-8900 Angstrom every Angstrom, 2901 of them."""


def vacuum_to_air(wave_vac_aa: ArrayLike) -> np.ndarray:
    """Air wavelengths (Angstrom) of vacuum wavelengths, above 2000 Angstrom.

    Uses the dispersion formula of Ciddor (1996, Applied Optics 35, 1566) for standard air, in the
    form adopted by VALD3 (N. Piskunov); it agrees with Morton (2000) to 1e-4 Angstrom in the red.

    Examples
    --------
    >>> float(vacuum_to_air(np.array(7056.0)).round(2))
    7054.05
    """
    wave = np.asarray(wave_vac_aa, dtype=np.float64)
    return np.asarray(wave / _refractive_index((1e4 / wave) ** 2))


def air_to_vacuum(wave_air_aa: ArrayLike) -> np.ndarray:
    """Vacuum wavelengths (Angstrom) of air wavelengths; the inverse of `vacuum_to_air` to 1e-9.

    Examples
    --------
    >>> wave = np.array([6562.8, 8542.09])
    >>> bool(np.allclose(vacuum_to_air(air_to_vacuum(wave)), wave, rtol=0, atol=1e-8))
    True
    """
    air = np.asarray(wave_air_aa, dtype=np.float64)
    vacuum = air
    # The index changes by 1e-8 over its own shift, so three fixed-point steps reach rounding.
    for _ in range(3):
        vacuum = np.asarray(air * _refractive_index((1e4 / vacuum) ** 2))
    return vacuum


def is_within(wave_aa: np.ndarray, bounds_aa: tuple[float, float]) -> np.ndarray:
    """Which wavelengths lie within bounds, these included; of the shape of `wave_aa`."""
    return (wave_aa >= bounds_aa[0]) & (wave_aa <= bounds_aa[1])


def doppler_factor(rv_kms):
    """Ratio of observed to rest wavelength, 1 + v/c (the survey convention: z = v/c).

    Works on floats, numpy and JAX arrays alike; positive velocities recede.
    """
    return 1.0 + rv_kms / SPEED_OF_LIGHT_KMS


def _refractive_index(sigma2: ArrayLike) -> np.ndarray:
    """Refractive index of standard air at squared wavenumber `sigma2` in 1/micron^2."""
    sigma2 = np.asarray(sigma2)
    return np.asarray(1.0 + 0.05792105 / (238.0185 - sigma2) + 0.00167917 / (57.362 - sigma2))
