"""A simulated survey: spectra in memory or as files, catalogues, the truth beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io.atomic import move_folder
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.lamost_writer import LAYOUTS, LamostHeader, write_lamost_files
from jaxmdwarf.io.tables import write_table
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import LOG10_START, LOG10_STEP, NATIVE_GRID, RESOLUTION
from jaxmdwarf.simulate.survey import (
    THEORY_GRID,
    Survey,
    SurveyBatch,
    SurveyConfig,
    Synthesizer,
    sample_grid_labels,
    simulate_survey,
    theory_grid,
)
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import Chunk, Run, open_output

RECIPE_NAME = "survey.json"
"""By which the folder of a simulated survey is known."""

FILE_BYTES = 30_000
"""Disk space of a spectrum file, generously."""

SYNTHESIS_BATCH = 16
"""Stars per compiled call; more gain nothing on a CPU."""

_SNR_COLUMNS = ("snr_r", "snr_i", "true_snr_r", "true_snr_i")

_UNITS = {
    "ra_deg": "deg",
    "dec_deg": "deg",
    "primary_ra_deg": "deg",
    "primary_dec_deg": "deg",
    "teff": "K",
    "e_teff": "K",
    "companion_teff": "K",
    "primary_teff": "K",
    "mass": "solMass",
    "radius": "solRad",
    "distance_pc": "pc",
    "age_gyr": "Gyr",
    "halpha_ew_aa": "Angstrom",
    "rv_kms": "km/s",
    "companion_rv_kms": "km/s",
    "primary_rv_kms": "km/s",
    "helio_kms": "km/s",
    "exposure_s": "s",
    "separation_arcsec": "arcsec",
    "parallax_mas": "mas",
    "e_parallax_mas": "mas",
    "pmra_masyr": "mas/yr",
    "pmdec_masyr": "mas/yr",
    "e_pm_masyr": "mas/yr",
}


@dataclass(frozen=True)
class FluxSource:
    """Where surface fluxes come from.

    Parameters
    ----------
    wave_aa : (n_wave,)
        Fine vacuum wavelengths, equidistant in ln(wavelength).
    synthesize : callable
        Labels (n, 4) to surface fluxes (n, n_wave).
    """

    wave_aa: np.ndarray
    synthesize: Synthesizer


def nature_source(gap: DomainGap, *, seed: int) -> FluxSource:
    """Surface fluxes of simulated nature: theory changed as `gap` says."""
    from jaxmdwarf.simulate.synthesis import build_simulator, synthesize

    simulator = build_simulator(gap.physics(seed=seed))

    def fluxes(labels: np.ndarray) -> np.ndarray:
        return synthesize(simulator, np.asarray(labels, np.float32), batch_size=SYNTHESIS_BATCH)

    return FluxSource(simulator.wave_aa, fluxes)


def simulate_files(
    out: str | os.PathLike[str],
    *,
    config: SurveyConfig,
    n_grid: int = 0,
    layouts: Sequence[str] = ("lamost-coadd", "lamost-wavelength"),
    csv: bool = False,
    nature: FluxSource | None = None,
    theory: FluxSource | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Simulate a survey and write it into a folder.

    Parameters
    ----------
    out : path
        Folder: ``spectra/`` gets one file a spectrum; ``truth``, ``gaia``, ``reference`` and
        ``pairs`` are tables (Parquet), ``survey.json`` says how it was made.
    config : SurveyConfig
    n_grid : int
        Also write ``theory_grid.parquet`` with this many theoretical spectra; 0 for none.
    layouts : sequence of str
        File layouts, see `io.spectra.lamost_writer.LAYOUTS`; each plate takes one of them.
    csv : bool
        Write the tables as CSV also.
    nature, theory : FluxSource, optional
        Where fluxes come from; the simulated physics by default.
    overwrite : bool
        Whether a survey that is there may be replaced.
    progress : Progress, optional

    Returns
    -------
    dict
        Counts and files.

    Raises
    ------
    UsageError
        Before any work: if a layout is unknown, `out` exists, cannot be written or is being written
        by another process, or its disk is too full.

    Notes
    -----
    Stands in ``<out>.partial`` until it is complete; the same call goes on from there after any
    interruption, and gives the same bytes.
    """
    progress = progress or Silent()
    unknown = [layout for layout in layouts if layout not in LAYOUTS]
    if unknown or not layouts:
        raise UsageError(f"layout {unknown} is unknown.", f"use some of {', '.join(LAYOUTS)}.")
    recipe = _recipe(config, layouts, n_grid)
    n_bytes = FILE_BYTES * config.n_spectra + 4 * THEORY_GRID.n_pix * n_grid
    with open_output(
        out,
        kind="a survey",
        about={**recipe, "csv": csv},
        mark=RECIPE_NAME,
        overwrite=overwrite,
        n_bytes=n_bytes,
    ) as run:
        target = run.folder / "survey"
        if run.n_done and not (target / "spectra").is_dir():
            run.discard()  # killed when the survey was complete and had moved to `out`
        survey = simulate_survey(config)
        with progress.stage("opacities of nature", 1.0) as task:
            source = nature or nature_source(config.gap, seed=config.seed)
            task.advance()
        snr = _write_spectra(run, survey, source, target / "spectra", layouts, progress)
        for name, columns in _list_tables(survey, snr).items():
            _write_columns(columns, target / f"{name}.parquet", csv=csv)
        if n_grid > 0:
            source = theory or nature_source(DomainGap.none(), seed=config.seed)
            path = target / "theory_grid.parquet"
            simulate_grid(path, n_grid, source, seed=config.seed, progress=progress)
        summary = _summarise(survey, snr)
        write_json(target / RECIPE_NAME, {**recipe, "complete": True, "counts": summary}, indent=1)
        move_folder(target, out)
    return {"out": str(out), **summary, "grid": n_grid, "gap": recipe["gap_in_words"]}


