"""The whole pipeline on a simulated survey: files in, a catalogue and what to think of it out."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxmdwarf.catalogue.merging import join_gaia
from jaxmdwarf.diagnostics.residuals import gap_closed
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.fitter import FittingOptions
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.rejects import check_accounts, name_rejects_file, read_rejects
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.judging import Judgement, judge_fitted, predict_fitted
from jaxmdwarf.workflows.methods.registry import build_transfer_method, list_transfer_methods
from jaxmdwarf.workflows.outputs import require_folder
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.simulation import FluxSource, nature_source, simulate_files, simulate_grid
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files
from jaxmdwarf.workflows.validating import (
    Validation,
    pull_metrics,
    recovery_metrics,
    validate_tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from jaxmdwarf.workflows.progress import Progress

THEORY, TRANSFER, ORACLE = "none", "transfer", "oracle"
"""Variants of the fit: no transfer; the transfer; a model that knows nature's physics."""

N_REFERENCE = 450
"""Stars, about, that have labels in the literature, in a small survey."""

LEAST_FOR_TRANSFER = 200
"""Spectra of a survey that a transfer can be learned from."""

_STATE_NAME = "quickstart.json"


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
    fitting : FittingOptions
    """

    n_spectra: int = 1500
    n_grid: int = 1152
    seed: int = 0
    gap: DomainGap = field(default_factory=DomainGap.full)
    transfer: str = "matched"
    oracle: bool = False
    training: EmulatorConfig = field(default_factory=EmulatorConfig)
    options: TransferConfig = field(default_factory=TransferConfig)
    fitting: FittingOptions = field(default_factory=FittingOptions)

    def __post_init__(self) -> None:
        methods = (*list_transfer_methods(), "none")
        if self.transfer not in methods:
            raise UsageError(
                f"transfer {self.transfer!r} is unknown.", f"use one of {', '.join(methods)}."
            )
        if self.transfer != "none" and self.n_spectra < LEAST_FOR_TRANSFER:
            raise UsageError(
                f"a transfer cannot be learned from {self.n_spectra} spectra.",
                f"simulate {LEAST_FOR_TRANSFER} or more (--n), or leave the transfer out "
                "(--transfer none).",
            )
        if self.n_spectra < 20 or self.n_grid < 20 or self.seed < 0:
            raise UsageError(
                f"{self.n_spectra} spectra, {self.n_grid} grid nodes or seed {self.seed} make no "
                "quickstart.",
                "give at least 20 spectra (--n) and 20 nodes (--grid), and a --seed from 0 on.",
            )


@dataclass(frozen=True)
class Products:
    """Where a quickstart keeps what it makes.

    Parameters
    ----------
    root : Path
    """

    root: Path

    survey = property(lambda self: self.root / "survey")
    theory_grid = property(lambda self: self.root / "theory_grid.parquet")
    emulator = property(lambda self: self.root / "emulator")
    fit = property(lambda self: self.root / "work" / "fit.parquet")
    transfer = property(lambda self: self.root / "transfer")
    transfer_fit = property(lambda self: self.root / "work" / "transfer_fit.parquet")
    oracle_grid = property(lambda self: self.root / "work" / "oracle_grid.parquet")
    oracle_emulator = property(lambda self: self.root / "oracle")
    oracle_fit = property(lambda self: self.root / "work" / "oracle_fit.parquet")
    catalogue = property(lambda self: self.root / "catalogue.fits")
    rejects = property(lambda self: name_rejects_file(self.catalogue))
    figures = property(lambda self: self.root / "figures")
    metrics = property(lambda self: self.root / "metrics.json")
    report = property(lambda self: self.root / "report.html")


def run_quickstart(
    out: str | os.PathLike[str],
    config: QuickstartConfig | None = None,
    *,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulate, train, fit and measure, judge and report.

    Parameters
    ----------
    out : path
        Folder; gets ``catalogue.fits`` and its rejects, ``metrics.json``, ``report.html``,
        ``figures/``, and the survey, grid and models on the way there.
    config : QuickstartConfig, optional
    processes : int, optional
        Reader processes; None takes all cores.
    command : sequence of str, optional
        Command line for the provenance.
    progress : Progress, optional

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    UsageError
        If the folder holds a run with another configuration, or cannot be written to.

    Notes
    -----
    Each step is left out if an earlier run of the same configuration finished it, so a run that
    was stopped goes on where it was.
    """
    from jaxmdwarf.quickstart.report import write_quickstart_report

    config, progress = config or QuickstartConfig(), progress or Silent()
    products = Products(Path(out))
    steps = _Steps(products.root, config, progress)
    sources = _Sources(config, progress)
    spectra = products.survey / "spectra"

    def fit_all(model: Path, table: Path) -> dict[str, Any]:
        return fit_files(
            [spectra],
            model,
            table,
            options=config.fitting,
            processes=processes,
            command=command,
            overwrite=True,
            progress=progress,
        )

    def train(grid: Path, model: Path) -> dict[str, Any]:
        training = replace(config.training, seed=config.seed)
        return train_emulator_files(grid, model, config=training, overwrite=True, progress=progress)

    steps.run("survey", lambda: _simulate(products, config, sources, progress))
    steps.run("theory grid", lambda: _grid(products.theory_grid, config, sources, progress))
    steps.run("emulator", lambda: train(products.theory_grid, products.emulator))
    fitted = steps.run("fit", lambda: fit_all(products.emulator, products.fit))
    if config.transfer != "none":
        steps.run(
            "transfer", lambda: _train_transfer(products, config, processes, command, progress)
        )
        fitted = steps.run(
            "transfer fit", lambda: fit_all(products.transfer, products.transfer_fit)
        )
    if config.oracle:
        _train_oracle(steps, products, config, sources, progress)
        steps.run("oracle fit", lambda: fit_all(products.oracle_emulator, products.oracle_fit))
    counts = steps.run("catalogue", lambda: _merge(products, config, command))

    began = time.perf_counter()
    truth = read_table(products.survey / "truth.parquet")
    variants = list_variants(products, config)
    held_out = find_held_out(products)
    validations = {
        name: validate_tables(keep_paths(read_table(variant.fit), held_out), truth)
        for name, variant in variants.items()
    }
    metrics = _gather_metrics(products, config, counts, fitted, validations)
    judgements = _judge(variants, held_out, validations, progress)
    metrics["transfer"] = _transfer_metrics(products, judgements)
    metrics["timing_s"] = {**steps.seconds, "report": 0.0}
    write_quickstart_report(products, config, metrics, validations, held_out, truth)
    metrics["timing_s"]["report"] = round(time.perf_counter() - began, 2)
    metrics["wall_s"] = round(sum(metrics["timing_s"].values()), 2)
    metrics = plain_json(metrics)
    write_json(products.metrics, metrics)
    return metrics


