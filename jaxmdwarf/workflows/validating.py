"""A catalogue against a reference table: match, judge by S/N, draw, write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.columns import describe_column
from jaxmdwarf.catalogue.names import find_column, list_quantities
from jaxmdwarf.catalogue.quantities import find_positions, read_numbers, read_quantity
from jaxmdwarf.diagnostics.matching import Matches, match_by_key, match_by_position
from jaxmdwarf.diagnostics.recovery import Comparison, compare, compute_pulls
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.atomic import move_files, write_atomically
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LABELS, VELOCITY, describe_label
from jaxmdwarf.quality import HARMFUL_FLAGS
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import open_output

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.workflows.progress import Progress

REPORT_BYTES = 2_000_000
"""Disk space of a report with its figures."""

_HIGH_SNR = 50.0


@dataclass(frozen=True)
class ValidationConfig:
    """How a catalogue is compared.

    Parameters
    ----------
    columns : tuple of (quantity, column)
        Columns of the reference, where the guesses from their names fail or are wrong.
    match : {"auto", "obsid", "path", "position"}
        What tells that two rows are of one star; "auto" takes what matches most rows.
    radius_arcsec : float
        For positions.
    keep_flagged : bool
        Keep rows whose flags say not to trust them (`jaxmdwarf.quality.HARMFUL_FLAGS`).
    snr_column : str
        Column of the catalogue by which rows are binned; empty for a guess (r, then i).
    """

    columns: tuple[tuple[str, str], ...] = ()
    match: Literal["auto", "obsid", "path", "position"] = "auto"
    radius_arcsec: float = 3.0
    keep_flagged: bool = False
    snr_column: str = ""

    def __post_init__(self) -> None:
        for name, _ in self.columns:
            if name.removeprefix("e_") not in list_quantities():
                raise UsageError(
                    f"{name!r} is no quantity that can be compared.",
                    f"use some of {', '.join(list_quantities())}.",
                )


class Sample(NamedTuple):
    """One quantity of the rows that are compared, each (n,): measured, known, error of both."""

    measured: np.ndarray
    reference: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Validation:
    """What came of a comparison.

    Parameters
    ----------
    samples : dict
        By quantity.
    comparisons, high_snr : dict
        By quantity: all rows, and those with S/N above 50.
    snr : (n,)
    rows, reference_rows : (n,)
        Rows of the two tables that were compared.
    counts : dict
        How many rows went where.
    notes : tuple of str
        What a reader should know: how rows were matched and selected, which columns were guessed.
    snr_name : str
    """

    samples: dict[str, Sample]
    comparisons: dict[str, Comparison]
    high_snr: dict[str, Comparison]
    snr: np.ndarray
    rows: np.ndarray
    reference_rows: np.ndarray
    counts: dict[str, int]
    notes: tuple[str, ...]
    snr_name: str = field(default="S/N")

    def metrics(self) -> dict[str, Any]:
        """Plain numbers under stable names."""
        return {
            "counts": dict(self.counts),
            "labels": recovery_metrics(self.comparisons),
            "labels_snr50": recovery_metrics(self.high_snr),
            "labels_by_snr": {
                name: [_bin_metrics(row) for row in comparison.by_snr]
                for name, comparison in self.comparisons.items()
            },
            "pulls": pull_metrics(self.comparisons),
        }


def recovery_metrics(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    """Bias and scatter by quantity."""
    return {name: plain_json(one.recovery._asdict()) for name, one in comparisons.items()}


def pull_metrics(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    """Mean and width of the pulls by quantity."""
    return {name: plain_json(one.pulls._asdict()) for name, one in comparisons.items()}


def validate_tables(
    catalogue: pd.DataFrame,
    reference: pd.DataFrame,
    options: ValidationConfig | None = None,
) -> Validation:
    """Compare the rows that two tables share.

    Parameters
    ----------
    catalogue : DataFrame
        As `jaxmdwarf fit` writes it, or anybody's with columns whose names are understood.
    reference : DataFrame
        Truth of a simulated survey (contaminants, binaries and failed spectra are left out), or a
        table of the literature.
    options : ValidationConfig, optional

    Raises
    ------
    UsageError
        If the tables have no quantity, or nothing to be matched by, in common.
    WorkFailed
        If no row is left.
    """
    options = options or ValidationConfig()
    given = dict(options.columns)
    _require_columns(reference, given)
    pairs = _find_quantities(catalogue, reference, given)
    matches, how = _match(catalogue, reference, given, options)
    notes = [how]
    notes += [
        f"{name}: {measured} against {known}"
        + (", which is not the same quantity" if name == "mh" and "fe" in known.lower() else "")
        for name, (measured, known) in pairs.items()
    ]
    kept, counts, left_out = _select_matches(catalogue, reference, matches, options)
    notes += left_out
    rows, reference_rows = matches.rows[kept], matches.reference_rows[kept]
    counts["compared"] = int(rows.size)
    if not rows.size:
        raise WorkFailed(
            f"no row is left to compare: {counts['matched']} matched, {counts['not_single']} are "
            f"not single stars, {counts['flagged']} are flagged.",
            "check the flags of the catalogue, or keep flagged rows (--keep-flagged).",
        )
    snr, snr_name = _find_snr(catalogue, options.snr_column)
    snr = snr[rows]
    samples, comparisons, high = {}, {}, {}
    for name, (measured, known) in pairs.items():
        ours, theirs = (
            read_quantity(table, column, name)
            for table, column in ((catalogue, measured), (reference, known))
        )
        notes += _note_sentinels(ours, theirs, measured, known)
        sample = Sample(
            ours.values[rows],
            theirs.values[reference_rows],
            np.hypot(
                _errors(catalogue, measured, name, {})[rows],
                np.nan_to_num(_errors(reference, known, name, given)[reference_rows], nan=0.0),
            ),
        )
        if not np.isfinite(sample.measured - sample.reference).any():
            notes.append(f"{name}: no row has both values")
            continue
        samples[name] = sample
        comparisons[name] = compare(sample.measured, sample.reference, sample.error, snr)
        bright = snr > _HIGH_SNR
        measured_bright, known_bright, error_bright = (column[bright] for column in sample)
        high[name] = compare(measured_bright, known_bright, error_bright, snr[bright])
    if not samples:
        raise WorkFailed(
            "no row has a value in both tables: " + "; ".join(notes) + ".",
            "name the columns that hold the labels, for example --columns teff=TEFF_K.",
        )
    return Validation(
        samples=samples,
        comparisons=comparisons,
        high_snr=high,
        snr=snr,
        rows=rows,
        reference_rows=reference_rows,
        counts=counts,
        notes=tuple(notes),
        snr_name=snr_name,
    )


def _select_matches(
    catalogue: pd.DataFrame,
    reference: pd.DataFrame,
    matches: Matches,
    options: ValidationConfig,
) -> tuple[np.ndarray, dict[str, int], list[str]]:
    """Which matches count, how many were left out, and notes that say why."""
    notes: list[str] = []
    counts = {
        "catalogue": len(catalogue),
        "reference": len(reference),
        "matched": int(matches.rows.size),
        "flagged": 0,
        "not_single": 0,
    }
    kept = np.ones(matches.rows.size, bool)
    single = _single_stars(reference)
    if single is not None:
        alone = single[matches.reference_rows]
        counts["not_single"] = int((~alone).sum())
        kept &= alone
        notes.append(
            f"{counts['not_single']} rows are binaries, contaminants or failed spectra by truth, "
            "and left out"
        )
    if "flags" in catalogue and not options.keep_flagged:
        flags = catalogue["flags"].to_numpy()[matches.rows].astype(np.int64)
        doubtful = (flags & int(HARMFUL_FLAGS)) != 0
        counts["flagged"] = int((doubtful & kept).sum())
        notes.append(
            f"{counts['flagged']} of the remaining {int(kept.sum())} rows carry a flag that says "
            "not to trust them (S/N below 5, a label at a bound, no convergence, ...), and are "
            "left out"
        )
        kept &= ~doubtful
    return kept, counts, notes


def _note_sentinels(ours: Any, theirs: Any, measured: str, known: str) -> list[str]:
    """What is to be said of numbers that stand for no number, in either table."""
    return [
        f"{one.n_sentinel} of {one.values.size} numbers of {where} in {column} are those of no "
        f"star (-9999, 99999, ...), and count as missing"
        for one, where, column in (
            (ours, "the catalogue", measured),
            (theirs, "the reference", known),
        )
        if one.n_sentinel
    ]


def validate_files(
    catalogue: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    options: ValidationConfig | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a catalogue on disk with a reference table and write what came of it.

    Parameters
    ----------
    catalogue, reference : path
        Tables of any format that `jaxmdwarf.io.tables` reads, and ``.csv.gz``.
    out : path
        Folder; gets ``metrics.json``, ``by_snr.csv``, ``report.html`` and figures.
    options : ValidationConfig, optional
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether an earlier comparison there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Bias and scatter of each quantity, and where the products are.

    Raises
    ------
    UsageError
        If a table does not exist, lacks columns, or `out` exists or cannot be written to.
    WorkFailed
        If no row is left to compare.
    """
    from jaxmdwarf.plots.style import render_png
    from jaxmdwarf.report.page import Picture, Report, Section, Table, Text, write_report

    progress, target = progress or Silent(), Path(out)
    with open_output(
        target,
        kind="a comparison",
        about={},
        overwrite=overwrite,
        n_bytes=REPORT_BYTES,
        mark="by_snr.csv",
    ) as run:
        measured, known = read_table(catalogue), read_table(reference)
        result = validate_tables(measured, known, options)
        for note in result.notes:
            progress.say(note)
        # Complete before it takes its place: half of it would be in the way of the same command.
        made = run.folder / ".made"
        shutil.rmtree(made, ignore_errors=True)
        _write_text(made / "by_snr.csv", _by_snr_text(result))
        told = gather_provenance(command=command)
        made_by = told.as_text()
        metrics = {**result.metrics(), "notes": list(result.notes), "made_by": made_by}
        write_json(made / "metrics.json", metrics)
        pictures = []
        with progress.stage("figures", 3.0, unit="figures") as task:
            for name, (figure, caption) in plot_validation(result).items():
                png = render_png(figure)
                with write_atomically(made / f"{name}.png") as temporary:
                    temporary.write_bytes(png)
                pictures.append(Picture(png, caption, name))
                task.advance()
        about = measured.attrs.get("provenance", {})
        simulated = about.get("model_trained_on") == "a simulation"
        report = Report(
            title="Catalogue against reference",
            lead=f"{Path(catalogue).name} against {Path(reference).name}: "
            f"{result.counts['compared']} rows compared.",
            warning="The model behind this catalogue was trained on a simulation." * simulated,
            sections=[
                Section("What was compared", [Text(f"{note}.") for note in result.notes]),
                Section("Bias and scatter", [Table(*recovery_table(result)), *pictures[:2]]),
                Section("Are the errors honest?", [Table(*pull_table(result)), *pictures[2:]]),
            ],
            footer=f"{made_by['creator']}, {told.created}: {told.command}",
        )
        write_report(report, made / "report.html")
        move_files(made, target)
    summary: dict[str, Any] = {"out": os.fspath(out), **result.counts}
    for name, one in result.comparisons.items():
        summary[f"{name}_bias"] = round(one.recovery.bias, 4)
        summary[f"{name}_scatter"] = round(one.recovery.scatter, 4)
        summary[f"{name}_pull_width"] = round(one.pulls.width, 3)
    return summary


