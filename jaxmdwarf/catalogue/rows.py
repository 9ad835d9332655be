"""Rows of all tables: what headers, measurements and fits say, under the names of the columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxmdwarf.catalogue.columns import COLUMNS, columns_from, order_columns
from jaxmdwarf.catalogue.label_columns import (
    correlation_column,
    label_columns,
    likelihood_columns,
    list_label_columns,
)
from jaxmdwarf.catalogue.texts import escape_path
from jaxmdwarf.labels import describe_label
from jaxmdwarf.measure.indices import Measurement
from jaxmdwarf.measure.kind import classify_spectra
from jaxmdwarf.measure.snr import find_snr
from jaxmdwarf.measure.spectral_type import estimate_band_type
from jaxmdwarf.measure.spectrum import LOW_SNR_BELOW, SpectrumMeasurements, measure_spectra
from jaxmdwarf.quality import QualityFlag, find_good
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, doppler_factor

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.inference.fitted import FittedSpectra
    from jaxmdwarf.spectra import RawSpectrum

_ALL_DIGITS = re.compile(r"-?(0|[1-9][0-9]{0,17})")


def list_columns(
    kind: Literal["measure", "fit"], label_names: Sequence[str] = ("teff", "logg", "mh", "alpha_m")
) -> list[str]:
    """Columns of the rows of a command, in order.

    Examples
    --------
    >>> list_columns("measure")[:6]
    ['ID', 'obsid', 'RA', 'Dec', 'SNRr', 'SNRi']
    >>> [name for name in list_columns("fit", ["mh"]) if name not in list_columns("measure")]
    ['RV', 'e_RV', 'M_H', 'e_M_H', 'M_H_lik', 'e_M_H_lik', 'prior_M_H', 'RVDrift', 'e_RVDrift', \
'chi2_red', 'OutlierScore', 'n_pix', 'n_clipped']
    """
    names = ["ID", "SNRr", "SNRi", "flags", "good", "spectrum", "path"]
    for origin in ("header", "measured", "kind"):
        names += columns_from(origin).values()
    if kind == "measure":
        return order_columns([*names, "RV_used"])
    labels = [describe_label(name) for name in label_names]
    names += ["RV", "e_RV", *columns_from("fit").values()]
    names += [column.name for column in list_label_columns(labels, partial=False)]
    return order_columns(names, label_names)


def describe_header(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the header of a spectrum gives to its row.

    Parameters
    ----------
    meta : mapping
        The fields of `jaxmdwarf.spectra.SpectrumMeta`.
    """
    ra, dec = float(meta["ra_deg"]), float(meta["dec_deg"])
    return {
        "ID": meta.get("designation") or name_by_position(ra, dec),
        **{column: meta[name] for name, column in columns_from("header").items()},
        "spectrum": int(meta.get("index", 0)),
        "path": escape_path(meta["path"]),
    }


def describe_measurements(measured: SpectrumMeasurements) -> dict[str, Any]:
    """What was read off a spectrum, under the names of the columns; not its flags and S/N."""
    return {column: getattr(measured, name) for name, column in columns_from("measured").items()}


