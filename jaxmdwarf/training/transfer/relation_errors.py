"""Errors of labels that literature does not know, from relations of the population."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.models.priors import RelationPrior, linearise_priors
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.domain_fits import fit_domain
from jaxmdwarf.training.transfer.label_errors import (
    LEAST_STARS,
    MOST_STARS,
    expect_added,
    share_of_star,
)


class RelationOffsets(NamedTuple):
    """How far spectra alone put stars from where relations expect them.

    Parameters
    ----------
    relations : tuple of RelationPrior
    away, error : (n, n_relation)
        Labels less what relations expect, in the unit of the label, and one sigma of it: of the
        labels, and of the scatter of stars about the relation.
    share : (n,)
        One over the number of spectra of the star.
    """

    relations: tuple[RelationPrior, ...]
    away: Float[np.ndarray, "n n_relation"]
    error: Float[np.ndarray, "n n_relation"]
    share: Float[np.ndarray, n]


def measure_relation_offsets(
    model: CorrectedModel,
    observed: ObservedDomain,
    rows: Int[np.ndarray, n],
    start: Float[np.ndarray, "n n_label"],
) -> RelationOffsets | None:
    """Fit the brighter half of the spectra without priors, and compare with the relations.

    Those have their labels from the model, the others from priors. None without relations among the
    priors of the model, or where fewer than
    `jaxmdwarf.training.transfer.label_errors.LEAST_STARS` fits are good.

    Parameters
    ----------
    model : CorrectedModel
    observed : ObservedDomain
    rows : (n,) int
        Of the domain.
    start : (n, n_label)
        Labels to begin from, physical units.
    """
    relations = tuple(prior for prior in model.priors() if isinstance(prior, RelationPrior))
    snr = np.asarray(observed.snr)[rows]
    bright = np.flatnonzero(snr >= np.median(snr))
    bright = bright[:: -(-bright.size // MOST_STARS) or 1]
    if not relations or bright.size < LEAST_STARS:
        return None
    found, good = fit_domain(model, observed, rows[bright], start[bright], priors=False)
    if np.count_nonzero(good) < LEAST_STARS:
        return None
    space = model.label_space
    width = np.subtract(space.upper, space.lower)
    scaled = space.scale(np.asarray(found.labels, np.float64)[good])
    covariance = np.asarray(found.covariance, np.float64)[good][:, : space.n_label, : space.n_label]
    residual, slopes = (
        np.asarray(part, np.float64)
        for part in linearise_priors(relations, space, jnp.asarray(scaled, jnp.float32))
    )
    slopes = slopes / width
    variance = np.einsum("npa,nab,npb->np", slopes, covariance, slopes)
    sigma = np.array([float(relation.sigma) for relation in relations])
    star = None if observed.star is None else observed.star[rows[bright][good]]
    return RelationOffsets(
        relations,
        -residual * sigma,
        np.sqrt(variance + 1) * sigma,
        share_of_star(star, len(scaled)),
    )


def expect_relation_errors(offsets: RelationOffsets) -> dict[str, float]:
    """What labels are off by that relations tie to others, by label: one sigma in its unit.

    No literature knows gravities of M dwarfs better than the main sequence does: errors are added
    until the differences from it are probable, the scatter about it counted.

    Parameters
    ----------
    offsets : RelationOffsets
    """
    return {
        relation.name: expect_added(offsets.away[:, p], offsets.error[:, p], offsets.share)
        for p, relation in enumerate(offsets.relations)
    }


def join_label_errors(
    space: LabelSpace,
    told: Float[Array, "n_label n_label"] | None,
    added: Mapping[str, float],
) -> Float[Array, "n_label n_label"] | None:
    """The covariance of label errors with those of some labels beside; None if there are none.

    Parameters
    ----------
    space : LabelSpace
    told : (n_label, n_label) or None
        Of scaled labels.
    added : mapping of label to float
        One sigma in the unit of the label.
    """
    if not added:
        return told
    variance = np.zeros(space.n_label)
    for name, sigma in added.items():
        index = space.index(name)
        variance[index] = (sigma / (space.upper[index] - space.lower[index])) ** 2
    beside = jnp.asarray(np.diag(variance), jnp.float32)
    return beside if told is None else told + beside
