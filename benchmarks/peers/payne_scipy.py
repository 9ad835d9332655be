"""The Payne as its authors fit it: an emulator of theory and scipy's curve_fit, star by star.

Ting et al. (2019, ApJ 879, 69). The emulator is the package's own, so that this row tells what a
transfer and the way of fitting are worth, and not which network was trained longer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import curve_fit

from benchmarks.peers.common import Estimate, Labeller, Peer, Stars, Training
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

_VELOCITY_UNIT_KMS, _FASTEST = 100.0, 3.0


def build_curve(model: ForwardModel, wave_aa: np.ndarray):
    """Flux and its derivatives at scaled labels and a velocity in units of 100 km/s.

    Returns
    -------
    flux : callable
        (n_label + 1,) to (n_pix,).
    slopes : callable
        The same to (n_pix, n_label + 1): exact, where the original takes differences.
    """
    model_wave = np.asarray(model.grid.wave_aa, np.float32)
    wave = np.asarray(wave_aa, np.float32)

    def flux(at):
        shift = 1.0 + at[-1] * (_VELOCITY_UNIT_KMS / SPEED_OF_LIGHT_KMS)
        return jnp.interp(wave, model_wave * shift, model.predict_scaled(at[:-1]))

    return jax.jit(flux), jax.jit(jax.jacfwd(flux))


def train_payne(training: Training, option: None) -> Labeller:
    """Nothing is learned from observed spectra."""
    model = training.emulator
    space = model.label_space
    wave = training.known.stars.rest.wave_aa
    flux_at, slopes_at = build_curve(model, wave)
    reach = np.asarray(space.upper) - np.asarray(space.lower)
    highest = np.append(np.full(space.n_label, 0.5), _FASTEST)

    def fit_star(flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used = ivar > 0
        if used.sum() <= highest.size:
            return np.full((2, space.n_label), np.nan)
        try:
            found, covariance = curve_fit(
                lambda _, *at: np.asarray(flux_at(np.float32(at)), np.float64)[used],
                wave[used],
                flux[used],
                p0=np.zeros(highest.size),
                sigma=1 / np.sqrt(ivar[used]),
                absolute_sigma=True,
                bounds=(-highest, highest),
                jac=lambda _, *at: np.asarray(slopes_at(np.float32(at)), np.float64)[used],
            )
        except RuntimeError:
            # What curve_fit raises where it finds no minimum: the star has no labels.
            return np.full((2, space.n_label), np.nan)
        errors = np.sqrt(np.diag(covariance))[:-1] * reach
        return np.asarray(space.unscale(found[:-1])), errors

    def label(stars: Stars) -> Estimate:
        rows = zip(*(np.asarray(part, np.float64) for part in stars.rest[1:]), strict=True)
        found = np.array([fit_star(*row) for row in rows])
        return Estimate(
            dict(zip(space.names, found[:, 0].T, strict=True)),
            dict(zip(space.names, found[:, 1].T, strict=True)),
        )

    return label


PAYNE = Peer(
    "The Payne without transfer (curve_fit)", "theory", "Ting et al. (2019)", (None,), train_payne
)
