"""The training loop: steps in one dispatch, validation and early stopping in between."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.networks.payne import PayneNetwork, apply_payne, init_payne
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.training.emulator.data import TrainingSet
from jaxmdwarf.training.losses import mean_distance, mean_square_error


class TrainingState(NamedTuple):
    """Everything that training goes on from: arrays only, so that a checkpoint is exact.

    `history` holds the loss and the held-out loss of each report, NaN where none was made yet.
    """

    params: PyTree
    average: PyTree
    optimiser: PyTree
    best_params: PyTree
    best_loss: Float[Array, ""]
    best_step: Int[Array, ""]
    history: Float[Array, "n_report 2"]
    step: Int[Array, ""]


@dataclass(frozen=True)
class TrainingRecord:
    """How training stood after `step` steps.

    Parameters
    ----------
    step : int
    loss : float
        Mean squared distance of training spectra, over their own variance.
    held_loss : float
        Mean distance of held-out spectra, over the root mean square distance of training spectra
        from their mean.
    """

    step: int
    loss: float
    held_loss: float


def start_training(training_set: TrainingSet, config: EmulatorConfig) -> TrainingState:
    """The state before the first step.

    Parameters
    ----------
    training_set : TrainingSet
    config : EmulatorConfig
    """
    network = _training_network(training_set, config)
    n_label = training_set.scaled.shape[1]
    params = init_payne(network, jax.random.key(config.seed), n_label)
    return TrainingState(
        params=params,
        average=params,
        optimiser=_optimiser(config).init(params),
        best_params=params,
        best_loss=jnp.asarray(jnp.inf, jnp.float32),
        best_step=jnp.asarray(0, jnp.int32),
        history=jnp.full(
            (math.ceil(config.schedule.steps / config.schedule.report_every), 2),
            jnp.nan,
            jnp.float32,
        ),
        step=jnp.asarray(0, jnp.int32),
    )


def continue_training(
    training_set: TrainingSet, config: EmulatorConfig, state: TrainingState
) -> Iterator[tuple[TrainingState, TrainingRecord]]:
    """Train from `state` to the end, yielding after every ``config.schedule.report_every`` steps.

    Parameters
    ----------
    training_set : TrainingSet
    config : EmulatorConfig
    state : TrainingState

    Raises
    ------
    WorkFailed
        If the loss is not finite.
    """
    step = int(state.step)
    while step < config.schedule.steps and not stopped_early(state, config):
        n_step = min(config.schedule.report_every, config.schedule.steps - step)
        state = _take_steps(training_set, state, config=config, n_step=n_step)
        step += n_step
        record = training_records(state, config)[-1]
        if not math.isfinite(record.loss):
            raise WorkFailed(
                f"training diverged before step {step}.",
                "lower --learning-rate and start anew with --no-resume.",
            )
        yield state, record


def training_records(state: TrainingState, config: EmulatorConfig) -> list[TrainingRecord]:
    """The course of training up to `state`.

    Parameters
    ----------
    state : TrainingState
    config : EmulatorConfig
    """
    step = int(state.step)
    losses = np.asarray(state.history)[: math.ceil(step / config.schedule.report_every)]
    return [
        TrainingRecord(
            min((row + 1) * config.schedule.report_every, step), float(loss), float(held_loss)
        )
        for row, (loss, held_loss) in enumerate(losses)
    ]


def stopped_early(state: TrainingState, config: EmulatorConfig) -> bool:
    """Whether the validation loss has not improved for ``config.schedule.patience`` late steps.

    Parameters
    ----------
    state : TrainingState
    config : EmulatorConfig
    """
    return (
        int(state.step) - max(int(state.best_step), config.schedule.steps // 2)
        >= config.schedule.patience
    )


def fold_head(
    training_set: TrainingSet, config: EmulatorConfig, state: TrainingState
) -> tuple[PayneNetwork, dict[str, Any], Float[Array, "k n_pix"], Float[Array, "n_pix"]]:
    """Network, best parameters, basis and mean: ``mean + network(scaled) @ basis``, no scales.

    Parameters
    ----------
    training_set : TrainingSet
    config : EmulatorConfig
    state : TrainingState
    """
    network = _training_network(training_set, config)
    params = dict(state.best_params)
    basis, mean = training_set.basis, training_set.mean
    out = params.pop("out")
    scale = training_set.unit * training_set.spread
    kernel, bias = scale * out["kernel"], scale * out["bias"]
    if config.network.rank is None:
        exactly = jax.lax.Precision.HIGHEST
        mean = mean + jnp.matmul(bias, basis, precision=exactly)
        basis = jnp.matmul(kernel, basis, precision=exactly)
        network = replace(network, n_out=None)
    else:
        params["out"] = {"kernel": kernel, "bias": bias}
    return network, params, basis, mean


def _training_network(training_set: TrainingSet, config: EmulatorConfig) -> PayneNetwork:
    return PayneNetwork(
        config.network.hidden, training_set.basis.shape[0], config.network.activation
    )


def _optimiser(config: EmulatorConfig) -> optax.GradientTransformation:
    warmup = min(config.schedule.warmup_steps, config.schedule.steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.optimiser.learning_rate,
        peak_value=config.optimiser.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.schedule.steps,
        end_value=1e-3 * config.optimiser.learning_rate,
    )
    # Adam divides by the size of recent slopes. Late in training these are tiny, and one larger
    # slope then throws the weights far off; with its updates held down that does not happen.
    return optax.chain(
        optax.scale_by_adam(b2=config.optimiser.second_moment_decay),
        optax.clip_by_block_rms(config.optimiser.largest_update),
        optax.add_decayed_weights(config.optimiser.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


@partial(jax.jit, static_argnames=("config", "n_step"))
def _take_steps(training_set, state, *, config: EmulatorConfig, n_step: int):
    """`n_step` steps in one dispatch, then the held-out loss."""
    network, optimiser = _training_network(training_set, config), _optimiser(config)
    n_train = training_set.scaled.shape[0]
    seed = jax.random.key(config.seed)

    def predict(params, scaled):
        return training_set.spread * apply_payne(network, params, scaled)

    def loss_of(params, scaled, coefficients):
        return mean_square_error(coefficients, predict(params, scaled))

    def take_step(carry, step):
        params, average, moments = carry
        scaled, coefficients = training_set.scaled, training_set.coefficients
        if config.optimiser.batch_size is not None:
            key = jax.random.fold_in(seed, step)
            rows = jax.random.randint(key, (config.optimiser.batch_size,), 0, n_train)
            scaled, coefficients = scaled[rows], coefficients[rows]
        loss, slope = jax.value_and_grad(loss_of)(params, scaled, coefficients)
        updates, moments = optimiser.update(slope, moments, params)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1.0 - config.optimiser.averaging)
        return (params, average, moments), loss

    (params, average, moments), losses = jax.lax.scan(
        take_step,
        (state.params, state.average, state.optimiser),
        state.step + jnp.arange(n_step),
    )
    step = state.step + n_step
    held_loss = mean_distance(
        training_set.held_coefficients, predict(average, training_set.held_scaled)
    )
    better = held_loss < state.best_loss
    report = state.step // config.schedule.report_every
    return TrainingState(
        params=params,
        average=average,
        optimiser=moments,
        best_params=jax.tree.map(partial(jnp.where, better), average, state.best_params),
        best_loss=jnp.where(better, held_loss, state.best_loss),
        best_step=jnp.where(better, step, state.best_step),
        history=state.history.at[report].set(jnp.stack([losses[-1], held_loss])),
        step=step,
    )
