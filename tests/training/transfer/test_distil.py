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
