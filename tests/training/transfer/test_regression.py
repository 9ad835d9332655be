"""Slopes of spectra are of what theory's spectra are made of; noise is not."""

import jax.numpy as jnp
import numpy as np

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
