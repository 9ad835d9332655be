"""``jaxmdwarf catalogue``: from tables of fits to the value-added catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.catalogue.cuts import CutConfig
from jaxmdwarf.catalogue.repeats import RepeatConfig
from jaxmdwarf.catalogue.stars import StarKey
from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Total errors from repeat visits, the paper's cuts as flags, variables, binaries, ages.

    CAT has all rows of the tables of fits, in their order, with errors that hold the scatter of
    repeat visits (e_Teff; what they are made of is in e_fit_Teff and e_repeat_Teff), the number of
    the star of each spectrum, VBFlag, ages, and a bit of flags for each cut of section 4 of the
    paper. With --paper-cuts, rows that fail one are in <CAT stem>_rejects.csv instead. <CAT
    stem>_waterfall.csv says how many rows each cut removes or would remove, <CAT
    stem>_metrics.json and _precision.png how precise repeats are. Further figures, where CAT has
    the columns: _sky, _kiel, _hr, _hr_active and _types.png.

    Example: jaxmdwarf catalogue fits.parquet --gaia gaia.fits --binaries sb9.vot --out CAT.fits
    """

    tables: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="Tables that 'jaxmdwarf fit' wrote, of any format.",
            help_behavior_hint="(required)",
        ),
    ]

    out: Annotated[
        str,
        tyro.conf.arg(
            metavar="CAT",
            help="Catalogue to write; the extension chooses the format: .fits .parquet .vot .csv "
            ".ecsv .mrt",
        ),
    ]

    gaia: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Gaia table, as for 'jaxmdwarf fit'; its source_id tells stars apart, and its "
            "positions are moved to the epoch of the survey.",
            help_behavior_hint="(default: what the tables have)",
        ),
    ] = None

    variables: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="Lists of variable stars, with source_id, obsid or positions: VBFlag 1.",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    binaries: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="Lists of binaries: VBFlag 2, for stars in no list of variables.",
            help_behavior_hint="(default: none)",
        ),
    ] = ()

    ages: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Table with Age (median) or Age_mean in Gyr, and an identifier or positions.",
            help_behavior_hint="(default: what the tables have)",
        ),
    ] = None

    zoomies: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="DIR",
            help="Predict ages from Gaia's astrometry and RV, by the relation in this folder "
            "(spline_model/ of zoomies, which must be installed).",
            help_behavior_hint="(default: no ages)",
        ),
    ] = None

    isochrones: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="Isochrones for the Kiel diagram, of PARSEC, MIST or CSV; those of 5 Gyr are "
            "drawn.",
            help_behavior_hint="(default: an empirical main sequence)",
        ),
    ] = ()

    paper_cuts: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Remove the rows that fail a cut, as the paper does.", help_behavior_hint=""
        ),
    ] = False

    photometry: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(
            help="Let photometry and parallaxes speak for Teff and log g beside the spectra "
            "(relations of Mann et al. 2015 and 2019): BPmag, RPmag, Plx, Ksmag or Gmag.",
            help_behavior_hint="",
        ),
    ] = False

    stars_by: Annotated[
        StarKey,
        tyro.conf.arg(
            help="What tells that two spectra are of one star; auto: Gaia identifiers, then "
            "positions."
        ),
    ] = "auto"

    radius_arcsec: Annotated[
        float, tyro.conf.arg(metavar="ARCSEC", help="Largest distance on the sky.")
    ] = 3.0

    survey_epoch: Annotated[
        float,
        tyro.conf.arg(
            metavar="YEAR",
            help="Epoch of the positions of the survey, to which those with proper motions are "
            "moved.",
        ),
    ] = 2000.0

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    repeats: RepeatConfig = field(default_factory=RepeatConfig)

    cuts: CutConfig = field(default_factory=CutConfig)

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Make and write; returns the summary."""
        from jaxmdwarf.catalogue.value_added import CatalogueConfig
        from jaxmdwarf.workflows.cataloguing import catalogue_files

        summary = catalogue_files(
            self.tables,
            self.out,
            config=CatalogueConfig(
                stars_by=self.stars_by,
                radius_arcsec=self.radius_arcsec,
                epoch_yr=self.survey_epoch,
                paper_cuts=self.paper_cuts,
                photometry=self.photometry,
                repeats=self.repeats,
                cuts=self.cuts,
            ),
            gaia=self.gaia,
            variables=self.variables,
            binaries=self.binaries,
            ages=self.ages,
            age_spline=self.zoomies,
            isochrones=self.isochrones,
            overwrite=self.overwrite,
            progress=terminal,
        )
        terminal.show_table(
            ("cut", "removed" if self.paper_cuts else "would remove"),
            list(summary["waterfall"].items()),
        )
        if not self.terminal.json:
            del summary["waterfall"]  # as shown
        return summary
