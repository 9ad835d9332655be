"""The whole pipeline on a simulated survey: files in, a catalogue and what to think of it out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxmdwarf.catalogue.merging import join_gaia
from jaxmdwarf.diagnostics.embedding import PairMap
from jaxmdwarf.diagnostics.residuals import gap_closed
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import remove_remains
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.rejects import check_accounts, name_rejects_file, read_rejects
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.quickstart.products import (
    ORACLE,
    THEORY,
    TRANSFER,
    Outcome,
    Products,
    QuickstartConfig,
    find_held_out,
    keep_paths,
    list_variants,
)
from jaxmdwarf.quickstart.report import write_quickstart_report
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import THEORY_GRID, SurveyConfig
from jaxmdwarf.workflows.cataloguing import Beside, catalogue_files
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.judging import Judgement, judge_fitted, map_domains, predict_fitted
from jaxmdwarf.workflows.methods.registry import build_transfer_method
from jaxmdwarf.workflows.outputs import OVERWRITE, require_output
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import Run, open_run
from jaxmdwarf.workflows.simulation import (
    FILE_BYTES,
    FluxSource,
    nature_source,
    simulate_files,
    simulate_grid,
)
from jaxmdwarf.workflows.transfer import train_transfer_files
from jaxmdwarf.workflows.validating import (
    Validation,
    pull_metrics,
    recovery_metrics,
    validate_tables,
)

if TYPE_CHECKING:
    import pandas as pd

N_REFERENCE = 450
"""Stars, about, that have labels in the literature, in a small survey."""


def run_quickstart(
    out: str | os.PathLike[str],
    config: QuickstartConfig | None = None,
    *,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    finished: Literal["refuse", "return"] = "refuse",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulate, train, fit and measure, judge and report.

    Parameters
    ----------
    out : path
        Folder; gets ``catalogue.fits`` and its rejects, ``value_added.fits``, ``metrics.json``,
        ``report.html``, ``figures/``, and the survey, grid and models on the way there.
    config : QuickstartConfig, optional
    processes : int, optional
        Reader processes; None takes all cores.
    command : sequence of str, optional
        Command line for the provenance.
    overwrite : bool
        Whether a run that is finished, or of another configuration, may be replaced.
    finished : {"refuse", "return"}
        What to do where the run is finished: raise, or return its metrics.
    progress : Progress, optional

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    UsageError
        Before any work: if the folder holds a finished run, one of another configuration, or
        something else; another process works there; or it cannot be written to.

    Notes
    -----
    Each stage is left out if an earlier run of the same configuration finished it, so a run that
    was stopped goes on where it was. A finished run may get an oracle.
    """
    config, progress = config or QuickstartConfig(), progress or Silent()
    products = Products(Path(out))
    # A run that was killed at once has an empty work folder, or its lock, and no record.
    with contextlib.suppress(OSError):
        products.work.rmdir()
    marks = [f"work/{name}" for name in ("run.json", "lock")]
    mark = next((name for name in marks if (products.root / name).is_file()), marks[0])
    require_output(
        out,
        overwrite=True,
        mark=mark,
        holds="quickstart",
        n_bytes=_estimate_bytes(config),
    )
    with open_run(
        products.work, kind="a quickstart", about=_describe(config), overwrite=overwrite, out=out
    ) as run:
        done = [name for name in _list_reports(config) if run.finished(name)]
        if done and finished == "return" and not overwrite:
            return run.result(done[0])
        if done and not overwrite:
            raise UsageError(
                f"{out} holds a finished quickstart.",
                f"{OVERWRITE} to do it again, or give another folder with --out.",
            )
        if done:
            run.discard()
        if not run.seconds:
            products.remove()
        stages = _Stages(run, products, config, processes, command, progress)
        fitted = stages.make_catalogue()
        metrics = run.step(_list_reports(config)[-1], lambda: _report(run, stages, fitted))
        remove_remains(*products.list_files(), *products.figures.glob("*.png"))
        return metrics


def _list_reports(config: QuickstartConfig) -> tuple[str, ...]:
    """Steps that end a run: that with an oracle, and without one if none is asked for."""
    return ("report with oracle",) if config.oracle else ("report with oracle", "report")


def _describe(config: QuickstartConfig) -> dict[str, Any]:
    """What a run depends on; an oracle only adds stages."""
    about = plain_json(config, name_classes=True)
    about["options"]["method"] = config.options.method.describe()
    del about["oracle"]
    return about


