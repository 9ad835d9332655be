"""Files to a list of M dwarfs worth fitting: selection cuts and k-means cleaning (section 2.1)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.catalogue.merging import join_gaia
from jaxmdwarf.catalogue.rows import describe_header
from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.errors import FormatError, RejectedInput, UsageError
from jaxmdwarf.io.atomic import write_atomically, write_folder_atomically
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.provenance import describe_inputs, gather_provenance
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import ReadTask, read_spectra
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.io.stream import require_processes
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.measure.snr import find_snr
from jaxmdwarf.plots.style import render_png
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.clean import (
    Cleaning,
    CleaningConfig,
    ClusterRow,
    bin_grid,
    clean,
    shape_features,
)
from jaxmdwarf.preprocess.resample import require_overlap
from jaxmdwarf.preprocess.selection import Selection, SelectionConfig, absolute_magnitude, select
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PAPER_GRID
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.reading import build_spectra
from jaxmdwarf.workflows.run import (
    Chunk,
    Run,
    name_work_folder,
    open_output,
    open_run,
    settle_accounts,
    was_writing,
)

if TYPE_CHECKING:
    import pandas as pd

DECISIONS_NAME = "decisions.json"
"""Cuts, rules and lists of a cleaning, in the folder of its records: edited and given again."""

ROW_BYTES = 500
"""Disk space of what is kept of a spectrum beside its shape."""

CHUNK_SIZE = 1024
"""Files that are read together; what a killed run loses at most."""

_CUT_REASONS = {
    "snr_r": "S/N in r",
    "snr_i": "S/N in i",
    "ruwe": "Gaia RUWE",
    "m_g": "absolute magnitude in G",
    "bp_rp": "BP-RP",
}
"""What each cut looks at, in the order of the paper."""


@dataclass(frozen=True)
class Decisions:
    """All that decides which spectra stay; the same decisions and files give the same list.

    Parameters
    ----------
    cuts : SelectionConfig
        On S/N, RUWE, absolute magnitude and colour.
    cleaning : CleaningConfig
        Rules on groups of spectra of one shape, and lists of groups that a person drops or keeps.
    """

    cuts: SelectionConfig = field(default_factory=SelectionConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)


def clean_files(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    decisions: Decisions | None = None,
    *,
    gaia: str | os.PathLike[str] | None = None,
    templates: Sequence[str | os.PathLike[str]] = (),
    cache: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Select spectra, drop groups that do not look like M dwarfs, and write the list of the others.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns and ``@lists``.
    out : path
        The list, one path a line (of files of several spectra, those of which one stays): commands
        take it as ``@LIST``. All other inputs are in
        ``<stem>_rejects.csv`` with their reasons. ``<stem>_cleaning/`` gets a contact sheet and a
        table for each round (``round_<r>.png``, ``.csv``), ``members.csv`` (what became of each
        spectrum), ``waterfall.csv`` (how many each step left) and ``decisions.json``, from which
        `read_decisions` repeats the cleaning.
    decisions : Decisions, optional
        Those of the paper by default.
    gaia : path, optional
        Table with RUWE, magnitudes and parallaxes, as of the Gaia archive; without it stars are
        cut by their S/N alone.
    templates : sequence of path, optional
        Spectra of M dwarfs, for the rule on the correlation with a template.
    cache : path, optional
        Folder for the shapes of the spectra, which stays: other decisions need not read the files.
    processes : int, optional
        Reader processes; None takes all cores.
    command : sequence of str, optional
        Command line for the record.
    overwrite : bool
        Whether a list that is there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts of every step, and where the products are.

    Raises
    ------
    UsageError
        Before any work: if `out` exists, cannot be written or is being written by another process,
        or a table is missing or has none of the columns. Later: if the lists of the decisions name
        groups that there are not.
    WorkFailed
        If no spectrum is left; the records and rejects are written all the same.
    """
    decisions, progress = decisions or Decisions(), progress or Silent()
    records, rejects_file = name_records_folder(out), require_rejects(out, overwrite=overwrite)
    own = was_writing(out)
    require_output(out, overwrite=overwrite, beside=() if own else (records,))
    require_processes(processes)
    known = None if gaia is None else read_table(gaia)
    if known is not None:
        join_gaia(_tabulate([]), known)
    patterns = _read_templates(templates)
    beside = (out, records, rejects_file, name_work_folder(out), *([cache] if cache else []))
    inputs = expand_inputs(files, leave_out=beside)
    with open_output(
        out,
        kind="a cleaning",
        about={},
        overwrite=overwrite,
        n_bytes=(4 * _SHAPES.n_pix + ROW_BYTES) * len(inputs.paths),
        beside=(records, rejects_file),
    ) as run:
        about = {**describe_inputs(inputs.paths), "grid": PAPER_GRID}
        shapes_folder = cache or run.folder / "shapes"
        with open_run(
            shapes_folder, kind="shapes of spectra", about=about, overwrite=overwrite
        ) as part:
            part.map_files(
                inputs.paths,
                ReadTask(_REQUIREMENTS),
                _measure_shapes,
                chunk_size=CHUNK_SIZE,
                title="reading shapes",
                progress=progress,
                processes=processes,
            )
            sample = _gather_sample(part, known)
            n_in = len(inputs.rejects) + part.n_in
        progress.say("grouping spectra by shape")
        outcome = _decide(sample, decisions, patterns, n_in)
        run.begin_writing()
        _write_records(outcome, records, decisions, command)
        rejects = [*inputs.rejects, *sample.rejects, *_name_reasons(outcome, decisions.cuts)]
        kept = outcome.paths[outcome.kept]
        settle_accounts(run, rejects, n_in=n_in, n_out=len(kept), rejects_file=rejects_file)
        with write_atomically(out) as temporary:
            text = "".join(f"{path}\n" for path in dict.fromkeys(kept))
            temporary.write_text(text, encoding="utf-8")
    return {
        "inputs": n_in,
        "kept": len(kept),
        "rejected": len(rejects),
        "waterfall": dict(outcome.waterfall),
        "cuts_not_made": [_CUT_REASONS[name] for name in outcome.selection.skipped],
        "rounds": 0 if outcome.cleaning is None else len(outcome.cleaning.rounds),
        "list": os.fspath(out),
        "records": os.fspath(records),
        "rejects": os.fspath(rejects_file),
    }


