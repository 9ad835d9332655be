"""How far models are from observed spectra: residuals, a classifier's accuracy, maps, labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.diagnostics.observation import match_noise as find_noise_match
from jaxmdwarf.diagnostics.observation import simulate_observation
from jaxmdwarf.diagnostics.recovery import SNR_EDGES, Comparison, compare
from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA
from jaxmdwarf.spectra import SpectrumBatch

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
    _require_one_shape(observed=observed, model=model, ivar=ivar)
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
    _require_one_shape(noiseless=noiseless, model=model, good=good)
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


@dataclass(frozen=True)
class ClassifierConfig:
    """How two sets are told apart.

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
    differences of scatter too: with them even spectra of the right stars are told from observed
    ones by what no function of labels can have, the accidents of calibration, sky and noise of
    single spectra. Quote them beside the same number for an oracle.
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
        Share of held-out rows that were told right, over both sets: 0.5 if they are alike.
    e_accuracy : float
        Its standard error; rows of a pair count as one.
    rows : (n_pair,)
        Rows of the sets that took part.
    correct : (n_pair,)
        How much of each pair was told right: 0, 0.5 or 1.
    noise_factor : float
        By which the stated errors were multiplied for the noise; 1 if they were believed.
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
    settings: ClassifierConfig | None = None,
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
        Multiply the noise by what `diagnostics.observation.match_noise` finds, and leave outlying
        pixels out; needs some 120 spectra, and takes the stated errors below that.
    sigma_aa : float, optional
        Width of the pseudo-continuum that the observed spectra were divided by; None for none.
    settings : ClassifierConfig, optional

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
    settings = settings or ClassifierConfig()
    flux, ivar, information = (
        np.asarray(values) for values in (observed.flux, observed.ivar, observed.information)
    )
    _require_one_shape(transferred=transferred, observed=flux)
    rng = np.random.default_rng(settings.seed)
    seen = np.flatnonzero((ivar > 0).any(axis=1))
    rows = np.sort(rng.permutation(seen)[: settings.max_pairs])
    flux, ivar, information = flux[rows], ivar[rows], information[rows]
    factor, kept = 1.0, ivar
    if match_noise and len(rows) >= _ENOUGH_TO_MATCH:
        found = find_noise_match(flux, ivar, seed=settings.seed)
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
    score = separate(mock, flux, ivar=kept, settings=settings)
    return score._replace(rows=rows[score.rows], noise_factor=factor)


_ENOUGH_TO_MATCH = 120


def separate(
    first: Float[np.ndarray, "n_first n_pix"],
    second: Float[np.ndarray, "n_second n_pix"],
    *,
    ivar: Float[np.ndarray, "n_first n_pix"] | None = None,
    settings: ClassifierConfig | None = None,
) -> ClassifierScore:
    """Cross-validated accuracy of a classifier between any two sets of vectors.

    Parameters
    ----------
    first, second : (n_first, n_pix), (n_second, n_pix)
        The larger set is thinned to the size of the smaller.
    ivar : (n, n_pix), optional
        For sets whose rows are pairs: pixels with 0 are bad in both, and never read.
    settings : ClassifierConfig, optional

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
    >>> separate(first, second + 2.0).accuracy
    1.0
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    settings = settings or ClassifierConfig()
    if first.shape[1] != second.shape[1]:
        raise MismatchError(
            f"vectors of {first.shape[1]} and {second.shape[1]} elements cannot be compared.",
            "bring both sets onto one grid.",
        )
    rng = np.random.default_rng(settings.seed)
    if ivar is not None:
        _require_one_shape(first=first, second=second, ivar=ivar)
    n_pair = min(len(first), len(second), settings.max_pairs)
    if n_pair < 10 * settings.n_fold:
        raise UsageError(
            f"{n_pair} pairs are too few for {settings.n_fold} folds.",
            "give ten or more a fold.",
        )
    rows = np.sort(rng.permutation(len(first))[:n_pair])
    others = rows if ivar is not None else np.sort(rng.permutation(len(second))[:n_pair])
    features = np.concatenate([first[rows], second[others]]).astype(np.float32)
    if ivar is not None:
        features = _weigh_pixels(features, ivar[rows])
    fold = rng.permutation(n_pair) % settings.n_fold
    domain = np.repeat([0, 1], n_pair)
    correct = np.zeros(2 * n_pair)
    n_component = min(settings.n_component, features.shape[1], n_pair)
    for number in range(settings.n_fold):
        test = np.tile(fold == number, 2)
        reduce = make_pipeline(
            PCA(n_component, svd_solver="randomized", random_state=settings.seed),
            StandardScaler(),
        )
        seen = reduce.fit_transform(features[~test])
        with threadpool_limits(1, user_api="openmp"):
            # So little work is done sooner by one thread than shared out.
            classifier = _make_classifier(settings).fit(seen, domain[~test])
        told = classifier.predict(reduce.transform(features[test]))
        correct[test] = told == domain[test]
    per_pair = correct.reshape(2, n_pair).mean(axis=0)
    return ClassifierScore(*_mean_and_error(per_pair), rows, per_pair)


def _make_classifier(settings: ClassifierConfig) -> Any:
    if settings.kind == "linear":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=0.1, max_iter=500)
    if settings.kind == "mlp":
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(
            (64,), alpha=1.0, max_iter=80, early_stopping=True, random_state=settings.seed
        )
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=80, max_leaf_nodes=15, random_state=settings.seed
    )


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
    # Never below what a single pair told wrong would give: 100 of 100 is not certainty.
    error = max(float(correct.std()), 1.0 / math.sqrt(correct.size)) / math.sqrt(correct.size)
    return float(correct.mean()), error


class LatentScores(NamedTuple):
    """How much of the domain is left in a latent space that should be shared.

    Parameters
    ----------
    accuracy, e_accuracy : float
        Of a classifier, see `separate`: 0.5 where the space is shared.
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
    settings: ClassifierConfig | None = None,
) -> LatentScores:
    """Whether synthetic and observed spectra can be told apart in the shared latent space.

    Parameters
    ----------
    shared_synth, shared_obs : (n, ...)
        Latents; axes behind the first are flattened.
    settings : ClassifierConfig, optional

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.standard_normal((2, 300, 5, 2))
    >>> scores = latent_scores(first, second)
    >>> abs(scores.accuracy - 0.5) < 0.1, abs(scores.distance) < 0.02
    (True, True)
    """
    settings = settings or ClassifierConfig()
    first = np.asarray(shared_synth, np.float64).reshape(len(shared_synth), -1)
    second = np.asarray(shared_obs, np.float64).reshape(len(shared_obs), -1)
    score = separate(first, second, settings=settings)
    spread = np.concatenate([first, second]).std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    rng = np.random.default_rng(settings.seed)
    n_row = min(len(first), len(second), 1000)
    parts = [rng.permutation(one)[:n_row] / scale for one in (first, second)]
    return LatentScores(score.accuracy, score.e_accuracy, _energy_distance(*parts), n_row)


