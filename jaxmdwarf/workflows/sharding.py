"""One run as several jobs: each works on a part of the inputs, and their tables become one.

Beside its table a job keeps a note (``<stem>_shard.json``) of what it was about and which spectra
it read: without it nobody could tell that two parts belong together, and copies of a spectrum in
the inputs of two jobs would be two stars.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf import __version__
from jaxmdwarf.catalogue.columns import COLUMNS
from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.inputs import Inputs
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.parts import count_spectra
from jaxmdwarf.io.provenance import Provenance, gather_provenance
from jaxmdwarf.io.rejects import Reject, name_rejects_file, read_rejects
from jaxmdwarf.io.spectra.readers import DuplicateFinder, name_place
from jaxmdwarf.io.stream import chunk_paths
from jaxmdwarf.io.tables import choose_format, list_products, read_table, write_table
from jaxmdwarf.workflows.chunking import CHUNK_BYTES
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.run import Run, open_output, settle_accounts

if TYPE_CHECKING:
    import pandas as pd

_NOTE_FORMAT = "jaxmdwarf-shard"
_OF_ONE_JOB = ("creator", "created", "command", "packages", "model_hash")
"""What the provenance of a part says of its own job, and not of the whole."""


class Shard(NamedTuple):
    """The part of the inputs that is one job's.

    Parameters
    ----------
    number : int
        From 1 to `of`.
    of : int
        Jobs in all.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``3/64``.

        Raises
        ------
        UsageError
            If it is no such pair.

        Examples
        --------
        >>> Shard.parse("3/64")
        Shard(number=3, of=64)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise UsageError(
                f"--shard {text!r} is no part.",
                "write for example --shard 3/64, from 1/64 to 64/64.",
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def take(self, inputs: Inputs, chunk_size: int = 1) -> Inputs:
        """The inputs of this job: neighbours, as many spectra as others get.

        What names nothing is told by the first job alone.

        Parameters
        ----------
        inputs : Inputs
            Of all jobs.
        chunk_size : int
            Inputs that a run works on together: its chunks are not divided, so that each is worked
            on as in a run of all. Parts of packs are not divided either.

        Examples
        --------
        >>> inputs = Inputs(("a", "b", "c", "d", "e"), ())
        >>> [Shard(number, 2).take(inputs).paths for number in (1, 2)]
        [('a', 'b', 'c'), ('d', 'e')]
        """
        owner, chunks = _find_owners(inputs, self.of, chunk_size)
        paths = [
            path
            for chunk, number in zip(chunks, owner, strict=True)
            if number == self.number - 1
            for path in chunk
        ]
        return Inputs(tuple(paths), inputs.rejects if self.number == 1 else ())


def count_shares(inputs: Inputs, of: int, chunk_size: int = 1) -> list[int]:
    """Spectra of each of `of` jobs; see `Shard.take`.

    Examples
    --------
    >>> count_shares(Inputs(("a", "b", "c", "d", "e"), ()), 2)
    [3, 2]
    """
    owner, chunks = _find_owners(inputs, of, chunk_size)
    counts = list(map(count_spectra, chunks))
    return np.bincount(owner, counts, minlength=of).astype(int).tolist()


def _find_owners(inputs: Inputs, of: int, chunk_size: int) -> tuple[np.ndarray, list[list[str]]]:
    """Whose each chunk of the inputs is, from 0, and these chunks."""
    chunks = list(chunk_paths(inputs.paths, chunk_size, CHUNK_BYTES))
    counts = np.array(list(map(count_spectra, chunks)), np.int64)
    begins = np.cumsum(counts) - counts
    return begins * of // max(counts.sum(), 1), chunks


@dataclass(frozen=True)
class Division:
    """What a run works on, whole or as one of several jobs.

    Parameters
    ----------
    out : path
    kind : str
        What the run is, see `jaxmdwarf.workflows.run.open_run`.
    about : mapping
        All that its results depend on, the inputs of all jobs among them.
    inputs : Inputs
        Those of this job.
    shard : Shard, optional
        None for a run that is not divided.
    """

    out: str | os.PathLike[str]
    kind: str
    about: Mapping[str, Any]
    inputs: Inputs
    shard: Shard | None

    @classmethod
    def choose(
        cls,
        out: str | os.PathLike[str],
        *,
        kind: str,
        about: Mapping[str, Any],
        inputs: Inputs,
        shard: Shard | None,
        chunk_size: int = 1,
    ) -> Division:
        """The division that `shard` asks for, of all inputs; see `Shard.take`."""
        own = inputs if shard is None else shard.take(inputs, chunk_size)
        return cls(out, kind, about, own, shard)

    def open(
        self, *, row_bytes: int, overwrite: bool, beside: Sequence[str | os.PathLike[str]]
    ) -> AbstractContextManager[Run]:
        """Own the output of this job, see `jaxmdwarf.workflows.run.open_output`.

        Parameters
        ----------
        row_bytes : int
            Disk space of a row.
        overwrite : bool
        beside : sequence of path
        """
        own = {} if self.shard is None else {"shard": str(self.shard)}
        return open_output(
            self.out,
            kind=self.kind,
            about={**self.about, **own},
            overwrite=overwrite,
            n_bytes=row_bytes * count_spectra(self.inputs.paths),
            beside=beside,
        )

    def collect(
        self, run: Run, empty: pd.DataFrame, rejects_file: Path
    ) -> tuple[pd.DataFrame, int]:
        """Rows of all chunks, and how many inputs there were; writes the rejects.

        Raises
        ------
        WorkFailed
            If no input was usable; a job of several may have none.
        """
        frame, rejects = run.collect(empty)
        n_in = len(self.inputs.rejects) + run.n_in
        settle_accounts(
            run,
            [*self.inputs.rejects, *rejects],
            n_in=n_in,
            n_out=len(frame),
            rejects_file=rejects_file,
            least=1 if self.shard is None else 0,
        )
        return frame, n_in

    def write_note(self, run: Run, provenance: Provenance, n_in: int, **also: str) -> None:
        """Keep what `merge_tables` asks for; before the table, which is the last to be written.

        `also` has what the table depends on besides `about`.
        """
        if self.shard is None:
            return
        note = {
            "format": _NOTE_FORMAT,
            "version": __version__,
            "shard": list(self.shard),
            "kind": self.kind,
            "about": plain_json({**self.about, **also}, name_classes=True),
            "n_in": n_in,
            "provenance": provenance.as_text(),
            "hashes": [pair for chunk in run.read_all() for pair in chunk.hashes],
        }
        write_json(name_shard_note(self.out), note, indent=None)


def name_shard_note(out: str | os.PathLike[str]) -> Path:
    """Where the note of a job goes: ``<stem>_shard.json`` beside its table.

    Examples
    --------
    >>> name_shard_note("parts/3.fits").as_posix()
    'parts/3_shard.json'
    """
    rejects = name_rejects_file(out)
    return rejects.with_name(f"{rejects.name.removesuffix('_rejects.csv')}_shard.json")


def name_notes(out: str | os.PathLike[str], shard: Shard | None) -> tuple[Path, ...]:
    """The note of a job; nothing where a run is not divided."""
    return () if shard is None else (name_shard_note(out),)


def merge_tables(
    parts: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """One table of those that the jobs of one run wrote, as one job would have written it.

    Parameters
    ----------
    parts : sequence of path
        Their tables, in any order; the rejects and notes are found beside them.
    out : path
        The table; rejects beside it. Rows are in the order of the inputs.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a table that is there may be replaced.

    Returns
    -------
    dict
        Counts, and where the two tables are.

    Raises
    ------
    UsageError
        If parts are missing, given twice, or not of one run: other inputs, another model, other
        options, another version of the package; or `out` is in the way.
    FormatError
        If a part, or what is beside it, cannot be read.
    WorkFailed
        If no part has a row.

    Notes
    -----
    A spectrum that two jobs met stays in the first, as in a run that is not divided; the second
    becomes a reject.
    """
    choose_format(out)
    require_output(out, overwrite=overwrite)
    rejects_file = require_rejects(out, overwrite=overwrite)
    notes = _read_notes(parts)
    with open_output(
        out,
        kind="merging",
        about={"parts": [note["about"] for _, note in notes[:1]]},
        overwrite=overwrite,
        beside=(*list_products(out)[1:], rejects_file),
    ) as run:
        frames, rejects = _read_parts(notes)
        n_in = sum(int(note["n_in"]) for _, note in notes)
        n_out = sum(map(len, frames))
        settle_accounts(run, rejects, n_in=n_in, n_out=n_out, rejects_file=rejects_file)
        write_table(_join(frames), out, provenance=_merge_provenance(notes, command))
    return {
        "parts": len(notes),
        "inputs": n_in,
        "rows": n_out,
        "rejected": len(rejects),
        "table": os.fspath(out),
        "rejects": os.fspath(rejects_file),
    }


Note = dict[str, Any]


def _read_notes(parts: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Note]]:
    """Parts and their notes by number; all of them, of one run, each once."""
    found: dict[int, tuple[Path, Note]] = {}
    first: tuple[Path, Note] | None = None
    for path in map(Path, parts):
        note = read_note(path)
        first = first or (path, note)
        _require_same_run(first, (path, note))
        number = note["shard"][0]
        if number in found:
            raise UsageError(
                f"{path} is part {number}, and so is {found[number][0]}.", "give every part once."
            )
        found[number] = path, note
    if first is None:
        raise UsageError("no parts were given.", "name the tables that the jobs wrote.")
    n_part = first[1]["shard"][1]
    missing = [str(number) for number in range(1, n_part + 1) if number not in found]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise UsageError(
            f"of {n_part} parts there are {len(found)}: {', '.join(missing[:10])}{more} missing.",
            f"run these with --shard N/{n_part}, or name their tables, too.",
        )
    return [found[number] for number in sorted(found)]


def read_note(path: Path) -> Note:
    """The note of a part by the path of its table; raises if there is none, or it is damaged."""
    """The note of a part by the path of its table; raises if there is none, or it is damaged."""
    place = name_shard_note(path)
    if not path.is_file():
        raise UsageError(f"there is no table {path}.", "check the path.")
    if not place.is_file():
        raise UsageError(
            f"{path} is no part of a run: there is no {place}.",
            "give tables that were written with --shard, and leave what is beside them there.",
        )
    try:
        note = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{place} cannot be read: {error}.", "run this part again.") from None
    needed = {"version", "shard", "kind", "about", "n_in", "provenance", "hashes"}
    if not isinstance(note, dict) or note.get("format") != _NOTE_FORMAT or needed - note.keys():
        raise FormatError(f"{place} is no note of a part.", "run this part again.")
    return note


def _require_same_run(first: tuple[Path, Note], other: tuple[Path, Note]) -> None:
    (path, note), (other_path, other_note) = first, other
    pairs = {
        "version of jaxmdwarf": (note["version"], other_note["version"]),
        "kind": (note["kind"], other_note["kind"]),
        "number of parts": (note["shard"][1], other_note["shard"][1]),
        **{
            name: (note["about"].get(name), other_note["about"].get(name))
            for name in dict.fromkeys([*note["about"], *other_note["about"]])
        },
    }
    changed = [name for name, (one, two) in pairs.items() if one != two]
    if changed:
        raise UsageError(
            f"{path} and {other_path} are not parts of one run: other {', '.join(changed)}.",
            "run the parts with the same inputs, model and options.",
        )


def _read_parts(notes: Sequence[tuple[Path, Note]]) -> tuple[list[pd.DataFrame], list[Reject]]:
    """Rows and rejects of all parts, copies of what an earlier part read moved to the rejects."""
    duplicates = DuplicateFinder()
    frames: list[pd.DataFrame] = []
    rejects: list[Reject] = []
    for path, note in notes:
        copies: dict[str, Reject] = {}
        for place, content_hash in note["hashes"]:
            copy = duplicates.find(int(content_hash), place)
            if copy is not None:
                copies[place] = copy
        frame = read_table(path)
        own_paths = list(map(restore_path, frame["path"]))
        places = list(map(name_place, own_paths, frame["spectrum"]))
        is_copy = np.array([place in copies for place in places], bool)
        moved = [
            copies[places[row]]._replace(path=own_paths[row], spectrum=int(number))
            for row, number in enumerate(frame["spectrum"])
            if is_copy[row]
        ]
        # A copy that was a reject anyway would have been one for being a copy.
        own = [
            copies[place]._replace(path=one.path, spectrum=one.spectrum)
            if (place := name_place(one.path, one.spectrum or 0)) in copies
            else one
            for one in read_rejects(name_rejects_file(path))
        ]
        frames.append(frame[~is_copy])
        rejects += [*own, *moved]
    return frames, rejects


def _join(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all parts; whether identifiers are integers is known of all rows alone."""
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    names = [
        name
        for name in filled[0].columns
        if name in COLUMNS and COLUMNS[str(name)].kind == "identifier"
    ]
    texts = [
        frame.assign(**{name: _as_texts(frame[name]) for name in names if name in frame})
        for frame in filled
    ]
    joined = pd.concat(texts, ignore_index=True)
    joined.attrs = {}
    return joined


def _as_texts(values: pd.Series) -> pd.Series:
    import pandas as pd

    texts = ["" if pd.isna(value) else str(value) for value in values]
    return pd.Series(texts, index=values.index, dtype=object)


def _merge_provenance(
    notes: Sequence[tuple[Path, Note]], command: Sequence[str] | None
) -> Provenance:
    first: Mapping[str, str] = notes[0][1]["provenance"]
    kept = {name: text for name, text in first.items() if name not in _OF_ONE_JOB}
    packs = [note["provenance"]["packs"] for _, note in notes if "packs" in note["provenance"]]
    if packs:
        kept["packs"] = "; ".join(dict.fromkeys("; ".join(packs).split("; ")))
    about = {**kept, "parts": str(len(notes)), "command_of_part_1": first.get("command", "")}
    made = gather_provenance(command=command, notes=about)
    return replace(made, model_hash=first.get("model_hash", ""))
