"""Files to an observed domain: read, find the velocity, bring to rest, normalise; resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np

from jaxmdwarf.catalogue.rows import tabulate_fit
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.inference.fitter import FittedSpectra, FittingOptions, SpectrumFitter
from jaxmdwarf.inference.schedule import FitSettings, choose_batch_size
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.rejects import Reject, check_accounts, write_rejects
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.quality import QualityFlag, describe_flags
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import ChunkFolder, FinishedChunk, ReadChunk

if TYPE_CHECKING:
    import pandas as pd

PAPER_SPECTRA = 110_000
"""Spectra of the paper's observed domain (section 3.3.1)."""

UNUSABLE = (
    QualityFlag.NO_GOOD_PIXELS
    | QualityFlag.FEW_PIXELS
    | QualityFlag.VELOCITY_AT_EDGE
    | QualityFlag.BAD_CHI2
)
"""Flags of a spectrum that is not that of a star as the model knows them, or not at rest."""

LARGEST_DEVIATION = 3.0
"""Normalised flux this far from 1 is not that of a star: such pixels are masked and hold flux 1.
Cosmic rays, and ends of spectra whose continuum is lost in noise, would fill a network with
numbers a thousand times those of stars."""


@dataclass(frozen=True)
class ObservedConfig:
    """Which spectra make the observed domain.

    Parameters
    ----------
    velocity : {"fit", "header"}
        Measure velocities with the emulator, or take those of the headers.
    min_snr : float
        Spectra with a lower S/N in r or i are rejected; the paper trains without such a limit.
    max_teff : float or None
        Stars that the emulator fits hotter than this are rejected: the paper's cut (section 4).
    max_spectra : int or None
        Files that are drawn at random where there are more.
    chunk_size : int
        Files that are read, fitted and written together; what a killed run loses at most.
    seed : int
        Of the draw.
    settings : FitSettings
        Of the fit that finds the velocities.
    """

    velocity: Literal["fit", "header"] = "fit"
    min_snr: float = 0.0
    max_teff: float | None = 4300.0
    max_spectra: int | None = PAPER_SPECTRA
    chunk_size: int = 1024
    seed: int = 0
    settings: FitSettings = field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        FittingOptions(velocity=self.velocity, chunk_size=self.chunk_size)
        if self.max_spectra is not None and self.max_spectra < 1:
            raise UsageError(f"max_spectra {self.max_spectra} is below 1.")


class PreparedSpectra(NamedTuple):
    """An observed domain and what became of each input.

    Parameters
    ----------
    domain : ObservedDomain
    table : pandas.DataFrame
        One row a spectrum of the domain, as in the catalogue of a fit with the emulator alone.
    rejects : list of Reject
        All other inputs with their reasons.
    """

    domain: ObservedDomain
    table: pd.DataFrame
    rejects: list[Reject]

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return len(self.table) + len(self.rejects)


