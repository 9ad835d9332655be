"""The whole comparison: surveys, peers, judgement, one JSON file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.common import Estimate, Labeller, tune
from benchmarks.peers.judge import judge_all, list_behind
from benchmarks.peers.methods import OURS, OWN, PEERS, UNTOLD, describe_row, list_own
from benchmarks.peers.survey import Case, CaseConfig, prepare_case
from benchmarks.results_io import count_cpu_seconds
from jaxmdwarf.diagnostics.recovery import measure_recovery
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.workflows.progress import Progress

RESULT = Path(__file__).parents[1] / "results" / "peers" / "peers.json"


class Answer(NamedTuple):
    """What a method says of the stars of one survey.

    Parameters
    ----------
    estimate : Estimate
    cpu_s : float
        Processor time for these stars, training left out, compilation within.
    option : str
        That its validation chose.
    scores : dict of str to float
        By option.
    """

    estimate: Estimate
    cpu_s: float
    option: str = ""
    scores: dict[str, float] = {}  # noqa: RUF012

    def write(self, path: Path) -> None:
        """Keep it, for a run that goes on."""
        labels, errors = (
            {name: np.asarray(values).tolist() for name, values in table.items()}
            for table in self.estimate
        )
        about = {"cpu_s": self.cpu_s, "option": self.option, "scores": self.scores}
        write_json(path, {**about, "labels": labels, "errors": errors}, indent=None)

    @classmethod
    def read(cls, path: Path) -> Answer:
        """What `write` kept; NaN where there was no number."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        tables = (
            {name: np.array(values, float) for name, values in kept[part].items()}
            for part in ("labels", "errors")
        )
        return cls(Estimate(*tables), kept["cpu_s"], kept["option"], kept["scores"])


def compare_peers(
    root: Path,
    seeds: Sequence[int],
    config: CaseConfig,
    *,
    methods: Sequence[str] = (),
    cyclestar_steps: int = 0,
    progress: Progress,
) -> dict[str, Any]:
    """Run all methods on the surveys of some seeds.

    Parameters
    ----------
    root : Path
        Folder for surveys, models and what methods said; what is there is not done again.
    seeds : sequence of int
    config : CaseConfig
    methods : sequence of str
        Peers to run; all by default. The package itself always is.
    cyclestar_steps : int
        Batches of 8 that the paper's networks are trained on, of its 500,000; 0 leaves them out.
    progress : Progress

    Returns
    -------
    dict
        What the page is rendered from.

    Raises
    ------
    UsageError
        If `root` holds another comparison, or a method is unknown.
    """
    unknown = [name for name in methods if name not in PEERS]
    if unknown:
        raise UsageError(f"there is no peer {unknown[0]}.", f"choose some of {', '.join(PEERS)}.")
    _require_same(root, config)
    chosen = [name for name in PEERS if not methods or name in methods]
    answers: dict[str, list[Answer]] = {}
    truths, snrs = [], []
    for seed in seeds:
        case = prepare_case(root, seed, config, progress)
        truths.append(case.truth)
        snrs.append(case.snr)
        for name, ask in _list_calls(case, chosen, cyclestar_steps).items():
            kept = root / str(seed) / "answers" / f"{name.replace(' ', '_')}.json"
            if not kept.is_file():
                progress.say(f"survey {seed}: {describe_row(name)['title']}")
                kept.parent.mkdir(exist_ok=True)
                ask().write(kept)
            answers.setdefault(name, []).append(Answer.read(kept))
    truth = {name: np.concatenate([one[name] for one in truths]) for name in truths[0]}
    return summarise(answers, truth, snrs, seeds, config)


def summarise(
    answers: dict[str, list[Answer]],
    truth: dict[str, np.ndarray],
    snrs: list[np.ndarray],
    seeds: Sequence[int],
    config: CaseConfig,
) -> dict[str, Any]:
    """Numbers of all surveys together, and of each by itself.

    Parameters
    ----------
    answers : dict of method to list of Answer
        One for each seed.
    truth : dict of label to (n,)
        Of the stars of all seeds, in order.
    snrs : list of (n_seed,)
    seeds : sequence of int
    config : CaseConfig
    """
    joined = {name: _join([one.estimate for one in said]) for name, said in answers.items()}
    judged = judge_all(joined, truth, np.concatenate(snrs))
    ends = np.cumsum([0, *(snr.size for snr in snrs)])
    by_seed = {
        str(seed): {
            name: {
                label: measure_recovery(values - truth[label][some])._asdict()
                for label, values in said[number].estimate.labels.items()
            }
            for name, said in answers.items()
        }
        for number, (seed, some) in enumerate(
            zip(seeds, itertools.starmap(slice, itertools.pairwise(ends)), strict=True)
        )
    }
    methods = [
        {
            "name": name,
            **describe_row(name),
            "options": [one.option for one in said],
            "scores": [one.scores for one in said],
            # Programs that the first survey compiled serve the others.
            "stars_per_cpu_s": max(
                snr.size / max(one.cpu_s, 1e-9) for one, snr in zip(said, snrs, strict=True)
            ),
            "missing": _share_missing(joined[name]),
            "labels": judged[name],
        }
        for name, said in answers.items()
    ]
    return plain_json(
        {
            "config": {"seeds": list(seeds), **asdict(config)},
            "stars": [snr.size for snr in snrs],
            "methods": methods,
            "ahead_of": {
                name: list_behind(judged, name, [row for row in judged if row not in OWN])
                for name in (OURS, UNTOLD)
                if name in judged
            },
            "by_seed": by_seed,
        }
    )


def _list_calls(
    case: Case, chosen: Sequence[str], cyclestar_steps: int
) -> dict[str, Callable[[], Answer]]:
    """What asks each method for the labels of a case, by row."""
    peers = {name: lambda name=name: _ask_peer(name, case) for name in chosen}
    own = {
        name: lambda learn=learn: _ask(learn(), case)
        for name, learn in list_own(case, cyclestar_steps).items()
    }
    return {**peers, **own}


def _ask_peer(name: str, case: Case) -> Answer:
    peer = PEERS[name]
    tuned = tune(peer, case.training)
    label = peer.train(case.training, tuned.option)
    option = "" if tuned.option is None else str(tuned.option)
    return _ask(label, case)._replace(option=option, scores=tuned.scores)


def _ask(label: Labeller, case: Case) -> Answer:
    began = count_cpu_seconds()
    estimate = label(case.judged)
    return Answer(estimate, count_cpu_seconds() - began)


def _join(parts: Sequence[Estimate]) -> Estimate:
    """All surveys; labels that a method's validation left out for one of them are left out."""
    labels, errors = (
        {
            name: np.concatenate([table[name] for table in tables])
            for name in tables[0]
            if all(name in table for table in tables)
        }
        for tables in ([part.labels for part in parts], [part.errors for part in parts])
    )
    return Estimate(labels, errors)


def _share_missing(estimate: Estimate) -> float:
    return round(float(np.mean(~np.isfinite(np.stack(list(estimate.labels.values()))))), 4)


def _require_same(root: Path, config: CaseConfig) -> None:
    """Raise `UsageError` if the folder holds what other settings made."""
    about, now = root / "config.json", plain_json(asdict(config))
    root.mkdir(parents=True, exist_ok=True)
    if about.is_file() and json.loads(about.read_text(encoding="utf-8")) != now:
        raise UsageError(f"{root} holds a comparison of other settings.", "give another --out.")
    write_json(about, now)
