"""Reports that people read: one HTML file with everything inside, no network, no script."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxmdwarf.catalogue.texts import escape_lines
from jaxmdwarf.io.atomic import write_atomically


@dataclass(frozen=True)
class Text:
    """A paragraph; `note` sets it off as something to bear in mind."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; numbers (columns from the second on) are set right.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequence of str
    caption : str
    text_columns : sequence of int
        Columns that hold words and are set left; the first always does.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: Sequence[int] = ()


@dataclass(frozen=True)
class Bars:
    """Named amounts as horizontal bars, with what to write beside each."""

    rows: Sequence[tuple[str, float, str]]
    caption: str = ""

    @property
    def largest(self) -> float:
        """The amount of the longest bar; 1 if all are 0."""
        return max((amount for _, amount, _ in self.rows), default=0.0) or 1.0


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    png: bytes
    caption: str
    name: str = ""


Block = Text | Table | Bars | Picture


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A document.

    Parameters
    ----------
    title : str
    lead : str
        The paragraph under the title.
    sections : sequence of Section
    tiles : sequence of (value, meaning)
        The few numbers to see first.
    warning : str
        What a reader must not overlook; empty for nothing.
    footer : str
    """

    title: str
    lead: str
    sections: Sequence[Section]
    tiles: Sequence[tuple[str, str]] = field(default_factory=tuple)
    warning: str = ""
    footer: str = ""


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write `report` as one HTML file, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(render_report(report), encoding="utf-8")


def render_report(report: Report) -> str:
    """`report` as HTML; all text is escaped, pictures are embedded.

    Examples
    --------
    >>> text = render_report(Report("a < b", "why", [Section("s", [Text("body")])]))
    >>> "a &lt; b" in text, "http" in text
    (True, False)
    """
    return _template().render(report=report)


def _make_printable(value: Any) -> Any:
    """Names of files and texts of headers may hold anything, on pages too."""
    text = isinstance(value, str) and not isinstance(value, Markup)
    return escape_lines(value) if text else value


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_make_printable,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("page.html")
