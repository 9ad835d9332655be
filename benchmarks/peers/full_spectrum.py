"""Full-spectrum fitting with a multiplicative polynomial, as ULySS does; pPXF for the velocities.

Koleva et al. (2009, A&A 501, 1269); for LAMOST M dwarfs Ding et al. (2022, ApJS 260, 45). Spectra
keep their continuum. The template is an interpolator, a polynomial in the labels for the logarithm
of each pixel's flux, with [alpha/M] following [M/H] as that of models does; at every trial of the
labels the Legendre polynomial that multiplies it is solved for. Velocity and broadening are those
of pPXF (Cappellari 2023, MNRAS 526, 3273), fitted with the same kind of polynomial.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

from benchmarks.peers.common import (
    Estimate,
    Labeller,
    Peer,
    Stars,
    Theory,
    Training,
    invert_curvature,
)
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

NAMES = ("teff", "logg", "mh")

FASTEST_KMS = 600.0
"""Largest velocity, and broadening, that is looked for."""

_DEGREES = (3, 4, 5, 6, 7)
_COARSE = 12
_VELOCITY_DEGREE = 6
_LEAST_SIGMA_PIX = 0.3


class Interpolator:
    """Flux at labels: per pixel, a polynomial for its logarithm.

    Parameters
    ----------
    theory : Theory
    wave_aa : (n_wave,)
        Pixels, equidistant in log(wavelength), inside of those of the theory.

    Attributes
    ----------
    degree : int
        Of the polynomial, by its error on a fifth of the spectra that it has not seen.
    """

    def __init__(self, theory: Theory, wave_aa: np.ndarray) -> None:
        columns = [theory.names.index(name) for name in (*NAMES, "alpha_m")]
        labels = np.asarray(theory.labels, np.float64)[:, columns]
        self.lower, self.upper = labels.min(axis=0), labels.max(axis=0)
        self.wave_aa = wave_aa
        flux = np.array([np.interp(wave_aa, theory.grid.wave_aa, one) for one in theory.flux])
        self.flux = flux / flux.mean(axis=1, keepdims=True)
        self.scaled = self.scale(labels)
        told = np.arange(len(labels)) % 5 > 0
        errors = {}
        for degree in _DEGREES:
            found = self._learn(degree, told)(self.scaled[~told])
            errors[degree] = float(np.median(np.abs(found / self.flux[~told] - 1)))
        self.degree = min(errors, key=errors.__getitem__)
        self.predict = self._learn(self.degree, np.ones(len(labels), bool))

    def scale(self, labels: np.ndarray) -> np.ndarray:
        """Labels from -0.5 to 0.5."""
        return (labels - self.lower) / (self.upper - self.lower) - 0.5

    def complete(self, scaled: np.ndarray) -> np.ndarray:
        """The labels of `NAMES`, (..., 3), scaled, with [alpha/M], (..., 4)."""
        mh = self.lower[2] + (scaled[..., 2] + 0.5) * (self.upper[2] - self.lower[2])
        alpha = np.clip(-0.4 * mh, 0.0, 0.4)
        alpha = (alpha - self.lower[3]) / (self.upper[3] - self.lower[3]) - 0.5
        return np.concatenate([scaled, alpha[..., None]], axis=-1)

    def _learn(self, degree: int, rows: np.ndarray):
        terms = PolynomialFeatures(degree)
        regression = LinearRegression().fit(
            terms.fit_transform(self.scaled[rows]), np.log(self.flux[rows])
        )
        powers = terms.powers_
        slopes, constant = regression.coef_.T.copy(), regression.intercept_

        def predict(scaled: np.ndarray) -> np.ndarray:
            """Flux (m, n_wave) at scaled labels (m, 4)."""
            features = np.prod(np.asarray(scaled)[:, None, :] ** powers, axis=2)
            return np.exp(features @ slopes + constant)

        return predict


def fit_labels(
    interpolator: Interpolator,
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    start: np.ndarray,
    velocity: tuple[float, float],
    degree: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled labels of a star and their errors.

    Parameters
    ----------
    interpolator : Interpolator
    wave_aa, flux, ivar : (n_pix,)
    start : (3,)
    velocity : (float, float)
        Velocity and broadening, km/s.
    degree : int
        Of the multiplicative polynomial, which every trial solves for.
    """
    used = ivar > 0
    root, seen = np.sqrt(ivar[used]), flux[used]
    basis = legendre.legvander(np.linspace(-1, 1, wave_aa.size), degree)[used]
    shifted = interpolator.wave_aa * np.exp(velocity[0] / SPEED_OF_LIGHT_KMS)
    step_kms = SPEED_OF_LIGHT_KMS * np.log(wave_aa[1] / wave_aa[0])
    width = velocity[1] / step_kms

    def residual(at: np.ndarray) -> np.ndarray:
        template = interpolator.predict(interpolator.complete(at)[None])[0]
        if width > _LEAST_SIGMA_PIX:
            template = gaussian_filter1d(template, width, mode="nearest")
        columns = (root * np.interp(wave_aa[used], shifted, template))[:, None] * basis
        amounts = np.linalg.solve(columns.T @ columns, columns.T @ (root * seen))
        return columns @ amounts - root * seen

    bounds = (np.full(start.size, -0.5), np.full(start.size, 0.5))
    found = least_squares(residual, np.clip(start, -0.45, 0.45), bounds=bounds)
    return found.x, invert_curvature(found.jac)