def _energy_distance(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.spatial.distance import cdist, pdist

    between = 2.0 * float(cdist(first, second).mean())
    within = float(pdist(first).mean() + pdist(second).mean())
    return (between - within) / between if between > 0 else 0.0


def _threads_for(n_row: int) -> int | None:
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
    with threadpool_limits(_threads_for(len(every)), user_api="openmp"):
        plane = project.fit_transform(reduced)
    return PairMap(plane[:n_row].astype(float), plane[n_row:].astype(float), mixing)


def compare_variants(
    measured: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]],
    truth: Mapping[str, Float[np.ndarray, " n"]],
    *,
    errors: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]] | None = None,
    snr: Float[np.ndarray, " n"] | None = None,
    chosen: Bool[np.ndarray, " n"] | None = None,
) -> dict[str, dict[str, Comparison]]:
    """Bias, scatter and pulls of several fits of the same stars: none, transfers, oracle.

    Parameters
    ----------
    measured : mapping of variant to mapping of label to (n,)
        Rows are the same stars in every variant.
    truth : mapping of label to (n,)
    errors : as `measured`, optional
        Stated errors, for pulls.
    snr : (n,), optional
        For bins of S/N.
    chosen : (n,) bool, optional
        Stars that count, held-out ones with S/N above 50, say.

    Returns
    -------
    dict of variant to dict of label to Comparison

    Notes
    -----
    A star without a finite value in one variant leaves that label in all of them: variants are
    compared on one set of stars, or the one that gives up on hard stars would win.

    Examples
    --------
    >>> truth = {"teff": np.array([3400.0, 3500.0, 3600.0])}
    >>> fits = {"none": {"teff": truth["teff"] + 90.0}, "oracle": {"teff": truth["teff"] + 1.0}}
    >>> table = compare_variants(fits, truth)
    >>> table["none"]["teff"].recovery.bias, table["oracle"]["teff"].recovery.bias
    (90.0, 1.0)
    """
    table: dict[str, dict[str, Comparison]] = {variant: {} for variant in measured}
    for label, known in truth.items():
        with_label = {name: one[label] for name, one in measured.items() if label in one}
        kept = np.isfinite(known) if chosen is None else np.isfinite(known) & chosen
        for values in with_label.values():
            _require_one_shape(truth=known, measured=values)
            kept = kept & np.isfinite(values)
        for name, values in with_label.items():
            stated = errors.get(name, {}).get(label) if errors is not None else None
            error = np.full(known.shape, np.nan) if stated is None else stated
            brightness = np.full(known.shape, np.nan) if snr is None else snr
            table[name][label] = compare(
                values[kept], known[kept], error[kept], brightness[kept], edges=SNR_EDGES
            )
    return table


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


def _require_one_shape(**arrays: np.ndarray) -> None:
    if len({one.shape for one in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {one.shape}" for name, one in arrays.items())
        raise MismatchError(f"{shapes} must have one shape.", "pair them row by row.")
