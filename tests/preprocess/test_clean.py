"""The cleaning drops what is no M dwarf, keeps what is, and repeats itself exactly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.clean import CleaningConfig, clean, measure_shapes, shape_features
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 8900.0, 1.0)


def mdwarf_like(depth):
    """A red slope with TiO-like band heads, degraded to the red."""
    wave = GRID.wave_aa
    flux = (wave / 7500.0) ** 5
    for head in (6160.0, 6650.0, 7055.0, 7090.0, 7130.0, 7590.0, 7670.0, 8440.0):
        beyond = wave - head
        flux *= 1 - depth * np.where(beyond > 0, np.exp(-np.clip(beyond, 0, None) / 80.0), 0.0)
    return flux


def sample(seed=0):
    """100 M dwarfs, 60 hot stars, 20 featureless red objects, 12 failed spectra."""
    rng = np.random.default_rng(seed)
    wave = GRID.wave_aa
    flux = [mdwarf_like(depth) for depth in rng.uniform(0.25, 0.5, 100)]
    flux += [(wave / 7500.0) ** power for power in rng.uniform(-3.0, -1.0, 60)]
    flux += [(wave / 7500.0) ** power for power in rng.uniform(3.0, 5.0, 20)]
    flux = np.array(flux) * rng.uniform(10, 1000, (len(flux), 1))
    flux += rng.normal(size=flux.shape) * flux.mean(axis=1, keepdims=True) / 10
    broken = rng.normal(size=(12, GRID.n_pix)) * 5.0 + 1.0
    flux = np.concatenate([flux, broken])
    truth = np.arange(len(flux)) < 100
    order = rng.permutation(len(flux))
    ivar = np.ones_like(flux)
    ivar[rng.random(flux.shape) < 0.01] = 0.0
    flux[ivar == 0] = 1e9
    batch = SpectrumBatch(
        jnp.asarray(flux[order], jnp.float32),
        jnp.asarray(ivar[order], jnp.float32),
        jnp.asarray(ivar[order], jnp.float32),
        GRID,
    )
    return batch, truth[order]


def test_contaminants_go_and_m_dwarfs_stay():
    batch, truth = sample()
    features, grid = shape_features(batch)
    templates = shape_features(
        SpectrumBatch(*(jnp.asarray([mdwarf_like(0.3)], jnp.float32),) * 3, GRID)
    )[0]
    for given in (templates, None):
        done = clean(features, grid, CleaningConfig(n_clusters=12), templates=given)
        assert done.keep[truth].mean() >= 0.98
        assert done.keep[~truth].mean() <= 0.02
    assert not any(row.dropped for row in done.rounds[-1].rows)
    assert (done.dropped_in_round[done.keep] == 0).all()
    assert (done.dropped_in_round[~done.keep] > 0).all()


def test_a_repeat_gives_exactly_the_same():
    features, grid = shape_features(sample()[0])
    one, other = clean(features, grid), clean(features, grid)
    np.testing.assert_array_equal(one.keep, other.keep)
    for first, second in zip(one.rounds, other.rounds, strict=True):
        np.testing.assert_array_equal(first.means, second.means)
        np.testing.assert_array_equal(first.cluster, second.cluster)


def test_the_lists_overrule_the_rules():
    features, grid = shape_features(sample()[0])
    config = CleaningConfig(n_clusters=8, max_rounds=1)
    plain = clean(features, grid, config).rounds[0]
    dropped = next(row.cluster for row in plain.rows if row.dropped)
    kept = next(row.cluster for row in plain.rows if not row.dropped)
    edited = clean(
        features, grid, dataclasses.replace(config, drop=((1, kept),), keep=((1, dropped),))
    )
    rows = edited.rounds[0].rows
    assert rows[kept].dropped
    assert rows[kept].reason == "dropped by the list"
    assert not rows[dropped].dropped
    assert not edited.keep[plain.cluster == kept].any()
    with pytest.raises(UsageError, match=r"\(9, 3\)"):
        clean(features, grid, dataclasses.replace(config, drop=((9, 3),)))
    with pytest.raises(UsageError, match="both"):
        CleaningConfig(drop=((1, 2),), keep=((1, 2),))


def test_shapes_forget_scale_and_bad_pixels():
    batch, _ = sample()
    features, grid = shape_features(batch)
    assert grid.n_pix == 725
    assert grid.wave_aa[0] == 6001.5
    brighter = SpectrumBatch(batch.flux * 1e3, batch.ivar, batch.information, GRID)
    np.testing.assert_allclose(shape_features(brighter)[0], features, rtol=1e-4, atol=1e-4)
    assert np.abs(features[:180]).max() <= 10.0
    empty = SpectrumBatch(batch.flux[:3], batch.ivar[:3].at[1].set(0.0), batch.ivar[:3], GRID)
    nothing = shape_features(empty)[0]
    assert np.isnan(nothing[1]).all()
    done = clean(np.concatenate([features, nothing]), grid)
    assert done.dropped_in_round[len(features) + 1] == -1
    assert not done.keep[len(features) + 1]


def test_measured_shapes_are_what_their_names_say():
    grid = shape_features(sample()[0])[1]
    wave = grid.wave_aa
    deep = np.where((wave > 7110) & (wave < 7150), 0.4, 1.0)
    noise = 1 + 0.3 * np.random.default_rng(1).normal(size=wave.size)
    measured = measure_shapes(np.stack([deep, noise, -deep]), grid, np.stack([deep]))
    assert measured["tio5"][0] == pytest.approx(0.4, abs=1e-6)
    assert measured["roughness"][1] == pytest.approx(0.3, rel=0.1)
    assert measured["negative_fraction"].tolist()[::2] == [0.0, 1.0]
    assert measured["correlation"][0] == pytest.approx(1.0, abs=1e-6)
    assert abs(measured["correlation"][1]) < 0.2


def test_band_windows_are_published_in_air():
    grid = shape_features(sample()[0])[1]
    wave = grid.wave_aa
    # TiO5 is measured from 7126 Angstrom in air on, which is 7127.96 in vacuum.
    beside = np.where((wave > 7125) & (wave < 7128), 0.5, 1.0)
    assert (beside < 1).sum() == 1
    assert measure_shapes(beside[None], grid)["tio5"][0] > 0.99


def test_bad_calls_say_why():
    features, grid = shape_features(sample()[0])
    with pytest.raises(MismatchError, match="bins"):
        clean(features[:, :5], grid)
    with pytest.raises(UsageError, match="no spectrum"):
        clean(np.full((3, grid.n_pix), np.nan), grid)
    with pytest.raises(UsageError, match="2 clusters"):
        CleaningConfig(n_clusters=1)