def _estimate_bytes(config: QuickstartConfig) -> int:
    """Of the files of the survey, the spectra at rest while a transfer is trained, the grid."""
    at_rest = 3 * 4 * THEORY_GRID.n_pix
    n_grid = 2 * config.n_grid if config.oracle else config.n_grid
    return (FILE_BYTES + at_rest) * config.n_spectra + 2 * 4 * THEORY_GRID.n_pix * n_grid


@dataclass
class _Stages:
    """The stages up to the catalogue, each done once; they know their order."""

    run: Run
    products: Products
    config: QuickstartConfig
    processes: int | None
    command: Sequence[str] | None
    progress: Progress

    # What an earlier run of the same configuration left without noting it is replaced.

    def make_catalogue(self) -> dict[str, Any]:
        """Everything before the report; what the fit of the catalogue says of itself."""
        products, config = self.products, self.config
        self._step("survey", self._simulate)
        self._step("theory grid", lambda: self._grid(products.theory_grid, self.theory, "theory"))
        self._step("emulator", lambda: self._train(products.theory_grid, products.emulator))
        fitted = self._step("fit", lambda: self._fit(products.emulator, products.fit))
        if config.transfer != "none":
            self._step("transfer", self._train_transfer)
            fitted = self._step(
                "transfer fit", lambda: self._fit(products.transfer, products.transfer_fit)
            )
        if config.oracle:
            grid, model = products.oracle_grid, products.oracle_emulator
            self._step("oracle grid", lambda: self._grid(grid, self.nature, "nature"))
            self._step("oracle emulator", lambda: self._train(grid, model))
            self._step("oracle fit", lambda: self._fit(model, products.oracle_fit))
        self._step("catalogue", self._merge)
        self._step("value added", self._add_values)
        return fitted

    def _step(self, name: str, make: Any) -> dict[str, Any]:
        return self.run.step(name, make, self.progress)

    # Simulated physics is built when first asked for: tables of lines take a while.

    @cached_property
    def theory(self) -> FluxSource:
        """Surface fluxes as theory has them."""
        return self._build("line tables of theory", DomainGap.none())

    @cached_property
    def nature(self) -> FluxSource:
        """Surface fluxes of the stars that are observed."""
        if not self.config.gap.physics_differs:
            return self.theory
        return self._build("line tables of nature", self.config.gap)

    def _build(self, title: str, gap: DomainGap) -> FluxSource:
        with self.progress.stage(title, 1.0) as task:
            source = nature_source(gap, seed=self.config.seed)
            task.advance()
        return source

    def _simulate(self) -> dict[str, Any]:
        n_spectra = self.config.n_spectra
        # A literature of some hundreds of stars, however small the survey.
        share = min(0.6, max(SurveyConfig.reference_share, N_REFERENCE / n_spectra))
        survey = SurveyConfig(
            n_spectra=n_spectra,
            seed=self.config.seed,
            gap=self.config.gap,
            reference_share=share,
        )
        return simulate_files(
            self.products.survey,
            config=survey,
            nature=self.nature,
            overwrite=True,
            progress=self.progress,
        )

    def _grid(self, path: Path, source: FluxSource, physics: str) -> dict[str, Any]:
        config = self.config
        grid = simulate_grid(
            path,
            config.n_grid,
            source,
            seed=config.seed,
            physics=physics,
            progress=self.progress,
        )
        return {"spectra": grid.n_spec}

    def _train(self, grid: Path, model: Path) -> dict[str, Any]:
        training = replace(self.config.training, seed=self.config.seed)
        return train_emulator_files(
            grid, model, config=training, overwrite=True, progress=self.progress
        )

    def _train_transfer(self) -> dict[str, Any]:
        config, products = self.config, self.products
        method = config.options.method
        if method.name != config.transfer:
            method = build_transfer_method(config.transfer)
        return train_transfer_files(
            [products.survey / "spectra"],
            products.emulator,
            products.survey / "reference.parquet",
            products.transfer,
            replace(config.options, method=method),
            processes=self.processes,
            command=self.command,
            overwrite=True,
            progress=self.progress,
        )

    def _fit(self, model: Path, table: Path) -> dict[str, Any]:
        return fit_files(
            [self.products.survey / "spectra"],
            model,
            table,
            options=self.config.fitting,
            processes=self.processes,
            command=self.command,
            overwrite=True,
            progress=self.progress,
        )

    def _merge(self) -> dict[str, Any]:
        """Labels, measurements and photometry of the same spectra: the paper's Table 1."""
        products, config = self.products, self.config
        final = list(list_variants(products, replace(config, oracle=False)).values())[-1]
        fits = read_table(final.fit)
        catalogue = join_gaia(fits, read_table(products.survey / "gaia.parquet"))
        write_table(
            catalogue,
            products.catalogue,
            provenance=gather_provenance(
                command=self.command,
                model=final.model,
                notes={
                    "model_trained_on": "a simulation",
                    "survey": f"simulated, seed {config.seed}",
                    "label_bounds": fits.attrs["provenance"].get("label_bounds", ""),
                },
            ),
        )
        shutil.copyfile(name_rejects_file(final.fit), products.rejects)
        rejects = read_rejects(products.rejects)
        n_input = len(list((products.survey / "spectra").iterdir()))
        check_accounts(n_input, len(catalogue), len(rejects))
        return {"input": n_input, "catalogue": len(catalogue), "rejected": len(rejects)}

    def _add_values(self) -> dict[str, Any]:
        """Total errors from repeat visits, and the cuts of the paper as flags."""
        products = self.products
        catalogue_files(
            [products.catalogue],
            products.value_added,
            command=self.command,
            overwrite=True,
            progress=self.progress,
        )
        metrics = Beside.name(products.value_added).metrics
        made = json.loads(metrics.read_text(encoding="utf-8"))
        return {name: made[name] for name in ("counts", "waterfall", "repeats")}


