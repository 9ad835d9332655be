"""What the stars that a model has learned from look like through it, and which others do not."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

N_NEIGHBOURS = 5
"""Stars of the training set that must be near a star's labels."""

DISTANCES = ("chi2", "pattern", "labels")
"""Ways in which a star can be unlike the training set, in the order of `TrainingPopulation`."""

_NARROWEST = 0.02


class TrainingPopulation(eqx.Module):
    """Fits of a model to the observed spectra that it was trained on, as a yardstick for others.

    Three distances tell how far the fit of a star is from theirs. *chi2*: chi-square without what
    lies along known residual patterns, against what stars of its S/N and temperature have, for
    chi-square grows with S/N wherever a model errs. *pattern*: how far the residuals go along
    these patterns (Hotelling's T^2 of a factor model, of which the former is the complement;
    Jackson & Mudholkar 1979, Technometrics 21 341). *labels*: how far the labels are from the
    nearest of the training set, in units of their errors and of the smoothing of its density.

    Parameters
    ----------
    directions : (k, n_pix)
        Patterns of residuals on the pixels of the model, with amplitudes of variance 1.
    chi2, pattern : (2, 4)
        Median and 84th percentile of the cube root of each distance, which is nearly Gaussian for
        a chi-square (Wilson & Hilferty 1931, PNAS 17 684): coefficients of `relation_features`.
    reach : (2, 2)
        Lowest and highest (log10 S/N, scaled leading label) that these relations know.
    labels : (m, n_label)
        Scaled labels of stars of the training set.
    width : (n_label,)
        Smoothing of their density.
    limits : (3,)
        Of the distances; see `DISTANCES`.
    leading : int
        The label that relations depend on (static): Teff.
    """

    directions: Float[Array | np.ndarray, "k n_pix"]
    chi2: Float[Array | np.ndarray, "2 4"]
    pattern: Float[Array | np.ndarray, "2 4"]
    reach: Float[Array | np.ndarray, "2 2"]
    labels: Float[Array | np.ndarray, "m n_label"]
    width: Float[Array | np.ndarray, "n_label"]
    limits: Float[Array | np.ndarray, "3"]
    leading: int = eqx.field(static=True, default=0)

    def measure_distances(
        self,
        *,
        snr: Float[np.ndarray, "n"],
        chi2: Float[np.ndarray, "n"],
        pattern: Float[np.ndarray, "n"],
        scaled: Float[np.ndarray, "n n_label"],
        errors: Float[np.ndarray, "n n_label"],
    ) -> Float[np.ndarray, "n 3"]:
        """Distances of fitted stars from the training set; see the class.

        Parameters
        ----------
        snr, chi2, pattern : (n,)
            Of `jaxmdwarf.inference.outliers.summarise_residuals`.
        scaled, errors : (n, n_label)
            Scaled labels with their errors; labels without an error (held ones) do not count.

        Returns
        -------
        (n, 3)
            In the order of `DISTANCES`; NaN where there is no fit.
        """
        features = self.features(snr, scaled)
        columns = [
            standardise(np.cbrt(value), features, np.asarray(relation))
            for value, relation in ((chi2, self.chi2), (pattern, self.pattern))
        ]
        return np.stack(
            [
                *columns,
                label_distance(scaled, errors, np.asarray(self.labels), np.asarray(self.width)),
            ],
            axis=1,
        )

    def features(
        self, snr: Float[np.ndarray, "n"], scaled: Float[np.ndarray, "n n_label"]
    ) -> Float[np.ndarray, "n 4"]:
        """What the relations are linear in, beyond their reach as at its ends."""
        low, high = np.asarray(self.reach)
        at = np.stack([np.log10(np.maximum(snr, 1e-3)), scaled[:, self.leading]], axis=1)
        return relation_features(np.clip(at, low, high))


def relation_features(at: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 4"]:
    """1, x, x^2 and t of log10 S/N x and the scaled leading label t."""
    x, t = at.T
    return np.stack([np.ones_like(x), x, x**2, t], axis=1)


def standardise(
    value: Float[np.ndarray, "n"],
    features: Float[np.ndarray, "n 4"],
    relation: Float[np.ndarray, "2 4"],
) -> Float[np.ndarray, "n"]:
    """How far values are above the median, in units of the distance to the 84th percentile."""
    middle, upper = (features @ np.asarray(relation, np.float64).T).T
    return (value - middle) / np.maximum(upper - middle, _NARROWEST)


def label_distance(
    scaled: Float[np.ndarray, "n n_label"],
    errors: Float[np.ndarray, "n n_label"],
    known: Float[np.ndarray, "m n_label"],
    width: Float[np.ndarray, "n_label"],
    *,
    n_neighbour: int = N_NEIGHBOURS,
) -> Float[np.ndarray, "n"]:
    """Distance of stars from the `n_neighbour`-th nearest of a sample of labels.

    Examples
    --------
    >>> known = np.linspace(-0.4, 0.4, 81)[:, None]
    >>> width = np.array([0.01])
    >>> star = np.array([[0.0], [0.5], [0.5]])
    >>> errors = np.array([[0.0], [0.0], [0.1]])
    >>> label_distance(star, errors, known, width).round(1).tolist()
    [2.0, 14.0, 1.4]
    """
    counts = np.isfinite(errors)
    precision = np.where(counts, 1.0 / (width**2 + np.where(counts, errors, 0.0) ** 2), 0.0)
    square = np.zeros((len(scaled), len(known)))
    for label in range(scaled.shape[1]):
        away = scaled[:, label, None] - known[:, label]
        square += precision[:, label, None] * away**2
    place = min(n_neighbour, len(known)) - 1
    return np.sqrt(np.partition(square, place, axis=1)[:, place])
