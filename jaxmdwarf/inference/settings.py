"""How stars are fitted: what is a parameter, which solver, how many stars at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import jax

from jaxmdwarf.errors import UsageError
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import Prior

SolverName: TypeAlias = Literal["lm", "lbfgs", "jaxopt", "optimistix", "optimistix-lbfgs"]
"""Solvers; all but the first two are other libraries', mapped over stars, for reference."""


@dataclass(frozen=True)
class FitSettings:
    """How stars are fitted.

    Parameters
    ----------
    solver : {"lm", "lbfgs", "jaxopt", "optimistix", "optimistix-lbfgs"}
        Levenberg-Marquardt, or L-BFGS as the paper has it, both native to batches; or, for
        reference, L-BFGS-B of jaxopt, Levenberg-Marquardt and L-BFGS of optimistix.
    fast_path : bool
        Iterate "lm" on Gram systems where the model has a low-rank head and neither velocity nor
        polynomial is fitted (`inference.solvers.gram`): the same solution, sooner. And descend
        under a model's surrogate where it has an accurate one.
    check_surrogate : bool
        Whether the model itself takes the last step after a descent under its surrogate. Without,
        labels are those of the surrogate.
    trusted_sigma : float
        Longest last step, in standard deviations, of a star that is not sent the whole way under
        the model itself.
    fit_velocity : bool
        Fit a residual velocity (within one pixel's shift) jointly with the labels.
    priors : tuple of LabelPrior or RelationPrior
        What is believed of labels, or of relations among them, beside the spectrum.
    poly_order : int, optional
        Order of a multiplicative polynomial over the grid, fitted beside the labels.
    continuum_sigma_aa : float, optional
        Width of the pseudo-continuum that the spectra were divided by (eq. 3): the errors then know
        which noise it took out. None takes the pixels as they are.
    max_iter : int
        Steps of the solver.
    first_pass_iter : int
        Steps after which the stars that need more are gathered from all batches, again and again,
        so that those that have converged are not carried along.
    batch_size : int, optional
        Stars in one compiled call; None takes 32 on a CPU, whose caches then hold all that an
        iteration touches, and 2048 on an accelerator; more for fits on Gram systems, fewer for
        models without a linear head.
    restarts : int
        Other starting points that a star is given which does not converge.
    rival_distance : float or None
        How far from the best of a coarse grid of labels (in any scaled label) a solution may lie
        before the star is fitted again from there, and the lower minimum taken; None never does.
    tol_sigma : float
        See `jaxmdwarf.inference.solvers.lm.minimise_lm`.
    """

    solver: SolverName = "lm"
    fit_velocity: bool = True
    fast_path: bool = True
    check_surrogate: bool = True
    trusted_sigma: float = 0.1
    priors: tuple[Prior, ...] = ()
    poly_order: int | None = None
    continuum_sigma_aa: float | None = None
    max_iter: int = 40
    first_pass_iter: int = 7
    batch_size: int | None = None
    restarts: int = 2
    rival_distance: float | None = 0.4
    tol_sigma: float = 0.01

    def __post_init__(self) -> None:
        if self.solver not in get_args(SolverName):
            names = ", ".join(get_args(SolverName))
            raise UsageError(f"solver {self.solver!r} is unknown.", f"use one of {names}.")
        sizes = (self.max_iter, self.first_pass_iter, self.batch_size or 1)
        if min(sizes) < 1 or self.batch_size == 0 or self.restarts < 0:
            raise UsageError(f"iterations and batch size must be positive, got {self}.")
        if not self.trusted_sigma > 0:
            raise UsageError(f"trusted_sigma must be positive, got {self.trusted_sigma}.")
        if self.poly_order is not None and not 0 <= self.poly_order <= 10:
            raise UsageError(f"poly_order {self.poly_order} is not within 0 and 10.")

    @property
    def may_descend(self) -> bool:
        """Whether a star may descend under the accurate surrogate of a model that has one."""
        return self.fast_path and self.solver == "lm"

    @property
    def may_reduce(self) -> bool:
        """Whether a star may be fitted on its Gram system, if the model allows it."""
        alone = not self.fit_velocity and self.poly_order is None
        return self.fast_path and self.solver == "lm" and alone


def choose_batch_size(
    settings: FitSettings, model: ForwardModel | None = None, *, reduced: bool = False
) -> int:
    """Stars in one compiled call, by the settings or the device at hand.

    Parameters
    ----------
    settings : FitSettings
    model : ForwardModel, optional
        Of expensive ones fewer stars fill the caches.
    reduced : bool
        Whether for a fit on Gram systems, whose larger matrix products like larger batches.
    """
    if settings.batch_size is not None:
        return settings.batch_size
    heavy = model is not None and model.expensive
    if jax.default_backend() == "cpu":
        return 128 if reduced else 8 if heavy else 32
    return 8192 if reduced else 512 if heavy else 2048


def compiled_settings(settings: FitSettings) -> FitSettings:
    """Settings that shape the compiled program; the rest are its arguments or the host's."""
    default = FitSettings()
    return replace(
        settings,
        max_iter=default.max_iter,
        first_pass_iter=default.first_pass_iter,
        batch_size=default.batch_size,
        restarts=default.restarts,
        rival_distance=default.rival_distance,
        fast_path=default.fast_path,
        check_surrogate=default.check_surrogate,
        trusted_sigma=default.trusted_sigma,
    )
