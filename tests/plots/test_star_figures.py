"""Figures of the stars of a catalogue show what they were given, however few or odd."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.plots.catalogues import CatalogueSample, plot_catalogues
from jaxmdwarf.plots.cells import DENSE, find_colours
from jaxmdwarf.plots.densities import plot_densities
from jaxmdwarf.plots.hr import GaiaSample, plot_active_hr, plot_hr, trace_sequence
from jaxmdwarf.plots.kiel import (
    KielSample,
    empirical_isochrones,
    plot_kiel,
    tabulated_isochrones,
)
from jaxmdwarf.plots.labels import LabelPair
from jaxmdwarf.plots.processing import plot_processing
from jaxmdwarf.plots.sky import count_stars, plot_sky
from jaxmdwarf.plots.style import render_png
from jaxmdwarf.plots.types import plot_types
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PixelGrid

N_MANY = DENSE + 1


def make_sequence(n):
    """Stars of a main sequence in Gaia's bands, M_G from 8 to 12."""
    colour = np.random.default_rng(0).uniform(1.8, 3.2, n)
    return GaiaSample(colour, 8.0 + 2.8 * (colour - 1.8), 0.4 * (colour - 2.5))


def make_kiel(n):
    teff = np.random.default_rng(1).uniform(3000, 4000, n)
    return KielSample(teff, 5.2 - (teff - 3000) / 2000, (teff - 3500) / 1000)


def texts_of(figure):
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def draw_everything(n, change=lambda values: values):
    rng = np.random.default_rng(2)
    uniform = change(rng.uniform(0.0, 1.0, n))
    hr = GaiaSample(1.5 + uniform, 8 + uniform, change(rng.uniform(-0.5, 0.5, n)))
    kiel = KielSample(3000 + 900 * uniform, 4.6 + 0.5 * uniform, hr.mh)
    yield plot_sky(360 * uniform, 60 * uniform)
    yield plot_hr(hr, 14 + uniform, 100 * uniform)
    yield plot_active_hr(hr, uniform > 0.5)
    yield plot_kiel({"a": kiel})
    yield plot_types(np.floor(5 * uniform), 5 * uniform)
    yield plot_densities({"a": {"teff": LabelPair("teff", kiel.teff + 10, kiel.teff)}})
    yield plot_catalogues({"a": CatalogueSample(hr, kiel), "b": CatalogueSample(hr, kiel)})


def test_figures_without_stars_can_be_drawn():
    for figure in draw_everything(0):
        figure.set_layout_engine("none")  # Arranging takes half of the time.
        assert render_png(figure, dpi=20).startswith(b"\x89PNG")


@pytest.mark.parametrize(("n", "factor"), [(1, 1.0), (3, 1.0), (3, np.nan)])
def test_few_stars_and_stars_without_a_value_are_no_error(n, factor):
    assert len(list(draw_everything(n, lambda values: factor * values))) == 7


def test_a_star_lies_where_its_galactic_coordinates_are():
    # The Pleiades: l = 166.6, b = -23.5.
    figure = plot_sky(np.array([56.75]), np.array([24.12]))
    l_rad, b_rad = figure.axes[0].collections[0].get_offsets()[0]
    assert np.degrees([-l_rad, b_rad]) == pytest.approx([166.6, -23.5], abs=0.2)


def test_density_on_the_sky_is_that_of_stars_all_over_it():
    rng = np.random.default_rng(3)
    n = 40_000
    b_deg = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    (_, rows), density = count_stars(rng.uniform(0, 360, n), b_deg)
    weight = np.diff(np.sin(rows))[:, None] / (2 * density.shape[1])
    # 41253 square degrees; cells begin within columns of the mesh.
    assert (density * weight).sum() * 41252.96 == pytest.approx(n, rel=1e-3)
    poles = np.degrees(np.abs(rows[:-1] + rows[1:]) / 2) > 60
    assert density[poles].mean() == pytest.approx(density[~poles].mean(), rel=0.1)


