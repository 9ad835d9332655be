"""Model grids as one Parquet table: a row a spectrum, labels as columns, flux as a list."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.catalogue.texts import escape_path, restore_path
from jaxmdwarf.errors import FormatError, JaxmdwarfError, MismatchError, UsageError
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.wavelengths import PixelGrid

GRID_FORMAT = "jaxmdwarf-grid"
GRID_VERSION = 1
_METADATA_KEY = b"jaxmdwarf"


@dataclass(frozen=True)
class ModelGrid:
    """Model spectra at one resolution on one pixel grid, with their labels.

    Parameters
    ----------
    labels : (n_spec, n_label) float64
        Physical labels, columns in the order of `label_space`. Any set of points: holes are fine.
    label_space : LabelSpace
        Names, units and bounds of the labels.
    flux : (n_spec, n_pix) float32
        Flux density at the stellar surface, erg/s/cm2/A (a scale factor never matters here).
    grid : PixelGrid
        Pixels, vacuum Angstrom.
    resolution : float
        Resolving power lambda/FWHM of the spectra.
    kind : {"theory", "simulated"}
        "theory" for published model atmospheres, "simulated" for the package's own stand-in, which
        every product trained on it must say.
    sources : tuple of str
        File name (or other origin) of each spectrum; empty if unknown.
    provenance : dict
        How the grid was made; plain JSON values.

    Raises
    ------
    MismatchError
        If shapes disagree or values are not finite.
    """

    labels: np.ndarray
    label_space: LabelSpace
    flux: np.ndarray
    grid: PixelGrid
    resolution: float
    kind: str = "theory"
    sources: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_spec = len(self.labels)
        if self.labels.shape != (n_spec, self.label_space.n_label):
            raise MismatchError(
                f"labels {self.labels.shape} do not fit {self.label_space.n_label} label names."
            )
        if self.flux.shape != (n_spec, self.grid.n_pix):
            raise MismatchError(
                f"flux {self.flux.shape} does not fit {n_spec} spectra of {self.grid.n_pix} pixels."
            )
        if self.sources and len(self.sources) != n_spec:
            raise MismatchError(f"{len(self.sources)} sources for {n_spec} spectra.")
        if not (np.isfinite(self.labels).all() and np.isfinite(self.flux).all()):
            raise MismatchError("labels or flux are not finite.", "drop the broken spectra.")
        if not 0 < self.resolution < np.inf:
            raise UsageError(f"a resolution of {self.resolution} makes no sense.")
        if self.kind not in ("theory", "simulated"):
            raise UsageError(f"grid kind {self.kind!r} is neither 'theory' nor 'simulated'.")

    @property
    def n_spec(self) -> int:
        """Number of spectra."""
        return len(self.labels)


def write_grid(model_grid: ModelGrid, path: str | os.PathLike[str]) -> None:
    """Write a grid as Parquet (zstd), atomically.

    Columns are the label names, ``source`` and ``flux`` (a list of float32 per row); what the
    pixels are, the resolution, units and provenance are JSON in the schema metadata.

    Parameters
    ----------
    model_grid : ModelGrid
    path : path
        Usually ends in ``.parquet``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    space = model_grid.label_space
    arrays: dict[str, Any] = {
        name: pa.array(np.ascontiguousarray(model_grid.labels[:, k], dtype=np.float64))
        for k, name in enumerate(space.names)
    }
    names = list(map(escape_path, model_grid.sources))
    arrays["source"] = pa.array(names or [""] * model_grid.n_spec)
    values = pa.array(np.ascontiguousarray(model_grid.flux, dtype=np.float32).reshape(-1))
    arrays["flux"] = pa.FixedSizeListArray.from_arrays(values, model_grid.grid.n_pix)
    description = {
        "format": GRID_FORMAT,
        "version": GRID_VERSION,
        "kind": model_grid.kind,
        "resolution": float(model_grid.resolution),
        "pixels": asdict(model_grid.grid),
        "wavelengths": "vacuum Angstrom",
        "flux_unit": "erg / (s cm2 Angstrom)",
        "labels": asdict(space),
        "provenance": model_grid.provenance,
    }
    table = pa.table(arrays).replace_schema_metadata({_METADATA_KEY: json.dumps(description)})
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=["source"])


def read_grid(path: str | os.PathLike[str]) -> ModelGrid:
    """Read a grid that `write_grid` wrote.

    Raises
    ------
    UsageError
        If there is no such file.
    FormatError
        If the file is not a grid table, is damaged, or is one of another format version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise UsageError(f"there is no grid table {os.fspath(path)}.", "check the path.")
    try:
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FormatError(
            f"{os.fspath(path)} is not a readable Parquet file.",
            "make a grid table with 'jaxmdwarf grid'.",
        ) from error
    if not isinstance(description, dict) or description.get("format") != GRID_FORMAT:
        raise FormatError(
            f"{os.fspath(path)} is Parquet, but not a grid of jaxmdwarf.",
            "make one with 'jaxmdwarf grid' or write_grid.",
        )
    if description.get("version") != GRID_VERSION:
        raise FormatError(
            f"{os.fspath(path)} has grid format version {description.get('version')}; this version "
            f"of jaxmdwarf reads version {GRID_VERSION}.",
            "make the grid again, or use the version of jaxmdwarf that wrote it.",
        )
    try:
        return _read_spectra(table, description)
    except (
        JaxmdwarfError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as e:
        # Whatever is missing from a table that was edited, or is of another kind.
        text = e.message if isinstance(e, JaxmdwarfError) else f"{type(e).__name__}: {e}"
        raise FormatError(
            f"{os.fspath(path)} is a damaged grid table ({text.rstrip('.')}).",
            "make the grid again with 'jaxmdwarf grid'.",
        ) from e


def _read_spectra(table: Any, description: dict[str, Any]) -> ModelGrid:
    """What the columns and the description of a table say."""
    space = LabelSpace(**{key: tuple(value) for key, value in description["labels"].items()})
    grid = PixelGrid(**description["pixels"])
    flux = table["flux"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    labels = np.column_stack([table[name].to_numpy() for name in space.names]).astype(np.float64)
    space.require_inside(labels)
    return ModelGrid(
        labels=labels,
        label_space=space,
        flux=np.asarray(flux, dtype=np.float32).reshape(-1, grid.n_pix),
        grid=grid,
        resolution=float(description["resolution"]),
        kind=description["kind"],
        sources=tuple(map(restore_path, table["source"].to_pylist())),
        provenance=dict(description["provenance"]),
    )
