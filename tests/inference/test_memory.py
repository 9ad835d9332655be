"""Memory is estimated before a run, and a batch that is too large is refused."""

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.memory import estimate_fit_memory, find_memory, require_fit_memory
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit_batch
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6399.0, 1.0)


@pytest.fixture(scope="module")
def transfer(make_model):
    """The compact network: what it holds inside is most of what a fit needs."""
    base, sizes = make_model(GRID, margin=0), CycleStarSizes.compact(400)
    # Memory does not depend on what parameters are: none needs to be drawn.
    shapes = jax.eval_shape(CycleStarGenerator(sizes).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
    mean_split = np.zeros((sizes.latent_length, sizes.split_latents), np.float32)
    return CycleStarModel(base, params, jax.device_put(mean_split), sizes)


@pytest.fixture(params=["emulator", pytest.param("transfer", marks=pytest.mark.slow)])
def model(request, make_model):
    return make_model(GRID) if request.param == "emulator" else request.getfixturevalue("transfer")


def test_the_estimate_covers_what_the_compiler_plans(model):
    n = 128
    pixels = jax.device_put(np.ones((n, GRID.n_pix), np.float32))
    batch = SpectrumBatch(pixels, pixels, pixels, GRID)
    context = jax.jit(lambda batch: model.read_context(batch))(batch)
    config = FitConfig(schedule=FitScheduleConfig(batch_size=n))

    @jax.jit
    def fit(spectra):
        problem = FitProblem.from_batch(model, spectra, context=context, continuum_sigma_aa=None)
        return fit_batch(problem)

    plan = fit.lower(batch).compile().memory_analysis()
    assert plan is not None, "this backend does not say what it plans"
    planned = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    assert planned < estimate_fit_memory(model, GRID, config) < 6 * planned


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(model):
    config = FitConfig(schedule=FitScheduleConfig(batch_size=4096))
    whole = estimate_fit_memory(model, GRID, config)
    assert require_fit_memory(model, GRID, config, available=2 * whole) == whole
    with pytest.raises(UsageError, match="give --batch-size") as caught:
        require_fit_memory(model, GRID, config, available=whole // 3)
    fitting = int(caught.value.remedy.split("--batch-size ")[1].split(" ")[0])
    assert 512 < fitting < 4096
    smaller = FitConfig(schedule=FitScheduleConfig(batch_size=fitting))
    require_fit_memory(model, GRID, smaller, available=whole // 3)
    with pytest.raises(UsageError, match="not even one star"):
        require_fit_memory(model, GRID, config, available=10)


def test_free_memory_is_known_here():
    found = find_memory()
    assert found is None or 2**20 < found < 2**50
