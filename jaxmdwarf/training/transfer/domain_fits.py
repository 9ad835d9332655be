"""Fits of some spectra of an observed domain as a catalogue's are, and which of them are good."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.inference.likelihood import loosen_priors
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.models.corrected import CorrectedModel
from jaxmdwarf.quality import HARMFUL_FLAGS
from jaxmdwarf.training.transfer.domain import ObservedDomain


class DomainFits(NamedTuple):
    """Fits, one row a spectrum.

    Parameters
    ----------
    result : FitResult
    good : (n,)
        Whether no flag says not to trust them and all labels have errors.
    """

    result: FitResult
    good: Bool[np.ndarray, n]


def fit_domain(
    model: CorrectedModel,
    observed: ObservedDomain,
    rows: Int[np.ndarray, n],
    start: Float[np.ndarray, "n n_label"],
    *,
    frame_kms: Float[np.ndarray, n] | None = None,
    priors: bool = True,
) -> DomainFits:
    """Fit labels and velocity.

    Parameters
    ----------
    model : CorrectedModel
    observed : ObservedDomain
    rows : (n,) int
        Of the domain.
    start : (n, n_label)
        Labels to begin from, physical units.
    frame_kms : (n,), optional
        Velocities at which the spectra are at rest; 0 if left out.
    priors : bool
        Whether those of the model count; loosened they leave the programs as they are.
    """
    problem = FitProblem.from_batch(model, observed.batch(rows), frame_kms=frame_kms)
    if not priors:
        problem = replace(problem, priors=loosen_priors(problem.priors))
    result = fit(problem, start=Start(start, np.zeros(len(rows), np.float32)))
    good = (np.asarray(result.flags) & int(HARMFUL_FLAGS)) == 0
    return DomainFits(result, good & np.isfinite(result.errors).all(axis=-1))
