"""Stars unlike those that a model was trained on are told, at any S/N, and others are not."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.outliers import ResidualScores, measure_distances
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.population import DISTANCES, TrainingPopulation
from jaxmdwarf.training.transfer import population
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


def test_relations_leave_half_and_a_sixth_of_the_stars_above_them():
    """Of a linear median with scatter that grows: both quantiles are lines that are known."""
    x = np.random.default_rng(0).uniform(0, 1, 600)
    value = 2.0 - x + (0.2 + 0.5 * x) * np.random.default_rng(1).standard_normal(600)
    found = population._fit_relation(value, np.stack([np.ones(600), x], axis=1))
    median, upper = found @ np.stack([np.ones(600), x])
    assert (value > median).mean() == pytest.approx(0.5, abs=0.005)
    assert (value > upper).mean() == pytest.approx(0.16, abs=0.005)
    np.testing.assert_allclose(found[0], [2.0, -1.0], atol=0.15)
    np.testing.assert_allclose(found[1], [2.2, -0.5], atol=0.2)


def test_parts_are_even_and_of_whole_stars_where_there_are_enough():
    star = np.repeat(np.arange(40) * 3, 2)
    part = population._divide(star, 5)
    assert np.bincount(part).tolist() == [20] * 4
    assert (part[::2] == part[1::2]).all()
    assert not np.array_equal(part, population._divide(star, 6))
    assert not np.array_equal(part[::2], np.sort(part[::2]))
    # Of twenty stars, and of twenty-one.
    few = population._divide(np.repeat(np.arange(20), 8), 5)
    assert np.bincount(few).tolist() == [40] * 4
    assert any(few[8 * k] != few[8 * k + 1] for k in range(20))
    enough = population._divide(np.repeat(np.arange(21), 8), 5)
    assert (enough.reshape(21, 8) == enough[::8, None]).all()


def make_population(labels, width, **fields):
    nothing = {
        "directions": np.zeros((1, 5), np.float32),
        "chi2": np.zeros((2, 4), np.float32),
        "pattern": np.zeros((2, 4), np.float32),
        "reach": np.zeros((2, 2), np.float32),
        "limits": np.full(3, np.inf, np.float32),
    }
    arrays = {"labels": np.asarray(labels, np.float32), "width": np.asarray(width, np.float32)}
    return TrainingPopulation(**{**nothing, **arrays, **fields})


@pytest.mark.parametrize(("n_fewer", "place"), [(75, 4), (50, 2), (5, 1), (100, 5)])
def test_among_fewer_stars_a_nearer_neighbour_is_as_far(n_fewer, place):
    rng = np.random.default_rng(0)
    whole = rng.uniform(-0.5, 0.5, (100, 2))
    stars, errors = rng.uniform(-0.5, 0.5, (7, 2)), rng.uniform(0, 0.1, (7, 2))
    width = np.array([0.05, 0.02])
    fewer = make_population(whole[:n_fewer], width)
    found = population._distance_to_fewer(stars, errors, fewer, make_population(whole, width))
    unit = np.sqrt(width**2 + errors**2)
    away = np.linalg.norm((stars[:, None] - whole[:n_fewer]) / unit[:, None], axis=2)
    np.testing.assert_allclose(found, np.sort(away, axis=1)[:, place - 1], rtol=1e-5)


def draw_summary(n, seed=0):
    rng = np.random.default_rng(seed)
    snr = 10 ** rng.uniform(0.5, 2.5, n)
    return ResidualScores(snr=snr, chi2=rng.gamma(5.0, 0.4, n), pattern=rng.gamma(2.0, 1.0, n))


def test_what_stars_are_like_is_told_by_those_that_teach():
    n, rng = 400, np.random.default_rng(1)
    scaled = rng.normal((0.0, 0.2, 0.0), 0.1, (n, 3))
    scaled[:, 2] = 0.3
    errors = np.full((n, 3), 0.01)
    summary, teaching = draw_summary(n), np.arange(n) % 4 > 0
    summary.snr[[1, 2, 3, 5, 6]] = [0.0, 1e-9, 1e-4, 1e-3, 1e-3]
    directions = rng.standard_normal((2, 5))
    config = PopulationConfig(max_labels=120, width=0.3, seed=2)
    args = summary, scaled, errors, teaching, directions, 1, config
    found = population._describe(*args)
    assert found.leading == 1
    np.testing.assert_array_equal(found.directions, directions.astype(np.float32))
    # An S/N below a thousandth is as bad as one of a thousandth.
    decades = np.where(summary.snr < 1e-3, -3, np.log10(np.fmax(summary.snr, 1e-9)))
    at = np.stack([decades, scaled[:, 1]])[:, teaching]
    ordered = np.sort(at, axis=1)
    reach = [
        [np.interp(299 * share, np.arange(300), row) for row in ordered] for share in (0.01, 0.99)
    ]
    np.testing.assert_allclose(found.reach, reach, rtol=1e-5)
    low, high = np.quantile(scaled[teaching, 0], [0.16, 0.84])
    np.testing.assert_allclose(found.width[0], 0.3 * (high - low) / 2, rtol=1e-5)
    assert found.width[2] == np.float32(1e-3)
    rows = [np.flatnonzero((scaled.astype(np.float32) == one).all(axis=1)) for one in found.labels]
    rows = np.concatenate(rows)
    assert len(np.unique(rows)) == 120
    assert teaching[rows].all()
    assert (np.diff(rows) > 0).all()
    everyone = population._describe(*args[:-1], PopulationConfig(max_labels=300))
    assert len(everyone.labels) == 300
    # Relations are of the cube roots.
    for name in ("chi2", "pattern"):
        features = population.relation_features(np.clip(at.T, *np.asarray(found.reach)))
        relation = np.asarray(getattr(found, name)) @ features.T
        shares = (np.cbrt(getattr(summary, name)[teaching]) > relation).mean(axis=1)
        np.testing.assert_allclose(shares, [0.5, 0.16], atol=0.02)


def test_reports_count_stars_by_snr_and_beyond_each_limit():
    n = 400
    summary, kept = draw_summary(n), np.arange(n) % 4 > 0
    distances = np.random.default_rng(3).uniform(0, 1, (n, 3))
    distances[5, 1] = np.nan
    some = make_population(np.zeros((2, 3)), np.ones(3), limits=np.float32([0.90009, 0.5, 2.0]))
    told = population._report(some, summary, np.zeros((n, 3)), distances, kept)
    assert (told["n"], told["n_direction"]) == (300, 1)
    assert told["limits"] == {"chi2": 0.9, "pattern": 0.5, "labels": 2.0}
    beyond = {"chi2": (distances[:, 0] > 0.90009).mean(), "pattern": (distances[:, 1] > 0.5).mean()}
    assert told["beyond"] == pytest.approx({**beyond, "labels": 0.0}, abs=1e-5)
    both = (distances[:, 0] > 0.90009) | (distances[:, 1] > 0.5)
    assert told["beyond_any"] == pytest.approx(both.mean(), abs=1e-5)
    bins = told["by_snr"]
    # Fifty a bin; a star on an edge is in both.
    assert [one["n"] for one in bins] == [50] * 6
    snr = np.sort(summary.snr[kept])
    assert bins[0]["snr"][0] == pytest.approx(snr[0], abs=0.01)
    assert bins[-1]["snr"][1] == pytest.approx(snr[-1], abs=0.01)
    assert bins[2]["snr"][1] == bins[3]["snr"][0]
    inside = kept & (summary.snr >= snr[100]) & (summary.snr <= snr[149])
    for name in ("chi2", "pattern"):
        values = np.sort(getattr(summary, name)[inside])
        for share, value in bins[2][name].items():
            expected = np.interp(49 * float(share), np.arange(50), values)
            assert value == pytest.approx(expected, abs=1e-4)
    small = population._report(some, summary, np.zeros((n, 3)), distances, np.arange(n) < 60)
    assert [one["n"] for one in small["by_snr"]] == [60]
    more = population._report(some, *map(_repeat, (summary, np.zeros((n, 3)), distances, kept)))
    assert len(more["by_snr"]) == 6


def _repeat(values):
    if isinstance(values, ResidualScores):
        return ResidualScores(*map(_repeat, values))
    return np.concatenate([values, values])


def test_configurations_that_make_no_sense_are_refused():
    PopulationConfig(n_direction=1, least_spectra=1, max_spectra=1, max_expensive=1, max_labels=1)
    for bad in (
        {"n_direction": 0}, {"least_spectra": 0}, {"max_spectra": 0}, {"max_expensive": 0},
        {"max_labels": 0}, {"beyond": 0.0}, {"beyond": 1.0}, {"width": 0.0}, {"least_limit": 0.0},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="must be positive"):
            PopulationConfig(**bad)


@pytest.fixture
def rounds(model, monkeypatch):
    """Learning from distances that are drawn, not fitted: what is asked, and of how many."""
    seen = SimpleNamespace(rows=[], directions=[], teaching=[])

    def run(n, config, *, expensive=False, failed=(), star=None):
        rng = np.random.default_rng(4)
        seen.distances = rng.gamma(2.0, 2.0, (n, 3))
        converged = ~np.isin(np.arange(n), failed)

        def fit_all(model, observed, labels, rows):
            seen.rows.append(rows)
            m = len(rows)
            result = SimpleNamespace(
                labels=np.tile([3600.0, 5.0, 0.0, 0.1], (m, 1)), errors=np.ones((m, 4)),
                converged=converged[:m],
            )  # fmt: skip
            return SimpleNamespace(
                result=result, residuals=lambda: (np.ones((m, 5)), np.ones((m, 5))),
                summarise=lambda directions: draw_summary(m),
            )  # fmt: skip

        def learn_directions(residual, weight, n_direction, *, seed):
            seen.directions.append(n_direction)
            return np.zeros((n_direction, 5))

        def describe(summary, scaled, errors, teaching, directions, leading, config):
            seen.teaching.append(teaching)
            seen.leading = leading
            return make_population(np.zeros((2, 4)), np.ones(4))

        def measure(self, **told):
            return seen.distances[: len(told["snr"])].copy()

        def to_fewer(scaled, errors, fewer, whole):
            return 2 * seen.distances[: len(scaled), 2]

        monkeypatch.setattr(population, "_fit_all", fit_all)
        monkeypatch.setattr(population, "learn_directions", learn_directions)
        monkeypatch.setattr(population, "_describe", describe)
        monkeypatch.setattr(population, "_distance_to_fewer", to_fewer)
        monkeypatch.setattr(TrainingPopulation, "measure_distances", measure)
        monkeypatch.setattr(CorrectedModel, "expensive", property(lambda self: expensive))
        ones = np.ones((n, GRID.n_pix), np.float32)
        domain = ObservedDomain(ones, ones, ones, GRID, np.zeros(n), np.ones(n), star=star)
        return learn_population(model, domain, np.ones((n, 4)), config)

    return seen, run


def test_limits_are_quantiles_of_stars_that_were_within_those_of_a_first_round(rounds):
    seen, run = rounds
    config = PopulationConfig(n_direction=12, beyond=0.02, least_limit=9.0)
    learned = run(400, config, failed=[3, 50])
    distances = seen.distances * [1, 1, 2]
    first = ~np.isin(np.arange(400), [3, 50])

    def limit(kept):
        return np.maximum(9.0, np.quantile(distances[kept], 0.98, axis=0))

    kept = first & (distances <= limit(first)).all(axis=1)
    assert 370 < kept.sum() < 398
    np.testing.assert_allclose(learned.population.limits, limit(kept), rtol=1e-6)
    assert learned.report["n"] == kept.sum()
    # Of all that are kept, then of three quarters of them, four times; and again.
    assert seen.directions == [12] * 10
    assert seen.leading == 0
    for number, used in ((0, first), (5, kept)):
        np.testing.assert_array_equal(seen.teaching[number], used)
        parts = [used & ~one for one in seen.teaching[number + 1 : number + 5]]
        assert (np.sum(parts, axis=0) == used).all()
        assert not any((one & ~used).any() for one in seen.teaching[number + 1 : number + 5])
        assert min(part.sum() for part in parts) > 80
    seen.directions.clear()
    run(100, PopulationConfig(n_direction=12, beyond=0.02))
    # Seventy-five that teach have three patterns; once some are gone, still.
    assert seen.directions == [3] * 10


def test_some_of_very_many_spectra_are_looked_at_and_of_few_none(rounds):
    seen, run = rounds
    config = PopulationConfig(max_spectra=200, max_expensive=90, least_spectra=80, beyond=0.1)
    run(400, config)
    run(400, config, expensive=True)
    first, second = seen.rows
    assert (len(first), len(second)) == (200, 90)
    for rows in (first, second):
        assert (np.diff(rows) > 0).all()
        assert rows.max() > 250
    run(200, config)
    np.testing.assert_array_equal(seen.rows[-1], np.arange(200))
    assert run(80, config) is not None
    assert run(79, config) is None
    assert run(81, config, failed=[1, 2]) is None
    assert run(82, config, failed=[1, 2]) is not None
