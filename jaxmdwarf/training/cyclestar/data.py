"""What Cycle-StarNet learns from: both domains checked, split, on the device, drawn in batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.diagnostics.domain_scores import find_comparison_basis
from jaxmdwarf.errors import MismatchError
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.losses import Domains
from jaxmdwarf.training.transfer.domain import (
    DomainSplit,
    ObservedDomain,
    floor_errors,
    split_domain,
)


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
        `jaxmdwarf.diagnostics.domain_scores.find_comparison_basis`.
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


def split_for_training(
    n_spec: int, config: CycleStarConfig, star: Int[np.ndarray, "n_spec"] | None = None
) -> DomainSplit:
    """The paper's 8:2:1 split, if it leaves a batch to train on and some spectra to validate."""
    batch_size = config.optimiser.batch_size
    least = (batch_size, min(8, batch_size), 1)
    return split_domain(n_spec, seed=config.seed, least=least, star=star)


def prepare_transfer(
    emulator: ForwardModel,
    observed: ObservedDomain,
    labels: Float[np.ndarray, "n_draw n_label"],
    config: CycleStarConfig,
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
    split = split or split_for_training(observed.n_spec, config, observed.star)
    known = np.asarray(space.contains(labels.astype(np.float64)))
    held_rows = split.validation[: config.schedule.validation_rows]
    if np.count_nonzero(known) < max(2 * len(held_rows), config.optimiser.batch_size):
        raise MismatchError(
            f"only {np.count_nonzero(known)} of {len(labels)} label draws are within the bounds of "
            "the emulator.",
            "draw more labels, or train the emulator on a wider grid.",
        )
    scaled = np.asarray(space.scale(labels[known].astype(np.float64)), np.float32)
    scaled = scaled[np.random.default_rng(config.seed).permutation(len(scaled))]
    noise = config.noise
    ivar = floor_errors(observed.ivar, floor=noise.error_floor, largest=noise.largest_error)
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


def measure_flux_scale(
    flux: Float[Array | np.ndarray, "n n_pix"], ivar: Float[Array | np.ndarray, "n n_pix"]
) -> tuple[float, float]:
    """One mean and one deviation of all flux, each pixel weighed by its inverse variance.

    So noise of faint stars does not pass for spread. Both are rounded to four decimals.

    Examples
    --------
    >>> measure_flux_scale(np.array([[0.9, 1.1, 7.0]]), np.array([[1.0, 1.0, 0.0]]))
    (1.0, 0.1)
    """
    flux, ivar = np.asarray(flux), np.asarray(ivar)
    total = mean = square = 0.0
    for first in range(0, len(flux), 1024):
        rows = slice(first, first + 1024)
        weight = ivar[rows].astype(np.float64)
        away = np.where(weight > 0, flux[rows], 1.0) - 1.0
        total += weight.sum()
        mean += (weight * away).sum()
        square += (weight * away**2).sum()
    if not total > 0:
        raise MismatchError("no pixel of the observed spectra is good.", "look at the spectra.")
    mean, square = mean / total, square / total
    return round(float(1.0 + mean), 4), max(round(float(np.sqrt(square - mean**2)), 4), 1e-4)


def settle_flux_scale(config: CycleStarConfig, data: TransferData) -> CycleStarConfig:
    """The configuration with the scale of flux in numbers, measured where it is to be."""
    if config.networks.flux_scale != "data":
        return config
    return config.vary(flux_scale=measure_flux_scale(data.flux, data.ivar))


def sample_domains(data: TransferData, config: CycleStarConfig, key) -> Domains:
    """A batch of each domain, drawn with replacement."""
    label_key, row_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (config.optimiser.batch_size,), 0, data.flux.shape[0])
    draws = jax.random.randint(label_key, (config.optimiser.batch_size,), 0, data.scaled.shape[0])
    synth = data.emulator.predict_scaled_batch(data.scaled[draws])
    return Domains(synth, make_synthetic_ivar(synth, config), data.flux[rows], data.ivar[rows])


def make_synthetic_ivar(synth, config: CycleStarConfig):
    """Inverse variances of synthetic spectra, which have no noise: what a model is trusted."""
    return jnp.full_like(synth, config.noise.synthetic_error**-2)
