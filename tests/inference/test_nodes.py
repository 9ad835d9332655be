"""Second opinions: stars that ended far from where their spectra fit best are fitted again."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.nodes import choose_by_pixels, node_points, predict_nodes
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.parameters import Start
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6199.0, 1.0)
COMPETING = int(QualityFlag.MULTIPLE_MINIMA)


class FoldedModel(ForwardModel):
    """One line as strong at a label as at its negative, and another that tells them apart."""

    lines: Float[Array, "2 n_pix"]
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)

    @property
    def preprocessing(self):
        return Preprocessing()

    def predict_scaled(self, scaled, context=None):
        strengths = jnp.stack([4 * scaled[0] ** 2, scaled[0]])
        return 1 - strengths @ self.lines


def make_folded(telling):
    wave = np.asarray(GRID.wave_aa)
    lines = [np.exp(-0.5 * ((wave - at) / 4.0) ** 2) for at in (6060.0, 6140.0)]
    return FoldedModel(
        jnp.asarray(np.array([lines[0], telling * lines[1]]), jnp.float32),
        jax.device_put(np.zeros(200, np.float32)),
        LabelSpace(("teff",), ("K",), (3000.0,), (4000.0,)),
        GRID,
    )


def observe(model, scaled, snr):
    flux = predict_compiled(model, jnp.asarray(scaled, jnp.float32))
    ivar = jax.device_put(np.full(flux.shape, snr**2, np.float32))
    return SpectrumBatch(flux, ivar, ivar, GRID)


def fit_at_rest(model, batch, teff, **schedule):
    """From one temperature for all stars."""
    problem = FitProblem.from_batch(model, batch, fit_velocity=False)
    start = Start(np.full((batch.n_spec, 1), teff, np.float32), np.zeros(batch.n_spec))
    return fit(problem, start=start, schedule=FitScheduleConfig(**schedule))


def test_the_lower_minimum_wins_wherever_a_fit_starts():
    model = make_folded(telling=0.3)
    batch = observe(model, np.full((5, 1), 0.37), snr=100.0)
    found = fit_at_rest(model, batch, 3100.0)
    np.testing.assert_allclose(found.labels[:, 0], 3870.0, atol=1.0)
    assert found.converged.all()
    assert not (found.flags & COMPETING).any()
    alone = fit_at_rest(model, batch, 3100.0, secondary_distance=None)
    assert (alone.labels[:, 0] < 3200).all()
    assert alone.converged.all()


def test_minima_that_are_as_low_are_told():
    model = make_folded(telling=0.01)
    batch = observe(model, np.full((3, 1), 0.37), snr=30.0)
    found = fit_at_rest(model, batch, 3100.0)
    assert (found.flags & COMPETING).all()
    assert np.isfinite(found.labels).all()


def test_stars_near_their_best_node_are_left_alone():
    model = make_folded(telling=0.3)
    batch = observe(model, np.array([[0.37], [0.2]]), snr=100.0)
    with_check = fit_at_rest(model, batch, 3800.0)
    without = fit_at_rest(model, batch, 3800.0, secondary_distance=None)
    for one, other in zip(with_check, without, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("priors", [(), (LabelPrior("mh", -0.8, 0.002),)])
def test_the_chosen_node_has_the_lowest_cost(make_model, priors):
    model = make_model()
    rng = np.random.default_rng(0)
    grid = PixelGrid.linear(6000.0, 6899.0, 1.0)
    scaled = rng.uniform(-0.45, 0.45, (6, 4)).astype(np.float32)
    flux = np.asarray(predict_compiled(model, jnp.asarray(scaled)))[:, 3:-3]
    ivar = np.full(flux.shape, 900.0, np.float32)
    ivar[rng.random(ivar.shape) < 0.1] = 0
    flux = np.where(ivar > 0, flux, np.nan)
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), grid)
    problem = FitProblem.from_batch(model, batch, fit_velocity=False, priors=priors)

    @jax.jit
    def choose_and_try(problem, nodes):
        objective = build_objective(problem)
        costs = jax.lax.map(lambda node: objective.cost(jnp.tile(node, (6, 1))), nodes)
        return choose_by_pixels(objective, predict_nodes(model, objective.margins)), costs

    nodes = node_points(4)
    chosen, costs = choose_and_try(problem, jnp.asarray(nodes))
    np.testing.assert_allclose(chosen, nodes[np.argmin(costs, axis=0)], atol=1e-6)
    # So narrow a prior leaves no other metallicity, and spectra alone would.
    assert (np.unique(chosen[:, 2]).size == 1) == bool(priors)
