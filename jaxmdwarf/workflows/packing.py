"""Files in, a pack out: spectra of many files as one Zarr group; resumable, can be added to."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.atomic import remove_remains, set_aside
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.packs.layout import FORMAT_VERSION, PackIndex
from jaxmdwarf.io.packs.reading import read_hashes
from jaxmdwarf.io.packs.store import find_index, is_url
from jaxmdwarf.io.packs.writing import PackWriter, WrittenRow, measure_disk
from jaxmdwarf.io.parts import measure_size
from jaxmdwarf.io.provenance import describe_inputs, gather_provenance
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import ReadTask
from jaxmdwarf.io.spectra.records import SpectrumRecord
from jaxmdwarf.io.stream import require_processes
from jaxmdwarf.workflows.outputs import OVERWRITE, require_folder, require_rejects
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import (
    Chunk,
    Run,
    name_work_folder,
    open_run,
    read_step,
    settle_accounts,
)

if TYPE_CHECKING:
    import pandas as pd

CHUNK_SIZE = 1024
"""Files that are read and written together: what a killed run loses at most."""

LEAST_SHARE = 0.1
"""Of the size of its inputs that a pack has at least: what DESI's resolution matrices leave."""

_COMMIT = "writing the index"
_KNOWN = "the pack holds this spectrum already"


