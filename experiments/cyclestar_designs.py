"""Why does adversarial transfer drift, and what holds it? Designs of Cycle-StarNet, by truth.

``python -m experiments cyclestar_designs`` trains and judges; ``python -m
experiments.cyclestar_designs RESULTS`` writes a table of docs/cyclestar.md from what was found, and
with ``--brief`` the README's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.cyclestar_universe import DesignSurvey, StarJudge, Universe, UniverseConfig
from jaxmdwarf.diagnostics.domain_scores import marginal_distance
from jaxmdwarf.diagnostics.residuals import gap_closed
from jaxmdwarf.diagnostics.two_sample import ClassifierConfig, classifier_two_sample_test
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.checkpoints import Checkpoints
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.networks.cyclestar import CycleStarSizes
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import (
    pair_domains,
    prepare_transfer,
    settle_flux_scale,
    split_for_training,
)
from jaxmdwarf.training.cyclestar.guards import find_faults
from jaxmdwarf.training.cyclestar.loop import (
    TransferRecord,
    build_transfer_model,
    train_cyclestar,
)
from jaxmdwarf.training.cyclestar.losses import LossWeights
from jaxmdwarf.training.cyclestar.validation import ValidationSample
from jaxmdwarf.workflows.progress import Progress, Silent

LIMITS = {
    "shared": 0.60,
    "dependence": 0.05,
    "gap_closed": 0.80,
    "scatter": 1.1,
    "bias": {"teff": 12.0, "logg": 0.04, "mh": 0.06},
    "converged": 0.98,
    "unflagged": 0.95,
    "rise": 0.10,
}
"""What is asked of a design."""

REFERENCES = {
    "theory": "theory alone",
    "matched": "`matched`, from distributions alone",
    "anchored": "`matched`, literature's stars as anchors",
    "oracle": "oracle",
}
"""Models that designs are compared with, in words for the table."""

BRIEF = ("theory", "compact", "held", "anchored_held", "oracle")
"""Rows of the README's table."""

PAPER_THINNED = 4
"""By which the channels of the authors' networks are divided: so 100,000 batches take no hours."""


@dataclass(frozen=True)
class Design:
    """One way to train the networks.

    Parameters
    ----------
    words : str
        What it is, for the table.
    changes : dict
        As `CycleStarConfig.vary` takes them.
    recipe : {"compact", "held", "paper"}
        What is changed: that of `CycleStarConfig`. The paper's has `PAPER_THINNED` times fewer
        channels.
    base : {"theory", "matched", "anchored"}
        The model of the synthetic domain; see
        `experiments.cyclestar_universe.DesignSurvey`.
    """

    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: Literal["compact", "held", "paper"] = "compact"
    base: Literal["theory", "matched", "anchored"] = "theory"

    def configure(self, n_pix: int, **common: Any) -> CycleStarConfig:
        """Its training for spectra of `n_pix` pixels; `common` is shared by all designs."""
        config: CycleStarConfig = getattr(CycleStarConfig, self.recipe)(**common)
        if self.recipe == "paper":
            config = config.vary(own_sizes=_thin(CycleStarSizes.original(n_pix), PAPER_THINNED))
        return config.vary(**self.changes)


_HELD = CycleStarConfig.held().losses.constraints

DESIGNS: dict[str, Design] = {
    "compact": Design("compact: equations 4 to 7, critics steadied"),
    "paper": Design(
        f"the paper's recipe, 1/{PAPER_THINNED} of its channels",
        {"batch_size": 8, "keep": "last"},
        recipe="paper",
    ),
    "held": Design("held: 1-6 together", recipe="held"),
    "wide": Design(
        "held, without 1: split latents along the spectrum, no noise or price, leaky ReLU",
        {
            "sizes": "compact",
            "split_noise": 0.0,
            "constraints": replace(_HELD, split_prior=0.0, independence=0.0),
        },
        recipe="held",
    ),
    "unlike": Design(
        "held, without 2: theory without masks and noise, critics see reconstructions",
        {"alike": False, "critics_see": "reconstructions"},
        recipe="held",
    ),
    "unequal": Design(
        "held, without 3: networks start anew", {"equal_start": False}, recipe="held"
    ),
    "loud": Design(
        "held, without 4 and 5: critics free, adversarial weight 1",
        {"spectral_norm": False, "r1": 1.0, "weights": LossWeights(1.0, 1.0, 1.0)},
        recipe="held",
    ),
    "free": Design(
        "held, without 6: slopes free",
        {"constraints": replace(_HELD, slopes=0.0)},
        recipe="held",
    ),
    "apart": Design(
        "held, shared latents not aligned",
        {"constraints": replace(_HELD, alignment=0.0)},
        recipe="held",
    ),
    "samples": Design(
        "held, spectra matched as samples too",
        {"constraints": replace(_HELD, spectra=5.0)},
        recipe="held",
    ),
    "matched_held": Design("held, on `matched`", base="matched", recipe="held"),
    "anchored_held": Design("held, on `matched` with anchors", base="anchored", recipe="held"),
}
"""As it was and as the paper has it; held by all leads, each left out; on top of `matched`."""


