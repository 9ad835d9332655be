"""From rows of fits to the value-added catalogue (paper, section 4): all steps on one table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.catalogue.ages import join_ages
from jaxmdwarf.catalogue.columns import order_columns
from jaxmdwarf.catalogue.crossmatch import Found, StarList, add_variability
from jaxmdwarf.catalogue.cuts import CutConfig, Cuts, apply_cuts, mark_rows
from jaxmdwarf.catalogue.kinematic_ages import predict_ages
from jaxmdwarf.catalogue.merging import count_gaia, join_gaia
from jaxmdwarf.catalogue.photometry import add_photometry
from jaxmdwarf.catalogue.positions import J2000
from jaxmdwarf.catalogue.repeats import Precision, RepeatConfig, add_total_errors, list_measured
from jaxmdwarf.catalogue.stars import StarKey, count_visits, group_stars
from jaxmdwarf.errors import UsageError, WorkFailed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CatalogueConfig:
    """How a value-added catalogue is made.

    Parameters
    ----------
    stars_by : {"auto", "source_id", "ID", "position"}
        What tells that two spectra are of one star; see `jaxmdwarf.catalogue.stars.group_stars`.
    radius_arcsec : float
        For all matches by position.
    epoch_yr : float
        Epoch of the positions of the survey, Julian year.
    paper_cuts : bool
        Remove the rows that the cuts flag, as the paper does; else they stay, flagged.
    photometry : bool
        Let photometry and parallaxes speak for Teff and log g; see
        `jaxmdwarf.catalogue.photometry.add_photometry`.
    repeats : RepeatConfig
    cuts : CutConfig
    """

    stars_by: StarKey = "auto"
    radius_arcsec: float = 3.0
    epoch_yr: float = J2000
    paper_cuts: bool = False
    photometry: bool = False
    repeats: RepeatConfig = field(default_factory=RepeatConfig)
    cuts: CutConfig = field(default_factory=CutConfig)


@dataclass(frozen=True)
class ValueAdded:
    """What came of it.

    Parameters
    ----------
    table : DataFrame
        The catalogue.
    removed : DataFrame
        Rows that the cuts removed; ``attrs["reasons"]`` has one text a row.
    cuts : Cuts
        Of all rows; its steps are the waterfall.
    precisions : dict of str to Precision
        By column.
    found : dict of str to Found
        By list of variables or binaries.
    notes : tuple of str
        What a reader should know.
    """

    table: pd.DataFrame
    removed: pd.DataFrame
    cuts: Cuts
    precisions: dict[str, Precision]
    found: dict[str, Found]
    notes: tuple[str, ...]

    def metrics(self) -> dict[str, Any]:
        """Plain numbers under stable names."""
        star = self.table["star"].to_numpy()
        n_in = len(self.table) + len(self.removed)
        return {
            "counts": {
                "input": n_in,
                "catalogue": len(self.table),
                "rejected": len(self.removed),
                "stars": int(np.unique(star).size),
            },
            "waterfall": [one._asdict() for one in self.cuts.steps],
            "repeats": {
                name: {
                    "a": one.a,
                    "b": one.b,
                    "e_a": one.e_a,
                    "e_b": one.e_b,
                    "stars": one.n_stars,
                    "visits": one.n_visits,
                    "at_snr_10": float(one.predict(np.array(10.0))),
                    "at_snr_100": float(one.predict(np.array(100.0))),
                    "snr": one.snr,
                    "scatter": one.scatter,
                    "e_scatter": one.e_scatter,
                    "stated": one.stated,
                    "excess": one.excess,
                    "misfit": one.misfit,
                }
                for name, one in self.precisions.items()
            },
            "crossmatch": {
                name: {"matched": int(one.rows.sum()), "list": one.n_list, "by": one.how}
                for name, one in self.found.items()
            },
            "notes": list(self.notes),
        }


def add_values(
    table: pd.DataFrame,
    config: CatalogueConfig | None = None,
    *,
    gaia: pd.DataFrame | None = None,
    variables: Sequence[StarList] = (),
    binaries: Sequence[StarList] = (),
    ages: pd.DataFrame | None = None,
    age_spline: str | os.PathLike[str] | None = None,
) -> ValueAdded:
    """Make the value-added catalogue of a table of fits.

    Parameters
    ----------
    table : DataFrame
        One row a spectrum, as `jaxmdwarf fit` writes it. A catalogue that was made of it before may
        be given as well, unless photometry is in its labels: total errors are made anew from the
        formal ones.
    config : CatalogueConfig, optional
    gaia : DataFrame, optional
        Photometry and astrometry; see `jaxmdwarf.catalogue.merging.join_gaia`.
    variables, binaries : sequence of StarList
        See `jaxmdwarf.catalogue.crossmatch.add_variability`.
    ages : DataFrame, optional
        See `jaxmdwarf.catalogue.ages.join_ages`; a column Age of `table` serves as well.
    age_spline : path, optional
        Without given ages, they come from orbits; see
        `jaxmdwarf.catalogue.kinematic_ages.predict_ages`.

    Raises
    ------
    UsageError
        If the table has no labels with errors, or photometry in them; another table lacks what it
        is given for; or ages are given and to be predicted.
    WorkFailed
        If the cuts leave no row.
    """
    config = config or CatalogueConfig()
    if not list_measured(table):
        raise UsageError(
            "the table has no label or velocity with an error; it has "
            f"{', '.join(map(str, table.columns[:25]))}.",
            "give a table that 'jaxmdwarf fit' wrote.",
        )
    if "PhotUsed" in table and table["PhotUsed"].fillna(0).any():
        # Total errors are made anew from those of the fits, which are not those of these labels.
        raise UsageError(
            "photometry is in the labels of this table already.", "start from the tables of fits."
        )
    if ages is not None and age_spline is not None:
        raise UsageError("ages are given and to be predicted.", "give --ages or --zoomies.")
    place = {"radius_arcsec": config.radius_arcsec, "epoch_yr": config.epoch_yr}
    made = table.reset_index(drop=True)
    in_gaia: list[str] = []
    if gaia is not None:
        made = join_gaia(made, gaia, **place)
        in_gaia = [f"Gaia: {count_gaia(made, gaia)} of {len(made)} rows matched"]
    star = group_stars(made, by=config.stars_by, **place)
    made = made.assign(star=star.astype(np.int32), n_visits=count_visits(star).astype(np.int32))
    made, precisions, notes = add_total_errors(made, star, config.repeats)
    notes = [*in_gaia, *notes]
    if ages is not None:
        made = join_ages(made, ages, **place)
    elif age_spline is not None:
        made = predict_ages(made, star, age_spline)
    if (variables or binaries) or "VBFlag" not in made:
        made, found = add_variability(made, variables, binaries, **place)
    else:
        found = {}
    if config.photometry:
        # Visits of a star share its photometry: repeats come first.
        made, said = add_photometry(made)
        notes = [*notes, *said]
    cuts = apply_cuts(made, config.cuts)
    made = mark_rows(made, cuts)
    made = made[order_columns(map(str, made.columns))]
    notes += [f"{name}: matched by {one.how}" for name, one in found.items()]
    if not found:
        notes.append("VBFlag is unknown: no list of variables or binaries was given")
    kept = np.ones(len(made), bool)
    if config.paper_cuts:
        kept = cuts.first < 0
        if len(made) and not kept.any():
            raise WorkFailed(
                "the cuts leave no row: "
                + "; ".join(f"{one.words}: {one.removed}" for one in cuts.steps)
                + ".",
                "leave --paper-cuts out, or change their limits (--cuts.max-teff ...).",
            )
    removed = made[~kept].reset_index(drop=True)
    removed.attrs["reasons"] = [cuts.steps[step].words for step in cuts.first[~kept]]
    return ValueAdded(
        table=made[kept].reset_index(drop=True),
        removed=removed,
        cuts=cuts,
        precisions=precisions,
        found=found,
        notes=tuple(dict.fromkeys([*notes, *cuts.skipped])),
    )
