"""From observed files and an emulator to a forward model of observed spectra."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from jaxmdwarf.diagnostics.matching import match_by_position
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.checkpoints import Checkpoints
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.io.provenance import gather_provenance, hash_files
from jaxmdwarf.io.references import read_references
from jaxmdwarf.io.rejects import name_rejects_file
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.training.cyclestar.config import CycleStarTraining
from jaxmdwarf.training.cyclestar.data import split_for_training
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer, TransferRecord, train_cyclestar
from jaxmdwarf.training.cyclestar.steps import TransferState
from jaxmdwarf.training.labels.codistribution import check_overlap
from jaxmdwarf.training.labels.training_set import TrainingSetConfig, sample_training_labels
from jaxmdwarf.training.transfer.distil import Distillation, distil_transfer
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.matched import MatchedConfig, ReferenceSample, train_matched
from jaxmdwarf.workflows.observed import (
    ObservedConfig,
    PreparedSpectra,
    digest_model,
    prepare_observed,
)
from jaxmdwarf.workflows.progress import Progress, Silent

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("matched", "cyclestar", "matched+cyclestar")
LOG_NAME = "metrics.jsonl"
_DISTILLED_STARS = 4096
TRAINING_LABELS = ("teff", "logg", "mh", "alpha_m")

__all__ = [
    "METHODS",
    "MetricsLog",
    "ObservedConfig",
    "PreparedSpectra",
    "TransferConfig",
    "prepare_observed",
    "train_by_method",
    "train_transfer_files",
]


@dataclass(frozen=True)
class TransferConfig:
    """How a transfer is trained from files.

    Parameters
    ----------
    method : {"matched", "cyclestar", "matched+cyclestar"}
        A correction learned from matched label distributions, the paper's networks, or the
        networks on top of the correction.
    observed : ObservedConfig
        Which spectra make the observed domain.
    cyclestar : CycleStarTraining
    matched : MatchedConfig, optional
        See `jaxmdwarf.training.transfer.matched`; its defaults if left out.
    distillation : Distillation or None
        How a shortcut for fits is made of the networks, None for none.
    labels : TrainingSetConfig
        How labels of the synthetic domain are drawn.
    n_draws : int
        Draws of the mixture; the paper has more than a million.
    min_overlap : float
        Least overlap of the labels that the emulator alone finds with those of the synthetic
        domain; see `jaxmdwarf.training.labels.codistribution.check_overlap`.
    seed : int
        Of the label draws.
    """

    method: Literal["matched", "cyclestar", "matched+cyclestar"] = "matched"
    observed: ObservedConfig = field(default_factory=ObservedConfig)
    cyclestar: CycleStarTraining = field(default_factory=CycleStarTraining.compact)
    matched: MatchedConfig | None = None
    distillation: Distillation | None = field(default_factory=Distillation)
    labels: TrainingSetConfig = field(default_factory=TrainingSetConfig)
    n_draws: int = 1_000_000
    min_overlap: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"method {self.method!r} is unknown.", f"use one of {', '.join(METHODS)}."
            )


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

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; earlier ones of this step or later are dropped."""
        if line["step"] <= self._last:
            kept = [old for old in self.read() if old["step"] < line["step"]]
            with write_atomically(self.path) as temporary:
                temporary.write_text("".join(json.dumps(old) + "\n" for old in kept))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._last = line["step"]

    def read(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def clear(self) -> None:
        """Forget all lines."""
        self.path.unlink(missing_ok=True)
        self._last = -1


def train_transfer_files(
    files: Sequence[str | os.PathLike[str]],
    emulator_dir: str | os.PathLike[str],
    reference: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    out: str | os.PathLike[str],
    config: TransferConfig | None = None,
    *,
    isochrones: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    cache: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a transfer on spectra in files and write its model directory.

    The directory gets ``model.json``, ``arrays.npz``, ``metrics.json``, ``metrics.jsonl`` (one line
    an interval of the networks' training) and ``observed.parquet`` (the spectra that were used,
    with the labels of the emulator alone). Inputs that were not used go to ``<out>_rejects.csv``.

    Parameters
    ----------
    files : sequence of path
        Observed spectra: files, folders, patterns and ``@lists``.
    emulator_dir : path
        Model directory of the emulator.
    reference : path, sequence of path or None
        Tables of literature labels (`jaxmdwarf.io.references.read_references`); without one the
        synthetic domain is as the isochrones have it.
    out : path
        Model directory to write. While training, ``<out>.partial`` beside it holds the spectra at
        rest, checkpoints and the log.
    config : TransferConfig, optional
    isochrones : path, sequence of path or None
        PARSEC or MIST tables; the embedded relation if left out.
    cache : path, optional
        Folder for the spectra at rest, which stays: trainings on the same spectra share it.
    processes : int, optional
        Reader processes; None takes all cores.
    command : sequence of str, optional
        Command line for the provenance.
    resume : bool
        Go on from the checkpoints in ``<out>.partial``; the spectra there are used either way.
    progress : Progress, optional

    Returns
    -------
    dict
        What the command prints.

    Raises
    ------
    UsageError
        If `out` cannot be a model directory, or checkpoints of other settings are in the way, or
        labels of the two domains do not overlap.
    MismatchError
        If there are too few usable spectra.
    WorkFailed
        If no spectrum is usable, or training diverges at once.
    """
    began = time.perf_counter()
    config, progress, out = config or TransferConfig(), progress or Silent(), Path(out)
    # Told before hours of training, not after.
    if out.exists() and not (out / "model.json").is_file():
        raise UsageError(
            f"{out} exists and is not a model; it was left alone.", "give another output path."
        )
    _hash_tables(reference), _hash_tables(isochrones)
    emulator = load_model(emulator_dir)
    partial, rejects_file = Path(f"{out}.partial"), name_rejects_file(out)
    prepared = prepare_observed(
        files,
        emulator,
        config.observed,
        progress,
        cache=cache or partial / "observed",
        rejects_file=rejects_file,
        leave_out=(out, partial, rejects_file, emulator_dir),
        processes=processes,
    )
    progress.say(f"{prepared.domain.n_spec} of {prepared.n_in} spectra are usable.")
    if "cyclestar" in config.method:
        split_for_training(prepared.domain.n_spec, config.cyclestar)
    table = None if reference is None else read_references(reference)
    sample = None if table is None else choose_reference(prepared.table, table, config)
    labels, label_report = _sample_labels(table, reference, isochrones, config, partial, progress)
    wanted = _choose_columns(emulator, labels)
    overlap = _check_labels(prepared, labels, config)
    trained, metrics = train_by_method(
        emulator,
        prepared.domain,
        wanted,
        config,
        reference=sample,
        folder=partial,
        resume=resume,
        progress=progress,
    )
    everything = {
        "wall_s": round(time.perf_counter() - began, 3),
        "counts": {
            "input": prepared.n_in,
            "used": prepared.domain.n_spec,
            "rejected": len(prepared.rejects),
        },
        "transfer": {"method": config.method, **metrics},
        "training_labels": {**label_report, "overlap_with_observed": overlap},
    }
    log = partial / LOG_NAME
    save_model(
        trained.model,
        out,
        training={"config": asdict(config), **everything},
        provenance={
            **asdict(gather_provenance(command=command, model=emulator_dir)),
            "source": {
                "emulator": Path(emulator_dir).name,
                "reference": _name_tables(reference),
                "isochrones": _name_tables(isochrones),
            },
        },
        extras={
            "metrics.json": (json.dumps(_finite(everything), indent=2) + "\n").encode(),
            LOG_NAME: log.read_bytes() if log.exists() else b"",
            "observed.parquet": _as_parquet(
                prepared.table.assign(part=_name_parts(prepared, config))
            ),
        },
    )
    shutil.rmtree(partial, ignore_errors=True)
    return {
        "out": os.fspath(out),
        "inputs": prepared.n_in,
        "used": prepared.domain.n_spec,
        "rejected": len(prepared.rejects),
        "method": config.method,
        **{name: value for name, value in metrics.items() if isinstance(value, int | float | str)},
        "rejects": os.fspath(rejects_file),
        "wall_s": round(time.perf_counter() - began, 2),
    }


def train_by_method(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: TransferConfig,
    *,
    reference: ReferenceSample | None = None,
    folder: str | os.PathLike[str],
    resume: bool = True,
    progress: Progress | None = None,
) -> tuple[TrainedTransfer, dict[str, Any]]:
    """Train a transfer on what is in memory.

    Parameters
    ----------
    emulator : ForwardModel
    observed : ObservedDomain
    labels : (n_draw, n_label)
        Draws of the synthetic domain, in the emulator's order.
    config : TransferConfig
    reference : ReferenceSample, optional
        What labels are matched to; the draws if left out.
    folder : path
        Gets ``checkpoints`` and ``metrics.jsonl`` of the networks; they stay.
    resume : bool
        Whether to go on from checkpoints in `folder`.
    progress : Progress, optional

    Returns
    -------
    tuple
        The trained transfer, and plain numbers under stable names.

    Raises
    ------
    UsageError
        If `folder` holds checkpoints of other settings or data.
    """
    progress = progress or Silent()
    metrics: dict[str, Any] = {}
    model = emulator
    trained: TrainedTransfer | None = None
    if "matched" in config.method:
        trained = _train_matched(model, observed, labels, reference, config, progress)
        model, metrics = trained.model, _numbers_of(trained.report)
    if "cyclestar" in config.method:
        matched = metrics
        trained = _train_networks(
            model, observed, labels, config, folder=Path(folder), resume=resume, progress=progress
        )
        metrics = _numbers_of(trained.report)
        if matched:
            metrics["matched"] = matched
        if config.distillation is not None:
            trained, metrics["distillation"] = _distil(trained, observed, labels, config, progress)
    assert trained is not None
    return trained, metrics


class _NotedCheckpoints:
    """Checkpoints that say so when training goes on from them."""

    def __init__(self, store: Checkpoints, progress: Progress, on_restore) -> None:
        self._store, self._progress, self._on_restore = store, progress, on_restore

    def save(self, step: int, state: TransferState) -> None:
        self._store.save(step, state)

    def restore(self, *, like: TransferState) -> TransferState | None:
        state = self._store.restore(like=like)
        if state is not None:
            self._progress.say(f"resuming after step {int(state.step)}")
            self._on_restore(int(state.step))
        return state


def _train_networks(
    model: ForwardModel,
    observed: ObservedDomain,
    labels: np.ndarray,
    config: TransferConfig,
    *,
    folder: Path,
    resume: bool,
    progress: Progress,
) -> TrainedTransfer:
    training = config.cyclestar
    about = {
        "config": asdict(training),
        "model": digest_model(model),
        "data": _digest(observed.flux, observed.ivar, labels),
    }
    store, log = Checkpoints(folder / "checkpoints", about), MetricsLog(folder / LOG_NAME)
    if not resume:
        store.clear()
        log.clear()
    _require_own_checkpoints(store.folder, about)
    with progress.stage("training the networks", total=float(training.steps)) as task:
        done = 0

        def move_to(step: int, note: str = "") -> None:
            nonlocal done
            task.advance(float(step - done), note=note)
            done = step

        def report(record: TransferRecord) -> None:
            log.append(record.as_dict())
            move_to(
                record.step,
                f"loss {record.losses['total']:.3g}, gap {record.validation['gap']:.2f}, "
                f"{record.iterations_per_s:.1f} it/s",
            )

        trained = train_cyclestar(
            model,
            observed,
            labels,
            training,
            checkpoints=_NotedCheckpoints(store, progress, move_to),
            on_interval=report,
        )
    if trained.report.diverged_at is not None:
        progress.say(
            f"training diverged before step {trained.report.diverged_at}; the model is that of "
            f"step {trained.report.kept_step}."
        )
    return trained


def _distil(
    trained: TrainedTransfer,
    observed: ObservedDomain,
    labels: np.ndarray,
    config: TransferConfig,
    progress: Progress,
) -> tuple[TrainedTransfer, dict[str, Any]]:
    """The transfer with a shortcut for fits, and how good that is."""
    model, settings = trained.model, config.distillation
    assert isinstance(model, CycleStarModel)
    assert settings is not None
    order = np.random.default_rng(settings.seed).permutation(observed.n_spec)
    splits = model.read_context(observed.batch(np.sort(order[:_DISTILLED_STARS])))
    total = float(settings.training.steps)
    with progress.stage("distilling the networks", total=total) as task:
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
    return trained._replace(model=distilled.model), distilled.report


def choose_reference(
    spectra: pd.DataFrame, reference: pd.DataFrame, config: TransferConfig
) -> ReferenceSample:
    """The stars of a reference that labels are matched to: those observed, if there are enough.

    Literature samples are brighter, nearer, hotter than a survey. Stars that both have are compared
    with themselves; without enough of them the whole reference stands for all spectra.

    Parameters
    ----------
    spectra : DataFrame
        Observed spectra, with the columns RA and Dec.
    reference : DataFrame
        From `jaxmdwarf.io.references.read_references`.
    config : TransferConfig
    """
    settings = config.matched or MatchedConfig()
    known = reference[reference[["teff", "mh"]].notna().all(axis=1)].reset_index(drop=True)
    errors = [float(known[name].median()) for name in ("e_teff", "e_mh")]
    errors = [value if np.isfinite(value) else 0.0 for value in errors]
    labels = known[["teff", "mh"]].to_numpy(np.float64)
    placed = known[["ra_deg", "dec_deg"]].notna().all(axis=1).to_numpy()
    if placed.any():
        found = match_by_position(
            *(spectra[name].to_numpy(np.float64) for name in ("RA", "Dec")),
            *(known.loc[placed, name].to_numpy(np.float64) for name in ("ra_deg", "dec_deg")),
        )
        if found.rows.size >= settings.least_common:
            chosen = np.flatnonzero(placed)[found.reference_rows]
            return ReferenceSample(labels[chosen], (errors[0], errors[1]), found.rows)
    return ReferenceSample(labels, (errors[0], errors[1]))


def _name_parts(prepared: PreparedSpectra, config: TransferConfig) -> np.ndarray:
    """Whether each spectrum was trained on, validated on or held out."""
    seed = (config.matched or MatchedConfig()).seed
    if "cyclestar" in config.method:
        seed = config.cyclestar.seed
    parts = np.full(prepared.domain.n_spec, "train", dtype=object)
    split = split_domain(prepared.domain.n_spec, seed=seed)
    parts[split.validation], parts[split.test] = "validation", "test"
    return parts


def _train_matched(
    model, observed, labels, reference, config: TransferConfig, progress
) -> TrainedTransfer:
    settings = config.matched or MatchedConfig()
    total = float(len(settings.strengths) * settings.n_passes)
    with progress.stage("matching distributions", total=total) as task:

        def report(line: dict[str, Any]) -> None:
            shift = line["shift"]
            task.advance(note=f"labels moved by {shift['teff']:+.0f} K, {shift['mh']:+.2f} dex")

        return train_matched(model, observed, labels, settings, reference=reference, on_pass=report)


def _require_own_checkpoints(folder: Path, about: dict[str, Any]) -> None:
    """Raise unless the checkpoints in `folder`, if any, are of this training."""
    try:
        found = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    wanted = json.loads(json.dumps(about))
    if found == wanted:
        return
    old, new = found.get("config", {}), wanted["config"]
    changed = [name for name in new if old.get(name) != new[name]]
    what = (
        "of " + ", ".join(f"{name} {old.get(name)} instead of {new[name]}" for name in changed[:3])
        if changed
        else "on other spectra, labels or another emulator"
    )
    raise UsageError(
        f"{folder} holds checkpoints of a training {what}.",
        "repeat the earlier command to go on with it, or start anew with --no-resume.",
    )


def _sample_labels(
    table: pd.DataFrame | None,
    reference,
    isochrones,
    config: TransferConfig,
    partial: Path,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels of the synthetic domain; those of an earlier run of the same command if there are."""
    about = {
        "labels": asdict(config.labels),
        "n_draws": config.n_draws,
        "seed": config.seed,
        "reference": _hash_tables(reference),
        "isochrones": _hash_tables(isochrones),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    kept = partial / f"labels-{key[:16]}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            return stored["labels"], json.loads(str(stored["report"]))
    progress.say("drawing labels of the synthetic domain")
    drawn = sample_training_labels(
        None if table is None else table[["teff", "mh"]].to_numpy(np.float64),
        None if isochrones is None else read_isochrones(isochrones),
        n_draws=config.n_draws,
        seed=config.seed,
        config=config.labels,
    )
    report = _finite(drawn.report)
    with write_atomically(kept) as temporary, open(temporary, "wb") as file:
        np.savez(file, labels=drawn.labels, report=np.array(json.dumps(report)))
    return drawn.labels, report


def _choose_columns(emulator: ForwardModel, labels: np.ndarray) -> np.ndarray:
    names = emulator.label_space.names
    unknown = [name for name in names if name not in TRAINING_LABELS]
    if unknown:
        raise MismatchError(
            f"the emulator has the labels {', '.join(unknown)}, of which nothing is known.",
            f"train it on a grid of {', '.join(TRAINING_LABELS)}.",
        )
    return labels[:, [TRAINING_LABELS.index(name) for name in names]]


def _check_labels(
    prepared: PreparedSpectra, labels: np.ndarray, config: TransferConfig
) -> dict[str, Any] | None:
    """Whether both domains hold the same kind of stars, as far as the emulator alone can tell."""
    found = prepared.table[["Teff", "[M/H]"]].to_numpy(np.float64)
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return None
    given = labels[:, [TRAINING_LABELS.index("teff"), TRAINING_LABELS.index("mh")]]
    return asdict(check_overlap(found, given.astype(np.float64), min_overlap=config.min_overlap))


def _numbers_of(report: Any) -> dict[str, Any]:
    if hasattr(report, "metrics"):
        return dict(report.metrics())
    return dict(report) if isinstance(report, dict) else asdict(report)


def _paths(tables) -> list[Path]:
    if tables is None:
        return []
    return [Path(p) for p in ([tables] if isinstance(tables, str | os.PathLike) else tables)]


def _name_tables(tables) -> list[str]:
    return [path.name for path in _paths(tables)]


def _hash_tables(tables) -> list[str]:
    missing = [path for path in _paths(tables) if not path.exists()]
    if missing:
        raise UsageError(f"there is no file {missing[0]}.", "check the path.")
    return [hash_files(path) for path in _paths(tables)]


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _as_parquet(table) -> bytes:
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _finite(value: Any) -> Any:
    """JSON values; numbers that JSON has no word for become null."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return _finite(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