def plot_validation(result: Validation) -> dict[str, tuple[Any, str]]:
    """Figures by name, each with its caption."""
    from jaxmdwarf.plots.labels import LabelPair, plot_by_snr, plot_recovery
    from jaxmdwarf.plots.pulls import plot_pulls

    pairs = [LabelPair(name, one.measured, one.reference) for name, one in result.samples.items()]
    pulls = {
        name: (
            compute_pulls(one.measured - one.reference, one.error),
            result.comparisons[name].pulls,
        )
        for name, one in result.samples.items()
    }
    return {
        "recovery": (
            plot_recovery(pairs, result.snr, reference_name="reference", snr_name=result.snr_name),
            "Measured against reference (above) and their difference (below); the dashed line is "
            "one to one. Colour is S/N: bright spectra, drawn on top, should follow the line.",
        ),
        "by_snr": (
            plot_by_snr(result.comparisons, snr_name=result.snr_name),
            "Robust scatter, bias and the catalogue's own error in bins of S/N. Where scatter and "
            "stated error agree, the errors are honest.",
        ),
        "pulls": (
            plot_pulls(pulls),
            "Differences over stated errors. Honest Gaussian errors give the red curve: mean 0, "
            "width 1.",
        ),
    }


def recovery_table(result: Validation) -> tuple[list[str], list[list[str]]]:
    """Header and rows: bias and scatter of all compared rows and of those with S/N above 50."""
    from jaxmdwarf.plots.style import describe_quantity

    rows = []
    for name, one in result.comparisons.items():
        quantity, every, high = (
            describe_quantity(name),
            one.recovery,
            result.high_snr[name].recovery,
        )
        rows.append(
            [
                quantity.axis,
                str(every.n),
                quantity.write(every.bias, signed=True, unit=False),
                quantity.write(every.scatter, unit=False),
                f"{every.outliers:.1%}",
                str(high.n),
                quantity.write(high.bias, signed=True, unit=False),
                quantity.write(high.scatter, unit=False),
            ]
        )
    header = ["", "n", "bias", "scatter", "outliers > 5σ", "n (S/N > 50)", "bias", "scatter"]
    return header, rows


