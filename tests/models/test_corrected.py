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


def test_nuisance_directions_do_not_move_labels():
    shape = np.full((1, 200), 0.05)
    flux = np.linspace(0.8, 1.1, 200) + np.linspace(-0.05, 0.05, N_STAR)[:, None]
    ivar = np.full(flux.shape, 1e4)
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), GRID)
    one, other = (
        fit_wide(make_model(nuisance), batch).labels for nuisance in (shape, np.zeros((0, 200)))
    )
    assert np.mean((np.asarray(one) > 3000) & (np.asarray(one) < 4000)) > 0.2
    np.testing.assert_array_equal(one, other)


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
