"""What Cycle-StarNet's training minimises: equations 4 to 7 of the paper, as pure functions.

The order of things: `run_passes` carries a batch of each domain through the networks, once; every
loss is a function of what comes out. `transfer_gradients` gives both players their gradients from
that one pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.cyclestar import CycleStarCritics, CycleStarGenerator, CycleStarSizes

AdversarialForm = Literal["non_saturating", "paper"]


class Domains(NamedTuple):
    """A batch of each domain. They have nothing to do with each other but their number.

    Parameters
    ----------
    synth, obs : (n_spec, n_pix)
        Normalised flux; pixels whose ivar is 0 may hold anything, NaN too.
    synth_ivar, obs_ivar : (n_spec, n_pix)
        Inverse variances, floors of the errors already applied; 0 marks a masked pixel.
    """

    synth: Float[Array, "n_spec n_pix"]
    synth_ivar: Float[Array, "n_spec n_pix"]
    obs: Float[Array, "n_spec n_pix"]
    obs_ivar: Float[Array, "n_spec n_pix"]


class Passes(NamedTuple):
    """Everything the networks make of one batch of each domain.

    Parameters
    ----------
    synth_synth, obs_obs : (n_spec, n_pix)
        Reconstructions within a domain.
    synth_obs, obs_synth : (n_spec, n_pix)
        Transfers. Row i of `synth_obs` borrows the split latents of observed spectrum i.
    synth_obs_synth, obs_synth_obs : (n_spec, n_pix)
        There and back. The way back to the observed domain uses the spectrum's own split latents.
    shared_synth, shared_obs : (n_spec, length, c_shared)
    split_obs : (n_spec, length, c_split)
    split_synth_obs : (n_spec, length, c_split)
        Split latents read again from the transferred `synth_obs`.
    shared_synth_obs, shared_obs_synth : (n_spec, length, c_shared)
        Shared latents read again from the two transfers.
    """

    synth_synth: Float[Array, "n_spec n_pix"]
    obs_obs: Float[Array, "n_spec n_pix"]
    synth_obs: Float[Array, "n_spec n_pix"]
    obs_synth: Float[Array, "n_spec n_pix"]
    synth_obs_synth: Float[Array, "n_spec n_pix"]
    obs_synth_obs: Float[Array, "n_spec n_pix"]
    shared_synth: Float[Array, "n_spec length c_shared"]
    shared_obs: Float[Array, "n_spec length c_shared"]
    split_obs: Float[Array, "n_spec length c_split"]
    split_synth_obs: Float[Array, "n_spec length c_split"]
    shared_synth_obs: Float[Array, "n_spec length c_shared"]
    shared_obs_synth: Float[Array, "n_spec length c_shared"]


class DomainLosses(NamedTuple):
    """One loss in each domain."""

    synth: Float[Array, ""]
    obs: Float[Array, ""]


class Scores(NamedTuple):
    """The critics' logits of reconstructions ("real") and transfers ("fake")."""

    synth_real: Float[Array, "n_spec"]
    synth_fake: Float[Array, "n_spec"]
    obs_real: Float[Array, "n_spec"]
    obs_fake: Float[Array, "n_spec"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of equation 7.

    Parameters
    ----------
    synth, obs : float
        lambda 1 and 2: within-domain and cycle reconstruction of each domain.
    adversarial : float
        lambda 3.
    """

    synth: float = 90.0
    obs: float = 90.0
    adversarial: float = 1.0

    def __post_init__(self) -> None:
        if min(self.synth, self.obs, self.adversarial) < 0:
            raise UsageError(f"weights of the losses must not be negative: {self}.")

    @classmethod
    def mock(cls) -> "LossWeights":
        """The authors' weights for a mock survey, whose observed domain is simulated too."""
        return cls(synth=90.0, obs=90.0, adversarial=1.0)

    @classmethod
    def real(cls) -> "LossWeights":
        """The authors' weights for real spectra, whose gap is as large as APOGEE's."""
        return cls(synth=3.0, obs=9.0, adversarial=1.0)


class TransferGradients(NamedTuple):
    """Gradients of both players at the same weights, and the losses they come from."""

    generator: PyTree[Any]
    critics: PyTree[Any]
    losses: dict[str, Any]


def run_passes(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    domains: Domains,
    *,
    residual: bool = False,
    refill: bool = False,
    split_noise: Float[Array, "n_spec #length c_split"] | None = None,
) -> Passes:
    """Reconstruct, transfer and carry back a batch of each domain.

    Parameters
    ----------
    sizes, params
        Of a `jaxmdwarf.networks.cyclestar.CycleStarGenerator`.
    domains : Domains
        Both with the same number of spectra.
    residual : bool
        Whether a transfer is the spectrum itself plus what the two decoders make differently of
        its latents, ``x + D_target(z) - D_source(z)``: errors that both decoders share cancel.
        In masked pixels, where there is no spectrum, it is ``D_target(z)``. Reconstructions are
        the same in both forms.
    refill : bool
        Whether transfers hold in masked pixels what spectra of the domain hold there (see
        `jaxmdwarf.networks.cyclestar.CycleStarGenerator.fill_masked`) before they are encoded
        again: else a decoder can put there, unjudged by equation 4, what the way back needs.
    split_noise : (n_spec, length or 1, c_split), optional
        Added to the split latents of observed spectra.

    Notes
    -----
    The shared decoder runs once for both renderings of a spectrum, and wherever one network meets
    several batches at the same stage it meets them as one.
    """
    generator = CycleStarGenerator(sizes)
    synth = generator.fill_masked(params, "synth", domains.synth, domains.synth_ivar)
    obs = generator.fill_masked(params, "obs", domains.obs, domains.obs_ivar)
    n = synth.shape[0]
    shared_synth, (shared_obs, split_obs) = generator.encode_pair(params, synth, obs)
    if split_noise is not None:
        split_obs = split_obs + split_noise
    features = generator.expand_shared(params, jnp.concatenate([shared_synth, shared_obs]))
    split_features = generator.expand_split(params, split_obs)
    as_synth = generator.render_synth(params, features)
    twice = jnp.concatenate([split_features, split_features])
    as_obs = generator.render_obs(params, features, twice)
    synth_synth, obs_synth = as_synth[:n], as_synth[n:]
    synth_obs, obs_obs = as_obs[:n], as_obs[n:]
    if residual:
        transferred = synth + synth_obs - synth_synth
        synth_obs = jnp.where(domains.synth_ivar > 0, transferred, synth_obs)
        transferred = obs + obs_synth - obs_obs
        obs_synth = jnp.where(domains.obs_ivar > 0, transferred, obs_synth)
    if refill:
        synth_obs = generator.fill_masked(params, "obs", synth_obs, domains.synth_ivar)
        obs_synth = generator.fill_masked(params, "synth", obs_synth, domains.obs_ivar)

    shared_back, (shared_forth, split_forth) = generator.encode_pair(params, obs_synth, synth_obs)
    features = generator.expand_shared(params, jnp.concatenate([shared_forth, shared_back]))
    if not residual:
        synth_obs_synth = generator.render_synth(params, features[:n])
        obs_synth_obs = generator.render_obs(params, features[n:], split_features)
    else:
        own = jnp.concatenate([generator.expand_split(params, split_forth), split_features])
        as_synth = generator.render_synth(params, features)
        as_obs = generator.render_obs(params, features, own)
        synth_obs_synth = synth_obs + as_synth[:n] - as_obs[:n]
        obs_synth_obs = obs_synth + as_obs[n:] - as_synth[n:]
    return Passes(
        synth_synth=synth_synth,
        obs_obs=obs_obs,
        synth_obs=synth_obs,
        obs_synth=obs_synth,
        synth_obs_synth=synth_obs_synth,
        obs_synth_obs=obs_synth_obs,
        shared_synth=shared_synth,
        shared_obs=shared_obs,
        split_obs=split_obs,
        split_synth_obs=split_forth,
        shared_synth_obs=shared_forth,
        shared_obs_synth=shared_back,
    )


def show_passes(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    domains: Domains,
    passes: Passes,
    *,
    spectra: bool = False,
    refill: bool = False,
) -> Passes:
    """Passes as critics are to see them; the generator's losses are of the passes as they are.

    Parameters
    ----------
    sizes, params
        Of the generator that made them.
    domains, passes
    spectra : bool
        Whether the spectra of a domain stand for its reconstructions. A transfer of the residual
        form keeps the noise of its spectrum, a reconstruction has none: by that alone critics would
        tell them apart.
    refill : bool
        Whether reconstructions hold in masked pixels what spectra of the domain hold there, as in
        `run_passes`.
    """
    if not (spectra or refill):
        return passes
    generator = CycleStarGenerator(sizes)
    synth, obs = domains.synth, domains.obs
    if not spectra:
        synth, obs = passes.synth_synth, passes.obs_obs
    return passes._replace(
        synth_synth=generator.fill_masked(params, "synth", synth, domains.synth_ivar),
        obs_obs=generator.fill_masked(params, "obs", obs, domains.obs_ivar),
    )


def weighted_distance(
    flux: Float[Array, "n_spec n_pix"],
    ivar: Float[Array, "n_spec n_pix"],
    prediction: Float[Array, "n_spec n_pix"],
) -> Float[Array, ""]:
    """The distance d of equations 4 and 6: mean squared error in units of the uncertainty.

    ``sum(ivar * (flux - prediction)**2) / number of pixels with ivar > 0``, both over the whole
    batch, so that every good pixel counts alike whichever spectrum it belongs to; 0 if there is
    none. Masked pixels change neither the value nor the gradient.

    Examples
    --------
    >>> flux, ivar = jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([[4.0, 1.0, 0.0]])
    >>> float(weighted_distance(flux, ivar, jnp.ones((1, 3))))
    0.5
    """
    good = ivar > 0
    deviation = jnp.where(good, flux, 0) - jnp.where(good, prediction, 0)
    n_good = jnp.maximum(jnp.sum(good), 1).astype(deviation.dtype)
    return jnp.sum(ivar * deviation**2) / n_good


def reconstruction_loss(domains: Domains, passes: Passes) -> DomainLosses:
    """Equation 4: distance of each spectrum from its reconstruction within the domain."""
    return DomainLosses(
        weighted_distance(domains.synth, domains.synth_ivar, passes.synth_synth),
        weighted_distance(domains.obs, domains.obs_ivar, passes.obs_obs),
    )


def cycle_loss(domains: Domains, passes: Passes) -> DomainLosses:
    """Equation 6: distance of each spectrum from itself carried there and back."""
    return DomainLosses(
        weighted_distance(domains.synth, domains.synth_ivar, passes.synth_obs_synth),
        weighted_distance(domains.obs, domains.obs_ivar, passes.obs_synth_obs),
    )


def score_passes(
    sizes: CycleStarSizes,
    critics: Mapping[str, PyTree],
    passes: Passes,
    *,
    reencoded_split: bool = False,
) -> Scores:
    """Logits of both critics for reconstructions and transfers with the latents that made them.

    Parameters
    ----------
    sizes, critics
        Of `jaxmdwarf.networks.cyclestar.CycleStarCritics`.
    passes : Passes
    reencoded_split : bool
        Whether the observed critic judges a transfer beside the split latents read again from it,
        as the authors' code has it, instead of those that it was made with (equation 5).
    """
    fake_split = passes.split_synth_obs if reencoded_split else passes.split_obs
    critic = CycleStarCritics(sizes)
    synth = critic.score_synth(
        critics,
        jnp.concatenate([passes.synth_synth, passes.obs_synth]),
        jnp.concatenate([passes.shared_synth, passes.shared_obs]),
    )
    obs = critic.score_obs(
        critics,
        jnp.concatenate([passes.obs_obs, passes.synth_obs]),
        jnp.concatenate([passes.shared_obs, passes.shared_synth]),
        jnp.concatenate([passes.split_obs, fake_split]),
    )
    n = passes.synth_synth.shape[0]
    return Scores(synth[:n], synth[n:], obs[:n], obs[n:])


def critic_loss(scores: Scores) -> DomainLosses:
    """Equation 5: what the critics minimise, ``H(1, C(reconstructed)) + H(0, C(transferred))``.

    H is the binary cross-entropy, here of logits: it stays finite however sure a critic is.
    """
    return DomainLosses(
        _cross_entropy_of_one(scores.synth_real) + _cross_entropy_of_zero(scores.synth_fake),
        _cross_entropy_of_one(scores.obs_real) + _cross_entropy_of_zero(scores.obs_fake),
    )


def adversarial_loss(scores: Scores, *, form: AdversarialForm = "non_saturating") -> DomainLosses:
    """What the generator minimises of equation 5.

    Parameters
    ----------
    scores : Scores
    form : {"non_saturating", "paper"}
        "paper" is the equation taken at its word: the generator maximises the critics' loss, of
        which a sure critic leaves no gradient. "non_saturating" is ``H(1, C(transferred))``, as
        the authors' code and most practitioners have it (Goodfellow et al. 2014, section 3).
    """
    if form == "paper":
        synth, obs = critic_loss(scores)
        return DomainLosses(-synth, -obs)
    return DomainLosses(
        _cross_entropy_of_one(scores.synth_fake), _cross_entropy_of_one(scores.obs_fake)
    )


def weigh_losses(
    domains: Domains,
    passes: Passes,
    scores: Scores,
    weights: LossWeights,
    *,
    form: AdversarialForm = "non_saturating",
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Equation 7 of passes and scores that are at hand; see `generator_loss`."""
    reconstruction = reconstruction_loss(domains, passes)
    cycle = cycle_loss(domains, passes)
    adversarial = adversarial_loss(scores, form=form)
    total = (
        weights.synth * (reconstruction.synth + cycle.synth)
        + weights.obs * (reconstruction.obs + cycle.obs)
        + weights.adversarial * (adversarial.synth + adversarial.obs)
    )
    parts = {
        "total": total,
        "rec_synth": reconstruction.synth,
        "rec_obs": reconstruction.obs,
        "cycle_synth": cycle.synth,
        "cycle_obs": cycle.obs,
        "adv_synth": adversarial.synth,
        "adv_obs": adversarial.obs,
    }
    return total, parts


def generator_loss(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    critics: Mapping[str, PyTree],
    domains: Domains,
    weights: LossWeights,
    *,
    residual: bool = False,
    form: AdversarialForm = "non_saturating",
    reencoded_split: bool = False,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Equation 7: what encoders and decoders minimise.

    Parameters
    ----------
    sizes, params, critics
        Networks; the gradient does not reach the critics.
    domains : Domains
    weights : LossWeights
    residual
        See `run_passes`.
    form
        See `adversarial_loss`.
    reencoded_split
        See `score_passes`.

    Returns
    -------
    total : ()
    parts : dict
        ``total``, ``rec_synth``, ``rec_obs`` (eq. 4), ``adv_synth``, ``adv_obs`` (eq. 5),
        ``cycle_synth`` and ``cycle_obs`` (eq. 6), before weighting.
    """
    passes = run_passes(sizes, params, domains, residual=residual)
    frozen = jax.lax.stop_gradient(dict(critics))
    scores = score_passes(sizes, frozen, passes, reencoded_split=reencoded_split)
    return weigh_losses(domains, passes, scores, weights, form=form)


def train_critic_loss(
    sizes: CycleStarSizes,
    critics: Mapping[str, PyTree],
    passes: Passes,
    *,
    r1: float = 0.0,
    reencoded_split: bool = False,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Sum of equation 5 over both domains; the gradient reaches nothing but the critics.

    Parameters
    ----------
    sizes, critics
        Networks.
    passes : Passes
        Of `run_passes`; taken as constants.
    r1 : float
        Weight of `r1_penalty`; 0 in the paper.
    reencoded_split
        See `score_passes`.

    Returns
    -------
    total : ()
    parts : dict
        ``critic_synth`` and ``critic_obs``; ``real_synth``, ``fake_synth``, ``real_obs`` and
        ``fake_obs``, the mean probabilities that the critics gave; ``r1`` if it is in use.
    """
    passes = jax.lax.stop_gradient(passes)
    scores = score_passes(sizes, critics, passes, reencoded_split=reencoded_split)
    synth, obs = critic_loss(scores)
    total = synth + obs
    parts = {"critic_synth": synth, "critic_obs": obs}
    for name, logits in zip(
        ("real_synth", "fake_synth", "real_obs", "fake_obs"), scores, strict=True
    ):
        parts[name] = jnp.mean(jax.nn.sigmoid(logits))
    if r1:
        penalty = r1_penalty(sizes, critics, passes)
        total = total + r1 * penalty
        parts["r1"] = penalty
    return total, parts


def r1_penalty(
    sizes: CycleStarSizes, critics: Mapping[str, PyTree], passes: Passes
) -> Float[Array, ""]:
    """Half the mean squared slope of the logits at reconstructions, both critics together.

    Slopes are with respect to flux in units of `sizes.flux_spread`. It holds a critic flat where
    the data are (Mescheder, Geiger & Nowozin 2018, equation 9, gamma = 1).
    """
    passes, critic = jax.lax.stop_gradient(passes), CycleStarCritics(sizes)

    def logits_synth(flux):
        return jnp.sum(critic.score_synth(critics, flux, passes.shared_synth))

    def logits_obs(flux):
        latents = (passes.shared_obs, passes.split_obs)
        return jnp.sum(critic.score_obs(critics, flux, *latents))

    slopes = (
        jax.grad(logits_synth)(passes.synth_synth),
        jax.grad(logits_obs)(passes.obs_obs),
    )
    squares = [jnp.sum((sizes.flux_spread * slope) ** 2, axis=-1).mean() for slope in slopes]
    return 0.5 * (squares[0] + squares[1])


def transfer_gradients(
    sizes: CycleStarSizes,
    params: Mapping[str, PyTree],
    critics: Mapping[str, PyTree],
    domains: Domains,
    weights: LossWeights,
    *,
    residual: bool = False,
    form: AdversarialForm = "non_saturating",
    reencoded_split: bool = False,
    r1: float = 0.0,
) -> TransferGradients:
    """Gradients of the generator's and the critics' losses from one pass through the networks.

    The authors' code updates the generator first and then the critics, which see the spectra made
    before that update: both gradients therefore belong to the same weights, and computing them
    together changes nothing but the time it takes.

    Parameters
    ----------
    sizes, params, critics, domains, weights, residual, form, reencoded_split
        See `generator_loss`.
    r1
        See `train_critic_loss`.
    """

    def lose(trained):
        passes = run_passes(sizes, trained, domains, residual=residual)
        frozen = jax.lax.stop_gradient(dict(critics))
        scores = score_passes(sizes, frozen, passes, reencoded_split=reencoded_split)
        total, parts = weigh_losses(domains, passes, scores, weights, form=form)
        return total, (parts, passes)

    generator, (parts, passes) = jax.grad(lose, has_aux=True)(dict(params))

    def lose_critics(trained):
        return train_critic_loss(sizes, trained, passes, r1=r1, reencoded_split=reencoded_split)

    critic_gradients, critic_parts = jax.grad(lose_critics, has_aux=True)(dict(critics))
    return TransferGradients(generator, critic_gradients, {**parts, **critic_parts})


def _cross_entropy_of_one(logits):
    return jnp.mean(jax.nn.softplus(-logits))


def _cross_entropy_of_zero(logits):
    return jnp.mean(jax.nn.softplus(logits))
