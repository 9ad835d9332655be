"""Train The Payne on a grid of spectra: labels and normalised flux in, an emulator out."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.training.emulator.accuracy import TrainedEmulator, measure_accuracy
from jaxmdwarf.training.emulator.config import EmulatorConfig
from jaxmdwarf.training.emulator.data import TrainingSet, prepare_training_set
from jaxmdwarf.training.emulator.loop import (
    TrainingRecord,
    TrainingState,
    continue_training,
    fold_head,
    start_training,
)
from jaxmdwarf.wavelengths import PixelGrid


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
    >>> from jaxmdwarf.training.emulator.config import NetworkConfig, ScheduleConfig
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
    return measure_accuracy(
        emulator, training_set, config, state, labels=labels, flux=flux, good=good
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
    """The forward model of the best parameters; its `model_error` is still zero.

    Parameters
    ----------
    training_set : TrainingSet
    config : EmulatorConfig
    state : TrainingState
    label_space, grid
        What the training set was prepared from.
    preprocessing : Preprocessing, optional
        How the spectra were normalised; recorded in the emulator.
    """
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
