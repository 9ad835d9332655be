"""How spectra are fitted: what is a parameter, what is held, which solver, in which batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.parameters import require_poly_order
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.by_name import find_solver
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import LabelPrior, RelationPrior

LEAST_CLIP_SIGMA = 3.0

# As fast, star by star, as larger groups that fill the same caches.
_FEW, _FEW_EXPENSIVE, _FEW_REDUCED = 4, 2, 16
_LEAST_ON_ACCELERATORS, _LEAST_EXPENSIVE = 2048, 128


@dataclass(frozen=True)
class FitScheduleConfig:
    """How many stars are fitted at once, in which passes, and from how many starting points.

    Parameters
    ----------
    batch_size : int, optional
        Stars in one compiled call; None takes 32 on a CPU, whose caches then hold all that an
        iteration touches, and 2048 on an accelerator; more for fits on Gram systems, fewer for
        expensive models.
    first_pass_iter : int
        Steps after which the stars that need more are gathered from all batches, again and again,
        so that those that have converged are not carried along.
    restarts : int
        Other starting points that a star is given which does not converge.
    secondary_distance : float or None
        How far from the best of a coarse grid of labels (in any scaled label) a solution may lie
        before the star is fitted again from there, and the lower minimum taken; None never does.
    """

    batch_size: int | None = None
    first_pass_iter: int = 7
    restarts: int = 2
    secondary_distance: float | None = 0.4

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(
                f"batch_size {self.batch_size} is below 1.",
                "give --batch-size (batch_size in Python) 1 or more.",
            )
        if self.first_pass_iter < 1 or self.restarts < 0:
            raise UsageError(f"iterations must be positive, got {self}.")


@dataclass(frozen=True)
class FitConfig:
    """How spectra are fitted, from raw ones to labels.

    Parameters
    ----------
    velocity : {"fit", "header"}
        Measure velocities, or take those of the headers.
    domain : {"both", "observed", "synthetic"}
        Where a model that transfers spectra is fitted (paper, section 3.5): "synthetic" carries
        the observed spectra to the domain of the theory and fits them there, "observed" carries
        theory to the observed spectra, "both" starts the second from the labels of the first.
        Models that transfer nothing know the observed domain alone.
    priors : tuple of str or Prior
        "model" for all priors of the model, "none", keys of some ("sequence", "mh"), or priors of
        one's own: `jaxmdwarf.models.priors.choose_priors`.
    fixed : dict of str to float
        Labels that are held, physical units; they come back without an error.
    poly_order : int, optional
        Order of a multiplicative polynomial over the grid, fitted beside the labels.
    min_snr : float
        Spectra with a lower S/N in r or i are rejected; it is the header's, or what the spectrum
        shows where there is none.
    clip_sigma : float
        Pixels further than this from the best model, in units of their errors (or of the scatter of
        all residuals of the star, where that is larger), are left out and the star fitted again:
        `jaxmdwarf.inference.clipping`. 0 keeps all pixels, as does the synthetic domain.
    wavelength_drift : bool
        Whether a wavelength scale that drifts beyond doubt is put right and the star fitted again:
        `jaxmdwarf.inference.drift`. Wants fitted velocities; never in the synthetic domain.
    likelihood_labels : bool
        Whether labels without any prior are found beside those with, in a fifth of the time of
        the fit: `jaxmdwarf.inference.likelihood`.
    window_aa : (float, float)
        Rest wavelengths that are fitted, vacuum Angstrom. The model may reach further: its ends
        then serve the continuum and the Doppler shifts.
    chunk_size : int
        Spectra that are preprocessed and fitted together; of files, those that are read and
        written together; a killed run loses two such chunks at most.
    solver : Solver or str
        An object, or a name that `jaxmdwarf.inference.solvers.by_name.find_solver` knows.
    schedule : FitScheduleConfig
    """

    velocity: Literal["fit", "header"] = "fit"
    domain: Literal["both", "observed", "synthetic"] = "both"
    priors: tuple[Any, ...] = ("model",)
    fixed: dict[str, float] = field(default_factory=dict)
    poly_order: int | None = None
    min_snr: float = 0.0
    clip_sigma: float = 7.0
    wavelength_drift: bool = True
    likelihood_labels: bool = True
    window_aa: tuple[float, float] = (6000.0, 8900.0)
    chunk_size: int = 1024
    solver: Solver | str = field(default_factory=LevenbergMarquardt)
    schedule: FitScheduleConfig = field(default_factory=FitScheduleConfig)

    def __post_init__(self) -> None:
        for name, choices in (
            ("velocity", ("fit", "header")),
            ("domain", ("both", "observed", "synthetic")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} is unknown.",
                    f"use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}.",
                )
        if self.chunk_size < 1:
            raise UsageError(
                f"chunk_size {self.chunk_size} is below 1.",
                "give --chunk-size (chunk_size in Python) 1 or more.",
            )
        if self.clip_sigma != 0 and not self.clip_sigma >= LEAST_CLIP_SIGMA:
            raise UsageError(
                f"clip_sigma {self.clip_sigma:g} would take noise for outliers.",
                f"give --clip-sigma (clip_sigma in Python) {LEAST_CLIP_SIGMA:g} or more, or 0 to "
                "keep all pixels.",
            )
        if math.isnan(self.min_snr):
            raise UsageError("min_snr is not a number.", "give --min-snr 0 to fit all spectra.")
        low, high = self.window_aa
        if not low < high:
            raise UsageError(
                f"window_aa {low:g}..{high:g} holds nothing.", "give the lower end first."
            )
        require_poly_order(self.poly_order)
        object.__setattr__(self, "solver", find_solver(self.solver))
        if isinstance(self.priors, str | LabelPrior | RelationPrior):
            object.__setattr__(self, "priors", (self.priors,))
        for prior in self.priors:
            if not isinstance(prior, str | LabelPrior | RelationPrior):
                raise UsageError(
                    f"{prior!r} is no prior.",
                    "give 'model', 'none', the key of a prior, a LabelPrior or a RelationPrior.",
                )

    @property
    def fit_velocity(self) -> bool:
        """Whether the velocity is a parameter."""
        return self.velocity == "fit"


def choose_batch_size(
    schedule: FitScheduleConfig | None = None,
    model: ForwardModel | None = None,
    *,
    reduced: bool = False,
) -> int:
    """Stars in one compiled call, by the schedule or the device at hand.

    Parameters
    ----------
    schedule : FitScheduleConfig, optional
    model : ForwardModel, optional
        Of expensive ones fewer stars fill the caches.
    reduced : bool
        Whether for a fit on Gram systems, whose larger matrix products like larger batches.
    """
    if schedule is not None and schedule.batch_size is not None:
        return schedule.batch_size
    expensive = model is not None and model.expensive
    if jax.default_backend() == "cpu":
        return 128 if reduced else 8 if expensive else 32
    return 8192 if reduced else 512 if expensive else 2048


def choose_group_size(batch_size: int, model: ForwardModel, *, reduced: bool = False) -> int:
    """Stars of a batch that iterate together: on a CPU few, of which none waits long for another.

    On accelerators a quarter of the batch, if that is enough to keep one busy: where most stars are
    done after a first pass, those that are left do not cost what a whole batch does.

    Parameters
    ----------
    batch_size : int
        What `choose_batch_size` chose.
    model : ForwardModel
        Of expensive ones still fewer iterate together.
    reduced : bool
        Whether for a fit on Gram systems, of which a few more are made at once.
    """
    if jax.default_backend() == "cpu":
        few = _FEW_REDUCED if reduced else _FEW_EXPENSIVE if model.expensive else _FEW
    else:
        few = max(batch_size // 4, _LEAST_EXPENSIVE if model.expensive else _LEAST_ON_ACCELERATORS)
    return few if batch_size % few == 0 else batch_size
