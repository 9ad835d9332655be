"""Train Cycle-StarNet: pure train steps, many a dispatch, exact to resume (paper, section 3.2).

Synthetic spectra are made by the emulator inside the step, observed ones lie on the device and are
gathered by random rows; nothing returns to the host before an interval of steps is over.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxmdwarf.errors import MismatchError, UsageError, WorkFailed
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.transfer import CycleStarModel
from jaxmdwarf.networks.cyclestar import (
    CycleStarSizes,
    encode_obs,
    encode_synth,
    init_critics,
    init_generator,
    set_centres,
)
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.training.domain_scores import (
    discriminant_accuracy,
    explained_fraction,
    find_comparison_basis,
    latent_change,
    marginal_distance,
)
from jaxmdwarf.training.domains import DomainSplit, ObservedDomain, floor_errors, split_domain
from jaxmdwarf.training.transfer_losses import (
    AdversarialForm,
    Domains,
    LossWeights,
    TransferGradients,
    run_passes,
    score_passes,
    train_critic_loss,
    transfer_gradients,
    weigh_losses,
)

_VALIDATION_ROWS_AT_ONCE = 64
_SPLIT_ROWS = 4096
_STEPS, _VALIDATION = 0, 1
_SIZES = ("compact", "original")


@dataclass(frozen=True)
class CycleStarTraining:
    """How Cycle-StarNet is trained.

    Parameters
    ----------
    sizes : {"compact", "original"} or CycleStarSizes
        Networks; of sizes of your own, the number of pixels is taken from the spectra.
    batch_size : int
        Spectra of each domain a step, drawn with replacement.
    steps : int
        Batch iterations (what the paper calls epochs), at most.
    report_every : int
        Steps a dispatch; validation, early stopping and checkpoints happen in between.
    learning_rate, critic_learning_rate : float
        Peak rates of the two Adams.
    first_moment_decay, second_moment_decay : float
        Adam's betas.
    schedule : {"constant", "decay", "cosine"}
        "decay" multiplies both rates by `decay` after each of `decay_steps`; "cosine" falls to a
        hundredth at the last step.
    decay : float
    decay_steps : tuple of int
    warmup_steps : int
        Steps over which the rates rise from zero.
    weights : LossWeights
        Of equation 7.
    form : {"non_saturating", "paper"}
        What the generator minimises of equation 5; see
        `jaxmdwarf.training.transfer_losses.adversarial_loss`.
    reencoded_split : bool
        Whether the observed critic sees split latents read again from a transfer.
    residual : bool
        Whether a transfer is the spectrum plus the difference of the two decoders.
    synthetic_error : float
        One-sigma error of normalised synthetic flux (paper, section 2.4).
    error_floor, largest_error : float or None
        See `jaxmdwarf.training.domains.floor_errors`.
    r1 : float
        Weight of the slope penalty of the critics (Mescheder et al. 2018); 0 is off.
    spectral_norm : bool
        Whether kernels of the critics are divided by their largest singular value (Miyato et al.
        2018).
    averaging : float
        Decay a step of the running average of the generator's weights, which is then validated
        and kept; 0 is off.
    clip_norm : float or None
        Largest norm of either player's gradient.
    instance_noise : float
        Standard deviation of the noise on spectra that critics see, falling linearly to 0 at the
        last step (Sønderby et al. 2017); 0 is off.
    bf16 : bool
        Whether matrix products take factors of 8-bit mantissas; refused as long as the networks
        compute in float32 alone.
    validation_rows : int
        Spectra of each domain that are validated on, at most.
    patience : int or None
        Steps without a smaller gap after which training stops; None never stops early.
    keep : {"best", "last"}
        Whether the weights with the smallest validation gap are kept, or the last.
    seed : int
        Decides the split, the first weights, the batches.
    """

    sizes: Literal["compact", "original"] | CycleStarSizes = "compact"
    batch_size: int = 32
    steps: int = 2000
    report_every: int = 100
    learning_rate: float = 2e-3
    critic_learning_rate: float = 5e-4
    first_moment_decay: float = 0.5
    second_moment_decay: float = 0.999
    schedule: Literal["constant", "decay", "cosine"] = "cosine"
    decay: float = 0.7
    decay_steps: tuple[int, ...] = ()
    warmup_steps: int = 0
    weights: LossWeights = field(default_factory=LossWeights)
    form: AdversarialForm = "non_saturating"
    reencoded_split: bool = False
    residual: bool = False
    synthetic_error: float = 0.01
    error_floor: float | None = 0.005
    largest_error: float | None = None
    r1: float = 0.0
    spectral_norm: bool = False
    averaging: float = 0.0
    clip_norm: float | None = None
    instance_noise: float = 0.0
    bf16: bool = False
    validation_rows: int = 512
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("batch_size", "steps", "report_every", "validation_rows")
        rates = ("learning_rate", "critic_learning_rate", "decay", "synthetic_error")
        for name in (*counts, *rates):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("patience", "clip_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive or None, got {getattr(self, name)}.")
        for name in ("r1", "instance_noise", "warmup_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("averaging", "first_moment_decay", "second_moment_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not isinstance(self.sizes, CycleStarSizes) and self.sizes not in _SIZES:
            raise UsageError(
                f"sizes {self.sizes!r} are unknown.", f"use one of {', '.join(_SIZES)}."
            )
        if self.bf16:
            raise UsageError("the networks have no products in bfloat16 yet.", "leave bf16 off.")
        for name, known in (
            ("schedule", ("constant", "decay", "cosine")),
            ("keep", ("best", "last")),
            ("form", ("non_saturating", "paper")),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} is unknown.", f"use one of {', '.join(known)}."
                )

    @classmethod
    def paper(cls, **changes: Any) -> "CycleStarTraining":
        """The paper's configuration: the authors' sizes and rates, nothing of ours.

        Five hundred thousand batches of 8; both rates times 0.7 at 50, 100, 150 and 200 thousand;
        errors floored at 0.005 and masked above 0.05; the last weights are kept.
        """
        plain = cls(
            sizes="original",
            batch_size=8,
            steps=500_000,
            report_every=1000,
            learning_rate=1e-4,
            critic_learning_rate=1e-4,
            schedule="decay",
            decay_steps=(50_000, 100_000, 150_000, 200_000),
            reencoded_split=True,
            largest_error=0.05,
            validation_rows=1000,
            keep="last",
        )
        return replace(plain, **changes)

    @classmethod
    def compact(cls, **changes: Any) -> "CycleStarTraining":
        """Small networks and what steadies them, for two minutes on two processor cores."""
        steady = cls(
            steps=1200,
            weights=LossWeights(synth=1.0, obs=1.0, adversarial=1.0),
            residual=True,
            r1=1.0,
            averaging=0.995,
            clip_norm=100.0,
            warmup_steps=100,
        )
        return replace(steady, **changes)

    def shape(self, n_pix: int) -> CycleStarSizes:
        """The networks for spectra of `n_pix` pixels."""
        if isinstance(self.sizes, CycleStarSizes):
            return replace(self.sizes, n_pix=n_pix)
        return getattr(CycleStarSizes, self.sizes)(n_pix)


class TransferData(NamedTuple):
    """What training draws its batches from, on the device.

    Parameters
    ----------
    emulator : ForwardModel
        Makes the synthetic spectra.
    scaled : (n_draw, n_label)
        Scaled labels of the synthetic domain.
    flux, ivar : (n_train, n_pix)
        Observed spectra, errors floored.
    held_scaled : (n_held, n_label)
        Labels of the synthetic spectra that are validated on.
    held_flux, held_ivar : (n_held, n_pix)
    mean, basis : (n_pix,), (k, n_pix)
        Where spectra of the two domains are compared; see
        `jaxmdwarf.training.domain_scores.find_comparison_basis`.
    """

    emulator: ForwardModel
    scaled: Float[Array, "n_draw n_label"]
    flux: Float[Array, "n_train n_pix"]
    ivar: Float[Array, "n_train n_pix"]
    held_scaled: Float[Array, "n_held n_label"]
    held_flux: Float[Array, "n_held n_pix"]
    held_ivar: Float[Array, "n_held n_pix"]
    mean: Float[Array, "n_pix"]
    basis: Float[Array, "k n_pix"]


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
        The average with the smallest validation gap so far.
    best_gap : ()
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


@runtime_checkable
class CheckpointStore(Protocol):
    """Where states are kept; `jaxmdwarf.io.checkpoints.Checkpoints` is one."""

    def save(self, step: int, state: Any) -> None:
        """Keep a state."""

    def restore(self, *, like: Any) -> Any:
        """The newest state, or None."""


@dataclass(frozen=True)
class ValidationSample:
    """What is known of the validation spectra, on the host, for whoever wants to judge them.

    Parameters
    ----------
    observed, transferred, untransferred : (n, n_pix)
        Observed flux; synthetic flux carried to the observed domain, and as it was, both with the
        noise of the observed spectrum of the same row. Masked pixels hold the same in all three.
    shared_synth, shared_obs : (n, k)
        Flattened shared latents.
    split_obs : (n, k)
        Flattened split latents.
    """

    observed: Float[np.ndarray, "n n_pix"]
    transferred: Float[np.ndarray, "n n_pix"]
    untransferred: Float[np.ndarray, "n n_pix"]
    shared_synth: Float[np.ndarray, "n k_shared"]
    shared_obs: Float[np.ndarray, "n k_shared"]
    split_obs: Float[np.ndarray, "n k_split"]


@dataclass(frozen=True)
class TransferRecord:
    """How training stood after `step` steps.

    Parameters
    ----------
    step : int
    losses : dict
        Means over the interval, under the names of
        `jaxmdwarf.training.transfer_losses.generator_loss` and ``train_critic_loss``.
    validation : dict
        Losses of held-out spectra under the same names, and scores: ``gap`` (distance of
        transferred from observed spectra, the brighter half, over that of untransferred ones: 0
        closed, 1 nothing won; see `jaxmdwarf.training.domain_scores.marginal_distance`),
        ``classifier_accuracy`` and ``classifier_accuracy_none`` (0.5 is perfect),
        ``shared_accuracy`` (of telling the domains apart by their shared latents),
        ``shared_synth_change``, ``shared_obs_change`` and ``split_change`` (of latents by a
        transfer), ``split_explains_shared`` (how much of the physics the split latents hold).
    iterations_per_s : float
        Of the interval's steps, compilation and validation left out where possible.
    """

    step: int
    losses: dict[str, float]
    validation: dict[str, float]
    iterations_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Flat numbers for one line of a log; validation under ``val_``."""
        held = {f"val_{name}": value for name, value in self.validation.items()}
        rate = round(self.iterations_per_s, 3)
        return {"step": self.step, **self.losses, **held, "iterations_per_s": rate}


