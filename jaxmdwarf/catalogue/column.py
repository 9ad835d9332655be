"""What one column of a table is: name, unit, meaning, UCD, kind, aliases, source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxmdwarf.labels import normalise_column

Kind = Literal["float", "int", "bool", "text", "identifier"]

ORIGINS = ("header", "measured", "kind", "fit")
"""What rows are made of: `SpectrumMeta`, `SpectrumMeasurements`, what `describe_kinds` finds, and
`FittedSpectra` with its `FitResult`."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
        As in the file.
    description : str
        One sentence, with the paper's spelling where it has another (Table 1).
    unit : str
        As astropy reads it; empty for pure numbers and text.
    ucd : str
        IVOA unified content descriptor (UCD1+).
    kind : {"float", "int", "bool", "text", "identifier"}
        Missing floats are NaN, missing texts empty, missing integers masked. Identifiers are
        integers where all of a table are, otherwise texts.
    aliases : tuple of str
        Columns of other people's tables that hold it, as `jaxmdwarf.labels.normalise_column` writes
        them; the name itself is always understood.
    source : str
        Where rows take it from, one of `ORIGINS` and the name of a field there: ``fit.n_pix``.
        Empty for what is computed from several fields, or joined later.
    """

    name: str
    description: str
    unit: str = ""
    ucd: str = ""
    kind: Kind = "float"
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        origin, dot, name = self.source.partition(".")
        if self.source and not (origin in ORIGINS and dot and name):
            raise ValueError(f"{self.name}: {self.source!r} is none of {ORIGINS} and a field.")

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names of columns that hold this one, the own name first."""
        return (normalise_column(self.name), *self.aliases)
