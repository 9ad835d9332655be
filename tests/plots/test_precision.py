"""The figure of repeat visits shows the bins and the curve that it was given."""

import numpy as np
import pytest

from jaxmdwarf.catalogue.repeats import Precision
from jaxmdwarf.plots.precision import plot_precision
from jaxmdwarf.plots.style import render_png


def make(column, stated=np.nan, a=100.0, b=5.0):
    snr = np.array([7.0, 15.0, 25.0])
    bins = (snr, a / snr + b, np.ones(3), np.full(3, 50.0))
    told = stated / snr + stated
    return Precision(column, a, b, 3.0, 0.2, np.zeros(3), 0.0, 40, 150, *bins, told)


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


def test_labels_without_priors_have_panels_only_where_there_are_no_others():
    def list_panels(*names):
        figure = plot_precision({name: make(name) for name in names})
        return [axis.get_ylabel() for axis in figure.axes]

    assert list_panels("Teff", "Teff_lik", "RV") == ["scatter of Teff (K)", "scatter of RV (km/s)"]
    assert list_panels("Teff_lik") == ["scatter of Teff_lik (K)"]


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [(60.2, 2.04, "60.2/(S/N) + 2"), (2.72, 1e-18, "2.72/(S/N)"), (2e-9, 0.0361, "0.036")],
)
def test_terms_that_vanish_are_not_written(a, b, text):
    curve = plot_precision({"RV": make("RV", a=a, b=b)}).axes[0].lines[-1]
    assert curve.get_label() == text
