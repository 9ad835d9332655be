"""Train Cycle-StarNet (paper, section 3.2): intervals of steps, judged, kept, exact to resume."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import (
    TransferData,
    prepare_transfer,
    settle_flux_scale,
    split_for_training,
)
from jaxmdwarf.training.cyclestar.guards import GuardConfig, find_faults
from jaxmdwarf.training.cyclestar.steps import (
    TransferState,
    continue_transfer,
    require_same_shapes,
    start_transfer,
)
from jaxmdwarf.training.cyclestar.validation import Judge, validate_transfer
from jaxmdwarf.training.transfer.domain import ObservedDomain

_SPLIT_ROWS = 4096


@runtime_checkable
class CheckpointStore(Protocol):
    """Where states are kept; `jaxmdwarf.io.checkpoints.Checkpoints` is one."""

    def save(self, step: int, state: Any) -> None:
        """Keep a state."""

    def restore(self, *, like: Any) -> Any:
        """The newest state, or None."""


@dataclass(frozen=True)
class TransferRecord:
    """How training stood after `step` steps.

    Parameters
    ----------
    step : int
    losses : dict
        Means over the interval, under the names of
        `jaxmdwarf.training.cyclestar.losses.generator_loss` and ``train_critic_loss``.
    validation : dict
        Losses of held-out spectra under the same names, and scores: ``gap`` (distance of
        transferred from observed spectra, the brighter half, over that of untransferred ones: 0
        closed, 1 nothing won; see `jaxmdwarf.diagnostics.domain_scores.marginal_distance`),
        ``classifier_accuracy`` and ``classifier_accuracy_none`` (0.5 is perfect),
        ``shared_accuracy`` (of telling the domains apart by their shared latents),
        ``shared_synth_change``, ``shared_obs_change`` and ``split_change`` (of latents by a
        transfer), ``split_explains_shared`` and ``shared_explains_split`` (how much of the physics
        the split latents hold, and what of them is told by it),
        ``slope_cosine_<label>`` (of what a label does to carried flux with what it does to
        theory's).
    iterations_per_s : float
        Of the interval's steps, compilation and validation left out where possible.
    """

    step: int
    losses: dict[str, float]
    validation: dict[str, float]
    iterations_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Flat numbers for one line of a log; validation under ``val_``."""
        held = {f"val_{name}": value for name, value in self.validation.items()}
        rate = round(self.iterations_per_s, 3)
        return {"step": self.step, **self.losses, **held, "iterations_per_s": rate}


@dataclass(frozen=True)
class TransferReport:
    """How a training of Cycle-StarNet went.

    Parameters
    ----------
    records : tuple of TransferRecord
        Of the intervals of this run; those before a resume are in the log.
    steps, kept_step : int
        Steps taken, and the step whose weights were kept.
    stopped_early : bool
        Whether patience ran out before the steps did.
    diverged_at : int or None
        Step by which losses were no longer finite; the weights are those of an earlier step.
    validation : dict
        Losses and scores of held-out spectra with the weights that were kept.
    faults : tuple of str
        Why the weights that were kept are not fit to be a model; empty if they are. See
        `jaxmdwarf.training.cyclestar.guards`.
    n_train, n_validation, n_test, n_labels : int
    iterations_per_s : float
        Median over the intervals.
    """

    records: tuple[TransferRecord, ...]
    steps: int
    kept_step: int
    stopped_early: bool
    diverged_at: int | None
    validation: dict[str, float]
    n_train: int
    n_validation: int
    n_test: int
    n_labels: int
    iterations_per_s: float
    faults: tuple[str, ...] = ()

    def metrics(self) -> dict[str, Any]:
        """Plain numbers under stable names."""
        return {
            "classifier_accuracy": {
                "none": self.validation.get("classifier_accuracy_none", math.nan),
                "transfer": self.validation.get("classifier_accuracy", math.nan),
            },
            "iterations_per_s": self.iterations_per_s,
            "steps": self.steps,
            "kept_step": self.kept_step,
            "stopped_early": self.stopped_early,
            "diverged_at": self.diverged_at,
            "n_train": self.n_train,
            "n_validation": self.n_validation,
            "n_test": self.n_test,
            "n_labels": self.n_labels,
            "faults": list(self.faults),
            "validation": self.validation,
        }


class TrainedTransfer(NamedTuple):
    """A forward model of observed spectra, and how its training went."""

    model: ForwardModel
    report: Any


def train_cyclestar(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: CycleStarConfig | None = None,
    *,
    checkpoints: CheckpointStore | None = None,
    on_interval: Callable[[TransferRecord], None] | None = None,
    judge: Judge | None = None,
    limits: GuardConfig | None = None,
) -> TrainedTransfer:
    """Learn, without labels, to carry synthetic spectra into the observed domain.

    Parameters
    ----------
    emulator : ForwardModel
        Labels to normalised synthetic flux.
    observed : ObservedDomain
        At rest, normalised as the emulator's spectra are; split 8:2:1 here, by ``config.seed``.
    labels : (n_draw, n_label)
        Physical labels, as frequent as among the observed stars, in the emulator's order.
    config : CycleStarConfig, optional
        `CycleStarConfig.held` if left out.
    checkpoints : CheckpointStore, optional
        A state is kept after every interval; training goes on from the newest.
    on_interval : callable, optional
        Called with a `TransferRecord` after each interval, before its state is kept.
    judge : callable, optional
        Further scores of a `ValidationSample`; a ``gap`` among them replaces ours, by which
        training stops and weights are kept.
    limits : GuardConfig, optional
        How far scores may go before the report holds them to be faults.

    Returns
    -------
    TrainedTransfer
        A `jaxmdwarf.models.cyclestar.CycleStarModel` and a `TransferReport`.

    Raises
    ------
    MismatchError
        If there are too few spectra, pixel grids differ, or labels do not fit the emulator.
    WorkFailed
        If training diverges before there is anything to keep.
    """
    config = config or CycleStarConfig.held()
    split = split_for_training(observed.n_spec, config, observed.star)
    data = prepare_transfer(emulator, observed, labels, config, split=split)
    config = settle_flux_scale(config, data)
    state = start_transfer(data, config)
    if checkpoints is not None:
        restored = checkpoints.restore(like=state)
        state = state if restored is None else require_same_shapes(restored, state)
    records: list[TransferRecord] = []
    diverged_at = None
    while int(state.step) < config.schedule.steps and not _out_of_patience(state, config):
        n_step = min(config.schedule.report_every, config.schedule.steps - int(state.step))
        began = time.perf_counter()
        latest, means = continue_transfer(state, data, config, n_step)
        losses = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - began
        if not all(math.isfinite(value) for value in losses.values()):
            diverged_at = int(latest.step)
            break
        scores = validate_transfer(latest, data, config, judge=judge)
        gap = scores.get("gap", math.nan)
        if config.schedule.keep == "sound" and find_faults(scores, limits):
            gap = math.nan
        latest = _keep_best(latest, gap, config.schedule.gap_tolerance)
        record = TransferRecord(int(latest.step), losses, scores, n_step / seconds)
        state = latest
        records.append(record)
        if on_interval is not None:
            on_interval(record)
        if checkpoints is not None:
            checkpoints.save(record.step, state)
    if diverged_at is not None and int(state.step) == 0:
        raise WorkFailed(
            f"training diverged within its first {diverged_at} steps.",
            "lower the learning rates, or clip gradients.",
        )
    best = config.schedule.keep != "last" and int(state.best_step) > 0
    kept = state.best if best else state.average
    model = build_transfer_model(data, config, kept)
    validation = validate_transfer(state._replace(average=kept), data, config, judge=judge)
    judged = dict(validation)
    if best and config.schedule.keep == "sound":
        # Critics are those of the last step; those of this one were found sound when it was taken.
        judged = {name: one for name, one in validation.items() if not name.startswith("critic_")}
    report = TransferReport(
        records=tuple(records),
        steps=int(state.step),
        kept_step=int(state.best_step) if best else int(state.step),
        stopped_early=_out_of_patience(state, config) and int(state.step) < config.schedule.steps,
        diverged_at=diverged_at,
        validation=validation,
        faults=find_faults(judged, limits),
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
        n_labels=len(labels),
        # The first interval also compiles.
        iterations_per_s=float(
            np.median([record.iterations_per_s for record in records[1:] or records])
        )
        if records
        else math.nan,
    )
    return TrainedTransfer(model, report)


def build_transfer_model(
    data: TransferData, config: CycleStarConfig, generator: PyTree
) -> CycleStarModel:
    """The forward model of generator weights: the emulator, then the networks."""
    # Training may round; a model that labels are read from does not, and may be read elsewhere.
    sizes = replace(config.shape(data.flux.shape[1]), precision="float32", convolution="auto")
    model = CycleStarModel(  # type: ignore[call-arg]
        base=data.emulator,
        params=generator,
        mean_split=jnp.zeros((sizes.latent_length, sizes.split_latents), jnp.float32),
        sizes=sizes,
        residual=config.networks.residual,
    )
    flux, ivar = data.flux[:_SPLIT_ROWS], data.ivar[:_SPLIT_ROWS]
    seen = (ivar > 0).any(axis=1)
    split = model.read_context(SpectrumBatch(flux, ivar, ivar, data.emulator.grid))
    mean = jnp.sum(jnp.where(seen[:, None, None], split, 0), axis=0) / jnp.maximum(seen.sum(), 1)
    # Equinox modules are dataclasses, and replace runs their checks again.
    return replace(model, mean_split=mean)


def _out_of_patience(state: TransferState, config: CycleStarConfig) -> bool:
    if config.schedule.patience is None:
        return False
    return int(state.step) - int(state.best_step) >= config.schedule.patience


def _keep_best(state: TransferState, gap: float, tolerance: float = 0.0) -> TransferState:
    """The state with its average as the best, if its gap is the smallest or as good as that."""
    smallest = float(state.best_gap)
    # Without a first gap the smallest is infinite, and a share of it is no number.
    if not (gap < smallest or gap < smallest + tolerance * abs(smallest)):
        return state
    return state._replace(
        best=state.average,
        best_gap=jnp.asarray(min(gap, smallest), jnp.float32),
        best_step=state.step,
    )
