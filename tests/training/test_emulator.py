"""Training an emulator: it reaches the paper's accuracy, resumes exactly, and reports honestly."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError, WorkFailed
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator import (
    accuracy_over_labels,
    continue_training,
    prepare_training_set,
    reconstruct,
    split_rows,
    start_training,
    stopped_early,
    train_emulator,
    training_records,
)
from jaxmdwarf.training.emulator_config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.losses import reconstruction_error
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7199.0, 1.0)
TINY = EmulatorConfig(
    network=NetworkConfig(hidden=(32, 32), rank=6),
    optimiser=OptimiserConfig(learning_rate=3e-3),
    schedule=ScheduleConfig(steps=60, warmup_steps=10, report_every=20),
)


def vary(config, **sections):
    """A configuration with other values in some of its sections."""
    changed = {name: replace(getattr(config, name), **new) for name, new in sections.items()}
    return replace(config, **changed)


def saturating_bands(labels):
    """Normalised flux with two bands that saturate, in the way of TiO and of a hydride."""
    teff, logg, mh, alpha = np.asarray(labels, dtype=np.float64).T[..., None]
    wave = GRID.wave_aa
    oxide = np.exp(-(wave - 7054.0) / 60.0) * (wave > 7054.0) * (1.0 + 0.5 * np.sin(wave / 2.0))
    hydride = np.exp(-(((wave - 7150.0) / 15.0) ** 2)) * (1.0 + 0.4 * np.cos(wave / 3.0))
    depth = 10 ** (1.2 * (mh + alpha) - (teff - 3400.0) / 600.0) * oxide
    depth = depth + 10 ** (0.4 * (logg - 5.0) + 0.6 * mh) * hydride
    return (1.0 / (1.0 + depth) ** 0.4).astype(np.float32)


@pytest.fixture(scope="module")
def grid_of_spectra():
    rng = np.random.default_rng(11)
    labels = SPACE.unscale(rng.uniform(-0.5, 0.5, (600, 4)))
    return labels, saturating_bands(labels)


@pytest.fixture(scope="module")
def trained(grid_of_spectra):
    labels, flux = grid_of_spectra
    config = EmulatorConfig(
        network=NetworkConfig(hidden=(96, 96), rank=16), schedule=ScheduleConfig(steps=1500)
    )
    return train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)


def assert_trees_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_held_out_spectra_come_back_as_well_as_the_paper_asks(trained):
    metrics = trained.report.metrics()
    assert metrics["eq1_median"] < 0.005
    assert metrics["eq1_p95"] < 0.01
    assert (metrics["n_train"], metrics["n_held_out"]) == (480, 120)


def test_the_report_is_eq_1_of_what_the_emulator_predicts(trained, grid_of_spectra):
    labels, flux = grid_of_spectra
    rows = jnp.asarray(labels[:5], dtype=jnp.float32)
    single = [np.asarray(trained.emulator.predict(row)) for row in rows]
    np.testing.assert_allclose(
        reconstruction_error(flux[:5], np.array(single)), trained.report.error[:5], rtol=2e-3
    )
    # The linear head can do no better than its own best coefficients, save by an L1 hair.
    assert (trained.report.error > 0.7 * trained.report.truncation).all()


def test_spectra_between_the_nodes_are_as_good_as_held_out_ones(trained):
    labels = SPACE.unscale(np.random.default_rng(12).uniform(-0.4, 0.4, (100, 4)))
    error = reconstruction_error(saturating_bands(labels), reconstruct(trained.emulator, labels))
    assert np.median(error) < 2 * trained.report.metrics()["eq1_median"]


def test_the_error_per_pixel_covers_two_thirds_of_held_out_residuals(trained, grid_of_spectra):
    labels, flux = grid_of_spectra
    held = trained.report.held_out
    fraction = reconstruct(trained.emulator, labels[held]) / flux[held] - 1
    inside = np.abs(fraction) <= np.asarray(trained.emulator.model_error) * 1.0001
    in_bands = np.ptp(flux, axis=0) > 0.01
    np.testing.assert_allclose(inside.mean(axis=0)[in_bands], 0.683, atol=0.02)


def test_the_plain_payne_has_its_last_layer_at_the_pixels(grid_of_spectra):
    labels, flux = (values[:80] for values in grid_of_spectra)
    config = vary(TINY, network={"rank": None}, schedule={"steps": 300, "report_every": 100})
    plain = train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)
    assert plain.emulator.low_rank().basis.shape == (32, GRID.n_pix)
    assert plain.report.metrics()["train_eq1_median"] < 0.03
    assert np.median(plain.report.truncation[~plain.report.held_out]) < 1e-5


def test_the_basis_is_orthonormal_and_the_strongest_there_is(grid_of_spectra):
    labels, flux = grid_of_spectra
    for rows in (slice(0, 100), slice(0, 600)):  # fewer, and more, spectra than pixels
        training_set = prepare_training_set(
            labels[rows], flux[rows], label_space=SPACE, grid=GRID, config=TINY
        )
        basis = np.asarray(training_set.basis)
        np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-5)
        deviation = flux[rows][training_set.train_rows] - np.asarray(training_set.mean)
        strengths = np.linalg.svd(deviation, compute_uv=False)
        left = np.sum((deviation - deviation @ basis.T @ basis) ** 2)
        np.testing.assert_allclose(left, np.sum(strengths[6:] ** 2), rtol=1e-3)


def test_the_split_is_eight_to_two_disjoint_and_by_seed():
    train, held = split_rows(1152, 0.2, seed=4)
    assert (len(train), len(held)) == (922, 230)
    assert not set(train) & set(held)
    np.testing.assert_array_equal(held, split_rows(1152, 0.2, seed=4)[1])
    assert set(held) != set(split_rows(1152, 0.2, seed=5)[1])


@pytest.mark.parametrize("batch_size", [None, 16])
def test_resumed_training_equals_the_uninterrupted_one_bit_for_bit(grid_of_spectra, batch_size):
    labels, flux = (values[:60] for values in grid_of_spectra)
    config = vary(TINY, optimiser={"batch_size": batch_size})
    options = {"label_space": SPACE, "grid": GRID, "config": config}
    seen = []
    whole = train_emulator(labels, flux, on_report=lambda *pair: seen.append(pair), **options)
    assert [record.step for _, record in seen] == [20, 40, 60]
    resumed = train_emulator(labels, flux, resume_from=seen[0][0], **options)
    assert_trees_equal(whole.emulator, resumed.emulator)
    assert training_records(seen[-1][0], config) == [record for _, record in seen]


def test_training_stops_when_held_out_spectra_get_no_better_and_keeps_the_best(grid_of_spectra):
    labels, _ = grid_of_spectra
    # Spectra that have nothing to do with their labels: what is learned cannot carry over.
    flux = 1.0 + 0.1 * np.random.default_rng(0).normal(size=(60, 3)) @ np.eye(3, GRID.n_pix)
    config = vary(
        TINY, network={"rank": 3}, schedule={"steps": 2000, "warmup_steps": 200, "patience": 100}
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


def test_steps_need_not_be_a_multiple_of_the_report(grid_of_spectra):
    labels, flux = (values[:30] for values in grid_of_spectra)
    config = vary(TINY, schedule={"steps": 25})
    report = train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config).report
    assert report.steps == 25


def test_diverging_training_fails_with_a_remedy(grid_of_spectra):
    labels, flux = (values[:30] for values in grid_of_spectra)
    config = vary(TINY, optimiser={"learning_rate": 1e30}, schedule={"warmup_steps": 0})
    with pytest.raises(WorkFailed, match="lower the learning rate"):
        train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -0.1])
def test_spectra_that_no_normalised_spectrum_can_be_are_refused(grid_of_spectra, value):
    labels, flux = (values[:30].copy() for values in grid_of_spectra)
    flux[7, 3] = value
    with pytest.raises(MismatchError, match="drop"):
        train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=TINY)


def test_shapes_that_do_not_fit_are_refused(grid_of_spectra):
    labels, flux = (values[:30] for values in grid_of_spectra)
    for bad in ((labels[:20], flux), (labels[:, :3], flux), (labels, flux[:, 1:])):
        with pytest.raises((MismatchError, TypeError)):
            prepare_training_set(*bad, label_space=SPACE, grid=GRID, config=TINY)
    with pytest.raises(MismatchError, match="too few"):
        prepare_training_set(labels[:2], flux[:2], label_space=SPACE, grid=GRID, config=TINY)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (ScheduleConfig, {"steps": 0}),
        (ScheduleConfig, {"warmup_steps": -1}),
        (NetworkConfig, {"rank": 0}),
        (NetworkConfig, {"hidden": ()}),
        (OptimiserConfig, {"batch_size": 0}),
        (OptimiserConfig, {"averaging": 1.0}),
        (EmulatorConfig, {"validation_fraction": 1.0}),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(section, options):
    with pytest.raises(UsageError):
        section(**options)


def test_accuracy_over_labels_counts_every_spectrum_once_a_label():
    rng = np.random.default_rng(2)
    labels, error = rng.normal(size=(50, 2)), rng.uniform(size=50)
    rows = accuracy_over_labels(labels, error, ("teff", "mh"), n_bin=4)
    for name, column in (("teff", 0), ("mh", 1)):
        mine = [row for row in rows if row["label"] == name]
        assert sum(row["n"] for row in mine) == 50
        lowest = labels[:, column] < mine[0]["high"]
        assert mine[0]["median"] == pytest.approx(np.median(error[lowest]))
