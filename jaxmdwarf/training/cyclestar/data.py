"""What Cycle-StarNet learns from: both domains checked, split, on the device, drawn in batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmdwarf.diagnostics.domain_scores import find_comparison_basis
from jaxmdwarf.diagnostics.noise import match_noise, native_width, sample_noise
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

_NOISE_ROWS = 512
_ENOUGH_TO_MATCH = 120


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
    noise : (n_noise, n_pix) or None
        Noise of observed spectra in units of their stated errors, where synthetic spectra are
        given it.
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
    noise: Float[Array, "n_noise n_pix"] | None = None


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
    bank = None
    if noise.alike:
        seen = np.concatenate([split.train, held_rows])
        bank, outlier = _learn_noise(emulator, observed, seen, config.seed)
        ivar = ivar.copy()
        ivar[seen] = np.where(outlier, ivar.dtype.type(0), ivar[seen])
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
        noise=None if bank is None else jnp.asarray(bank),
    )


def _learn_noise(
    emulator: ForwardModel, observed: ObservedDomain, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise like that of observed spectra, over stated errors, and which pixels no noise explains.

    The amplitude is what spectra have and not what they state, and neighbouring pixels are
    correlated as resampling left them: critics and latents see both, and outlying pixels too.
    """
    flux, ivar, information = (
        getattr(observed, name)[rows] for name in ("flux", "ivar", "information")
    )
    sigma_aa, n_pix = emulator.preprocessing.sigma_aa, ivar.shape[1]
    factor, outlier = 1.0, np.zeros(ivar.shape, bool)
    if len(rows) >= _ENOUGH_TO_MATCH:
        n_component = min(20, max(1, n_pix // 8))
        factor, outlier = match_noise(flux, ivar, n_component=n_component, seed=seed)
    sigma_pix = None if sigma_aa is None else sigma_aa / np.gradient(emulator.grid.wave_aa)
    width = native_width(ivar, information, sigma_pix=sigma_pix)
    noise = factor * sample_noise((_NOISE_ROWS, n_pix), np.random.default_rng(seed), width=width)
    return noise.astype(np.float32), outlier


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
    # Batches without noise are those that they were before there was any.
    noise_key = jax.random.fold_in(key, 2)
    return pair_domains(data, config, synth, data.flux[rows], data.ivar[rows], noise_key)


def pair_domains(
    data: TransferData,
    config: CycleStarConfig,
    synth: Float[Array, "n_spec n_pix"],
    obs: Float[Array, "n_spec n_pix"],
    obs_ivar: Float[Array, "n_spec n_pix"],
    key,
) -> Domains:
    """Noise-free synthetic and observed spectra as the networks are to meet them in training.

    Where both domains are to be alike, synthetic spectrum i is observed as observed spectrum i was:
    its masked pixels, its errors, noise of that size. They are of different stars, so that neither
    tells anything of the other; and the carried spectrum borrows the split latents of the same
    row, so that noise and latents of an instrument go together.
    """
    if not config.noise.alike:
        return Domains(synth, make_synthetic_ivar(synth, config), obs, obs_ivar)
    if data.noise is None:
        raise MismatchError(
            "the noise of the observed spectra was not learned with these data.",
            "prepare them with the configuration that is trained with.",
        )
    good = obs_ivar > 0
    sigma = jnp.where(good, jax.lax.rsqrt(jnp.where(good, obs_ivar, 1.0)), 0.0)
    drawn = jax.random.randint(key, (synth.shape[0],), 0, data.noise.shape[0])
    return Domains(synth + sigma * data.noise[drawn], obs_ivar, obs, obs_ivar)


def make_synthetic_ivar(synth, config: CycleStarConfig):
    """Inverse variances of synthetic spectra, which have no noise: what a model is trusted."""
    return jnp.full_like(synth, config.noise.synthetic_error**-2)
