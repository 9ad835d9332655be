"""What anchors are worth: `train-transfer --anchors` beside a label model of the same anchors.

    python -m benchmarks.compare_anchors [--seeds 31 32 33] [--n-spectra 2400] [--n-train 1200]
                                         [--counts 0 30 300] [--out runs/anchors] [--save]

For each seed a simulated survey at the full gap is made (or found in `--out`), with one emulator of
theory for all. Transfers are learned from all visits of its first stars, `--n-train` spectra about,
with labels of so many of them known to 50 K and 0.08 dex, and the others are fitted at rest. The
rival is a quadratic label model per pixel (The Cannon: `benchmarks.peers.quadratic`) of Teff and
[M/H], learned from the same anchors. Judged are single M dwarfs that no transfer has seen, of
S/N > 10, unflagged in every variant, the same for all. Anchors are drawn at random from single M
dwarfs of S/N > 20; their errors have nothing to do with those of the reference. To be done in
minutes on two cores the strength is not chosen (`--strength`), the uncertainty comes from
`--n-resample` pairs of samples, and no anchors are held out unless `--n-fold` says so. Nothing was
chosen on the seeds that are judged; seed 21 is for development. What is done is not done again.

`--save` writes benchmarks/results/simulation/anchors.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.peers.quadratic import fit_pixels, fit_star
from jaxmdwarf.diagnostics.recovery import measure_pulls, measure_recovery
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.references import read_references
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.quality import HARMFUL_FLAGS
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.training.labels.training_set import sample_training_labels
from jaxmdwarf.training.transfer.matched import train_matched
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.workflows.anchoring import find_anchors, read_anchors
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.observed import PreparedSpectra, prepare_observed
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.simulation import nature_source, simulate_files, simulate_grid
from jaxmdwarf.workflows.transfer import choose_reference

ERRORS = {"teff": 50.0, "mh": 0.08}
"""Of the anchors' labels, one sigma, K and dex."""

METAL_POOR = (-1.0, -0.7)
LEAST_SNR, BRIGHT_SNR, ANCHOR_SNR = 10.0, 30.0, 20.0

RESULT = Path(__file__).parent / "results" / "simulation" / "anchors.json"


def find_seen(truth: pd.DataFrame, n_train: int) -> np.ndarray:
    """Rows that transfers are learned from: all visits of the stars of the first spectra."""
    stars = truth["source_id"].to_numpy()
    return np.isin(stars, stars[:n_train])


def find_single(truth: pd.DataFrame) -> np.ndarray:
    """Rows of single M dwarfs whose spectra did not fail."""
    dwarf = (truth["kind"] == "mdwarf").to_numpy()
    return dwarf & (truth["is_binary"] == 0).to_numpy() & (truth["failed"] == 0).to_numpy()


def make_emulator(root: Path, progress: Progress) -> Path:
    """Theory's emulator, if it is not there."""
    grid, model = root / "theory_grid.parquet", root / "emulator"
    if not grid.is_file():
        theory = nature_source(DomainGap.none(), seed=0)
        simulate_grid(grid, 1152, theory, seed=0, progress=progress)
    if not (model / "model.json").is_file():
        train_emulator_files(grid, model, figures=False, progress=progress)
    return model


class Case(NamedTuple):
    """One survey.

    Parameters
    ----------
    emulator : ForwardModel
    learned, judged : PreparedSpectra
        What transfers are learned from, and what they are judged by.
    known, true : DataFrame
        Truth of both, row by row.
    reference : DataFrame
    """

    emulator: ForwardModel
    learned: PreparedSpectra
    judged: PreparedSpectra
    known: pd.DataFrame
    true: pd.DataFrame
    reference: pd.DataFrame


def prepare_case(root: Path, seed: int, options: argparse.Namespace, progress: Progress) -> Case:
    """Survey and spectra at rest, as far as they are not there."""
    folder, emulator = root / str(seed), make_emulator(root, progress)
    if not (folder / "survey" / "survey.json").is_file():
        config = SurveyConfig(n_spectra=options.n_spectra, seed=seed, reference_share=0.3)
        simulate_files(folder / "survey", config=config, progress=progress)
    truth = read_table(folder / "survey" / "truth.parquet")[: options.n_spectra]
    seen = find_seen(truth, options.n_train)
    judged = ~seen & find_single(truth) & (truth["snr_r"] > LEAST_SNR).to_numpy()
    model, of_file = load_model(emulator), truth.set_index("file", drop=False)
    parts, tables = [], []
    for name, rows in (("at_rest", seen), ("judged", judged)):
        files = [folder / "survey" / "spectra" / one for one in truth["file"][rows]]
        part = prepare_observed(files, model, progress=progress, cache=folder / name)
        parts.append(part)
        tables.append(of_file.loc[[Path(path).name for path in part.table["path"]]])
    reference = read_references(folder / "survey" / "reference.parquet")
    return Case(model, *parts, *tables, reference)


