"""The figure of repeat visits shows the bins and the curve that it was given."""

import numpy as np
import pytest

from jaxmdwarf.catalogue.repeats import Precision
from jaxmdwarf.plots.precision import plot_precision
from jaxmdwarf.plots.style import render_png


def make(column, stated=np.nan):
    snr = np.array([7.0, 15.0, 25.0])
    bins = (snr, 100 / snr + 5, np.ones(3), np.full(3, 50.0))
    told = stated / snr + stated
    return Precision(column, 100.0, 5.0, 3.0, 0.2, np.zeros(3), 0.0, 40, 150, *bins, told)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_column_has_a_panel_with_its_bins_and_its_curve(n):
    names = ["Teff", "M_H", "mine"][:n]
    figure = plot_precision({name: make(name, 50.0) for name in names})
    assert [axis.get_ylabel() for axis in figure.axes] == [
        *("scatter of Teff (K)", "scatter of M_H (dex)", "scatter of mine")[:n]
    ]
    points, curve, formal = figure.axes[0].lines[0], *figure.axes[0].lines[-2:]
    assert points.get_xydata().tolist() == [[7.0, 100 / 7 + 5], [15.0, 100 / 15 + 5], [25.0, 9.0]]
    np.testing.assert_allclose(curve.get_ydata(), 100 / curve.get_xdata() + 5)
    assert formal.get_xdata().tolist() == [7.0, 15.0, 25.0]
    np.testing.assert_allclose(formal.get_ydata(), 50 / formal.get_xdata() + 50)
    assert curve.get_label() == "100/(S/N) + 5"
    assert render_png(figure).startswith(b"\x89PNG")


def test_without_stated_errors_there_is_no_curve_of_them():
    with_them, without = plot_precision({"RV": make("RV", 1.0)}), plot_precision({"RV": make("RV")})
    assert len(with_them.axes[0].lines) == len(without.axes[0].lines) + 1
