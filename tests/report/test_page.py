"""Pages that stand alone, and from which no input can break out."""

from html.parser import HTMLParser

from jaxmdwarf.report.page import (
    Bars,
    Picture,
    Report,
    Section,
    Table,
    Text,
    render_report,
    write_report,
)


class Balance(HTMLParser):
    """Raises if tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


NASTY = "<script>alert('x')</script> & \"quotes\""
REPORT = Report(
    title=NASTY,
    lead=NASTY,
    warning=NASTY,
    tiles=((NASTY, NASTY),),
    sections=[
        Section(
            NASTY,
            [
                Text(NASTY),
                Text(NASTY, note=True),
                Table((NASTY, "n"), [(NASTY, "1")], NASTY),
                Bars([(NASTY, 2.0, "2 s"), ("b", 0.0, "0 s")], NASTY),
                Picture(b"\x89PNG", NASTY, NASTY),
            ],
        )
    ],
    footer=NASTY,
)


def test_no_text_breaks_out():
    page = render_report(REPORT)
    assert "<script" not in page
    parser = Balance()
    parser.feed(page)
    assert not parser.open


def test_pictures_are_inside_and_bars_are_to_scale(tmp_path):
    write_report(REPORT, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,iVBORw==" in page
    assert "width:100.0%" in page
    assert "width:0.0%" in page


def test_empty_documents_are_fine():
    assert "<h1>t</h1>" in render_report(Report("t", "", [Section("s", [Bars([])])]))


def test_texts_that_cannot_be_printed_are_written_out():
    page = render_report(
        Report("a\x07b", "two\nlines", [Section("s", [Table(("é",), [("\x1b",)])])])
    )
    assert "<h1>a\\x07b</h1>" in page
    assert "two\nlines" in page
    assert '<td class="w">\\x1b</td>' in page
