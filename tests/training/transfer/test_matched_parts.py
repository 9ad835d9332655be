"""Parts of a matched training, each on its own: choices, resamplings, nuisance directions."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.training.transfer import label_matching, matched, uncorrected
from jaxmdwarf.training.transfer.anchors import KnownLabels
from jaxmdwarf.training.transfer.domain import DomainSplit, ObservedDomain
from jaxmdwarf.training.transfer.label_matching import Population, ReferenceSample
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample, estimate_labels
from jaxmdwarf.training.transfer.matched_config import MatchedConfig

SPACE = LabelSpace.mdwarf()
POPULATION = Population(np.array([3500.0, -0.1]), np.diag([150.0**2, 0.2**2]), (), 200)


def make_domain(theory, n, *, snr=None, star=None):
    ones = np.ones((n, theory.grid.n_pix), np.float32)
    snr = np.full(n, 50.0) if snr is None else snr
    return ObservedDomain(ones, 100 * ones, 100 * ones, theory.grid, np.zeros(n), snr, star=star)


def make_trials(mismatches, evidences, *, scatter=0.0):
    rng = np.random.default_rng(0)
    shape = rng.permutation(np.linspace(-1, 1, 100))
    return [
        {
            "strength": 0.1 * (number + 1),
            "mismatch": mismatch,
            "evidence": evidence,
            "evidence_of_stars": evidence + scatter * number * shape,
        }
        for number, (mismatch, evidence) in enumerate(zip(mismatches, evidences, strict=True))
    ]


# Widths of 50 stars are known to a tenth, those of 200 to a twentieth: together to 0.112.
@pytest.mark.parametrize(
    ("mismatches", "evidences", "chosen"),
    [
        ((0.0, 0.22, 0.3), (1.0, 2.0, 3.0), 1),
        ((0.0, 0.23, 0.3), (1.0, 2.0, 3.0), 0),
        ((0.5, 0.55, 0.6), (1.0, 2.0, 3.0), 1),
        ((0.5, 0.56, 0.6), (1.0, 2.0, 3.0), 0),
        ((0.0, 0.1, 0.1), (3.0, 2.0, 1.0), 0),
        ((0.0, 0.1, 0.1), (2.0, 2.0, 1.0), 1),
    ],
)
def test_trials_agree_within_the_errors_of_widths(mismatches, evidences, chosen):
    assert matched._choose_trial(make_trials(mismatches, evidences), 50, 200) == chosen


@pytest.mark.parametrize(("lost", "chosen"), [(0.45, 1), (0.7, 0)])
def test_trials_are_tied_within_one_standard_error_of_their_difference(lost, chosen):
    """Differences spread evenly over +-10 scatter by 5.8, the mean of a hundred by 0.58."""
    trials = make_trials((0.0, 0.0), (0.0, -lost), scatter=10.0)
    assert matched._choose_trial(trials, 50, 200) == chosen


def test_the_tails_of_evidence_are_clipped_at_a_twentieth():
    values = np.arange(101.0)
    values[[3, 99]] = -1e6, 1e6
    clipped = matched._clip(values)
    assert (clipped.min(), clipped.max()) == (5, 95)
    trial = matched._describe_trial(
        0.3, Posterior(None, None, None, values, None), [{"stretch": {"teff": 1.2, "mh": 0.7}}]
    )
    assert trial["evidence"] == pytest.approx(clipped.mean())
    assert trial["mismatch"] == pytest.approx(0.3)
    assert (trial["strength"], trial["evidence_of_stars"] is values) == (0.3, True)


def test_common_stars_are_those_of_the_reference_that_are_learned_from():
    rows = np.array([2, 3, 5, 8, 9])
    reference = ReferenceSample(np.arange(8.0).reshape(4, 2), (1.0, 0.1), np.array([8, 1, 2, 3]))
    found, common = matched._find_common(reference, rows, 3)
    assert common.tolist() == [True, True, False, True, False]
    assert found.rows.tolist() == [8, 2, 3]
    assert found.teff_mh.tolist() == [[0, 1], [4, 5], [6, 7]]
    assert found.errors == (1.0, 0.1)
    for other in (reference, replace(reference, rows=None)):
        assert matched._find_common(other, rows, 4) == (other, None)
    assert matched._find_common(None, rows, 0) == (None, None)


def test_spectra_to_learn_from_are_good_enough_and_anchors_among_them(theory):
    snr = np.where(np.arange(100) % 2, 10.0, 9.99)
    domain = make_domain(theory, 100, snr=snr)
    config = MatchedConfig(min_snr=10.0, max_spectra=30, seed=1)
    anchored = np.arange(100) < 60
    rows = uncorrected.choose_rows(domain, np.arange(20, 100), config, 40, anchored)
    assert set(range(21, 60, 2)) <= set(rows)
    assert len(rows) == 30 == len(set(rows))
    assert (rows % 2 == 1).all()
    assert (np.diff(rows) > 0).all()
    with pytest.raises(MismatchError, match="40 of 80 spectra"):
        uncorrected.choose_rows(domain, np.arange(20, 100), config, 41, anchored)
    every = uncorrected.choose_rows(domain, np.arange(100), replace(config, max_spectra=50), 1)
    assert every.tolist() == list(range(1, 100, 2))
    # More anchors than there is room for.
    many = uncorrected.choose_rows(
        domain, np.arange(100), replace(config, max_spectra=29), 1, anchored
    )
    assert many.tolist() == list(range(1, 60, 2))
    other = uncorrected.choose_rows(domain, np.arange(100), replace(config, seed=2), 1)
    assert other.tolist() != uncorrected.choose_rows(domain, np.arange(100), config, 1).tolist()


@pytest.mark.parametrize(("chi2", "scale"), [(0.5, 1.0), (4.0, 2.0), (16.0, 3.0)])
def test_noise_is_that_of_the_three_tenths_of_the_faintest_within_one_and_three(chi2, scale):
    snr = np.arange(10, 111.0)
    values = np.where(snr <= 40, chi2, 1e4)
    values[:15] = 0.0
    found = Posterior(None, None, None, None, values)
    assert uncorrected.find_noise_scale(found, snr) == scale


def test_errors_of_labels_are_described_in_physical_units(model):
    assert matched._describe_label_error(model) == {}
    width = np.subtract(SPACE.upper, SPACE.lower)
    error = np.diag(np.square(np.array([60.0, 0.1, 0.2, 0.05]) / width)).astype(np.float32)
    error[0, 1] = error[1, 0] = 1e-3
    told = matched._describe_label_error(replace(model, label_error=jnp.asarray(error)))
    assert told == pytest.approx({"teff": 60.0, "logg": 0.1, "mh": 0.2, "alpha_m": 0.05})


@pytest.fixture
def means(monkeypatch):
    """A regression that is nothing but a mean of numbers of the stars that it learns from."""
    seen = SimpleNamespace(rows=[], listed=[], common=[], config=None, found=[])
    numbers = np.random.default_rng(5).normal(3.0, 2.0, 400)

    def learn(model, found, stars, population, strength, config, common, on_pass, *, known):
        seen.rows.append(stars.rows)
        seen.config, seen.strength = config, strength
        seen.common.append(common)
        seen.found.append(found)
        mean = numbers[stars.rows].mean()
        return SimpleNamespace(model=SimpleNamespace(correction=np.full((1, 200), mean)))

    def estimate(model, stars, start):
        rows = 1.0 * stars.rows
        return Posterior(*(rows for _ in Posterior._fields))

    def describe(teff_mh, errors):
        seen.listed.append(teff_mh[:, 0])
        return POPULATION.mean, POPULATION.covariance

    monkeypatch.setattr(matched, "_learn", learn)
    monkeypatch.setattr(matched, "estimate_labels", estimate)
    monkeypatch.setattr(label_matching, "_describe_distribution", describe)
    return seen, numbers


def resample(model, theory, config, reference=None, common=None):
    stars = StarSample(make_domain(theory, 400), theory, np.arange(400))
    return matched._learn_uncertainty(model, stars, POPULATION, reference, common, 0.3, config)


@pytest.mark.parametrize("most", [800, 60])
def test_disjoint_samples_tell_the_error_of_a_mean(model, theory, means, most):
    """That of a mean of 400 numbers is their scatter over 20, however few a sample has."""
    seen, numbers = means
    config = MatchedConfig(n_resample=150, max_resampled=most, n_passes=4, n_nuisance=5)
    changes = resample(model, theory, config)
    assert changes.shape == (150, 1, 200)
    variance = np.sum(changes[:, 0, 0].astype(np.float64) ** 2)
    expected = numbers.var(ddof=1) / 400
    assert variance == pytest.approx(expected, rel=0.3)
    assert abs(changes[:, 0, 0].mean()) < 3 * np.sqrt(expected / 150 / 150)
    for first, second in zip(seen.rows[::2], seen.rows[1::2], strict=True):
        assert not set(first) & set(second)
        assert len(first) == len(second) == min(most, 200)
    assert (seen.config.n_passes, seen.config.n_nuisance, seen.strength) == (2, 0, 0.3)
    np.testing.assert_array_equal(seen.found[0].evidence, seen.rows[0])


def test_references_are_halved_in_the_same_proportion(model, theory, means):
    seen, _ = means
    sample = np.column_stack([np.arange(200.0), np.zeros(200)])
    config = MatchedConfig(n_resample=2, max_resampled=60)
    resample(model, theory, config, ReferenceSample(sample))
    # Sixty of four hundred stars: thirty of two hundred of the reference.
    assert [len(one) for one in seen.listed] == [30] * 4
    assert not set(seen.listed[0]) & set(seen.listed[1])
    seen.listed.clear()
    resample(model, theory, config, ReferenceSample(sample[:12]))
    assert [len(one) for one in seen.listed] == [6] * 4
    seen.listed.clear()
    resample(model, theory, config, ReferenceSample(sample[:50]))
    assert [len(one) for one in seen.listed] == [10] * 4
    # Stars in common are those of each sample.
    seen.listed.clear()
    seen.rows.clear()
    rows = np.arange(0, 400, 2)
    common = np.isin(np.arange(400), rows)
    resample(model, theory, config, ReferenceSample(sample, rows=rows), common)
    for listed, some in zip(seen.listed, seen.rows, strict=True):
        np.testing.assert_array_equal(2 * listed, some[some % 2 == 0])
    np.testing.assert_array_equal(seen.common[-1], seen.rows[-1] % 2 == 0)


def test_nuisance_directions_are_of_bright_stars_that_are_kept(model, theory, monkeypatch):
    seen = SimpleNamespace()
    snr = np.linspace(10, 110, 201)
    domain = make_domain(theory, 201, snr=snr)
    domain.ivar[:, 7] = 0
    stars = StarSample(domain, theory, np.arange(201))
    kept = np.arange(201) % 3 > 0

    def residuals_of(model, stars, found, *, without_nuisance):
        assert without_nuisance
        seen.rows = stars.rows
        return lambda chunk: np.linspace(-0.3, 0.3, 200) * np.ones((len(stars.rows[chunk]), 1))

    def learn_directions(residual, weight, n_direction, *, seed):
        seen.residual, seen.weight, seen.n_direction = residual, weight, n_direction
        return np.ones((n_direction, 200), np.float32)

    monkeypatch.setattr(matched, "estimate_labels", lambda *args: None)
    monkeypatch.setattr(matched, "residuals_of", residuals_of)
    monkeypatch.setattr(matched, "learn_directions", learn_directions)
    args = stars, np.zeros(4), kept
    found = matched._learn_nuisance(model, *args, MatchedConfig(n_nuisance=16))
    bright = np.flatnonzero(kept & (snr >= 70))
    np.testing.assert_array_equal(seen.rows, bright)
    # A dozen of stars for each.
    assert seen.n_direction == len(bright) // 12 == 4
    assert found.nuisance.shape == (4, 200)
    expected = np.clip(np.linspace(-0.3, 0.3, 200), -0.1, 0.1)
    expected[7] = 0
    np.testing.assert_allclose(seen.residual, np.tile(expected, (len(bright), 1)))
    assert (seen.weight[:, 7] == 0).all()
    assert (seen.weight[:, 8] > 0).all()
    matched._learn_nuisance(model, *args, MatchedConfig(n_nuisance=3))
    assert seen.n_direction == 3
    assert matched._learn_nuisance(model, *args, MatchedConfig(n_nuisance=0)) is model


def test_a_star_is_judged_by_all_but_the_temperatures_of_the_survey(model, theory, monkeypatch):
    kept = np.array([True, False, True])
    population = POPULATION._replace(width_mh=0.25)
    learned = matched._Learned(model, [], kept, population, None)
    stars = StarSample(make_domain(theory, 3), theory, np.arange(3))
    plain = matched._learn_of_stars(model, stars, learned, MatchedConfig(learn_priors=False))
    (prior,) = plain.label_priors
    assert (prior.name, prior.mean, prior.sigma) == ("mh", pytest.approx(-0.1), pytest.approx(0.2))
    new = LabelPrior("mh", 0.3, 0.4)

    def learn_star_priors(model, stars, kept, start, *, names, least):
        assert kept is learned.kept
        assert least == {"mh": 0.25}
        assert names == ("mh", "alpha_m")
        assert model.label_priors == plain.label_priors
        np.testing.assert_array_equal(start, POPULATION.mean_scaled(SPACE))
        return (new,)

    monkeypatch.setattr(matched, "learn_star_priors", learn_star_priors)
    assert matched._learn_of_stars(model, stars, learned, MatchedConfig()).label_priors == (new,)


@pytest.mark.parametrize("anchored", [True, False])
def test_errors_are_learned_from_spectra_without_hits(anchored, model, theory, monkeypatch):
    """Of held-out anchors, else of common stars; those of relations beside; then of velocities."""
    n, rows = 30, np.arange(5, 35)
    stars = StarSample(make_domain(theory, 40), theory, rows)
    residual = np.zeros((n, theory.grid.n_pix), np.float32)
    residual[4, 7] = 0.9
    scaled = np.linspace(-0.4, 0.4, 4 * n).reshape(n, 4).astype(np.float32)
    posterior = Posterior(scaled, *np.zeros((len(Posterior._fields) - 1, n)))
    monkeypatch.setattr(matched, "estimate_labels", lambda *args: posterior)
    monkeypatch.setattr(
        matched, "residuals_of", lambda one, some, found: lambda chunk: residual[chunk]
    )
    labels_known = KnownLabels(scaled, np.ones((n, 4)), np.ones(n), np.arange(n))
    seen = {}
    first, both = jnp.eye(4), 3 * jnp.eye(4)

    def take(name, observed, at, start):
        seen[name] = np.asarray(at)
        expected = np.full((n, theory.grid.n_pix), 100.0)
        expected[4, 7] = 0
        np.testing.assert_array_equal(observed.ivar, expected)
        np.testing.assert_allclose(start, SPACE.unscale(scaled)[at], rtol=1e-6)

    def judge(best, learn, known, observed, at, start, n_fold):
        assert (known, learn, n_fold) == (labels_known, print, 3)
        take("anchors", observed, at, start)
        return replace(best, label_error=first), {"n_fold": n_fold}

    def learn_label_errors(best, observed, reference, start):
        take("common", observed, reference.rows, start)
        return first

    def measure(best, observed, at, start):
        np.testing.assert_array_equal(best.label_error, first)
        take("relations", observed, at, start)
        return "offsets"

    def velocity(best, observed, at, start):
        np.testing.assert_array_equal(best.label_error, both)
        take("velocities", observed, at, start)
        return jnp.asarray(2.0)

    monkeypatch.setattr(matched, "judge_anchors", judge)
    monkeypatch.setattr(matched, "learn_label_errors", learn_label_errors)
    monkeypatch.setattr(matched, "measure_relation_offsets", measure)
    monkeypatch.setattr(matched, "expect_relation_errors", lambda offsets: {offsets: 1.0})
    monkeypatch.setattr(
        matched, "join_label_errors", lambda space, told, added: both if added else told
    )
    monkeypatch.setattr(matched, "learn_velocity_error", velocity)
    reference = ReferenceSample(np.ones((2, 2)), (1.0, 1.0), np.array([8, 30]))
    known = labels_known if anchored else None
    found, told = matched._learn_errors(model, stars, np.zeros(4), known, print, reference, 3)
    np.testing.assert_array_equal(found.label_error, both)
    assert float(found.velocity_error) == 2.0
    assert told == ({"n_fold": 3} if anchored else {})
    every = {"relations", "velocities", "anchors" if anchored else "common"}
    assert set(seen) == every
    if not anchored:
        assert seen["common"].tolist() == [3, 25]  # rows of the sample


def test_spectra_of_low_snr_are_no_good_ones_to_validate_with(theory, monkeypatch):
    seen = []

    def split(n_spec, config, star, anchored, good):
        seen.append(good)
        raise MismatchError("enough")

    monkeypatch.setattr(matched, "split_for_matching", split)
    snr = np.r_[np.full(70, 9.9), np.full(50, 10.0)]
    labels = np.zeros((5, 4))
    with pytest.raises(MismatchError, match="enough"):
        matched.train_matched(theory, make_domain(theory, 120, snr=snr), labels)
    np.testing.assert_array_equal(seen[0], snr >= 10.0)


def test_theory_starts_with_features_about_the_population(theory):
    one = uncorrected.start_model(theory, POPULATION, MatchedConfig(order=2))
    assert one.features.centre == (3500.0, -0.1)
    assert one.features.scale == pytest.approx((150.0, 0.2))
    assert one.correction.shape == (6, 200)
    assert one.nuisance.shape == (0, 200)
    assert not np.any(one.correction)
    assert one.label_priors == POPULATION.priors


def test_settings_that_make_no_sense_are_refused_and_extreme_ones_are_not():
    MatchedConfig(
        n_passes=1, max_spectra=1, max_resampled=30, n_nuisance=0, n_resample=0, n_fold=0, keep=1.0
    )
    MatchedConfig(n_fold=2)
    for bad in (
        {"n_passes": 0}, {"max_spectra": 0}, {"max_resampled": 29}, {"strengths": ()},
        {"n_nuisance": -1}, {"n_resample": -1}, {"n_fold": -1}, {"n_fold": 1}, {"outside": 0.0},
        {"logg_sigma": 0.0}, {"alpha_sigma": 0.0}, {"keep": 0.0}, {"keep": 1.01},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="must be positive"):
            MatchedConfig(**bad)


@pytest.mark.parametrize("with_anchors", [False, True])
def test_passes_learn_of_matched_stars_that_theory_describes(
    model, theory, monkeypatch, with_anchors
):
    n = 40
    snr = np.linspace(10, 60, n)
    stars = StarSample(make_domain(theory, n, snr=snr), theory, np.arange(n))
    # Chi-square grows with S/N; that of three stars is too large for theirs.
    chi2 = 4.0 * (1 + (snr / 20) ** 2)
    chi2[[3, 20, 39]] *= 1.5
    found = Posterior(np.zeros((n, 4), np.float32), *np.zeros((2, n, 4, 4)), np.zeros(n), chi2)
    seen = SimpleNamespace(estimated=[], matched=[], strengths=[], common=[])
    stretch, moved = np.array([[1.2, 0.1], [0.3, 0.9]]), np.array([50.0, -0.1])
    other, further = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([7.0, 0.02])
    shifted = POPULATION._replace(mean=POPULATION.mean + 1.0)

    def estimate(model, stars, start):
        seen.estimated.append(model)
        np.testing.assert_array_equal(start, POPULATION.mean_scaled(SPACE))
        return found._replace(evidence=np.ones(n))

    def match(found, space, population, common):
        assert population is POPULATION
        seen.common.append(common)
        return found, stretch, moved

    def anchor(matched, space, population, known):
        assert population is POPULATION
        return SimpleNamespace(
            posterior=matched._replace(amplitudes="told"), population=shifted, stretch=other,
            moved=further,
        )  # fmt: skip

    def regress(model, stars, matched, kept, strength, outside):
        seen.matched.append(matched)
        seen.kept, seen.outside = kept, outside
        seen.strengths.append(strength)
        return np.full((1, 200), len(seen.matched), np.float32)

    def learn_nuisance(model, stars, start, kept, config):
        np.testing.assert_array_equal(kept, seen.kept)
        return replace(model, nuisance=jnp.full((1, 200), float(model.correction[0, 0])))

    for name, function in (
        ("estimate_labels", estimate), ("match_labels", match), ("anchor_labels", anchor),
        ("regress_correction", regress), ("_learn_nuisance", learn_nuisance),
    ):  # fmt: skip
        monkeypatch.setattr(matched, name, function)
    known = None
    if with_anchors:
        known = KnownLabels(np.ones((n, 4)), np.ones((n, 4)), np.ones(n), np.arange(n))
    common, lines = np.arange(n) < 30, []
    learned = matched._learn(
        model, found, stars, POPULATION, 0.4, MatchedConfig(n_passes=3, keep=0.93, outside=7.0),
        common, lines.append, known=known,
    )  # fmt: skip
    assert np.flatnonzero(~learned.kept).tolist() == [3, 20, 39]
    assert (seen.strengths, seen.outside) == ([0.4] * 3, 7.0)
    assert all(one is common for one in seen.common)
    # Labels of the first pass are those that are given; later ones of the model so far.
    assert [float(one.correction[0, 0]) for one in seen.estimated] == [1.0, 2.0]
    assert [one.evidence[0] for one in seen.matched] == [0.0, 1.0, 1.0]
    assert float(learned.model.correction[0, 0]) == float(learned.model.nuisance[0, 0]) == 3.0
    assert lines == learned.history
    assert [one["pass"] for one in lines] == [1, 2, 3]
    line = lines[-1]
    # That of the three tenths of the lowest S/N.
    assert line["noise_scale"] == pytest.approx(np.sqrt(np.median(chi2[:12])), rel=1e-6)
    assert line["chi2_red"] == pytest.approx(np.median(chi2))
    assert line["strength"] == 0.4
    if with_anchors:
        assert line["shift"] == pytest.approx({"teff": 57.0, "mh": -0.08})
        assert line["stretch"] == pytest.approx({"teff": 1.2 + 0.5 * 0.3, "mh": 2 * 0.9})
        assert all(one.amplitudes == "told" for one in seen.matched)
        assert learned.population is shifted
        assert learned.model.label_priors == shifted.priors
    else:
        assert line["shift"] == {"teff": 50.0, "mh": -0.1}
        assert line["stretch"] == {"teff": 1.2, "mh": 0.9}
        assert learned.population is POPULATION
        assert learned.anchored is None


def test_sixty_spectra_are_needed_to_learn_from_and_twenty_to_validate(monkeypatch):
    seen = {}

    def split_domain(n_spec, **options):
        seen.update(options, n=n_spec)
        return DomainSplit(*np.zeros((3, 0), int))

    monkeypatch.setattr(uncorrected, "split_domain", split_domain)
    star, anchored = np.arange(300), np.zeros(300, bool)
    good = np.ones(300, bool)
    uncorrected.split_for_matching(300, MatchedConfig(seed=4), star, anchored, good)
    assert seen.pop("star") is star
    assert seen.pop("anchored") is anchored
    assert seen.pop("good") is good
    assert seen == {"n": 300, "seed": 4, "least": (60, 20, 1)}


def test_theory_is_described_with_the_stars_and_the_noise_of_a_survey(universe, sample_labels):
    theory, domain, _, _ = universe
    labels = sample_labels(2000, 6)
    # The literature's stars are not those of the labels, and it is they that count.
    reference = ReferenceSample(sample_labels(800, 5)[:, [0, 2]] + np.array([0.0, 0.15]))
    # Errors of half the size: what spectra scatter by is more than they say.
    understated = replace(domain, ivar=4 * domain.ivar, information=4 * domain.information)
    config = MatchedConfig(min_snr=5.0)
    told = uncorrected.describe_theory(theory, domain, labels, config, reference=reference)
    other = uncorrected.describe_theory(theory, understated, labels, config, reference=reference)
    scaled = theory.label_space.scale(jnp.asarray(labels[:5], jnp.float32))
    np.testing.assert_allclose(
        told.predict_scaled_batch(scaled), theory.predict_scaled_batch(scaled), atol=1e-6
    )
    # Teff is left to the spectrum, as it is by a correction.
    assert {prior.name for prior in told.priors()} == {"mh", "logg", "alpha_m"}
    known = next(prior for prior in told.priors() if prior.name == "mh")
    assert float(known.mean) == pytest.approx(float(np.mean(reference.teff_mh[:, 1])), abs=0.02)
    assert float(other.noise_scale) > 1.5 * float(told.noise_scale)


def test_what_a_correction_could_be_learned_for_is_known_beforehand(universe, theory, model):
    domain, config = universe[1], MatchedConfig(min_snr=5.0)
    assert uncorrected.can_be_matched(theory, domain, config)
    assert not uncorrected.can_be_matched(model, domain, config)  # corrected already
    two = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))

    class Headless(TableModel):
        def low_rank(self):
            return None

    headless = Headless(jnp.ones((4, 200)), jnp.ones(200), two, theory.grid)
    assert not uncorrected.can_be_matched(headless, domain, config)
    assert not uncorrected.can_be_matched(theory, domain, replace(config, min_snr=99.5))
    answers = []
    for n in range(50, 150, 10):
        few = make_domain(theory, n)
        answers.append(uncorrected.can_be_matched(theory, few, config))
        if answers[-1]:
            # What is said to be enough is not refused for being too little.
            split = uncorrected.split_for_matching(n, config)
            uncorrected.choose_rows(few, split.train, config, uncorrected.LEAST_STARS)
    assert answers == sorted(answers)
    assert (answers[0], answers[-1]) == (False, True)


def test_labels_by_theory_are_found_without_pixels_that_are_hit(universe):
    theory, domain, _, _ = universe
    flux = domain.flux.copy()
    flux[7, 120] += 3.0
    stars = StarSample(replace(domain, flux=flux), theory, np.arange(200))
    model = uncorrected.start_model(theory, POPULATION, MatchedConfig(order=1))
    start = POPULATION.mean_scaled(theory.label_space)
    found = uncorrected.fit_theory(model, stars, start)
    clean = stars.as_domain()
    assert (clean.ivar[7, 120], clean.ivar[8, 120] > 0) == (0, True)
    # The labels are those that there are without it, and not those that it makes.
    masked = replace(domain, ivar=np.where(flux == domain.flux, domain.ivar, 0))
    wanted = estimate_labels(model, StarSample(masked, theory, np.arange(200)), start)
    np.testing.assert_allclose(found.scaled[7], wanted.scaled[7], atol=1e-4)
    hit = estimate_labels(
        model, StarSample(replace(domain, flux=flux), theory, np.arange(200)), start
    )
    assert np.abs(hit.scaled[7] - wanted.scaled[7]).max() > 1e-3
