"""What is shown of fitted spectra beside their models."""

import inspect
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import judging
from jaxmdwarf.workflows.judging import (
    ClassifierConfig,
    FittedRows,
    Judgement,
    judge_fitted,
    map_domains,
)

GRID = PixelGrid.linear(6500.0, 6507.0, 1.0)


def make_fitted(n):
    rng = np.random.default_rng(4)
    flux, model = rng.uniform(0.5, 1.5, (2, n, GRID.n_pix)).astype(np.float32)
    ivar = rng.uniform(10, 90, flux.shape).astype(np.float32)
    ivar[rng.random(flux.shape) < 0.3] = 0.0
    flux[ivar == 0] = 1e6
    snr = rng.permutation(np.arange(10.0, 10.0 + n))
    snr[3] = np.nan
    observed = SpectrumBatch(*map(jnp.asarray, (flux, ivar, ivar / 2)), GRID)
    return FittedRows(observed, model, snr)


def test_domains_are_compared_by_the_brightest_pairs_with_gaps_filled_alike(monkeypatch):
    fitted, asked = make_fitted(14), {}

    def observe(model, ivar, rng, *, information, grid):
        asked.update(model=model, ivar=ivar, information=information, grid=grid)
        return "mock"

    monkeypatch.setattr(judging, "simulate_observation", observe)
    monkeypatch.setattr(
        judging, "tsne_pairs", lambda *pair, seed: asked.update(pair=pair, seed=seed)
    )
    map_domains(fitted, n_pair=11, seed=6)
    first, second = asked.pop("pair")
    assert (first, asked.pop("seed")) == ("mock", 6)
    order = sorted(range(14), key=lambda row: -(0 if row == 3 else fitted.snr[row]))[:11]
    flux, ivar = (np.asarray(part)[order] for part in (fitted.observed.flux, fitted.observed.ivar))
    np.testing.assert_array_equal(second[ivar > 0], flux[ivar > 0])
    assert (second[ivar == 0] == 1).all()
    np.testing.assert_array_equal(asked["model"], fitted.model[order])
    np.testing.assert_array_equal(asked["ivar"], ivar)
    np.testing.assert_array_equal(asked["information"], ivar / 2)
    assert asked["grid"] == GRID
    asked.clear()
    assert map_domains(make_fitted(9)) is None
    assert not asked  # too few pairs


def test_bright_stars_and_those_above_noise_are_judged_apart(monkeypatch):
    """S/N above 20, above 10, and ten stars a fold for the classifier."""
    shown = []

    def summarise(flux, model, ivar, *, clip):
        assert clip == 10.0
        shown.append(len(flux))
        return f"of {len(flux)}"

    def classify(model, observed, *, config):
        shown.append(np.asarray(observed.flux)[:, 0].tolist())
        np.testing.assert_array_equal(model[:, 0], observed.flux[:, 0])
        return SimpleNamespace(accuracy=0.75)

    monkeypatch.setattr(judging, "summarise_residual", summarise)
    monkeypatch.setattr(judging, "classifier_accuracy", classify)
    # Not asked for what stands in for summaries.
    monkeypatch.setattr(judging, "Judgement", lambda **parts: SimpleNamespace(**parts))
    judge = inspect.unwrap(judge_fitted)
    n_fold = 3
    snr = np.r_[np.full(7, 20.0), np.full(12, 20.1), np.full(10, 10.1), 10.0, np.nan, 30.0]
    flux = np.tile(np.arange(32.0, dtype=np.float32)[:, None], (1, GRID.n_pix))
    ones = jnp.ones(flux.shape)
    fitted = FittedRows(SpectrumBatch(jnp.asarray(flux), ones, ones, GRID), flux, snr)
    found = judge(fitted, settings=ClassifierConfig(n_fold=n_fold))
    assert (found.residual, found.bright) == ("of 32", "of 13")
    assert shown[-1] == [*range(29), 31]
    assert found.classifier.accuracy == 0.75
    few = FittedRows(fitted.observed, flux, np.where(np.arange(32) == 31, 9.0, snr))
    assert judge(few, settings=ClassifierConfig(n_fold=n_fold)).classifier is None


def test_without_a_classifier_there_is_no_accuracy():
    none = SimpleNamespace(classifier=None)
    some = SimpleNamespace(classifier=SimpleNamespace(accuracy=0.75))
    accuracy = inspect.unwrap(Judgement.accuracy.fget)
    assert np.isnan(accuracy(none))
    assert accuracy(some) == 0.75
