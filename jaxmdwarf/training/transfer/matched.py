"""Transfer without a network: match label distributions, learn what theory's spectra lack.

Theory's labels of observed stars are wrong as a population: their distribution is not that of the
literature. Moving the one onto the other says what labels the stars have; the residuals of their
spectra at these labels are theory's error. Three things keep labels from wandering off while this
is repeated: theory's own gradients are the prior of the label-dependent terms; the labels' errors
are in the regression; and directions in which spectra scatter for other reasons (line spread,
response, residual sky) are learned beside, so that no label axis turns to describe them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_matching import (
    MATCHED_LABELS,
    Population,
    ReferenceSample,
    describe_population,
    match_labels,
)
from jaxmdwarf.training.transfer.label_posterior import (
    Posterior,
    StarSample,
    estimate_labels,
    residuals_of,
)
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.training.transfer.regression import regress_correction

_LEAST_STARS = 60


@dataclass(frozen=True)
class MatchedConfig:
    """How a matched correction is learned.

    Parameters
    ----------
    order : {0, 1, 2}
        Of the label-dependent terms in Teff and [M/H].
    strengths : tuple of float
        Prior weights of the linear terms relative to the data's (quadratic ones have twice that);
        of those under which the labels come to spread as the reference does, the one with the
        highest evidence on the validation stars is taken.
    n_passes : int
        Label fits, matchings and regressions.
    n_nuisance : int
        Directions that are learned from what labels do not explain; 0 for none.
    min_snr : float
        Spectra with a lower S/N are left out: they know little of theory's errors.
    max_spectra : int
        Spectra to learn from, drawn at random if there are more.
    least_common : int
        Stars of the reference that must be among the spectra for the two distributions to be
        compared star for star the same sample; with fewer, all spectra stand for the reference.
    logg_sigma, alpha_sigma : float
        Scatter, dex, of stars about the relations of the training labels.
    keep : float
        Share of the stars that are learned from: the worst described are binaries and giants.
    seed : int
        Of the split and of the draws.
    """

    order: int = 2
    strengths: tuple[float, ...] = (0.05, 0.2, 0.6)
    n_passes: int = 4
    n_nuisance: int = 8
    min_snr: float = 10.0
    max_spectra: int = 8000
    least_common: int = 60
    logg_sigma: float = 0.05
    alpha_sigma: float = 0.06
    keep: float = 0.97
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.n_passes, self.max_spectra, len(self.strengths))
        positive = (*self.strengths, self.logg_sigma, self.alpha_sigma, self.keep)
        if min(sizes) < 1 or self.n_nuisance < 0 or not min(positive) > 0 or self.keep > 1:
            raise UsageError(f"sizes, strengths and widths must be positive, got {self}.")


def train_matched(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: MatchedConfig | None = None,
    *,
    reference: ReferenceSample | None = None,
    on_pass: Callable[[dict[str, Any]], None] | None = None,
) -> TrainedTransfer:
    """Learn a correction of `emulator` for the observed domain, without labels of its stars.

    Parameters
    ----------
    emulator : ForwardModel
        With a linear low-rank head, and Teff and [M/H] among its labels.
    observed : ObservedDomain
        At rest; split 8:2:1 here, by ``config.seed``.
    labels : (n_draw, n_label)
        Draws of the training labels (paper, section 3.3.2), in the emulator's order; they give the
        relations of log g and [alpha/M] to the other labels.
    config : MatchedConfig, optional
    reference : ReferenceSample, optional
        The distribution of Teff and [M/H]; that of `labels` if left out.
    on_pass : callable, optional
        Gets a plain dictionary after each pass.

    Returns
    -------
    TrainedTransfer
        A `jaxmdwarf.models.corrected.CorrectedModel`, and a dictionary of plain numbers.

    Raises
    ------
    MismatchError
        If grids or labels do not match, or there are too few spectra.
    """
    config = config or MatchedConfig()
    _require_inputs(emulator, observed, labels)
    space = emulator.label_space
    split = split_domain(
        observed.n_spec, seed=config.seed, least=(_LEAST_STARS, 20, 1), star=observed.star
    )
    rows = _choose_rows(observed, split.train, config, _LEAST_STARS)
    held = _choose_rows(observed, split.validation, replace(config, max_spectra=2000), 10)
    common = None
    if reference is not None and reference.rows is not None:
        seen = np.isin(reference.rows, rows)
        if np.count_nonzero(seen) >= config.least_common:
            reference = replace(
                reference, teff_mh=reference.teff_mh[seen], rows=reference.rows[seen]
            )
            common = np.isin(rows, np.asarray(reference.rows))
    population = describe_population(
        space,
        labels,
        reference,
        least_scatter={"logg": config.logg_sigma, "alpha_m": config.alpha_sigma},
    )
    stars, validation = StarSample(observed, emulator, rows), StarSample(observed, emulator, held)
    began = time.perf_counter()
    models: list[CorrectedModel] = []
    trials: list[dict[str, Any]] = []
    theory, start = _start_model(emulator, population, config), population.mean_scaled(space)
    found = estimate_labels(theory, stars, start)
    stars.drop_hits(residuals_of(theory, stars, found), _find_noise_scale(found, stars.snr))
    found = estimate_labels(theory, stars, start)
    for strength in config.strengths:
        model, history = _learn(theory, found, stars, population, strength, config, common, on_pass)
        posterior = estimate_labels(model, validation, start)
        models.append(model)
        trials.append(
            {
                "strength": strength,
                "evidence": float(np.mean(_clip(posterior.evidence))),
                "mismatch": max(abs(value - 1) for value in history[-1]["stretch"].values()),
                "passes": history,
            }
        )
    n_matched = len(rows) if common is None else int(np.count_nonzero(common))
    number = _choose_trial(trials, n_matched, population.n_star)
    # Teff is what a survey's selection makes of it, and spectra tell it well: the fit of a star
    # leans on the rest only.
    best = _exchange(models[number], label_priors=population.priors_of_a_star)
    chosen = trials[number]
    report = {
        "n_train": len(rows),
        "n_validation": len(held),
        "n_common": 0 if common is None else int(np.count_nonzero(common)),
        "matched_on": "all stars" if common is None else "common stars",
        "iterations_per_s": len(trials) * config.n_passes / (time.perf_counter() - began),
        "strength": chosen["strength"],
        "evidence": {f"{one['strength']:g}": one["evidence"] for one in trials},
        "mismatch": {f"{one['strength']:g}": one["mismatch"] for one in trials},
        "noise_scale": float(best.noise_scale),
        "last_shift": chosen["passes"][-1]["shift"],
        "passes": chosen["passes"],
    }
    return TrainedTransfer(best, report)


def _choose_trial(trials: list[dict[str, Any]], n_matched: int, n_reference: int) -> int:
    """The best described validation stars, among trials whose labels spread as the reference does.

    Evidence alone favours strong shrinkage, under which labels never come to spread as they should.
    """
    error = np.sqrt(0.5 / n_matched + 0.5 / n_reference)
    mismatch = np.array([one["mismatch"] for one in trials])
    agreeing = mismatch <= max(2 * error, mismatch.min() + 0.5 * error)
    evidence = np.array([one["evidence"] for one in trials])
    return int(np.argmax(np.where(agreeing, evidence, -np.inf)))


def _start_model(
    emulator: ForwardModel, population: Population, config: MatchedConfig
) -> CorrectedModel:
    """Theory, nothing corrected yet, with the priors on the stars."""
    features = LabelFeatures(
        names=MATCHED_LABELS,
        centre=tuple(map(float, population.mean)),
        scale=tuple(map(float, np.sqrt(np.diag(population.covariance)))),
        order=config.order,
    )
    n_pix = emulator.grid.n_pix
    return CorrectedModel(  # type: ignore[call-arg]
        base=emulator,
        correction=jnp.zeros((len(features.degrees), n_pix), jnp.float32),
        nuisance=jnp.zeros((0, n_pix), jnp.float32),
        model_error=emulator.model_error,
        features=features,
        label_priors=population.priors,
    )


def _learn(
    model: CorrectedModel,
    found: Posterior,
    stars: StarSample,
    population: Population,
    strength: float,
    config: MatchedConfig,
    common: np.ndarray | None,
    on_pass: Callable[[dict[str, Any]], None] | None,
) -> tuple[CorrectedModel, list[dict[str, Any]]]:
    """Passes of matching, regression, nuisance directions and label fit, from theory's labels."""
    space = model.label_space
    start = population.mean_scaled(space)
    history: list[dict[str, Any]] = []
    for number in range(config.n_passes):
        if number:
            found = estimate_labels(model, stars, start)
        model = _exchange(model, noise_scale=_find_noise_scale(found, stars.snr))
        matched, stretch, moved = match_labels(found, space, population, common)
        chi2 = found.chi2_red / (1 + (stars.snr / 20.0) ** 2)
        kept = chi2 <= np.quantile(chi2, config.keep)
        correction = regress_correction(model, stars, matched, kept, strength)
        model = _exchange(model, correction=jnp.asarray(correction))
        model = _learn_nuisance(model, stars, start, kept, config)
        line = {
            "pass": number + 1,
            "strength": strength,
            "shift": {
                name: float(value) for name, value in zip(MATCHED_LABELS, moved, strict=True)
            },
            "stretch": {name: float(stretch[i, i]) for i, name in enumerate(MATCHED_LABELS)},
            "chi2_red": float(np.median(found.chi2_red)),
            "noise_scale": float(model.noise_scale),
        }
        history.append(line)
        if on_pass is not None:
            on_pass(line)
    return model, history


