"""The paper's own run, ready for whoever holds LAMOST DR10 and a BT-Settl grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.io.grids.table import read_grid
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.references import read_references
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
    """What the paper's run needs, none of which can be shipped (`CHECKLIST` says what each is).

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

    def list_needs(self) -> list[Need]:
        """What a user must bring, in the order of the fields, and what is wrong with it now."""
        return [
            Need(f"--data.{name}", what, required, _find_fault(name, getattr(self, name)))
            for name, (what, required) in CHECKLIST.items()
        ]

    def require(self, progress: Progress | None = None) -> None:
        """Refuse to begin, before hours of work, unless everything is there and can be read.

        Raises
        ------
        UsageError
            If something was not given or is not there: names it and says what it is. The whole
            checklist goes to `progress`.
        UsageError, FormatError
            If a table is not what it should be.
        """
        needs = self.list_needs()
        missing = [need for need in needs if need.is_missing]
        if missing:
            say = (progress or Silent()).say
            say("what this experiment needs, of your own:")
            for need in needs:
                say(need.line)
            given, absent = (
                [need for need in missing if bool(need.fault.path) is there]
                for there in (False, True)
            )
            parts = []
            if given:
                parts.append(f"the experiment needs {', '.join(need.option for need in given)}")
            parts += [f"{need.option}: there is no {need.fault.path}" for need in absent]
            raise UsageError(
                f"{'; '.join(parts)}.",
                f"bring {'; '.join(f'{need.what} ({need.option})' for need in missing)}.",
            )
        read_grid(self.grid)
        read_isochrones(self.isochrones)
        read_references(self.reference)


class Fault(NamedTuple):
    """Why a file cannot be used: it was not given (no `path`), or is not at `path`."""

    path: str


class Need(NamedTuple):
    """One line of the checklist.

    Parameters
    ----------
    option : str
        That names it.
    what : str
    required : bool
    fault : Fault or None
        None where it is there.
    """

    option: str
    what: str
    required: bool
    fault: Fault | None

    @property
    def is_missing(self) -> bool:
        """Whether the experiment cannot begin for this."""
        return self.fault is not None and (self.required or bool(self.fault.path))

    @property
    def line(self) -> str:
        """For readers."""
        state = "there"
        if self.fault is not None:
            state = f"no file {self.fault.path}" if self.fault.path else "not given"
        optional = "" if self.required else ", optional"
        return f"[{' ' if self.fault else 'x'}] {self.option}: {self.what}{optional} ({state})"


CHECKLIST: dict[str, tuple[str, bool]] = {
    "spectra": ("low-resolution FITS files of LAMOST DR10, class STAR, subclass M", True),
    "grid": ("a table of BT-Settl CIFIST spectra at R about 2000, made by `jaxmdwarf grid`", True),
    "isochrones": ("PARSEC isochrones of 5 Gyr, [M/H] -2 to 0.5, as CMD's form writes them", True),
    "reference": ("a table of Teff, [M/H] and positions of stars in common with literature", True),
    "gaia": ("a Gaia DR3 table of RUWE, G, BP, RP and parallax of the stars", False),
}
"""What each file is, and whether there is no run without it."""


def _find_fault(name: str, path: str) -> Fault | None:
    if not path:
        return Fault("")
    if name == "spectra":
        return None if expand_inputs(path).paths else Fault(path)
    return None if Path(path).is_file() else Fault(path)


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
        progress, root = progress or Silent(), Path(self.out)
        self.data.require(progress)
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
