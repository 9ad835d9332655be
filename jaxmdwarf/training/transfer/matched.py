"""Transfer without a network: match label distributions, learn what theory's spectra lack.

Theory's labels of observed stars are wrong as a population: their distribution is not that of the
literature. Moving the one onto the other says what labels the stars have; the residuals of their
spectra at these labels are theory's error. Three things keep labels from wandering off while this
is repeated: theory's own gradients are the prior of the label-dependent terms; the labels' errors
are in the regression; and directions in which spectra scatter for other reasons (line spread,
response, residual sky) are learned beside, so that no label axis turns to describe them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.linear import invert_positive, list_pairs
from jaxmdwarf.inference.objective import NormalEquations
from jaxmdwarf.inference.solvers.lm import minimise_lm
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior, Prior, RelationPrior, linearise_priors
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.labels.training_set import fit_main_sequence_relation
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.nuisance import learn_directions

_CHUNK = 512
_MATCHED = ("teff", "mh")
_LEAST_STARS = 60
_FAR_SIGMA, _FAR_FLUX = 6.0, 0.15


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


@dataclass(frozen=True)
class ReferenceSample:
    """Labels from elsewhere, whose distribution the fitted ones are to have.

    Parameters
    ----------
    teff_mh : (n, 2)
        Teff in K and [M/H].
    errors : (float, float)
        One-sigma errors of both, to be taken off the widths of the distribution.
    rows : (n,) int, optional
        Spectra of the observed domain that are of these stars, row by row. Only those that are
        learned from then make the distribution; which of them is which star is not used.
    """

    teff_mh: Float[np.ndarray, "n 2"]
    errors: tuple[float, float] = (0.0, 0.0)
    rows: Int[np.ndarray, n] | None = None


class Posterior(NamedTuple):
    """Labels of stars under a model and its priors, in the Gaussian approximation.

    Parameters
    ----------
    scaled : (n, n_label)
    covariance : (n, n_label, n_label)
        Of the scaled labels.
    amplitudes : (n, n_nuisance)
    evidence : (n,)
        Log marginal likelihood, but for a constant of the number of pixels.
    chi2_red : (n,)
        Mean square residual in units of stated single-pixel errors.
    """

    scaled: Any
    covariance: Any
    amplitudes: Any
    evidence: Any
    chi2_red: Any


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
    split = split_domain(observed.n_spec, seed=config.seed, least=(_LEAST_STARS, 20, 1))
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
    population = _describe_population(space, labels, reference, config)
    stars, validation = StarSample(observed, emulator, rows), StarSample(observed, emulator, held)
    began = time.perf_counter()
    models: list[CorrectedModel] = []
    trials: list[dict[str, Any]] = []
    theory, start = _start_model(emulator, population, config), population.mean_scaled(space)
    found = estimate_labels(theory, stars, start)
    stars.drop_hits(_residuals_of(theory, stars, found), _find_noise_scale(found, stars.snr))
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


def estimate_labels(
    model: CorrectedModel, stars: StarSample, start: Float[np.ndarray, n_label]
) -> Posterior:
    """Labels of all stars at rest, nuisance amplitudes integrated out."""
    parts = []
    head = model.low_rank()
    assert head is not None
    shapes = jnp.concatenate([head.basis, model.nuisance])
    first, second, _ = list_pairs(shapes.shape[0])
    products = shapes[first] * shapes[second]
    for chunk in stars.chunks():
        flux, weight, ivar = stars.pixels(chunk, float(model.noise_scale))
        size = len(flux)
        pad = ((0, _CHUNK - size), (0, 0))
        flux, weight, ivar = (np.pad(values, pad) for values in (flux, weight, ivar))
        part = _estimate(model, products, flux, weight, ivar, jnp.asarray(start, jnp.float32))
        parts.append(jax.tree.map(lambda leaf, n=size: np.asarray(leaf)[:n], part))
    return Posterior(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class StarSample:
    """Spectra to learn from, with the weights of a fit; cosmic rays are dropped as they are met."""

    def __init__(self, observed: ObservedDomain, emulator: ForwardModel, rows: np.ndarray) -> None:
        self._observed, self.rows = observed, rows
        self.snr = observed.snr[rows]
        centre = emulator.predict_scaled(jnp.zeros(emulator.label_space.n_label))
        self._model_variance = np.asarray(jnp.square(emulator.model_error * centre), np.float32)
        self._hit: np.ndarray | None = None

    @property
    def n_star(self) -> int:
        return len(self.rows)

    def chunks(self) -> list[slice]:
        return [
            slice(first, min(first + _CHUNK, self.n_star))
            for first in range(0, self.n_star, _CHUNK)
        ]

    def pixels(self, chunk: slice, noise_scale: float):
        """Flux, weights of a fit and inverse variances of single pixels, all 0 at bad pixels."""
        rows = self.rows[chunk]
        flux, ivar, known = (
            np.asarray(values[rows], np.float32)
            for values in (self._observed.flux, self._observed.ivar, self._observed.information)
        )
        good = (ivar > 0) & (known > 0)
        if self._hit is not None:
            good &= ~self._hit[chunk]
        known, ivar = (np.where(good, values / noise_scale**2, 0) for values in (known, ivar))
        # No bright star, whose theory is as wrong as any other's, rules the regression.
        weight = known / (1 + known * (self._model_variance + 0.005**2))
        return np.where(good, flux, 0), weight.astype(np.float32), ivar.astype(np.float32)

    def drop_hits(self, residual_of: Callable[[slice], np.ndarray], noise_scale: float) -> None:
        """Forget pixels that are far from the model and from what it misses in other stars."""
        self._hit = None
        found = []
        for chunk in self.chunks():
            residual, (_, _, ivar) = residual_of(chunk), self.pixels(chunk, noise_scale)
            typical = np.median(residual, axis=0)
            away = np.abs(residual - typical)
            found.append((away > _FAR_FLUX) & (away * np.sqrt(ivar) > _FAR_SIGMA))
        self._hit = np.concatenate(found)

    def take(self, chosen: np.ndarray) -> StarSample:
        """Some of the stars."""
        part = copy.copy(self)
        part.rows, part.snr = self.rows[chosen], self.snr[chosen]
        part._hit = None if self._hit is None else self._hit[chosen]
        return part


class _Population(NamedTuple):
    """What the stars are expected to be.

    Parameters
    ----------
    mean, covariance : (2,), (2, 2)
        Of Teff and [M/H], errors of the reference taken off.
    relations : tuple of RelationPrior
        Of the other labels to these.
    n_star : int
        Stars of the reference.
    """

    mean: np.ndarray
    covariance: np.ndarray
    relations: tuple[RelationPrior, ...]
    n_star: int

    @property
    def priors_of_a_star(self) -> tuple[Prior, ...]:
        """What is said of a star of any temperature."""
        return tuple(prior for prior in self.priors if prior.name != "teff")

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The distribution as priors: [M/H], Teff given it, the relations."""
        (mean_teff, mean_mh), cov = self.mean, self.covariance
        sigma_mh = float(np.sqrt(cov[1, 1]))
        slope = cov[0, 1] / sigma_mh
        return (
            LabelPrior("mh", float(mean_mh), sigma_mh),
            RelationPrior(
                name="teff",
                given=("mh",),
                powers=((0,), (1,)),
                coefficients=(float(mean_teff), float(slope)),
                sigma=float(np.sqrt(cov[0, 0] - slope**2)),
                centre=(float(mean_mh),),
                scale=(sigma_mh,),
            ),
            *self.relations,
        )

    def mean_scaled(self, space: LabelSpace) -> np.ndarray:
        """Scaled labels of a typical star."""
        scaled = np.zeros((1, space.n_label))
        for name, value in zip(_MATCHED, self.mean, strict=True):
            index = space.index(name)
            low, high = space.lower[index], space.upper[index]
            scaled[:, index] = (value - low) / (high - low) - 0.5
        expected, _ = _relate(self.relations, space, scaled)
        for name, values in expected.items():
            scaled[:, space.index(name)] = values
        return np.clip(scaled[0], -0.45, 0.45)


