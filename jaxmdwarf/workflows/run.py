"""One resumable run: locked, known by what it depends on, kept step by step and chunk by chunk.

All long work is done in one: fits, measurements, simulations, grids, trainings, the quickstart.
What is finished stands in a work folder until the output is complete, so that a run that was
stopped in any way goes on with the same command::

    with open_output("catalogue.fits", kind="a fit", about={"model": ..., "inputs": ...}) as run:
        run.map_files(paths, task, work, title="fitting spectra")
        write_table(run.collect(), "catalogue.fits")

The work folder (``<out>.partial``) holds

``lock``
    whose owner alone may write here (`jaxmdwarf.io.locks`);
``run.json``
    what the run is (`kind`), all that its results depend on (`about`), and steps that are done;
``chunk-<number>.json``
    one for each finished chunk of inputs, written last, beside its rows (``.parquet``) and arrays
    (``.npz``);
``checkpoints/``
    states of a training (`jaxmdwarf.io.checkpoints`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.inference.stages import Stages
from jaxmdwarf.io.atomic import (
    is_unfinished,
    move_files,
    remove_remains,
    set_aside,
    write_atomically,
)
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.locks import hold_lock
from jaxmdwarf.io.parts import count_spectra
from jaxmdwarf.io.rejects import Reject, check_accounts, write_rejects
from jaxmdwarf.io.spectra.readers import DuplicateFinder
from jaxmdwarf.io.stream import chunk_paths, stream_results
from jaxmdwarf.io.tables import begin_imports
from jaxmdwarf.workflows.chunking import CHUNK_BYTES, Gathered, gather_chunks, work_beside
from jaxmdwarf.workflows.outputs import OVERWRITE, require_folder, require_output
from jaxmdwarf.workflows.progress import Progress, Silent

if TYPE_CHECKING:
    import pandas as pd

RECORD_NAME = "run.json"
"""By which the folder of a run is known."""

_LOCK, _CHECKPOINTS, _WRITING = "lock", "checkpoints", "writing products"


class Chunk(NamedTuple):
    """What became of the inputs of a chunk.

    Parameters
    ----------
    rows : pandas.DataFrame
        One an input that was used.
    rejects : list of Reject
    arrays : dict of str to ndarray, optional
        Numbers that belong to the rows.
    hashes : list of (str, int)
        Place and content of all spectra that could be read, to know their copies by.
    n_path : int
        Files of the chunk.
    n_in : int
        Spectra that they hold; a file that cannot be read counts as one.
    n_unexpected : int
        Inputs on which readers failed as they should not.
    """

    rows: pd.DataFrame
    rejects: list[Reject]
    arrays: dict[str, np.ndarray] | None = None
    hashes: Sequence[tuple[str, int]] = ()
    n_path: int = 0
    n_in: int = 0
    n_unexpected: int = 0


class _Note(NamedTuple):
    """What stands beside the rows and arrays of a finished chunk, see `Chunk`."""

    rejects: list[Reject]
    hashes: Sequence[tuple[str, int]]
    n_path: int
    n_in: int
    n_unexpected: int


@dataclass(frozen=True)
class Worked:
    """What a loop over chunks did now, without the chunks that were done before.

    Parameters
    ----------
    n_row : int
        Rows that were made.
    seconds : float
        Spent in the work itself, reading apart.
    """

    n_row: int
    seconds: float


class Run:
    """Work that is kept as it goes; `open_run` and `open_output` make one.

    Attributes
    ----------
    folder : Path
        Where it is kept.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder, self._record = folder, record

    # Steps

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took when it was done, in order."""
        return {name: step["seconds"] for name, step in self._record["steps"].items()}

    def finished(self, name: str) -> bool:
        """Whether a step is done."""
        return name in self._record["steps"]

    def result(self, name: str) -> dict[str, Any]:
        """What a finished step returned."""
        return self._record["steps"][name]["result"]

    def step(
        self, name: str, make: Callable[[], Mapping[str, Any]], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Do a step unless it is done; returns what it returned then or now, as plain JSON."""
        if self.finished(name):
            (progress or Silent()).say(f"{name}: done before")
            return self.result(name)
        began = time.perf_counter()
        result = plain_json(make())
        seconds = round(time.perf_counter() - began, 2)
        self._record["steps"][name] = {"seconds": seconds, "result": result}
        self._save()
        return result

    def begin_writing(self) -> None:
        """Note that from now on products stand beside the output before it is there itself."""
        self.step(_WRITING, dict)

    @contextmanager
    def make_folder(self, target: Path) -> Iterator[Path]:
        """A folder for the files of `target`, which take their places once all of them are there.

        Half of them would be in the way of the same command.
        """
        made = self.folder / ".made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        yield made
        move_files(made, target)

    # Chunks

    @property
    def n_done(self) -> int:
        """Chunks that are finished, counted from the first."""
        done = 0
        while self._path(done, "json").is_file():
            done += 1
        return done

    def keep(self, number: int, chunk: Chunk) -> None:
        """Keep a finished chunk; its note comes last."""
        if chunk.arrays is not None:
            with (
                write_atomically(self._path(number, "npz")) as temporary,
                open(temporary, "wb") as file,
            ):
                np.savez(file, **chunk.arrays)  # type: ignore[arg-type]
        with write_atomically(self._path(number, "parquet")) as temporary:
            chunk.rows.to_parquet(temporary, index=False)
        note = chunk._asdict() | {"rejects": [list(reject) for reject in chunk.rejects]}
        note = {name: note[name] for name in _Note._fields}
        with write_atomically(self._path(number, "json")) as temporary:
            # Names that are not UTF-8 survive as escapes.
            temporary.write_text(json.dumps(note), encoding="ascii")

    def read(self, number: int) -> Chunk:
        """A chunk that was kept."""
        import pandas as pd

        note = self._read_note(number)
        arrays = None
        if self._path(number, "npz").is_file():
            with np.load(self._path(number, "npz"), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        rows = pd.read_parquet(self._path(number, "parquet"))
        return Chunk(rows, note.rejects, arrays, note.hashes, note.n_path, note.n_in)

    @property
    def n_in(self) -> int:
        """Spectra that the files of all chunks hold; a file that cannot be read counts as one."""
        return sum(self._read_note(number).n_in for number in range(self.n_done))

    def read_all(self) -> Iterator[Chunk]:
        """All chunks in the order of their inputs, one at a time in memory."""
        for number in range(self.n_done):
            yield self.read(number)

    def map_files(
        self,
        paths: Sequence[str],
        task: Callable[[str], tuple[Any, int | None] | list[Any]],
        work: Callable[[list[tuple[str, Any]]], Chunk],
        *,
        chunk_size: int,
        title: str,
        progress: Progress | None = None,
        processes: int | None = None,
        n_together: int = 32,
        n_beside: int = 1,
        stages: Stages | None = None,
    ) -> Worked:
        """Read files in parallel processes, work on them chunk by chunk, and keep each chunk.

        Parameters
        ----------
        paths : sequence of str
            Inputs, in the order of the rows to be.
        task : callable
            What a reader process does with a path (see `jaxmdwarf.io.stream`); returns the payload
            and a hash of its content, by which copies of it are rejected, or None. Files that hold
            several spectra give a list of such pairs, and of rejects.
        work : callable
            Takes the (path, payload) of a chunk; returns its rows, its rejects and its arrays.
        chunk_size : int
            Inputs of a chunk, fewer where files are large.
        title : str
            Of the stage in the progress.
        progress : Progress, optional
        processes : int, optional
            Reader processes; None takes all cores.
        n_together : int
            Paths that travel to a reader together.
        n_beside : int
            Chunks that threads work on at once while the next one is read, see
            `jaxmdwarf.workflows.chunking.work_beside`: a killed run loses so many.
        stages : Stages, optional
            Is told how long readers are waited for.

        Returns
        -------
        Worked

        Raises
        ------
        WorkFailed
            If too many inputs ended in errors that readers do not expect, see
            `jaxmdwarf.workflows.chunking.require_expected`.
        """
        progress = progress or Silent()
        duplicates = DuplicateFinder()
        begin = n_read = n_unexpected = 0
        for number in range(self.n_done):
            kept = self._read_note(number)
            begin, n_read = begin + kept.n_path, n_read + kept.n_in
            n_unexpected += kept.n_unexpected
            for path, content_hash in kept.hashes:
                duplicates.find(content_hash, path)
        n_all, skipped = count_spectra(paths), count_spectra(paths[:begin])
        unit = "files" if n_all == len(paths) else "spectra"
        if begin:
            progress.say(f"resuming: {skipped} of {n_all} {unit} are done.")
        rest = paths[begin:]
        results = stream_results(task, rest, processes=processes, chunk_size=n_together)
        parts = chunk_paths(rest, chunk_size, CHUNK_BYTES)
        chunks = gather_chunks(results, parts, duplicates, n_read, n_unexpected, stages)

        def make(chunk: Gathered) -> Chunk:
            importing = begin_imports()  # at once from the second chunk on
            made = work(chunk.items)
            importing.join()
            return made

        n_row, seconds, ended = 0, 0.0, 0.0
        with progress.stage(title, float(n_all), unit=unit, done=float(skipped)) as stage:
            each = enumerate(work_beside(make, chunks, n_beside), self.n_done)
            for number, (chunk, done) in each:
                made = done.made._replace(
                    rejects=chunk.sort_rejects(done.made.rejects),
                    hashes=chunk.hashes,
                    n_path=len(chunk.paths),
                    n_in=chunk.n_in,
                    n_unexpected=chunk.n_unexpected,
                )
                # Of chunks side by side a second counts once.
                seconds += max(done.ended - max(done.began, ended), 0.0)
                n_row, ended = n_row + len(made.rows), max(ended, done.ended)
                self.keep(number, made)
                stage.advance(float(count_spectra(chunk.paths)))
        return Worked(n_row, seconds)

    def collect(self, empty: pd.DataFrame) -> tuple[pd.DataFrame, list[Reject]]:
        """Rows of all chunks (`empty`: a table without any) and rejects, in the inputs' order."""
        import pandas as pd

        frames, rejects = [], []
        for number in range(self.n_done):
            rows = pd.read_parquet(self._path(number, "parquet"))
            frames += [rows] if len(rows) else []
            rejects += self._read_note(number).rejects
        return pd.concat(frames or [empty], ignore_index=True), rejects

    # Trainings

    @property
    def checkpoints(self) -> Path:
        """Folder for the states of a training."""
        return self.folder / _CHECKPOINTS

    def discard(self) -> None:
        """Remove all that was kept; the run begins anew."""
        self._record["steps"] = {}
        _empty(self.folder)
        self._save()

    def _save(self) -> None:
        write_json(self.folder / RECORD_NAME, self._record)

    def _read_note(self, number: int) -> _Note:
        note = json.loads(self._path(number, "json").read_text(encoding="ascii"))
        return _Note(
            [Reject(*reject) for reject in note["rejects"]],
            [(path, int(value)) for path, value in note["hashes"]],
            int(note["n_path"]),
            int(note["n_in"]),
            int(note["n_unexpected"]),
        )

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"chunk-{number:06d}.{suffix}"


@contextmanager
def open_run(
    folder: str | os.PathLike[str],
    *,
    kind: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
    resume: bool = True,
    out: str | os.PathLike[str] | None = None,
) -> Iterator[Run]:
    """Own a work folder while the block runs; it stays.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    kind : str
        What it holds, for errors: "a fit", "spectra at rest".
    about : mapping
        All that results depend on, dataclasses with their classes;
        `jaxmdwarf.io.provenance.describe_inputs` stands for files, and `hash_values` there for what
        is large.
    overwrite : bool
        Whether what is there of a run about something else may be removed.
    resume : bool
        False removes what is there, whatever it is about.
    out : path, optional
        What the errors call the output; `folder` by default.

    Raises
    ------
    UsageError
        If another process works there, the folder holds no run, or one about something else, or it
        cannot be written to.
    """
    folder = Path(folder)
    if folder.is_dir() and not {RECORD_NAME, _LOCK} & (names := set(os.listdir(folder))) and names:
        raise UsageError(f"{folder} exists and does not hold {kind}.", "move it away.")
    require_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}.",
            "give an output path you may write to.",
        ) from None
    with hold_lock(folder / _LOCK, work=f"writing {os.fspath(out or folder)}"):
        record = {"kind": kind, "about": plain_json(about, name_classes=True), "steps": {}}
        found = _read_record(folder)
        same = found is not None and all(found.get(k) == record[k] for k in ("kind", "about"))
        if same and found is not None and resume:
            record = found
        elif resume and not overwrite and _kept_work(folder):
            raise UsageError(
                f"{folder} holds {_describe_other(found, record)}.",
                "repeat the earlier command to go on with it; to begin anew, "
                f"{OVERWRITE}, or move it away.",
            )
        else:
            _empty(folder)
            write_json(folder / RECORD_NAME, record)
        for name in filter(is_unfinished, os.listdir(folder)):  # of a process that was killed
            remove = shutil.rmtree if (folder / name).is_dir() else os.unlink
            remove(folder / name)
        yield Run(folder, record)


