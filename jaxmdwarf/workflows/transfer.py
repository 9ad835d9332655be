"""From observed files and an emulator to a forward model of observed spectra."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxmdwarf.errors import MismatchError, UsageError, WorkFailed
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.json_files import to_json
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance, hash_values
from jaxmdwarf.io.references import read_references
from jaxmdwarf.labels import LabelSpace, describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.labels.codistribution import check_overlap
from jaxmdwarf.training.labels.training_set import TrainingSetConfig
from jaxmdwarf.training.transfer.domain import DomainSplit
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.training.transfer.population import PopulationConfig, learn_population
from jaxmdwarf.workflows.anchoring import (
    AnchorTable,
    FoundAnchors,
    describe_anchors,
    find_anchors,
    find_common_stars,
    match_reference,
    prepare_anchors,
)
from jaxmdwarf.workflows.methods.base import LEAST_COMMON_STARS, TransferMethod
from jaxmdwarf.workflows.methods.cyclestar import LOG_NAME
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.observed import ObservedConfig, PreparedSpectra, prepare_observed
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import open_output, open_run
from jaxmdwarf.workflows.synthetic_labels import choose_stars, sample_labels

if TYPE_CHECKING:
    import pandas as pd

TRAINING = "training"
"""Folder of what the method keeps, in that of the run."""

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
        How labels of the synthetic domain are sampled.
    n_draws : int
        Draws of the mixture; the paper has more than a million.
    reference_columns : tuple of (str, str)
        Quantity (``teff``, ``mh``, ``logg``) and column of the reference, where the guess from the
        names would be wrong.
    anchor_columns : tuple of (str, str)
        The same of the anchors, with those of errors (``e_teff``) and of what tells the stars.
    common_stars : {"anchors", "distribution"}
        What stars of the reference tell that are among the spectra: each its own labels, where the
        method takes anchors and no others are given; or no more than how labels are distributed,
        as in the paper.
    min_overlap : float
        Least overlap of the labels that the emulator alone finds with those of the synthetic
        domain; see `jaxmdwarf.training.labels.codistribution.check_overlap`.
    population : PopulationConfig
        How stars unlike those of the training set are told in fits.
    seed : int
        Of the label samples.
    force : bool
        Whether a model is kept that its method finds faulty.
    """

    method: TransferMethod = field(default_factory=Matched)
    observed: ObservedConfig = field(default_factory=ObservedConfig)
    labels: TrainingSetConfig = field(default_factory=TrainingSetConfig)
    n_draws: int = 1_000_000
    reference_columns: tuple[tuple[str, str], ...] = ()
    anchor_columns: tuple[tuple[str, str], ...] = ()
    common_stars: Literal["anchors", "distribution"] = "anchors"
    min_overlap: float = 0.25
    population: PopulationConfig = field(default_factory=PopulationConfig)
    seed: int = 0
    force: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.method, TransferMethod):
            raise UsageError(
                f"method {self.method!r} is no transfer method.",
                "give an object of jaxmdwarf.workflows.methods, or build one from a name with "
                "build_transfer_method.",
            )
        if self.common_stars not in ("anchors", "distribution"):
            raise UsageError(
                f"common_stars is {self.common_stars!r}.", "choose 'anchors' or 'distribution'."
            )


