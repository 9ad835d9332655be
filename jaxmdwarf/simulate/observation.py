"""Mock observations: surface fluxes of stars to noisy pixels of a LAMOST-like survey."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import FLUX_UNIT, NATIVE_GRID, LsfSampler, electrons_per_flux
from jaxmdwarf.simulate.sky import FIBRE_ARCSEC2, shift_template, sky_template
from jaxmdwarf.simulate.streams import RandomStreams
from jaxmdwarf.simulate.systematics import Systematics, add_chromospheres
from jaxmdwarf.simulate.visits import Visits
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, is_within

SNR_R_RANGE_AA = (5902.0, 6800.0)
SNR_I_RANGE_AA = (6900.0, 8200.0)
SNR_R_RATIO = 1.11
"""LAMOST's S/N_r is the median over 5600-6800 Angstrom; without the part that is not simulated
the median comes out 1.11 times higher (measured on real spectra)."""

_SKY_CONTINUUM = 1.2e-17
_READ_VARIANCE = 300.0


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
    streams = RandomStreams(seed)
    errors = Systematics(visits, gap, streams)
    clean = _collect_light(wave_aa, flux, errors, sampler, companion_flux)
    if gap.telluric_residuals > 0:
        clean *= errors.telluric_residual()
    sigma = _noise_of(clean, visits)
    observed = clean + sigma * streams.normal("noise", visits.index, NATIVE_GRID.n_pix)
    if gap.sky_residuals > 0:
        entered = visits.transparency[:, None].astype(np.float32)
        observed += errors.sky_residual() / entered
    if gap.flux_calibration > 0:
        response = errors.response()
        observed, sigma, clean = observed * response, sigma * response, clean * response
    ivar = np.float32(gap.ivar_factor) / sigma**2
    mask = np.zeros(observed.shape, dtype=np.uint8)
    if gap.cosmic_rays > 0:
        errors.add_cosmic_rays(observed, sigma, mask)
    if gap.dead_pixels > 0:
        dead = errors.dead_pixels()
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
        snr_r=np.median(snr[:, is_within(wave, SNR_R_RANGE_AA)], axis=1) / SNR_R_RATIO,
        snr_i=np.median(snr[:, is_within(wave, SNR_I_RANGE_AA)], axis=1),
    )


def _collect_light(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    errors: Systematics,
    sampler: LsfSampler,
    companion_flux: np.ndarray | None,
) -> np.ndarray:
    """Light of stars and companions on native pixels, without noise or sky, (n, n_pix) float32."""
    visits = errors.visits
    width = errors.lsf_width(sampler.coarse_log_wave)
    shift_kms = errors.wavelength_error()
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
    log_native = np.log(NATIVE_GRID.wave_aa)
    clean = np.zeros((len(visits), NATIVE_GRID.n_pix), dtype=np.float32)
    for spectra, star, rv_kms, dilution, rows in components:
        lit = add_chromospheres(wave_aa, spectra, star, visits.halpha_ew_aa[rows], errors.gap)
        coarse = sampler.convolve(lit)
        mixed = sampler.mix(coarse[:, star], None if width is None else width[rows])
        # The pipeline labels light of wavelength w (1 + z) with w (1 + z)(1 + error).
        log_rest = log_native - np.log1p(rv_kms / SPEED_OF_LIGHT_KMS)[:, None]
        if shift_kms is not None:
            log_rest = log_rest - shift_kms[rows] / SPEED_OF_LIGHT_KMS
        seen = sampler.sample(mixed, log_rest)
        clean[rows] += seen * (dilution / FLUX_UNIT).astype(np.float32)[:, None]
    return clean


def _noise_of(clean: np.ndarray, visits: Visits) -> np.ndarray:
    """Standard deviation of photon and read noise of star and sky, in units of flux, (n, n_pix)."""
    sky_lines = shift_template(sky_template(), visits.helio_kms) / np.float32(FLUX_UNIT)
    sky = (
        FIBRE_ARCSEC2
        * visits.sky_scale[:, None].astype(np.float32)
        * np.float32(_SKY_CONTINUUM / FLUX_UNIT)
        + sky_lines
    )
    electrons = electrons_per_flux(visits)
    entered = visits.transparency[:, None].astype(np.float32)
    # Sky is subtracted with some twenty sky fibres, whose noise adds.
    variance = electrons * entered * np.maximum(clean, 0) + 1.05 * electrons * sky + _READ_VARIANCE
    return np.sqrt(variance) / (electrons * entered)


def make_sampler(wave_aa: np.ndarray, gap: DomainGap) -> LsfSampler:
    """The convolution that a domain gap asks for.

    Parameters
    ----------
    wave_aa : (n_wave,)
        Fine vacuum wavelengths, Angstrom, equidistant in ln(wavelength).
    gap : DomainGap
    """
    return LsfSampler(
        wave_aa, shape_strength=gap.lsf_shape, n_widths=3 if gap.lsf_variation > 0 else 1
    )
