"""A catalogue against what nature says twice: primaries of wide pairs, and Gaia's velocities."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.catalogue.counterparts import Step
from jaxmdwarf.catalogue.gaia_velocities import (
    GaiaVelocities,
    GaiaVelocityConfig,
    match_gaia_velocities,
)
from jaxmdwarf.catalogue.wide_pairs import PairConfig, WidePairs, choose_pair_columns, match_pairs
from jaxmdwarf.diagnostics.agreement import Agreement, measure_agreement
from jaxmdwarf.diagnostics.recovery import SnrBin, compare
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.provenance import Provenance, gather_provenance, hash_files
from jaxmdwarf.io.tables import read_table, read_tables, write_table
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import open_output

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.report.page import Section
    from jaxmdwarf.workflows.progress import Progress

REPORT_BYTES = 50_000_000
"""Disk space of tables of 10^5 stars, figures and a page."""

_MARK = "waterfall.csv"


class PairSample(NamedTuple):
    """Pairs whose secondary has more than some S/N.

    Parameters
    ----------
    threshold : float
    agreement : Agreement
        Of [M/H] of the secondary minus that of the primary.
    low, high : float
        5th and 95th percentile of [M/H] of the secondaries.
    """

    threshold: float
    agreement: Agreement
    low: float
    high: float


class PairCheck(NamedTuple):
    """Metallicities of wide pairs, and how they agree above each threshold of S/N."""

    found: WidePairs
    samples: tuple[PairSample, ...]


class VelocityCheck(NamedTuple):
    """Velocities beside Gaia's, and how they agree, over all and in bins of S/N."""

    found: GaiaVelocities
    agreement: Agreement
    by_snr: tuple[SnrBin, ...]


def check_pairs(
    catalogue: pd.DataFrame,
    pairs: pd.DataFrame,
    primaries: pd.DataFrame | None = None,
    config: PairConfig | None = None,
) -> PairCheck:
    """Compare [M/H] of M dwarfs with that of their FGK primaries (paper, section 5.4).

    Parameters
    ----------
    catalogue, pairs, primaries, config
        See `jaxmdwarf.catalogue.wide_pairs.match_pairs`.

    Raises
    ------
    UsageError
        If a table lacks columns.
    WorkFailed
        If no pair is left.
    """
    config = config or PairConfig()
    found = match_pairs(catalogue, pairs, primaries, config)
    used = found.table[found.table["failed"] == ""]
    samples = []
    for threshold in config.snr_thresholds:
        part = used[used[found.snr_name] > threshold]
        agreement = measure_agreement(part["delta_M_H"].to_numpy(), part["e_delta_M_H"].to_numpy())
        low, high = np.percentile(part["M_H"], (5, 95)) if len(part) else (np.nan, np.nan)
        samples.append(PairSample(threshold, agreement, float(low), float(high)))
    return PairCheck(found, tuple(samples))


def check_velocities(
    catalogue: pd.DataFrame, gaia: pd.DataFrame, config: GaiaVelocityConfig | None = None
) -> VelocityCheck:
    """Compare velocities with Gaia's (paper, section 2.3).

    Parameters
    ----------
    catalogue, gaia, config
        See `jaxmdwarf.catalogue.gaia_velocities.match_gaia_velocities`.

    Raises
    ------
    UsageError
        If a table lacks columns.
    WorkFailed
        If no star is left.
    """
    found = match_gaia_velocities(catalogue, gaia, config)
    names = ("RV", "gaia_RV", "e_delta_RV", found.snr_name)
    measured, known, error, snr = (found.table[name].to_numpy() for name in names)
    agreement = measure_agreement(measured - known, error)
    return VelocityCheck(found, agreement, compare(measured, known, error, snr).by_snr)