def train_transfer_files(
    files: Sequence[str | os.PathLike[str]],
    emulator_dir: str | os.PathLike[str],
    reference: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    out: str | os.PathLike[str],
    config: TransferConfig | None = None,
    *,
    anchors: str | os.PathLike[str] | None = None,
    isochrones: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    cache: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    resume: bool = True,
    overwrite: bool = False,
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
    anchors : path, optional
        Table of known labels of stars that are among the spectra
        (`jaxmdwarf.workflows.anchoring.read_anchors`).
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
    overwrite : bool
        Whether a model that is there, or unfinished work of other settings, may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        What the command prints.

    Raises
    ------
    UsageError
        Before any work: if `out` exists, cannot be written or is being written by another process;
        unfinished work of other settings is in the way; a table is missing or lacks columns, or the
        method takes no anchors.
        Later: if labels of the two domains do not overlap, or no spectrum is of an anchor.
    MismatchError
        If there are too few usable spectra.
    WorkFailed
        If no spectrum is usable, training diverges at once, or the method finds its model faulty;
        what was learned stays, and the same call with ``config.force`` keeps it.
    """
    began = time.perf_counter()
    config, progress, out = config or TransferConfig(), progress or Silent(), Path(out)
    require_output(out, overwrite=overwrite, mark="model.json")
    emulator = load_model(emulator_dir)
    known, tracks = _read_tables(reference, isochrones, dict(config.reference_columns))
    anchored = prepare_anchors(anchors, emulator, config.method, config.anchor_columns, files)
    rejects_file = require_rejects(out, overwrite=overwrite)
    with open_output(
        out,
        # Its parts know what they depend on: spectra at rest serve whatever is trained on them.
        kind="the training of a transfer",
        about={},
        mark="model.json",
        overwrite=overwrite,
        beside=(rejects_file,),
    ) as run:
        prepared = prepare_observed(
            files,
            emulator,
            config.observed,
            progress,
            cache=cache or run.folder / "observed",
            overwrite=overwrite,
            rejects_file=rejects_file,
            leave_out=(out, run.folder, rejects_file, emulator_dir),
            processes=processes,
        )
        progress.say(f"{prepared.domain.n_spec} of {prepared.n_in} spectra are usable.")
        learned = learn_transfer(
            prepared,
            emulator,
            config,
            reference=known,
            anchors=anchored,
            isochrones=tracks,
            folder=run.folder,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        everything = {"wall_s": round(time.perf_counter() - began, 3), **learned.metrics}
        log = run.folder / TRAINING / LOG_NAME
        config.method.save(
            learned.trained,
            out,
            training={"config": describe_transfer(config), **everything},
            provenance=_name_sources(command, emulator_dir, reference, anchors, isochrones),
            extras={
                "metrics.json": to_json(everything).encode(),
                LOG_NAME: log.read_bytes() if log.exists() else b"",
                "observed.parquet": _as_parquet(prepared.table.assign(**learned.columns)),
            },
        )
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


def _name_sources(command, emulator_dir, reference, anchors, isochrones) -> dict[str, Any]:
    return {
        **asdict(gather_provenance(command=command, model=emulator_dir)),
        "source": {
            "emulator": Path(emulator_dir).name,
            "reference": [path.name for path in _paths(reference)],
            **({} if anchors is None else {"anchors": [path.name for path in _paths(anchors)]}),
            "isochrones": [path.name for path in _paths(isochrones)],
        },
    }


def _read_tables(
    reference, isochrones, columns: Mapping[str, str]
) -> tuple[pd.DataFrame | None, Any]:
    """What a user gives beside spectra; read, and found wanting, before hours of work."""
    for path in (*_paths(reference), *_paths(isochrones)):
        if not path.exists():
            raise UsageError(f"there is no file {path}.", "check the path.")
    return (
        None if reference is None else read_references(reference, columns=columns),
        None if isochrones is None else read_isochrones(isochrones),
    )


class LearnedTransfer(NamedTuple):
    """A transfer and all that is known of how it was learned.

    Parameters
    ----------
    trained : TrainedTransfer
    metrics : dict
        Plain numbers under stable names: ``counts``, ``transfer``, ``training_labels``, and
        ``anchors`` where there are any.
    columns : dict
        Row by row of the spectra: ``part``, the one of the split, and ``anchor`` where there are
        any.
    """

    trained: TrainedTransfer
    metrics: dict[str, Any]
    columns: dict[str, np.ndarray]


def learn_transfer(
    prepared: PreparedSpectra,
    emulator: ForwardModel,
    config: TransferConfig | None = None,
    *,
    reference: pd.DataFrame | None = None,
    anchors: AnchorTable | None = None,
    isochrones: Mapping[str, np.ndarray] | None = None,
    folder: Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
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
    anchors : AnchorTable, optional
        From `jaxmdwarf.workflows.anchoring.prepare_anchors`.
    isochrones : mapping, optional
        From `jaxmdwarf.io.isochrones.read_isochrones`; the embedded relation if left out.
    folder : path, optional
        Where labels of the synthetic domain, the method's checkpoints and its log are kept
        (``training`` in it), to go on from there; nothing is kept without.
    resume : bool
        Whether to go on from what the method kept in `folder`.
    overwrite : bool
        Whether what it kept of other settings or spectra may be replaced.
    progress : Progress, optional

    Returns
    -------
    LearnedTransfer

    Raises
    ------
    UsageError
        If checkpoints of other settings are in the way, labels of the domains do not overlap, or no
        spectrum is of an anchor.
    MismatchError
        If there are too few usable spectra, or nothing is known of the emulator's labels.
    """
    config, progress = config or TransferConfig(), progress or Silent()
    config.method.require(prepared.domain.n_spec)
    found = _find_known(prepared, emulator.label_space, config, reference, anchors)
    if found is not None:
        progress.say(f"anchors: {found.report['matched_by']}")
    known = {} if found is None else {"anchors": found.sample}
    sample = None
    if reference is not None:
        sample = choose_reference(
            prepared.table, reference, least_common=config.method.least_common
        )
    labels, label_report = _draw(emulator, reference, sample, isochrones, config, folder, progress)
    wanted = _choose_columns(emulator, labels)
    overlap = _check_labels(prepared, labels, config)
    with ExitStack() as stack:
        kept = None
        if folder is not None:
            run = open_run(
                folder / TRAINING,
                kind="unfinished training",
                about={
                    "method": config.method.describe(),
                    "emulator": hash_values(emulator),
                    "spectra": hash_values(
                        prepared.domain.flux, prepared.domain.ivar, prepared.domain.star
                    ),
                    "labels": hash_values(wanted, None if sample is None else asdict(sample)),
                    **{name: hash_values(asdict(one)) for name, one in known.items()},
                },
                resume=resume,
                overwrite=overwrite,
            )
            kept = stack.enter_context(run).folder
        trained = config.method.train(
            prepared.domain,
            emulator,
            wanted,
            reference=sample,
            folder=kept,
            progress=progress,
            **known,
        )
        _require_sound(trained, force=config.force, progress=progress)
    marked = None if found is None else found.sample.mark(prepared.domain.n_spec)
    split = config.method.split(prepared.domain, marked)
    trained, population = _add_population(trained, prepared, config, split, progress)
    report = dict(trained.report)
    told = report.pop("anchors", {})
    metrics: dict[str, Any] = {
        "counts": {
            "input": prepared.n_in,
            "used": prepared.domain.n_spec,
            "rejected": len(prepared.rejects),
            "not_m_dwarf": prepared.n_not_m_dwarf,
        },
        "transfer": {"method": config.method.name, **report},
        "population": population,
        "training_labels": {**label_report, "overlap_with_observed": overlap},
    }
    columns = {"part": _name_parts(split, prepared.domain.n_spec)}
    if found is not None:
        metrics["anchors"] = {**found.report, **told}
        for line in describe_anchors(metrics["anchors"]):
            progress.say(line)
        columns["anchor"] = np.asarray(marked)
    return LearnedTransfer(trained, metrics, columns)


def _find_known(
    prepared: PreparedSpectra,
    space: LabelSpace,
    config: TransferConfig,
    reference: pd.DataFrame | None,
    anchors: AnchorTable | None,
) -> FoundAnchors | None:
    """Spectra of known labels: of the anchors that were given, else of the reference's stars."""
    if anchors is not None:
        return find_anchors(prepared.table, anchors, space)
    if reference is None or config.common_stars != "anchors" or not config.method.takes_anchors:
        return None
    found = find_common_stars(prepared.table, reference, space)
    if found is None or not config.method.knows_enough(prepared.domain, found.sample):
        return None
    return found


def _add_population(
    trained: TrainedTransfer,
    prepared: PreparedSpectra,
    config: TransferConfig,
    split: DomainSplit,
    progress: Progress,
) -> tuple[TrainedTransfer, dict[str, Any] | None]:
    """The model with what its training stars look like through it, and what was found of them.

    Stars that are held out do not enter. Nothing is added to models that have no place for it, or
    where there are too few stars.
    """
    model, domain = trained.model, prepared.domain
    if not model.keeps_population:
        return trained, None
    columns = [describe_label(name).column for name in model.label_space.names]
    with progress.stage("fits of the training stars", 1.0) as task:
        learned = learn_population(
            model,
            domain,
            prepared.table[columns].to_numpy(np.float64),
            config.population,
            rows=np.sort(np.concatenate([split.train, split.validation])),
        )
        task.advance()
    if learned is None:
        return trained, None
    model = model.with_population(learned.population)
    return TrainedTransfer(model, trained.report), learned.report


def _require_sound(trained: TrainedTransfer, *, force: bool, progress: Progress) -> None:
    """Raise `WorkFailed` if a method finds its model faulty; with `force` only say so."""
    faults = trained.report.get("faults", ())
    if not faults:
        return
    if not force:
        raise WorkFailed(
            f"the transfer is not fit to be a model: {'; '.join(faults)}.",
            "take --method matched, train longer or otherwise, or keep it with --force.",
        )
    for fault in faults:
        progress.say(f"kept in spite of a fault: {fault}.")


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
    found = match_reference(spectra, known)
    if found.rows.size >= max(least_common, 1):
        return ReferenceSample(labels[found.reference_rows], (errors[0], errors[1]), found.rows)
    return ReferenceSample(labels, (errors[0], errors[1]))


def _name_parts(split: DomainSplit, n_spec: int) -> np.ndarray:
    """Whether each spectrum was trained on, validated on or held out."""
    parts = np.full(n_spec, "train", dtype=object)
    parts[split.validation], parts[split.test] = "validation", "test"
    return parts


def describe_transfer(config: TransferConfig) -> dict[str, Any]:
    """The configuration, for the record of a model; settings of the method as it tells them."""
    about = {
        "observed": asdict(config.observed),
        "labels": asdict(config.labels),
        "population": asdict(config.population),
        **{
            name: getattr(config, name)
            for name in ("n_draws", "common_stars", "min_overlap", "seed")
        },
    }
    settings = config.method.describe()
    return {"method": settings.pop("name"), "settings": settings, **about}


def _draw(
    emulator: ForwardModel,
    reference: pd.DataFrame | None,
    sample: ReferenceSample | None,
    isochrones: Mapping[str, np.ndarray] | None,
    config: TransferConfig,
    folder: Path | None,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels of the synthetic domain, of the stars that the method asks for."""
    known, settings = choose_stars(
        reference,
        sample,
        config.labels,
        emulator.label_space,
        observed=config.method.matches_distributions,
    )
    return sample_labels(
        known,
        settings,
        isochrones,
        folder,
        progress,
        n_draws=config.n_draws,
        seed=config.seed,
    )


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


def _as_parquet(table) -> bytes:
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
