"""The paper's own run, ready for whoever holds LAMOST DR10 and a BT-Settl grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.methods.cyclestar import CycleStar
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files


@dataclass(frozen=True)
class DataConfig:
    """What the paper's run needs, none of which can be shipped.

    Parameters
    ----------
    spectra : str
        Folder, pattern or @list of the selected LAMOST spectra.
    grid : str
        Table of BT-Settl spectra at R about 2000, of `jaxmdwarf grid`.
    isochrones : str
        PARSEC tables of 5 Gyr, as its web form writes them.
    reference : str
        Table of literature labels of stars in common.
    """

    spectra: str = ""
    grid: str = ""
    isochrones: str = ""
    reference: str = ""

    def require(self) -> None:
        """Raise `UsageError` for what was not given."""
        missing = [f"--data.{name}" for name, path in vars(self).items() if not path]
        if missing:
            raise UsageError(
                f"the experiment needs {', '.join(missing)}.", "give paths to data of your own."
            )


def _as_in_paper() -> TransferConfig:
    # Batches of 8; ten hours of a V100 in the paper.
    return TransferConfig(
        CycleStar(CycleStarConfig.paper(steps=500_000)),
        observed=ObservedConfig(max_spectra=110_000),
    )


@dataclass(frozen=True)
class LamostDr10Config:
    """Sections 2 to 4 of the paper: BT-Settl, PARSEC, literature labels, 110,000 spectra.

    Selection by Gaia (RUWE, colour, absolute magnitude; section 2.1) is done beforehand, on the
    list of spectra.

    Parameters
    ----------
    data : DataConfig
    out : str
        Folder to write.
    emulator : EmulatorConfig
    transfer : TransferConfig
    fit : FitConfig
    """

    data: DataConfig = field(default_factory=DataConfig)
    out: str = "runs/lamost_dr10"
    emulator: EmulatorConfig = field(default_factory=EmulatorConfig)
    transfer: TransferConfig = field(default_factory=_as_in_paper)
    fit: FitConfig = field(default_factory=lambda: FitConfig(min_snr=5.0))

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Train both models and write the catalogue; returns counts and rates."""
        self.data.require()
        progress, root = progress or Silent(), Path(self.out)
        emulator = train_emulator_files(
            self.data.grid, root / "emulator", config=self.emulator, progress=progress
        )
        transfer = train_transfer_files(
            [self.data.spectra],
            root / "emulator",
            self.data.reference,
            root / "transfer",
            self.transfer,
            isochrones=self.data.isochrones,
            progress=progress,
        )
        fitted = fit_files(
            [self.data.spectra],
            root / "transfer",
            root / "catalogue.fits",
            options=self.fit,
            progress=progress,
        )
        return {"emulator": emulator, "transfer": transfer, "fit": fitted}
