"""Steps of a Cycle-StarNet training: many a dispatch, functions of a state of arrays alone.

Synthetic spectra are made by the emulator inside the step, observed ones lie on the device and are
gathered by random rows; nothing returns to the host before an interval of steps is over.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.networks.cyclestar import (
    CycleStarCritics,
    CycleStarGenerator,
    equate_domains,
    set_centres,
)
from jaxmdwarf.training.cyclestar.config import CycleStarConfig, CycleStarScheduleConfig
from jaxmdwarf.training.cyclestar.constraints import (
    ConstraintWeights,
    constrain_passes,
    slope_excess,
)
from jaxmdwarf.training.cyclestar.data import TransferData, sample_domains
from jaxmdwarf.training.cyclestar.losses import (
    TransferGradients,
    run_passes,
    score_passes,
    show_passes,
    train_critic_loss,
    transfer_gradients,
    weigh_losses,
)
from jaxmdwarf.training.cyclestar.spectral_norm import normalise_critics, start_vectors

# Random numbers of steps and of validation come from different streams of a seed.
_STREAM = 0
_SLOPE_ROWS = 8


class TransferState(NamedTuple):
    """Everything that training goes on from: arrays only, so that a checkpoint is exact.

    Random numbers are functions of the seed and of `step`.

    Parameters
    ----------
    generator, critics : pytree
        Weights.
    average : pytree
        Running average of the generator's weights, or the weights themselves.
    generator_moments, critic_moments : pytree
        States of the two optimisers.
    singular : pytree
        Singular vectors of the critics' kernels, empty without spectral norm.
    best : pytree
        The average that is kept so far, see ``CycleStarScheduleConfig.keep``.
    best_gap : ()
        Smallest validation gap so far.
    best_step, step : ()
    """

    generator: PyTree
    critics: PyTree
    average: PyTree
    generator_moments: PyTree
    critic_moments: PyTree
    singular: PyTree
    best: PyTree
    best_gap: Float[Array, ""]
    best_step: Int[Array, ""]
    step: Int[Array, ""]


@eqx.filter_jit
def start_transfer(data: TransferData, config: CycleStarConfig) -> TransferState:
    """The state before the first step."""
    sizes = config.shape(data.flux.shape[1])
    generator_key, critic_key, vector_key = jax.random.split(jax.random.key(config.seed), 3)
    generator, critics = (
        CycleStarGenerator(sizes).init(generator_key),
        CycleStarCritics(sizes).init(critic_key),
    )
    if sizes.centred:
        synthetic = data.emulator.predict_scaled_batch(data.scaled[:512]).mean(axis=0)
        centres = synthetic.astype(jnp.float32), _find_centre(data, sizes.flux_spread)
        generator, critics = set_centres(generator, *centres), set_centres(critics, *centres)
    if config.networks.equal_start:
        generator = equate_domains(generator)
    optimisers = _optimisers(config)
    return TransferState(
        generator=generator,
        critics=critics,
        average=generator,
        generator_moments=optimisers[0].init(generator),
        critic_moments=optimisers[1].init(critics),
        singular=start_vectors(critics, vector_key) if config.losses.spectral_norm else {},
        best=generator,
        best_gap=jnp.asarray(jnp.inf, jnp.float32),
        best_step=jnp.asarray(0, jnp.int32),
        step=jnp.asarray(0, jnp.int32),
    )


def _find_centre(data: TransferData, spread: float) -> Float[Array, "n_pix"]:
    """Mean observed spectrum of all stars; 1 where no pixel is good.

    Stars count by their errors and the scatter of stars together, so nearly alike: brighter ones
    are hotter, and their mean alone would differ from theory's by a difference of labels too.
    """
    good = data.ivar > 0
    variance = 1.0 / jnp.where(good, data.ivar, 1.0) + spread**2
    weight = jnp.where(good, 1.0 / variance, 0.0)
    total = jnp.sum(weight, axis=0)
    mean = jnp.sum(weight * (jnp.where(good, data.flux, 1.0) - 1.0), axis=0)
    return (1.0 + mean / jnp.maximum(total, 1e-12)).astype(jnp.float32)


def require_same_shapes(restored: TransferState, expected: TransferState) -> TransferState:
    """`restored`, unless it is of other networks.

    Raises
    ------
    MismatchError
        If shapes differ: the checkpoint belongs to another architecture.
    """
    for old, new in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        if old.shape != new.shape:
            raise MismatchError(
                f"the checkpoint has an array of shape {old.shape} where these networks have "
                f"{new.shape}.",
                "it belongs to another architecture: give its settings, or start anew.",
            )
    return restored


@eqx.filter_jit
def continue_transfer(
    state: TransferState, data: TransferData, config: CycleStarConfig, n_step: int
) -> tuple[TransferState, dict[str, Float[Array, ""]]]:
    """`n_step` steps in one dispatch; the state after them, and losses averaged over them.

    What happens in a step depends on the step's number, not on where intervals end.
    """
    sizes = config.shape(data.flux.shape[1])
    optimisers = _optimisers(config)
    seed = jax.random.fold_in(jax.random.key(config.seed), _STREAM)

    def take_step(carry: TransferState, step):
        batch_key, noise_key = jax.random.split(jax.random.fold_in(seed, step))
        domains = sample_domains(data, config, batch_key)
        critics, singular, to_weights = normalise_critics(carry.critics, carry.singular)
        gradients = _find_gradients(
            sizes, carry.generator, critics, domains, data, config, step=step, key=noise_key
        )
        slopes = (gradients.generator, to_weights(gradients.critics))
        updates, generator_moments = optimisers[0].update(
            slopes[0], carry.generator_moments, carry.generator
        )
        generator = optax.apply_updates(carry.generator, updates)
        updates, critic_moments = optimisers[1].update(
            slopes[1], carry.critic_moments, carry.critics
        )
        # Without averaging the average is the weights; the first steps are forgotten sooner.
        decay = jnp.minimum(config.optimiser.averaging, (1.0 + step) / (10.0 + step))
        share = jnp.asarray(1.0 - decay if config.optimiser.averaging else 1.0, jnp.float32)
        carry = carry._replace(
            generator=generator,
            critics=optax.apply_updates(carry.critics, updates),
            average=optax.incremental_update(generator, carry.average, share),
            generator_moments=generator_moments,
            critic_moments=critic_moments,
            singular=singular,
            step=step + 1,
        )
        return carry, gradients.losses

    state, losses = jax.lax.scan(take_step, state, state.step + jnp.arange(n_step))
    return state, {name: values.mean() for name, values in losses.items()}


def _optimisers(config: CycleStarConfig) -> tuple[optax.GradientTransformation, ...]:
    how = config.optimiser
    return tuple(
        optax.chain(
            optax.identity() if how.clip_norm is None else optax.clip_by_global_norm(how.clip_norm),
            optax.scale_by_adam(b1=how.first_moment_decay, b2=how.second_moment_decay),
            optax.scale_by_learning_rate(_schedule(config.schedule, peak)),
        )
        for peak in (how.learning_rate, how.critic_learning_rate)
    )


def _schedule(schedule: CycleStarScheduleConfig, peak: float) -> optax.Schedule:
    if schedule.kind == "decay":
        later = optax.piecewise_constant_schedule(
            peak, dict.fromkeys(schedule.decay_steps, schedule.decay)
        )
    elif schedule.kind == "cosine":
        later = optax.cosine_decay_schedule(peak, schedule.steps, alpha=0.01)
    else:
        later = optax.constant_schedule(peak)
    if not schedule.warmup_steps:
        return later

    def warm_up(step):
        return later(step) * jnp.minimum(1.0, (step + 1) / schedule.warmup_steps)

    return warm_up


def _find_gradients(
    sizes, generator, critics, domains, data, config: CycleStarConfig, *, step, key
) -> TransferGradients:
    how, residual = config.losses, config.networks.residual
    if _is_plain(config):
        return transfer_gradients(
            sizes,
            generator,
            critics,
            domains,
            how.weights,
            residual=residual,
            form=how.form,
            reencoded_split=how.reencoded_split,
            r1=how.r1,
        )
    level = how.instance_noise * jnp.maximum(0.0, 1.0 - step / config.schedule.steps)
    names = ("synth_synth", "obs_obs", "synth_obs", "obs_synth")
    noise = level * jax.random.normal(key, (len(names), *domains.synth.shape))
    split_noise = _draw_split_noise(sizes, config, key, domains.obs.shape[0])
    view = {"spectra": how.critics_see == "spectra", "refill": config.noise.alike}

    def show(params, passes):
        passes = show_passes(sizes, params, domains, passes, **view)
        if not how.instance_noise:
            return passes
        noisy = zip(names, noise, strict=True)
        return passes._replace(**{name: getattr(passes, name) + more for name, more in noisy})

    def lose(trained):
        passes = run_passes(
            sizes,
            trained,
            domains,
            residual=residual,
            refill=config.noise.alike,
            split_noise=split_noise,
        )
        shown = show(trained, passes)
        scores = score_passes(sizes, critics, shown, reencoded_split=how.reencoded_split)
        total, parts = weigh_losses(domains, passes, scores, how.weights, form=how.form)
        split = passes.split_obs if split_noise is None else passes.split_obs - split_noise
        held, terms = constrain_passes(
            domains, passes, how.constraints, mean=data.mean, basis=data.basis, split_mean=split
        )
        if how.constraints.slopes:
            terms["slopes"] = _measure_slopes(sizes, trained, data, passes, config, key)
            held = held + how.constraints.slopes * terms["slopes"]
        return total + held, ({**parts, **terms, "total": total + held}, shown)

    def lose_critics(trained, shown):
        return train_critic_loss(
            sizes, trained, shown, r1=how.r1, reencoded_split=how.reencoded_split
        )

    slopes, (parts, shown) = jax.grad(lose, has_aux=True)(generator)
    critic_slopes, critic_parts = jax.grad(lose_critics, has_aux=True)(critics, shown)
    return TransferGradients(slopes, critic_slopes, {**parts, **critic_parts})


def _is_plain(config: CycleStarConfig) -> bool:
    """Whether a step is that of equations 4 to 7 and nothing else."""
    how = config.losses
    others = (how.instance_noise, how.split_noise, config.noise.alike)
    return (
        not any(others)
        and how.critics_see == "reconstructions"
        and how.constraints == ConstraintWeights()
    )


def _draw_split_noise(sizes, config: CycleStarConfig, key, n_spec: int):
    """Noise on split latents: one number a number that there is, the same at all positions."""
    if not config.losses.split_noise:
        return None
    length = 1 if sizes.split_pooled else sizes.latent_length
    shape = (n_spec, length, sizes.split_latents)
    return config.losses.split_noise * jax.random.normal(jax.random.fold_in(key, 1), shape)


def _measure_slopes(sizes, generator, data, passes, config: CycleStarConfig, key):
    """`slope_excess` at labels of their own, each along one label, with split latents at hand."""
    n_row = min(_SLOPE_ROWS, passes.split_obs.shape[0])
    row_key, label_key = jax.random.split(jax.random.fold_in(key, 2))
    rows = jax.random.randint(row_key, (n_row,), 0, data.scaled.shape[0])
    n_label = data.scaled.shape[1]
    along = jax.random.randint(label_key, (n_row,), 0, n_label)
    return slope_excess(
        sizes,
        generator,
        data.emulator,
        data.scaled[rows],
        jax.nn.one_hot(along, n_label, dtype=data.scaled.dtype),
        passes.split_obs[:n_row],
        residual=config.networks.residual,
    )
