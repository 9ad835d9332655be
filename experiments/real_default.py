"""The model that comes with the package: theory, corrected with public labelled spectra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.real_anchors import (
    CLASS_MH,
    Anchor,
    AnchorLabels,
    Scales,
    label_anchors,
    read_anchors,
)
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.json_files import plain_json, write_json
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.io.provenance import gather_provenance, hash_values
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.training.labels.isochrones import LabelCutsConfig, isochrone_points
from jaxmdwarf.training.labels.training_set import fit_main_sequence_relation
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_errors import spread_label_errors
from jaxmdwarf.training.transfer.supervised import (
    StatedLabels,
    SupervisedConfig,
    state_labels,
    train_supervised,
)
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.observed import ObservedConfig, prepare_spectra
from jaxmdwarf.workflows.progress import Progress, Silent
from jaxmdwarf.workflows.run import Run, open_run
from jaxmdwarf.workflows.simulation import nature_source, simulate_grid

COMMAND = ("python", "-m", "experiments", "real_default")
TEFF, MH = 0, 2
DRIFTING = "-B6212_"
"""In the names of files of a plate of 2011, whose wavelengths drift by up to 100 km/s: these stars
are no anchors, and so are strangers to the model."""

LOGG_SIGMA, ALPHA_SIGMA = 0.03, 0.04
"""Scatter about the relations of log g and [alpha/M], dex: narrow, for residuals of many pixels say
more of both than they know, at the cost of Teff and [M/H]."""


@dataclass(frozen=True)
class RealDefaultConfig:
    """Train, judge and write the model that `jaxmdwarf.load_model` has without a path.

    Theory's emulator is corrected with templates of M dwarfs, subdwarfs and a few stars, whose
    labels are the literature's. Each anchor is fitted by a model that was learned without it.

    Parameters
    ----------
    out : str
        Folder to write: ``model``, ``metrics.json``, what was made on the way.
    data : str
        Folder with the spectra and tables; that of JAXMDWARF_TEST_DATA if left out.
    n_grid : int
        Theoretical spectra.
    seed : int
    n_groups : int
        Groups of anchors that are left out together; 0 leaves each out alone.
    training : EmulatorConfig
    correction : SupervisedConfig
    """

    out: str = "runs/real_default"
    data: str = ""
    n_grid: int = 2048
    seed: int = 0
    n_groups: int = 15
    training: EmulatorConfig = field(default_factory=EmulatorConfig)
    correction: SupervisedConfig = field(default_factory=SupervisedConfig)

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        progress, out = progress or Silent(), Path(self.out)
        data = Path(self.data or os.environ.get("JAXMDWARF_TEST_DATA", ""))
        if not (self.data or "JAXMDWARF_TEST_DATA" in os.environ) or not data.is_dir():
            raise UsageError("there is no folder of data.", "give --data or JAXMDWARF_TEST_DATA.")
        with open_run(out / "work", kind="an experiment", about={"theory": self._theory()}) as run:
            run.step("emulator", lambda: self._train_theory(out, progress), progress)
        emulator = load_model(out / "emulator")
        sample = gather_sample(data, emulator, progress)
        about = {
            "correction": self.correction,
            "n_groups": self.n_groups,
            "priors": (LOGG_SIGMA, ALPHA_SIGMA),
            "sample": hash_values(
                emulator, [one.spectrum.flux for one in sample.anchors], tuple(sample.known)
            ),
        }
        with open_run(out / "left_out", kind="fits", about=about, overwrite=True) as run:
            left_out = leave_out(sample, emulator, self.correction, self.n_groups, run, progress)
        trained = train_supervised(
            emulator, sample.domain, sample.known, self.correction, priors=sample.relations
        )
        away, known = compare_labels(left_out, sample.labels)
        error = spread_label_errors(emulator.label_space, left_out.covariance, away, known)
        model = replace(trained.model, label_error=error)  # type: ignore[type-var]
        width = np.subtract(emulator.label_space.upper, emulator.label_space.lower)
        added = np.sqrt(np.diag(np.asarray(error)))[[TEFF, MH]] * width[[TEFF, MH]]
        theory = judge(sample, fit_each(sample.anchors, emulator, sample.relations))
        del theory["anchors"]
        outcome = {
            "n_anchors": len(sample.anchors),
            "added_errors": {"teff": added[0], "mh": added[1]},
            "left_out": judge(sample, left_out, (added[0], added[1])),
            "theory": theory,
            "strangers": judge_strangers(sample, model),
            "config": {
                **self._theory(),
                "n_groups": self.n_groups,
                "correction": asdict(self.correction),
            },
        }
        save_model(
            model,
            out / "model",
            training={"notice": write_notice(outcome), **plain_json(outcome)},
            provenance=asdict(gather_provenance(command=COMMAND)),
        )
        write_json(out / "metrics.json", plain_json(outcome))
        return plain_json(outcome)

    def _theory(self) -> dict[str, Any]:
        return {"n_grid": self.n_grid, "seed": self.seed, "training": asdict(self.training)}

    def _train_theory(self, out: Path, progress: Progress) -> dict[str, Any]:
        source = nature_source(DomainGap.none(), seed=self.seed)
        grid = out / "theory_grid.parquet"
        simulate_grid(grid, self.n_grid, source, seed=self.seed, progress=progress)
        training = replace(self.training, seed=self.seed)
        return train_emulator_files(
            grid, out / "emulator", config=training, overwrite=True, progress=progress
        )


class Sample(NamedTuple):
    """Anchors at rest with their labels, and stars that are none.

    Parameters
    ----------
    anchors : list of Anchor
    labels : AnchorLabels
    known : StatedLabels
        The same as scaled labels.
    domain : ObservedDomain
    relations : tuple of RelationPrior
        Of log g and [alpha/M].
    strangers : list of Anchor
    stranger_labels : AnchorLabels
    """

    anchors: list[Anchor]
    labels: AnchorLabels
    known: StatedLabels
    domain: ObservedDomain
    relations: tuple[RelationPrior, ...]
    strangers: list[Anchor]
    stranger_labels: AnchorLabels


def gather_sample(data: Path, emulator: ForwardModel, progress: Progress) -> Sample:
    """Read anchors, bring them to rest, and label them."""
    cuts = LabelCutsConfig(teff=(2700.0, 4400.0), logg=(4.0, 6.0), mh=(-2.2, 0.6))
    logg, alpha = fit_main_sequence_relation(isochrone_points(None, cuts))
    relations = (replace(logg, sigma=LOGG_SIGMA), replace(alpha, sigma=ALPHA_SIGMA))
    everything, scales = read_anchors(data), Scales(data)
    strangers = [one for one in everything if DRIFTING in one.name]
    given = {one.name: one for one in everything if DRIFTING not in one.name}
    prepared = prepare_spectra(
        [one.spectrum for one in given.values()],
        emulator,
        ObservedConfig(max_teff=None, m_dwarfs_only=False),
        progress,
    )
    for reject in prepared.rejects:
        progress.say(f"{Path(reject.path).name} is no anchor: {reject.reason}")
    anchors = [given[Path(name).name] for name in prepared.domain.names]
    labels = label_anchors(anchors, scales, relations)
    return Sample(
        anchors,
        labels,
        state_labels(emulator.label_space, labels.values, labels.covariance),
        prepared.domain,
        relations,
        strangers,
        label_anchors(strangers, scales, relations),
    )


class FittedLabels(NamedTuple):
    """Labels of spectra, each fitted by a model of its own or all by one.

    Parameters
    ----------
    values, errors : (n, n_label)
    covariance : (n, n_label, n_label)
    rv_kms : (n,)
    chi2_red : (n,)
    """

    values: np.ndarray
    errors: np.ndarray
    covariance: np.ndarray
    rv_kms: np.ndarray
    chi2_red: np.ndarray


def fit_each(
    anchors: Sequence[Anchor],
    model: ForwardModel,
    priors: tuple[RelationPrior, ...] | None = None,
) -> FittedLabels:
    """Fit spectra as a user would, with the priors of the model or others."""
    config = FitConfig() if priors is None else FitConfig(priors=priors)
    spectra: list[RawSpectrum] = [anchor.spectrum for anchor in anchors]
    result = Fitter(model, config).fit(spectra).result
    n_label = model.label_space.n_label
    return FittedLabels(
        np.asarray(result.labels),
        np.asarray(result.errors),
        np.asarray(result.covariance)[:, :n_label, :n_label],
        np.asarray(result.rv_kms),
        np.asarray(result.chi2_red),
    )


def leave_out(
    sample: Sample,
    emulator: ForwardModel,
    config: SupervisedConfig,
    n_groups: int,
    run: Run,
    progress: Progress,
) -> FittedLabels:
    """Fit anchors by models that were learned without them; a run that was stopped goes on.

    Parameters
    ----------
    sample, emulator, config, progress
    n_groups : int
        Groups, drawn at random, that are left out together; 0 leaves each anchor out alone.
    run : Run
        Where what is done is kept.
    """
    n = len(sample.anchors)
    shuffled = np.random.default_rng(0).permutation(n)
    groups = [np.sort(part) for part in np.array_split(shuffled, n_groups or n)]
    found: list[dict[str, Any]] = []
    with progress.stage("leaving anchors out", float(n), unit="anchors") as task:
        for number, group in enumerate(groups):

            def fit_without(group: np.ndarray = group) -> dict[str, Any]:
                trained = train_supervised(
                    emulator,
                    sample.domain,
                    sample.known,
                    config,
                    priors=sample.relations,
                    rows=np.setdiff1d(np.arange(n), group),
                )
                fitted = fit_each([sample.anchors[row] for row in group], trained.model)
                return {name: column.tolist() for name, column in fitted._asdict().items()}

            found.append(run.step(f"without group {number}", fit_without))
            task.advance(float(group.size))
    order = np.argsort(np.concatenate(groups))
    return FittedLabels(
        *(
            np.concatenate([np.array(one[name], np.float64) for one in found])[order]
            for name in FittedLabels._fields
        )
    )


def compare_labels(found: FittedLabels, labels: AnchorLabels) -> tuple[np.ndarray, np.ndarray]:
    """Fitted minus literature of Teff and [M/H], and the errors that these differences have."""
    columns = [TEFF, MH]
    away = (found.values - labels.values)[:, columns]
    stated = np.sqrt(labels.covariance[:, columns, columns])
    return away, np.hypot(found.errors[:, columns], stated)


def judge(
    sample: Sample, found: FittedLabels, added: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """Differences from the literature by kind of anchor, and each anchor's own.

    Parameters
    ----------
    sample : Sample
    found : FittedLabels
    added : (float, float)
        Errors of Teff (K) and [M/H] to be added in quadrature to those of fits.
    """
    anchors, labels = sample.anchors, sample.labels
    away, known = compare_labels(found, labels)
    known = np.hypot(known, added)
    of_header = found.values[:, TEFF] - labels.header_teff
    source = np.array([one.source for one in anchors])
    kind = np.array([one.kind for one in anchors])
    header = np.array([one.header_type for one in anchors])
    feh_bin = np.array([one.feh_bin for one in anchors])
    early = (kind == "d") & (header >= 0) & (header <= 5)
    template = np.array([one.is_template for one in anchors])
    binned = early & np.isfinite(feh_bin) & (header < 5)
    groups = {
        "templates M0-M5": early & template,
        "Kesseli M0-M5": early & (source == "pyhammer"),
        "Bochanski M0-M5": early & (source == "bochanski"),
        "survey stars": np.isin(source, ("lamost", "sdss")),
        "K7": header == -1,
        "M6-M7": (kind == "d") & (header > 5),
    }
    summary: dict[str, Any] = {
        name: {
            "n": int(chosen.sum()),
            "teff": _describe(away[chosen, 0], known[chosen, 0]),
            "teff_of_stated_type": _describe(of_header[chosen]),
            "mh": _describe(away[chosen, 1], known[chosen, 1]),
        }
        for name, chosen in groups.items()
    }
    summary["Kesseli M0-M4, bins"] = {
        "n": int(binned.sum()),
        "mh": _describe(away[binned, 1], known[binned, 1]),
        "mh_of_bin_centre": _describe(found.values[binned, MH] - feh_bin[binned]),
    }
    summary["subdwarfs"] = {
        one: {
            "n": int((kind == one).sum()),
            "mh_median": float(np.median(found.values[kind == one, MH])),
            "published": CLASS_MH[one],
            "teff": _describe(away[kind == one, 0], known[kind == one, 0]),
        }
        for one in CLASS_MH
    }
    summary["anchors"] = [
        {
            "name": one.name,
            "subtype": float(labels.subtype[row]),
            "literature": labels.values[row].tolist(),
            "fitted": found.values[row].tolist(),
            "errors": found.errors[row].tolist(),
            "chi2_red": float(found.chi2_red[row]),
            "rv_kms": float(found.rv_kms[row]),
        }
        for row, one in enumerate(anchors)
    ]
    return summary


def _describe(away: np.ndarray, error: np.ndarray | None = None) -> dict[str, float]:
    """Mean, scatter, root mean square, and width of pulls, of what is finite."""
    good = np.isfinite(away)
    if not good.any():
        return {}
    numbers = {
        "median": float(np.median(away[good])),
        "scatter": float(np.std(away[good])),
        "rms": float(np.sqrt(np.mean(away[good] ** 2))),
    }
    if error is not None:
        numbers["pull_rms"] = float(np.sqrt(np.mean((away[good] / error[good]) ** 2)))
    return numbers


def judge_strangers(sample: Sample, model: ForwardModel) -> dict[str, Any]:
    """Stars of which the model has seen nothing, against their types and header velocities."""
    stars, labels = sample.strangers, sample.stranger_labels
    found = fit_each(stars, model)
    away, known = compare_labels(found, labels)
    header = SPEED_OF_LIGHT_KMS * np.array([star.spectrum.meta.z for star in stars], float)
    return {
        "n": len(stars),
        "teff": _describe(away[:, 0], known[:, 0]),
        "teff_of_stated_type": _describe(found.values[:, TEFF] - labels.header_teff),
        "mh": _describe(away[:, 1], known[:, 1]),
        "rv_kms": _describe(found.rv_kms - header),
    }


def write_notice(outcome: dict[str, Any]) -> str:
    """One line for whoever fits with this model without having asked for it."""
    dwarfs = outcome["left_out"]["templates M0-M5"]
    return (
        "the model that comes with the package: simulated theory corrected with "
        f"{outcome['n_anchors']} public spectra of K7-M7 dwarfs and subdwarfs; Teff on the scale "
        "of Mann et al. (2015), [M/H] of template bins and subdwarf classes; on M0-M5 templates "
        f"left out: Teff {dwarfs['teff']['rms']:.0f} K, [M/H] {dwarfs['mh']['rms']:.2f} dex rms. "
        "A model of your own grid and survey will do better."
    )
