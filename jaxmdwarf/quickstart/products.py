"""Names of what a quickstart makes, and what is known of a run when its stages are done."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxmdwarf.diagnostics.embedding import PairMap
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.io.rejects import name_rejects_file
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.workflows.cataloguing import Beside
from jaxmdwarf.workflows.judging import Judgement
from jaxmdwarf.workflows.methods.registry import list_transfer_methods
from jaxmdwarf.workflows.transfer import TransferConfig
from jaxmdwarf.workflows.validating import Validation

if TYPE_CHECKING:
    import pandas as pd

THEORY, TRANSFER, ORACLE = "none", "transfer", "oracle"
"""Variants of the fit: no transfer; the transfer; a model that knows nature's physics."""

LEAST_FOR_TRANSFER = 200
"""Spectra of a survey that a transfer can be learned from."""


@dataclass(frozen=True)
class QuickstartConfig:
    """One run of the whole pipeline.

    Parameters
    ----------
    n_spectra : int
        Spectra of the simulated survey.
    n_grid : int
        Theoretical spectra that the emulator learns from.
    seed : int
        Of everything random.
    gap : DomainGap
        How nature differs from theory.
    transfer : str
        How theory is carried into the observed domain, by the name of a transfer method, or
        "none"; the catalogue is fitted with the result.
    oracle : bool
        Also train and fit with a model of nature's own physics: the best that any transfer from
        theory could reach. Adds about as much time as the emulator and the fit take.
    training : EmulatorConfig
    options : TransferConfig
        Of the transfer; its method, with its settings, counts where it is the one of that name.
    fitting : FitConfig
    """

    n_spectra: int = 1500
    n_grid: int = 1152
    seed: int = 0
    gap: DomainGap = field(default_factory=DomainGap.full)
    transfer: str = "matched"
    oracle: bool = False
    training: EmulatorConfig = field(default_factory=EmulatorConfig)
    options: TransferConfig = field(default_factory=TransferConfig)
    fitting: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        methods = (*list_transfer_methods(), "none")
        if self.transfer not in methods:
            raise UsageError(
                f"transfer {self.transfer!r} is unknown.", f"use one of {', '.join(methods)}."
            )
        if self.n_spectra < 20 or self.n_grid < 20 or self.seed < 0:
            least = 20 if self.transfer == "none" else LEAST_FOR_TRANSFER
            raise UsageError(
                f"{self.n_spectra} spectra, {self.n_grid} grid nodes or seed {self.seed} make no "
                "quickstart.",
                f"give at least {least} spectra (--n) and 20 nodes (--grid), and a --seed from 0 "
                "on.",
            )
        if self.transfer != "none" and self.n_spectra < LEAST_FOR_TRANSFER:
            raise UsageError(
                f"a transfer cannot be learned from {self.n_spectra} spectra.",
                f"simulate {LEAST_FOR_TRANSFER} or more (--n), or leave the transfer out "
                "(--transfer none).",
            )


@dataclass(frozen=True)
class Products:
    """Where a quickstart keeps what it makes.

    Parameters
    ----------
    root : Path
    """

    root: Path

    work = property(lambda self: self.root / "work")
    survey = property(lambda self: self.root / "survey")
    theory_grid = property(lambda self: self.root / "theory_grid.parquet")
    emulator = property(lambda self: self.root / "emulator")
    fit = property(lambda self: self.work / "fit.parquet")
    transfer = property(lambda self: self.root / "transfer")
    transfer_fit = property(lambda self: self.work / "transfer_fit.parquet")
    oracle_grid = property(lambda self: self.work / "oracle_grid.parquet")
    oracle_emulator = property(lambda self: self.root / "oracle")
    oracle_fit = property(lambda self: self.work / "oracle_fit.parquet")
    catalogue = property(lambda self: self.root / "catalogue.fits")
    rejects = property(lambda self: name_rejects_file(self.catalogue))
    value_added = property(lambda self: self.root / "value_added.fits")
    figures = property(lambda self: self.root / "figures")
    metrics = property(lambda self: self.root / "metrics.json")
    report = property(lambda self: self.root / "report.html")

    def remove(self) -> None:
        """Remove what an earlier run left outside of its work folder."""
        for path in (self.survey, self.emulator, self.transfer, self.oracle_emulator, self.figures):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.list_files():
            path.unlink(missing_ok=True)

    def list_files(self) -> list[Path]:
        """The products that are files, but for figures and what is in the work folder."""
        files = [self.theory_grid, self.catalogue, self.rejects, self.metrics, self.report]
        return [*files, self.value_added, *Beside.name(self.value_added)]


class Variant(NamedTuple):
    """A model directory and the table that was fitted with it."""

    model: Path
    fit: Path


def list_variants(products: Products, config: QuickstartConfig) -> dict[str, Variant]:
    """What was fitted in a run: no transfer, the transfer, the oracle."""
    variants = {THEORY: Variant(products.emulator, products.fit)}
    if config.transfer != "none":
        variants[TRANSFER] = Variant(products.transfer, products.transfer_fit)
    if config.oracle:
        variants[ORACLE] = Variant(products.oracle_emulator, products.oracle_fit)
    return variants


def find_held_out(products: Products, config: QuickstartConfig) -> set[str] | None:
    """Paths of the spectra that no transfer was trained on; None: there was no training."""
    if config.transfer == "none":
        return None
    observed = read_table(products.transfer / "observed.parquet")
    trained = set(observed["path"][observed["part"] == "train"])
    return set(read_table(products.fit)["path"]) - trained


def keep_paths(table: pd.DataFrame, paths: set[str] | None) -> pd.DataFrame:
    """Rows of a catalogue with these paths; all of them if None."""
    return table if paths is None else table[table["path"].isin(paths)].reset_index(drop=True)


@dataclass(frozen=True)
class Outcome:
    """What the stages of a run made, as its report shows it.

    Parameters
    ----------
    products : Products
    config : QuickstartConfig
    metrics : dict
        As gathered; the time of the report itself is not in it yet.
    truth : DataFrame
    held_out : set of str, optional
        Paths of the spectra that all comparisons are of.
    validations : dict
        Comparison with the truth by variant.
    judgements : dict
        Residuals by variant, of the same stars.
    maps : dict
        Models and spectra on one plane by variant; without a variant where there are too few.
    """

    products: Products
    config: QuickstartConfig
    metrics: dict[str, Any]
    truth: pd.DataFrame
    held_out: set[str] | None
    validations: dict[str, Validation]
    judgements: dict[str, Judgement]
    maps: dict[str, PairMap]

    @property
    def final(self) -> str:
        """The variant that the catalogue is of."""
        return TRANSFER if TRANSFER in self.validations else THEORY

    @property
    def shown(self) -> Validation:
        """The comparison that is shown in full."""
        return self.validations[self.final]
