"""Learning rates, spectral norms, patience and slopes of the networks, against closed forms."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.training.cyclestar.config import CycleStarConfig, CycleStarScheduleConfig
from jaxmdwarf.training.cyclestar.loop import _keep_best, _out_of_patience
from jaxmdwarf.training.cyclestar.spectral_norm import normalise_critics, start_vectors
from jaxmdwarf.training.cyclestar.steps import TransferState, _is_plain, _schedule
from jaxmdwarf.training.cyclestar.validation import _compare_slopes
from jaxmdwarf.training.emulator.config import EmulatorConfig, OptimiserConfig, ScheduleConfig
from jaxmdwarf.training.emulator.loop import _optimiser, stopped_early


def rates(schedule, steps, peak=0.02):
    found = _schedule(schedule, peak)
    return [float(found(step)) for step in steps]


def test_learning_rates_are_those_of_their_schedules():
    constant = CycleStarScheduleConfig(kind="constant", steps=100)
    assert rates(constant, (0, 57, 99)) == pytest.approx([0.02] * 3)
    warm = CycleStarScheduleConfig(kind="constant", steps=100, warmup_steps=4)
    assert rates(warm, (0, 1, 3, 4, 50)) == pytest.approx([0.005, 0.01, 0.02, 0.02, 0.02])
    stairs = CycleStarScheduleConfig(kind="decay", steps=100, decay=0.5, decay_steps=(10, 30))
    assert rates(stairs, (9, 11, 29, 31)) == pytest.approx([0.02, 0.01, 0.01, 0.005])
    cosine = CycleStarScheduleConfig(kind="cosine", steps=100)
    expected = [
        0.02 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * s / 100))) for s in (0, 25, 50, 100)
    ]
    assert rates(cosine, (0, 25, 50, 100)) == pytest.approx(expected, rel=1e-5)


def update_sizes(config, n_step, scale=1e3):
    """Sizes of updates of one number whose slope is always the same: the learning rates."""
    optimiser = _optimiser(config)
    params = {"w": jnp.ones(1)}
    state, sizes = optimiser.init(params), []
    for _ in range(n_step):
        updates, state = optimiser.update({"w": jnp.full(1, scale)}, state, params)
        sizes.append(-float(updates["w"][0]))
    return np.array(sizes)


def test_updates_of_the_emulator_warm_up_and_decay_and_are_held_down():
    schedule = ScheduleConfig(steps=20, warmup_steps=4)
    how = OptimiserConfig(learning_rate=0.1, largest_update=10.0, weight_decay=0.0)
    sizes = update_sizes(EmulatorConfig(schedule=schedule, optimiser=how), 20)
    # Adam of a constant slope moves by the learning rate.
    np.testing.assert_allclose(sizes[:5], 0.1 * np.array([0, 0.25, 0.5, 0.75, 1.0]), rtol=1e-3)
    late = 0.5 * (1 + np.cos(np.pi * np.arange(16) / 16))
    np.testing.assert_allclose(sizes[4:], 0.1 * (1e-3 + (1 - 1e-3) * late), rtol=1e-3)
    held = OptimiserConfig(learning_rate=0.1, largest_update=0.3, weight_decay=0.0)
    sizes = update_sizes(EmulatorConfig(schedule=schedule, optimiser=held), 5)
    np.testing.assert_allclose(sizes[4], 0.03, rtol=1e-3)
    drawn = OptimiserConfig(learning_rate=0.1, largest_update=0.3, weight_decay=0.5)
    sizes = update_sizes(EmulatorConfig(schedule=schedule, optimiser=drawn), 5)
    np.testing.assert_allclose(sizes[4], 0.1 * (0.3 + 0.5), rtol=1e-3)
    # No more than half of the steps are for warming up, and it may be left out.
    short = ScheduleConfig(steps=4, warmup_steps=200)
    sizes = update_sizes(EmulatorConfig(schedule=short, optimiser=how), 3)
    np.testing.assert_allclose(sizes, [0, 0.05, 0.1], rtol=1e-3, atol=1e-9)
    cold = ScheduleConfig(steps=20, warmup_steps=0)
    sizes = update_sizes(EmulatorConfig(schedule=cold, optimiser=how), 1)
    np.testing.assert_allclose(sizes, [0.1], rtol=1e-3)


@pytest.mark.parametrize(
    ("step", "best_step", "stops"),
    [(900, 850, False), (998, 899, False), (1000, 900, True), (599, 100, False), (600, 100, True)],
)
def test_the_emulator_is_patient_from_half_of_its_steps_on(step, best_step, stops):
    config = EmulatorConfig(schedule=ScheduleConfig(steps=1000, patience=100))
    check = getattr(stopped_early, "__wrapped__", stopped_early)
    assert check(SimpleNamespace(step=step, best_step=best_step), config) is stops


def state(**fields):
    empty = dict.fromkeys(TransferState._fields, ())
    return TransferState(**{**empty, **fields})


def test_the_best_networks_are_kept_and_patience_ends():
    numbers = {"best_gap": jnp.float32(0.5), "best_step": jnp.int32(10), "step": jnp.int32(40)}
    now = state(average={"w": jnp.ones(2)}, best={"w": jnp.zeros(2)}, **numbers)
    for gap in (0.5, 0.6, float("nan")):
        assert _keep_best(now, gap) is now
    better = _keep_best(now, 0.4)
    assert (float(better.best_gap), int(better.best_step)) == (pytest.approx(0.4), 40)
    assert better.best is now.average
    config = CycleStarConfig.compact()
    for patience, ends in ((None, False), (31, False), (30, True), (29, True)):
        impatient = config.vary(patience=patience)
        assert _out_of_patience(now, impatient) is ends


def test_kernels_of_critics_have_a_norm_of_one_and_biases_stay():
    rng = np.random.default_rng(2)
    critics = {
        "one": {
            "kernel": jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32),
            "bias": jnp.ones(5),
        },
        "two": {"kernel": jnp.asarray(7 * rng.normal(size=(6, 2)), jnp.float32)},
    }
    vectors = start_vectors(critics, jax.random.key(0))
    for _ in range(15):
        normalised, vectors, pull = normalise_critics(critics, vectors)
    for name in ("one", "two"):
        kernel = np.asarray(critics[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]
        np.testing.assert_allclose(
            normalised[name]["kernel"], kernel / largest, rtol=2e-4, atol=1e-6
        )
    np.testing.assert_array_equal(normalised["one"]["bias"], 1.0)
    # Stretching a kernel changes nothing: its slope along itself is 0.
    slopes = jax.tree.map(jnp.ones_like, critics)
    back = pull(slopes)
    along = float(jnp.sum(back["two"]["kernel"] * critics["two"]["kernel"]))
    assert abs(along) < 1e-3 * float(
        jnp.sum(jnp.abs(back["two"]["kernel"] * critics["two"]["kernel"]))
    )
    np.testing.assert_array_equal(back["one"]["bias"], 1.0)
    same, none, identity = normalise_critics(critics, {})
    assert same is critics
    assert none == {}
    assert identity(slopes) is slopes


def test_cosines_of_slopes_are_medians_of_stars_by_label():
    theory = np.zeros((2, 3, 4))
    theory[..., 0] = 2.0
    carried = np.zeros((2, 3, 4))
    carried[0, :, 0] = [1.0, 5.0, -1.0]  # along, along, against
    carried[1, :, 1] = 3.0  # across
    carried[1, 1] = 0.0  # nothing at all
    found = _compare_slopes({"theory": theory, "carried": carried}, ("teff", "mh"))
    assert found == pytest.approx({"slope_cosine_teff": 1.0, "slope_cosine_mh": 0.0})
    carried[0, :, 1] = [1.0, 5.0, 1.0]
    found = _compare_slopes({"theory": theory, "carried": carried}, ("teff", "mh"))
    assert found["slope_cosine_teff"] == pytest.approx(np.sqrt(0.5))


def test_steps_are_those_of_the_paper_where_nothing_else_is_asked_for():
    plain = CycleStarConfig.paper()
    assert _is_plain(plain)
    for change in (
        {"split_noise": 0.1}, {"instance_noise": 0.1}, {"critics_see": "spectra"}, {"alike": True},
    ):  # fmt: skip
        assert not _is_plain(plain.vary(**change))
