"""A grid of spectra as the optimiser sees it: split, and written in its principal components.

On an orthonormal basis a squared distance between coefficients is a squared distance in pixels, so
the network trains on a few dozen numbers a spectrum, all spectra at once, at a few milliseconds a
step.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.wavelengths import PixelGrid

_COMPONENT_ROWS = 3000


class TrainingSet(NamedTuple):
    """A grid of spectra as the optimiser sees it.

    Parameters
    ----------
    scaled, coefficients : (n_train, n_label), (n_train, k)
        Scaled labels, and spectra on the basis in units of the root mean square distance of the
        training spectra from their mean.
    held_scaled, held_coefficients
        The same of the held-out spectra.
    basis, mean : (k, n_pix), (n_pix,)
        Orthonormal principal components of the training spectra, and their mean.
    spread : (k,)
        Root mean square of each training coefficient. The network speaks in these units: Adam
        moves all outputs at one rate, which should be slow for components that matter little.
    unit : ()
        The root mean square distance.
    train_rows, held_rows : (n_train,), (n_held,)
        Rows of the grid.
    """

    scaled: Float[Array, "n_train n_label"]
    coefficients: Float[Array, "n_train k"]
    held_scaled: Float[Array, "n_held n_label"]
    held_coefficients: Float[Array, "n_held k"]
    basis: Float[Array, "k n_pix"]
    mean: Float[Array, "n_pix"]
    spread: Float[Array, "k"]
    unit: Float[Array, ""]
    train_rows: Int[np.ndarray, "n_train"]
    held_rows: Int[np.ndarray, "n_held"]


def prepare_training_set(
    labels: Float[np.ndarray, "n n_label"],
    flux: Float[np.ndarray, "n n_pix"],
    *,
    label_space: LabelSpace,
    grid: PixelGrid,
    config: EmulatorConfig,
) -> TrainingSet:
    """Split the grid, find the principal components of its training part, project both parts.

    Parameters
    ----------
    labels : (n, n_label)
        Physical.
    flux : (n, n_pix)
        Normalised, positive.
    label_space, grid
        What these are on.
    config : EmulatorConfig
        Decides the split and the number of components.

    Raises
    ------
    MismatchError
        If shapes disagree, values are not finite, flux is not positive, or there are too few
        spectra to split.
    """
    labels, flux = np.asarray(labels), np.asarray(flux)
    if labels.shape != (len(flux), label_space.n_label) or flux.shape[1:] != (grid.n_pix,):
        raise MismatchError(
            f"labels {labels.shape} and flux {flux.shape} do not fit {label_space.n_label} labels "
            f"and {grid.n_pix} pixels.",
            "give one row of labels and one of flux a spectrum, on the pixels of the grid.",
        )
    if not (np.isfinite(labels).all() and np.isfinite(flux).all() and (flux > 0).all()):
        raise MismatchError(
            "labels or flux of the grid are not finite, or flux is not positive.",
            "drop these spectra from the grid.",
        )
    scaled = np.asarray(label_space.scale(labels.astype(np.float64)), dtype=np.float32)
    return project_vectors(scaled, flux, config)


def project_vectors(
    scaled: Float[np.ndarray, "n n_input"],
    vectors: Float[np.ndarray, "n n_pix"],
    config: EmulatorConfig,
) -> TrainingSet:
    """Vectors on their principal components, as functions of whatever inputs of order one.

    Components are those of at most 3,000 rows: more tell no more of a few dozen.

    Parameters
    ----------
    scaled : (n, n_input)
        Inputs of order one.
    vectors : (n, n_pix)
        What is to be learned.
    config : EmulatorConfig
        Decides the split and the number of components.

    Raises
    ------
    MismatchError
        If there are too few rows to split.
    """
    train_rows, held_rows = split_rows(len(vectors), config.validation_fraction, seed=config.seed)
    mean = vectors[train_rows].mean(axis=0, dtype=np.float64)
    # The plain Payne's last layer lies in the span of the training spectra, so all their
    # components stand for it exactly, at a third of the arithmetic.
    rank = len(train_rows) if config.network.rank is None else config.network.rank
    every = 1 if config.network.rank is None else -(-len(train_rows) // _COMPONENT_ROWS)
    basis = _principal_components(vectors[train_rows[::every]] - mean, rank)
    coefficients = (vectors - mean) @ basis.T
    unit = math.sqrt(float(np.mean(np.sum(coefficients[train_rows] ** 2, axis=1)))) or 1.0
    scaled = np.asarray(scaled, dtype=np.float32)
    coefficients = np.asarray(coefficients / unit, dtype=np.float32)
    return TrainingSet(
        scaled=jnp.asarray(scaled[train_rows]),
        coefficients=jnp.asarray(coefficients[train_rows]),
        held_scaled=jnp.asarray(scaled[held_rows]),
        held_coefficients=jnp.asarray(coefficients[held_rows]),
        basis=jnp.asarray(basis, dtype=jnp.float32),
        mean=jnp.asarray(mean, dtype=jnp.float32),
        spread=jnp.asarray(np.sqrt(np.mean(coefficients[train_rows] ** 2, axis=0))),
        unit=jnp.asarray(unit, dtype=jnp.float32),
        train_rows=train_rows,
        held_rows=held_rows,
    )


def split_rows(
    n_row: int, held_fraction: float, *, seed: int
) -> tuple[Int[np.ndarray, "n_train"], Int[np.ndarray, "n_held"]]:
    """Rows to learn from and rows held out, both sorted; at least one of each.

    Parameters
    ----------
    n_row : int
    held_fraction : float
    seed : int

    Raises
    ------
    MismatchError
        If there are fewer than three rows.

    Examples
    --------
    >>> train, held = split_rows(10, 0.2, seed=0)
    >>> len(train), len(held), sorted([*train, *held]) == list(range(10))
    (8, 2, True)
    """
    n_held = max(1, round(held_fraction * n_row))
    if n_row - n_held < 2:
        raise MismatchError(f"{n_row} spectra are too few to train on and hold some out.")
    order = np.random.default_rng(seed).permutation(n_row)
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def _principal_components(deviation: np.ndarray, rank: int) -> np.ndarray:
    """The `rank` (or as many as there are) strongest orthonormal rows, shape (k, n_pix)."""
    n_row, n_pix = deviation.shape
    # Eigenvectors of the smaller product in float64: components down to 1e-7 of the first.
    if n_row <= n_pix:
        strength, vectors = np.linalg.eigh(deviation @ deviation.T)
        kept = _strongest(strength, rank)
        basis = vectors[:, kept].T @ deviation
        # A second orthonormalisation clears what rounding left in the weakest.
        return np.linalg.qr(basis.T)[0].T
    strength, vectors = np.linalg.eigh(deviation.T @ deviation)
    return vectors[:, _strongest(strength, rank)].T


def _strongest(strength: np.ndarray, rank: int) -> np.ndarray:
    order = np.argsort(strength)[::-1]
    meaningful = int(np.sum(strength > 1e-14 * max(strength.max(), 1e-300)))
    return order[: max(1, min(rank, meaningful))]
