"""How well labels of anchors come out of a transfer that was not told them: cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.diagnostics.recovery import measure_pulls, measure_recovery
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.training.transfer.anchors import KnownLabels
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.domain_fits import fit_domain
from jaxmdwarf.training.transfer.label_errors import LEAST_STARS, spread_label_errors
from jaxmdwarf.training.transfer.label_matching import MATCHED_LABELS


class HeldOutAnchors(NamedTuple):
    """Anchors as transfers fit them that were not told their labels.

    Parameters
    ----------
    labels, errors : (k, n_label)
        Of the fits, physical units; NaN where a fit failed or is flagged.
    covariance : (k, n_parameter, n_parameter)
    known, e_known : (k, n_label)
        The anchors' own; NaN where there is none.
    share : (k,)
        One over the number of anchored spectra of the star.
    """

    labels: Float[np.ndarray, "k n_label"]
    errors: Float[np.ndarray, "k n_label"]
    covariance: Float[np.ndarray, "k n_parameter n_parameter"]
    known: Float[np.ndarray, "k n_label"]
    e_known: Float[np.ndarray, "k n_label"]
    share: Float[np.ndarray, k]

    def describe(self, space: LabelSpace) -> dict[str, dict[str, int | float]]:
        """Bias, robust scatter and pulls of each label that anchors have, plain numbers."""
        found: dict[str, dict[str, int | float]] = {}
        for column, name in enumerate(space.names):
            away = self.labels[:, column] - self.known[:, column]
            if not np.isfinite(away).any():
                continue
            recovery = measure_recovery(away)
            pulls = measure_pulls(away, np.hypot(self.errors[:, column], self.e_known[:, column]))
            found[name] = {
                "n": recovery.n,
                "bias": recovery.bias,
                "e_bias": recovery.e_bias,
                "scatter": recovery.scatter,
                "pull_mean": pulls.mean,
                "pull_width": pulls.width,
            }
        return found

    def find_label_errors(self, space: LabelSpace) -> Float[Array, "n_label n_label"] | None:
        """Covariance of what scaled labels are off by beyond their errors.

        None where fewer than `jaxmdwarf.training.transfer.label_errors.LEAST_STARS` anchors tell.
        """
        columns = [space.index(name) for name in MATCHED_LABELS]
        away = (self.labels - self.known)[:, columns]
        good = np.isfinite(self.labels).all(axis=1)
        if np.count_nonzero(good & np.isfinite(away).any(axis=1)) < LEAST_STARS:
            return None
        error = np.hypot(self.errors, self.e_known)[:, columns]
        return spread_label_errors(
            space, self.covariance[good], away[good], error[good], self.share[good]
        )


def judge_anchors(
    best: CorrectedModel,
    learn: Callable[[KnownLabels], CorrectedModel],
    known: KnownLabels,
    observed: ObservedDomain,
    rows: np.ndarray,
    start: Float[np.ndarray, "n n_label"],
    n_fold: int,
) -> tuple[CorrectedModel, dict[str, Any]]:
    """The model with the label errors that held-out anchors tell of, and plain numbers.

    Parameters
    ----------
    best : CorrectedModel
        Learned with all anchors.
    learn, known, observed, rows, start
        As in `hold_out_anchors`.
    n_fold : int
        At most; 0 for none.
    """
    told: dict[str, Any] = {"n_spectra": int(known.anchored.sum()), "n_stars": known.n_star}
    if not n_fold:
        return best, told
    space, n_fold = best.label_space, min(n_fold, known.n_star)
    held_out = hold_out_anchors(
        learn, known, observed, rows, start, n_fold=n_fold, uncertainty=best.uncertainty
    )
    error = held_out.find_label_errors(space)
    best = replace(best, label_error=error)  # type: ignore[type-var]
    return best, {**told, "n_fold": n_fold, "held_out": held_out.describe(space)}


def hold_out_anchors(
    learn: Callable[[KnownLabels], CorrectedModel],
    known: KnownLabels,
    observed: ObservedDomain,
    rows: np.ndarray,
    start: Float[np.ndarray, "n n_label"],
    *,
    n_fold: int,
    uncertainty: Any = None,
    seed: int = 0,
) -> HeldOutAnchors:
    """Learn again, a part of the anchors' stars at a time being unlabelled, and fit these.

    Spectra of the stars that are held out are learned from as those of unlabelled stars are.

    Parameters
    ----------
    learn : callable
        A model from what is known.
    known : KnownLabels
    observed : ObservedDomain
    rows : (n,) int
        Of the domain: the spectra that `known` is of.
    start : (n, n_label)
        Labels to begin fits from, physical units.
    n_fold : int
        Parts; with as many as there are stars, each is left out on its own.
    uncertainty : (m, n_feature, n_pix), optional
        Of the correction that was learned from all anchors; it is taken for that of the others.
    seed : int
        Of the folds.
    """
    anchored = np.flatnonzero(known.anchored)
    stars, number = np.unique(known.star[anchored], return_inverse=True)
    fold = np.random.default_rng(seed).permutation(stars.size)[number.reshape(-1)] % n_fold
    parts = []
    for one in range(n_fold):
        held = anchored[fold == one]
        model = learn(known.forget(held))
        model = replace(model, uncertainty=uncertainty)  # type: ignore[type-var]
        found, good = fit_domain(model, observed, rows[held], start[held])
        labels = np.where(good[:, None], np.asarray(found.labels, np.float64), np.nan)
        space = model.label_space
        width = np.subtract(space.upper, space.lower)
        truth = space.unscale(known.scaled[held])
        parts.append(
            HeldOutAnchors(
                labels,
                np.asarray(found.errors, np.float64)[:, : space.n_label],
                np.asarray(found.covariance, np.float64),
                truth,
                np.where(np.isfinite(truth), known.sigma[held] * width, np.nan),
                known.share[held],
            )
        )
    return HeldOutAnchors(*(np.concatenate(column) for column in zip(*parts, strict=True)))
