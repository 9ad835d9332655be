"""Which named cause of the domain gap costs what, before and after a transfer?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from experiments.theory import train_theory
from jaxmdwarf.catalogue.rows import tabulate_fit
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.references import extract_reference_labels
from jaxmdwarf.labels import describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.simulate.gap import CAUSES, DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.workflows.observed import prepare_spectra
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_run
from jaxmdwarf.workflows.simulation import FluxSource, MadeSurvey, make_survey, nature_source
from jaxmdwarf.workflows.transfer import TransferConfig, learn_transfer
from jaxmdwarf.workflows.validating import pull_metrics, recovery_metrics, validate_tables

LABELS = ("teff", "logg", "mh")
"""Labels of the table."""

NO_GAP, ALL_CAUSES = "none", "all"
"""Surveys that causes are held against."""


@dataclass(frozen=True)
class GapAblationConfig:
    """One survey for each cause of the gap: the same stars, visits and noise, another nature.

    Theory's emulator is fitted to each, without priors and with those that a transfer learns, then
    the transfer itself; labels are compared with the truth on single stars that nothing was
    learned from. What a cause costs is what bias and scatter are beside those of a survey without
    any gap. A cause that is done is not done again.

    Parameters
    ----------
    out : str
        Folder to write.
    causes : tuple of str
        Names of `jaxmdwarf.simulate.gap.DomainGap`, beginnings of names, or groups: physics,
        stellar, instrument, noise. A group is one survey with all its causes.
    mode : {"only", "without"}
        Each cause alone; or all causes but this one, held against all of them.
    survey : SurveyConfig
        Its gap is replaced.
    n_train : int
        Spectra, about, that transfers are learned from: all visits of the first stars.
    n_grid : int
        Theoretical spectra that the emulator learns from.
    """

    out: str = "runs/gap_ablation"
    causes: tuple[str, ...] = CAUSES
    mode: Literal["only", "without"] = "only"
    survey: SurveyConfig = field(
        default_factory=lambda: SurveyConfig(n_spectra=1200, seed=31, reference_share=0.6)
    )
    n_train: int = 600
    n_grid: int = 1152

    def __post_init__(self) -> None:
        if not 0 < self.n_train < self.survey.n_spectra:
            raise UsageError(
                f"{self.n_train} of {self.survey.n_spectra} spectra to learn from: nothing is left "
                "to judge.",
                "train on fewer spectra than there are.",
            )
        for cause in self.causes:
            DomainGap.only(cause)

    def list_gaps(self) -> dict[str, DomainGap]:
        """The gap of each survey by its name; those that causes are held against come first."""
        gaps = {NO_GAP: DomainGap.none(), ALL_CAUSES: DomainGap.full()}
        for cause in self.causes:
            chosen = DomainGap.only(cause)
            if self.mode == "without":
                chosen = replace(DomainGap.full(), **dict.fromkeys(chosen.active, 0.0))
            gaps[cause] = chosen
        return gaps

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Bias, scatter and cost by cause; also in metrics.json, and as a table in costs.md."""
        progress, root = progress or Silent(), Path(self.out)
        root.mkdir(parents=True, exist_ok=True)
        emulator_dir = train_theory(root, self.n_grid, progress)
        sources = _Sources()
        # Causes are steps: more of them only add surveys.
        about = {"config": replace(self, causes=())}
        with open_run(root / "work", kind="an experiment", about=about) as run:
            for name, gap in self.list_gaps().items():
                run.step(
                    name,
                    lambda gap=gap: self._study(gap, load_model(emulator_dir), sources, progress),
                    progress,
                )
            studies = {name: run.result(name) for name in self.list_gaps()}
        outcome = plain_json(
            {
                "costs": compare_costs(studies, NO_GAP if self.mode == "only" else ALL_CAUSES),
                "surveys": studies,
                "experiment": asdict(self),
            }
        )
        write_json(root / "metrics.json", outcome)
        (root / "costs.md").write_text(render_costs(outcome), encoding="utf-8")
        return outcome

    def _study(
        self, gap: DomainGap, emulator: ForwardModel, sources: _Sources, progress: Progress
    ) -> dict[str, Any]:
        """A survey with this gap, before and after a transfer."""
        config = replace(self.survey, gap=gap)
        made = make_survey(config, nature=sources.find(gap, config.seed), progress=progress)
        learned, judged, reference = divide_survey(made, self.n_train)
        known = extract_reference_labels(reference)
        prepared = prepare_spectra(learned, emulator, progress=progress)
        # What no cause has spoiled must not be spoiled by the transfer either: it is kept as it is.
        trained = learn_transfer(
            prepared,
            emulator,
            TransferConfig(force=True),
            reference=known,
            progress=progress,
        ).trained
        priors = trained.model.priors()
        truth = pd.DataFrame(made.tables["truth"])
        return {
            "gap": gap.describe(),
            "theory": _judge(emulator, judged, truth, ()),
            "theory_with_priors": _judge(emulator, judged, truth, priors),
            "transfer": _judge(trained.model, judged, truth, priors),
        }


