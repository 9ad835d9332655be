"""Spectra of any kind to labels: `fit` once, `Fitter` again and again with one compiled program."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from jaxmdwarf.api.inputs import Spectra, keep_usable, read
from jaxmdwarf.api.models import as_model
from jaxmdwarf.api.results import Fits
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference import fitter as engine
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

KEEP_UP_TO = 10_000
"""Spectra that a fit keeps beside its labels, 40 kB each, unless it is told."""


class FitOptions(TypedDict, total=False):
    """Options of a fit, all of them optional; `Fitter` says what they mean."""

    fix: Mapping[str, float | Sequence[float] | np.ndarray] | None
    priors: str | Prior | Sequence[str | Prior]
    velocity: Literal["fit", "header"] | float
    domain: Literal["both", "observed", "synthetic"]
    window_aa: tuple[float, float]
    min_snr: float
    clip_sigma: float
    wavelength_drift: bool
    likelihood_labels: bool
    poly_order: int | None
    solver: str | Solver
    batch_size: int | None
    config: FitConfig | None


class Fitter:
    """Fits spectra again and again, with what was compiled and prepared for the first of them.

    Parameters
    ----------
    model : path, ForwardModel, or what a training returned, optional
        The model that comes with the package if left out, with a warning that says what it is.
    fix : mapping of str to float, optional
        Labels that are held, physical units: ``{"logg": 4.8}``; or one value a spectrum.
    priors : str, Prior, or a sequence of them
        "model" for the priors that the model brings (the default), "none", keys of some of them
        ("sequence", "alpha", "mh"), or `jaxmdwarf.models.priors.LabelPrior` objects of one's own.
    velocity : {"fit", "header"} or float
        Fit the velocity beside the labels (the default), take that of the header, or take this
        one, km/s, positive receding.
    domain : {"both", "observed", "synthetic"}
        Where models that transfer spectra are fitted; see `jaxmdwarf.inference.config.FitConfig`.
    window_aa : (float, float)
        Rest wavelengths that are fitted, vacuum Angstrom.
    min_snr : float
        Spectra with a lower S/N in r or i are rejected.
    clip_sigma : float
        Pixels further than this from the best model are left out and the star fitted again; 0 keeps
        all pixels.
    wavelength_drift : bool
        Put wavelength scales right that drift beyond doubt (the default), held from 8400 Angstrom
        on.
    likelihood_labels : bool
        Find labels without any prior beside those with (the default), in a fifth of the time of
        the fit: `Fits.likelihood_labels`.
    poly_order : int, optional
        Order of a multiplicative polynomial that is fitted beside the labels.
    solver : str or Solver
        "lm" (the default), "lbfgs", others by name, or an object of one's own.
    batch_size : int, optional
        Stars in one compiled call; what suits the device by default.
    config : FitConfig, optional
        Everything at once; the options above are changes to it.

    Attributes
    ----------
    model : ForwardModel
    config : FitConfig
    warnings : tuple of str
        What was asked for and the model cannot give, one sentence each.

    Raises
    ------
    UsageError
        If an option is unknown or makes no sense for this model.
    FormatError
        If the model directory holds none.

    Examples
    --------
    >>> fitter = jm.Fitter("model", fix={"logg": 4.8})  # doctest: +SKIP
    >>> for night in nights:  # doctest: +SKIP
    ...     print(fitter.fit(night))
    """

    def __init__(self, model: Any = None, **options: Unpack[FitOptions]) -> None:
        self.model: ForwardModel = as_model(model)
        _require_known(options)
        own = dict(options)
        self._velocity_kms = _take_velocity(own)
        self._fixed_each = _take_fixed_each(own, self.model)
        self.config = _configure(own)
        self._engine = engine.Fitter(self.model, self.config)
        self.warnings: tuple[str, ...] = self._engine.warnings

    def fit(
        self,
        x: Any,
        *,
        wave_unit: Any = None,
        medium: str | None = None,
        processes: int | None = None,
        keep_spectra: bool | None = None,
    ) -> Fits:
        """Fit spectra.

        Parameters
        ----------
        x : path, arrays, spectrum, or a list of these
            See `jaxmdwarf.read`.
        wave_unit, medium, processes
            See `jaxmdwarf.read`.
        keep_spectra : bool, optional
            Whether spectra stay in memory as they were fitted, 40 kB each, for figures, model
            flux and problems. By default they do, up to ten thousand.

        Returns
        -------
        Fits
            One row a spectrum; inputs that cannot be fitted are in its ``rejects``.

        Raises
        ------
        RejectedInput
            If there is one input and it cannot be fitted.
        WorkFailed
            If none of several can.
        UsageError
            If `x` holds no spectra, or arrays contradict each other.
        """
        found = read(x, wave_unit=wave_unit, medium=medium, processes=processes)
        if self._velocity_kms is not None:
            found = _with_velocity(found, self._velocity_kms)
        spectra = keep_usable(
            found, self._engine.require, single=len(found) == 1 and not found.rejects
        )
        if keep_spectra is None:
            keep_spectra = len(spectra) <= KEEP_UP_TO
        fitted = self._engine.fit(spectra, fixed=self._fixed_each, keep_spectra=keep_spectra)
        return Fits(spectra, fitted, self.model)

    def __repr__(self) -> str:
        labels = ", ".join(self.model.label_space.names)
        return f"Fitter of {labels} with {type(self.model).__name__}, {self.config}"


def fit(
    x: Any,
    model: str | os.PathLike[str] | ForwardModel | Any = None,
    *,
    wave_unit: Any = None,
    medium: str | None = None,
    processes: int | None = None,
    keep_spectra: bool | None = None,
    **options: Unpack[FitOptions],
) -> Fits:
    """Fit spectra: labels, velocities, errors and flags.

    Parameters
    ----------
    x : path, arrays, spectrum, or a list of these
        A file, a folder, a pattern; ``(wave, flux, ivar)`` as arrays, lists or quantities; a
        specutils spectrum; a `jaxmdwarf.Spectrum`. See `jaxmdwarf.read`. Not normalised: types and
        kinds of object are told by broad bands, which a pseudo-continuum takes out.
    model : path, ForwardModel, or what a training returned, optional
        A path is loaded anew by each call; `jaxmdwarf.load_model` loads it once, and
        `jaxmdwarf.Fitter` also keeps what was prepared and compiled. The model that comes with the
        package if left out, with a warning that says what it is.
    wave_unit, medium, processes
        See `jaxmdwarf.read`.
    keep_spectra : bool, optional
        See `Fitter.fit`.
    **options
        ``fix={"logg": 4.8}`` holds labels, ``priors="none"`` leaves out those of the model,
        ``velocity="header"`` or ``velocity=-110.5`` takes velocities as given; these and all
        others are explained in `jaxmdwarf.Fitter`.

    Returns
    -------
    Fits
        One row a spectrum: labels, errors, flags, tables, figures.

    Raises
    ------
    UsageError, FormatError, RejectedInput, WorkFailed
        As `Fitter` and `Fitter.fit`.

    Examples
    --------
    >>> fits = jm.fit((wave, flux, ivar), jm.load_model("model"))  # doctest: +SKIP
    >>> print(fits.to_table())  # doctest: +SKIP
    >>> fits.plot().savefig("fit.png")  # doctest: +SKIP
    """
    fitter = Fitter(model, **options)
    return fitter.fit(
        x, wave_unit=wave_unit, medium=medium, processes=processes, keep_spectra=keep_spectra
    )


def _configure(options: Mapping[str, Any]) -> FitConfig:
    """The configuration that options stand for."""
    given = dict(options)
    config: FitConfig = given.pop("config", None) or FitConfig()
    if "fix" in given:
        given["fixed"] = {name: float(value) for name, value in (given.pop("fix") or {}).items()}
    if "batch_size" in given:
        given["schedule"] = replace(config.schedule, batch_size=given.pop("batch_size"))
    if "priors" in given:
        priors = given["priors"]
        given["priors"] = tuple(priors) if isinstance(priors, list | tuple) else (priors,)
    return replace(config, **given)


def _take_velocity(options: dict[str, Any]) -> float | None:
    """A velocity that was given as a number, km/s; the options then ask for that of the header."""
    velocity = options.get("velocity", "fit")
    if isinstance(velocity, str):
        return None
    options["velocity"] = "header"
    return _as_kms(velocity)


def _take_fixed_each(options: dict[str, Any], model: ForwardModel) -> dict[str, np.ndarray]:
    """Labels that are held at another value for each spectrum; the others stay among the options.

    Raises
    ------
    UsageError
        If labels are not named, or the model does not have one.
    """
    fix = options.get("fix")
    if fix is None:
        return {}
    if not isinstance(fix, Mapping):
        raise UsageError(
            f"fix is a {type(fix).__name__}.", 'name the labels, as in fix={"logg": 4.8}.'
        )
    for name in fix:
        model.label_space.index(name)
    each = {name: np.asarray(values, float) for name, values in fix.items() if np.ndim(values)}
    options["fix"] = {name: value for name, value in fix.items() if name not in each}
    return each


def _require_known(options: Mapping[str, Any]) -> None:
    known = list(FitOptions.__annotations__)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"fit has no option {name!r}.{guess}", f"use {', '.join(known)}.")


def _as_kms(velocity: Any) -> float:
    if hasattr(velocity, "to_value"):
        velocity = velocity.to_value("km/s")
    try:
        speed = float(velocity)
    except (TypeError, ValueError):
        raise UsageError(
            f"velocity {velocity!r} is no velocity.", 'give "fit", "header" or a number in km/s.'
        ) from None
    if not abs(speed) < SPEED_OF_LIGHT_KMS:
        raise UsageError(f"a velocity of {speed:g} km/s is none of a star.", "give km/s.")
    return speed


def _with_velocity(spectra: Spectra, rv_kms: float) -> Spectra:
    """The same spectra, whose headers say this velocity."""
    z = rv_kms / SPEED_OF_LIGHT_KMS
    return Spectra((replace(one, meta=replace(one.meta, z=z)) for one in spectra), spectra.rejects)
