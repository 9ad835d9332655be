"""One problem, one answer: whatever is done with it, and whichever labels it holds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.explore.bounds import cramer_rao
from jaxmdwarf.inference.explore.landscape import axes_around, profile_objective, slice_objective
from jaxmdwarf.inference.explore.minima import find_minima, refine_minima
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, padded_rows
from jaxmdwarf.inference.schedule import fit, fit_batch
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import NoiseModel, TableModel, predict_compiled
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6319.0, 1.0)
N_STAR = 24
LOGG = 1


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(GRID, n_band=16)


@pytest.fixture(scope="module")
def stars(model, observe_stars):
    """Stars of S/N 60 to 200, moving a little, and their true labels."""
    rng = np.random.default_rng(7)
    scaled = rng.uniform(-0.3, 0.3, (N_STAR, 4)).astype(np.float32)
    snr = rng.uniform(60, 200, N_STAR)
    batch = observe_stars(model, GRID, scaled, rng.uniform(-8, 8, N_STAR), snr, rng)
    return batch, np.asarray(model.label_space.unscale(scaled))


@pytest.fixture(scope="module")
def free(model, stars):
    problem = FitProblem.from_batch(model, stars[0])
    return problem, fit(problem)


@pytest.fixture(scope="module")
def held(model, stars):
    """Gravity held at the truth of each star."""
    batch, labels = stars
    return FitProblem.from_batch(model, batch, fixed={"logg": labels[:, LOGG]})


@pytest.fixture(scope="module")
def held_fit(held):
    return fit(held)


def test_a_fixed_label_stays_where_it_is_and_has_no_error(held, held_fit, free, stars):
    _, labels = stars
    _, free_fit = free
    np.testing.assert_array_equal(held_fit.labels[:, LOGG], labels[:, LOGG].astype(np.float32))
    assert np.isnan(held_fit.errors[:, LOGG]).all()
    assert np.isnan(held_fit.covariance[:, LOGG]).all()
    assert np.isnan(held_fit.covariance[:, :, LOGG]).all()
    others = np.array([0, 2, 3])
    assert held_fit.converged.all()
    assert (held_fit.flags == 0).all()
    # Who knows one label, knows the others better, and by as much as its covariance says.
    covariance = free_fit.covariance.astype(np.float64)
    known = covariance - covariance[:, :, [LOGG]] @ covariance[:, [LOGG]] / covariance[
        :, LOGG, LOGG
    ].reshape(-1, 1, 1)
    expected = np.sqrt(np.einsum("nii->ni", known))[:, others]
    ratio = held_fit.errors[:, others] / expected
    assert np.median(np.abs(ratio - 1)) < 0.05
    assert (held_fit.errors[:, others] <= free_fit.errors[:, others] * 1.02).all()
    pulls = ((held_fit.labels - labels) / held_fit.errors)[:, others]
    assert 0.75 < pulls.std() < 1.25
    assert (held_fit.dof - free_fit.dof == 1).all()


def test_gram_systems_and_pixels_hold_the_same_label(model, stars):
    batch, labels = stars
    problem = FitProblem.from_batch(
        model, batch, fit_velocity=False, fixed={"logg": labels[:, LOGG], "alpha_m": 0.1}
    )
    assert problem.layout.n_free == 2
    fast, slow = (fit(problem, solver=LevenbergMarquardt(fast_path=on)) for on in (True, False))
    np.testing.assert_array_equal(fast.labels[:, [1, 3]], slow.labels[:, [1, 3]])
    assert np.isnan(fast.errors[:, [1, 3]]).all()
    both = fast.converged & slow.converged
    assert both.mean() > 0.9
    assert np.nanmax((np.abs(fast.labels - slow.labels) / slow.errors)[both]) < 0.05


def test_with_every_label_fixed_the_velocity_alone_is_fitted(model, stars):
    batch, labels = stars
    fixed = dict(zip(model.label_space.names, labels.T, strict=True))
    found = fit(FitProblem.from_batch(model, batch, fixed=fixed))
    assert found.converged.all()
    assert np.isnan(found.errors).all()
    assert (found.flags == 0).all()
    assert (found.e_rv > 0).all()


def test_a_teff_that_priors_know_better_than_spectra_is_told(model, stars, free):
    """A prior has the larger share where its scatter is below the error without it."""
    batch, _ = stars
    errors = free[1].errors[:, 0]
    sigma = float(np.median(errors))
    prior = LabelPrior("teff", float(np.median(free[1].labels[:, 0])), sigma)
    found = fit(FitProblem.from_batch(model, batch, priors=(prior,)))
    told = (found.flags & int(QualityFlag.PRIOR_DOMINATED)) > 0
    # What the spectrum alone tells, where the prior has led: not where it was without the prior.
    alone = cramer_rao(free[0], Start(found.labels, found.residual_kms)).labels[:, 0]
    share = 1 - (found.errors[:, 0] / alone) ** 2
    clear = np.abs(share - 0.5) > 0.02
    assert clear.sum() > 0.8 * N_STAR
    np.testing.assert_array_equal(told[clear], share[clear] > 0.5)
    assert 0.2 < told.mean() < 0.8
    assert not (free[1].flags & int(QualityFlag.PRIOR_DOMINATED)).any()
    # Other labels lean on priors by design.
    narrow = LabelPrior("alpha_m", 0.1, 1e-3)
    tied = fit(FitProblem.from_batch(model, batch, priors=(narrow,)))
    assert not (tied.flags & int(QualityFlag.PRIOR_DOMINATED)).any()


def test_a_label_fixed_at_a_bound_raises_no_flag(model, stars):
    lower = model.label_space.lower[LOGG]
    found = fit(FitProblem.from_batch(model, stars[0], fixed={"logg": lower}))
    assert not (found.flags & int(QualityFlag.LOGG_AT_BOUND)).any()
    np.testing.assert_allclose(found.labels[:, LOGG], lower)


def test_landscapes_and_bounds_know_what_is_fixed(held, held_fit, free):
    problem, free_fit = free
    axes = axes_around(held, held_fit, ["teff"], stars=[3], n_sigma=1.0, n_grid=5)
    profile = profile_objective(held, held_fit, axes, stars=[3])
    np.testing.assert_allclose(profile.labels[..., LOGG], held_fit.labels[3, LOGG], rtol=1e-6)
    np.testing.assert_allclose(profile.delta_chi2[0, [0, -1]], 1.0, atol=0.1)
    with pytest.raises(UsageError, match="logg is an axis, and fixed"):
        slice_objective(held, held_fit, {"logg": np.linspace(4.0, 5.0, 5)})
    least = cramer_rao(held, held_fit)
    np.testing.assert_allclose(least.labels, held_fit.errors, rtol=0.02)
    np.testing.assert_allclose(cramer_rao(problem, free_fit).labels, free_fit.errors, rtol=0.02)
    wide = slice_objective(held, held_fit, {"teff": np.linspace(2600, 4500, 9)}, stars=[0, 3])
    minima = refine_minima(held, find_minima(wide))
    assert (minima.labels[:, LOGG] == held_fit.labels[minima.star, LOGG]).all()


@pytest.mark.slow
def test_posteriors_sample_free_labels_alone(held, held_fit):
    pytest.importorskip("blackjax")
    from jaxmdwarf.inference.explore.posterior import SamplingConfig, sample_posterior

    found = sample_posterior(
        held,
        held_fit,
        jax.random.key(0),
        stars=[3],
        sampling=SamplingConfig(n_warmup=200, n_draw=300, n_chain=2),
    )
    assert found.names == ("teff", "mh", "alpha_m", "rv")
    spread = found.samples[0].reshape(-1, 4).std(axis=0)
    expected = np.r_[held_fit.errors[3, [0, 2, 3]], held_fit.e_rv[3]]
    np.testing.assert_allclose(spread, expected, rtol=0.35)


def test_a_model_gives_a_problem_what_it_learned():
    line = 1.0 - 0.5 * np.exp(-(((GRID.wave_aa - 6100.0) / 4.0) ** 2))
    space = LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,))
    zero = jax.device_put(np.zeros(320, np.float32))
    base = TableModel(
        jnp.asarray(np.stack([np.ones(320), line]), jnp.float32),
        zero,
        space,
        GRID,
        Preprocessing(sigma_aa=40.0),
    )
    sequence = RelationPrior("logg", ("teff",), ((0,),), (5.0,), 0.1, (3500.0,), (500.0,))
    model = CorrectedModel(
        base,
        zero[None],
        jax.device_put(np.full((1, 320), 0.01, np.float32)),
        base.model_error,
        LabelFeatures(("teff",), (3500.0,), (200.0,), 0),
        (LabelPrior("teff", 3400.0, 30.0), sequence),
        jnp.asarray(2.0),
    )
    flux = predict_compiled(model, jax.device_put(np.zeros((3, 1), np.float32)))
    ivar = jax.device_put(np.full((3, 320), 400.0, np.float32))
    problem = FitProblem.from_batch(model, SpectrumBatch(flux, ivar, ivar, GRID))
    assert problem.priors == (LabelPrior("teff", 3400.0, 30.0),)
    assert problem.warnings == ("the prior 'sequence' on logg was left out: no label logg here.",)
    assert problem.continuum_sigma_aa == 40.0
    # Twice the errors, a quarter of the weight; the batch itself stays as it was stated.
    build = jax.jit(build_objective)
    np.testing.assert_allclose(np.asarray(build(problem).weight)[:, 50], 100.0, rtol=1e-5)
    np.testing.assert_array_equal(problem.batch.ivar, ivar)
    others = FitProblem.from_batch(
        model, problem.batch, priors="none", noise=NoiseModel(), continuum_sigma_aa=None
    )
    assert (others.priors, others.continuum_sigma_aa, others.noise.nuisance) == ((), None, None)
    whole = np.asarray(build(others).weight)
    np.testing.assert_allclose(whole[:, 50], 400.0)
    # A pixel of which either is 0 has no weight, whatever the other says.
    lacking = np.full((3, 320), 400.0, np.float32)
    lacking[:, 60] = 0.0
    for pair in ((lacking, ivar), (ivar, lacking)):
        batch = SpectrumBatch(flux, *map(jax.device_put, pair), GRID)
        weight = np.asarray(build(replace(others, batch=batch)).weight)
        assert (weight != whole).sum() == 3
        assert (weight[:, np.flatnonzero(weight[0] != whole[0])] == 0).all()


def test_rows_are_taken_in_order_with_all_that_is_theirs(model, stars):
    batch, labels = stars
    problem = FitProblem.from_batch(
        model, batch, frame_kms=np.arange(24.0), fixed={"teff": labels[:, 0]}
    )
    rows = [5, 2, 23]
    for some in (problem[rows], problem.take(np.array(rows))):
        np.testing.assert_array_equal(some.frame_kms, rows)
        np.testing.assert_array_equal(some.batch.flux, np.asarray(batch.flux)[rows])
        np.testing.assert_allclose(some.fixed[:, 0], labels[rows, 0], rtol=1e-6)
    assert problem[4].n_spec == len(problem[3:4]) == 1
    assert problem[np.arange(24) < 7].n_spec == 7
    padded = problem[rows].pad_to(32)
    assert padded.n_spec == 32
    assert (np.asarray(padded.batch.ivar)[3:] == 0).all()
    host = problem[rows].to_host()
    joined = FitProblem.join([host, problem[[1]]])
    np.testing.assert_array_equal(joined.frame_kms, [5, 2, 23, 1])
    for wrong in ([], [24], [-1], np.zeros(24, bool), [0.5]):
        with pytest.raises(UsageError, match="numbers from 0 to 23"):
            problem.take(wrong)


def test_lists_of_similar_length_have_one_shape():
    assert {padded_rows(n) for n in (1, 2, 3, 21, 32)} == {32}
    rows = np.array([padded_rows(n) for n in range(1, 3000)])
    lengths = np.arange(1, 3000)
    assert (rows >= lengths).all()
    assert (rows[lengths > 64] < 1.5 * lengths[lengths > 64]).all()
    assert len(set(rows.tolist())) == 13


def test_what_cannot_be_is_said_before_anything_is_fitted(model, stars):
    batch, _ = stars
    for fixed, error, text in (
        ({"mass": 0.3}, UsageError, "'mass' is unknown"),
        ({"logg": 9.0}, UsageError, r"logg = 9 dex lies outside the model, which knows 3.5 to 6.5"),
        ({"logg": np.nan}, UsageError, "outside the model"),
        ({"logg": [4.8, 4.9]}, MismatchError, "one a spectrum"),
    ):
        with pytest.raises(error, match=text):
            FitProblem.from_batch(model, batch, fixed=fixed)
    nothing = SpectrumBatch(*[jax.device_put(np.zeros((0, 320), np.float32))] * 3, GRID)
    with pytest.raises(UsageError, match="no spectra"):
        FitProblem.from_batch(model, nothing)
    with pytest.raises(MismatchError, match="one velocity a spectrum"):
        FitProblem.from_batch(model, batch, frame_kms=np.zeros(3))
    problem = FitProblem.from_batch(model, batch)
    for labels in (np.zeros((24, 3)), np.zeros((24, 5)), np.zeros((2, 4))):
        with pytest.raises(MismatchError, match=r"give labels of shape \(24, 4\)"):
            fit_batch(problem, start=Start(labels, np.zeros(24)))
