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
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.anchor_folds import judge_anchors
from jaxmdwarf.training.transfer.anchors import (
    Anchored,
    AnchorSample,
    KnownLabels,
    anchor_labels,
    settle_relations,
)
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_errors import (
    learn_label_errors,
    learn_velocity_error,
)
from jaxmdwarf.training.transfer.label_matching import (
    MATCHED_LABELS,
    Population,
    ReferenceSample,
    match_labels,
)
from jaxmdwarf.training.transfer.label_posterior import (
    Posterior,
    StarSample,
    estimate_labels,
    residuals_of,
)
from jaxmdwarf.training.transfer.matched_config import RESAMPLED_PASSES, MatchedConfig
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.training.transfer.regression import regress_correction
from jaxmdwarf.training.transfer.relation_errors import (
    expect_relation_errors,
    join_label_errors,
    measure_relation_offsets,
)
from jaxmdwarf.training.transfer.star_priors import learn_star_priors
from jaxmdwarf.training.transfer.uncorrected import (
    LEAST_STARS,
    choose_rows,
    describe_stars,
    find_noise_scale,
    fit_theory,
    require_inputs,
    split_for_matching,
    start_model,
)


def train_matched(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: MatchedConfig | None = None,
    *,
    reference: ReferenceSample | None = None,
    anchors: AnchorSample | None = None,
    on_pass: Callable[[dict[str, Any]], None] | None = None,
) -> TrainedTransfer:
    """Learn a correction of `emulator` for the observed domain, few or none of its stars labelled.

    Labels of anchors, where there are any, are taken as measurements of these stars, and tell what
    the distribution of the reference only says in the mean.

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
    anchors : AnchorSample, optional
        Spectra whose labels are known; they are learned from, and so are all spectra of their
        stars.
    on_pass : callable, optional
        Gets a plain dictionary after each pass (`count_passes`): its numbers, and under
        ``purpose`` what it is for.

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
    require_inputs(emulator, observed, labels)
    space = emulator.label_space
    marked = None if anchors is None else anchors.mark(observed.n_spec)
    good = np.asarray(observed.snr) >= config.min_snr
    split = split_for_matching(observed.n_spec, config, observed.star, marked, good)
    rows = choose_rows(observed, split.train, config, LEAST_STARS, marked)
    held = choose_rows(observed, split.validation, replace(config, max_spectra=2000), 10)
    reference, common = _find_common(reference, rows, config.least_common)
    population = describe_stars(space, labels, reference, config)
    stars, validation = StarSample(observed, emulator, rows), StarSample(observed, emulator, held)
    known: KnownLabels | None = None
    settled: dict[str, float] = {}
    if anchors is not None:
        known = anchors.place(space, stars.rows, stars.star)
        population, settled = settle_relations(population, space, known)
    began = time.perf_counter()
    learned: list[_Learned] = []
    trials: list[dict[str, Any]] = []
    theory, start = start_model(emulator, population, config), population.mean_scaled(space)
    found = fit_theory(theory, stars, start)

    def learn(strength: float, known: KnownLabels | None, purpose: str) -> _Learned:
        args = (theory, found, stars, population, strength, config, common)
        return _learn(*args, _name_passes(on_pass, purpose), known=known)

    for strength in config.strengths:
        one = learn(strength, known, "correction")
        posterior = estimate_labels(one.model, validation, start)
        learned.append(one)
        trials.append(_describe_trial(strength, posterior, one.history))
    passes_per_s = len(trials) * config.n_passes / (time.perf_counter() - began)
    n_matched = len(rows) if common is None else int(np.count_nonzero(common))
    number = _choose_trial(trials, n_matched, population.n_star)
    chosen, best = trials[number], learned[number].model
    if config.n_resample:
        args = (best, stars, population, reference, common, chosen["strength"], config)
        passes = _name_passes(on_pass, "uncertainty")
        uncertainty = _learn_uncertainty(*args, known=known, on_pass=passes)
        best = _exchange(best, uncertainty=jnp.asarray(uncertainty))
    best = _learn_of_stars(best, stars, learned[number], config)

    def learn_again(some: KnownLabels) -> CorrectedModel:
        again = learn(chosen["strength"], some, "anchors held out")
        return _learn_of_stars(again.model, stars, again, config)

    shared = None if common is None else reference
    best, told = _learn_errors(best, stars, start, known, learn_again, shared, config.n_fold)
    if known is not None:
        last = learned[number].anchored
        told |= {"relations_moved": settled, **({} if last is None else last.describe())}
    report = {
        **_count_spectra(rows, held, common),
        "iterations_per_s": passes_per_s,
        **_describe_choice(best, trials, chosen),
    }
    return TrainedTransfer(best, {**report, "anchors": told} if told else report)


def _name_passes(
    on_pass: Callable[[dict[str, Any]], None] | None, purpose: str
) -> Callable[[dict[str, Any]], None] | None:
    """The callback with what passes are for."""
    return None if on_pass is None else lambda line: on_pass({**line, "purpose": purpose})


def _count_spectra(
    rows: np.ndarray, held: np.ndarray, common: np.ndarray | None
) -> dict[str, int | str]:
    """How many spectra were learned from and validated with, and what distributions are of."""
    return {
        "n_train": len(rows),
        "n_validation": len(held),
        "n_common": 0 if common is None else int(np.count_nonzero(common)),
        "matched_on": "all stars" if common is None else "common stars",
    }


def _describe_trial(
    strength: float, posterior: Posterior, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a strength is chosen by: evidence of validation stars, and what is left to stretch."""
    return {
        "strength": strength,
        "evidence": float(np.mean(_clip(posterior.evidence))),
        "evidence_of_stars": posterior.evidence,
        "mismatch": max(abs(value - 1) for value in history[-1]["stretch"].values()),
        "passes": history,
    }


