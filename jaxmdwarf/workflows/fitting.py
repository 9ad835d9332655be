"""Files in, a catalogue of labels, velocities, errors and flags out; resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxmdwarf.catalogue.cuts import write_bounds
from jaxmdwarf.catalogue.merging import count_gaia, join_gaia
from jaxmdwarf.catalogue.rows import empty_rows, tabulate_fit
from jaxmdwarf.inference.config import FitConfig, choose_batch_size
from jaxmdwarf.inference.devices import star_mesh
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.inference.memory import require_fit_memory
from jaxmdwarf.inference.stages import Stages
from jaxmdwarf.io.inputs import Inputs, expand_inputs
from jaxmdwarf.io.models import DEFAULT_MODEL, load_model, read_default_notice
from jaxmdwarf.io.parts import count_spectra
from jaxmdwarf.io.provenance import (
    describe_inputs,
    describe_packs,
    gather_provenance,
    hash_files,
)
from jaxmdwarf.io.rejects import name_rejects_file
from jaxmdwarf.io.spectra.readers import ReadTask
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.io.stream import count_cores, require_processes
from jaxmdwarf.io.tables import choose_format, list_products, read_table, write_table
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.profiling import StageClock
from jaxmdwarf.workflows.progress import CompileClock, Progress, Silent
from jaxmdwarf.workflows.reading import build_spectra, count_rows, split_rows
from jaxmdwarf.workflows.run import Chunk, Worked, name_work_folder
from jaxmdwarf.workflows.sharding import Division, Shard, name_notes

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_NAME = "the model that comes with the package"
"""What catalogues call it; its hash is beside."""

ROW_BYTES = 2_000
"""Disk space of a catalogue row and of its entry in a chunk, generously."""


_MOST_BESIDE = 2


def fit_files(
    files: Sequence[str | os.PathLike[str]],
    model_dir: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    options: FitConfig | None = None,
    gaia: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    requirements: Requirements | None = None,
    shard: str | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    profile: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit every spectrum in `files` and write the catalogue, and the rejects beside it.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns and ``@lists``.
    model_dir : path or None
        A model directory; None takes the model that comes with the package, and says so.
    out : path
        The catalogue; its extension chooses the format. Rows are in the order of the inputs.
    options : FitConfig, optional
    gaia : path, optional
        Table with photometry and astrometry of Gaia, which the catalogue gets as far as stars are
        in it (see `jaxmdwarf.catalogue.merging.join_gaia`).
    processes : int, optional
        Reader processes; None takes all cores.
    requirements : Requirements, optional
        What a spectrum must offer; by default, half of the model's range.
    shard : str, optional
        ``"3/64"``: the third of 64 jobs, see `jaxmdwarf.workflows.sharding.merge_tables`.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a catalogue that is there may be replaced.
    profile : bool
        Whether ``profile`` tells the seconds of each stage. Two chunks are worked on at once, so
        that they add up to more than the run; compiling counts for the stage that needs it.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, rates, and where the two tables are. ``spectra_per_s`` is end to end;
        ``fit_spectra_per_s`` leaves out reading and compiling, of which ``compile_s`` tells.

    Raises
    ------
    UsageError
        Before any work: if `out` exists, cannot be written, or is being written by another process;
        an option makes no sense; there is no such model; or a batch does not fit into memory.
    FormatError
        If the model is not one that this version reads.
    WorkFailed
        If no spectrum was usable; the rejects are written all the same.

    Notes
    -----
    Finished chunks are kept in ``<out>.partial`` until the catalogue is written
    (`jaxmdwarf.workflows.run`). A run that was stopped in any way resumes there if inputs, model
    and options are the same, and ends with the same catalogue.
    """
    progress, options = progress or Silent(), options or FitConfig()
    part = None if shard is None else Shard.parse(shard)
    products = _require_products(out, part, processes, overwrite=overwrite)
    plan = FitPlan.prepare(
        files,
        model_dir,
        options=options,
        gaia=gaia,
        requirements=requirements,
        leave_out=(out, *products, name_work_folder(out)),
    )
    return plan.run(
        out,
        shard=part,
        processes=processes,
        command=command,
        overwrite=overwrite,
        profile=profile,
        progress=progress,
    )