def test_cells_have_the_median_metallicity_of_their_stars():
    one, other = np.full(N_MANY, 2.0), np.full(N_MANY, 3.0)
    mh = np.where(np.arange(N_MANY) % 3 == 0, 5.0, -0.3)
    sample = GaiaSample(
        np.concatenate([one, other]), 4.0 * np.concatenate([one, other]), np.r_[mh, mh * 0 + 0.2]
    )
    figure = plot_hr(sample, 14 + sample.colour, 100 * sample.colour)
    axis = figure.axes[0]
    cells = axis.collections[0]
    # One in three is off: the mean would be 1.5.
    assert sorted(cells.get_array().tolist()) == pytest.approx([-0.3, 0.2])
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
    assert axis.get_xlim()[0] < axis.get_xlim()[1]
    assert f"n = {2 * N_MANY}" in axis.get_title()
    _, bar, bright, far = figure.axes
    assert bar.get_ylabel() == "[M/H] (dex)"
    assert bright.patches[0].get_data().values.sum() == 2 * N_MANY
    names = [one.get_xlabel() for one in (axis, bright, far)]
    assert names == ["BP − RP (mag)", "G (mag)", "distance (pc)"]


def test_active_stars_lie_on_percentiles_of_all():
    rng = np.random.default_rng(4)
    colour = np.r_[rng.uniform(2.0, 2.1, 4000), rng.uniform(2.1, 2.2, 19)]
    absolute = np.r_[10.0 + rng.standard_normal(4000), np.full(19, 11.0)]
    sample = GaiaSample(colour, absolute, colour * 0)
    middles, lines = trace_sequence(sample)
    assert middles == pytest.approx([2.05, 2.15])
    # One sigma is 15.9 and 84.1 per cent: 15 and 85 are 1.04 sigma.
    assert lines[:, 0] == pytest.approx([10 - 1.036, 10.0, 10 + 1.036], abs=0.07)
    assert np.isnan(lines[:, 1]).all()
    figure = plot_active_hr(sample, np.arange(4019) < 50)
    axis = figure.axes[0]
    assert len(axis.collections[0].get_offsets()) == 50
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), lines[1])


def test_isochrones_run_through_stars_of_their_metallicity(tmp_path):
    lines = empirical_isochrones().lines
    assert [line.mh[0] for line in lines] == [-1.0, -0.5, 0.0, 0.5]
    # At one temperature metal-rich stars are larger.
    gravity = [np.interp(3500.0, line.teff, line.logg) for line in lines]
    assert (np.diff(gravity) < 0).all()
    assert gravity[2] == pytest.approx(4.83, abs=0.03)
    path = tmp_path / "table.csv"
    rows = [
        f"{feh},{age},{mass},{2500 + 2500 * mass - 200 * feh},{mass}"
        for feh in (-0.6, 0.0)
        for age in (9.0, 9.69, 10.1)
        for mass in (0.1, 0.3, 0.6)
    ]
    path.write_text("feh,log_age,Mini,Teff,radius\n" + "\n".join(rows))
    given = tabulated_isochrones(read_isochrones(path))
    assert given.title == "isochrones, 4.9 Gyr"
    assert [line.mh[0] for line in given.lines] == [-0.5, 0.0]
    np.testing.assert_allclose(given.lines[0].teff.min(), 2850.0, atol=40)
    sample = make_kiel(40)
    figure = plot_kiel({"a": sample}, isochrones=given)
    drawn = figure.axes[0].lines
    np.testing.assert_array_equal(drawn[1].get_xdata(), given.lines[1].teff)
    assert "isochrones, 4.9 Gyr" in texts_of(figure)
    norm = find_colours(sample.mh)
    assert drawn[0].get_color() == figure.axes[0].collections[0].get_cmap()(norm(-0.5))


def test_the_offset_between_types_is_told_with_its_scatter():
    subclass = np.r_[np.arange(100) % 5, np.nan]
    spt = np.r_[subclass[:99] + 0.25, np.nan, 3.0]
    figure = plot_types(subclass, spt)
    header, tio5 = (patch.get_data().values for patch in figure.axes[0].patches)
    assert header.tolist() == [0, 0, 20, 20, 20, 20, 20, 0, 0, 0]
    assert tio5.sum() == 100
    told = figure.axes[0].get_legend().get_title().get_text()
    assert "median +0.25, mean +0.25" in told
    assert "standard deviation 0.00" in told
    assert "n = 99" in told


