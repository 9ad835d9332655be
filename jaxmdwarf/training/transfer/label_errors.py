"""Errors of labels that no pixel tells of, from stars whose labels are in the literature."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.domain_fits import fit_domain
from jaxmdwarf.training.transfer.label_matching import MATCHED_LABELS, ReferenceSample

LEAST_STARS = 30
"""Stars in common that are needed."""

MOST_STARS = 1000
"""Spectra that are fitted at most, to learn of errors."""

_CENTRAL = (0.1587, 0.8413)
_FAR_SIGMA = 4.0
_HALF_OF_A_GAUSSIAN = 0.6745


def learn_label_errors(
    model: CorrectedModel,
    observed: ObservedDomain,
    reference: ReferenceSample,
    start: Float[np.ndarray, "n n_label"],
) -> Float[Array, "n_label n_label"] | None:
    """Covariance of what fitted labels are off by beyond their stated errors.

    Stars that survey and reference have in common are fitted as those of a catalogue are. Errors
    are added to Teff and [M/H] until the differences from the reference are most probable, errors
    of the reference counted; a few that are far off do not count. What other labels are off by
    follows from how errors of spectra move them together. No label of the model depends on it.

    Parameters
    ----------
    model : CorrectedModel
    observed : ObservedDomain
    reference : ReferenceSample
        With `rows`.
    start : (n, n_label)
        Labels to begin from, one row a star of the reference, physical units.

    Returns
    -------
    (n_label, n_label), or None
        Of the scaled labels; None where there are too few stars.
    """
    assert reference.rows is not None
    rows = np.asarray(reference.rows)
    chosen = np.arange(len(rows))[:: -(-len(rows) // MOST_STARS) or 1]
    space = model.label_space
    columns = [space.index(name) for name in MATCHED_LABELS]
    if chosen.size < LEAST_STARS:
        return None
    found, good = fit_domain(model, observed, rows[chosen], start[chosen])
    if np.count_nonzero(good) < LEAST_STARS:
        return None
    away = (np.asarray(found.labels)[:, columns] - reference.teff_mh[chosen])[good]
    known = np.hypot(np.asarray(found.errors)[:, columns], reference.errors)[good]
    star = None if observed.star is None else observed.star[rows[chosen][good]]
    share = share_of_star(star, len(away))
    return spread_label_errors(space, np.asarray(found.covariance)[good], away, known, share)


def spread_label_errors(
    space: LabelSpace,
    covariance: Float[np.ndarray, "n n_parameter n_parameter"],
    away: Float[np.ndarray, "n 2"],
    known: Float[np.ndarray, "n 2"],
    share: Float[np.ndarray, n] | None = None,
) -> Float[Array, "n_label n_label"]:
    """Covariance of what labels are off by, from how far Teff and [M/H] are from known ones.

    Parameters
    ----------
    space : LabelSpace
    covariance : (n, n_parameter, n_parameter)
        Of the fits, physical units, labels first.
    away : (n, 2)
        Fitted less known; NaN where not known. A label that fewer than `LEAST_STARS` have is taken
        to be as good as its fits say.
    known : (n, 2)
        The error of that as far as it is known.
    share : (n,), optional
        One over the number of rows of the star, which share an error; 1 if left out.

    Returns
    -------
    (n_label, n_label)
        Of the scaled labels.
    """
    columns = [space.index(name) for name in MATCHED_LABELS]
    added = np.zeros(len(columns))
    for i in range(len(columns)):
        there = np.isfinite(away[:, i])
        if np.count_nonzero(there) >= LEAST_STARS:
            some = None if share is None else share[there]
            added[i] = expect_added(away[there, i], known[there, i], some)
    width = np.subtract(space.upper, space.lower)
    n_label = space.n_label
    covariance = covariance[:, :n_label, :n_label].astype(np.float64)
    together = np.mean(covariance / (width[:, None] * width), axis=0)
    along = together[:, columns] @ np.linalg.inv(together[np.ix_(columns, columns)])
    return jnp.asarray((along * (added / width[columns]) ** 2) @ along.T, jnp.float32)


def share_of_star(star: Int[np.ndarray, n] | None, n_row: int) -> Float[np.ndarray, n]:
    """One over the number of rows of the same star; 1 where stars are not told apart."""
    if star is None:
        return np.ones(n_row)
    _, number, visits = np.unique(star, return_inverse=True, return_counts=True)
    return 1 / visits[number.reshape(-1)]


def learn_velocity_error(
    model: CorrectedModel,
    observed: ObservedDomain,
    rows: np.ndarray,
    start: Float[np.ndarray, "n n_label"],
) -> Float[Array, ""] | None:
    """What velocities are off by beyond their stated errors, km/s, from visits of the same stars.

    A spectrum does not tell the zero point of its wavelength scale; another spectrum of the star
    does. Binaries differ by more, and there are many: what counts is the half that differs least.

    Parameters
    ----------
    model : CorrectedModel
    observed : ObservedDomain
        With `star`.
    rows : (n,) int
        Of the domain.
    start : (n, n_label)
        Labels to begin from, physical units.

    Returns
    -------
    scalar or None
        None where fewer than `LEAST_STARS` pairs of visits are known.
    """
    if observed.star is None:
        return None
    star = observed.star[rows]
    order = np.argsort(star, kind="stable")
    again = np.flatnonzero(np.diff(star[order]) == 0)[: MOST_STARS // 2]
    if again.size < LEAST_STARS:
        return None
    pairs = np.stack([order[again], order[again + 1]], axis=1)
    seen, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(pairs.shape)
    frame = observed.frame_kms[rows[seen]]
    found, good = fit_domain(model, observed, rows[seen], start[seen], frame_kms=frame)
    both = (good & np.isfinite(found.e_rv))[place].all(axis=1)
    if np.count_nonzero(both) < LEAST_STARS:
        return None
    rv, error = np.asarray(found.rv_kms)[place][both], np.asarray(found.e_rv)[place][both]
    away = (rv[:, 0] - rv[:, 1]) / np.sqrt(2)
    return jnp.asarray(find_typically_added(away, np.sqrt(np.mean(error**2, axis=1))), jnp.float32)


def find_added(away: Float[np.ndarray, n], error: Float[np.ndarray, n]) -> float:
    """The error that must be added in squares for differences to be most probable; or 0.

    Parameters
    ----------
    away : (n,)
        Differences; those that are far off do not count.
    error : (n,)
        One sigma that is stated of each.
    """
    tried, surprise = _try_errors(away, error, None)
    return float(tried[np.argmin(surprise)])


def expect_added(
    away: Float[np.ndarray, n],
    error: Float[np.ndarray, n],
    share: Float[np.ndarray, n] | None = None,
) -> float:
    """The root of the mean square of what may have to be added, weighted by how probable it is.

    Differences from values that are known poorly leave open what is missing: the most probable
    may be nothing where half of the scatter would do as well. What is expected counts.

    Parameters
    ----------
    away : (n,)
        Differences; those that are far off do not count.
    error : (n,)
        One sigma that is stated of each.
    share : (n,), optional
        By which rows count: those of one star share an error. 1 if left out.
    """
    tried, surprise = _try_errors(away, error, share)
    probable = np.exp(surprise.min() - surprise)
    return float(np.sqrt(np.sum(probable * tried**2) / np.sum(probable)))


def _try_errors(
    away: np.ndarray, error: np.ndarray, share: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Errors that may be missing, (201,), and minus the log likelihood of each; far rows apart."""
    scatter = 0.5 * float(np.diff(np.quantile(away, _CENTRAL))[0])
    near = np.abs(away - np.median(away)) < _FAR_SIGMA * np.hypot(error, scatter)
    counts = near * (1.0 if share is None else share)
    tried = np.linspace(0, 2 * scatter, 201)
    variance = error**2 + tried[:, None] ** 2
    return tried, 0.5 * np.sum(counts * (away**2 / variance + np.log(variance)), axis=1)


def find_typically_added(away: Float[np.ndarray, n], error: Float[np.ndarray, n]) -> float:
    """The error to be added in squares for half of the differences to be within 0.6745 of it; or 0.

    Unlike `find_added` it does not ask how far the others are.

    Parameters
    ----------
    away : (n,)
        Differences about none.
    error : (n,)
        One sigma that is stated of each.
    """
    tried = np.linspace(0, 3 * float(np.median(np.abs(away))), 301)
    pulls = np.median(np.abs(away) / np.sqrt(error**2 + tried[:, None] ** 2), axis=1)
    enough = np.flatnonzero(pulls <= _HALF_OF_A_GAUSSIAN)
    return float(tried[enough[0]])