def summarise(metrics: dict[str, Any], out: str | os.PathLike[str]) -> dict[str, Any]:
    """The few lines that the command prints."""
    labels = metrics["labels"].get(TRANSFER, metrics["labels"][THEORY])
    lines: dict[str, Any] = {
        "input spectra": metrics["counts"]["input"],
        "in the catalogue": metrics["counts"]["catalogue"],
        "rejected": metrics["counts"]["rejected"],
        "emulator error (eq. 1)": f"median {metrics['emulator']['eq1_median']:.2%}, 95th "
        f"percentile {metrics['emulator']['eq1_p95']:.2%}",
        "fit": f"{metrics['fit']['spectra_per_s']:.0f} spectra/s, "
        f"{metrics['fit']['converged_fraction']:.1%} converged",
    }
    for name, form in (("teff", "{:+.0f} ± {:.0f} K"), ("logg", "{:+.2f} ± {:.2f} dex")):
        lines[f"{name}: bias ± scatter"] = form.format(
            labels[name]["bias"], labels[name]["scatter"]
        )
    lines["[M/H]: bias ± scatter"] = "{:+.2f} ± {:.2f} dex".format(
        labels["mh"]["bias"], labels["mh"]["scatter"]
    )
    lines["trained on"] = "a simulation"
    lines["time"] = f"{metrics['wall_s']:.0f} s"
    lines["report"] = os.path.join(os.fspath(out), "report.html")
    return lines


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


def find_held_out(products: Products) -> set[str] | None:
    """Paths of the spectra that no transfer was trained on; None: there was no training."""
    table = products.transfer / "observed.parquet"
    if not table.is_file():
        return None
    observed = read_table(table)
    trained = set(observed["path"][observed["part"] == "train"])
    return set(read_table(products.fit)["path"]) - trained


