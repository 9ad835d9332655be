"""Inputs that could not be used: path, reason, remedy; and the proof that none was lost."""

from __future__ import annotations

import csv
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxmdwarf.catalogue.texts import escape_cell, escape_path, restore_path
from jaxmdwarf.errors import JaxmdwarfError, RejectedInput
from jaxmdwarf.io.atomic import write_atomically

COLUMNS = ("path", "reason", "remedy", "spectrum")
"""Columns of the table; the last is empty where no spectrum was found."""

_OLD_COLUMNS = COLUMNS[:3]


class Reject(NamedTuple):
    """One input that cannot be used, why, and what the user can do.

    Parameters
    ----------
    path : str
    reason, remedy : str
    spectrum : int, optional
        Which spectrum of the file, from 0, as in the rows of a catalogue; None where no spectrum
        was found.
    """

    path: str
    reason: str
    remedy: str
    spectrum: int | None = None

    @classmethod
    def from_error(
        cls, path: str | os.PathLike[str], error: RejectedInput, index: int | None = None
    ) -> Reject:
        """The row for `path`, or one spectrum of it, that says what `error` says."""
        return cls(str(path), error.message.rstrip("."), error.remedy.rstrip("."), index)


class UnexpectedReject(Reject):
    """An input on which its reader failed in a way that it should not: a defect, perhaps.

    Readers say what is wrong with a file by `RejectedInput`. One strange file among many must not
    end a run; many are no longer the fault of files, see `jaxmdwarf.workflows.run`.
    """

    @classmethod
    def from_exception(cls, path: str, error: Exception) -> UnexpectedReject:
        """The row for `path`, with the kind of error and the place in the package."""
        line = (str(error).strip() or "no message").splitlines()[0]
        return cls(
            path, f"{type(error).__name__}: {line}{locate_error(error)}", "look into the file"
        )


def locate_error(error: BaseException) -> str:
    """The line of the package in which it went wrong; nothing if it was elsewhere."""
    package = Path(__file__).parents[1]
    # Who calls readers is no place to look at.
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(package) and Path(frame.filename).stem != "stream"
    ]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def name_rejects_file(output: str | os.PathLike[str]) -> Path:
    """Where the rejects of `output` go: ``<output stem>_rejects.csv`` beside it.

    Examples
    --------
    >>> name_rejects_file("night1/T.fits").as_posix()
    'night1/T_rejects.csv'
    >>> name_rejects_file("T.fits.gz").as_posix()
    'T_rejects.csv'
    """
    path = Path(output)
    stem = path.name
    for suffix in (".gz", Path(stem.removesuffix(".gz")).suffix):
        stem = stem.removesuffix(suffix) if suffix else stem
    return path.with_name(f"{stem}_rejects.csv")


def write_rejects(path: str | os.PathLike[str], rejects: Iterable[Reject]) -> None:
    """Write `rejects` as CSV, atomically; an empty table too, so that an old one never stays.

    Names of files, and what reasons tell of their content, are printable text without formulas:
    people open the table in terminals and spreadsheets.
    """
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in rejects:
            texts = escape_path(one.path), escape_cell(one.reason), escape_cell(one.remedy)
            writer.writerow([*texts, one.spectrum])


def read_rejects(path: str | os.PathLike[str]) -> list[Reject]:
    """The rows of a rejects table.

    Raises
    ------
    JaxmdwarfError
        If the file is no rejects table.
    """
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, _OLD_COLUMNS):
            raise JaxmdwarfError(
                f"{path} is no rejects table: its columns are {reader.fieldnames}.",
                f"a rejects table has the columns {', '.join(COLUMNS)}.",
            )
        return [
            Reject(
                restore_path(row["path"]),
                row["reason"],
                row["remedy"],
                int(row["spectrum"]) if row.get("spectrum") else None,
            )
            for row in reader
        ]


def check_accounts(n_in: int, n_out: int, n_rejects: int) -> None:
    """Hold that every input ended in the output or among the rejects.

    Raises
    ------
    JaxmdwarfError
        If ``n_in != n_out + n_rejects``.

    Examples
    --------
    >>> check_accounts(110, 108, 2)
    """
    if n_in != n_out + n_rejects:
        raise JaxmdwarfError(
            f"{n_in} inputs, but {n_out} rows and {n_rejects} rejects: some inputs were lost.",
            "this is a defect of jaxmdwarf: please report it with the command that led here.",
        )
