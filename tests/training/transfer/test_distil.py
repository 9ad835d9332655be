"""What is distilled from a transfer: near the transfer, quick, honest about its error."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.distilled import DistilledModel
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.emulator.data import project_vectors
from jaxmdwarf.training.transfer import distil
from jaxmdwarf.training.transfer.distil import DistillationConfig, distil_transfer
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6399.0, 1.0)
USUAL = DistillationConfig().training
CONFIG = DistillationConfig(
    n_spectra=600,
    n_components=4,
    training=replace(
        USUAL,
        network=replace(USUAL.network, hidden=(64,), rank=12),
        schedule=replace(USUAL.schedule, steps=600),
    ),
)


@jax.jit
def predict(model, scaled, own=None):
    """Flux in one program, not in one for each operation."""
    return model.predict_scaled_batch(scaled, own)


@pytest.fixture(scope="module")
def transfer():
    """An emulator of random bands, and compact networks with random weights."""
    keys = jax.random.split(jax.random.key(3), 3)
    network, space = PayneNetwork(hidden=(12,), n_out=4), LabelSpace.mdwarf()
    wave = jnp.linspace(0, 12, 400)
    basis = 0.05 * jnp.stack([jnp.sin(wave * (k + 1)) for k in range(4)])
    base = PayneEmulator(
        init_payne(network, keys[0], 4), basis, jnp.ones(400), jnp.full(400, 0.003),
        network, space, GRID,
    )  # fmt: skip
    sizes = CycleStarSizes.compact(400)
    shape = (sizes.latent_length, sizes.split_latents)
    return CycleStarModel(
        base=base,
        params=CycleStarGenerator(sizes).init(keys[1]),
        mean_split=0.1 * jax.random.normal(keys[2], shape),
        sizes=sizes,
        residual=True,
    )


@pytest.fixture(scope="module")
def splits(transfer):
    """Latents that vary along two directions from star to star."""
    rng = np.random.default_rng(0)
    shape = transfer.mean_split.shape
    along = rng.normal(size=(2, *shape))
    amplitudes = rng.normal(size=(200, 2))
    return np.asarray(transfer.mean_split + np.einsum("sk,klc->slc", amplitudes, along), np.float32)


@pytest.fixture(scope="module")
def distilled(transfer, splits):
    scaled = np.random.default_rng(1).uniform(-0.4, 0.4, (300, 4)).astype(np.float32)
    return distil_transfer(transfer, scaled, splits, CONFIG)


def test_the_surrogate_is_near_the_transfer_at_new_labels_and_latents(transfer, distilled, splits):
    rng = np.random.default_rng(7)
    scaled = jnp.asarray(rng.uniform(-0.4, 0.4, (50, 4)), jnp.float32)
    own = jnp.asarray(splits[rng.integers(0, 200, 50)])
    truth = np.asarray(predict(transfer, scaled, own))
    theory = np.asarray(predict(transfer.base, scaled))
    surrogate = distilled.model.surrogate().model
    found = np.asarray(predict(surrogate, scaled, own))
    error, gap = np.std(found - truth), np.sqrt(np.mean((theory - truth) ** 2))
    assert error < 0.35 * gap
    # Each star's own latents matter, and the surrogate knows them.
    blind = np.asarray(predict(surrogate, scaled))
    assert np.std(blind - truth) > 2 * error
    # What it says of itself is what it is.
    assert distilled.report["rms"] == pytest.approx(error, rel=0.5)
    assert distilled.report["untouched_rms"] == pytest.approx(gap, rel=0.3)


def test_the_surrogate_is_linear_at_its_end(distilled, splits):
    surrogate = distilled.model.surrogate().model
    assert isinstance(surrogate, DistilledModel)
    scaled, own = jnp.full(4, 0.2), jnp.asarray(splits[5])
    head = surrogate.low_rank()
    linear = head.mean + surrogate.coefficients(scaled, own) @ head.basis
    np.testing.assert_allclose(surrogate.predict_scaled(scaled, own), linear, atol=1e-6)
    many = predict(surrogate, scaled[None], own[None])[0]
    np.testing.assert_allclose(many, linear, atol=1e-6)


def test_latents_beyond_those_learned_from_change_nothing_more(distilled, splits):
    head = distilled.model.distillate
    away = jnp.asarray(splits[3]) - head.split_mean
    far = [head.compress(head.split_mean + factor * away) for factor in (1e3, 1e6)]
    assert np.abs(far[0]).max() == 0.5
    np.testing.assert_array_equal(far[0], far[1])
    np.testing.assert_array_equal(head.compress(head.split_mean), 0)


def test_the_transfer_itself_stays_what_it_was(transfer, distilled, splits):
    scaled, own = jnp.full((1, 4), -0.1), jnp.asarray(splits[:1])
    np.testing.assert_array_equal(
        predict(distilled.model, scaled, own),
        predict(transfer, scaled, own),
    )
    assert transfer.surrogate() == (transfer.base, False)
    assert distilled.model.surrogate().accurate


def test_a_model_directory_keeps_the_surrogate(distilled, splits, tmp_path):
    save_model(distilled.model, tmp_path / "model", training={})
    loaded = load_model(tmp_path / "model")
    scaled, own = jnp.full((3, 4), 0.3), jnp.asarray(splits[:3])
    np.testing.assert_array_equal(
        predict(loaded.surrogate().model, scaled, own),
        predict(distilled.model.surrogate().model, scaled, own),
    )


def test_latents_of_another_model_are_refused(transfer):
    labels = np.zeros((5, 4), np.float32)
    with pytest.raises(MismatchError, match="read_context"):
        distil_transfer(transfer, labels, np.zeros((4, 3, 2), np.float32), CONFIG)
    with pytest.raises(MismatchError, match="read_context"):
        distil_transfer(transfer, labels, np.zeros((0, *transfer.mean_split.shape)), CONFIG)


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="too few"):
        DistillationConfig(n_spectra=3)
    with pytest.raises(UsageError, match="uniform_share"):
        DistillationConfig(uniform_share=1.5)


def test_a_head_needs_a_base_with_one(distilled):
    class Bare(TableModel):
        def low_rank(self):
            return None

    bare = Bare(jnp.ones((16, 400)), jnp.zeros(400), LabelSpace.mdwarf(), GRID)
    with pytest.raises(MismatchError, match="linear head"):
        DistilledModel(base=bare, head=distilled.model.distillate)


def test_labels_to_learn_from_are_partly_anywhere_and_partly_near_stars():
    stars = np.tile([[-0.3, 0.49], [-0.1, 0.49]], (5, 1)).astype(np.float32)
    splits = np.arange(7.0, dtype=np.float32)[:, None, None]
    config = DistillationConfig(n_spectra=5000, uniform_share=0.4, seed=3)
    labels, taken = distil._draw(stars, splits, config)
    assert (labels.shape, taken.shape) == ((5000, 2), (5000, 1, 1))
    anywhere, likely = labels[:2000], labels[2000:]
    np.testing.assert_allclose(np.quantile(anywhere, [0, 0.25, 0.75, 1], axis=0).T,
                               np.tile([-0.5, -0.25, 0.25, 0.5], (2, 1)), atol=0.03)  # fmt: skip
    for centre in (-0.3, -0.1):
        near = likely[np.abs(likely[:, 0] - centre) < 0.1, 0]
        assert len(near) == pytest.approx(1500, abs=120)
        assert near.mean() == pytest.approx(centre, abs=0.004)
        assert near.std() == pytest.approx(0.03, rel=0.06)
    # A third of those at the edge would be beyond it.
    assert likely.max() == 0.5
    assert (likely[:, 1] == 0.5).mean() == pytest.approx(0.37, abs=0.03)
    counts = np.bincount(taken.ravel().astype(int), minlength=7)
    assert (np.abs(counts - 5000 / 7) < 100).all()
    assert np.abs(np.corrcoef(taken[2000:].ravel(), likely[:, 0])[0, 1]) < 0.06
    other = distil._draw(stars, splits, replace(config, seed=4))[0]
    assert not np.array_equal(labels, other)


def test_latents_are_projected_on_their_strongest_components_at_a_sixth_of_a_sigma():
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((12, 3)))[0].T
    sizes = rng.standard_normal((500, 3)) * [2.0, 0.5, 1e-6]
    projection = distil._project_splits((sizes @ axes).reshape(500, 4, 3), 3)
    # The third, a millionth of the first, is rounding and no component.
    assert projection.shape == (12, 2)
    found = (sizes @ axes) @ projection
    np.testing.assert_allclose(np.sqrt(np.mean(found**2, axis=0)), 0.5 / 3, rtol=1e-4)
    cosines = np.abs(projection.T @ axes.T) / np.linalg.norm(projection, axis=0)[:, None]
    np.testing.assert_allclose(cosines[:, :2], np.eye(2), atol=0.03)
    assert distil._project_splits((sizes @ axes).reshape(500, 4, 3), 1).shape == (12, 1)
    none = distil._project_splits(np.zeros((5, 4, 3)), 3)
    assert none.shape == (12, 1)
    assert (none == 0).all()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 150])
def test_differences_of_all_rows_are_found_whatever_their_number(monkeypatch, transfer, n):
    labels = np.arange(n, dtype=np.float32)[:, None]
    calls = []

    def difference(model, scaled, split):
        calls.append(len(scaled))
        return np.repeat(10 * scaled + split, 400, axis=1)

    monkeypatch.setattr(distil, "_difference", difference)

    found = distil._differences(transfer, labels, 0.5 + labels)
    np.testing.assert_array_equal(found, np.repeat(11 * labels + 0.5, 400, axis=1))
    assert calls == [64] * -(-n // 64)


def test_errors_of_a_surrogate_are_of_held_out_rows_over_all_pixels():
    rng = np.random.default_rng(2)
    labels, components = rng.standard_normal((40, 2)), rng.standard_normal((40, 3))
    basis, mean = rng.standard_normal((2, 9)), rng.standard_normal(9)

    class Head:
        @staticmethod
        def coefficients(one, other):
            return one - other[:, :2]

    Head.basis, Head.mean = basis, mean
    held = np.arange(3, 30)
    error = 0.1 * rng.standard_normal((40, 9)) * np.linspace(0.5, 3, 40)[:, None]
    truth = mean + (labels - components[:, :2]) @ basis
    truth[[0, 35]] = np.nan
    data = project_vectors(labels, labels, USUAL)._replace(held_rows=held)
    found = distil._judge(Head, data, truth + error, labels, components)
    assert found["rms"] == pytest.approx(np.sqrt(np.mean(error[held] ** 2)), rel=1e-3)
    each = np.sort(np.sqrt(np.mean(error[held] ** 2, axis=1)))
    assert found["p95"] == pytest.approx(np.interp(0.95 * 26, np.arange(27), each), rel=1e-3)
    untouched = np.sqrt(np.mean((truth + error)[held] ** 2))
    assert found["untouched_rms"] == pytest.approx(untouched, rel=1e-3)


def test_least_and_largest_settings_are_allowed():
    DistillationConfig(n_spectra=20, n_components=1, uniform_share=0.0)
    DistillationConfig(uniform_share=1.0)
    for bad in ({"n_spectra": 19}, {"n_components": 0}, {"uniform_share": -0.01}):
        with pytest.raises(UsageError):
            DistillationConfig(**bad)
