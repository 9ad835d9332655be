"""Wavelength scales that drift: what a fit says of them, and what is left when they are undone."""

import jax
import numpy as np
import pytest

from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.drift import (
    HELD_AA,
    KNOTS_AA,
    LEAST_HELD,
    blank_drift,
    can_drift,
    undo_drift,
)
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.models.layered import LayeredModel
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.preprocess.continuum import normalise_model
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

GRID = PixelGrid.linear(5990.0, 8890.0, 2.0)
N_STRAIGHT, N_DRIFTING, N_FAINT = 12, 12, 8
SNR, FAINT = 60.0, 4.0
AT_KNOTS_KMS = np.array([85.0, 70.0, 75.0, 30.0, -25.0])
FLAG = int(QualityFlag.WAVELENGTH_DRIFT)


class Normalised(LayeredModel):
    base: ForwardModel

    @property
    def model_error(self):
        return self.base.model_error

    @property
    def preprocessing(self):
        return Preprocessing(sigma_aa=50.0, masks_aa=())

    def predict_scaled(self, scaled, context=None):
        return normalise_model(self.base.predict_scaled(scaled)[None], self.grid, sigma_aa=50.0)[0]


@pytest.fixture(scope="module")
def model(make_model):
    return Normalised(make_model(GRID, n_band=60))


@pytest.fixture(scope="module")
def stars(model):
    """Stars on straight scales, on drifting ones, and faint ones; their velocities."""
    rng = np.random.default_rng(11)
    n_star = N_STRAIGHT + N_DRIFTING + N_FAINT
    scaled = rng.uniform(-0.3, 0.3, (n_star, 4)).astype(np.float32)
    speeds = rng.uniform(-150, 150, n_star)
    rest = np.asarray(predict_compiled(model.base, jax.device_put(scaled)), float)
    wave = np.arange(6000.0, 8880.0, 1.4)
    raws = []
    for row, (flux, speed) in enumerate(zip(rest, speeds, strict=True)):
        shown = np.full(wave.size, speed)
        if row >= N_STRAIGHT:
            shown += np.interp(wave, [*KNOTS_AA, HELD_AA], [*AT_KNOTS_KMS, 0.0])
        sigma = 1 / (SNR if row < N_STRAIGHT + N_DRIFTING else FAINT)
        seen = np.interp(wave / (1 + shown / SPEED_OF_LIGHT_KMS), model.grid.wave_aa, flux)
        seen += sigma * rng.normal(size=wave.size)
        raws.append(RawSpectrum(wave, seen, np.full(wave.size, sigma**-2)))
    return raws, speeds


@pytest.fixture(scope="module")
def fitted(model, stars):
    return Fitter(model, FitConfig(priors=("none",))).fit(stars[0], keep_spectra=True)


STRAIGHT = slice(0, N_STRAIGHT)
DRIFTING = slice(N_STRAIGHT, N_STRAIGHT + N_DRIFTING)
FAINT_ONES = slice(N_STRAIGHT + N_DRIFTING, None)


def test_straight_scales_are_left_as_they_are(fitted, stars):
    speeds = stars[1]
    assert not (fitted.flags[STRAIGHT] & FLAG).any()
    pulls = fitted.drift_kms[STRAIGHT] / fitted.e_drift[STRAIGHT]
    assert np.std(pulls) < 1.6
    assert 2 < np.median(fitted.e_drift[STRAIGHT]) < 15
    velocity = (fitted.result.rv_kms - speeds)[STRAIGHT] / fitted.result.e_rv[STRAIGHT]
    assert np.abs(velocity).max() < 4


def test_velocities_are_those_of_the_red_end_where_scales_drift(model, fitted, stars):
    raws, speeds = stars
    as_they_are = FitConfig(priors=("none",), wavelength_drift=False)
    without = Fitter(model, as_they_are).fit(raws[DRIFTING])
    assert without.drift_kms is None
    wrong = without.result.rv_kms - speeds[DRIFTING]
    assert wrong.min() > 5

    assert (fitted.flags[DRIFTING] & FLAG).all()
    left = (fitted.result.rv_kms - speeds)[DRIFTING]
    assert np.abs(np.median(left)) < 4
    # Not to know the drift costs precision, and the errors say so.
    assert (fitted.result.e_rv[DRIFTING] > 1.5 * without.result.e_rv).all()
    np.testing.assert_allclose(
        np.sqrt(fitted.result.covariance[DRIFTING, -1, -1]), fitted.result.e_rv[DRIFTING], rtol=2e-3
    )
    assert 0.5 < np.sqrt(np.mean((left / fitted.result.e_rv[DRIFTING]) ** 2)) < 1.6
    told = fitted.drift_kms[DRIFTING] - AT_KNOTS_KMS[KNOTS_AA.index(6500.0)]
    assert np.abs(told / fitted.e_drift[DRIFTING]).max() < 4
    # Spectra that were kept have the wavelengths that were fitted: chi-square is that of noise.
    assert np.median(fitted.result.chi2_red[DRIFTING]) < 1.15
    assert without.result.chi2_red.min() > 1.25


