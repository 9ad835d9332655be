"""Evidence of labels tells true noise; samples of stars keep their pixels and hits."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer import label_posterior
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_posterior import StarSample, estimate_labels
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
    # Nor does taking some change the others.
    np.testing.assert_array_equal(stars.pixels(slice(200, 250), 1.3)[1], every[1][200:])
