"""Input files in chunks, each kept on disk once it is finished: a run that was killed goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import DuplicateFinder, ReadTask
from jaxmdwarf.io.spectra.records import Requirements, build_spectrum
from jaxmdwarf.io.stream import stream_results
from jaxmdwarf.spectra import RawSpectrum

if TYPE_CHECKING:
    import pandas as pd


class ReadChunk(NamedTuple):
    """What the files of a chunk hold.

    Parameters
    ----------
    number : int
        Of the chunk.
    raws : list of RawSpectrum
        Spectra to use.
    rejects : list of Reject
        The other files.
    hashes : list of (str, int)
        Path and content of all files that could be read, to know their copies by.
    """

    number: int
    raws: list[RawSpectrum]
    rejects: list[Reject]
    hashes: list[tuple[str, int]]


class FinishedChunk(NamedTuple):
    """What became of the files of a chunk.

    Parameters
    ----------
    rows : pandas.DataFrame
        One a spectrum that was used.
    rejects : list of Reject
    hashes : list of (str, int)
        As `ReadChunk` has them.
    arrays : dict of str to ndarray, optional
        Numbers that belong to the rows; empty where there are none.
    """

    rows: pd.DataFrame
    rejects: list[Reject]
    hashes: list[tuple[str, int]]
    arrays: dict[str, np.ndarray] | None = None


class ChunkFolder:
    """Finished chunks of a run on disk: a manifest says which run, a note that a chunk is complete.

    Parameters
    ----------
    folder : Path or None
        None keeps nothing: every run starts from nothing.
    paths : sequence of str
        Inputs of the run, in their order.
    chunk_size : int
        Inputs of one chunk.
    fingerprint : str
        Of all that chunks depend on: those of another run are removed.
    holds : str
        What such a folder holds, for the error where it holds something else.
    """

    def __init__(
        self,
        folder: Path | None,
        paths: Sequence[str],
        chunk_size: int,
        *,
        fingerprint: str,
        holds: str,
    ) -> None:
        self._folder, self._paths, self._size = folder, paths, chunk_size
        self._fingerprint, self._holds = fingerprint, holds
        self.n_chunk = -(-len(paths) // chunk_size)

    def paths_of(self, number: int) -> Sequence[str]:
        """Inputs of one chunk."""
        return self._paths[number * self._size : (number + 1) * self._size]

    def open(self) -> int:
        """Number of chunks that an earlier run of the same command finished; others are removed.

        Raises
        ------
        UsageError
            If the folder holds something else.
        """
        if self._folder is None:
            return 0
        manifest = self._folder / "manifest.json"
        try:
            same = json.loads(manifest.read_text(encoding="utf-8"))["run"] == self._fingerprint
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            if self._folder.exists() and any(self._folder.iterdir()) and not manifest.exists():
                raise UsageError(
                    f"{self._folder} exists and holds no {self._holds}.", "move it away."
                )
            shutil.rmtree(self._folder, ignore_errors=True)
            with write_atomically(manifest) as temporary:
                temporary.write_text(json.dumps({"run": self._fingerprint}), encoding="utf-8")
            return 0
        done = 0
        while done < self.n_chunk and self._path(done, "json").is_file():
            done += 1
        return done

    def read_rest(
        self,
        n_done: int,
        requirements: Requirements,
        require: Callable[[RawSpectrum], None],
        *,
        processes: int | None = None,
    ) -> Iterator[ReadChunk]:
        """Read the files that no finished chunk holds, chunk by chunk.

        Parameters
        ----------
        n_done : int
            Chunks that are finished.
        requirements : Requirements
            What a file must offer.
        require : callable
            Raises `RejectedInput` for spectra that are of no use.
        processes : int, optional
            Reader processes; None takes all cores.

        Yields
        ------
        ReadChunk
            Copies of files, in this chunk or an earlier one, are among its rejects.
        """
        duplicates = DuplicateFinder()
        for number in range(n_done):
            for path, content_hash in self._read_note(number)[1]:
                duplicates.find(content_hash, path)
        remaining = self._paths[n_done * self._size :]
        results = stream_results(ReadTask(requirements), remaining, processes=processes)
        for number in range(n_done, self.n_chunk):
            yield _gather(number, results, len(self.paths_of(number)), duplicates, require)

    def write(self, number: int, chunk: FinishedChunk) -> None:
        """Keep one chunk; the note comes last."""
        if self._folder is None:
            return
        if chunk.arrays is not None:
            with (
                write_atomically(self._path(number, "npz")) as temporary,
                open(temporary, "wb") as file,
            ):
                np.savez(file, **chunk.arrays)  # type: ignore[arg-type]
        with write_atomically(self._path(number, "parquet")) as temporary:
            chunk.rows.to_parquet(temporary, index=False)
        note = {"rejects": [list(reject) for reject in chunk.rejects], "hashes": chunk.hashes}
        with write_atomically(self._path(number, "json")) as temporary:
            temporary.write_text(json.dumps(note), encoding="ascii")

    def read(self, number: int) -> FinishedChunk:
        """A chunk that was written."""
        import pandas as pd

        rejects, hashes = self._read_note(number)
        arrays = None
        if self._path(number, "npz").is_file():
            with np.load(self._path(number, "npz"), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        rows = pd.read_parquet(self._path(number, "parquet"))
        return FinishedChunk(rows, rejects, hashes, arrays)

    def _read_note(self, number: int) -> tuple[list[Reject], list[tuple[str, int]]]:
        note = json.loads(self._path(number, "json").read_text(encoding="ascii"))
        return (
            [Reject(*reject) for reject in note["rejects"]],
            [(path, int(value)) for path, value in note["hashes"]],
        )

    def _path(self, number: int, suffix: str) -> Path:
        assert self._folder is not None
        return self._folder / f"chunk-{number:06d}.{suffix}"


def _gather(
    number: int,
    results: Iterator[tuple[str, Any]],
    n_path: int,
    duplicates: DuplicateFinder,
    require: Callable[[RawSpectrum], None],
) -> ReadChunk:
    """The next `n_path` inputs."""
    chunk = ReadChunk(number, [], [], [])
    for _ in range(n_path):
        path, result = next(results)
        if isinstance(result, Reject):
            chunk.rejects.append(result)
            continue
        record, content_hash = result
        repeated = duplicates.find(content_hash, path)
        if repeated is not None:
            chunk.rejects.append(repeated)
            continue
        chunk.hashes.append((path, content_hash))
        try:
            raw = build_spectrum(record)
            require(raw)
        except RejectedInput as error:
            chunk.rejects.append(Reject.from_error(path, error))
            continue
        chunk.raws.append(raw)
    return chunk
