"""The paper's own run, ready for whoever holds LAMOST DR10 and a BT-Settl grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.workflows.cleaning import clean_files
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.methods.cyclestar import CycleStar
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_run
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files


@dataclass(frozen=True)
class DataConfig:
    """What the paper's run needs, none of which can be shipped.

    Parameters
    ----------
    spectra : str
        Folder, pattern or @list of LAMOST spectra.
    grid : str
        Table of BT-Settl spectra at R about 2000, of `jaxmdwarf grid`.
    isochrones : str
        PARSEC tables of 5 Gyr, as its web form writes them.
    reference : str
        Table of literature labels of stars in common.
    gaia : str
        Table of RUWE, magnitudes and parallaxes of the stars; without it they are selected by S/N
        and by the shape of their spectra alone.
    """

    spectra: str = ""
    grid: str = ""
    isochrones: str = ""
    reference: str = ""
    gaia: str = ""

    def require(self) -> None:
        """Raise `UsageError` for what was not given."""
        needed = ("spectra", "grid", "isochrones", "reference")
        missing = [f"--data.{name}" for name in needed if not getattr(self, name)]
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

    Each step is done once: the same command goes on where it was stopped.

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
        """Select, train both models and write the catalogue; returns counts and rates."""
        self.data.require()
        progress, root = progress or Silent(), Path(self.out)
        selected = root / "selected.txt"
        with open_run(root / "work", kind="an experiment", about={"config": self}) as run:
            # What a step left without noting it is done again.
            run.step(
                "selection",
                lambda: clean_files(
                    [self.data.spectra],
                    selected,
                    gaia=self.data.gaia or None,
                    overwrite=True,
                    progress=progress,
                ),
                progress,
            )
            run.step(
                "emulator",
                lambda: train_emulator_files(
                    self.data.grid,
                    root / "emulator",
                    config=self.emulator,
                    overwrite=True,
                    progress=progress,
                ),
                progress,
            )
            run.step(
                "transfer",
                lambda: train_transfer_files(
                    [f"@{selected}"],
                    root / "emulator",
                    self.data.reference,
                    root / "transfer",
                    self.transfer,
                    isochrones=self.data.isochrones,
                    overwrite=True,
                    progress=progress,
                ),
                progress,
            )
            run.step(
                "fit",
                lambda: fit_files(
                    [f"@{selected}"],
                    root / "transfer",
                    root / "catalogue.fits",
                    options=self.fit,
                    overwrite=True,
                    progress=progress,
                ),
                progress,
            )
            return {name: run.result(name) for name in ("selection", "emulator", "transfer", "fit")}
