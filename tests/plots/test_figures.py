"""Figures show what they were given, survive little and odd data, and never touch pyplot."""

import subprocess
import sys

import numpy as np
import pytest

from jaxmdwarf.diagnostics.recovery import compare, measure_pulls
from jaxmdwarf.plots.comparison import plot_agreement
from jaxmdwarf.plots.kiel import KielSample, plot_kiel
from jaxmdwarf.plots.labels import LabelPair, plot_by_snr, plot_recovery
from jaxmdwarf.plots.pulls import plot_pulls
from jaxmdwarf.plots.snr import plot_snr
from jaxmdwarf.plots.spectra import plot_fit
from jaxmdwarf.plots.style import describe_quantity, render_png


def texts_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.fixture
def sample():
    rng = np.random.default_rng(1)
    truth = rng.uniform(3000, 4000, 300)
    return truth + 30.0 + 50.0 * rng.standard_normal(300), truth, rng.uniform(5, 100, 300)


def test_recovery_states_the_bias_it_shows(sample):
    measured, truth, snr = sample
    figure = plot_recovery([LabelPair("teff", measured, truth)], snr)
    expected = f"bias {np.median(measured - truth):+.1f} K"
    assert any(expected in text for text in texts_of(figure))
    top, bottom = figure.axes[:2]
    assert "K" in top.get_title()
    assert "Teff (K)" in bottom.get_xlabel()
    # The line of equality stands at 45 degrees.
    assert top.get_xlim() == top.get_ylim()
    assert top.get_box_aspect() == 1
    points = top.collections[0].get_offsets()
    assert len(points) == 300
    # Bright stars are drawn last.
    colours = top.collections[0].get_array()
    assert (np.diff(colours) >= 0).all()


def test_residuals_are_in_units_of_the_error_and_bad_pixels_are_gaps():
    wave = np.linspace(6000.0, 8900.0, 500)
    model = 1.0 + 0.1 * np.sin(wave / 50)
    sigma = np.full(500, 0.02)
    sigma[100:110] = np.nan
    flux = model + 3 * 0.02
    figure = plot_fit(wave, flux, sigma, model, masked=(wave > 7000) & (wave < 7100))
    residual = next(line for line in figure.axes[1].lines if len(line.get_ydata()) == 500)
    values = np.asarray(residual.get_ydata(), float)
    assert np.isnan(values[100:110]).all()
    np.testing.assert_allclose(np.delete(values, np.s_[100:110]), 3.0)
    assert "Å" in figure.axes[1].get_xlabel()


def boxes_of(axis):
    axis.figure.canvas.draw()
    return [text.get_window_extent() for text in axis.texts if text.get_text()]


@pytest.mark.parametrize("limits", [(6000.0, 8900.0), (6400.0, 7100.0), (8400.0, 8700.0)])
def test_names_of_features_never_touch_each_other_and_stay_inside(limits):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    wave = np.linspace(*limits, 400)
    figure = plot_fit(
        wave, np.ones(400), np.full(400, 0.1), np.ones(400), title="A star", subtitle="Teff " * 40
    )
    FigureCanvasAgg(figure)
    spectrum, _, names = figure.axes
    boxes = boxes_of(names)
    assert len(boxes) > 2
    for index, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[index + 1 :])
        assert not one.overlaps(spectrum.get_window_extent())
        assert 0 <= one.x0 < one.x1 <= figure.bbox.x1
        assert one.y1 <= figure.bbox.y1


def test_a_spectrum_outside_all_features_or_without_a_good_pixel_is_drawn():
    wave = np.linspace(9100.0, 9300.0, 50)
    nothing = np.full(50, np.nan)
    render_png(plot_fit(wave, np.ones(50), nothing, np.ones(50)), dpi=40)
    render_png(plot_fit(wave, np.ones(50), np.ones(50), nothing, title="no model"), dpi=40)


