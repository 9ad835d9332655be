"""A continuous distribution of labels from the discrete points of isochrones.

Step 2 of the synthetic training set, section 3.3.2 of the paper: a Gaussian mixture over (Teff,
log g, [M/H], [alpha/M]), from which more than a million label combinations are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.labels import LabelSpace

_LEAST_ACCEPTANCE = 0.02


@dataclass(frozen=True)
class MixtureConfig:
    """How the mixture is fitted.

    Parameters
    ----------
    n_components : tuple of int
        Numbers of components that are tried, in rising order; the lowest BIC wins, and the search
        ends once two in a row are worse.
    width : (teff, logg, mh, alpha_m)
        Spread about the isochrone, K and dex: the points are blurred by it before the fit. An
        isochrone is a sheet without thickness, on which the likelihood has no maximum; stars have
        one (ages, helium, magnetic fields, unequal [alpha/M]). It is a floor under the covariance.
    n_init : int
        Starts of each fit.
    """

    n_components: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 20, 24)
    width: tuple[float, float, float, float] = (15.0, 0.02, 0.03, 0.02)
    n_init: int = 1

    def __post_init__(self) -> None:
        if not self.n_components or min(self.n_components) < 1:
            raise UsageError(
                f"a mixture of {self.n_components} components makes no sense.",
                "give one or more positive numbers.",
            )
        if not min(self.width) > 0:
            raise UsageError(
                f"the widths {self.width} about the isochrone must be above 0.",
                "give about (15 K, 0.02, 0.03, 0.02 dex).",
            )


@dataclass(frozen=True, eq=False)
class LabelMixture:
    """A Gaussian mixture over labels, cut off at the bounds of a label space.

    Parameters
    ----------
    space : LabelSpace
        Draws lie within its bounds.
    weights : (n_component,)
    means : (n_component, n_label)
    covariances : (n_component, n_label, n_label)
    inside : float
        Share of the untruncated mixture that lies within the bounds.
    bic : tuple of (n_component, BIC)
        Of the numbers of components that were tried.
    """

    space: LabelSpace
    weights: Float[np.ndarray, " n_component"]
    means: Float[np.ndarray, "n_component n_label"]
    covariances: Float[np.ndarray, "n_component n_label n_label"]
    inside: float
    bic: tuple[tuple[int, float], ...] = ()

    @property
    def n_components(self) -> int:
        """Number of Gaussians."""
        return self.weights.size

    def draw(self, n: int, seed: int) -> Float[np.ndarray, "n n_label"]:
        """Labels within the bounds, in random order.

        Parameters
        ----------
        n : int
        seed : int

        Returns
        -------
        (n, n_label) float64

        Raises
        ------
        UsageError
            If `n` is not positive.
        """
        if n < 1:
            raise UsageError(f"{n} label combinations were asked for.", "ask for at least one.")
        rng = np.random.default_rng(seed)
        parts, missing = [], n
        while missing:
            wanted = int(missing / self.inside * 1.02) + 100
            labels = _sample_untruncated(self.weights, self.means, self.covariances, wanted, rng)
            labels = labels[self.space.contains(labels)][:missing]
            parts.append(labels)
            missing -= len(labels)
        return np.concatenate(parts)

    def log_density(self, labels: Float[np.ndarray, "n n_label"]) -> Float[np.ndarray, " n"]:
        """Log of the density per K dex^3, -inf beyond the bounds; integrates to 1 within them."""
        from scipy.special import logsumexp

        terms = np.empty((self.n_components, len(labels)))
        for k, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            root = np.linalg.cholesky(covariance)
            white = np.linalg.solve(root, (labels - mean).T)
            terms[k] = -0.5 * np.sum(white**2, axis=0) - np.log(np.diag(root)).sum()
        n_label = self.means.shape[1]
        log_density = logsumexp(terms, axis=0, b=self.weights[:, None])
        log_density = log_density - 0.5 * n_label * np.log(2 * np.pi) - np.log(self.inside)
        return np.where(self.space.contains(labels), log_density, -np.inf)


def fit_label_mixture(
    points: Float[np.ndarray, "n n_label"],
    space: LabelSpace,
    *,
    seed: int,
    config: MixtureConfig | None = None,
) -> LabelMixture:
    """Fit a Gaussian mixture to isochrone points; the number of components is chosen by BIC.

    Parameters
    ----------
    points : (n, n_label)
        Best somewhat beyond the bounds of `space`, or the density sags towards them.
    space : LabelSpace
        Bounds of the draws.
    seed : int
    config : MixtureConfig, optional

    Returns
    -------
    LabelMixture

    Raises
    ------
    UsageError
        If there are too few points or they are not finite.
    WorkFailed
        If hardly any of the mixture lies within the bounds.
    """
    config = config or MixtureConfig()
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != space.n_label:
        raise UsageError(
            f"label points of shape {points.shape} do not fit {space.names}.",
            f"give an array (n, {space.n_label}).",
        )
    if not np.isfinite(points).all():
        raise UsageError("label points hold NaN or infinity.", "drop these rows.")
    largest = len(points) // (10 * space.n_label)
    tried = tuple(n for n in config.n_components if n <= largest)
    if not tried:
        raise UsageError(
            f"{len(points)} label points are too few for a mixture of {config.n_components[0]} "
            f"components in {space.n_label} dimensions.",
            "lay out more points along the isochrones.",
        )
    rng = np.random.default_rng(seed)
    width = np.asarray(config.width[: space.n_label])
    blurred = points + width * rng.standard_normal(points.shape)
    centre, scale = blurred.mean(axis=0), blurred.std(axis=0)
    best, bic = _fit_best((blurred - centre) / scale, tried, config.n_init, seed)
    means = centre + scale * best.means_
    covariances = best.covariances_ * scale[:, None] * scale[None, :]
    covariances = _floor_covariances(covariances, width)
    weights = best.weights_ / best.weights_.sum()
    trial = _sample_untruncated(weights, means, covariances, 200_000, np.random.default_rng(0))
    inside = float(space.contains(trial).mean())
    if inside < _LEAST_ACCEPTANCE:
        raise WorkFailed(
            f"only {inside:.1%} of the label mixture lies within the bounds of {space.names}: "
            f"{space.lower}..{space.upper}.",
            "give isochrones that cover the bounds.",
        )
    return LabelMixture(space, weights, means, covariances, inside, bic)


def _fit_best(standardised, tried, n_init, seed):
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    best, lowest, worse, bic = None, np.inf, 0, []
    # Matrices of four by four: threads cost more than they do.
    with threadpool_limits(1):
        for n_component in tried:
            model = GaussianMixture(
                n_component,
                covariance_type="full",
                n_init=n_init,
                max_iter=300,
                random_state=seed % 2**32,
            ).fit(standardised)
            bic.append((n_component, float(model.bic(standardised))))
            if bic[-1][1] < lowest:
                best, lowest, worse = model, bic[-1][1], 0
            else:
                worse += 1
            if worse == 2:
                break
    return best, tuple(bic)


def _floor_covariances(covariances, width):
    """Raise what is narrower than half the blur in any direction: chance alignments of points."""
    scaled = covariances / (width[:, None] * width[None, :])
    values, vectors = np.linalg.eigh(scaled)
    scaled = np.einsum("kij,kj,klj->kil", vectors, np.maximum(values, 0.25), vectors)
    return scaled * (width[:, None] * width[None, :])


def _sample_untruncated(weights, means, covariances, n, rng) -> np.ndarray:
    counts = rng.multinomial(n, weights)
    labels = np.repeat(means, counts, axis=0)
    noise = rng.standard_normal(labels.shape)
    ends = np.cumsum(counts)
    for root, start, end in zip(np.linalg.cholesky(covariances), ends - counts, ends, strict=True):
        labels[start:end] += noise[start:end] @ root.T
    return rng.permutation(labels)
