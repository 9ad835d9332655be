"""Two-sample tests: whether a classifier, or a distance, tells model spectra from observed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.diagnostics.noise import match_noise as find_noise_match
from jaxmdwarf.diagnostics.noise import simulate_observation
from jaxmdwarf.errors import MismatchError, UsageError, require_one_shape
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA
from jaxmdwarf.spectra import SpectrumBatch


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier two-sample test (Lopez-Paz & Oquab 2017, ICLR).

    Parameters
    ----------
    kind : {"linear", "mlp", "boosted"}
        Logistic regression, a small perceptron, or boosted trees, on standardised components.
    n_component : int
        Principal components, fitted within each training fold.
    n_fold : int
        Folds of the cross-validation.
    max_pairs : int
        A random subset of so many rows of each set is used.
    seed : int
        For the subset, the folds, the noise and the classifier.

    Notes
    -----
    A linear classifier sees every difference of means along any direction. The others see
    differences of scatter too: with them even spectra of the right stars are distinguished from
    observed ones by what no function of labels can have, the accidents of calibration, sky and
    noise of single spectra. Quote them beside the same number for an oracle.
    """

    kind: Literal["linear", "mlp", "boosted"] = "linear"
    n_component: int = 50
    n_fold: int = 5
    max_pairs: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "mlp", "boosted"):
            raise UsageError(
                f"classifier {self.kind!r} is unknown.", "use 'linear', 'mlp' or 'boosted'."
            )
        if min(self.n_component, self.max_pairs) < 1 or self.n_fold < 2 or self.seed < 0:
            raise UsageError(f"the classifier cannot work with {self}.")


class ClassifierScore(NamedTuple):
    """What a classifier made of two sets.

    Parameters
    ----------
    accuracy : float
        Share of held-out rows that were classified correctly: 0.5 if the sets are alike.
    e_accuracy : float
        Its standard error; rows of a pair count as one.
    rows : (n_pair,)
        Rows of the sets that took part.
    correct : (n_pair,)
        Share of each pair that was classified correctly: 0, 0.5 or 1.
    noise_factor : float
        By which the stated errors were multiplied for the noise; 1 if they were taken as stated.
    """

    accuracy: float
    e_accuracy: float
    rows: np.ndarray
    correct: Float[np.ndarray, " n_pair"]
    noise_factor: float = 1.0

    def select(self, chosen: Bool[np.ndarray, " n_spec"]) -> tuple[float, float]:
        """Accuracy and its error for the pairs whose row of the sets is chosen: by S/N, say."""
        return _mean_and_error(self.correct[chosen[self.rows]])


def classifier_accuracy(
    transferred: Float[np.ndarray, "n_spec n_pix"],
    observed: SpectrumBatch,
    *,
    match_noise: bool = True,
    sigma_aa: float | None = PAPER_SIGMA_AA,
    config: ClassifierConfig | None = None,
) -> ClassifierScore:
    """Accuracy of a classifier that tells transferred model spectra from observed ones.

    Parameters
    ----------
    transferred : (n_spec, n_pix)
        Noise-free normalised model flux: at the fitted labels (and context) of the observed stars,
        or at labels drawn from their population. Row i borrows noise and gaps from observed row i.
    observed : SpectrumBatch
        Normalised, in the rest frame, ivar 0 outside of what is judged. Leave out what the models
        do not describe: giants, binaries, failed exposures, S/N too low to tell anything.
    match_noise : bool
        Multiply the noise by what `diagnostics.noise.match_noise` finds, and leave outlying
        pixels out; needs some 120 spectra, and takes the stated errors below that.
    sigma_aa : float, optional
        Width of the pseudo-continuum that the observed spectra were divided by; None for none.
    config : ClassifierConfig, optional

    Returns
    -------
    ClassifierScore

    Raises
    ------
    MismatchError
        If shapes differ.
    UsageError
        If there are too few spectra for the folds.

    Notes
    -----
    The protocol lets the classifier see the gap and nothing else:

    1. The model spectrum gets the noise of the observed one (`simulate_observation`): its
       variances, scaled to the noise that is there, the correlation of resampled pixels, and the
       division by a continuum that the noise itself moves.
    2. Both spectra of a pair have the same bad pixels, filled with the mean of both sets, so that
       neither their values nor their places tell anything.
    3. Both sets are of one size, and a pair is never split between training and test.
    4. Components are fitted within the training fold. Pixels are weighted by the median error of
       the set.

    Spectra at fitted labels carry the noise of the fit on top of their own, which at low S/N
    makes them slightly more diverse than the observed; that is second order for a linear
    classifier. Fitted labels also hide what of a gap looks like other labels: quote beside it the
    accuracy at labels of the population, which on a simulation are the true ones.
    """
    config = config or ClassifierConfig()
    flux, ivar, information = (
        np.asarray(values) for values in (observed.flux, observed.ivar, observed.information)
    )
    require_one_shape(transferred=transferred, observed=flux)
    rng = np.random.default_rng(config.seed)
    seen = np.flatnonzero((ivar > 0).any(axis=1))
    rows = np.sort(rng.permutation(seen)[: config.max_pairs])
    flux, ivar, information = flux[rows], ivar[rows], information[rows]
    factor, kept = 1.0, ivar
    if match_noise and len(rows) >= _ENOUGH_TO_MATCH:
        found = find_noise_match(flux, ivar, seed=config.seed)
        factor, kept = found.factor, np.where(found.outlier, 0.0, ivar).astype(ivar.dtype)
    mock = simulate_observation(
        transferred[rows],
        ivar,
        rng,
        information=information,
        grid=None if sigma_aa is None else observed.grid,
        sigma_aa=sigma_aa or PAPER_SIGMA_AA,
        noise_factor=factor,
    )
    score = classifier_two_sample_test(mock, flux, ivar=kept, config=config)
    return score._replace(rows=rows[score.rows], noise_factor=factor)


