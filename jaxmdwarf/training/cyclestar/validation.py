"""Scores of a transfer on spectra held out: losses, the gap that is left, what latents hold."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmdwarf.diagnostics.domain_scores import (
    discriminant_accuracy,
    explained_fraction,
    latent_change,
    marginal_distance,
)
from jaxmdwarf.networks.cyclestar import CycleStarGenerator
from jaxmdwarf.precision import multiply_exactly
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import TransferData, pair_domains
from jaxmdwarf.training.cyclestar.losses import (
    run_passes,
    score_passes,
    show_passes,
    train_critic_loss,
    weigh_losses,
)
from jaxmdwarf.training.cyclestar.spectral_norm import normalise_critics
from jaxmdwarf.training.cyclestar.steps import TransferState

_ROWS_AT_ONCE = 64
_SLOPE_ROWS = 32
# Beside that of `jaxmdwarf.training.cyclestar.steps`.
_STREAM = 1


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


Judge = Callable[[ValidationSample], Mapping[str, float]]


def validate_transfer(
    state: TransferState,
    data: TransferData,
    config: CycleStarConfig,
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
        "shared_explains_split": explained_fraction(latents["shared_obs"], latents["split_obs"]),
        **_compare_slopes(measured["slopes"], data.emulator.label_space.names),
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


@eqx.filter_jit
def _validate(state: TransferState, data: TransferData, config: CycleStarConfig):
    """Losses, latents and spectra of all validation rows, a few at a time."""
    sizes = config.shape(data.flux.shape[1])
    generator = CycleStarGenerator(sizes)
    critics, _, _ = normalise_critics(state.critics, state.singular)
    n_held = data.held_flux.shape[0]
    n_row = min(_ROWS_AT_ONCE, n_held)
    n_part = -(-n_held // n_row)
    # The last part is filled up with rows of the first; they are dropped from all but the losses.
    rows = jnp.arange(n_part * n_row).reshape(n_part, n_row) % n_held
    seed = jax.random.fold_in(jax.random.key(config.seed), _STREAM)

    how, residual = config.losses, config.networks.residual

    def measure(rows):
        synth = data.emulator.predict_scaled_batch(data.held_scaled[rows])
        row_key = jax.random.fold_in(seed, rows[0])
        held = data.held_flux[rows], data.held_ivar[rows]
        domains = pair_domains(data, config, synth, *held, jax.random.fold_in(row_key, 1))
        passes = run_passes(
            sizes, state.average, domains, residual=residual, refill=config.noise.alike
        )
        shown = show_passes(
            sizes,
            state.average,
            domains,
            passes,
            spectra=how.critics_see == "spectra",
            refill=config.noise.alike,
        )
        scores = score_passes(sizes, critics, shown, reencoded_split=how.reencoded_split)
        _, losses = weigh_losses(domains, passes, scores, how.weights, form=how.form)
        _, critic_losses = train_critic_loss(
            sizes, critics, shown, reencoded_split=how.reencoded_split
        )
        # A model carries theory without noise, whatever the networks were trained on.
        carried = passes.synth_obs
        if config.noise.alike:
            carried = generator.carry_to_obs(
                state.average, synth, passes.split_obs, residual=residual
            )
        good = domains.obs_ivar > 0
        error = jnp.where(good, jax.lax.rsqrt(jnp.where(good, domains.obs_ivar, 1.0)), 0.0)
        noise = error * jax.random.normal(row_key, error.shape)
        spectra = {
            name: jnp.where(good, flux, data.mean)
            for name, flux in (
                ("observed", domains.obs),
                ("transferred", carried + noise),
                ("untransferred", synth + noise),
            )
        }
        latents = {
            "shared_synth": passes.shared_synth,
            "shared_obs": passes.shared_obs,
            "split_obs": passes.split_obs,
            "shared_synth_obs": passes.shared_synth_obs,
            "shared_obs_synth": passes.shared_obs_synth,
            "split_synth_obs": passes.split_synth_obs,
        }
        return {**losses, **critic_losses}, latents, spectra

    losses, latents, spectra = jax.lax.map(measure, rows)

    def flatten(values):
        return values.reshape(n_part * n_row, -1)[:n_held]

    spectra = {name: flatten(values) for name, values in spectra.items()}
    return {
        "slopes": _find_slopes(state.average, data, config),
        "losses": {name: values.mean() for name, values in losses.items()},
        "latents": {name: flatten(values) for name, values in latents.items()},
        "spectra": spectra,
        "coefficients": {
            name: multiply_exactly(flux - data.mean, data.basis.T) for name, flux in spectra.items()
        },
    }


def _find_slopes(params, data: TransferData, config: CycleStarConfig):
    """Slopes of theory's flux and of carried flux along each label: (n_label, n_row, n_pix)."""
    generator = CycleStarGenerator(config.shape(data.flux.shape[1]))
    rows = slice(0, _SLOPE_ROWS)
    scaled = data.held_scaled[rows]
    obs = generator.fill_masked(params, "obs", data.held_flux[rows], data.held_ivar[rows])
    split = generator.encode_obs(params, obs).split

    def carry(scaled):
        synth = data.emulator.predict_scaled_batch(scaled)
        return synth, generator.carry_to_obs(
            params, synth, split, residual=config.networks.residual
        )

    def differentiate(direction):
        return jax.jvp(carry, (scaled,), (jnp.broadcast_to(direction, scaled.shape),))[1]

    theory, carried = jax.vmap(differentiate)(jnp.eye(scaled.shape[1], dtype=scaled.dtype))
    return {"theory": theory, "carried": carried}


def _compare_slopes(slopes, names) -> dict[str, float]:
    """Cosine of what a label does to carried flux with what it does to theory's, median of stars.

    1 is a transfer that leaves the label alone, -1 one that turns it around.
    """
    theory, carried = (np.asarray(slopes[name], np.float64) for name in ("theory", "carried"))
    length = np.linalg.norm(theory, axis=-1) * np.linalg.norm(carried, axis=-1)
    cosine = (theory * carried).sum(axis=-1) / np.where(length > 0, length, np.inf)
    return {
        f"slope_cosine_{name}": float(np.median(row))
        for name, row in zip(names, cosine, strict=True)
    }
