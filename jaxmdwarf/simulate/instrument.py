"""A LAMOST-like spectrograph: pixels, line-spread function and throughput.

Fluxes are carried through Fourier space once: a star is convolved with the line-spread function
and averaged over the native pixels there, brought to a coarser grid that still oversamples the
instrument, and only then shifted to its velocity and sampled, because that part costs little.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.lsf import FWHM_OF_SIGMA
from jaxmdwarf.simulate.constants import HC_ERG_AA
from jaxmdwarf.simulate.visits import Visits
from jaxmdwarf.wavelengths import PixelGrid

LOG10_START = 3.7710
LOG10_STEP = 1e-4
NATIVE_GRID = PixelGrid("log", 10**LOG10_START, LOG10_STEP * float(np.log(10.0)), 1886)
"""Pixels of the simulated survey files: LAMOST's sampling, 5902-9111 Angstrom (the red part)."""

RESOLUTION = 1800.0
"""Resolving power lambda/FWHM of the ideal line-spread function (Luo et al. 2015)."""

FLUX_UNIT = 1e-17
"""erg s^-1 cm^-2 Angstrom^-1 of one unit of flux in the files."""

_APERTURE_CM2 = 1.2e5
_PEAK_THROUGHPUT = 0.02

_THROUGHPUT_AA = (5900, 6000, 6250, 6500, 7000, 7400, 8000, 8500, 8950, 9150)
_THROUGHPUT = (0.41, 0.49, 0.66, 0.82, 1.0, 0.92, 0.85, 0.66, 0.38, 0.32)
_LSF_NODES = (0.64, 1.0, 1.5)
_H4, _WING_FRACTION, _WING_SCALE = 0.05, 0.05, 3.0
_COARSE_STEP = 1.0e-4
_N_TAPS = 6


class LsfSampler:
    """Convolves finely sampled spectra with the instrument and samples them anywhere.

    Parameters
    ----------
    wave_aa : (n_wave,)
        Vacuum wavelengths, equidistant in ln(wavelength), finer than a fifth of the resolution.
    shape_strength : float
        Strength of `DomainGap.lsf_shape`; 0 gives a Gaussian.
    n_widths : {1, 3}
        1 for the nominal width alone, 3 when the width varies from pixel to pixel.

    Raises
    ------
    MismatchError
        If the wavelengths are not logarithmic.
    """

    def __init__(
        self, wave_aa: np.ndarray, *, shape_strength: float = 0.0, n_widths: int = 1
    ) -> None:
        log_wave = np.log(np.asarray(wave_aa, dtype=np.float64))
        steps = np.diff(log_wave)
        if steps.size < 2 or np.ptp(steps) > 1e-3 * steps.mean() or steps.mean() > 5e-5:
            raise MismatchError(
                "the fine wavelengths are not equidistant in ln(wavelength), or too coarse.",
                "use the wavelengths of the opacity tables.",
            )
        self._n_wave = log_wave.size
        self._start = log_wave[0]
        step = (log_wave[-1] - log_wave[0]) / (log_wave.size - 1)
        # Wings reach 3 x 6 sigma; the blend over the gap must be longer than that on both sides.
        self._n_fft = fft.next_fast_len(self._n_wave + int(0.012 / step), real=True)
        self._n_coarse = 2 * fft.next_fast_len(int(self._n_fft * step / _COARSE_STEP / 2))
        self._coarse_step = self._n_fft * step / self._n_coarse
        self._n_keep = self._n_coarse // 2
        wavenumber = 2 * np.pi * np.arange(self._n_keep) / (self._n_fft * step)
        self.widths2 = _LSF_NODES if n_widths == 3 else (1.0,)
        self._transfer = np.array(
            [_transfer(wavenumber, width2, shape_strength) for width2 in self.widths2]
        ).astype(np.float32) * np.float32(self._n_coarse / self._n_fft)
        ramp = np.linspace(0.0, 1.0, self._n_fft - self._n_wave + 2)[1:-1]
        self._ramp = (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)

    @property
    def coarse_log_wave(self) -> np.ndarray:
        """ln(wavelength) of the coarse samples, (n_coarse,)."""
        return self._start + self._coarse_step * np.arange(self._n_coarse)

    def convolve(self, flux: np.ndarray) -> np.ndarray:
        """Spectra (n, n_wave) convolved with each width, on coarse samples: (n_width, n, m)."""
        flux = np.asarray(flux, dtype=np.float32)
        padded = np.empty((flux.shape[0], self._n_fft), dtype=np.float32)
        padded[:, : self._n_wave] = flux
        padded[:, self._n_wave :] = flux[:, -1:] * (1 - self._ramp) + flux[:, :1] * self._ramp
        spectrum = fft.rfft(padded, axis=1, overwrite_x=True)[:, : self._n_keep]
        return np.stack(
            [
                fft.irfft(spectrum * transfer, n=self._n_coarse, axis=1)
                for transfer in self._transfer
            ]
        )

    def mix(self, coarse: np.ndarray, width: np.ndarray | None) -> np.ndarray:
        """Spectra (n_width, n, m) at relative widths `width` (n, m): (n, m).

        Parameters
        ----------
        coarse : (n_width, n, m)
            From `convolve`.
        width : (n, m) or None
            Width of the line-spread function over the nominal one; None for the nominal one.
        """
        if width is None or len(self.widths2) == 1:
            return coarse[0]
        nodes, target = self.widths2, width**2
        mixed = np.zeros_like(coarse[0])
        for i, node in enumerate(nodes):
            weight = np.ones_like(target)
            for j, other in enumerate(nodes):
                if j != i:
                    weight = weight * ((target - other) / (node - other))
            mixed += weight.astype(np.float32) * coarse[i]
        return mixed

    def sample(self, coarse: np.ndarray, log_wave: np.ndarray) -> np.ndarray:
        """Values of coarse spectra (n, m) at rest-frame ln(wavelength) (n, n_pix).

        Parameters
        ----------
        coarse : (n, m)
            From `mix`.
        log_wave : (n, n_pix)
            ln(wavelength) in the rest frame of each star.
        """
        position = (log_wave - self._start) / self._coarse_step
        base = np.floor(position).astype(np.int32)
        offset = (position - base).astype(np.float32)
        base -= _N_TAPS // 2 - 1
        np.clip(base, 0, self._n_coarse - _N_TAPS, out=base)
        flat = (base + self._n_coarse * np.arange(coarse.shape[0], dtype=np.int32)[:, None]).ravel()
        values = coarse.ravel()
        out = np.zeros(offset.size, dtype=np.float32)
        for tap, weight in enumerate(_lagrange(offset.ravel())):
            out += weight * values[flat + tap]
        return out.reshape(offset.shape)


