"""The loop stops early, resumes bit for bit and fails with a remedy."""

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.data import prepare_training_set
from jaxmdwarf.training.emulator.loop import (
    continue_training,
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
