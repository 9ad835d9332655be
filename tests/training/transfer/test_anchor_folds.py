"""Anchors that were held out: which, fitted by what, and what is said of them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.quality import HARMFUL_FLAGS
from jaxmdwarf.training.transfer import domain_fits
from jaxmdwarf.training.transfer.anchor_folds import (
    HeldOutAnchors,
    hold_out_anchors,
    judge_anchors,
)
from jaxmdwarf.training.transfer.anchors import KnownLabels
from jaxmdwarf.training.transfer.domain import ObservedDomain
from tests.training.transfer.fit_covariance import COVARIANCE, SPACE, TURN, WIDTH


def draw_anchors(n, seed=0):
    """Fits off by 60 K and 0.2 dex more than they and the literature state, and 25 K too hot."""
    rng = np.random.default_rng(seed)
    known = np.column_stack([rng.normal(3500, 200, n), *np.full((3, n), np.nan)])
    known[:, 2] = rng.normal(-0.1, 0.3, n)
    e_known = np.where(np.isfinite(known), [30.0, np.nan, 0.06, np.nan], np.nan)
    errors = np.tile([40.0, 0.05, 0.08, 0.05], (n, 1))
    stated = np.hypot(errors[:, [0, 2]], e_known[:, [0, 2]])
    labels = np.tile([0.0, 4.9, 0.0, 0.1], (n, 1))
    off = rng.standard_normal((n, 2)) * np.hypot(stated, [60.0, 0.2])
    labels[:, [0, 2]] = known[:, [0, 2]] + off + [25.0, 0.0]
    covariance = np.zeros((n, 5, 5))
    covariance[:, :4, :4] = COVARIANCE
    return HeldOutAnchors(labels, errors, covariance, known, e_known, np.ones(n))


def test_held_out_anchors_are_described_label_by_label():
    held = draw_anchors(4000)
    held.labels[::10] = np.nan
    told = held.describe(SPACE)
    assert list(told) == ["teff", "mh"]
    assert told["teff"]["n"] == 3600
    sigma = np.hypot(np.hypot(40, 30), 60)
    assert told["teff"]["bias"] == pytest.approx(25, abs=5)
    assert told["teff"]["e_bias"] == pytest.approx(sigma * np.sqrt(np.pi / 2 / 3600), rel=0.05)
    assert told["teff"]["scatter"] == pytest.approx(sigma, rel=0.05)
    assert told["teff"]["pull_width"] == pytest.approx(sigma / 50, rel=0.05)
    assert told["teff"]["pull_mean"] == pytest.approx(25 / 50, abs=0.1)
    assert told["mh"]["pull_width"] == pytest.approx(np.hypot(0.1, 0.2) / 0.1, rel=0.05)


def test_errors_of_labels_are_told_by_good_fits_of_thirty_anchors():
    held = draw_anchors(4000)
    held.labels[::10] = np.nan
    held.covariance[::10] = np.nan
    held.known[::3, 2] = np.nan
    held.labels[:, 0] -= 25.0
    found = np.asarray(held.find_label_errors(SPACE)) * WIDTH * WIDTH[:, None]
    along = TURN[:, [0, 2]]
    expected = along @ np.diag([60.0**2, 0.2**2]) @ along.T
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        found / scale / scale[:, None], expected / scale / scale[:, None], atol=0.1
    )
    few = draw_anchors(32)
    few.labels[0] = few.known[1] = np.nan
    assert few.find_label_errors(SPACE) is not None
    few.labels[2, 1] = np.nan
    assert few.find_label_errors(SPACE) is None


N_ROW = 120


@pytest.fixture(scope="module")
def world(theory):
    """Spectra that are told by their flux, and what is known of two visits each of 40 stars."""
    flux = np.repeat(np.arange(2.0 * N_ROW)[:, None], theory.grid.n_pix, axis=1).astype(np.float32)
    zeros, ones = np.zeros(2 * N_ROW), np.ones(2 * N_ROW)
    observed = ObservedDomain(flux, flux, flux, theory.grid, zeros, ones)
    rng = np.random.default_rng(3)
    scaled, sigma = np.full((N_ROW, 4), np.nan), np.ones((N_ROW, 4))
    scaled[:80, [0, 2]] = rng.uniform(-0.2, 0.2, (80, 2))
    scaled[:20, 2] = np.nan
    sigma[:80, [0, 2]] = 0.02
    star = np.concatenate([np.arange(80) // 2 + 7, np.arange(200, 240)])
    return observed, KnownLabels(scaled, sigma, np.ones(N_ROW), star)


@pytest.fixture
def fits(monkeypatch):
    """What was learned from and fitted; fits answer with the labels that they are begun from."""
    seen = SimpleNamespace(forgotten=[], rows=[], models=[])

    def from_batch(model, batch, *, frame_kms):
        assert frame_kms is None
        seen.models.append(model)
        return np.asarray(batch.flux[:, 0]).astype(int)

    def fit(rows, *, start):
        seen.rows.append(rows)
        n = len(rows)
        assert (np.asarray(start.residual_kms) == 0).all()
        errors = np.tile([40.0, 0.05, 0.08, 0.05, 3.0], (n, 1))
        errors[rows == 10 + 4] = np.inf
        return SimpleNamespace(
            labels=start.labels,
            flags=np.where(rows == 10 + 9, int(HARMFUL_FLAGS), 0),
            errors=errors,
            covariance=np.tile(np.arange(25.0).reshape(5, 5), (n, 1, 1)),
        )

    monkeypatch.setattr(domain_fits.FitProblem, "from_batch", from_batch)
    monkeypatch.setattr(domain_fits, "fit", fit)
    return seen


def test_each_star_is_held_out_once_with_all_its_visits(world, model, fits):
    observed, known = world
    start = np.column_stack([np.linspace(3000, 4000, N_ROW), *np.ones((3, N_ROW))])

    def learn(some):
        fits.forgotten.append(np.flatnonzero(known.anchored & ~some.anchored))
        return model

    uncertainty = jnp.ones((2, 1, model.grid.n_pix))
    rows = 10 + np.arange(N_ROW)
    held = hold_out_anchors(
        learn, known, observed, rows, start, n_fold=3, uncertainty=uncertainty, seed=1
    )
    assert len(fits.forgotten) == 3
    for forgotten, fitted in zip(fits.forgotten, fits.rows, strict=True):
        np.testing.assert_array_equal(fitted, forgotten + 10)
        assert len(forgotten) in (26, 28)
        assert set(forgotten) == set(np.flatnonzero(np.isin(known.star, known.star[forgotten])))
    assert all(one.uncertainty is uncertainty for one in fits.models)
    order = np.concatenate(fits.forgotten)
    assert sorted(order) == list(range(80))
    assert list(order) != list(range(80))
    good = ~np.isin(order, [4, 9])
    np.testing.assert_array_equal(held.labels, np.where(good[:, None], start[order], np.nan))
    assert held.errors.shape == (80, 4)
    np.testing.assert_array_equal(held.covariance[0], np.arange(25).reshape(5, 5))
    truth = np.asarray(SPACE.unscale(known.scaled[order]))
    np.testing.assert_allclose(held.known, truth)
    told = np.where(np.isfinite(truth), 0.02 * WIDTH, np.nan)
    np.testing.assert_allclose(held.e_known, told)
    np.testing.assert_array_equal(held.share, known.share[order])
    again = hold_out_anchors(learn, known, observed, rows, start, n_fold=3, seed=2)
    assert not np.array_equal(again.known, held.known, equal_nan=True)


def test_of_few_stars_each_is_a_fold_and_none_is_judged_if_none_is_asked_for(world, model, fits):
    observed, known = world
    start, rows = np.ones((N_ROW, 4)), np.arange(N_ROW)
    few = known.forget(np.arange(10, N_ROW))

    def learn(some):
        fits.forgotten.append(np.flatnonzero(few.anchored & ~some.anchored))
        return model

    best, told = judge_anchors(model, learn, few, observed, rows, start, 9)
    assert told["n_fold"] == 5 == len(fits.forgotten)
    assert (told["n_spectra"], told["n_stars"]) == (10, 5)
    assert set(told["held_out"]) == {"teff"}
    assert best.label_error is None
    best, told = judge_anchors(model, learn, known, observed, 10 + rows, 1.0 * start, 2)
    assert told["n_fold"] == 2
    assert best.label_error is not None
    same, told = judge_anchors(model, learn, known, observed, rows, start, 0)
    assert same is model
    assert told == {"n_spectra": 80, "n_stars": 40}
