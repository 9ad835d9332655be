"""Fits of stars whose labels are known: right numbers, honest errors, flags, no side effects."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy.optimize import curve_fit

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference import schedule
from jaxmdwarf.inference.config import FitScheduleConfig, choose_batch_size, choose_group_size
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit, fit_batch, restart_points
from jaxmdwarf.inference.shift import combine_velocities
from jaxmdwarf.inference.solvers.by_name import find_solver
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.priors import LabelPrior, RelationPrior, whiten_priors
from jaxmdwarf.preprocess.continuum import pseudo_continuum
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

SCHEDULE = FitScheduleConfig(batch_size=64)
N_STAR = 320

# Gravity that falls with temperature, the faster the more metals there are.
BENT = RelationPrior(
    name="logg",
    given=("teff", "mh"),
    powers=((0, 0), (1, 0), (1, 1), (2, 0)),
    coefficients=(4.9, -0.3, -0.2, 0.1),
    sigma=0.04,
    centre=(3400.0, -0.5),
    scale=(500.0, 1.0),
)
PINNED = tuple(
    LabelPrior(name, mean, sigma)
    for name, mean, sigma in (("teff", 3400.0, 5.0), ("mh", -0.5, 0.02), ("alpha_m", 0.1, 0.02))
)


def fit_few(model, batch, *, solver="lm", **assumed):
    """`fit_batch` of up to 64 stars in one compiled shape."""
    problem = FitProblem.from_batch(model, batch, **assumed)
    result = fit_batch(problem.pad_to(64), solver=solver)
    return jax.tree.map(np.asarray, result).take(slice(batch.n_spec))


def fit_stars(model, batch, *, start=None, **assumed):
    return fit(FitProblem.from_batch(model, batch, **assumed), start=start, schedule=SCHEDULE)


@pytest.fixture(scope="module")
def survey(band_model, band_grid, observe_stars):
    """Three hundred stars, S/N 15 to 200, within the label space, up to 15 km/s from rest."""
    rng = np.random.default_rng(11)
    n = N_STAR
    scaled = rng.uniform(-0.35, 0.35, (n, 4)).astype(np.float32)
    rv_kms = rng.uniform(-15, 15, n)
    snr = 10 ** rng.uniform(np.log10(15), np.log10(200), n)
    batch = observe_stars(band_model, band_grid, scaled, rv_kms, snr, rng)
    return batch, band_model.label_space.unscale(scaled), rv_kms


@pytest.fixture(scope="module")
def fitted(band_model, survey):
    return fit_stars(band_model, survey[0])


def take(batch, rows):
    """Some spectra, chosen by numpy: JAX compiles every indexing of a new shape by itself."""
    return jax.tree.map(lambda values: jax.device_put(np.asarray(values)[rows]), batch)


def change(batch, *, flux=None, ivar=None):
    """The batch with other values, made by numpy, all independent pixels."""
    ivar = np.asarray(batch.ivar) if ivar is None else ivar
    flux = np.asarray(batch.flux) if flux is None else flux.astype(ivar.dtype)
    return SpectrumBatch(*jax.device_put((flux, ivar, ivar)), batch.grid)


def in_sigma(result, other):
    return np.abs(np.asarray(result.labels) - np.asarray(other.labels)) / np.asarray(result.errors)


def test_labels_and_velocity_come_back_with_unit_width_pulls(fitted, survey):
    _, labels, rv_kms = survey
    inside = fitted.flags == 0
    assert fitted.converged.mean() >= 0.995
    assert inside.mean() > 0.95
    pulls = np.column_stack(
        [(fitted.labels - labels) / fitted.errors, (fitted.rv_kms - rv_kms) / fitted.e_rv]
    )[inside]
    assert np.abs(pulls.mean(axis=0)).max() < 0.12
    width = 1.4826 * np.median(np.abs(pulls - np.median(pulls, axis=0)), axis=0)
    assert ((width > 0.9) & (width < 1.1)).all()
    assert ((pulls.std(axis=0) > 0.9) & (pulls.std(axis=0) < 1.15)).all()
    assert np.median(fitted.chi2_red) == pytest.approx(1.0, abs=0.02)


def test_the_whole_covariance_is_right_not_its_diagonal_alone(fitted, survey):
    _, labels, rv_kms = survey
    inside = fitted.flags == 0
    miss = np.column_stack([fitted.labels - labels, fitted.rv_kms - rv_kms])[inside]
    covariance = fitted.covariance[inside].astype(np.float64)
    distance = np.einsum("ni,ni->n", miss, np.linalg.solve(covariance, miss[..., None])[..., 0])
    # Chi-square of five degrees of freedom.
    assert distance.mean() == pytest.approx(5.0, abs=0.5)
    np.testing.assert_allclose(
        np.sqrt(np.einsum("nii->ni", fitted.covariance))[:, :4], fitted.errors, rtol=1e-4
    )


def test_batched_is_one_by_one(band_model, survey, fitted):
    batch = survey[0]
    for row in (0, 17, 301):
        alone = fit_few(band_model, take(batch, [row]))
        assert in_sigma(alone, fitted._replace(labels=fitted.labels[[row]])).max() < 0.02
        np.testing.assert_allclose(alone.errors, fitted.errors[[row]], rtol=2e-2)


def test_padding_and_order_of_stars_do_not_matter(band_model, survey, fitted):
    batch, labels, _ = survey
    n = len(labels)
    order = np.random.default_rng(2).permutation(n)
    shuffled = take(batch, order)
    n_extra = 37

    flux, ivar = (
        np.pad(values, ((0, n_extra), (0, 0)), constant_values=fill)
        for values, fill in ((shuffled.flux, 1.0), (shuffled.ivar, 0.0))
    )
    padded = change(shuffled, flux=flux, ivar=ivar)
    result = fit_stars(band_model, padded)
    assert (np.abs(result.labels[:n] - fitted.labels[order]) / fitted.errors[order]).max() < 0.02
    assert np.isnan(result.labels[n:]).all()
    assert (result.flags[n:] & int(QualityFlag.NO_GOOD_PIXELS)).all()
    assert not (result.flags[:n] & int(QualityFlag.NO_GOOD_PIXELS)).any()


def test_what_bad_pixels_hold_changes_nothing(band_model, survey):
    batch = take(survey[0], range(8))
    flux, bad = np.asarray(batch.flux), np.asarray(batch.ivar) == 0
    assert bad.any()
    results = [
        fit_few(band_model, change(batch, flux=np.where(bad, value, flux)))
        for value in (np.nan, np.inf, 0.0, -1e30)
    ]
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_no_gradient_is_nan_where_pixels_are_bad(band_model, survey):
    batch = take(survey[0], range(4))

    def cost(flux, parameters):
        spectra = SpectrumBatch(flux, batch.ivar, batch.information, batch.grid)
        objective = build_objective(FitProblem.from_batch(band_model, spectra))
        return jnp.sum(objective.weight * objective.residuals(parameters) ** 2)

    at = jax.device_put(np.full((4, 5), 0.1, np.float32))
    gradients = jax.jit(jax.grad(cost, argnums=(0, 1)))(batch.flux, at)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert (np.asarray(gradients[0])[np.asarray(batch.ivar) == 0] == 0).all()


@pytest.mark.parametrize("poly_order", [None, 1])
def test_normal_equations_agree_with_finite_differences(observe_exactly, poly_order):
    @jax.jit
    def differentiate(problem, at):
        """Normal equations, costs a little above and below, and the curvature from Jacobians."""
        objective, space = build_objective(problem), problem.model.label_space
        steps = 1e-6 * jnp.eye(at.shape[1])
        costs = jax.lax.map(
            lambda step: (objective.cost(at + step), objective.cost(at - step)), steps
        )
        slopes = jnp.einsum("npnk->npk", jax.jacfwd(objective.residuals)(at))
        curvature = jnp.einsum("npi,np,npj->nij", slopes, objective.weight, slopes)
        pull = jax.jacfwd(lambda p: whiten_priors(objective.priors, space, p[:, :4]))(at)
        pull = jnp.einsum("nqnk->nqk", pull)
        curvature = curvature + jnp.einsum("nqi,nqj->nij", pull, pull)
        return objective.normal_equations(at), costs, curvature

    with jax.enable_x64(True):
        model, batch, rng = observe_exactly(3)
        problem = FitProblem.from_batch(
            model, batch, priors=(LabelPrior("logg", 5.0, 0.1), BENT), poly_order=poly_order
        )
        at = jax.device_put(rng.uniform(-0.3, 0.3, (3, problem.layout.n_par)))
        found = differentiate(problem, at)
        here, (up, down), curvature = jax.tree.map(np.asarray, found)
    np.testing.assert_allclose(here.gradient, -(up - down).T / 4e-6, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(here.curvature, curvature, rtol=1e-8)


def test_a_star_without_good_pixels_is_nan_with_a_flag_and_the_others_go_on(band_model, survey):
    batch = take(survey[0], range(5))
    ivar = np.array(batch.ivar)
    ivar[2] = 0.0
    ivar[3] = np.arange(ivar.shape[1]) < 4
    result = fit_few(band_model, change(batch, ivar=ivar))
    for values in (result.labels, result.errors, result.covariance, result.rv_kms, result.chi2_red):
        assert np.isnan(values[2]).all()
    assert int(result.flags[2]) & int(QualityFlag.NO_GOOD_PIXELS)
    assert np.isnan(result.labels[3]).all()
    assert int(result.flags[3]) & int(QualityFlag.FEW_PIXELS)
    assert not int(result.flags[3]) & int(QualityFlag.NO_GOOD_PIXELS)
    whole = fit_few(band_model, batch)
    for row in (0, 1, 4):
        np.testing.assert_allclose(result.labels[row], whole.labels[row], rtol=1e-4, atol=1e-4)


def test_labels_beyond_a_bound_stop_at_it_and_say_so(band_model, band_grid, observe_stars):
    rng = np.random.default_rng(8)
    scaled = np.array([[0.62, 0.0, 0.1, 0.0], [0.0, 0.0, -0.65, 0.1], [0.1, 0.1, 0.1, 0.1]])
    batch = observe_stars(
        band_model, band_grid, scaled.astype(np.float32), np.zeros(3), np.full(3, 100.0), rng
    )
    result = fit_few(band_model, batch)
    space = band_model.label_space
    assert bool(result.converged.all())
    assert float(result.labels[0, 0]) == pytest.approx(space.upper[0])
    assert float(result.labels[1, 2]) == pytest.approx(space.lower[2])
    flags = np.asarray(result.flags)
    assert flags[0] & int(QualityFlag.TEFF_AT_BOUND)
    assert flags[1] & int(QualityFlag.MH_AT_BOUND)
    assert flags[2] == 0
    assert bool(space.contains(np.asarray(result.labels)).all())


def test_correlated_noise_gives_honest_errors_through_information(
    band_model, band_grid, observe_stars
):
    """Pixels that repeat their neighbours' noise: `ivar` alone would claim too much."""
    rng = np.random.default_rng(21)
    n, snr = N_STAR, 60.0
    scaled = rng.uniform(-0.3, 0.3, (n, 4)).astype(np.float32)
    clean = observe_stars(band_model, band_grid, scaled, np.zeros(n), np.full(n, 1e9), rng, bad=0.0)
    white = rng.normal(size=(n, band_grid.n_pix + 1)) / snr
    noise = 0.5 * (white[:, :-1] + white[:, 1:])
    ivar = np.full((n, band_grid.n_pix), 2 * snr**2, np.float32)
    # Row sum of the covariance: (1/2 + 2/4) / snr^2.
    information = np.full_like(ivar, snr**2)
    flux = np.float32(np.asarray(clean.flux) + noise)
    spectra = SpectrumBatch(*jax.device_put((flux, ivar, information)), band_grid)
    labels = band_model.label_space.unscale(scaled)
    result = fit_stars(band_model, spectra)
    good = result.flags == 0
    width = ((result.labels - labels) / result.errors)[good].std(axis=0)
    assert ((width > 0.88) & (width < 1.12)).all()
    assert np.median(result.chi2_red) == pytest.approx(1.0, abs=0.03)
    naive = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), band_grid)
    claimed = fit_stars(band_model, naive)
    assert (((claimed.labels - labels) / claimed.errors)[good].std(axis=0) > 1.25).all()


