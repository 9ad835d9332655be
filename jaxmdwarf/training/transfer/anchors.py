"""Stars of known labels among those that a transfer is learned from: anchors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import FEATURE_LIMIT
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.training.transfer.label_errors import find_added
from jaxmdwarf.training.transfer.label_matching import (
    MATCHED_LABELS,
    Population,
    follow_relations,
    relate,
)
from jaxmdwarf.training.transfer.label_posterior import Posterior

LEAST_ANCHORS = 5
"""Stars that must have a label for the scale of this label to be taken from them."""

_FAR_SIGMA = 4.0
_ROUNDS = 5
# What the reference's distribution may be off by, in standard deviations of the population: its
# stars are of other kinds than the observed ones, and neither is Gaussian.
_SYSTEMATIC = np.array([0.3, 0.3, 0.3, 0.15, 0.15, 0.15])


@dataclass(frozen=True)
class AnchorSample:
    """Spectra of an observed domain whose labels are known, with errors.

    Parameters
    ----------
    rows : (k,) int
        Of the domain, increasing.
    labels : (k, n_label)
        Physical units, in the order of the emulator; NaN for what is not known.
    errors : (k, n_label)
        One sigma.

    Raises
    ------
    MismatchError
        If shapes disagree, rows are not increasing, or a known label has no positive error.
    """

    rows: Int[np.ndarray, k]
    labels: Float[np.ndarray, "k n_label"]
    errors: Float[np.ndarray, "k n_label"]

    def __post_init__(self) -> None:
        shapes = {self.labels.shape, self.errors.shape, (len(self.rows), *self.labels.shape[1:])}
        if len(shapes) > 1 or self.labels.ndim != 2 or (np.diff(self.rows) <= 0).any():
            raise MismatchError(
                f"anchors have {len(self.rows)} rows, labels {self.labels.shape} and errors "
                f"{self.errors.shape}; rows must increase."
            )
        stated = np.isfinite(self.errors) & (self.errors > 0)
        if not stated[np.isfinite(self.labels)].all():
            raise MismatchError("a label of an anchor has no error.", "give one above 0.")

    def mark(self, n_spec: int) -> Bool[np.ndarray, n_spec]:
        """Which spectra of the domain are anchors."""
        marked = np.zeros(n_spec, bool)
        marked[self.rows] = True
        return marked

    def place(
        self, space: LabelSpace, rows: Int[np.ndarray, n], star: Int[np.ndarray, n] | None
    ) -> KnownLabels:
        """What is known of the spectra `rows` of the domain, whose stars are `star`.

        Raises
        ------
        MismatchError
            If fewer than `LEAST_ANCHORS` stars are known.
        """
        n, width = len(rows), np.subtract(space.upper, space.lower)
        scaled, sigma = np.full((n, space.n_label), np.nan), np.ones((n, space.n_label))
        _, ours, theirs = np.intersect1d(rows, self.rows, return_indices=True)
        scaled[ours] = space.scale(np.asarray(self.labels[theirs], np.float64))
        sigma[ours] = np.where(
            np.isfinite(self.labels[theirs]), self.errors[theirs] / width, sigma[ours]
        )
        of_star = np.arange(n) if star is None else np.asarray(star)
        _, number, visits = np.unique(of_star[ours], return_inverse=True, return_counts=True)
        share = np.ones(n)
        share[ours] = 1 / visits[number.reshape(-1)]
        known = KnownLabels(scaled, sigma, share, of_star)
        if known.n_star < LEAST_ANCHORS:
            raise MismatchError(
                f"{known.n_star} stars of known labels are among the spectra to learn from; "
                f"{LEAST_ANCHORS} are the least that tell anything.",
                "give more anchors, leave them out, or learn from worse spectra (--learn-min-snr).",
            )
        return known


class KnownLabels(NamedTuple):
    """What is known of the labels of a sample of spectra.

    Parameters
    ----------
    scaled, sigma : (n, n_label)
        Scaled labels and their errors; NaN and 1 for what is not known.
    share : (n,)
        One over the number of spectra of the star: they share the error of its labels.
    star : (n,) int
    """

    scaled: np.ndarray
    sigma: np.ndarray
    share: np.ndarray
    star: np.ndarray

    @property
    def anchored(self) -> Bool[np.ndarray, n]:
        """Spectra of which a label is known."""
        return np.isfinite(self.scaled).any(axis=1)

    @property
    def n_star(self) -> int:
        """Stars of which a label is known."""
        return len(np.unique(self.star[self.anchored]))

    def take(self, rows: np.ndarray) -> KnownLabels:
        """Of some of the spectra."""
        return KnownLabels(*(column[rows] for column in self))

    def forget(self, rows: np.ndarray) -> KnownLabels:
        """The same, nothing being known of some of the spectra."""
        scaled = self.scaled.copy()
        scaled[rows] = np.nan
        return self._replace(scaled=scaled)


class Anchored(NamedTuple):
    """Labels on the scale of the anchors.

    Parameters
    ----------
    posterior : Posterior
        Of all stars, what is known of the anchors in it.
    population : Population
        On the scale of the anchors.
    stretch : (2, 2)
        What the population's Teff and [M/H] were stretched by.
    moved : (2,)
        How far its mean went, K and dex.
    offset, e_offset : (2,)
        Anchors less what the reference alone says of them, in the mean, and its standard error;
        NaN for a label that too few of them have.
    added : (n_label,)
        Errors of labels from spectra beyond those stated, physical units, by which they count less
        beside the anchors'.
    n_far : int
        Anchors that were taken for unlabelled: spectrum and label do not go together.
    """

    posterior: Posterior
    population: Population
    stretch: np.ndarray
    moved: np.ndarray
    offset: np.ndarray
    e_offset: np.ndarray
    added: np.ndarray
    n_far: int

    def describe(self) -> dict[str, Any]:
        """Plain numbers under stable names."""

        def by_label(values: np.ndarray) -> dict[str, float | None]:
            pairs = zip(MATCHED_LABELS, values.tolist(), strict=True)
            return {name: value if np.isfinite(value) else None for name, value in pairs}

        return {
            "n_far": self.n_far,
            "offset_from_reference": by_label(self.offset),
            "e_offset_from_reference": by_label(self.e_offset),
            "population_moved": by_label(self.moved),
        }


def anchor_labels(
    matched: Posterior, space: LabelSpace, population: Population, known: KnownLabels
) -> Anchored:
    """Move labels that were matched to a reference onto the scale of the anchors; use theirs.

    The difference between the labels of anchors and what their spectra say is regressed on a
    constant, linear and quadratic terms in the latter, shrunk to none as far as the reference is
    certain (``docs/method.md``, "Anchors"). All stars are moved by it. Then each anchor's own
    labels are measurements of it, beside its spectrum.

    Parameters
    ----------
    matched : Posterior
        From `jaxmdwarf.training.transfer.label_matching.match_labels`.
    space : LabelSpace
    population : Population
        The reference's.
    known : KnownLabels
    """
    columns = [space.index(name) for name in MATCHED_LABELS]
    width = np.subtract(space.upper, space.lower)
    middle = 0.5 * np.add(space.upper, space.lower)
    unit = np.sqrt(np.diag(population.covariance))
    in_units = width[columns] / unit
    at = (matched.scaled[:, columns] * width[columns] + middle[columns] - population.mean) / unit
    features, slopes = _terms(at)
    usable = (np.abs(matched.scaled) < 0.49).all(axis=1)
    usable &= np.isfinite(matched.covariance).all(axis=(1, 2))
    terms = np.zeros((2, features.shape[1]))
    offset, e_offset = np.full(2, np.nan), np.full(2, np.nan)
    has = np.isfinite(known.scaled) & usable[:, None]
    variance = np.einsum("naa->na", matched.covariance) + known.sigma**2
    precision = 1 / (_SYSTEMATIC**2 + np.array([1, 0.5, 0.5, 0, 0, 0]) / population.n_star)
    for i, column in enumerate(columns):
        rows = np.flatnonzero(has[:, column])
        if len(np.unique(known.star[rows])) < LEAST_ANCHORS:
            continue
        away = (known.scaled - matched.scaled)[rows, column] * in_units[i]
        spread = variance[rows, column] * in_units[i] ** 2
        terms[i], weight = _regress(features[rows], away, spread, known.share[rows], precision)
        offset[i] = np.sum(weight * away) / np.sum(weight) * unit[i]
        e_offset[i] = unit[i] / np.sqrt(np.sum(weight))
    moved_by = features @ terms.T * unit
    turn = np.eye(2) + np.einsum("nkl,ik->nil", slopes, terms)
    together = np.tile(np.eye(space.n_label), (len(at), 1, 1))
    together[:, np.array(columns)[:, None], columns] = turn * in_units / in_units[:, None]
    scaled = follow_relations(
        population.relations, space, matched.scaled, columns, moved_by / width[columns]
    )
    covariance = together @ matched.covariance @ together.transpose(0, 2, 1)
    # A spectrum is no worse than none: labels that are known poorly tell little of how bad it is.
    most = np.full(space.n_label, np.inf)
    most[columns] = 1 / in_units
    for relation in population.relations:
        most[space.index(relation.name)] = relation.sigma / width[space.index(relation.name)]
    scaled, covariance, added, far = _combine(scaled, covariance, known, has, most)
    stretch = (np.eye(2) + terms[:, 1:3]) * unit[:, None] / unit
    correlation = population.covariance[0, 1] / np.prod(unit)
    moved = unit * (terms[:, 0] + terms[:, 4] * correlation)
    return Anchored(
        matched._replace(
            scaled=np.clip(scaled, -0.5, 0.5).astype(np.float32), covariance=covariance
        ),
        population._replace(
            mean=population.mean + moved, covariance=stretch @ population.covariance @ stretch.T
        ),
        stretch,
        moved,
        offset,
        e_offset,
        added * width,
        int(np.count_nonzero(far)),
    )


def settle_relations(
    population: Population, space: LabelSpace, known: KnownLabels
) -> tuple[Population, dict[str, float]]:
    """Relations of the other labels with the zero points that anchors have, and by how much moved.

    Gravity of stars of known temperature and metallicity, say, is on some scale; fits under a
    relation on another one would not give it back. A relation is as certain as its scatter.

    Parameters
    ----------
    population : Population
    space : LabelSpace
    known : KnownLabels
    """
    filled = np.where(np.isfinite(known.scaled), known.scaled, 0.0)
    _, distance = relate(population.relations, space, filled)
    settled, moved = [], {}
    for relation in population.relations:
        needed = [space.index(name) for name in (relation.name, *relation.given)]
        column, width = needed[0], space.upper[needed[0]] - space.lower[needed[0]]
        rows = np.flatnonzero(np.isfinite(known.scaled[:, needed]).all(axis=1))
        if len(np.unique(known.star[rows])) >= LEAST_ANCHORS:
            away = distance[relation.name][rows] * width
            spread = (known.sigma[rows, column] * width) ** 2 + relation.sigma**2
            constant, _ = _regress(
                np.ones((rows.size, 1)),
                away,
                spread,
                known.share[rows],
                np.array([relation.sigma**-2]),
            )
            by = float(constant[0])
            moved[relation.name] = by
            relation = _raise(relation, by)
        settled.append(relation)
    return population._replace(relations=tuple(settled)), moved


def _raise(relation: RelationPrior, by: float) -> RelationPrior:
    """The relation, everywhere higher."""
    flat = (0,) * len(relation.given)
    powers, coefficients = relation.powers, list(relation.coefficients)
    if flat not in powers:
        powers, coefficients = (*powers, flat), [*coefficients, 0.0]
    coefficients[powers.index(flat)] += by
    return replace(relation, powers=powers, coefficients=tuple(coefficients))


def _terms(at: Float[np.ndarray, "n 2"]):
    """Terms (n, 6): 1, x, y, x2 - 1, xy, y2 - 1, and slopes (n, 6, 2); bent ones level off."""
    x, y = at.T
    u, v = (FEATURE_LIMIT * np.tanh(one / FEATURE_LIMIT) for one in (x, y))
    du, dv = (1 - (one / FEATURE_LIMIT) ** 2 for one in (u, v))
    one, none = np.ones_like(x), np.zeros_like(x)
    features = np.stack([one, x, y, u * u - 1, u * v, v * v - 1], axis=1)
    by_x = np.stack([none, one, none, 2 * u * du, v * du, none], axis=1)
    by_y = np.stack([none, none, one, none, u * dv, 2 * v * dv], axis=1)
    return features, np.stack([by_x, by_y], axis=2)


def _regress(
    features: Float[np.ndarray, "n k"],
    away: Float[np.ndarray, n],
    variance: Float[np.ndarray, n],
    share: Float[np.ndarray, n],
    precision: Float[np.ndarray, k],
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients with Gaussian priors about 0, and the weights of the rows; far ones have none.

    Rows scatter by more than is stated: as much is added as makes them most probable.
    """
    near, added = np.ones(len(away), bool), 0.0
    for _ in range(_ROUNDS):
        weight = share * near / (variance + added**2)
        data = (features * weight[:, None]).T @ features
        matrix = data + np.diag(precision)
        coefficients = np.linalg.solve(matrix, features.T @ (weight * away))
        left = away - features @ coefficients
        # What is fitted to few rows leaves less of them than they scatter.
        n_near = max(int(near.sum()), 1)
        fitted = min(float(np.trace(np.linalg.solve(matrix, data))), 0.8 * n_near)
        left = left / np.sqrt(1 - fitted / n_near)
        added = find_added(left[near], np.sqrt(variance[near]))
        near = np.abs(left) < _FAR_SIGMA * np.sqrt(variance + added**2)
        if np.count_nonzero(near) < LEAST_ANCHORS:
            near = np.ones(len(away), bool)
    return coefficients, share * near / (variance + added**2)


