"""Models of one's own: an emulator from a grid, a transfer from observed spectra."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxmdwarf.api.inputs import count, is_path, read
from jaxmdwarf.api.models import as_model
from jaxmdwarf.api.simulation import SimulatedSurvey
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.grids.table import ModelGrid, read_grid
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.models import describe_model, save_model
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.references import extract_reference_labels, read_references
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.workflows.anchoring import prepare_anchors
from jaxmdwarf.workflows.emulator import learn_emulator, train_grid_emulator
from jaxmdwarf.workflows.methods.base import TransferMethod
from jaxmdwarf.workflows.methods.registry import build_transfer_method
from jaxmdwarf.workflows.observed import prepare_spectra
from jaxmdwarf.workflows.outputs import require_output
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.transfer import (
    TransferConfig,
    describe_transfer,
    learn_transfer,
    train_transfer_files,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Trained:
    """A model and how its training went; taken wherever a model is.

    Parameters
    ----------
    model : ForwardModel
    metrics : dict
        Plain numbers under stable names, as in ``metrics.json`` of a model directory.
    config : dict
        How it was trained, for the record of a saved model.
    rejects : tuple of Reject
        Spectra that were not used: path, reason, remedy.
    folder : Path or None
        The model directory, if it was written.
    method : TransferMethod, optional
        By which a transfer was learned; it knows how its models are saved.
    """

    model: ForwardModel
    metrics: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    folder: Path | None = None
    method: TransferMethod | None = None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a model directory, for `jaxmdwarf.load_model` and the command line.

        Raises
        ------
        UsageError
            If `path` exists and may not be replaced, or cannot be written.
        """
        require_output(path, overwrite=overwrite, mark="model.json")
        about = {
            "training": {"config": self.config, **self.metrics},
            "provenance": asdict(gather_provenance()),
        }
        if self.method is None:
            return save_model(self.model, path, **about)
        return self.method.save(TrainedTransfer(self.model, self.metrics), path, **about)

    def __repr__(self) -> str:
        space, wave = self.model.label_space, self.model.grid.wave_aa
        lines = [
            f"{type(self.model).__name__}, {wave.size} pixels, "
            f"{wave[0]:.0f}-{wave[-1]:.0f} Angstrom"
        ]
        lines += [
            f"  {name}: {low:g} to {high:g} {unit}"
            for name, unit, low, high in zip(
                space.names, space.units, space.lower, space.upper, strict=True
            )
        ]
        stage = self.metrics.get("transfer") or self.metrics.get("emulator") or {}
        plain = [f"{key} {value:.4g}" for key, value in stage.items() if _is_number(value)]
        if plain:
            lines.append("  " + ", ".join(plain))
        if self.rejects:
            lines.append(f"  {count(len(self.rejects), 'reject')}, see .rejects")
        if self.folder:
            lines.append(f"  in {self.folder}")
        return "\n".join(lines)


