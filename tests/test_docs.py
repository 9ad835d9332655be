"""The pages: each is reached from the first, links lead somewhere, the API has the front door."""

import re
from pathlib import Path

import pytest

import jaxmdwarf

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
MADE = ("_build", "api")
"""Folders of `docs` that Sphinx writes."""

COPIED = {"tutorials/landscapes"}
"""Pages that ``docs/conf.py`` copies from elsewhere."""

TEXTS = sorted(
    [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + [path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in MADE]
)


def list_children(page: str) -> list[str]:
    """Pages in the table of contents of a page, by their names from `docs` on."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    entries = []
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.M | re.S):
        entries += [line for line in block.split() if not line.startswith(":")]
    folder = page.rpartition("/")[0]
    return [f"{folder}/{entry}".lstrip("/") for entry in entries]


def test_every_page_is_reached_once_from_the_first():
    reached, left = ["index"], ["index"]
    while left:
        page = left.pop()
        children = [] if page in COPIED else list_children(page)
        reached += children
        left += children
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix() for path in TEXTS if DOCS in path.parents
    }
    assert sorted(reached) == sorted(pages | COPIED)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    here = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in here if target and not (path.parent / target).exists()]
    assert not missing


def test_the_whole_front_door_is_in_the_api():
    named = set(re.findall(r"^   ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M))
    there = {"spectra.RawSpectrum" if name == "Spectrum" else name for name in jaxmdwarf.__all__}
    assert there - {"__version__"} <= named


PICTURED = sorted(
    path for path in DOCS.glob("*.md") if "{code-cell}" in path.read_text(encoding="utf-8")
)
"""Pages beside the tutorials whose pictures are drawn while the site is built."""


@pytest.mark.parametrize("path", PICTURED, ids=lambda path: path.name)
def test_pictures_of_pages_are_drawn_from_results_that_are_kept(path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(DOCS)
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)
    names: dict = {}
    for cell in cells:
        lines = [line for line in cell.splitlines() if not line.startswith((":", "%"))]
        *before, last = [line for line in lines if line]
        exec("\n".join(before), names)
        figure = eval(last, names)
        assert sum(len(panel.lines) for panel in figure.axes) > 10