class MadeSurvey(NamedTuple):
    """A survey in memory.

    Parameters
    ----------
    spectra : list of RawSpectrum
    rejects : list of Reject
        Exposures that failed, by file name.
    rows : (n_spectra,) int
        Rows of the truth that are those of `spectra`.
    tables : dict of str to dict of str to ndarray
        Columns of ``truth``, ``gaia``, ``reference``, ``pairs``, as `simulate_files` writes them.
    """

    spectra: list[RawSpectrum]
    rejects: list[Reject]
    rows: np.ndarray
    tables: dict[str, dict[str, np.ndarray]]


def make_survey(
    config: SurveyConfig, *, nature: FluxSource | None = None, progress: Progress | None = None
) -> MadeSurvey:
    """Simulate a survey in memory: the spectra that `simulate_files` would write.

    Parameters
    ----------
    config : SurveyConfig
    nature : FluxSource, optional
        Where fluxes come from; the simulated physics by default.
    progress : Progress, optional
    """
    progress = progress or Silent()
    survey = simulate_survey(config)
    with progress.stage("opacities of nature", 1.0) as task:
        source = nature or nature_source(config.gap, seed=config.seed)
        task.advance()
    truth = survey.truth()
    snr = {name: np.full(survey.n_spectra, np.nan) for name in _SNR_COLUMNS}
    made: dict[int, RawSpectrum] = {}
    failed: dict[int, Reject] = {}
    with progress.stage("spectra", float(survey.n_spectra)) as task:
        for batch in survey.batches(source.synthesize, source.wave_aa):
            for name in _SNR_COLUMNS:
                snr[name][batch.rows] = getattr(batch, name)
            for i, row in enumerate(batch.rows):
                try:
                    made[int(row)] = _build_spectrum(truth, int(row), batch, i)
                except RejectedInput as error:
                    failed[int(row)] = Reject.from_error(str(truth["file"][row]), error)
            task.advance(float(batch.rows.size))
    rows = sorted(made)
    return MadeSurvey(
        [made[row] for row in rows],
        [failed[row] for row in sorted(failed)],
        np.array(rows, dtype=int),
        _list_tables(survey, snr),
    )


def _build_spectrum(
    truth: Mapping[str, np.ndarray], row: int, batch: SurveyBatch, i: int
) -> RawSpectrum:
    """What a reader makes of the file of a visit."""
    return RawSpectrum.from_arrays(
        NATIVE_GRID.wave_aa,
        batch.flux[i],
        batch.ivar[i],
        obsid=str(truth["obsid"][row]),
        survey="simulated",
        ra_deg=float(truth["ra_deg"][row]),
        dec_deg=float(truth["dec_deg"][row]),
        z=float(truth["header_z"][row]),
        snr_r=float(batch.snr_r[i]),
        snr_i=float(batch.snr_i[i]),
        subclass=str(truth["subclass"][row]),
        object_class="STAR",
    )


