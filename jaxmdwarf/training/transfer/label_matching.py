"""Labels moved onto the distribution of a reference by optimal transport between Gaussians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import LabelPrior, Prior, RelationPrior, linearise_priors
from jaxmdwarf.training.labels.training_set import fit_main_sequence_relation
from jaxmdwarf.training.transfer.label_posterior import Posterior

MATCHED_LABELS = ("teff", "mh")

_FAR_WIDTHS = 4.0


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


class Population(NamedTuple):
    """What the stars are expected to be.

    Parameters
    ----------
    mean, covariance : (2,), (2, 2)
        Of Teff and [M/H], errors of the reference taken off.
    relations : tuple of RelationPrior
        Of the other labels to these.
    n_star : int
        Stars of the reference.
    width_mh : float
        Standard deviation of [M/H] of the reference, wings included, its errors taken off; 0
        without a reference.
    """

    mean: np.ndarray
    covariance: np.ndarray
    relations: tuple[RelationPrior, ...]
    n_star: int
    width_mh: float = 0.0

    def described_by(
        self, teff_mh: Float[np.ndarray, "n 2"], errors: tuple[float, float]
    ) -> Population:
        """The same with the distribution of other stars, the errors of their labels taken off."""
        mean, covariance = _describe_distribution(teff_mh, errors)
        return self._replace(mean=mean, covariance=covariance)

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
        for name, value in zip(MATCHED_LABELS, self.mean, strict=True):
            index = space.index(name)
            low, high = space.lower[index], space.upper[index]
            scaled[:, index] = (value - low) / (high - low) - 0.5
        expected, _ = relate(self.relations, space, scaled)
        for name, values in expected.items():
            scaled[:, space.index(name)] = values
        return np.clip(scaled[0], -0.45, 0.45)


def describe_population(
    space: LabelSpace,
    labels: Float[np.ndarray, "n_draw n_label"],
    reference: ReferenceSample | None,
    *,
    least_scatter: Mapping[str, float],
) -> Population:
    """The distribution of labels that stars are to have.

    Parameters
    ----------
    space : LabelSpace
    labels : (n_draw, n_label)
        Draws of the training labels.
    reference : ReferenceSample or None
        The distribution of Teff and [M/H]; None takes that of the draws.
    least_scatter : mapping of label to float
        Scatter about the relations of the other labels is taken to be at least this.

    Raises
    ------
    MismatchError
        If the reference has fewer than 20 stars.
    """
    matched = [space.index(name) for name in MATCHED_LABELS]
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
    mean, covariance = _describe_distribution(sample, errors)
    relations: tuple[RelationPrior, ...] = ()
    if space.names == ("teff", "logg", "mh", "alpha_m"):
        chosen = labels[:: max(1, len(labels) // 50_000)]
        relations = tuple(
            replace(relation, sigma=max(relation.sigma, least_scatter[relation.name]))
            for relation in fit_main_sequence_relation(np.asarray(chosen, np.float64))
        )
    width = 0.0 if reference is None else _find_width(sample[:, 1], errors[1])
    return Population(mean, covariance, relations, len(sample), width)


def match_labels(
    found: Posterior, space: LabelSpace, population: Population, common: np.ndarray | None
) -> tuple[Posterior, np.ndarray, np.ndarray]:
    """Move labels by the optimal transport between Gaussians onto the population.

    The distribution of the stars is that of their labels with the errors of each added: a star
    whose spectrum says little sits at the population's mean, with the population's width. The
    transport is affine, so it moves what noise did to a label just as the label itself.

    Parameters
    ----------
    found : Posterior
    space : LabelSpace
    population : Population
    common : (n,) bool or None
        Stars whose distribution is to be that of the population; None for all.

    Returns
    -------
    Posterior
        With labels and covariances moved.
    stretch : (2, 2)
        The matrix of the transport of Teff and [M/H].
    moved : (2,)
        How far the mean went.
    """
    columns = [space.index(name) for name in MATCHED_LABELS]
    width = np.array([space.upper[i] - space.lower[i] for i in columns])
    middle = np.array([0.5 * (space.upper[i] + space.lower[i]) for i in columns])
    inside = (np.abs(found.scaled) < 0.49).all(axis=1)
    chosen = inside if common is None else inside & common
    values = found.scaled[chosen][:, columns] * width + middle
    errors = found.covariance[chosen][:, columns][:, :, columns] * width[:, None] * width
    centre, spread = _robust_moments(values)
    stretch = _transport(
        spread + errors.mean(axis=0), population.covariance, np.sqrt(np.diag(population.covariance))
    )
    scaled = found.scaled.astype(np.float64).copy()
    at = scaled[:, columns] * width + middle
    target = population.mean + (at - centre) @ stretch.T
    _, before = relate(population.relations, space, scaled)
    scaled[:, columns] = (target - middle) / width
    expected, _ = relate(population.relations, space, scaled)
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


def _find_width(values: Float[np.ndarray, n], error: float) -> float:
    """Standard deviation of all but a few stars that are far off, the errors taken off."""
    near = np.abs(values - np.median(values)) < _FAR_WIDTHS * values.std()
    variance = float(values[near].var())
    return float(np.sqrt(max(variance - error**2, 0.1 * variance)))


def _describe_distribution(sample: np.ndarray, errors: tuple[float, float]):
    """Mean and covariance of labels, the errors of these taken off."""
    # Found as that of the fitted labels is, or a skew distribution would have two means.
    mean, covariance = _robust_moments(sample)
    return mean, _take_off_errors(covariance, np.asarray(errors, np.float64))


def _take_off_errors(
    covariance: Float[np.ndarray, "2 2"], errors: Float[np.ndarray, 2]
) -> Float[np.ndarray, "2 2"]:
    """A covariance without that of errors; in no direction are these over nine tenths of it."""
    unit = np.sqrt(np.diag(covariance))
    root = _matrix_root(covariance / (unit[:, None] * unit))
    inverse = np.linalg.inv(root)
    share, directions = np.linalg.eigh(inverse @ np.diag((errors / unit) ** 2) @ inverse)
    left = root @ (directions * (1 - np.minimum(share, 0.9))) @ directions.T @ root
    return left * (unit[:, None] * unit)


def _robust_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of most of the stars: contaminants and failed fits have no say."""
    from sklearn.covariance import MinCovDet

    estimate = MinCovDet(support_fraction=0.9, random_state=0).fit(values)
    return estimate.location_, estimate.covariance_