def fit_velocity(
    templates: np.ndarray,
    template_wave_aa: np.ndarray,
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
) -> tuple[tuple[float, float], np.ndarray]:
    """Velocity and broadening by pPXF, km/s, and the share of each template in its best sum."""
    from ppxf.ppxf import ppxf

    step_kms = SPEED_OF_LIGHT_KMS * np.log(wave_aa[1] / wave_aa[0])
    good = ivar > 0
    noise = np.where(good, 1 / np.sqrt(np.where(good, ivar, 1.0)), 1.0)
    found = ppxf(
        templates.T,
        flux,
        noise,
        step_kms,
        [0.0, step_kms],
        goodpixels=np.flatnonzero(good),
        degree=-1,
        mdegree=_VELOCITY_DEGREE,
        moments=2,
        # Narrower than its own, for which templates would have to reach further.
        bounds=[[-FASTEST_KMS, FASTEST_KMS], [step_kms / 100, FASTEST_KMS]],
        lam=wave_aa,
        lam_temp=template_wave_aa,
        quiet=True,
    )
    shares = found.weights / max(found.weights.sum(), 1e-30)
    return (float(found.sol[0]), float(found.sol[1])), shares


def train_ulyss(training: Training, degree: int) -> Labeller:
    """An interpolator of the model grid; `degree` is that of the multiplicative polynomial."""
    theory, wave = training.theory, training.known.stars.observed.wave_aa
    step = np.log(wave[1] / wave[0])
    low, high = theory.grid.wave_aa[[0, -1]]
    n_wave = int(np.log(high / low) / step)
    interpolator = Interpolator(theory, low * np.exp(step * np.arange(n_wave)))
    # Templates of a first velocity: all temperatures, the rest as most stars have it.
    coarse = np.linspace(-0.4, 0.4, _COARSE)
    typical = interpolator.scale(np.array([0.0, 4.9, -0.2, 0.1]))[1:3]
    coarse = np.stack([coarse, *(np.full(_COARSE, one) for one in typical)], axis=1)
    templates = interpolator.predict(interpolator.complete(coarse))

    def fit_star(flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (ivar > 0).sum() <= degree + len(NAMES) + 1:
            return np.full((2, len(NAMES)), np.nan)
        scale = np.median(flux[ivar > 0])
        flux, ivar = flux / scale, ivar * scale**2
        velocity, shares = fit_velocity(templates, interpolator.wave_aa, wave, flux, ivar)
        return fit_labels(
            interpolator,
            wave,
            flux,
            ivar,
            start=shares @ coarse,
            velocity=velocity,
            degree=degree,
        )

    def label(stars: Stars) -> Estimate:
        rows = zip(*(np.asarray(part, np.float64) for part in stars.observed[1:]), strict=True)
        found = np.array([fit_star(*row) for row in rows])
        lower, reach = interpolator.lower[:3], (interpolator.upper - interpolator.lower)[:3]
        labels = lower + (found[:, 0] + 0.5) * reach
        errors = found[:, 1] * reach
        return Estimate(
            dict(zip(NAMES, labels.T, strict=True)), dict(zip(NAMES, errors.T, strict=True))
        )

    return label


ULYSS = Peer(
    "full spectrum, multiplicative polynomial (ULySS)",
    "theory",
    "Koleva et al. (2009), Ding et al. (2022)",
    (10, 20, 40),
    train_ulyss,
)
