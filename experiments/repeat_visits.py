"""Do total errors cover the truth? A survey with many repeat visits, judged in bins of S/N."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.theory import train_theory
from jaxmdwarf.catalogue.repeats import RepeatConfig, TotalErrors, measure_precision
from jaxmdwarf.catalogue.value_added import CatalogueConfig, add_values
from jaxmdwarf.diagnostics.recovery import compute_pulls, measure_pulls, measure_recovery
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import describe_label
from jaxmdwarf.quality import HARMFUL_FLAGS, QualityFlag
from jaxmdwarf.simulate.population import PopulationConfig
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_run
from jaxmdwarf.workflows.simulation import simulate_files
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files
from jaxmdwarf.workflows.validating import validate_tables

SNR_EDGES = (5.0, 10.0, 20.0, 40.0, 80.0, np.inf)
"""Of the bins."""

TOTALS: tuple[TotalErrors, ...] = ("excess", "paper")

METAL_POOR, ALPHA_RICH = (-1.0, -0.7), 0.25
"""[M/H] and [alpha/M] of stars that priors draw to the others."""

BRIGHT_SNR = 30.0

QUANTITIES = ("teff", "logg", "mh", "alpha_m", "rv")
KINDS = {"formal": "stated by the fit", "excess": "total", "paper": "eq. 8"}
"""Of the tables, in order."""

INJECTED = {"rv": (66.7, 3.03), "teff": (433.0, 17.7), "logg": (0.55, 0.015), "mh": (1.0, 0.04)}
"""a and b of eq. 9 from what the paper finds at S/N 10 and 100 (section 4.1)."""


def _visited_often() -> SurveyConfig:
    # Four in ten stars have three visits or more; three in ten good stars are in the literature,
    # as in a quickstart.
    # Radii scatter by 3 % at one luminosity, so that gravity is not what its prior expects.
    visits = PopulationConfig(visit_shares=(0.50, 0.10, 0.15, 0.15, 0.10), radius_scatter=0.03)
    return SurveyConfig(n_spectra=5000, population=visits, reference_share=0.3)


@dataclass(frozen=True)
class RepeatVisitsConfig:
    """Coverage of formal and total errors by the truth, label by label, in bins of S/N.

    For each seed: a survey of its own nature, a transfer learned from its first `n_train` spectra,
    fits of all of them, the value-added catalogue. What is judged are single M dwarfs that the
    transfer has not seen and that carry no flag which says not to trust them. Theory's emulator is
    one and the same.

    Parameters
    ----------
    out : str
        Folder to write; what is done there is not done again.
    seeds : tuple of int
        One survey each. Seeds 21 to 24 and 41 to 43 are what errors were developed with.
    survey : SurveyConfig
        Its seed is replaced by each of `seeds`.
    gap : float
        Strength of all causes of the gap that `survey` names.
    n_train : int
        Spectra, about, that a transfer is learned from: all visits of the first stars.
    n_grid : int
        Theoretical spectra that the emulator learns from.
    n_injected : int
        Catalogues with known scatter of repeats, made on the stars, visits and S/N of each survey.
    """

    out: str = "runs/repeat_visits"
    seeds: tuple[int, ...] = (25, 26, 27, 28, 29)
    survey: SurveyConfig = field(default_factory=_visited_often)
    gap: float = 1.0
    n_train: int = 1500
    n_grid: int = 1152
    n_injected: int = 25

    def __post_init__(self) -> None:
        if not self.seeds or not 0 < self.n_train < self.survey.n_spectra:
            raise UsageError(
                f"{len(self.seeds)} seeds, {self.n_train} of {self.survey.n_spectra} spectra to "
                "learn from: nothing is left to judge.",
                "give a seed or more, and train on fewer spectra than there are.",
            )

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Coverage by seed and of all; also in metrics.json, and as tables in coverage.md."""
        progress = progress or Silent()
        root = Path(self.out)
        root.mkdir(parents=True, exist_ok=True)
        emulator = train_theory(root, self.n_grid, progress)
        samples, by_seed = [], {}
        # Surveys of other settings are in the way of this run; seeds only add some.
        varied = ("out", "seeds")
        about = {name: one for name, one in asdict(self).items() if name not in varied}
        with open_run(root / "work", kind="an experiment", about=about) as run:
            for seed in self.seeds:
                made = self._make_survey(run.folder / str(seed), seed, emulator, progress)
                sample, by_seed[seed] = self._judge(made, seed)
                samples.append(sample.assign(star=sample["star"] + 10**7 * len(samples)))
        together = pd.concat(samples, ignore_index=True)
        outcome = plain_json(
            {
                "all_seeds": judge_coverage(together),
                "far_from_the_mean": judge_far_stars(together),
                "seeds": by_seed,
                "experiment": asdict(self),
            }
        )
        write_json(root / "metrics.json", outcome)
        (root / "coverage.md").write_text(render_coverage(outcome["all_seeds"]), encoding="utf-8")
        return outcome

    def _make_survey(self, folder: Path, seed: int, emulator: Path, progress: Progress) -> Path:
        """Survey, transfer and fits, as far as they are not there; returns their folder."""
        survey = replace(self.survey, seed=seed, gap=self.survey.gap.scaled(self.gap))
        if not (folder / "survey" / "survey.json").is_file():
            simulate_files(folder / "survey", config=survey, progress=progress)
        if not (folder / "transfer" / "model.json").is_file():
            truth = read_table(folder / "survey" / "truth.parquet")
            train_transfer_files(
                [folder / "survey" / "spectra" / name for name in truth["file"][self._seen(truth)]],
                emulator,
                folder / "survey" / "reference.parquet",
                folder / "transfer",
                TransferConfig(),
                progress=progress,
            )
        if not (folder / "fit.parquet").is_file():
            fit_files(
                [folder / "survey" / "spectra"],
                folder / "transfer",
                folder / "fit.parquet",
                gaia=folder / "survey" / "gaia.parquet",
                progress=progress,
            )
        return folder

    def _seen(self, truth: pd.DataFrame) -> np.ndarray:
        """Rows of the truth that a transfer is learned from."""
        stars = truth["source_id"].to_numpy()
        return np.isin(stars, stars[: self.n_train])

    def _judge(self, folder: Path, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
        """What is judged, one row a spectrum and quantity, and what is said of this survey."""
        truth = read_table(folder / "survey" / "truth.parquet")
        fits = read_table(folder / "fit.parquet")
        made = {
            total: add_values(fits, CatalogueConfig(repeats=RepeatConfig(total=total)))
            for total in TOTALS
        }
        catalogue = made[TOTALS[0]].table
        sample = pair_with_truth(
            fits, {total: one.table for total, one in made.items()}, truth[~self._seen(truth)]
        )
        repeats = made[TOTALS[0]].metrics()["repeats"]
        return sample, {
            "spectra": len(catalogue),
            "stars": int(catalogue["star"].nunique()),
            "precision": {
                name: {key: one[key] for key in one if np.ndim(one[key]) == 0 or key == "excess"}
                for name, one in repeats.items()
            },
            "injected": inject_precision(catalogue, self.n_injected, seed),
            "coverage": judge_coverage(sample),
            "far_from_the_mean": judge_far_stars(sample),
            "flagged": count_flags(catalogue, truth),
        }


def pair_with_truth(
    fits: pd.DataFrame, catalogues: Mapping[TotalErrors, pd.DataFrame], truth: pd.DataFrame
) -> pd.DataFrame:
    """Good single M dwarfs beside the truth, one row a spectrum and quantity.

    Parameters
    ----------
    fits : DataFrame
        Flags of fits decide; a catalogue's cuts depend on the errors that are judged.
    catalogues : mapping of str to DataFrame
        Value-added ones with the rows of `fits`, by the rule of their total errors.
    truth : DataFrame
        Of a simulated survey; rows that are not in it are not judged.

    Returns
    -------
    DataFrame
        ``quantity``, ``star``, ``snr``, ``truth``, ``away`` (measured minus true), ``away_lik``
        (the same of the label of the spectrum alone; NaN where there is none), the error of the fit
        ``formal``, and one column for each kind of total error.
    """
    validation = validate_tables(fits, truth)
    parts = []
    for name, one in validation.samples.items():
        column = describe_label(name).column
        error, alone = f"e_{column}", f"{column}_lik"
        part = {
            "quantity": name,
            "truth": one.reference,
            "away": one.measured - one.reference,
            "away_lik": np.nan,
            "formal": one.error,
        }
        if alone in fits:
            lik = fits[alone].to_numpy(np.float64)[validation.rows]
            part["away_lik"] = lik - one.reference
        for total, table in catalogues.items():
            rows = table.iloc[validation.rows]
            part |= {"star": rows["star"].to_numpy(), "snr": rows["SNRr"].to_numpy()}
            part[total] = rows[error].to_numpy()
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def judge_coverage(sample: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """How often the truth is within one and two errors, by quantity in bins of S/N.

    Parameters
    ----------
    sample : DataFrame
        As `pair_with_truth` makes it.

    Returns
    -------
    dict of str to list of dict
        One entry a bin: rows, stars, bias and robust scatter, root mean square beside that of the
        mean of all true labels in place of each, and for formal and total errors the median of
        these, mean and width of the pulls, and the shares within one and two errors with standard
        errors that count stars, since visits of a star share a part of their errors.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, rows in sample.groupby("quantity"):
        bins, mean_truth = [], rows["truth"].mean()
        for low, high in itertools.pairwise(SNR_EDGES):
            inside = rows[(rows["snr"] >= low) & (rows["snr"] < high)]
            n_star = inside["star"].nunique()
            if not n_star:
                continue
            recovery = measure_recovery(inside["away"].to_numpy())
            entry: dict[str, Any] = {
                "snr": [low, high],
                "n": len(inside),
                "stars": n_star,
                "bias": recovery.bias,
                "scatter": recovery.scatter,
                "rms": float(np.sqrt(np.mean(inside["away"] ** 2))),
                "rms_of_the_mean": float(np.sqrt(np.mean((inside["truth"] - mean_truth) ** 2))),
            }
            for kind in ("formal", *(one for one in TOTALS if one in rows)):
                away, error = inside["away"].to_numpy(), inside[kind].to_numpy()
                size, pulls = np.abs(compute_pulls(away, error)), measure_pulls(away, error)
                within = [float(np.mean(size < limit)) for limit in (1, 2)]
                entry[kind] = {
                    "median_error": float(np.median(error)),
                    "mean_pull": pulls.mean,
                    "width_of_pulls": pulls.width,
                    "within_1_sigma": within[0],
                    "within_2_sigma": within[1],
                    "e_within_1_sigma": float(np.sqrt(within[0] * (1 - within[0]) / n_star)),
                    "e_within_2_sigma": float(np.sqrt(within[1] * (1 - within[1]) / n_star)),
                }
            bins.append(_rounded(entry))
        found[str(name)] = bins
    return found


def render_coverage(judged: Mapping[str, list[dict[str, Any]]]) -> str:
    """Markdown tables: shares within one and two errors in per cent, and what labels are off by.

    Parameters
    ----------
    judged : mapping
        From `judge_coverage`, or read from metrics.json.
    """
    first = next(iter(judged.values()))
    limits = [one["snr"] for one in first]
    # JSON has no word for what has no end.
    header = [
        "",
        *(
            f"{low:g}-{high:g}" if high is not None and np.isfinite(high) else f"> {low:g}"
            for low, high in limits
        ),
    ]
    shares = [header, ["---"] * len(header)]
    shares.append(["spectra / stars", *(f"{one['n']} / {one['stars']}" for one in first)])
    sizes = [[*header], ["---"] * len(header)]
    for name in (one for one in QUANTITIES if one in judged):
        quantity = describe_label(name)
        for kind, said in KINDS.items():
            if kind in judged[name][0]:
                cells = (
                    f"{100 * one[kind]['within_1_sigma']:.0f} / "
                    f"{100 * one[kind]['within_2_sigma']:.0f}"
                    for one in judged[name]
                )
                shares.append([f"{quantity.symbol}: {said}", *cells])
        cells = (
            f"{quantity.write(one['bias'], signed=True, unit=False)} ± "
            f"{quantity.write(one['scatter'], unit=False)} "
            f"({one['excess']['mean_pull']:+.2f}, {one['excess']['width_of_pulls']:.2f}; "
            f"{one['rms'] / one['rms_of_the_mean']:.2f})"
            for one in judged[name]
        )
        sizes.append([quantity.axis, *cells])
    return "\n".join(
        "".join("| " + " | ".join(line) + " |\n" for line in lines) for lines in (shares, sizes)
    )


def judge_far_stars(sample: pd.DataFrame) -> dict[str, Any]:
    """What becomes of stars that priors draw to the others, and of the scale of [M/H].

    Parameters
    ----------
    sample : DataFrame
        As `pair_with_truth` makes it.

    Returns
    -------
    dict
        Of stars of S/N above `BRIGHT_SNR` and of all: ``metal_poor`` ([M/H] within `METAL_POOR`)
        and ``alpha_rich`` ([alpha/M] above `ALPHA_RICH`): how many, and the median of what they are
        off by, with priors and by the spectrum alone; ``slope`` of fitted on true [M/H].
    """
    found: dict[str, Any] = {}
    for name, least in (("bright", BRIGHT_SNR), ("all", 0.0)):
        seen = sample[sample["snr"] >= least]
        mh, alpha = (seen[seen["quantity"] == one] for one in ("mh", "alpha_m"))
        poor = mh[(mh["truth"] > METAL_POOR[0]) & (mh["truth"] < METAL_POOR[1])]
        rich = alpha[alpha["truth"] > ALPHA_RICH]
        kinds = {"metal_poor": poor, "alpha_rich": rich}
        found[name] = {
            **{
                kind: {
                    "n": len(rows),
                    "bias": float(rows["away"].median()),
                    "bias_lik": float(rows["away_lik"].median()),
                }
                for kind, rows in kinds.items()
                if len(rows)
            },
            "slope": {column: _slope(mh, column) for column in ("away", "away_lik")},
        }
    return _rounded(found)


def _slope(rows: pd.DataFrame, column: str) -> float | None:
    """Of fitted on true labels."""
    there = np.isfinite(rows[column].to_numpy(np.float64))
    if np.count_nonzero(there) < 3:
        return None
    return 1.0 + float(np.polyfit(rows["truth"][there], rows[column][there], 1)[0])


def inject_precision(catalogue: pd.DataFrame, n: int, seed: int) -> dict[str, dict[str, Any]]:
    """Is a known a/(S/N) + b found on the stars, visits and S/N of a survey?

    Returns
    -------
    dict
        By quantity: what was injected, medians of what was found and of its errors, and mean and
        standard deviation of the pulls of a and of b over `n` draws.
    """
    rng = np.random.default_rng((seed, 11))
    good = (catalogue["flags"].to_numpy(np.int64) & int(HARMFUL_FLAGS)) == 0
    star = catalogue["star"].to_numpy()[good]
    snr = catalogue["SNRr"].to_numpy(np.float64)[good]
    found = {}
    for name, (a, b) in INJECTED.items():
        scatter = a / snr + b
        rows = []
        for _ in range(n):
            known = rng.normal(0.0, 10 * b, star.max() + 1)[star]
            one = measure_precision(known + scatter * rng.standard_normal(star.size), snr, star)
            assert one is not None
            rows.append((one.a, one.b, one.e_a, one.e_b))
        table = np.array(rows)
        pulls = (table[:, :2] - (a, b)) / table[:, 2:]
        middle = np.median(table, axis=0)
        found[name] = {
            "injected": [a, b],
            "found": middle[:2].round(4).tolist(),
            "errors": middle[2:].round(4).tolist(),
            "mean_pull": pulls.mean(axis=0).round(3).tolist(),
            "std_of_pulls": pulls.std(axis=0).round(3).tolist(),
        }
    return found


def count_flags(catalogue: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Shares of single M dwarfs and of others that are flagged as no M dwarfs or as outliers."""
    row = truth.assign(obsid=truth["obsid"].astype(str)).set_index("obsid")
    known = row.loc[catalogue["obsid"].astype(str)].reset_index(drop=True)
    flags = catalogue["flags"].to_numpy(np.int64)
    bright = np.fmin(catalogue["SNRr"], catalogue["SNRi"]).to_numpy() > 5
    intact = bright & (known["failed"] == 0).to_numpy()
    dwarf = (known["kind"] == "mdwarf").to_numpy()
    single = (known["is_binary"] == 0).to_numpy()
    groups = {
        "single_m_dwarfs": intact & dwarf & single,
        "binaries": intact & dwarf & ~single,
        "k_dwarfs": intact & (known["kind"] == "kdwarf").to_numpy(),
        "giants": intact & (known["kind"] == "giant").to_numpy(),
        "failed": (known["failed"] != 0).to_numpy(),
    }
    bits = {
        "not_m_dwarf": QualityFlag.NOT_M_DWARF,
        "out_of_domain": QualityFlag.OUT_OF_DOMAIN,
        "either": QualityFlag.NOT_M_DWARF | QualityFlag.OUT_OF_DOMAIN,
    }
    return {
        name: {"n": int(rows.sum())}
        | {
            bit: round(float(((flags[rows] & int(one)) != 0).mean()), 4)
            for bit, one in bits.items()
            if rows.any()
        }
        for name, rows in groups.items()
    }


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    """Four digits of every number that is no count."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return _rounded(value)
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return {key: shorten(value) for key, value in entry.items()}
