"""Files in, a table of measurements out: no model needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.quantities import read_quantity
from jaxmdwarf.catalogue.rows import (
    describe_header,
    describe_kinds,
    describe_measurements,
    empty_rows,
    finish_rows,
    settle_identifiers,
)
from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.diagnostics.matching import as_text
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.provenance import (
    describe_inputs,
    describe_packs,
    gather_provenance,
    hash_values,
)
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import read_placed, take_spectrum
from jaxmdwarf.io.spectra.records import Placed, Requirements, SpectrumRecord, check_record
from jaxmdwarf.io.stream import require_processes
from jaxmdwarf.io.tables import choose_format, list_products, read_table, write_table
from jaxmdwarf.labels import VELOCITY
from jaxmdwarf.measure.spectrum import measure_spectrum
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import FASTEST_STAR_KMS, SPEED_OF_LIGHT_KMS
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import Chunk, name_work_folder
from jaxmdwarf.workflows.sharding import Division, Shard, name_notes

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.spectra import RawSpectrum
    from jaxmdwarf.workflows.progress import Progress

CHUNK_SIZE = 4096
"""Files that are read, measured and kept together: what a killed run loses at most."""

ROW_BYTES = 1_000
"""Disk space of a row and of its entry in a chunk, generously."""


class MeasuredRow(NamedTuple):
    """What a worker sends back for one spectrum."""

    values: dict[str, object]
    content_hash: int
    place: tuple[str, int]


@dataclass(frozen=True)
class MeasureTask:
    """Read and measure the spectra of one file: what a worker process does.

    Parameters
    ----------
    requirements : Requirements
        What a spectrum must offer.
    velocities : mapping of str to float, optional
        Velocities in km/s by obsid, path or file name; None takes header velocities.
    """

    requirements: Requirements
    velocities: Mapping[str, float] | None = None

    def __call__(self, path: str) -> list[MeasuredRow | Reject]:
        return [take_spectrum(one, self._measure) for one in read_placed(path)]

    def _measure(self, placed: Placed, record: SpectrumRecord) -> MeasuredRow:
        check_record(record, self.requirements)
        meta = record.meta
        given_kms = self._find_velocity(str(meta["path"]), str(meta["obsid"]))
        values = measure_row(record.wave_aa, record.flux, record.ivar, meta, given_kms)
        return MeasuredRow(values, record.content_hash(), (placed.path, placed.number))

    def _find_velocity(self, path: str, obsid: str) -> float | None:
        if self.velocities is None:
            return None
        for key in (obsid, path, os.path.basename(path)):
            if key and key in self.velocities:
                return self.velocities[key]
        return float("nan")


def measure_row(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    meta: Mapping[str, Any],
    given_kms: float | None = None,
) -> dict[str, object]:
    """One row of measurements, with the names of the columns.

    Parameters
    ----------
    wave_aa, flux, ivar : (n,)
        As `jaxmdwarf.spectra.RawSpectrum` has them.
    meta : mapping
        The fields of `jaxmdwarf.spectra.SpectrumMeta`.
    given_kms : float, optional
        See `choose_velocity`.
    """
    rv_kms, flags = choose_velocity(float(meta["z"]), given_kms)
    measured = measure_spectrum(
        wave_aa,
        flux,
        ivar,
        rv_kms=rv_kms,
        snr_r=float(meta["snr_r"]),
        snr_i=float(meta["snr_i"]),
    )
    if meta["had_nonfinite"]:
        flags |= QualityFlag.INPUT_NAN
    kinds, of_kind = describe_kinds(
        wave_aa,
        flux[None],
        ivar[None],
        metas=[meta],
        rv_kms=rv_kms,
        measured={name: np.array([value]) for name, value in vars(measured).items()},
    )
    values = {**describe_header(meta), **describe_measurements(measured)}
    values |= {name: column[0] for name, column in kinds.items()}
    values["SNRr"], values["SNRi"] = measured.snr_r, measured.snr_i
    values["RV_used"], values["flags"] = rv_kms, int(measured.flags | flags) | int(of_kind[0])
    return values


def tabulate_measurements(
    spectra: Sequence[RawSpectrum], velocities_kms: Sequence[float] | np.ndarray | None = None
) -> pd.DataFrame:
    """Measure spectra in memory, one row each.

    Parameters
    ----------
    spectra : sequence of RawSpectrum
    velocities_kms : (n,), optional
        What brings each to rest; None takes the velocities of the headers.

    Returns
    -------
    DataFrame
        The columns of ``jaxmdwarf measure``.
    """
    import pandas as pd

    if not len(spectra):
        return empty_rows(kind="measure")
    given = [None] * len(spectra) if velocities_kms is None else list(map(float, velocities_kms))
    rows = [
        measure_row(one.wave_aa, one.flux, one.ivar, vars(one.meta), given_kms)
        for one, given_kms in zip(spectra, given, strict=True)
    ]
    return settle_identifiers(finish_rows(pd.DataFrame.from_records(rows)))


def choose_velocity(z: float, given_kms: float | None) -> tuple[float, QualityFlag]:
    """The velocity that brings a spectrum to rest, and what to doubt about it.

    Parameters
    ----------
    z : float
        Header redshift (v/c), NaN where missing.
    given_kms : float or None
        Velocity from the user's table, NaN for a star that is not in it, None without a table.

    Returns
    -------
    rv_kms : float
        The given velocity; else the header's (flagged if a table was given); else 0 (flagged).
        A velocity beyond `FASTEST_STAR_KMS` is not applied: 0 in its place (flagged).
    flags : QualityFlag

    Examples
    --------
    >>> choose_velocity(1e-4, None)
    (29.9792458, <QualityFlag.OK: 0>)
    >>> choose_velocity(float("nan"), None)
    (0.0, <QualityFlag.NO_HEADER_VELOCITY: 8192>)
    >>> choose_velocity(0.12, None)
    (0.0, <QualityFlag.NOT_STELLAR_VELOCITY: 262144>)
    """
    flags = QualityFlag.OK
    rv_kms = z * SPEED_OF_LIGHT_KMS
    if given_kms is not None and np.isfinite(given_kms):
        rv_kms = float(given_kms)
    elif given_kms is not None:
        flags = QualityFlag.FALLBACK_VELOCITY
    if abs(rv_kms) > FASTEST_STAR_KMS:
        return 0.0, QualityFlag.NOT_STELLAR_VELOCITY
    return (rv_kms, flags) if np.isfinite(rv_kms) else (0.0, QualityFlag.NO_HEADER_VELOCITY)


def measure_files(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    velocity_table: str | os.PathLike[str] | None = None,
    velocity_column: str = "rv",
    processes: int | None = None,
    requirements: Requirements | None = None,
    shard: str | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Measure every spectrum in `files` and write one table, and the rejects beside it.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns and ``@lists``.
    out : path
        The table; its extension chooses the format. Rows are in the order of the inputs.
    velocity_table : path, optional
        Table with a column `velocity_column` (km/s) and a column obsid or path; without it spectra
        are brought to rest by the header's redshift.
    velocity_column : str
        Name of that column.
    processes : int, optional
        Worker processes; None takes all cores.
    requirements : Requirements, optional
        What a spectrum must offer to be measured.
    shard : str, optional
        ``"3/64"``: the third of 64 jobs, see `jaxmdwarf.workflows.sharding.merge_tables`.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a table that is there may be replaced.
    progress : Progress, optional
        Where to report.

    Returns
    -------
    dict
        Counts, and where the two tables are.

    Raises
    ------
    UsageError
        Before any work: if `out` exists, cannot be written or is being written by another process,
        or the velocity table makes no sense.
    WorkFailed
        If no spectrum was usable; the rejects are written all the same.
    """
    choose_format(out)
    require_processes(processes)
    progress, part = progress or Silent(), None if shard is None else Shard.parse(shard)
    require_output(out, overwrite=overwrite)
    velocities = None
    if velocity_table is not None:
        given = read_velocities(velocity_table, velocity_column)
        velocities = given.velocities
        if given.n_sentinel:
            progress.say(
                f"{given.n_sentinel} of {given.n_row} velocities in {os.fspath(velocity_table)} "
                "are those of no star (-9999, 99999, ...), and count as missing."
            )
    rejects_file = require_rejects(out, overwrite=overwrite)
    products = (*list_products(out)[1:], rejects_file, *name_notes(out, part))
    inputs = expand_inputs(files, leave_out=(out, *products, name_work_folder(out)))
    requirements = requirements or Requirements()
    division = Division.choose(
        out,
        kind="a measurement",
        about={
            **describe_inputs(inputs.paths),
            "requirements": requirements,
            "velocities": hash_values(velocities),
        },
        inputs=inputs,
        shard=part,
    )
    paths = division.inputs.paths
    with division.open(row_bytes=ROW_BYTES, overwrite=overwrite, beside=products) as run:
        run.map_files(
            paths,
            MeasureTask(requirements, velocities),
            _tabulate,
            chunk_size=CHUNK_SIZE,
            title="measuring spectra",
            progress=progress,
            processes=processes,
        )
        frame, n_in = division.collect(run, empty_rows(kind="measure"), rejects_file)
        provenance = gather_provenance(command=command, notes=describe_packs(paths))
        division.write_note(run, provenance, n_in)
        write_table(frame, out, provenance=provenance)
    return {
        "inputs": n_in,
        "measured": len(frame),
        "rejected": n_in - len(frame),
        "active": int(frame["Activity"].sum()),
        "no_header_velocity": int(
            np.count_nonzero(frame["flags"] & int(QualityFlag.NO_HEADER_VELOCITY))
        ),
        "table": str(out),
        "rejects": str(rejects_file),
    }


