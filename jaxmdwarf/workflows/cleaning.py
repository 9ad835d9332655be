"""The cleaning of a sample with its records: a contact sheet and a table for each round."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmdwarf.errors import MismatchError, WorkFailed
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.preprocess.clean import (
    Cleaning,
    CleaningConfig,
    ClusterRow,
    clean,
    shape_features,
)
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.progress import Silent

if TYPE_CHECKING:
    from jaxmdwarf.workflows.progress import Progress


def clean_sample(
    batches: Iterable[SpectrumBatch],
    names: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    config: CleaningConfig | None = None,
    templates: SpectrumBatch | None = None,
    progress: Progress | None = None,
) -> Cleaning:
    """Clean a sample and write what was done, so that it can be checked, edited and repeated.

    Parameters
    ----------
    batches : iterable of SpectrumBatch
        The sample, not divided by a continuum (``preprocess_batch(..., sigma_aa=None,
        masks=())``); only coarse shapes are kept in memory (3 kB a spectrum).
    names : sequence of str
        Path or identifier of each spectrum. Rows beyond them (padding of the last batch) are
        left out.
    folder : path
        Gets ``round_<r>.png`` and ``round_<r>.csv`` for each round, ``members.csv`` (name, kept,
        round, group) and ``config.json``, from which a `CleaningConfig` repeats the cleaning.
    config : CleaningConfig, optional
    templates : SpectrumBatch, optional
        M-dwarf spectra on the same grid for the correlation rule.
    progress : Progress, optional

    Returns
    -------
    Cleaning

    Raises
    ------
    WorkFailed
        If there is no spectrum, or none survives.
    MismatchError
        If there are fewer spectra than names.
    """
    config = config or CleaningConfig()
    progress = progress or Silent()
    parts = []
    grid: PixelGrid | None = None
    n_left = len(names)
    with progress.stage("reading shapes", total=float(len(names)), unit="spectra") as stage:
        for batch in batches:
            features, grid = shape_features(batch)
            parts.append(features[: min(len(features), n_left)])
            n_left -= len(parts[-1])
            stage.advance(float(len(parts[-1])))
    if grid is None or not names:
        raise WorkFailed("there is no spectrum to clean.", "give spectra.")
    if n_left:
        raise MismatchError(f"{len(names)} names for {len(names) - n_left} spectra.")
    patterns = None if templates is None else shape_features(templates)[0]
    progress.say("grouping spectra by shape")
    cleaning = clean(np.concatenate(parts), grid, config, templates=patterns)
    _write_records(cleaning, names, Path(folder), config)
    if not cleaning.keep.any():
        raise WorkFailed(
            "the cleaning dropped every spectrum.",
            f"look at the contact sheets in {folder} and loosen the rules.",
        )
    return cleaning


def read_config(path: str | os.PathLike[str]) -> CleaningConfig:
    """The configuration that `clean_sample` stored in ``config.json``."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    for key in ("drop", "keep"):
        values[key] = tuple((int(number), int(group)) for number, group in values[key])
    return CleaningConfig(**values)


def _write_records(
    cleaning: Cleaning, names: Sequence[str], folder: Path, config: CleaningConfig
) -> None:
    from jaxmdwarf.plots.cleaning import plot_contact_sheet

    for done in cleaning.rounds:
        stem = f"round_{done.rows[0].round}"
        with write_atomically(folder / f"{stem}.png") as temporary:
            plot_contact_sheet(done, cleaning.grid.wave_aa).savefig(temporary, dpi=110)
        columns = [field.name for field in fields(ClusterRow)]
        rows = [list(asdict(row).values()) for row in done.rows]
        _write_csv(folder / f"{stem}.csv", columns, rows)
    _write_csv(
        folder / "members.csv",
        ["name", "kept", "round", "cluster"],
        zip(
            names,
            cleaning.keep.astype(int).tolist(),
            cleaning.dropped_in_round.tolist(),
            cleaning.dropped_in_cluster.tolist(),
            strict=True,
        ),
    )
    with write_atomically(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