def _exchange(model: CorrectedModel, **changes: Any) -> CorrectedModel:
    """The model with some fields exchanged."""
    return replace(model, **changes)  # type: ignore[type-var]


def _learn_nuisance(
    model: CorrectedModel,
    stars: StarSample,
    start: np.ndarray,
    kept: np.ndarray,
    config: MatchedConfig,
) -> CorrectedModel:
    """Directions of what bright stars' own best labels leave."""
    bright = np.flatnonzero(kept & (stars.snr >= np.quantile(stars.snr, 0.6)))
    bright = bright[:: -(-bright.size // 2000) or 1]
    n_direction = min(config.n_nuisance, len(bright) // 20)
    if n_direction == 0:
        return model
    some = stars.take(bright)
    found = estimate_labels(model, some, start)
    residual_of = residuals_of(model, some, found, without_nuisance=True)
    residual, weight = [], []
    for chunk in some.chunks():
        _, w, _ = some.pixels(chunk, float(model.noise_scale))
        residual.append(np.clip(residual_of(chunk), -0.1, 0.1) * (w > 0))
        weight.append(w)
    directions = learn_directions(
        np.concatenate(residual), np.concatenate(weight), n_direction, seed=config.seed
    )
    return _exchange(model, nuisance=jnp.asarray(directions))


def _find_noise_scale(found: Posterior, snr: np.ndarray) -> float:
    """By how much stated errors fall short, from faint stars, whose residuals are noise."""
    faint = found.chi2_red[snr <= np.quantile(snr, 0.3)]
    return float(np.clip(np.sqrt(np.median(faint)), 1.0, 3.0))


def _clip(evidence: np.ndarray) -> np.ndarray:
    """Evidence with clipped tails, or a few binaries and giants would rule the mean."""
    return np.clip(evidence, *np.quantile(evidence, [0.05, 0.95]))


def _choose_rows(
    observed: ObservedDomain, rows: np.ndarray, config: MatchedConfig, least: int
) -> np.ndarray:
    """Spectra good enough to learn from, at most so many."""
    good = rows[observed.snr[rows] >= config.min_snr]
    if len(good) < least:
        raise MismatchError(
            f"{len(good)} of {len(rows)} spectra have S/N {config.min_snr:g} or more; "
            f"{least} are needed.",
            "give more spectra, or learn from worse ones (--learn-min-snr).",
        )
    if len(good) > config.max_spectra:
        rng = np.random.default_rng(config.seed)
        good = np.sort(rng.choice(good, config.max_spectra, replace=False))
    return good


def _require_inputs(emulator: ForwardModel, observed: ObservedDomain, labels) -> None:
    emulator.require_grid(observed.grid)
    space = emulator.label_space
    missing = [name for name in MATCHED_LABELS if name not in space.names]
    if missing:
        raise MismatchError(
            f"the emulator has no label {missing[0]}.", "train it with Teff and [M/H]."
        )
    if emulator.low_rank() is None:
        raise MismatchError(
            f"a {type(emulator).__name__} has no linear head to correct.", "give a Payne emulator."
        )
    if labels.ndim != 2 or labels.shape[1] != space.n_label:
        raise MismatchError(
            f"training labels have shape {labels.shape} for the labels {space.names}."
        )
