"""From a grid table to a model directory: normalise, train, judge, write."""

import csv
import io
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.checkpoints import Checkpoints
from jaxmdwarf.io.grids.table import ModelGrid, read_grid
from jaxmdwarf.io.json_files import to_json
from jaxmdwarf.io.models import save_model
from jaxmdwarf.io.provenance import gather_provenance, hash_files, hash_values
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, normalise_model
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.training.emulator.accuracy import (
    TrainedEmulator,
    accuracy_over_labels,
    measure_accuracy,
)
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.training.emulator.data import TrainingSet, prepare_training_set
from jaxmdwarf.training.emulator.loop import (
    TrainingState,
    continue_training,
    start_training,
    training_records,
)
from jaxmdwarf.training.emulator.train import build_emulator
from jaxmdwarf.workflows.outputs import require_output
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_output

BESIDE_BYTES = 2_000_000
"""Disk space of figures and metrics."""

CHECKPOINT_SECONDS = 15.0
"""Time between two checkpoints; one more is written when training is interrupted."""

_NORMALISE_ROWS = 256
_LOG_NAME = "training.jsonl"


def train_emulator_files(
    grid_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: EmulatorConfig | None = None,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    masks_aa: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    resume: bool = True,
    overwrite: bool = False,
    figures: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train an emulator on a grid table and write its model directory.

    Parameters
    ----------
    grid_path : path
        A table of `jaxmdwarf.io.grids.table.write_grid`.
    out : path
        Model directory. While training, ``<out>.partial`` beside it holds checkpoints.
    config, sigma_aa, masks_aa, resume, overwrite, figures, progress
        As in `train_grid_emulator`.

    Returns
    -------
    dict
        What the command prints.
    """
    require_output(out, overwrite=overwrite, mark="model.json")
    model_grid = read_grid(grid_path)
    trained, metrics = train_grid_emulator(
        model_grid,
        out,
        config=config,
        sigma_aa=sigma_aa,
        masks_aa=masks_aa,
        resume=resume,
        overwrite=overwrite,
        figures=figures,
        progress=progress,
        source={"grid": Path(grid_path).name, "grid_sha256": hash_files(grid_path)},
    )
    numbers = metrics["emulator"]
    return {
        "out": os.fspath(out),
        "spectra": metrics["counts"]["input"],
        "labels": ", ".join(trained.emulator.label_space.names),
        "eq1_median": numbers["eq1_median"],
        "eq1_p95": numbers["eq1_p95"],
        "steps": numbers["steps"],
        "wall_s": metrics["wall_s"],
        "trained_on_simulation": trained.emulator.preprocessing.simulated,
    }


def train_grid_emulator(
    model_grid: ModelGrid,
    out: str | os.PathLike[str],
    *,
    config: EmulatorConfig | None = None,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    masks_aa: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    resume: bool = True,
    overwrite: bool = False,
    figures: bool = True,
    progress: Progress | None = None,
    source: dict[str, str] | None = None,
) -> tuple[TrainedEmulator, dict[str, Any]]:
    """Train an emulator on a grid in memory and write its model directory.

    The directory gets ``model.json``, ``arrays.npz``, ``metrics.json``, ``training.jsonl`` (one
    line every few steps), ``reconstruction.csv`` (eq. 1 of every spectrum),
    ``reconstruction_by_label.csv`` and two figures.

    Parameters
    ----------
    model_grid : ModelGrid
        Un-normalised spectra.
    out : path
    config : EmulatorConfig, optional
    sigma_aa : float or None
        Width of the pseudo-continuum; None learns the flux in units of its mean.
    masks_aa : sequence of (low, high)
        Windows left out of the pseudo-continuum and of eq. 1.
    resume : bool
        Go on from ``<out>.partial`` if there is one.
    overwrite : bool
        Whether a model that is there, or unfinished work of other settings, may be replaced.
    figures : bool
        Whether to draw.
    progress : Progress, optional
    source : dict, optional
        Where the grid comes from, for the provenance.

    Returns
    -------
    tuple
        The emulator with its report, and what ``metrics.json`` holds.

    Raises
    ------
    UsageError
        Before any work: if `out` exists, cannot be written or is being written by another process,
        its unfinished work is that of other settings, or the grid has no label that varies.
    """
    start = time.perf_counter()
    config, progress, out = config or EmulatorConfig(), progress or Silent(), Path(out)
    require_output(out, overwrite=overwrite, mark="model.json")
    plan = _plan(model_grid, sigma_aa, masks_aa, progress)
    about = {
        "config": config,
        "preprocessing": plan.preprocessing,
        "data": hash_values(model_grid.labels, model_grid.flux),
    }
    with open_output(
        out,
        kind="the training of an emulator",
        about=about,
        mark="model.json",
        overwrite=overwrite,
        resume=resume,
        n_bytes=_estimate_bytes(config, model_grid),
    ) as run:
        trained, state = _learn(model_grid, plan, config, Checkpoints(run.checkpoints), progress)
        metrics = _gather_metrics(model_grid, trained, start)
        save_model(
            trained.emulator,
            out,
            training={"config": asdict(config), **metrics},
            provenance={
                **asdict(gather_provenance()),
                "source": source or {},
                "grid": model_grid.provenance,
            },
            extras={
                "metrics.json": to_json(metrics).encode(),
                _LOG_NAME: _log_text(state, config).encode(),
                **_tables(trained, plan.labels),
                **(_figures(trained, plan.labels, plan.masked) if figures else {}),
            },
        )
    return trained, metrics


def learn_emulator(
    model_grid: ModelGrid,
    *,
    config: EmulatorConfig | None = None,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    masks_aa: Sequence[tuple[float, float]] = PAPER_MASKS_AA,
    progress: Progress | None = None,
) -> tuple[TrainedEmulator, dict[str, Any]]:
    """Train an emulator on a grid in memory; nothing is written.

    Parameters
    ----------
    model_grid, config, sigma_aa, masks_aa, progress
        As in `train_grid_emulator`, whose emulator this is.

    Returns
    -------
    tuple
        The emulator with its report, and numbers under stable names.
    """
    start = time.perf_counter()
    config, progress = config or EmulatorConfig(), progress or Silent()
    plan = _plan(model_grid, sigma_aa, masks_aa, progress)
    trained, _ = _learn(model_grid, plan, config, None, progress)
    return trained, _gather_metrics(model_grid, trained, start)


def _estimate_bytes(config: EmulatorConfig, model_grid: ModelGrid) -> int:
    """Disk space of the model and of two checkpoints, each with the moments of the optimiser."""
    hidden, n_pix = config.network.hidden, model_grid.grid.n_pix
    n_head = config.network.rank or hidden[-1]
    n_weight = sum(one * other for one, other in pairwise((*hidden, n_head)))
    # Of a linear head the network learns coefficients alone.
    n_learned = n_weight + (0 if config.network.rank else n_head * n_pix)
    return BESIDE_BYTES + 4 * (2 * 4 * n_learned + n_weight + n_head * n_pix)


class _Plan(NamedTuple):
    """What is learned of a grid: labels that vary, and what is done to its spectra."""

    labels: np.ndarray
    label_space: LabelSpace
    preprocessing: Preprocessing
    masked: np.ndarray


def _plan(
    model_grid: ModelGrid,
    sigma_aa: float | None,
    masks_aa: Sequence[tuple[float, float]],
    progress: Progress,
) -> _Plan:
    labels, label_space = _varying_labels(model_grid, progress)
    preprocessing = Preprocessing(
        sigma_aa=sigma_aa,
        masks_aa=tuple((float(low), float(high)) for low, high in masks_aa),
        resolving_power=float(model_grid.resolution),
        simulated=model_grid.kind == "simulated",
    )
    masked = mask_for(model_grid.grid, preprocessing.masks_aa)
    return _Plan(labels, label_space, preprocessing, masked)


def _learn(
    model_grid: ModelGrid,
    plan: _Plan,
    config: EmulatorConfig,
    checkpoints: Checkpoints | None,
    progress: Progress,
) -> tuple[TrainedEmulator, TrainingState]:
    """Normalise, train, judge."""
    flux = normalise_grid(model_grid, sigma_aa=plan.preprocessing.sigma_aa, masked=plan.masked)
    training_set = prepare_training_set(
        plan.labels, flux, label_space=plan.label_space, grid=model_grid.grid, config=config
    )
    state = _train(training_set, config, checkpoints, progress)
    emulator = build_emulator(
        training_set,
        config,
        state,
        label_space=plan.label_space,
        grid=model_grid.grid,
        preprocessing=plan.preprocessing,
    )
    trained = measure_accuracy(
        emulator, training_set, config, state, labels=plan.labels, flux=flux, good=~plan.masked
    )
    return trained, state


def _gather_metrics(
    model_grid: ModelGrid, trained: TrainedEmulator, start: float
) -> dict[str, Any]:
    return {
        "wall_s": round(time.perf_counter() - start, 3),
        "counts": {"input": model_grid.n_spec},
        "emulator": trained.report.metrics(),
    }


def normalise_grid(
    model_grid: ModelGrid,
    *,
    sigma_aa: float | None,
    masked: Bool[np.ndarray, "n_pix"],
) -> Float[np.ndarray, "n n_pix"]:
    """Spectra of a grid over their pseudo-continuum (or their mean), float32, on the host.

    Raises
    ------
    MismatchError
        If a spectrum is not positive everywhere.
    """
    import jax

    lowest = model_grid.flux.min(axis=1)
    if not (lowest > 0).all():
        row = int(np.argmin(lowest))
        name = model_grid.sources[row] if model_grid.sources else f"row {row}"
        raise MismatchError(
            f"{int((lowest <= 0).sum())} spectra of the grid are not positive everywhere, "
            f"{name} among them.",
            "drop these spectra from the grid.",
        )
    # Fluxes at the surface of a star exceed what float32 can square; the scale never matters.
    flux = model_grid.flux / model_grid.flux.mean(axis=1, keepdims=True, dtype=np.float64)
    flux = flux.astype(np.float32)
    if sigma_aa is None:
        return flux

    @jax.jit
    def normalise_rows(rows):
        return normalise_model(rows, model_grid.grid, sigma_aa=sigma_aa, window=masked)

    for start in range(0, len(flux), _NORMALISE_ROWS):
        rows = flux[start : start + _NORMALISE_ROWS]
        flux[start : start + _NORMALISE_ROWS] = np.asarray(normalise_rows(rows))
    return flux


def _train(
    training_set: TrainingSet,
    config: EmulatorConfig,
    checkpoints: Checkpoints | None,
    progress: Progress,
) -> TrainingState:
    """Train to the end, from the last checkpoint if there is one; leave one if interrupted."""
    state = start_training(training_set, config)
    restored = None if checkpoints is None else checkpoints.restore(like=state)
    if restored is not None:
        state = restored
        progress.say(f"resuming after step {int(state.step)} of {config.schedule.steps}")
    done, saved_at = int(state.step), time.monotonic()
    steps = float(config.schedule.steps)
    with progress.stage("training", steps, unit="steps", done=float(done)) as task:
        try:
            for latest, record in continue_training(training_set, config, state):
                state = latest
                note = f"held-out {100.0 * record.held_loss:.2f} % of the variation"
                task.advance(float(record.step - done), note=note)
                done = record.step
                due = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if checkpoints is not None and due:
                    _keep(checkpoints, state, config)
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            if checkpoints is not None:
                _keep(checkpoints, state, config)
            raise
    return state


def _keep(checkpoints: Checkpoints, state: TrainingState, config: EmulatorConfig) -> None:
    checkpoints.save(int(state.step), state)
    (checkpoints.folder / _LOG_NAME).write_text(_log_text(state, config), encoding="utf-8")


def _log_text(state: TrainingState, config: EmulatorConfig) -> str:
    return "".join(to_json(record, indent=None) for record in training_records(state, config))


def _varying_labels(
    model_grid: ModelGrid, progress: Progress
) -> tuple[Float[np.ndarray, "n n_label"], LabelSpace]:
    """Labels that differ between spectra, in bounds that hold the grid: no extrapolation."""
    space, labels = model_grid.label_space, model_grid.labels
    varies = np.ptp(labels, axis=0) > 0
    if not varies.any():
        raise UsageError("all spectra of the grid have the same labels.", "give a larger grid.")
    for name, value in zip(np.array(space.names)[~varies], labels[0, ~varies], strict=True):
        progress.say(f"{name} is {value:g} in all spectra: the model will not have this label")
    kept = np.flatnonzero(varies)
    names, units = (tuple(words[k] for k in kept) for words in (space.names, space.units))
    return labels[:, kept], LabelSpace.bounding(names, units, labels[:, kept])


def _tables(trained: TrainedEmulator, labels: np.ndarray) -> dict[str, bytes]:
    names, report = trained.emulator.label_space.names, trained.report
    spectra = [
        [*(repr(float(value)) for value in row), f"{error:.6g}", f"{head:.6g}", int(held)]
        for row, error, head, held in zip(
            labels, report.error, report.truncation, report.held_out, strict=True
        )
    ]
    held = report.held_out
    slices = accuracy_over_labels(labels[held], report.error[held], names)
    return {
        "reconstruction.csv": _csv([*names, "eq1", "eq1_head", "held_out"], spectra),
        "reconstruction_by_label.csv": _csv(
            list(slices[0]), [list(row.values()) for row in slices]
        ),
    }


def _csv(header: list[str], rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _figures(trained: TrainedEmulator, labels: np.ndarray, masked: np.ndarray) -> dict[str, bytes]:
    from jaxmdwarf.plots.emulator import plot_pixel_error, plot_reconstruction

    emulator, held = trained.emulator, trained.report.held_out
    space = emulator.label_space
    drawn = {
        "reconstruction.png": plot_reconstruction(
            labels[held], trained.report.error[held], names=space.names, units=space.units
        ),
        "pixel_error.png": plot_pixel_error(
            emulator.grid.wave_aa, np.asarray(emulator.model_error), masked
        ),
    }
    files = {}
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        files[name] = buffer.getvalue()
    return files