_ENOUGH_TO_MATCH = 120


def classifier_two_sample_test(
    first: Float[np.ndarray, "n_first n_pix"],
    second: Float[np.ndarray, "n_second n_pix"],
    *,
    ivar: Float[np.ndarray, "n_first n_pix"] | None = None,
    config: ClassifierConfig | None = None,
) -> ClassifierScore:
    """Cross-validated accuracy of a classifier between any two sets of vectors.

    Parameters
    ----------
    first, second : (n_first, n_pix), (n_second, n_pix)
        The larger set is thinned to the size of the smaller.
    ivar : (n, n_pix), optional
        For sets whose rows are pairs: pixels with 0 are bad in both, and never read.
    config : ClassifierConfig, optional

    Raises
    ------
    MismatchError
        If the vectors differ in length, or `ivar` does not belong to them.
    UsageError
        If there are fewer than ten rows a fold.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.standard_normal((2, 200, 30))
    >>> classifier_two_sample_test(first, second + 2.0).accuracy
    1.0
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    config = config or ClassifierConfig()
    if first.shape[1] != second.shape[1]:
        raise MismatchError(
            f"vectors of {first.shape[1]} and {second.shape[1]} elements cannot be compared.",
            "bring both sets onto one grid.",
        )
    rng = np.random.default_rng(config.seed)
    if ivar is not None:
        require_one_shape(first=first, second=second, ivar=ivar)
    n_pair = min(len(first), len(second), config.max_pairs)
    if n_pair < 10 * config.n_fold:
        raise UsageError(
            f"{n_pair} pairs are too few for {config.n_fold} folds.",
            "give ten or more a fold.",
        )
    rows = np.sort(rng.permutation(len(first))[:n_pair])
    others = rows if ivar is not None else np.sort(rng.permutation(len(second))[:n_pair])
    features = np.concatenate([first[rows], second[others]]).astype(np.float32)
    if ivar is not None:
        features = _weigh_pixels(features, ivar[rows])
    fold = rng.permutation(n_pair) % config.n_fold
    domain = np.repeat([0, 1], n_pair)
    correct = np.zeros(2 * n_pair)
    n_component = min(config.n_component, features.shape[1], n_pair)
    for number in range(config.n_fold):
        test = np.tile(fold == number, 2)
        reduce = make_pipeline(
            PCA(n_component, svd_solver="randomized", random_state=config.seed),
            StandardScaler(),
        )
        seen = reduce.fit_transform(features[~test])
        with threadpool_limits(1, user_api="openmp"):
            # So little work is done sooner by one thread than shared out.
            classifier = _make_classifier(config).fit(seen, domain[~test])
        predicted = classifier.predict(reduce.transform(features[test]))
        correct[test] = predicted == domain[test]
    per_pair = correct.reshape(2, n_pair).mean(axis=0)
    return ClassifierScore(*_mean_and_error(per_pair), rows, per_pair)


def _make_classifier(config: ClassifierConfig) -> Any:
    if config.kind == "linear":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=0.1, max_iter=500)
    if config.kind == "mlp":
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(
            (64,), alpha=1.0, max_iter=80, early_stopping=True, random_state=config.seed
        )
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=80, max_leaf_nodes=15, random_state=config.seed)


def _weigh_pixels(features: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Departures from the common mean over the typical error; bad pixels of a pair hold 0."""
    good = np.tile(ivar > 0, (2, 1))
    typical = np.sqrt(np.median(ivar, axis=0))
    used = typical > 0
    good, values = good[:, used], features[:, used]
    count = np.maximum(good.sum(axis=0), 1)
    mean = np.where(good, values, 0.0).sum(axis=0) / count
    return np.where(good, (values - mean) * typical[used], 0.0).astype(np.float32)


