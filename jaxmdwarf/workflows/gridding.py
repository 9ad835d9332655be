"""Model-grid files of any supported format to one table at a survey's resolution."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import FormatError, MismatchError, RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.io.grids.native import NativeSpectrum, WaveRange
from jaxmdwarf.io.grids.phoenix_aces import is_wave_file
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.grids.table import ModelGrid, read_grid, write_grid
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.rejects import Reject, check_accounts, name_rejects_file, write_rejects
from jaxmdwarf.io.stream import stream_results
from jaxmdwarf.labels import Label, LabelSpace, describe_label
from jaxmdwarf.lsf import FWHM_OF_SIGMA, LsfWeights, apply_lsf, lsf_weights
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.progress import Silent

if TYPE_CHECKING:
    from jaxmdwarf.workflows.progress import Progress

DEFAULT_RESOLUTION = 1800.0
DEFAULT_PIXELS = PixelGrid.linear(5940.0, 8960.0, 1.0)
"""The paper's pixels with a margin of 60 Angstrom, enough for shifts of 2,000 km/s."""

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
                "the spectrum does not cover the pixels.", "choose pixels within its range."
            )
        step = float(np.median(np.diff(native.wave_aa[inside])))
        width = float(self.pixels.wave_aa.mean()) / self.resolution
        if step > 0.5 * width:
            raise RejectedInput(
                f"samples {step:.2f} Angstrom apart cannot give a resolution of "
                f"{self.resolution:g} ({width:.1f} Angstrom).",
                "use finer model spectra or a lower --resolution.",
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
    progress : Progress, optional

    Returns
    -------
    dict
        Counts, label ranges, formats, and where the two tables are.

    Raises
    ------
    UsageError
        If inputs or numbers make no sense.
    WorkFailed
        If fewer than two spectra are usable; the rejects are written all the same.

    Notes
    -----
    A label that has one value in all files is no label of the table; its value is in
    ``provenance["fixed_labels"]``. Points need not fill a regular grid.
    """
    progress = progress or Silent()
    if not (resolution > 0 and np.isfinite(resolution)):
        raise UsageError(f"a resolution of {resolution} makes no sense.", "give a positive number.")
    if native_resolution is not None and native_resolution <= resolution:
        raise UsageError(
            f"files of resolution {native_resolution:g} cannot be brought to {resolution:g}.",
            "ask for a lower --resolution.",
        )
    rejects_file = name_rejects_file(out)
    found = expand_inputs(inputs, leave_out=(out, rejects_file))
    paths = [path for path in found.paths if not is_wave_file(path)]
    task = GridTask(pixels, float(resolution), native_resolution, air)
    accepted: dict[tuple[float, ...], tuple[GridSpectrum, str]] = {}
    known: tuple[str, ...] = ()
    rejects = list(found.rejects)
    n_files = 0
    with progress.stage("reading model spectra", total=float(len(paths))) as stage:
        for path, result in stream_results(task, paths, processes=processes, chunk_size=2):
            stage.advance()
            if isinstance(result, Reject):
                rejects.append(result)
                continue
            names = tuple(one.name for one in result[0].known)
            known = known or names
            if names != known:
                reason = f"has the labels {', '.join(names)}, others {', '.join(known)}"
                rejects.append(Reject(path, reason, "make a grid of each"))
                continue
            repeated = [
                accepted[spectrum.labels][1] for spectrum in result if spectrum.labels in accepted
            ]
            if repeated:
                rejects.append(
                    Reject(path, f"repeats labels of {repeated[0]}", "keep one file a model")
                )
                continue
            n_files += 1
            accepted.update({spectrum.labels: (spectrum, path) for spectrum in result})
    n_in = len(paths) + len(found.rejects)
    check_accounts(n_in, n_files, len(rejects))
    write_rejects(rejects_file, rejects)
    if len(accepted) < 2:
        first = f" The first: {rejects[0].path}: {rejects[0].reason}." if rejects else ""
        raise WorkFailed(
            f"{len(accepted)} of {n_in} model files usable, a grid needs two.{first}",
            f"all reasons are in {rejects_file}.",
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