def _transfer(wavenumber: np.ndarray, width2: float, shape_strength: float) -> np.ndarray:
    """Fourier transform of line-spread function and pixel, at wavenumbers per ln(wavelength)."""
    sigma = 1.0 / (RESOLUTION * FWHM_OF_SIGMA)
    q = wavenumber * sigma * np.sqrt(width2)
    h4 = _H4 * shape_strength
    fraction = _WING_FRACTION * shape_strength
    # Gauss-Hermite functions are their own Fourier transforms (van der Marel & Franx 1993).
    hermite = (4 * q**4 - 12 * q**2 + 3) / np.sqrt(24.0)
    core = np.exp(-0.5 * q**2) * (1 + h4 * hermite) / (1 + h4 * 3 / np.sqrt(24.0))
    wings = np.exp(-0.5 * (_WING_SCALE * q) ** 2)
    pixel = np.sinc(wavenumber * NATIVE_GRID.step / (2 * np.pi))
    return ((1 - fraction) * core + fraction * wings) * pixel


def _lagrange(offset: np.ndarray) -> list[np.ndarray]:
    """Weights of the six samples around a point `offset` (0..1) beyond the third one."""
    nodes = np.arange(_N_TAPS) - (_N_TAPS // 2 - 1)
    weights = []
    for i, node in enumerate(nodes):
        weight = np.ones_like(offset)
        for j, other in enumerate(nodes):
            if j != i:
                weight *= (offset - np.float32(other)) * np.float32(1.0 / (node - other))
        weights.append(weight)
    return weights


def electrons_per_flux(visits: Visits) -> np.ndarray:
    """Electrons that one unit of flux entering a fibre gives in each native pixel, (n, n_pix)."""
    wave = NATIVE_GRID.wave_aa
    throughput = _PEAK_THROUGHPUT * np.interp(wave, _THROUGHPUT_AA, _THROUGHPUT)
    per_second = FLUX_UNIT * _APERTURE_CM2 * throughput * wave / HC_ERG_AA * NATIVE_GRID.widths_aa
    return (visits.exposure_s[:, None] * per_second).astype(np.float32)
