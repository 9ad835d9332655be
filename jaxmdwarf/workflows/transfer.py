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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.diagnostics.matching import match_by_position
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance, hash_files
from jaxmdwarf.io.references import read_references
from jaxmdwarf.io.rejects import name_rejects_file
from jaxmdwarf.labels import describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.labels.codistribution import check_overlap
from jaxmdwarf.training.labels.training_set import TrainingSetConfig, sample_training_labels
from jaxmdwarf.training.transfer.domain import split_domain
from jaxmdwarf.training.transfer.matched import ReferenceSample
from jaxmdwarf.workflows.methods.base import LEAST_COMMON_STARS, TransferMethod
from jaxmdwarf.workflows.methods.cyclestar import LOG_NAME
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.observed import ObservedConfig, PreparedSpectra, prepare_observed
from jaxmdwarf.workflows.progress import Progress, Silent

if TYPE_CHECKING:
    import pandas as pd

TRAINING_LABELS = ("teff", "logg", "mh", "alpha_m")


@dataclass(frozen=True)
class TransferConfig:
    """How a transfer is trained from files.

    Parameters
    ----------
    method : TransferMethod
        One of `jaxmdwarf.workflows.methods`, with its settings, or a user's own.
    observed : ObservedConfig
        Which spectra make the observed domain.
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

    method: TransferMethod = field(default_factory=Matched)
    observed: ObservedConfig = field(default_factory=ObservedConfig)
    labels: TrainingSetConfig = field(default_factory=TrainingSetConfig)
    n_draws: int = 1_000_000
    min_overlap: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.method, TransferMethod):
            raise UsageError(
                f"method {self.method!r} is no transfer method.",
                "give an object of jaxmdwarf.workflows.methods, or build one from a name with "
                "build_transfer_method.",
            )


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
    labels_key = _hash_label_sources(config, reference, isochrones)
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
    learned = learn_transfer(
        prepared,
        emulator,
        config,
        reference=None if reference is None else read_references(reference),
        isochrones=isochrones,
        labels_file=partial / f"labels-{labels_key[:16]}.npz",
        folder=partial,
        resume=resume,
        progress=progress,
    )
    everything = {"wall_s": round(time.perf_counter() - began, 3), **learned.metrics}
    log = partial / LOG_NAME
    config.method.save(
        learned.trained,
        out,
        training={"config": _describe_config(config), **everything},
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
                prepared.table.assign(part=_name_parts(prepared, config.method))
            ),
        },
    )
    shutil.rmtree(partial, ignore_errors=True)
    numbers = learned.metrics["transfer"]
    return {
        "out": os.fspath(out),
        "inputs": prepared.n_in,
        "used": prepared.domain.n_spec,
        "rejected": len(prepared.rejects),
        **{name: value for name, value in numbers.items() if isinstance(value, int | float | str)},
        "rejects": os.fspath(rejects_file),
        "wall_s": round(time.perf_counter() - began, 2),
    }


class LearnedTransfer(NamedTuple):
    """A transfer and all that is known of how it was learned.

    Parameters
    ----------
    trained : TrainedTransfer
    metrics : dict
        Plain numbers under stable names: ``counts``, ``transfer``, ``training_labels``.
    """

    trained: TrainedTransfer
    metrics: dict[str, Any]


def learn_transfer(
    prepared: PreparedSpectra,
    emulator: ForwardModel,
    config: TransferConfig | None = None,
    *,
    reference: pd.DataFrame | None = None,
    isochrones: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    labels_file: Path | None = None,
    folder: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> LearnedTransfer:
    """Train a transfer on an observed domain in memory.

    Parameters
    ----------
    prepared : PreparedSpectra
    emulator : ForwardModel
    config : TransferConfig, optional
    reference : DataFrame, optional
        Literature labels, from `jaxmdwarf.io.references.read_references`; without them the
        synthetic domain is as the isochrones have it.
    isochrones : path, sequence of path or None
        PARSEC or MIST tables; the embedded relation if left out.
    labels_file : path, optional
        Labels of the synthetic domain are kept here, and read if they are there.
    folder : path, optional
        For the method's checkpoints and log; none are kept without.
    resume : bool
        Go on from the checkpoints in `folder`.
    progress : Progress, optional

    Returns
    -------
    LearnedTransfer

    Raises
    ------
    UsageError
        If checkpoints of other settings are in the way, or labels of the domains do not overlap.
    MismatchError
        If there are too few usable spectra, or nothing is known of the emulator's labels.
    """
    config, progress = config or TransferConfig(), progress or Silent()
    config.method.require(prepared.domain.n_spec)
    sample = None
    if reference is not None:
        sample = choose_reference(
            prepared.table, reference, least_common=config.method.least_common
        )
    labels, label_report = _sample_labels(reference, isochrones, config, labels_file, progress)
    wanted = _choose_columns(emulator, labels)
    overlap = _check_labels(prepared, labels, config)
    trained = config.method.train(
        prepared.domain,
        emulator,
        wanted,
        reference=sample,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    metrics = {
        "counts": {
            "input": prepared.n_in,
            "used": prepared.domain.n_spec,
            "rejected": len(prepared.rejects),
        },
        "transfer": {"method": config.method.name, **trained.report},
        "training_labels": {**label_report, "overlap_with_observed": overlap},
    }
    return LearnedTransfer(trained, metrics)


def choose_reference(
    spectra: pd.DataFrame, reference: pd.DataFrame, *, least_common: int = LEAST_COMMON_STARS
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
    least_common : int
        Stars that both must have for this.
    """
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
        if found.rows.size >= least_common:
            chosen = np.flatnonzero(placed)[found.reference_rows]
            return ReferenceSample(labels[chosen], (errors[0], errors[1]), found.rows)
    return ReferenceSample(labels, (errors[0], errors[1]))