def describe_kinds(
    wave_aa: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    metas: Sequence[Mapping[str, Any]],
    rv_kms: np.ndarray | float,
    measured: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What kinds of objects spectra show, under the names of the columns, and their flags.

    Parameters
    ----------
    wave_aa : (n,) float
        Vacuum Angstrom, shared by all spectra.
    flux, ivar : (n_spec, n) float
    metas : sequence of mapping
        The fields of `jaxmdwarf.spectra.SpectrumMeta` of each spectrum.
    rv_kms : float or (n_spec,) float
        What brings the spectra to rest.
    measured : mapping of str to (n_spec,) float
        Of `measure_spectra`.

    Returns
    -------
    columns : dict of str to (n_spec,) array
        Those that are taken from ``kind``.
    flags : (n_spec,) int32
        NOT_M_DWARF.
    """
    found = classify_spectra(
        wave_aa,
        flux,
        ivar,
        stretch=doppler_factor(np.asarray(rv_kms, np.float64)),
        indices={
            name: Measurement(measured[name], measured[f"e_{name}"])
            for name in ("tio5", "cah2", "cah3")
        },
        ew_halpha=measured["ew_halpha"],
        snr=np.fmax(measured["snr_r"], measured["snr_i"]),
        classes=[str(meta["object_class"]) for meta in metas],
        subclasses=[str(meta["subclass"]) for meta in metas],
        header_kms=np.array([float(meta["z"]) for meta in metas]) * SPEED_OF_LIGHT_KMS,
    )
    found_type = estimate_band_type(Measurement(found.strength, found.e_strength))
    values = {
        **found._asdict(),
        "band_type": found_type.value,
        "e_band_type": found_type.error,
    }
    columns = {column: values[name] for name, column in columns_from("kind").items()}
    return columns, np.where(found.not_m_dwarf, int(QualityFlag.NOT_M_DWARF), 0).astype(np.int32)


def name_by_position(ra_deg: float, dec_deg: float) -> str:
    """A designation as the IAU recommends it: J and the position, cut off and not rounded.

    Examples
    --------
    >>> name_by_position(82.88518, 36.326796)
    'J053132.44+361936.4'
    >>> name_by_position(float("nan"), 0.0)
    ''
    """
    if not (math.isfinite(ra_deg) and math.isfinite(dec_deg)):
        return ""
    # A thousandth of the last digit, so that 36.4 does not become 36.3 in binary.
    hundredths = int((ra_deg % 360.0) * 240.0 * 100.0 + 1e-3)
    tenths = int(abs(dec_deg) * 3600.0 * 10.0 + 1e-3)
    hours, degrees = hundredths // 360000, tenths // 36000
    right = f"{hours:02d}{hundredths // 6000 % 60:02d}{hundredths % 6000 / 100:05.2f}"
    north = f"{degrees:02d}{tenths // 600 % 60:02d}{tenths % 600 / 10:04.1f}"
    return f"J{right}{'-' if dec_deg < 0 else '+'}{north}"


def tabulate_fit(
    raws: Sequence[RawSpectrum], fitted: FittedSpectra, *, measure: bool = True
) -> pd.DataFrame:
    """Rows of fitted spectra.

    Parameters
    ----------
    raws : sequence of RawSpectrum
    fitted : FittedSpectra
        Of the same spectra.
    measure : bool
        Also read off each spectrum, at rest by the fitted velocity, what needs no model.

    Returns
    -------
    DataFrame
        The columns of `list_columns`, with those of the labels that the model has. `flags` gains
        what the spectra themselves give reason for: low S/N, pixels that were not finite.
    """
    import pandas as pd

    if not raws:
        return empty_rows(fitted.label_names)
    result, flags = fitted.result, fitted.flags.copy()
    headers = [describe_header(vars(raw.meta)) for raw in raws]
    columns: dict[str, Any] = {name: [row[name] for row in headers] for name in headers[0]}
    columns["SNRr"], columns["SNRi"] = (
        np.array([find_snr(raw, band) for raw in raws], np.float64) for band in ("r", "i")
    )
    low = (columns["SNRr"] < LOW_SNR_BELOW) | (columns["SNRi"] < LOW_SNR_BELOW)
    flags[low] |= int(QualityFlag.LOW_SNR)
    flags[[raw.meta.had_nonfinite for raw in raws]] |= int(QualityFlag.INPUT_NAN)
    columns["RV"], columns["e_RV"] = result.rv_kms, result.e_rv
    columns |= _tabulate_labels(fitted)
    known = {**result._asdict(), **vars(fitted)}
    for name, column in columns_from("fit").items():
        values = known[name]
        # What was not looked for: no pixels clipped, but no number for a drift.
        nothing = 0 if COLUMNS[column].kind == "int" else np.nan
        columns[column] = np.full(len(raws), nothing) if values is None else values
    if measure:
        velocity = np.where(np.isfinite(result.rv_kms), result.rv_kms, fitted.frame_kms)
        read_off, of_kind = _measure(raws, velocity, columns["SNRr"], columns["SNRi"])
        columns |= read_off
        flags |= of_kind
    columns["flags"] = flags
    return finish_rows(pd.DataFrame(columns), fitted.label_names)


def _tabulate_labels(fitted: FittedSpectra) -> dict[str, Any]:
    """Columns of the labels: with priors, of the spectrum alone, how their errors go together."""
    result = fitted.result
    labels = [describe_label(name) for name in fitted.label_names]
    nothing = np.full(result.labels.shape, np.nan)
    alone, e_alone = (
        nothing if values is None else values
        for values in (fitted.likelihood_labels, fitted.likelihood_errors)
    )
    share = np.clip(1 - (result.errors / e_alone) ** 2, 0, 1)
    columns: dict[str, Any] = {}
    for index, label in enumerate(labels):
        described = (*label_columns(label), *likelihood_columns(label))
        kinds = (result.labels, result.errors, alone, e_alone, share)
        for column, values in zip(described, kinds, strict=True):
            columns[column.name] = values[:, index]
    for one, other in combinations(range(len(labels)), 2):
        scale = result.errors[:, one] * result.errors[:, other]
        name = correlation_column(labels[one], labels[other]).name
        columns[name] = result.covariance[:, one, other] / scale
    return columns


def _measure(
    raws: Sequence[RawSpectrum], rv_kms: np.ndarray, snr_r: np.ndarray, snr_i: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns and flags of what is read off spectra at rest; those of one pixel grid together."""
    read_off = columns_from("measured")
    columns: dict[str, np.ndarray] = {
        name: np.full(len(raws), "", object) if _is_text(name) else np.full(len(raws), np.nan)
        for name in (*read_off.values(), *columns_from("kind").values())
    }
    flags = np.zeros(len(raws), np.int32)
    alike: dict[tuple[int, float, float], list[int]] = {}
    for row, raw in enumerate(raws):
        key = (raw.wave_aa.size, float(raw.wave_aa[0]), float(raw.wave_aa[-1]))
        alike.setdefault(key, []).append(row)
    for group in alike.values():
        wave = raws[group[0]].wave_aa
        same = [row for row in group if np.array_equal(raws[row].wave_aa, wave)]
        for rows in (same, *([row] for row in group if row not in same)):
            spectra = (
                raws[rows[0]].wave_aa,
                np.stack([raws[row].flux for row in rows]),
                np.stack([raws[row].ivar for row in rows]),
            )
            # S/N is known already, or there is none to be had.
            known = {"snr_r": np.nan_to_num(snr_r[rows]), "snr_i": np.nan_to_num(snr_i[rows])}
            found = measure_spectra(*spectra, rv_kms=rv_kms[rows], **known)
            kinds, flags[rows] = describe_kinds(
                *spectra,
                metas=[vars(raws[row].meta) for row in rows],
                rv_kms=rv_kms[rows],
                measured=found,
            )
            for name, column in read_off.items():
                columns[column][rows] = found[name]
            for column, values in kinds.items():
                columns[column][rows] = values
    return columns, flags


def finish_rows(rows: pd.DataFrame, label_names: Sequence[str] = ()) -> pd.DataFrame:
    """Rows with the types and in the order of the columns, and with `good` from `flags`.

    Identifiers stay as they are: whether they are integers is known when all rows are.
    """
    columns = {}
    for name in rows.columns:
        column = COLUMNS.get(str(name))
        kind = "float" if column is None else column.kind
        dtype = {"float": np.float64, "int": np.int32, "bool": bool}.get(kind)
        columns[name] = rows[name] if dtype is None else rows[name].to_numpy().astype(dtype)
    finished = rows.assign(**columns)
    finished["good"] = find_good(finished["flags"].to_numpy())
    return finished[order_columns(map(str, finished.columns), label_names)]


def empty_rows(label_names: Sequence[str] = (), kind: Literal["measure", "fit"] = "fit"):
    """A table without rows that has the columns, with their types."""
    import pandas as pd

    columns: dict[str, Any] = {
        name: np.zeros(0, object if _is_text(name) else np.float64)
        for name in list_columns(kind, label_names)
    }
    return finish_rows(pd.DataFrame(columns), label_names)


def _is_text(name: str) -> bool:
    return name in COLUMNS and COLUMNS[name].kind in ("text", "identifier")


def settle_identifiers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `obsid` as integers if all of its identifiers are, else as texts.

    Missing integers are masked; identifiers that begin with 0, or are longer than 18 digits, stay
    texts, for as numbers they would not come back.

    Examples
    --------
    >>> import pandas as pd
    >>> settle_identifiers(pd.DataFrame({"obsid": ["12", ""]}))["obsid"].tolist()
    [12, <NA>]
    >>> settle_identifiers(pd.DataFrame({"obsid": ["12", "007"]}))["obsid"].tolist()
    ['12', '007']
    """
    import pandas as pd

    settled = table.copy(deep=False)
    for name in table.columns:
        column = COLUMNS.get(str(name))
        if column is None or column.kind != "identifier" or table[name].dtype.kind in "iu":
            continue
        texts = ["" if pd.isna(value) else str(value) for value in table[name]]
        if any(texts) and all(_ALL_DIGITS.fullmatch(text) for text in texts if text):
            numbers = [int(text) if text else pd.NA for text in texts]
            settled[name] = pd.array(numbers, dtype="Int64")
        else:
            settled[name] = pd.Series(texts, index=table.index, dtype=object)
    return settled
