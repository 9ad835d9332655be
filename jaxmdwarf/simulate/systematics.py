"""Systematic errors between a star and its file: the causes of `DomainGap` that act on spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import FLUX_UNIT, NATIVE_GRID
from jaxmdwarf.simulate.sky import shift_template, sky_template, telluric_on_pixels
from jaxmdwarf.simulate.streams import RandomStreams
from jaxmdwarf.simulate.visits import Visits
from jaxmdwarf.wavelengths import is_within

HALPHA_AA = 6564.61
CALCIUM_TRIPLET_AA = (8500.35, 8544.44, 8664.52)
"""Vacuum wavelengths of the lines that a chromosphere fills."""

COSMIC_RAYS_PER_SPECTRUM = 3.0
COSMIC_RAYS_UNFLAGGED = 1.0 / 3.0
DEAD_RUNS_PER_FIBRE = 4.0


def _unit(log_wave: np.ndarray) -> np.ndarray:
    """ln(wavelength) mapped to -1..1 over the native pixels."""
    first, last = np.log(NATIVE_GRID.wave_aa[[0, -1]])
    return 2 * (log_wave - first) / (last - first) - 1


def _smooth(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Chebyshev series with coefficients (n, order + 1) at `x` (m,): (n, m) float32."""
    basis = chebyshev.chebvander(x, coefficients.shape[1] - 1).T.astype(np.float32)
    return coefficients.astype(np.float32) @ basis