def _transport(source: np.ndarray, target: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The matrix, symmetric in these units, that carries one Gaussian's covariance into another's.

    Among all that do, it moves stars least; that needs units in which kelvin and dex compare. In
    their own, squares of squares of both differ by more than the arithmetic resolves.
    """
    units = unit[:, None] * unit
    root = _matrix_root(source / units)
    inverse = np.linalg.inv(root)
    stretch = inverse @ _matrix_root(root @ (target / units) @ root) @ inverse
    return stretch * unit[:, None] / unit


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 1e-12 * values.max()))) @ vectors.T


def relate(
    relations: Sequence[RelationPrior], space: LabelSpace, scaled: Float[np.ndarray, "n n_label"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scaled labels that relations expect, and how far the labels are from them, each (n,).

    Parameters
    ----------
    relations : sequence of RelationPrior
    space : LabelSpace
    scaled : (n, n_label)
    """
    expected: dict[str, np.ndarray] = {}
    distance: dict[str, np.ndarray] = {}
    for relation in relations:
        index = space.index(relation.name)
        width = space.upper[index] - space.lower[index]
        residual, _ = linearise_priors((relation,), space, jnp.asarray(scaled, jnp.float32))
        away = -np.asarray(residual, np.float64)[:, 0] * relation.sigma / width
        expected[relation.name], distance[relation.name] = scaled[:, index] - away, away
    return expected, distance


def follow_relations(
    relations: Sequence[RelationPrior],
    space: LabelSpace,
    scaled: Float[np.ndarray, "n n_label"],
    columns: Sequence[int],
    by: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "n n_label"]:
    """Labels of which some move, others at the distance from their relations that they had.

    Parameters
    ----------
    relations : sequence of RelationPrior
    space : LabelSpace
    scaled : (n, n_label)
    columns : sequence of int
        Those that move.
    by : (n, k)
        How far, scaled.
    """
    _, before = relate(relations, space, scaled)
    moved = np.array(scaled, np.float64)
    moved[:, columns] += by
    expected, _ = relate(relations, space, moved)
    for name, values in expected.items():
        moved[:, space.index(name)] = values + before[name]
    return moved