def name_records_folder(out: str | os.PathLike[str]) -> Path:
    """Where the records of a cleaning go: ``<stem>_cleaning`` beside the list.

    Examples
    --------
    >>> name_records_folder("night1/good.txt").as_posix()
    'night1/good_cleaning'
    """
    path = Path(out)
    return path.with_name(f"{path.stem}_cleaning")


def read_decisions(path: str | os.PathLike[str]) -> Decisions:
    """The decisions of a ``decisions.json``, as it was written or as a person edited it.

    Raises
    ------
    UsageError
        If there is no such file, or it has a name that no decision has.
    FormatError
        If it is no JSON of this kind.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{os.fspath(path)} cannot be read: {error.strerror}.", "check the path."
        ) from None
    except ValueError as error:
        raise FormatError(
            f"{os.fspath(path)} is no JSON: {error}.", "mend it, or write it anew with 'clean'."
        ) from None
    cuts = _check_names(values, "cuts", SelectionConfig, path)
    rules = _check_names(values, "cleaning", CleaningConfig, path)
    for key in ("m_g", "bp_rp", "keep_missing"):
        if cuts.get(key) is not None:
            cuts[key] = tuple(cuts[key])
    for key in ("drop", "keep"):
        rules[key] = tuple((int(number), int(group)) for number, group in rules.get(key, ()))
    return Decisions(SelectionConfig(**cuts), CleaningConfig(**rules))


def _check_names(values: Any, key: str, kind: type, path: str | os.PathLike[str]) -> dict[str, Any]:
    found = values.get(key, {}) if isinstance(values, dict) else None
    if not isinstance(found, dict):
        raise FormatError(f"{os.fspath(path)} holds no {key}.", "write it anew with 'clean'.")
    names = [one.name for one in fields(kind)]
    unknown = [name for name in found if name not in names]
    if unknown:
        raise UsageError(
            f"{os.fspath(path)} has {unknown[0]!r} among its {key}.", f"use {', '.join(names)}."
        )
    return dict(found)


@dataclass(frozen=True)
class _Sample:
    """What could be read: rows with headers and photometry, shapes, and the other inputs."""

    rows: pd.DataFrame
    features: np.ndarray
    rejects: list[Reject]


@dataclass(frozen=True)
class _Outcome:
    """What became of the rows of a sample.

    Parameters
    ----------
    rows : DataFrame
        Headers and photometry.
    columns : dict of str to (n,) array
        What was cut on.
    selection : Selection
    survivors : (n_left,) int
        Rows that pass the cuts; those of `cleaning`.
    cleaning : Cleaning, optional
        None where no row passes.
    kept : (n,) bool
    waterfall : list of (step, spectra left)
    """

    rows: pd.DataFrame
    columns: dict[str, np.ndarray]
    selection: Selection
    survivors: np.ndarray
    cleaning: Cleaning | None
    kept: np.ndarray
    waterfall: list[tuple[str, int]]

    @property
    def paths(self) -> np.ndarray:
        """Files of the rows."""
        return self.rows["path"].to_numpy(object)


_REQUIREMENTS = Requirements(
    window_aa=(float(PAPER_GRID.wave_aa[0]), float(PAPER_GRID.wave_aa[-1]))
)
_SHAPES = bin_grid(PAPER_GRID)
_ROWS_AT_ONCE = 256
_CUT_COLUMNS = {"snr_r": "SNRr", "snr_i": "SNRi", "ruwe": "RUWE"}
_NUMBERS = (*_CUT_COLUMNS.values(), "Gmag", "BPmag", "RPmag", "Plx")
_HEADER = ("ID", "obsid", "RA", "Dec", "Subclass", "path", "spectrum", "SNRr", "SNRi")


def _measure_shapes(items: list[tuple[str, Any]]) -> Chunk:
    """Headers and coarse shapes of spectra, in their own frame: 3 kB each."""
    raws, rejects = build_spectra(items, lambda raw: require_overlap(raw, PAPER_GRID))
    return Chunk(_tabulate(raws), rejects, {"shape": _find_shapes(raws)})


def _tabulate(raws: Sequence[RawSpectrum]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for raw in raws:
        snr = {"SNRr": find_snr(raw, "r"), "SNRi": find_snr(raw, "i")}
        rows.append({**describe_header(vars(raw.meta)), **snr})
    frame = pd.DataFrame(rows, columns=list(_HEADER))
    return frame.astype(dict.fromkeys(("RA", "Dec", "SNRr", "SNRi"), np.float64))


def _find_shapes(raws: Sequence[RawSpectrum]) -> np.ndarray:
    parts = [np.zeros((0, _SHAPES.n_pix), np.float32)]
    for first in range(0, len(raws), _ROWS_AT_ONCE):
        some = raws[first : first + _ROWS_AT_ONCE]
        # Not divided by a continuum: the shape of the flux tells K stars, galaxies and failures.
        batch = preprocess_batch(
            some, sigma_aa=None, masks=(), min_overlap=0.0, pad_to=_ROWS_AT_ONCE
        )
        parts.append(shape_features(batch)[0][: len(some)])
    return np.concatenate(parts)


def _read_templates(templates: Sequence[str | os.PathLike[str]]) -> np.ndarray | None:
    if not templates:
        return None
    found = expand_inputs(templates)
    if found.rejects:
        raise UsageError(f"{found.rejects[0].path}: {found.rejects[0].reason}.", "check the path.")
    read = []
    for path in found.paths:
        try:
            read += read_spectra(path)
        except RejectedInput as error:
            raise UsageError(f"{path}: {error.message}", error.remedy) from None
    for one in read:
        if isinstance(one, Reject):
            raise UsageError(f"{one.path}: {one.reason}.", "give other templates.")
    return _find_shapes([one for one in read if isinstance(one, RawSpectrum)])


def _gather_sample(run: Run, gaia: pd.DataFrame | None) -> _Sample:
    rows, rejects = run.collect(_tabulate([]))
    shapes = [(chunk.arrays or {})["shape"] for chunk in run.read_all()]
    features = np.concatenate([np.zeros((0, _SHAPES.n_pix), np.float32), *shapes])
    if gaia is not None and len(rows):
        rows = join_gaia(rows, gaia)
    return _Sample(rows, features, rejects)


def _decide(
    sample: _Sample, decisions: Decisions, patterns: np.ndarray | None, n_in: int
) -> _Outcome:
    """Cut, then group and drop what is left."""
    rows = sample.rows
    known = {name: rows[name].to_numpy(np.float64) for name in _NUMBERS if name in rows}
    columns = {name: known[column] for name, column in _CUT_COLUMNS.items() if column in known}
    if {"Gmag", "Plx"} <= known.keys():
        columns["m_g"] = absolute_magnitude(known["Gmag"], known["Plx"])
    if {"BPmag", "RPmag"} <= known.keys():
        columns["bp_rp"] = known["BPmag"] - known["RPmag"]
    selection = select(columns, decisions.cuts)
    waterfall = [("inputs", n_in), ("read", len(rows))]
    left = np.ones(len(rows), bool)
    for name, words in _CUT_REASONS.items():
        failed = [
            selection.reasons[reason]
            for reason in (f"{name}_outside", f"{name}_missing")
            if reason in selection.reasons
        ]
        if failed:
            left = left & ~np.any(failed, axis=0)
            waterfall.append((words, int(left.sum())))
    survivors = np.flatnonzero(selection.keep)
    kept = np.zeros(len(rows), bool)
    cleaning = None
    if survivors.size and np.isfinite(sample.features[survivors]).all(axis=1).any():
        cleaning = clean(
            sample.features[survivors], _SHAPES, decisions.cleaning, templates=patterns
        )
        kept[survivors] = cleaning.keep
        gone = cleaning.dropped_in_round
        waterfall.append(("has data", int((gone >= 0).sum())))
        for number in range(1, len(cleaning.rounds) + 1):
            left_now = int(((gone == 0) | (gone > number)).sum())
            waterfall.append((f"k-means round {number}", left_now))
    return _Outcome(rows, columns, selection, survivors, cleaning, kept, waterfall)


def _name_reasons(outcome: _Outcome, cuts: SelectionConfig) -> list[Reject]:
    """A reject for each row that does not stay: the first cut that it fails, or its group."""
    rejects = []
    groups = _find_groups(outcome)
    for row in np.flatnonzero(~outcome.kept).tolist():
        reason, remedy = _find_cut(outcome, cuts, row), "loosen the cut if it should stay"
        if not reason:
            number, group = groups[0][row], groups[1][row]
            if number > 0 and outcome.cleaning is not None:
                rule = outcome.cleaning.rounds[number - 1].rows[group].reason
                reason = f"its group looks unlike M dwarfs: round {number}, group {group}: {rule}"
                remedy = f"list [{number}, {group}] under keep in {DECISIONS_NAME} if it is one"
            else:
                reason, remedy = "has no data to be grouped by", "look at the spectrum"
        spectrum = int(outcome.rows["spectrum"].iloc[row])
        rejects.append(Reject(restore_path(outcome.paths[row]), reason, remedy, spectrum))
    return rejects


def _find_groups(outcome: _Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Round and group with which each row was dropped; 0 and -1 where it was not."""
    number = np.zeros(len(outcome.paths), int)
    group = np.full(len(outcome.paths), -1)
    if outcome.cleaning is not None:
        number[outcome.survivors] = outcome.cleaning.dropped_in_round
        group[outcome.survivors] = outcome.cleaning.dropped_in_cluster
    return number, group


