"""Reports that people read: one HTML file with everything inside, no network, no script."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    escape = _escape
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(report.sections, start=1)
    )
    tiles = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(meaning)}</span></div>"
        for value, meaning in report.tiles
    )
    body = "".join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>'
        + "".join(map(_render_block, section.blocks))
        + "</section>"
        for number, section in enumerate(report.sections, start=1)
    )
    warning = f'<p class="warning">{escape(report.warning)}</p>' if report.warning else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(report.title)}</h1><p class="lead">{escape(report.lead)}</p>{warning}'
        f'<div class="tiles">{tiles}</div><nav>{links}</nav>{body}'
        f"<footer>{escape(report.footer)}</footer></main></body></html>\n"
    )


def _render_block(block: Block) -> str:
    escape = _escape
    if isinstance(block, Text):
        return (
            f'<p class="note">{escape(block.text)}</p>'
            if block.note
            else (f"<p>{escape(block.text)}</p>")
        )
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode("ascii")
        return (
            f'<figure><img alt="{escape(block.name or block.caption)}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(block.caption)}</figcaption>'
            "</figure>"
        )
    if isinstance(block, Bars):
        largest = max((amount for _, amount, _ in block.rows), default=0.0) or 1.0
        rows = "".join(
            f'<tr><td class="w">{escape(name)}</td>'
            f'<td class="bar"><i style="width:{100 * amount / largest:.1f}%"></i></td>'
            f"<td>{escape(text)}</td></tr>"
            for name, amount, text in block.rows
        )
        return f'{_caption(block.caption)}<table class="bars"><tbody>{rows}</tbody></table>'
    words = {0, *block.text_columns}
    cells = ["w" if column in words else "n" for column in range(len(block.header))]
    head = "".join(
        f'<th class="{kind}">{escape(name)}</th>'
        for name, kind in zip(block.header, cells, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, cells, strict=True)
        )
        + "</tr>"
        for row in block.rows
    )
    return (
        f'{_caption(block.caption)}<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _escape(text: str) -> str:
    """Names of files and texts of headers may hold anything, on pages too."""
    return html.escape(escape_lines(text))


def _caption(text: str) -> str:
    return f'<p class="caption">{_escape(text)}</p>' if text else ""


_STYLE = """
:root{color-scheme:light}
body{margin:0;background:#fff;color:#1b1f24;font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.2rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-top:.4rem;border-top:1px solid #d9dee4}
.lead{font-size:1.08rem;color:#3c444d;margin:.2rem 0 1rem}
.warning{background:#fff4e0;border-left:4px solid #e69f00;padding:.6rem .9rem;margin:1rem 0}
.note{background:#eef5fb;border-left:4px solid #0072b2;padding:.5rem .9rem}
.caption,figcaption{color:#4b5560;font-size:.92rem}
.caption{margin:1.1rem 0 .3rem;font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:.7rem;
margin:1.1rem 0}
.tiles div{background:#f4f6f8;border-radius:8px;padding:.7rem .9rem}
.tiles b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}
.tiles span{font-size:.85rem;color:#4b5560}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.92rem;margin:.6rem 0}
a{color:#0060a0;text-decoration:none}a:hover{text-decoration:underline}
.wide{overflow-x:auto;overflow-wrap:break-word}
.wide td.w{min-width:4rem;max-width:28rem}.wide td.w:not(:first-child){min-width:9rem}
table{border-collapse:collapse;font-size:.92rem;margin:.3rem 0 1rem}
th,td{padding:.28rem .8rem;border-bottom:1px solid #e3e7eb;vertical-align:top}
th{background:#f4f6f8;font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}.w{text-align:left}
.bars{width:100%}.bars td{border:0;padding:.15rem .5rem}.bars td+td{white-space:nowrap}
.bars td.w{min-width:6rem}.bar{width:65%}
.bar i{display:block;height:.95rem;background:#0072b2;border-radius:3px}
figure{margin:1rem 0 1.4rem}img{max-width:100%;height:auto;display:block}
figcaption{margin-top:.35rem}
footer{margin-top:2.5rem;padding-top:.8rem;border-top:1px solid #d9dee4;color:#4b5560;
font-size:.88rem}
@media(max-width:600px){main{padding:1.2rem .9rem 2rem}th,td{padding:.28rem .45rem}}
@media print{nav{display:none}section{break-inside:avoid}}
""".replace("\n", "")
