"""A comparison as files: figures, tables and a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.quantities import read_quantity
from jaxmdwarf.diagnostics.recovery import compute_pulls
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.provenance import Provenance, gather_provenance
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows.agreement_tables import (
    agreement_csv,
    agreement_markdown,
    agreement_metrics,
    agreement_table,
    list_all_agreement,
)
from jaxmdwarf.workflows.catalogue_figures import read_gaia
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import open_output
from jaxmdwarf.workflows.validating import (
    Validation,
    ValidationConfig,
    choose_published,
    validate_tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.diagnostics.agreement import AgreementRow
    from jaxmdwarf.report.page import Picture, Section
    from jaxmdwarf.workflows.progress import Progress

REPORT_BYTES = 2_000_000
"""Disk space of a report with its figures."""


def validate_files(
    catalogue: str | os.PathLike[str],
    reference: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    options: ValidationConfig | None = None,
    kinds: Sequence[str] = (),
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a catalogue on disk with one or several references and write what came of it.

    Parameters
    ----------
    catalogue : path
        Table of any format that `jaxmdwarf.io.tables` reads, and ``.csv.gz``.
    reference : path or sequence of path
        Such tables. One that has no star in common with the catalogue is noted and left out, if
        others have some.
    out : path
        Folder; gets ``metrics.json``, ``by_snr.csv``, ``agreement.csv``, ``agreement.md``,
        ``report.html`` and figures.
    options : ValidationConfig, optional
    kinds : sequence of str, optional
        What published tables the references are, one each; see `ValidationConfig.kind`.
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
    options = options or ValidationConfig()
    references = [reference] if isinstance(reference, str | os.PathLike) else list(reference)
    each = _options_of_each(references, options, kinds)
    progress, target = progress or Silent(), Path(out)
    with open_output(
        target,
        kind="a comparison",
        about={},
        overwrite=overwrite,
        n_bytes=REPORT_BYTES,
        mark="by_snr.csv",
    ) as run:
        measured = read_table(catalogue)
        results, notes = _validate_each(measured, references, each)
        for note in notes:
            progress.say(note)
        with run.make_folder(target) as made:
            _write_products(
                made,
                results,
                notes,
                told=gather_provenance(command=command),
                names=[Path(one).name for one in (catalogue, *references)],
                measured=measured,
                progress=progress,
            )
    summaries = {title: _summarise(one) for title, one in results.items()}
    found = next(iter(summaries.values())) if len(references) == 1 else summaries
    return {"out": os.fspath(out), **found}


def _write_products(
    folder: Path,
    results: Mapping[str, Validation],
    notes: list[str],
    *,
    told: Provenance,
    names: Sequence[str],
    measured: pd.DataFrame,
    progress: Progress,
) -> None:
    """Texts, figures and the page; `names` are those of the catalogue and of its references."""
    from jaxmdwarf.plots.style import render_png
    from jaxmdwarf.report.page import Picture, Report, write_report

    agreement = list_all_agreement(results)
    _write_text(folder / "by_snr.csv", _by_snr_text(results))
    _write_text(folder / "agreement.csv", agreement_csv(agreement))
    _write_text(folder / "agreement.md", agreement_markdown(agreement))
    made_by = told.as_text()
    metrics = {title: one.metrics() for title, one in results.items()}
    alone = len(names) == 2
    write_json(
        folder / "metrics.json",
        {
            **(next(iter(metrics.values())) if alone else {"references": metrics}),
            "agreement": agreement_metrics(agreement),
            "notes": notes,
            "made_by": made_by,
        },
    )
    pictures: dict[str, Picture] = {}
    figures = plot_results(results, measured)
    with progress.stage("figures", float(len(figures)), unit="figures") as task:
        for name, (figure, caption) in figures.items():
            png = render_png(figure)
            with write_atomically(folder / f"{name}.png") as temporary:
                temporary.write_bytes(png)
            pictures[name] = Picture(png, caption, name)
            task.advance()
    simulated = _is_simulated(measured)
    report = Report(
        title="Catalogue against reference",
        lead=f"{names[0]} against {', '.join(names[1:])}: "
        f"{sum(one.counts['compared'] for one in results.values())} rows compared.",
        warning="The model behind this catalogue was trained on a simulation." * simulated,
        sections=_list_sections(results, notes, agreement, pictures),
        footer=f"{made_by['creator']}, {told.created}: {told.command}",
    )
    write_report(report, folder / "report.html")


def _is_simulated(catalogue: pd.DataFrame) -> bool:
    return catalogue.attrs.get("provenance", {}).get("model_trained_on") == "a simulation"


def _options_of_each(
    references: Sequence[str | os.PathLike[str]], options: ValidationConfig, kinds: Sequence[str]
) -> list[ValidationConfig]:
    if not references:
        raise UsageError("no reference was given.", "name a table: --reference mann15.csv.")
    if kinds and len(kinds) != len(references):
        raise UsageError(
            f"{len(references)} references and {len(kinds)} kinds were given.",
            "name a kind for each, in their order, or none and let them be recognised.",
        )
    return [replace(options, kind=kind) for kind in kinds] or [options] * len(references)


def _validate_each(
    catalogue: pd.DataFrame,
    references: Sequence[str | os.PathLike[str]],
    options: Sequence[ValidationConfig],
) -> tuple[dict[str, Validation], list[str]]:
    """Results by title, and notes; those of one among several references begin with its title."""
    results: dict[str, Validation] = {}
    notes: list[str] = []
    failures: list[WorkFailed] = []
    for path, one in zip(references, options, strict=True):
        table = read_table(path)
        published = choose_published(table, one.kind)
        title = Path(path).name if published is None else published.title
        if title in results:
            title = f"{title}, {Path(path).name}"
        try:
            result = validate_tables(catalogue, table, one)
        except WorkFailed as failure:
            failures.append(failure)
            notes.append(f"{title}: left out, for {str(failure).rstrip('.')}")
            continue
        results[title] = result
        before = f"{title}: " if len(references) > 1 else ""
        notes += [before + note for note in result.notes]
    if not results:
        raise failures[0]
    return results, notes


def _summarise(result: Validation) -> dict[str, Any]:
    summary: dict[str, Any] = dict(result.counts)
    for name, one in result.comparisons.items():
        summary[f"{name}_bias"] = round(one.recovery.bias, 4)
        summary[f"{name}_scatter"] = round(one.recovery.scatter, 4)
        summary[f"{name}_pull_width"] = round(one.pulls.width, 3)
    return summary


def _list_sections(
    results: Mapping[str, Validation],
    notes: Sequence[str],
    agreement: list[tuple[str, str, AgreementRow]],
    pictures: Mapping[str, Picture],
) -> list[Section]:
    from jaxmdwarf.report.page import Section, Table, Text

    table = Table(
        *agreement_table(agreement),
        caption="Bias is the median of the differences, scatter half their central 68 per cent, "
        "std their standard deviation, which outliers enter; errors are those of a bootstrap.",
        text_columns=(1, 2),
    )
    shown = [pictures[name] for name in ("agreement", "densities") if name in pictures]
    sections = [
        Section("What was compared", [Text(f"{note}.") for note in notes]),
        Section("Bias and scatter", [table, *shown]),
    ]
    if "catalogues" in pictures:
        sections.append(Section("The stars in each catalogue", [pictures["catalogues"]]))
    if len(results) == 1:
        result = next(iter(results.values()))
        by_snr = [pictures["recovery"], pictures["by_snr"]]
        sections += [
            Section("By S/N", [Table(*recovery_table(result)), *by_snr]),
            Section("Are the errors honest?", [Table(*pull_table(result)), pictures["pulls"]]),
        ]
    return sections


def plot_results(
    results: Mapping[str, Validation], catalogue: pd.DataFrame | None = None
) -> dict[str, tuple[Any, str]]:
    """Figures by name, each with its caption; of several references, one figure for all.

    Parameters
    ----------
    results : mapping of title to Validation
    catalogue : DataFrame, optional
        The one that was compared: with it, H-R and Kiel diagrams of all tables.
    """
    from jaxmdwarf.plots.comparison import plot_agreement
    from jaxmdwarf.plots.densities import plot_densities
    from jaxmdwarf.plots.labels import LabelPair

    pairs = {
        title: {
            name: LabelPair(name, one.measured, one.reference)
            for name, one in result.samples.items()
        }
        for title, result in results.items()
    }
    figures = {
        "agreement": (
            plot_agreement(pairs),
            "Measured against reference, with equal axes; the dashed line is one to one. Where "
            "points would overlap, colour is their number.",
        )
    }
    large = {
        title: {name: pairs[title][name] for name in _DENSITY_LABELS if name in pairs[title]}
        for title, result in results.items()
        if result.rows.size > LARGE
    }
    if any(large.values()):
        figures["densities"] = (
            plot_densities(large),
            f"References with more than {LARGE} stars in common: measured against reference as "
            "number of stars, and the differences below (figures 15 and 17 of the paper).",
        )
    if catalogue is not None:
        figures |= _plot_catalogues(results, catalogue)
    if len(results) == 1:
        figures |= plot_validation(next(iter(results.values())))
    return figures


LARGE = 500
"""Common stars from which on a reference is drawn as density, with differences."""

_DENSITY_LABELS = ("teff", "logg", "mh")
_MOST_CATALOGUES = 4
"""References beside the catalogue in one figure: more would be too small to read."""


def _plot_catalogues(
    results: Mapping[str, Validation], catalogue: pd.DataFrame
) -> dict[str, tuple[Any, str]]:
    """Diagrams of the compared rows, and of the references with most of them; none without [M/H].

    Photometry and parallaxes are those of the catalogue, labels those of each table.
    """
    from jaxmdwarf.plots.catalogues import CatalogueSample, plot_catalogues
    from jaxmdwarf.plots.kiel import KielSample

    def gather(rows: np.ndarray, labels: Mapping[str, np.ndarray]) -> CatalogueSample:
        unknown = np.full(rows.size, np.nan)
        kiel = KielSample(*(labels.get(name, unknown) for name in _DENSITY_LABELS))
        return CatalogueSample(read_gaia(catalogue.iloc[rows], kiel.mh)[0], kiel)

    order = sorted(results, key=lambda title: -results[title].rows.size)
    shown = [title for title in order if "mh" in results[title].samples][:_MOST_CATALOGUES]
    if not shown:
        return {}
    rows = np.unique(np.concatenate([results[title].rows for title in shown]))
    columns = {name: find_column(catalogue, name) for name in _DENSITY_LABELS}
    own = {
        name: read_quantity(catalogue, column, name).values[rows]
        for name, column in columns.items()
        if column is not None
    }
    samples = {"this catalogue": gather(rows, own)}
    for title in shown:
        labels = {name: one.reference for name, one in results[title].samples.items()}
        samples[title] = gather(results[title].rows, labels)
    left_out = len([one for one in results.values() if "mh" in one.samples]) - len(shown)
    return {
        "catalogues": (
            plot_catalogues(samples),
            "Compared stars in H-R and Kiel diagrams, with the labels of each table and the "
            "photometry and parallaxes of the catalogue (figure 16 of the paper); lines are "
            "main sequences of one metallicity each."
            + f" {left_out} references with fewer stars are not shown."
            * bool(left_out),
        )
    }


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


def _by_snr_text(results: Mapping[str, Validation]) -> str:
    lines = ["quantity,low,high,snr,n,bias,scatter,stated_error,pull_mean,pull_width,reference"]
    for title, result in results.items():
        quoted = '"' + title.replace('"', '""') + '"'
        for name, comparison in result.comparisons.items():
            for row in comparison.by_snr:
                values = [row.low, row.high, row.snr, row.recovery.n, row.recovery.bias]
                values += [row.recovery.scatter, row.error, row.pulls.mean, row.pulls.width]
                lines.append(",".join([name, *(f"{value:.6g}" for value in values), quoted]))
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
