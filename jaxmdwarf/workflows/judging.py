"""How far fitted models are from the spectra: residuals, and whether a classifier can tell them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.diagnostics.embedding import PairMap, tsne_pairs
from jaxmdwarf.diagnostics.noise import simulate_observation
from jaxmdwarf.diagnostics.residuals import ResidualSummary, summarise_residual
from jaxmdwarf.diagnostics.two_sample import ClassifierConfig, ClassifierScore, classifier_accuracy
from jaxmdwarf.io.spectra.readers import read_rows
from jaxmdwarf.labels import describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

if TYPE_CHECKING:
    import pandas as pd

CLIP_SIGMA = 10.0
"""Residuals beyond count as this many sigma, so that cosmic rays do not decide."""

CLASSIFIER_SNR = 10.0
"""S/N in r from which on spectra are shown to the classifier: below, all look like noise."""

_WINDOW_AA = (6000.0, 8900.0)
_ROWS_AT_ONCE = 512
_FEWEST_PAIRS = 10


@dataclass(frozen=True)
class FittedRows:
    """Observed spectra, each at rest by its own fit, and the models that were fitted to them.

    Parameters
    ----------
    observed : SpectrumBatch
        Pixels that are not fitted have ivar 0.
    model : (n, n_pix)
        Flux at the fitted labels.
    snr : (n,)
        In r.
    """

    observed: SpectrumBatch
    model: np.ndarray
    snr: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """What residuals and a classifier say of a model.

    Parameters
    ----------
    residual : ResidualSummary
    bright : ResidualSummary
        Of the stars with S/N above 20.
    classifier : ClassifierScore, optional
        On stars above `CLASSIFIER_SNR`; None if there are fewer than ten a fold.
    grid : PixelGrid
        Of the residuals per pixel.
    """

    residual: ResidualSummary
    bright: ResidualSummary
    classifier: ClassifierScore | None
    grid: PixelGrid

    @property
    def accuracy(self) -> float:
        """Of the classifier; NaN where there is none."""
        return float("nan") if self.classifier is None else self.classifier.accuracy


def predict_fitted(model: ForwardModel, rows: pd.DataFrame) -> FittedRows:
    """Spectra of catalogue rows and the flux that the model has at their labels.

    Parameters
    ----------
    model : ForwardModel
        The one that the catalogue was fitted with.
    rows : DataFrame
        Of a catalogue: path, spectrum, RV, the labels, SNRr.

    Returns
    -------
    FittedRows
    """
    preprocessing = model.preprocessing
    wave = model.grid.wave_aa
    outside = (wave < _WINDOW_AA[0]) | (wave > _WINDOW_AA[1])
    names = [describe_label(name).column for name in model.label_space.names]
    labels = rows[names].to_numpy(float)
    paths, rv_kms = rows["path"].tolist(), rows["RV"].to_numpy(float)
    indices = rows["spectrum"].tolist() if "spectrum" in rows else [0] * len(rows)
    parts, fluxes = [], []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        batch = preprocess_batch(
            read_rows(paths[some], indices[some]),
            model.grid,
            rv_kms=rv_kms[some],
            masks=preprocessing.masks_aa,
            sigma_aa=preprocessing.sigma_aa,
            pad_to=_ROWS_AT_ONCE,
            min_overlap=0.0,
        )
        size = len(paths[some])
        padded = np.resize(labels[some], (_ROWS_AT_ONCE, labels.shape[1]))
        flux = _predict(model, jnp.asarray(padded, jnp.float32), model.read_context(batch))
        fluxes.append(np.asarray(flux)[:size])
        values = [np.array(getattr(batch, name))[:size] for name in _ARRAYS]
        for weights in values[1:]:
            weights[:, outside] = 0.0
        parts.append(values)
    flux, ivar, known = (jnp.asarray(np.concatenate(part)) for part in zip(*parts, strict=True))
    observed = SpectrumBatch(flux, ivar, known, model.grid)
    return FittedRows(observed, np.concatenate(fluxes), rows["SNRr"].to_numpy(float))


_ARRAYS = ("flux", "ivar", "information")


@jax.jit
def _predict(model: ForwardModel, labels, context):
    return model.predict_scaled_batch(model.label_space.scale(labels), context)


def judge_fitted(fitted: FittedRows, *, settings: ClassifierConfig | None = None) -> Judgement:
    """Residuals and classifier of fitted spectra."""
    settings = settings or ClassifierConfig()
    observed = fitted.observed
    flux, ivar = np.asarray(observed.flux), np.asarray(observed.ivar)
    bright = fitted.snr > 20.0
    told = np.flatnonzero(fitted.snr > CLASSIFIER_SNR)
    enough = told.size >= 10 * settings.n_fold
    return Judgement(
        residual=summarise_residual(flux, fitted.model, ivar, clip=CLIP_SIGMA),
        bright=summarise_residual(
            flux[bright], fitted.model[bright], ivar[bright], clip=CLIP_SIGMA
        ),
        classifier=classifier_accuracy(fitted.model[told], _take(observed, told), config=settings)
        if enough
        else None,
        grid=observed.grid,
    )


def map_domains(fitted: FittedRows, *, n_pair: int = 300, seed: int = 0) -> PairMap | None:
    """Fitted models and the spectra they were fitted to on one plane (paper, figure 7).

    Parameters
    ----------
    fitted : FittedRows
    n_pair : int
        Pairs, the brightest: in faint spectra noise hides the domains.
    seed : int

    Returns
    -------
    PairMap or None
        None where there are fewer than ten pairs. Models get noise and gaps of their spectra, and
        gaps of both are filled alike, so that neither tells them apart.
    """
    bright = np.argsort(-np.nan_to_num(fitted.snr), kind="stable")[:n_pair]
    observed = _take(fitted.observed, bright)
    flux, ivar = np.asarray(observed.flux), np.asarray(observed.ivar)
    if len(flux) < _FEWEST_PAIRS:
        return None
    mock = simulate_observation(
        fitted.model[bright],
        ivar,
        np.random.default_rng(seed),
        information=np.asarray(observed.information),
        grid=observed.grid,
    )
    return tsne_pairs(mock, np.where(ivar > 0, flux, np.float32(1.0)), seed=seed)


def _take(batch: SpectrumBatch, rows: Sequence[int] | np.ndarray) -> SpectrumBatch:
    return SpectrumBatch(batch.flux[rows], batch.ivar[rows], batch.information[rows], batch.grid)
