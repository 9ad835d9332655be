"""Eq. 1 is that of what the emulator predicts, and counts every spectrum."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.networks.payne import PayneNetwork, list_shapes
from jaxmdwarf.training.emulator import accuracy
from jaxmdwarf.training.emulator.accuracy import (
    EmulatorReport,
    accuracy_over_labels,
    measure_accuracy,
    reconstruct,
)
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.training.emulator.data import prepare_training_set
from jaxmdwarf.training.emulator.loop import TrainingState
from jaxmdwarf.training.emulator.train import build_emulator
from jaxmdwarf.training.losses import reconstruction_error
from jaxmdwarf.wavelengths import PixelGrid


def test_the_report_is_eq_1_of_what_the_emulator_predicts(trained, grid_of_spectra):
    labels, flux = grid_of_spectra
    rows = jnp.asarray(labels[:5], dtype=jnp.float32)
    single = [np.asarray(trained.emulator.predict(row)) for row in rows]
    np.testing.assert_allclose(
        reconstruction_error(flux[:5], np.array(single)), trained.report.error[:5], rtol=2e-3
    )
    # The linear head can do no better than its own best coefficients, save by an L1 hair.
    assert (trained.report.error > 0.7 * trained.report.truncation).all()


def test_the_error_per_pixel_covers_two_thirds_of_held_out_residuals(trained, grid_of_spectra):
    labels, flux = grid_of_spectra
    held = trained.report.held_out
    fraction = reconstruct(trained.emulator, labels[held]) / flux[held] - 1
    inside = np.abs(fraction) <= np.asarray(trained.emulator.model_error) * 1.0001
    in_bands = np.ptp(flux, axis=0) > 0.01
    np.testing.assert_allclose(inside.mean(axis=0)[in_bands], 0.683, atol=0.02)


def test_accuracy_over_labels_counts_every_spectrum_once_a_label():
    rng = np.random.default_rng(2)
    labels, error = rng.normal(size=(50, 2)), rng.uniform(size=50)
    rows = accuracy_over_labels(labels, error, ("teff", "mh"), n_bin=4)
    for name, column in (("teff", 0), ("mh", 1)):
        mine = [row for row in rows if row["label"] == name]
        assert sum(row["n"] for row in mine) == 50
        lowest = labels[:, column] < mine[0]["high"]
        assert mine[0]["median"] == pytest.approx(np.median(error[lowest]))


def test_slices_of_labels_hold_their_lower_edges_and_the_last_both():
    labels = np.array([[0.0], [0.9], [1.0], [1.5], [4.0], [3.0]])
    error = np.array([1.0, 2.0, 3.0, 5.0, 7.0, 11.0])
    rows = accuracy_over_labels(labels, error, ["mh"], n_bin=4)
    assert [(row["low"], row["high"]) for row in rows] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [row["n"] for row in rows] == [2, 2, 0, 2]
    assert [row["median"] for row in rows] == pytest.approx([1.5, 4.0, np.nan, 9.0], nan_ok=True)
    assert [row["p95"] for row in rows] == pytest.approx([1.95, 4.9, np.nan, 10.8], nan_ok=True)
    assert len(accuracy_over_labels(labels, error, ["mh"])) == 5


def test_metrics_are_of_the_spectra_that_their_names_say():
    error, held = np.arange(1.0, 42.0), np.arange(41) < 21
    report = EmulatorReport(error, held, 10 * error, 60, 40, True)
    assert report.metrics() == {
        "eq1_median": 11.0, "eq1_p95": 20.0, "eq1_max": 21.0, "train_eq1_median": 31.5,
        "train_eq1_p95": 40.05, "head_eq1_p95": 200.0, "n_train": 20, "n_held_out": 21,
        "steps": 60, "best_step": 40, "stopped_early": True,
    }  # fmt: skip


@pytest.mark.parametrize(("n", "calls"), [(1, [1]), (512, [512]), (513, [257, 256])])
def test_spectra_are_predicted_a_few_hundred_at_a_time(trained, monkeypatch, n, calls):
    seen = []

    def predict(emulator, scaled):
        seen.append(len(scaled))
        return scaled

    monkeypatch.setattr(accuracy, "_predict", predict)
    space = trained.emulator.label_space
    scaled = np.random.default_rng(0).uniform(-0.5, 0.5, (n, 4))
    found = reconstruct(trained.emulator, space.unscale(scaled))
    np.testing.assert_allclose(found, scaled, atol=1e-6)
    assert seen == calls


def test_errors_of_pixels_are_of_held_out_spectra_and_truncation_of_the_head_alone(monkeypatch):
    space, grid = LabelSpace.mdwarf(), PixelGrid.linear(7000.0, 7007.0, 1.0)
    rng = np.random.default_rng(2)
    flux = rng.uniform(0.5, 1.5, (40, 8))
    labels = space.unscale(rng.uniform(-0.5, 0.5, (40, 4)))
    config = EmulatorConfig(
        network=NetworkConfig(hidden=(4,), rank=3), validation_fraction=0.5,
        schedule=ScheduleConfig(steps=100, patience=10),
    )  # fmt: skip
    data = prepare_training_set(labels, flux, label_space=space, grid=grid, config=config)
    shapes = list_shapes(PayneNetwork((4,), 3), 4)
    params = {
        layer: {name: jnp.zeros(shape) for name, shape in of.items()}
        for layer, of in shapes.items()
    }
    state = TrainingState(*[()] * len(TrainingState._fields))._replace(
        best_params=params, step=jnp.asarray(70), best_step=jnp.asarray(30)
    )
    emulator = build_emulator(data, config, state, label_space=space, grid=grid)
    fraction = rng.standard_normal((40, 8)) * np.linspace(0.01, 0.1, 8)
    monkeypatch.setattr(accuracy, "reconstruct", lambda emulator, labels: flux * (1 + fraction))
    good = np.arange(8) != 3
    found = measure_accuracy(emulator, data, config, state, labels=labels, flux=flux, good=good)
    held = np.sort(np.abs(fraction[data.held_rows]), axis=0)
    expected = [np.interp(0.6827 * 19, np.arange(20), column) for column in held.T]
    np.testing.assert_allclose(found.emulator.model_error, expected, rtol=1e-5)
    report = found.report
    np.testing.assert_allclose(report.error, np.abs(fraction)[:, good].mean(axis=1), rtol=1e-5)
    assert np.flatnonzero(report.held_out).tolist() == data.held_rows.tolist()
    # Least squares on the mean and the three strongest components of what was learned from.
    mean = flux[data.train_rows].mean(axis=0)
    basis = np.linalg.svd(flux[data.train_rows] - mean)[2][:3]
    sizes = np.linalg.lstsq(basis.T, (flux - mean).T)[0].T
    left = np.abs(flux - mean - sizes @ basis) / flux
    np.testing.assert_allclose(report.truncation, left[:, good].mean(axis=1), rtol=1e-4)
    assert (report.steps, report.best_step, report.stopped_early) == (70, 30, True)
    last = state._replace(step=jnp.asarray(100))
    args = {"labels": labels, "flux": flux}
    assert not measure_accuracy(emulator, data, config, last, **args).report.stopped_early
    patient = state._replace(best_step=jnp.asarray(65), step=jnp.asarray(70))
    assert not measure_accuracy(emulator, data, config, patient, **args).report.stopped_early