def prepare_observed(
    files: Sequence[str | os.PathLike[str]],
    model: ForwardModel,
    options: ObservedConfig | None = None,
    progress: Progress | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    rejects_file: str | os.PathLike[str] | None = None,
    leave_out: Sequence[str | os.PathLike[str]] = (),
    processes: int | None = None,
) -> PreparedSpectra:
    """Read spectra and bring them to rest on the pixels of an emulator, normalised.

    Parameters
    ----------
    files : sequence of path
        Files, folders, patterns and ``@lists``.
    model : ForwardModel
        The emulator: gives the pixels, the normalisation, and velocities.
    options : ObservedConfig, optional
    progress : Progress, optional
    cache : path, optional
        Folder for finished chunks: the same call goes on from there, and reads nothing again.
    rejects_file : path, optional
        Table for the inputs that are not used; written also where none is usable.
    leave_out : sequence of path
        Files that are not inputs though a folder or pattern holds them.
    processes : int, optional
        Reader processes; None takes all cores.

    Returns
    -------
    PreparedSpectra

    Raises
    ------
    UsageError
        If the model was trained on spectra that were not normalised.
    WorkFailed
        If no spectrum is usable.
    """
    options, progress = options or ObservedConfig(), progress or Silent()
    fitter = SpectrumFitter(
        model,
        FittingOptions(
            velocity=options.velocity,
            min_snr=options.min_snr,
            chunk_size=options.chunk_size,
            settings=options.settings,
        ),
    )
    inputs = expand_inputs(files, leave_out=leave_out)
    paths, not_drawn = _draw(inputs.paths, options)
    window = float(fitter.grid.wave_aa[0]), float(fitter.grid.wave_aa[-1])
    requirements = Requirements(window_aa=window)
    chunks = ChunkFolder(
        None if cache is None else Path(cache),
        paths,
        options.chunk_size,
        fingerprint=_fingerprint(paths, model, options),
        holds="spectra at rest",
    )
    n_done = chunks.open()
    if n_done:
        progress.say(f"resuming: {n_done} of {chunks.n_chunk} chunks of spectra are at rest.")
    n_row = min(options.chunk_size, -(-max(len(paths), 1) // 32) * 32)
    fitter.settings = replace(
        fitter.settings, batch_size=min(choose_batch_size(fitter.settings), n_row)
    )
    parts: list[FinishedChunk] = []
    with progress.stage("bringing spectra to rest", total=float(len(paths))) as stage:
        for number in range(n_done):
            parts.append(chunks.read(number))
            stage.advance(float(len(chunks.paths_of(number))))
        for read in chunks.read_rest(n_done, requirements, fitter.require, processes=processes):
            part = _prepare_chunk(read, fitter, options, n_row)
            chunks.write(read.number, part)
            parts.append(part)
            stage.advance(float(len(chunks.paths_of(read.number))))
    rejects = [*inputs.rejects, *not_drawn]
    for part in parts:
        rejects += part.rejects
    if rejects_file is not None:
        write_rejects(rejects_file, rejects)
    return _join(parts, rejects, fitter, n_in=inputs.n_in, rejects_file=rejects_file)


def _draw(paths: Sequence[str], options: ObservedConfig) -> tuple[list[str], list[Reject]]:
    """Files to use in random order where there are too many, and rejects for the others."""
    if options.max_spectra is None or len(paths) <= options.max_spectra:
        return list(paths), []
    order = np.random.default_rng(options.seed).permutation(len(paths))
    drawn = set(order[: options.max_spectra].tolist())
    reason = f"not among the {options.max_spectra} spectra that were drawn for training"
    left = [
        Reject(path, reason, "raise the number of spectra")
        for row, path in enumerate(paths)
        if row not in drawn
    ]
    return [path for row, path in enumerate(paths) if row in drawn], left


def _prepare_chunk(
    read: ReadChunk, fitter: SpectrumFitter, options: ObservedConfig, n_row: int
) -> FinishedChunk:
    import pandas as pd

    kept: list[int] = []
    rejects = list(read.rejects)
    rows = pd.DataFrame()
    if read.raws:
        fitted = fitter.fit(read.raws, pad_to=n_row)
        rows = tabulate_fit(read.raws, fitted, measure=False)
        for row, raw in enumerate(read.raws):
            reason = _refuse(fitted, row, options)
            if reason is None:
                kept.append(row)
            else:
                rejects.append(Reject(raw.meta.path, *reason))
    if not kept:
        return FinishedChunk(rows.iloc[:0], rejects, read.hashes, {})
    batch = preprocess_batch(
        [read.raws[row] for row in kept],
        fitter.grid,
        rv_kms=rows["RV"].to_numpy()[kept],
        masks=fitter.preprocessing.masks_aa,
        sigma_aa=fitter.preprocessing.sigma_aa,
        pad_to=n_row,
        min_overlap=0.0,
    )
    names = ("flux", "ivar", "information")
    arrays = {name: np.asarray(getattr(batch, name))[: len(kept)] for name in names}
    wild = np.abs(arrays["flux"] - 1.0) > LARGEST_DEVIATION
    arrays = {
        name: np.where(wild, np.float32(name == "flux"), values) for name, values in arrays.items()
    }
    return FinishedChunk(rows.iloc[kept].reset_index(drop=True), rejects, read.hashes, arrays)


def _refuse(fitted: FittedSpectra, row: int, options: ObservedConfig) -> tuple[str, str] | None:
    """Why a fitted spectrum does not belong to the domain, and what to do; None if it does."""
    flags = int(fitted.flags[row]) & int(UNUSABLE)
    if flags or not np.isfinite(fitted.result.rv_kms[row]):
        reasons = describe_flags(flags) or ["no velocity was found"]
        return "; ".join(reasons), "look at the spectrum"
    if options.max_teff is not None and "teff" in fitted.label_names:
        teff = float(fitted.result.labels[row, fitted.label_names.index("teff")])
        if not teff <= options.max_teff:
            return (
                f"fitted Teff {teff:.0f} K is above {options.max_teff:g} K",
                "raise the limit to train on hotter stars",
            )
    return None


def _join(
    parts: Sequence[FinishedChunk],
    rejects: list[Reject],
    fitter: SpectrumFitter,
    *,
    n_in: int,
    rejects_file: str | os.PathLike[str] | None,
) -> PreparedSpectra:
    import pandas as pd

    n_used = sum(len(part.rows) for part in parts)
    check_accounts(n_in, n_used, len(rejects))
    if not n_used:
        first = f" The first: {rejects[0].path}: {rejects[0].reason}." if rejects else ""
        remedy = "" if rejects_file is None else f"all reasons are in {os.fspath(rejects_file)}."
        raise WorkFailed(f"none of {n_in} inputs is usable.{first}", remedy)
    shape = (n_used, fitter.grid.n_pix)
    arrays = {name: np.empty(shape, np.float32) for name in ("flux", "ivar", "information")}
    first_row = 0
    for part in parts:
        # Chunk by chunk, each let go once it is copied: the domain is in memory only once.
        last_row = first_row + len(part.rows)
        stored = part.arrays or {}
        for name in list(stored):
            arrays[name][first_row:last_row] = stored.pop(name)
        first_row = last_row
    table = pd.concat([part.rows for part in parts if len(part.rows)], ignore_index=True)
    domain = ObservedDomain(
        **arrays,
        grid=fitter.grid,
        frame_kms=table["RV"].to_numpy(np.float64),
        snr=table["SNRr"].to_numpy(np.float64),
        names=tuple(table["path"]),
    )
    return PreparedSpectra(domain, table, rejects)


def digest_model(model: ForwardModel) -> str:
    """SHA-256 of what a model is: its arrays, and the text of everything else."""
    digest = hashlib.sha256()
    leaves, structure = jax.tree.flatten(model)
    digest.update(str(structure).encode())
    for leaf in leaves:
        digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return digest.hexdigest()


def _fingerprint(paths: Sequence[str], model: ForwardModel, options: ObservedConfig) -> str:
    """What must be the same for chunks of an earlier run to be used."""
    about = {"model": digest_model(model), "options": asdict(options)}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for path in paths:
        digest.update(os.path.abspath(path).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
