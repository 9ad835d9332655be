"""Two sets of vectors on one plane by t-SNE, and how far they mix (paper, figure 7)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import MismatchError, UsageError


def _choose_threads(n_row: int) -> int | None:
    """One thread for little work, as many as there are for much."""
    return 1 if n_row < 5000 else None


class PairMap(NamedTuple):
    """Two sets on one plane (one panel of the paper's figure 7).

    Parameters
    ----------
    first, second : (n, 2)
        t-SNE coordinates.
    mixing : float
        Share of the nearest neighbours of a vector that belong to the other set, before the
        projection to the plane: 0.5 where the sets are one, 0 where they are apart.
    """

    first: Float[np.ndarray, "n 2"]
    second: Float[np.ndarray, "n 2"]
    mixing: float


def tsne_pairs(
    first: Float[np.ndarray, "n_first ..."],
    second: Float[np.ndarray, "n_second ..."],
    *,
    n: int = 10_000,
    seed: int = 0,
    n_component: int = 30,
    n_neighbour: int = 10,
    perplexity: float = 30.0,
) -> PairMap:
    """Project pairs of vectors onto a plane by t-SNE (van der Maaten & Hinton 2008).

    Parameters
    ----------
    first, second : (n_first, ...), (n_second, ...)
        Spectra or latents: theory and observed (left panel of figure 7), shared latents (middle),
        transferred and observed (right). Spectra need their bad pixels filled and the model ones
        the noise of the observed (`simulate_observation`), or noise is what the map shows.
    n : int
        Vectors of each set, drawn at random from those there are.
    seed : int
    n_component : int
        Principal components that enter.
    n_neighbour : int
        Of the mixing score.
    perplexity : float

    Returns
    -------
    PairMap

    Raises
    ------
    UsageError
        If a set has fewer than 3 vectors.

    Notes
    -----
    Time grows a little faster than the number of pairs; 1,000 pairs take some ten seconds.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    n_row = min(len(first), len(second), n)
    if n_row < 3:
        raise UsageError(f"{n_row} pairs make no map.", "give 3 or more.")
    rng = np.random.default_rng(seed)
    sets = [np.asarray(one, np.float32).reshape(len(one), -1) for one in (first, second)]
    if sets[0].shape[1] != sets[1].shape[1]:
        raise MismatchError(
            f"vectors of {sets[0].shape[1]} and {sets[1].shape[1]} elements cannot share a map."
        )
    if len(first) == len(second):
        rows = rng.permutation(len(first))[:n_row]
        every = np.concatenate([one[rows] for one in sets])
    else:
        every = np.concatenate([one[rng.permutation(len(one))[:n_row]] for one in sets])
    size = min(n_component, every.shape[1], len(every) - 1)
    reduced = PCA(size, random_state=seed).fit_transform(every)
    n_near = min(n_neighbour, 2 * n_row - 1)
    nearest = NearestNeighbors(n_neighbors=n_near).fit(reduced).kneighbors(return_distance=False)
    domain = np.repeat([0, 1], n_row)
    mixing = float((domain[nearest] != domain[:, None]).mean())
    project = TSNE(perplexity=min(perplexity, (len(every) - 1) / 3), init="pca", random_state=seed)
    # Threads that wait for each other make small maps minutes of work on a busy machine.
    with threadpool_limits(_choose_threads(len(every)), user_api="openmp"):
        plane = project.fit_transform(reduced)
    return PairMap(plane[:n_row].astype(float), plane[n_row:].astype(float), mixing)
