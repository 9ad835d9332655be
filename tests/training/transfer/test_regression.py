"""Slopes of spectra are of what theory's spectra are made of; noise is not."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample
from jaxmdwarf.training.transfer.regression import _solve_pixels, regress_correction

DEGREES = np.array([0, 1, 2])


def draw_system(n_pix, rng, n_star=200):
    """Normal equations of a regression of noise of variance 1 on three features."""
    x = rng.standard_normal(n_star)
    features = np.stack([np.ones(n_star), x, x**2 - 1], axis=1)
    weight = rng.uniform(0.5, 1.5, (n_pix, n_star))
    full = np.einsum("pn,ni,nj->pij", weight, features, features)
    noise = rng.standard_normal((n_pix, n_star)) / np.sqrt(weight)
    return full, np.einsum("pn,ni,pn->pi", weight, features, noise)


def test_the_solution_is_that_of_all_pixels_and_terms_at_once():
    rng = np.random.default_rng(0)
    n_pix, k, strength, outside = 6, 2, 0.3, 4.0
    full, vector = draw_system(n_pix, rng)
    basis = rng.standard_normal((k, n_pix))
    found = _solve_pixels(full, vector, basis, DEGREES, strength, outside)
    # Unknowns: features of all pixels, then alpha of the two terms that have slopes.
    n_feature = 3 * n_pix
    matrix = np.zeros((n_feature + 2 * k, n_feature + 2 * k))
    for p in range(n_pix):
        here = slice(3 * p, 3 * p + 3)
        matrix[here, here] += full[p] + 1e-6 * full[p, 0, 0] * np.eye(3)
        for term in (1, 2):
            chosen = np.zeros(n_feature + 2 * k)
            chosen[3 * p + term] = 1
            chosen[n_feature + (term - 1) * k : n_feature + term * k] = -basis[:, p]
            weight = strength * DEGREES[term] * full[p, 0, 0]
            matrix += outside * weight * np.outer(chosen, chosen)
            inside = np.where(np.arange(len(chosen)) < n_feature, 0, chosen)
            matrix += weight * np.outer(inside, inside)
    right = np.concatenate([vector.ravel(), np.zeros(2 * k)])
    expected = np.linalg.solve(matrix, right)[:n_feature].reshape(n_pix, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_noise_outside_of_the_span_stays_out_of_slopes():
    rng = np.random.default_rng(1)
    n_pix = 400
    full, noise = draw_system(n_pix, rng)
    basis = np.sin(np.arange(n_pix) / rng.uniform(5, 50, (4, 1)))
    truth = np.zeros((n_pix, 3))
    truth[:, 0], truth[:, 1] = 0.3, 0.2 * basis[0] - 0.1 * basis[2]
    vector = noise + np.einsum("pij,pj->pi", full, truth)

    def find_error(outside):
        found = _solve_pixels(full, vector, basis, DEGREES, 0.05, outside)
        return np.sqrt(np.mean((found - truth) ** 2, axis=0))

    alike, spanned = find_error(1.0), find_error(100.0)
    assert spanned[1] < 0.4 * alike[1]
    assert spanned[2] < 0.4 * alike[2]
    # The constant is what it is.
    np.testing.assert_allclose(spanned[0], alike[0], rtol=0.1)


def test_what_nuisance_directions_explain_is_no_part_of_the_correction(theory, sample_labels):
    """Every star has much of one direction; its amplitude is known."""
    n, n_pix = 64, theory.grid.n_pix
    wave = np.arange(n_pix)
    lacking, direction = 0.02 * np.sin(wave / 9.0), 0.05 * np.cos(wave / 17.0)
    amplitude = np.random.default_rng(5).normal(1.5, 0.4, (n, 1))
    scaled = theory.label_space.scale(jnp.asarray(sample_labels(n, 1), jnp.float32))
    flux = np.asarray(theory.predict_scaled_batch(scaled)) + lacking + amplitude * direction
    ivar = np.full((n, n_pix), 1e4, np.float32)
    domain = ObservedDomain(
        flux.astype(np.float32), ivar, ivar, theory.grid, np.zeros(n), np.full(n, 100.0)
    )
    model = CorrectedModel(
        theory,
        jnp.zeros((1, n_pix)),
        jnp.asarray(direction[None], jnp.float32),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 0),
    )
    found = Posterior(np.asarray(scaled), np.zeros((n, 4, 4)), amplitude, np.zeros(n), np.ones(n))
    stars = StarSample(domain, theory, np.arange(n))
    correction = regress_correction(model, stars, found, np.ones(n, bool), 0.2)
    np.testing.assert_allclose(correction[0], lacking, atol=2e-6)


ORDER = LabelFeatures(("teff", "mh"), (3550.0, -0.2), (220.0, 0.3), 1)


def make_model(theory, **fields):
    n_pix = theory.grid.n_pix
    nothing = jnp.zeros((3, n_pix)), jnp.zeros((0, n_pix))
    return CorrectedModel(theory, *nothing, theory.model_error, ORDER, **fields)


def take_labels(scaled, covariance):
    n = len(scaled)
    return Posterior(scaled, covariance, np.zeros((n, 0)), np.zeros(n), np.ones(n))


def make_stars(theory, flux, ivar):
    n = len(flux)
    arrays = (np.asarray(part, np.float32) for part in (flux, ivar, ivar))
    domain = ObservedDomain(*arrays, theory.grid, np.zeros(n), np.full(n, 50.0))
    return StarSample(domain, theory, np.arange(n))


@pytest.fixture(scope="module")
def some_stars(theory, sample_labels):
    """Eight stars that theory does not describe, with errors and gaps of their own."""
    rng = np.random.default_rng(9)
    scaled = np.asarray(theory.label_space.scale(sample_labels(8, 2)), np.float32)
    flux = np.asarray(theory.predict_scaled_batch(jnp.asarray(scaled)))
    flux = flux + 0.05 * rng.standard_normal(flux.shape)
    ivar = rng.uniform(300.0, 3000.0, flux.shape)
    ivar[rng.random(ivar.shape) < 0.1] = 0
    # Pixels that next to nobody has seen, and one that all have seen, if poorly.
    ivar[:, 60], ivar[:, 61], ivar[:, 62] = 0.0, 0.1, 10.0
    return scaled, flux, ivar


def test_without_priors_and_errors_it_is_least_squares_of_the_stars_that_count(theory, some_stars):
    scaled, flux, ivar = some_stars
    model = make_model(theory, noise_scale=1.4)
    kept = np.array([1, 1, 0, 1, 1, 1, 1, 1], bool)
    # What is not kept changes nothing.
    flux = np.where(kept[:, None], flux, 7.0)
    stars = make_stars(theory, flux, ivar)
    found = take_labels(scaled, np.zeros((8, 4, 4)))
    correction = regress_correction(model, stars, found, kept, 1e-9)
    _, weight, _ = stars.pixels(slice(0, 8), 1.4)
    teff, _, mh, _ = theory.label_space.unscale(scaled.astype(np.float64)).T
    x, y = (3 * np.tanh(one / 3) for one in ((teff - 3550) / 220, (mh + 0.2) / 0.3))
    features = np.stack([np.ones(8), x, y], axis=1)
    residual = flux - np.asarray(theory.predict_scaled_batch(jnp.asarray(scaled)))
    assert (correction[:, 60:62] == 0).all()
    for pixel in (0, 5, 62, 63, 110, 199):
        root = np.sqrt(weight[:, pixel].astype(np.float64)) * kept
        expected = np.linalg.lstsq(features * root[:, None], residual[:, pixel] * root)[0]
        np.testing.assert_allclose(correction[:, pixel], expected, rtol=1e-3, atol=2e-4)


def test_labels_with_errors_are_as_many_stars_spread_over_what_they_may_be(theory, some_stars):
    """Each star in eight versions, at plus and minus twice each column of its covariance's root."""
    scaled, flux, ivar = some_stars
    rng = np.random.default_rng(3)
    root = 0.01 * np.tril(rng.uniform(-1, 1, (8, 4, 4))) + 0.02 * np.eye(4)
    covariance = root @ root.transpose(0, 2, 1)
    args = np.ones(8, bool), 0.2, 30.0
    model = make_model(theory)
    found = regress_correction(
        model, make_stars(theory, flux, ivar), take_labels(scaled, covariance), *args
    )
    away = 2 * root.transpose(0, 2, 1)
    ends = [(scaled[:, None] + sign * away).astype(np.float32).reshape(32, 4) for sign in (1, -1)]
    above, below = (np.asarray(theory.predict_scaled_batch(jnp.asarray(end))) for end in ends)
    middle = np.repeat(np.asarray(theory.predict_scaled_batch(jnp.asarray(scaled))), 4, axis=0)
    # Theory is taken to be straight over the errors: what bends is taken out.
    shown = np.repeat(flux, 4, axis=0) - middle + 0.5 * (above + below)
    versions = make_stars(
        theory, np.tile(shown, (2, 1)), np.tile(np.repeat(ivar, 4, axis=0), (2, 1))
    )
    spread = take_labels(np.concatenate(ends), np.zeros((64, 4, 4)))
    expected = regress_correction(model, versions, spread, np.ones(64, bool), *args[1:])
    sure = take_labels(scaled, np.zeros((8, 4, 4)))
    without = regress_correction(model, make_stars(theory, flux, ivar), sure, *args)
    effect = np.abs(expected - without).max(axis=1)
    assert (effect > 1e-3).all()
    assert (np.abs(found - expected).max(axis=1) < 0.03 * effect).all()


def test_without_slopes_the_constant_is_the_weighted_mean():
    full, vector = draw_system(4, np.random.default_rng(2))
    full, vector = full[:, :1, :1], vector[:, :1]
    found = _solve_pixels(full, vector, np.ones((2, 4)), np.array([0]), 0.3, 5.0)
    np.testing.assert_allclose(found, vector / full[:, 0], rtol=1e-5)
