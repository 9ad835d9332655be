"""Theory before anything is corrected: which spectra tell, what their stars and noise are like."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_matching import (
    MATCHED_LABELS,
    Population,
    ReferenceSample,
    describe_population,
)
from jaxmdwarf.training.transfer.label_posterior import (
    Posterior,
    StarSample,
    estimate_labels,
    residuals_of,
)
from jaxmdwarf.training.transfer.matched_config import MatchedConfig

LEAST_STARS = 60
"""Spectra that a correction is learned from at least."""

_LEAST_HELD = 20


def describe_theory(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: MatchedConfig | None = None,
    *,
    reference: ReferenceSample | None = None,
) -> CorrectedModel:
    """Theory, uncorrected, with what is known of the stars and of the noise of their spectra.

    What a transfer that learns no priors of its own is laid upon, so that fits through it ask no
    more of a spectrum than those through a correction do.

    Parameters
    ----------
    emulator, observed, labels, config, reference
        As of `train_matched`.

    Returns
    -------
    CorrectedModel
        Without a correction; with the priors on a star of any temperature and the scale of errors.

    Raises
    ------
    MismatchError
        As `train_matched`.
    """
    config = config or MatchedConfig()
    require_inputs(emulator, observed, labels)
    space = emulator.label_space
    split = split_for_matching(observed.n_spec, config, observed.star)
    rows = choose_rows(observed, split.train, config, LEAST_STARS)
    population = describe_stars(space, labels, reference, config)
    stars = StarSample(observed, emulator, rows)
    theory = start_model(emulator, population, config)
    found = fit_theory(theory, stars, population.mean_scaled(space))
    return replace(  # type: ignore[type-var]
        theory,
        noise_scale=jnp.asarray(find_noise_scale(found, stars.snr), jnp.float32),
        label_priors=population.priors_of_a_star,
    )


def can_be_matched(emulator: ForwardModel, observed: ObservedDomain, config: MatchedConfig) -> bool:
    """Whether a model is one that is corrected, not corrected yet, and spectra are enough for it.

    Parameters
    ----------
    emulator : ForwardModel
    observed : ObservedDomain
    config : MatchedConfig
    """
    known = all(name in emulator.label_space.names for name in MATCHED_LABELS)
    if isinstance(emulator, CorrectedModel) or not known or emulator.low_rank() is None:
        return False
    train = split_domain(observed.n_spec, seed=config.seed, least=(0, 0, 0), star=observed.star)
    good = observed.snr[train.train] >= config.min_snr
    enough = np.count_nonzero(good) >= LEAST_STARS
    return bool(enough and len(train.validation) >= _LEAST_HELD and len(train.test) >= 1)


def require_inputs(emulator: ForwardModel, observed: ObservedDomain, labels) -> None:
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


def split_for_matching(
    n_spec: int,
    config: MatchedConfig,
    star: Int[np.ndarray, n_spec] | None = None,
    anchored: Bool[np.ndarray, n_spec] | None = None,
    good: Bool[np.ndarray, n_spec] | None = None,
) -> DomainSplit:
    """Spectra to learn from, to validate with and to test, see `split_domain`.

    Raises
    ------
    MismatchError
        If they are too few for matching distributions.
    """
    least = (LEAST_STARS, _LEAST_HELD, 1)
    return split_domain(
        n_spec, seed=config.seed, least=least, star=star, anchored=anchored, good=good
    )


def choose_rows(
    observed: ObservedDomain,
    rows: np.ndarray,
    config: MatchedConfig,
    least: int,
    anchored: np.ndarray | None = None,
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
        always = good[anchored[good]] if anchored is not None else good[:0]
        others, n_more = np.setdiff1d(good, always), max(config.max_spectra - len(always), 0)
        good = np.sort(np.r_[always, rng.choice(others, n_more, replace=False)])
    return good


def describe_stars(
    space: LabelSpace,
    labels: np.ndarray,
    reference: ReferenceSample | None,
    config: MatchedConfig,
) -> Population:
    least = {"logg": config.logg_sigma, "alpha_m": config.alpha_sigma}
    return describe_population(space, labels, reference, least_scatter=least)


def start_model(
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


def fit_theory(theory: CorrectedModel, stars: StarSample, start: np.ndarray) -> Posterior:
    """Labels by theory, without pixels that are hit: these are dropped from the sample."""
    found = estimate_labels(theory, stars, start)
    stars.drop_hits(residuals_of(theory, stars, found), find_noise_scale(found, stars.snr))
    return estimate_labels(theory, stars, start)


def find_noise_scale(found: Posterior, snr: np.ndarray) -> float:
    """By how much stated errors fall short, from faint stars, whose residuals are noise."""
    faint = found.chi2_red[snr <= np.quantile(snr, 0.3)]
    return float(np.clip(np.sqrt(np.median(faint)), 1.0, 3.0))
