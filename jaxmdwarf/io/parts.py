"""Inputs that are some spectra of a larger store: texts like paths, with a place and a content."""

from __future__ import annotations

import os
from collections.abc import Iterable

PART_ROWS = 256
"""Spectra of a part, and of the chunks of a pack that hold pixels: 8 MB of LAMOST's."""


class PackPart(str):
    """Consecutive spectra of a pack, which go through a run as a file does.

    Wherever a run takes paths it takes these: as a text a part is its pack with its range,
    ``survey.zarr[256:512]``, which no file is asked for.

    Parameters
    ----------
    pack : str
        Path or URL.
    content : str
        What the pack holds, see `jaxmdwarf.io.packs.layout.PackIndex`.
    first, last : int
        Its spectra are those from `first` up to `last`, exclusive.
    n_bytes : int
        About how much memory they take.
    rows : tuple of int, optional
        Those of them that are wanted; all by default.

    Examples
    --------
    >>> part = PackPart("survey.zarr", "5f0c", 256, 500)
    >>> str(part), part.n_spectrum, part.choose([300, 301]).n_spectrum
    ('survey.zarr[256:500]', 244, 2)
    """

    pack: str
    content: str
    first: int
    last: int
    n_bytes: int
    rows: tuple[int, ...] | None

    def __new__(
        cls,
        pack: str,
        content: str,
        first: int,
        last: int,
        n_bytes: int = 0,
        rows: tuple[int, ...] | None = None,
    ) -> PackPart:
        chosen = "" if rows is None else f", {len(rows)} of them"
        part = super().__new__(cls, f"{pack}[{first}:{last}]{chosen}")
        part.pack, part.content, part.first, part.last = pack, content, first, last
        part.n_bytes, part.rows = n_bytes, rows
        return part

    def __reduce__(self):
        # Parts travel to reader processes.
        about = self.pack, self.content, self.first, self.last, self.n_bytes, self.rows
        return PackPart, about

    @property
    def n_spectrum(self) -> int:
        """Number of its spectra."""
        return self.last - self.first if self.rows is None else len(self.rows)

    @property
    def on_disk(self) -> bool:
        """Whether its pack is a folder, and not behind a URL."""
        return "://" not in self.pack

    def choose(self, rows: Iterable[int]) -> PackPart:
        """The part with some of its spectra alone, by their numbers in the pack."""
        chosen = tuple(rows)
        n_bytes = self.n_bytes * len(chosen) // max(self.n_spectrum, 1)
        return PackPart(self.pack, self.content, self.first, self.last, n_bytes, chosen)


def count_spectra(paths: Iterable[str]) -> int:
    """Spectra of inputs as far as they are known: what files hold is not, and they count as one."""
    return sum(path.n_spectrum if isinstance(path, PackPart) else 1 for path in paths)


def measure_size(path: str) -> int:
    """Bytes of an input; 0 where there is none, of which its reader will tell."""
    if isinstance(path, PackPart):
        return path.n_bytes
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
