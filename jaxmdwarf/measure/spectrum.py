"""Everything that is read off one spectrum without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.measure.halpha import is_active, measure_halpha
from jaxmdwarf.measure.indices import measure_indices
from jaxmdwarf.measure.metallicity_class import estimate_zeta
from jaxmdwarf.measure.snr import estimate_snr
from jaxmdwarf.measure.spectral_type import estimate_spectral_type
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import doppler_factor

LOW_SNR_BELOW = 5.0
WINDOW_AA = (6000.0, 8900.0)
INDICES = ("tio5", "cah1", "cah2", "cah3")


@dataclass(frozen=True)
class SpectrumMeasurements:
    """The numbers of one spectrum; NaN where one cannot be measured, `flags` says why to doubt."""

    snr_r: float
    snr_i: float
    ew_halpha: float
    e_ew_halpha: float
    active: bool
    tio5: float
    e_tio5: float
    cah1: float
    e_cah1: float
    cah2: float
    e_cah2: float
    cah3: float
    e_cah3: float
    zeta: float
    e_zeta: float
    spt: float
    e_spt: float
    flags: QualityFlag


def measure_spectrum(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    rv_kms: float = 0.0,
    snr_r: float = math.nan,
    snr_i: float = math.nan,
) -> SpectrumMeasurements:
    """Measure S/N, Halpha, TiO5, CaH1-3, zeta and the spectral subtype of one spectrum.

    Parameters
    ----------
    wave_aa : (n,) float
        Observed vacuum wavelengths, Angstrom, increasing.
    flux : (n,) float
        Flux per Angstrom, any unit, finite.
    ivar : (n,) float
        Inverse variance; 0 marks a bad pixel.
    rv_kms : float
        Velocity that brings the spectrum to rest, km/s, positive receding.
    snr_r, snr_i : float
        What the survey says; measured from the spectrum where NaN.

    Returns
    -------
    SpectrumMeasurements

    Examples
    --------
    >>> wave = np.arange(6000.0, 8900.0)
    >>> flux = np.where((wave > 7120) & (wave < 7200), 0.6, 1.0)
    >>> row = measure_spectrum(wave, flux, np.full(2900, 900.0))
    >>> round(row.tio5, 2), round(row.spt, 1), row.active, row.flags.name
    (0.6, 1.7, False, 'OK')
    """
    rest_aa = wave_aa / doppler_factor(rv_kms)
    if not math.isfinite(snr_r):
        snr_r = estimate_snr(wave_aa, flux, ivar, "r")
    if not math.isfinite(snr_i):
        snr_i = estimate_snr(wave_aa, flux, ivar, "i")
    halpha = measure_halpha(rest_aa, flux, ivar)
    indices = measure_indices(INDICES, rest_aa, flux, ivar)
    tio5, cah1, cah2, cah3 = (indices[name] for name in INDICES)
    zeta = estimate_zeta(tio5, cah2, cah3)
    spt = estimate_spectral_type(tio5)
    flags = QualityFlag.OK
    if snr_r < LOW_SNR_BELOW or snr_i < LOW_SNR_BELOW:
        flags |= QualityFlag.LOW_SNR
    first, last = wave_aa.searchsorted(WINDOW_AA)
    if 2 * np.count_nonzero(ivar[first:last]) < last - first:
        flags |= QualityFlag.FEW_PIXELS
    return SpectrumMeasurements(
        snr_r=snr_r,
        snr_i=snr_i,
        ew_halpha=halpha.value,
        e_ew_halpha=halpha.error,
        active=is_active(halpha.value),
        tio5=tio5.value,
        e_tio5=tio5.error,
        cah1=cah1.value,
        e_cah1=cah1.error,
        cah2=cah2.value,
        e_cah2=cah2.error,
        cah3=cah3.value,
        e_cah3=cah3.error,
        zeta=zeta.value,
        e_zeta=zeta.error,
        spt=spt.value,
        e_spt=spt.error,
        flags=flags,
    )