def _mean_and_error(correct: np.ndarray) -> tuple[float, float]:
    if not correct.size:
        return math.nan, math.nan
    # Never below what a single misclassified pair would give: 100 of 100 is not certainty.
    error = max(float(correct.std()), 1.0 / math.sqrt(correct.size)) / math.sqrt(correct.size)
    return float(correct.mean()), error


class LatentScores(NamedTuple):
    """How much of the domain is left in a latent space that should be shared.

    Parameters
    ----------
    accuracy, e_accuracy : float
        Of a classifier, see `classifier_two_sample_test`: 0.5 where the space is shared.
    distance : float
        Energy distance (Szekely & Rizzo 2013), as a share of the mean distance between the sets:
        0 for one distribution (and scattering about 0), 1 for two points.
    n : int
        Vectors of each set.
    """

    accuracy: float
    e_accuracy: float
    distance: float
    n: int


def latent_scores(
    shared_synth: Float[np.ndarray, "n_synth ..."],
    shared_obs: Float[np.ndarray, "n_obs ..."],
    *,
    config: ClassifierConfig | None = None,
) -> LatentScores:
    """Whether synthetic and observed spectra can be distinguished in the shared latent space.

    Parameters
    ----------
    shared_synth, shared_obs : (n, ...)
        Latents; axes behind the first are flattened.
    config : ClassifierConfig, optional

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.standard_normal((2, 300, 5, 2))
    >>> scores = latent_scores(first, second)
    >>> abs(scores.accuracy - 0.5) < 0.1, abs(scores.distance) < 0.02
    (True, True)
    """
    config = config or ClassifierConfig()
    first = np.asarray(shared_synth, np.float64).reshape(len(shared_synth), -1)
    second = np.asarray(shared_obs, np.float64).reshape(len(shared_obs), -1)
    score = classifier_two_sample_test(first, second, config=config)
    spread = np.concatenate([first, second]).std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    rng = np.random.default_rng(config.seed)
    n_row = min(len(first), len(second), 1000)
    parts = [rng.permutation(one)[:n_row] / scale for one in (first, second)]
    return LatentScores(score.accuracy, score.e_accuracy, energy_distance(*parts), n_row)


def energy_distance(
    first: Float[np.ndarray, "n_first n_dim"], second: Float[np.ndarray, "n_second n_dim"]
) -> float:
    """Energy distance of two sets (Szekely & Rizzo 2013), as a share of their mean distance.

    Parameters
    ----------
    first, second : (n_first, n_dim), (n_second, n_dim)
        Vectors in units that make their elements comparable.

    Returns
    -------
    float
        0 for one distribution, whatever the sizes (scattering about 0, for it is unbiased), and 1
        for two points.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.standard_normal((2, 500, 2))
    >>> abs(energy_distance(first, second)) < 0.01, energy_distance(first, second + 100.0) > 0.98
    (True, True)
    """
    from scipy.spatial.distance import cdist, pdist

    between = 2.0 * float(cdist(first, second).mean())
    within = 0.0
    if min(len(first), len(second)) > 1:
        within = float(pdist(first).mean() + pdist(second).mean())
    return (between - within) / between if between > 0 else 0.0
