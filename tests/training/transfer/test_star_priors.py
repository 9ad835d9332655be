"""Priors on a star are fitted to the stars of the survey."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.training.transfer import star_priors
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample
from jaxmdwarf.training.transfer.star_priors import learn_star_priors


def test_mean_and_width_are_those_of_the_stars(universe):
    theory, domain, labels, _ = universe
    # A theory that lacks nothing but what it says: the flux of nature less what is missed.
    n_pix = theory.grid.n_pix
    correction = np.zeros((3, n_pix), np.float32)
    wave = np.arange(n_pix)
    correction[0] = 0.05 * np.sin(wave / 7.0) + 0.04 * np.exp(-(((wave - 100) / 40.0) ** 2))
    correction[1] = 0.01 * np.cos(wave / 11.0)
    model = CorrectedModel(
        theory,
        jnp.asarray(correction),
        jnp.zeros((0, n_pix), jnp.float32),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, 0.0), (200.0, 1.0), 1),
        (LabelPrior("mh", 0.1, 0.1),),
    )
    stars = StarSample(domain, theory, np.arange(domain.n_spec))
    kept, start = np.ones(domain.n_spec, bool), np.zeros(4, np.float32)
    (found,) = learn_star_priors(model, stars, kept, start, names=("mh",))
    assert found.mean == pytest.approx(labels[:, 2].mean(), abs=0.03)
    assert found.sigma == pytest.approx(labels[:, 2].std(), rel=0.15)
    # Stars that do not count are as if they were not there.
    rich = labels[:, 2] > np.median(labels[:, 2])
    (of_rich,) = learn_star_priors(model, stars, rich, start, names=("mh",))
    assert of_rich.mean == pytest.approx(labels[rich, 2].mean(), abs=0.03)
    assert learn_star_priors(model, stars, kept, start, names=()) == model.label_priors


SPACE = LabelSpace.mdwarf()
WIDTH = np.subtract(SPACE.upper, SPACE.lower)
MIDDLE = 0.5 * np.add(SPACE.upper, SPACE.lower)
OLD = (
    LabelPrior("mh", 0.1, 0.15),
    RelationPrior("alpha_m", ("mh",), ((0,), (1,)), (0.05, -0.3), 0.02, (0.0,), (1.0,)),
    LabelPrior("teff", 3500.0, 400.0),
    RelationPrior("logg", ("teff",), ((0,), (1,)), (5.0, -0.2), 0.3, (3500.0,), (500.0,)),
)


@pytest.fixture
def learn(theory, monkeypatch):
    """Learned priors of stars whose likelihoods are Gaussians: means and one covariance of all."""
    model = CorrectedModel(
        theory,
        jnp.zeros((1, theory.grid.n_pix)),
        jnp.zeros((0, theory.grid.n_pix)),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 0),
        OLD,
    )

    def find_posteriors(means, covariance):
        """Under the old priors, by Bayes: precisions add, in scaled labels."""
        slopes = np.zeros((4, 4))  # of expected minus label, over sigma
        slopes[0, 2], slopes[1, 2:], slopes[2, 0] = -1 / 0.15, [-0.3 / 0.02, -1 / 0.02], -1 / 400
        slopes[3, :2] = -0.2 / 500 / 0.3, -1 / 0.3
        constant = np.array([0.1 / 0.15, 0.05 / 0.02, 3500 / 400, (5.0 + 0.2 * 7) / 0.3])
        likelihood = np.linalg.inv(covariance)
        precision = likelihood + slopes.T @ slopes
        labels = np.linalg.solve(precision, (means @ likelihood - constant @ slopes).T).T
        error = np.linalg.inv(precision) / WIDTH / WIDTH[:, None]
        n = len(means)
        scaled = ((labels - MIDDLE) / WIDTH).astype(np.float32)
        return Posterior(scaled, np.tile(error, (n, 1, 1)), np.zeros((n, 0)), *np.ones((2, n)))

    ones = np.ones((1, theory.grid.n_pix), np.float32)
    one = ObservedDomain(ones, ones, ones, theory.grid, np.zeros(1), np.ones(1))
    stars = StarSample(one, theory, np.arange(1))

    def run(means, covariance, *, unkept=(), failed=(), **options):
        found = find_posteriors(means, covariance)
        found.covariance[list(failed)] = np.nan
        monkeypatch.setattr(star_priors, "estimate_labels", lambda *args: found)
        kept = ~np.isin(np.arange(len(means)), unkept)
        return learn_star_priors(model, stars, kept, np.zeros(4), **options)

    return run


def draw_likelihoods(n=400):
    """Stars of [M/H] -0.15 +- 0.25, [alpha/M] with a scatter of 0.06 about its relation."""
    rng = np.random.default_rng(2)
    root = np.diag([60.0, 0.2, 0.12, 0.05])
    root[3, 2], root[1, 0] = -0.02, 0.05
    labels = np.empty((n, 4))
    labels[:, 2] = rng.normal(-0.15, 0.25, n)
    labels[:, 3] = 0.05 - 0.3 * labels[:, 2] + rng.normal(0, 0.06, n)
    labels[:, 0] = rng.normal(3400, 100, n)
    labels[:, 1] = 5.0 - 0.2 * (labels[:, 0] - 3500) / 500 + rng.normal(0, 0.1, n)
    return labels + rng.standard_normal((n, 4)) @ root.T, root @ root.T


def test_priors_are_those_under_which_the_stars_are_most_probable(learn):
    """Every Gaussian at once, against a minimiser of the marginal likelihood of the means."""
    means, covariance = draw_likelihoods()
    mh, alpha, teff, gravity = learn(means, covariance, names=("mh", "alpha_m", "logg"), n_iter=200)
    alone = means[:, 2]
    away = means[:, 3] - 0.05 + 0.3 * alone
    turn = np.array([[0, 0, 1.0, 0], [0, 0, 0.3, 1.0]])
    noise = turn @ covariance @ turn.T

    def surprise(values):
        mean, sigma, scatter = values
        total = noise + np.diag([sigma**2, scatter**2])
        left = np.stack([alone - mean, away])
        return 0.5 * (
            len(alone) * np.linalg.slogdet(total)[1] + np.sum(left * np.linalg.solve(total, left))
        )

    best = minimize(surprise, [0.0, 0.2, 0.05], method="Nelder-Mead", options={"xatol": 1e-5}).x
    # What Teff and log g tell of [M/H] is next to nothing here; float32 takes the rest.
    assert (mh.mean, mh.sigma, alpha.sigma) == pytest.approx(
        tuple(np.abs(best) * [-1, 1, 1]), abs=2e-3
    )
    assert alpha.coefficients == OLD[1].coefficients
    assert teff == OLD[2]
    # Relations become no tighter than they are said to be.
    assert gravity == OLD[3]
    few = learn(means, covariance, names=("mh",), n_iter=3)
    assert OLD[0].mean > few[0].mean > mh.mean
    assert few[1] == OLD[1]


def test_priors_are_no_narrower_than_what_is_known_of_the_population(learn):
    means, covariance = draw_likelihoods()
    free = learn(means, covariance, names=("mh", "alpha_m"))
    wide = learn(means, covariance, names=("mh", "alpha_m"), least={"mh": 0.4, "logg": 0.9})
    assert wide[0].sigma == 0.4
    assert wide[0].mean == free[0].mean
    assert wide[1:] == free[1:]
    narrow = learn(means, covariance, names=("mh", "alpha_m"), least={"mh": 0.1})
    assert narrow == free


def test_stars_without_errors_far_ones_and_others_do_not_count(learn):
    means, covariance = draw_likelihoods()
    plain = learn(means, covariance, names=("mh",))[0]
    more = np.concatenate([means, means[:3]])
    more[-1, 2] += 1.0
    more[-2, 2] -= 3.0  # beyond five sigma of any [M/H]
    again = learn(more, covariance, unkept=[402], failed=[400], names=("mh",))[0]
    assert again.sigma == pytest.approx(plain.sigma, rel=1e-3)
    assert again.mean == pytest.approx(plain.mean, abs=1e-4)
    counted = learn(more, covariance, failed=[400], names=("mh",))[0]
    assert counted.sigma > 1.005 * plain.sigma


@pytest.mark.parametrize(("sigmas", "counts"), [(4.7, True), (5.4, False)])
def test_stars_beyond_five_sigma_have_no_say(learn, sigmas, counts):
    means, covariance = draw_likelihoods()
    args = covariance / 400, {"names": ("mh",), "n_iter": 30}
    plain = learn(means, args[0], **args[1])[0]
    more = np.concatenate([means, means[:1]])
    more[-1, 2] = plain.mean + sigmas * plain.sigma
    found = learn(more, args[0], **args[1])[0]
    assert (found.sigma > 1.01 * plain.sigma) == counts