@dataclass(frozen=True)
class TransferReport:
    """How a training of Cycle-StarNet went.

    Parameters
    ----------
    records : tuple of TransferRecord
        Of the intervals of this run; those before a resume are in the log.
    steps, kept_step : int
        Steps taken, and the step whose weights were kept.
    stopped_early : bool
        Whether patience ran out before the steps did.
    diverged_at : int or None
        Step by which losses were no longer finite; the weights are those of an earlier step.
    validation : dict
        Losses and scores of held-out spectra with the weights that were kept.
    n_train, n_validation, n_test, n_labels : int
    iterations_per_s : float
        Median over the intervals.
    """

    records: tuple[TransferRecord, ...]
    steps: int
    kept_step: int
    stopped_early: bool
    diverged_at: int | None
    validation: dict[str, float]
    n_train: int
    n_validation: int
    n_test: int
    n_labels: int
    iterations_per_s: float

    def metrics(self) -> dict[str, Any]:
        """Plain numbers under stable names."""
        return {
            "classifier_accuracy": {
                "none": self.validation.get("classifier_accuracy_none", math.nan),
                "transfer": self.validation.get("classifier_accuracy", math.nan),
            },
            "iterations_per_s": self.iterations_per_s,
            "steps": self.steps,
            "kept_step": self.kept_step,
            "stopped_early": self.stopped_early,
            "diverged_at": self.diverged_at,
            "n_train": self.n_train,
            "n_validation": self.n_validation,
            "n_test": self.n_test,
            "n_labels": self.n_labels,
            "validation": self.validation,
        }


