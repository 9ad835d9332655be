"""A LAMOST-like spectrograph: surface fluxes to noisy pixels, with every flaw of `DomainGap`.

Fluxes are carried through Fourier space once: a star is convolved with the line-spread function
and averaged over the native pixels there, brought to a coarser grid that still oversamples the
instrument, and only then shifted to its velocity and sampled, because that part is cheap.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.polynomial import chebyshev
from scipy import fft

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.lsf import FWHM_OF_SIGMA
from jaxmdwarf.simulate.gap import CAUSES, DomainGap
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid, air_to_vacuum

LOG10_START = 3.7710
LOG10_STEP = 1e-4
NATIVE_GRID = PixelGrid("log", 10**LOG10_START, LOG10_STEP * float(np.log(10.0)), 1886)
"""Pixels of the simulated survey files: LAMOST's sampling, 5902-9111 Angstrom (the red part)."""

RESOLUTION = 1800.0
"""Resolving power lambda/FWHM of the ideal line-spread function (Luo et al. 2015)."""

FLUX_UNIT = 1e-17
"""erg s^-1 cm^-2 Angstrom^-1 of one unit of flux in the files."""

SNR_R_RANGE_AA = (5902.0, 6800.0)
SNR_I_RANGE_AA = (6900.0, 8200.0)
SNR_R_RATIO = 1.11
"""LAMOST's S/N_r is the median over 5600-6800 Angstrom; without the part that is not simulated
the median comes out 1.11 times higher (measured on real spectra)."""

TELLURIC_BANDS: dict[str, tuple[float, float]] = {
    "O2 gamma": (6274.0, 6330.0),
    "O2 B": (6864.0, 6970.0),
    "H2O 7200": (7160.0, 7345.0),
    "O2 A": (7590.0, 7715.0),
    "H2O 8200": (8100.0, 8370.0),
    "H2O 9000": (8925.0, 9130.0),
}
"""Ranges (vacuum, observatory frame) outside which telluric residuals are exactly zero."""

HALPHA_AA = 6564.61
CALCIUM_TRIPLET_AA = (8500.35, 8544.44, 8664.52)
"""Vacuum wavelengths of the lines that a chromosphere fills."""

COSMIC_RAYS_PER_SPECTRUM = 3.0
COSMIC_RAYS_UNFLAGGED = 1.0 / 3.0
DEAD_RUNS_PER_FIBRE = 4.0

_APERTURE_CM2 = 1.2e5
_PEAK_THROUGHPUT = 0.02
_FIBRE_ARCSEC2 = 8.55
_SKY_CONTINUUM = 1.2e-17
_READ_VARIANCE = 300.0
_H_C = 1.98644586e-8  # erg Angstrom
_THROUGHPUT_AA = (5900, 6000, 6250, 6500, 7000, 7400, 8000, 8500, 8950, 9150)
_THROUGHPUT = (0.41, 0.49, 0.66, 0.82, 1.0, 0.92, 0.85, 0.66, 0.38, 0.32)
_LSF_NODES = (0.64, 1.0, 1.5)
_H4, _WING_FRACTION, _WING_SCALE = 0.05, 0.05, 3.0
_COARSE_STEP = 1.0e-4
_N_TAPS = 6


