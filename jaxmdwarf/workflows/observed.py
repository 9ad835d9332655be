"""Files to an observed domain: read, find the velocity, bring to rest, normalise; resumable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from jaxmdwarf.catalogue.rows import empty_rows, tabulate_fit
from jaxmdwarf.catalogue.stars import count_visits, group_stars
from jaxmdwarf.errors import RejectedInput, UsageError, WorkFailed
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.fitted import FittedSpectra
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.packs.reading import read_places
from jaxmdwarf.io.parts import PackPart, count_spectra
from jaxmdwarf.io.provenance import describe_inputs, hash_values
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import ReadTask, name_place
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.quality import FLAG_MEANINGS, QualityFlag, describe_flags
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.workflows.outputs import require_folder
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.reading import build_spectra, count_rows, split_rows
from jaxmdwarf.workflows.run import Chunk, open_run, settle_accounts

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

PAPER_SPECTRA = 110_000
"""Spectra of the paper's observed domain (section 3.3.1)."""

UNUSABLE = (
    QualityFlag.NO_GOOD_PIXELS
    | QualityFlag.FEW_PIXELS
    | QualityFlag.VELOCITY_AT_EDGE
    | QualityFlag.BAD_CHI2
    | QualityFlag.NOT_M_DWARF
)
"""Flags of a spectrum that is not that of an M dwarf, not as the model knows them, or not at rest;
NOT_M_DWARF is looked for where `ObservedConfig.m_dwarfs_only` asks for it."""

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
    m_dwarfs_only : bool
        Whether what is no M dwarf by its own spectrum (`jaxmdwarf.measure.kind`) is rejected: a
        model that has learned from other objects describes them too, and tells them no more.
    max_spectra : int or None
        Files, or spectra of packs, that are chosen at random where there are more.
    chunk_size : int
        Files that are read, fitted and written together; what a killed run loses at most.
    seed : int
        Of that choice.
    solver : Solver
    schedule : FitScheduleConfig
        Of the fit that finds the velocities.
    """

    velocity: Literal["fit", "header"] = "fit"
    min_snr: float = 0.0
    max_teff: float | None = 4300.0
    m_dwarfs_only: bool = True
    max_spectra: int | None = PAPER_SPECTRA
    chunk_size: int = 1024
    seed: int = 0
    solver: Solver = field(default_factory=LevenbergMarquardt)
    schedule: FitScheduleConfig = field(default_factory=FitScheduleConfig)

    def __post_init__(self) -> None:
        self.fit_config()
        if self.max_spectra is not None and self.max_spectra < 1:
            raise UsageError(f"max_spectra {self.max_spectra} is below 1.")

    def fit_config(self) -> FitConfig:
        """Of the fit with the emulator."""
        return FitConfig(
            velocity=self.velocity,
            min_snr=self.min_snr,
            # What theory lacks is what is to be learned, and looks like outliers to it.
            clip_sigma=0.0,
            wavelength_drift=False,
            likelihood_labels=False,
            chunk_size=self.chunk_size,
            solver=self.solver,
            schedule=self.schedule,
        )


_ARRAYS = ("flux", "ivar", "information")


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

    @property
    def n_not_m_dwarf(self) -> int:
        """Number of inputs that were rejected as no M dwarfs."""
        reason = FLAG_MEANINGS[QualityFlag.NOT_M_DWARF]
        return sum(reason in reject.reason for reject in self.rejects)


def prepare_observed(
    files: Sequence[str | os.PathLike[str]],
    model: ForwardModel,
    options: ObservedConfig | None = None,
    progress: Progress | None = None,
    *,
    cache: str | os.PathLike[str],
    overwrite: bool = False,
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
    cache : path
        Folder for finished chunks: the same call goes on from there, and reads nothing again.
    overwrite : bool
        Whether spectra in `cache` that were prepared in another way may be replaced.
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
        If the model was trained on spectra that were not normalised, `cache` is of other spectra or
        settings, another process works there, or its disk is too full.
    WorkFailed
        If no spectrum is usable.
    """
    options, progress = options or ObservedConfig(), progress or Silent()
    fitter = Fitter(model, options.fit_config())
    inputs = expand_inputs(files, leave_out=(*leave_out, cache))
    paths, not_chosen = _choose_inputs(inputs.paths, options)
    require_folder(cache, n_bytes=3 * 4 * fitter.grid.n_pix * count_spectra(paths))
    window = float(fitter.grid.wave_aa[0]), float(fitter.grid.wave_aa[-1])
    n_row = count_rows(paths, options.chunk_size)
    with open_run(
        cache,
        kind="spectra at rest",
        about={**describe_inputs(paths), "model": hash_values(model), "options": options},
        overwrite=overwrite,
    ) as run:
        run.map_files(
            paths,
            ReadTask(Requirements(window_aa=window)),
            lambda items: _prepare_chunk(items, fitter, options, n_row),
            chunk_size=options.chunk_size,
            title="bringing spectra to rest",
            progress=progress,
            processes=processes,
        )
        table, rejects = run.collect(empty_rows())
        not_read = [*inputs.rejects, *not_chosen]
        rejects = [*not_read, *rejects]
        n_in = len(not_read) + run.n_in
        settle_accounts(run, rejects, n_in=n_in, n_out=len(table), rejects_file=rejects_file)
        return _join(run.read_all(), table, rejects, fitter)