def test_the_gradients_scatter_is_that_of_resampled_and_normalised_noise(band_model, band_grid):
    """Noise shared between neighbours, less what the pseudo-continuum follows."""
    n, sigma, sigma_aa = 4000, 0.02, 30.0
    white = np.random.default_rng(4).normal(size=(n, band_grid.n_pix + 1)) * sigma
    pairs = np.float32(0.5 * (white[:, :-1] + white[:, 1:]))
    ivar = np.full((1, band_grid.n_pix), 2 / sigma**2, np.float32)
    spectra = SpectrumBatch(*jax.device_put((np.ones_like(ivar), ivar, ivar / 2)), band_grid)
    problem = FitProblem.from_batch(band_model, spectra)

    @jax.jit
    def pull_and_state(problem, pairs):
        objective = build_objective(problem)
        centre = jnp.zeros((1, objective.layout.n_par))
        slopes, flux = objective.linearise(centre)
        good = jnp.ones((1, band_grid.n_pix), bool)
        continuum = pseudo_continuum(pairs, good, band_grid, sigma_aa=sigma_aa)
        noise = pairs - flux[:, : band_grid.n_pix] * continuum
        slopes = (objective.weight[0] * jnp.stack(slopes)[:, 0])[:, : band_grid.n_pix]
        return (
            noise @ slopes.T,
            objective.noise_curvature(centre, continuum_sigma_aa=sigma_aa)[0],
            objective.normal_equations(centre).curvature[0],
        )

    pulls, stated, curvature = map(np.asarray, pull_and_state(problem, pairs))
    seen = np.cov(pulls.T)
    unit = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
    np.testing.assert_allclose(seen / unit, stated / unit, atol=0.08)
    # The inverse curvature alone would overstate every error.
    assert (np.diag(stated) < 0.95 * np.diag(curvature)).all()


