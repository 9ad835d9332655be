"""Velocities of a catalogue beside those of Gaia's spectrometer (paper, section 2.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.counterparts import (
    Step,
    choose_rows,
    match_stars,
    read_snr,
    read_with_error,
    require_column,
)
from jaxmdwarf.catalogue.names import find_column, index_columns
from jaxmdwarf.catalogue.positions import J2000
from jaxmdwarf.catalogue.quantities import read_numbers, read_quantity
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.quality import QualityFlag, find_good

if TYPE_CHECKING:
    import pandas as pd

_GAIA_RV = ("radialvelocity", "dr3radialvelocity", "rv", "rvgaia")
_GAIA_ERROR = ("radialvelocityerror", "dr3radialvelocityerror", "erv", "ervgaia")
_GAIA_TRANSITS = ("rvnbtransits", "dr3rvnbtransits", "orv")
"""Of the archive, with the prefix of a join, and of VizieR's I/355."""


@dataclass(frozen=True)
class GaiaVelocityConfig:
    """Which stars count; by default all with both velocities, for the paper states no cuts.

    Parameters
    ----------
    max_error_kms : float
        Largest ``radial_velocity_error``; ``inf`` for none.
    min_transits : int
        Least ``rv_nb_transits``.
    min_snr : float
        S/N of the spectrum that must be exceeded; 0 for no criterion.
    snr_column : str
        Empty for a guess: S/N in r, or i.
    keep_flagged : bool
        Keep rows whose flags say not to trust them, but never velocities that were taken from a
        header.
    radius_arcsec, epoch_yr : float
        See `jaxmdwarf.catalogue.counterparts.match_stars`.
    """

    max_error_kms: float = math.inf
    min_transits: int = 0
    min_snr: float = 0.0
    snr_column: str = ""
    keep_flagged: bool = False
    radius_arcsec: float = 3.0
    epoch_yr: float = J2000


class GaiaVelocities(NamedTuple):
    """Stars with both velocities.

    Parameters
    ----------
    table : DataFrame
        One row a star: ``RV`` and ``e_RV`` of the catalogue, ``gaia_RV``, ``gaia_e_RV``,
        ``delta_RV`` (catalogue minus Gaia) and ``e_delta_RV``, all in km/s; S/N of the spectrum.
    waterfall : tuple of Step
    notes : tuple of str
    snr_name : str
        Column of the catalogue.
    """

    table: pd.DataFrame
    waterfall: tuple[Step, ...]
    notes: tuple[str, ...]
    snr_name: str


def match_gaia_velocities(
    catalogue: pd.DataFrame, gaia: pd.DataFrame, config: GaiaVelocityConfig | None = None
) -> GaiaVelocities:
    """Put velocities of a catalogue beside those of Gaia, one spectrum a star.

    Parameters
    ----------
    catalogue : DataFrame
        With RV. Of several spectra of a star the one with the highest S/N counts.
    gaia : DataFrame
        With ``radial_velocity``, and as far as cuts ask for them ``radial_velocity_error`` and
        ``rv_nb_transits``; columns as in the Gaia archive, or as VizieR has them.
    config : GaiaVelocityConfig, optional

    Raises
    ------
    UsageError
        If a table lacks columns.
    WorkFailed
        If no star is left.
    """
    config = config or GaiaVelocityConfig()
    if find_column(catalogue, "rv") is None:
        raise UsageError(
            "the catalogue has no column of velocities.", "give one that 'jaxmdwarf fit' wrote."
        )
    snr, snr_name = read_snr(catalogue, config.snr_column)
    usable, steps = _select_spectra(catalogue, snr, snr_name, config)
    known = read_quantity(gaia, _gaia_column(gaia, _GAIA_RV, "velocities of Gaia"), "rv").values
    rows = np.flatnonzero(usable)
    star, how = match_stars(
        catalogue.iloc[rows],
        gaia,
        name="catalogue and Gaia's table",
        radius_arcsec=config.radius_arcsec,
        epoch_yr=config.epoch_yr,
    )
    steps.append(steps[-1].then("a star of Gaia's table", int((star >= 0).sum())))
    chosen = choose_rows(star, len(gaia), snr[rows])
    there = np.flatnonzero(chosen >= 0)
    steps.append(steps[-1].then("best spectrum of its star", there.size))
    there = there[np.isfinite(known[there])]
    steps.append(steps[-1].then("a velocity of Gaia", there.size))
    there = _apply_cuts(gaia, there, steps, config)
    if not there.size:
        raise WorkFailed(
            f"no star is left: {', '.join(f'{one.left} {one.name}' for one in steps)}.",
            "check that the tables speak of the same stars, or loosen a cut.",
        )
    table = _tabulate(catalogue.iloc[rows[chosen[there]]], gaia.iloc[there])
    table[snr_name] = snr[rows[chosen[there]]]
    return GaiaVelocities(table, tuple(steps), (f"stars were matched by {how}",), snr_name)


