"""Evidence of labels tells true noise; samples of stars keep their pixels and hits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.training.transfer import label_posterior
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_posterior import (
    StarSample,
    estimate_labels,
    pad_rows,
    residuals_of,
)
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()


def correct_nothing(theory, **fields) -> CorrectedModel:
    return CorrectedModel(
        theory,
        jnp.zeros((1, GRID.n_pix)),
        jnp.zeros((0, GRID.n_pix)),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 0),
        **fields,
    )


@pytest.mark.parametrize("true_scale", [1.0, 1.4])
def test_evidence_tells_by_how_much_stated_errors_fall_short(true_scale, theory, sample_labels):
    n = 200
    rng = np.random.default_rng(4)
    labels = sample_labels(n, 3)
    flux = np.asarray(theory.predict_scaled_batch(SPACE.scale(jnp.asarray(labels, jnp.float32))))
    snr = rng.uniform(20.0, 60.0, n)
    stated = np.broadcast_to(1 / snr[:, None], flux.shape)
    noisy = flux + true_scale * stated * rng.standard_normal(flux.shape)
    ivar = (stated**-2).astype(np.float32)
    ivar[:, 90:100] = 0.0
    domain = ObservedDomain(noisy.astype(np.float32), ivar, ivar, GRID, np.zeros(n), snr)
    stars = StarSample(domain, theory, np.arange(n))
    evidence = {}
    for wrong in (0.8, 1.0, 1.25):
        model = correct_nothing(theory, noise_scale=jnp.asarray(wrong * true_scale, jnp.float32))
        evidence[wrong] = np.mean(estimate_labels(model, stars, np.zeros(4)).evidence)
    # A scale wrong by a factor f costs each of 190 pixels ln f + (1 / f^2 - 1) / 2: 5.5 and 8.2.
    assert 3.0 < evidence[1.0] - evidence[1.25] < 9.0
    assert 4.0 < evidence[1.0] - evidence[0.8] < 13.0


def test_chosen_stars_keep_their_pixels_and_their_hits(universe, monkeypatch):
    theory, domain, _, _ = universe
    monkeypatch.setattr(label_posterior, "_CHUNK", 100)
    rows = np.arange(5, 255)
    stars = StarSample(domain, theory, rows)
    unhit = stars.pixels(slice(0, 100), 1.0)[1]
    hits = [(3, 20), (120, 60), (249, 199)]
    residual = np.zeros((rows.size, GRID.n_pix), np.float32)
    for star, pixel in hits:
        residual[star, pixel] = 0.9
    stars.drop_hits(lambda chunk: residual[chunk], 1.0)
    every = [
        np.concatenate(parts)
        for parts in zip(*(stars.pixels(chunk, 1.3) for chunk in stars.chunks()), strict=True)
    ]
    assert all(every[1][star, pixel] == every[2][star, pixel] == 0 for star, pixel in hits)
    before = unhit > 0
    before[3, 20] = False
    np.testing.assert_array_equal(every[1][:100] > 0, before)
    chosen = np.array([249, 120, 7, 3])
    some = stars.take(chosen)
    assert some.n_star == 4
    np.testing.assert_array_equal(some.snr, domain.snr[rows[chosen]])
    for taken, whole in zip(some.pixels(slice(0, 4), 1.3), every, strict=True):
        np.testing.assert_array_equal(taken, whole[chosen])
    # As a domain of their own they are without those pixels, and otherwise as they were.
    alone, left = some.as_domain(), domain.take(rows[chosen])
    hit = np.zeros(left.ivar.shape, bool)
    hit[0, 199] = hit[1, 60] = hit[3, 20] = True
    np.testing.assert_array_equal(alone.ivar, np.where(hit, 0, left.ivar))
    np.testing.assert_array_equal(alone.information, np.where(hit, 0, left.information))
    np.testing.assert_array_equal(alone.flux, left.flux)
    np.testing.assert_array_equal(alone.snr, left.snr)
    fresh = StarSample(domain, theory, rows).as_domain()
    np.testing.assert_array_equal(fresh.ivar, domain.ivar[rows])
    # Nor does taking some change the others.
    np.testing.assert_array_equal(stars.pixels(slice(200, 250), 1.3)[1], every[1][200:])


def test_weights_are_of_all_that_a_pixel_is_off_by_and_bad_pixels_have_none(theory):
    """Variances add: of the noise as it is, of the model, of a half per cent of any spectrum."""
    n = 4
    sigma = np.linspace(0.01, 0.2, n * GRID.n_pix).reshape(n, -1)
    ivar, information = sigma**-2, 0.25 * sigma**-2
    ivar[1, 7] = information[2, 9] = 0.0
    flux = np.full(ivar.shape, 0.9)
    flux[1, 7] = flux[2, 9] = 50.0
    flux, ivar, information = (part.astype(np.float32) for part in (flux, ivar, information))
    domain = ObservedDomain(
        flux, ivar, information, GRID, np.zeros(n), np.arange(4.0) + 10, star=np.array([5, 5, 6, 7])
    )
    uncertain = replace(theory, model_error=jnp.linspace(0.0, 0.05, GRID.n_pix))
    stars = StarSample(domain, uncertain, np.array([1, 2, 3]))
    assert stars.star.tolist() == [5, 6, 7]
    assert stars.snr.tolist() == [11, 12, 13]
    got_flux, weight, got_ivar = stars.pixels(slice(0, 3), 1.5)
    good = np.ones((3, GRID.n_pix), bool)
    good[0, 7] = good[1, 9] = False
    centre = np.asarray(theory.predict_scaled(jnp.zeros(4)))
    of_model = np.linspace(0.0, 0.05, GRID.n_pix) * centre
    # Resampled pixels say a quarter of what each would say alone.
    expected = np.hypot(1.5 * 2 * sigma[1:], np.hypot(of_model, 0.005)) ** -2
    np.testing.assert_allclose(weight, np.where(good, expected, 0), rtol=1e-5)
    np.testing.assert_allclose(got_ivar, np.where(good, (1.5 * sigma[1:]) ** -2, 0), rtol=1e-5)
    np.testing.assert_array_equal(got_flux, np.where(good, np.float32(0.9), 0))


def test_hits_are_far_in_flux_and_in_sigmas_from_what_other_stars_show_there(theory):
    n, n_pix = 9, GRID.n_pix
    sigma = np.where(np.arange(n_pix) < 100, 0.01, 0.05)
    ivar = np.broadcast_to(sigma**-2, (n, n_pix)).astype(np.float32)
    flux = np.ones((n, n_pix), np.float32)
    domain = ObservedDomain(flux, ivar, ivar, GRID, np.zeros(n), np.full(n, 50.0))
    stars = StarSample(domain, theory, np.arange(n))
    residual = np.zeros((n, n_pix))
    residual[:, 3] = 0.5  # of all stars: the model's doing
    residual[0, 3] = 0.5 - 0.16
    residual[1, 5], residual[2, 6] = -0.16, 0.14
    # True errors are twice as large as stated: six sigma are 0.6.
    residual[3, 150], residual[4, 151], residual[5, 152] = 0.59, 0.61, -0.61
    stars.drop_hits(lambda chunk: residual[chunk], 2.0)
    dropped = np.argwhere(stars.pixels(slice(0, n), 1.0)[1] == 0)
    assert dropped.tolist() == [[0, 3], [1, 5], [4, 151], [5, 152]]


def test_rows_are_padded_to_one_of_two_sizes():
    for n, size in ((1, 128), (128, 128), (129, 512), (512, 512)):
        padded = pad_rows(np.ones((n, 3)))
        assert padded.shape == (size, 3)
        assert padded.sum() == 3 * n


@pytest.fixture(scope="module")
def observed_stars(theory, sample_labels):
    """A corrected model with nuisance and priors, and three of its stars."""
    n, rng = 3, np.random.default_rng(12)
    wave = np.arange(GRID.n_pix)
    model = CorrectedModel(
        theory,
        jnp.asarray([0.03 * np.sin(wave / 7), 0.02 * np.cos(wave / 5), 0.01 * np.sin(wave / 3)]),
        jnp.asarray([0.05 * np.cos(wave / 17.0), 0.03 * np.sin(wave / 23.0)]),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 1),
        (
            LabelPrior("mh", 0.1, 0.15),
            RelationPrior("logg", ("teff",), ((0,), (1,)), (5.0, -0.1), 0.04, (3500.0,), (200.0,)),
        ),
        noise_scale=1.3,
    )
    amplitudes = rng.standard_normal((n, 2))
    scaled = jnp.asarray(SPACE.scale(sample_labels(n, 5)), jnp.float32)
    flux = np.asarray(model.predict_scaled_batch(scaled)) + amplitudes @ np.asarray(model.nuisance)
    sigma = np.linspace(0.02, 0.05, n)[:, None] * np.ones(GRID.n_pix)
    flux = flux + 1.3 * sigma * rng.standard_normal(flux.shape)
    ivar = sigma**-2
    flux[:, 30:40], ivar[:, 30:40] = 9.0, 0.0
    arrays = (part.astype(np.float32) for part in (flux, ivar, 0.5 * ivar))
    domain = ObservedDomain(*arrays, GRID, np.zeros(n), np.full(n, 30.0))
    stars = StarSample(domain, theory, np.arange(n))
    return model, stars, domain, estimate_labels(model, stars, np.zeros(4))


def test_posteriors_are_those_of_all_pixels_correlated_by_the_nuisance(observed_stars):
    """Amplitudes integrated out are covariances of pixels: the dense matrix, star by star."""
    model, stars, domain, found = observed_stars
    nuisance = np.asarray(model.nuisance, np.float64)

    @jax.jit
    def linearise(scaled):
        def predict(one):
            return model.predict_scaled(one)

        return predict(scaled), jax.jacfwd(predict)(scaled)

    def priors(scaled):
        teff, logg, mh, _ = np.asarray(SPACE.unscale(scaled))
        return np.array([(0.1 - mh) / 0.15, (5.0 - 0.1 * (teff - 3500) / 200 - logg) / 0.04])

    width = np.subtract(SPACE.upper, SPACE.lower)
    by_label = np.zeros((2, 4))
    by_label[0, 2] = -width[2] / 0.15
    by_label[1, :2] = -0.1 / 200 * width[0] / 0.04, -width[1] / 0.04
    flux, weight, _ = stars.pixels(slice(0, stars.n_star), 1.3)
    for star in range(stars.n_star):
        good = weight[star] > 0
        covariance = np.diag(1 / weight[star, good].astype(np.float64))
        covariance += nuisance[:, good].T @ nuisance[:, good]
        white = np.linalg.inv(np.linalg.cholesky(covariance))

        def residual(scaled, star=star, good=good, white=white):
            predicted = np.asarray(linearise(jnp.asarray(scaled, jnp.float32))[0], np.float64)
            return np.concatenate([white @ (flux[star] - predicted)[good], priors(scaled)])

        def jacobian(scaled, good=good, white=white):
            slopes = np.asarray(linearise(jnp.asarray(scaled, jnp.float32))[1], np.float64)
            return np.concatenate([-white @ slopes[good], by_label])

        at = found.scaled[star].astype(np.float64)
        slopes = jacobian(at)
        curvature = slopes.T @ slopes
        error = np.linalg.inv(curvature)
        sigma = np.sqrt(np.diag(error))
        # The way that is left to the least squares; solvers stop at a twentieth of a sigma.
        assert (np.abs(error @ slopes.T @ residual(at)) < 0.05 * sigma).all()
        np.testing.assert_allclose(
            found.covariance[star] / sigma / sigma[:, None],
            error / sigma / sigma[:, None],
            atol=2e-3,
        )
        left = flux[star] - np.asarray(linearise(jnp.asarray(at, jnp.float32))[0])
        amplitudes = nuisance[:, good] @ np.linalg.solve(covariance, left[good])
        np.testing.assert_allclose(found.amplitudes[star], amplitudes, atol=2e-3)
        evidence = -0.5 * (
            np.sum(residual(at) ** 2)
            + np.linalg.slogdet(covariance)[1]
            + np.linalg.slogdet(curvature)[1]
        )
        assert found.evidence[star] == pytest.approx(evidence, abs=0.02)
        stated = domain.ivar[star, good] * (left - amplitudes @ nuisance)[good] ** 2
        assert found.chi2_red[star] == pytest.approx(stated.mean(), rel=1e-3)


def test_residuals_are_what_model_and_amplitudes_leave_of_good_pixels(observed_stars):
    model, stars, domain, found = observed_stars
    rows = slice(1, 3)
    predicted = np.asarray(model.predict_scaled_batch(jnp.asarray(found.scaled[rows])))
    left = domain.flux[rows] - predicted
    left[:, 30:40] = 0
    with_nuisance = residuals_of(model, stars, found, without_nuisance=True)(rows)
    np.testing.assert_allclose(with_nuisance, left, atol=2e-6)
    explained = found.amplitudes[rows] @ np.asarray(model.nuisance)
    explained[:, 30:40] = 0
    residual = residuals_of(model, stars, found)(rows)
    np.testing.assert_allclose(residual, left - explained, atol=2e-6)