def pack_files(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    append: bool = False,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write every spectrum in `files` into one pack, and the rejects of reading beside it.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns, ``@lists`` and other packs.
    out : path
        The pack, a folder or a URL; `jaxmdwarf.io.packs.layout` says what is in it.
    append : bool
        Whether spectra join those of the pack that is there. What it has already is a reject.
    processes : int, optional
        Reader processes; None takes all cores.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a pack that is there may be replaced, and unfinished work for it.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, the content and the size of the pack, and where the rejects are.

    Raises
    ------
    UsageError
        Before any work: if `out` is there and neither `append` nor `overwrite` is given, is no
        pack, cannot be written to or is being written to by another process; zarr is not installed.
    FormatError
        If `out` is a pack of another version.
    WorkFailed
        If no spectrum was usable or the disk is full.

    Notes
    -----
    Spectra are written where they stay, and count when the index of the pack is written at the
    end: until then the pack is what it was. Which ones are written stands in ``<out>.partial``, of
    a URL in the current folder. A run that was stopped in any way goes on from there, and ends
    with the same pack.
    """
    progress = progress or Silent()
    require_processes(processes)
    began = time.perf_counter()
    pack = os.fspath(out).rstrip("/")
    # Behind a URL nothing can be locked: that, and what is finished, is kept here.
    local = pack.rpartition("/")[2] if is_url(pack) else pack
    work_folder = name_work_folder(local)
    found = find_index(pack) or PackIndex()
    base = _choose_base(pack, found, append=append, overwrite=overwrite)
    rejects_file = require_rejects(local, overwrite=overwrite or append)
    inputs = expand_inputs(files, leave_out=(local, rejects_file, work_folder))
    _require_room(pack, inputs.paths)
    if read_step(local, _COMMIT) == {"content": found.content}:
        # Killed in the moment between its last two steps.
        shutil.rmtree(work_folder)
    with open_run(
        work_folder,
        kind="packing",
        about={
            **describe_inputs(inputs.paths),
            "added to": base.content,
            "format_version": FORMAT_VERSION,
        },
        overwrite=overwrite,
        out=out,
    ) as run:
        writer = PackWriter(pack, base)
        if writer.before.content != found.content:
            raise UsageError(f"{pack} was just written to.", "repeat the command.")
        writer.resume(_read_rows(run))
        known = read_hashes(pack) if base.n_spectrum else np.zeros(0, np.int64)
        run.map_files(
            inputs.paths,
            PackTask(),
            partial(_write_chunk, writer=writer, known=known),
            chunk_size=CHUNK_SIZE,
            title="packing spectra",
            progress=progress,
            processes=processes,
        )
        table, rejects = run.collect(_tabulate([]))
        rejects = [*inputs.rejects, *rejects]
        n_in = len(inputs.rejects) + run.n_in
        _settle(run, writer, rejects, n_in, len(table), rejects_file)
        run.step(_COMMIT, lambda: {"content": writer.content})
        index = writer.commit(gather_provenance(command=command).as_text())
        set_aside(work_folder)
        remove_remains(work_folder, rejects_file)
    return {
        "inputs": n_in,
        "packed": len(table),
        "rejected": len(rejects),
        **_describe(pack, index),
        **_tell_rate(len(table), time.perf_counter() - began),
        "pack": pack,
        "rejects": os.fspath(rejects_file),
    }


def _settle(
    run: Run,
    writer: PackWriter,
    rejects: Sequence[Reject],
    n_in: int,
    n_out: int,
    rejects_file: Path,
) -> None:
    """See `settle_accounts`; a pack that would be empty is not left there."""
    # That nothing is new is no failure of what adds every night.
    least = 0 if writer.base.n_spectrum else 1
    try:
        settle_accounts(
            run, rejects, n_in=n_in, n_out=n_out, rejects_file=rejects_file, least=least
        )
    except WorkFailed:
        writer.withdraw()
        set_aside(run.folder)
        remove_remains(run.folder)
        raise


def _describe(pack: str, index: PackIndex) -> dict[str, Any]:
    return {
        "spectra": index.n_spectrum,
        "groups": {name: entry.n_spectrum for name, entry in index.groups.items()},
        "content": index.content,
        "megabytes": round(measure_disk(pack) / 1e6, 1),
    }


def _tell_rate(n_row: int, wall_s: float) -> dict[str, float]:
    return {"spectra_per_s": round(n_row / wall_s, 1), "wall_s": round(wall_s, 2)}


class PackedSpectrum(NamedTuple):
    """A spectrum with its hash, which is stored beside it, as a reader process hands it over."""

    payload: tuple[SpectrumRecord, int]
    content_hash: int
    place: tuple[str, int]


@dataclass(frozen=True)
class PackTask:
    """Read the spectra of one file: all that can be read, whatever they cover."""

    def __call__(self, path: str) -> list[PackedSpectrum | Reject]:
        return [
            one
            if isinstance(one, Reject)
            else PackedSpectrum((one.record, one.content_hash), one.content_hash, one.place)
            for one in ReadTask()(path)
        ]


def _choose_base(pack: str, found: PackIndex, *, append: bool, overwrite: bool) -> PackIndex:
    """What stays in the pack: all that was found, or nothing."""
    if append and overwrite:
        raise UsageError(
            "a pack is either added to or replaced.", "give --append or --overwrite, not both."
        )
    if append and not found.n_spectrum:
        raise UsageError(f"there is no pack {pack} to add to.", "leave --append out.")
    if found.n_spectrum and not (append or overwrite):
        raise UsageError(
            f"{pack} exists.",
            f"add --append to add to it, {OVERWRITE} to replace it, or give another name.",
        )
    return found if append else PackIndex()


def _require_room(pack: str, paths: Sequence[str]) -> None:
    if not is_url(pack):
        n_bytes = sum(map(measure_size, paths))
        require_folder(Path(pack).parent, n_bytes=int(LEAST_SHARE * n_bytes))


def _read_rows(run: Run) -> list[WrittenRow]:
    """Where spectra of finished chunks went."""
    return [
        WrittenRow(*row)
        for chunk in run.read_all()
        for row in chunk.rows[list(WrittenRow._fields)].itertuples(index=False)
    ]


def _write_chunk(
    items: Sequence[tuple[str, tuple[SpectrumRecord, int]]],
    *,
    writer: PackWriter,
    known: np.ndarray,
) -> Chunk:
    """Rows of what was written, and rejects of what the pack had before (`known`, sorted)."""
    hashes = np.array([content_hash for _, (_, content_hash) in items], np.int64)
    repeated = np.isin(hashes, known)
    rejects = [
        Reject(path, _KNOWN, "leave it out", int(record.meta["index"]))
        for (path, (record, _)), is_known in zip(items, repeated, strict=True)
        if is_known
    ]
    fresh = [one for (_, one), is_known in zip(items, repeated, strict=True) if not is_known]
    return Chunk(_tabulate(writer.add(fresh)), rejects)


def _tabulate(rows: Sequence[WrittenRow]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(WrittenRow._fields))