def draw_anchors(known: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """So many anchors, one spectrum a star; of a larger number the first are those of a smaller."""
    rng = np.random.default_rng((seed, 12))
    rows = np.flatnonzero(find_single(known) & (known["snr_r"] > ANCHOR_SNR).to_numpy())
    rows = rng.permutation(rows)
    _, first = np.unique(known["source_id"].to_numpy()[rows], return_index=True)
    rows = rows[np.sort(first)]
    table = known.iloc[rows][["obsid"]].reset_index(drop=True)
    for name, error in ERRORS.items():
        table[name] = known[name].to_numpy()[rows] + error * rng.standard_normal(rows.size)
        table[f"e_{name}"] = error
    if len(table) < n:
        raise SystemExit(f"seed {seed} has {len(table)} stars for {n} anchors.")
    return table.assign(row=rows)[:n]


def run_matched(
    case: Case, known: pd.DataFrame | None, config: MatchedConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Labels and errors of the judged stars, NaN where flagged, and what the training told."""
    space = case.emulator.label_space
    anchors = None
    if known is not None:
        table = read_anchors(known.drop(columns="row"), space)
        anchors = find_anchors(case.learned.table, table, space).sample
    labels = sample_training_labels(
        case.reference[["teff", "mh"]].to_numpy(np.float64), None, n_draws=100_000, seed=0
    ).labels
    trained = train_matched(
        case.emulator,
        case.learned.domain,
        labels,
        config,
        reference=choose_reference(case.learned.table, case.reference),
        anchors=anchors,
    )
    found = fit(FitProblem.from_batch(trained.model, case.judged.domain.batch()))
    good = (np.asarray(found.flags) & int(HARMFUL_FLAGS)) == 0
    columns = [space.index(name) for name in ERRORS]
    labels = np.where(good[:, None], np.asarray(found.labels, np.float64)[:, columns], np.nan)
    told = {
        name: trained.report[name] for name in ("n_train", "n_common", "last_shift", "star_priors")
    }
    told["last_stretch"] = trained.report["passes"][-1]["stretch"]
    told["anchors"] = trained.report.get("anchors")
    return {"labels": labels, "errors": np.asarray(found.errors, np.float64)[:, columns]}, told


def run_quadratic(case: Case, known: pd.DataFrame) -> dict[str, np.ndarray]:
    """Teff and [M/H] of the judged stars by the label model, and errors."""
    learned, judged = case.learned.domain, case.judged.domain
    rows = known["row"].to_numpy()
    flux, ivar = (np.asarray(part[rows], np.float64) for part in (learned.flux, learned.ivar))
    labels = known[list(ERRORS)].to_numpy(np.float64)
    centre, width = labels.mean(axis=0), labels.std(axis=0)
    coefficients, scatter = fit_pixels((labels - centre) / width, flux, ivar)
    stars = zip(
        np.asarray(judged.flux, np.float64), np.asarray(judged.ivar, np.float64), strict=True
    )
    found = np.array([fit_star(coefficients, scatter, *one) for one in stars])
    return {"labels": centre + width * found[:, 0], "errors": width * found[:, 1]}


def run_seed(
    root: Path, seed: int, options: argparse.Namespace, progress: Progress
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Judged stars, one row a variant, label and star, and what the trainings told."""
    case = prepare_case(root, seed, options, progress)
    config = MatchedConfig(
        strengths=(options.strength,), n_resample=options.n_resample, n_fold=options.n_fold
    )
    found: dict[str, dict[str, np.ndarray]] = {}
    told: dict[str, Any] = {}
    for n in options.counts:
        known = draw_anchors(case.known, n, seed) if n else None
        kept = root / str(seed) / f"matched_{n}{options.tag}"
        if not kept.with_suffix(".json").is_file():
            arrays, report = run_matched(case, known, config)
            np.savez(kept.with_suffix(".npz"), **arrays)
            write_json(kept.with_suffix(".json"), plain_json(report))
        found[f"matched, {n} anchors"] = dict(np.load(kept.with_suffix(".npz")))
        told[str(n)] = json.loads(kept.with_suffix(".json").read_text())
        if known is not None:
            beside = root / str(seed) / f"label_model_{n}.npz"
            if not beside.is_file():
                np.savez(beside, **run_quadratic(case, known))
            found[f"label model, {n} anchors"] = dict(np.load(beside))
    judged = np.ones(len(case.true), bool)
    for one in found.values():
        judged &= np.isfinite(one["labels"]).all(axis=1) & np.isfinite(one["errors"]).all(axis=1)
    parts = [
        pd.DataFrame(
            {
                "variant": variant,
                "label": name,
                "snr": case.judged.table["SNRr"].to_numpy()[judged],
                "mh_true": case.true["mh"].to_numpy()[judged],
                "away": (one["labels"][:, i] - case.true[name].to_numpy())[judged],
                "error": one["errors"][judged, i],
            }
        )
        for variant, one in found.items()
        for i, name in enumerate(ERRORS)
    ]
    return pd.concat(parts, ignore_index=True), told


def judge(sample: pd.DataFrame) -> dict[str, Any]:
    """Bias, scatter, root mean square and pulls by variant and label, and of metal-poor stars."""
    bright = sample["snr"] > BRIGHT_SNR
    poor = (sample["mh_true"] >= METAL_POOR[0]) & (sample["mh_true"] <= METAL_POOR[1])
    groups = {
        "all": np.ones(len(sample), bool),
        "snr above 30": bright,
        "metal-poor": poor,
        "metal-poor, snr above 30": poor & bright,
    }
    table: dict[str, Any] = {}
    for (variant, label), rows in sample.groupby(["variant", "label"], sort=False):
        for group, chosen in groups.items():
            one = rows[np.asarray(chosen)[rows.index]]
            away, error = one["away"].to_numpy(), one["error"].to_numpy()
            recovery, pulls = measure_recovery(away), measure_pulls(away, error)
            table.setdefault(variant, {}).setdefault(label, {})[group] = {
                "n": recovery.n,
                "bias": recovery.bias,
                "scatter": recovery.scatter,
                "rms": float(np.sqrt(np.mean(away**2))) if away.size else None,
                "pull_mean": pulls.mean,
                "pull_width": pulls.width,
            }
    return table


def round_numbers(value: Any) -> Any:
    """Four digits of each number in nested dictionaries."""
    if isinstance(value, dict):
        return {key: round_numbers(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Run what is not there yet, and print the table of all seeds together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--n-spectra", type=int, default=2400)
    parser.add_argument("--n-train", type=int, default=1200)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 30, 300])
    parser.add_argument("--strength", type=float, default=0.2)
    parser.add_argument("--n-resample", type=int, default=4)
    parser.add_argument("--n-fold", type=int, default=0)
    parser.add_argument("--tag", default="", help="of the files of other settings")
    parser.add_argument("--out", type=Path, default=Path("runs/anchors"))
    parser.add_argument("--save", action="store_true", help="keep the result with the benchmarks'")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made = {seed: run_seed(options.out, seed, options, Silent()) for seed in options.seeds}
    together = pd.concat([sample for sample, _ in made.values()], ignore_index=True)
    outcome = {
        "seeds": options.seeds,
        "n_spectra": options.n_spectra,
        "n_train": options.n_train,
        "settings": {
            "strength": options.strength,
            "n_resample": options.n_resample,
            "n_fold": options.n_fold,
        },
        "errors_of_anchors": ERRORS,
        "all_seeds": judge(together),
        "by_seed": {
            str(seed): {"trainings": told, "judged": judge(sample)}
            for seed, (sample, told) in made.items()
        },
    }
    outcome = round_numbers(plain_json(outcome))
    write_json(RESULT if options.save else options.out / "anchors.json", outcome)
    for variant, labels in outcome["all_seeds"].items():
        for label, groups in labels.items():
            for group, one in groups.items():
                print(
                    f"{variant:26s} {label:5s} {group:25s} n {one['n']:5d}  {one['bias']:+8.3f} +- "
                    f"{one['scatter']:7.3f}  rms {one['rms'] or 0:7.3f}  pulls "
                    f"{one['pull_mean'] or 0:+.2f} +- {one['pull_width'] or 0:.2f}"
                )


if __name__ == "__main__":
    main()
