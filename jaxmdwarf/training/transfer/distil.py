"""Distil a transfer: a small network learns what the large ones do to theory's flux.

The large networks are shown labels and split latents as stars may have them; the difference between
what they return and theory's own flux is learned as an emulator learns spectra.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.distilled import Distillate
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.emulator.data import TrainingSet, project_vectors
from jaxmdwarf.training.emulator.loop import (
    TrainingState,
    continue_training,
    fold_head,
    start_training,
)

_ROWS_AT_ONCE = 64
_EDGE_SIGMA = 3.0


@dataclass(frozen=True)
class DistillationConfig:
    """How a transfer is distilled.

    Parameters
    ----------
    n_spectra : int
        Spectra that are made by the large networks to learn from.
    n_components : int
        Strongest components of the split latents that the small network is given.
    uniform_share : float
        Share of the spectra whose labels are drawn from the whole label space, where a descent may
        pass; the others have labels as the stars of the synthetic domain.
    training : EmulatorConfig
        Of the small network.
    seed : int
        Of the draws.
    """

    n_spectra: int = 8192
    n_components: int = 8
    uniform_share: float = 0.3
    training: EmulatorConfig = field(
        default_factory=lambda: EmulatorConfig(
            network=NetworkConfig(hidden=(192, 192), rank=32),
            optimiser=OptimiserConfig(batch_size=512, learning_rate=4e-3, averaging=0.995),
            schedule=ScheduleConfig(steps=6000, report_every=250, patience=3000),
            validation_fraction=0.1,
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_spectra < 20 or self.n_components < 1:
            raise UsageError(
                f"{self.n_spectra} spectra and {self.n_components} components are too few to learn."
            )
        if not 0 <= self.uniform_share <= 1:
            raise UsageError(f"uniform_share {self.uniform_share} is not within 0 and 1.")


class Distilled(NamedTuple):
    """A transfer that knows an accurate surrogate, and how good that is.

    Parameters
    ----------
    model : CycleStarModel
    report : dict
        ``rms`` and ``p95`` of the flux error of held-out spectra (root mean square over pixels; of
        all, and the 95th percentile), ``untouched_rms`` of theory alone for comparison, ``steps``,
        ``wall_s``.
    """

    model: CycleStarModel
    report: dict[str, Any]


def distil_transfer(
    model: CycleStarModel,
    scaled: Float[np.ndarray, "n_draw n_label"],
    splits: Float[np.ndarray, "n_star length c_split"],
    config: DistillationConfig | None = None,
    *,
    on_report: Callable[[int, float], None] | None = None,
) -> Distilled:
    """Learn an accurate surrogate of a transfer.

    Parameters
    ----------
    model : CycleStarModel
    scaled : (n_draw, n_label)
        Scaled labels of the synthetic domain.
    splits : (n_star, length, c_split)
        Split latents of observed spectra (`CycleStarModel.read_context`).
    config : DistillationConfig, optional
    on_report : callable, optional
        Called with the step and the held-out loss.

    Returns
    -------
    Distilled

    Raises
    ------
    MismatchError
        If there are no labels or latents, or latents of another model.
    """
    config, began = config or DistillationConfig(), time.perf_counter()
    splits = np.asarray(splits, np.float32)
    if splits.shape[1:] != model.mean_split.shape or not len(splits) or not len(scaled):
        raise MismatchError(
            f"split latents {splits.shape} and labels {np.shape(scaled)} are not those of stars "
            f"under this model, whose latents have shape {model.mean_split.shape}.",
            "read them with the model's own read_context.",
        )
    labels, split = _draw(np.asarray(scaled, np.float32), splits, config)
    projection = _project_splits(splits - np.asarray(model.mean_split), config.n_components)
    difference = _differences(model, labels, split)
    away = (split - np.asarray(model.mean_split)).reshape(len(split), -1)
    components = np.clip(away @ projection, -0.5, 0.5)
    data = project_vectors(np.hstack([labels, components]), difference, config.training)
    state = start_training(data, config.training)
    for latest, record in continue_training(data, config.training, state):
        state = latest
        if on_report is not None:
            on_report(record.step, record.held_loss)
    head = _build_head(model, data, state, projection, config.training)
    return Distilled(
        eqx.tree_at(lambda m: m.distillate, model, head, is_leaf=lambda x: x is None),
        {
            **_judge(head, data, difference, labels, components),
            "n_spectra": len(labels),
            "n_components": projection.shape[1],
            "rank": head.basis.shape[0],
            "steps": int(state.step),
            "wall_s": round(time.perf_counter() - began, 2),
        },
    )


def _draw(scaled, splits, config: DistillationConfig) -> tuple[np.ndarray, np.ndarray]:
    """Labels and split latents, independent of each other, to learn from."""
    rng = np.random.default_rng(config.seed)
    n_uniform = round(config.uniform_share * config.n_spectra)
    anywhere = rng.uniform(-0.5, 0.5, (n_uniform, scaled.shape[1])).astype(np.float32)
    likely = scaled[rng.integers(0, len(scaled), config.n_spectra - n_uniform)]
    # Stars of the survey scatter about the draws by their own errors.
    likely = likely + rng.normal(0, 0.03, likely.shape).astype(np.float32)
    labels = np.concatenate([anywhere, np.clip(likely, -0.5, 0.5)])
    return labels, splits[rng.integers(0, len(splits), len(labels))]


def _project_splits(away: np.ndarray, n_component: int) -> np.ndarray:
    """Deviations of split latents to components that are within one half for nearly all stars."""
    flat = away.reshape(len(away), -1).astype(np.float64)
    strength, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    strength, vectors = strength[::-1][:n_component], vectors[:, ::-1][:, :n_component]
    kept = strength > 1e-8 * max(strength[0], 1e-30)
    if not kept.any():
        return np.zeros((flat.shape[1], 1), np.float32)
    scale = 0.5 / (_EDGE_SIGMA * np.sqrt(strength[kept]))
    return (vectors[:, kept] * scale).astype(np.float32)


def _differences(model: CycleStarModel, labels: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Transferred less theory's flux, a batch at a time."""
    found = np.empty((len(labels), model.grid.n_pix), np.float32)
    for first in range(0, len(labels), _ROWS_AT_ONCE):
        # One compiled shape: the last batch overlaps the one before it.
        rows = np.arange(_ROWS_AT_ONCE) + min(first, max(len(labels) - _ROWS_AT_ONCE, 0))
        rows = rows % len(labels)
        found[rows] = _difference(model, labels[rows], split[rows])
    return found