class TrainedTransfer(NamedTuple):
    """A forward model of observed spectra, and how its training went."""

    model: ForwardModel
    report: Any


Judge = Callable[[ValidationSample], Mapping[str, float]]


def train_cyclestar(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: CycleStarTraining | None = None,
    *,
    checkpoints: CheckpointStore | None = None,
    on_interval: Callable[[TransferRecord], None] | None = None,
    judge: Judge | None = None,
) -> TrainedTransfer:
    """Learn, without labels, to carry synthetic spectra into the observed domain.

    Parameters
    ----------
    emulator : ForwardModel
        Labels to normalised synthetic flux.
    observed : ObservedDomain
        At rest, normalised as the emulator's spectra are; split 8:2:1 here, by ``config.seed``.
    labels : (n_draw, n_label)
        Physical labels, as frequent as among the observed stars, in the emulator's order.
    config : CycleStarTraining, optional
    checkpoints : CheckpointStore, optional
        A state is kept after every interval; training goes on from the newest.
    on_interval : callable, optional
        Called with a `TransferRecord` after each interval, before its state is kept.
    judge : callable, optional
        Further scores of a `ValidationSample`; a ``gap`` among them replaces ours, by which
        training stops and weights are kept.

    Returns
    -------
    TrainedTransfer
        A `jaxmdwarf.models.transfer.CycleStarModel` and a `TransferReport`.

    Raises
    ------
    MismatchError
        If there are too few spectra, pixel grids differ, or labels do not fit the emulator.
    WorkFailed
        If training diverges before there is anything to keep.
    """
    config = config or CycleStarTraining.compact()
    split = split_for_training(observed.n_spec, config)
    data = prepare_transfer(emulator, observed, labels, config, split=split)
    state = start_transfer(data, config)
    if checkpoints is not None:
        restored = checkpoints.restore(like=state)
        state = state if restored is None else require_same_shapes(restored, state)
    records: list[TransferRecord] = []
    diverged_at = None
    while int(state.step) < config.steps and not _out_of_patience(state, config):
        n_step = min(config.report_every, config.steps - int(state.step))
        began = time.perf_counter()
        latest, means = continue_transfer(state, data, config, n_step)
        losses = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - began
        if not all(math.isfinite(value) for value in losses.values()):
            diverged_at = int(latest.step)
            break
        scores = validate_transfer(latest, data, config, judge=judge)
        latest = _keep_best(latest, scores.get("gap", math.nan))
        record = TransferRecord(int(latest.step), losses, scores, n_step / seconds)
        state = latest
        records.append(record)
        if on_interval is not None:
            on_interval(record)
        if checkpoints is not None:
            checkpoints.save(record.step, state)
    if diverged_at is not None and int(state.step) == 0:
        raise WorkFailed(
            f"training diverged within its first {diverged_at} steps.",
            "lower the learning rates, or clip gradients.",
        )
    best = config.keep == "best" and int(state.best_step) > 0
    kept = state.best if best else state.average
    model = build_transfer_model(data, config, kept)
    report = TransferReport(
        records=tuple(records),
        steps=int(state.step),
        kept_step=int(state.best_step) if best else int(state.step),
        stopped_early=_out_of_patience(state, config) and int(state.step) < config.steps,
        diverged_at=diverged_at,
        validation=validate_transfer(state._replace(average=kept), data, config, judge=judge),
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
        n_labels=len(labels),
        # The first interval also compiles.
        iterations_per_s=float(
            np.median([record.iterations_per_s for record in records[1:] or records])
        )
        if records
        else math.nan,
    )
    return TrainedTransfer(model, report)