def _describe_choice(
    best: CorrectedModel, trials: list[dict[str, Any]], chosen: dict[str, Any]
) -> dict[str, Any]:
    """Plain numbers of the model that was chosen, and of those that were not."""
    return {
        "strength": chosen["strength"],
        "evidence": {f"{one['strength']:g}": one["evidence"] for one in trials},
        "mismatch": {f"{one['strength']:g}": one["mismatch"] for one in trials},
        "noise_scale": float(best.noise_scale),
        "star_priors": {one.name: one.sigma for one in best.label_priors},
        "label_error": _describe_label_error(best),
        "velocity_error_kms": None if best.velocity_error is None else float(best.velocity_error),
        "last_shift": chosen["passes"][-1]["shift"],
        "passes": chosen["passes"],
    }


def _find_common(
    reference: ReferenceSample | None, rows: np.ndarray, least: int
) -> tuple[ReferenceSample | None, np.ndarray | None]:
    """The reference's stars among those learned from, if enough, and which of these they are."""
    if reference is None or reference.rows is None:
        return reference, None
    seen = np.isin(reference.rows, rows)
    if np.count_nonzero(seen) < least:
        return reference, None
    known = replace(reference, teff_mh=reference.teff_mh[seen], rows=reference.rows[seen])
    return known, np.isin(rows, reference.rows[seen])


def _learn_of_stars(
    model: CorrectedModel, stars: StarSample, learned: _Learned, config: MatchedConfig
) -> CorrectedModel:
    """The model with the priors of a fit of one star."""
    # Teff is what a survey's selection makes of it, and spectra tell it well: the fit of a star
    # leans on the rest only.
    population = learned.population
    model = _exchange(model, label_priors=population.priors_of_a_star)
    if not config.learn_priors:
        return model
    start = population.mean_scaled(model.label_space)
    least = {"mh": population.width_mh}
    priors = learn_star_priors(
        model, stars, learned.kept, start, names=("mh", "alpha_m"), least=least
    )
    return _exchange(model, label_priors=priors)


