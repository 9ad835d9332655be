"""Labels of the likelihood alone: where a star would be if the priors said nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.models.priors import Prior

_LOOSER = 1e4
"""Priors this much wider say nothing, and the programs are those of the priors themselves."""


class LikelihoodLabels(NamedTuple):
    """Labels and one-sigma errors of the likelihood alone, physical units.

    Parameters
    ----------
    labels, errors : (n_spec, n_label)
        NaN where the spectrum alone leads nowhere: where the descent does not end. Labels stay
        within the model; at a bound, errors are those of the curvature there.
    """

    labels: np.ndarray
    errors: np.ndarray


def loosen_priors(priors: Sequence[Prior]) -> tuple[Prior, ...]:
    """The same priors, so wide that they say nothing."""
    return tuple(
        eqx.tree_at(lambda one: one.sigma, prior, prior.sigma * _LOOSER) for prior in priors
    )


def fit_likelihood(
    problem: FitProblem,
    found: FitResult,
    *,
    solver: Solver,
    schedule: FitScheduleConfig,
    only: Bool[np.ndarray, n] | None = None,
) -> LikelihoodLabels:
    """Descend from where a fit ended, without its priors.

    No other minimum is looked for: it is the one of the fit, seen by the spectrum alone.

    Parameters
    ----------
    problem : FitProblem
        May have more rows than were fitted: padding.
    found : FitResult
        Of its first rows.
    solver, schedule
        Those of the fit.
    only : (n,) bool, optional
        Rows of `found` that are asked for; the others come back as NaN.

    Returns
    -------
    LikelihoodLabels
        One row for each of `found`. Without priors these are the labels of the fit.
    """
    n_spec = len(found.flags)
    labels, errors = np.asarray(found.labels), np.asarray(found.errors)
    only = np.ones(n_spec, bool) if only is None else only
    if not problem.priors:
        return LikelihoodLabels(
            *(np.where(only[:, None], known, np.nan) for known in (labels, errors))
        )
    rows = np.arange(problem.n_spec) % n_spec
    start = Start(np.nan_to_num(labels)[rows], np.nan_to_num(found.residual_kms)[rows])
    alone = fit(
        replace(problem, priors=loosen_priors(problem.priors)),
        start=start,
        solver=solver,
        schedule=replace(schedule, restarts=0, secondary_distance=None),
        only=np.pad(only, (0, problem.n_spec - n_spec)),
    ).take(slice(n_spec))
    known = (alone.converged & np.isfinite(labels).all(axis=1))[:, None]
    return LikelihoodLabels(
        np.where(known, alone.labels, np.nan), np.where(known, alone.errors, np.nan)
    )
