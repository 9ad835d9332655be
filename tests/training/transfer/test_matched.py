"""A matched correction finds what theory lacks without seeing a label."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.io.models import load_model, save_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.anchors import AnchorSample
from jaxmdwarf.training.transfer.domain import ObservedDomain, split_domain
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.training.transfer.label_posterior import Posterior, StarSample
from jaxmdwarf.training.transfer.matched import (
    _choose_trial,
    _halve,
    train_matched,
)
from jaxmdwarf.training.transfer.matched_config import MatchedConfig, count_passes
from jaxmdwarf.training.transfer.uncorrected import choose_rows, find_noise_scale
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
SPACE = LabelSpace.mdwarf()
# What this nature has more is nothing that its theory's spectra span.
QUICK = MatchedConfig(
    strengths=(0.2,), outside=1.0, n_passes=3, n_nuisance=2, order=1, min_snr=5.0, n_resample=3
)
ONE_PASS = MatchedConfig(
    strengths=(0.2,), n_passes=1, n_nuisance=1, order=1, min_snr=5.0, n_resample=0
)


def fit_at_rest(model, domain):
    from jaxmdwarf.inference.problem import FitProblem
    from jaxmdwarf.inference.schedule import fit

    return fit(FitProblem.from_batch(model, domain.batch(), fit_velocity=False)).labels


def train_again(universe, sample_labels, **options):
    theory, domain, _, _ = universe
    reference = ReferenceSample(sample_labels(800, 5)[:, [0, 2]])
    return train_matched(
        theory, domain, sample_labels(2000, 6), QUICK, reference=reference, **options
    )


@pytest.fixture(scope="module")
def trained(universe, sample_labels):
    return train_again(universe, sample_labels)


def test_labels_and_spectra_come_out_right_without_a_label_of_a_star(universe, trained):
    theory, domain, labels, noise_free = universe
    before = fit_at_rest(theory, domain) - labels
    after = fit_at_rest(trained.model, domain) - labels
    # The reference knows its means to 200 / sqrt(800) = 7 K and 0.007 dex.
    assert abs(np.median(before[:, 0])) > 60
    assert abs(np.median(after[:, 0])) < 25
    assert abs(np.median(after[:, 2])) < 0.04
    scaled = SPACE.scale(jnp.asarray(labels, jnp.float32))
    good = domain.ivar[0] > 0
    error_before, error_after = (
        np.sqrt(
            np.mean((np.asarray(model.predict_scaled_batch(scaled)) - noise_free)[:, good] ** 2)
        )
        for model in (theory, trained.model)
    )
    assert error_after < 0.3 * error_before
    assert trained.report["matched_on"] == "all stars"


def test_the_uncertainty_of_the_correction_is_of_the_order_of_its_error(universe, trained):
    _, domain, labels, noise_free = universe
    model = trained.model
    assert model.uncertainty.shape == (3, 3, GRID.n_pix)
    scaled = SPACE.scale(jnp.asarray(labels, jnp.float32))
    good = domain.ivar[0] > 0
    error = (np.asarray(model.predict_scaled_batch(scaled)) - noise_free)[:, good]
    stated = np.asarray(model.error_directions(scaled))[:, :, good]
    # What shrinkage leaves out no resampling shows.
    assert 0.3 < np.sqrt(np.mean(error**2) / np.mean(np.sum(stated**2, axis=1))) < 3


@pytest.mark.parametrize(
    ("lost", "mismatch", "chosen"), [(0.1, 0.0, 2), (3.0, 0.0, 1), (0.1, 0.9, 1), (-3.0, 0.9, 1)]
)
def test_the_stronger_of_two_strengths_is_taken_where_evidence_cannot_tell(lost, mismatch, chosen):
    """Of 100 stars whose evidence differs by 5 from star to star, half a one is the error."""
    rng = np.random.default_rng(6)
    of_stars = 200 + 50 * rng.standard_normal(100)
    trials = [
        {"strength": 0.1, "evidence_of_stars": of_stars - 20.0, "mismatch": 0.0},
        {"strength": 0.2, "evidence_of_stars": of_stars, "mismatch": 0.0},
        {
            "strength": 0.6,
            "evidence_of_stars": of_stars - lost + 5 * rng.permutation(np.linspace(-1, 1, 100)),
            "mismatch": mismatch,
        },
    ]
    for one in trials:
        one["evidence"] = float(np.mean(one["evidence_of_stars"]))
    assert _choose_trial(trials, 400, 400) == chosen


def test_spectra_of_one_star_are_in_one_half(universe):
    theory, domain, _, _ = universe
    star = np.arange(900) // 3
    stars = StarSample(replace(domain, star=star), theory, np.arange(900))
    halves = _halve(stars, 800, np.random.default_rng(0))
    assert all(len(rows) > 400 for rows in halves)
    assert not set(star[halves[0]]) & set(star[halves[1]])
    fewer = _halve(stars, 100, np.random.default_rng(0))
    assert [len(rows) for rows in fewer] == [100, 100]


def test_of_equal_strengths_the_strongest_is_taken(universe, sample_labels):
    """Terms that are next to nothing, however they are shrunk: no evidence for either."""
    theory, domain, _, _ = universe
    config = replace(ONE_PASS, order=0, strengths=(0.1, 0.3))
    report = train_matched(theory, domain, sample_labels(2000, 6), config).report
    assert report["strength"] == 0.3


@pytest.mark.slow
def test_common_stars_are_matched_where_the_reference_is_a_special_sample(universe, sample_labels):
    theory, domain, labels, _ = universe
    hot = np.flatnonzero(labels[:, 0] > 3600.0)
    sample = ReferenceSample(labels[hot][:, [0, 2]], rows=hot)
    trained = train_matched(theory, domain, sample_labels(2000, 6), QUICK, reference=sample)
    assert trained.report["matched_on"] == "common stars"
    # Priors of the hot half pull the cool half; without them nothing does.
    free = CorrectedModel(
        trained.model.base,
        trained.model.correction,
        trained.model.nuisance,
        trained.model.model_error,
        trained.model.features,
        trained.model.priors()[1:],
    )
    after = fit_at_rest(free, domain) - labels
    # Half a Gaussian is no Gaussian: the match is less good. Taken for all stars, it would be off
    # by the distance of the means, 160 K.
    assert abs(np.median(after[hot, 0])) < 60


@pytest.fixture(scope="module")
def misled(universe, sample_labels):
    """A reference that is 90 K too hot and 0.1 dex too metal-rich."""
    return ReferenceSample(sample_labels(800, 5)[:, [0, 2]] + [90.0, 0.1])


def know_some(labels, rows, errors):
    """Teff and [M/H] of some stars with errors."""
    known, sigma = np.full((2, len(rows), 4), np.nan)
    noise = np.random.default_rng(4).standard_normal((len(rows), 2))
    known[:, [0, 2]] = labels[np.ix_(rows, [0, 2])] + noise * errors
    sigma[:, [0, 2]] = errors
    return AnchorSample(np.asarray(rows), known, sigma)


@pytest.mark.slow
def test_anchors_put_labels_right_where_the_reference_is_wrong(universe, sample_labels, misled):
    theory, domain, labels, _ = universe
    anchors = know_some(labels, np.arange(0, 900, 9), [40.0, 0.05])
    config = replace(QUICK, n_resample=0, n_fold=2)
    passes = []
    trained = train_matched(
        theory,
        domain,
        sample_labels(2000, 6),
        config,
        reference=misled,
        anchors=anchors,
        on_pass=passes.append,
    )
    purposes = ["correction"] * 3 + ["anchors held out"] * 6
    assert [one["purpose"] for one in passes] == purposes
    assert count_passes(config, anchored=True) == 9
    others = np.setdiff1d(np.arange(900), anchors.rows)
    after = (fit_at_rest(trained.model, domain) - labels)[others]
    assert abs(np.median(after[:, 0])) < 20
    assert abs(np.median(after[:, 2])) < 0.03
    told = trained.report["anchors"]
    assert told["n_stars"] == told["n_spectra"] == 100
    # What the reference is off by is told, and not averaged.
    offset, error = (told[name] for name in ("offset_from_reference", "e_offset_from_reference"))
    assert abs(offset["teff"] + 90) < 25
    assert abs(offset["mh"] + 0.1) < 0.03
    assert error["teff"] < 10
    held_out = told["held_out"]
    assert held_out["teff"]["n"] > 90
    assert abs(held_out["teff"]["bias"]) < 20
    assert held_out["teff"]["scatter"] < 70
    assert 0.7 < held_out["teff"]["pull_width"] < 1.3
    assert trained.model.label_error is not None


@pytest.mark.slow
def test_anchors_that_know_next_to_nothing_change_next_to_nothing(universe, sample_labels, misled):
    theory, domain, labels, _ = universe
    rows = split_domain(900, seed=QUICK.seed).train[::10]
    config = replace(QUICK, n_passes=2, n_resample=0, n_fold=0)
    args = (theory, domain, sample_labels(2000, 6), config)
    without = train_matched(*args, reference=misled)
    anchors = know_some(labels, rows, [1e5, 100.0])
    within = train_matched(*args, reference=misled, anchors=anchors)
    np.testing.assert_allclose(within.model.correction, without.model.correction, atol=2e-4)
    assert "anchors" not in without.report


def test_anchors_among_too_many_spectra_are_all_learned_from(universe):
    _, domain, _, _ = universe
    config = replace(QUICK, max_spectra=200)
    marked = np.zeros(900, bool)
    marked[::30] = True
    rows = choose_rows(domain, np.arange(900), config, 60, marked)
    assert len(rows) == 200
    assert set(np.flatnonzero(marked)) <= set(rows)
    assert (np.diff(rows) > 0).all()


def test_training_twice_gives_the_same_model_and_it_survives_the_disk(
    universe, trained, sample_labels, tmp_path
):
    passes = []
    second = train_again(universe, sample_labels, on_pass=passes.append).model
    assert [one["purpose"] for one in passes] == ["correction"] * 3 + ["uncertainty"] * 12
    assert count_passes(QUICK, anchored=False) == 15
    first = trained.model
    np.testing.assert_array_equal(first.correction, second.correction)
    save_model(first, tmp_path / "model")
    again = load_model(tmp_path / "model")
    scaled = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (5, 4)), jnp.float32)
    np.testing.assert_array_equal(
        again.predict_scaled_batch(scaled), first.predict_scaled_batch(scaled)
    )
    assert again.priors() == first.priors()
    assert again.noise_scale == first.noise_scale
    np.testing.assert_array_equal(again.uncertainty, first.uncertainty)


def test_head_of_a_corrected_model_is_exact(universe):
    theory = universe[0]
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 2)
    rng = np.random.default_rng(0)
    model = CorrectedModel(
        theory,
        jnp.asarray(0.01 * rng.standard_normal((6, GRID.n_pix)), jnp.float32),
        jnp.zeros((0, GRID.n_pix)),
        theory.model_error,
        features,
    )
    scaled = jnp.asarray(rng.uniform(-0.4, 0.4, (7, 4)), jnp.float32)
    head = model.low_rank()
    by_head = head.mean + jax.vmap(model.coefficients)(scaled) @ head.basis
    np.testing.assert_allclose(by_head, model.predict_scaled_batch(scaled), atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(model.predict_scaled)(scaled), model.predict_scaled_batch(scaled), atol=1e-5
    )


def train_on(flux, universe, sample_labels, config=ONE_PASS):
    theory, domain, _, _ = universe
    other = ObservedDomain(
        flux, domain.ivar, domain.information, GRID, domain.frame_kms, domain.snr
    )
    return train_matched(theory, other, sample_labels(2000, 6), config)


@pytest.fixture(scope="module")
def hit(universe):
    """Flux with cosmic rays, many of them close to where a pixel is one."""
    flux = universe[1].flux.copy()
    rng = np.random.default_rng(8)
    flux[rng.integers(0, len(flux), 600), rng.integers(0, 200, 600)] += rng.uniform(0.1, 0.25, 600)
    return flux


@pytest.fixture(scope="module")
def trained_on_hits(hit, universe, sample_labels):
    return train_on(hit, universe, sample_labels)


def test_masked_pixels_do_not_matter(hit, trained_on_hits, universe, sample_labels):
    flux = hit.copy()
    flux[:, 40:50] = 77.0
    other = train_on(flux, universe, sample_labels).model
    np.testing.assert_array_equal(other.correction, trained_on_hits.model.correction)


def test_evidence_is_of_the_validation_stars_which_nothing_is_learned_from(
    hit, trained_on_hits, universe, sample_labels
):
    held = split_domain(len(hit), seed=ONE_PASS.seed, least=(60, 20, 1)).validation
    flux = hit.copy()
    flux[held] += 0.05 * np.sin(np.arange(200) / 3.0)
    other = train_on(flux, universe, sample_labels)
    np.testing.assert_array_equal(other.model.correction, trained_on_hits.model.correction)
    assert other.report["evidence"]["0.2"] < trained_on_hits.report["evidence"]["0.2"] - 100


def test_stated_errors_too_small_by_a_factor_are_found_from_faint_stars():
    rng = np.random.default_rng(3)
    snr = rng.uniform(5.0, 100.0, 400)
    # Bright stars show what the model lacks, not the noise.
    found = Posterior(None, None, None, None, 1.4**2 + np.where(snr > 50, 20.0, 0.0))
    assert find_noise_scale(found, snr) == pytest.approx(1.4)


def test_a_strength_gives_the_same_whatever_else_is_tried(
    hit, trained_on_hits, universe, sample_labels
):
    """Which pixels are hits must not depend on what was tried."""
    tried = replace(ONE_PASS, strengths=(0.6, 0.2))
    alone, last = trained_on_hits, train_on(hit, universe, sample_labels, tried)
    assert last.report["evidence"]["0.2"] == alone.report["evidence"]["0.2"]
    assert last.report["evidence"]["0.2"] != last.report["evidence"]["0.6"]


def test_too_few_stars_other_grids_and_poor_references_are_refused(universe, sample_labels):
    theory, domain, _, _ = universe
    few = domain.take(np.arange(60))
    with pytest.raises(MismatchError, match="too few"):
        train_matched(theory, few, sample_labels(1000, 0), QUICK)
    with pytest.raises(MismatchError, match="S/N 500 or more"):
        train_matched(theory, domain, sample_labels(1000, 0), MatchedConfig(min_snr=500.0))
    sample = ReferenceSample(np.full((3, 2), 3500.0))
    with pytest.raises(MismatchError, match="at least 20"):
        train_matched(theory, domain, sample_labels(1000, 0), QUICK, reference=sample)
    with pytest.raises(UsageError, match="positive"):
        MatchedConfig(strengths=(0.0,))
