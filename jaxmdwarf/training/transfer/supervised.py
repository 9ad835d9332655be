"""Transfer with labelled spectra alone: theory corrected where the labels of some stars are known.

A few dozen anchors are too few for distributions to be matched, but their labels are known one by
one. The residuals of their spectra at these labels are what theory lacks, regressed on features of
the labels as in `jaxmdwarf.training.transfer.matched`. Labels from the literature have errors: from
the second pass on those of an anchor are the mean, by weight, of its literature and its spectrum,
each with all that it is off by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_matching import MATCHED_LABELS
from jaxmdwarf.training.transfer.label_posterior import (
    Posterior,
    StarSample,
    estimate_labels,
    residuals_of,
)
from jaxmdwarf.training.transfer.nuisance import learn_directions
from jaxmdwarf.training.transfer.regression import regress_correction

_ANCHORS_A_TERM = 3
_LARGEST_RESIDUAL = 0.3
_SMOOTHED_PIXELS = 5


@dataclass(frozen=True)
class SupervisedConfig:
    """How a correction is learned from anchors.

    Parameters
    ----------
    order : {0, 1, 2}
        Of the label-dependent terms in Teff and [M/H].
    strength : float
        Prior weight of the linear terms relative to the data's (quadratic ones have twice that).
    outside : float
        How many times as much what theory's spectra do not span is shrunk, of the same terms.
    n_passes : int
        Regressions; between them the labels of the anchors are estimated again.
    n_nuisance : int
        Directions that are learned from what labels do not explain; 0 for none.
    fit_error : (float, float)
        What Teff (K) and [M/H] of a fit are taken to be off by beyond noise, when the labels of an
        anchor are estimated again.
    """

    order: int = 2
    strength: float = 0.005
    outside: float = 1.0
    n_passes: int = 2
    n_nuisance: int = 4
    fit_error: tuple[float, float] = (60.0, 0.15)

    def __post_init__(self) -> None:
        positive = (self.strength, self.outside, *self.fit_error)
        if self.n_passes < 1 or self.n_nuisance < 0 or not min(positive) > 0:
            raise UsageError(f"passes, strengths and errors must be positive, got {self}.")


class StatedLabels(NamedTuple):
    """What is known of the labels of anchors.

    Parameters
    ----------
    scaled : (n, n_label)
        Means, as scaled labels.
    precision : (n, n_label, n_label)
        Inverse covariances of the scaled labels; 0 for what is not known.
    """

    scaled: Float[np.ndarray, "n n_label"]
    precision: Float[np.ndarray, "n n_label n_label"]

    def take(self, rows: Int[np.ndarray, k]) -> StatedLabels:
        """Those of some of the anchors."""
        return StatedLabels(self.scaled[rows], self.precision[rows])


class SupervisedTransfer(NamedTuple):
    """A correction and what it makes of the spectra that it was learned from.

    Parameters
    ----------
    model : CorrectedModel
    labels : StatedLabels
        Of the anchors as the last regression took them, in the order of the rows.
    """

    model: CorrectedModel
    labels: StatedLabels


def state_labels(
    space: LabelSpace,
    values: Float[np.ndarray, "n n_label"],
    covariance: Float[np.ndarray, "n n_label n_label"],
) -> StatedLabels:
    """What the literature says of anchors, as scaled labels.

    Parameters
    ----------
    space : LabelSpace
    values : (n, n_label)
        Physical units, within the bounds of the space.
    covariance : (n, n_label, n_label)
        Of their errors; a label whose variance is infinite is not known, and `values` has where
        to begin.

    Raises
    ------
    UsageError
        If a value is outside of the space, or a covariance is not positive.

    Examples
    --------
    >>> space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -2.0), (4000.0, 2.0))
    >>> errors = np.diag([100.0**2, np.inf])[None]
    >>> known = state_labels(space, np.array([[3600.0, 0.0]]), errors)
    >>> known.scaled.round(2).tolist(), known.precision.round(2).tolist()
    ([[0.1, 0.0]], [[[100.0, 0.0], [0.0, 0.0]]])
    """
    values, covariance = np.asarray(values, np.float64), np.asarray(covariance, np.float64)
    for name, column in zip(space.names, values.T, strict=True):
        space.require_label_inside(name, column)
    lower, upper = np.array(space.lower), np.array(space.upper)
    width = upper - lower
    precision = np.zeros_like(covariance)
    for star, errors in enumerate(covariance):
        told = np.flatnonzero(np.isfinite(np.diag(errors)))
        block = np.ix_(told, told)
        if (np.linalg.eigvalsh(errors[block] / np.outer(width, width)[block]) <= 0).any():
            raise UsageError(f"the errors of anchor {star} are no covariance: {errors.tolist()}.")
        precision[star][block] = np.linalg.inv(errors[block] / np.outer(width, width)[block])
    return StatedLabels((values - lower) / width - 0.5, precision)


def train_supervised(
    emulator: ForwardModel,
    observed: ObservedDomain,
    known: StatedLabels,
    config: SupervisedConfig | None = None,
    *,
    priors: Sequence[Prior] = (),
    rows: Int[np.ndarray, k] | None = None,
) -> SupervisedTransfer:
    """Learn a correction of `emulator` from spectra whose labels are known.

    Parameters
    ----------
    emulator : ForwardModel
        With a linear low-rank head, and Teff and [M/H] among its labels.
    observed : ObservedDomain
        At rest.
    known : StatedLabels
        One row a spectrum, see `state_labels`.
    config : SupervisedConfig, optional
    priors : sequence of Prior
        What is said of any star; the model keeps them.
    rows : (k,) int, optional
        Spectra to learn from; all by default.

    Returns
    -------
    SupervisedTransfer
        The error of single pixels of its model is what anchors leave of their spectra beyond noise
        and nuisance directions.

    Raises
    ------
    MismatchError
        If grids or labels do not match, or there are too few anchors for the terms.
    """
    config = config or SupervisedConfig()
    rows = np.arange(observed.n_spec) if rows is None else np.asarray(rows)
    _require_anchors(emulator, observed, known, config, rows)
    known = known.take(rows)
    model = _start_model(emulator, known, config, tuple(priors))
    stars, kept = StarSample(observed, model, rows), np.ones(rows.size, bool)
    start = np.clip(known.scaled.mean(axis=0), -0.45, 0.45)
    n_star, n_label = known.scaled.shape
    labels, amplitudes = known, np.zeros((n_star, config.n_nuisance), np.float32)
    for number in range(config.n_passes):
        covariance = np.zeros((n_star, n_label, n_label))
        if number:
            found = estimate_labels(model, stars, start)
            labels = combine_labels(known, found, model.label_space, config.fit_error)
            amplitudes, covariance = found.amplitudes, np.linalg.inv(labels.precision)
        # What is said beyond the model cannot be looked up.
        scaled, unused = np.clip(labels.scaled, -0.5, 0.5), np.zeros(n_star)
        taken = Posterior(scaled, covariance, amplitudes, unused, unused)
        correction = regress_correction(model, stars, taken, kept, config.strength, config.outside)
        model = replace(model, correction=jnp.asarray(correction))  # type: ignore[type-var]
        model = _learn_scatter(model, stars, estimate_labels(model, stars, start), config)
        stars = StarSample(observed, model, rows)
    return SupervisedTransfer(model, labels)


def combine_labels(
    known: StatedLabels,
    found: Posterior,
    space: LabelSpace,
    fit_error: tuple[float, float],
) -> StatedLabels:
    """The mean of literature and fits, each weighed by the inverse of its covariance.

    Parameters
    ----------
    known : StatedLabels
    found : Posterior
        Of fits that know nothing of the literature.
    space : LabelSpace
    fit_error : (float, float)
        Errors of Teff (K) and [M/H] that fits have beside those that they state.
    """
    columns = [space.index(name) for name in MATCHED_LABELS]
    width = np.subtract(space.upper, space.lower)
    covariance = np.array(found.covariance, np.float64)
    covariance[:, columns, columns] += (np.array(fit_error) / width[columns]) ** 2
    fitted = np.linalg.inv(covariance)
    precision = known.precision + fitted
    pull = np.einsum("nij,nj->ni", known.precision, known.scaled)
    pull += np.einsum("nij,nj->ni", fitted, found.scaled)
    return StatedLabels(np.linalg.solve(precision, pull[:, :, None])[:, :, 0], precision)


def _start_model(
    emulator: ForwardModel, known: StatedLabels, config: SupervisedConfig, priors: tuple[Prior, ...]
) -> CorrectedModel:
    """Theory, nothing corrected yet, with features about the labels of the anchors."""
    space, n_pix = emulator.label_space, emulator.grid.n_pix
    columns = [space.index(name) for name in MATCHED_LABELS]
    width = np.subtract(space.upper, space.lower)[columns]
    middle = 0.5 * np.add(space.upper, space.lower)[columns]
    values = known.scaled[:, columns] * width + middle
    features = LabelFeatures(
        names=MATCHED_LABELS,
        centre=tuple(map(float, values.mean(axis=0))),
        scale=tuple(map(float, values.std(axis=0))),
        order=config.order,
    )
    return CorrectedModel(  # type: ignore[call-arg]
        base=emulator,
        correction=jnp.zeros((len(features.degrees), n_pix), jnp.float32),
        # As many as there will be, for one compiled program.
        nuisance=jnp.zeros((config.n_nuisance, n_pix), jnp.float32),
        model_error=emulator.model_error,
        features=features,
        label_priors=priors,
    )


def _learn_scatter(
    model: CorrectedModel, stars: StarSample, found: Posterior, config: SupervisedConfig
) -> CorrectedModel:
    """Directions in which anchors scatter about the model, and the error of its pixels beside."""
    residual_of = residuals_of(model, stars, found, without_nuisance=True)
    residual = np.concatenate([residual_of(chunk) for chunk in stars.chunks()])
    weight, ivar = (
        np.concatenate(parts)
        for parts in zip(*(stars.pixels(chunk, 1.0)[1:] for chunk in stars.chunks()), strict=True)
    )
    residual = np.clip(residual, -_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
    if config.n_nuisance:
        directions = learn_directions(residual, weight, config.n_nuisance)
        model = replace(model, nuisance=jnp.asarray(directions))  # type: ignore[type-var]
        residual = residual - _project(residual, weight, directions)
    n_term = len(model.features.degrees) + config.n_nuisance
    error = _measure_scatter(residual, ivar, n_term)
    centre = np.abs(np.asarray(model.predict_scaled(jnp.zeros(model.label_space.n_label))))
    least = np.asarray(model.base.model_error)
    error = np.maximum(error / np.maximum(centre, 0.1), least).astype(np.float32)
    return replace(model, model_error=jnp.asarray(error))  # type: ignore[type-var]


def _project(residual: np.ndarray, weight: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """What directions with amplitudes of variance 1 explain of residuals."""
    gram = np.einsum("np,kp,lp->nkl", weight, directions, directions, optimize=True)
    force = (weight * residual) @ directions.T
    amplitudes = np.linalg.solve(gram + np.eye(len(directions)), force[:, :, None])[:, :, 0]
    return amplitudes @ directions


def _measure_scatter(residual: np.ndarray, ivar: np.ndarray, n_term: int) -> np.ndarray:
    """One sigma of residuals beyond noise in each pixel, smoothed; 0 where nobody looked."""
    good = ivar > 0
    n_good = good.sum(axis=0)
    seen = n_good > n_term + 1
    size = np.where(good, np.abs(residual), np.nan)
    noise = np.where(good, 1 / np.where(good, ivar, 1), np.nan)
    variance = np.zeros(residual.shape[1])
    # Medians, for a few anchors are not what they are said to be.
    typical = 1.4826 * np.nanmedian(size[:, seen], axis=0)
    spared = n_good[seen] / (n_good[seen] - n_term)
    variance[seen] = spared * typical**2 - np.nanmedian(noise[:, seen], axis=0)
    window = np.ones(_SMOOTHED_PIXELS)
    weight = np.convolve(seen, window, mode="same")
    smooth = np.convolve(variance, window, mode="same") / np.maximum(weight, 1)
    return np.where(seen, np.sqrt(np.maximum(smooth, 0)), 0)


def _require_anchors(
    emulator: ForwardModel,
    observed: ObservedDomain,
    known: StatedLabels,
    config: SupervisedConfig,
    rows: np.ndarray,
) -> None:
    emulator.require_grid(observed.grid)
    missing = [name for name in MATCHED_LABELS if name not in emulator.label_space.names]
    if missing or emulator.low_rank() is None:
        raise MismatchError(
            f"a correction needs Teff, [M/H] and a linear head; this is a "
            f"{type(emulator).__name__} of {', '.join(emulator.label_space.names)}.",
            "train a Payne emulator with these labels.",
        )
    if len(known.scaled) != observed.n_spec:
        raise MismatchError(f"{observed.n_spec} spectra, but labels of {len(known.scaled)}.")
    n_term = 1 + 2 * (config.order >= 1) + 3 * (config.order >= 2)
    least = max(_ANCHORS_A_TERM * n_term, 5 * config.n_nuisance)
    if rows.size < least:
        raise MismatchError(
            f"{rows.size} anchors are too few for {n_term} terms and {config.n_nuisance} nuisance "
            "directions.",
            f"give at least {least}, or ask for a lower order.",
        )