def keep_paths(table: pd.DataFrame, paths: set[str] | None) -> pd.DataFrame:
    """Rows of a catalogue with these paths; all of them if None."""
    return table if paths is None else table[table["path"].isin(paths)].reset_index(drop=True)


class _Steps:
    """Steps of a run, each done once; what they took and returned is kept on disk."""

    def __init__(self, root: Path, config: QuickstartConfig, progress: Progress) -> None:
        self._path, self._progress = root / _STATE_NAME, progress
        # An oracle only adds steps: a finished run may get one.
        self._recipe = json.loads(json.dumps(asdict(config)))
        del self._recipe["oracle"]
        self._done: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            try:
                state = json.loads(self._path.read_text(encoding="utf-8"))
                found, self._done = state["config"], state["steps"]
            except (ValueError, KeyError):
                found = None
            if found != self._recipe:
                raise UsageError(
                    f"{root} holds a quickstart with other options.",
                    "choose another folder with --out, or delete this one.",
                )
        elif root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UsageError(
                f"{root} exists and holds no quickstart.", "choose an empty folder with --out."
            )
        require_folder(root)
        self._save()

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took when it was done, in order."""
        return {name: step["seconds"] for name, step in self._done.items()}

    def run(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step unless it is done; returns what it returned then or now."""
        if name in self._done:
            self._progress.say(f"{name}: done before")
            return self._done[name]["result"]
        began = time.perf_counter()
        result = plain_json(make())
        self._done[name] = {"seconds": round(time.perf_counter() - began, 2), "result": result}
        self._save()
        return result

    def _save(self) -> None:
        write_json(self._path, {"config": self._recipe, "steps": self._done}, indent=1)


class _Sources:
    """Simulated physics, built when first asked for: tables of lines take a while."""

    def __init__(self, config: QuickstartConfig, progress: Progress) -> None:
        self._config, self._progress = config, progress

    @cached_property
    def theory(self) -> FluxSource:
        return self._build("line tables of theory", DomainGap.none())

    @cached_property
    def nature(self) -> FluxSource:
        if not self._config.gap.physics_differs:
            return self.theory
        return self._build("line tables of nature", self._config.gap)

    def _build(self, title: str, gap: DomainGap) -> FluxSource:
        with self._progress.stage(title, 1.0) as task:
            source = nature_source(gap, seed=self._config.seed)
            task.advance()
        return source


def _simulate(
    products: Products, config: QuickstartConfig, sources: _Sources, progress: Progress
) -> dict[str, Any]:
    # Files of a survey that was not finished are written again, the same byte for byte.
    survey = SurveyConfig(
        n_spectra=config.n_spectra,
        seed=config.seed,
        gap=config.gap,
        # A literature of some hundreds of stars, however small the survey.
        reference_share=min(0.6, max(SurveyConfig.reference_share, N_REFERENCE / config.n_spectra)),
    )
    return simulate_files(
        products.survey, config=survey, nature=sources.nature, overwrite=True, progress=progress
    )


def _grid(
    path: Path,
    config: QuickstartConfig,
    sources: _Sources,
    progress: Progress,
    *,
    of_nature: bool = False,
) -> dict[str, Any]:
    grid = simulate_grid(
        path,
        config.n_grid,
        sources.nature if of_nature else sources.theory,
        seed=config.seed,
        physics="nature" if of_nature else "theory",
        progress=progress,
    )
    return {"spectra": grid.n_spec}


def _train_transfer(
    products: Products,
    config: QuickstartConfig,
    processes: int | None,
    command: Sequence[str] | None,
    progress: Progress,
) -> dict[str, Any]:
    method = config.options.method
    if method.name != config.transfer:
        method = build_transfer_method(config.transfer)
    return train_transfer_files(
        [products.survey / "spectra"],
        products.emulator,
        products.survey / "reference.parquet",
        products.transfer,
        replace(config.options, method=method),
        processes=processes,
        command=command,
        overwrite=True,
        progress=progress,
    )


