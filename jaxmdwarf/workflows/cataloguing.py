"""Tables of fits in, the value-added catalogue out, and beside it what was cut and measured."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.catalogue.columns import COLUMNS, describe_column
from jaxmdwarf.catalogue.crossmatch import StarList, choose_columns
from jaxmdwarf.catalogue.cuts import read_bounds
from jaxmdwarf.catalogue.hats import find_properties
from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.catalogue.value_added import CatalogueConfig, ValueAdded, add_values
from jaxmdwarf.diagnostics.matching import as_text
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.json_files import plain_json, to_json, write_json
from jaxmdwarf.io.provenance import gather_provenance, hash_files
from jaxmdwarf.io.rejects import Reject, check_accounts, name_rejects_file, write_rejects
from jaxmdwarf.io.tables import choose_format, list_products, read_table, read_tables, write_table
from jaxmdwarf.workflows.catalogue_figures import CAPTIONS, tabulated_lines, write_figures
from jaxmdwarf.workflows.outputs import require_folder, require_output
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_output, was_writing

if TYPE_CHECKING:
    import pandas as pd

ROW_BYTES = 1_000
"""Disk space of a row of the catalogue, or of its reject."""

WATERFALL_COLUMNS = ("step", "removes", "failing", "removed", "left")

_LIST_ENDINGS = re.compile(r"(\.(fits|fit|parquet|vot|votable|xml|csv|tsv|ecsv|mrt|txt|dat|gz))+$")


def catalogue_files(
    tables: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    config: CatalogueConfig | None = None,
    gaia: str | os.PathLike[str] | None = None,
    variables: Sequence[str | os.PathLike[str]] = (),
    binaries: Sequence[str | os.PathLike[str]] = (),
    ages: str | os.PathLike[str] | None = None,
    age_spline: str | os.PathLike[str] | None = None,
    isochrones: Sequence[str | os.PathLike[str]] = (),
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the value-added catalogue of tables that `fit` wrote.

    Parameters
    ----------
    tables : sequence of path
        Of any format of `jaxmdwarf.io.tables`. A spectrum that is in several counts once, where it
        is met first.
    out : path
        The catalogue; its extension chooses the format. ``<stem>_rejects.csv``,
        ``<stem>_waterfall.csv`` and ``<stem>_metrics.json`` are written beside it, and those
        figures of `jaxmdwarf.workflows.catalogue_figures.CAPTIONS` for which it has the columns.
    config : CatalogueConfig, optional
        Bounds of log g, where it has none, are those that the tables tell.
    gaia, ages, age_spline : path, optional
        The last is a folder; see `jaxmdwarf.catalogue.kinematic_ages.predict_ages`.
    variables, binaries : sequence of path
        Lists of stars, each under the name of its file; all tables of a VOTable count. A folder is
        a HATS catalogue.
    isochrones : sequence of path
        Tables for the Kiel diagram; see `jaxmdwarf.io.isochrones.read_isochrones`. Without one it
        has the empirical relation.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a catalogue that is there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, the waterfall, precision, matches, and where the products are.

    Raises
    ------
    UsageError
        If a table is not there or lacks columns, or `out` exists or cannot be written to.
    FormatError
        If a table cannot be read.
    WorkFailed
        If no row is left.
    """
    config, progress = config or CatalogueConfig(), progress or Silent()
    choose_format(out)
    beside = Beside.name(out)
    products = (*list_products(out)[1:], *beside)
    _require_inputs(tables, out)
    require_output(out, overwrite=overwrite, beside=() if was_writing(out) else products)
    with open_output(
        out, kind="a catalogue", about={}, overwrite=overwrite, beside=products
    ) as run:
        lines = tabulated_lines(isochrones)
        read = _read_fits(tables, progress)
        require_folder(Path(out).parent, n_bytes=ROW_BYTES * sum(map(len, read)))
        made, rejects, config = catalogue_tables(
            read,
            config,
            gaia=None if gaia is None else read_table(gaia),
            variables=read_lists(variables),
            binaries=read_lists(binaries),
            ages=None if ages is None else read_table(ages),
            age_spline=age_spline,
            progress=progress,
        )
        n_in = sum(map(len, read))
        n_once = len(made.table) + len(made.removed)
        check_accounts(n_in, len(made.table), len(rejects))
        waterfall = _list_waterfall(made, n_in, n_once)
        used = [*tables, *variables, *binaries, *isochrones]
        used += [one for one in (gaia, ages, age_spline) if one is not None]
        metrics = made.metrics()
        metrics["counts"] |= {"input": n_in, "rejected": len(rejects), "repeated": n_in - n_once}
        notes = {
            **_gather_notes(read),
            "inputs": ", ".join(f"{os.fspath(path)} {_hash_input(path)}" for path in used),
            "configuration": to_json(config, indent=None).strip(),
            **_describe_results(made, waterfall),
        }
        provenance = replace(
            gather_provenance(command=command, notes=notes),
            model_hash=_gather_values(read, "model_hash"),
        )
        run.begin_writing()
        write_rejects(beside.rejects, rejects)
        _write_waterfall(beside.waterfall, waterfall)
        write_json(
            beside.metrics,
            {**metrics, "configuration": plain_json(config), "made_by": provenance.as_text()},
        )
        drawn = write_figures(beside.figures, made, isochrones=lines, progress=progress)
        write_table(made.table, out, columns=describe_others(read), provenance=provenance)
    places = {
        "table": out,
        "rejects": beside.rejects,
        "waterfall table": beside.waterfall,
        "metrics": beside.metrics,
    }
    return {
        **_summarise(made, metrics["counts"], waterfall),
        **{name: os.fspath(path) for name, path in places.items()},
        "figures": ", ".join(path.name for path in drawn),
    }