def _tabulate(items: Sequence[tuple[str, dict[str, object]]]) -> Chunk:
    """Rows of what was measured."""
    import pandas as pd

    if not items:
        return Chunk(empty_rows(kind="measure"), [])
    return Chunk(finish_rows(pd.DataFrame.from_records([values for _, values in items])), [])


class VelocityTable(NamedTuple):
    """Velocities from a table of the user's.

    Parameters
    ----------
    velocities : dict of str to float
        km/s, by obsid, path and file name.
    n_row : int
        Rows of the table.
    n_sentinel : int
        Rows whose number is none that a star can have (-9999, 99999, ...), taken as missing.
    """

    velocities: dict[str, float]
    n_row: int
    n_sentinel: int


def read_velocities(path: str | os.PathLike[str], column: str) -> VelocityTable:
    """Velocities (km/s) by obsid, path and file name from a table of the user's.

    Raises
    ------
    UsageError
        If the table lacks `column`, or both obsid and path.
    """
    table = read_table(path)
    names = {str(name).lower(): name for name in table.columns}
    if column not in table.columns:
        raise UsageError(
            f"{os.fspath(path)} has no column {column!r}.",
            f"choose one of {', '.join(map(str, table.columns))} with --velocity-column.",
        )
    keys = {key: names[key] for key in ("obsid", "path") if key in names}
    if not keys:
        raise UsageError(
            f"{os.fspath(path)} has neither a column obsid nor path.",
            "add one, to tell which spectrum a velocity belongs to.",
        )
    numbers = read_quantity(table, column, VELOCITY.name)
    if not np.isfinite(numbers.values).any():
        raise UsageError(
            f"column {column!r} of {os.fspath(path)} holds no velocity: it is not numeric, or no "
            "number is one that a star can have.",
            "give km/s as numbers, or name another column with --velocity-column.",
        )
    velocities: dict[str, float] = {}
    for key, found in keys.items():
        for name, speed in zip(table[found], numbers.values, strict=True):
            text = as_text(name) if key != "path" else restore_path(as_text(name))
            if text and np.isfinite(speed):
                velocities.setdefault(text, float(speed))
                velocities.setdefault(Path(text).name, float(speed))
    return VelocityTable(velocities, len(table), numbers.n_sentinel)
