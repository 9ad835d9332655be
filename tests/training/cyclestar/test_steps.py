"""Learning rates, spectral norms, patience and slopes of the networks, against closed forms."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.training.cyclestar import steps
from jaxmdwarf.training.cyclestar.config import CycleStarConfig, CycleStarScheduleConfig
from jaxmdwarf.training.cyclestar.constraints import ConstraintWeights
from jaxmdwarf.training.cyclestar.data import TransferData
from jaxmdwarf.training.cyclestar.loop import _keep_best, _out_of_patience
from jaxmdwarf.training.cyclestar.losses import Domains, LossWeights, Passes, TransferGradients
from jaxmdwarf.training.cyclestar.spectral_norm import normalise_critics, start_vectors
from jaxmdwarf.training.cyclestar.steps import (
    TransferState,
    _is_plain,
    _schedule,
    continue_transfer,
    require_same_shapes,
)
from jaxmdwarf.training.cyclestar.validation import _compare_slopes
from jaxmdwarf.training.emulator.config import EmulatorConfig, OptimiserConfig, ScheduleConfig
from jaxmdwarf.training.emulator.loop import _optimiser, stopped_early
from jaxmdwarf.wavelengths import PixelGrid
from tests.training.cyclestar.small import small_sizes


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
    # As good as the smallest is kept for being later; what is small stays the smallest.
    alike = _keep_best(now, 0.52, 0.05)
    assert (float(alike.best_gap), int(alike.best_step)) == (0.5, 40)
    assert _keep_best(now, 0.53, 0.05) is now
    assert _keep_best(now, float("nan"), 0.05) is now
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


N_PIX = 24
SIZES = small_sizes(N_PIX)


def make_data(n_star=3, n_label=2):
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
    grid = PixelGrid.linear(7000.0, 6999.0 + N_PIX, 1.0)
    emulator = TableModel(jnp.ones((4, N_PIX)), jnp.zeros(N_PIX), space, grid)
    scaled = jnp.linspace(-0.4, 0.4, n_label)[:, None] * jnp.ones(2)
    flux = jnp.ones((n_star, N_PIX))
    return TransferData(
        emulator, scaled, flux, flux, scaled, flux, flux, flux[0], jnp.ones((1, N_PIX))
    )


def test_the_mean_star_counts_stars_by_errors_and_scatter_of_flux():
    rng = np.random.default_rng(3)
    flux, sigma = rng.normal(1.0, 0.2, (5, N_PIX)), rng.uniform(0.05, 0.5, (5, N_PIX))
    ivar = sigma**-2
    ivar[2, 4] = ivar[:, 9] = 0
    data = make_data()._replace(
        flux=jnp.asarray(np.where(ivar > 0, flux, 50.0), jnp.float32),
        ivar=jnp.asarray(ivar, jnp.float32),
    )
    found = np.asarray(steps._find_centre(data, 0.1))
    weight = np.where(ivar > 0, 1 / np.hypot(sigma, 0.1) ** 2, 0)
    weight[:, 9] = 1
    expected = np.average(flux, axis=0, weights=weight)
    expected[9] = 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_slopes_are_measured_at_labels_drawn_evenly_along_one_label_each(monkeypatch):
    seen = {}

    def slope_excess(sizes, generator, emulator, scaled, directions, split, *, residual):
        seen.update(split=split.shape, residual=residual)
        return jnp.concatenate([scaled, directions], axis=1)

    monkeypatch.setattr(steps, "slope_excess", slope_excess)
    data = make_data(n_label=3)

    config = CycleStarConfig().vary(residual=True)

    def measure(n_star):
        passes = SimpleNamespace(split_obs=jnp.ones((n_star, 4, 2)))
        return np.asarray(
            steps._measure_slopes(SIZES, None, data, passes, config, jax.random.key(n_star))
        )

    assert len(measure(20)) == 8
    assert seen == {"split": (8, 4, 2), "residual": True}
    assert len(measure(3)) == 3
    # As they are drawn, of very many.
    monkeypatch.setattr(steps, "_SLOPE_ROWS", 6000)
    found = measure(7000)
    assert len(found) == 6000
    for value in (-0.4, 0.0, 0.4):
        share = np.isclose(found[:, 0], value).mean()
        assert share == pytest.approx(1 / 3, abs=0.025)
    np.testing.assert_array_equal(found[:, 2:].sum(axis=1), 1)
    assert found[:, 2].mean() == pytest.approx(0.5, abs=0.025)
    assert abs(np.corrcoef(found[:, 0], found[:, 2])[0, 1]) < 0.05


def test_noise_on_split_latents_has_one_number_for_all_positions_where_they_are_pooled():
    config = CycleStarConfig().vary(split_noise=0.7)
    key = jax.random.key(3)
    pooled = SIZES if SIZES.split_pooled else replace(SIZES, split_pooled=True)
    along = replace(SIZES, split_pooled=False)
    assert steps._draw_split_noise(pooled, config, key, 900).shape == (900, 1, 2)
    noise = steps._draw_split_noise(along, config, key, 900)
    assert noise.shape == (900, along.latent_length, 2)
    assert float(noise.std()) == pytest.approx(0.7, rel=0.04)
    assert steps._draw_split_noise(along, CycleStarConfig(), key, 900) is None


def move_by_adam(slopes, rate, b1, b2, clip):
    """Kingma & Ba 2015, algorithm 1, of one number."""
    at = first = second = 0.0
    for number, slope in enumerate(slopes, 1):
        slope = slope * min(1.0, clip / abs(slope))
        first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
        at -= rate * first / (1 - b1**number) / np.sqrt(second / (1 - b2**number))
    return at


def test_both_players_move_by_adams_of_clipped_slopes_with_rates_of_their_own():
    config = CycleStarConfig().vary(
        learning_rate=0.02, critic_learning_rate=0.05, first_moment_decay=0.7,
        second_moment_decay=0.9, clip_norm=2.0, kind="constant",
    )  # fmt: skip
    slopes = [1.0, -30.0, 4.0, 0.5]
    for config_of, clip in ((config, 2.0), (config.vary(clip_norm=None), np.inf)):
        for optimiser, rate in zip(steps._optimisers(config_of), (0.02, 0.05), strict=True):
            weights = {"w": jnp.zeros(())}
            moments = optimiser.init(weights)
            for slope in slopes:
                updates, moments = optimiser.update({"w": jnp.float32(slope)}, moments, weights)
                weights = {"w": weights["w"] + updates["w"]}
            expected = move_by_adam(slopes, rate, 0.7, 0.9, clip)
            assert float(weights["w"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("averaging", [0.0, 0.3])
def test_averages_forget_the_first_steps_sooner_and_losses_are_means(monkeypatch, averaging):
    """Slopes that stay as they are move weights by the rate: weights are known at each step."""
    config = CycleStarConfig().vary(
        own_sizes=SIZES, averaging=averaging, kind="constant", learning_rate=0.01,
        critic_learning_rate=0.03,
    )  # fmt: skip

    def find_gradients(sizes, generator, critics, domains, data, config, *, step, key):
        return TransferGradients({"w": jnp.ones(2)}, {"w": -jnp.ones(1)}, {"step": 1.0 * step})

    monkeypatch.setattr(steps, "_find_gradients", find_gradients)
    monkeypatch.setattr(steps, "sample_domains", lambda data, config, key: None)
    generator, critics = {"w": jnp.zeros(2)}, {"w": jnp.full(1, 5.0)}
    optimisers = steps._optimisers(config)
    numbers = {"best_gap": jnp.float32(jnp.inf), "best_step": jnp.int32(0), "step": jnp.int32(4)}
    before = TransferState(
        generator, critics, generator, optimisers[0].init(generator),
        optimisers[1].init(critics), {}, generator, **numbers,
    )  # fmt: skip
    after, losses = continue_transfer(before, make_data(), config, 3)
    np.testing.assert_allclose(after.generator["w"], -0.03, rtol=1e-5)
    np.testing.assert_allclose(after.critics["w"], 5.09, rtol=1e-5)
    assert int(after.step) == 7
    assert float(losses["step"]) == 5.0
    average = 0.0
    for step, weight in zip((4, 5, 6), (-0.01, -0.02, -0.03), strict=True):
        decay = min(averaging, (1 + step) / (10 + step)) if averaging else 0.0
        average = decay * average + (1 - decay) * weight
    np.testing.assert_allclose(after.average["w"], average, rtol=1e-5)
    with pytest.raises(MismatchError, match=r"shape \(2,\) where these networks have \(3,\)"):
        require_same_shapes(after, after._replace(best={"w": jnp.zeros(3)}))
    assert require_same_shapes(after, before) is after


@pytest.fixture
def networks(monkeypatch):
    """Passes that are the generator's one weight everywhere, and losses that are sums of them."""
    seen = {}

    def run_passes(sizes, params, domains, *, residual, refill, split_noise):
        seen.update(residual=residual, refill=refill, split_noise=split_noise)
        one = params["w"] * jnp.ones((400, N_PIX))
        latents = params["w"] * jnp.ones((400, SIZES.latent_length, 2))
        passes = Passes(*[one] * 6, *[latents] * 6)
        return passes if split_noise is None else passes._replace(split_obs=latents + split_noise)

    def show_passes(sizes, params, domains, passes, *, spectra, refill):
        seen.update(spectra=spectra, refill_shown=refill)
        return passes._replace(obs_obs=passes.obs_obs + 10.0)

    def score_passes(sizes, critics, passes, *, reencoded_split):
        seen.update(reencoded_split=reencoded_split, scored=passes)
        return critics["c"]

    def weigh_losses(domains, passes, scores, weights, *, form):
        seen.update(weights=weights, form=form)
        return 2.0 * passes.obs_obs[0, 0], {"total": jnp.float32(-1.0), "part": scores}

    def constrain_passes(domains, passes, weights, *, mean, basis, split_mean):
        seen.update(constraints=weights, split_mean=split_mean, compared=(mean, basis))
        return 3.0 * split_mean[0, 0, 0], {"identity": jnp.float32(7.0)}

    def train_critic_loss(sizes, critics, passes, *, r1, reencoded_split):
        seen.update(r1=r1, reencoded_critic=reencoded_split, shown=passes)
        return 5.0 * critics["c"] * passes.obs_obs[0, 0], {"critic_obs": critics["c"]}

    def measure_slopes(sizes, generator, data, passes, config, key):
        return 11.0 * generator["w"]

    for function in (run_passes, show_passes, score_passes, weigh_losses, constrain_passes,
                     train_critic_loss):  # fmt: skip
        monkeypatch.setattr(steps, function.__name__, function)
    monkeypatch.setattr(steps, "_measure_slopes", measure_slopes)
    return seen