def _describe_population(
    space: LabelSpace, labels, reference: ReferenceSample | None, config: MatchedConfig
) -> _Population:
    matched = [space.index(name) for name in _MATCHED]
    sample = labels[:, matched] if reference is None else reference.teff_mh
    sample = np.asarray(sample, np.float64)
    sample = sample[np.isfinite(sample).all(axis=1)]
    sample = sample[:: max(1, len(sample) // 20_000)]
    if len(sample) < 20:
        raise MismatchError(
            f"the reference has {len(sample)} stars with Teff and [M/H].",
            "give a reference of at least 20 stars, or none.",
        )
    errors = (0.0, 0.0) if reference is None else reference.errors
    # Found as that of the fitted labels is, or a skew distribution would have two means.
    mean, covariance = _robust_moments(sample)
    # Errors cannot be more than nine tenths of what is seen.
    covariance -= np.diag(np.minimum(np.square(errors), 0.9 * np.diag(covariance)))
    least = {"logg": config.logg_sigma, "alpha_m": config.alpha_sigma}
    relations: tuple[RelationPrior, ...] = ()
    if space.names == ("teff", "logg", "mh", "alpha_m"):
        chosen = labels[:: max(1, len(labels) // 50_000)]
        relations = tuple(
            replace(relation, sigma=max(relation.sigma, least[relation.name]))
            for relation in fit_main_sequence_relation(np.asarray(chosen, np.float64))
        )
    return _Population(mean, covariance, relations, len(sample))


def _start_model(
    emulator: ForwardModel, population: _Population, config: MatchedConfig
) -> CorrectedModel:
    """Theory, nothing corrected yet, with the priors on the stars."""
    features = LabelFeatures(
        names=_MATCHED,
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
    population: _Population,
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
        matched, stretch, moved = _match(found, space, population, common)
        chi2 = found.chi2_red / (1 + (stars.snr / 20.0) ** 2)
        kept = chi2 <= np.quantile(chi2, config.keep)
        correction = _regress(model, stars, matched, kept, strength)
        model = _exchange(model, correction=jnp.asarray(correction))
        model = _learn_nuisance(model, stars, start, kept, config)
        line = {
            "pass": number + 1,
            "strength": strength,
            "shift": {name: float(value) for name, value in zip(_MATCHED, moved, strict=True)},
            "stretch": {name: float(stretch[i, i]) for i, name in enumerate(_MATCHED)},
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


def _match(
    found: Posterior, space: LabelSpace, population: _Population, common: np.ndarray | None
) -> tuple[Posterior, np.ndarray, np.ndarray]:
    """Move labels by the optimal transport between Gaussians onto the population.

    The distribution of the stars is that of their labels with the errors of each added: a star
    whose spectrum says little sits at the population's mean, with the population's width. The
    transport is affine, so it moves what noise did to a label just as the label itself.
    """
    columns = [space.index(name) for name in _MATCHED]
    width = np.array([space.upper[i] - space.lower[i] for i in columns])
    middle = np.array([0.5 * (space.upper[i] + space.lower[i]) for i in columns])
    inside = (np.abs(found.scaled) < 0.49).all(axis=1)
    chosen = inside if common is None else inside & common
    values = found.scaled[chosen][:, columns] * width + middle
    errors = found.covariance[chosen][:, columns][:, :, columns] * width[:, None] * width
    centre, spread = _robust_moments(values)
    stretch = _transport(spread + errors.mean(axis=0), population.covariance)
    scaled = found.scaled.astype(np.float64).copy()
    at = scaled[:, columns] * width + middle
    target = population.mean + (at - centre) @ stretch.T
    _, before = _relate(population.relations, space, scaled)
    scaled[:, columns] = (target - middle) / width
    expected, _ = _relate(population.relations, space, scaled)
    for name, values_of in expected.items():
        # Only the mean distance from a relation is theory's doing; the rest is the star's own.
        own = before[name] - np.median(before[name][chosen])
        scaled[:, space.index(name)] = values_of + own
    turn = np.eye(space.n_label)
    turn[np.ix_(columns, columns)] = stretch * width / width[:, None]
    covariance = turn @ found.covariance @ turn.T
    moved = population.mean - centre
    return (
        found._replace(scaled=np.clip(scaled, -0.5, 0.5).astype(np.float32), covariance=covariance),
        stretch,
        moved,
    )


def _robust_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of most of the stars: contaminants and failed fits have no say."""
    from sklearn.covariance import MinCovDet

    estimate = MinCovDet(support_fraction=0.9, random_state=0).fit(values)
    return estimate.location_, estimate.covariance_


def _transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The symmetric matrix that carries one Gaussian's covariance into another's."""
    root = _matrix_root(source)
    inverse = np.linalg.inv(root)
    return inverse @ _matrix_root(root @ target @ root) @ inverse


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 1e-12 * values.max()))) @ vectors.T


def _relate(relations, space: LabelSpace, scaled: np.ndarray):
    """Scaled labels that relations expect, and how far the labels are from them."""
    expected, distance = {}, {}
    for relation in relations:
        index = space.index(relation.name)
        width = space.upper[index] - space.lower[index]
        residual, _ = linearise_priors((relation,), space, jnp.asarray(scaled, jnp.float32))
        away = -np.asarray(residual, np.float64)[:, 0] * relation.sigma / width
        expected[relation.name], distance[relation.name] = scaled[:, index] - away, away
    return expected, distance


def _regress(
    model: CorrectedModel, stars: StarSample, found: Posterior, kept: np.ndarray, strength: float
) -> np.ndarray:
    """Spectra of the features: weighted ridge regression in every pixel, labels being uncertain.

    The expectation over a star's labels y ~ N(y0, S) of its squared residual adds f' S f'^T to the
    normal matrix of the features f and takes f' S J^T off the vector, J being theory's gradient.
    """
    space, features, base = model.label_space, model.features, model.base
    n_feature = len(features.degrees)
    first, second, place = list_pairs(n_feature)
    head = base.low_rank()
    assert head is not None
    basis = np.asarray(head.basis)
    matrix = np.zeros((first.size, model.grid.n_pix))
    vector = np.zeros((n_feature, model.grid.n_pix))
    crossed = np.zeros((n_feature * len(basis), model.grid.n_pix))
    nuisance = np.asarray(model.nuisance)
    for chunk in stars.chunks():
        flux, weight, _ = stars.pixels(chunk, float(model.noise_scale))
        weight = weight * kept[chunk, None]
        scaled = jnp.asarray(found.scaled[chunk], jnp.float32)
        predicted, at, slope, pull = (
            np.asarray(part) for part in _features_at(base, features, space, scaled)
        )
        residual = flux - predicted
        if len(nuisance):
            residual = residual - found.amplitudes[chunk] @ nuisance
        covariance = found.covariance[chunk]
        wide = at[:, :, None] * at[:, None, :] + np.einsum(
            "nia,nab,njb->nij", slope, covariance, slope, optimize=True
        )
        mixed = np.einsum("nia,nab,nkb->nik", slope, covariance, pull, optimize=True)
        matrix += wide[:, first, second].T.astype(np.float32) @ weight
        vector += at.T @ (weight * residual)
        crossed += mixed.reshape(len(at), -1).T.astype(np.float32) @ weight
    vector -= np.einsum("ikp,kp->ip", crossed.reshape(n_feature, len(basis), -1), basis)
    full = np.moveaxis(matrix[place], -1, 0)
    prior = np.diag([strength * degree for degree in features.degrees])
    seen = full[:, 0, 0] > 1e-3 * np.median(full[:, 0, 0][full[:, 0, 0] > 0])
    correction = np.zeros((n_feature, model.grid.n_pix), np.float32)
    system = full[seen] + full[seen][:, :1, :1] * (prior + 1e-6 * np.eye(n_feature))
    correction[:, seen] = np.linalg.solve(system, vector.T[seen][..., None])[..., 0].T
    return correction


@partial(jax.jit, static_argnames=("features", "space"))
def _features_at(base, features: LabelFeatures, space: LabelSpace, scaled):
    """Base flux, features, their slopes and those of the base's coefficients, by scaled labels."""
    slope = jax.vmap(jax.jacfwd(lambda one: features.evaluate(space, one)))(scaled)
    pull = jax.vmap(jax.jacfwd(base.coefficients))(scaled)
    return base.predict_scaled_batch(scaled), features.evaluate(space, scaled), slope, pull


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
    residual_of = _residuals_of(model, some, found, without_nuisance=True)
    residual, weight = [], []
    for chunk in some.chunks():
        _, w, _ = some.pixels(chunk, float(model.noise_scale))
        residual.append(np.clip(residual_of(chunk), -0.1, 0.1) * (w > 0))
        weight.append(w)
    directions = learn_directions(
        np.concatenate(residual), np.concatenate(weight), n_direction, seed=config.seed
    )
    return _exchange(model, nuisance=jnp.asarray(directions))


def _residuals_of(
    model: CorrectedModel, stars: StarSample, found: Posterior, *, without_nuisance: bool = False
) -> Callable[[slice], np.ndarray]:
    nuisance = np.asarray(model.nuisance)

    def residual_of(chunk: slice) -> np.ndarray:
        flux, weight, _ = stars.pixels(chunk, float(model.noise_scale))
        predicted = np.asarray(_predict(model, jnp.asarray(found.scaled[chunk], jnp.float32)))
        if len(nuisance) and not without_nuisance:
            predicted = predicted + found.amplitudes[chunk] @ nuisance
        return np.where(weight > 0, flux - predicted, 0)

    return residual_of


@jax.jit
def _predict(model: CorrectedModel, scaled):
    return model.predict_scaled_batch(scaled)


def _find_noise_scale(found: Posterior, snr: np.ndarray) -> float:
    """By how much stated errors fall short, from faint stars, whose residuals are noise."""
    faint = found.chi2_red[snr <= np.quantile(snr, 0.3)]
    return float(np.clip(np.sqrt(np.median(faint)), 1.0, 3.0))


def _clip(evidence: np.ndarray) -> np.ndarray:
    """Evidence without the ruin that a few binaries and giants make of a mean."""
    return np.clip(evidence, *np.quantile(evidence, [0.05, 0.95]))


@jax.jit
def _estimate(model: CorrectedModel, products, flux, weight, ivar, start) -> Posterior:
    head = model.low_rank()
    assert head is not None
    shapes = jnp.concatenate([head.basis, model.nuisance])
    n_shape, n_model = shapes.shape[0], head.basis.shape[0]
    away = jnp.where(weight > 0, flux - head.mean, 0)
    gram = multiply_exactly(weight, products.T)[:, list_pairs(n_shape).place]
    force = multiply_exactly(weight * away, shapes.T)
    cost = jnp.sum(weight * away * away, axis=-1)
    n_nuisance = n_shape - n_model
    inner = gram[:, n_model:, n_model:] + jnp.eye(n_nuisance)
    # Amplitudes are linear with a Gaussian prior: integrated out in closed form.
    inverse = jnp.linalg.inv(inner)
    across = gram[:, :n_model, n_model:] @ inverse
    reduced = gram[:, :n_model, :n_model] - across @ gram[:, n_model:, :n_model]
    reduced_force = force[:, :n_model] - _each(across, force[:, n_model:])
    reduced_cost = cost - jnp.sum(force[:, n_model:] * _each(inverse, force[:, n_model:]), axis=-1)
    space = model.label_space

    def equations(scaled: Float[Array, "n n_label"]) -> NormalEquations:
        coefficients = jax.vmap(model.coefficients)(scaled)
        slopes = jax.vmap(jax.jacfwd(model.coefficients))(scaled)
        bent = _each(reduced, coefficients)
        gradient = jnp.einsum("nka,nk->na", slopes, reduced_force - bent)
        curvature = jnp.einsum("nka,nkl,nlb->nab", slopes, reduced, slopes)
        residual, by_label = linearise_priors(model.label_priors, space, scaled)
        value = reduced_cost - jnp.sum(coefficients * (2 * reduced_force - bent), axis=-1)
        return NormalEquations(
            cost=value + jnp.sum(residual**2, axis=-1),
            gradient=gradient + jnp.einsum("npa,np->na", by_label, residual),
            curvature=curvature + jnp.einsum("npa,npb->nab", by_label, by_label),
            pixel_chi2=value,
        )

    bound = jnp.full(space.n_label, 0.5)
    state = minimise_lm(
        equations,
        jnp.broadcast_to(start, (flux.shape[0], space.n_label)),
        -bound,
        bound,
        active=(weight > 0).any(axis=-1),
        max_iter=25,
        tol_sigma=0.05,
    )
    scaled = state.parameters
    coefficients = jax.vmap(model.coefficients)(scaled)
    amplitudes = _each(
        inverse, force[:, n_model:] - _each(gram[:, n_model:, :n_model], coefficients)
    )
    fitted = head.mean + multiply_exactly(
        jnp.concatenate([coefficients, amplitudes], axis=-1), shapes
    )
    residual = jnp.where(ivar > 0, flux - fitted, 0)
    n_good = jnp.maximum(jnp.sum(ivar > 0, axis=-1), 1)
    stated = ivar * model.noise_scale**2
    curvature = state.equations.curvature
    # What the weights are depends on the noise scale of the model: they are part of the evidence.
    log_weight = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1)), 0)
    evidence = -0.5 * (
        state.equations.cost
        - jnp.sum(log_weight, axis=-1)
        + jnp.linalg.slogdet(curvature)[1]
        + jnp.linalg.slogdet(inner)[1]
    )
    return Posterior(
        scaled,
        invert_positive(curvature),
        amplitudes,
        evidence,
        jnp.sum(stated * residual**2, axis=-1) / n_good,
    )


def _each(matrices, vectors):
    return jnp.einsum("nij,nj->ni", matrices, vectors)


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
    missing = [name for name in _MATCHED if name not in space.names]
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