def _select_spectra(
    catalogue: pd.DataFrame, snr: np.ndarray, snr_name: str, config: GaiaVelocityConfig
) -> tuple[np.ndarray, list[Step]]:
    velocity, _ = read_with_error(catalogue, "rv")
    usable = np.isfinite(velocity)
    steps = [Step("spectra of the catalogue", 0, len(catalogue))]
    steps.append(steps[-1].then("a velocity", int(usable.sum())))
    if "flags" in catalogue:
        flags = catalogue["flags"].to_numpy().astype(np.int64)
        usable &= (flags & int(QualityFlag.FALLBACK_VELOCITY)) == 0
        usable &= find_good(flags) | config.keep_flagged
        steps.append(steps[-1].then("no flag against it", int(usable.sum())))
    if config.min_snr > 0:
        usable &= snr > config.min_snr
        steps.append(steps[-1].then(f"{snr_name} > {config.min_snr:g}", int(usable.sum())))
    return usable, steps


def _apply_cuts(
    gaia: pd.DataFrame, there: np.ndarray, steps: list[Step], config: GaiaVelocityConfig
) -> np.ndarray:
    """Rows of Gaia's table that pass; adds to the steps what others fail."""
    if math.isfinite(config.max_error_kms):
        stated = read_numbers(gaia, _gaia_column(gaia, _GAIA_ERROR, "errors of Gaia's velocities"))
        there = there[stated[there] <= config.max_error_kms]
        name = f"Gaia's error <= {config.max_error_kms:g} km/s"
        steps.append(steps[-1].then(name, there.size))
    if config.min_transits > 0:
        transits = read_numbers(gaia, _gaia_column(gaia, _GAIA_TRANSITS, "transits of Gaia"))
        there = there[transits[there] >= config.min_transits]
        steps.append(steps[-1].then(f"transits >= {config.min_transits}", there.size))
    return there


def _tabulate(catalogue: pd.DataFrame, gaia: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    table = {
        name: catalogue[column].array
        for name in ("source_id", "obsid", "ID")
        if (column := find_column(catalogue, name)) is not None
    }
    table["RV"], table["e_RV"] = read_with_error(catalogue, "rv")
    column = _gaia_column(gaia, _GAIA_RV, "velocities of Gaia")
    table["gaia_RV"] = read_quantity(gaia, column, "rv").values
    names = index_columns(gaia)
    errors = read_numbers(gaia, next((names[one] for one in _GAIA_ERROR if one in names), None))
    table["gaia_e_RV"] = np.where(errors > 0, errors, np.nan)
    table["delta_RV"] = table["RV"] - table["gaia_RV"]
    # Gaia without a stated error adds none.
    table["e_delta_RV"] = np.hypot(table["e_RV"], np.nan_to_num(table["gaia_e_RV"], nan=0.0))
    return pd.DataFrame(table)


def _gaia_column(gaia: pd.DataFrame, guesses: tuple[str, ...], what: str) -> str:
    return require_column(
        gaia,
        "",
        *guesses,
        what=what,
        remedy="select radial_velocity, radial_velocity_error and rv_nb_transits from "
        "gaiadr3.gaia_source.",
    )
