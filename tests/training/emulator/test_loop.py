"""The loop stops early, resumes bit for bit and fails with a remedy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.networks.payne import PayneNetwork, apply_payne, list_shapes
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.emulator.data import prepare_training_set, project_vectors
from jaxmdwarf.training.emulator.loop import (
    TrainingState,
    _training_network,
    continue_training,
    fold_head,
    start_training,
    stopped_early,
    training_records,
)
from jaxmdwarf.training.emulator.train import train_emulator
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7199.0, 1.0)


def assert_trees_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_resumed_training_equals_the_uninterrupted_one_bit_for_bit(
    grid_of_spectra, batch_size, tiny, vary
):
    labels, flux = (values[:60] for values in grid_of_spectra)
    config = vary(tiny, optimiser={"batch_size": batch_size})
    options = {"label_space": SPACE, "grid": GRID, "config": config}
    seen = []
    whole = train_emulator(labels, flux, on_report=lambda *pair: seen.append(pair), **options)
    assert [record.step for _, record in seen] == [20, 40, 60]
    resumed = train_emulator(labels, flux, resume_from=seen[0][0], **options)
    assert_trees_equal(whole.emulator, resumed.emulator)
    assert training_records(seen[-1][0], config) == [record for _, record in seen]


def test_training_stops_when_held_out_spectra_get_no_better_and_keeps_the_best(
    grid_of_spectra, tiny, vary
):
    labels, _ = grid_of_spectra
    # Spectra that have nothing to do with their labels: what is learned cannot carry over.
    flux = 1.0 + 0.1 * np.random.default_rng(0).normal(size=(60, 3)) @ np.eye(3, GRID.n_pix)
    config = vary(
        tiny, network={"rank": 3}, schedule={"steps": 2000, "warmup_steps": 200, "patience": 100}
    )
    training_set = prepare_training_set(
        labels[:60], flux, label_space=SPACE, grid=GRID, config=config
    )
    course = list(continue_training(training_set, config, start_training(training_set, config)))
    state, last = course[-1]
    assert last.step == 1100  # the best was found early, and patience counts from the middle
    assert stopped_early(state, config)
    best = min((record for _, record in course), key=lambda record: record.held_loss)
    assert (int(state.best_step), float(state.best_loss)) == (best.step, best.held_loss)
    at_best = next(s for s, record in course if record.step == best.step)
    assert_trees_equal(state.best_params, at_best.average)
    assert not list(continue_training(training_set, config, state))


def test_steps_need_not_be_a_multiple_of_the_report(grid_of_spectra, tiny, vary):
    labels, flux = (values[:30] for values in grid_of_spectra)
    config = vary(tiny, schedule={"steps": 25})
    report = train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config).report
    assert report.steps == 25


def test_diverging_training_fails_with_a_remedy(grid_of_spectra, tiny, vary):
    labels, flux = (values[:30] for values in grid_of_spectra)
    config = vary(tiny, optimiser={"learning_rate": 1e30}, schedule={"warmup_steps": 0})
    with pytest.raises(WorkFailed, match="lower --learning-rate"):
        train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)


@pytest.mark.parametrize("rank", [3, None])
def test_folded_heads_give_what_the_network_was_trained_to_give(rank):
    rng = np.random.default_rng(0)
    vectors = 1.0 + rng.standard_normal((20, 5)) * 3.0 ** -np.arange(5) @ rng.standard_normal(
        (5, 9)
    )
    config = EmulatorConfig(network=NetworkConfig(hidden=(4,), rank=rank, activation="tanh"))
    data = project_vectors(rng.uniform(-0.5, 0.5, (20, 2)), vectors, config)
    trained_network = _training_network(data, config)
    best = {
        layer: {
            name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in of.items()
        }
        for layer, of in list_shapes(trained_network, 2).items()
    }
    state = TrainingState(*[()] * len(TrainingState._fields))._replace(best_params=best)
    network, params, basis, mean = fold_head(data, config, state)
    scaled = jnp.asarray(rng.uniform(-0.5, 0.5, (6, 2)), jnp.float32)
    found = mean + apply_payne(network, params, scaled) @ basis
    trained = apply_payne(trained_network, best, scaled)
    expected = data.mean + (data.unit * data.spread * trained) @ data.basis
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert network == PayneNetwork((4,), data.basis.shape[0] if rank else None, "tanh")
    assert ("out" in params) is (rank is not None)


def test_averages_of_parameters_lag_and_records_are_of_the_steps_they_name():
    rng = np.random.default_rng(1)
    vectors = 1.0 + rng.standard_normal((12, 2)) @ rng.standard_normal((2, 7))
    config = EmulatorConfig(
        network=NetworkConfig((3,), rank=2),
        optimiser=OptimiserConfig(averaging=0.7),
        schedule=ScheduleConfig(steps=5, report_every=1, warmup_steps=0, patience=9),
    )
    data = project_vectors(rng.uniform(-0.5, 0.5, (12, 2)), vectors, config)
    start = start_training(data, config)
    assert start.history.shape == (5, 2)
    assert training_records(start, config) == []
    course = list(continue_training(data, config, start))
    params = [start.params, *(state.params for state, _ in course)]
    average = params[0]
    for one in params[1:]:
        average = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, one)
    last, record = course[-1]
    for one, other in zip(jax.tree.leaves(last.average), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    network = _training_network(data, config)

    def predict(params, scaled):
        return np.asarray(data.spread) * np.asarray(apply_payne(network, params, scaled))

    # The loss before the fifth step, of all spectra, and what the average leaves of those held out.
    away = predict(params[4], data.scaled) - np.asarray(data.coefficients)
    assert record.loss == pytest.approx(np.mean(np.sum(away**2, axis=1)), rel=1e-4)
    away = predict(average, data.held_scaled) - np.asarray(data.held_coefficients)
    assert record.held_loss == pytest.approx(np.mean(np.linalg.norm(away, axis=1)), rel=1e-4)
    # Reports of two steps each, but for the last.
    seldom = replace(config, schedule=ScheduleConfig(steps=5, report_every=2))
    assert [one.step for one in training_records(last, seldom)] == [2, 4, 5]
    assert len(start_training(data, seldom).history) == 3
    assert training_records(last, config)[2] == course[2][1]