def find_gradients(config, step=30):
    flux = jnp.ones((400, N_PIX))
    params, critics = {"w": jnp.float32(0.5)}, {"c": jnp.float32(2.0)}
    domains = Domains(flux, flux, flux, flux)
    key = jax.random.key(5)
    return steps._find_gradients(
        SIZES, params, critics, domains, make_data(), config, step=step, key=key
    )


def test_all_terms_and_noises_are_in_the_gradients_of_both_players(networks):
    config = CycleStarConfig().vary(
        steps=120, instance_noise=0.4, split_noise=0.6, alike=True, critics_see="spectra", r1=0.3,
        reencoded_split=True, form="paper", residual=True, weights=LossWeights.real(),
        constraints=ConstraintWeights(identity=1.0, slopes=0.25),
    )  # fmt: skip
    found = find_gradients(config)
    # Slopes of 2 w, of 3 (w + noise - noise) and of a quarter of 11 w.
    assert float(found.generator["w"]) == pytest.approx(2 + 3 + 0.25 * 11)
    total = 0.5 * (2 + 3 + 0.25 * 11)
    assert float(found.losses["total"]) == pytest.approx(total, rel=1e-5)
    assert float(found.losses["slopes"]) == pytest.approx(5.5)
    assert {"part", "identity", "critic_obs"} < set(found.losses)
    seen = networks
    assert (seen["residual"], seen["refill"], seen["refill_shown"]) == (True, True, True)
    assert (seen["spectra"], seen["r1"], seen["form"]) == (True, 0.3, "paper")
    assert seen["reencoded_split"] is seen["reencoded_critic"] is True
    assert seen["weights"] == LossWeights.real()
    assert seen["constraints"] == config.losses.constraints
    assert [part.shape for part in seen["compared"]] == [(N_PIX,), (1, N_PIX)]
    np.testing.assert_allclose(seen["split_noise"].std(), 0.6, rtol=0.06)
    # Noise that critics see has fallen to three quarters of what it was at first.
    shown = seen["shown"]
    noises = []
    for name, without in (
        ("synth_synth", 0.5), ("obs_obs", 10.5), ("synth_obs", 0.5), ("obs_synth", 0.5),
    ):  # fmt: skip
        noise = np.asarray(getattr(shown, name)) - without
        assert noise.std() == pytest.approx(0.75 * 0.4, rel=0.04), name
        noises.append(noise.ravel())
    assert np.abs(np.corrcoef(noises) - np.eye(4)).max() < 0.05
    # Critics are judged on what they were shown.
    assert float(found.critics["c"]) == pytest.approx(5 * float(shown.obs_obs[0, 0]), rel=1e-5)


def test_what_is_not_asked_for_is_left_out(networks):
    found = find_gradients(CycleStarConfig().vary(alike=True, steps=20), step=30)
    assert float(found.generator["w"]) == pytest.approx(2 + 3)
    assert "slopes" not in found.losses
    assert networks["split_noise"] is None
    assert networks["spectra"] is False
    assert (np.asarray(networks["shown"].synth_obs) == 0.5).all()
    # After the last step there is no noise, and none that is negative.
    find_gradients(CycleStarConfig().vary(instance_noise=0.4, steps=20), step=30)
    assert (np.asarray(networks["shown"].synth_obs) == 0.5).all()
