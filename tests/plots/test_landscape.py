"""Figures of landscapes show what they are given, where it is."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.explore.landscape import Landscape
from jaxmdwarf.inference.explore.minima import find_minima
from jaxmdwarf.inference.explore.paths import SolverPaths
from jaxmdwarf.plots.landscape import PAIR_LEVELS, plot_cut, plot_pair, plot_pair_beside
from jaxmdwarf.plots.style import render_png

NAMES = ("logg", "mh")
COVARIANCE = np.array([[0.04, 0.01], [0.01, 0.02]])


def make_landscape(n_axis=2, *, kind="profile", second_valley=False):
    """One star's parabola about log g 5, [M/H] 0, on a grid; and a second valley on demand."""
    axes = (np.linspace(4.0, 6.0, 41)[None], np.linspace(-1.0, 1.0, 41)[None])[:n_axis]
    mesh = np.stack(np.meshgrid(*(axis[0] for axis in axes), indexing="ij"), axis=-1)
    centre = np.array([5.0, 0.0])[:n_axis]
    inverse = np.linalg.inv(COVARIANCE[:n_axis, :n_axis])
    away = mesh - centre
    chi2 = np.einsum("...i,ij,...j", away, inverse, away)
    if second_valley:
        away = mesh - centre - 0.8 * np.array([-1.0, 1.0])[:n_axis]
        chi2 = np.minimum(chi2, 3 + 4 * np.einsum("...i,ij,...j", away, inverse, away))
    labels = np.zeros((1, *chi2.shape, 2))
    labels[0, ..., :n_axis] = mesh
    return Landscape(
        kind=kind,
        names=NAMES[:n_axis],
        axes=axes,
        stars=np.array([4]),
        delta_chi2=chi2[None],
        chi2_min=np.array([100.0]),
        chi2_point=np.array([100.0]),
        point=centre[None],
        labels=labels,
        residual_kms=np.zeros((1, *chi2.shape)),
        converged=np.ones((1, *chi2.shape), bool),
        label_names=NAMES,
    )


def test_the_contours_of_a_parabola_are_the_ellipses_of_its_covariance():
    figure = plot_pair(make_landscape(), covariance=COVARIANCE)
    axis = figure.axes[0]
    ellipses = [line for line in axis.lines if len(line.get_xdata()) == 181]
    assert len(ellipses) == len(PAIR_LEVELS)
    (contours,) = [item for item in axis.collections if hasattr(item, "levels")]
    for path, ellipse in zip(contours.get_paths(), ellipses, strict=True):
        width = np.ptp(path.vertices[:, 0])
        assert width == pytest.approx(np.ptp(ellipse.get_xdata()), rel=0.02)
    assert axis.get_xlabel() == "log g (dex)"
    assert axis.get_ylabel() == "[M/H] (dex)"


def test_minima_are_numbered_and_their_barriers_told():
    pair = make_landscape(second_valley=True)
    minima = find_minima(pair)
    figure = plot_pair(pair, minima=minima, marks={"truth": (5.0, 0.1)})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]
    line = make_landscape(1, second_valley=True)
    figure = plot_cut(line, minima=find_minima(line), error=0.2, samples=np.full(50, 5.1))
    written = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any(text.startswith("2: Δχ² = 3.0, behind a barrier of") for text in written)
    assert any("0.200 dex" in text for text in written)


def test_maps_stand_beside_each_other_on_common_axes():
    figure = plot_pair_beside(make_landscape(kind="slice"), make_landscape())
    left, right = figure.axes[:2]
    assert (left.get_title(), right.get_title()) == ("slice", "profile")
    assert left.get_xlim() == right.get_xlim()
    assert render_png(figure).startswith(b"\x89PNG")


def test_ways_of_solvers_begin_at_crosses_and_are_named():
    labels = np.array([[[4.2, -0.5], [5.8, 0.5]], [[5.0, 0.0], [5.1, 0.1]]])
    paths = SolverPaths(labels, np.zeros((2, 2)), np.ones((2, 2)), np.ones((2, 2), bool), NAMES)
    figure = plot_pair(make_landscape(), paths={"a solver": paths})
    lines = [line.get_xydata() for line in figure.axes[0].lines]
    for star in range(2):
        assert any(np.array_equal(line, labels[:, star]) for line in lines)
    assert any(np.array_equal(line, labels[0]) for line in lines)
    assert "a solver" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_stars_without_numbers_are_drawn_empty():
    nothing = make_landscape()
    nothing = nothing._replace(delta_chi2=np.full_like(nothing.delta_chi2, np.nan))
    figure = plot_pair(nothing, covariance=np.full((2, 2), np.nan))
    assert render_png(figure).startswith(b"\x89PNG")


def test_landscapes_of_the_wrong_number_of_axes_are_refused():
    with pytest.raises(UsageError, match="plot_pair"):
        plot_cut(make_landscape())
    with pytest.raises(UsageError, match="plot_cut"):
        plot_pair(make_landscape(1))
    other = make_landscape()._replace(names=("teff", "mh"))
    with pytest.raises(UsageError, match="share no axes"):
        plot_pair_beside(make_landscape(), other)
