"""A catalogue against a reference table: match, and judge by S/N."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.columns import describe_column
from jaxmdwarf.catalogue.names import find_column, list_quantities
from jaxmdwarf.catalogue.positions import J2000, find_epoch, find_motions, positions_at
from jaxmdwarf.catalogue.published import (
    PreparedTable,
    PublishedTable,
    find_published,
    prepare_published,
    recognise_table,
)
from jaxmdwarf.catalogue.quantities import find_positions, read_errors, read_quantity
from jaxmdwarf.diagnostics.agreement import HIGH_SNR
from jaxmdwarf.diagnostics.matching import Matches, match_by_key, match_by_position
from jaxmdwarf.diagnostics.recovery import Comparison, compare
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.json_files import plain_json
from jaxmdwarf.labels import LABELS, VELOCITY
from jaxmdwarf.quality import HARMFUL_FLAGS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ValidationConfig:
    """How a catalogue is compared.

    Parameters
    ----------
    columns : tuple of (quantity, column)
        Columns of the reference, where the guesses from their names fail or are wrong.
    kind : str
        Name of the published table that the reference is (`jaxmdwarf.catalogue.published`);
        empty to recognise it by its columns, "other" for none of them.
    match : {"auto", "obsid", "path", "source_id", "position"}
        What tells that two rows are of one star; "auto" takes what matches most rows.
    radius_arcsec : float
        For positions.
    epoch_yr : float
        Of the positions of the catalogue, Julian years, where it does not tell.
    keep_flagged : bool
        Keep rows whose flags say not to trust them (`jaxmdwarf.quality.HARMFUL_FLAGS`).
    snr_column : str
        Column of the catalogue by which rows are binned; empty for a guess (r, then i).
    """

    columns: tuple[tuple[str, str], ...] = ()
    kind: str = ""
    match: Literal["auto", "obsid", "path", "source_id", "position"] = "auto"
    radius_arcsec: float = 3.0
    epoch_yr: float = J2000
    keep_flagged: bool = False
    snr_column: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("", "other"):
            find_published(self.kind)
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
    prepared = prepare_reference(reference, options.kind)
    n_reference, reference = len(reference), prepared.table
    given = {**prepared.columns, **dict(options.columns)}
    _require_columns(reference, given)
    pairs = _find_quantities(catalogue, reference, given)
    matches, how = match_rows(catalogue, prepared, given, options)
    notes = [*prepared.notes, how]
    notes += [
        f"{name}: {measured} against {known}"
        + (", which is not the same quantity" if name == "mh" and "fe" in known.lower() else "")
        for name, (measured, known) in pairs.items()
    ]
    kept, counts, left_out = _select_matches(catalogue, reference, matches, options)
    counts["reference"] = n_reference
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
        own = read_errors(catalogue, measured, name)[rows]
        stated = read_errors(reference, known, name, given.get(f"e_{name}", ""))[reference_rows]
        error = np.hypot(own, np.nan_to_num(stated, nan=0.0))
        sample = Sample(ours.values[rows], theirs.values[reference_rows], error)
        if not np.isfinite(sample.measured - sample.reference).any():
            notes.append(f"{name}: no row has both values")
            continue
        samples[name] = sample
        comparisons[name] = compare(sample.measured, sample.reference, sample.error, snr)
        bright = snr > HIGH_SNR
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


def choose_published(reference: pd.DataFrame, kind: str) -> PublishedTable | None:
    """The published table that a reference is, by its kind (see `ValidationConfig`) or columns."""
    if kind == "":
        return recognise_table(reference)
    return None if kind == "other" else find_published(kind)


def prepare_reference(reference: pd.DataFrame, kind: str = "") -> PreparedTable:
    """The reference as its authors would have it read, if it is a published one.

    Parameters
    ----------
    reference : DataFrame
    kind : str
        See `ValidationConfig`.
    """
    published = choose_published(reference, kind)
    if published is None:
        return PreparedTable(reference, {}, None, ())
    return prepare_published(reference, published)


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
        if counts["flagged"]:
            notes.append(
                f"{counts['flagged']} of the remaining {int(kept.sum())} rows carry a flag that "
                "says not to trust them (S/N below 5, a label at a bound, no convergence, ...), "
                "and are left out"
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


def match_rows(
    catalogue: pd.DataFrame,
    prepared: PreparedTable,
    given: Mapping[str, str],
    options: ValidationConfig,
) -> tuple[Matches, str]:
    """Rows of two tables that are of one star, and what they were matched by, in words.

    Parameters
    ----------
    catalogue : DataFrame
    prepared : PreparedTable
        The reference.
    given : mapping
        Columns of the reference by quantity, where guesses from their names are wrong.
    options : ValidationConfig
        Its `match`, `radius_arcsec` and `epoch_yr`.

    Raises
    ------
    UsageError
        If the tables have nothing in common to be matched by.
    WorkFailed
        If no row matches.
    """
    reference = prepared.table

    def columns(name: str) -> tuple[str, str] | None:
        ours = find_column(catalogue, name)
        theirs = given.get(name) or find_column(reference, name)
        return None if ours is None or theirs is None else (ours, theirs)

    found: list[tuple[Matches, str]] = []
    for name in ("obsid", "path", "source_id"):
        pair = columns(name)
        if options.match in ("auto", name) and pair is not None:
            ours, theirs = catalogue[pair[0]], reference[pair[1]]
            if name == "path":
                ours, theirs = ours.map(_base_name), theirs.map(_base_name)
            if name == "source_id":
                ours, theirs = _gaia_numbers(ours), _gaia_numbers(theirs)
            found.append((match_by_key(ours, theirs), f"matched by {name}"))
    if options.match in ("auto", "position"):
        found += _match_places(catalogue, prepared, given, options)
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


def _match_places(
    catalogue: pd.DataFrame,
    prepared: PreparedTable,
    given: Mapping[str, str],
    options: ValidationConfig,
) -> list[tuple[Matches, str]]:
    """Matches by position at one epoch, and how; empty if one of the tables has no positions.

    Whichever table knows proper motions is moved to the epoch of the other.
    """
    reference = prepared.table
    here, there = find_positions(catalogue), find_positions(reference, given)
    if here is None or there is None:
        return []
    own_epoch = find_epoch(catalogue, here.source)
    if own_epoch is None:
        own_epoch = options.epoch_yr
    their_epoch: np.ndarray | float | None = prepared.epoch_yr
    if their_epoch is None:
        their_epoch = find_epoch(reference, there.source)
    we_move = None not in find_motions(catalogue)
    they_move = None not in find_motions(reference, given) and their_epoch is not None
    epoch = own_epoch if isinstance(own_epoch, float) else options.epoch_yr
    if we_move and not they_move and isinstance(their_epoch, float):
        epoch = their_epoch
    here = positions_at(catalogue, epoch, table_epoch_yr=own_epoch) or here
    there = positions_at(reference, epoch, table_epoch_yr=their_epoch, given=given) or there
    matches = match_by_position(*here[:2], *there[:2], radius_arcsec=options.radius_arcsec)
    movers = [name for name, moves in (("catalogue", we_move), ("reference", they_move)) if moves]
    how = f"matched by position within {options.radius_arcsec:g} arcsec"
    if movers:
        how += f" at epoch {epoch:g}, with the proper motions of the {' and the '.join(movers)}"
    elif isinstance(their_epoch, float) and their_epoch != epoch:
        how += (
            f", though the catalogue's positions are of {epoch:g}, the reference's of "
            f"{their_epoch:g}, and neither has proper motions"
        )
    return [(matches, how)]


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


def _gaia_numbers(column: pd.Series) -> pd.Series:
    """Identifiers of Gaia, also those written as ``Gaia DR3 123``; empty where there is none.

    Floats have lost the last digits, and match nothing.
    """
    if column.dtype.kind in "iu":
        return column
    if column.dtype.kind == "f":
        return column.astype(str).where(column.isna(), "").fillna("")
    return column.astype(str).str.extract(r"(?:^|\s)(\d{6,})\s*$")[0].fillna("")


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
