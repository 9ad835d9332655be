"""Model-grid files of any supported format to one table at a survey's resolution."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.texts import escape_path, restore_path
from jaxmdwarf.errors import FormatError, MismatchError, RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange
from jaxmdwarf.io.grids.phoenix_aces import is_wave_file
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.grids.table import ModelGrid, read_grid, write_grid
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.provenance import describe_inputs, gather_provenance
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.labels import Label, LabelSpace, describe_label
from jaxmdwarf.lsf import FWHM_OF_SIGMA, LsfWeights, apply_lsf, lsf_weights
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.outputs import require_output, require_rejects
from jaxmdwarf.workflows.run import Chunk, Run, name_work_folder, open_output, settle_accounts

if TYPE_CHECKING:
    from jaxmdwarf.workflows.progress import Progress

DEFAULT_RESOLUTION = 1800.0
DEFAULT_PIXELS = PixelGrid.linear(5940.0, 8960.0, 1.0)
"""The paper's pixels with a margin of 60 Angstrom, enough for shifts of 2,000 km/s."""

CHUNK_SIZE = 64
"""Model files that are read and kept together."""

_FILE_LABELS = tuple(describe_label(name) for name in GridLabels._fields)
"""What files of model atmospheres know; tables may have any labels beside."""

_MARGIN_SIGMA = 8.0


class GridSpectrum(NamedTuple):
    """One spectrum of the table to be."""

    labels: tuple[float, ...]
    flux: np.ndarray
    layout: str
    known: tuple[Label, ...] = _FILE_LABELS


@dataclass(frozen=True)
class GridTask:
    """What is done with each model file; sent to worker processes.

    Parameters
    ----------
    pixels : PixelGrid
    resolution : float
    native_resolution : float or None
        Resolving power the files already have; None for none that matters.
    air : bool or None
        Overrides the wavelength scale of the formats.
    """

    pixels: PixelGrid
    resolution: float
    native_resolution: float | None = None
    air: bool | None = None

    def __call__(self, path: str) -> list[GridSpectrum]:
        """Read one file and convolve its spectra onto the pixels.

        Raises
        ------
        RejectedInput
            If the file is no model, does not cover the pixels, or is sampled too coarsely.
        """
        if path.endswith(".parquet"):
            return self._from_table(path)
        low, high = self._reach()
        native = read_native(path, air=self.air, wanted=WaveRange(low, high))
        self._check_sampling(native)
        weights = _weights_for(native.wave_aa, self)
        flux = np.asarray(apply_lsf(native.flux, weights), dtype=np.float32)
        # 0.2 may come as 0.2000003 from one header and as 0.20 from another.
        labels = tuple(round(value, 5) for value in native.labels)
        return [GridSpectrum(labels, flux, native.layout)]

    def _reach(self) -> tuple[float, float]:
        low, high = self.pixels.edges_aa[[0, -1]]
        margin = _MARGIN_SIGMA / (self.resolution * FWHM_OF_SIGMA)
        return float(low * (1 - margin)), float(high * (1 + margin))

    def _check_sampling(self, native: NativeSpectrum) -> None:
        inside = (native.wave_aa > self.pixels.start_aa) & (
            native.wave_aa < self.pixels.edges_aa[-1]
        )
        if inside.sum() < 2:
            raise RejectedInput(
                "the spectrum does not cover the pixels.",
                "choose pixels within its range (--start-aa, --stop-aa).",
            )
        wave = native.wave_aa[inside]
        steps = np.diff(wave)
        step = float(np.median(steps))
        width = float(self.pixels.wave_aa.mean()) / self.resolution
        if step > 0.5 * width:
            raise RejectedInput(
                f"samples {step:.2f} Angstrom apart cannot give a resolution of "
                f"{self.resolution:g} ({width:.1f} Angstrom).",
                "use finer model spectra or a lower --resolution.",
            )
        widest = int(np.argmax(steps))
        if steps[widest] > width:
            raise RejectedInput(
                f"nothing between {wave[widest]:.1f} and {wave[widest + 1]:.1f} A, which is more "
                f"than the {width:.1f} A that are resolved.",
                "the file seems to be cut short or damaged: fetch it again.",
            )

    def _from_table(self, path: str) -> list[GridSpectrum]:
        try:
            table = read_grid(path)
        except (FormatError, UsageError) as error:
            raise RejectedInput(error.message, error.remedy) from None
        flux = table.flux
        if table.grid != self.pixels or table.resolution != self.resolution:
            if table.resolution <= self.resolution:
                raise RejectedInput(
                    f"the table has a resolution of {table.resolution:g}, "
                    f"{self.resolution:g} is asked for.",
                    "make it again from the model files.",
                )
            weights = lsf_weights(
                table.grid.wave_aa,
                self.pixels,
                resolution=self.resolution,
                native_resolution=table.resolution,
            )
            flux = np.asarray(apply_lsf(flux, weights))
        fixed = table.provenance.get("fixed_labels", {})
        columns = {name: table.labels[:, k] for k, name in enumerate(table.label_space.names)}
        layout = "table-simulated" if table.kind == "simulated" else "table"
        space = table.label_space
        further = tuple(
            describe_label(name, unit)
            for name, unit in zip(space.names, space.units, strict=True)
            if name not in GridLabels._fields
        )
        known = (*_FILE_LABELS, *further)
        return [
            GridSpectrum(
                tuple(
                    float(columns[one.name][row])
                    if one.name in columns
                    else float(fixed.get(one.name, 0))
                    for one in known
                ),
                flux[row],
                layout,
                known,
            )
            for row in range(table.n_spec)
        ]


