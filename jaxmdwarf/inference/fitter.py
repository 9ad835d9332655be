"""Raw spectra of any source to labels, velocities, errors and flags: the whole fit of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.errors import MismatchError, RejectedInput, UsageError
from jaxmdwarf.inference.clipping import find_outlier_pixels, leave_out_pixels
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.drift import (
    Drift,
    blank_drift,
    can_drift,
    find_drifting,
    measure_drift,
    undo_drift,
)
from jaxmdwarf.inference.fitted import FittedSpectra, join_fitted, start_from
from jaxmdwarf.inference.likelihood import LikelihoodLabels, fit_likelihood
from jaxmdwarf.inference.objective import scale_errors
from jaxmdwarf.inference.outliers import measure_distances
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem, FixedLabels, padded_rows
from jaxmdwarf.inference.results import FitResult, put_rows
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.shift import combine_velocities
from jaxmdwarf.inference.solvers.by_name import find_solver
from jaxmdwarf.inference.stages import Stages
from jaxmdwarf.inference.velocity import VelocityBank, bank_from_model, measure_velocity
from jaxmdwarf.measure.snr import find_snr
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import choose_priors
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.masks import mask_for
from jaxmdwarf.preprocess.resample import require_overlap
from jaxmdwarf.preprocess.spikes import leave_out_impossible
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumBatch
from jaxmdwarf.wavelengths import (
    FASTEST_STAR_KMS,
    SPEED_OF_LIGHT_KMS,
    PixelGrid,
    doppler_factor,
)

FAR_KMS = 25.0
"""A fitted velocity this far from the frame of the spectrum makes it worth another frame."""

HEADER_TOLERANCE_KMS = 50.0
"""Velocities of header and fit that differ by more, and by more than five errors, are told: survey
pipelines are right to 10-20 km/s, and air wavelengths that are taken for vacuum move by 80."""

_MOST_FRAMES, _MOST_CLIPS, _MOST_DRIFTS = 2, 2, 3
_SAME_DRIFT_KMS = 2.0
_REFIT_ROWS = 64


class Fitter:
    """Raw spectra to labels: velocity, rest frame, joint fit, another frame where one is needed.

    Parameters
    ----------
    model : ForwardModel
        Trained on spectra that were normalised; what was done to them is done to the observed.
    config : FitConfig, optional

    Attributes
    ----------
    warnings : tuple of str
        What the configuration asks for and the model cannot give, such as a prior on a label
        that it does not have.
    stages : Stages
        Is told what is being done.

    Raises
    ------
    UsageError
        If the model was trained on spectra that were not normalised, transfers nothing to the
        domain that is asked for, a prior or a fixed label is unknown, or no pixel is left to fit.
    """

    def __init__(self, model: ForwardModel, config: FitConfig | None = None) -> None:
        self.model = model
        self.config = config or FitConfig()
        self.preprocessing: Preprocessing = model.preprocessing
        if self.preprocessing.sigma_aa is None:
            raise UsageError(
                "the model was trained on spectra that were not normalised.",
                "train it on a normalised grid.",
            )
        self._solver = find_solver(self.config.solver)
        space = model.label_space
        self._priors = choose_priors(self.config.priors, model.priors(), space)
        self.warnings = self._priors.warnings
        for name, value in self.config.fixed.items():
            space.require_label_inside(name, np.asarray(value))
        stays = type(model).to_synthetic is ForwardModel.to_synthetic
        if self.config.domain == "synthetic" and stays:
            raise _no_synthetic_domain()
        self._noise = model.noise_model()
        # What is not asked in a compiled program needs no place among its arguments.
        self._population = model.population
        self._fitted = model if model.population is None else model.with_population(None)
        self._bank: VelocityBank | None = None
        self.stages = Stages()
        wave, (low, high) = self.grid.wave_aa, self.config.window_aa
        self._outside = (wave < low) | (wave > high)
        masked = self._outside | mask_for(self.grid, self.preprocessing.masks_aa)
        self._n_unmasked = int(np.count_nonzero(~masked))
        if not self._n_unmasked:
            raise UsageError(
                f"the model covers {wave[0]:.0f}-{wave[-1]:.0f} Angstrom, nothing of {low:.0f}-"
                f"{high:.0f} that is not masked.",
                "give another --window-aa (window_aa in Python), or another model.",
            )

    @property
    def grid(self) -> PixelGrid:
        """Pixels that spectra are put on: those of the model."""
        return self.model.grid

    def require(self, raw: RawSpectrum) -> None:
        """Raise `RejectedInput` for a spectrum that this fit cannot use."""
        require_overlap(raw, self.grid)
        lowest = np.nanmin([find_snr(raw, "r"), find_snr(raw, "i"), np.inf])
        if lowest < self.config.min_snr:
            raise RejectedInput(
                f"S/N {lowest:.3g} is below {self.config.min_snr:g}.",
                "lower --min-snr (min_snr in Python) to fit it all the same.",
            )

    def fit(
        self,
        raws: Sequence[RawSpectrum],
        *,
        fixed: FixedLabels | None = None,
        keep_spectra: bool = False,
        pad_to: int | None = None,
    ) -> FittedSpectra:
        """Fit any number of spectra, `config.chunk_size` at a time.

        Parameters
        ----------
        raws : sequence of RawSpectrum
        fixed : mapping of str to float or (n_spec,), optional
            Labels that are held, beside those of the configuration.
        keep_spectra : bool
            Whether what was fitted stays in memory, 40 kB a spectrum, for `FittedSpectra.problem`
            and `FittedSpectra.spectra`.
        pad_to : int, optional
            Rows of the arrays of each chunk. Without it, lists of similar lengths share one shape
            and so one compiled program; a run of many calls keeps to one shape with it.

        Returns
        -------
        FittedSpectra

        Raises
        ------
        UsageError
            If there is no spectrum, or a fixed label is unknown or outside the model.
        """
        n_spec, size = len(raws), self.config.chunk_size
        if not n_spec:
            raise UsageError("no spectrum was given to fit.", "give at least one.")
        held = _spread_fixed({**self.config.fixed, **(fixed or {})}, n_spec)
        n_row = pad_to or (size if n_spec > size else padded_rows(n_spec))
        parts = []
        for first in range(0, n_spec, max(min(size, n_row), 1)):
            some = slice(first, first + min(size, n_row))
            own = {name: values[some] for name, values in held.items()}
            parts.append(self._fit_chunk(raws[some], own, n_row, keep_spectra=keep_spectra))
        return parts[0] if len(parts) == 1 else join_fitted(parts)

    def _fit_chunk(
        self,
        raws: Sequence[RawSpectrum],
        fixed: dict[str, np.ndarray],
        n_row: int,
        *,
        keep_spectra: bool,
    ) -> FittedSpectra:
        """Fit spectra in arrays of `n_row` rows."""
        n_spec, given = len(raws), raws
        if self._clipping:
            raws = [leave_out_impossible(raw, sigma=self.config.clip_sigma) for raw in raws]
        with self.stages.stage("first velocities"):
            frame, start_labels, flags = self._first_velocities(raws, n_row)
        start = None
        if start_labels is not None:
            start = Start(_pad(start_labels, n_row), np.zeros(n_row, np.float32))
        problem = self._build_problem(raws, frame, fixed, n_row)
        with self.stages.stage("fits"):
            solved = self._fit_domains(problem, start, self.config.schedule)
        result = FitResult(*(np.array(column[:n_spec]) for column in solved))
        with self.stages.stage("fits again"):
            raws, looks, scales = self._fit_again(raws, problem, result, frame, fixed)
        flags |= result.flags | self._compare_headers(given, result)
        if scales is not None:
            flags[scales.undone] |= int(QualityFlag.WAVELENGTH_DRIFT)
        with self.stages.stage("distances from the training stars"):
            score = self._score_outliers(looks, result)
        if score is not None:
            flags[score > 1] |= int(QualityFlag.OUT_OF_DOMAIN)
        with self.stages.stage("fits without priors"):
            alone = self._fit_likelihood(looks, result)
        few = (result.n_pix > 0) & (2 * result.n_pix < self._n_unmasked)
        flags[few] |= int(QualityFlag.FEW_PIXELS)
        n_clipped = _count_clipped(given, raws)
        flags[n_clipped > 0] |= int(QualityFlag.OUTLIERS_CLIPPED)
        if keep_spectra and len(looks) > 1:
            problem = self._build_problem(raws, frame, fixed, n_row)
        kept = self._keep(problem, n_spec) if keep_spectra else None
        names = self.model.label_space.names
        return FittedSpectra(
            result,
            flags,
            frame,
            names,
            self.warnings,
            kept,
            score,
            n_clipped,
            None if scales is None else scales.drift.size_kms,
            None if scales is None else scales.drift.e_size,
            *((None, None) if alone is None else alone),
        )

    @property
    def _clipping(self) -> bool:
        # What a network has carried to another domain shows no single pixels.
        return self.config.clip_sigma > 0 and self.config.domain != "synthetic"

    @property
    def _follows_drifts(self) -> bool:
        config, wave = self.config, self.grid.wave_aa[~self._outside]
        wanted = config.wavelength_drift and config.domain != "synthetic"
        return wanted and config.fit_velocity and can_drift(wave)

    def _compare_headers(self, raws: Sequence[RawSpectrum], result: FitResult) -> np.ndarray:
        """Flags of stars whose velocity is not that of their headers."""
        header = np.array([raw.meta.z * SPEED_OF_LIGHT_KMS for raw in raws])
        flags = np.zeros(len(raws), np.int32)
        if self.config.fit_velocity:
            limit = np.maximum(HEADER_TOLERANCE_KMS, 5 * np.nan_to_num(result.e_rv))
            differs = np.abs(result.rv_kms - header) > limit
            differs &= np.abs(header) <= FASTEST_STAR_KMS
            flags[differs] |= int(QualityFlag.VELOCITY_UNLIKE_HEADER)
        return flags

    def _score_outliers(self, looks: Sequence[_Look], result: FitResult) -> np.ndarray | None:
        """See `FittedSpectra.outlier_score`."""
        if self._population is None or self.config.domain == "synthetic":
            return None
        score = np.full(len(result.flags), np.nan)
        for rows, problem, last in _latest_looks(looks):
            distances = measure_distances(problem, result.take(rows), self._population)
            largest = np.max(distances / np.asarray(self._population.limits), axis=1)
            score[rows[last]] = largest[last]
        return score

    def _fit_likelihood(self, looks: Sequence[_Look], result: FitResult) -> LikelihoodLabels | None:
        """See `FittedSpectra.likelihood_labels`."""
        if not self.config.likelihood_labels:
            return None
        alone = LikelihoodLabels(*(np.full(result.labels.shape, np.nan) for _ in range(2)))
        for rows, seen, last in _latest_looks(looks):
            problem = seen
            if self.config.domain == "synthetic":
                problem = self._find_synthetic(seen) or seen
            found = fit_likelihood(
                problem,
                result.take(rows),
                solver=self._solver,
                schedule=self.config.schedule,
                only=last,
            )
            for column, values in zip(alone, found, strict=True):
                column[rows[last]] = values[last]
        return alone

    def _fit_domains(
        self, problem: FitProblem, start: Start | None, schedule: FitScheduleConfig
    ) -> FitResult:
        """Fit in the domains that the configuration names, the synthetic one first."""
        how: dict[str, Any] = {"solver": self._solver, "schedule": schedule}
        if self.config.domain != "observed":
            synthetic = self._find_synthetic(problem)
            if synthetic is not None:
                first = fit(synthetic, start=start, **how)
                if self.config.domain == "synthetic":
                    return first
                start = start_from(first, start or problem.centre_start())
        return fit(problem, start=start, **how)

    def _find_synthetic(self, problem: FitProblem) -> FitProblem | None:
        synthetic = problem.to_synthetic()
        if synthetic is None and self.config.domain == "synthetic":
            raise _no_synthetic_domain()
        return synthetic

    def _keep(self, problem: FitProblem, n_spec: int) -> FitProblem:
        """The problem that was solved last, without padding, on the host."""
        if self.config.domain == "synthetic":
            problem = self._find_synthetic(problem) or problem
        # On the host first: rows of arrays on a device are taken by programs of their own.
        return problem.to_host().take(np.arange(n_spec))

    def _build_problem(self, raws, frame, fixed: dict[str, np.ndarray], n_row: int) -> FitProblem:
        batch = self._preprocess(raws, frame, n_row)
        return replace(
            FitProblem.from_batch(
                self._fitted,
                batch,
                frame_kms=_pad(frame, n_row),
                fit_velocity=self.config.fit_velocity,
                priors=self._priors.priors,
                fixed={name: _pad(values, n_row) for name, values in fixed.items()},
                poly_order=self.config.poly_order,
                noise=self._noise,
            ),
            warnings=self.warnings,
        )

    def _preprocess(self, raws, frame, n_row) -> SpectrumBatch:
        with self.stages.stage("resampling and continuum"):
            batch = preprocess_batch(
                raws,
                self.grid,
                rv_kms=frame,
                masks=self.preprocessing.masks_aa,
                sigma_aa=self.preprocessing.sigma_aa,
                pad_to=n_row,
                min_overlap=0.0,
            )
            return self.stages.settle(_leave_out(batch, self._outside))

    def _first_velocities(self, raws, n_row):
        """Frames to fit in, labels to start from, and what is to be said of them."""
        header = np.array([raw.meta.z * SPEED_OF_LIGHT_KMS for raw in raws])
        flags = np.zeros(len(raws), np.int32)
        of_no_star = np.abs(header) > FASTEST_STAR_KMS
        flags[of_no_star] |= int(QualityFlag.NOT_STELLAR_VELOCITY)
        known = np.isfinite(header) & ~of_no_star
        if self.config.velocity == "header":
            flags[~known & ~of_no_star] |= int(QualityFlag.NO_HEADER_VELOCITY)
            return np.where(known, header, 0.0), None, flags
        if self._bank is None:
            self._bank = bank_from_model(self._fitted, self.grid)
        observed = self._preprocess(raws, np.zeros(len(raws)), n_row)
        # A model that has learned from the spectra knows by how much their errors fall short.
        coarse = measure_velocity(_scale_errors(observed, self._noise.scale), self._bank)
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

    def _fit_again(
        self,
        raws: Sequence[RawSpectrum],
        problem: FitProblem,
        result: FitResult,
        frame: np.ndarray,
        fixed: dict[str, np.ndarray],
    ) -> tuple[list[RawSpectrum], list[_Look], _Scales | None]:
        """Fit stars again that are elsewhere, have outliers or a drifting scale, in place.

        Returns
        -------
        list of RawSpectrum
            Without their outliers, with the wavelengths that were fitted.
        list of _Look
            The given problem, and those of stars that were fitted again. The last that has a star
            is the one that was solved for it.
        _Scales or None
            Drifts of all scales; None where none was looked for.
        """
        raws, looks = list(raws), [_Look(np.arange(len(raws)), problem)]
        latest = np.zeros(len(raws), np.int64)
        # Parts of one shape, whoever needs them: another would be compiled anew.
        size = min(problem.n_spec, max(_REFIT_ROWS, problem.n_spec // 8))

        def refit(rows: np.ndarray, schedule: FitScheduleConfig) -> None:
            for first in range(0, rows.size, size):
                some = rows[first : first + size]
                latest[some] = len(looks)
                again = self._refit(raws, some, result, frame, fixed, size, schedule)
                looks.append(_Look(some, again))

        def follow() -> None:
            for _ in range(_MOST_FRAMES if self.config.fit_velocity else 0):
                far = np.abs(result.residual_kms) > FAR_KMS
                refit(np.flatnonzero(far), self.config.schedule)

        follow()
        scales = None
        if self._follows_drifts:
            scales = self._follow_drifts(raws, looks, latest, result, refit)
            follow()
        # Where a star is, it has been searched for with these pixels as well.
        schedule = replace(self.config.schedule, secondary_distance=None)
        n_seen = 0
        for _ in range(_MOST_CLIPS if self._clipping else 0):
            clipped = np.zeros(len(raws), bool)
            for number in range(n_seen, len(looks)):
                with self.stages.stage("outlier pixels"):
                    self._clip(raws, looks[number], result, frame, latest == number, clipped)
            n_seen = len(looks)
            refit(np.flatnonzero(clipped), schedule)
        # Outliers may have held a star where it is not.
        if self._clipping:
            follow()
        if scales is not None:
            _add_errors(result, scales, frame)
        return raws, looks, scales

    def _follow_drifts(
        self,
        raws: list[RawSpectrum],
        looks: list[_Look],
        latest: np.ndarray,
        result: FitResult,
        refit: Callable[[np.ndarray, FitScheduleConfig], None],
    ) -> _Scales:
        """Undo drifts of wavelength scales and fit these stars again, in place; all drifts."""
        given = list(raws)
        left = blank_drift(len(raws), result.covariance.shape[-1])
        taken = np.zeros_like(left.coefficients)
        wanted, n_seen = np.arange(len(raws)), 0
        for turn in range(_MOST_DRIFTS):
            for number in range(n_seen, len(looks)):
                rows, problem = looks[number]
                here = np.flatnonzero((latest[rows] == number) & np.isin(rows, wanted))
                if here.size:
                    with self.stages.stage("drifts of wavelengths"):
                        some = measure_drift(problem, result.take(rows), taken[rows])
                    # A star that is lost keeps what was found of it before.
                    told = here[np.isfinite(some.gain[here]) | (turn == 0)]
                    for column, values in zip(left, some, strict=True):
                        column[rows[told]] = values[told]
            n_seen = len(looks)
            if turn == 0:
                wanted = find_drifting(left)
            else:
                wanted = wanted[np.abs(left.size_kms[wanted]) > _SAME_DRIFT_KMS]
            if not wanted.size:
                break
            taken[wanted] += left.coefficients[wanted]
            left.coefficients[wanted] = 0.0
            for row in wanted:
                raws[row] = undo_drift(given[row], taken[row])
            result.residual_kms[wanted] += left.moved_kms[wanted]
            refit(wanted, self.config.schedule)
        total = left._replace(coefficients=left.coefficients + taken)
        return _Scales(total, np.any(taken != 0, axis=1))

    def _clip(
        self,
        raws: list[RawSpectrum],
        look: _Look,
        result: FitResult,
        frame: np.ndarray,
        asked: np.ndarray,
        clipped: np.ndarray,
    ) -> None:
        """Leave outlier pixels out of spectra that are asked for, in place; say of which."""
        rows = look.rows
        outlier = find_outlier_pixels(look.problem, result.take(rows), self.config.clip_sigma)
        for place in np.flatnonzero(outlier.any(axis=1) & asked[rows]):
            row = rows[place]
            whole = raws[row]
            raws[row] = leave_out_pixels(whole, outlier[place], self.grid, frame[row])
            clipped[row] = raws[row] is not whole

    def _refit(
        self,
        raws: Sequence[RawSpectrum],
        rows: np.ndarray,
        result: FitResult,
        frame: np.ndarray,
        fixed: dict[str, np.ndarray],
        n_row: int,
        schedule: FitScheduleConfig,
    ) -> FitProblem:
        """Fit some stars again in the frames where they were found, in place; their problem."""
        if self.config.fit_velocity:
            moved = np.asarray(result.residual_kms)[rows].astype(np.float64)
            frame[rows] = combine_velocities(frame[rows], moved)
        own = {name: values[rows] for name, values in fixed.items()}
        problem = self._build_problem([raws[row] for row in rows], frame[rows], own, n_row)
        labels = np.asarray(result.labels)[rows]
        start = Start(_pad(labels, n_row), np.zeros(n_row, np.float32))
        put_rows(result, rows, self._fit_domains(problem, start, schedule).take(slice(rows.size)))
        return problem


def _no_synthetic_domain() -> UsageError:
    return UsageError(
        "this model transfers no spectra to the synthetic domain.",
        "fit with --domain observed (domain in Python), or use a model that does.",
    )


class _Scales(NamedTuple):
    """Drifts of wavelength scales, and of which rows they were taken out."""

    drift: Drift
    undone: np.ndarray


def _add_errors(result: FitResult, scales: _Scales, frame: np.ndarray) -> None:
    """Errors of labels and velocities that come of not knowing drifts, in place."""
    rows, n_label = np.flatnonzero(scales.undone), result.labels.shape[1]
    result.covariance[rows] += scales.drift.covariance_of_labels[rows]
    errors = np.sqrt(np.diagonal(result.covariance[rows], axis1=-2, axis2=-1))
    result.errors[rows] = errors[:, :n_label]
    result.e_rv[rows] = errors[:, n_label] * doppler_factor(frame[rows])


class _Look(NamedTuple):
    """Rows of a list of spectra, and a problem that has them first."""

    rows: np.ndarray
    problem: FitProblem


def _latest_looks(
    looks: Sequence[_Look],
) -> Iterator[tuple[np.ndarray, FitProblem, np.ndarray]]:
    """Looks that are the last of some stars: rows, problem, and which of the rows these are."""
    latest = np.zeros(1 + max(int(look.rows.max()) for look in looks), np.int64)
    for number, look in enumerate(looks):
        latest[look.rows] = number
    for number, look in enumerate(looks):
        last = latest[look.rows] == number
        if last.any():
            yield look.rows, look.problem, last


@jax.jit
def _leave_out(batch: SpectrumBatch, pixels) -> SpectrumBatch:
    """Pixels that have done their duty in the continuum, out of the fit."""
    ivar, information = (jnp.where(pixels, 0, values) for values in (batch.ivar, batch.information))
    return SpectrumBatch(batch.flux, ivar, information, batch.grid)


_scale_errors = jax.jit(scale_errors)


def _pad(values: np.ndarray, n_row: int) -> np.ndarray:
    """Rows repeated up to `n_row`; what padding holds is never fitted."""
    return np.asarray(values)[np.arange(n_row) % len(values)]


def _spread_fixed(fixed: Mapping[str, Any], n_spec: int) -> dict[str, np.ndarray]:
    """One value a spectrum for each fixed label."""
    spread = {}
    for name, values in fixed.items():
        given = np.asarray(values, np.float64)
        if given.shape not in ((), (1,), (n_spec,)):
            raise MismatchError(
                f"the fixed {name} has shape {given.shape} for {n_spec} spectra.",
                "give one value, or one a spectrum.",
            )
        spread[name] = np.broadcast_to(given, (n_spec,))
    return spread


def _count_clipped(given: Sequence[RawSpectrum], left: Sequence[RawSpectrum]) -> np.ndarray:
    """Good pixels of each spectrum that are no longer."""
    return np.array(
        [
            0 if raw is kept else np.count_nonzero(raw.ivar) - np.count_nonzero(kept.ivar)
            for raw, kept in zip(given, left, strict=True)
        ],
        np.int32,
    )