def test_pulls_are_drawn_as_a_density():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(5000)
    figure = plot_pulls({"mh": (values, measure_pulls(values, np.ones(5000)))})
    patch = figure.axes[0].patches[0]
    density, edges = patch.get_data().values, patch.get_data().edges
    assert np.sum(density * np.diff(edges)) == pytest.approx(1.0, abs=1e-3)


def test_kiel_diagrams_run_from_hot_to_cool_and_low_gravity_is_up():
    rng = np.random.default_rng(0)
    star = KielSample(rng.uniform(3000, 4000, 50), rng.uniform(4.5, 5.2, 50), rng.normal(0, 1, 50))
    axis = plot_kiel({"measured": star, "true": star}).axes[0]
    assert axis.get_xlim()[0] > axis.get_xlim()[1]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def plot_everything(n):
    rng = np.random.default_rng(3)
    teff, snr = rng.uniform(3000, 4000, n), rng.uniform(5, 100, n)
    error = np.full(n, 10.0)
    comparison = compare(teff + 1, teff, error, snr)
    yield plot_recovery([LabelPair("teff", teff + 1, teff), LabelPair("odd", teff, teff)], snr)
    yield plot_by_snr({"teff": comparison})
    yield plot_pulls({"teff": (np.full(n, 0.1), comparison.pulls)})
    yield plot_kiel({"a": KielSample(teff, teff / 800, teff * 0)})
    yield plot_snr(snr, snr)
    pair = {"teff": LabelPair("teff", teff + 1, teff)}
    yield plot_agreement({"a": pair, "b": {**pair, "odd": LabelPair("odd", teff, teff * np.nan)}})


@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_figures_can_be_drawn_of_any_number_of_stars(n):
    for figure in plot_everything(n):
        assert render_png(figure, dpi=40).startswith(b"\x89PNG")


def test_missing_values_do_not_stop_a_figure():
    nothing = np.full(5, np.nan)
    render_png(plot_recovery([LabelPair("mh", nothing, nothing)], nothing), dpi=40)
    render_png(plot_snr(nothing, nothing), dpi=40)
    render_png(plot_kiel({"x": KielSample(nothing, nothing, nothing)}), dpi=40)


def test_the_same_figure_gives_the_same_bytes(sample):
    measured, truth, snr = sample
    pair = [LabelPair("teff", measured, truth)]
    first, second = (render_png(plot_recovery(pair, snr), dpi=50) for _ in range(2))
    assert first == second


def test_numbers_are_written_with_the_digits_they_deserve():
    assert describe_quantity("teff").write(3512.345) == "3512.3 K"
    assert describe_quantity("mh").write(-0.12345, signed=True) == "-0.123 dex"
    assert describe_quantity("mh").write(float("nan")) == "–"
    assert describe_quantity("depth").axis == "depth"


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys, numpy as np\n"
        "from jaxmdwarf.plots.snr import plot_snr\n"
        "from jaxmdwarf.plots.style import render_png\n"
        "render_png(plot_snr(np.ones(3), np.ones(3)), dpi=30)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_comparisons_have_equal_axes_and_a_panel_for_each_reference():
    rng = np.random.default_rng(1)
    few, many = rng.uniform(3000, 4000, 40), rng.uniform(3000, 4000, 700)
    shown = {
        "few": {"teff": LabelPair("teff", few + 50, few), "mh": LabelPair("mh", few * 0, few * 0)},
        "many": {"teff": LabelPair("teff", many - 30, many)},
    }
    figure = plot_agreement(shown)
    assert len(figure.axes) == 3 * 2
    together, _, one, _, dense, missing = figure.axes
    for axis in figure.axes:
        assert axis.get_xlim() == axis.get_ylim()
        assert axis.get_aspect() == 1.0
    assert "n = 740" in together.texts[0].get_text()
    assert "bias +50.0 K" in one.texts[0].get_text()
    # Seven hundred points overlap: their number is drawn, but for the few beyond the edge.
    assert 690 <= dense.collections[0].get_array().sum() <= 700
    assert "bias -30.0 K" in dense.texts[0].get_text()
    assert missing.texts[0].get_text() == "not given"
    assert len(plot_agreement({"few": shown["few"]}).axes) == 2
