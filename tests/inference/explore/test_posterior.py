"""Posteriors: Gaussian where theory says so, inside the bounds always, honest about failure."""

import builtins
from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.explore import posterior as module
from jaxmdwarf.inference.explore.posterior import SamplingConfig, sample_posterior
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

pytest.importorskip("blackjax")

GRID = PixelGrid.linear(6000.0, 6127.0, 1.0)
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3e3, -1.0), (4e3, 1.0))
LONG = SamplingConfig(n_warmup=200, n_draw=1000)
SHORT = SamplingConfig(n_warmup=100, n_draw=50)
N_STAR = 4


class TwoLines(ForwardModel):
    """Two blended lines, as deep as the labels say; with `fold` 1, the first as its square."""

    shapes: Float[Array, "2 n_pix"]
    model_error: Float[Array, "n_pix"]
    fold: Float[Array, ""]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def preprocessing(self):
        return Preprocessing()

    def predict_scaled(self, scaled, context=None):
        first = scaled[0] + self.fold * (8 * scaled[0] ** 2 - 0.6 - scaled[0])
        scaled = jnp.stack([first, scaled[1]])
        flux = 1.0 - (0.5 + scaled) @ self.shapes
        return flux if context is None else flux + context


def make_model(*, fold=0.0):
    wave = GRID.wave_aa
    shapes = 0.5 * np.exp(-0.5 * ((wave - np.array([[6050.0], [6056.0]])) / 5.0) ** 2)
    zero = np.zeros(GRID.n_pix, np.float32)
    return TwoLines(*jax.device_put((np.float32(shapes), zero, np.float32(fold))), SPACE, GRID)


def observe(model, scaled, *, snr=80.0, seed=1):
    flux = np.asarray(predict_compiled(model, jax.device_put(np.float32(scaled))))
    flux = flux + np.random.default_rng(seed).normal(size=flux.shape) / snr
    ivar = np.full(flux.shape, snr**2, np.float32)
    return SpectrumBatch(*jax.device_put((np.float32(flux), ivar, ivar)), GRID)


@pytest.fixture(scope="module")
def sampled():
    """Three stars well inside, one at the upper bound of [M/H], and their posteriors."""
    model = make_model()
    batch = observe(model, [[0.1, 0.1], [-0.1, 0.2], [0.2, -0.1], [0.0, 0.5]])
    problem = FitProblem.from_batch(model, batch, fit_velocity=False)
    best = fit(problem)
    posterior = sample_posterior(problem, best, jax.random.key(3), sampling=LONG)
    return problem, best, posterior


def test_the_posterior_of_a_linear_model_is_the_gaussian_of_its_fit(sampled):
    _, best, posterior = sampled
    inside = slice(0, 3)
    assert posterior.names == ("teff", "mh")
    assert posterior.samples.shape == (4, 4, 1000, 2)
    sigma = best.errors[inside]
    # The mean of n independent draws scatters by 1/sqrt(n).
    assert (posterior.ess[inside] > 1000).all()
    assert (np.abs(posterior.mean - best.labels)[inside] < 4 * sigma / np.sqrt(1000)).all()
    ratio = posterior.covariance[inside] / best.covariance[inside]
    np.testing.assert_allclose(ratio, 1.0, atol=0.12)
    assert posterior.trusted[inside].all()
    assert (posterior.rhat[inside] < 1.01).all()
    assert ((posterior.acceptance > 0.65) & (posterior.acceptance < 0.98)).all()


def test_at_a_bound_draws_stay_inside_and_lean_against_it(sampled):
    _, best, posterior = sampled
    mh = posterior.column("mh")[3]
    assert mh.max() <= 1.0
    sigma = best.errors[3, 1]
    # What a Gaussian cut at the bound has: mean and width follow from where its peak lies.
    peak = best.labels[3, 1]
    assert peak > 1.0 - 2 * sigma
    assert mh.std() < 0.9 * sigma
    skewness = np.mean(((mh - mh.mean()) / mh.std()) ** 3)
    assert skewness < -0.3
    assert posterior.rhat[3].max() < 1.02


