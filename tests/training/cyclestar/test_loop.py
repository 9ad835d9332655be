"""Training of Cycle-StarNet on a small world whose truth is known."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import astuple, fields, replace
from functools import lru_cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxmdwarf.errors import MismatchError, UsageError, WorkFailed
from jaxmdwarf.io.checkpoints import Checkpoints
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.training.cyclestar import loop as transfer
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.constraints import ConstraintWeights
from jaxmdwarf.training.cyclestar.data import (
    measure_flux_scale,
    pair_domains,
    prepare_transfer,
)
from jaxmdwarf.training.cyclestar.loop import train_cyclestar
from jaxmdwarf.training.cyclestar.losses import LossWeights
from jaxmdwarf.training.cyclestar.spectral_norm import normalise_critics
from jaxmdwarf.training.cyclestar.steps import (
    _schedule,
    continue_transfer,
    require_same_shapes,
    start_transfer,
)
from jaxmdwarf.training.cyclestar.validation import _compare_slopes, validate_transfer
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.wavelengths import PixelGrid
from tests.training.cyclestar.small import small_sizes

GRID = PixelGrid.linear(7000.0, 7047.0, 1.0)
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
TINY = small_sizes(
    GRID.n_pix,
    split_latents=1,
    critic_flux=ConvLayers((4, 4), (4, 4), (4, 4)),
    centred=True,
)


def make_emulator():
    wave = GRID.wave_aa
    band = [np.exp(-(((wave - centre) / 6.0) ** 2)) for centre in (7012.0, 7030.0)]
    corners = [1.0 - 0.2 * i * band[0] - 0.2 * j * band[1] for j in (0, 1) for i in (0, 1)]
    return TableModel(
        jnp.asarray(np.array(corners), jnp.float32),
        jnp.full(GRID.n_pix, 1e-3, jnp.float32),
        SPACE,
        GRID,
    )


def sample_labels(n, seed=0):
    return SPACE.unscale(np.random.default_rng(seed).uniform(-0.4, 0.4, (n, 2)))


def observe(n=120, seed=5, *, gap=0.1, sigma=0.02):
    """Spectra with a line that theory lacks, and noise; one masked window."""
    rng = np.random.default_rng(seed)
    scaled = SPACE.scale(sample_labels(n, seed)).astype(np.float32)
    flux = np.array(make_emulator().predict_scaled_batch(jnp.asarray(scaled)))
    flux -= gap * np.exp(-(((GRID.wave_aa - 7021.0) / 4.0) ** 2)).astype(np.float32)
    flux += rng.normal(0.0, sigma, flux.shape)
    ivar = np.full(flux.shape, sigma**-2, np.float32)
    flux[:, 40:43], ivar[:, 40:43] = 7.0, 0.0
    return ObservedDomain(flux, ivar, ivar, GRID, np.zeros(n), np.full(n, 1.0 / sigma))


INTERVAL = 10


def configure(**changes):
    quick = {"own_sizes": TINY, "batch_size": 8, "steps": 60, "report_every": INTERVAL}
    quick["averaging"] = 0.9
    return CycleStarConfig().vary(**{**quick, **changes})


class Memory:
    """A checkpoint store that forgets nothing."""

    def __init__(self):
        self.states = {}

    def save(self, step, state):
        self.states[step] = state

    def restore(self, *, like):
        return self.states[max(self.states)] if self.states else None


def prepare(config, **world):
    return prepare_transfer(make_emulator(), observe(**world), sample_labels(400), config)


def leaves_of(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(first, second):
    for one, other in zip(leaves_of(first), leaves_of(second), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


LONGER = {"steps": 600, "report_every": 100, "learning_rate": 3e-3, "residual": True}


@pytest.fixture(scope="module")
def trained():
    config = configure(**LONGER)
    records, memory = [], Memory()
    result = train_cyclestar(
        make_emulator(),
        observe(400),
        sample_labels(2000),
        config,
        checkpoints=memory,
        on_interval=records.append,
    )
    return result, records, memory


def test_training_lowers_every_distance_and_closes_some_of_the_gap(trained):
    _, records, _ = trained
    first, last = records[0].losses, records[-1].losses
    assert last["rec_synth"] + last["cycle_synth"] < first["rec_synth"] + first["cycle_synth"]
    assert last["rec_obs"] < first["rec_obs"]
    assert min(record.validation["gap"] for record in records) < 0.5


def test_the_weights_of_the_smallest_gap_are_kept(trained):
    (model, report), records, memory = trained
    best = min(records, key=lambda record: record.validation["gap"])
    assert report.kept_step == best.step
    assert report.validation["gap"] == pytest.approx(best.validation["gap"], rel=1e-5)
    assert_same(model.params, memory.states[best.step].average)
    assert (report.n_train, report.n_validation, report.n_test) == (291, 73, 36)


def test_the_model_is_a_forward_model_that_moves_the_emulator_towards_the_stars(trained):
    (model, _), _, _ = trained
    labels = jnp.asarray(sample_labels(200, seed=5), jnp.float32)
    stars = observe(200, seed=5, sigma=1e-4)
    good = stars.ivar[0] > 0
    moved = np.asarray(jax.vmap(model.predict)(labels))
    unmoved = np.asarray(jax.vmap(make_emulator().predict)(labels))
    miss = [np.sqrt(np.mean((flux - stars.flux)[:, good] ** 2)) for flux in (moved, unmoved)]
    assert miss[0] < 0.35 * miss[1]


def test_networks_start_about_the_mean_star_and_not_the_brightest():
    config = configure()
    data = prepare(config)
    bright = np.arange(len(data.flux)) % 2 == 0
    flux = np.where(bright[:, None], 0.9, 1.1) * np.ones(data.flux.shape)
    ivar = np.where(bright[:, None], 200.0**2, 50.0**2) * (np.asarray(data.ivar) > 0)
    data = data._replace(flux=jnp.asarray(flux, jnp.float32), ivar=jnp.asarray(ivar, jnp.float32))
    centre = np.asarray(start_transfer(data, config).generator["decoder_obs"]["centre"])
    masked = ivar[0] == 0
    np.testing.assert_allclose(centre[~masked], flux.mean(axis=0)[~masked], atol=0.005)
    assert np.all(centre[masked] == 1.0)


def test_steps_and_their_losses_do_not_depend_on_where_dispatches_end():
    config = configure()
    data = prepare(config)
    state = start_transfer(data, config)
    whole, means = continue_transfer(state, data, config, INTERVAL)
    parts = []
    for _ in range(2):
        state, losses = continue_transfer(state, data, config, INTERVAL // 2)
        parts.append(losses)
    for one, other in zip(leaves_of(whole), leaves_of(state), strict=True):
        assert np.allclose(one, other, rtol=2e-3, atol=2e-5)
    for name, value in means.items():
        average = (float(parts[0][name]) + float(parts[1][name])) / 2
        assert float(value) == pytest.approx(average, rel=1e-3, abs=1e-5)
    assert int(whole.step) == INTERVAL


EVERYTHING = {
    "r1": 0.1,
    "spectral_norm": True,
    "averaging": 0.9,
    "clip_norm": 10.0,
    "instance_noise": 0.1,
    "residual": True,
    "warmup_steps": 5,
    "reencoded_split": True,
    "equal_start": True,
    "alike": True,
    "critics_see": "spectra",
    "split_noise": 0.5,
    "constraints": ConstraintWeights(
        **{item.name: 0.1 for item in fields(ConstraintWeights)},
    ),
}


@pytest.mark.slow
def test_all_options_together_train_and_hold_every_kernel_at_unit_spectral_norm():
    state, losses = advance(configure(**EVERYTHING))
    assert np.isfinite([float(value) for value in losses.values()]).all()
    normalised, _, _ = normalise_critics(state.critics, state.singular)
    kernels = [leaf for leaf in leaves_of(normalised) if leaf.ndim > 1]
    assert len(kernels) == 8
    for kernel in kernels:
        matrix = kernel.reshape(-1, kernel.shape[-1])
        assert np.linalg.norm(matrix, ord=2) == pytest.approx(1.0, abs=0.05)
    # The average lags behind the weights, and the first steps were warmed up.
    moved = leaves_of(state.generator)[0] - leaves_of(state.average)[0]
    assert 0 < np.abs(moved).max() < 0.1
    held = astuple(EVERYTHING["constraints"])
    terms = [item.name for item in fields(ConstraintWeights)]
    paid = sum(w * float(losses[name]) for w, name in zip(held, terms, strict=True))
    weights = LossWeights()
    paid += weights.synth * (float(losses["rec_synth"]) + float(losses["cycle_synth"]))
    paid += weights.obs * (float(losses["rec_obs"]) + float(losses["cycle_obs"]))
    paid += weights.adversarial * (float(losses["adv_synth"]) + float(losses["adv_obs"]))
    assert float(losses["total"]) == pytest.approx(paid, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        {"r1": 1.0},
        {"spectral_norm": True},
        {"averaging": 0.9},
        {"clip_norm": 0.01},
        {"instance_noise": 0.1},
        {"residual": True},
        {"kind": "constant", "warmup_steps": 50},
        {"kind": "decay", "decay_steps": (2,), "decay": 0.1},
        {"form": "paper"},
        {"reencoded_split": True, "largest_error": 0.05},
        {"equal_start": True},
        {"alike": True},
        {"critics_see": "spectra"},
        {"split_noise": 0.5},
        *(
            {"constraints": ConstraintWeights(**{item.name: 1.0})}
            for item in fields(ConstraintWeights)
        ),
    ],
    ids=lambda option: next(iter(option)),
)
def test_no_option_is_without_effect(option):
    plain = configure(kind="constant", averaging=0.0)
    config = plain.vary(**option)
    state, losses = advance(config)
    assert np.isfinite([float(value) for value in losses.values()]).all()
    other, _ = advance(plain)
    changed = state.average if "averaging" in option else (state.generator, state.critics)
    usual = other.average if "averaging" in option else (other.generator, other.critics)
    if "largest_error" in option:  # errors of this world are 0.02: only the critic sees a change
        changed, usual = state.critics, other.critics
    assert any(
        not np.array_equal(one, two)
        for one, two in zip(leaves_of(changed), leaves_of(usual), strict=True)
    )


@lru_cache
def advance(config):
    data = prepare(config)
    return continue_transfer(start_transfer(data, config), data, config, INTERVAL)


def test_vanishing_instance_noise_is_none():
    plain, noisy = (advance(configure(instance_noise=level)) for level in (0.0, 1e-12))
    assert noisy[1].keys() == plain[1].keys()
    for name, value in plain[1].items():
        assert float(noisy[1][name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5)


def test_learning_rates_follow_their_schedules():
    paper = _schedule(CycleStarConfig.paper().schedule, 1e-4)
    for step, factor in ((0, 1.0), (60_000, 0.7), (120_000, 0.49), (400_000, 0.7**4)):
        assert float(paper(step)) == pytest.approx(1e-4 * factor, rel=1e-5)
    warm = _schedule(configure(kind="constant", warmup_steps=10).schedule, 1.0)
    assert [float(warm(step)) for step in (0, 4, 9, 30)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_the_paper_has_none_of_our_options():
    config = CycleStarConfig.paper(flux_scale=(0.977, 0.052))
    sizes = config.shape(2901)
    assert CycleStarConfig.paper().networks.flux_scale == "data"
    assert (sizes.flux_mean, sizes.flux_spread, sizes.centred) == (0.977, 0.052, False)
    assert sizes.latent_norm
    assert config.losses.reencoded_split
    assert sizes.slope == 0.1
    assert config.losses.weights == LossWeights(90.0, 90.0, 1.0) != LossWeights.real()
    assert (config.schedule.kind, config.schedule.decay) == ("decay", 0.7)
    how, losses = config.optimiser, config.losses
    assert (how.batch_size, config.schedule.steps, sizes.shared_latents) == (8, 500_000, 25)
    assert (how.first_moment_decay, how.second_moment_decay) == (0.5, 0.999)
    assert how.learning_rate == how.critic_learning_rate == 1e-4
    assert (losses.r1, how.averaging, losses.instance_noise) == (0.0,) * 3
    assert config.schedule.warmup_steps == 0
    assert how.clip_norm is config.schedule.patience is None
    assert not any((config.losses.spectral_norm, config.networks.residual))
    assert config.losses.constraints == ConstraintWeights()
    assert not any((config.noise.alike, losses.split_noise, config.networks.equal_start))
    assert (losses.critics_see, sizes.activation) == ("reconstructions", "leaky_relu")
    assert not sizes.split_pooled
    assert config.networks.precision == "float32"


@pytest.mark.slow
def test_flux_is_scaled_as_the_data_are_and_the_model_does_not_round():
    plain = replace(TINY, centred=False)
    config = configure(
        own_sizes=plain, flux_scale="data", precision="bf16", convolution="library", steps=10
    )
    domain = observe()
    model, report = train_cyclestar(make_emulator(), domain, sample_labels(500), config)
    sizes = model.sizes
    assert (sizes.precision, sizes.convolution) == ("float32", "auto")
    good = domain.ivar > 0
    assert sizes.flux_mean == pytest.approx(domain.flux[good].mean(), abs=5e-3)
    assert sizes.flux_spread == pytest.approx(domain.flux[good].std(), abs=5e-3)
    assert np.isfinite(list(report.validation.values())).all()
    with pytest.raises(UsageError, match="has not been measured"):
        config.shape(GRID.n_pix)


def test_noise_of_faint_stars_is_no_spread_of_flux():
    rng = np.random.default_rng(0)
    shape = 0.95 + 0.05 * np.sin(np.arange(200) / 3.0)
    sigma = np.where(np.arange(40) < 20, 0.002, 0.5)[:, None]
    flux = shape + sigma * rng.normal(size=(40, 200))
    mean, spread = measure_flux_scale(flux, np.broadcast_to(sigma**-2.0, flux.shape))
    assert mean == pytest.approx(shape.mean(), abs=2e-3)
    assert spread == pytest.approx(shape.std(), rel=0.03)
    with pytest.raises(MismatchError, match="no pixel"):
        measure_flux_scale(flux, np.zeros_like(flux))


def test_synthetic_spectra_are_observed_as_observed_ones_are():
    config = configure(alike=True)
    rng = np.random.default_rng(3)
    domain = observe(400)
    # Errors are stated too small by half, and twenty spectra have a hit of their own.
    noisy = domain.flux + rng.normal(0.0, 0.02 * np.sqrt(1.5**2 - 1), domain.flux.shape)
    noisy[np.arange(0, 400, 20), np.arange(0, 40, 2)] += 1.0
    domain = replace(domain, flux=noisy.astype(np.float32))
    data = prepare_transfer(make_emulator(), domain, sample_labels(2000), config)
    hits = (np.asarray(data.flux) - np.median(data.flux, axis=0) > 0.7) & (domain.ivar[0] > 0)
    assert 10 < hits.sum() <= 20
    assert not np.asarray(data.ivar)[hits].any()
    clean = jnp.ones_like(data.flux)
    paired = pair_domains(data, config, clean, data.flux, data.ivar, jax.random.key(1))
    assert paired.synth_ivar is data.ivar
    good = np.asarray(data.ivar) > 0
    away = (np.asarray(paired.synth) - 1.0)[good] * np.sqrt(np.asarray(data.ivar)[good])
    assert away.std() == pytest.approx(1.5, rel=0.1)
    assert np.all(np.asarray(paired.synth)[~good] == 1.0)
    plain = configure()
    alone = pair_domains(data, plain, clean, data.flux, data.ivar, jax.random.key(1))
    assert alone.synth is clean
    assert np.all(np.asarray(alone.synth_ivar) == np.float32(plain.noise.synthetic_error**-2))
    with pytest.raises(MismatchError, match="was not learned"):
        pair_domains(
            data._replace(noise=None), config, clean, data.flux, data.ivar, jax.random.key(1)
        )


def test_a_label_that_a_transfer_turns_around_has_a_negative_cosine():
    slopes = np.random.default_rng(1).normal(size=(2, 5, 30))
    found = _compare_slopes(
        {"theory": slopes, "carried": slopes * np.array([2.0, -0.5])[:, None, None]},
        ("teff", "mh"),
    )
    assert found["slope_cosine_teff"] == pytest.approx(1.0)
    assert found["slope_cosine_mh"] == pytest.approx(-1.0)


def test_training_resumes_from_its_checkpoints_bit_for_bit(trained):
    (model, _), records, memory = trained
    config = configure(**LONGER)
    halfway = Memory()
    halfway.states = {step: state for step, state in memory.states.items() if step <= 300}
    again = []
    resumed = train_cyclestar(
        make_emulator(),
        observe(400),
        sample_labels(2000),
        config,
        checkpoints=halfway,
        on_interval=again.append,
    )
    for one, other in zip(again, records[3:], strict=True):
        assert (one.losses, one.validation) == (other.losses, other.validation)
    assert_same(resumed.model.params, model.params)


# Trainings that were stopped go on in tests/workflows/test_transfer.py, killed fits beside it.
@pytest.mark.slow
def test_a_killed_run_resumes_with_the_losses_of_the_uninterrupted(tmp_path):
    """Kill -9 between a line of the log and its checkpoint; this process goes on from there."""
    train_on_disk(tmp_path / "whole")
    cut = tmp_path / "cut"
    # It kills itself: from outside, a busy machine may let it come to its end first.
    command = [sys.executable, "-m", "tests.training.cyclestar.test_loop", str(cut), "4"]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, timeout=240, cwd=root).returncode == -signal.SIGKILL
    assert [line["step"] for line in read_lines(cut / "metrics.jsonl")] == [10, 20, 30, 40]
    train_on_disk(cut)
    lines = read_lines(cut / "metrics.jsonl")
    expected = read_lines(tmp_path / "whole" / "metrics.jsonl")
    assert len(expected) == configure().schedule.steps // INTERVAL
    assert lines == [*expected[:4], *expected[3:]]


@pytest.fixture
def scripted(monkeypatch):
    """The loop alone: steps cost nothing, losses and gaps are as written."""

    def follow(losses, gaps):
        losses, gaps = iter(losses), iter(gaps)

        def take_steps(state, data, config, n_step):
            step = state.step + n_step
            average = jax.tree.map(lambda leaf: jnp.full_like(leaf, step), state.average)
            total = jnp.asarray(next(losses))
            return state._replace(step=step, average=average), {"total": total}

        monkeypatch.setattr(transfer, "continue_transfer", take_steps)

        def validate(*a, **k):
            found = next(gaps)
            return found if isinstance(found, dict) else {"gap": found}

        monkeypatch.setattr(transfer, "validate_transfer", validate)
        monkeypatch.setattr(transfer, "build_transfer_model", lambda data, config, kept: Kept(kept))

    return follow


class Kept(TableModel):
    """Stands in for the model of some weights."""

    def __init__(self, weights):
        emulator = make_emulator()
        self.corners, self.model_error = emulator.corners, emulator.model_error
        self.label_space, self.grid = emulator.label_space, emulator.grid
        self.weights = weights

    weights: dict = eqx.field(default_factory=dict)


def train_scripted(**changes):
    memory = Memory()
    trained = train_cyclestar(
        make_emulator(),
        observe(),
        sample_labels(400),
        configure(**changes),
        checkpoints=memory,
    )
    return int(leaves_of(trained.model.weights)[0].flat[0]), trained.report, memory


@pytest.mark.parametrize(("keep", "kept_step"), [("last", 30), ("best", 20)])
def test_divergence_stops_with_good_weights_and_says_so(scripted, keep, kept_step):
    scripted([3.0, 2.0, 1.0, np.nan], [0.5, 0.3, 0.4, 0.3])
    weights, report, memory = train_scripted(steps=100, keep=keep)
    assert (report.diverged_at, report.steps, report.kept_step) == (40, 30, kept_step)
    assert weights == kept_step
    assert report.metrics()["diverged_at"] == 40
    assert max(memory.states) == 30


@pytest.mark.parametrize(("turned", "kept_step"), [((20,), 10), ((10, 20, 30), 30)])
def test_of_steps_without_a_fault_that_of_the_smallest_gap_is_kept(scripted, turned, kept_step):
    gaps = {10: 0.5, 20: 0.1, 30: 0.6}
    scores = [
        {"gap": gap, "slope_cosine_teff": -0.7 if step in turned else 0.9}
        for step, gap in gaps.items()
    ]
    scripted([1.0] * 3, [*scores, scores[kept_step // 10 - 1]])
    weights, report, _ = train_scripted(steps=30, keep="sound")
    assert weights == report.kept_step == kept_step
    scripted([1.0] * 3, [*scores, scores[-1]])
    weights, report, _ = train_scripted(steps=30, keep="sound", gap_tolerance=0.21)
    assert weights == report.kept_step == 30
    # Where no step is sound the last is kept, and is no model.
    assert bool(report.faults) == (len(turned) == 3)


@pytest.mark.parametrize(("keep", "n_fault"), [("sound", 0), ("best", 1), ("last", 1)])
def test_a_sound_step_is_not_judged_by_critics_of_later_ones(scripted, keep, n_fault):
    losses = (1.3, 1.2, 40.0)
    scores = [{"gap": 0.1 * (1 + i), "critic_obs": one} for i, one in enumerate(losses)]
    scripted([1.0] * 3, [*scores, {"gap": 0.1, "critic_obs": 40.0}])
    _, report, _ = train_scripted(steps=30, keep=keep)
    assert report.kept_step == (30 if keep == "last" else 10)
    assert len(report.faults) == n_fault


def test_divergence_before_anything_is_worth_keeping_is_failed_work(scripted):
    scripted([np.inf], [])
    with pytest.raises(WorkFailed, match="diverged within its first 10 steps"):
        train_scripted()


def test_patience_ends_training_with_the_weights_of_the_smallest_gap(scripted):
    scripted([1.0] * 9, [0.5, 0.4, 0.6, np.nan, 0.1, 0.4])
    weights, report, _ = train_scripted(steps=400, patience=20)
    assert (report.stopped_early, report.steps, report.kept_step, weights) == (True, 40, 20, 20)


def test_a_judge_sees_the_validation_spectra_and_may_replace_the_gap(trained):
    _, _, memory = trained
    config = configure(**LONGER)
    data = prepare_transfer(make_emulator(), observe(400), sample_labels(2000), config)
    seen = []

    def judge(sample):
        seen.append(sample)
        return {"gap": 0.125, "mine": 3}

    scores = validate_transfer(memory.states[100], data, config, judge=judge)
    assert (scores["gap"], scores["mine"], len(seen[0].observed)) == (0.125, 3.0, 73)
    masked = observe(400).ivar[0] == 0
    for flux in (seen[0].transferred, seen[0].untransferred):
        assert np.array_equal(flux[:, masked], seen[0].observed[:, masked])


def test_bad_domains_are_refused_before_any_training():
    emulator, labels, config = make_emulator(), sample_labels(400), configure()
    with pytest.raises(MismatchError, match="too few"):
        train_cyclestar(emulator, observe(9), labels, config)
    with pytest.raises(MismatchError, match="label draws are within the bounds"):
        train_cyclestar(emulator, observe(), labels + 5000.0, config)
    with pytest.raises(MismatchError, match="teff, mh"):
        train_cyclestar(emulator, observe(), np.full((400, 2), np.nan), config)
    shifted = replace(observe(), grid=PixelGrid.linear(7001.0, 7048.0, 1.0))
    with pytest.raises(MismatchError, match="resample"):
        train_cyclestar(emulator, shifted, labels, config)


def test_a_checkpoint_of_another_architecture_is_refused():
    config, wider = configure(), configure(own_sizes=replace(TINY, shared_latents=5))
    data = prepare(config)
    states = [eqx.filter_eval_shape(start_transfer, data, c) for c in (config, wider)]
    assert require_same_shapes(states[0], states[0]) is states[0]
    with pytest.raises(MismatchError, match="another architecture"):
        require_same_shapes(states[0], states[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": "huge"},
        {"steps": 0},
        {"precision": "float16"},
        {"convolution": "fft"},
        {"flux_scale": (1.0, 0.0)},
        {"averaging": 1.0},
        {"kind": "x"},
        {"warmup_steps": -1},
        {"no_such_thing": 1},
        {"r1": -1.0},
        {"split_noise": -1.0},
        {"critics_see": "labels"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises((UsageError, TypeCheckError)):
        configure(**changes)


def read_lines(path):
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def train_on_disk(folder, n_line=None):
    """What the killed process runs: a line an interval, then a checkpoint; perhaps killed."""
    folder.mkdir(exist_ok=True)

    def write(record):
        line = record.as_dict()
        del line["iterations_per_s"]
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if len(read_lines(folder / "metrics.jsonl")) == n_line:
            os.kill(os.getpid(), signal.SIGKILL)

    config = configure()
    store = Checkpoints(folder / "checkpoints")
    train_cyclestar(
        make_emulator(),
        observe(),
        sample_labels(400),
        config,
        checkpoints=store,
        on_interval=write,
    )


if __name__ == "__main__":
    train_on_disk(Path(sys.argv[1]), *map(int, sys.argv[2:]))