@contextmanager
def open_output(
    out: str | os.PathLike[str],
    *,
    kind: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
    resume: bool = True,
    mark: str = "",
    n_bytes: int = 0,
    beside: Sequence[str | os.PathLike[str]] = (),
) -> Iterator[Run]:
    """Own an output and its work folder ``<out>.partial``, which goes if the block succeeds.

    Parameters
    ----------
    out : path
    kind, about, resume
        See `open_run`.
    overwrite : bool
        Whether `out`, and work for it that was about something else, may be replaced. The old
        output stays until the block writes the new one.
    mark : str
        See `require_output`: given for folders.
    n_bytes : int
        About how large the output and its work folder become.
    beside : sequence of path
        Further files and folders that belong to it; what a killed run left half written is removed
        for these, too.

    Raises
    ------
    UsageError
        Before any work: as `open_run` and `require_output`.
    """
    target = require_output(out, overwrite=overwrite, mark=mark, n_bytes=n_bytes)
    partial = name_work_folder(out)
    with open_run(
        partial, kind=kind, about=about, overwrite=overwrite, resume=resume, out=out
    ) as run:
        # Another process may have finished it since.
        require_output(target, overwrite=overwrite, mark=mark)
        try:
            yield run
        except BaseException:
            if not _kept_work(partial):
                shutil.rmtree(partial, ignore_errors=True)
            raise
        # Gone at once: half of a work folder would look like one that is damaged.
        set_aside(partial)
        remove_remains(partial, target, *beside)


