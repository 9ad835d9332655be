"""What common stars and repeat visits tell of errors that no pixel tells of."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.quality import HARMFUL_FLAGS
from jaxmdwarf.training.transfer import domain_fits, label_errors
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.label_errors import (
    LEAST_STARS,
    expect_added,
    find_added,
    find_typically_added,
    learn_label_errors,
    learn_velocity_error,
    share_of_star,
    spread_label_errors,
)
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from tests.training.transfer.fit_covariance import COVARIANCE, SPACE, TURN, WIDTH


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.3])
def test_what_is_missing_from_stated_errors_is_found(missing):
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.05, 0.3, 1500)
    away = rng.standard_normal(1500) * np.hypot(stated, missing)
    away[:15] += 5.0
    assert abs(find_added(away, stated) - missing) < 0.04


@pytest.mark.parametrize(
    ("binaries", "missing", "abs_"), [(0, 0.0, 0.06), (0, 0.3, 0.03), (150, 0.3, 0.07)]
)
def test_a_tenth_of_binaries_changes_little_of_what_is_typically_missing(binaries, missing, abs_):
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.05, 0.3, 1500)
    away = rng.standard_normal(1500) * np.hypot(stated, missing)
    away[:binaries] += rng.normal(0, 1.5, binaries)
    found = find_typically_added(away, stated)
    assert found == pytest.approx(missing, abs=abs_)
    # Those within 0.6745 of the error are half, whatever the others are.
    if missing:
        assert np.mean(np.abs(away) < 0.6745 * np.hypot(stated, found)) == pytest.approx(
            0.5, abs=2e-3
        )
        assert binaries == 0 or found < find_added(away, stated) - 0.03


@pytest.mark.parametrize("missing", [0.1, 0.3])
def test_what_is_expected_is_the_most_probable_where_differences_tell(missing):
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.05, 0.3, 1500)
    away = rng.standard_normal(1500) * np.hypot(stated, missing)
    away[:15] += 5.0
    assert expect_added(away, stated) == pytest.approx(find_added(away, stated), abs=0.01)


def test_what_little_is_told_leaves_open_is_expected_too():
    """Against the integral written out, of thirty differences from poorly known values."""
    rng = np.random.default_rng(0)
    away, stated = rng.standard_normal(30), np.ones(30)
    away *= 0.9 / np.std(away)
    assert find_added(away, stated) == 0.0
    top = np.ptp(np.quantile(away, [0.1587, 0.8413]))
    tried = np.linspace(0, top, 5001)
    likelihood = np.array([np.prod(norm.pdf(away, 0, np.hypot(1, one))) for one in tried])
    expected = np.sqrt(np.sum(likelihood * tried**2) / np.sum(likelihood))
    assert expected > 0.3
    assert expect_added(away, stated) == pytest.approx(expected, rel=0.02)
    # Three visits of ten stars tell less than thirty stars do.
    third = np.full(30, 1 / 3)
    assert expect_added(away, stated, third) > 1.1 * expected
    # A hundred times as many leave nothing open.
    assert expect_added(np.tile(away, 100), np.ones(3000)) < 0.15


def test_rows_of_a_star_share_what_they_say():
    share = share_of_star(np.array([7, 3, 7, 7, 9, 3]), 6)
    np.testing.assert_allclose(share, [1 / 3, 1 / 2, 1 / 3, 1 / 3, 1, 1 / 2])
    np.testing.assert_array_equal(share_of_star(None, 4), np.ones(4))


def test_differences_that_errors_explain_ask_for_nothing():
    assert find_typically_added(np.zeros(5), np.ones(5)) == 0.0
    assert find_typically_added(np.array([0.3, -0.5, 2.0]), np.ones(3)) == 0.0


@pytest.fixture(scope="module")
def visits(universe):
    """A model that is right, two visits of each of 200 stars, and their labels."""
    theory, domain, labels, noise_free = universe
    rows = np.arange(400)
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 1)
    n_pix = theory.grid.n_pix
    model = CorrectedModel(
        theory, jnp.zeros((3, n_pix)), jnp.zeros((0, n_pix)), theory.model_error, features
    )
    missed = noise_free - np.asarray(
        theory.predict_scaled_batch(theory.label_space.scale(jnp.asarray(labels, jnp.float32)))
    )
    right = replace(domain, flux=(domain.flux - missed).astype(np.float32)).take(rows)
    return model, replace(right, star=np.arange(400) // 2), labels[rows]


@pytest.mark.parametrize("missing_kms", [0.0, 60.0])
def test_zero_points_of_wavelength_scales_are_told_by_repeat_visits(visits, missing_kms):
    model, domain, labels = visits
    offset = missing_kms * np.random.default_rng(5).standard_normal(domain.n_spec)
    between = np.diff(offset.reshape(-1, 2), axis=1)
    offset[:4] += [0.0, 900.0, 0.0, -900.0]  # two binaries
    found = learn_velocity_error(
        model, replace(domain, frame_kms=offset), np.arange(domain.n_spec), labels
    )
    # Stated errors of single visits are 17 km/s here.
    assert float(found) == pytest.approx(np.std(between) / np.sqrt(2), rel=0.08, abs=6.0)


def test_without_repeat_visits_nothing_is_said_of_velocities(visits):
    model, domain, labels = visits
    rows = np.arange(domain.n_spec)
    assert learn_velocity_error(model, replace(domain, star=None), rows, labels) is None
    alone = replace(domain, star=rows)
    assert learn_velocity_error(model, alone, rows, labels) is None
    few = rows[: 2 * LEAST_STARS - 2]
    assert learn_velocity_error(model, domain, few, labels[few]) is None


def test_what_is_added_makes_the_differences_most_probable():
    """Against scipy's Gaussians and a minimiser; the grid has steps of a hundredth of a scatter."""
    rng = np.random.default_rng(1)
    stated = rng.uniform(0.05, 0.3, 200)
    away = 0.4 + rng.standard_normal(200) * np.hypot(stated, 0.25)
    best = minimize_scalar(
        lambda added: -norm.logpdf(away, 0, np.hypot(stated, added)).sum(),
        bounds=(0, 2),
        method="bounded",
    )
    step = 0.01 * 0.5 * np.ptp(np.quantile(away, [0.1587, 0.8413]))
    assert find_added(away, stated) == pytest.approx(best.x, abs=1.01 * step)
    # Four sigma from the median, of all that they scatter by, are too many to count.
    centred = away - np.median(away)
    sigma = 0.5 * np.ptp(np.quantile(centred, [0.1587, 0.8413]))
    several = np.concatenate([centred, np.full(8, 3.7 * sigma)])
    beyond = np.concatenate([centred, np.full(8, 5.0 * sigma)])
    small = np.full(208, 1e-3)
    assert find_added(several, small) > 1.1 * find_added(beyond, small)