def split_for_training(n_spec: int, config: CycleStarTraining) -> DomainSplit:
    """The paper's 8:2:1 split, if it leaves a batch to train on and some spectra to validate."""
    least_held = min(8, config.batch_size)
    return split_domain(n_spec, seed=config.seed, least=(config.batch_size, least_held, 1))


def prepare_transfer(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: CycleStarTraining,
    *,
    split: DomainSplit | None = None,
) -> TransferData:
    """Check both domains and put them on the device.

    The synthetic domain is split too: labels of validation spectra are not drawn in training.

    Raises
    ------
    MismatchError
        See `train_cyclestar`.
    """
    emulator.require_grid(observed.grid)
    labels = np.asarray(labels)
    space = emulator.label_space
    if labels.ndim != 2 or labels.shape[1] != space.n_label or not np.isfinite(labels).all():
        raise MismatchError(
            f"labels {labels.shape} are not finite, or not of {', '.join(space.names)}.",
            "give one column a label of the emulator.",
        )
    split = split or split_for_training(observed.n_spec, config)
    known = np.asarray(space.contains(labels.astype(np.float64)))
    held_rows = split.validation[: config.validation_rows]
    if np.count_nonzero(known) < max(2 * len(held_rows), config.batch_size):
        raise MismatchError(
            f"only {np.count_nonzero(known)} of {len(labels)} label draws are within the bounds of "
            "the emulator.",
            "draw more labels, or train the emulator on a wider grid.",
        )
    scaled = np.asarray(space.scale(labels[known].astype(np.float64)), np.float32)
    scaled = scaled[np.random.default_rng(config.seed).permutation(len(scaled))]
    ivar = floor_errors(observed.ivar, floor=config.error_floor, largest=config.largest_error)
    train_flux, train_ivar = observed.flux[split.train], ivar[split.train]
    comparison = find_comparison_basis(train_flux, train_ivar)
    n_held = len(held_rows)
    return TransferData(
        emulator=emulator,
        scaled=jnp.asarray(scaled[n_held:]),
        flux=jnp.asarray(train_flux),
        ivar=jnp.asarray(train_ivar),
        held_scaled=jnp.asarray(scaled[:n_held]),
        held_flux=jnp.asarray(observed.flux[held_rows]),
        held_ivar=jnp.asarray(ivar[held_rows]),
        mean=jnp.asarray(comparison.mean),
        basis=jnp.asarray(comparison.basis),
    )


