"""Surveys whose truth is known, theory and oracle for them, and labels that fits of them find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmdwarf.diagnostics.recovery import measure_recovery
from jaxmdwarf.diagnostics.residuals import summarise_residual
from jaxmdwarf.errors import MismatchError
from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.io.references import read_references
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.models.base import ForwardModel, NoiseModel
from jaxmdwarf.quality import find_good
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.training.labels.training_set import sample_training_labels
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.workflows.anchoring import find_common_stars
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.judging import CLIP_SIGMA
from jaxmdwarf.workflows.methods.matched import Matched
from jaxmdwarf.workflows.observed import PreparedSpectra, prepare_spectra
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.simulation import FluxSource, make_survey, nature_source, simulate_grid
from jaxmdwarf.workflows.transfer import TRAINING_LABELS, choose_reference

WINDOW_AA = (6000.0, 8900.0)
LABELS = ("teff", "logg", "mh")
LEAST_SNR = 5.0


@dataclass(frozen=True)
class UniverseConfig:
    """What is simulated.

    Parameters
    ----------
    n_spectra : int
        Of each survey.
    n_grid : int
        Spectra that the emulators of theory and of nature learn from.
    gap : float
        Strength of all causes by which nature differs from theory; 1 as documented.
    reference_share : float
        Of the good single M dwarfs, with labels in the literature.
    n_draws : int
        From which labels of the synthetic domain are picked.
    physics_seed : int
        Of nature's wrong atomic lines: one nature for all surveys.
    """

    n_spectra: int = 3000
    n_grid: int = 1152
    gap: float = 1.0
    reference_share: float = 0.3
    n_draws: int = 300_000
    physics_seed: int = 0


@dataclass(frozen=True, eq=False)
class DesignSurvey:
    """One survey at rest, and what is known of it.

    Parameters
    ----------
    prepared : PreparedSpectra
    truth : pandas.DataFrame
        One row a spectrum of the domain.
    labels : (n, 4)
        Of the synthetic domain.
    matched, anchored : ForwardModel
        The correction that `matched` learned from the same spectra: from distributions alone, as
        the networks do, and as it does by default, with the literature's stars as anchors.
    """

    prepared: PreparedSpectra
    truth: pd.DataFrame
    labels: np.ndarray
    matched: ForwardModel
    anchored: ForwardModel

    @property
    def domain(self) -> ObservedDomain:
        """The spectra."""
        return self.prepared.domain


class Universe:
    """Theory, nature and surveys of it in a folder; what is there is not made again.

    Parameters
    ----------
    folder : Path
    config : UniverseConfig
    progress : Progress
    """

    def __init__(self, folder: Path, config: UniverseConfig, progress: Progress) -> None:
        self.folder, self.config, self.progress = folder, config, progress
        self.gap = DomainGap.full().scaled(config.gap)

    @cached_property
    def nature(self) -> FluxSource:
        """Surface fluxes of the stars that are observed."""
        return nature_source(self.gap, seed=self.config.physics_seed)

    @cached_property
    def theory(self) -> ForwardModel:
        """The emulator of theory."""
        none = DomainGap.none()
        return self._emulate("theory", lambda: nature_source(none, seed=self.config.physics_seed))

    @cached_property
    def oracle(self) -> ForwardModel:
        """An emulator of nature's physics, which no transfer from theory could better."""
        return self._emulate("nature", lambda: self.nature)

    def _emulate(self, physics: str, source: Callable[[], FluxSource]) -> ForwardModel:
        grid, model = self.folder / f"{physics}_grid.parquet", self.folder / physics
        if not grid.is_file():
            seed = self.config.physics_seed
            simulate_grid(
                grid,
                self.config.n_grid,
                source(),
                seed=seed,
                physics=physics,
                progress=self.progress,
            )
        if not (model / "model.json").is_file():
            train_emulator_files(grid, model, figures=False, progress=self.progress)
        return load_model(model)

    def survey(self, seed: int) -> DesignSurvey:
        """The survey of a seed, brought to rest with theory, and `matched` learned from it."""
        folder = self.folder / f"survey_{seed}"
        arrays = folder / "spectra.npz"
        if not arrays.is_file():
            self._observe(seed, folder)
        table = read_table(folder / "table.parquet")
        with np.load(arrays, allow_pickle=False) as kept:
            star = kept["star"] if "star" in kept.files else None
            domain = ObservedDomain(
                **{name: kept[name] for name in ("flux", "ivar", "information")},
                grid=self.theory.grid,
                frame_kms=table["RV"].to_numpy(np.float64),
                snr=table["SNRr"].to_numpy(np.float64),
                names=tuple(table["path"].astype(str)),
                star=star,
            )
        prepared = PreparedSpectra(domain, table, [])
        reference = read_references(folder / "reference.parquet")
        # Networks know the two distributions and nothing else: the labels have to be those of the
        # stars that are observed, whatever selection has made of the others.
        sample = choose_reference(table, reference)
        labels = sample_training_labels(
            sample.teff_mh, n_draws=self.config.n_draws, seed=seed
        ).labels
        labels = labels[:, [TRAINING_LABELS.index(name) for name in self.theory.label_space.names]]
        known = self._find_anchors(domain, table, reference, seed)
        models = {}
        for name, anchors in (("matched", None), ("anchored", known)):
            model = folder / name
            if not (model / "model.json").is_file():
                trained = Matched(MatchedConfig(seed=seed)).train(
                    domain,
                    self.theory,
                    labels,
                    reference=sample,
                    progress=self.progress,
                    anchors=anchors,
                )
                save_model(trained.model, model)
            models[name] = load_model(model)
        truth = read_table(folder / "truth.parquet")
        truth = truth.set_index(truth["obsid"].astype(np.int64))
        truth = truth.loc[table["obsid"].astype(np.int64)].reset_index(drop=True)
        return DesignSurvey(prepared, truth, labels, **models)

    def _find_anchors(
        self, domain: ObservedDomain, table: pd.DataFrame, reference: pd.DataFrame, seed: int
    ) -> AnchorSample:
        """The literature's stars among the spectra that `StarJudge` does not judge."""
        found = find_common_stars(table, reference, self.theory.label_space)
        if found is None:
            raise MismatchError("no star of the literature was observed.", "observe more stars.")
        one = found.sample
        kept = np.isin(one.rows, split_domain(domain.n_spec, seed=seed, star=domain.star).train)
        return AnchorSample(one.rows[kept], one.labels[kept], one.errors[kept])

    def _observe(self, seed: int, folder: Path) -> None:
        config = SurveyConfig(
            n_spectra=self.config.n_spectra,
            seed=seed,
            gap=self.gap,
            reference_share=self.config.reference_share,
        )
        made = make_survey(config, nature=self.nature, progress=self.progress)
        prepared = prepare_spectra(made.spectra, self.theory, progress=self.progress)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("truth", "reference"):
            write_table(pd.DataFrame(made.tables[name]), folder / f"{name}.parquet")
        write_table(prepared.table, folder / "table.parquet")
        domain = prepared.domain
        kept = {name: getattr(domain, name) for name in ("flux", "ivar", "information")}
        if domain.star is not None:
            kept["star"] = domain.star
        # Last: with it the survey counts as made.
        with write_atomically(folder / "spectra.npz") as temporary:
            np.savez(temporary, **kept)