def test_what_noise_hides_is_left_alone(fitted):
    assert not (fitted.flags[FAINT_ONES] & FLAG).all()
    assert (fitted.e_drift[FAINT_ONES] > 3 * np.median(fitted.e_drift[STRAIGHT])).all()


def test_no_drift_is_told_without_the_red_end(model, stars):
    raws, _ = stars
    blue = Fitter(model, FitConfig(priors=("none",), window_aa=(6000.0, HELD_AA + 10.0)))
    assert blue.fit(raws[:2]).drift_kms is None
    assert can_drift(np.arange(6000.0, HELD_AA + LEAST_HELD + 1, 1.0))
    assert not can_drift(np.arange(6000.0, HELD_AA + LEAST_HELD, 1.0))
    assert not can_drift(np.arange(HELD_AA, 8800.0))


def test_undoing_a_drift_gives_the_wavelengths_back():
    wave = np.array([5500.0, 6000.0, 6250.0, 7500.0, 8200.0, 8400.0, 8800.0])
    # By hand: constant below the first knot, straight lines between, nothing from the red end on.
    drift = np.array([85.0, 85.0, 77.5, 30.0, -12.5, 0.0, 0.0])
    seen = wave * (1 + drift / SPEED_OF_LIGHT_KMS)
    raw = RawSpectrum(seen, np.ones(7), np.ones(7))
    np.testing.assert_allclose(undo_drift(raw, AT_KNOTS_KMS).wave_aa, wave, atol=3e-3)


def test_steps_add_up_and_the_last_is_counted_once(model, stars, monkeypatch):
    """What is told is what was taken out, whether or not anything looked at it again."""
    steps = iter([40.0, 12.0, 5.0])
    moved = []

    def measure(problem, result, known):
        n = len(result.flags)
        found = blank_drift(n, result.covariance.shape[-1])
        found.coefficients[:] = next(steps)
        found.covariance[:] = 4.0 * np.eye(len(KNOTS_AA))
        found.gain[:], found.moved_kms[:], found.spread[:] = 100.0, 0.0, 0.0
        moved.append(known[0].tolist())
        return found

    monkeypatch.setattr("jaxmdwarf.inference.fitter.measure_drift", measure)
    config = FitConfig(priors=("none",), clip_sigma=0.0)
    fitted = Fitter(model, config).fit(stars[0][:2], pad_to=32)
    assert moved == [[0.0] * 5, [40.0] * 5, [52.0] * 5]
    np.testing.assert_allclose(fitted.drift_kms, 57.0)
    assert (fitted.flags & FLAG).all()


def test_a_star_that_is_lost_keeps_the_drift_that_was_taken_out(model, stars, monkeypatch):
    calls = []

    def measure(problem, result, known):
        found = blank_drift(len(result.flags), result.covariance.shape[-1])
        if not calls:
            found.coefficients[:], found.gain[:] = 40.0, 100.0
            found.covariance[:] = 4.0 * np.eye(len(KNOTS_AA))
            found.moved_kms[:], found.spread[:] = 0.0, 0.0
        calls.append(known)
        return found

    monkeypatch.setattr("jaxmdwarf.inference.fitter.measure_drift", measure)
    config = FitConfig(priors=("none",), clip_sigma=0.0)
    fitted = Fitter(model, config).fit(stars[0][:2], pad_to=32)
    assert len(calls) == 2
    np.testing.assert_allclose(fitted.drift_kms, 40.0)
    np.testing.assert_allclose(fitted.e_drift, 2.0)
    assert (fitted.flags & FLAG).all()
    assert np.isfinite(fitted.result.e_rv).all()
