"""``jaxmdwarf simulate``: a survey of simulated M dwarfs with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.options import SHOW_ALL, Overwrite, TerminalOptions

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal


@dataclass(frozen=True)
class Command:
    """Simulate a survey of M dwarfs with known truth, as survey files.

    DIR/spectra gets one LAMOST-layout file a spectrum; DIR/truth.parquet, gaia.parquet,
    reference.parquet and pairs.parquet hold what is true, what Gaia, the literature and wide
    binaries would tell; survey.json says how all was made. The same options give the same bytes.

    Example: jaxmdwarf simulate --n 1000 --out survey/ --gap telluric,flux_calibration
    """

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="Folder to write.")]

    n: Annotated[
        int,
        tyro.conf.arg(
            metavar="N", help="Number of spectra; stars are fewer, for some are visited again."
        ),
    ] = 1000

    seed: Annotated[int, tyro.conf.arg(metavar="SEED", help="Seed of everything random.")] = 0

    gap: Annotated[
        str,
        tyro.conf.arg(
            metavar="GAP",
            help="How nature differs from theory: a number from 0 (not at all) to 1 (fully), or "
            "causes separated by commas, each a name, the beginning of one, or a group (physics, "
            "stellar, instrument, noise), with =STRENGTH if not 1: telluric,lsf=0.5. Causes: "
            "band_strengths missing_systems damping temperature_structure atomic_lines "
            "chromosphere lsf_shape lsf_variation flux_calibration wavelength_solution "
            "telluric_residuals sky_residuals cosmic_rays dead_pixels ivar_error.",
        ),
    ] = "1"

    grid: Annotated[
        int,
        tyro.conf.arg(
            metavar="N",
            help="Also write theory_grid.parquet with this many theoretical spectra, on which an "
            "emulator can be trained.",
        ),
    ] = 0

    layouts: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="LAYOUT [LAYOUT ...]",
            help="File layouts, one a plate: lamost-coadd (DR9 and later), lamost-wavelength (DR6 "
            "to DR8), lamost-subcontinuum (DR1).",
        ),
    ] = ("lamost-coadd", "lamost-wavelength")

    csv: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Write the tables as CSV also.", help_behavior_hint=""),
    ] = False

    overwrite: Overwrite = False

    terminal: TerminalOptions = SHOW_ALL

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Simulate and write; returns the summary."""
        from jaxmdwarf.errors import UsageError
        from jaxmdwarf.simulate.gap import DomainGap
        from jaxmdwarf.simulate.survey import SurveyConfig
        from jaxmdwarf.workflows.simulation import simulate_files

        if self.n < 1 or self.grid < 0 or self.seed < 0:
            raise UsageError(
                f"--n {self.n}, --grid {self.grid} or --seed {self.seed} is out of range.",
                "give at least one spectrum and no negative numbers.",
            )
        return simulate_files(
            self.out,
            config=SurveyConfig(n_spectra=self.n, seed=self.seed, gap=DomainGap.parse(self.gap)),
            n_grid=self.grid,
            layouts=self.layouts,
            csv=self.csv,
            overwrite=self.overwrite,
            progress=terminal,
        )