class StarJudge:
    """Labels that fits find of held-out single M dwarfs, one spectrum a star, against the truth.

    All models are fitted with one set of priors, those of `matched`, and the scale of errors that
    it found; no fit goes through a surrogate.

    Parameters
    ----------
    survey : DesignSurvey
    seed : int
        Of the split: spectra of its training part are not judged.
    n_star : int
        At most, chosen at random.
    """

    def __init__(self, survey: DesignSurvey, seed: int, n_star: int) -> None:
        domain, truth, table = survey.domain, survey.truth, survey.prepared.table
        split = split_domain(domain.n_spec, seed=seed, star=domain.star)
        held = np.concatenate([split.validation, split.test])
        wanted = (truth["kind"] == "mdwarf").to_numpy(bool)
        for name in ("is_binary", "failed"):
            wanted = wanted & ~truth[name].to_numpy(bool)
        for name in ("SNRr", "SNRi"):
            wanted = wanted & (table[name].to_numpy(float) > LEAST_SNR)
        held = np.random.default_rng(seed).permutation(held[wanted[held]])
        _, first = np.unique(truth["source_id"].to_numpy()[held], return_index=True)
        self.rows = np.sort(held[np.sort(first)][:n_star])
        batch = domain.batch(self.rows)
        inside = (domain.grid.wave_aa >= WINDOW_AA[0]) & (domain.grid.wave_aa <= WINDOW_AA[1])
        weights = (jnp.where(jnp.asarray(inside), w, 0.0) for w in (batch.ivar, batch.information))
        self.batch = SpectrumBatch(batch.flux, *weights, batch.grid)
        self.truth = truth[list(survey.matched.label_space.names)].to_numpy(float)[self.rows]
        self.names = survey.matched.label_space.names
        self.priors = survey.matched.priors()
        self.noise = NoiseModel(survey.matched.noise_model().scale)

    def measure(self, model: ForwardModel) -> dict[str, Any]:
        """Bias and scatter of labels, shares converged and unflagged, mean residual in sigma."""
        known = model.noise_model()
        problem = FitProblem.from_batch(
            model,
            self.batch,
            fit_velocity=False,
            priors=self.priors,
            # Directions of its own are a model's; the scale of errors is one for all.
            noise=known._replace(scale=self.noise.scale),
        )
        found = fit(
            problem,
            solver=LevenbergMarquardt(fast_path=False),
            schedule=FitScheduleConfig(batch_size=32),
        )
        good = find_good(np.asarray(found.flags))
        kept = found.converged & np.isfinite(found.labels).all(axis=1)
        recovered = {
            name: measure_recovery((found.labels - self.truth)[kept, i])
            for i, name in enumerate(self.names)
            if name in LABELS
        }
        labels = np.where(np.isfinite(found.labels), found.labels, self.truth)
        scaled = model.label_space.scale(jnp.asarray(labels, jnp.float32))
        flux = np.asarray(_predict(model, scaled, problem.context))
        residual = summarise_residual(
            np.asarray(self.batch.flux)[kept],
            flux[kept],
            np.asarray(self.batch.ivar)[kept],
            clip=CLIP_SIGMA,
        )
        return {
            "n": len(self.rows),
            "converged": float(found.converged.mean()),
            "unflagged": float(good.mean()),
            "residual_sigma": residual.mean,
            **{name: {"bias": one.bias, "scatter": one.scatter} for name, one in recovered.items()},
        }


@eqx.filter_jit
def _predict(model: ForwardModel, scaled, context):
    return model.predict_scaled_batch(scaled, context)
