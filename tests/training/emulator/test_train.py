"""Trained emulators reach the accuracy of the paper on spectra that they have not seen."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.accuracy import reconstruct
from jaxmdwarf.training.emulator.train import train_emulator
from jaxmdwarf.training.losses import reconstruction_error
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace.mdwarf()
GRID = PixelGrid.linear(7000.0, 7199.0, 1.0)


def test_held_out_spectra_come_back_as_well_as_the_paper_asks(trained):
    metrics = trained.report.metrics()
    assert metrics["eq1_median"] < 0.005
    assert metrics["eq1_p95"] < 0.01
    assert (metrics["n_train"], metrics["n_held_out"]) == (480, 120)


def test_spectra_between_the_nodes_are_as_good_as_held_out_ones(trained, saturating_bands):
    labels = SPACE.unscale(np.random.default_rng(12).uniform(-0.4, 0.4, (100, 4)))
    error = reconstruction_error(saturating_bands(labels), reconstruct(trained.emulator, labels))
    assert np.median(error) < 2 * trained.report.metrics()["eq1_median"]


def test_the_plain_payne_has_its_last_layer_at_the_pixels(grid_of_spectra, tiny, vary):
    labels, flux = (values[:80] for values in grid_of_spectra)
    config = vary(tiny, network={"rank": None}, schedule={"steps": 300, "report_every": 100})
    plain = train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=config)
    assert plain.emulator.low_rank().basis.shape == (32, GRID.n_pix)
    assert plain.report.metrics()["train_eq1_median"] < 0.03
    assert np.median(plain.report.truncation[~plain.report.held_out]) < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -0.1])
def test_spectra_that_no_normalised_spectrum_can_be_are_refused(grid_of_spectra, value, tiny):
    labels, flux = (values[:30].copy() for values in grid_of_spectra)
    flux[7, 3] = value
    with pytest.raises(MismatchError, match="drop"):
        train_emulator(labels, flux, label_space=SPACE, grid=GRID, config=tiny)