def _combine(
    scaled: Float[np.ndarray, "n n_label"],
    covariance: Float[np.ndarray, "n n_label n_label"],
    known: KnownLabels,
    has: Bool[np.ndarray, "n n_label"],
    most: Float[np.ndarray, n_label],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels of anchors from spectrum and measurement, each with its error; others as they are."""
    away = np.where(has, known.scaled - scaled, 0.0)
    own = np.einsum("naa->na", covariance)
    added = np.zeros(scaled.shape[1])
    far = np.zeros(len(scaled), bool)
    for column in range(len(added)):
        rows = np.flatnonzero(has[:, column])
        if rows.size < LEAST_ANCHORS:
            continue
        error = np.sqrt(own[rows, column] + known.sigma[rows, column] ** 2)
        added[column] = min(find_added(away[rows, column], error), most[column])
        far[rows] |= np.abs(away[rows, column]) > _FAR_SIGMA * np.hypot(error, added[column])
    rows = np.flatnonzero(has.any(axis=1) & ~far)
    measured = has[rows].astype(np.float64)
    of_spectrum = covariance[rows] + np.diag(added**2)
    seen = measured[:, :, None] * of_spectrum * measured[:, None, :]
    noise = np.where(has[rows], known.sigma[rows] ** 2, 1.0)
    total = seen + noise[:, :, None] * np.eye(len(added))
    gain = of_spectrum * measured[:, None, :] @ np.linalg.inv(total)
    scaled, covariance = scaled.astype(np.float64).copy(), covariance.astype(np.float64).copy()
    scaled[rows] += np.einsum("nab,nb->na", gain, away[rows])
    # What was added decides how much a spectrum counts, and widens no star's errors: else a label
    # that is known to next to nothing would make its star worse than one without.
    left = np.eye(len(added)) - gain * measured[:, None, :]
    covariance[rows] = left @ covariance[rows] @ left.transpose(0, 2, 1) + (
        gain * (noise * measured)[:, None, :]
    ) @ gain.transpose(0, 2, 1)
    return scaled, covariance, added, far
