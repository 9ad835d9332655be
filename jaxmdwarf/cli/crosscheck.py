"""``jaxmdwarf crosscheck``: a catalogue against wide pairs and against Gaia's velocities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """[M/H] against FGK primaries of wide pairs, velocities against Gaia.

    Defaults are the criteria of sections 5.4 and 2.3 of the paper. DIR gets report.html,
    metrics.json, waterfall.csv, and the stars and a figure of each comparison (pairs.csv and .png,
    velocities.csv and .png).

    Example: jaxmdwarf crosscheck CAT.fits --pairs all_columns_catalog.fits --primaries lasp.fits
    --gaia gaia.fits --out crosscheck/
    """

    catalogue: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="CATALOGUE", help="Table that 'jaxmdwarf fit' or 'jaxmdwarf catalogue' wrote."
        ),
    ]

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="Folder to write.")]

    pairs: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Wide pairs as El-Badry et al. (2021) list them: source_id1, source_id2, "
            "R_chance_align, pairdistance; or pairs.parquet of a simulated survey.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    primaries: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Labels of FGK stars with LASP's columns: gaia_source_id or ra and dec, teff, "
            "logg, feh, feh_err, rv, snrg.",
            help_behavior_hint="(default: columns primary_feh ... of the pairs)",
        ),
    ] = None

    gaia: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="TABLE",
            help="Gaia table with radial_velocity, radial_velocity_error, rv_nb_transits.",
            help_behavior_hint="(default: none)",
        ),
    ] = None

    max_r_chance_align: Annotated[
        float, tyro.conf.arg(metavar="R", help="Pairs: upper limit of R_chance_align; inf: none.")
    ] = 0.01

    min_separation_arcsec: Annotated[
        float,
        tyro.conf.arg(metavar="ARCSEC", help="Pairs: lower limit of the separation; 0: none."),
    ] = 3.0

    max_delta_rv_kms: Annotated[
        float,
        tyro.conf.arg(
            metavar="KM/S", help="Pairs: upper limit of the difference of velocities; inf: none."
        ),
    ] = 10.0

    snr_thresholds: Annotated[
        tuple[float, ...],
        tyro.conf.arg(
            metavar="SNR [SNR ...]",
            help="Pairs: a sample above each S/N of the M dwarf; the first holds for all.",
        ),
    ] = (5.0, 20.0, 50.0)

    min_primary_snr: Annotated[
        float, tyro.conf.arg(metavar="SNR", help="Pairs: lower limit of the primary's; 0: none.")
    ] = 0.0

    primary_snr_column: Annotated[
        str,
        tyro.conf.arg(
            metavar="COLUMN",
            help="Pairs: S/N of the primaries.",
            help_behavior_hint="(default: in g)",
        ),
    ] = ""

    max_gaia_error_kms: Annotated[
        float,
        tyro.conf.arg(metavar="KM/S", help="Velocities: upper limit of Gaia's error; inf: none."),
    ] = math.inf

    min_gaia_transits: Annotated[
        int, tyro.conf.arg(metavar="N", help="Velocities: least rv_nb_transits.")
    ] = 0

    min_velocity_snr: Annotated[
        float, tyro.conf.arg(metavar="SNR", help="Velocities: lower limit of S/N; 0: none.")
    ] = 0.0

    snr_column: Annotated[
        str,
        tyro.conf.arg(
            metavar="COLUMN",
            help="S/N of the catalogue.",
            help_behavior_hint="(default: S/N in r)",
        ),
    ] = ""

    keep_flagged: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Keep rows whose flags say not to trust them.", help_behavior_hint=""),
    ] = False

    radius_arcsec: Annotated[
        float,
        tyro.conf.arg(metavar="ARCSEC", help="Largest distance where positions are matched."),
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

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Compare and write; returns the summary."""
        from jaxmdwarf.catalogue.gaia_velocities import GaiaVelocityConfig
        from jaxmdwarf.catalogue.wide_pairs import PairConfig
        from jaxmdwarf.workflows.crosschecking import crosscheck_files

        shared: dict[str, Any] = {
            "snr_column": self.snr_column,
            "keep_flagged": self.keep_flagged,
            "radius_arcsec": self.radius_arcsec,
            "epoch_yr": self.survey_epoch,
        }
        return crosscheck_files(
            self.catalogue,
            self.out,
            pairs=self.pairs,
            primaries=self.primaries,
            gaia=self.gaia,
            pair_config=PairConfig(
                max_r_chance_align=self.max_r_chance_align,
                min_separation_arcsec=self.min_separation_arcsec,
                max_delta_rv_kms=self.max_delta_rv_kms,
                snr_thresholds=self.snr_thresholds,
                min_primary_snr=self.min_primary_snr,
                primary_snr_column=self.primary_snr_column,
                **shared,
            ),
            velocity_config=GaiaVelocityConfig(
                max_error_kms=self.max_gaia_error_kms,
                min_transits=self.min_gaia_transits,
                min_snr=self.min_velocity_snr,
                **shared,
            ),
            overwrite=self.overwrite,
            progress=terminal,
        )
