"""What the stars of a training set look like through the model that has learned from them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.outliers import ResidualScores, find_residuals, summarise_residuals
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.population import (
    DISTANCES,
    N_NEIGHBOURS,
    TrainingPopulation,
    label_distance,
    relation_features,
)
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.nuisance import learn_directions

_ROWS_AT_ONCE = 512
_N_PART, _LEAST_STARS = 4, 20


@dataclass(frozen=True)
class PopulationConfig:
    """How outliers are told.

    Parameters
    ----------
    n_direction : int
        Residual patterns; fewer where there are not twenty stars for each.
    max_spectra : int
        Spectra that are looked at, drawn at random if there are more.
    max_expensive : int
        The same for models whose evaluation is expensive.
    max_labels : int
        Stars whose labels are kept.
    width : float
        Smoothing of the density of labels, in units of their scatter.
    beyond : float
        Share of stars of the training set's kind, but not of it, beyond the limit of each distance.
    least_limit : float
        Of each distance, however narrow the training set is.
    least_spectra : int
        With fewer nothing is learned.
    seed : int
        Of these choices.
    """

    n_direction: int = 12
    max_spectra: int = 4000
    max_expensive: int = 1000
    max_labels: int = 1000
    width: float = 0.15
    beyond: float = 0.003
    least_limit: float = 3.5
    least_spectra: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        most = (self.max_spectra, self.max_expensive, self.max_labels)
        least = min(self.n_direction, self.least_spectra, *most)
        if least < 1 or not 0 < self.beyond < 1 or not min(self.width, self.least_limit) > 0:
            raise UsageError(f"sizes, widths and limits must be positive, got {self}.")


class LearnedPopulation(NamedTuple):
    """A population, and a dictionary of plain numbers."""

    population: TrainingPopulation
    report: dict[str, Any]


class _Fits(NamedTuple):
    """Training spectra as they were fitted: problems of `_ROWS_AT_ONCE` rows and their results."""

    problems: list[FitProblem]
    results: list[FitResult]

    @property
    def result(self) -> FitResult:
        return jax.tree.map(lambda *columns: np.concatenate(columns), *self.results)

    def summarise(self, directions: np.ndarray) -> ResidualScores:
        parts = [
            summarise_residuals(problem, result, directions)
            for problem, result in zip(self.problems, self.results, strict=True)
        ]
        return ResidualScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def residuals(self) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            find_residuals(problem, result)
            for problem, result in zip(self.problems, self.results, strict=True)
        ]
        residual, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return residual, weight


def learn_population(
    model: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n n_label"],
    config: PopulationConfig | None = None,
    *,
    rows: Int[np.ndarray, "k"] | None = None,
) -> LearnedPopulation | None:
    """Fit training spectra with the finished model, and learn what their fits are like.

    Patterns, relations and neighbours describe the stars that they were taken from better than
    others. So limits are quantiles of distances by what three quarters of the stars teach of the
    fourth (cross-fitting). Stars that are beyond the limits of a first round do not count in the
    second, which is the last.

    Parameters
    ----------
    model : ForwardModel
    observed : ObservedDomain
        The spectra that the model has learned from.
    labels : (n, n_label)
        Where fits begin, physical units; NaN for the centre.
    config : PopulationConfig, optional
    rows : (k,) int, optional
        Those of the domain that are looked at; all by default.

    Returns
    -------
    LearnedPopulation or None
        None where there are too few spectra.
    """
    config = config or PopulationConfig()
    rows = np.arange(observed.n_spec) if rows is None else np.asarray(rows)
    most = config.max_expensive if model.expensive else config.max_spectra
    if len(rows) > most:
        rng = np.random.default_rng(config.seed)
        rows = np.sort(rng.choice(rows, most, replace=False))
    if len(rows) < config.least_spectra:
        return None
    fits = _fit_all(model, observed, labels, rows)
    result, space = fits.result, model.label_space
    extent = np.asarray(space.upper) - np.asarray(space.lower)
    scaled = np.asarray(space.scale(np.asarray(result.labels, np.float64)))
    errors = np.asarray(result.errors, np.float64) / extent
    residual, weight = fits.residuals()
    kept = np.isfinite(scaled).all(axis=1) & result.converged
    if np.count_nonzero(kept) < config.least_spectra:
        return None
    leading = space.names.index("teff") if "teff" in space.names else 0
    star = rows if observed.star is None else observed.star[rows]
    part = _divide(star, config.seed)

    def describe(
        teaching: np.ndarray, n_direction: int
    ) -> tuple[ResidualScores, TrainingPopulation]:
        directions = learn_directions(
            residual[teaching], weight[teaching], n_direction, seed=config.seed
        )
        summary = fits.summarise(directions)
        return summary, _describe(summary, scaled, errors, teaching, directions, leading, config)

    for _ in range(2):
        # As many for those that teach as for all, of which they are to tell.
        n_teaching = np.count_nonzero(kept) * (_N_PART - 1) // _N_PART
        n_direction = max(1, min(config.n_direction, int(n_teaching) // 20))
        summary, population = describe(kept, n_direction)
        distances = np.full((len(kept), len(DISTANCES)), np.nan)
        for number in range(_N_PART):
            told, by_others = describe(kept & (part != number), n_direction)
            found = by_others.measure_distances(**told._asdict(), scaled=scaled, errors=errors)
            found[:, 2] = _distance_to_fewer(scaled, errors, by_others, population)
            distances[part == number] = found[part == number]
        limits = [
            max(config.least_limit, float(np.quantile(column[kept], 1.0 - config.beyond)))
            for column in distances.T
        ]
        population = _with_limits(population, limits)
        first = kept
        kept = first & (distances <= np.array(limits)).all(axis=1)
    report = _report(population, summary, scaled, distances, first)
    return LearnedPopulation(population, report)


def _fit_all(
    model: ForwardModel, observed: ObservedDomain, labels: np.ndarray, rows: np.ndarray
) -> _Fits:
    space = model.label_space
    centre = np.mean([space.lower, space.upper], axis=0)
    starts = np.where(np.isfinite(labels), labels, centre)
    problems, results = [], []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        padded = np.resize(some, _ROWS_AT_ONCE)
        problem = FitProblem.from_batch(
            model, observed.batch(padded), frame_kms=observed.frame_kms[padded]
        )
        start = Start(starts[padded], np.zeros(_ROWS_AT_ONCE))
        problems.append(problem.to_host())
        results.append(fit(problem, start=start).take(slice(len(some))))
    return _Fits(problems, results)


def _describe(
    summary: ResidualScores,
    scaled: np.ndarray,
    errors: np.ndarray,
    kept: np.ndarray,
    directions: np.ndarray,
    leading: int,
    config: PopulationConfig,
) -> TrainingPopulation:
    """Everything but the limits, from the stars that are kept."""
    at = np.stack([np.log10(np.maximum(summary.snr, 1e-3)), scaled[:, leading]], axis=1)
    reach = np.quantile(at[kept], [0.01, 0.99], axis=0)
    features = relation_features(np.clip(at, *reach))
    relations = [
        _fit_relation(np.cbrt(value[kept]), features[kept])
        for value in (summary.chi2, summary.pattern)
    ]
    stars = np.flatnonzero(kept)
    if len(stars) > config.max_labels:
        rng = np.random.default_rng(config.seed)
        stars = np.sort(rng.choice(stars, config.max_labels, replace=False))
    low, high = np.quantile(scaled[kept], [0.16, 0.84], axis=0)
    width = np.maximum(config.width * 0.5 * (high - low), 1e-3)
    arrays: dict[str, Any] = {
        "directions": directions,
        "chi2": relations[0],
        "pattern": relations[1],
        "reach": reach,
        "labels": scaled[stars],
        "width": width,
        "limits": np.full(3, np.inf),
    }
    arrays = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
    return TrainingPopulation(**arrays, leading=leading)  # type: ignore[call-arg]


def _with_limits(population: TrainingPopulation, limits: list[float]) -> TrainingPopulation:
    return eqx.tree_at(lambda one: one.limits, population, np.asarray(limits, np.float32))


def _fit_relation(value: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Median and 84th percentile as linear functions of the features, (2, n_feature)."""
    from sklearn.linear_model import QuantileRegressor

    return np.stack(
        [
            QuantileRegressor(quantile=share, alpha=0.0, fit_intercept=False)
            .fit(features, value)
            .coef_
            for share in (0.5, 0.84)
        ]
    )


