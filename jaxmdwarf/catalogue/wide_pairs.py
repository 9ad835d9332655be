"""M dwarfs of a catalogue beside the FGK primaries of their wide pairs (paper, section 5.4).

Stars of a pair were born of one cloud, so the metallicity of the primary, which is easier to
measure, tells that of the M dwarf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.columns import COLUMNS
from jaxmdwarf.catalogue.counterparts import (
    Step,
    choose_rows,
    list_columns,
    match_stars,
    read_snr,
    read_with_error,
    require_column,
)
from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.catalogue.positions import J2000
from jaxmdwarf.catalogue.quantities import find_positions, read_numbers
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.labels import normalise_column
from jaxmdwarf.quality import find_good

if TYPE_CHECKING:
    import pandas as pd

_SEPARATIONS = {
    # El-Badry et al. (2021): degrees, as the distance that the Gaia archive computes.
    "pairdistance": 3600.0,
    "separationarcsec": 1.0,
    "separcsec": 1.0,
    "thetaarcsec": 1.0,
}
"""Columns with the distance of the components on the sky, and their unit in arcseconds."""

_PREFIXES = {1: ("primary", "pri"), 2: ("secondary", "sec")}


@dataclass(frozen=True)
class PairConfig:
    """Which pairs count; the defaults are those of the paper, which states no others.

    Parameters
    ----------
    max_r_chance_align : float
        Below it, the pair is bound with a probability of 99 per cent.
    min_separation_arcsec : float
        Above it, light of the primary stays out of the secondary's fibre.
    max_delta_rv_kms : float
        Largest difference of the two velocities; ``inf`` for none. Each criterion that is not
        switched off (``inf``, or 0 of `min_separation_arcsec`) fails where its number is unknown.
    snr_thresholds : tuple of float
        Samples are of secondaries with more S/N than these; the first holds for all.
    snr_column, primary_snr_column : str
        Empty for guesses: S/N in r, or i, of the catalogue; in g of the primaries.
    min_primary_snr : float
        S/N of the primary that must be exceeded; 0 for no criterion.
    keep_flagged : bool
        Keep secondaries whose flags say not to trust them.
    radius_arcsec, epoch_yr : float
        See `jaxmdwarf.catalogue.counterparts.match_stars`.
    """

    max_r_chance_align: float = 0.01
    min_separation_arcsec: float = 3.0
    max_delta_rv_kms: float = 10.0
    snr_thresholds: tuple[float, ...] = (5.0, 20.0, 50.0)
    snr_column: str = ""
    primary_snr_column: str = ""
    min_primary_snr: float = 0.0
    keep_flagged: bool = False
    radius_arcsec: float = 3.0
    epoch_yr: float = J2000

    def __post_init__(self) -> None:
        steps = np.diff(self.snr_thresholds)
        if not self.snr_thresholds or not (steps > 0).all():
            raise UsageError(
                f"thresholds of S/N {self.snr_thresholds} do not increase.",
                "give some such as --snr-thresholds 5 20 50.",
            )


class WidePairs(NamedTuple):
    """Pairs of which both components are known.

    Parameters
    ----------
    table : DataFrame
        One row a pair: what is known of the primary (columns ``primary_...``) and of the secondary,
        ``delta_M_H`` and ``delta_RV`` (secondary minus primary) with ``e_delta_M_H``, and
        ``failed``, the first criterion that the pair fails; empty for pairs that count.
    waterfall : tuple of Step
    notes : tuple of str
    snr_name : str
        Column of the catalogue.
    """

    table: pd.DataFrame
    waterfall: tuple[Step, ...]
    notes: tuple[str, ...]
    snr_name: str


def match_pairs(
    catalogue: pd.DataFrame,
    pairs: pd.DataFrame,
    primaries: pd.DataFrame | None = None,
    config: PairConfig | None = None,
) -> WidePairs:
    """Find both components of wide pairs, and hold the pairs against the paper's criteria.

    Parameters
    ----------
    catalogue : DataFrame
        Of M dwarfs, as `jaxmdwarf fit` or `jaxmdwarf catalogue` write it. Of several spectra of a
        star the one with the highest S/N counts, a good one before a flagged one.
    pairs : DataFrame
        As El-Badry et al. (2021, MNRAS 506, 2269): of each component ``source_id`` or a position,
        with 1 (primary) or 2 (secondary) behind the name, or ``primary_`` and ``secondary_`` before
        it; ``R_chance_align``; ``pairdistance`` in degrees, where components have no positions.
    primaries : DataFrame, optional
        Labels of FGK stars, with columns as LASP's: teff, logg, feh, rv with feh_err, snrg,
        gaia_source_id, ra, dec. Of several rows of a star that with the highest S/N counts. Without
        it, the table of pairs has them (``primary_feh``, ...).
    config : PairConfig, optional

    Raises
    ------
    UsageError
        If a table lacks columns.
    WorkFailed
        If there is no pair of which both metallicities are known.
    """
    config = config or PairConfig()
    first, second = (_take_component(pairs, number) for number in (1, 2))
    snr, snr_name = read_snr(catalogue, config.snr_column)
    good = np.ones(len(catalogue), bool)
    if "flags" in catalogue and not config.keep_flagged:
        good = find_good(catalogue["flags"].to_numpy())
    place = {"radius_arcsec": config.radius_arcsec, "epoch_yr": config.epoch_yr}
    star, how = match_stars(catalogue, second, name="catalogue and secondaries", **place)
    notes = [f"secondaries were matched by {how}"]
    # A good row goes before a flagged one, whatever its S/N.
    rank = np.nan_to_num(snr, nan=0.0) + np.where(good, 1e9, 0.0)
    secondary = choose_rows(star, len(pairs), rank)
    if primaries is None:
        primaries, primary = first, np.arange(len(pairs))
        notes.append("the table of pairs has the labels of the primaries")
        primary_snr, _ = _read_primary_snr(primaries, config)
    else:
        star, how = match_stars(primaries, first, name="primaries and pairs", **place)
        notes.append(f"primaries were matched by {how}")
        primary_snr, name = _read_primary_snr(primaries, config)
        primary = choose_rows(star, len(pairs), primary_snr)
        if name:
            notes.append(f"of several spectra of a primary that of the highest {name} counts")
    both = np.flatnonzero((secondary >= 0) & (primary >= 0))
    rows, primary_rows = secondary[both], primary[both]
    table = _tabulate(catalogue.iloc[rows], primaries.iloc[primary_rows])
    table.insert(0, "pair", both)
    table["primary_SNR"] = primary_snr[primary_rows]
    table["separation"] = _read_separation(pairs, first, second, config)[both]
    table["R_chance_align"] = _read_chance(pairs, config)[both]
    table[snr_name] = snr[rows]
    waterfall = [Step("pairs of the table", 0, len(pairs))]
    n_secondary = int((secondary >= 0).sum())
    waterfall.append(waterfall[-1].then("secondary in the catalogue", n_secondary))
    waterfall.append(waterfall[-1].then("labels of the primary", both.size))
    offset = float(np.nanmedian(table["delta_RV"])) if table["delta_RV"].notna().any() else math.nan
    if math.isfinite(config.max_delta_rv_kms) and abs(offset) > config.max_delta_rv_kms / 3:
        notes.append(
            f"velocities of secondaries are {offset:+.1f} km/s off those of primaries in the "
            f"median: the limit of {config.max_delta_rv_kms:g} km/s cuts one side more than the "
            "other"
        )
    _apply_criteria(table, good[rows], snr_name, config, waterfall)
    if not (table["failed"] == "").any():
        told = ", ".join(f"{one.left} {one.name}" for one in waterfall)
        raise WorkFailed(
            f"no pair is left: {told}.",
            "check that the tables speak of the same stars, or loosen a criterion.",
        )
    return WidePairs(table, tuple(waterfall), tuple(notes), snr_name)


def _apply_criteria(
    table: pd.DataFrame,
    good: np.ndarray,
    snr_name: str,
    config: PairConfig,
    waterfall: list[Step],
) -> None:
    """Add the column ``failed``, and to the waterfall what each criterion removes."""
    threshold = config.snr_thresholds[0]
    criteria = [
        ("both metallicities known", np.isfinite(table["delta_M_H"].to_numpy())),
        ("no flag against the secondary", good),
    ]
    if math.isfinite(config.max_r_chance_align):
        limit = config.max_r_chance_align
        criteria.append((f"R_chance_align < {limit:g}", table["R_chance_align"] < limit))
    if config.min_separation_arcsec > 0:
        limit = config.min_separation_arcsec
        criteria.append((f"separation > {limit:g} arcsec", table["separation"] > limit))
    if math.isfinite(config.max_delta_rv_kms):
        limit = config.max_delta_rv_kms
        criteria.append((f"|delta RV| < {limit:g} km/s", table["delta_RV"].abs() < limit))
    if config.min_primary_snr > 0:
        limit = config.min_primary_snr
        criteria.append((f"S/N of the primary > {limit:g}", table["primary_SNR"] > limit))
    criteria.append((f"{snr_name} > {threshold:g}", table[snr_name] > threshold))
    failed = np.full(len(table), "", object)
    for name, holds in criteria:
        failed[(failed == "") & ~np.asarray(holds, bool)] = name
        waterfall.append(waterfall[-1].then(name, int((failed == "").sum())))
    table["failed"] = failed


def _tabulate(secondaries: pd.DataFrame, primaries: pd.DataFrame) -> pd.DataFrame:
    """What is known of the components, row by row, and their differences."""
    import pandas as pd

    table: dict[str, np.ndarray] = {}
    for prefix, part in (("", secondaries), ("primary_", primaries)):
        for name in ("source_id", "obsid", "ID"):
            column = find_column(part, name)
            if column is not None:
                table[f"{prefix}{name}"] = part[column].array
        for quantity, column in _COLUMNS.items():
            values, errors = read_with_error(part, quantity)
            if np.isfinite(values).any() or quantity in ("mh", "rv"):
                table[f"{prefix}{column}"], table[f"{prefix}e_{column}"] = values, errors
    for column in ("M_H", "RV"):
        table[f"delta_{column}"] = table[column] - table[f"primary_{column}"]
    # A primary without a stated error adds none.
    errors = np.stack([table["e_M_H"], table["primary_e_M_H"]])
    total = np.sqrt(np.nansum(errors**2, axis=0))
    table["e_delta_M_H"] = np.where(np.isfinite(errors[0]), total, np.nan)
    return pd.DataFrame(table)


_COLUMNS = {"teff": "Teff", "logg": "Logg", "mh": "M_H", "rv": "RV"}


def choose_pair_columns(names: list[str]) -> list[str]:
    """Of the columns of a table of pairs, those that `match_pairs` may need.

    Catalogues of pairs repeat all of Gaia's columns for both components.

    Examples
    --------
    >>> choose_pair_columns(["source_id1", "ruwe1", "pmra2", "R_chance_align", "primary_feh"])
    ['source_id1', 'pmra2', 'R_chance_align', 'primary_feh']
    """
    needed = {"refepoch", "epoch"}
    for name in ("source_id", "RA", "Dec", "pmRA", "pmDE"):
        needed |= set(COLUMNS[name].spellings)
    whole = {"rchancealign", *_SEPARATIONS}
    prefixes = tuple(f"{one}_" for group in _PREFIXES.values() for one in group)
    return [
        name
        for name in names
        if normalise_column(name) in whole
        or (name[-1:] in ("1", "2") and normalise_column(name[:-1]) in needed)
        or name.lower().startswith(prefixes)
    ]


def _take_component(pairs: pd.DataFrame, number: int) -> pd.DataFrame:
    """The columns of one component under the names that they have in tables of single stars."""
    taken = {}
    for name in map(str, pairs.columns):
        if name.endswith(str(number)) and name[:-1].rstrip("_"):
            taken[name[:-1].rstrip("_")] = pairs[name]
        for prefix in _PREFIXES[number]:
            if name.lower().startswith(f"{prefix}_"):
                taken[name[len(prefix) + 1 :]] = pairs[name]
    part = pairs[[]].assign(**taken)
    # Units of the whole table would be looked up under other names.
    part.attrs = {}
    return part


def _read_primary_snr(primaries: pd.DataFrame, config: PairConfig) -> tuple[np.ndarray, str]:
    """S/N of the primaries, NaN where nothing tells it, and the column."""
    names = index_columns(primaries)
    guess = next((names[one] for one in ("snrg", "snrr", "snr") if one in names), "")
    if not (guess or config.primary_snr_column or config.min_primary_snr > 0):
        return np.full(len(primaries), np.nan), ""
    column = require_column(
        primaries,
        config.primary_snr_column or guess,
        what="S/N of the primaries",
        remedy="name a column with --primary-snr-column, or leave out --min-primary-snr.",
    )
    return read_numbers(primaries, column), column


def _read_separation(
    pairs: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame, config: PairConfig
) -> np.ndarray:
    """Distance of the components on the sky in arcseconds, (n,)."""
    names = index_columns(pairs)
    for name, factor in _SEPARATIONS.items():
        if name in names:
            unit = str(pairs.attrs.get("units", {}).get(names[name], "")).lower()
            factor = {"arcsec": 1.0, "deg": 3600.0, "arcmin": 60.0}.get(unit, factor)
            return factor * read_numbers(pairs, names[name])
    from astropy.coordinates import angular_separation

    one, other = find_positions(first), find_positions(second)
    if one is not None and other is not None:
        angles = np.radians([one.ra_deg, one.dec_deg, other.ra_deg, other.dec_deg])
        return np.degrees(angular_separation(*angles)) * 3600.0
    if config.min_separation_arcsec > 0:
        raise UsageError(
            f"nothing tells how far apart the components of pairs are; the table has "
            f"{list_columns(pairs)}.",
            "it needs pairdistance (degrees), separation_arcsec, or ra1 dec1 ra2 dec2; "
            "--min-separation-arcsec 0 does without.",
        )
    return np.full(len(pairs), np.nan)


def _read_chance(pairs: pd.DataFrame, config: PairConfig) -> np.ndarray:
    if not math.isfinite(config.max_r_chance_align):
        names = index_columns(pairs)
        return read_numbers(pairs, names.get("rchancealign"))
    column = require_column(
        pairs,
        "",
        "rchancealign",
        what="the ratio of chance alignments",
        remedy="call it R_chance_align; --max-r-chance-align inf does without.",
    )
    return read_numbers(pairs, column)
