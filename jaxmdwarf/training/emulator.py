"""Train The Payne on a grid of spectra: labels and normalised flux in, an emulator out.

The spectra are first written in their own principal components. On an orthonormal basis a squared
distance between coefficients is a squared distance in pixels, so the network trains on a few dozen
numbers a spectrum, all spectra at once, at a few milliseconds a step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxmdwarf.errors import MismatchError, WorkFailed
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.payne import PayneNetwork, apply_payne, init_payne
from jaxmdwarf.training.emulator_config import EmulatorConfig
from jaxmdwarf.training.losses import mean_distance, mean_square_error, reconstruction_error
from jaxmdwarf.wavelengths import PixelGrid

_EVALUATION_ROWS = 512
_COMPONENT_ROWS = 3000


class TrainingSet(NamedTuple):
    """A grid of spectra as the optimiser sees it.

    Parameters
    ----------
    scaled, coefficients : (n_train, n_label), (n_train, k)
        Scaled labels, and spectra on the basis in units of the root mean square distance of the
        training spectra from their mean.
    held_scaled, held_coefficients
        The same of the held-out spectra.
    basis, mean : (k, n_pix), (n_pix,)
        Orthonormal principal components of the training spectra, and their mean.
    spread : (k,)
        Root mean square of each training coefficient. The network speaks in these units: Adam
        moves all outputs at one rate, which should be slow for components that matter little.
    unit : ()
        The root mean square distance.
    train_rows, held_rows : (n_train,), (n_held,)
        Rows of the grid.
    """

    scaled: Float[Array, "n_train n_label"]
    coefficients: Float[Array, "n_train k"]
    held_scaled: Float[Array, "n_held n_label"]
    held_coefficients: Float[Array, "n_held k"]
    basis: Float[Array, "k n_pix"]
    mean: Float[Array, "n_pix"]
    spread: Float[Array, "k"]
    unit: Float[Array, ""]
    train_rows: Int[np.ndarray, "n_train"]
    held_rows: Int[np.ndarray, "n_held"]


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


@dataclass(frozen=True)
class EmulatorReport:
    """How well an emulator gives back its grid (paper, eq. 1; fractions, not per cent).

    Parameters
    ----------
    error : (n,)
        Eq. 1 of every spectrum of the grid, over the pixels that count.
    held_out : (n,) bool
        Spectra that the network did not learn from. They did choose the step it was taken at.
    truncation : (n,)
        Eq. 1 of the linear head alone, with the best coefficients: what no training can better.
    steps, best_step : int
        Steps taken, and the step whose parameters were kept.
    stopped_early : bool
        Whether patience ran out before the steps did.
    """

    error: Float[np.ndarray, "n"]
    held_out: Bool[np.ndarray, "n"]
    truncation: Float[np.ndarray, "n"]
    steps: int
    best_step: int
    stopped_early: bool

    def metrics(self) -> dict[str, float | int | bool]:
        """Plain numbers under stable names; eq. 1 without a prefix is that of held-out spectra."""
        held, learned = self.error[self.held_out], self.error[~self.held_out]
        return {
            "eq1_median": float(np.median(held)),
            "eq1_p95": float(np.percentile(held, 95)),
            "eq1_max": float(held.max()),
            "train_eq1_median": float(np.median(learned)),
            "train_eq1_p95": float(np.percentile(learned, 95)),
            "head_eq1_p95": float(np.percentile(self.truncation[self.held_out], 95)),
            "n_train": int(learned.size),
            "n_held_out": int(held.size),
            "steps": self.steps,
            "best_step": self.best_step,
            "stopped_early": self.stopped_early,
        }


class TrainedEmulator(NamedTuple):
    """An emulator and how good it is."""

    emulator: PayneEmulator
    report: EmulatorReport


def train_emulator(
    labels: Float[np.ndarray, "n n_label"],
    flux: Float[np.ndarray, "n n_pix"],
    *,
    label_space: LabelSpace,
    grid: PixelGrid,
    config: EmulatorConfig | None = None,
    preprocessing: Preprocessing | None = None,
    good: Bool[np.ndarray, "n_pix"] | None = None,
    resume_from: TrainingState | None = None,
    on_report: Callable[[TrainingState, TrainingRecord], None] | None = None,
) -> TrainedEmulator:
    """Train The Payne on normalised spectra.

    Parameters
    ----------
    labels : (n, n_label)
        Physical labels; a grid may be irregular and have holes.
    flux : (n, n_pix)
        Spectra normalised as `preprocessing` says; every pixel is learned, masked ones too.
    label_space, grid
        What `labels` and `flux` are on.
    config : EmulatorConfig, optional
    preprocessing : Preprocessing, optional
        Recorded in the emulator.
    good : (n_pix,) bool, optional
        Pixels that count in eq. 1 and are reported; all by default.
    resume_from : TrainingState, optional
        A state that `on_report` was given by a run of the same data and `config`: the result is
        that of the uninterrupted run, bit for bit on one device.
    on_report : callable, optional
        Called with the state and a record every ``config.schedule.report_every`` steps.

    Returns
    -------
    TrainedEmulator
        The parameters with the least validation loss, and eq. 1 of all spectra.

    Raises
    ------
    MismatchError
        If shapes disagree, or values are not finite or flux not positive.
    WorkFailed
        If training diverges.

    Examples
    --------
    >>> from jaxmdwarf.training.emulator_config import NetworkConfig, ScheduleConfig
    >>> space, grid = LabelSpace.mdwarf(), PixelGrid.linear(7000.0, 7049.0, 1.0)
    >>> scaled = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 4))
    >>> flux = 1.0 + 0.1 * np.sin(np.arange(50) / 9.0) * scaled[:, :1]
    >>> trained = train_emulator(
    ...     space.unscale(scaled), flux, label_space=space, grid=grid,
    ...     config=EmulatorConfig(
    ...         network=NetworkConfig(hidden=(16,), rank=2),
    ...         schedule=ScheduleConfig(steps=200, warmup_steps=20),
    ...     ),
    ... )
    >>> trained.report.metrics()["eq1_median"] < 0.02
    True
    """
    config = config or EmulatorConfig()
    training_set = prepare_training_set(
        labels, flux, label_space=label_space, grid=grid, config=config
    )
    state = resume_from if resume_from is not None else start_training(training_set, config)
    for latest, record in continue_training(training_set, config, state):
        state = latest
        if on_report is not None:
            on_report(state, record)
    emulator = build_emulator(
        training_set, config, state, label_space=label_space, grid=grid, preprocessing=preprocessing
    )
    return judge_emulator(
        emulator, training_set, config, state, labels=labels, flux=flux, good=good
    )


def prepare_training_set(
    labels: Float[np.ndarray, "n n_label"],
    flux: Float[np.ndarray, "n n_pix"],
    *,
    label_space: LabelSpace,
    grid: PixelGrid,
    config: EmulatorConfig,
) -> TrainingSet:
    """Split the grid, find the principal components of its training part, project both parts.

    Raises
    ------
    MismatchError
        If shapes disagree, values are not finite, flux is not positive, or there are too few
        spectra to split.
    """
    labels, flux = np.asarray(labels), np.asarray(flux)
    if labels.shape != (len(flux), label_space.n_label) or flux.shape[1:] != (grid.n_pix,):
        raise MismatchError(
            f"labels {labels.shape} and flux {flux.shape} do not fit {label_space.n_label} labels "
            f"and {grid.n_pix} pixels.",
            "give one row of labels and one of flux a spectrum, on the pixels of the grid.",
        )
    if not (np.isfinite(labels).all() and np.isfinite(flux).all() and (flux > 0).all()):
        raise MismatchError(
            "labels or flux of the grid are not finite, or flux is not positive.",
            "drop these spectra from the grid.",
        )
    scaled = np.asarray(label_space.scale(labels.astype(np.float64)), dtype=np.float32)
    return project_vectors(scaled, flux, config)


def project_vectors(
    scaled: Float[np.ndarray, "n n_input"],
    vectors: Float[np.ndarray, "n n_pix"],
    config: EmulatorConfig,
) -> TrainingSet:
    """Vectors on their principal components, as functions of whatever inputs of order one.

    Components are those of at most 3,000 rows: more tell no more of a few dozen.

    Raises
    ------
    MismatchError
        If there are too few rows to split.
    """
    train_rows, held_rows = split_rows(len(vectors), config.validation_fraction, seed=config.seed)
    mean = vectors[train_rows].mean(axis=0, dtype=np.float64)
    # The plain Payne's last layer lies in the span of the training spectra, so all their
    # components stand for it exactly, at a third of the arithmetic.
    rank = len(train_rows) if config.network.rank is None else config.network.rank
    every = 1 if config.network.rank is None else -(-len(train_rows) // _COMPONENT_ROWS)
    basis = _principal_components(vectors[train_rows[::every]] - mean, rank)
    coefficients = (vectors - mean) @ basis.T
    unit = math.sqrt(float(np.mean(np.sum(coefficients[train_rows] ** 2, axis=1)))) or 1.0
    scaled = np.asarray(scaled, dtype=np.float32)
    coefficients = np.asarray(coefficients / unit, dtype=np.float32)
    return TrainingSet(
        scaled=jnp.asarray(scaled[train_rows]),
        coefficients=jnp.asarray(coefficients[train_rows]),
        held_scaled=jnp.asarray(scaled[held_rows]),
        held_coefficients=jnp.asarray(coefficients[held_rows]),
        basis=jnp.asarray(basis, dtype=jnp.float32),
        mean=jnp.asarray(mean, dtype=jnp.float32),
        spread=jnp.asarray(np.sqrt(np.mean(coefficients[train_rows] ** 2, axis=0))),
        unit=jnp.asarray(unit, dtype=jnp.float32),
        train_rows=train_rows,
        held_rows=held_rows,
    )


def split_rows(
    n_row: int, held_fraction: float, *, seed: int
) -> tuple[Int[np.ndarray, "n_train"], Int[np.ndarray, "n_held"]]:
    """Rows to learn from and rows held out, both sorted; at least one of each.

    Examples
    --------
    >>> train, held = split_rows(10, 0.2, seed=0)
    >>> len(train), len(held), sorted([*train, *held]) == list(range(10))
    (8, 2, True)
    """
    n_held = max(1, round(held_fraction * n_row))
    if n_row - n_held < 2:
        raise MismatchError(f"{n_row} spectra are too few to train on and hold some out.")
    order = np.random.default_rng(seed).permutation(n_row)
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def start_training(training_set: TrainingSet, config: EmulatorConfig) -> TrainingState:
    """The state before the first step."""
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
                f"training diverged before step {step}.", "lower the learning rate and start anew."
            )
        yield state, record


def training_records(state: TrainingState, config: EmulatorConfig) -> list[TrainingRecord]:
    """The course of training up to `state`."""
    step = int(state.step)
    losses = np.asarray(state.history)[: math.ceil(step / config.schedule.report_every)]
    return [
        TrainingRecord(
            min((row + 1) * config.schedule.report_every, step), float(loss), float(held_loss)
        )
        for row, (loss, held_loss) in enumerate(losses)
    ]


def stopped_early(state: TrainingState, config: EmulatorConfig) -> bool:
    """Whether the validation loss has not improved for ``config.schedule.patience`` late steps."""
    return (
        int(state.step) - max(int(state.best_step), config.schedule.steps // 2)
        >= config.schedule.patience
    )


def build_emulator(
    training_set: TrainingSet,
    config: EmulatorConfig,
    state: TrainingState,
    *,
    label_space: LabelSpace,
    grid: PixelGrid,
    preprocessing: Preprocessing | None = None,
) -> PayneEmulator:
    """The forward model of the best parameters; its `model_error` is still zero."""
    network, params, basis, mean = fold_head(training_set, config, state)
    return PayneEmulator(
        params=params,
        basis=basis,
        mean=mean,
        model_error=jnp.zeros_like(mean),
        network=network,
        label_space=label_space,
        grid=grid,
        preprocessing=preprocessing or Preprocessing(),
    )


def fold_head(
    training_set: TrainingSet, config: EmulatorConfig, state: TrainingState
) -> tuple[PayneNetwork, dict[str, Any], Float[Array, "k n_pix"], Float[Array, "n_pix"]]:
    """Network, best parameters, basis and mean: ``mean + network(scaled) @ basis``, no scales."""
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


def reconstruct(
    emulator: PayneEmulator, labels: Float[np.ndarray, "n n_label"]
) -> Float[np.ndarray, "n n_pix"]:
    """Spectra at rows of physical labels, on the host; a few hundred rows at a time."""
    scaled = emulator.label_space.scale(np.asarray(labels, dtype=np.float64))
    scaled = scaled.astype(emulator.mean.dtype)
    chunks = np.array_split(scaled, max(1, math.ceil(len(scaled) / _EVALUATION_ROWS)))
    return np.concatenate([_predict(emulator, chunk) for chunk in chunks])


def accuracy_over_labels(
    labels: Float[np.ndarray, "n n_label"],
    error: Float[np.ndarray, "n"],
    names: Sequence[str],
    *,
    n_bin: int = 5,
) -> list[dict[str, str | float | int]]:
    """Eq. 1 in equal slices of each label: one row a slice, with label, low, high, n, median, p95.

    Examples
    --------
    >>> rows = accuracy_over_labels(
    ...     np.array([[0.0], [1.0]]), np.array([0.1, 0.3]), ["mh"], n_bin=2
    ... )
    >>> rows[1] == {"label": "mh", "low": 0.5, "high": 1.0, "n": 1, "median": 0.3, "p95": 0.3}
    True
    """
    rows: list[dict[str, str | float | int]] = []
    for name, values in zip(names, np.asarray(labels).T, strict=True):
        edges = np.linspace(values.min(), values.max(), n_bin + 1)
        slot = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_bin - 1)
        for index in range(n_bin):
            inside = error[slot == index]
            rows.append(
                {
                    "label": name,
                    "low": float(edges[index]),
                    "high": float(edges[index + 1]),
                    "n": int(inside.size),
                    "median": float(np.median(inside)) if inside.size else math.nan,
                    "p95": float(np.percentile(inside, 95)) if inside.size else math.nan,
                }
            )
    return rows


def judge_emulator(
    emulator: PayneEmulator,
    training_set: TrainingSet,
    config: EmulatorConfig,
    state: TrainingState,
    *,
    labels: Float[np.ndarray, "n n_label"],
    flux: Float[np.ndarray, "n n_pix"],
    good: Bool[np.ndarray, "n_pix"] | None = None,
) -> TrainedEmulator:
    """Eq. 1 of every spectrum, and the emulator with its error per pixel filled in.

    The error of a pixel is the 68.3th percentile of its absolute fractional residuals over the
    held-out spectra: a one-sigma error that a few spectra at the corners of the grid do not rule.
    """
    recon = reconstruct(emulator, labels)
    held_out = np.zeros(len(flux), dtype=bool)
    held_out[training_set.held_rows] = True
    residual = np.abs(flux[held_out] - recon[held_out]) / flux[held_out]
    model_error = np.percentile(residual, 68.27, axis=0)
    mean, basis = np.asarray(training_set.mean), np.asarray(training_set.basis)
    truncated = mean + ((flux - mean) @ basis.T) @ basis
    report = EmulatorReport(
        error=np.asarray(reconstruction_error(flux, recon, good)),
        held_out=held_out,
        truncation=np.asarray(reconstruction_error(flux, truncated, good)),
        steps=int(state.step),
        best_step=int(state.best_step),
        stopped_early=stopped_early(state, config) and int(state.step) < config.schedule.steps,
    )
    # Equinox modules are dataclasses, and replace runs their checks again.
    judged = replace(emulator, model_error=jnp.asarray(model_error, dtype=emulator.mean.dtype))
    return TrainedEmulator(judged, report)


def _predict(emulator: PayneEmulator, scaled: np.ndarray) -> np.ndarray:
    return np.asarray(_predict_on_device(emulator, jnp.asarray(scaled)))


@eqx.filter_jit
def _predict_on_device(emulator: PayneEmulator, scaled):
    return emulator.predict_scaled_batch(scaled)


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


def _principal_components(deviation: np.ndarray, rank: int) -> np.ndarray:
    """The `rank` (or as many as there are) strongest orthonormal rows, shape (k, n_pix)."""
    n_row, n_pix = deviation.shape
    # Eigenvectors of the smaller product in float64: components down to 1e-7 of the first.
    if n_row <= n_pix:
        strength, vectors = np.linalg.eigh(deviation @ deviation.T)
        kept = _strongest(strength, rank)
        basis = vectors[:, kept].T @ deviation
        # A second orthonormalisation clears what rounding left in the weakest.
        return np.linalg.qr(basis.T)[0].T
    strength, vectors = np.linalg.eigh(deviation.T @ deviation)
    return vectors[:, _strongest(strength, rank)].T


def _strongest(strength: np.ndarray, rank: int) -> np.ndarray:
    order = np.argsort(strength)[::-1]
    meaningful = int(np.sum(strength > 1e-14 * max(strength.max(), 1e-300)))
    return order[: max(1, min(rank, meaningful))]