def test_a_star_is_sampled_alike_in_whatever_company(sampled):
    problem, best, posterior = sampled
    alone = sample_posterior(
        problem,
        best,
        jax.random.key(3),
        stars=[2, 0, 3, 1],
        sampling=replace(LONG, n_draw=50),
    )
    assert alone.stars.tolist() == [2, 0, 3, 1]
    np.testing.assert_allclose(
        alone.samples[:, :, 0], posterior.samples[[2, 0, 3, 1], :, 0], rtol=1e-3
    )
    # Fifty draws are few, and it says so.
    assert not alone.trusted.any()


@pytest.mark.slow
def test_velocity_polynomial_context_and_priors_are_sampled(sampled):
    model = sampled[0].model
    batch = observe(model, np.full((2, 2), 0.1), snr=300.0)
    context = jnp.full((2, GRID.n_pix), 0.02, jnp.float32)
    batch = SpectrumBatch(batch.flux + context, batch.ivar, batch.information, GRID)
    problem = FitProblem.from_batch(
        model, batch, context=context, priors=LabelPrior("mh", 0.2, 0.001), poly_order=0
    )
    best = fit(problem)
    found = sample_posterior(problem, best, jax.random.key(0), sampling=replace(LONG, n_draw=400))
    assert found.names == ("teff", "mh", "rv", "poly_0")
    np.testing.assert_allclose(found.column("mh").std(axis=1), best.errors[:, 1], rtol=0.12)
    np.testing.assert_allclose(found.column("rv").std(axis=1), best.e_rv, rtol=0.12)
    np.testing.assert_allclose(found.covariance[:, :3, :3] / best.covariance, 1.0, atol=0.5)
    assert (np.abs(found.mean[:, 2] - best.residual_kms) < 0.2 * best.e_rv).all()
    assert (np.abs(found.column("poly_0").mean(axis=1)) < 0.01).all()


def test_two_valleys_are_told_by_rhat_and_an_empty_star_by_nan(sampled):
    model = make_model(fold=1.0)
    batch = observe(model, np.full((N_STAR, 2), 0.25), snr=30.0)
    ivar = np.array(batch.ivar)
    ivar[1] = 0
    empty = SpectrumBatch(batch.flux, *jax.device_put((ivar, ivar)), GRID)
    # Half way between the valleys: chains fall to either side.
    middle = Start(np.full((N_STAR, 2), [3500.0, 0.5], np.float32), np.zeros(N_STAR, np.float32))
    problem = FitProblem.from_batch(model, empty, fit_velocity=False)
    found = sample_posterior(problem, middle, jax.random.key(1), sampling=SHORT)
    assert np.isnan(found.samples[1]).all()
    assert np.isnan(found.rhat[1]).all()
    warm = (found.samples[..., 0].mean(axis=2) > 3500).sum(axis=1)[[0, 2, 3]]
    parted = (warm > 0) & (warm < 4)
    assert parted.any()
    assert (found.rhat[[0, 2, 3], 0][parted] > 1.5).all()
    assert not found.trusted[1]
    assert not found.trusted[[0, 2, 3]][parted].any()


def test_what_is_missing_or_wrong_is_named(sampled, monkeypatch):
    problem, best, posterior = sampled
    key = jax.random.key(0)
    with pytest.raises(UsageError, match="0 to 3"):
        sample_posterior(problem, best, key, stars=[4])
    short = Start(best.labels[:2], best.residual_kms[:2])
    with pytest.raises(MismatchError, match="one velocity a spectrum"):
        sample_posterior(problem, short, key)
    with pytest.raises(UsageError, match="two chains"):
        SamplingConfig(n_chain=1)
    with pytest.raises(UsageError, match="teff, mh"):
        posterior.column("logg")
    there = builtins.__import__

    def without_blackjax(name, *args, **kwargs):
        if name.split(".")[0] == "blackjax":
            raise ImportError(name)
        return there(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_blackjax)
    with pytest.raises(UsageError, match=r"jaxmdwarf\[posterior\]"):
        sample_posterior(problem, best, key)