def pull_table(result: Validation) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean and width of the pulls with their standard errors."""
    from jaxmdwarf.plots.style import describe_quantity

    rows = [
        [
            describe_quantity(name).symbol,
            str(one.pulls.n),
            f"{one.pulls.mean:+.3f} ± {one.pulls.e_mean:.3f}",
            f"{one.pulls.width:.3f} ± {one.pulls.e_width:.3f}",
            f"{one.pulls.outliers:.1%}",
        ]
        for name, one in result.comparisons.items()
    ]
    return ["", "n", "mean", "width", "beyond ±5"], rows


def _require_columns(reference: pd.DataFrame, given: Mapping[str, str]) -> None:
    for name, column in given.items():
        if column not in reference.columns:
            vectors = reference.attrs.get("vectors", ())
            raise UsageError(
                f"column {column!r} of the reference (for {name}) holds vectors."
                if column in vectors
                else f"the reference has no column {column!r} (for {name}).",
                f"name another, as in --columns {name}=NAME; its columns are {_list(reference)}.",
            )


def _find_quantities(
    catalogue: pd.DataFrame, reference: pd.DataFrame, given: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    pairs = {}
    for name in (*LABELS, VELOCITY.name, *_further_labels(catalogue)):
        measured = find_column(catalogue, name)
        known = given.get(name) or find_column(reference, name)
        if measured is not None and known is not None:
            pairs[name] = (measured, known)
    if not pairs:
        raise UsageError(
            f"catalogue and reference share none of {', '.join((*LABELS, VELOCITY.name))}. The "
            f"catalogue has "
            f"{_list(catalogue)}; the reference {_list(reference)}.",
            "name columns of the reference, as in --columns teff=TEFF_K.",
        )
    return pairs


def _further_labels(catalogue: pd.DataFrame) -> list[str]:
    """Columns with an error beside them that no registered label has: those of a label that only
    the process which fitted the catalogue knew."""
    names = list(map(str, catalogue.columns))
    return [name for name in names if f"e_{name}" in names and describe_column(name) is None]


def _match(
    catalogue: pd.DataFrame,
    reference: pd.DataFrame,
    given: Mapping[str, str],
    options: ValidationConfig,
) -> tuple[Matches, str]:
    def columns(name: str) -> tuple[str, str] | None:
        ours = find_column(catalogue, name)
        theirs = given.get(name) or find_column(reference, name)
        return None if ours is None or theirs is None else (ours, theirs)

    found: list[tuple[Matches, str]] = []
    for name in ("obsid", "path"):
        pair = columns(name)
        if options.match in ("auto", name) and pair is not None:
            ours, theirs = catalogue[pair[0]], reference[pair[1]]
            if name == "path":
                ours, theirs = ours.map(_base_name), theirs.map(_base_name)
            found.append((match_by_key(ours, theirs), f"matched by {name}"))
    ours_at, theirs_at = find_positions(catalogue), find_positions(reference, given)
    if options.match in ("auto", "position") and ours_at is not None and theirs_at is not None:
        matches = match_by_position(
            *ours_at[:2], *theirs_at[:2], radius_arcsec=options.radius_arcsec
        )
        found.append((matches, f"matched by position within {options.radius_arcsec:g} arcsec"))
    if not found:
        raise UsageError(
            "nothing tells which rows of catalogue and reference belong together"
            + ("." if options.match == "auto" else f" by {options.match}.")
            + f" The catalogue has {_list(catalogue)}; the reference {_list(reference)}.",
            "both need a column obsid, path, or ra and dec; name the reference's with "
            "--columns ra=NAME dec=NAME.",
        )
    matches, how = max(found, key=lambda one: one[0].rows.size)
    if not matches.rows.size:
        raise WorkFailed(
            f"none of {len(catalogue)} rows of the catalogue is among the {len(reference)} of the "
            f"reference ({how}).",
            "check that both speak of the same stars, or widen --radius-arcsec.",
        )
    how = f"{matches.rows.size} of {len(catalogue)} rows {how}"
    if matches.n_repeated:
        how += f"; {matches.n_repeated} repeated rows of the reference were left out"
    return matches, how


def _single_stars(reference: pd.DataFrame) -> np.ndarray | None:
    """Which rows of a simulated truth are single M dwarfs; None for any other table."""
    if not {"kind", "is_binary", "failed"} <= set(reference.columns):
        return None
    return (
        (reference["kind"] == "mdwarf").to_numpy()
        & (reference["is_binary"].to_numpy() == 0)
        & (reference["failed"].to_numpy() == 0)
    )


def _find_snr(catalogue: pd.DataFrame, wanted: str) -> tuple[np.ndarray, str]:
    if wanted and wanted not in catalogue.columns:
        raise UsageError(
            f"the catalogue has no column {wanted!r}.",
            f"name another with --snr-column; its columns are {_list(catalogue)}.",
        )
    column = wanted or find_column(catalogue, "snr") or find_column(catalogue, "snr_i")
    if column is None:
        return np.full(len(catalogue), np.nan), "S/N (unknown)"
    name = {"SNRr": "S/N in r", "SNRi": "S/N in i"}.get(column, column)
    return read_quantity(catalogue, column, "snr").values, name


def _errors(
    table: pd.DataFrame, column: str, quantity: str, given: Mapping[str, str]
) -> np.ndarray:
    """One-sigma errors beside `column`, NaN if there are none."""
    lower = {str(name).lower(): str(name) for name in table.columns}
    base = column.lower()
    own = describe_label(quantity).error_column.lower()
    guesses = [
        given.get(f"e_{quantity}", "").lower(),
        f"e_{base}",
        own,
        f"{base}_err",
        f"{base}err",
    ]
    guesses += [f"err_{base}", f"{base}_error", f"sigma_{base}", f"e{base}"]
    for guess in guesses:
        if guess in lower:
            values = read_numbers(table, lower[guess])
            return np.where(values > 0, values, np.nan)
    return np.full(len(table), np.nan)


def _base_name(path: object) -> str:
    return os.path.basename(str(path).strip())


def _list(table: pd.DataFrame) -> str:
    names = list(map(str, table.columns))
    return ", ".join(names[:25]) + (f" and {len(names) - 25} more" if len(names) > 25 else "")


def _bin_metrics(row: Any) -> dict[str, Any]:
    return {
        "low": row.low,
        "high": plain_json(row.high),
        "snr": row.snr,
        "n": row.recovery.n,
        "bias": row.recovery.bias,
        "scatter": row.recovery.scatter,
        "stated_error": plain_json(row.error),
        "pull_mean": plain_json(row.pulls.mean),
        "pull_width": plain_json(row.pulls.width),
    }


def _by_snr_text(result: Validation) -> str:
    lines = ["quantity,low,high,snr,n,bias,scatter,stated_error,pull_mean,pull_width"]
    for name, comparison in result.comparisons.items():
        for row in comparison.by_snr:
            values = [row.low, row.high, row.snr, row.recovery.n, row.recovery.bias]
            values += [row.recovery.scatter, row.error, row.pulls.mean, row.pulls.width]
            lines.append(",".join([name, *(f"{value:.6g}" for value in values)]))
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