@dataclass(frozen=True)
class Visits:
    """What happened at the telescope: one row a spectrum, all arrays of shape (n,).

    Parameters
    ----------
    index : int
        Number of the spectrum in the survey: the key of its noise and its cosmic rays.
    star : int
        Row of the star in the fluxes given to `observe`.
    companion : int
        Row of an unresolved companion, -1 for none.
    rv_kms, companion_rv_kms : float
        Heliocentric velocities.
    dilution, companion_dilution : float
        (R/d)^2: surface flux to flux at Earth.
    helio_kms : float
        Heliocentric correction: the frame of the sky moves by this much.
    plate, spectrograph, fibre : int
        Where it was observed: keys of the calibration.
    exposure_s, transparency, sky_scale : float
        Exposure time, fraction of the nominal light that entered the fibre, sky over dark sky.
    halpha_ew_aa : float
        Halpha emission equivalent width of the star's chromosphere (0 if inactive), Angstrom.
    """

    index: np.ndarray
    star: np.ndarray
    companion: np.ndarray
    rv_kms: np.ndarray
    companion_rv_kms: np.ndarray
    dilution: np.ndarray
    companion_dilution: np.ndarray
    helio_kms: np.ndarray
    plate: np.ndarray
    spectrograph: np.ndarray
    fibre: np.ndarray
    exposure_s: np.ndarray
    transparency: np.ndarray
    sky_scale: np.ndarray
    halpha_ew_aa: np.ndarray

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name).shape for name in self.__dataclass_fields__}
        if len(set(sizes.values())) != 1 or self.index.ndim != 1:
            raise MismatchError(f"columns of the visits differ in shape: {sizes}.")

    def __len__(self) -> int:
        return self.index.size

    def take(self, rows: np.ndarray) -> Visits:
        """The visits at `rows`."""
        return Visits(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Observation:
    """Spectra as the pipeline of the survey delivers them, shape (n, n_pix), float32.

    Parameters
    ----------
    flux, ivar : (n, n_pix)
        Flux in `FLUX_UNIT` and its stated inverse variance; bad pixels hold 0 in both.
    noiseless : (n, n_pix)
        What would have been seen without noise, sky residuals, cosmic rays and dead pixels.
    sigma : (n, n_pix)
        True standard deviation of the noise.
    mask : (n, n_pix) uint8
        1 where the pipeline knows a pixel to be bad.
    snr_r, snr_i : (n,)
        True median signal-to-noise of a pixel as LAMOST quotes it.
    """

    flux: np.ndarray
    ivar: np.ndarray
    noiseless: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    snr_r: np.ndarray
    snr_i: np.ndarray


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
        """Spectra (n_width, n, m) at relative widths `width` (n, m): (n, m)."""
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
        """Values of coarse spectra (n, m) at rest-frame ln(wavelength) (n, n_pix)."""
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


def observe(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    visits: Visits,
    *,
    gap: DomainGap,
    seed: int,
    companion_flux: np.ndarray | None = None,
    sampler: LsfSampler | None = None,
) -> Observation:
    """Observe stars with the survey's spectrographs.

    Parameters
    ----------
    wave_aa : (n_wave,)
        Fine vacuum wavelengths, equidistant in ln(wavelength).
    flux : (n_star, n_wave)
        Surface fluxes of the stars, erg s^-1 cm^-2 Angstrom^-1, rest frame.
    visits : Visits
        The exposures; several may show one star.
    gap : DomainGap
        What is wrong with star, instrument and pipeline. Photon noise is always there.
    seed : int
        Seed of the survey. Every spectrum, fibre and plate has random streams of its own, so the
        result does not depend on how visits are put into batches.
    companion_flux : (n_companion, n_wave), optional
        Surface fluxes of unresolved companions.
    sampler : LsfSampler, optional
        From `make_sampler`, to make it once for many batches.

    Returns
    -------
    Observation

    Raises
    ------
    MismatchError
        If shapes disagree.
    """
    flux = np.asarray(flux, dtype=np.float32)
    if flux.ndim != 2 or flux.shape[1] != np.size(wave_aa):
        raise MismatchError(f"fluxes {flux.shape} and {np.size(wave_aa)} wavelengths disagree.")
    sampler = sampler or make_sampler(wave_aa, gap)
    draws = _Streams(seed)
    log_native = np.log(NATIVE_GRID.wave_aa)

    width = _lsf_width(visits, gap, draws, sampler.coarse_log_wave)
    shift_kms = _wavelength_error(visits, gap, draws)
    components = [(flux, visits.star, visits.rv_kms, visits.dilution, np.arange(len(visits)))]
    second = np.flatnonzero(visits.companion >= 0)
    if second.size:
        if companion_flux is None:
            raise MismatchError("visits name companions, but there are no companion fluxes.")
        components.append(
            (
                np.asarray(companion_flux, dtype=np.float32),
                visits.companion[second],
                visits.companion_rv_kms[second],
                visits.companion_dilution[second],
                second,
            )
        )
    clean = np.zeros((len(visits), NATIVE_GRID.n_pix), dtype=np.float32)
    for spectra, star, rv_kms, dilution, rows in components:
        lit = _with_chromosphere(wave_aa, spectra, star, visits.halpha_ew_aa[rows], gap)
        coarse = sampler.convolve(lit)
        mixed = sampler.mix(coarse[:, star], None if width is None else width[rows])
        # The pipeline labels light of wavelength w (1 + z) with w (1 + z)(1 + error).
        log_rest = log_native - np.log1p(rv_kms / SPEED_OF_LIGHT_KMS)[:, None]
        if shift_kms is not None:
            log_rest = log_rest - shift_kms[rows] / SPEED_OF_LIGHT_KMS
        seen = sampler.sample(mixed, log_rest)
        clean[rows] += seen * (dilution / FLUX_UNIT).astype(np.float32)[:, None]

    frame = visits.helio_kms
    if gap.telluric_residuals > 0:
        clean *= _telluric_factor(visits, gap, draws, frame)
    sky_lines = _shifted(_sky_template(), frame) / np.float32(FLUX_UNIT)
    sky = (
        _FIBRE_ARCSEC2
        * visits.sky_scale[:, None].astype(np.float32)
        * np.float32(_SKY_CONTINUUM / FLUX_UNIT)
        + sky_lines
    )
    electrons = _electrons_per_flux(visits)
    entered = visits.transparency[:, None].astype(np.float32)
    # Sky is subtracted with some twenty sky fibres, whose noise adds.
    variance = electrons * entered * np.maximum(clean, 0) + 1.05 * electrons * sky + _READ_VARIANCE
    sigma = np.sqrt(variance) / (electrons * entered)

    observed = clean + sigma * draws.normal("noise", visits.index, NATIVE_GRID.n_pix)
    if gap.sky_residuals > 0:
        observed += _sky_residual(visits, gap, draws, frame) / entered
    response = None
    if gap.flux_calibration > 0:
        response = _response(visits, gap, draws)
        observed, sigma, clean = observed * response, sigma * response, clean * response
    ivar = np.float32(gap.ivar_factor) / sigma**2
    mask = np.zeros(observed.shape, dtype=np.uint8)
    if gap.cosmic_rays > 0:
        _hit(observed, sigma, mask, visits, gap, draws)
    if gap.dead_pixels > 0:
        dead = _dead_pixels(visits, gap, draws)
        mask |= dead
        observed[dead > 0] = 0.0
    ivar[mask > 0] = 0.0
    snr = clean / sigma
    wave = NATIVE_GRID.wave_aa
    return Observation(
        flux=observed.astype(np.float32),
        ivar=ivar.astype(np.float32),
        noiseless=clean,
        sigma=sigma.astype(np.float32),
        mask=mask,
        snr_r=np.median(snr[:, _within(wave, SNR_R_RANGE_AA)], axis=1) / SNR_R_RATIO,
        snr_i=np.median(snr[:, _within(wave, SNR_I_RANGE_AA)], axis=1),
    )


def make_sampler(wave_aa: np.ndarray, gap: DomainGap) -> LsfSampler:
    """The convolution that `gap` asks for."""
    return LsfSampler(
        wave_aa, shape_strength=gap.lsf_shape, n_widths=3 if gap.lsf_variation > 0 else 1
    )


def telluric_depth(wave_aa: np.ndarray) -> np.ndarray:
    """Effective telluric optical depth at R = 1800 (observatory frame), zero outside the bands.

    O2 bands are computed line by line from rotational constants (Babcock & Herzberg 1948, ApJ 108
    167) with Boltzmann populations at 250 K; H2O bands are fixed random forests of lines under the
    bands' envelopes, whose single lines are not real ones. Peak depths are typical of one air mass.

    Examples
    --------
    >>> telluric_depth(np.array([7000.0, 7606.0])).round(1).tolist()
    [0.0, 1.4]
    """
    grid, depth = _telluric_template()
    return np.interp(np.log(wave_aa), grid, depth, left=0.0, right=0.0)


class _Streams:
    """Random numbers keyed by what they belong to, so that nothing depends on order or batches."""

    def __init__(self, seed: int) -> None:
        self._key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def generator(self, purpose: str, item: int) -> np.random.Generator:
        stream = _PURPOSES.index(purpose)
        key = np.array([self._key, (stream << 56) | item], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def normal(self, purpose: str, items: np.ndarray, n: int) -> np.ndarray:
        """Standard normal deviates (n_items, n), the same for the same item."""
        unique, inverse = np.unique(items, return_inverse=True)
        draws = np.empty((unique.size, n), dtype=np.float32)
        for row, item in enumerate(unique):
            self.generator(purpose, int(item)).standard_normal(out=draws[row], dtype=np.float32)
        return draws if np.array_equal(unique, items) else draws[inverse]


_PURPOSES = ("noise", *CAUSES, "flux_calibration_fibre")


def _place(visits: Visits) -> np.ndarray:
    """One number for each (plate, spectrograph)."""
    return visits.plate.astype(np.int64) * 16 + visits.spectrograph


def _fibre(visits: Visits) -> np.ndarray:
    """One number for each fibre of the instrument, the same on all plates."""
    return visits.spectrograph.astype(np.int64) * 250 + visits.fibre


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


def _within(wave: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (wave >= bounds[0]) & (wave <= bounds[1])


def _unit(log_wave: np.ndarray) -> np.ndarray:
    """ln(wavelength) mapped to -1..1 over the native pixels."""
    first, last = np.log(NATIVE_GRID.wave_aa[[0, -1]])
    return 2 * (log_wave - first) / (last - first) - 1


def _smooth(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Chebyshev series with coefficients (n, order + 1) at `x` (m,): (n, m) float32."""
    basis = chebyshev.chebvander(x, coefficients.shape[1] - 1).T.astype(np.float32)
    return coefficients.astype(np.float32) @ basis


def _lsf_width(visits, gap, draws, log_wave) -> np.ndarray | None:
    if gap.lsf_variation == 0:
        return None
    fibre = draws.normal("lsf_variation", _fibre(visits), 3)
    amplitude = gap.lsf_variation * np.array([0.08, 0.03, 0.02])
    coefficients = fibre * amplitude
    # All spectrographs are sharpest in the middle of the arm.
    coefficients[:, 2] += 0.06 * gap.lsf_variation
    return np.clip(1.0 + _smooth(coefficients, _unit(log_wave)), 0.78, 1.35)


def _wavelength_error(visits, gap, draws) -> np.ndarray | None:
    if gap.wavelength_solution == 0:
        return None
    normal = draws.normal("wavelength_solution", _place(visits), 8)
    # Orders 2-8 with equal weights have rms 4 km/s after averaging T_k^2 over the range.
    coefficients = np.zeros((len(visits), 9))
    coefficients[:, 0] = 2.0 * normal[:, 0]
    coefficients[:, 2:] = 4.0 / np.sqrt(7 * 0.5) * normal[:, 1:]
    return gap.wavelength_solution * _smooth(coefficients, _unit(np.log(NATIVE_GRID.wave_aa)))


def _response(visits, gap, draws) -> np.ndarray:
    order = np.arange(1, 6)
    place = draws.normal("flux_calibration", _place(visits), 6)
    # Fibres differ within a plate; the grey part is the light a badly placed fibre loses.
    fibre = draws.normal("flux_calibration_fibre", _place(visits) * 250 + visits.fibre, 6)
    coefficients = np.empty((len(visits), 6))
    coefficients[:, 0] = 0.15 * fibre[:, 0]
    coefficients[:, 1:] = (0.10 * place[:, 1:] + 0.04 * fibre[:, 1:]) / order
    x = _unit(np.log(NATIVE_GRID.wave_aa))
    return np.exp(gap.flux_calibration * _smooth(coefficients, x))


def _telluric_factor(visits, gap, draws, frame_kms) -> np.ndarray:
    normal = draws.normal("telluric_residuals", _place(visits), 2)
    oxygen, water = _telluric_on_pixels()
    log = np.zeros((len(visits), NATIVE_GRID.n_pix), dtype=np.float32)
    for column, template in enumerate((oxygen, water)):
        error = (0.2 * gap.telluric_residuals * normal[:, column]).astype(np.float32)
        log -= error[:, None] * _shifted(template, frame_kms)
    return np.exp(log)


def _sky_residual(visits, gap, draws, frame_kms) -> np.ndarray:
    """Night-sky lines over- or under-subtracted and misplaced, in flux that entered the fibre."""
    normal = draws.normal("sky_residuals", visits.index, 2)
    strength = (0.03 * gap.sky_residuals * normal[:, 0]).astype(np.float32)
    shift_aa = (0.05 * gap.sky_residuals * normal[:, 1]).astype(np.float32)
    lines = _shifted(_sky_template(), frame_kms)
    slope = np.gradient(lines, axis=1) / NATIVE_GRID.widths_aa.astype(np.float32)
    return (strength[:, None] * lines + shift_aa[:, None] * slope) / np.float32(FLUX_UNIT)


def _hit(observed, sigma, mask, visits, gap, draws) -> None:
    """Add cosmic rays in place; the pipeline masks those that it recognises."""
    n_pix = observed.shape[1]
    for row, index in enumerate(visits.index):
        random = draws.generator("cosmic_rays", int(index))
        for _ in range(random.poisson(COSMIC_RAYS_PER_SPECTRUM * gap.cosmic_rays)):
            first = int(random.integers(0, n_pix - 3))
            size = int(random.integers(1, 4))
            height = 8.0 * np.exp(random.exponential(0.8))
            recognised = random.random() > COSMIC_RAYS_UNFLAGGED
            pixels = slice(first, first + size)
            observed[row, pixels] += height * sigma[row, pixels]
            if recognised:
                mask[row, pixels] = 1


def _dead_pixels(visits, gap, draws) -> np.ndarray:
    fibre = _fibre(visits)
    unique, inverse = np.unique(fibre, return_inverse=True)
    dead = np.zeros((unique.size, NATIVE_GRID.n_pix), dtype=np.uint8)
    for row, item in enumerate(unique):
        random = draws.generator("dead_pixels", int(item))
        for _ in range(random.poisson(DEAD_RUNS_PER_FIBRE * gap.dead_pixels)):
            first = int(random.integers(0, NATIVE_GRID.n_pix))
            dead[row, first : first + int(random.integers(1, 9))] = 1
    return dead[inverse]


def _electrons_per_flux(visits: Visits) -> np.ndarray:
    """Electrons that one unit of flux entering a fibre gives in each native pixel, (n, n_pix)."""
    wave = NATIVE_GRID.wave_aa
    throughput = _PEAK_THROUGHPUT * np.interp(wave, _THROUGHPUT_AA, _THROUGHPUT)
    per_second = FLUX_UNIT * _APERTURE_CM2 * throughput * wave / _H_C * NATIVE_GRID.widths_aa
    return (visits.exposure_s[:, None] * per_second).astype(np.float32)


def _with_chromosphere(wave_aa, flux, star, halpha_ew_aa, gap) -> np.ndarray:
    """Surface fluxes with emission in the stars that have any (copied only then)."""
    if gap.chromosphere == 0:
        return flux
    emission = np.zeros(flux.shape[0])
    np.maximum.at(emission, star, halpha_ew_aa * gap.chromosphere)
    active = np.flatnonzero(emission > 0)
    if active.size == 0:
        return flux
    lit = flux.copy()
    wave = np.asarray(wave_aa)
    # The calcium cores of dMe stars are filled by a fraction of an Angstrom.
    lines = [(HALPHA_AA, 1.0, 0.9), *((line, 0.12, 0.35) for line in CALCIUM_TRIPLET_AA)]
    for centre, share, sigma_aa in lines:
        near = _within(wave, (centre - 5 * sigma_aa, centre + 5 * sigma_aa))
        around = _within(wave, (centre - 25, centre + 25)) & ~near
        profile = np.exp(-0.5 * ((wave[near] - centre) / sigma_aa) ** 2)
        profile /= sigma_aa * np.sqrt(2 * np.pi)
        continuum = np.median(lit[active][:, around], axis=1)
        lit[np.ix_(active, np.flatnonzero(near))] += (
            (share * emission[active] * continuum)[:, None] * profile
        ).astype(np.float32)
    return lit


def _shifted(template: np.ndarray, frame_kms: np.ndarray) -> np.ndarray:
    """A template on oversampled native pixels, moved by `frame_kms` (n,): (n, n_pix) float32."""
    shift = np.log1p(frame_kms / SPEED_OF_LIGHT_KMS) / NATIVE_GRID.step * _OVERSAMPLING
    position = _OVERSAMPLING * np.arange(NATIVE_GRID.n_pix) + _MARGIN - shift[:, None]
    base = np.clip(np.floor(position).astype(np.int32), 0, template.size - 2)
    offset = (position - base).astype(np.float32)
    return template[base] * (1 - offset) + template[base + 1] * offset


_OVERSAMPLING = 8
_MARGIN = 80


def _oversampled_log_wave() -> np.ndarray:
    """ln(wavelength) of the templates that `_shifted` moves."""
    step = NATIVE_GRID.step / _OVERSAMPLING
    n = _OVERSAMPLING * NATIVE_GRID.n_pix + 2 * _MARGIN
    return np.log(NATIVE_GRID.start_aa) + step * (np.arange(n) - _MARGIN)


@lru_cache(maxsize=1)
def _sky_template() -> np.ndarray:
    """Night-sky lines at the resolution of the instrument, erg/s/cm2/A in one fibre."""
    path = resources.files("jaxmdwarf.simulate") / "data" / "night_sky.csv"
    wave = np.exp(_oversampled_log_wave())
    sky = np.zeros_like(wave)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    centres = air_to_vacuum(np.array([float(row["wave_air_aa"]) for row in rows]))
    for row, centre in zip(rows, centres, strict=True):
        sigma = centre / (RESOLUTION * FWHM_OF_SIGMA)
        total = float(row["flux_1e16"]) * 1e-16 * _FIBRE_ARCSEC2 / (sigma * np.sqrt(2 * np.pi))
        sky += total * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    return sky.astype(np.float32)


@lru_cache(maxsize=1)
def _telluric_on_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Optical depths of O2 and H2O for `_shifted`."""
    log_wave = _oversampled_log_wave()
    depth = telluric_depth(np.exp(log_wave))
    wave = np.exp(log_wave)
    oxygen = np.zeros(wave.size, dtype=bool)
    for name, bounds in TELLURIC_BANDS.items():
        if name.startswith("O2"):
            oxygen |= _within(wave, bounds)
    return (
        np.where(oxygen, depth, 0.0).astype(np.float32),
        np.where(oxygen, 0.0, depth).astype(np.float32),
    )


_OXYGEN_BANDS = ((13120.9, 1.3912, 80.0), (14525.7, 1.3730, 5.0), (15902.4, 1.3548, 0.3))
"""O2 b-X (0-0), (1-0), (2-0): origin and upper rotational constant in cm^-1, depth of the strongest
line at one air mass."""
_WATER_BANDS = (("H2O 7200", 0.8, 150), ("H2O 8200", 1.2, 200), ("H2O 9000", 5.0, 200))


@lru_cache(maxsize=1)
def _telluric_template() -> tuple[np.ndarray, np.ndarray]:
    """ln(wavelength) and effective optical depth at the resolution of the instrument."""
    step = 2e-6
    grid = np.arange(np.log(6200.0), np.log(9160.0), step)
    wave = np.exp(grid)
    fine = np.zeros_like(wave)
    for origin, b_upper, peak in _OXYGEN_BANDS:
        for centre, strength in zip(*_oxygen_lines(origin, b_upper), strict=True):
            _add_line(fine, grid, centre, peak * strength)
    random = np.random.Generator(np.random.Philox(key=np.array([7, 11], dtype=np.uint64)))
    for name, peak, n_lines in _WATER_BANDS:
        low, high = TELLURIC_BANDS[name]
        x = random.beta(2.0, 2.0, n_lines)
        strengths = peak * np.exp(random.normal(0.0, 1.2, n_lines))
        for centre, strength in zip(low + 8 + (high - low - 16) * x, strengths, strict=True):
            _add_line(fine, grid, centre, strength)
    # Lines saturate before the spectrograph smooths them: that order fixes the effective depth.
    thin = 12
    absorbed = (1 - np.exp(-fine))[: fine.size // thin * thin].reshape(-1, thin).mean(axis=1)
    grid = grid[: absorbed.size * thin].reshape(-1, thin).mean(axis=1)
    wave = np.exp(grid)
    sigma = 1.0 / (RESOLUTION * FWHM_OF_SIGMA) / (thin * step)
    reach = int(6 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    absorbed = np.convolve(absorbed, kernel / kernel.sum(), mode="same")
    depth = -np.log1p(-np.clip(absorbed, 0, 0.99))
    taper = np.zeros_like(wave)
    for low, high in TELLURIC_BANDS.values():
        taper = np.maximum(taper, np.clip(np.minimum(wave - low, high - wave) / 4.0, 0, 1))
    return grid, depth * taper


def _oxygen_lines(origin: float, b_upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Vacuum wavelengths and relative strengths of the P and R lines of an O2 b-X band."""
    b_lower = 1.4377
    n = np.arange(1, 40, 2)  # only odd N exist for 16O2
    population = (2 * n + 1) * np.exp(-1.4388 * b_lower * n * (n + 1) / 250.0)
    lines = []
    for upper in (n + 1, n - 1):
        nu = origin + b_upper * upper * (upper + 1) - b_lower * n * (n + 1)
        # Spin splits every line into a pair about 2 cm^-1 apart.
        lines += [nu, nu + 1.9]
    strength = population / population.max()
    return 1e8 / np.concatenate(lines), np.tile(strength, len(lines))


def _add_line(depth: np.ndarray, grid: np.ndarray, centre_aa: float, strength: float) -> None:
    """Add a pressure-broadened line (half width 0.06 cm^-1) of given central depth in place."""
    step = grid[1] - grid[0]
    middle = int((np.log(centre_aa) - grid[0]) / step)
    span = slice(max(middle - 400, 0), max(middle + 401, 0))
    x = (grid[span] - np.log(centre_aa)) / 4.5e-6
    depth[span] += strength / (1 + x**2)