def _learn_errors(
    model: CorrectedModel,
    stars: StarSample,
    start: np.ndarray,
    known: KnownLabels | None,
    learn: Callable[[KnownLabels], CorrectedModel],
    reference: ReferenceSample | None,
    n_fold: int,
) -> tuple[CorrectedModel, dict[str, Any]]:
    """The model with errors that no pixel tells of, and numbers of anchors that were held out.

    `reference` has rows of the domain where it counts as the same stars.
    """
    space = model.label_space
    posterior = estimate_labels(model, stars, start)
    there = np.asarray(space.unscale(posterior.scaled))
    # A catalogue is fitted without pixels that are wrong, and so is what tells of its errors.
    stars.drop_hits(residuals_of(model, stars, posterior), float(model.noise_scale))
    clean, each = stars.as_domain(), np.arange(len(stars.rows))
    told: dict[str, Any] = {}
    if known is not None:
        model, told = judge_anchors(model, learn, known, clean, each, there, n_fold)
    if model.label_error is None and reference is not None and reference.rows is not None:
        seen = np.searchsorted(stars.rows, np.asarray(reference.rows))
        error = learn_label_errors(model, clean, replace(reference, rows=seen), there[seen])
        model = _exchange(model, label_error=error)
    offsets = measure_relation_offsets(model, clean, each, there)
    if offsets is not None:
        joined = join_label_errors(space, model.label_error, expect_relation_errors(offsets))
        model = _exchange(model, label_error=joined)
    velocity_error = learn_velocity_error(model, clean, each, there)
    return _exchange(model, velocity_error=velocity_error), told


def _describe_label_error(model: CorrectedModel) -> dict[str, float]:
    """One sigma of each label, physical units; nothing where it is not known."""
    if model.label_error is None:
        return {}
    space = model.label_space
    sigma = np.sqrt(np.diag(np.asarray(model.label_error)))
    sigma = sigma * np.subtract(space.upper, space.lower)
    return {name: float(value) for name, value in zip(space.names, sigma, strict=True)}


def _choose_trial(trials: list[dict[str, Any]], n_matched: int, n_reference: int) -> int:
    """The best described validation stars, among trials whose labels spread as the reference does.

    Evidence alone favours strong shrinkage, under which labels never come to spread as they should.
    Where the evidence of the same stars under two strengths differs by no more than the standard
    error of that difference, the stronger one is taken: it has learned less from noise.
    """
    error = np.sqrt(0.5 / n_matched + 0.5 / n_reference)
    mismatch = np.array([one["mismatch"] for one in trials])
    agreeing = mismatch <= max(2 * error, mismatch.min() + 0.5 * error)
    evidence = np.array([one["evidence"] for one in trials])
    best = int(np.argmax(np.where(agreeing, evidence, -np.inf)))
    lost = np.stack(
        [_clip(trials[best]["evidence_of_stars"] - one["evidence_of_stars"]) for one in trials]
    )
    tied = lost.mean(axis=1) <= lost.std(axis=1) / np.sqrt(lost.shape[1])
    strength = np.array([one["strength"] for one in trials])
    return int(np.argmax(np.where(agreeing & tied, strength, -np.inf)))


class _Learned(NamedTuple):
    """What passes have led to.

    Parameters
    ----------
    model : CorrectedModel
    history : list of dict
        Plain numbers of each pass.
    kept : (n,) bool
        Stars that were learned from.
    population : Population
        What the stars are, on the scale of the anchors if there are any.
    anchored : Anchored or None
        Of the last pass.
    """

    model: CorrectedModel
    history: list[dict[str, Any]]
    kept: np.ndarray
    population: Population
    anchored: Anchored | None


