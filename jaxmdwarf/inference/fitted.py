"""What is known of spectra after their fit: labels, flags, and what was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, padded_rows
from jaxmdwarf.inference.results import FitResult

_OPTIONAL = (
    *("outlier_score", "n_clipped", "drift_kms", "e_drift"),
    *("likelihood_labels", "likelihood_errors"),
)
# Columns that are None where nothing was looked for.


class FittedFlux(NamedTuple):
    """Spectra as they were fitted, and the model at their labels and velocities.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Vacuum Angstrom in the frame of the fit, close to that of the star.
    flux, ivar : (n_spec, n_pix)
        Normalised, with errors as they were stated; ivar 0 where a pixel was left out.
    sigma : (n_spec, n_pix)
        One-sigma errors that the fit used, those of the model included; NaN where left out.
    model_flux : (n_spec, n_pix)
        Moved to the frame of the fit, and times the polynomial where one was fitted; NaN without
        labels.
    used : (n_spec, n_pix) bool
        Pixels that entered the fit.
    """

    wave_aa: Float[np.ndarray, n_pix]
    flux: Float[np.ndarray, "n_spec n_pix"]
    ivar: Float[np.ndarray, "n_spec n_pix"]
    sigma: Float[np.ndarray, "n_spec n_pix"]
    model_flux: Float[np.ndarray, "n_spec n_pix"]
    used: Bool[np.ndarray, "n_spec n_pix"]


@dataclass(frozen=True)
class FittedSpectra:
    """What is known of a list of spectra after the fit, row by row.

    Parameters
    ----------
    result : FitResult
        Labels, errors, covariance, velocities and chi-squares; numpy arrays.
    flags : (n_spec,) int32
        Those of the fit and those of the spectra.
    frame_kms : (n_spec,)
        Velocities that were taken out before the fit.
    label_names : tuple of str
        Columns of the labels.
    warnings : tuple of str
        What was asked for and could not be, one sentence each.
    problems : FitProblem, optional
        The problem of each row in its last frame, arrays on the host, where spectra were kept.
    outlier_score : (n_spec,), optional
        Largest of the distances from the stars that the model was trained on, each in units of its
        limit; NaN where there is no fit. None of models that know nothing of such stars.
    n_clipped : (n_spec,) int32, optional
        Pixels of the spectra as they were given that were left out as outliers.
    drift_kms, e_drift : (n_spec,), optional
        Drift of the wavelength scale at 6500 relative to 8400 Angstrom and its error, whether it
        was undone (`QualityFlag.WAVELENGTH_DRIFT`) or not; None where none was looked for.
    likelihood_labels, likelihood_errors : (n_spec, n_label), optional
        Labels of the spectra alone, without priors: `jaxmdwarf.inference.likelihood`.
    """

    result: FitResult
    flags: np.ndarray
    frame_kms: np.ndarray
    label_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    problems: FitProblem | None = None
    outlier_score: np.ndarray | None = None
    n_clipped: np.ndarray | None = None
    drift_kms: np.ndarray | None = None
    e_drift: np.ndarray | None = None
    likelihood_labels: np.ndarray | None = None
    likelihood_errors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.flags)

    def take(self, rows: np.ndarray) -> FittedSpectra:
        """Some rows, in the order in which they are named; a problem has at least one star."""
        keep = self.problems is not None and rows.size
        kept = self._optional_columns()
        optional: Any = {
            name: None if column is None else column[rows] for name, column in kept.items()
        }
        return replace(
            self,
            result=self.result.take(rows),
            flags=self.flags[rows],
            frame_kms=self.frame_kms[rows],
            problems=self.problems.take(rows) if keep else None,  # type: ignore[union-attr]
            **optional,
        )

    def _optional_columns(self) -> dict[str, np.ndarray | None]:
        return {name: getattr(self, name) for name in _OPTIONAL}

    def problem(self, rows: int | Sequence[int] | np.ndarray | None = None) -> FitProblem:
        """The problem whose solution some rows are: for landscapes, posteriors, other fits.

        Parameters
        ----------
        rows : int or sequence of int, optional
            All by default. `result.take` gives the same rows of the result.

        Raises
        ------
        UsageError
            If the spectra were not kept, or there is no such row.
        """
        if self.problems is None:
            raise UsageError(
                "the spectra of this fit were not kept.", "fit with keep_spectra=True."
            )
        kept = self.problems if rows is None else self.problems.take(rows)
        return kept.to_device()

    def spectra(self) -> FittedFlux:
        """Spectra and model flux, pixel by pixel; see `problem` for what is raised."""
        problem = self.problem()
        n_spec, n_pix = problem.n_spec, problem.batch.grid.n_pix
        known = np.asarray(np.isfinite(self.result.labels).all(axis=-1))
        parameters = np.array(problem.parameters_at(start_from(self.result, None)))
        padded = replace(problem, warnings=()).pad_to(padded_rows(n_spec))
        found = _predict(padded, parameters[np.arange(padded.n_spec) % n_spec])
        model_flux, weight = (np.asarray(part)[:n_spec, :n_pix] for part in found)
        used = weight > 0
        return FittedFlux(
            wave_aa=problem.batch.grid.wave_aa,
            flux=np.asarray(problem.batch.flux),
            ivar=np.asarray(problem.batch.ivar),
            sigma=np.where(used, 1 / np.sqrt(np.where(used, weight, 1)), np.nan),
            model_flux=np.where(known[:, None], model_flux, np.nan),
            used=used,
        )


def start_from(found: FitResult, otherwise: Start | None) -> Start:
    """Start where an earlier fit ended, and as otherwise where it found nothing."""
    known = np.isfinite(found.labels).all(axis=-1) & np.isfinite(found.residual_kms)
    if otherwise is None:
        return Start(np.nan_to_num(found.labels), np.nan_to_num(found.residual_kms))
    return Start(
        np.where(known[:, None], found.labels, otherwise.labels),
        np.where(known, found.residual_kms, otherwise.residual_kms),
    )


def join_fitted(parts: Sequence[FittedSpectra]) -> FittedSpectra:
    """One list of several."""
    first = parts[0]
    problems = None
    if first.problems is not None:
        problems = FitProblem.join([part.problems for part in parts if part.problems is not None])
    optional: Any = {
        name: None
        if getattr(first, name) is None
        else np.concatenate([getattr(part, name) for part in parts])
        for name in _OPTIONAL
    }
    return FittedSpectra(
        jax.tree.map(lambda *columns: np.concatenate(columns), *(part.result for part in parts)),
        np.concatenate([part.flags for part in parts]),
        np.concatenate([part.frame_kms for part in parts]),
        first.label_names,
        first.warnings,
        problems,
        **optional,
    )


@jax.jit
def _predict(problem: FitProblem, parameters):
    """Model flux in the frame of the data, the best polynomial included, and the weights."""
    objective = build_objective(problem)
    parameters = objective.settle_polynomial(parameters)
    return objective.predict(parameters), objective.weight