def divide_survey(
    made: MadeSurvey, n_train: int
) -> tuple[list[RawSpectrum], list[RawSpectrum], pd.DataFrame]:
    """Spectra to learn from, all visits of the first stars; the others; literature of the former.

    Parameters
    ----------
    made : MadeSurvey
    n_train : int
        Rows of the truth whose stars are learned from.
    """
    stars = made.tables["truth"]["source_id"]
    first = stars[:n_train]
    seen = np.isin(stars[made.rows], first)
    both = list(zip(made.spectra, seen, strict=True))
    table = pd.DataFrame(made.tables["reference"])
    return (
        [one for one, learn in both if learn],
        [one for one, learn in both if not learn],
        table[table["source_id"].isin(first)].reset_index(drop=True),
    )


class _Sources:
    """Surface fluxes of the stars of one survey under any gap.

    Most causes leave the physics of the stars alone: those share the fluxes of theory, which are
    kept (0.2 MB a star).
    """

    def __init__(self) -> None:
        self._theory: FluxSource | None = None

    def find(self, gap: DomainGap, seed: int) -> FluxSource:
        if gap.physics_differs:
            return nature_source(gap, seed=seed)
        if self._theory is None:
            self._theory = remember_fluxes(nature_source(DomainGap.none(), seed=seed))
        return self._theory


def remember_fluxes(source: FluxSource) -> FluxSource:
    """The same source, which computes the fluxes of the same labels only once."""
    known: dict[bytes, np.ndarray] = {}

    def fluxes(labels: np.ndarray) -> np.ndarray:
        key = np.asarray(labels, np.float64).tobytes()
        if key not in known:
            known[key] = source.synthesize(labels)
        return known[key]

    return FluxSource(source.wave_aa, fluxes)


def _judge(
    model: ForwardModel, raws: list[RawSpectrum], truth: pd.DataFrame, priors: tuple[Prior, ...]
) -> dict[str, Any]:
    config = FitConfig(priors=priors or ("none",), chunk_size=256, likelihood_labels=False)
    table = tabulate_fit(raws, Fitter(model, config).fit(raws))
    validation = validate_tables(table, truth)
    labels, pulls = recovery_metrics(validation.comparisons), pull_metrics(validation.comparisons)
    return {
        "compared": validation.counts["compared"],
        "flagged": validation.counts["flagged"],
        "labels": {
            name: {
                **{key: labels[name][key] for key in ("bias", "scatter", "e_bias")},
                "pull_width": pulls[name]["width"],
            }
            for name in LABELS
        },
    }


def compare_costs(
    studies: Mapping[str, Mapping[str, Any]], against: str
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What each survey costs beside one that it is held against.

    Parameters
    ----------
    studies : mapping of survey to its study
    against : str
        The survey with which the others are compared.

    Returns
    -------
    dict of survey to dict of fit to dict of label to dict
        ``bias``: by how much the bias differs. ``scatter``: what has to be added in quadrature,
        negative where the scatter is smaller.
    """
    base = studies[against]
    costs: dict[str, Any] = {}
    for name, study in studies.items():
        if name == against:
            continue
        costs[name] = {
            fit: {
                label: {
                    "bias": row["bias"] - base[fit]["labels"][label]["bias"],
                    "scatter": _quadrature(row["scatter"], base[fit]["labels"][label]["scatter"]),
                }
                for label, row in study[fit]["labels"].items()
            }
            for fit in ("theory", "theory_with_priors", "transfer")
        }
    return costs


def render_costs(outcome: Mapping[str, Any]) -> str:
    """What each cause costs as a Markdown table: change of the bias, and added scatter.

    Parameters
    ----------
    outcome : mapping
        Of `GapAblationConfig.run`, or read from metrics.json.
    """
    fits = {"theory": "theory", "transfer": "transfer"}
    columns = [(fit, label) for label in LABELS for fit in fits]
    header = ["cause", *(f"{describe_label(label).axis}, {fits[fit]}" for fit, label in columns)]
    lines = [header, ["---"] * len(header)]
    for name, costs in outcome["costs"].items():
        cells = []
        for fit, label in columns:
            quantity, cost = describe_label(label), costs[fit][label]
            written = (quantity.write(cost[key], signed=True, unit=False) for key in cost)
            cells.append(", ".join(written))
        lines.append([name, *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _quadrature(scatter: float, base: float) -> float:
    square = scatter**2 - base**2
    return math.copysign(math.sqrt(abs(square)), square)
