"""Figures of an emulator: what is plotted is what was given."""

import numpy as np

from jaxmdwarf.plots.emulator import (
    plot_emulator_training,
    plot_pixel_error,
    plot_reconstruction,
)


def test_reconstruction_shows_every_spectrum_over_every_pair_with_the_first_label():
    rng = np.random.default_rng(0)
    labels, error = rng.uniform(size=(40, 4)), rng.uniform(0.001, 0.01, 40)
    figure = plot_reconstruction(
        labels, error, names=("teff", "logg", "mh", "alpha_m"), units=("K", "dex", "dex", "dex")
    )
    panels = figure.axes[:4]
    assert [axis.get_ylabel() for axis in panels[:3]] == [
        "log g (dex)",
        "[M/H] (dex)",
        "[α/M] (dex)",
    ]
    for axis in panels[:3]:
        points = axis.collections[0]
        assert len(points.get_offsets()) == 40
        assert np.isclose(points.get_array().max(), 100 * error.max())
        # The worst spectrum is drawn last, on top of the others.
        assert np.isclose(points.get_array()[-1], 100 * error.max())
    assert sum(bar.get_height() for bar in panels[3].patches) == 40


def test_a_single_label_makes_a_figure_too():
    values = np.linspace(0.0, 1.0, 5)
    figure = plot_reconstruction(values[:, None], values, names=("mh",), units=("dex",))
    assert figure.axes[0].get_xlabel() == "[M/H] (dex)"


def test_pixel_error_is_in_per_cent():
    wave, error = np.linspace(6000.0, 8900.0, 30), np.full(30, 0.004)
    figure = plot_pixel_error(wave, error, wave < 6500.0)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 0.4)


def test_the_losses_of_a_training_are_told_apart():
    step, loss = np.array([100.0, 200.0, 300.0]), np.array([0.3, 0.1, 0.05])
    axis = plot_emulator_training(step, loss, 2 * loss).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
    np.testing.assert_array_equal(drawn["learned from"], np.c_[step, loss])
    np.testing.assert_array_equal(drawn["held out"], np.c_[step, 2 * loss])
    assert axis.get_yscale() == "log"
