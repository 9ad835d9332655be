"""What holds a transfer beside equations 4 to 7: terms that the paper's training does not have.

Equations 4 to 7 are met by any pair of maps that turn one distribution into the other and back:
a transfer that shuffles the stars is as good to them as one that leaves each star what it is
(Galanti, Wolf & Benaim 2018, ICLR). Each term here says something of what the transfer of one star
is to be.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import UsageError
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.training.cyclestar.losses import Domains, Passes, weighted_distance

_TINY = 1e-12


@dataclass(frozen=True)
class ConstraintWeights:
    """Weights of the terms, in units of the losses of equation 7; 0 leaves a term out.

    Parameters
    ----------
    identity : float
        Of the distance, in stated errors, of spectra from their transfers: no more is changed than
        pays (`identity_loss`).
    latents : float
        Of what a transfer changes of latents that are read again (`latent_loss`).
    split_prior : float
        Of the divergence of split latents from a unit Gaussian (`split_divergence`).
    independence : float
        Of the dependence of split on shared latents (`latent_dependence`).
    alignment : float
        Of the distance of the two domains' shared latents as samples (`latent_distance`).
    spectra : float
        Of the distance of transfers from the spectra of their domain as samples, where both are
        compared (`spectra_distance`).
    slopes : float
        Of the difference between what a label does to carried spectra and what it does to
        theory's, as a share of the latter (`slope_excess`).

    Raises
    ------
    UsageError
        If a weight is negative.
    """

    identity: float = 0.0
    latents: float = 0.0
    split_prior: float = 0.0
    independence: float = 0.0
    alignment: float = 0.0
    spectra: float = 0.0
    slopes: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise UsageError(f"weights of constraints must not be negative: {self}.")

    @property
    def any_of_passes(self) -> bool:
        """Whether a term that `constrain_passes` knows is in use."""
        return any(astuple(replace(self, slopes=0.0)))


def constrain_passes(
    domains: Domains,
    passes: Passes,
    weights: ConstraintWeights,
    *,
    mean: Float[Array, "n_pix"],
    basis: Float[Array, "k n_pix"],
    split_mean: Float[Array, "n_spec length c_split"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The weighted sum of the terms that are functions of a batch's passes, and each of them.

    Parameters
    ----------
    domains, passes
    weights : ConstraintWeights
    mean, basis : (n_pix,), (k, n_pix)
        Where spectra are compared, see `jaxmdwarf.training.cyclestar.data.TransferData`.
    split_mean : (n_spec, length, c_split), optional
        Split latents without the noise that was added to them; those of the passes by default.

    Returns
    -------
    total : ()
    parts : dict
        ``identity``, ``latents``, ``split_prior``, ``independence``, ``alignment``, ``spectra``,
        those in use, before weighting.
    """
    split = passes.split_obs if split_mean is None else split_mean
    parts: dict[str, Any] = {}
    if weights.identity:
        parts["identity"] = identity_loss(domains, passes)
    if weights.latents:
        parts["latents"] = latent_loss(passes)
    if weights.split_prior:
        parts["split_prior"] = split_divergence(split)
    if weights.independence:
        parts["independence"] = latent_dependence(split, passes.shared_obs)
    if weights.alignment:
        parts["alignment"] = latent_distance(passes.shared_synth, passes.shared_obs)
    if weights.spectra:
        parts["spectra"] = spectra_distance(domains, passes, mean, basis)
    total = sum((getattr(weights, name) * value for name, value in parts.items()), jnp.zeros(()))
    return total, parts


def identity_loss(domains: Domains, passes: Passes) -> Float[Array, ""]:
    """Distance of the spectra of both domains from their transfers, in units of their errors.

    It shrinks a transfer towards none, as a Gaussian prior about zero would. (The identity loss of
    Zhu et al. 2017, section 5.2, asks the same of spectra that are in the target domain already;
    here the domains overlap, and all spectra are asked.)
    """
    there = weighted_distance(domains.synth, domains.synth_ivar, passes.synth_obs)
    return there + weighted_distance(domains.obs, domains.obs_ivar, passes.obs_synth)


def latent_loss(passes: Passes) -> Float[Array, ""]:
    """Changes of latents by a transfer, squared, over their variance in the batch; mean of three.

    Shared latents read again from either transfer are to be what they were, and split latents those
    that were borrowed (the latent reconstruction of Huang et al. 2018, ECCV, section 4.1). As the
    split latents are those of another star, this also keeps what they say apart from what the
    shared ones say.
    """
    pairs = (
        (passes.shared_synth, passes.shared_synth_obs),
        (passes.shared_obs, passes.shared_obs_synth),
        (passes.split_obs, passes.split_synth_obs),
    )
    changes = []
    for before, after in pairs:
        # What is compared with is a target: latents do not shrink to be reproduced.
        before = jax.lax.stop_gradient(before)
        spread = jnp.sum((before - before.mean(axis=0)) ** 2)
        changes.append(jnp.sum((after - before) ** 2) / jnp.maximum(spread, _TINY))
    return sum(changes, jnp.zeros(())) / len(pairs)


def split_divergence(split: Float[Array, "n_spec length c_split"]) -> Float[Array, ""]:
    """Half the squared length of a star's split latents, mean of the stars.

    With Gaussian noise of a fixed width on the latents this is, but for a constant, their
    Kullback-Leibler divergence from a unit Gaussian (Kingma & Welling 2014), which bounds what they
    can tell of a star. Of latents along the spectrum the mean over positions counts.
    """
    return 0.5 * jnp.mean(jnp.sum(split**2, axis=-1))


