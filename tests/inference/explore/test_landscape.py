"""Landscapes of chi-square: parabolas where a model is linear, minima where it is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.explore.landscape import (
    axes_across,
    axes_around,
    profile_objective,
    slice_objective,
)
from jaxmdwarf.inference.explore.minima import find_minima, refine_minima
from jaxmdwarf.inference.explore.paths import trace_paths
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6319.0, 1.0)
SPACE = LabelSpace(("teff", "logg", "mh"), ("K", "dex", "dex"), (3e3, 4.0, -1.0), (4e3, 6.0, 1.0))


class LinearModel(ForwardModel):
    """Flux linear in the labels; what is known of a star may add to it."""

    slopes: Float[Array, "n_label n_pix"]
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def preprocessing(self):
        return Preprocessing()

    def predict_scaled(self, scaled, context=None):
        flux = 1.0 + scaled @ self.slopes
        return flux if context is None else flux + context


class FoldedModel(LinearModel):
    """A bent first label: two temperatures give nearly the same spectrum."""

    def predict_scaled(self, scaled, context=None):
        first = scaled[0]
        bent = jnp.concatenate([(16 * first**2 - 1)[None] + 0.2 * first, scaled[1:]])
        return super().predict_scaled(0.2 * bent, context)


def make_model(kind=LinearModel, dtype=np.float32):
    rng = np.random.default_rng(2)
    wave = GRID.wave_aa
    slopes = np.zeros((3, GRID.n_pix))
    for row, other in enumerate((1, 2, 0)):
        for centre in rng.uniform(6020, 6300, 8):
            line = 0.15 * np.exp(-0.5 * ((wave - centre) / 4.0) ** 2)
            slopes[row] -= line
            slopes[other] -= 0.6 * line
    arrays = jax.device_put((slopes.astype(dtype), np.zeros(GRID.n_pix, dtype)))
    return kind(*arrays, SPACE, GRID)


def observe(model, scaled, *, snr=50.0, seed=4, context=None):
    rng = np.random.default_rng(seed)
    dtype = model.model_error.dtype
    flux = np.asarray(predict_compiled(model, jax.device_put(np.asarray(scaled, dtype))))
    flux = flux + rng.normal(size=flux.shape) / snr + (0 if context is None else context)
    flux[:, ::29] = np.nan
    ivar = np.where(np.isfinite(flux), snr**2, 0)
    arrays = (values.astype(dtype) for values in (flux, ivar, ivar))
    return SpectrumBatch(*map(jax.device_put, arrays), GRID)


def at_rest(model, batch, **assumed):
    return FitProblem.from_batch(model, batch, fit_velocity=False, **assumed)


@pytest.fixture(scope="module")
def linear():
    model = make_model()
    batch = observe(model, np.random.default_rng(0).uniform(-0.2, 0.2, (3, 3)))
    problem = at_rest(model, batch)
    return problem, fit(problem)


def test_profiles_of_a_linear_model_are_parabolas_of_the_covariance(linear):
    problem, best = linear
    for name in ("teff", "mh"):
        axes = axes_around(problem, best, [name], n_sigma=3.0, n_grid=7)
        profile = profile_objective(problem, best, axes)
        sigmas = np.linspace(-3, 3, 7)
        np.testing.assert_allclose(profile.delta_chi2, np.tile(sigmas**2, (3, 1)), atol=0.02)
        assert profile.converged.all()
        np.testing.assert_allclose(profile.chi2_point, best.chi2, rtol=1e-5)
        # Along it the others go where their covariance takes them.
        index = SPACE.index(name)
        other = 1
        slope = best.covariance[:, other, index] / best.covariance[:, index, index]
        moved = profile.labels[:, :, other] - best.labels[:, other, None]
        along = slope[:, None] * (axes[name] - best.labels[:, index, None])
        assert np.abs(moved - along).max() < 0.02 * best.errors[:, other].min()


def test_slices_of_a_linear_model_are_parabolas_of_the_curvature(linear):
    problem, best = linear
    axes = axes_around(problem, best, ["logg", "mh"], n_sigma=2.0, n_grid=5)
    found = slice_objective(problem, best, axes)
    curvature = np.linalg.inv(best.covariance.astype(float))[:, 1:, 1:]
    away = np.stack(
        np.broadcast_arrays(
            (axes["logg"] - best.labels[:, 1, None])[:, :, None],
            (axes["mh"] - best.labels[:, 2, None])[:, None, :],
        ),
        axis=-1,
    )
    expected = np.einsum("nxyi,nij,nxyj->nxy", away, curvature, away)
    np.testing.assert_allclose(found.delta_chi2, expected, rtol=2e-3, atol=0.02)
    np.testing.assert_array_equal(
        found.labels[..., 0], np.broadcast_to(found.labels[:, :1, :1, 0], (3, 5, 5))
    )


def test_pair_profiles_have_contours_of_the_joint_covariance(linear):
    problem, best = linear
    axes = axes_around(problem, best, ["teff", "mh"], n_sigma=2.0, n_grid=5)
    own = {name: axis[[2]] for name, axis in axes.items()}
    found = profile_objective(problem, best, own, stars=[2])
    joint = np.linalg.inv(best.covariance[2][np.ix_([0, 2], [0, 2])].astype(float))
    away = np.stack(
        np.meshgrid(
            axes["teff"][2] - best.labels[2, 0], axes["mh"][2] - best.labels[2, 2], indexing="ij"
        ),
        -1,
    )
    expected = np.einsum("xyi,ij,xyj->xy", away, joint, away)
    np.testing.assert_allclose(found.delta_chi2[0], expected, rtol=2e-3, atol=0.02)
    assert found.stars.tolist() == [2]


@pytest.fixture(scope="module")
def folded():
    model = make_model(FoldedModel)
    batch = observe(model, [[-0.2, 0.1, 0.0], [0.22, -0.1, 0.1]], snr=40.0)
    problem = at_rest(model, batch)
    return problem, fit(problem)


def test_a_profile_lies_nowhere_above_a_slice_and_starts_at_the_fit(folded):
    problem, best = folded
    axes = axes_across(problem, ["logg", "mh"], n_grid=5)
    profile = profile_objective(problem, best, axes)
    slices = slice_objective(problem, best, axes)
    lower = profile.delta_chi2 + profile.chi2_min[:, None, None]
    upper = slices.delta_chi2 + slices.chi2_min[:, None, None]
    assert (lower <= upper * (1 + 1e-5)).all()
    assert (lower < upper - 1).mean() > 0.5
    assert profile.converged.all()
    np.testing.assert_allclose(profile.chi2_point, best.chi2, rtol=1e-5)
    assert (profile.chi2_min > best.chi2 * (1 - 1e-5)).all()


def test_velocity_is_an_axis_and_a_parameter(linear):
    problem, _ = linear
    batch = observe(problem.model, np.full((3, 3), 0.2), snr=300.0)
    problem = FitProblem.from_batch(problem.model, batch)
    best = fit(problem)
    axes = axes_around(problem, best, ["rv"], n_sigma=1.0, n_grid=11)
    profile = profile_objective(problem, best, axes)
    np.testing.assert_allclose(profile.delta_chi2[:, [0, 10]], 1.0, atol=0.06)
    np.testing.assert_allclose(profile.residual_kms, axes["rv"], atol=1e-3)
    teff = axes_around(problem, best, ["teff"], n_sigma=2.0, n_grid=11)
    profile = profile_objective(problem, best, teff)
    # The velocity is minimised over, too: it moves as its covariance with Teff says.
    moved = profile.residual_kms[:, 10] - best.residual_kms
    expected = 2 * best.covariance[:, 3, 0] / best.errors[:, 0]
    np.testing.assert_allclose(moved, expected, atol=0.1 * best.e_rv.min())


def test_priors_contexts_and_polynomials_enter(linear):
    problem, _ = linear
    context = np.random.default_rng(1).normal(0, 0.05, (2, GRID.n_pix)).astype(np.float32)
    batch = observe(problem.model, np.zeros((2, 3)), context=context)
    problem = at_rest(
        problem.model,
        batch,
        context=jax.device_put(context),
        priors=LabelPrior("mh", 0.1, 0.01),
        poly_order=1,
    )
    best = fit(problem)
    axes = axes_around(problem, best, ["mh"], n_sigma=2.0, n_grid=11)
    profile = profile_objective(problem, best, axes)
    np.testing.assert_allclose(profile.delta_chi2[:, [0, 10]], 4.0, atol=0.02)
    np.testing.assert_allclose(profile.chi2_point, best.chi2, rtol=1e-5)
    assert (best.errors[:, 2] < 0.0101).all()
    # The polynomial of a slice is that of the point.
    along = slice_objective(problem, best, axes)
    np.testing.assert_allclose(along.chi2_point, best.chi2, rtol=1e-5)
    assert (along.delta_chi2[:, [0, 10]] >= 4.0).all()


def test_how_the_work_is_divided_does_not_matter(linear):
    problem, best = linear
    axes = axes_across(problem, ["teff"], n_grid=9)
    one = profile_objective(problem, best, axes)
    many = profile_objective(problem, best, axes, batch_size=4)
    np.testing.assert_allclose(one.delta_chi2, many.delta_chi2, rtol=1e-3, atol=5e-3)


def test_stars_without_a_pixel_are_nan_and_stop_no_other(linear):
    problem, best = linear
    batch = problem.batch
    ivar = np.array(batch.ivar)
    ivar[1] = 0
    empty = SpectrumBatch(batch.flux, *jax.device_put((ivar, ivar)), batch.grid)
    problem = at_rest(problem.model, empty)
    best = fit(problem)
    axes = axes_around(problem, best, ["teff"], n_grid=11)
    assert axes["teff"][1, [0, -1]].tolist() == [3000.0, 4000.0]
    found = profile_objective(problem, best, axes)
    assert np.isnan(found.delta_chi2[1]).all()
    assert np.isfinite(found.delta_chi2[[0, 2]]).all()
    assert not found.converged[1].any()
    assert find_minima(found).star.tolist() == [0, 2]


def test_the_second_of_two_minima_is_found_refined_and_measured(folded):
    problem, best = folded
    axes = axes_across(problem, ["teff"], n_grid=41)
    profile = profile_objective(problem, best, axes, restarts=1)
    found = find_minima(profile)
    assert found.star.tolist() == [0, 0, 1, 1]
    # On both sides of the middle, behind a barrier, and neither at the edge.
    assert (np.sign(found.labels[::2, 0] - 3500) == -np.sign(found.labels[1::2, 0] - 3500)).all()
    assert (found.barrier[1::2] > 10).all()
    assert np.isinf(found.barrier[::2]).all()
    assert not found.at_edge.any()
    np.testing.assert_array_equal(found.column("teff"), found.labels[:, 0])
    with pytest.raises(UsageError, match="teff, logg, mh"):
        found.column("vsini")
    fine = refine_minima(problem, found)
    assert fine.star.tolist() == found.star.tolist()
    assert (fine.delta_chi2[::2] == 0).all()
    assert (np.abs(fine.labels[:, 0] - found.labels[:, 0]) < 30.0).all()
    # Deeper than the grid, as the grid only comes near the bottom.
    chi2 = fine.delta_chi2 + np.repeat(np.minimum(best.chi2, profile.chi2_min), 2)
    assert (chi2 <= found.delta_chi2 + np.repeat(profile.chi2_min, 2) + 0.02).all()


def test_dips_that_lead_to_one_minimum_are_counted_once(folded):
    problem, best = folded
    axes = axes_across(problem, ["teff", "mh"], n_grid=9)
    everything = find_minima(slice_objective(problem, best, axes), least_barrier=0.0)
    twice = type(everything)(
        *(np.concatenate([column, column]) for column in everything[:-1]), everything.label_names
    )
    fine = refine_minima(problem, twice)
    assert fine.star.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("axes", "error", "text"),
    [
        ({"vsini": np.arange(5.0)}, UsageError, "teff, logg, mh, rv"),
        ({"teff": np.array([3100.0, 3200.0])}, UsageError, "at least 3"),
        ({"teff": np.array([3200.0, 3100.0, 3300.0])}, UsageError, "increase"),
        ({"teff": np.array([2900.0, 3100.0, 3300.0])}, UsageError, "bounds"),
        ({"rv": np.array([-1.0, 0.0, 1.0])}, UsageError, "fit_velocity"),
        ({name: np.linspace(0.1, 0.2, 4) for name in SPACE.names}, UsageError, "pair"),
        ({}, UsageError, "pair"),
        ({"teff": np.full((2, 5), 3500.0)}, MismatchError, "3 stars"),
    ],
)
def test_axes_that_make_no_sense_are_refused(linear, axes, error, text):
    problem, best = linear
    with pytest.raises(error, match=text):
        slice_objective(problem, best, axes)


def test_points_and_stars_of_another_batch_are_refused(linear):
    problem, best = linear
    axes = {"teff": np.linspace(3100, 3200, 3)}
    with pytest.raises(UsageError, match="0 to 2"):
        slice_objective(problem, best, axes, stars=[3])
    with pytest.raises(MismatchError, match="one velocity a spectrum"):
        slice_objective(problem, Start(best.labels[:2], best.residual_kms[:2]), axes)


@pytest.mark.parametrize("solver", ["lm", "lbfgs"])
def test_paths_lead_from_their_start_down_to_the_fit(linear, solver):
    problem, best = linear
    labels = np.array([[3200.0, 4.5, -0.5], [3800.0, 5.5, 0.5], [3200.0, 5.5, 0.0]], np.float32)
    start = Start(labels, np.zeros(3, np.float32))
    paths = trace_paths(problem, start, solver=solver, n_step=15)
    np.testing.assert_array_equal(paths.labels[0], labels)
    assert paths.converged[-1].all()
    assert (np.abs(paths.labels[-1] - best.labels) < 0.05 * best.errors).all()
    assert (np.diff(paths.chi2[1:], axis=0) <= 1e-3 * paths.chi2[1:-1]).all()
    # The first step is no jump to the end, and what has converged stays.
    assert (np.abs(paths.labels[1] - labels).max(axis=1) > 0).all()
    arrived = paths.converged[:-1]
    np.testing.assert_allclose(paths.labels[1:][arrived], paths.labels[:-1][arrived], rtol=1e-5)
    np.testing.assert_array_equal(paths.take([2]).column("mh"), paths.labels[:, [2], 2])
    with pytest.raises(UsageError, match="no path"):
        trace_paths(problem, start, n_step=0)