def _learn(
    model: CorrectedModel,
    found: Posterior,
    stars: StarSample,
    population: Population,
    strength: float,
    config: MatchedConfig,
    common: np.ndarray | None,
    on_pass: Callable[[dict[str, Any]], None] | None,
    *,
    known: KnownLabels | None = None,
) -> _Learned:
    """Passes of matching, regression, nuisance directions and label fit, from theory's labels."""
    space = model.label_space
    start, expected = population.mean_scaled(space), population
    anchored: Anchored | None = None
    history: list[dict[str, Any]] = []
    for number in range(config.n_passes):
        if number:
            found = estimate_labels(model, stars, start)
        model = _exchange(model, noise_scale=find_noise_scale(found, stars.snr))
        matched, stretch, moved = match_labels(found, space, population, common)
        if known is not None:
            # The reference is asked anew in each pass; what anchors make of it is not.
            anchored = anchor_labels(matched, space, population, known)
            matched, expected = anchored.posterior, anchored.population
            stretch, moved = anchored.stretch @ stretch, moved + anchored.moved
            model = _exchange(model, label_priors=expected.priors)
        chi2 = found.chi2_red / (1 + (stars.snr / 20.0) ** 2)
        kept = chi2 <= np.quantile(chi2, config.keep)
        correction = regress_correction(model, stars, matched, kept, strength, config.outside)
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
    return _Learned(model, history, kept, expected, anchored)


def _learn_uncertainty(
    model: CorrectedModel,
    stars: StarSample,
    population: Population,
    reference: ReferenceSample | None,
    common: np.ndarray | None,
    strength: float,
    config: MatchedConfig,
    *,
    known: KnownLabels | None = None,
    on_pass: Callable[[dict[str, Any]], None] | None = None,
) -> Float[np.ndarray, "m n_feature n_pix"]:
    """How the correction changes with the stars, of survey and reference, that it is learned from.

    Two disjoint samples of m of n stars each, learned from on their own, differ by twice the
    variance 2 s2 / m; that of the correction is s2 / n. What both do alike, such as going on
    towards a solution not quite reached, cancels (half-sampling; McCarthy 1969, Rev. Int. Stat.
    Inst. 37, 239). Noise, chance correlations of labels with what scatters beside them, errors of
    the matching: all are in it, with their correlations from pixel to pixel.
    """
    rng = np.random.default_rng(config.seed)
    found = estimate_labels(model, stars, population.mean_scaled(model.label_space))
    again = replace(config, n_passes=RESAMPLED_PASSES, n_nuisance=0)
    changes = []
    for _ in range(config.n_resample):
        parts, learned_from = _halve(stars, config.max_resampled, rng), []
        size = np.mean([len(rows) for rows in parts])
        shuffled = rng.permutation(0 if reference is None else len(reference.teff_mh))
        n_known = min(max(int(len(shuffled) * size / stars.n_star), 10), len(shuffled) // 2)
        for half, rows in enumerate(parts):
            some, expected = stars.take(rows), population
            if reference is not None:
                listed = shuffled[half * n_known : (half + 1) * n_known]
                if common is not None:
                    listed = np.flatnonzero(np.isin(np.asarray(reference.rows), some.rows))
                expected = population.described_by(reference.teff_mh[listed], reference.errors)
            learned = _learn(
                model,
                Posterior(*(column[rows] for column in found)),
                some,
                expected,
                strength,
                again,
                None if common is None else common[rows],
                on_pass,
                known=None if known is None else known.take(rows),
            )
            learned_from.append(np.asarray(learned.model.correction))
        scale = 0.5 * np.sqrt(2 * size / stars.n_star / config.n_resample)
        changes.append(scale * (learned_from[0] - learned_from[1]))
    return np.stack(changes).astype(np.float32)


def _halve(stars: StarSample, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Two samples of at most so many spectra, those of a star in one of them."""
    seed = int(rng.integers(2**31))
    halves = split_domain(stars.n_star, seed=seed, shares=(1, 1, 0), star=stars.star)
    return [
        np.sort(rng.choice(rows, min(len(rows), most), replace=False))
        for rows in (halves.train, halves.validation)
    ]


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
    n_direction = min(config.n_nuisance, len(bright) // 12)
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


def _clip(evidence: np.ndarray) -> np.ndarray:
    """Evidence with clipped tails, or a few binaries and giants would rule the mean."""
    return np.clip(evidence, *np.quantile(evidence, [0.05, 0.95]))