def latent_dependence(
    split: Float[Array, "n_spec length c_split"], shared: Float[Array, "n_spec length c_shared"]
) -> Float[Array, ""]:
    """Mean squared correlation, in the batch, of split numbers with shared latents.

    Of independent latents it is 1 / (n_spec - 1). The gradient reaches the split latents alone.

    Examples
    --------
    >>> shared = jnp.arange(4.0).reshape(4, 1, 1)
    >>> float(latent_dependence(3.0 - 2.0 * shared, shared))
    1.0
    """
    n_spec = split.shape[0]
    numbers = split.mean(axis=1)
    known = jax.lax.stop_gradient(shared).reshape(n_spec, -1)
    numbers, known = (values - values.mean(axis=0) for values in (numbers, known))
    product = numbers.T @ known
    power = jnp.sum(numbers**2, axis=0)[:, None] * jnp.sum(known**2, axis=0)
    return jnp.mean(product**2 / jnp.maximum(power, _TINY))


def latent_distance(
    synth: Float[Array, "n_spec length c_shared"], obs: Float[Array, "n_spec length c_shared"]
) -> Float[Array, ""]:
    """Energy distance of the two domains' shared latents, see `sample_distance`.

    What a critic of the latents would have to learn, without a player who could win.
    """
    n_spec = synth.shape[0]
    return sample_distance(synth.reshape(n_spec, -1), obs.reshape(n_spec, -1))


def spectra_distance(
    domains: Domains,
    passes: Passes,
    mean: Float[Array, "n_pix"],
    basis: Float[Array, "k n_pix"],
) -> Float[Array, ""]:
    """Energy distance of transfers from the spectra of their domain, both ways, see there.

    What the critics of equation 5 are for, by a statistic that has nothing to learn: it cannot
    overpower the generator, and cannot know the training spectra by heart. It asks for domains that
    are alike (masks, noise), or tells these apart.

    Parameters
    ----------
    domains, passes
    mean, basis : (n_pix,), (k, n_pix)
        Spectra are compared by their coefficients; masked pixels count as the mean.
    """

    def project(flux, ivar):
        return jnp.where(ivar > 0, flux - mean, 0.0) @ basis.T

    there = sample_distance(
        project(passes.synth_obs, domains.synth_ivar), project(domains.obs, domains.obs_ivar)
    )
    back = sample_distance(
        project(passes.obs_synth, domains.obs_ivar), project(domains.synth, domains.synth_ivar)
    )
    return there + back


def sample_distance(
    first: Float[Array, "n_spec k"], second: Float[Array, "n_spec k"]
) -> Float[Array, ""]:
    """Energy distance of two samples (Szekely & Rizzo 2013) over their mean distance.

    About 0 for samples of one distribution (it is unbiased, and may be negative), 1 for two points.
    Numbers count in units of their spread in both samples.
    """
    n_spec = first.shape[0]
    both = jnp.concatenate([first, second])
    spread = jnp.sqrt(jnp.var(both, axis=0) + _TINY)
    both = both / jax.lax.stop_gradient(spread)
    square = jnp.sum((both[:, None] - both[None]) ** 2, axis=-1)
    # The root has no slope at a point's distance from itself.
    itself = jnp.eye(2 * n_spec, dtype=bool)
    away = jnp.where(itself, 0.0, jnp.sqrt(jnp.where(itself, 1.0, square + _TINY)))
    between = jnp.mean(away[:n_spec, n_spec:])
    within = jnp.sum(away[:n_spec, :n_spec]) + jnp.sum(away[n_spec:, n_spec:])
    within = within / (n_spec * (n_spec - 1))
    return (2.0 * between - within) / jnp.maximum(2.0 * between, _TINY)


def slope_excess(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    emulator: ForwardModel,
    scaled: Float[Array, "n_spec n_label"],
    directions: Float[Array, "n_spec n_label"],
    split: Float[Array, "n_spec length c_split"],
    *,
    residual: bool = False,
) -> Float[Array, ""]:
    """What a transfer changes of theory's tangents, squared, over their length squared.

    The same prior as that of the label-dependent terms of
    `jaxmdwarf.training.transfer.matched`: theory's spectra are wrong, but what they do where a
    label changes is nearly right.

    Parameters
    ----------
    sizes, params
        Of the generator.
    emulator : ForwardModel
    scaled : (n_spec, n_label)
        Scaled labels.
    directions : (n_spec, n_label)
        Of the change of each star's labels.
    split : (n_spec, length, c_split)
        Split latents that are borrowed; constants here.
    residual : bool
        See `jaxmdwarf.training.cyclestar.losses.run_passes`.

    Returns
    -------
    ()
        Mean of the stars: 0 if labels do in both domains the same, 1 if they do nothing any more.
    """
    generator, split = CycleStarGenerator(sizes), jax.lax.stop_gradient(split)

    def carry(scaled):
        synth = emulator.predict_scaled_batch(scaled)
        return synth, generator.carry_to_obs(params, synth, split, residual=residual)

    _, (theory, carried) = jax.jvp(carry, (scaled,), (directions,))
    length = jnp.sum(theory**2, axis=-1)
    return jnp.mean(jnp.sum((carried - theory) ** 2, axis=-1) / jnp.maximum(length, _TINY))
