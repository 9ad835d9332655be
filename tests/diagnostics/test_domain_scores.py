"""Scores of two clouds: exact where theory is, blind to nothing that training could exploit."""

import numpy as np
import pytest

from jaxmdwarf.diagnostics.domain_scores import (
    discriminant_accuracy,
    explained_fraction,
    find_comparison_basis,
    latent_change,
    marginal_distance,
)
from jaxmdwarf.errors import MismatchError


def test_the_distance_is_that_of_two_gaussians():
    rng = np.random.default_rng(0)
    first = rng.normal(0.0, 2.0, (200_000, 3))
    second = rng.normal(0.0, 2.0, (200_000, 3)) * [1.0, 1.5, 0.5] + [1.0, 0.0, 0.0]
    # In units of the first cloud: shift 0.5, widths (1, 1.5, 0.5) against 1; tails are cut at 4.
    assert marginal_distance(first, second) == pytest.approx(0.25 + 0.25 + 0.25, rel=0.03)


def test_small_samples_of_one_cloud_are_not_apart_on_average():
    rng = np.random.default_rng(1)
    distances = [marginal_distance(*rng.normal(size=(2, 60, 16))) for _ in range(100)]
    assert abs(np.mean(distances)) < 0.15  # without the correction: 0.8


def test_a_collapsed_cloud_in_the_right_place_scores_badly():
    cloud = np.random.default_rng(1).normal(size=(400, 4))
    collapsed = np.tile(cloud.mean(axis=0), (400, 1))
    assert marginal_distance(cloud, collapsed) > 3.0


def test_one_broken_spectrum_changes_little():
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=(2, 400, 4))
    broken = second.copy()
    broken[0] = 1e6
    change = marginal_distance(first, broken) - marginal_distance(first, second)
    assert abs(change) < 0.05


def test_the_discriminant_guesses_at_equal_clouds_and_knows_shifted_ones():
    rng = np.random.default_rng(2)
    assert abs(discriminant_accuracy(*rng.normal(size=(2, 1000, 40))) - 0.5) < 0.05
    shifted = rng.normal(size=(1000, 40)) + 2.0 * np.eye(40)[3]
    accuracy = discriminant_accuracy(rng.normal(size=(1000, 40)), shifted, n_component=40)
    assert accuracy == pytest.approx(0.84, abs=0.03)  # Phi(1)


def test_unrelated_latents_explain_nothing():
    rng = np.random.default_rng(3)
    given, wanted = rng.normal(size=(2, 600, 5))
    assert explained_fraction(given, wanted) < 0.03
    assert explained_fraction(given, np.column_stack([given[:, 0], 0.01 * wanted[:, 0]])) > 0.99


def test_latents_that_a_transfer_keeps_have_changed_by_nothing():
    latents = np.random.default_rng(4).normal(size=(50, 6))
    assert latent_change(latents, latents) == 0.0
    assert latent_change(latents, latents + 1.0) > 0.1


def test_masked_pixels_and_faint_spectra_do_not_reach_the_basis():
    rng = np.random.default_rng(5)
    line = np.exp(-(((np.arange(60) - 30) / 4.0) ** 2))
    flux = 1.0 - rng.uniform(0, 0.5, (80, 1)) * line
    ivar = np.full(flux.shape, 400.0)
    flux[:, 7], ivar[:, 7] = 1e6, 0.0
    flux[40:] += rng.normal(0, 3.0, (40, 60))
    ivar[40:] = np.minimum(ivar[40:], 0.1)
    basis = find_comparison_basis(flux, ivar, n_spec=40, n_component=2).basis
    assert abs(basis[0] @ line) / np.linalg.norm(line) > 0.999
    with pytest.raises(MismatchError, match="masked"):
        find_comparison_basis(flux, np.zeros_like(ivar))
