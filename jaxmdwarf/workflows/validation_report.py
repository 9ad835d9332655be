"""A comparison as files: figures, tables and a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmdwarf.diagnostics.recovery import compute_pulls
from jaxmdwarf.io.atomic import move_files, write_atomically
from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import open_output
from jaxmdwarf.workflows.validating import Validation, ValidationConfig, validate_tables

if TYPE_CHECKING:
    from jaxmdwarf.workflows.progress import Progress

REPORT_BYTES = 2_000_000
"""Disk space of a report with its figures."""


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
