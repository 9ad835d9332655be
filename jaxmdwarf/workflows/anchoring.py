"""Anchors: which spectra of a survey have known labels, from a table of theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.counterparts import list_columns
from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.published import PreparedTable
from jaxmdwarf.catalogue.quantities import find_positions, read_errors
from jaxmdwarf.diagnostics.matching import Matches, match_by_position
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.references import read_plausible
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LabelSpace, describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.transfer.anchors import LEAST_ANCHORS, AnchorSample
from jaxmdwarf.workflows.methods.base import TransferMethod
from jaxmdwarf.workflows.validating import ValidationConfig, match_rows, prepare_reference

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_ERRORS = {"teff": 80.0, "logg": 0.1, "mh": 0.1, "alpha_m": 0.1}
"""One sigma, K and dex, of labels that are given without errors: about what tables of M dwarfs
differ by (the paper, section 5)."""

LEAST_ERRORS = {"teff": 40.0, "mh": 0.05}
"""One sigma, K and dex, of labels of a reference's stars among the spectra, at least."""

OPTION = "--anchor-columns"

_GAIA_NAME = r"(?i)^gaia e?dr\d+ \d+$"


@dataclass(frozen=True)
class AnchorTable:
    """A table of known labels, ready to be matched to spectra.

    Parameters
    ----------
    name : str
        For messages.
    prepared : PreparedTable
        Rows of stars with at least one label within the range of the emulator.
    labels, errors : (n, n_label)
        In the emulator's order; NaN for what is not known.
    given : dict
        Columns that the user has named.
    assumed : dict
        Errors by label that were taken where none is stated.
    counts : dict
        Rows of the table, and how many lie outside of the emulator's range.
    """

    name: str
    prepared: PreparedTable
    labels: np.ndarray
    errors: np.ndarray
    given: dict[str, str]
    assumed: dict[str, float]
    counts: dict[str, int]


class FoundAnchors(NamedTuple):
    """Anchors among the spectra of a domain, and plain numbers that tell how they were found."""

    sample: AnchorSample
    report: dict[str, Any]


def read_anchors(
    table: Any, space: LabelSpace, *, columns: Mapping[str, str] | None = None
) -> AnchorTable:
    """Labels of known stars, found wanting before any work is done.

    Parameters
    ----------
    table : path, DataFrame or astropy Table
        With labels of the emulator, whichever are known, and what tells the stars: path, obsid,
        Gaia's source_id, or positions.
    space : LabelSpace
        Of the emulator.
    columns : mapping, optional
        Columns by quantity (``teff``, ``e_teff``, ``obsid``, ``ra``, ...) where the guesses from
        their names are wrong.

    Raises
    ------
    UsageError
        If the file is missing, or the table has no label of the emulator, nothing to match by,
        numbers in other units, or no star within the range of the emulator.
    """
    name, frame = _as_frame(table)
    given = dict(columns or {})
    ValidationConfig(columns=tuple(given.items()))
    prepared = prepare_reference(frame)
    for quantity, column in given.items():
        if column not in prepared.table.columns:
            raise UsageError(
                f"{name} has no column {column!r} (for {quantity}).",
                f"name another, as in {OPTION} {quantity}=NAME: there is {list_columns(frame)}.",
            )
    named = {**prepared.columns, **given}
    ways = (find_column(prepared.table, way) for way in ("path", "obsid", "source_id"))
    if not (any(ways) or {"path", "obsid", "source_id"} & set(given)) and (
        find_positions(prepared.table, named) is None
    ):
        raise UsageError(
            f"nothing tells which spectra the stars of {name} are; it has {list_columns(frame)}.",
            "give it a column path, obsid, source_id, or RA and Dec; name them with "
            f"{OPTION} ra=NAME dec=NAME.",
        )
    labels, errors, assumed = _read_labels(prepared.table, name, space, named)
    if not np.isfinite(labels).any():
        raise UsageError(
            f"{name} has none of the labels {', '.join(space.names)} for any star; it has "
            f"{list_columns(frame)}.",
            f"name columns, as in {OPTION} teff=NAME mh=NAME.",
        )
    outside = (labels < np.array(space.lower)) | (labels > np.array(space.upper))
    usable = np.isfinite(labels).any(axis=1) & ~outside.any(axis=1)
    if not usable.any():
        ranges = ", ".join(
            f"{one} {low:g} to {high:g}"
            for one, low, high in zip(space.names, space.lower, space.upper, strict=True)
        )
        raise UsageError(
            f"no star of {name} is within the range of the emulator ({ranges}).",
            "give M dwarfs, or an emulator of a wider range.",
        )
    kept = prepared.table[usable].reset_index(drop=True)
    kept.attrs = dict(prepared.table.attrs)
    return AnchorTable(
        name,
        prepared._replace(table=kept),
        labels[usable],
        errors[usable],
        given,
        assumed,
        {"rows": len(frame), "outside": int(np.count_nonzero(outside.any(axis=1)))},
    )