def train_emulator(
    grid: str | os.PathLike[str] | ModelGrid | SimulatedSurvey,
    out: str | os.PathLike[str] | None = None,
    *,
    config: EmulatorConfig | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train an emulator on model spectra.

    Parameters
    ----------
    grid : path, ModelGrid or SimulatedSurvey
        A table of ``jaxmdwarf grid``, what `jaxmdwarf.io.grids.table.read_grid` returns, or a
        survey that was simulated with a grid.
    out : path, optional
        Model directory to write, with figures, tables and a log; training then resumes where it
        was interrupted. Nothing is written without.
    config : EmulatorConfig, optional
        Network, optimiser, schedule.
    resume : bool
        Go on from unfinished work beside `out`.
    overwrite : bool
        Whether a model in `out` may be replaced.
    progress : Progress, optional

    Returns
    -------
    Trained

    Raises
    ------
    UsageError
        If there is no such grid, all its spectra have the same labels, or `out` is in the way.
    FormatError
        If the file is no grid.

    Examples
    --------
    >>> emulator = jm.train_emulator(jm.simulate(20, n_grid=1024))  # doctest: +SKIP
    >>> emulator.metrics["emulator"]["eq1_median"]  # doctest: +SKIP
    """
    model_grid = _as_grid(grid)
    config = config or EmulatorConfig()
    if out is None:
        trained, metrics = learn_emulator(model_grid, config=config, progress=progress)
        return Trained(trained.emulator, metrics, asdict(config))
    source = {"grid": Path(grid).name} if isinstance(grid, str | os.PathLike) else None
    trained, metrics = train_grid_emulator(
        model_grid,
        out,
        config=config,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        source=source,
    )
    return Trained(trained.emulator, metrics, asdict(config), folder=Path(out))


def train_transfer(
    spectra: Any,
    emulator: Any,
    *,
    reference: Any = None,
    anchors: Any = None,
    method: str | TransferMethod | None = None,
    out: str | os.PathLike[str] | None = None,
    config: TransferConfig | None = None,
    isochrones: Any = None,
    velocity: Literal["fit", "header"] | None = None,
    seed: int | None = None,
    processes: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Learn from spectra, few or none of them labelled, how they differ from an emulator's.

    Parameters
    ----------
    spectra : path, arrays, spectra, or a list of these
        See `jaxmdwarf.read`; a hundred good spectra are the least that is worth it.
    emulator : path, ForwardModel, or what `train_emulator` returned
    reference : path, sequence of path, DataFrame or Table, optional
        Literature labels (Teff, [M/H]) of stars like the observed ones. Those that are among the
        spectra, by position, are anchors of the method matched where no others are given; `config`
        decides (``common_stars``).
    anchors : path, DataFrame or Table, optional
        Known labels, with errors, of stars that are among the spectra, matched by path, obsid,
        Gaia's source_id or position; they are learned from as measurements beside the spectra.
    method : str or TransferMethod, optional
        "matched" (the default), "cyclestar", "matched+cyclestar", one that was registered, or an
        object with settings of its own.
    out : path, optional
        Model directory to write. With it, files and an emulator's directory are worked on as
        ``jaxmdwarf train-transfer`` does: streamed, resumed where they were interrupted.
    config : TransferConfig, optional
        Everything at once; the arguments beside it are changes to it.
    isochrones : path or sequence of path, optional
        PARSEC or MIST tables; the package's own relation if left out.
    velocity : {"fit", "header"}, optional
        How spectra are brought to rest; as `config` has it if left out.
    seed : int, optional
        Of the split of the spectra, the labels and the weights.
    processes : int, optional
        Reader processes; None takes all cores.
    resume, overwrite
        Of `out`, as in `train_emulator`.
    progress : Progress, optional

    Returns
    -------
    Trained

    Raises
    ------
    UsageError
        If an argument makes no sense, `out` is in the way, or labels of both domains do not
        overlap.
    MismatchError
        If there are too few usable spectra.
    WorkFailed
        If no spectrum is usable, or training diverges at once.

    Examples
    --------
    >>> survey = jm.simulate(1500, n_grid=1024)  # doctest: +SKIP
    >>> emulator = jm.train_emulator(survey)  # doctest: +SKIP
    >>> model = jm.train_transfer(
    ...     survey.spectra, emulator, reference=survey.reference
    ... )  # doctest: +SKIP
    """
    config = _configure(config, method, velocity=velocity, seed=seed)
    files = _as_files(spectra)
    paths = _are_files(reference) and (anchors is None or is_path(anchors))
    if out is not None and files is not None and is_path(emulator) and paths:
        train_transfer_files(
            files,
            emulator,
            reference,
            out,
            config,
            anchors=anchors,
            isochrones=isochrones,
            processes=processes,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        training = dict(describe_model(out)["training"])
        how = training.pop("config")
        model = config.method.load(out)
        return Trained(model, training, how, folder=Path(out), method=config.method)
    if out is not None:
        require_output(out, overwrite=overwrite, mark="model.json")
    base, known = as_model(emulator, "emulator"), _as_reference(reference)
    tracks = None if isochrones is None else read_isochrones(isochrones)
    anchored = prepare_anchors(anchors, base, config.method, config.anchor_columns)
    found = read(spectra, processes=processes)
    prepared = prepare_spectra(found, base, config.observed, progress, not_read=found.rejects)
    learned = learn_transfer(
        prepared,
        base,
        config,
        reference=known,
        anchors=anchored,
        isochrones=tracks,
        progress=progress,
    )
    trained = Trained(
        learned.trained.model,
        learned.metrics,
        describe_transfer(config),
        tuple(prepared.rejects),
        method=config.method,
    )
    if out is None:
        return trained
    return replace(trained, folder=trained.save(out, overwrite=overwrite))


def _configure(
    config: TransferConfig | None,
    method: str | TransferMethod | None,
    *,
    velocity: Literal["fit", "header"] | None,
    seed: int | None,
) -> TransferConfig:
    """The configuration with what was given beside it."""
    changes: dict[str, Any] = {}
    if method is not None:
        changes["method"] = build_transfer_method(method, seed=seed or 0)
    elif config is None:
        changes["method"] = build_transfer_method("matched", seed=seed or 0)
    if seed is not None:
        changes["seed"] = seed
    config = config or TransferConfig()
    if velocity is not None:
        changes["observed"] = replace(config.observed, velocity=velocity)
    return replace(config, **changes)


def _as_files(spectra: Any) -> list[Any] | None:
    """The paths that `spectra` are, if they are nothing else."""
    if is_path(spectra):
        return [spectra]
    if isinstance(spectra, list | tuple) and spectra and all(map(is_path, spectra)):
        return list(spectra)
    return None


def _are_files(reference: Any) -> bool:
    return reference is None or _as_files(reference) is not None


def _as_reference(reference: Any) -> pd.DataFrame | None:
    """Literature labels of a table in memory, or of files."""
    if reference is None:
        return None
    if _are_files(reference):
        return read_references(reference)
    if hasattr(reference, "to_pandas"):
        reference = reference.to_pandas()
    if not hasattr(reference, "columns"):
        raise UsageError(
            f"reference is a {type(reference).__name__}.",
            "give a table with Teff and [M/H]: a path, a DataFrame or an astropy Table.",
        )
    labels = extract_reference_labels(reference)
    return labels[labels[["teff", "mh"]].notna().any(axis=1)].reset_index(drop=True)


def _as_grid(grid: Any) -> ModelGrid:
    if isinstance(grid, str | os.PathLike):
        return read_grid(grid)
    if isinstance(grid, SimulatedSurvey):
        if grid.grid is None:
            raise UsageError(
                "the survey was simulated without a grid.", "simulate it with n_grid=1024, say."
            )
        return grid.grid
    if isinstance(grid, ModelGrid):
        return grid
    raise UsageError(
        f"grid is a {type(grid).__name__}.",
        "give a table of 'jaxmdwarf grid', a ModelGrid, or a survey simulated with n_grid=1024.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