@dataclass(frozen=True)
class FitPlan:
    """What a fit of files works with, known before any work: for the whole of it or its parts.

    Parameters
    ----------
    model_dir : str
    model_name : str
        What catalogues call it.
    notice : str
        What is to be said of the model that comes with the package; empty of others.
    fitter : Fitter
    inputs : Inputs
        All of them.
    requirements : Requirements
    stars : DataFrame or None
        Photometry and astrometry of Gaia.
    gaia_hash : str
        Of the table that they are from.
    n_row : int
        Rows of the arrays of every fit.
    lines : tuple of str
        What is worth saying before it begins.
    about : mapping
        All that results depend on.
    """

    model_dir: str
    model_name: str
    notice: str
    fitter: Fitter
    inputs: Inputs
    requirements: Requirements
    stars: pd.DataFrame | None
    gaia_hash: str
    n_row: int
    lines: tuple[str, ...]
    about: Mapping[str, Any]

    @classmethod
    def prepare(
        cls,
        files: Sequence[str | os.PathLike[str]],
        model_dir: str | os.PathLike[str] | None,
        *,
        options: FitConfig,
        gaia: str | os.PathLike[str] | None = None,
        requirements: Requirements | None = None,
        leave_out: Sequence[str | os.PathLike[str]] = (),
    ) -> FitPlan:
        """Load the model, find the inputs and hold that they can be fitted; see `fit_files`."""
        notice = read_default_notice() if model_dir is None else ""
        name = DEFAULT_NAME if model_dir is None else os.fspath(model_dir)
        model_dir = DEFAULT_MODEL if model_dir is None else model_dir
        model = load_model(model_dir)
        fitter = Fitter(model, options)
        inputs = expand_inputs(files, leave_out=(*leave_out, model_dir))
        window = float(fitter.grid.wave_aa[0]), float(fitter.grid.wave_aa[-1])
        requirements = requirements or Requirements(window_aa=window)
        n_row, said = _plan_batches(fitter, model, options, inputs.paths)
        return cls(
            model_dir=os.fspath(model_dir),
            model_name=name,
            notice=notice,
            fitter=fitter,
            inputs=inputs,
            requirements=requirements,
            stars=None if gaia is None else _read_gaia(gaia, model.label_space.names),
            gaia_hash="none" if gaia is None else hash_files(gaia),
            n_row=n_row,
            lines=tuple(filter(None, (notice, *fitter.warnings, said))),
            about={
                **describe_inputs(inputs.paths),
                "model": hash_files(model_dir),
                "options": options,
                "requirements": requirements,
            },
        )

    def run(
        self,
        out: str | os.PathLike[str],
        *,
        shard: Shard | None = None,
        processes: int | None = None,
        command: Sequence[str] | None = None,
        overwrite: bool = False,
        profile: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Fit all inputs, or those of a part, and write the catalogue; see `fit_files`."""
        progress, began = progress or Silent(), time.perf_counter()
        products = _require_products(out, shard, processes, overwrite=overwrite)
        chunk_size = self.fitter.config.chunk_size
        division = Division.choose(
            out,
            kind="a fit",
            about=self.about,
            inputs=self.inputs,
            shard=shard,
            chunk_size=chunk_size,
        )
        names, paths = self.fitter.model.label_space.names, division.inputs.paths
        clock = StageClock()
        self.fitter.stages = stages = clock if profile else Stages()
        with division.open(row_bytes=ROW_BYTES, overwrite=overwrite, beside=products) as run:
            for line in self.lines:
                progress.say(line)
            compiling = CompileClock.start()
            worked = run.map_files(
                paths,
                ReadTask(self.requirements),
                partial(_fit_chunk, fitter=self.fitter, n_row=self.n_row),
                chunk_size=chunk_size,
                title="fitting spectra",
                progress=progress,
                processes=processes,
                n_beside=_choose_beside(),
                stages=stages,
            )
            compile_s = compiling.stop()
            with stages.stage("writing the table"):
                frame, n_in = division.collect(run, empty_rows(names), name_rejects_file(out))
                frame = frame if self.stars is None else join_gaia(frame, self.stars)
                provenance = gather_provenance(
                    command=command, model=self.model_dir, notes=self._describe(paths)
                )
                division.write_note(run, provenance, n_in, gaia=self.gaia_hash)
                write_table(frame, out, provenance=provenance)
        return {
            "inputs": n_in,
            "catalogue": len(frame),
            "rejected": n_in - len(frame),
            **_count_flags(frame),
            **({} if self.stars is None else {"in_gaia": count_gaia(frame, self.stars)}),
            "fitted_now": worked.n_row,
            **_tell_rates(worked, compile_s, time.perf_counter() - began),
            **({"profile": clock.seconds} if profile else {}),
            "model_trained_on": self._trained_on,
            "table": os.fspath(out),
            "rejects": os.fspath(name_rejects_file(out)),
        }

    @property
    def _trained_on(self) -> str:
        return "a simulation" if self.fitter.preprocessing.simulated else "a model grid"

    def _describe(self, paths: Sequence[str]) -> dict[str, str]:
        """Notes of a catalogue."""
        return {
            "model": self.model_name,
            "model_trained_on": self._trained_on,
            "label_bounds": write_bounds(self.fitter.model.label_space),
            **({"model_notice": self.notice} if self.notice else {}),
            **describe_packs(paths),
        }


def _require_products(
    out: str | os.PathLike[str], shard: Shard | None, processes: int | None, *, overwrite: bool
) -> tuple[str | os.PathLike[str], ...]:
    """Hold that all that is written can be; what stands beside the catalogue."""
    choose_format(out)
    require_processes(processes)
    rejects_file = require_rejects(out, overwrite=overwrite)
    require_output(out, overwrite=overwrite)
    return (*list_products(out)[1:], rejects_file, *name_notes(out, shard))


def _tell_rates(worked: Worked, compile_s: float, wall_s: float) -> dict[str, float]:
    """End to end, and of the fits alone: neither reading nor compiling grows with the survey."""
    fit_s = max(worked.seconds - compile_s, 0.0)
    return {
        "spectra_per_s": round(worked.n_row / wall_s, 1),
        "fit_spectra_per_s": round(worked.n_row / fit_s, 1) if fit_s else 0.0,
        "compile_s": round(compile_s, 2),
        "wall_s": round(wall_s, 2),
    }


def _read_gaia(path: str | os.PathLike[str], label_names: Sequence[str]) -> pd.DataFrame:
    """A Gaia table that can be joined to a catalogue; any other raises before there is one."""
    stars = read_table(path)
    join_gaia(empty_rows(label_names), stars)
    return stars


def _fit_chunk(items: list[tuple[str, Any]], *, fitter: Fitter, n_row: int) -> Chunk:
    """Rows of the spectra of a chunk, fitted `n_row` at a time."""
    import pandas as pd

    raws, rejects = build_spectra(items, fitter.require)
    rows = []
    for part in split_rows(raws, n_row):
        fitted = fitter.fit(part, pad_to=n_row)
        with fitter.stages.stage("measuring and rows"):
            rows.append(tabulate_fit(part, fitted))
    empty = empty_rows(fitter.model.label_space.names)
    return Chunk(pd.concat(rows or [empty], ignore_index=True), rejects)


def _choose_beside() -> int:
    """Chunks that are fitted at once: while one is prepared or tabulated another is on the device.

    Programs that all devices of a host share are called by one thread.
    """
    return _MOST_BESIDE if count_cores() > 1 and star_mesh() is None else 1


def _count_flags(frame: pd.DataFrame) -> dict[str, Any]:
    flags = frame["flags"].to_numpy()
    # A part of a run may have no row.
    converged = ((flags & int(QualityFlag.NOT_CONVERGED)) == 0).sum() / max(len(flags), 1)
    return {
        "converged_fraction": round(float(converged), 4),
        "good": int(frame["good"].sum()),
    }


def _plan_batches(
    fitter: Fitter, model: ForwardModel, options: FitConfig, paths: Sequence[str]
) -> tuple[int, str]:
    """Rows of every compiled call, one shape for the whole run and no larger than it needs."""
    n_row = count_rows(paths, options.chunk_size)
    batch_size = min(choose_batch_size(options.schedule, model), n_row)
    planned = replace(options, schedule=replace(options.schedule, batch_size=batch_size))
    memory = require_fit_memory(model, fitter.grid, planned) / 2**20
    n_all = count_spectra(paths)
    what = f"{n_all} files" if n_all == len(paths) else f"{n_all} spectra"
    return n_row, f"{what}; batches of {batch_size} stars, about {memory:.0f} MiB on the device."
