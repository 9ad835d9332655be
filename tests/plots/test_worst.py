"""Small panels of fits: what entered the fit is drawn, what did not is left open."""

import numpy as np

from jaxmdwarf.plots.style import render_png
from jaxmdwarf.plots.worst import SmallFit, plot_small_fits

WAVE = np.linspace(6000.0, 6999.0, 1000)


def make_fit(title, *, fitted=None):
    fitted = np.ones(1000, bool) if fitted is None else fitted
    return SmallFit(1 + 0.1 * np.sin(WAVE), np.ones(1000), fitted, title)


def test_each_fit_has_a_panel_and_gaps_stay_open():
    fitted = (WAVE > 6100.0) & ((WAVE < 6500.0) | (WAVE > 6600.0))
    fits = [make_fit("one"), make_fit("two", fitted=fitted), make_fit("three", fitted=WAVE < 0.0)]
    fits[0].flux[10] = 1e4  # a cosmic ray
    figure = plot_small_fits(WAVE, fits)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == ["one", "two", "three"]
    observed, model = (line.get_ydata() for line in panels[1].lines)
    np.testing.assert_array_equal(np.isfinite(observed), fitted)
    np.testing.assert_array_equal(model[fitted], 1.0)
    assert panels[0].get_ylim()[1] < 2.0
    assert panels[0].get_xlim() == (WAVE[0], WAVE[-1])
    assert render_png(figure).startswith(b"\x89PNG")


def test_no_fits_make_an_empty_figure():
    assert render_png(plot_small_fits(WAVE, [])).startswith(b"\x89PNG")
