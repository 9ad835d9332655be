"""Stars unlike those that a model was trained on are told, at any S/N, and others are not."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.inference.outliers import measure_distances
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.population import DISTANCES
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.population import PopulationConfig, learn_population
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()
WAVE = np.arange(GRID.n_pix)
KNOWN = 0.03 * np.sin(WAVE / 9.0)
OTHER = 0.03 * np.sin(WAVE / 4.3 + 1.0)
CONFIG = PopulationConfig(n_direction=2, beyond=0.01)


def observe(theory, labels, seed, *, amplitude=None, extra=0.0):
    """Spectra of S/N 20 to 200 that scatter along one pattern, and have errors the model lacks."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    flux = np.asarray(theory.predict_scaled_batch(SPACE.scale(jnp.asarray(labels, jnp.float32))))
    amplitude = rng.standard_normal(n) if amplitude is None else np.full(n, amplitude)
    snr = 10 ** rng.uniform(1.3, 2.3, n)
    unmodelled = 0.01 * rng.standard_normal((n, GRID.n_pix))
    noise = rng.standard_normal(flux.shape) / snr[:, None]
    flux = flux + amplitude[:, None] * KNOWN + unmodelled + noise + extra
    ivar = np.repeat(snr[:, None] ** 2, GRID.n_pix, axis=1).astype(np.float32)
    return ObservedDomain(flux.astype(np.float32), ivar, ivar, GRID, np.zeros(n), snr)


@pytest.fixture(scope="module")
def model(theory):
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 1)
    nothing = jnp.zeros((3, GRID.n_pix))
    return CorrectedModel(theory, nothing, jnp.zeros((0, GRID.n_pix)), theory.model_error, features)


@pytest.fixture(scope="module")
def learned(theory, model, sample_labels):
    labels = sample_labels(400, 11)
    return learn_population(model, observe(theory, labels, 12), labels, CONFIG)


def scores_of(model, population, domain, labels):
    """Distances (n, 3) over their limits."""
    problem = FitProblem.from_batch(model, domain.batch(), frame_kms=domain.frame_kms)
    found = fit(problem)
    return measure_distances(problem, found, population) / np.asarray(population.limits)


def test_other_stars_of_the_same_kind_are_within_the_limits_at_any_snr(
    theory, model, learned, sample_labels
):
    labels = sample_labels(200, 21)
    domain = observe(theory, labels, 22)
    scores = scores_of(model, learned.population, domain, labels)
    assert (scores.max(axis=1) > 1).mean() < 0.06
    # Chi-square itself is several times that of faint stars where the S/N is high.
    table = learned.report["by_snr"]
    assert table[-1]["chi2"]["0.5"] > 2 * table[0]["chi2"]["0.5"]


@pytest.mark.parametrize(
    ("name", "changed"),
    [("pattern", {"amplitude": 15.0}), ("chi2", {"extra": 2 * OTHER}), ("labels", {})],
)
def test_each_way_of_being_another_kind_of_star_is_told(
    theory, model, learned, sample_labels, name, changed
):
    labels = sample_labels(60, 31)
    if name == "labels":
        labels[:, 0], labels[:, 1], labels[:, 2] = SPACE.upper[0] - 20.0, 4.0, -2.0
    domain = observe(theory, labels, 32, **changed)
    scores = scores_of(model, learned.population, domain, labels)
    assert (scores.max(axis=1) > 1).mean() > 0.9
    # Labels of this toy can describe much of any pattern.
    assert (scores[:, DISTANCES.index(name)] > 1).mean() > 0.5


def test_outliers_among_the_training_stars_do_not_widen_the_limits(
    theory, model, learned, sample_labels
):
    labels = sample_labels(400, 11)
    clean = observe(theory, labels, 12)
    strange = observe(theory, labels, 12, amplitude=12.0)
    rows = np.arange(0, 400, 80)
    flux = clean.flux.copy()
    flux[rows] = strange.flux[rows]
    mixed = ObservedDomain(flux, clean.ivar, clean.ivar, GRID, np.zeros(400), clean.snr)
    other = learn_population(model, mixed, labels, PopulationConfig(n_direction=2, beyond=0.02))
    again = scores_of(model, other.population, mixed, labels)
    assert (again[rows].max(axis=1) > 1).all()


def test_limits_hold_for_stars_that_have_taught_nothing(theory, model, sample_labels):
    # More patterns than there are, of few stars: theirs alone are described too well.
    config = PopulationConfig(n_direction=4, beyond=0.05, least_limit=0.1)
    labels = sample_labels(200, 11)
    learned = learn_population(model, observe(theory, labels, 12), labels, config)
    assert learned.report["n_direction"] == 4
    others = sample_labels(400, 21)
    scores = scores_of(model, learned.population, observe(theory, others, 22), others)
    share = (scores > 1).mean(axis=0)
    # A twentieth goes in the first round, another in the second.
    assert share.max() < 0.16


def test_what_is_known_of_the_training_stars_survives_the_disk(model, learned, tmp_path):
    save_model(model.with_population(learned.population), tmp_path / "model")
    kept = load_model(tmp_path / "model").population
    for name in ("directions", "chi2", "pattern", "reach", "labels", "width", "limits"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(learned.population, name))
    assert kept.leading == learned.population.leading


def test_of_a_handful_of_stars_nothing_is_learned(theory, model, sample_labels):
    labels = sample_labels(30, 1)
    assert learn_population(model, observe(theory, labels, 2), labels, CONFIG) is None
