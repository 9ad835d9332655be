"""Pages as a browser shows them: Chromium without a window, driven by Playwright.

`pip install -e ".[browser]"` brings Playwright; the browser is the system's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands by which a browser that Playwright can drive goes on most systems."""

WIDTHS = (1200, 400)
"""Of a window on a desk and of a telephone, pixels."""

# Root may not use Chromium's sandbox; the pages are the package's own.
_OPTIONS = ("--no-sandbox", "--disable-gpu")

_BROKEN_PICTURES = """() => [...document.images]
    .filter(image => !image.complete || image.naturalWidth === 0).map(image => image.alt)"""


def find_browser() -> str | None:
    """Path of a browser; None where there is none."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def launch(playwright: Any, path: str) -> Any:
    """A browser without a window."""
    return playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))


def list_faults(
    browser: Any,
    page: Path,
    *,
    widths: Sequence[int] = WIDTHS,
    pictures: Path | None = None,
) -> list[str]:
    """What is wrong with a page when it is looked at.

    Parameters
    ----------
    browser : playwright.sync_api.Browser
    page : Path
        An HTML file.
    widths : sequence of int
        Of the window, pixels.
    pictures : Path, optional
        Folder for a picture of the whole page at each width.

    Returns
    -------
    list of str
        Errors and warnings of the console, exceptions, requests for anything but the page itself,
        pictures that cannot be shown, and widths at which the page is wider than the window.
    """
    address = page.resolve().as_uri()
    faults: list[str] = []

    def hear(message: Any) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console: {message.text}")

    def ask(request: Any) -> None:
        if request.url.partition("#")[0] != address:
            faults.append(f"request: {request.url}")

    tab = browser.new_page()
    tab.on("console", hear)
    tab.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    tab.on("request", ask)
    for width in widths:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(address)
        wide, inner = tab.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        if wide > inner:
            faults.append(f"{wide} px wide in a window of {inner} px")
        faults += [f"picture not shown: {name}" for name in tab.evaluate(_BROKEN_PICTURES)]
        if pictures is not None:
            tab.screenshot(path=pictures / f"{page.stem}_{width}.png", full_page=True)
    tab.close()
    return faults