def test_scipy_finds_the_same_minimum(band_model, survey, fitted):
    space, build = band_model.label_space, jax.jit(build_objective)
    predict = jax.jit(lambda objective, at: objective.predict(at))
    with jax.enable_x64(True):
        for row in (3, 44, 220):
            single = build(FitProblem.from_batch(band_model, take(survey[0], [row])))
            objective = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, float)), single)
            flux, weight = np.asarray(objective.flux)[0], np.asarray(objective.weight)[0]
            good = weight > 0

            def model(_, *parameters, objective=objective, good=good):
                return np.asarray(predict(objective, np.array([parameters])))[0, good]

            best, covariance = curve_fit(
                model,
                np.arange(good.sum()),
                flux[good],
                p0=np.zeros(5),
                sigma=1 / np.sqrt(weight[good]),
                absolute_sigma=True,
            )
            errors = np.sqrt(np.diag(covariance))
            velocity = fitted.residual_kms[row] / (2 * objective.layout.velocity_limit_kms)
            ours = np.r_[space.scale(fitted.labels[row]), velocity]
            assert np.abs((ours - best) / errors).max() < 0.03
            theirs = errors[:4] * np.subtract(space.upper, space.lower)
            np.testing.assert_allclose(fitted.errors[row], theirs, rtol=0.05)