def test_densities_have_equal_axes_differences_and_one_scale_of_colours():
    rng = np.random.default_rng(5)
    truth = rng.uniform(3000, 4000, N_MANY)
    large = {"teff": LabelPair("teff", truth + 25 + 30 * rng.standard_normal(N_MANY), truth)}
    large["teff"].measured[0] = 9000.0
    small = {"mh": LabelPair("mh", truth[:9] / 9e3, truth[:9] / 9e3)}
    figure = plot_densities({"large": large, "small": small})
    top, missing, bottom, _ = figure.axes[:4]
    assert top.get_xlim() == top.get_ylim() == bottom.get_xlim()
    assert top.get_box_aspect() == 1.0
    assert missing.texts[0].get_text() == "not given"
    assert "bias +2" in top.texts[0].get_text()
    assert "1 outside" in top.texts[0].get_text()
    assert 0.98 * N_MANY < top.collections[0].get_array().sum() < N_MANY
    # Differences scatter around the bias.
    centre = np.average(
        bottom.collections[0].get_offsets()[:, 1], weights=bottom.collections[0].get_array()
    )
    assert centre == pytest.approx(25.0, abs=4.0)
    assert top.collections[0].norm is bottom.collections[0].norm
    assert figure.axes[1].get_title() == "[M/H] (dex)"


def test_catalogues_stand_side_by_side_and_without_photometry_there_is_no_hr_diagram():
    hr, kiel = make_sequence(30), make_kiel(30)
    nothing = np.full(30, np.nan)
    both = {
        "ours": CatalogueSample(hr, kiel),
        "theirs": CatalogueSample(hr, kiel._replace(logg=nothing)),
    }
    figure = plot_catalogues(both)
    assert len(figure.axes) == 2 * 2 + 1
    ours, theirs, low, empty, _ = figure.axes
    assert ours.get_title() == "ours\n(n = 30)"
    assert ours.get_xlim() == theirs.get_xlim()
    assert low.get_ylim() == empty.get_ylim()
    assert "not given" in [text.get_text() for text in empty.texts]
    assert all(one.collections[0].norm is ours.collections[0].norm for one in (theirs, low))
    alone = CatalogueSample(hr._replace(absolute=nothing), kiel)
    assert len(plot_catalogues({"ours": alone}).axes) == 1 + 1


def test_processing_shows_flux_continuum_and_both_errors_at_rest():
    wave = np.arange(6200.0, 6700.0, 1.0)
    level = 3.0 + (wave - 6200.0) / 500.0
    line = 1 - 0.5 * np.exp(-0.5 * ((wave - 6400.0 * (1 + 300 / 299792.458)) / 3.0) ** 2)
    ivar = np.full(wave.size, 1 / 0.03**2)
    ivar[100:104] = 0.0
    raw = RawSpectrum(wave, level * line, ivar)
    grid = PixelGrid.linear(6250.0, 6650.0, 1.0)
    figure = plot_processing(raw, grid=grid, rv_kms=300.0, masks=((6500.0, 6520.0),), title="A")
    flux, error, normalised, relative = figure.axes
    observed, continuum = (one.get_ydata() for one in flux.lines)
    at = grid.wave_aa
    assert at[np.nanargmin(normalised.lines[0].get_ydata())] == pytest.approx(6400.0, abs=1.0)
    np.testing.assert_allclose(normalised.lines[0].get_ydata(), observed / continuum)
    far = (np.abs(at - 6400.0) > 3 * PAPER_SIGMA_AA) & np.isfinite(observed)
    np.testing.assert_allclose(observed[far] / continuum[far], 1.0, atol=0.02)
    assert np.isnan(observed).sum() == np.isnan(error.lines[0].get_ydata()).sum() >= 3
    ratio = relative.lines[0].get_ydata() * continuum / error.lines[0].get_ydata()
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1.0)
    assert relative.get_xlabel() == "rest wavelength in vacuum (Å)"
    shaded = flux.collections[0].get_paths()[0].get_extents()
    assert (shaded.x0, shaded.x1) == (6500.0, 6520.0)


def test_the_page_of_figures_names_functions_that_are_there():
    page = (Path(__file__).parents[2] / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|.*?`(\w+)\.(plot_\w+)`", page, re.MULTILINE)
    numbers = sorted(int(one) for row in rows for one in row[0].split(","))
    assert numbers == list(range(1, 19))
    for _, module, name in rows:
        assert callable(getattr(importlib.import_module(f"jaxmdwarf.plots.{module}"), name))