@eqx.filter_jit
def start_transfer(data: TransferData, config: CycleStarTraining) -> TransferState:
    """The state before the first step."""
    sizes = config.shape(data.flux.shape[1])
    generator_key, critic_key, vector_key = jax.random.split(jax.random.key(config.seed), 3)
    generator, critics = init_generator(sizes, generator_key), init_critics(sizes, critic_key)
    if sizes.centred:
        synthetic = data.emulator.predict_scaled_batch(data.scaled[:512]).mean(axis=0)
        centres = synthetic.astype(jnp.float32), data.mean
        generator, critics = set_centres(generator, *centres), set_centres(critics, *centres)
    optimisers = _optimisers(config)
    return TransferState(
        generator=generator,
        critics=critics,
        average=generator,
        generator_moments=optimisers[0].init(generator),
        critic_moments=optimisers[1].init(critics),
        singular=_start_vectors(critics, vector_key) if config.spectral_norm else {},
        best=generator,
        best_gap=jnp.asarray(jnp.inf, jnp.float32),
        best_step=jnp.asarray(0, jnp.int32),
        step=jnp.asarray(0, jnp.int32),
    )


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
    state: TransferState, data: TransferData, config: CycleStarTraining, n_step: int
) -> tuple[TransferState, dict[str, Float[Array, ""]]]:
    """`n_step` steps in one dispatch; the state after them, and losses averaged over them.

    What happens in a step depends on the step's number, not on where intervals end.
    """
    sizes = config.shape(data.flux.shape[1])
    optimisers = _optimisers(config)
    seed = jax.random.fold_in(jax.random.key(config.seed), _STEPS)

    def take_step(carry: TransferState, step):
        batch_key, noise_key = jax.random.split(jax.random.fold_in(seed, step))
        domains = _draw_domains(data, config, batch_key)
        critics, singular, to_weights = _normalise_critics(carry.critics, carry.singular)
        gradients = _find_gradients(
            sizes, carry.generator, critics, domains, config, step=step, key=noise_key
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
        decay = jnp.minimum(config.averaging, (1.0 + step) / (10.0 + step))
        share = jnp.asarray(1.0 - decay if config.averaging else 1.0, jnp.float32)
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


def validate_transfer(
    state: TransferState,
    data: TransferData,
    config: CycleStarTraining,
    *,
    judge: Judge | None = None,
) -> dict[str, float]:
    """Losses and scores of held-out spectra with the averaged weights; see `TransferRecord`."""
    measured = _validate(state, data, config)
    losses = {name: float(value) for name, value in measured["losses"].items()}
    latents = {name: np.asarray(value) for name, value in measured["latents"].items()}
    clouds = {name: np.asarray(value) for name, value in measured["coefficients"].items()}
    everything = [*losses.values(), *(v.sum() for v in (*latents.values(), *clouds.values()))]
    if not np.isfinite(everything).all():
        return {**losses, "gap": math.nan}
    # Noise hides the gap in faint spectra.
    brightness = np.median(np.asarray(data.held_ivar), axis=1)
    clouds = {name: cloud[brightness >= np.median(brightness)] for name, cloud in clouds.items()}
    without = marginal_distance(clouds["observed"], clouds["untransferred"])
    scores = {
        "gap": marginal_distance(clouds["observed"], clouds["transferred"]) / max(without, 1e-3),
        "classifier_accuracy": discriminant_accuracy(clouds["observed"], clouds["transferred"]),
        "classifier_accuracy_none": discriminant_accuracy(
            clouds["observed"], clouds["untransferred"]
        ),
        "shared_accuracy": discriminant_accuracy(latents["shared_synth"], latents["shared_obs"]),
        "shared_synth_change": latent_change(latents["shared_synth"], latents["shared_synth_obs"]),
        "shared_obs_change": latent_change(latents["shared_obs"], latents["shared_obs_synth"]),
        "split_change": latent_change(latents["split_obs"], latents["split_synth_obs"]),
        "split_explains_shared": explained_fraction(latents["split_obs"], latents["shared_obs"]),
    }
    if judge is not None:
        sample = ValidationSample(
            **{
                name: np.asarray(measured["spectra"][name])
                for name in ("observed", "transferred", "untransferred")
            },
            **{name: latents[name] for name in ("shared_synth", "shared_obs", "split_obs")},
        )
        scores |= {name: float(value) for name, value in judge(sample).items()}
    return {**losses, **scores}


def build_transfer_model(
    data: TransferData, config: CycleStarTraining, generator: PyTree
) -> CycleStarModel:
    """The forward model of generator weights: the emulator, then the networks."""
    sizes = config.shape(data.flux.shape[1])
    model = CycleStarModel(  # type: ignore[call-arg]
        base=data.emulator,
        params=generator,
        mean_split=jnp.zeros((sizes.latent_length, sizes.split_latents), jnp.float32),
        sizes=sizes,
        residual=config.residual,
    )
    flux, ivar = data.flux[:_SPLIT_ROWS], data.ivar[:_SPLIT_ROWS]
    seen = (ivar > 0).any(axis=1)
    split = model.read_context(SpectrumBatch(flux, ivar, ivar, data.emulator.grid))
    mean = jnp.sum(jnp.where(seen[:, None, None], split, 0), axis=0) / jnp.maximum(seen.sum(), 1)
    # Equinox modules are dataclasses, and replace runs their checks again.
    return replace(model, mean_split=mean)


def _out_of_patience(state: TransferState, config: CycleStarTraining) -> bool:
    if config.patience is None:
        return False
    return int(state.step) - int(state.best_step) >= config.patience


def _keep_best(state: TransferState, gap: float) -> TransferState:
    if not gap < float(state.best_gap):
        return state
    return state._replace(
        best=state.average, best_gap=jnp.asarray(gap, jnp.float32), best_step=state.step
    )


def _optimisers(config: CycleStarTraining) -> tuple[optax.GradientTransformation, ...]:
    return tuple(
        optax.chain(
            optax.identity()
            if config.clip_norm is None
            else optax.clip_by_global_norm(config.clip_norm),
            optax.scale_by_adam(b1=config.first_moment_decay, b2=config.second_moment_decay),
            optax.scale_by_learning_rate(_schedule(config, peak)),
        )
        for peak in (config.learning_rate, config.critic_learning_rate)
    )


def _schedule(config: CycleStarTraining, peak: float) -> optax.Schedule:
    if config.schedule == "decay":
        later = optax.piecewise_constant_schedule(
            peak, dict.fromkeys(config.decay_steps, config.decay)
        )
    elif config.schedule == "cosine":
        later = optax.cosine_decay_schedule(peak, config.steps, alpha=0.01)
    else:
        later = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return later

    def warm_up(step):
        return later(step) * jnp.minimum(1.0, (step + 1) / config.warmup_steps)

    return warm_up


def _draw_domains(data: TransferData, config: CycleStarTraining, key) -> Domains:
    label_key, row_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (config.batch_size,), 0, data.flux.shape[0])
    draws = jax.random.randint(label_key, (config.batch_size,), 0, data.scaled.shape[0])
    synth = data.emulator.predict_scaled_batch(data.scaled[draws])
    return Domains(synth, _synthetic_ivar(synth, config), data.flux[rows], data.ivar[rows])