def prepare_anchors(
    table: Any,
    emulator: ForwardModel,
    method: TransferMethod,
    columns: Sequence[tuple[str, str]] = (),
    files: Sequence[str | os.PathLike[str]] | None = None,
) -> AnchorTable | None:
    """A table of anchors for a training, as `read_anchors` reads it; None if there is none.

    Parameters
    ----------
    table : path, DataFrame, astropy Table or None
    emulator : ForwardModel
    method : TransferMethod
    columns : sequence of (quantity, column)
        Where guesses from names are wrong.
    files : sequence of path, optional
        Spectra: files, folders, patterns and ``@lists``.

    Raises
    ------
    UsageError
        If the method takes none, the table is of no use, or it goes by path and none is in `files`.
    """
    if table is None:
        return None
    if not method.takes_anchors:
        raise UsageError(
            f"the method {method.name} takes no anchors.",
            "take --method matched or matched+cyclestar, or leave the anchors out.",
        )
    anchors = read_anchors(table, emulator.label_space, columns=dict(columns))
    if files is not None:
        require_among(anchors, expand_inputs(files).paths)
    return anchors


def require_among(anchors: AnchorTable, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Raise `UsageError`, before files are read, if anchors go by path alone and none is there.

    What a pack holds is known once it is read.
    """
    table = anchors.prepared.table
    others = any(anchors.given.get(way) or find_column(table, way) for way in ("obsid", "ra"))
    column = anchors.given.get("path") or find_column(table, "path")
    if any(isinstance(path, PackPart) for path in paths):
        return
    if column is None or others or find_positions(table, anchors.given) is not None:
        return
    named = {os.path.basename(str(path).strip()) for path in table[column]}
    if not named & {Path(path).name for path in paths}:
        raise UsageError(
            f"none of {len(paths)} files is among the {len(table)} paths of {anchors.name}, "
            f"{sorted(named)[0]} for one.",
            "file names must be the same, or give the table a column obsid, or RA and Dec.",
        )


def find_anchors(
    spectra: pd.DataFrame, anchors: AnchorTable, space: LabelSpace, *, radius_arcsec: float = 3.0
) -> FoundAnchors:
    """Spectra of a domain that are of the stars of a table.

    Parameters
    ----------
    spectra : DataFrame
        The domain's, as a fit tabulates them.
    anchors : AnchorTable
    space : LabelSpace
    radius_arcsec : float
        For positions.

    Raises
    ------
    UsageError
        If none is, or fewer than `jaxmdwarf.training.transfer.anchors.LEAST_ANCHORS`.
    """
    n_spec, n_known = len(spectra), len(anchors.prepared.table)
    options = ValidationConfig(radius_arcsec=radius_arcsec)
    remedy = "check that both are of the same stars, or leave the anchors out."
    try:
        matches, how = match_rows(
            _identify(spectra), anchors.prepared, _of_matching(anchors.given), options
        )
    except UsageError as error:
        raise UsageError(
            f"nothing tells which spectra the stars of {anchors.name} are: spectra have paths, "
            "obsid and positions, and a Gaia identifier where it is their designation; the table "
            f"has {list_columns(anchors.prepared.table)}.",
            "give it a column path or obsid, or RA and Dec.",
        ) from error
    except WorkFailed as error:
        raise UsageError(
            f"none of {n_spec} usable spectra is of one of the {n_known} stars of {anchors.name}.",
            remedy,
        ) from error
    if matches.rows.size < LEAST_ANCHORS:
        raise UsageError(
            f"only {matches.rows.size} of {n_spec} usable spectra are of stars of {anchors.name}; "
            f"{LEAST_ANCHORS} are the least that tell anything.",
            remedy,
        )
    sample = AnchorSample(
        matches.rows, anchors.labels[matches.reference_rows], anchors.errors[matches.reference_rows]
    )
    known = np.isfinite(sample.labels).sum(axis=0)
    report = {
        **anchors.counts,
        "matched": int(matches.rows.size),
        "matched_by": how,
        "known": {name: int(n) for name, n in zip(space.names, known, strict=True) if n},
        "assumed_errors": anchors.assumed,
    }
    return FoundAnchors(sample, report)


def match_reference(
    spectra: pd.DataFrame, reference: pd.DataFrame, *, radius_arcsec: float = 3.0
) -> Matches:
    """Rows of a domain that are of stars of a reference, by position; without positions none.

    Parameters
    ----------
    spectra : DataFrame
        With the columns RA and Dec.
    reference : DataFrame
        From `jaxmdwarf.io.references.read_references`.
    radius_arcsec : float
    """
    return match_by_position(
        *(spectra[name].to_numpy(np.float64) for name in ("RA", "Dec")),
        *(reference[name].to_numpy(np.float64) for name in ("ra_deg", "dec_deg")),
        radius_arcsec=radius_arcsec,
    )


def find_common_stars(
    spectra: pd.DataFrame,
    reference: pd.DataFrame,
    space: LabelSpace,
    *,
    radius_arcsec: float = 3.0,
    most: int = 2000,
) -> FoundAnchors | None:
    """Spectra of a domain that are of stars of the reference, as anchors; None if too few are.

    Teff and [M/H] alone are taken: gravity is on the scale of the isochrones, which literature does
    not share. Errors that tables state are internal ones: no label counts as better known than
    `LEAST_ERRORS`, about half of what sources differ by.

    Parameters
    ----------
    spectra : DataFrame
        The domain's, as a fit tabulates them.
    reference : DataFrame
        From `jaxmdwarf.io.references.read_references`.
    space : LabelSpace
    radius_arcsec : float
    most : int
        Spectra at most, drawn at random: by then the scale is known, and the survey's other stars
        are to be learned from, too.
    """
    names = [name for name in LEAST_ERRORS if name in space.names]
    if not names:
        return None
    matches = match_reference(spectra, reference, radius_arcsec=radius_arcsec)
    found = reference.iloc[matches.reference_rows]
    labels, errors = np.full((2, len(found), space.n_label), np.nan)
    assumed: dict[str, float] = {}
    columns = [space.index(name) for name in names]
    for name, index in zip(names, columns, strict=True):
        values = found[name].to_numpy(np.float64)
        inside = (values >= space.lower[index]) & (values <= space.upper[index])
        labels[:, index] = np.where(inside, values, np.nan)
        stated = found[f"e_{name}"].to_numpy(np.float64)
        if (inside & ~np.isfinite(stated)).any():
            assumed[name] = DEFAULT_ERRORS[name]
        stated = np.where(np.isfinite(stated), stated, DEFAULT_ERRORS[name])
        errors[:, index] = np.maximum(stated, LEAST_ERRORS[name])
    outside = int(np.count_nonzero(np.isfinite(found[names]) & ~np.isfinite(labels[:, columns])))
    known = np.flatnonzero(np.isfinite(labels).any(axis=1))
    if known.size > most:
        known = np.sort(np.random.default_rng(0).choice(known, most, replace=False))
    sample = AnchorSample(matches.rows[known], labels[known], errors[known])
    n_star = len(np.unique(matches.reference_rows[known]))
    if n_star < LEAST_ANCHORS:
        return None
    report = {
        "source": "reference",
        "rows": len(reference),
        "outside": outside,
        "matched": int(sample.rows.size),
        "matched_by": f"{sample.rows.size} of {len(spectra)} rows are of {n_star} stars of the "
        "reference, by position",
        "known": {name: int(np.isfinite(labels[:, space.index(name)]).sum()) for name in names},
        "assumed_errors": assumed,
    }
    return FoundAnchors(sample, report)


def describe_anchors(report: Mapping[str, Any]) -> list[str]:
    """What a user should hear of anchors: lines of text.

    Parameters
    ----------
    report : mapping
        The entry ``anchors`` of the metrics of a transfer.
    """
    lines = []
    for name, one in report.get("held_out", {}).items():
        write = describe_label(name).write
        lines.append(
            f"anchors held out ({report['n_fold']} folds by star): {describe_label(name).symbol} "
            f"{write(one['bias'], signed=True, unit=False)} ± {write(one['scatter'])}, pulls "
            f"{one['pull_mean']:+.2f} ± {one['pull_width']:.2f}, {one['n']} spectra"
        )
    for name, offset in report.get("offset_from_reference", {}).items():
        error = report["e_offset_from_reference"][name]
        if offset is not None and abs(offset) > 3 * error:
            write = describe_label(name).write
            whose = (
                "labels of the reference's stars and their distribution"
                if report.get("source") == "reference"
                else "anchors and reference"
            )
            lines.append(
                f"{whose} disagree: {describe_label(name).symbol} of the anchors is "
                f"{write(offset, signed=True)} (± {write(error)}) from what the distribution makes "
                "of their spectra; labels are on the scale of the anchors"
            )
    if report.get("n_far"):
        lines.append(
            f"{report['n_far']} anchors do not go together with their spectra, and count as "
            "unlabelled"
        )
    return lines


def _as_frame(table: Any) -> tuple[str, pd.DataFrame]:
    if isinstance(table, str | os.PathLike):
        if not Path(table).exists():
            raise UsageError(f"there is no file {table}.", "check the path of the anchors.")
        return Path(table).name, read_table(table)
    if hasattr(table, "to_pandas"):
        table = table.to_pandas()
    if not hasattr(table, "columns"):
        raise UsageError(
            f"anchors is a {type(table).__name__}.",
            "give a table of known labels: a path, a DataFrame or an astropy Table.",
        )
    return "the table of anchors", table


def _read_labels(
    table: pd.DataFrame, name: str, space: LabelSpace, named: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Labels and errors, each (n, n_label), and the errors that were taken for want of others."""
    labels, errors = np.full((2, len(table), space.n_label), np.nan)
    assumed: dict[str, float] = {}
    for index, label in enumerate(space.names):
        column = named.get(label) or find_column(table, label)
        if column is None:
            continue
        values = read_plausible(
            table, column, label, where=f"{name}, column {column}", option=OPTION
        )
        stated = read_errors(table, column, label, named.get(f"e_{label}", ""))
        lacking = np.isfinite(values) & ~np.isfinite(stated)
        width = space.upper[index] - space.lower[index]
        otherwise = DEFAULT_ERRORS.get(label, 0.05 * width)
        if lacking.any():
            assumed[label] = otherwise
        labels[:, index] = values
        errors[:, index] = np.where(lacking, otherwise, stated)
    return labels, errors, assumed


def _of_matching(given: Mapping[str, str]) -> dict[str, str]:
    """Columns that tell stars, of those that a user has named."""
    return {name: column for name, column in given.items() if name not in DEFAULT_ERRORS}


def _identify(spectra: pd.DataFrame) -> pd.DataFrame:
    """Spectra with the identifiers that anchors may go by, and no path that is of several."""
    import pandas as pd

    shared = spectra["path"].duplicated(keep=False)
    told = spectra.assign(path=spectra["path"].where(~shared, ""))
    if "source_id" not in told and "ID" in told:
        gaia = told["ID"].astype(str).str.strip()
        gaia = gaia.where(gaia.str.match(_GAIA_NAME), "")
        if (gaia != "").any():
            return told.assign(source_id=pd.Series(gaia, dtype=object))
    return told
