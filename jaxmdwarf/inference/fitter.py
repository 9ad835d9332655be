"""Raw spectra of any source to labels, velocities, errors and flags: the whole fit of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.inference.schedule import Start, centre_start, fit_stars
from jaxmdwarf.inference.settings import FitSettings
from jaxmdwarf.inference.shift import combine_velocities
from jaxmdwarf.inference.velocity import VelocityBank, bank_from_model, measure_velocity
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import require_prior_labels
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.masks import mask_for
from jaxmdwarf.preprocess.resample import require_overlap
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumBatch
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

if TYPE_CHECKING:
    pass

FAR_KMS = 25.0
"""A fitted velocity this far from the frame of the spectrum makes it worth another frame."""


@dataclass(frozen=True)
class FittingOptions:
    """How files are fitted.

    Parameters
    ----------
    velocity : {"fit", "header"}
        Measure velocities, or take those of the headers.
    min_snr : float
        Spectra with a lower S/N in r or i are rejected.
    window_aa : (float, float)
        Rest wavelengths that are fitted, vacuum Angstrom. The model may reach further: its ends
        then serve the continuum and the Doppler shifts.
    chunk_size : int
        Files that are read, fitted and written together; what a killed run loses at most.
    settings : FitSettings
        Of the fit itself.
    domain : {"both", "observed", "synthetic"}
        Where a model that transfers spectra is fitted (paper, section 3.5): "synthetic" carries
        the observed spectra to the domain of the theory and fits them there, "observed" carries
        theory to the observed spectra, "both" starts the second from the labels of the first.
        Models that transfer nothing know the observed domain alone.
    priors : {"model", "none"}
        Whether the priors of the model itself are added to those of `settings`.
    """

    velocity: Literal["fit", "header"] = "fit"
    min_snr: float = 0.0
    window_aa: tuple[float, float] = (6000.0, 8900.0)
    chunk_size: int = 1024
    settings: FitSettings = field(default_factory=FitSettings)
    domain: Literal["both", "observed", "synthetic"] = "both"
    priors: Literal["model", "none"] = "model"

    def __post_init__(self) -> None:
        for name, choices in (
            ("velocity", ("fit", "header")),
            ("domain", ("both", "observed", "synthetic")),
            ("priors", ("model", "none")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} is unknown.",
                    f"use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}.",
                )
        if self.chunk_size < 1:
            raise UsageError(f"chunk_size {self.chunk_size} is below 1.")


@dataclass(frozen=True)
class FittedSpectra:
    """What is known of a list of spectra after the fit, row by row.

    Parameters
    ----------
    result : FitResult
        numpy arrays.
    flags : (n_spec,) int32
        Those of the fit and those of the spectra.
    frame_kms : (n_spec,)
        Velocities that were taken out before the fit.
    label_names : tuple of str
        Columns of the labels.
    """

    result: FitResult
    flags: np.ndarray
    frame_kms: np.ndarray
    label_names: tuple[str, ...]


class SpectrumFitter:
    """Raw spectra to labels: velocity, rest frame, joint fit, another frame where one is needed.

    Parameters
    ----------
    model : ForwardModel
        Trained on spectra that were normalised; what was done to them is done to the observed.
    options : FittingOptions, optional

    Raises
    ------
    UsageError
        If the model was trained on spectra that were not normalised, or cannot be fitted in the
        domain that the options name.
    """

    def __init__(self, model: ForwardModel, options: FittingOptions | None = None) -> None:
        self.model = model
        self.options = options or FittingOptions()
        self.preprocessing: Preprocessing = model.preprocessing
        if self.preprocessing.sigma_aa is None:
            raise UsageError(
                "the model was trained on spectra that were not normalised.",
                "train it on a normalised grid.",
            )
        settings = self.options.settings
        known = model.priors() if self.options.priors == "model" else ()
        self.settings = replace(
            settings,
            fit_velocity=self.options.velocity == "fit",
            continuum_sigma_aa=self.preprocessing.sigma_aa,
            priors=(*settings.priors, *known),
        )
        require_prior_labels(self.settings.priors, model.label_space)
        self._bank: VelocityBank | None = None
        wave, (low, high) = self.grid.wave_aa, self.options.window_aa
        self._outside = (wave < low) | (wave > high)
        masked = self._outside | mask_for(self.grid, self.preprocessing.masks_aa)
        self._n_unmasked = int(np.count_nonzero(~masked))
        if not self._n_unmasked:
            raise UsageError(
                f"the model covers {wave[0]:.0f}-{wave[-1]:.0f} Angstrom, nothing of {low:.0f}-"
                f"{high:.0f} that is not masked.",
                "give another window_aa, or another model.",
            )

    @property
    def grid(self) -> PixelGrid:
        """Pixels that spectra are put on: those of the model."""
        return self.model.grid

    def require(self, raw: RawSpectrum) -> None:
        """Raise `RejectedInput` for a spectrum that this fit cannot use."""
        require_overlap(raw, self.grid)
        lowest = np.nanmin([raw.meta.snr_r, raw.meta.snr_i, np.inf])
        if lowest < self.options.min_snr:
            raise RejectedInput(
                f"S/N {lowest:.1f} is below {self.options.min_snr:g}.",
                "lower the limit to fit it all the same.",
            )

    def fit(self, raws: Sequence[RawSpectrum], *, pad_to: int | None = None) -> FittedSpectra:
        """Fit spectra; `pad_to` rows keep one compiled shape over many calls."""
        n_spec, n_row = len(raws), pad_to or len(raws)
        frame, start_labels, flags = self._first_velocities(raws, n_row)
        batch = self._preprocess(raws, frame, n_row)
        start = None
        if start_labels is not None:
            start = Start(_pad(start_labels, n_row), np.zeros(n_row, np.float32))
        result = self._fit_domains(batch, start, _pad(frame, n_row))
        result = FitResult(*(np.array(column[:n_spec]) for column in result))
        if self.settings.fit_velocity:
            for _ in range(2):
                far = np.flatnonzero(np.abs(result.residual_kms) > FAR_KMS)
                if not far.size:
                    break
                self._fit_in_new_frame(raws, far, result, frame, n_row)
        flags |= result.flags
        few = (result.n_pix > 0) & (2 * result.n_pix < self._n_unmasked)
        flags[few] |= int(QualityFlag.FEW_PIXELS)
        return FittedSpectra(result, flags, frame, self.model.label_space.names)

    def _fit_domains(
        self, batch: SpectrumBatch, start: Start | None, frame: np.ndarray
    ) -> FitResult:
        """Fit in the domains that the options name, the synthetic one first."""
        if self.options.domain != "observed":
            carried = self.model.to_synthetic(batch)
            if carried is None and self.options.domain == "synthetic":
                raise UsageError(
                    "this model transfers no spectra to the synthetic domain.",
                    "fit in the observed domain, or use a model that does.",
                )
            if carried is not None:
                theory, spectra = carried
                first = fit_stars(
                    theory, spectra, start=start, frame_kms=frame, settings=self.settings
                )
                if self.options.domain == "synthetic":
                    return first
                start = _start_from(first, start or centre_start(self.model, batch.n_spec))
        return fit_stars(
            self.model,
            batch,
            start=start,
            frame_kms=frame,
            context=self.model.read_context(batch),
            settings=self.settings,
        )

    def _preprocess(self, raws, frame, n_row):
        batch = preprocess_batch(
            raws,
            self.grid,
            rv_kms=frame,
            masks=self.preprocessing.masks_aa,
            sigma_aa=self.preprocessing.sigma_aa,
            pad_to=n_row,
            min_overlap=0.0,
        )
        # A model that has learned from the spectra knows by how much their errors fall short.
        return _leave_out(batch, self._outside, self.model.noise_model().scale)

    def _first_velocities(self, raws, n_row):
        """Frames to fit in, labels to start from, and what is to be said of them."""
        header = np.array([raw.meta.z * SPEED_OF_LIGHT_KMS for raw in raws])
        known = np.isfinite(header)
        flags = np.zeros(len(raws), np.int32)
        if self.options.velocity == "header":
            flags[~known] |= int(QualityFlag.NO_HEADER_VELOCITY)
            return np.where(known, header, 0.0), None, flags
        if self._bank is None:
            self._bank = bank_from_model(self.model, self.grid)
        observed = self._preprocess(raws, np.zeros(len(raws)), n_row)
        coarse = measure_velocity(observed, self._bank)
        coarse = jax.tree.map(lambda column: np.asarray(column)[: len(raws)], coarse)
        measured = np.asarray(coarse.rv_kms, np.float64)
        at_edge = (coarse.flags & int(QualityFlag.VELOCITY_AT_EDGE)) > 0
        lost = ~np.isfinite(measured) | at_edge
        flags |= coarse.flags & int(QualityFlag.VELOCITY_AT_EDGE | QualityFlag.MULTIPLE_MINIMA)
        flags[lost & known] |= int(QualityFlag.FALLBACK_VELOCITY)
        frame = np.where(lost, np.where(known, header, 0.0), measured)
        space = self.model.label_space
        centre = np.mean([space.lower, space.upper], axis=0)
        labels = np.where(np.isfinite(coarse.labels), coarse.labels, centre)
        return frame, labels, flags

    def _fit_in_new_frame(self, raws, far, result, frame, n_row) -> None:
        """Fit the stars `far` again where they were found to be, in place."""
        frame[far] = combine_velocities(frame[far], result.residual_kms[far].astype(np.float64))
        batch = self._preprocess([raws[i] for i in far], frame[far], n_row)
        start = Start(_pad(result.labels[far], n_row), np.zeros(n_row, np.float32))
        again = self._fit_domains(batch, start, _pad(frame[far], n_row))
        for column, values in zip(result, again, strict=True):
            column[far] = values[: far.size]


@jax.jit
def _leave_out(batch: SpectrumBatch, pixels, noise_scale) -> SpectrumBatch:
    """Pixels that have done their duty in the continuum, out of the fit; errors made larger."""
    ivar, information = (
        jnp.where(pixels, 0, values) / noise_scale**2 for values in (batch.ivar, batch.information)
    )
    return SpectrumBatch(batch.flux, ivar, information, batch.grid)


def _start_from(found: FitResult, otherwise: Start) -> Start:
    """Start where an earlier fit ended, and as before where it found nothing."""
    known = np.isfinite(found.labels).all(axis=-1) & np.isfinite(found.residual_kms)
    return Start(
        np.where(known[:, None], found.labels, otherwise.labels),
        np.where(known, found.residual_kms, otherwise.residual_kms),
    )


def _pad(values: np.ndarray, n_row: int) -> np.ndarray:
    """Rows repeated up to `n_row`; what padding holds is never fitted."""
    return np.asarray(values)[np.arange(n_row) % len(values)]