def _synthetic_ivar(synth, config: CycleStarTraining):
    return jnp.full_like(synth, config.synthetic_error**-2)


def _find_gradients(
    sizes, generator, critics, domains, config: CycleStarTraining, *, step, key
) -> TransferGradients:
    if not config.instance_noise:
        return transfer_gradients(
            sizes,
            generator,
            critics,
            domains,
            config.weights,
            residual=config.residual,
            form=config.form,
            reencoded_split=config.reencoded_split,
            r1=config.r1,
        )
    level = config.instance_noise * jnp.maximum(0.0, 1.0 - step / config.steps)
    names = ("synth_synth", "obs_obs", "synth_obs", "obs_synth")
    noise = level * jax.random.normal(key, (len(names), *domains.synth.shape))

    def blur(passes):
        noisy = zip(names, noise, strict=True)
        return passes._replace(**{name: getattr(passes, name) + more for name, more in noisy})

    def lose(trained):
        passes = run_passes(sizes, trained, domains, residual=config.residual)
        scores = score_passes(sizes, critics, blur(passes), reencoded_split=config.reencoded_split)
        total, parts = weigh_losses(domains, passes, scores, config.weights, form=config.form)
        return total, (parts, passes)

    def lose_critics(trained, passes):
        return train_critic_loss(
            sizes, trained, blur(passes), r1=config.r1, reencoded_split=config.reencoded_split
        )

    slopes, (parts, passes) = jax.grad(lose, has_aux=True)(generator)
    critic_slopes, critic_parts = jax.grad(lose_critics, has_aux=True)(critics, passes)
    return TransferGradients(slopes, critic_slopes, {**parts, **critic_parts})