def test_errors_of_two_labels_take_the_others_along():
    rng = np.random.default_rng(4)
    n = 2000
    known = np.tile([30.0, 0.05], (n, 1))
    away = rng.standard_normal((n, 2)) * np.hypot(known, [70.0, 0.15])
    padded = np.zeros((n, 5, 5))
    padded[:, :4, :4] = COVARIANCE * rng.uniform(0.5, 2, n)[:, None, None]
    padded[:, 4] = padded[:, :, 4] = 7.0  # velocities
    found = np.asarray(spread_label_errors(SPACE, padded, away, known)) * WIDTH * WIDTH[:, None]
    along = TURN[:, [0, 2]]
    expected = along @ np.diag(np.square([70.0, 0.15])) @ along.T
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        found / scale / scale[:, None], expected / scale / scale[:, None], atol=0.08
    )
    # Twenty-nine stars tell nothing of a label, thirty do.
    for n_told, told in ((LEAST_STARS - 1, False), (LEAST_STARS, True)):
        few = away.copy()
        few[n_told:, 0] = np.nan
        some = np.asarray(spread_label_errors(SPACE, padded, few, known))
        assert bool(some[0, 0] > 0) is told
        assert some[2, 2] > 0


@pytest.fixture
def fits(monkeypatch):
    """What fits are asked and what they answer, without fitting anything."""
    seen = SimpleNamespace(answer=None, rows=None, start=None)

    def from_batch(model, batch, **options):
        seen.rows, seen.options = np.asarray(batch.flux[:, 0]).astype(int), options
        return seen.rows

    def fit(problem, *, start):
        seen.start = start
        return seen.answer(problem)

    monkeypatch.setattr(domain_fits.FitProblem, "from_batch", from_batch)
    monkeypatch.setattr(domain_fits, "fit", fit)
    return seen


def answer_for(labels, flags, error):
    """Fits of known labels: flags, errors and covariances of each row."""

    def answer(rows):
        n = len(rows)
        return SimpleNamespace(
            labels=labels[rows],
            flags=flags[rows],
            errors=np.array([30.0, 0.1, 0.05, 0.1]) + error[rows, None] * [0, 0, 0, 1],
            covariance=np.broadcast_to(COVARIANCE, (n, 4, 4)),
        )

    return answer


def number_rows(theory, n, **fields):
    """Spectra that are told by their flux."""
    flux = np.repeat(np.arange(n, dtype=np.float32)[:, None], theory.grid.n_pix, axis=1)
    return ObservedDomain(flux, flux, flux, theory.grid, np.arange(n) * 1.0, np.ones(n), **fields)