def _summarise(
    made: ValueAdded, counts: Mapping[str, int], waterfall: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    return {
        "inputs": counts["input"],
        "catalogue": len(made.table),
        "rejected": counts["rejected"],
        "stars": counts["stars"],
        "good": int(made.table["good"].sum()),
        "waterfall": {row[1]: row[3] for row in waterfall[1:]},
        "repeats": {
            name: f"{one.a:.4g} ± {one.e_a:.2g} over S/N + {one.b:.4g} ± {one.e_b:.2g}"
            for name, one in made.precisions.items()
        },
        "matched": {name: int(one.rows.sum()) for name, one in made.found.items()},
    }


def _read_fits(tables: Sequence[str | os.PathLike[str]], progress: Progress) -> list[pd.DataFrame]:
    read = []
    with progress.stage("reading", float(len(tables)), unit="tables") as task:
        for path in tables:
            read.append(read_table(path))
            task.advance(note=os.fspath(path))
    return read


def catalogue_tables(
    tables: Sequence[pd.DataFrame],
    config: CatalogueConfig | None = None,
    *,
    gaia: pd.DataFrame | None = None,
    variables: Sequence[StarList] = (),
    binaries: Sequence[StarList] = (),
    ages: pd.DataFrame | None = None,
    age_spline: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[ValueAdded, list[Reject], CatalogueConfig]:
    """As `catalogue_files`, of tables in memory, and without writing.

    Parameters
    ----------
    tables : sequence of DataFrame
        With what `jaxmdwarf.io.tables.read_table` keeps in ``attrs``, as far as it is known.
    config, gaia, variables, binaries, ages, age_spline
        See `jaxmdwarf.catalogue.value_added.add_values`.
    progress : Progress, optional

    Returns
    -------
    made : ValueAdded
    rejects : list of Reject
        Rows whose spectrum an earlier table has, then those that the cuts removed.
    config : CatalogueConfig
        With the bounds of log g that the tables tell.
    """
    progress = progress or Silent()
    frame, repeated = merge_fits(tables)
    config = _complete(config or CatalogueConfig(), tables, progress)
    made = add_values(
        frame,
        config,
        gaia=gaia,
        variables=variables,
        binaries=binaries,
        ages=ages,
        age_spline=age_spline,
    )
    for note in made.notes:
        progress.say(note)
    return made, [*repeated, *_reject_rows(made)], config


class Beside(NamedTuple):
    """What lies beside a catalogue."""

    rejects: Path
    waterfall: Path
    metrics: Path
    precision: Path
    sky: Path
    kiel: Path
    hr: Path
    hr_active: Path
    types: Path

    @property
    def figures(self) -> dict[str, Path]:
        """By name, as `jaxmdwarf.workflows.catalogue_figures.CAPTIONS` has them."""
        return {name: getattr(self, name) for name in self._fields if name in CAPTIONS}

    @classmethod
    def name(cls, out: str | os.PathLike[str]) -> Beside:
        """Names for a catalogue.

        Examples
        --------
        >>> [path.name for path in Beside.name("CAT.fits")][:4]
        ['CAT_rejects.csv', 'CAT_waterfall.csv', 'CAT_metrics.json', 'CAT_precision.png']
        """
        rejects = name_rejects_file(out)
        stem = rejects.name.removesuffix("_rejects.csv")
        return cls(
            rejects,
            rejects.with_name(f"{stem}_waterfall.csv"),
            rejects.with_name(f"{stem}_metrics.json"),
            **{name: rejects.with_name(f"{stem}_{name}.png") for name in CAPTIONS},
        )


def read_lists(paths: Sequence[str | os.PathLike[str]]) -> list[StarList]:
    """Lists of stars under the names of their files, or of their folders in HATS."""
    lists = []
    for path in paths:
        name = _LIST_ENDINGS.sub("", Path(path).name, count=1)
        if find_properties(path) is not None:
            lists.append(StarList(name, (), os.fspath(path)))
        else:
            lists.append(StarList(name, read_tables(path, choose=choose_columns)))
    return lists


def merge_fits(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[Reject]]:
    """Rows of all tables, and rejects for spectra that an earlier table has already.

    The same spectrum would count as a repeat visit without any scatter. Two rows are of one
    spectrum if their obsid, or without one their path, and its number in the file are the same.

    Raises
    ------
    UsageError
        If there is no table.
    """
    import pandas as pd

    if not tables:
        raise UsageError("no tables of fits were given.", "name some: catalogue FIT.fits --out CAT")
    frame = pd.concat([one.assign() for one in tables], ignore_index=True, sort=False)
    number = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
    for name in frame.columns:
        column = COLUMNS.get(str(name))
        if column is not None and column.kind == "int":
            # Whole numbers that some table lacks are masked there; flags that it lacks are none.
            whole = frame[name].astype("Float64").astype("Int64")
            frame[name] = whole.fillna(0).astype("int32") if name == "flags" else whole
            if not whole.isna().any():
                frame[name] = whole.astype("int32")
        elif column is not None and column.kind == "text":
            frame[name] = frame[name].fillna("")
    frame.attrs = {}
    rejects: list[Reject] = []
    if len(tables) > 1:
        key = _identify_spectra(frame)
        earlier = pd.Series(number).groupby(key).transform("min").to_numpy() < number
        earlier &= key != ""
        rejects = [
            Reject(*_locate(frame, row), spectrum=_find_spectrum(frame, row))
            for row in np.flatnonzero(earlier).tolist()
        ]
        frame = frame[~earlier].reset_index(drop=True)
    return frame, rejects


def describe_others(tables: Sequence[pd.DataFrame]) -> dict[str, Column]:
    """Columns that this package does not know, as the tables describe them."""
    others: dict[str, Column] = {}
    for table in tables:
        units, about = (table.attrs.get(key, {}) for key in ("units", "descriptions"))
        for name in map(str, table.columns):
            if describe_column(name) is None and (name in units or name in about):
                others.setdefault(name, Column(name, about.get(name, ""), units.get(name, "")))
    return others


def _require_inputs(tables: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    if not tables:
        raise UsageError("no tables of fits were given.", "name tables that 'jaxmdwarf fit' wrote.")
    for path in tables:
        if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
            raise UsageError(
                f"{os.fspath(out)} is one of the tables of fits.", "give another path with --out."
            )


def _complete(
    config: CatalogueConfig, tables: Sequence[pd.DataFrame], progress: Progress
) -> CatalogueConfig:
    """The configuration with the bounds of log g that the tables tell."""
    if len({one.attrs.get("provenance", {}).get("model_hash", "") for one in tables}) > 1:
        progress.say("the tables were fitted with different models: their repeats mix both")
    if config.cuts.logg_bounds is not None:
        return config
    told = {
        read_bounds(one.attrs.get("provenance", {}).get("label_bounds", "")).get("logg")
        for one in tables
    }
    if len(told) != 1 or None in told:
        progress.say(
            "no bounds of log g are known for all tables: the cut near them takes what the fits "
            "flagged (--cuts.logg-bounds LOW HIGH tells them)"
        )
        return config
    return replace(config, cuts=replace(config.cuts, logg_bounds=told.pop()))


def _identify_spectra(frame: pd.DataFrame) -> np.ndarray:
    """A text for each spectrum; empty where nothing tells it."""
    texts = np.full(len(frame), "", object)
    for name in ("path", "obsid"):
        if name in frame:
            values = [
                as_text(value)
                for value in frame[name].astype(object).where(frame[name].notna(), None)
            ]
            named = np.array([f"{name} {value}" if value else "" for value in values], object)
            texts = np.where(named != "", named, texts)
    if "spectrum" in frame:
        number = frame["spectrum"].fillna(0).astype(int)
        texts = np.array(
            [f"{text} {one}" if text else "" for text, one in zip(texts, number, strict=True)],
            object,
        )
    return texts


def _locate(frame: pd.DataFrame, row: int) -> tuple[str, str, str]:
    path = restore_path(str(frame["path"].iloc[row])) if "path" in frame else ""
    return (
        path,
        "the spectrum is in an earlier table already",
        "give tables of different spectra if both are wanted",
    )


def _find_spectrum(frame: pd.DataFrame, row: int) -> int | None:
    return int(frame["spectrum"].iloc[row]) if "spectrum" in frame else None


def _reject_rows(made: ValueAdded) -> list[Reject]:
    removed = made.removed
    n = len(removed)
    name = next((one for one in ("path", "ID", "obsid") if one in removed), None)
    paths = [""] * n if name is None else removed[name].astype(str).tolist()
    spectra = removed["spectrum"].tolist() if "spectrum" in removed else [None] * n
    remedy = "leave --paper-cuts out to keep it, flagged"
    return [
        Reject(path, reason, remedy, spectrum)
        for path, reason, spectrum in zip(paths, removed.attrs["reasons"], spectra, strict=True)
    ]


def _list_waterfall(made: ValueAdded, n_in: int, n_once: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("inputs", "rows of all tables", 0, 0, n_in)]
    if n_once < n_in:
        gone = n_in - n_once
        rows.append(("repeated", "spectra that an earlier table has", gone, gone, n_once))
    return [*rows, *(tuple(step) for step in made.cuts.steps)]


def _hash_input(path: str | os.PathLike[str]) -> str:
    """Of a file; of a HATS catalogue, which may be as large as it likes, what describes it."""
    return hash_files(find_properties(path) or path)


def _describe_results(made: ValueAdded, waterfall: Sequence[Sequence[Any]]) -> dict[str, str]:
    return {
        "repeats": "; ".join(
            f"{name} {one.a:.4g}/(S/N) + {one.b:.4g}" for name, one in made.precisions.items()
        ),
        "cuts": "; ".join(f"{row[1]}: {row[3]}" for row in waterfall[1:]),
    }


def _write_waterfall(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(WATERFALL_COLUMNS)
        writer.writerows(rows)


def _gather_values(tables: Sequence[pd.DataFrame], key: str) -> str:
    told = (one.attrs.get("provenance", {}).get(key, "") for one in tables)
    return ", ".join(dict.fromkeys(one for one in told if one))


def _gather_notes(tables: Sequence[pd.DataFrame]) -> Mapping[str, str]:
    """What the tables say of themselves that stays true of the catalogue."""
    kept = ("model", "model_trained_on", "survey", "label_bounds")
    found = {key: _gather_values(tables, key) for key in kept}
    return {key: text for key, text in found.items() if text}
