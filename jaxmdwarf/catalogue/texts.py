r"""File names and texts of headers as tables, terminals and pages can hold them.

A file name on Linux is any bytes but ``/`` and NUL: it may hold line ends, terminal sequences, or
what is no UTF-8. In tables, in memory and on disk, bytes that would not survive stand as ``\xNN``,
and `restore_path` gives the name as the system knows it. Texts of headers lose their control
characters in the same way, for good.
"""

from __future__ import annotations

import re

PATH_COLUMN = "path"

_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = ("=", "@", "+", "-")
_MISSING = {"", "nan", "null", "none", "na", "n/a", "#n/a", "#na", "<na>", "inf", "-inf", "--"}
"""What readers of CSV and other texts take for a value that is not there."""


def escape_text(text: str) -> str:
    r"""A text of printable characters, on one line: all others as ``\xNN``, byte by byte of UTF-8.

    Examples
    --------
    >>> print(escape_text("a\x1b[31m\nb"), escape_text("étoile α"))
    a\x1b[31m\x0ab étoile α
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape_character(one) for one in text)


def escape_lines(text: str) -> str:
    r"""As `escape_text`, line ends kept.

    Examples
    --------
    >>> print(escape_lines("two\nlin\x07es"))
    two
    lin\x07es
    """
    return text if text.isprintable() else "\n".join(map(escape_text, text.split("\n")))


def escape_path(path: str) -> str:
    r"""A path as tables hold it; `restore_path` gives it back, whatever it was.

    Besides what is not printable, blanks at either end, a first character that spreadsheets take
    for a formula, and names that readers take for missing are written with an escape.

    Examples
    --------
    >>> print(escape_path("night/a\nb.fits"), escape_path("=cmd.fits"), escape_path("étoile.fits"))
    night/a\x0ab.fits \x3dcmd.fits étoile.fits
    >>> print(escape_path(r"a\x0a.fits"))
    a\x5cx0a.fits
    """
    text = escape_text(_ESCAPE.sub(lambda found: "\\x5c" + found[0][1:], path))
    if not text.isascii() and max(text) > "\uffff":  # beyond what a VOTable holds
        text = "".join(_escape_character(one) if one > "\uffff" else one for one in text)
    if text.startswith((" ", "#", *_FORMULA)) or (text and text.lower() in _MISSING):
        text = _escape_character(text[0]) + text[1:]
    return f"{text[:-1]}\\x20" if text.endswith(" ") else text


def escape_ascii(path: str) -> str:
    r"""What `escape_path` gave, for formats of ASCII alone; `restore_path` knows it too.

    Examples
    --------
    >>> print(escape_ascii("é.fits"))
    \xc3\xa9.fits
    """
    return "".join(one if one.isascii() else _escape_character(one) for one in path)


def restore_path(text: str) -> str:
    r"""The path that `escape_path` was given.

    Examples
    --------
    >>> restore_path(r"night/a\x0ab.fits")
    'night/a\nb.fits'
    """
    if "\\x" not in text:
        return text
    raw = re.sub(
        rb"\\x([0-9a-f]{2})",
        lambda found: bytes([int(found[1], 16)]),
        text.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would compute a cell with this text.

    Examples
    --------
    >>> [is_formula(text) for text in ("=cmd|'/C calc'!A0", "-9999.0", "+1+2", "J0636+2717")]
    [True, False, True, False]
    """
    return text.startswith(_FORMULA) and _NUMBER.fullmatch(text) is None


def escape_cell(text: str) -> str:
    """A text for a cell of CSV: printable, and behind an apostrophe where it were a formula.

    Examples
    --------
    >>> escape_cell("=1+1"), escape_cell("-5")
    ("'=1+1", '-5')
    """
    text = escape_text(text)
    return f"'{text}" if is_formula(text) else text


def restore_cell(text: str) -> str:
    """What stands behind the apostrophe of `escape_cell`.

    Examples
    --------
    >>> restore_cell("'=1+1"), restore_cell("'tis")
    ('=1+1', "'tis")
    """
    return text[1:] if text.startswith("'") and is_formula(text[1:]) else text


def _escape_character(one: str) -> str:
    try:
        raw = one.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        raw = one.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)
