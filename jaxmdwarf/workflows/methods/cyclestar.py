"""The paper's networks, on an emulator as it is or on top of a matched correction."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.checkpoints import Checkpoints
from jaxmdwarf.io.json_files import to_json
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import split_for_training
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer, TransferRecord, train_cyclestar
from jaxmdwarf.training.cyclestar.steps import TransferState
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.distil import DistillationConfig, distil_transfer
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.training.transfer.uncorrected import can_be_matched, describe_theory
from jaxmdwarf.workflows.methods.base import MethodOptions, TransferMethod
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.progress import Progress, Silent

LOG_NAME = "metrics.jsonl"
"""One line an interval of the training, in the folder of a run and in the model directory."""

PRESETS = ("held", "compact", "paper")
_DISTILLED_STARS = 4096


@dataclass(frozen=True)
class CycleStar(TransferMethod):
    """Cycle-StarNet (paper, section 3.3), distilled to a surrogate model that fits descend under.

    Parameters
    ----------
    settings : CycleStarConfig
    distillation : DistillationConfig or None
        How a surrogate model is made of the networks, None for none.
    """

    settings: CycleStarConfig = field(default_factory=CycleStarConfig.held)
    distillation: DistillationConfig | None = field(default_factory=DistillationConfig)

    name = "cyclestar"
    matches_distributions = True

    @classmethod
    def build(cls, options: MethodOptions) -> CycleStar:
        """Networks of a preset; `steps` and `batch_size` in place of the preset's."""
        if options.preset not in PRESETS:
            raise UsageError(
                f"preset {options.preset!r} is unknown.", f"use --preset {' or '.join(PRESETS)}."
            )
        settings: CycleStarConfig = getattr(CycleStarConfig, options.preset)(seed=options.seed)
        if options.steps is not None:
            every = min(settings.schedule.report_every, max(options.steps, 1))
            settings = settings.vary(steps=options.steps, report_every=every)
        if options.batch_size is not None:
            settings = settings.vary(batch_size=options.batch_size)
        return cls(settings)

    @property
    def seed(self) -> int:
        """Of the split, the weights and the batches."""
        return self.settings.seed

    def require(self, n_spec: int) -> None:
        """Raise `MismatchError` if there are fewer spectra than batches need."""
        split_for_training(n_spec, self.settings)

    def train(
        self,
        domain: ObservedDomain,
        emulator: ForwardModel,
        labels,
        *,
        reference: ReferenceSample | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> TrainedTransfer:
        """Learn a `jaxmdwarf.models.cyclestar.CycleStarModel`.

        The networks learn from unlabelled spectra alone: `reference` is not used but for `labels`,
        and for the priors that fits through the networks take.
        """
        progress = progress or Silent()
        base = emulator
        config = MatchedConfig(seed=self.seed)
        # Models without a linear head, and few spectra, have to do without priors; a correction
        # has its own.
        if can_be_matched(emulator, domain, config):
            base = describe_theory(emulator, domain, labels, config, reference=reference)
        trained = _train_networks(self.settings, base, domain, labels, folder, progress=progress)
        report = trained.report.metrics()
        if self.distillation is None:
            return trained._replace(report=report)
        model, about = _distil(trained.model, domain, labels, self.distillation, progress)
        return TrainedTransfer(model, {**report, "distillation": about})


@dataclass(frozen=True)
class MatchedThenCycleStar(TransferMethod):
    """The networks on top of a matched correction, so that they have less to learn.

    Parameters
    ----------
    matched : Matched
    networks : CycleStar
    """

    matched: Matched = field(default_factory=Matched)
    networks: CycleStar = field(default_factory=CycleStar)

    name = "matched+cyclestar"
    takes_anchors = True
    matches_distributions = True

    @classmethod
    def build(cls, options: MethodOptions) -> MatchedThenCycleStar:
        """Both by what they make of the same settings."""
        return cls(Matched.build(options), CycleStar.build(options))

    @property
    def seed(self) -> int:
        """Of the networks, by whose split the model is judged."""
        return self.networks.seed

    @property
    def least_common(self) -> int:
        """Of the correction."""
        return self.matched.least_common

    def split(
        self, domain: ObservedDomain, anchored: Bool[np.ndarray, n_spec] | None = None
    ) -> DomainSplit:
        """Of the correction, the only one to learn from anchors."""
        return self.matched.split(domain, anchored)

    def knows_enough(self, domain: ObservedDomain, anchors: AnchorSample) -> bool:
        """Whether the correction can learn from them."""
        return self.matched.knows_enough(domain, anchors)

    def require(self, n_spec: int) -> None:
        """Raise `MismatchError` if there are too few spectra for either."""
        self.matched.require(n_spec)
        self.networks.require(n_spec)

    def train(
        self,
        domain: ObservedDomain,
        emulator: ForwardModel,
        labels,
        *,
        reference: ReferenceSample | None = None,
        anchors: AnchorSample | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> TrainedTransfer:
        """Learn the correction, then the networks; the report of the former is ``matched``."""
        first = self.matched.train(
            domain,
            emulator,
            labels,
            reference=reference,
            anchors=anchors,
            folder=folder,
            progress=progress,
        )
        second = self.networks.train(
            domain,
            first.model,
            labels,
            reference=reference,
            folder=folder,
            progress=progress,
        )
        matched = dict(first.report)
        told = {"anchors": matched.pop("anchors")} if "anchors" in matched else {}
        return TrainedTransfer(second.model, {**second.report, **told, "matched": matched})


class MetricsLog:
    """JSON lines, one a step; steps that are reported again replace what was there.

    A run that was killed between a line and its checkpoint reports that step once more.

    Examples
    --------
    >>> import tempfile
    >>> log = MetricsLog(Path(tempfile.mkdtemp()) / "metrics.jsonl")
    >>> for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
    ...     log.append({"step": step, "loss": loss})
    >>> [line["loss"] for line in log.read()]
    [0.5, 0.3]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last = max((line["step"] for line in self.read()), default=-1)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            # Half a line of a killed run: another one would be appended to it.
            self._keep_before(self._last + 1)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; earlier ones of this step or later are dropped."""
        if line["step"] <= self._last:
            self._keep_before(line["step"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(to_json(line, indent=None))
        self._last = line["step"]

    def _keep_before(self, step: int) -> None:
        kept = [old for old in self.read() if old["step"] < step]
        with write_atomically(self.path) as temporary:
            temporary.write_text("".join(to_json(old, indent=None) for old in kept))

    def read(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class NotedCheckpoints:
    """Checkpoints that say so when training goes on from them.

    Parameters
    ----------
    store : Checkpoints
    progress : Progress
    on_restore : callable
        Gets the step that training goes on from.
    """

    def __init__(self, store: Checkpoints, progress: Progress, on_restore) -> None:
        self._store, self._progress, self._on_restore = store, progress, on_restore

    def save(self, step: int, state: TransferState) -> None:
        """Keep `state`."""
        self._store.save(step, state)

    def restore(self, *, like: TransferState) -> TransferState | None:
        """The newest state, or None."""
        state = self._store.restore(like=like)
        if state is not None:
            self._progress.say(f"resuming after step {int(state.step)}")
            self._on_restore(int(state.step))
        return state


def _train_networks(
    settings: CycleStarConfig,
    emulator: ForwardModel,
    domain: ObservedDomain,
    labels: np.ndarray,
    folder: Path | None,
    *,
    progress: Progress,
) -> TrainedTransfer:
    """Train, and tell how far it is; with a folder, keep a log and go on from checkpoints."""
    log, store = None, None
    if folder is not None:
        store, log = Checkpoints(folder / "checkpoints"), MetricsLog(folder / LOG_NAME)
    with progress.stage(
        "training the networks", float(settings.schedule.steps), unit="steps"
    ) as task:
        done = 0

        def move_to(step: int, note: str = "") -> None:
            nonlocal done
            task.advance(float(step - done), note=note)
            done = step

        def report(record: TransferRecord) -> None:
            if log is not None:
                log.append(record.as_dict())
            move_to(
                record.step,
                f"loss {record.losses['total']:.3g}, gap {record.validation['gap']:.2f}, "
                f"{record.iterations_per_s:.1f} it/s",
            )

        trained = train_cyclestar(
            emulator,
            domain,
            labels,
            settings,
            checkpoints=None if store is None else NotedCheckpoints(store, progress, move_to),
            on_interval=report,
        )
    if trained.report.diverged_at is not None:
        progress.say(
            f"training diverged before step {trained.report.diverged_at}; the model is that of "
            f"step {trained.report.kept_step}."
        )
    return trained


def _distil(
    model: ForwardModel,
    domain: ObservedDomain,
    labels: np.ndarray,
    settings: DistillationConfig,
    progress: Progress,
) -> tuple[CycleStarModel, dict[str, Any]]:
    """The transfer with its surrogate model, and how good that is."""
    assert isinstance(model, CycleStarModel)
    order = np.random.default_rng(settings.seed).permutation(domain.n_spec)
    splits = model.read_context(domain.batch(np.sort(order[:_DISTILLED_STARS])))
    total = float(settings.training.schedule.steps)
    with progress.stage("distilling the networks", total, unit="steps") as task:
        done = 0

        def report(step: int, loss: float) -> None:
            nonlocal done
            task.advance(float(step - done), note=f"held-out error {loss:.3f}")
            done = step

        distilled = distil_transfer(
            model,
            np.asarray(model.label_space.scale(labels), np.float32),
            np.asarray(splits),
            settings,
            on_report=report,
        )
    return distilled.model, distilled.report