def _divide(star: np.ndarray, seed: int) -> np.ndarray:
    """The part that each row is in, the same for all spectra of a star."""
    number = np.unique(star, return_inverse=True)[1]
    if number.max() < _LEAST_STARS:  # visits of a few stars cannot be divided so
        number = np.arange(len(star))
    rng = np.random.default_rng(seed)
    return rng.permutation(number.max() + 1)[number] % _N_PART


def _distance_to_fewer(
    scaled: np.ndarray, errors: np.ndarray, fewer: TrainingPopulation, whole: TrainingPopulation
) -> np.ndarray:
    """Label distances to the neighbour that is as far away as `N_NEIGHBOURS` are in the whole."""
    labels, width = np.asarray(fewer.labels), np.asarray(fewer.width)
    place = max(1, round(N_NEIGHBOURS * len(labels) / len(whole.labels)))
    return label_distance(scaled, errors, labels, width, n_neighbour=place)


def _report(
    population: TrainingPopulation,
    summary: ResidualScores,
    scaled: np.ndarray,
    distances: np.ndarray,
    kept: np.ndarray,
) -> dict[str, Any]:
    """Quantiles of chi-square in bins of S/N, limits, shares beyond them."""
    edges = np.quantile(summary.snr[kept], np.linspace(0, 1, 1 + min(6, max(kept.sum() // 50, 1))))
    bins = []
    for low, high in pairwise(edges):
        inside = kept & (summary.snr >= low) & (summary.snr <= high)
        shares = (0.05, 0.16, 0.5, 0.84, 0.95, 0.99)
        bins.append(
            {
                "snr": [round(float(low), 2), round(float(high), 2)],
                "n": int(inside.sum()),
                **{
                    name: {
                        f"{share:g}": round(float(value), 4)
                        for share, value in zip(
                            shares, np.quantile(column[inside], shares), strict=True
                        )
                    }
                    for name, column in (("chi2", summary.chi2), ("pattern", summary.pattern))
                },
            }
        )
    limits = np.asarray(population.limits, np.float64)
    with np.errstate(invalid="ignore"):
        beyond = distances > limits
    return {
        "n": int(kept.sum()),
        "n_direction": len(population.directions),
        "limits": {name: round(float(one), 3) for name, one in zip(DISTANCES, limits, strict=True)},
        "beyond": {
            name: round(float(column.mean()), 5)
            for name, column in zip(DISTANCES, beyond.T, strict=True)
        },
        "beyond_any": round(float(beyond.any(axis=1).mean()), 5),
        "by_snr": bins,
    }