def crosscheck_files(
    catalogue: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pairs: str | os.PathLike[str] | None = None,
    primaries: str | os.PathLike[str] | None = None,
    gaia: str | os.PathLike[str] | None = None,
    pair_config: PairConfig | None = None,
    velocity_config: GaiaVelocityConfig | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a catalogue on disk with wide pairs, with Gaia's velocities, or with both.

    Parameters
    ----------
    catalogue : path
        A table of any format that `jaxmdwarf.io.tables` reads, as all others.
    out : path
        Folder; gets ``report.html``, ``metrics.json``, ``waterfall.csv``, and of each comparison
        the stars (``pairs.csv``, ``velocities.csv``) and a figure (the same names, PNG).
    pairs, primaries : path, optional
        See `check_pairs`.
    gaia : path, optional
        See `check_velocities`.
    pair_config : PairConfig, optional
    velocity_config : GaiaVelocityConfig, optional
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether an earlier comparison there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, bias and scatter, and where the products are.

    Raises
    ------
    UsageError
        If there is nothing to compare with, a table does not exist or lacks columns, or `out`
        exists or cannot be written to.
    WorkFailed
        If no star is left.
    """
    if pairs is None and gaia is None:
        raise UsageError(
            "there is nothing to compare with.",
            "give --pairs (and --primaries), --gaia, or both.",
        )
    if primaries is not None and pairs is None:
        raise UsageError("primaries are of no use without pairs.", "give --pairs, too.")
    progress, target = progress or Silent(), Path(out)
    with open_output(
        target,
        kind="a cross-check",
        about={},
        overwrite=overwrite,
        n_bytes=REPORT_BYTES,
        mark=_MARK,
    ) as run:
        measured = read_table(catalogue)
        pair_check = velocity_check = None
        if pairs is not None:
            known = read_tables(pairs, choose=choose_pair_columns)[0]
            fgk = None if primaries is None else read_table(primaries)
            pair_check = check_pairs(measured, known, fgk, pair_config)
        if gaia is not None:
            velocity_check = check_velocities(measured, read_table(gaia), velocity_config)
        used = [one for one in (catalogue, pairs, primaries, gaia) if one is not None]
        inputs = ", ".join(f"{os.fspath(one)} {hash_files(one)}" for one in used)
        told = gather_provenance(command=command, notes={"inputs": inputs})
        checks = [one for one in (pair_check, velocity_check) if one is not None]
        for note in (note for one in checks for note in one.found.notes):
            progress.say(note)
        with run.make_folder(target) as made:
            _write_products(made, pair_check, velocity_check, told, Path(catalogue).name)
    return {"out": os.fspath(out), **_summarise(pair_check, velocity_check)}


def plot_checks(pairs: PairCheck | None, velocities: VelocityCheck | None) -> dict[str, Any]:
    """The figures of the comparisons that were made, by name."""
    from jaxmdwarf.plots.velocities import plot_velocities
    from jaxmdwarf.plots.wide_pairs import plot_wide_pairs

    figures = {}
    if pairs is not None:
        used = pairs.found.table[pairs.found.table["failed"] == ""]
        figures["pairs"] = plot_wide_pairs(
            used["primary_M_H"].to_numpy(),
            used["M_H"].to_numpy(),
            used[pairs.found.snr_name].to_numpy(),
            [(one.threshold, one.agreement) for one in pairs.samples],
            error=used["e_delta_M_H"].to_numpy(),
            snr_name=_name_snr(pairs.found.snr_name),
        )
    if velocities is not None:
        table = velocities.found.table
        figures["velocities"] = plot_velocities(
            table["gaia_RV"].to_numpy(), table["RV"].to_numpy(), velocities.agreement
        )
    return figures


def _name_snr(column: str) -> str:
    return {"SNRr": "S/N in r", "SNRi": "S/N in i"}.get(column, column)


def _write_products(
    folder: Path,
    pairs: PairCheck | None,
    velocities: VelocityCheck | None,
    told: Provenance,
    name: str,
) -> None:
    from jaxmdwarf.plots.style import render_png
    from jaxmdwarf.report.page import Report, write_report

    checks = {"pairs": pairs, "velocities": velocities}
    made = {key: one for key, one in checks.items() if one is not None}
    with write_atomically(folder / _MARK) as temporary, temporary.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["comparison", *Step._fields])
        lines.writerows([key, *step] for key, one in made.items() for step in one.found.waterfall)
    for key, one in made.items():
        columns = _describe(one.found.table)
        write_table(one.found.table, folder / f"{key}.csv", columns=columns, provenance=told)
    pictures = {key: render_png(one) for key, one in plot_checks(pairs, velocities).items()}
    for key, png in pictures.items():
        with write_atomically(folder / f"{key}.png") as temporary:
            temporary.write_bytes(png)
    write_json(folder / "metrics.json", {**_metrics(pairs, velocities), "made_by": told.as_text()})
    sections = []
    if pairs is not None:
        sections.append(_pair_section(pairs, pictures["pairs"]))
    if velocities is not None:
        sections.append(_velocity_section(velocities, pictures["velocities"]))
    report = Report(
        title="Catalogue against pairs and Gaia",
        lead=f"{name} against measurements that share nothing with it but the stars.",
        sections=sections,
        footer=f"{told.as_text()['creator']}, {told.created}: {told.command}",
    )
    write_report(report, folder / "report.html")


def _describe(table: pd.DataFrame) -> dict[str, Column]:
    """Units and meanings of columns that the catalogue does not have."""
    known = {
        "pair": Column("pair", "Row of the table of pairs, from 0", kind="int"),
        "separation": Column("separation", "Distance of the components on the sky", "arcsec"),
        "R_chance_align": Column("R_chance_align", "Ratio of chance alignments to pairs there"),
        "failed": Column("failed", "First criterion that fails; empty if none", kind="text"),
    }
    units = {"Teff": "K", "Logg": "dex", "M_H": "dex", "RV": "km/s"}
    begins = {
        "primary_": "of the primary",
        "gaia_": "by Gaia",
        "delta_": "of the catalogue minus that of the other",
    }
    for name in map(str, table.columns):
        bare = name.removeprefix("e_")
        for prefix, words in begins.items():
            what = bare.removeprefix(prefix)
            if what != bare:
                error = name.startswith("e_") or what.startswith("e_")
                what = what.removeprefix("e_")
                text = f"{'Error of ' if error else ''}{what} {words}"
                if what in ("source_id", "obsid", "ID"):
                    known[name] = Column(name, text, kind="identifier")
                else:
                    known[name] = Column(name, text, units.get(what, ""))
    return known


def _summarise(pairs: PairCheck | None, velocities: VelocityCheck | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for one in pairs.samples if pairs is not None else ():
        key = f"S/N > {one.threshold:g}"
        told[f"pairs, {key}"] = one.agreement.n
        told[f"[M/H] bias, {key}"] = _with_error(one.agreement, "bias", 3)
        told[f"[M/H] robust scatter, {key}"] = _with_error(one.agreement, "robust_scatter", 3)
    if velocities is not None:
        told["velocities"] = velocities.agreement.n
        told["RV bias"] = _with_error(velocities.agreement, "bias", 2)
        told["RV robust scatter"] = _with_error(velocities.agreement, "robust_scatter", 2)
    return told


def _with_error(one: Agreement, name: str, decimals: int) -> str:
    value, error = getattr(one, name), getattr(one, f"e_{name}")
    sign = "+" if name in ("bias", "mean") else ""
    return f"{value:{sign}.{decimals}f} ± {error:.{decimals}f}" if value == value else "–"


def _metrics(pairs: PairCheck | None, velocities: VelocityCheck | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if pairs is not None:
        told["pairs"] = {
            "waterfall": [step._asdict() for step in pairs.found.waterfall],
            "samples": [
                {
                    "min_snr": one.threshold,
                    "mh_percentile_5": one.low,
                    "mh_percentile_95": one.high,
                    **one.agreement._asdict(),
                }
                for one in pairs.samples
            ],
            "notes": list(pairs.found.notes),
        }
    if velocities is not None:
        told["velocities"] = {
            "waterfall": [step._asdict() for step in velocities.found.waterfall],
            **velocities.agreement._asdict(),
            "by_snr": [
                {"low": one.low, "high": one.high, **one.recovery._asdict()}
                for one in velocities.by_snr
            ],
            "notes": list(velocities.found.notes),
        }
    return plain_json(told)


def _pair_section(pairs: PairCheck, png: bytes) -> Section:
    from jaxmdwarf.report.page import Picture, Section, Table, Text

    header = ["S/N", "pairs", "bias", "robust scatter", "scatter", "stated error", "excess"]
    rows = [
        [
            f"> {one.threshold:g}",
            str(one.agreement.n),
            _with_error(one.agreement, "bias", 3),
            _with_error(one.agreement, "robust_scatter", 3),
            _with_error(one.agreement, "scatter", 3),
            f"{one.agreement.stated_error:.3f}",
            _with_error(one.agreement, "excess", 3),
            f"{one.low:+.2f} to {one.high:+.2f}",
        ]
        for one in pairs.samples
    ]
    return Section(
        "Metallicities of wide pairs",
        [
            Text(
                "Stars of a wide pair were born together: [M/H] of the M dwarf should be that of "
                "its FGK primary. What is given is M dwarf minus primary, in dex, with errors by "
                "the bootstrap. Excess is the scatter that stated errors leave unexplained; the "
                "last column is the central 90 per cent of [M/H] of the M dwarfs."
            ),
            Table([*header, "[M/H]"], rows),
            Picture(png, "Dashed: equal metallicities. Colour tells S/N of the M dwarf.", "pairs"),
            _waterfall_table(pairs.found.waterfall),
            *(Text(f"{note}.") for note in pairs.found.notes),
        ],
    )


def _velocity_section(velocities: VelocityCheck, png: bytes) -> Section:
    from jaxmdwarf.report.page import Picture, Section, Table, Text

    rows = [
        [
            f"{one.low:g} to {one.high:g}",
            str(one.recovery.n),
            f"{one.recovery.bias:+.2f} ± {one.recovery.e_bias:.2f}",
            f"{one.recovery.scatter:.2f}",
            f"{one.error:.2f}",
        ]
        for one in velocities.by_snr
    ]
    every = velocities.agreement
    rows.insert(
        0,
        [
            "all",
            str(every.n),
            _with_error(every, "bias", 2),
            _with_error(every, "robust_scatter", 2),
            f"{every.stated_error:.2f}",
        ],
    )
    return Section(
        "Velocities against Gaia",
        [
            Text(
                "Catalogue minus Gaia, in km/s, one spectrum a star. Scatter is half the range of "
                "the central 68.27 per cent; binaries that moved between the two observations are "
                f"in it. The plain standard deviation is {_with_error(every, 'scatter', 2)}."
            ),
            Table(["S/N", "stars", "bias", "robust scatter", "stated error"], rows),
            Picture(png, "Dashed: equal velocities. Colour counts stars.", "velocities"),
            _waterfall_table(velocities.found.waterfall),
            *(Text(f"{note}.") for note in velocities.found.notes),
        ],
    )


def _waterfall_table(waterfall: Sequence[Step]) -> Any:
    from jaxmdwarf.report.page import Table

    rows = [[one.name, str(one.removed), str(one.left)] for one in waterfall]
    return Table(["what had to hold", "removed", "left"], rows)