def make_grid(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    resolution: float = DEFAULT_RESOLUTION,
    pixels: PixelGrid = DEFAULT_PIXELS,
    native_resolution: float | None = None,
    air: bool | None = None,
    processes: int | None = None,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read model files, convolve them to a resolution, and write one grid table.

    Parameters
    ----------
    inputs : sequence of path
        Files, folders (searched through), patterns and ``@lists``. WAVE files of PHOENIX-ACES are
        not counted as input.
    out : path
        The table (``.parquet``); rejects go to ``<stem>_rejects.csv`` beside it.
    resolution : float
        Resolving power lambda/FWHM of the result.
    pixels : PixelGrid
        Its pixels.
    native_resolution : float, optional
        Resolving power the files already have.
    air : bool, optional
        True or False overrides the wavelength scale of the formats (all vacuum).
    processes : int, optional
        Worker processes; all cores by default.
    command : sequence of str, optional
        For the provenance.
    overwrite : bool
        Whether a table that is there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, label ranges, formats, and where the two tables are.

    Raises
    ------
    UsageError
        Before any work: if numbers make no sense, or `out` does not end in ``.parquet``, exists,
        cannot be written or is being written by another process.
    WorkFailed
        If fewer than two spectra are usable; the rejects are written all the same.

    Notes
    -----
    A label that has one value in all files is no label of the table; its value is in
    ``provenance["fixed_labels"]``. Points need not fill a regular grid.
    """
    _require_sense(out, resolution, native_resolution)
    require_output(out, overwrite=overwrite)
    rejects_file = require_rejects(out, overwrite=overwrite)
    found = expand_inputs(inputs, leave_out=(out, rejects_file, name_work_folder(out)))
    paths = [path for path in found.paths if not is_wave_file(path)]
    packs = [path.pack for path in paths if isinstance(path, PackPart)]
    if packs:
        raise UsageError(f"{packs[0]} is a pack of spectra.", "give files of a model grid.")
    task = GridTask(pixels, float(resolution), native_resolution, air)
    with open_output(
        out,
        kind="a model grid",
        about={**describe_inputs(paths), "task": task},
        overwrite=overwrite,
        n_bytes=2 * 4 * pixels.n_pix * len(paths),
        beside=(rejects_file,),
    ) as run:
        run.map_files(
            paths,
            _Unhashed(task),
            _tabulate,
            chunk_size=CHUNK_SIZE,
            title="reading model spectra",
            progress=progress,
            processes=processes,
            n_together=2,
        )
        accepted, rejects, n_files = _accept(run)
        rejects = [*found.rejects, *rejects]
        n_in = len(paths) + len(found.rejects)
        settle_accounts(
            run,
            rejects,
            n_in=n_in,
            n_out=n_files,
            n_row=len(accepted),
            least=2,
            product="a grid",
            rejects_file=rejects_file,
        )
        model_grid = _assemble(accepted, task, command)
        write_grid(model_grid, out)
    space = model_grid.label_space
    return {
        "inputs": n_in,
        "used": n_files,
        "rejected": len(rejects),
        "spectra": model_grid.n_spec,
        "labels": {
            name: [low, high]
            for name, low, high in zip(space.names, space.lower, space.upper, strict=True)
        },
        "fixed_labels": model_grid.provenance["fixed_labels"],
        "formats": model_grid.provenance["formats"],
        "resolution": float(resolution),
        "kind": model_grid.kind,
        "table": str(out),
        "rejects": str(rejects_file),
    }


def _require_sense(
    out: str | os.PathLike[str], resolution: float, native_resolution: float | None
) -> None:
    """Raise `UsageError` for what no grid can have."""
    if not (resolution > 0 and np.isfinite(resolution)):
        raise UsageError(
            f"a resolution of {resolution} makes no sense.",
            "give a positive number, as in --resolution 1800.",
        )
    if native_resolution is not None and native_resolution <= resolution:
        raise UsageError(
            f"files of resolution {native_resolution:g} cannot be brought to {resolution:g}.",
            "ask for a lower --resolution.",
        )
    if Path(out).suffix != ".parquet":
        raise UsageError(
            f"a grid is a Parquet table, and {os.fspath(out)} is not named like one.",
            "give --out a name that ends in .parquet.",
        )


@dataclass(frozen=True)
class _Unhashed:
    """Model files are known apart by their labels, not by their content."""

    task: GridTask

    def __call__(self, path: str) -> tuple[list[GridSpectrum], None]:
        return self.task(path), None


def _tabulate(items: list[tuple[str, list[GridSpectrum]]]) -> Chunk:
    """Rows and fluxes of model files."""
    import pandas as pd

    pairs = [(path, spectrum) for path, spectra in items for spectrum in spectra]
    rows = pd.DataFrame(
        [
            (
                escape_path(path),
                spectrum.layout,
                list(spectrum.labels),
                [one.name for one in spectrum.known],
                [one.unit for one in spectrum.known],
            )
            for path, spectrum in pairs
        ],
        columns=["path", "layout", "labels", "names", "units"],
    )
    flux = [spectrum.flux for _, spectrum in pairs]
    return Chunk(rows, [], {"flux": np.stack(flux)} if flux else None)


def _accept(
    run: Run,
) -> tuple[dict[tuple[float, ...], tuple[GridSpectrum, str]], list[Reject], int]:
    """Spectra of all chunks by their labels, files that do not fit to others, files used."""
    accepted: dict[tuple[float, ...], tuple[GridSpectrum, str]] = {}
    known: tuple[str, ...] = ()
    rejects: list[Reject] = []
    n_files = 0
    for chunk in run.read_all():
        rejects += chunk.rejects
        for name, rows in chunk.rows.groupby("path", sort=False):
            path = restore_path(str(name))
            found = [_restore(chunk, row) for row in rows.index]
            names = tuple(one.name for one in found[0].known)
            known = known or names
            repeated = [accepted[one.labels][1] for one in found if one.labels in accepted]
            if names != known:
                reason = f"has the labels {', '.join(names)}, others {', '.join(known)}"
                rejects.append(Reject(path, reason, "make a grid of each"))
            elif repeated:
                reason = f"repeats labels of {repeated[0]}"
                rejects.append(Reject(path, reason, "keep one file a model"))
            else:
                n_files += 1
                accepted.update({one.labels: (one, path) for one in found})
    return accepted, rejects, n_files


def _restore(chunk: Chunk, row: int) -> GridSpectrum:
    """A spectrum of a chunk."""
    about = chunk.rows.loc[row]
    known = tuple(map(describe_label, about["names"], about["units"]))
    labels = tuple(float(value) for value in about["labels"])
    return GridSpectrum(labels, (chunk.arrays or {})["flux"][row], str(about["layout"]), known)


def _assemble(
    accepted: dict[tuple[float, ...], tuple[GridSpectrum, str]],
    task: GridTask,
    command: Sequence[str] | None,
) -> ModelGrid:
    keys = sorted(accepted)
    spectra = [accepted[key][0] for key in keys]
    labels = np.array(keys, dtype=np.float64)
    varying = np.ptp(labels, axis=0) > 0
    if not varying.any():
        raise WorkFailed("all spectra have the same labels.", "give the files of a grid.")
    known = spectra[0].known
    names = [one.name for one, varies in zip(known, varying, strict=True) if varies]
    units = [one.unit for one, varies in zip(known, varying, strict=True) if varies]
    fixed = {one.name: float(labels[0, k]) for k, one in enumerate(known) if not varying[k]}
    formats = Counter(spectrum.layout for spectrum in spectra)
    return ModelGrid(
        labels=labels[:, varying],
        label_space=LabelSpace.bounding(names, units, labels[:, varying]),
        flux=np.stack([spectrum.flux for spectrum in spectra]),
        grid=task.pixels,
        resolution=task.resolution,
        kind="simulated" if formats["table-simulated"] else "theory",
        sources=tuple(os.path.basename(accepted[key][1]) for key in keys),
        provenance={
            **gather_provenance(command=command).as_text(),
            "fixed_labels": fixed,
            "formats": dict(formats),
            "native_resolution": task.native_resolution,
            "air": task.air,
        },
    )


_last: tuple[GridTask, LsfWeights, np.ndarray] | None = None


def _weights_for(wave: np.ndarray, task: GridTask) -> LsfWeights:
    """Weights of the last file where the wavelengths are the same, as in PHOENIX-ACES."""
    global _last
    if _last is not None and _last[0] == task and np.array_equal(_last[2], wave):
        return _last[1]
    try:
        weights = lsf_weights(
            wave,
            task.pixels,
            resolution=task.resolution,
            native_resolution=task.native_resolution,
            dtype=np.float64,
        )
    except MismatchError as error:
        raise RejectedInput(error.message, error.remedy) from None
    _last = (task, weights, wave)
    return weights
