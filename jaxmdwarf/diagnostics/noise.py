"""Noise-free model spectra made to look observed: a real star's noise, bad pixels and continuum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, pseudo_continuum
from jaxmdwarf.wavelengths import PixelGrid

_CHUNK = 512
_N_BLOCK = 12
# 2 - 1/sqrt(2) over sqrt(pi): what of its own noise a pixel loses when it is divided by a running
# mean of Gaussian weights exp(-(x / sigma)^2), times sigma in pixels.
_FOLLOWED = (2.0 - 0.5**0.5) / np.pi**0.5


def simulate_observation(
    model_flux: Float[np.ndarray, "n_spec n_pix"],
    ivar: Float[np.ndarray, "n_spec n_pix"],
    rng: np.random.Generator,
    *,
    information: Float[np.ndarray, "n_spec n_pix"] | None = None,
    grid: PixelGrid | None = None,
    sigma_aa: float = PAPER_SIGMA_AA,
    noise_factor: float = 1.0,
) -> Float[np.ndarray, "n_spec n_pix"]:
    """Give noise-free normalised spectra the noise, the gaps and the continuum of observed ones.

    Parameters
    ----------
    model_flux : (n_spec, n_pix)
        Normalised model flux. Row i is observed as row i of `ivar` was; the noise of which star
        goes to which model is the caller's choice.
    ivar : (n_spec, n_pix)
        Inverse variances of observed, normalised spectra; 0 marks bad pixels.
    rng : numpy Generator
    information : (n_spec, n_pix), optional
        As in `jaxmdwarf.spectra.SpectrumBatch`. With it neighbouring pixels get the correlation
        that resampling gave to the observed noise; without it pixels are independent.
    grid : PixelGrid, optional
        With it the noisy spectrum is divided by its own pseudo-continuum, as observed ones were:
        noise on scales above `sigma_aa` leaves, and bad pixels leave the running mean.
    sigma_aa : float
        Width of that continuum.
    noise_factor : float
        Multiplies the noise, where stated errors are known to be wrong (`match_noise`); 0 leaves
        the spectra noise-free.

    Returns
    -------
    (n_spec, n_pix) float32
        Bad pixels hold 1.

    Raises
    ------
    MismatchError
        If shapes differ.

    Notes
    -----
    A model that was normalised once is not changed by being normalised again: the factor applied
    is the running mean of the noise-free model over the pixels that are good in some spectrum, by
    the running mean of the noisy one over the pixels that are good in its own.

    The native pixels, whose noise was independent, are drawn anew with a random phase: their width
    follows from the ratio of `information` to `ivar`, see `native_width`. The variance of each
    pixel is exactly ``noise_factor**2 / ivar`` before the continuum follows a part of it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> seen = simulate_observation(np.ones((50, 200)), np.full((50, 200), 400.0), rng)
    >>> round(float(seen.std()), 2)
    0.05
    """
    if model_flux.shape != ivar.shape or (
        information is not None and information.shape != ivar.shape
    ):
        raise MismatchError(
            f"model flux {model_flux.shape}, ivar {ivar.shape} and information "
            f"{None if information is None else information.shape} must have one shape.",
            "give each model spectrum the ivar of one observed spectrum.",
        )
    good = ivar > 0
    sigma = noise_factor / np.sqrt(np.where(good, ivar, 1.0))
    width = None
    if information is not None:
        sigma_pix = None if grid is None else sigma_aa / np.gradient(grid.wave_aa)
        width = native_width(ivar, information, sigma_pix=sigma_pix)
        if grid is not None:
            # The stated variance is what is left once the continuum has followed its part.
            lost = _lost_share(ivar, information, sigma_pix)
            sigma = sigma / np.sqrt(1.0 - lost)
    noise = sample_noise(ivar.shape, rng, width=width)
    noisy = np.where(good, model_flux + sigma * noise, 1.0)
    if grid is not None:
        common = np.asarray(good.any(axis=0))[None]
        for rows in _chunks(len(noisy)):
            before = _running_mean(np.asarray(model_flux[rows]), common, grid, sigma_aa)
            after = _running_mean(noisy[rows], good[rows], grid, sigma_aa)
            usable = good[rows] & (after > 0) & (before > 0)
            ratio = np.where(usable, before, 1.0) / np.where(usable, after, 1.0)
            noisy[rows] = np.where(good[rows], noisy[rows] * ratio, 1.0)
    return noisy.astype(np.float32)


def native_width(
    ivar: Float[np.ndarray, "n_spec n_pix"],
    information: Float[np.ndarray, "n_spec n_pix"],
    *,
    sigma_pix: Float[np.ndarray, " n_pix"] | None = None,
) -> Float[np.ndarray, " n_pix"]:
    """Width of the pixels that were independent before resampling, in pixels of the grid.

    Parameters
    ----------
    ivar, information : (n_spec, n_pix)
        0 at bad pixels.
    sigma_pix : (n_pix,), optional
        Width of the pseudo-continuum in pixels, where the spectra were divided by one.

    Returns
    -------
    (n_pix,)
        Smooth along the spectrum; 0 where pixels are independent as they are.

    Notes
    -----
    Averaged over phases, a grid pixel that takes the mean of native pixels of width w has a
    variance over the row sum of its covariance of 1 - w/3 (w < 1) or (w - 1/3) / w^2.

    Examples
    --------
    >>> ones = np.ones((3, 100))
    >>> float(native_width(ones, ones).max()), float(native_width(ones, 0.4167 * ones).round(2)[0])
    (0.0, 2.0)
    """
    good = (ivar > 0) & (information > 0)
    n_pix = ivar.shape[1]
    edges = np.linspace(0, n_pix, min(_N_BLOCK, n_pix) + 1).astype(int)
    share = np.where(good, information, 0.0) / np.where(good, ivar, 1.0)
    if sigma_pix is not None:
        # Normalising lowers the variance of a pixel but not the information on broad features.
        share = np.where(good, share + _FOLLOWED / sigma_pix, 0.0)
    centres, widths = [], []
    for low, high in itertools.pairwise(edges):
        n_good = np.count_nonzero(good[:, low:high])
        if n_good:
            ratio = min(float(share[:, low:high].sum() / n_good), 1.0)
            centres.append(0.5 * (low + high))
            widths.append(
                3.0 * (1.0 - ratio)
                if ratio >= 2 / 3
                else (1.0 + np.sqrt(1.0 - 4.0 * ratio / 3.0)) / (2.0 * ratio)
            )
    if not centres:
        return np.zeros(n_pix)
    smooth = np.interp(np.arange(n_pix), centres, widths)
    # Narrower pixels leave next to no correlation.
    return np.where(smooth < 0.1, 0.0, smooth)


def sample_noise(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    width: Float[np.ndarray, " n_pix"] | None = None,
) -> Float[np.ndarray, "n_spec n_pix"]:
    """Gaussian noise of unit variance, correlated as the mean over wider native pixels is.

    Parameters
    ----------
    shape : (n_spec, n_pix)
    rng : numpy Generator
    width : (n_pix,), optional
        Of native pixels, in pixels; None, or 0 anywhere, for independent noise.
    """
    n_spec, n_pix = shape
    if width is None or not (width > 0).all():
        return rng.standard_normal((n_spec, n_pix))
    # Edges of the grid, counted in native pixels.
    edges = np.concatenate([[0.0], np.cumsum(1.0 / width)])
    n_native = int(np.ceil(edges[-1])) + 2
    noise = np.empty((n_spec, n_pix))
    for row in range(n_spec):
        native = rng.standard_normal(n_native)
        at = edges + rng.uniform()
        whole = np.floor(at).astype(int)
        total = np.concatenate([[0.0], np.cumsum(native)])
        integral = total[whole] + (at - whole) * native[whole]
        low, high, first, last = at[:-1], at[1:], whole[:-1], whole[1:]
        squares = np.where(
            first == last,
            (high - low) ** 2,
            (first + 1 - low) ** 2 + (high - last) ** 2 + np.maximum(last - first - 1, 0),
        )
        noise[row] = np.diff(integral) / np.sqrt(squares)
    return noise


class NoiseMatch(NamedTuple):
    """What the noise of observed spectra is beyond their stated errors.

    Parameters
    ----------
    factor : float
        How many times larger than the stated errors it is; one number for the whole set, so that
        stars whose errors are individually wrong stay so.
    outlier : (n_spec, n_pix) bool
        Good pixels with cosmic rays, residual sky lines and the like, and their neighbours.
    """

    factor: float
    outlier: Bool[np.ndarray, "n_spec n_pix"]


def match_noise(
    flux: Float[np.ndarray, "n_spec n_pix"],
    ivar: Float[np.ndarray, "n_spec n_pix"],
    *,
    n_component: int = 20,
    clip: float = 4.5,
    seed: int = 0,
) -> NoiseMatch:
    """Find how noisy observed spectra are, and their outlying pixels, without any model of stars.

    Parameters
    ----------
    flux, ivar : (n_spec, n_pix)
        Observed, normalised; ivar 0 marks bad pixels.
    n_component : int
        Directions in which spectra may differ as stars and instruments do.
    clip : float
        Pixels this many sigma off what the components give are outliers.
    seed : int
        For the halves.

    Raises
    ------
    UsageError
        If there are fewer than six times `n_component` spectra, or no good pixel.

    Notes
    -----
    The scatter of what the leading components of the spectra (weighted by S/N) leave is compared
    with the stated variance star by star: P_i = f^2 N_i + g^2, by weighted least squares with
    neither term negative. What does not scale with the noise (structure that the components
    missed) goes to g and not to f. Components come from one half of the spectra and are taken out
    of the other, or they would follow the noise itself; medians keep outliers out. No model
    spectrum enters, so that a domain gap is not taken for noise; nor does the correlation of
    pixels, to which differences of neighbours would be sensitive.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> flux = 1.0 + 0.15 * rng.standard_normal((200, 300))
    >>> found = match_noise(flux, np.full((200, 300), 100.0))
    >>> round(found.factor, 1), bool(found.outlier.mean() < 1e-3)
    (1.5, True)
    """
    if len(flux) < 6 * n_component:
        raise UsageError(
            f"{len(flux)} spectra do not tell noise from {n_component} components.",
            "give more spectra or fewer components, or leave the noise as it is stated.",
        )
    used = (ivar > 0).mean(axis=0) > 0.5
    if not used.any():
        raise UsageError("no pixel is good in half of the spectra.", "check ivar.")
    weight = ivar[:, used].astype(np.float64)
    good = weight > 0
    filled = np.where(good, flux[:, used], 0.0)
    order = np.random.default_rng(seed).permutation(len(flux))
    half = len(flux) // 2
    left = np.zeros_like(weight)
    for fitted, judged in ((order[:half], order[half:]), (order[half:], order[:half])):
        basis = _leading_components(filled[fitted], weight[fitted], n_component)
        left[judged] = _remove(filled[judged], weight[judged], basis, clip)
    n_good = good.sum(axis=1)
    known = n_good > 3 * n_component
    scatter = np.array(
        [
            # The median of the square of a unit Gaussian is 0.4549.
            np.median(row[kept] ** 2) / 0.4549 * n / max(n - n_component - 1, 1) if ok else np.nan
            for row, kept, n, ok in zip(left, good, n_good, known, strict=True)
        ]
    )
    stated = np.array([1.0 / np.median(row[row > 0]) for row in weight[known]])
    factor = float(np.sqrt(_fit_slope(stated, scatter[known] * stated)))
    # A bright star's structure is no outlier: what it shows beyond its noise counts as its own.
    width = np.sqrt(np.maximum(np.nan_to_num(scatter, nan=factor**2), factor**2))
    far = np.zeros(ivar.shape, bool)
    far[:, used] = np.abs(left) > clip * width[:, None]
    near = far.copy()
    near[:, 1:] |= far[:, :-1]
    near[:, :-1] |= far[:, 1:]
    return NoiseMatch(factor, near & (ivar > 0))


def _leading_components(flux, ivar, n_component):
    """The mean and the directions of largest departure from it, bright stars first."""
    from sklearn.utils.extmath import randomized_svd

    good = ivar > 0
    mean = np.where(good, flux, 0.0).sum(axis=0) / np.maximum(good.sum(axis=0), 1)
    level = np.sqrt(np.median(ivar, axis=1))
    weight = np.minimum(level, np.percentile(level, 90))[:, None]
    departure = np.where(good, flux - mean, 0.0)
    directions = randomized_svd(weight * departure, n_component, random_state=0)[2]
    return np.concatenate([mean[None], directions])


def _remove(flux, ivar, basis, clip):
    """Residuals of weighted fits of the basis, in stated errors; refitted without outliers."""
    n_base = len(basis)
    products = (basis[:, None] * basis[None]).reshape(n_base**2, -1).T
    left, weight = np.zeros_like(flux), ivar
    for _ in range(2):
        curvature = (weight @ products).reshape(-1, n_base, n_base)
        size = np.trace(curvature, axis1=1, axis2=2)[:, None, None] / n_base
        curvature += (1e-10 * size + 1e-30) * np.eye(n_base)
        slope = (weight * flux) @ basis.T
        fitted = np.linalg.solve(curvature, slope[..., None])[..., 0] @ basis
        left = (flux - fitted) * np.sqrt(ivar)
        weight = np.where(np.abs(left) < 1.5 * clip, ivar, 0.0)
    return left


def _fit_slope(noise: np.ndarray, power: np.ndarray) -> float:
    """Slope f^2 of ``power = f^2 noise + g^2``, neither negative, each star's scatter alike."""
    from scipy.optimize import nnls

    slope = float(np.median(power / noise))
    intercept = 0.0
    for _ in range(10):
        weight = 1.0 / np.maximum(slope * noise + intercept, 1e-30)
        design = np.stack([noise, np.ones_like(noise)], axis=1) * weight[:, None]
        target = power * weight
        kept = np.abs(target - 1.0) < 4 * np.median(np.abs(target - 1.0)) + 1e-12
        scale = np.linalg.norm(design[kept], axis=0)
        # Stars of one S/N cannot tell the two terms apart: then it is noise.
        rows = np.concatenate([design[kept] / scale, [[0.0, 0.03]]])
        found = nnls(rows, np.append(target[kept], 0.0))[0] / scale
        slope, intercept = max(float(found[0]), 1e-6), float(found[1])
    return slope


def _lost_share(ivar, information, sigma_pix):
    good = (ivar > 0) & (information > 0)
    row_sum = np.where(good, ivar, 0.0) / np.where(good, information, 1.0)
    # Seen from after the division: v (1 - s r) = 1 / ivar with r = v information.
    after = (_FOLLOWED / sigma_pix) * row_sum
    return np.clip(after / (1.0 + after), 0.0, 0.9)


def _running_mean(
    flux: Float[np.ndarray, "n n_pix"],
    good: Bool[np.ndarray, "#n n_pix"],
    grid: PixelGrid,
    sigma_aa: float,
) -> np.ndarray:
    return np.asarray(
        pseudo_continuum(jnp.asarray(flux, jnp.float32), jnp.asarray(good), grid, sigma_aa=sigma_aa)
    )


def _chunks(n_row: int) -> Iterator[slice]:
    for first in range(0, n_row, _CHUNK):
        yield slice(first, min(first + _CHUNK, n_row))