def test_label_errors_are_those_of_good_fits_of_common_stars(fits, theory, model):
    rng = np.random.default_rng(8)
    n, reference_errors = 1500, (20.0, 0.04)
    labels = np.column_stack(
        [rng.normal(3500, 200, n), np.ones(n), rng.normal(0, 0.2, n), np.ones(n)]
    )
    stated = np.hypot([30.0, 0.05], reference_errors)
    known = labels[:, [0, 2]] - rng.standard_normal((n, 2)) * np.hypot(stated, [70.0, 0.15])
    flags, error = np.zeros(n, np.int64), np.zeros(n)
    # Half of the fits that are looked at, every second one, is no good.
    flags[0::8], error[2::8] = int(HARMFUL_FLAGS), np.nan
    known[0::8] += 1e4
    known[2::8] += 1e4
    fits.answer = answer_for(labels, flags, error)
    reference = ReferenceSample(known, reference_errors, np.arange(n))
    found = learn_label_errors(model, number_rows(theory, n), reference, labels + 1.0)
    sigma = np.sqrt(np.diag(np.asarray(found))) * WIDTH
    np.testing.assert_allclose(sigma[[0, 2]], [70.0, 0.15], rtol=0.15)
    # No more than a thousand are fitted, from where they are begun.
    np.testing.assert_array_equal(fits.rows, np.arange(0, n, 2))
    np.testing.assert_array_equal(fits.start.labels, labels[::2] + 1.0)
    assert (np.asarray(fits.start.residual_kms) == 0).all()


def test_visits_of_a_star_have_one_say_in_label_errors(fits, theory, model, monkeypatch):
    n, seen = 40, []
    labels = np.column_stack([np.linspace(3000, 4000, n), *np.ones((3, n))])
    flags = np.where(np.arange(n) < 3, int(HARMFUL_FLAGS), 0)
    fits.answer = answer_for(labels, flags, np.zeros(n))
    monkeypatch.setattr(label_errors, "spread_label_errors", lambda *args: seen.append(args[-1]))
    rows = np.arange(n)[::-1].copy()
    reference = ReferenceSample(labels[rows][:, [0, 2]], (1.0, 1.0), rows)
    star = np.arange(n) // 4
    for one in (None, star):
        learn_label_errors(model, number_rows(theory, n, star=one), reference, labels[rows])
    np.testing.assert_array_equal(seen[0], np.ones(37))
    # Of the first star one good visit is left.
    np.testing.assert_array_equal(seen[1], np.r_[np.full(36, 0.25), 1.0])


@pytest.mark.parametrize(("n", "n_bad", "told"), [(30, 0, True), (29, 0, False), (31, 2, False)])
def test_thirty_good_fits_tell_of_label_errors(fits, theory, model, n, n_bad, told):
    labels = np.column_stack([np.linspace(3000, 4000, n), *np.ones((3, n))])
    flags = np.where(np.arange(n) < n_bad, int(HARMFUL_FLAGS), 0)
    fits.answer = answer_for(labels, flags, np.zeros(n))
    reference = ReferenceSample(labels[:, [0, 2]] + 1.0, (1.0, 1.0), np.arange(n))
    found = learn_label_errors(model, number_rows(theory, n), reference, labels)
    assert (found is not None) is told


def test_pairs_of_visits_are_neighbours_in_time_of_one_star(fits, theory, model):
    """Visits that alternate between stars: of three of one star there are two pairs."""
    n, error = 1200, 5.0
    star = np.tile(np.arange(400), 3)
    rng = np.random.default_rng(2)
    rv = rng.standard_normal(n) * np.hypot(error, 12.0) + 3.0 * star
    e_rv = np.full(n, error)
    flags = np.zeros(n, np.int64)
    # Bad first visits, of stars whose fits are far off.
    flags[:40], e_rv[40:80] = int(HARMFUL_FLAGS), np.nan
    rv[:80] += 1e4

    def answer(rows):
        errors = np.ones((len(rows), 4))
        return SimpleNamespace(flags=flags[rows], e_rv=e_rv[rows], rv_kms=rv[rows], errors=errors)

    fits.answer = answer
    observed = number_rows(theory, n, star=star)
    labels = np.arange(4.0 * n).reshape(n, 4)
    found = learn_velocity_error(model, observed, np.arange(n), labels)
    assert float(found) == pytest.approx(12.0, rel=0.12)
    # Five hundred pairs: of the first 250 stars.
    expected = np.flatnonzero(star < 250)
    np.testing.assert_array_equal(fits.rows, expected)
    np.testing.assert_array_equal(fits.options["frame_kms"], expected)
    np.testing.assert_array_equal(fits.start.labels, labels[expected])
