"""The paper's own run, ready for whoever holds LAMOST DR10 and a BT-Settl grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.fitter import FittingOptions
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.methods.registry import build_transfer_method
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files


@dataclass(frozen=True)
class LamostDr10:
    """Sections 2 to 4 of the paper: BT-Settl, PARSEC, literature labels, 110,000 spectra.

    The grid is one table of `jaxmdwarf grid`; isochrones are PARSEC tables of 5 Gyr as its web form
    writes them; the reference is one table, or several, of labels of stars in common. Selection by
    Gaia (RUWE, colour, absolute magnitude; section 2.1) is done beforehand, on the list of spectra.
    """

    spectra: str = ""
    """Folder, pattern or @list of the selected LAMOST spectra."""
    grid: str = ""
    """Model grid on the survey's resolution, R about 2000."""
    isochrones: str = ""
    """PARSEC tables."""
    reference: str = ""
    """Table of literature labels."""
    out: str = "runs/lamost_dr10"
    """Folder to write."""
    method: str = "cyclestar"
    """The paper's; matched and matched+cyclestar are ours."""
    steps: int = 500_000
    """Batches of 8; ten hours of a V100 in the paper."""
    seed: int = 0

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Train both models and write the catalogue; returns counts and rates."""
        missing = [
            f"--{name}"
            for name in ("spectra", "grid", "isochrones", "reference")
            if not getattr(self, name)
        ]
        if missing:
            raise UsageError(
                f"the experiment needs {', '.join(missing)}.", "give paths to data of your own."
            )
        progress, root = progress or Silent(), Path(self.out)
        emulator = train_emulator_files(self.grid, root / "emulator", progress=progress)
        transfer = train_transfer_files(
            [self.spectra],
            root / "emulator",
            self.reference,
            root / "transfer",
            TransferConfig(
                method=build_transfer_method(
                    self.method, seed=self.seed, preset="paper", steps=self.steps
                ),
                observed=ObservedConfig(max_spectra=110_000, seed=self.seed),
                seed=self.seed,
            ),
            isochrones=self.isochrones,
            progress=progress,
        )
        fitted = fit_files(
            [self.spectra],
            root / "transfer",
            root / "catalogue.fits",
            options=FittingOptions(min_snr=5.0),
            progress=progress,
        )
        return {"emulator": emulator, "transfer": transfer, "fit": fitted}
