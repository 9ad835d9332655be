"""Eq. 1 is that of what the emulator predicts, and counts every spectrum."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.training.emulator.accuracy import accuracy_over_labels, reconstruct
from jaxmdwarf.training.losses import reconstruction_error


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
