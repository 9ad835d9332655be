"""What trainings draw from: who is in it, how often, with which errors and which noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.training.cyclestar import data as module
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import (
    TransferData,
    measure_flux_scale,
    pair_domains,
    prepare_transfer,
    sample_domains,
    settle_flux_scale,
    split_for_training,
)
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain
from jaxmdwarf.wavelengths import PixelGrid

N_PIX = 24
GRID = PixelGrid.linear(7000.0, 7023.0, 1.0)
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
# Flux is 1 + 0.1 t - 0.2 m of the labels' shares of their ranges, in all pixels.
CORNERS = np.array([[1.0], [1.1], [0.8], [0.9]]) * np.ones(N_PIX)
EMULATOR = TableModel(jnp.asarray(CORNERS, jnp.float32), jnp.full(N_PIX, 1e-3), SPACE, GRID)


def make_data(n_star=2, n_label=2, **fields):
    scaled = np.linspace(-0.4, 0.4, n_label)[:, None] * np.ones(2)
    flux = np.arange(1.0, n_star + 1)[:, None] * np.ones(N_PIX)
    arrays = {
        "scaled": scaled, "flux": flux, "ivar": 10 * flux, "held_scaled": scaled, "held_flux": flux,
        "held_ivar": flux, "mean": np.ones(N_PIX), "basis": np.ones((1, N_PIX)), **fields,
    }  # fmt: skip
    return TransferData(
        EMULATOR, **{name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
    )


def test_stars_and_labels_are_drawn_evenly_and_apart():
    config = CycleStarConfig().vary(batch_size=6000, synthetic_error=0.02)
    data = make_data(3, 2)
    drawn = sample_domains(data, config, jax.random.key(4))
    star = np.asarray(drawn.obs)[:, 0]
    np.testing.assert_array_equal(drawn.obs_ivar[:, 0], 10 * star)
    assert np.bincount(star.astype(int)).tolist()[1:] == pytest.approx([2000] * 3, abs=160)
    label = np.asarray(drawn.synth)[:, 0]
    low, high = (0.95 - 0.1 * at for at in (-0.4, 0.4))
    assert {round(float(one), 4) for one in np.unique(label)} == {round(low, 4), round(high, 4)}
    assert (label > 0.95).mean() == pytest.approx(0.5, abs=0.025)
    assert abs(np.corrcoef(star, label)[0, 1]) < 0.05
    np.testing.assert_allclose(drawn.synth_ivar, 0.02**-2, rtol=1e-6)
    again = sample_domains(data, config, jax.random.key(4))
    np.testing.assert_array_equal(again.obs, drawn.obs)


def test_noise_is_drawn_evenly_in_units_of_each_pixel_s_error():
    config = CycleStarConfig().vary(alike=True)
    noise = np.array([[1.0], [-2.0], [4.0]]) * np.ones(N_PIX)
    data = make_data(noise=noise)
    n = 6000
    ivar = np.tile(np.linspace(4.0, 100.0, N_PIX), (n, 1)).astype(np.float32)
    ivar[:, 5] = 0
    synth = jnp.full((n, N_PIX), 0.7)
    paired = pair_domains(
        data, config, synth, jnp.ones((n, N_PIX)), jnp.asarray(ivar), jax.random.key(1)
    )
    away = (np.asarray(paired.synth) - 0.7) * np.sqrt(ivar)
    assert (away[:, 5] == 0).all()
    drawn = np.round(away[:, 0]).astype(int)
    np.testing.assert_allclose(np.delete(away, 5, axis=1), drawn[:, None] * np.ones(23), atol=1e-4)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [-2, 1, 4]
    assert counts.tolist() == pytest.approx([2000] * 3, abs=160)


def observe(n, seed=0):
    rng = np.random.default_rng(seed)
    flux = rng.normal(1.0, 0.05, (n, N_PIX)).astype(np.float32)
    ivar = rng.uniform(100.0, 1e6, flux.shape).astype(np.float32)
    return ObservedDomain(flux, ivar, ivar, GRID, np.zeros(n), np.ones(n))


def test_data_are_those_of_the_split_and_labels_within_the_bounds():
    domain, rng = observe(110), np.random.default_rng(2)
    config = CycleStarConfig().vary(
        batch_size=8, validation_rows=12, error_floor=0.004, largest_error=0.05, seed=3
    )
    labels = SPACE.unscale(rng.uniform(-0.5, 0.5, (60, 2)))
    labels[::10, 0] = 4500.0
    split = split_for_training(110, config)
    data = prepare_transfer(EMULATOR, domain, labels, config)
    np.testing.assert_array_equal(data.flux, domain.flux[split.train])
    held = split.validation[:12]
    np.testing.assert_array_equal(data.held_flux, domain.flux[held])
    sigma = domain.ivar.astype(np.float64) ** -0.5
    expected = np.where(sigma > 0.05, 0, np.maximum(sigma, 0.004) ** -2)
    np.testing.assert_allclose(data.ivar, expected[split.train], rtol=1e-5)
    np.testing.assert_allclose(data.held_ivar, expected[held], rtol=1e-5)
    # No label is in both parts, none is lost, none is beyond the bounds.
    assert (len(data.scaled), len(data.held_scaled)) == (54 - 12, 12)
    together = np.concatenate([data.scaled, data.held_scaled])
    expected = SPACE.scale(np.delete(labels, np.arange(0, 60, 10), axis=0))
    order, known = (np.argsort(one[:, 0]) for one in (together, expected))
    np.testing.assert_allclose(together[order], expected[known], atol=1e-6)
    assert not np.allclose(together, expected, atol=1e-3)
    assert data.noise is None
    other = prepare_transfer(EMULATOR, domain, labels, config.vary(seed=4), split=split)
    assert not np.array_equal(other.held_scaled, data.held_scaled)


def test_labels_are_as_many_as_a_batch_and_twice_those_held_out():
    domain = observe(110)
    labels = SPACE.unscale(np.random.default_rng(2).uniform(-0.5, 0.5, (40, 2)))
    config = CycleStarConfig().vary(batch_size=8, validation_rows=20)
    assert len(prepare_transfer(EMULATOR, domain, labels, config).held_scaled) == 20
    with pytest.raises(MismatchError, match="only 39 of 39 label draws"):
        prepare_transfer(EMULATOR, domain, labels[:39], config)
    config = config.vary(batch_size=16, validation_rows=1)
    assert len(prepare_transfer(EMULATOR, domain, labels[:16], config).scaled) == 15
    with pytest.raises(MismatchError, match="only 15 of 15"):
        prepare_transfer(EMULATOR, domain, labels[:15], config)
    gone = labels.copy()
    gone[3, 1] = np.nan
    for bad in (gone, labels[:, :1]):
        with pytest.raises(MismatchError, match="not finite, or not of teff, mh"):
            prepare_transfer(EMULATOR, domain, bad, config)


@pytest.mark.parametrize(("batch_size", "least"), [(4, (4, 4, 1)), (64, (64, 8, 1))])
def test_a_batch_to_train_on_and_some_to_validate_are_needed(monkeypatch, batch_size, least):
    seen = {}

    def split_domain(n_spec, **options):
        seen.update(options, n=n_spec)
        return DomainSplit(*np.zeros((3, 0), int))

    monkeypatch.setattr(module, "split_domain", split_domain)
    star = np.arange(500)
    config = CycleStarConfig().vary(batch_size=batch_size, seed=9)
    split_for_training(500, config, star)
    assert seen == {"n": 500, "seed": 9, "least": least, "star": star}


def test_noise_has_the_amplitude_and_the_correlation_of_observed_spectra(monkeypatch):
    """Factors and widths as they are found; what is made of them is white here, or smoothed."""
    domain = observe(150)
    outlier = np.zeros((120, N_PIX), bool)
    outlier[3, 4] = True
    asked = {}

    def match_noise(flux, ivar, *, n_component, seed):
        asked.update(n=len(flux), n_component=n_component, seed=seed)
        np.testing.assert_array_equal(flux, domain.flux[rows])
        return 1.7, outlier

    def native_width(ivar, information, *, sigma_pix):
        asked["sigma_pix"] = sigma_pix
        return None

    monkeypatch.setattr(module, "match_noise", match_noise)
    monkeypatch.setattr(module, "native_width", native_width)
    rows = np.arange(20, 140)
    smoothed = replace(EMULATOR, preprocessing=Preprocessing(sigma_aa=3.0))
    noise, found = module._learn_noise(smoothed, domain, rows, 5)
    assert found is outlier
    assert noise.shape == (512, N_PIX)
    assert noise.std() == pytest.approx(1.7, rel=0.03)
    assert (asked["n"], asked["n_component"], asked["seed"]) == (120, 3, 5)
    np.testing.assert_allclose(asked["sigma_pix"], 3.0)
    # A hundred and nineteen are too few to tell.
    rows = rows[:119]
    noise, found = module._learn_noise(EMULATOR, domain, rows, 5)
    assert noise.std() == pytest.approx(1.0, rel=0.03)
    assert found.shape == (119, N_PIX)
    assert not found.any()
    assert asked["sigma_pix"] is None


def test_flux_is_scaled_by_weighted_moments_of_good_pixels():
    rng = np.random.default_rng(6)
    flux, weight = rng.normal(0.93, 0.08, (1500, 5)), rng.uniform(0.5, 3.0, (1500, 5))
    weight[rng.random(weight.shape) < 0.2] = 0
    mean = np.average(flux, weights=weight)
    spread = np.sqrt(np.average((flux - mean) ** 2, weights=weight))
    flux[weight == 0] = np.nan
    found = measure_flux_scale(flux, weight)
    assert found == pytest.approx((mean, spread), abs=6e-5)
    assert found == tuple(round(one, 4) for one in found)
    assert measure_flux_scale(np.ones((2, 3)), np.ones((2, 3))) == (1.0, 1e-4)
    data = make_data(flux=np.ones((2, N_PIX)))
    config = CycleStarConfig().vary(flux_scale=(0.9, 0.2))
    assert settle_flux_scale(config, data) is config
    settled = settle_flux_scale(config.vary(flux_scale="data"), data)
    assert settled.networks.flux_scale == (1.0, 1e-4)