def test_any_start_leads_to_the_same_minimum(band_model, survey, fitted):
    batch = survey[0]
    rows = np.flatnonzero(fitted.flags == 0)[:100]
    space = band_model.label_space
    for point in restart_points(4, 4):
        start = Start(
            np.broadcast_to(space.unscale(point), (rows.size, 4)).astype(np.float32),
            np.full(rows.size, 5.0, np.float32),
        )
        result = fit_stars(band_model, take(batch, rows), start=start)
        distance = np.abs(result.labels - fitted.labels[rows]) / fitted.errors[rows]
        assert np.mean(distance.max(axis=1) < 0.05) >= 0.98


def test_how_many_stars_there_are_asks_for_no_other_program(band_model, survey, fitted):
    known = schedule._fit_rows._cache_size()
    some = fit_stars(band_model, take(survey[0], range(150)))
    assert schedule._fit_rows._cache_size() == known > 0
    # Batches hold other neighbours, padding among them.
    np.testing.assert_allclose(some.labels, fitted.labels[:150], rtol=1e-4, atol=1e-4)


def test_neighbours_do_not_matter_to_the_last_digit(band_model, survey, fitted):
    rows = [301, 3, 170]
    for column, among_others in zip(
        fit_stars(band_model, take(survey[0], rows)), fitted.take(rows), strict=True
    ):
        np.testing.assert_array_equal(column, among_others)


