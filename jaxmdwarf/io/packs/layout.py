"""What a pack is on disk: groups of spectra that are alike, in Zarr version 3.

::

    survey.zarr/             attributes: format, format_version, content, n_spectrum, groups, ...
        lamost-wavelength-0/ spectra of one layout, type and width
            flux             (spectrum, pixel)
            ivar             (spectrum, pixel), 0 marks a bad pixel and nothing else does
            n_pix            (spectrum)  pixels beyond are padding
            coeff0, coeff1   (spectrum)  log10 of wavelength is coeff0 + coeff1 * pixel; or else
            wavelength       (solution, pixel) and
            solution         (spectrum)  which of them
            position         (spectrum)  place in the order of the inputs, over all groups
            content_hash     (spectrum)  by which copies are known
            what             (spectrum)  what the reader calls it
            path, obsid ...  (spectrum)  the fields of `jaxmdwarf.spectra.SpectrumMeta`

Pixels are those of the survey, in vacuum Angstrom, with the values and the types that readers give:
what is computed from a pack is what is computed from the files. Resampled spectra would be of one
model's grid, and their correlated errors would be gone.

Every chunk ends in its checksum (crc32c). A value that stands at the fill value of its array was
never written: no reader gives it, so that a chunk that is lost is found, too. Texts are escaped as
paths of tables are (`jaxmdwarf.catalogue.texts`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.texts import escape_path
from jaxmdwarf.errors import FormatError
from jaxmdwarf.io.parts import PART_ROWS
from jaxmdwarf.io.spectra.records import NO_HEADER, LogGrid, SpectrumRecord

FORMAT, FORMAT_VERSION = "jaxmdwarf-pack", 1

COLUMN_ROWS = 16 * PART_ROWS
"""Values of a chunk of a column: a few numbers a spectrum need fewer files than pixels do."""

WIDTH_STEP = 512
"""Spectra of a group have the same number of pixels to this many: at most so many are padding."""

NEVER_WRITTEN: dict[str, Any] = {"f": -math.inf, "i": -1, "text": "\x1a"}
"""Fill values by kind; a text has no control characters, and to numpy NUL alone is no text."""


class ColumnKind(NamedTuple):
    """Type of a column and its fill value."""

    dtype: str
    fill: Any


_NUMBER = ColumnKind("float64", NEVER_WRITTEN["f"])
_TEXT = ColumnKind("string", NEVER_WRITTEN["text"])


def _choose_kind(missing: Any) -> ColumnKind:
    if isinstance(missing, str):
        return _TEXT
    if isinstance(missing, float):
        return _NUMBER
    # Truth values, too: as such they could not tell that they were never written.
    return ColumnKind("int8" if isinstance(missing, bool) else "int32", NEVER_WRITTEN["i"])


HEADER_COLUMNS: dict[str, ColumnKind] = {
    name: _choose_kind(missing) for name, missing in NO_HEADER.items()
}
"""Columns that hold the fields of `SpectrumMeta`."""

OWN_COLUMNS: dict[str, ColumnKind] = {
    "n_pix": ColumnKind("int32", NEVER_WRITTEN["i"]),
    "position": ColumnKind("int64", NEVER_WRITTEN["i"]),
    # Any number is the hash of something, this one of next to nothing.
    "content_hash": ColumnKind("int64", -(2**63)),
    "what": _TEXT,
}
LOG_COLUMNS = {"coeff0": _NUMBER, "coeff1": _NUMBER}
TABLE_COLUMNS = {"solution": ColumnKind("int32", NEVER_WRITTEN["i"])}


class GroupKey(NamedTuple):
    """What spectra of one group have in common.

    Parameters
    ----------
    layout : str
        As the reader names it.
    flux_dtype, ivar_dtype : str
    is_log : bool
        Whether wavelengths are two coefficients a spectrum.
    width : int
        Pixels of its arrays.
    """

    layout: str
    flux_dtype: str
    ivar_dtype: str
    is_log: bool
    width: int

    @classmethod
    def of(cls, record: SpectrumRecord) -> GroupKey:
        """The group that a spectrum belongs to."""
        width = -(-record.flux.size // WIDTH_STEP) * WIDTH_STEP
        return cls(
            str(record.meta["layout"]),
            _name_dtype(record.flux.dtype),
            _name_dtype(record.ivar.dtype),
            isinstance(record.pixels, LogGrid),
            width,
        )

    @property
    def columns(self) -> dict[str, ColumnKind]:
        """All columns of the group, without the pixels."""
        return HEADER_COLUMNS | OWN_COLUMNS | (LOG_COLUMNS if self.is_log else TABLE_COLUMNS)

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels of a spectrum."""
        types = np.dtype(self.flux_dtype), np.dtype(self.ivar_dtype)
        return self.width * sum(one.itemsize for one in types)

    def choose_name(self, taken: Mapping[str, Any] | set[str]) -> str:
        """A name for a new group that tells what is in it."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.layout.lower()).strip("-") or "spectra"
        number = 0
        while f"{slug}-{number}" in taken:
            number += 1
        return f"{slug}-{number}"


@dataclass(frozen=True)
class GroupEntry:
    """A group as the index of its pack has it.

    Parameters
    ----------
    key : GroupKey
    n_spectrum, n_solution : int
        Rows that count, of spectra and of wavelengths; what arrays hold beyond is unfinished.
    """

    key: GroupKey
    n_spectrum: int = 0
    n_solution: int = 0


@dataclass(frozen=True)
class PackIndex:
    """What a pack says of itself, in the attributes of its root: what is not there is not in it.

    Parameters
    ----------
    content : str
        Hash of all spectra with all that is known of them, in their order: two packs of the same
        content give the same results, wherever they are and whenever they were made.
    groups : dict of str to GroupEntry
    written : tuple of dict
        Provenance of each command that wrote into it, with the content that it left.
    """

    content: str = ""
    groups: Mapping[str, GroupEntry] = field(default_factory=dict)
    written: tuple[Mapping[str, str], ...] = ()

    @property
    def n_spectrum(self) -> int:
        """Number of spectra."""
        return sum(entry.n_spectrum for entry in self.groups.values())

    def begins_with(self, content: str) -> bool:
        """Whether it is the pack of that content, or one that was added to since."""
        return content in (self.content, *(one.get("content") for one in self.written))

    def as_attributes(self) -> dict[str, Any]:
        """Plain JSON, for the root."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "content": self.content,
            "n_spectrum": self.n_spectrum,
            "groups": {
                name: {
                    **entry.key._asdict(),
                    "n_spectrum": entry.n_spectrum,
                    "n_solution": entry.n_solution,
                }
                for name, entry in self.groups.items()
            },
            "written": [dict(one) for one in self.written],
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], pack: str) -> PackIndex:
        """What `as_attributes` wrote.

        Raises
        ------
        FormatError
            If it is no pack, or one of another version.
        """
        if attributes.get("format") != FORMAT:
            raise FormatError(
                f"{pack} is a Zarr store but no pack of spectra.",
                "give one that 'jaxmdwarf pack' wrote.",
            )
        version = attributes.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{pack} is a pack of format version {version}, this is version {FORMAT_VERSION}.",
                "pack the files again, or use the version of jaxmdwarf that wrote it.",
            )
        try:
            groups = {
                name: GroupEntry(
                    GroupKey(**{part: entry[part] for part in GroupKey._fields}),
                    int(entry["n_spectrum"]),
                    int(entry["n_solution"]),
                )
                for name, entry in attributes["groups"].items()
            }
            return cls(str(attributes["content"]), groups, tuple(attributes["written"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"the index of {pack} is damaged: {type(error).__name__} {error}.",
                "pack the files again.",
            ) from None


def digest_record(record: SpectrumRecord, content_hash: int) -> str:
    """Hash of a spectrum with all that is known of it: pixels, wavelengths, types, header."""
    digest = hashlib.blake2b(digest_size=16)
    header = {**NO_HEADER, **record.meta}
    about = [content_hash, record.what, [header[name] for name in NO_HEADER]]
    digest.update(json.dumps(about, default=str).encode())
    pixels = record.pixels
    if isinstance(pixels, LogGrid):
        digest.update(json.dumps(list(pixels)).encode())
    else:
        digest.update(np.ascontiguousarray(pixels).data)
    digest.update(f"{record.flux.dtype.str}{record.ivar.dtype.str}".encode())
    return digest.hexdigest()


def extend_content(content: str, digests: list[str]) -> str:
    """The content of a pack to which spectra were added.

    Examples
    --------
    >>> one = extend_content(extend_content("", ["a"]), ["b", "c"])
    >>> one == extend_content("", ["a", "b", "c"]), one == extend_content("", ["a", "c", "b"])
    (True, False)
    """
    for digest in digests:
        content = hashlib.sha256(f"{content}{digest}".encode()).hexdigest()
    return content


@lru_cache(maxsize=1024, typed=True)
def write_text(value: Any) -> str:
    """A text as columns hold it; most are those of many spectra."""
    return escape_path(str(value))


@lru_cache(maxsize=64)
def _name_dtype(dtype: np.dtype) -> str:
    return dtype.name
