"""The interface of forward models, on the one whose answers are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, TableModel, predict_compiled
from jaxmdwarf.wavelengths import PixelGrid

SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 1.0))
GRID = PixelGrid.linear(7000.0, 7002.0, 1.0)
CORNERS = np.arange(12.0, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def model():
    corners, error = jax.device_put((CORNERS, np.zeros(3, np.float32)))
    return TableModel(corners=corners, model_error=error, label_space=SPACE, grid=GRID)


@pytest.mark.parametrize("corner", range(4))
def test_a_table_gives_back_its_corners(model, corner):
    labels = [(SPACE.lower, SPACE.upper)[corner >> k & 1][k] for k in range(2)]
    np.testing.assert_allclose(model.predict(np.float32(labels)), CORNERS[corner], atol=1e-6)


def test_physical_and_scaled_labels_mean_the_same(model):
    scaled = jax.device_put(np.float32([0.1, -0.3]))
    np.testing.assert_allclose(
        model.predict(SPACE.unscale(np.asarray(scaled))), model.predict_scaled(scaled), rtol=1e-5
    )


def test_a_batch_equals_its_stars_and_the_linear_head(model):
    scaled = np.float32(np.random.default_rng(0).uniform(-0.5, 0.5, (6, 2)))
    batch = np.asarray(predict_compiled(model, scaled))
    head = jax.tree.map(np.asarray, model.low_rank())

    @jax.jit
    def predict_one(model, row):
        return model.predict_scaled(row), model.coefficients(row)

    for row, flux in zip(scaled, batch, strict=True):
        alone, coefficients = map(np.asarray, predict_one(model, row))
        np.testing.assert_allclose(alone, flux, rtol=1e-6)
        np.testing.assert_allclose(head.mean + coefficients @ head.basis, flux, rtol=1e-6)


def test_a_model_without_a_linear_head_says_so(model):
    class Square(ForwardModel):
        inner: TableModel

        @property
        def label_space(self):
            return self.inner.label_space

        @property
        def grid(self):
            return self.inner.grid

        @property
        def model_error(self):
            return self.inner.model_error

        def predict_scaled(self, scaled, context=None):
            flux = self.inner.predict_scaled(scaled) ** 2
            return flux if context is None else flux + context

    square = Square(model)
    assert square.low_rank() is None
    with pytest.raises(MismatchError):
        square.coefficients(jnp.zeros(2))
    # What else is known of a star is mapped beside its labels.
    shifted = square.predict_scaled_batch(jnp.zeros((2, 2)), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(shifted[1] - shifted[0], 1.0, rtol=1e-5)


def test_other_pixels_and_other_labels_are_refused(model):
    model.require_grid(GRID)
    model.require_labels(("teff", "mh"))
    with pytest.raises(MismatchError, match="resample"):
        model.require_grid(PixelGrid.linear(7000.0, 7003.0, 1.0))
    with pytest.raises(MismatchError, match="teff"):
        model.require_labels(("mh", "teff"))


def test_a_table_with_the_wrong_corners_is_refused():
    with pytest.raises(MismatchError):
        TableModel(corners=jnp.ones((3, 3)), model_error=jnp.zeros(3), label_space=SPACE, grid=GRID)


@pytest.mark.parametrize("labels", [[9000.0, 0.0], [3500.0, -1.2], [np.nan, 0.0]])
def test_flux_beyond_the_bounds_is_an_error_outside_jit_and_nan_inside(model, labels):
    with pytest.raises(UsageError, match=r"outside the model, which knows .* Remedy: give labels"):
        model.predict(labels)
    assert np.isnan(jax.jit(lambda at: model.predict(at))(np.float32(labels))).all()
    known = np.float32([3500.0, 0.5])
    both = np.asarray(jax.jit(jax.vmap(model.predict))(np.float32([known, labels])))
    np.testing.assert_allclose(both[0], model.predict(known), rtol=1e-6)
    assert np.isnan(both[1]).all()


def test_flux_at_the_bounds_has_finite_slopes(model):
    slopes = jax.jit(jax.jacfwd(model.predict))(np.float32([3000.0, 1.0]))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("labels", [[3500.0], [3500.0, 0.0, 0.0], [[3500.0, 0.0]]])
def test_the_number_of_labels_is_checked(model, labels):
    with pytest.raises(MismatchError, match="give 2 numbers for one star"):
        model.predict(np.array(labels))


def test_labels_may_be_given_by_name(model):
    first, second = model.label_space.names
    by_name = model.predict({second: 0.5, first: 3500.0})
    np.testing.assert_array_equal(by_name, model.predict([3500.0, 0.5]))
    for wrong in ({first: 3500.0}, {first: 3500.0, second: 0.5, "age": 1.0}):
        with pytest.raises(MismatchError, match="give each of these and no other"):
            model.predict(wrong)