def was_writing(out: str | os.PathLike[str]) -> bool:
    """Whether a run was killed while it wrote its products, of which the last one is `out`.

    What stands beside `out` is its own then, and no reason to refuse the same command; see
    `Run.begin_writing`.
    """
    return read_step(out, _WRITING) is not None


def read_step(out: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """What a finished step of an unfinished run returned; None where there is no such step."""
    record = _read_record(name_work_folder(out))
    return record["steps"][name]["result"] if record and name in record["steps"] else None


def name_work_folder(out: str | os.PathLike[str]) -> Path:
    """Where the unfinished parts of `out` are: ``<out>.partial``."""
    return Path(f"{os.fspath(out).rstrip(os.sep)}.partial")


def settle_accounts(
    run: Run,
    rejects: Sequence[Reject],
    *,
    n_in: int,
    n_out: int,
    rejects_file: str | os.PathLike[str] | None = None,
    n_row: int | None = None,
    least: int = 1,
    product: str = "",
) -> None:
    """Write the rejects; hold that no input was lost, and that enough are left to go on.

    Parameters
    ----------
    run : Run
        Begins anew where too few are left: the same inputs may have been mended by then.
    rejects : sequence of Reject
    n_in, n_out : int
        Inputs, and those that were used.
    rejects_file : path, optional
    n_row : int, optional
        Rows of the product, if inputs hold more than one.
    least : int
        Fewest rows that make a product.
    product : str
        What needs so many, where one is not enough.

    Raises
    ------
    WorkFailed
        If fewer than `least` rows are left.
    """
    check_accounts(n_in, n_out, len(rejects))
    if rejects_file is not None:
        write_rejects(rejects_file, rejects)
    n_row = n_out if n_row is None else n_row
    if n_row >= least:
        return
    run.discard()
    first = f" The first: {rejects[0].path}: {rejects[0].reason}." if rejects else ""
    remedy = "" if rejects_file is None else f"all reasons are in {os.fspath(rejects_file)}."
    if least == 1:
        raise WorkFailed(f"none of {n_in} inputs was usable.{first}", remedy)
    raise WorkFailed(f"{n_row} of {n_in} inputs usable, {product} needs {least}.{first}", remedy)


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(record, dict) and {"kind", "about", "steps"} <= record.keys()
    return record if complete else None


def _kept_work(folder: Path) -> bool:
    """Whether anything was finished there."""
    record = _read_record(folder)
    if record is not None and record["steps"]:
        return True
    # A chunk without its note is not finished, and hidden files were being written.
    unfinished = (".parquet", ".npz")
    return any(
        name not in (RECORD_NAME, _LOCK)
        and not name.startswith(".")
        and not (name.startswith("chunk-") and name.endswith(unfinished))
        for name in os.listdir(folder)
    )


def _describe_other(found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    if found is None:
        return "a run whose record is damaged"
    if found["kind"] != wanted["kind"]:
        return f"{found['kind']}, not {wanted['kind']}"
    changed = list(_find_changes(found["about"], wanted["about"]))
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return f"{found['kind']} of {shown}"


def _find_changes(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """``chunk_size 64 instead of 32`` for all that differs; hashes only by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _find_changes(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        texts = [value if isinstance(value, str) else json.dumps(value) for value in (old, new)]
        is_hash = any(len(text) > 40 for text in texts)
        yield f"other {name}" if is_hash else f"{name} {texts[0]} instead of {texts[1]}"


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
