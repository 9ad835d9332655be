"""A simulated survey for peers: what may be learned from, and the stars that nobody has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.peers.common import KnownStars, Pixels, Stars, Theory, Training
from experiments.theory import GRID, train_theory
from jaxmdwarf.api.inputs import read
from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.grids.table import read_grid
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.simulate.instrument import NATIVE_GRID
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.workflows.methods.cyclestar import CycleStar
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.simulation import simulate_files
from jaxmdwarf.workflows.transfer import TransferConfig, train_transfer_files

WINDOW_AA = (6000.0, 8900.0)
"""What is fitted (the paper's section 2.4), by all."""

_ROWS = 256

LEAST_SNR = 5.0
"""S/N in r of judged stars."""


@dataclass(frozen=True)
class CaseConfig:
    """One survey and how it is divided.

    Parameters
    ----------
    n_spectra : int
        Of the survey.
    n_train : int
        Spectra, about, that are learned from: all visits of the first stars. The literature knows
        some of these stars and none of the others.
    n_grid : int
        Theoretical spectra.
    reference_share : float
        Of the good single M dwarfs, that are in the literature (fewer of the faint ones).
    """

    n_spectra: int = 1500
    n_train: int = 900
    n_grid: int = 1152
    reference_share: float = 0.6


class Transfers(NamedTuple):
    """Transfers from the spectra that may be learned from, each learned when it is asked for.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    files : list of Path
        Spectra.
    emulator : Path
    reference : DataFrame
        Literature.
    progress : Progress
    """

    folder: Path
    files: list[Path]
    emulator: Path
    reference: pd.DataFrame
    progress: Progress

    def learn_default(self) -> ForwardModel:
        """The package's default."""
        return self._learn("transfer", TransferConfig())

    def learn_untold(self) -> ForwardModel:
        """From the distribution of the literature's labels alone."""
        return self._learn("untold", TransferConfig(common_stars="distribution"))

    def learn_cyclestar(self, steps: int) -> ForwardModel:
        """The paper's networks; judged by truth, whatever their own guards say of them."""
        networks = CycleStar(CycleStarConfig.paper(steps=steps))
        return self._learn("cyclestar", TransferConfig(networks, force=True))

    def _learn(self, name: str, options: TransferConfig) -> ForwardModel:
        out, known = self.folder / name, self.folder / "reference.parquet"
        if not (out / "model.json").is_file():
            write_table(self.reference, known)
            train_transfer_files(
                self.files,
                self.emulator,
                known,
                out,
                options,
                cache=self.folder / "at_rest",
                progress=self.progress,
            )
        return load_model(out)


class Case(NamedTuple):
    """A survey, divided.

    Parameters
    ----------
    training : Training
    transfers : Transfers
        What the package learns from the same stars.
    judged : Stars
        Single M dwarfs that nothing was learned from.
    raws : list of RawSpectrum
        The same, as they were read.
    truth : DataFrame
        teff, logg, mh, alpha_m of the same.
    snr : (n,)
        In r, of their headers.
    """

    training: Training
    transfers: Transfers
    judged: Stars
    raws: list[RawSpectrum]
    truth: pd.DataFrame
    snr: np.ndarray


def prepare_case(root: Path, seed: int, config: CaseConfig, progress: Progress) -> Case:
    """Survey, spectra at rest and transfer of one seed; what is in `root` is not done again."""
    emulator_dir = train_theory(root, config.n_grid, progress)
    folder = root / str(seed)
    survey = folder / "survey"
    if not (survey / "survey.json").is_file():
        simulate_files(
            survey,
            config=SurveyConfig(
                n_spectra=config.n_spectra, seed=seed, reference_share=config.reference_share
            ),
            progress=progress,
        )
    truth = read_table(survey / "truth.parquet")
    stars = truth["source_id"].to_numpy()
    seen = np.isin(stars, stars[: config.n_train])
    reference = read_table(survey / "reference.parquet")
    reference = reference[reference["source_id"].isin(stars[seen])].reset_index(drop=True)
    emulator = load_model(emulator_dir)
    known_rows, judged_rows = choose_known(truth, seen, reference), choose_judged(truth, seen)
    files = [str(survey / "spectra" / name) for name in truth["file"]]
    wanted = [files[row] for row in (*known_rows, *judged_rows)]
    found = read(wanted)
    if found.rejects:
        raise WorkFailed(f"{len(found.rejects)} spectra of the survey cannot be read.")
    raws = list(found)
    observed = bring_to_rest(raws, emulator, cache=folder / "rest.npz")
    n_known = known_rows.size
    labels = reference.set_index("source_id").loc[stars[known_rows]]
    grid = read_grid(root / GRID)
    training = Training(
        KnownStars(
            observed.take(slice(n_known)),
            {name: labels[name].to_numpy(float) for name in ("teff", "logg", "mh")},
            {name: labels[f"e_{name}"].to_numpy(float) for name in ("teff", "logg", "mh")},
        ),
        Theory(grid.label_space.names, np.asarray(grid.labels), grid.grid, np.asarray(grid.flux)),
        emulator,
    )
    chosen = truth.iloc[judged_rows].reset_index(drop=True)
    return Case(
        training,
        Transfers(
            folder,
            [survey / "spectra" / name for name in truth["file"][seen]],
            emulator_dir,
            reference,
            progress,
        ),
        observed.take(slice(n_known, None)),
        raws[n_known:],
        chosen[["teff", "logg", "mh", "alpha_m"]],
        chosen["snr_r"].to_numpy(float),
    )


def choose_known(truth: pd.DataFrame, seen: np.ndarray, reference: pd.DataFrame) -> np.ndarray:
    """Rows of the truth: the visit of the highest S/N of each star that the literature knows."""
    there = seen & truth["source_id"].isin(reference["source_id"]).to_numpy()
    there &= np.isfinite(truth["snr_r"].to_numpy(float)) & (truth["failed"] == 0).to_numpy()
    rows = truth[there].sort_values("snr_r", ascending=False).drop_duplicates("source_id")
    return np.sort(rows.index.to_numpy())


def choose_judged(truth: pd.DataFrame, seen: np.ndarray) -> np.ndarray:
    """Rows of the truth that are judged, whatever any method says of them."""
    single = (truth["kind"] == "mdwarf") & (truth["is_binary"] == 0) & (truth["failed"] == 0)
    return np.flatnonzero(~seen & single.to_numpy() & (truth["snr_r"] >= LEAST_SNR).to_numpy())


def bring_to_rest(raws: list[RawSpectrum], emulator: ForwardModel, *, cache: Path) -> Stars:
    """Spectra in both forms, at rest by the velocities that theory's emulator finds.

    `cache` is a file for the normalised ones.
    """
    if not cache.is_file():
        flux, ivar = _normalise_at_rest(raws, emulator)
        np.savez(cache, flux=flux, ivar=ivar)
    with np.load(cache) as kept:
        flux, ivar = kept["flux"], kept["ivar"]
    return Stars(_cut(emulator.grid.wave_aa, flux, ivar), _as_observed(raws))


def _normalise_at_rest(
    raws: list[RawSpectrum], emulator: ForwardModel
) -> tuple[np.ndarray, np.ndarray]:
    fitter = Fitter(emulator, replace(ObservedConfig().fit_config(), chunk_size=_ROWS))
    rv_kms = np.nan_to_num(fitter.fit(raws, pad_to=_ROWS).result.rv_kms)
    parts = []
    for first in range(0, len(raws), _ROWS):
        some = raws[first : first + _ROWS]
        batch = preprocess_batch(
            some,
            emulator.grid,
            rv_kms=rv_kms[first : first + _ROWS],
            masks=emulator.preprocessing.masks_aa,
            sigma_aa=emulator.preprocessing.sigma_aa,
            pad_to=_ROWS,
            min_overlap=0.0,
        )
        parts.append([np.asarray(part)[: len(some)] for part in (batch.flux, batch.ivar)])
    flux, ivar = (np.concatenate(part) for part in zip(*parts, strict=True))
    return flux, ivar


def _cut(wave_aa: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Pixels:
    inside = (wave_aa >= WINDOW_AA[0]) & (wave_aa <= WINDOW_AA[1])
    return Pixels(wave_aa, flux, np.where(inside, ivar, np.float32(0.0)))


def _as_observed(raws: list[RawSpectrum]) -> Pixels:
    """On the survey's own pixels; the paper's masks are left out where they are at rest."""
    wave = NATIVE_GRID.wave_aa
    kept = np.flatnonzero((wave >= WINDOW_AA[0]) & (wave <= WINDOW_AA[1]))
    masked = mask_for(NATIVE_GRID, PAPER_MASKS_AA)[kept]
    flux, ivar = np.zeros((2, len(raws), kept.size))
    for row, raw in enumerate(raws):
        pixel = np.rint(np.log(raw.wave_aa / NATIVE_GRID.start_aa) / NATIVE_GRID.step).astype(int)
        place = pixel - kept[0]
        inside = (place >= 0) & (place < kept.size)
        flux[row, place[inside]] = raw.flux[inside]
        ivar[row, place[inside]] = raw.ivar[inside]
    return Pixels(wave[kept], flux, np.where(masked, 0.0, ivar))
