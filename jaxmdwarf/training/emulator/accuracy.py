"""How well an emulator gives back its grid (paper, eq. 1), over spectra, labels and pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.training.emulator.data import TrainingSet
from jaxmdwarf.training.emulator.loop import TrainingState, stopped_early
from jaxmdwarf.training.losses import reconstruction_error

_EVALUATION_ROWS = 512


@dataclass(frozen=True)
class EmulatorReport:
    """How well an emulator gives back its grid (paper, eq. 1; fractions, not per cent).

    Parameters
    ----------
    error : (n,)
        Eq. 1 of every spectrum of the grid, over the pixels that count.
    held_out : (n,) bool
        Spectra that the network did not learn from. They did choose the step it was taken at.
    truncation : (n,)
        Eq. 1 of the linear head alone, with the best coefficients: what no training can better.
    steps, best_step : int
        Steps taken, and the step whose parameters were kept.
    stopped_early : bool
        Whether patience ran out before the steps did.
    """

    error: Float[np.ndarray, "n"]
    held_out: Bool[np.ndarray, "n"]
    truncation: Float[np.ndarray, "n"]
    steps: int
    best_step: int
    stopped_early: bool

    def metrics(self) -> dict[str, float | int | bool]:
        """Plain numbers under stable names; eq. 1 without a prefix is that of held-out spectra."""
        held, learned = self.error[self.held_out], self.error[~self.held_out]
        return {
            "eq1_median": float(np.median(held)),
            "eq1_p95": float(np.percentile(held, 95)),
            "eq1_max": float(held.max()),
            "train_eq1_median": float(np.median(learned)),
            "train_eq1_p95": float(np.percentile(learned, 95)),
            "head_eq1_p95": float(np.percentile(self.truncation[self.held_out], 95)),
            "n_train": int(learned.size),
            "n_held_out": int(held.size),
            "steps": self.steps,
            "best_step": self.best_step,
            "stopped_early": self.stopped_early,
        }


class TrainedEmulator(NamedTuple):
    """An emulator and how good it is."""

    emulator: PayneEmulator
    report: EmulatorReport


def reconstruct(
    emulator: PayneEmulator, labels: Float[np.ndarray, "n n_label"]
) -> Float[np.ndarray, "n n_pix"]:
    """Spectra at rows of physical labels, on the host; a few hundred rows at a time.

    Parameters
    ----------
    emulator : PayneEmulator
    labels : (n, n_label)
        Physical.
    """
    scaled = emulator.label_space.scale(np.asarray(labels, dtype=np.float64))
    scaled = scaled.astype(emulator.mean.dtype)
    chunks = np.array_split(scaled, max(1, math.ceil(len(scaled) / _EVALUATION_ROWS)))
    return np.concatenate([_predict(emulator, chunk) for chunk in chunks])


def accuracy_over_labels(
    labels: Float[np.ndarray, "n n_label"],
    error: Float[np.ndarray, "n"],
    names: Sequence[str],
    *,
    n_bin: int = 5,
) -> list[dict[str, str | float | int]]:
    """Eq. 1 in equal slices of each label: one row a slice, with label, low, high, n, median, p95.

    Parameters
    ----------
    labels : (n, n_label)
    error : (n,)
        Eq. 1 of each spectrum.
    names : sequence of str
        Of the labels.
    n_bin : int
        Slices of each label.

    Examples
    --------
    >>> rows = accuracy_over_labels(
    ...     np.array([[0.0], [1.0]]), np.array([0.1, 0.3]), ["mh"], n_bin=2
    ... )
    >>> rows[1] == {"label": "mh", "low": 0.5, "high": 1.0, "n": 1, "median": 0.3, "p95": 0.3}
    True
    """
    rows: list[dict[str, str | float | int]] = []
    for name, values in zip(names, np.asarray(labels).T, strict=True):
        edges = np.linspace(values.min(), values.max(), n_bin + 1)
        slot = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_bin - 1)
        for index in range(n_bin):
            inside = error[slot == index]
            rows.append(
                {
                    "label": name,
                    "low": float(edges[index]),
                    "high": float(edges[index + 1]),
                    "n": int(inside.size),
                    "median": float(np.median(inside)) if inside.size else math.nan,
                    "p95": float(np.percentile(inside, 95)) if inside.size else math.nan,
                }
            )
    return rows


def measure_accuracy(
    emulator: PayneEmulator,
    training_set: TrainingSet,
    config: EmulatorConfig,
    state: TrainingState,
    *,
    labels: Float[np.ndarray, "n n_label"],
    flux: Float[np.ndarray, "n n_pix"],
    good: Bool[np.ndarray, "n_pix"] | None = None,
) -> TrainedEmulator:
    """Eq. 1 of every spectrum, and the emulator with its error per pixel filled in.

    The error of a pixel is the 68.3th percentile of its absolute fractional residuals over the
    held-out spectra: a one-sigma error that a few spectra at the corners of the grid do not rule.

    Parameters
    ----------
    emulator : PayneEmulator
        Of the parameters that were kept.
    training_set : TrainingSet
    config : EmulatorConfig
    state : TrainingState
    labels, flux : (n, n_label), (n, n_pix)
        The whole grid, normalised.
    good : (n_pix,) bool, optional
        Pixels that count in eq. 1; all by default.
    """
    recon = reconstruct(emulator, labels)
    held_out = np.zeros(len(flux), dtype=bool)
    held_out[training_set.held_rows] = True
    residual = np.abs(flux[held_out] - recon[held_out]) / flux[held_out]
    model_error = np.percentile(residual, 68.27, axis=0)
    mean, basis = np.asarray(training_set.mean), np.asarray(training_set.basis)
    truncated = mean + ((flux - mean) @ basis.T) @ basis
    report = EmulatorReport(
        error=np.asarray(reconstruction_error(flux, recon, good)),
        held_out=held_out,
        truncation=np.asarray(reconstruction_error(flux, truncated, good)),
        steps=int(state.step),
        best_step=int(state.best_step),
        stopped_early=stopped_early(state, config) and int(state.step) < config.schedule.steps,
    )
    # Equinox modules are dataclasses, and replace runs their checks again.
    judged = replace(emulator, model_error=jnp.asarray(model_error, dtype=emulator.mean.dtype))
    return TrainedEmulator(judged, report)


def _predict(emulator: PayneEmulator, scaled: np.ndarray) -> np.ndarray:
    return np.asarray(_predict_on_device(emulator, jnp.asarray(scaled)))


@eqx.filter_jit
def _predict_on_device(emulator: PayneEmulator, scaled):
    return emulator.predict_scaled_batch(scaled)