def _find_cut(outcome: _Outcome, cuts: SelectionConfig, row: int) -> str:
    """What the first cut that a row fails says of it; empty if it passes all."""
    limits = {
        "snr_r": f"not above {cuts.min_snr_r}",
        "snr_i": f"not above {cuts.min_snr_i}",
        "ruwe": f"above {cuts.max_ruwe}",
        "m_g": f"not within {cuts.m_g}",
        "bp_rp": f"not within {cuts.bp_rp}",
    }
    reasons = outcome.selection.reasons
    for name, words in _CUT_REASONS.items():
        if f"{name}_missing" in reasons and reasons[f"{name}_missing"][row]:
            return f"no {words} is known"
        if f"{name}_outside" in reasons and reasons[f"{name}_outside"][row]:
            return f"{words} {outcome.columns[name][row]:.4g} is {limits[name]}"
    return ""


def _write_records(
    outcome: _Outcome, folder: Path, decisions: Decisions, command: Sequence[str] | None
) -> None:
    from jaxmdwarf.plots.cleaning import plot_contact_sheet

    with write_folder_atomically(folder) as new:
        for done in () if outcome.cleaning is None else outcome.cleaning.rounds:
            stem = f"round_{done.rows[0].round}"
            figure = plot_contact_sheet(done, _SHAPES.wave_aa)
            (new / f"{stem}.png").write_bytes(render_png(figure))
            columns = [one.name for one in fields(ClusterRow)]
            rows = [list(asdict(row).values()) for row in done.rows]
            _write_csv(new / f"{stem}.csv", columns, rows)
        number, group = _find_groups(outcome)
        cut = [_find_cut(outcome, decisions.cuts, row) for row in range(len(outcome.paths))]
        _write_csv(
            new / "members.csv",
            ["path", "spectrum", "kept", "cut", "round", "group"],
            zip(
                outcome.paths,
                outcome.rows["spectrum"],
                outcome.kept.astype(int),
                cut,
                number,
                group,
                strict=True,
            ),
        )
        _write_csv(new / "waterfall.csv", ["step", "left"], outcome.waterfall)
        about = {**asdict(decisions), "made_by": gather_provenance(command=command).as_text()}
        write_json(new / DECISIONS_NAME, about)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