def _thin(sizes: CycleStarSizes, by: int) -> CycleStarSizes:
    """The same layers and latents with fewer channels."""
    layers = {
        name: replace(
            getattr(sizes, name), channels=tuple(n // by for n in getattr(sizes, name).channels)
        )
        for name in ("domain", "shared", "critic_flux")
    }
    plain = {
        name: tuple(n // by for n in getattr(sizes, name))
        for name in ("split_channels", "critic_latents")
    }
    return replace(sizes, **layers, **plain)


@dataclass(frozen=True)
class CycleStarDesignsConfig:
    """Designs of Cycle-StarNet trained on simulated surveys, judged by truth as they train.

    For each seed a survey of its own; theory, nature and their emulators are the same for all. Each
    design is trained on it, validated as it trains, and the labels of held-out stars are fitted
    through the networks at some steps and at the one that is kept. A pair of design and seed that
    is done is not done again; a training that was stopped goes on.

    Parameters
    ----------
    out : str
        Folder to write.
    results : str or None
        Folder for one small JSON a design and seed; ``<out>/results`` if left out.
    designs : tuple of str
        Names of `DESIGNS`; all if empty.
    seeds : tuple of int
        One survey each. Seed 21 is what designs were chosen with, as 31 to 33 were at first.
    universe : UniverseConfig
    steps : int
    report_every : int
        Steps between two validations.
    batch_size : int
    label_steps : int
        How often, evenly, labels are fitted while a design trains.
    n_star : int
        Held-out stars whose labels are fitted, at most.
    """

    out: str = "runs/cyclestar_designs"
    results: str | None = None
    designs: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (34, 35, 36)
    universe: UniverseConfig = field(default_factory=UniverseConfig)
    steps: int = 2000
    report_every: int = 250
    batch_size: int = 16
    label_steps: int = 2
    n_star: int = 128

    def __post_init__(self) -> None:
        unknown = sorted(set(self.designs) - set(DESIGNS))
        if unknown:
            raise UsageError(
                f"design {unknown[0]!r} is unknown.", f"use some of {', '.join(DESIGNS)}."
            )
        if min(self.steps, self.report_every, self.label_steps, len(self.seeds)) < 1:
            raise UsageError("steps, intervals and seeds must be at least one.")
        if self.steps % self.label_steps or (self.steps // self.label_steps) % self.report_every:
            raise UsageError(
                f"labels cannot be fitted {self.label_steps} times in {self.steps} steps that are "
                f"reported every {self.report_every}.",
                "choose steps that both divide.",
            )

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """What was found of each design and seed, and whether anything that is asked is missed."""
        progress = progress or Silent()
        out = Path(self.out)
        results = Path(self.results) if self.results else out / "results"
        universe = Universe(out / "universe", self.universe, progress)
        for seed in self.seeds:
            wanted = [
                name
                for name in self.designs or DESIGNS
                if not (results / f"{name}_{seed}.json").is_file()
            ]
            if not wanted and (results / f"references_{seed}.json").is_file():
                continue
            survey = universe.survey(seed)
            judge = StarJudge(survey, seed, self.n_star)
            known = _judge_references(universe, survey, judge, results, seed, progress)
            for name in wanted:
                progress.say(f"design {name}, seed {seed}")
                found = self._train(name, seed, universe, survey, judge, known, out, progress)
                write_json(results / f"{name}_{seed}.json", found)
        found = read_results(results)
        return {"missed": {name: one["missed"] for name, one in summarise(found).items()}}

    def _train(
        self,
        name: str,
        seed: int,
        universe: Universe,
        survey: DesignSurvey,
        judge: StarJudge,
        known: Mapping[str, Any],
        out: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        design = DESIGNS[name]
        base = universe.theory if design.base == "theory" else getattr(survey, design.base)
        config = design.configure(
            base.grid.n_pix,
            steps=self.steps,
            report_every=self.report_every,
            batch_size=self.batch_size,
            validation_rows=256,
            keep="sound",
            seed=seed,
        )
        curve = Curve(out / "training" / f"{name}_{seed}", survey, judge, base, config)
        curve.label_every = self.steps // self.label_steps
        trained = train_cyclestar(
            base,
            survey.domain,
            survey.labels,
            config,
            checkpoints=curve,
            on_interval=curve.note,
            judge=tell_latents_apart,
        )
        report = trained.report
        labels = judge.measure(trained.model)
        labels["gap_closed"] = _close(known, labels)
        return plain_json(
            {
                "design": name,
                "seed": seed,
                "settings": {
                    **asdict(config.losses),
                    "base": design.base,
                    "alike": config.noise.alike,
                    "equal_start": config.networks.equal_start,
                    "recipe": design.recipe,
                    "sizes": config.networks.sizes,
                    "steps": config.schedule.steps,
                    "batch_size": config.optimiser.batch_size,
                    "keep": config.schedule.keep,
                },
                "n_train": report.n_train,
                "kept_step": report.kept_step,
                "faults": report.faults,
                "diverged_at": report.diverged_at,
                "kept": _round(report.validation),
                "labels": labels,
                "curve": curve.lines(),
            }
        )


class Curve:
    """Checkpoints of a training, and with them a line an interval: scores, at some steps labels."""

    def __init__(
        self,
        folder: Path,
        survey: DesignSurvey,
        judge: StarJudge,
        base: ForwardModel,
        config: CycleStarConfig,
    ) -> None:
        self._store = Checkpoints(folder / "checkpoints")
        self._path, self._judge, self._config = folder / "curve.json", judge, config
        self._survey, self._base = survey, base
        self._latest: dict[str, Any] = {}
        self.label_every = config.schedule.steps

    def lines(self) -> list[dict[str, Any]]:
        """What is known so far, in the order of the steps."""
        return json.loads(self._path.read_text()) if self._path.is_file() else []

    def note(self, record: TransferRecord) -> None:
        """Take the scores of an interval."""
        wanted = {**record.validation, "faults": len(find_faults(record.validation))}
        self._latest = {"step": record.step, **_round(wanted)}

    def save(self, step: int, state: Any) -> None:
        """Write the line of an interval, then its state."""
        line = dict(self._latest)
        if step % self.label_every == 0:
            line["labels"] = self._judge.measure(self._build(state.average))
        kept = [old for old in self.lines() if old["step"] < step]
        write_json(self._path, plain_json([*kept, line]))
        self._store.save(step, state)

    def restore(self, *, like: Any) -> Any:
        """The newest state, or None."""
        return self._store.restore(like=like)

    def _build(self, generator: Any) -> ForwardModel:
        domain, labels, config = self._survey.domain, self._survey.labels, self._config
        split = split_for_training(domain.n_spec, config, domain.star)
        # Noise is no part of a model: it need not be learned again for each.
        plain = config.vary(alike=False)
        data = prepare_transfer(self._base, domain, labels, plain, split=split)
        return build_transfer_model(data, settle_flux_scale(config, data), generator)


def tell_latents_apart(sample: ValidationSample) -> dict[str, float]:
    """Accuracy with which two kinds of classifier tell the domains apart by shared latents."""
    apart = _tell_apart(sample.shared_synth, sample.shared_obs)
    return {f"shared_{kind}": accuracy for kind, accuracy in apart.items()}


def compare_spectra(
    theory: ForwardModel, survey: DesignSurvey, models: Mapping[str, ForwardModel], seed: int
) -> dict[str, dict[str, float]]:
    """How far spectra of models are from observed ones: what a perfect transfer would be left with.

    Models make spectra of the labels of the synthetic domain, which are observed as in training:
    masks, errors and noise of the validation spectra. The oracle has nature's physics, and what is
    left of it is what single stars and exposures have and no function of labels.

    Returns
    -------
    dict of str to dict
        ``gap`` (in units of theory's, as validation has it), ``linear`` and ``boosted``: accuracy
        of classifiers.
    """
    config = CycleStarConfig.held(seed=seed)
    split = split_for_training(survey.domain.n_spec, config, survey.domain.star)
    data = prepare_transfer(theory, survey.domain, survey.labels, config, split=split)
    mean, basis = np.asarray(data.mean), np.asarray(data.basis)
    good = np.asarray(data.held_ivar) > 0
    brightness = np.median(np.asarray(data.held_ivar), axis=1)
    bright = brightness >= np.median(brightness)
    found = {}
    for name, model in models.items():
        domains = pair_domains(
            data,
            config,
            model.predict_scaled_batch(data.held_scaled),
            data.held_flux,
            data.held_ivar,
            jax.random.key(seed),
        )
        flux = [np.where(good, one, mean) for one in (domains.obs, domains.synth)]
        clouds = [(one - mean)[bright] @ basis.T for one in flux]
        found[name] = {"gap": marginal_distance(*clouds), **_tell_apart(*flux)}
    without = found["theory"]["gap"]
    return {name: {**one, "gap": one["gap"] / without} for name, one in found.items()}


def _tell_apart(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Accuracy of two kinds of classifier."""
    kinds: tuple[Literal["linear", "boosted"], ...] = ("linear", "boosted")
    return {
        kind: classifier_two_sample_test(
            first, second, config=ClassifierConfig(kind=kind, n_component=16)
        ).accuracy
        for kind in kinds
    }


def _judge_references(
    universe: Universe,
    survey: DesignSurvey,
    judge: StarJudge,
    results: Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Labels by theory, `matched` both ways and the oracle: the same stars and priors."""
    path = results / f"references_{seed}.json"
    if not path.is_file():
        progress.say(f"fits with theory, matched and the oracle, seed {seed}")
        models = {
            "theory": universe.theory,
            "matched": survey.matched,
            "anchored": survey.anchored,
            "oracle": universe.oracle,
        }
        known = {name: judge.measure(model) for name, model in models.items()}
        apart = compare_spectra(universe.theory, survey, models, seed)
        for name in known:
            known[name]["gap_closed"] = _close(known, known[name])
            known[name]["spectra"] = _round(apart[name])
        write_json(path, plain_json({"seed": seed, "universe": universe.config, **known}))
    return json.loads(path.read_text())


def _close(known: Mapping[str, Any], labels: Mapping[str, Any]) -> float:
    """Share of the residual gap from theory to the oracle that is closed."""
    residual = (known["theory"], labels, known["oracle"])
    return gap_closed(*(float(one["residual_sigma"]) for one in residual))


def _round(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All results of a folder by design, in the order of `DESIGNS`; references under their name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("references", *DESIGNS):
        some = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}_[0-9]*.json"))]
        if some:
            found[name] = some
    return found


def summarise(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each design's rows of the table by seed, and which of what is asked it misses.

    Parameters
    ----------
    found : mapping
        Of `read_results`.
    """
    references = {one["seed"]: one for one in found.get("references", ())}
    summary = {}
    for name, some in found.items():
        if name == "references":
            continue
        rows = [_take_rows(one, references[one["seed"]]) for one in some]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        missed = [key for key, values in columns.items() if not _is_met(key, values)]
        summary[name] = {
            "words": DESIGNS[name].words,
            "seeds": [one["seed"] for one in some],
            **columns,
            "missed": missed,
        }
    return summary


def _take_rows(one: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    curve, kept, labels = one["curve"], one["kept"], one["labels"]
    base = "anchored" if one["settings"]["base"] == "anchored" else "matched"
    gaps = [line["gap"] for line in curve if line["gap"] is not None]
    scatter = [line["labels"]["teff"]["scatter"] for line in curve if "labels" in line]
    cosines = [value for name, value in kept.items() if name.startswith("slope_cosine")]
    rows = {
        "gap": kept["gap"],
        # Closed gaps scatter about 0 by some hundredths, of which no share can be taken.
        "gap_rise": (gaps[-1] - min(gaps)) / max(min(gaps), 0.05),
        "scatter_rise": scatter[-1] / min(scatter) - 1,
        "shared_linear": kept["shared_linear"],
        "shared_boosted": kept["shared_boosted"],
        "dependence": kept["shared_explains_split"],
        "split_tells_shared": kept["split_explains_shared"],
        "cosine": min(cosines),
        "gap_closed": labels["gap_closed"],
        "converged": labels["converged"],
        "unflagged": labels["unflagged"],
    }
    for label in LIMITS["bias"]:
        rows[f"bias_{label}"] = labels[label]["bias"]
        rows[f"scatter_{label}"] = labels[label]["scatter"]
        rows[f"ratio_{label}"] = labels[label]["scatter"] / reference[base][label]["scatter"]
    return {key: np.nan if value is None else float(value) for key, value in rows.items()}


def _is_met(key: str, values: Iterable[float]) -> bool:
    """Whether the mean over seeds is within what is asked; rows that ask nothing are met."""
    value = float(np.mean(list(values)))
    if key.startswith("bias_"):
        return abs(value) <= LIMITS["bias"][key.removeprefix("bias_")]
    if key.startswith("ratio_"):
        return value <= LIMITS["scatter"]
    most = {
        "gap_rise": LIMITS["rise"],
        "scatter_rise": LIMITS["rise"],
        "shared_linear": LIMITS["shared"],
        "shared_boosted": LIMITS["shared"],
        "dependence": LIMITS["dependence"],
    }
    if key in most:
        return value <= most[key]
    least = {name: LIMITS[name] for name in ("gap_closed", "converged", "unflagged")}
    return value >= least[key] if key in least else True


def tabulate(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of docs/cyclestar.md: a row a design, mean of the seeds ± their spread."""
    heads = (
        "design", "seeds", "gap at the end / best", "shared told apart: linear / trees",
        "R² of split on shared", "least slope cosine", "residual gap closed",
        "Teff (K)", "log g", "[M/H]", "scatter / `matched`", "converged / unflagged",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, words in REFERENCES.items():
        some = [one[name] for one in found["references"]]
        gap, linear, boosted = (
            np.mean([one["spectra"][key] for one in some]) for key in ("gap", "linear", "boosted")
        )
        apart = f"spectra: {linear:.2f} / {boosted:.2f}"
        cells = [words, _list_seeds(found["references"]), f"{gap:.2f}", apart, "", ""]
        cells.append(_percent([one["gap_closed"] for one in some]))
        cells += [_label(some, label) for label in LIMITS["bias"]]
        lines.append(_row([*cells, "", _shares(some)]))
    for one, some in zip(summarise(found).values(), list(found.values())[1:], strict=True):
        ends = [
            (c[-1]["gap"], min(v["gap"] for v in c if v["gap"] is not None))
            for c in (result["curve"] for result in some)
        ]
        labels = [result["labels"] for result in some]
        lines.append(
            _row(
                [
                    one["words"],
                    _list_seeds(some),
                    " / ".join(f"{np.mean(column):.2f}" for column in zip(*ends, strict=True)),
                    f"{np.mean(one['shared_linear']):.2f} / {np.mean(one['shared_boosted']):.2f}",
                    f"{np.mean(one['dependence']):.2f}",
                    f"{np.mean(one['cosine']):+.3f}",
                    _percent(one["gap_closed"]),
                    *(_label(labels, label) for label in LIMITS["bias"]),
                    ", ".join(f"{np.mean(one[f'ratio_{label}']):.2f}" for label in LIMITS["bias"]),
                    _shares(labels),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def tabulate_briefly(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of the README: bias, its spread over seeds, and scatter by model."""
    heads = ("", "Teff (K)", "log g (dex)", "[M/H] (dex)", "residual gap closed")
    lines = [_row(heads), "|---" * len(heads) + "|"]
    for name in BRIEF:
        known = name in REFERENCES
        some = [
            one[name] if known else one["labels"] for one in found["references" if known else name]
        ]
        words = REFERENCES[name] if known else DESIGNS[name].words
        closed = _percent([one["gap_closed"] for one in some])
        lines.append(_row([words, *(_label(some, label) for label in LIMITS["bias"]), closed]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list_seeds(some: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(one["seed"]) for one in some)


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.0f}{spread} %"


def _label(some: Sequence[Mapping[str, Any]], label: str) -> str:
    """Bias, in brackets its spread over the seeds, and scatter."""
    digits = 0 if label == "teff" else 2
    bias, scatter = ([one[label][key] for one in some] for key in ("bias", "scatter"))
    spread = f" ({np.std(bias, ddof=1):.{digits}f})" if len(some) > 1 else ""
    return f"{np.mean(bias):+.{digits}f}{spread} ± {np.mean(scatter):.{digits}f}"


def _shares(some: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(
        f"{100 * np.mean([one[key] for one in some]):.0f} %" for key in ("converged", "unflagged")
    )


if __name__ == "__main__":
    render = tabulate_briefly if "--brief" in sys.argv else tabulate
    print(render(read_results(Path(sys.argv[1]))), end="")
