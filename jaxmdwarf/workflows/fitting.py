"""Files in, a catalogue of labels, velocities, errors and flags out; resumable."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.inference.memory import require_fit_memory
from jaxmdwarf.inference.settings import choose_batch_size
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance, hash_files
from jaxmdwarf.io.rejects import Reject, check_accounts, name_rejects_file, write_rejects
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.io.tables import choose_format, write_table
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import ChunkFolder, FinishedChunk

if TYPE_CHECKING:
    import pandas as pd

from jaxmdwarf.catalogue.rows import empty_rows, tabulate_fit
from jaxmdwarf.inference.fitter import FittedSpectra, FittingOptions, SpectrumFitter


def fit_files(
    files: Sequence[str | os.PathLike[str]],
    model_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    options: FittingOptions | None = None,
    processes: int | None = None,
    requirements: Requirements | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    fit: Callable[..., FittedSpectra] | None = None,
) -> dict[str, Any]:
    """Fit every spectrum in `files` and write the catalogue, and the rejects beside it.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns and ``@lists``.
    model_dir : path
        A model directory.
    out : path
        The catalogue; its extension chooses the format. Rows are in the order of the inputs.
    options : FittingOptions, optional
    processes : int, optional
        Reader processes; None takes all cores.
    requirements : Requirements, optional
        What a spectrum must offer; by default, half of the model's range.
    command : sequence of str, optional
        Command line for the provenance.
    progress : Progress, optional
    fit : callable, optional
        Replaces `SpectrumFitter.fit`; for tests of what happens around it.

    Returns
    -------
    dict
        Counts, rates, and where the two tables are.

    Raises
    ------
    UsageError
        If `out` or an option makes no sense, there is no such model, or a batch does not fit into
        memory.
    FormatError
        If the model is not one that this version reads.
    WorkFailed
        If no spectrum was usable; the rejects are written all the same.

    Notes
    -----
    Finished chunks are kept in ``<out>.partial`` until the catalogue is written. A run that was
    stopped in any way resumes there if inputs, model and options are the same, and ends with the
    same catalogue.
    """
    progress, options = progress or Silent(), options or FittingOptions()
    choose_format(out)
    if processes is not None and processes < 1:
        raise UsageError(f"{processes} processes cannot work.", "give 1 or more.")
    began = time.perf_counter()
    model = load_model(model_dir)
    fitter = SpectrumFitter(model, options)
    rejects_file = name_rejects_file(out)
    partial = Path(f"{os.fspath(out)}.partial")
    inputs = expand_inputs(files, leave_out=(out, rejects_file, partial, model_dir))
    requirements = requirements or Requirements(
        window_aa=(float(fitter.grid.wave_aa[0]), float(fitter.grid.wave_aa[-1]))
    )
    chunks = ChunkFolder(
        partial,
        inputs.paths,
        options.chunk_size,
        fingerprint=_fingerprint(inputs.paths, hash_files(model_dir), options, requirements),
        holds="partial catalogue",
    )
    n_done = chunks.open()
    # One compiled shape for the whole run, no larger than the run needs.
    n_row = min(options.chunk_size, _round_up(len(inputs.paths), 32))
    batch_size = min(choose_batch_size(fitter.settings, model), n_row)
    planned = replace(fitter.settings, batch_size=batch_size)
    memory = require_fit_memory(model, fitter.grid, planned) / 2**20
    progress.say(
        f"{len(inputs.paths)} files; batches of {batch_size} stars, "
        f"about {memory:.0f} MiB on the device."
    )
    if n_done:
        progress.say(f"resuming: {n_done} of {chunks.n_chunk} chunks are done.")
    n_fitted, fit_seconds = 0, 0.0
    with progress.stage("fitting spectra", total=float(len(inputs.paths))) as stage:
        for number in range(n_done):
            stage.advance(float(len(chunks.paths_of(number))))
        for read in chunks.read_rest(n_done, requirements, fitter.require, processes=processes):
            started = time.perf_counter()
            rows = empty_rows(model.label_space.names)
            if read.raws:
                rows = tabulate_fit(read.raws, (fit or fitter.fit)(read.raws, pad_to=n_row))
            n_fitted += len(read.raws)
            fit_seconds += time.perf_counter() - started
            chunks.write(read.number, FinishedChunk(rows, read.rejects, read.hashes))
            rate = f"{n_fitted / fit_seconds:.0f} spectra/s" if n_fitted else ""
            stage.advance(float(len(chunks.paths_of(read.number))), note=rate)
    frame, chunk_rejects = _collect(chunks)
    rejects = [*inputs.rejects, *chunk_rejects]
    check_accounts(inputs.n_in, len(frame), len(rejects))
    write_rejects(rejects_file, rejects)
    if not len(frame):
        shutil.rmtree(partial, ignore_errors=True)
        first = f" The first: {rejects[0].path}: {rejects[0].reason}." if rejects else ""
        raise WorkFailed(
            f"none of {inputs.n_in} inputs was usable.{first}",
            f"all reasons are in {rejects_file}.",
        )
    trained_on = "a simulation" if fitter.preprocessing.simulated else "a model grid"
    write_table(
        frame,
        out,
        provenance=gather_provenance(
            command=command,
            model=model_dir,
            notes={"model": os.fspath(model_dir), "model_trained_on": trained_on},
        ),
    )
    shutil.rmtree(partial, ignore_errors=True)
    not_converged = int(QualityFlag.NOT_CONVERGED)
    converged = float(((frame["flags"].to_numpy() & not_converged) == 0).mean())
    return {
        "inputs": inputs.n_in,
        "catalogue": len(frame),
        "rejected": len(rejects),
        "converged_fraction": round(converged, 4),
        "unflagged": int(np.count_nonzero(frame["flags"] == 0)),
        "good": int(frame["good"].sum()),
        "fitted_now": n_fitted,
        "fit_spectra_per_s": round(n_fitted / fit_seconds, 1) if n_fitted else 0.0,
        "wall_s": round(time.perf_counter() - began, 2),
        "model_trained_on": trained_on,
        "table": os.fspath(out),
        "rejects": os.fspath(rejects_file),
    }


def _collect(chunks: ChunkFolder) -> tuple[pd.DataFrame, list[Reject]]:
    """All rows and rejects, in the order of the inputs."""
    import pandas as pd

    frames: list[pd.DataFrame] = []
    rejects: list[Reject] = []
    for number in range(chunks.n_chunk):
        chunk = chunks.read(number)
        rejects += chunk.rejects
        if len(chunk.rows):
            frames.append(chunk.rows)
    return pd.concat(frames, ignore_index=True) if frames else empty_rows(), rejects


def _fingerprint(
    paths: Sequence[str], model_hash: str, options: FittingOptions, requirements: Requirements
) -> str:
    """What must be the same for chunks of an earlier run to be used."""
    digest = hashlib.sha256()
    about = {"model": model_hash, "options": asdict(options), "requires": asdict(requirements)}
    digest.update(json.dumps(about, sort_keys=True).encode())
    for path in paths:
        digest.update(os.path.abspath(path).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def _round_up(number: int, step: int) -> int:
    return max(step, -(-number // step) * step)