def _start_vectors(critics: PyTree, key) -> dict[str, Array]:
    kernels = _kernels(critics)
    keys = jax.random.split(key, len(kernels))
    vectors = {
        name: jax.random.normal(vector_key, (kernel.shape[-1],), jnp.float32)
        for vector_key, (name, kernel) in zip(keys, kernels.items(), strict=True)
    }
    # A few rounds before the first step, so that it starts from singular values and not below.
    for _ in range(10):
        vectors = {name: _iterate(kernels[name], vector)[0] for name, vector in vectors.items()}
    return vectors


def _normalise_critics(critics: PyTree, singular: Mapping[str, Array]):
    """Critics with kernels of unit spectral norm, new singular vectors, and the way back.

    One power iteration a step (Miyato et al. 2018, algorithm 1); gradients treat the vectors as
    constants, not the singular value.
    """
    if not singular:
        return critics, singular, lambda slopes: slopes
    renewed = {name: _iterate(kernel, singular[name]) for name, kernel in _kernels(critics).items()}
    renewed = jax.lax.stop_gradient(renewed)

    def divide(weights):
        def divide_one(path, leaf):
            name = jax.tree_util.keystr(path)
            if name not in renewed:
                return leaf
            right, left = renewed[name]
            norm = left @ leaf.reshape(-1, leaf.shape[-1]) @ right
            return leaf / jnp.maximum(norm, 1e-12)

        return jax.tree_util.tree_map_with_path(divide_one, weights)

    normalised, pull = jax.vjp(divide, critics)
    vectors = {name: right for name, (right, _) in renewed.items()}
    return normalised, vectors, lambda slopes: pull(slopes)[0]


