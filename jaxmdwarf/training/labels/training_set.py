"""Labels of the synthetic training set: isochrones, mixture, co-distributed sampling in one call.

Section 3.3.2 of the paper. Its fourth step, spectra of these labels, is the emulator's, on the fly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.simulate.main_sequence import Relation
from jaxmdwarf.training.labels.codistribution import CodistributionConfig, sample_codistributed
from jaxmdwarf.training.labels.isochrones import LabelCutsConfig, isochrone_points
from jaxmdwarf.training.labels.mixture import LabelMixture, MixtureConfig, fit_label_mixture

_ALPHA_BOUNDS = (-0.1, 0.5)
_MARGIN_SHARE = 0.12
"""Isochrones reach this share of the cuts beyond them, so that the mixture keeps its density up to
the cuts; draws beyond are dropped."""

_LOGG_POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_ALPHA_POWERS = ((0,), (1,), (2,))


@dataclass(frozen=True)
class TrainingSetConfig:
    """The label part of the synthetic training set.

    Parameters
    ----------
    cuts : LabelCutsConfig
    mixture : MixtureConfig
    codistribution : CodistributionConfig
    """

    cuts: LabelCutsConfig = field(default_factory=LabelCutsConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    codistribution: CodistributionConfig = field(default_factory=CodistributionConfig)


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """Labels to train on.

    Parameters
    ----------
    labels : (n, 4) float32
        Teff, log g, [M/H], [alpha/M].
    report : dict
        Plain numbers on how they came about.
    mixture : LabelMixture
        What the draws came from.
    """

    labels: Float[np.ndarray, "n 4"]
    report: dict[str, Any]
    mixture: LabelMixture


def sample_training_labels(
    reference: Float[np.ndarray, "n_reference n_column"] | None = None,
    relation: Relation | Mapping[str, np.ndarray] | None = None,
    *,
    n_draws: int = 1_000_000,
    seed: int,
    config: TrainingSetConfig | None = None,
) -> TrainingLabels:
    """Labels of stars that exist, as frequent as in a reference sample.

    Parameters
    ----------
    reference : (n_reference, 2, 3 or 4), optional
        Teff and [M/H] of stars like the observed ones; see `training.labels.codistribution`.
        Without it the draws of the mixture are returned as they are, `n_draws` of them.
    relation : callable or table of isochrones, optional
        See `isochrone_points`; the embedded relation if left out.
    n_draws : int
        Draws of the mixture from which the co-distributed sample is picked.
    seed : int
    config : TrainingSetConfig, optional

    Returns
    -------
    TrainingLabels

    Raises
    ------
    UsageError
        If isochrones do not reach the cuts, or the reference does not overlap them.
    """
    config = config or TrainingSetConfig()
    cuts = config.cuts
    margins = {name: _MARGIN_SHARE * np.ptp(getattr(cuts, name)) for name in ("teff", "mh")}
    points = isochrone_points(relation, cuts.widen(**margins))
    space = LabelSpace.mdwarf(teff=cuts.teff, logg=cuts.logg, mh=cuts.mh, alpha_m=_ALPHA_BOUNDS)
    if not space.contains(points).any():
        raise UsageError(
            f"no isochrone point lies within {cuts.teff[0]:g}-{cuts.teff[1]:g} K and [M/H] "
            f"{cuts.mh[0]:g}..{cuts.mh[1]:g}.",
            "widen the cuts (--teff LOW HIGH, --mh, --logg) or give isochrones of M dwarfs.",
        )
    fit_seed, sample_seed, pick_seed = (
        int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(3)
    )
    mixture = fit_label_mixture(points, space, seed=fit_seed, config=config.mixture)
    labels = mixture.draw(n_draws, sample_seed)
    report: dict[str, Any] = {
        "n_points": len(points),
        "n_components": mixture.n_components,
        "bic": dict(mixture.bic),
        "inside_bounds": mixture.inside,
        "n_draws": n_draws,
        "n_training": n_draws,
    }
    if reference is not None:
        bounds = (cuts.teff, cuts.mh)
        sample = sample_codistributed(
            labels, reference, seed=pick_seed, config=config.codistribution, bounds=bounds
        )
        labels = sample.labels
        report.update(sample.report.as_dict())
    return TrainingLabels(labels.astype(np.float32), report, mixture)


def fit_main_sequence_relation(
    labels: Float[np.ndarray, "n 4"], *, min_sigma: float = 0.01
) -> tuple[RelationPrior, RelationPrior]:
    """What training labels say of log g given Teff and [M/H], and of [alpha/M] given [M/H].

    Both are quadratic. Spectra of low resolution hardly tell log g and [alpha/M] of an M dwarf from
    its other labels; that main-sequence stars are meant does.

    Parameters
    ----------
    labels : (n, 4)
        Teff, log g, [M/H], [alpha/M].
    min_sigma : float
        Least scatter, dex.

    Returns
    -------
    tuple of RelationPrior
        Of ``logg`` and of ``alpha_m``; sigma is the standard deviation of the residuals.

    Raises
    ------
    UsageError
        If there are fewer than 20 labels or they are not finite.

    Examples
    --------
    >>> logg, alpha = fit_main_sequence_relation(isochrone_points())
    >>> logg.given, alpha.given, logg.sigma < 0.05, alpha.sigma < 0.05
    (('teff', 'mh'), ('mh',), True, True)
    """
    labels = np.asarray(labels, dtype=np.float64)
    if len(labels) < 20 or not np.isfinite(labels).all():
        raise UsageError(
            f"a main-sequence relation cannot be fitted to {len(labels)} labels"
            + ("." if np.isfinite(labels).all() else " with NaN among them."),
            "give at least 20 rows of finite labels.",
        )
    teff, logg, mh, alpha = labels.T
    return (
        _fit_polynomial("logg", logg, {"teff": teff, "mh": mh}, _LOGG_POWERS, min_sigma),
        _fit_polynomial("alpha_m", alpha, {"mh": mh}, _ALPHA_POWERS, min_sigma),
    )


def _fit_polynomial(name, values, given, powers, min_sigma) -> RelationPrior:
    centre = {key: float(np.median(column)) for key, column in given.items()}
    scale = {key: float(max(np.std(column), 1e-6)) for key, column in given.items()}
    x = np.column_stack([(given[key] - centre[key]) / scale[key] for key in given])
    design = np.column_stack([np.prod(x ** np.asarray(term), axis=1) for term in powers])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    return RelationPrior(
        name=name,
        given=tuple(given),
        powers=powers,
        coefficients=tuple(map(float, coefficients)),
        sigma=float(max(np.std(values - design @ coefficients), min_sigma)),
        centre=tuple(centre.values()),
        scale=tuple(scale.values()),
    )