def test_the_frame_is_part_of_the_velocity(band_model, survey):
    batch = take(survey[0], range(6))
    rest = fit_few(band_model, batch)
    moving = fit_few(band_model, batch, frame_kms=np.full(6, 300.0))
    expected = combine_velocities(300.0, rest.rv_kms.astype(np.float64))
    np.testing.assert_allclose(moving.rv_kms, expected, atol=1e-3)
    np.testing.assert_array_equal(moving.labels, rest.labels)


def test_a_prior_pulls_a_label_by_its_weight(band_model, survey, fitted):
    # Well measured stars, so that the posterior is a Gaussian and the sum below is exact.
    rows = np.argsort(fitted.errors[:, 1])[:40]
    free = fitted._replace(labels=fitted.labels[rows], errors=fitted.errors[rows])
    mean, sigma = 5.0, 0.05
    prior = LabelPrior("logg", mean, sigma)
    held = fit_few(band_model, take(survey[0], rows), priors=(prior,))
    weight, prior_weight = free.errors[:, 1] ** -2.0, sigma**-2.0
    expected = (free.labels[:, 1] * weight + mean * prior_weight) / (weight + prior_weight)
    assert np.abs((held.labels[:, 1] - expected) / free.errors[:, 1]).max() < 0.1
    moved = np.abs(expected - free.labels[:, 1]) / free.errors[:, 1]
    assert moved.max() > 0.1
    np.testing.assert_allclose(held.errors[:, 1], (weight + prior_weight) ** -0.5, rtol=0.02)


def test_a_relation_among_labels_pulls_as_the_closed_form_says(band_model, survey, fitted):
    """Where the relation is linear the posterior mean and covariance are known exactly."""
    rows = np.argsort(fitted.errors[:, 1] + 100 * (fitted.flags > 0))[:40]
    slope, sigma = -0.4, 0.1
    prior = RelationPrior(
        "logg", ("teff",), ((0,), (1,)), (5.0, slope), sigma, centre=(3300.0,), scale=(1000.0,)
    )
    held = fit_few(band_model, take(survey[0], rows), priors=(prior,))
    pull = np.array([-slope / 1000.0, 1.0, 0.0, 0.0, 0.0]) / sigma
    free = np.column_stack([fitted.labels, fitted.residual_kms])[rows].astype(np.float64)
    information = np.linalg.inv(fitted.covariance[rows].astype(np.float64))
    expected = np.linalg.inv(information + np.outer(pull, pull))
    target = (5.0 - slope * 3.3) / sigma
    right = np.einsum("nij,nj->ni", information, free) + target * pull
    mean = np.einsum("nij,nj->ni", expected, right)
    found = np.column_stack([held.labels, held.residual_kms])
    errors = np.sqrt(np.einsum("nii->ni", expected))
    distance = np.abs(found - mean) / errors
    assert np.median(distance) < 0.03
    assert np.quantile(distance, 0.95) < 0.1
    assert (np.abs(mean - free) / errors).max() > 0.2
    np.testing.assert_allclose(held.errors, errors[:, :4], rtol=0.05)


