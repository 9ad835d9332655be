"""Directions in which spectra scatter about a model: principal components with errors and gaps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.linear import list_pairs


def learn_directions(
    residual: Float[np.ndarray, "n n_pix"],
    weight: Float[np.ndarray, "n n_pix"],
    n_direction: int,
    *,
    n_iter: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, "n_direction n_pix"]:
    """Directions of a factor model, ``residual = amplitudes @ directions + noise``.

    Amplitudes are drawn from a unit Gaussian, so that the length of a direction is the scatter
    along it; noise has the inverse variances `weight`, and pixels of weight 0 say nothing. Found by
    expectation maximisation (Roweis 1998, with errors as in Bailey 2012, PASP 124 1015).

    Parameters
    ----------
    residual : (n, n_pix)
        Observed minus model.
    weight : (n, n_pix)
        Inverse variances.
    n_direction : int
    n_iter : int
        Iterations.
    seed : int
        Of the first guess.

    Returns
    -------
    (n_direction, n_pix)
        float32; rotated so that they are orthogonal, the longest first.

    Raises
    ------
    UsageError
        If there are not five spectra a direction.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = np.zeros((1, 50)); true[0, 20:30] = 0.1
    >>> data = rng.standard_normal((300, 1)) @ true + 0.05 * rng.standard_normal((300, 50))
    >>> found = learn_directions(data, np.full(data.shape, 400.0), 1)
    >>> abs(float(np.abs(found[0, 20:30]).mean()) - 0.1) < 0.01
    True
    """
    n_spec, n_pix = residual.shape
    if n_direction == 0:
        return np.zeros((0, n_pix), np.float32)
    if n_spec < 5 * n_direction:
        raise UsageError(
            f"{n_spec} spectra are too few for {n_direction} nuisance directions.",
            f"ask for at most {n_spec // 5}, or give more spectra.",
        )
    weight = np.asarray(weight, np.float32)
    weighted = weight * np.asarray(residual, np.float32)
    first, second, place = list_pairs(n_direction)
    identity = np.eye(n_direction)
    directions = _guess(np.where(weight > 0, residual, 0).astype(np.float32), n_direction, seed)
    for _ in range(n_iter):
        pairs = weight @ (directions[first] * directions[second]).T
        covariance = np.linalg.inv(pairs[:, place].astype(np.float64) + identity)
        mean = np.einsum("nkl,nl->nk", covariance, weighted @ directions.T)
        second_moment = covariance + mean[:, :, None] * mean[:, None, :]
        matrix = (weight.T @ second_moment[:, first, second].astype(np.float32))[:, place]
        vector = weighted.T @ mean.astype(np.float32)
        # Pixels that nobody has seen get no direction, and no singular matrix.
        floor = 1e-6 * matrix[:, 0, 0].max() * identity
        solved = np.linalg.solve(matrix + floor, vector[:, :, None].astype(np.float64))
        # Amplitudes of unit variance, at once and not after many iterations (parameter expansion;
        # Liu, Rubin & Wu 1998, Biometrika 85 755).
        lengths = np.linalg.cholesky(second_moment.mean(axis=0) + 1e-12 * identity)
        directions = (solved[:, :, 0] @ lengths).T.astype(np.float32)
    # A unit Gaussian looks the same from every side: turn to where directions are orthogonal.
    _, lengths, axes = np.linalg.svd(directions, full_matrices=False)
    return (lengths[:, None] * axes).astype(np.float32)


def _guess(residual: np.ndarray, n_direction: int, seed: int) -> np.ndarray:
    """Principal components, gaps taken as zeros, by power iteration: a start for the rest."""
    rng = np.random.default_rng(seed)
    block = rng.standard_normal((residual.shape[1], n_direction)).astype(np.float32)
    for _ in range(4):
        block, _ = np.linalg.qr(residual.T @ (residual @ block))
    lengths = np.linalg.norm(residual @ block, axis=0) / np.sqrt(len(residual))
    return (lengths * block).T
