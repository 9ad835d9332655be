"""Residuals of fitted spectra in units of their errors, and the share of a gap that is closed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import require_one_shape

_CHUNK = 1024


class ResidualSummary(NamedTuple):
    """Residuals of fits in units of the stated errors (paper, figure 8).

    Parameters
    ----------
    per_star : (n_spec,)
        Mean over good pixels of ``|F_obs - F_fit| / sigma``; NaN without a good pixel.
    per_pixel : (n_pix,)
        The same, as a mean over stars in each pixel; NaN where no star has a good pixel.
    mean, median : float
        Of `per_star`. Gaussian noise alone gives 0.798 with honest errors, and 0.910 where
        inverse variances are stated 1.3 times too large.
    """

    per_star: Float[np.ndarray, " n_spec"]
    per_pixel: Float[np.ndarray, " n_pix"]
    mean: float
    median: float


def residual_in_sigma(
    observed: Float[np.ndarray, "n_spec n_pix"],
    model: Float[np.ndarray, "n_spec n_pix"],
    ivar: Float[np.ndarray, "n_spec n_pix"],
) -> Float[np.ndarray, " n_spec"]:
    """Mean of ``|F_obs - F_fit| / sigma`` over the good pixels of each star.

    Parameters
    ----------
    observed, model : (n_spec, n_pix)
        Normalised flux; values at bad pixels are never read, NaN included.
    ivar : (n_spec, n_pix)
        0 marks bad pixels.

    Examples
    --------
    >>> flux = np.array([[1.1, 0.9, np.nan]])
    >>> residual_in_sigma(flux, np.ones((1, 3)), np.array([[100.0, 400.0, 0.0]])).round(6).tolist()
    [1.5]
    """
    return summarise_residual(observed, model, ivar).per_star


def summarise_residual(
    observed: Float[np.ndarray, "n_spec n_pix"],
    model: Float[np.ndarray, "n_spec n_pix"],
    ivar: Float[np.ndarray, "n_spec n_pix"],
    *,
    clip: float | None = None,
) -> ResidualSummary:
    """Residuals in sigma of each star, and their profile along the spectrum (paper, figure 8).

    Parameters
    ----------
    observed, model, ivar : (n_spec, n_pix)
        As for `residual_in_sigma`.
    clip : float, optional
        Residuals beyond count as this many sigma: one cosmic ray of a thousand sigma rules the
        mean of its pixel over a thousand stars. None takes them as they are, as the paper does.

    Raises
    ------
    MismatchError
        If shapes differ.
    """
    require_one_shape(observed=observed, model=model, ivar=ivar)
    good = ivar > 0
    scale = np.sqrt(np.where(good, ivar, 0.0))
    return _summarise(observed, model, good, scale, np.inf if clip is None else clip)


def summarise_error(
    noiseless: Float[np.ndarray, "n_spec n_pix"],
    model: Float[np.ndarray, "n_spec n_pix"],
    good: Bool[np.ndarray, "n_spec n_pix"],
) -> ResidualSummary:
    """Error of fitted models against noise-free truth, ``|F_true - F_fit|``, in normalised flux.

    Parameters
    ----------
    noiseless, model : (n_spec, n_pix)
        Normalised alike; what a simulation knows and a survey does not.
    good : (n_spec, n_pix) bool
        Pixels that count: those that were fitted.

    Returns
    -------
    ResidualSummary
        In units of the flux in place of sigma.

    Examples
    --------
    >>> truth = np.ones((1, 3))
    >>> summarise_error(truth, truth + 0.01, np.array([[True, True, False]])).per_star.round(6)
    array([0.01])
    """
    require_one_shape(noiseless=noiseless, model=model, good=good)
    return _summarise(noiseless, model, good, np.ones((1, 1)), np.inf)


def gap_closed(none: float, transfer: float, oracle: float) -> float:
    """Share of the distance from no transfer to the oracle that a transfer closes.

    Parameters
    ----------
    none, transfer, oracle : float
        One quantity that is the smaller the better: a residual, a scatter, a bias without sign.

    Returns
    -------
    float
        ``(none - transfer) / (none - oracle)``: 1 if the transfer is as good as the oracle, 0 if it
        does nothing, negative if it harms. NaN where the oracle is no better than no transfer, so
        that there is no distance to close.

    Examples
    --------
    >>> round(gap_closed(2.0, 1.2, 1.0), 6)
    0.8
    """
    distance = none - oracle
    return (none - transfer) / distance if distance > 0 else math.nan


def _summarise(observed, model, good, scale, largest) -> ResidualSummary:
    per_star = np.full(len(good), np.nan)
    total, count = np.zeros(good.shape[1]), np.zeros(good.shape[1])
    for first in range(0, len(good), _CHUNK):
        rows = slice(first, first + _CHUNK)
        seen = good[rows]
        factor = scale if len(scale) == 1 else scale[rows]
        size = np.abs(np.where(seen, observed[rows] - model[rows], 0.0)) * factor
        size = np.minimum(size, largest)
        n_good = seen.sum(axis=1)
        per_star[rows] = np.where(n_good, size.sum(axis=1), np.nan) / np.maximum(n_good, 1)
        total += size.sum(axis=0)
        count += seen.sum(axis=0)
    known = per_star[np.isfinite(per_star)]
    return ResidualSummary(
        per_star,
        np.where(count, total, np.nan) / np.maximum(count, 1),
        float(known.mean()) if known.size else math.nan,
        float(np.median(known)) if known.size else math.nan,
    )
