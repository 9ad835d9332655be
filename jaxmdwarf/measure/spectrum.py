"""Everything that is read off one spectrum without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    columns = measure_spectra(
        wave_aa, flux[None], ivar[None], rv_kms=rv_kms, snr_r=snr_r, snr_i=snr_i
    )
    values = {name: column[0].item() for name, column in columns.items()}
    return SpectrumMeasurements(**{**values, "flags": QualityFlag(values["flags"])})


def measure_spectra(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    rv_kms: np.ndarray | float = 0.0,
    snr_r: np.ndarray | float = math.nan,
    snr_i: np.ndarray | float = math.nan,
) -> dict[str, np.ndarray]:
    """Measure spectra that share their wavelengths; see `measure_spectrum`.

    Parameters
    ----------
    wave_aa : (n,) float
        Observed vacuum wavelengths, Angstrom, increasing.
    flux, ivar : (n_spec, n) float
    rv_kms, snr_r, snr_i : float or (n_spec,) float

    Returns
    -------
    dict of str to (n_spec,) array
        By the names of `SpectrumMeasurements`.
    """
    n_spec = len(flux)
    stretch = np.broadcast_to(doppler_factor(np.asarray(rv_kms, np.float64)), n_spec)
    columns: dict[str, np.ndarray] = {}
    bands: tuple[tuple[Literal["r", "i"], np.ndarray | float], ...] = (("r", snr_r), ("i", snr_i))
    for band, given in bands:
        known = np.array(np.broadcast_to(given, n_spec), np.float64)
        for row in np.flatnonzero(~np.isfinite(known)):
            known[row] = estimate_snr(wave_aa, flux[row], ivar[row], band)
        columns[f"snr_{band}"] = known
    halpha = measure_halpha(wave_aa, flux, ivar, stretch=stretch)
    indices = measure_indices(INDICES, wave_aa, flux, ivar, stretch=stretch)
    tio5 = indices["tio5"]
    measured = {
        "ew_halpha": halpha,
        **indices,
        "zeta": estimate_zeta(tio5, indices["cah2"], indices["cah3"]),
        "spt": estimate_spectral_type(tio5),
    }
    for name, found in measured.items():
        columns[name], columns[f"e_{name}"] = found
    columns["active"] = is_active(halpha.value)
    flags = np.zeros(n_spec, np.int32)
    low = (columns["snr_r"] < LOW_SNR_BELOW) | (columns["snr_i"] < LOW_SNR_BELOW)
    flags[low] |= int(QualityFlag.LOW_SNR)
    first, last = wave_aa.searchsorted(WINDOW_AA)
    few = 2 * np.count_nonzero(ivar[:, first:last], axis=1) < last - first
    flags[few] |= int(QualityFlag.FEW_PIXELS)
    columns["flags"] = flags
    return columns
