"""Reports in a real browser: nothing overflows, nothing is asked of a network, nothing complains.

The environment variable JAXMDWARF_REPORTS names pages of real runs that are looked at too.
"""

import os
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxmdwarf.plots.style import render_png
from jaxmdwarf.report.page import (
    Bars,
    Picture,
    Report,
    Section,
    Table,
    Text,
    write_report,
)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip(
        "playwright.sync_api", reason='pip install -e ".[browser]" brings Playwright'
    )
    path = browsers.find_browser()
    if path is None:
        pytest.skip(f"no browser is installed, none of {', '.join(browsers.BROWSERS)}")
    with api.sync_playwright() as playwright:
        started = browsers.launch(playwright, path)
        yield started
        started.close()


def make_report():
    """All blocks, with wide tables and words that cannot be broken between letters."""
    figure = Figure(figsize=(20.0, 2.0))
    figure.subplots().plot(np.arange(9.0))
    path = "/data/" + "a_folder_with_a_long_name/" * 8 + "spec-57004-SIM00000B01_sp07-134.fits.gz"
    blocks = [
        Text(f"<b>{path}</b>"),
        Text(path, note=True),
        Table([f"column {n}" for n in range(14)], [["1234.5678"] * 14] * 3, path),
        Table(("file", "reason", "remedy"), [(path, "a reason " * 9, path)], text_columns=(1, 2)),
        Bars([(path, 2.0, "2 s"), ("b", 0.0, "0 s")], path),
        Picture(render_png(figure), path, "wide"),
    ]
    sections = [Section(f"{path} {number}", blocks) for number in range(3)]
    return Report(path, path, sections, ((path, path),) * 7, path, path)


def test_a_report_fits_its_window_and_needs_nothing_else(browser, tmp_path):
    write_report(make_report(), tmp_path / "report.html")
    assert browsers.list_faults(browser, tmp_path / "report.html") == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<p style="width:500px">wide</p>', "500 px wide in a window of 400 px"),
        ("<script>console.error('a message')</script>", "console: a message"),
        ("<script>throw new Error('a failure')</script>", "exception: a failure"),
        ('<link rel="stylesheet" href="elsewhere.css">', "request: file:///"),
        ('<img alt="a plot" src="data:image/png;base64,iVBORw==">', "picture not shown: a plot"),
    ],
)
def test_faults_are_seen(browser, tmp_path, body, fault):
    page = tmp_path / "page.html"
    page.write_text(f'<!DOCTYPE html><body style="margin:0">{body}</body>', encoding="utf-8")
    assert any(found.startswith(fault) for found in browsers.list_faults(browser, page))


def test_reports_of_real_runs_are_shown_whole(browser):
    named = os.environ.get("JAXMDWARF_REPORTS")
    if not named:
        pytest.skip("JAXMDWARF_REPORTS is not set: no report of a run to look at")
    faults = {path: browsers.list_faults(browser, Path(path)) for path in named.split(os.pathsep)}
    assert not any(faults.values()), faults