def _list_tables(survey: Survey, snr: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What is known of a survey beside its spectra."""
    return {
        "truth": {**survey.truth(), **snr},
        "gaia": survey.gaia(),
        "reference": survey.references(),
        "pairs": survey.wide_pairs(),
    }


def _recipe(config: SurveyConfig, layouts: Sequence[str], n_grid: int) -> dict[str, object]:
    described = config.gap.describe()
    words = "none" if not described else ", ".join(f"{k}={v:g}" for k, v in described.items())
    if config.gap == DomainGap.full():
        words = "full"
    return {
        "simulated": True,
        "config": asdict(config),
        "layouts": list(layouts),
        "n_grid": n_grid,
        "gap_in_words": words,
    }


def _write_spectra(
    run: Run,
    survey: Survey,
    source: FluxSource,
    folder: Path,
    layouts: Sequence[str],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Observe and write all spectra, batch by batch; returns their signal-to-noise columns."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    write = _writer(survey, folder, layouts)
    n_done = run.n_done

    def finish(number: int, batch: SurveyBatch) -> None:
        write(batch)
        columns = {name: getattr(batch, name) for name in _SNR_COLUMNS}
        run.keep(number, Chunk(pd.DataFrame({"row": batch.rows, **columns}), []))

    with (
        progress.stage("spectra", float(survey.n_spectra), unit="spectra") as task,
        ThreadPoolExecutor(max_workers=1) as background,
    ):
        for chunk in run.read_all():
            task.advance(float(len(chunk.rows)))
        pending = None
        batches = survey.batches(source.synthesize, source.wave_aa, skip=n_done)
        for number, batch in enumerate(batches, start=n_done):
            # Files of one batch are written while the next one is computed, never more.
            if pending is not None:
                pending.result()
            pending = background.submit(finish, number, batch)
            task.advance(float(batch.rows.size))
        if pending is not None:
            pending.result()
    columns = {name: np.full(survey.n_spectra, np.nan) for name in _SNR_COLUMNS}
    for chunk in run.read_all():
        for name in _SNR_COLUMNS:
            columns[name][chunk.rows["row"]] = chunk.rows[name]
    return columns


def _writer(survey: Survey, folder: Path, layouts: Sequence[str]) -> Callable[[SurveyBatch], None]:
    truth = survey.truth()
    plan = survey.plan_ids()
    gap = _recipe(survey.config, layouts, 0)["gap_in_words"]

    def write(batch: SurveyBatch) -> None:
        headers = [
            LamostHeader(
                obsid=int(truth["obsid"][row]),
                file_name=str(truth["file"][row]),
                plan_id=str(plan[row]),
                ra_deg=float(truth["ra_deg"][row]),
                dec_deg=float(truth["dec_deg"][row]),
                lmjd=int(truth["lmjd"][row]),
                spectrograph=int(truth["spectrograph"][row]),
                fibre=int(truth["fibre"][row]),
                exposure_s=float(truth["exposure_s"][row]),
                helio_kms=float(truth["helio_kms"][row]),
                subclass=str(truth["subclass"][row]),
                z=float(truth["header_z"][row]),
                snr_r=float(batch.snr_r[i]),
                snr_i=float(batch.snr_i[i]),
                seed=survey.config.seed,
                gap=str(gap),
            )
            for i, row in enumerate(batch.rows)
        ]
        write_lamost_files(
            folder,
            batch.flux,
            batch.ivar,
            batch.mask,
            headers,
            layouts=[layouts[int(truth["plate"][row]) % len(layouts)] for row in batch.rows],
            log10_start=LOG10_START,
            log10_step=LOG10_STEP,
        )

    return write


def _write_columns(columns: dict[str, np.ndarray], path: Path, *, csv: bool) -> None:
    import pandas as pd

    frame = pd.DataFrame(columns)
    known = {name: Column(name, "", _UNITS.get(name, "")) for name in frame.columns}
    write_table(frame, path, columns=known)
    if csv:
        write_table(frame, path.with_suffix(".csv"), columns=known)


def simulate_grid(
    path: str | os.PathLike[str],
    n_grid: int,
    source: FluxSource,
    *,
    seed: int,
    physics: str = "theory",
    progress: Progress | None = None,
) -> ModelGrid:
    """Synthesise the training grid of an emulator and write it as a grid table.

    Parameters
    ----------
    path : path
        Parquet file to write.
    n_grid, source, seed, physics, progress
        As in `make_grid`.
    """
    grid = make_grid(n_grid, source, seed=seed, physics=physics, progress=progress)
    write_grid(grid, path)
    return grid


def make_grid(
    n_grid: int,
    source: FluxSource,
    *,
    seed: int,
    physics: str = "theory",
    progress: Progress | None = None,
) -> ModelGrid:
    """Synthesise the training grid of an emulator.

    Parameters
    ----------
    n_grid : int
        Spectra.
    source : FluxSource
        Of theory, or of nature for an oracle.
    seed : int
        Of the labels.
    physics : {"theory", "nature"}
        Named in the progress and the provenance.
    progress : Progress, optional
    """
    labels = sample_grid_labels(n_grid, seed=seed)
    with (progress or Silent()).stage(f"grid of {physics}", float(n_grid), unit="spectra") as task:

        def counted(rows: np.ndarray) -> np.ndarray:
            flux = source.synthesize(rows)
            task.advance(float(len(rows)))
            return flux

        made = theory_grid(labels, counted, source.wave_aa)
    return ModelGrid(
        labels=made.labels,
        label_space=LabelSpace.mdwarf(),
        flux=made.flux,
        grid=made.grid,
        resolution=RESOLUTION,
        kind="simulated",
        provenance={"made_by": "jaxmdwarf", "physics": physics, "seed": seed},
    )


def _summarise(survey: Survey, snr: dict[str, np.ndarray]) -> dict[str, object]:
    stars, visits = survey.population.stars, survey.population.visits
    good = np.isfinite(snr["snr_r"])
    return {
        "spectra": survey.n_spectra,
        "stars": int(stars["teff"].size),
        "binaries": int(stars["is_binary"].sum()),
        "contaminants": int((stars["kind"] != "mdwarf").sum()),
        "failed": int(visits["failed"].sum()),
        "pairs": int(survey.population.pairs["pair_id"].size),
        "share_snr_r_below_20": round(float((snr["snr_r"][good] < 20).mean()), 4),
    }
