"""What a corrected model knows beside its flux enters the errors of a fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit_batch
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel, predict_compiled
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
N_STAR = 400


def make_model(nuisance) -> CorrectedModel:
    line = 1.0 - 0.6 * np.exp(-(((GRID.wave_aa - 6100.0) / 4.0) ** 2))
    corners, zero, correction, nuisance = jax.device_put(
        (np.stack([np.ones(200), line]), np.zeros(200), np.full((1, 200), 0.01), nuisance)
    )
    base = TableModel(corners, zero, SPACE, GRID)
    return CorrectedModel(
        base,
        correction,
        nuisance,
        zero,
        LabelFeatures(("teff",), (3500.0,), (200.0,), 0),
    )


def fit_wide(model, batch):
    """A fit whose continuum, far wider than the spectrum, takes no noise out."""
    return fit_batch(
        FitProblem.from_batch(model, batch, fit_velocity=False, continuum_sigma_aa=5000.0)
    )


def test_errors_cover_the_scatter_that_no_label_explains():
    # A direction that looks like the line, only broader: line spread, say.
    shape = 0.03 * np.exp(-(((GRID.wave_aa - 6100.0) / 6.0) ** 2))[None, :]
    known, ignorant = make_model(shape), make_model(np.zeros((0, 200)))
    rng = np.random.default_rng(0)
    truth = rng.uniform(3300.0, 3700.0, (N_STAR, 1))
    flux = np.asarray(predict_compiled(known, jax.device_put(np.float32(SPACE.scale(truth)))))
    flux = flux + rng.standard_normal((N_STAR, 1)) @ shape
    flux = flux + 0.02 * rng.standard_normal(flux.shape)
    ivar = np.full(flux.shape, 2500.0)
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), GRID)

    def find_width(model):
        found = fit_wide(model, batch)
        pulls = (np.asarray(found.labels) - truth) / np.asarray(found.errors)
        return np.std(pulls)

    assert find_width(ignorant) > 1.5
    assert 0.9 < find_width(known) < 1.1


def test_errors_cover_what_is_wrong_with_the_model_itself():
    """The correction is off by a draw from its uncertainty: what that does to a label is known."""
    x = GRID.wave_aa - 6100.0
    wrong = 0.02 * np.stack([np.exp(-((x / 5.0) ** 2)), np.sin(x / 9.0)])[:, None, :]
    right = make_model(np.zeros((0, 200)))
    doubted = replace(right, uncertainty=jnp.asarray(wrong, jnp.float32))
    ivar = jnp.full((3, 200), 2500.0)
    there = SPACE.scale(jnp.full((3, 1), 3500.0))
    offsets = np.concatenate([np.zeros((1, 200)), wrong[:, 0]])
    flux = right.predict_scaled_batch(there) + jnp.asarray(offsets, jnp.float32)

    def fit_with(model):
        batch = SpectrumBatch(flux, ivar, ivar, GRID)
        return fit_batch(FitProblem.from_batch(model, batch, fit_velocity=False))

    trusting, doubting = fit_with(right), fit_with(doubted)
    np.testing.assert_array_equal(trusting.labels, doubting.labels)
    moved = np.asarray(trusting.labels[1:, 0] - trusting.labels[0, 0])
    added = float(doubting.errors[0, 0] ** 2 - trusting.errors[0, 0] ** 2)
    assert np.sqrt(added) > 2 * float(trusting.errors[0, 0])
    np.testing.assert_allclose(added, np.sum(moved**2), rtol=0.1)


def test_a_corrected_model_tells_all_that_it_learned_of_the_stars():
    model = replace(
        make_model(np.full((3, 200), 0.02)),
        label_priors=(LabelPrior("teff", 3500.0, 150.0),),
        noise_scale=jnp.asarray(1.2),
    )
    assert model.priors() == (LabelPrior("teff", 3500.0, 150.0),)
    noise = model.noise_model()
    assert float(noise.scale) == np.float32(1.2)
    np.testing.assert_array_equal(noise.nuisance, np.full((3, 200), 0.02, np.float32))


def test_velocities_are_no_better_than_the_zero_point_of_their_scale():
    model = make_model(np.zeros((0, 200)))
    flux = predict_compiled(model, jnp.zeros((8, 1)))
    ivar = np.full(flux.shape, 1e4, np.float32)
    batch = SpectrumBatch(flux, *jax.device_put((ivar, ivar)), GRID)
    doubted = replace(model, velocity_error=jnp.asarray(7.0))
    one, other = (
        np.asarray(fit_batch(FitProblem.from_batch(which, batch)).e_rv)
        for which in (model, doubted)
    )
    assert (one < 7).all()
    np.testing.assert_allclose(other**2 - one**2, 49.0, rtol=1e-2)


def test_what_another_sample_teaches_asks_for_no_other_program():
    model, scaled = make_model(np.zeros((0, 200))), np.zeros((2, 1), np.float32)
    features = LabelFeatures(("teff",), (3400.0,), (150.0,), 0)
    learned = replace(model, features=features, label_priors=(LabelPrior("teff", 3500.0, 150.0),))
    again = replace(learned, label_priors=(LabelPrior("teff", 3400.0, 90.0),))
    again = replace(again, features=replace(features, centre=(3450.0,)))
    predict = jax.jit(lambda model, scaled: model.predict_scaled_batch(scaled))
    for one in (learned, again):
        predict(one, scaled)
    assert predict._cache_size() == 1
