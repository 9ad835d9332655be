"""A stand-in forward model whose truth is known: smooth, nonlinear, degenerate like real labels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.inference.shift import widen_grid
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, LowRankHead, predict_compiled
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid


class BandModel(ForwardModel):
    """Bands and lines whose depths are exponentials of quadratic functions of the labels."""

    shapes: Float[Array, "n_band n_pix"]
    linear: Float[Array, "n_band n_label"]
    quadratic: Float[Array, "n_band n_label"]
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def preprocessing(self):
        return Preprocessing()

    def coefficients(self, scaled, context=None):
        exponent = self.linear @ scaled + self.quadratic @ (scaled**2)
        return jnp.exp(exponent)

    def low_rank(self):
        return LowRankHead(-self.shapes, jnp.ones_like(self.model_error))

    def predict_scaled(self, scaled, context=None):
        return 1.0 - self.coefficients(scaled) @ self.shapes


def make_band_model(
    grid=None, *, n_band=24, seed=3, model_error=0.0, dtype=np.float32, margin=3
) -> BandModel:
    grid = widen_grid(grid or PixelGrid.linear(6000.0, 6899.0, 1.0), margin, margin)
    rng = np.random.default_rng(seed)
    wave = grid.wave_aa
    centre = np.linspace(wave[0], wave[-1], n_band) + rng.normal(0, 5, n_band)
    sigma = rng.uniform(1.7, 12.0, n_band)
    depth = rng.uniform(0.05, 0.2, n_band)
    shapes = depth[:, None] * np.exp(-0.5 * ((wave - centre[:, None]) / sigma[:, None]) ** 2)
    return BandModel(
        shapes=jax.device_put(shapes.astype(dtype)),
        linear=jax.device_put(rng.normal(0, 1.2, (n_band, 4)).astype(dtype)),
        quadratic=jax.device_put(rng.normal(0, 0.5, (n_band, 4)).astype(dtype)),
        model_error=jax.device_put(np.full(grid.n_pix, model_error, dtype)),
        label_space=LabelSpace.mdwarf(),
        grid=grid,
    )


def observe(model, grid, scaled, rv_kms, snr, rng, *, bad=0.03) -> SpectrumBatch:
    """Noisy spectra of stars, shifted exactly (by spline) and with some bad pixels of NaN."""
    from scipy.interpolate import CubicSpline

    dtype = model.model_error.dtype
    rest = predict_compiled(model, jax.device_put(np.asarray(scaled, dtype)))
    rest = np.asarray(rest, np.float64)
    wave = model.grid.wave_aa
    flux = np.stack(
        [
            CubicSpline(wave, row)(grid.wave_aa / (1 + speed / 299_792.458))
            for row, speed in zip(rest, rv_kms, strict=True)
        ]
    )
    sigma = np.broadcast_to(1.0 / np.asarray(snr)[:, None], flux.shape)
    flux = flux + rng.normal(size=flux.shape) * sigma
    ivar = 1.0 / sigma**2
    lost = rng.random(flux.shape) < bad
    flux = np.where(lost, np.nan, flux)
    ivar = np.where(lost, 0.0, ivar)
    arrays = (values.astype(dtype) for values in (flux, ivar, ivar))
    # To the device as it is: `jnp.asarray` would compile a program for each shape.
    return SpectrumBatch(*map(jax.device_put, arrays), grid)


@pytest.fixture(scope="session")
def band_grid():
    return PixelGrid.linear(6000.0, 6899.0, 1.0)


@pytest.fixture(scope="session")
def band_model(band_grid):
    return make_band_model(band_grid)


@pytest.fixture(scope="session")
def make_model():
    return make_band_model


@pytest.fixture(scope="session")
def observe_stars():
    return observe


@pytest.fixture(scope="session")
def observe_exactly():
    """A function of n: a model in double precision, a batch of n stars, the generator of both.

    To be called, and its arrays used, where double precision is enabled.
    """

    def observe_few(n):
        grid = PixelGrid.linear(6000.0, 6299.0, 1.0)
        model = make_band_model(grid, n_band=10, dtype=np.float64, model_error=0.01)
        rng = np.random.default_rng(5)
        scaled = rng.uniform(-0.3, 0.3, (n, 4))
        return model, observe(model, grid, scaled, np.zeros(n), np.full(n, 50.0), rng), rng

    return observe_few