def _report(run: Run, stages: _Stages, fitted: dict[str, Any]) -> dict[str, Any]:
    """Judge all variants against the truth, write the report and ``metrics.json``."""
    began = time.perf_counter()
    products, config = stages.products, stages.config
    truth = read_table(products.survey / "truth.parquet")
    held_out = find_held_out(products, config)
    tables = {
        name: keep_paths(read_table(one.fit), held_out)
        for name, one in list_variants(products, config).items()
    }
    validations = {name: validate_tables(table, truth) for name, table in tables.items()}
    judgements, maps = _judge(products, config, tables, validations, stages.progress)
    metrics = _gather_metrics(products, config, run.result("catalogue"), fitted, validations)
    metrics["transfer"] = _transfer_metrics(products, judgements)
    metrics["value_added"] = run.result("value added")
    seconds = {name: took for name, took in run.seconds.items() if not name.startswith("report")}
    metrics["timing_s"] = {**seconds, "report": 0.0}
    write_quickstart_report(
        Outcome(products, config, metrics, truth, held_out, validations, judgements, maps)
    )
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
    for name, words, n_digit, unit in (
        ("teff", "Teff", 0, "K"),
        ("logg", "log g", 2, "dex"),
        ("mh", "[M/H]", 2, "dex"),
    ):
        bias, scatter = labels[name]["bias"], labels[name]["scatter"]
        lines[f"{words}: bias ± scatter"] = f"{bias:+.{n_digit}f} ± {scatter:.{n_digit}f} {unit}"
    lines["trained on"] = "a simulation"
    lines["time"] = f"{metrics['wall_s']:.0f} s"
    lines["report"] = os.path.join(os.fspath(out), "report.html")
    return lines


def _judge(
    products: Products,
    config: QuickstartConfig,
    tables: dict[str, pd.DataFrame],
    validations: dict[str, Validation],
    progress: Progress,
) -> tuple[dict[str, Judgement], dict[str, PairMap]]:
    """Residuals of the same stars under every variant, and models and spectra on one plane."""
    shared = set.intersection(
        *(set(tables[name]["path"].iloc[one.rows]) for name, one in validations.items())
    )
    judged: dict[str, Judgement] = {}
    maps: dict[str, PairMap] = {}
    variants = list_variants(products, config)
    with progress.stage("residuals", float(len(variants)), unit="models") as task:
        for name, variant in variants.items():
            rows = keep_paths(tables[name], shared)
            fitted = predict_fitted(load_model(variant.model), rows)
            judged[name] = judge_fitted(fitted)
            # The oracle is no way to bring the domains together.
            found = map_domains(fitted) if name != ORACLE else None
            if found is not None:
                maps[name] = found
            task.advance()
    return judged, maps


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
            "good": fitted["good"],
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