@pytest.mark.slow
def test_errors_stay_honest_under_a_relation(band_model, band_grid, observe_stars):
    """Labels drawn from the relation, fitted with it: pulls of unit width, errors smaller."""
    rng = np.random.default_rng(31)
    n, space = 450, band_model.label_space
    scaled = rng.uniform(-0.35, 0.35, (n, 4))
    labels = space.unscale(scaled)
    x, z = (labels[:, 0] - 3400.0) / 500.0, labels[:, 2] + 0.5
    on_relation = 4.9 - 0.3 * x - 0.2 * x * z + 0.1 * x * x
    labels[:, 1] = on_relation + BENT.sigma * rng.normal(size=n)
    inside = np.asarray(space.contains(labels))
    # As many as above, so that the fit without the relation is compiled already.
    scaled = space.scale(labels).astype(np.float32)[inside][:N_STAR]
    n = len(scaled)
    rv_kms, snr = rng.uniform(-15, 15, n), 10 ** rng.uniform(1.2, 1.8, n)
    batch = observe_stars(band_model, band_grid, scaled, rv_kms, snr, rng)
    result = fit_stars(band_model, batch, priors=BENT)
    alone = fit_stars(band_model, batch)
    # Of faint stars the relation knows more about gravity than the spectrum: that is what it is
    # for, and no flag says so.
    assert not (result.flags & int(QualityFlag.PRIOR_DOMINATED)).any()
    good = (result.flags == 0) & (alone.flags == 0)
    assert good.mean() > 0.9
    pulls = ((result.labels - space.unscale(scaled)) / result.errors)[good]
    assert np.abs(pulls.mean(axis=0)).max() < 0.2
    assert ((pulls.std(axis=0) > 0.88) & (pulls.std(axis=0) < 1.15)).all()
    assert np.median(result.errors[good, 1] / alone.errors[good, 1]) < 0.9
    few = take(batch, range(64))
    stated = fit_stars(band_model, few, priors=BENT, continuum_sigma_aa=30.0)
    prior_alone = fit_stars(
        band_model,
        change(few, ivar=np.asarray(few.ivar) * 1e-6),
        priors=(*PINNED, BENT),
        continuum_sigma_aa=30.0,
    )
    assert (stated.errors[:, 1] < BENT.sigma * 1.05).all()
    # Nothing but priors: the noise of a prior is part of what the errors state.
    np.testing.assert_allclose(prior_alone.errors[:, 1], BENT.sigma, rtol=0.1)


def test_a_polynomial_absorbs_a_wrong_continuum(band_model, survey):
    batch, labels, _ = survey
    chosen = take(batch, range(60))
    x = np.linspace(-1, 1, batch.grid.n_pix)
    tilted = change(chosen, flux=np.asarray(chosen.flux) * (1.03 - 0.04 * x))
    with_polynomial = fit_few(band_model, tilted, poly_order=1)
    without = fit_few(band_model, tilted)
    pulls = (np.asarray(with_polynomial.labels) - labels[:60]) / np.asarray(with_polynomial.errors)
    assert np.median(np.abs(pulls)) < 0.9
    assert np.median(without.chi2_red) > 1.5 * np.median(with_polynomial.chi2_red)
    assert with_polynomial.covariance.shape == (60, 5, 5)


def test_without_velocity_the_frame_is_reported_without_error(band_model, survey):
    batch = take(survey[0], range(6))
    result = fit_few(band_model, batch, frame_kms=np.full(6, -7.0), fit_velocity=False)
    np.testing.assert_allclose(result.rv_kms, -7.0)
    assert np.isnan(result.e_rv).all()
    assert result.covariance.shape == (6, 4, 4)


def test_model_error_widens_errors_and_lowers_chi_square(make_model, band_grid, survey):
    batch = take(survey[0], range(40))
    exact = fit_few(make_model(band_grid), batch)
    vague = fit_few(make_model(band_grid, model_error=0.02), batch)
    assert bool((vague.errors > exact.errors).all())
    assert bool((vague.chi2_red < exact.chi2_red).all())


def test_an_iteration_limit_is_reported(band_model, survey):
    batch = take(survey[0], range(8))
    result = fit_few(band_model, batch, solver=find_solver("lm", max_iter=1))
    assert not bool(result.converged.any())
    assert (np.asarray(result.flags) & int(QualityFlag.NOT_CONVERGED)).all()
    assert (np.asarray(result.n_iter) == 2).all()


def test_float64_follows_the_data(make_model, observe_stars):
    with jax.enable_x64(True):
        grid = PixelGrid.linear(6000.0, 6299.0, 1.0)
        model = make_model(grid, n_band=12, dtype=np.float64)
        rng = np.random.default_rng(1)
        scaled = rng.uniform(-0.3, 0.3, (4, 4))
        batch = observe_stars(model, grid, scaled, np.zeros(4), np.full(4, 300.0), rng)
        result = fit_few(model, batch)
        assert result.labels.dtype == jnp.float64
        assert bool(result.converged.all())