@dataclass(frozen=True)
class Systematics:
    """Systematic errors of exposures, each from random streams of its own.

    Arrays have a row for each of n visits and a column for each native pixel, unless said.

    Parameters
    ----------
    visits : Visits
    gap : DomainGap
        Strengths; a cause of strength 0 has no effect.
    streams : RandomStreams
    """

    visits: Visits
    gap: DomainGap
    streams: RandomStreams

    def lsf_width(self, log_wave: np.ndarray) -> np.ndarray | None:
        """Width of the line-spread function over the nominal one at ln(wavelength) (m,): (n, m).

        None where all have the nominal width.
        """
        strength = self.gap.lsf_variation
        if strength == 0:
            return None
        fibre = self.streams.normal("lsf_variation", self.visits.fibre_of_instrument, 3)
        amplitude = strength * np.array([0.08, 0.03, 0.02])
        coefficients = fibre * amplitude
        # All spectrographs are sharpest in the middle of the arm.
        coefficients[:, 2] += 0.06 * strength
        return np.clip(1.0 + _smooth(coefficients, _unit(log_wave)), 0.78, 1.35)

    def wavelength_error(self) -> np.ndarray | None:
        """Wiggles and a zero point of each plate's wavelength solution, km/s; None for none."""
        strength = self.gap.wavelength_solution
        if strength == 0:
            return None
        normal = self.streams.normal("wavelength_solution", self.visits.place, 8)
        # Orders 2-8 with equal weights have rms 4 km/s after averaging T_k^2 over the range.
        coefficients = np.zeros((len(self.visits), 9))
        coefficients[:, 0] = 2.0 * normal[:, 0]
        coefficients[:, 2:] = 4.0 / np.sqrt(7 * 0.5) * normal[:, 1:]
        return strength * _smooth(coefficients, _unit(np.log(NATIVE_GRID.wave_aa)))

    def response(self) -> np.ndarray:
        """Smooth factors on the flux that a wrong calibration of plate and fibre leaves."""
        order = np.arange(1, 6)
        place = self.streams.normal("flux_calibration", self.visits.place, 6)
        # Fibres differ within a plate; the grey part is the light a badly placed fibre loses.
        number = self.visits.place * 250 + self.visits.fibre
        fibre = self.streams.normal("flux_calibration_fibre", number, 6)
        coefficients = np.empty((len(self.visits), 6))
        coefficients[:, 0] = 0.15 * fibre[:, 0]
        coefficients[:, 1:] = (0.10 * place[:, 1:] + 0.04 * fibre[:, 1:]) / order
        x = _unit(np.log(NATIVE_GRID.wave_aa))
        return np.exp(self.gap.flux_calibration * _smooth(coefficients, x))

    def telluric_residual(self) -> np.ndarray:
        """Factors on the flux that a wrong correction of telluric bands leaves."""
        normal = self.streams.normal("telluric_residuals", self.visits.place, 2)
        oxygen, water = telluric_on_pixels()
        log = np.zeros((len(self.visits), NATIVE_GRID.n_pix), dtype=np.float32)
        for column, template in enumerate((oxygen, water)):
            error = (0.2 * self.gap.telluric_residuals * normal[:, column]).astype(np.float32)
            log -= error[:, None] * shift_template(template, self.visits.helio_kms)
        return np.exp(log)

    def sky_residual(self) -> np.ndarray:
        """Night-sky lines subtracted wrongly and out of place, `FLUX_UNIT` that entered a fibre."""
        normal = self.streams.normal("sky_residuals", self.visits.index, 2)
        strength = (0.03 * self.gap.sky_residuals * normal[:, 0]).astype(np.float32)
        shift_aa = (0.05 * self.gap.sky_residuals * normal[:, 1]).astype(np.float32)
        lines = shift_template(sky_template(), self.visits.helio_kms)
        slope = np.gradient(lines, axis=1) / NATIVE_GRID.widths_aa.astype(np.float32)
        return (strength[:, None] * lines + shift_aa[:, None] * slope) / np.float32(FLUX_UNIT)

    def add_cosmic_rays(self, flux: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> None:
        """Add cosmic rays in place; the pipeline masks those that it recognises.

        Parameters
        ----------
        flux, sigma : (n, n_pix)
            Flux, changed where there are hits, and its one-sigma noise.
        mask : (n, n_pix) uint8
            Gets 1 where a hit is recognised.
        """
        n_pix = flux.shape[1]
        for row, index in enumerate(self.visits.index):
            random = self.streams.generator("cosmic_rays", int(index))
            for _ in range(random.poisson(COSMIC_RAYS_PER_SPECTRUM * self.gap.cosmic_rays)):
                first = int(random.integers(0, n_pix - 3))
                size = int(random.integers(1, 4))
                height = 8.0 * np.exp(random.exponential(0.8))
                recognised = random.random() > COSMIC_RAYS_UNFLAGGED
                pixels = slice(first, first + size)
                flux[row, pixels] += height * sigma[row, pixels]
                if recognised:
                    mask[row, pixels] = 1

    def dead_pixels(self) -> np.ndarray:
        """Bad columns of the detector, the same for all spectra of a fibre: uint8, 1 where dead."""
        unique, inverse = np.unique(self.visits.fibre_of_instrument, return_inverse=True)
        dead = np.zeros((unique.size, NATIVE_GRID.n_pix), dtype=np.uint8)
        for row, item in enumerate(unique):
            random = self.streams.generator("dead_pixels", int(item))
            for _ in range(random.poisson(DEAD_RUNS_PER_FIBRE * self.gap.dead_pixels)):
                first = int(random.integers(0, NATIVE_GRID.n_pix))
                dead[row, first : first + int(random.integers(1, 9))] = 1
        return dead[inverse]


def add_chromospheres(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    star: np.ndarray,
    halpha_ew_aa: np.ndarray,
    gap: DomainGap,
) -> np.ndarray:
    """Surface fluxes with the lines of chromospheres (copied only if there are any).

    Parameters
    ----------
    wave_aa : (n_wave,)
    flux : (n_star, n_wave)
        Surface fluxes.
    star : (n,)
        Row of `flux` that each visit shows.
    halpha_ew_aa : (n,)
        Equivalent width of Halpha of each visit's star, emission positive, Angstrom; the same for
        all visits of a star.
    gap : DomainGap
    """
    if gap.chromosphere == 0:
        return flux
    halpha = np.zeros(flux.shape[0])
    halpha[star] = halpha_ew_aa * gap.chromosphere
    if not halpha.any():
        return flux
    lit = flux.copy()
    wave = np.asarray(wave_aa)
    # The calcium cores of dMe stars are filled by a fraction of an Angstrom.
    calcium = 0.12 * np.maximum(halpha, 0.0)
    lines = [(HALPHA_AA, halpha, 0.9), *((line, calcium, 0.35) for line in CALCIUM_TRIPLET_AA)]
    for centre, ew_aa, sigma_aa in lines:
        shown = np.flatnonzero(ew_aa)
        near = is_within(wave, (centre - 5 * sigma_aa, centre + 5 * sigma_aa))
        around = is_within(wave, (centre - 25, centre + 25)) & ~near
        profile = np.exp(-0.5 * ((wave[near] - centre) / sigma_aa) ** 2)
        profile /= sigma_aa * np.sqrt(2 * np.pi)
        continuum = np.median(lit[shown][:, around], axis=1)
        lit[np.ix_(shown, np.flatnonzero(near))] += (
            (ew_aa[shown] * continuum)[:, None] * profile
        ).astype(np.float32)
    return lit
