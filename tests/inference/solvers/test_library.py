"""Whatever the solver, the solution is the same, and a label that is held stays where it is."""

import jax
import numpy as np
import pytest

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.parameters import squash_to_bounds, unsquash_from_bounds
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.by_name import find_solver
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

LOGG = 1
PRIORS = (LabelPrior("alpha_m", 0.0, 0.3),)
GRID = PixelGrid.linear(6000.0, 6399.0, 1.0)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(GRID)


@pytest.fixture(scope="module")
def survey(model, observe_stars):
    """Stars of S/N 20 to 200, one beyond the label space, one without a good pixel; gravities."""
    rng = np.random.default_rng(6)
    scaled = rng.uniform(-0.35, 0.35, (64, 4)).astype(np.float32)
    scaled[5, 0] = 0.7
    snr = 10 ** rng.uniform(1.3, 2.3, 64)
    batch = observe_stars(model, GRID, scaled, rng.uniform(-12, 12, 64), snr, rng)
    ivar = np.array(batch.ivar)
    ivar[9] = 0.0
    gravity = model.label_space.unscale(scaled)[:, LOGG]
    return SpectrumBatch(batch.flux, *jax.device_put((ivar, ivar)), GRID), gravity


def fit_first(model, survey, n, solver="lm", **schedule):
    """The first stars of the survey in one batch, their gravities held at the truth."""
    whole, gravity = survey
    batch = jax.tree.map(lambda values: jax.device_put(np.asarray(values)[:n]), whole)
    problem = FitProblem.from_batch(model, batch, priors=PRIORS, fixed={"logg": gravity[:n]})
    return fit(problem, solver=solver, schedule=FitScheduleConfig(batch_size=n, **schedule))


@pytest.fixture(scope="module")
def reference(model, survey):
    return fit_first(model, survey, 64)


@pytest.mark.parametrize(
    ("solver", "n"),
    [
        ("lbfgs", 64),
        # tests/registries has all of them on one problem
        pytest.param("optimistix", 32, marks=pytest.mark.slow),
        pytest.param("optimistix-lbfgs", 16, marks=pytest.mark.slow),
        pytest.param("jaxopt", 12, marks=pytest.mark.slow),
    ],
)
def test_solvers_agree(model, survey, reference, solver, n):
    result = fit_first(model, survey, n, solver)
    seen = np.arange(n) != 9
    assert result.converged[seen].mean() > 0.95
    good = result.converged & reference.converged[:n]
    distance = np.abs(result.labels - reference.labels[:n]) / reference.errors[:n]
    free = np.arange(4) != LOGG  # what is held has no error
    assert distance[np.ix_(good, free)].max() < 0.05
    np.testing.assert_array_equal(result.labels[good, LOGG], survey[1][:n][good])
    assert np.isnan(result.errors[:, LOGG]).all()
    speed = np.abs(result.rv_kms - reference.rv_kms[:n])[good] / reference.e_rv[:n][good]
    assert speed.max() < 0.05
    np.testing.assert_allclose(result.errors[good], reference.errors[:n][good], rtol=0.02)
    np.testing.assert_allclose(result.chi2[good], reference.chi2[:n][good], rtol=1e-3)
    np.testing.assert_array_equal(result.flags[good], reference.flags[:n][good])
    assert result.flags[5] & int(QualityFlag.TEFF_AT_BOUND)
    assert result.flags[9] & int(QualityFlag.NO_GOOD_PIXELS)
    assert np.isnan(result.labels[9]).all()


def test_lbfgs_needs_few_evaluations_and_says_when_they_were_too_few(model, survey):
    result = fit_first(model, survey, 64, "lbfgs", first_pass_iter=100, secondary_distance=None)
    assert np.median(result.n_iter) < 16
    hasty = fit_first(model, survey, 64, find_solver("lbfgs", max_iter=1), restarts=0)
    assert (np.asarray(hasty.flags) & int(QualityFlag.NOT_CONVERGED)).mean() > 0.5


def test_the_bijection_and_its_inverse():
    squash, unsquash = jax.jit(squash_to_bounds), jax.jit(unsquash_from_bounds)
    scaled = np.linspace(-0.499, 0.499, 101, dtype=np.float32)
    np.testing.assert_allclose(squash(unsquash(scaled)), scaled, atol=1e-6)
    assert np.abs(squash(np.float32([-1e6, 1e6]))).max() <= 0.5