def prepare_spectra(
    raws: Sequence[RawSpectrum],
    model: ForwardModel,
    options: ObservedConfig | None = None,
    progress: Progress | None = None,
    *,
    not_read: Sequence[Reject] = (),
) -> PreparedSpectra:
    """Bring spectra in memory to rest on the pixels of an emulator, normalised.

    Parameters
    ----------
    raws : sequence of RawSpectrum
    model, options, progress
        As in `prepare_observed`.
    not_read : sequence of Reject
        Inputs that are no spectra, for the account.

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
    import pandas as pd

    options, progress = options or ObservedConfig(), progress or Silent()
    fitter = Fitter(model, options.fit_config())
    named = [_name_spectrum(raw, number) for number, raw in enumerate(raws)]
    used, rejects = _choose(named, [raw.meta.path for raw in named], options)
    n_row = min(options.chunk_size, -(-max(len(used), 1) // 32) * 32)
    parts: list[Chunk] = []
    with progress.stage("bringing spectra to rest", total=float(len(used))) as stage:
        for some in split_rows(used, n_row):
            usable = []
            for raw in some:
                try:
                    fitter.require(raw)
                except RejectedInput as error:
                    rejects.append(Reject.from_error(raw.meta.path, error, raw.meta.index))
                else:
                    usable.append(raw)
            if usable:
                parts.append(_prepare_rows(usable, fitter, options, n_row))
            stage.advance(float(len(some)))
    rejects = [*not_read, *rejects, *(one for part in parts for one in part.rejects)]
    kept = [part.rows for part in parts if len(part.rows)]
    if not kept:
        first = rejects[0]
        raise WorkFailed(
            f"none of {len(raws) + len(not_read)} inputs is usable. The first, {first.path}: "
            f"{first.reason}.",
            f"{first.remedy}.",
        )
    return _join(parts, pd.concat(kept, ignore_index=True), rejects, fitter)


def _name_spectrum(raw: RawSpectrum, number: int) -> RawSpectrum:
    """The spectrum, called by its identifier or its number if it is of no file."""
    if raw.meta.path:
        return raw
    name = raw.meta.obsid or f"spectrum {number}"
    return replace(raw, meta=replace(raw.meta, path=name))


def _choose(
    items: Sequence[T], names: Sequence[str], options: ObservedConfig
) -> tuple[list[T], list[Reject]]:
    """Inputs to use, chosen at random where there are too many, and rejects for the others."""
    chosen = _draw(len(items), options)
    left = [_leave_out(name, options) for name, used in zip(names, chosen, strict=True) if not used]
    return [item for item, used in zip(items, chosen, strict=True) if used], left


def _choose_inputs(paths: Sequence[str], options: ObservedConfig) -> tuple[list[str], list[Reject]]:
    """As `_choose`, with every spectrum of a pack drawn for itself."""
    chosen = _draw(count_spectra(paths), options)
    used: list[str] = []
    left: list[Reject] = []
    first = 0
    for path in paths:
        own = chosen[first : first + count_spectra([path])]
        first += len(own)
        if own.all():
            used.append(path)
        elif not isinstance(path, PackPart):
            left.append(_leave_out(path, options))
        else:
            places = read_places(path)
            others = [places[row] for row in np.flatnonzero(~own)]
            left += [_leave_out(name, options, index) for name, index in others]
            if own.any():
                used.append(path.choose((path.first + np.flatnonzero(own)).tolist()))
    return used, left


def _draw(n_input: int, options: ObservedConfig) -> np.ndarray:
    """Which of so many inputs are used, (n_input,), bool."""
    if options.max_spectra is None or n_input <= options.max_spectra:
        return np.ones(n_input, bool)
    order = np.random.default_rng(options.seed).permutation(n_input)
    chosen = np.zeros(n_input, bool)
    chosen[order[: options.max_spectra]] = True
    return chosen


def _leave_out(path: str, options: ObservedConfig, index: int | None = None) -> Reject:
    """The reject of an input that was not drawn."""
    reason = f"not among the {options.max_spectra} spectra that were chosen for training"
    return Reject(path, reason, "raise the number of spectra", index)


def _prepare_chunk(
    items: list[tuple[str, Any]], fitter: Fitter, options: ObservedConfig, n_row: int
) -> Chunk:
    import pandas as pd

    raws, rejects = build_spectra(items, fitter.require)
    parts = [_prepare_rows(part, fitter, options, n_row) for part in split_rows(raws, n_row)]
    if not parts:
        return Chunk(empty_rows(fitter.model.label_space.names), rejects, {})
    arrays = [part.arrays for part in parts if part.arrays]
    return Chunk(
        pd.concat([part.rows for part in parts], ignore_index=True),
        rejects + [reject for part in parts for reject in part.rejects],
        {name: np.concatenate([part[name] for part in arrays]) for name in _ARRAYS}
        if arrays
        else {},
    )


def _prepare_rows(
    raws: Sequence[RawSpectrum], fitter: Fitter, options: ObservedConfig, n_row: int
) -> Chunk:
    """Spectra at rest, at most `n_row`."""
    kept: list[int] = []
    rejects: list[Reject] = []
    fitted = fitter.fit(raws, pad_to=n_row)
    rows = tabulate_fit(raws, fitted, measure=options.m_dwarfs_only)
    flags = rows["flags"].to_numpy()
    for row, raw in enumerate(raws):
        reason = _refuse(fitted, row, int(flags[row]), options)
        if reason is None:
            kept.append(row)
        else:
            rejects.append(Reject(raw.meta.path, *reason, raw.meta.index))
    if not kept:
        return Chunk(rows.iloc[:0], rejects, {})
    batch = preprocess_batch(
        [raws[row] for row in kept],
        fitter.grid,
        rv_kms=rows["RV"].to_numpy()[kept],
        masks=fitter.preprocessing.masks_aa,
        sigma_aa=fitter.preprocessing.sigma_aa,
        pad_to=n_row,
        min_overlap=0.0,
    )
    arrays = {name: np.asarray(getattr(batch, name))[: len(kept)] for name in _ARRAYS}
    wild = np.abs(arrays["flux"] - 1.0) > LARGEST_DEVIATION
    arrays = {
        name: np.where(wild, np.float32(name == "flux"), values) for name, values in arrays.items()
    }
    return Chunk(rows.iloc[kept].reset_index(drop=True), rejects, arrays)


def _refuse(
    fitted: FittedSpectra, row: int, flags: int, options: ObservedConfig
) -> tuple[str, str] | None:
    """Why a fitted spectrum does not belong to the domain, and what to do; None if it does."""
    flags &= int(UNUSABLE)
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


def _number_stars(table: pd.DataFrame) -> np.ndarray | None:
    """The star of each spectrum; None where most of them share a position: it is none of a star."""
    star = group_stars(table)
    return None if 2 * count_visits(star).max(initial=0) > max(len(star), 2) else star


def _join(
    parts: Iterable[Chunk], table: pd.DataFrame, rejects: list[Reject], fitter: Fitter
) -> PreparedSpectra:
    """The domain of all parts, whose rows are `table`."""
    shape = (len(table), fitter.grid.n_pix)
    arrays = {name: np.empty(shape, np.float32) for name in _ARRAYS}
    first_row = 0
    for part in parts:
        # Chunk by chunk, each let go once it is copied: the domain is in memory only once.
        last_row = first_row + len(part.rows)
        for name, values in (part.arrays or {}).items():
            arrays[name][first_row:last_row] = values
        first_row = last_row
    domain = ObservedDomain(
        **arrays,
        grid=fitter.grid,
        frame_kms=table["RV"].to_numpy(np.float64),
        snr=table["SNRr"].to_numpy(np.float64),
        names=tuple(map(name_place, table["path"], table["spectrum"])),
        star=_number_stars(table),
    )
    return PreparedSpectra(domain, table, rejects)