def _judge(
    variants: dict[str, Variant],
    held_out: set[str] | None,
    validations: dict[str, Validation],
    progress: Progress,
) -> dict[str, Judgement]:
    """Residuals of the same stars under every variant."""
    tables = {name: keep_paths(read_table(one.fit), held_out) for name, one in variants.items()}
    shared = set.intersection(
        *(set(tables[name]["path"].iloc[one.rows]) for name, one in validations.items())
    )
    judged = {}
    with progress.stage("residuals", float(len(variants)), unit="models") as task:
        for name, variant in variants.items():
            rows = keep_paths(tables[name], shared)
            judged[name] = judge_fitted(predict_fitted(load_model(variant.model), rows))
            task.advance()
    return judged


def _transfer_metrics(products: Products, judged: dict[str, Judgement]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "residual_sigma": {name: one.residual.mean for name, one in judged.items()},
        "residual_sigma_snr20": {name: one.bright.mean for name, one in judged.items()},
        "classifier_accuracy": {name: one.accuracy for name, one in judged.items()},
    }
    if {THEORY, TRANSFER, ORACLE} <= set(judged):
        metrics["gap_closed"] = {
            name: gap_closed(*(column[variant] for variant in (THEORY, TRANSFER, ORACLE)))
            for name, column in list(metrics.items())[:2]
        }
    if TRANSFER in judged:
        trained = json.loads((products.transfer / "metrics.json").read_text(encoding="utf-8"))
        metrics |= trained["transfer"]
    return metrics


def _train_oracle(
    steps: _Steps,
    products: Products,
    config: QuickstartConfig,
    sources: _Sources,
    progress: Progress,
) -> None:
    steps.run(
        "oracle grid",
        lambda: _grid(products.oracle_grid, config, sources, progress, of_nature=True),
    )
    training = replace(config.training, seed=config.seed)
    steps.run(
        "oracle emulator",
        lambda: train_emulator_files(
            products.oracle_grid,
            products.oracle_emulator,
            config=training,
            overwrite=True,
            progress=progress,
        ),
    )


def _merge(
    products: Products, config: QuickstartConfig, command: Sequence[str] | None
) -> dict[str, Any]:
    """Labels, measurements and photometry of the same spectra: the paper's Table 1."""
    final = list(list_variants(products, replace(config, oracle=False)).values())[-1]
    catalogue = join_gaia(read_table(final.fit), read_table(products.survey / "gaia.parquet"))
    write_table(
        catalogue,
        products.catalogue,
        provenance=gather_provenance(
            command=command,
            model=final.model,
            notes={
                "model_trained_on": "a simulation",
                "survey": f"simulated, seed {config.seed}",
            },
        ),
    )
    shutil.copyfile(name_rejects_file(final.fit), products.rejects)
    rejects = read_rejects(products.rejects)
    n_input = len(list((products.survey / "spectra").iterdir()))
    check_accounts(n_input, len(catalogue), len(rejects))
    return {"input": n_input, "catalogue": len(catalogue), "rejected": len(rejects)}


def _gather_metrics(
    products: Products,
    config: QuickstartConfig,
    counts: dict[str, Any],
    fitted: dict[str, Any],
    validations: dict[str, Validation],
) -> dict[str, Any]:
    trained = json.loads((products.emulator / "metrics.json").read_text(encoding="utf-8"))
    metrics: dict[str, Any] = {
        "counts": counts,
        "wall_s": 0.0,
        "emulator": trained["emulator"],
        "fit": {
            "spectra_per_s": fitted["fit_spectra_per_s"],
            "converged_fraction": fitted["converged_fraction"],
            "unflagged": fitted["unflagged"],
        },
        "labels": {name: recovery_metrics(one.comparisons) for name, one in validations.items()},
        "labels_snr50": {name: recovery_metrics(one.high_snr) for name, one in validations.items()},
        "labels_by_snr": {
            name: one.metrics()["labels_by_snr"] for name, one in validations.items()
        },
        "validation": {name: one.counts for name, one in validations.items()},
        "pulls": pull_metrics(
            validations[TRANSFER if TRANSFER in validations else THEORY].comparisons
        ),
        "simulated": True,
        "seed": config.seed,
        "gap": config.gap.describe(),
    }
    if ORACLE in validations:
        metrics["pulls_oracle"] = pull_metrics(validations[ORACLE].comparisons)
    return metrics