def test_chains_are_whitened_anew_where_they_are_by_what_they_have_seen():
    """Logits stay; centre and covariance are numpy's, the fit's counting as ten draws more."""
    rng = np.random.default_rng(0)
    n_star, n_chain, k = 2, 3, 2
    factor = np.tril(rng.uniform(0.5, 1.5, (n_star, k, k)))
    centre, position = rng.normal(size=(n_star, k)), rng.normal(size=(n_star, n_chain, k))
    logits = rng.normal(size=(n_star, 40, n_chain, k)) * [2.0, 0.3] + 1.0
    arrays = centre, factor, position, *np.full((3, n_star), 5.0)
    walk = module._Walk(*(jnp.asarray(a, jnp.float32) for a in arrays), jnp.full(n_star, 7))
    found = module._whiten_again(walk, jnp.asarray(logits, jnp.float32))
    for star in range(n_star):
        seen = logits[star].reshape(-1, k)
        np.testing.assert_allclose(found.centre[star], seen.mean(axis=0), atol=1e-5)
        fitted = factor[star] @ factor[star].T
        expected = (120 * np.cov(seen.T) + 10 * fitted) / 130
        root = np.asarray(found.factor[star])
        np.testing.assert_allclose(root @ root.T, expected, rtol=1e-4)
        before = centre[star] + position[star] @ factor[star].T
        after = np.asarray(found.centre[star]) + np.asarray(found.position[star]) @ root.T
        np.testing.assert_allclose(after, before, atol=1e-5)
    for name in ("log_step", "log_step_mean", "gap", "n_tuned"):
        assert not np.any(getattr(found, name)), name


def test_chains_warm_up_twice_and_draw_with_the_mean_step(monkeypatch):
    """Half of the warm-up before they are whitened anew, by its later half, and half behind."""
    seen = SimpleNamespace(calls=[], late=None)
    zeros = jnp.zeros(1)
    start = module._Walk(zeros, zeros, zeros, zeros, zeros, zeros, zeros)

    def advance(problem, rows, walk, keys, number, tuning, target, *, max_doublings):
        seen.calls.append((number, tuning, float(walk.log_step[0]), float(walk.centre[0])))
        assert (target, max_doublings) == (0.7, 5)
        logits = jnp.full((1, 50, 2, 3), 1.0 * number)
        walk = walk._replace(log_step=jnp.full(1, 100.0), log_step_mean=jnp.full(1, 1.0 * number))
        return walk, logits, logits + 0.5, jnp.asarray([2]), jnp.asarray([0.1 * number])

    def whiten(walk, late):
        seen.late = np.asarray(late)[0, :, 0, 0]
        return walk._replace(centre=walk.centre + 1.0)

    monkeypatch.setattr(module, "_start", lambda *args, n_chain: start)
    monkeypatch.setattr(module, "_advance", advance)
    monkeypatch.setattr(module, "_whiten_again", whiten)
    sampling = SamplingConfig(2, n_warmup=310, n_draw=120, target_acceptance=0.7, max_doublings=5)
    samples, divergent, acceptance = module._sample_part(
        None, None, np.arange(1), jax.random.key(0), sampling
    )
    # Four blocks of fifty are the first that hold 155 steps; then three hold 120 draws.
    assert [call[0] for call in seen.calls] == list(range(1, 12))
    assert [call[1] for call in seen.calls] == [True] * 8 + [False] * 3
    assert [call[3] for call in seen.calls] == [0.0] * 4 + [1.0] * 7
    assert seen.calls[8][2] == 8.0
    assert seen.late.tolist() == [3.0] * 50 + [4.0] * 50
    assert samples.shape == (1, 2, 150, 3)
    np.testing.assert_array_equal(samples[0, 0, ::50, 0], [9.5, 10.5, 11.5])
    assert divergent.tolist() == [6]
    np.testing.assert_allclose(acceptance, [1.0], rtol=1e-6)


def test_step_sizes_are_averaged_as_hoffman_and_gelman_do():
    """Equation 6 with mu = log 10, gamma = 0.05, t0 = 10, kappa = 0.75, step by step in numpy."""
    lacks = [0.3, -0.2, 0.5, 0.1]
    tuned = module._Tuning(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))
    mean = 0.0
    for number, lack in enumerate(lacks, 1):
        tuned = module._average_dually(tuned, jnp.float32(lack))
        total = 0.0
        for step, one in enumerate(lacks[:number], 1):
            total = (1 - 1 / (step + 10)) * total + one / (step + 10)
        log_step = np.log(10) - np.sqrt(number) / 0.05 * total
        mean = number**-0.75 * log_step + (1 - number**-0.75) * mean
        assert float(tuned.log_step) == pytest.approx(log_step, rel=1e-5)
        assert float(tuned.log_step_mean) == pytest.approx(mean, rel=1e-5)
    assert int(tuned.n_tuned) == 4