def _name_parts(prepared: PreparedSpectra, method: TransferMethod) -> np.ndarray:
    """Whether each spectrum was trained on, validated on or held out."""
    parts = np.full(prepared.domain.n_spec, "train", dtype=object)
    split = split_domain(prepared.domain.n_spec, seed=method.seed)
    parts[split.validation], parts[split.test] = "validation", "test"
    return parts


def _describe_config(config: TransferConfig) -> dict[str, Any]:
    """The settings in words and numbers; those of the method as it tells them."""
    about = {
        "observed": asdict(config.observed),
        "labels": asdict(config.labels),
        **{name: getattr(config, name) for name in ("n_draws", "min_overlap", "seed")},
    }
    settings = config.method.describe()
    return {"method": settings.pop("name"), "settings": settings, **about}


def _hash_label_sources(config: TransferConfig, reference, isochrones) -> str:
    """What must be the same for kept labels of the synthetic domain to be used."""
    about = {
        "labels": asdict(config.labels),
        "n_draws": config.n_draws,
        "seed": config.seed,
        "reference": _hash_tables(reference),
        "isochrones": _hash_tables(isochrones),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _sample_labels(
    table: pd.DataFrame | None,
    isochrones,
    config: TransferConfig,
    kept: Path | None,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels of the synthetic domain; those of an earlier run of the same command if there are."""
    if kept is not None and kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            return stored["labels"], json.loads(str(stored["report"]))
    progress.say("sampling labels of the synthetic domain")
    drawn = sample_training_labels(
        None if table is None else table[["teff", "mh"]].to_numpy(np.float64),
        None if isochrones is None else read_isochrones(isochrones),
        n_draws=config.n_draws,
        seed=config.seed,
        config=config.labels,
    )
    report = _finite(drawn.report)
    if kept is not None:
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
    found = prepared.table[[describe_label(name).column for name in ("teff", "mh")]].to_numpy(
        np.float64
    )
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return None
    given = labels[:, [TRAINING_LABELS.index("teff"), TRAINING_LABELS.index("mh")]]
    return asdict(check_overlap(found, given.astype(np.float64), min_overlap=config.min_overlap))


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