@eqx.filter_jit
def _difference(model, scaled, split) -> Float[Array, "n n_pix"]:
    synth = model.base.predict_scaled_batch(scaled)
    return model.transfer_to_observed(synth, split) - synth


def _build_head(
    model: CycleStarModel,
    data: TrainingSet,
    state: TrainingState,
    projection: np.ndarray,
    config: EmulatorConfig,
) -> Distillate:
    network, params, basis, mean = fold_head(data, config, state)
    return Distillate(  # type: ignore[call-arg]
        params=params,
        basis=basis,
        mean=mean,
        split_mean=model.mean_split,
        projection=jnp.asarray(projection),
        network=network,
    )


def _judge(head, data: TrainingSet, difference, labels, components) -> dict[str, float]:
    """Errors of the flux of held-out spectra."""
    held = data.held_rows
    found = head.coefficients(jnp.asarray(labels[held]), jnp.asarray(components[held]))
    error = np.asarray(head.mean + found @ head.basis) - difference[held]
    each = np.sqrt(np.mean(error.astype(np.float64) ** 2, axis=1))
    return {
        "rms": float(np.sqrt(np.mean(each**2))),
        "p95": float(np.percentile(each, 95)),
        "untouched_rms": float(np.sqrt(np.mean(difference[held].astype(np.float64) ** 2))),
    }