def _kernels(critics: PyTree) -> dict[str, Array]:
    leaves = jax.tree_util.tree_flatten_with_path(critics)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.ndim > 1}


def _iterate(kernel, right):
    """Right and left singular vectors of the largest singular value after one power iteration."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    left = matrix @ right
    left = left / jnp.maximum(jnp.linalg.norm(left), 1e-12)
    right = left @ matrix
    return right / jnp.maximum(jnp.linalg.norm(right), 1e-12), left


@eqx.filter_jit
def _validate(state: TransferState, data: TransferData, config: CycleStarTraining):
    """Losses, latents and spectra of all validation rows, a few at a time."""
    sizes = config.shape(data.flux.shape[1])
    critics, _, _ = _normalise_critics(state.critics, state.singular)
    n_held = data.held_flux.shape[0]
    n_row = min(_VALIDATION_ROWS_AT_ONCE, n_held)
    n_part = -(-n_held // n_row)
    # The last part is filled up with rows of the first; they are dropped from all but the losses.
    rows = jnp.arange(n_part * n_row).reshape(n_part, n_row) % n_held
    seed = jax.random.fold_in(jax.random.key(config.seed), _VALIDATION)

    def measure(rows):
        synth = data.emulator.predict_scaled_batch(data.held_scaled[rows])
        domains = Domains(
            synth, _synthetic_ivar(synth, config), data.held_flux[rows], data.held_ivar[rows]
        )
        passes = run_passes(sizes, state.average, domains, residual=config.residual)
        scores = score_passes(sizes, critics, passes, reencoded_split=config.reencoded_split)
        _, losses = weigh_losses(domains, passes, scores, config.weights, form=config.form)
        _, critic_losses = train_critic_loss(
            sizes, critics, passes, reencoded_split=config.reencoded_split
        )
        good = domains.obs_ivar > 0
        error = jnp.where(good, jax.lax.rsqrt(jnp.where(good, domains.obs_ivar, 1.0)), 0.0)
        noise = error * jax.random.normal(jax.random.fold_in(seed, rows[0]), error.shape)
        spectra = {
            name: jnp.where(good, flux, data.mean)
            for name, flux in (
                ("observed", domains.obs),
                ("transferred", passes.synth_obs + noise),
                ("untransferred", synth + noise),
            )
        }
        latents = {
            "shared_synth": passes.shared_synth,
            "shared_obs": passes.shared_obs,
            "split_obs": passes.split_obs,
            "shared_synth_obs": encode_obs(sizes, state.average, passes.synth_obs).shared,
            "shared_obs_synth": encode_synth(sizes, state.average, passes.obs_synth),
            "split_synth_obs": passes.split_synth_obs,
        }
        return {**losses, **critic_losses}, latents, spectra

    losses, latents, spectra = jax.lax.map(measure, rows)

    def flatten(values):
        return values.reshape(n_part * n_row, -1)[:n_held]

    spectra = {name: flatten(values) for name, values in spectra.items()}
    exactly = jax.lax.Precision.HIGHEST
    return {
        "losses": {name: values.mean() for name, values in losses.items()},
        "latents": {name: flatten(values) for name, values in latents.items()},
        "spectra": spectra,
        "coefficients": {
            name: jnp.matmul(flux - data.mean, data.basis.T, precision=exactly)
            for name, flux in spectra.items()
        },
    }