def test_bad_requests_say_what_to_do(band_model, survey):
    batch = take(survey[0], range(3))
    with pytest.raises(UsageError, match="batch_size 0 is below 1"):
        FitScheduleConfig(batch_size=0)
    with pytest.raises(UsageError, match="must be positive"):
        find_solver("lm", max_iter=0)
    with pytest.raises(UsageError, match="one of lm, lbfgs"):
        find_solver("newton")
    with pytest.raises(UsageError, match="not within 0 and 10"):
        fit_few(band_model, batch, poly_order=11)
    with pytest.raises(UsageError, match="one of teff"):
        fit_few(band_model, batch, priors=LabelPrior("mass", 0.3, 0.1))
    problem = FitProblem.from_batch(band_model, batch)
    for door in (fit, fit_batch):
        with pytest.raises(MismatchError, match="3 spectra"):
            door(problem, start=Start(np.zeros((2, 4)), np.zeros(2)))
    other = PixelGrid.linear(6000.0, 6100.0, 0.5)
    flux = jax.device_put(np.ones((3, other.n_pix), np.float32))
    with pytest.raises(MismatchError, match="resample"):
        FitProblem.from_batch(band_model, SpectrumBatch(flux, flux, flux, other))


class DimmedModel(ForwardModel):
    """A band model behind a veil of its own for each star, which is its context."""

    base: ForwardModel
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def preprocessing(self):
        return self.base.preprocessing

    def predict_scaled(self, scaled, context=None):
        return (1.0 if context is None else context) * self.base.predict_scaled(scaled)


def test_a_context_belongs_to_its_star_and_neighbours_do_not_matter(make_model, observe_stars):
    grid = PixelGrid.linear(6000.0, 6399.0, 1.0)
    base = make_model(grid)
    error = jax.device_put(np.full(base.grid.n_pix, 0.05, np.float32))
    model = DimmedModel(base, error, base.label_space, base.grid)
    rng = np.random.default_rng(4)
    scaled = rng.uniform(-0.3, 0.3, (24, 4)).astype(np.float32)
    batch = observe_stars(base, grid, scaled, np.zeros(24), np.full(24, 100.0), rng)
    veil = rng.uniform(0.3, 1.5, 24).astype(np.float32)
    dimmed = change(batch, flux=np.asarray(batch.flux) * veil[:, None])
    order = np.arange(24)[::-1]
    whole, turned, alone = (
        fit_stars(model, take(dimmed, rows), context=jax.device_put(veil[rows]))
        for rows in (slice(24), order, [5])
    )
    pulls = (whole.labels - base.label_space.unscale(scaled)) / whole.errors
    assert np.median(np.abs(pulls)) < 1.0
    assert whole.converged.all()
    # Errors depend on the veil through the model's own error: weights are each star's own.
    np.testing.assert_allclose(turned.errors[order], whole.errors, rtol=1e-3)
    np.testing.assert_allclose(alone.errors[0], whole.errors[5], rtol=1e-3)
    assert (np.abs(turned.labels[order] - whole.labels) / whole.errors).max() < 0.02
    assert (np.abs(alone.labels[0] - whole.labels[5]) / whole.errors[5]).max() < 0.02


@pytest.mark.parametrize(
    ("backend", "expensive", "reduced", "asked", "batch", "group"),
    [
        ("cpu", False, False, None, 32, 4),
        ("cpu", True, False, None, 8, 2),
        ("cpu", False, True, None, 128, 16),
        ("cpu", False, False, 30, 30, 30),  # divided by nothing
        ("gpu", False, False, None, 2048, 2048),
        ("gpu", False, True, None, 8192, 2048),
        ("gpu", True, False, None, 512, 128),
        ("gpu", True, False, 8192, 8192, 2048),
        ("gpu", False, False, 512, 512, 512),
    ],
)
def test_stars_of_a_batch_iterate_in_groups_that_the_device_likes(
    monkeypatch, make_model, backend, expensive, reduced, asked, batch, group
):
    model = make_model(PixelGrid.linear(6000.0, 6099.0, 1.0))
    monkeypatch.setattr(type(model), "expensive", expensive)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    asked = FitScheduleConfig(batch_size=asked)
    assert choose_batch_size(asked, model, reduced=reduced) == batch
    assert choose_group_size(batch, model, reduced=reduced) == group
