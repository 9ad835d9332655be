"""``jaxmdwarf validate``: a catalogue against a reference table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions, parse_columns

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Bias, scatter and honesty of the errors of a catalogue, against a reference table.

    The reference is the truth of a simulated survey (truth.parquet) or any table of the literature
    with Teff, log g, [M/H], [alpha/M] or RV. DIR gets report.html, metrics.json, by_snr.csv and
    figures.

    Example: jaxmdwarf validate catalogue.fits --reference mann15.csv birky20.csv --out check/
    """

    catalogue: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CATALOGUE", help="Table that 'jaxmdwarf fit' wrote."),
    ]

    reference: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="TABLE [TABLE ...]",
            help="References: .parquet .fits .csv .csv.gz .vot .ecsv; several give one table and "
            "one figure.",
        ),
    ]

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="Folder to write.")]

    reference_kind: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="KIND [KIND ...]",
            help="What published tables the references are, one each: mann2015 gaidos2014 "
            "lepine2013 rajpurohit2018 passegger2018 passegger2019 schweitzer2019 birky2020 "
            "apogee_dr17 ulyss2022 laspm2021 laspm2024 slam2021, or other.",
            help_behavior_hint="(default: recognised by their columns)",
        ),
    ] = ()

    columns: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME=COLUMN [NAME=COLUMN ...]",
            help="Columns of the reference, where the guess from their names is wrong: teff logg "
            "mh alpha_m rv ra dec pmra pmdec obsid path source_id, and e_teff ... for errors.",
            help_behavior_hint="(default: guessed)",
        ),
    ] = ()

    match: Annotated[
        Literal["auto", "obsid", "path", "source_id", "position"],
        tyro.conf.arg(help="What tells that two rows are one star; auto: what matches most rows."),
    ] = "auto"

    radius_arcsec: Annotated[
        float, tyro.conf.arg(metavar="ARCSEC", help="Largest distance on the sky.")
    ] = 3.0

    epoch: Annotated[
        float,
        tyro.conf.arg(
            metavar="YEAR",
            help="Epoch of the catalogue's positions. Known proper motions, its own or the "
            "reference's, bring both tables to one epoch.",
        ),
    ] = 2000.0

    keep_flagged: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Keep rows whose flags say not to trust them.", help_behavior_hint=""),
    ] = False

    snr_column: Annotated[
        str,
        tyro.conf.arg(
            metavar="COLUMN",
            help="Column of the catalogue to bin by.",
            help_behavior_hint="(default: S/N in r)",
        ),
    ] = ""

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Compare and write; returns the summary."""
        from jaxmdwarf.workflows.validating import ValidationConfig
        from jaxmdwarf.workflows.validation_report import validate_files

        return validate_files(
            self.catalogue,
            self.reference,
            self.out,
            options=ValidationConfig(
                columns=parse_columns(self.columns),
                match=self.match,
                radius_arcsec=self.radius_arcsec,
                epoch_yr=self.epoch,
                keep_flagged=self.keep_flagged,
                snr_column=self.snr_column,
            ),
            kinds=self.reference_kind,
            overwrite=self.overwrite,
            progress=terminal,
        )
