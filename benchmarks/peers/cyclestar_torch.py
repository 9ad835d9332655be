"""Cycle-StarNet in PyTorch, as one would write it from the paper: the peer of the benchmark.

Layers, losses and the order of updates are those of the package's networks and losses, and
`copy_weights` carries its parameters over, so that both can be held against each other.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def convolve(channels_in, layers, slope):
    """Strided convolutions, each with a leaky ReLU."""
    parts = []
    for channels, kernel, stride in layers:
        parts += [nn.Conv1d(channels_in, channels, kernel, stride), nn.LeakyReLU(slope)]
        channels_in = channels
    return parts


def deconvolve(channels_in, layers, slope):
    """Transposed convolutions in the opposite order, each with a leaky ReLU."""
    parts = []
    for channels, kernel, stride in reversed(layers):
        parts += [nn.ConvTranspose1d(channels_in, channels, kernel, stride), nn.LeakyReLU(slope)]
        channels_in = channels
    return parts


class Critic(nn.Module):
    """One logit of a spectrum and its latents."""

    def __init__(self, sizes, n_latent):
        super().__init__()
        layers = rows(sizes.critic_flux)
        ones = [(channels, 1, 1) for channels in sizes.critic_latents]
        self.flux = nn.Sequential(*convolve(1, layers, sizes.slope))
        self.latents = nn.Sequential(*convolve(n_latent, ones, sizes.slope))
        n_flux = sizes.critic_flux.shorten(sizes.critic_pix) * layers[-1][0]
        self.logit = nn.Linear(n_flux + sizes.latent_length * ones[-1][0], 1)

    def forward(self, flux, latents):
        """(n,) logits."""
        parts = self.flux(flux).flatten(1), self.latents(latents).flatten(1)
        return self.logit(torch.cat(parts, dim=1))[:, 0]


class CycleStar(nn.Module):
    """All encoders and decoders of `CycleStarSizes` without centres."""

    def __init__(self, sizes):
        super().__init__()
        domain, shared, split = rows(sizes.domain), rows(sizes.shared), rows(sizes.split)
        low, slope = domain[-1][0], sizes.slope

        def encode_low():
            return nn.Sequential(*convolve(1, domain, slope))

        def encode_high(layers, n_latent):
            last = nn.Conv1d(layers[-1][0], n_latent, 1)
            norm = [nn.InstanceNorm1d(n_latent)] if sizes.latent_norm else []
            return nn.Sequential(*convolve(low, layers, slope), last, *norm)

        def decode_low(channels):
            if sizes.pointwise_flux:
                flux = nn.Conv1d(domain[0][0], 1, 1)
                return nn.Sequential(*deconvolve(channels, domain, slope), flux)
            before = [1, *(row[0] for row in domain[:-1])]
            layers = [(out, *row[1:]) for out, row in zip(before, domain, strict=True)]
            return nn.Sequential(*deconvolve(channels, layers, slope)[:-1])

        self.sizes = sizes
        self.encoder_synth, self.encoder_obs = encode_low(), encode_low()
        self.encoder_shared = encode_high(shared, sizes.shared_latents)
        self.encoder_split = encode_high(split, sizes.split_latents)
        self.decoder_shared = nn.Sequential(*deconvolve(sizes.shared_latents, shared, slope))
        self.decoder_split = nn.Sequential(*deconvolve(sizes.split_latents, split, slope))
        self.decoder_synth = decode_low(shared[0][0])
        self.decoder_obs = decode_low(shared[0][0] + split[0][0])

    def synth_to_latents(self, flux):
        """Shared latents."""
        return self.encoder_shared(self.encoder_synth(enter(self.sizes, flux)))

    def obs_to_latents(self, flux):
        """Shared and split latents."""
        features = self.encoder_obs(enter(self.sizes, flux))
        return self.encoder_shared(features), self.encoder_split(features)

    def latents_to_synth(self, shared):
        """Synthetic flux."""
        return leave(self.sizes, self.decoder_synth(self.decoder_shared(shared)))

    def latents_to_obs(self, shared, split):
        """Observed flux."""
        features = torch.cat([self.decoder_shared(shared), self.decoder_split(split)], dim=1)
        return leave(self.sizes, self.decoder_obs(features))


def rows(layers):
    """(channels, kernel, stride) of each layer."""
    return list(zip(layers.channels, layers.kernels, layers.strides, strict=True))


def enter(sizes, flux, length=None):
    """Flux in deviations from its one mean, padded, with a channel axis."""
    length = length or sizes.padded_pix
    before = (length - flux.shape[-1]) // 2
    after = length - flux.shape[-1] - before
    return functional.pad((flux - sizes.flux_mean) / sizes.flux_spread, (before, after))[:, None]


def leave(sizes, outputs):
    """Flux of the outputs, cropped."""
    before = (outputs.shape[-1] - sizes.n_pix) // 2
    inside = outputs[:, 0, before : before + sizes.n_pix]
    return sizes.flux_mean + sizes.flux_spread * inside


class Training:
    """One full iteration: the generator's step, then the critics' on what it had made.

    Parameters
    ----------
    sizes : CycleStarSizes
    weights : LossWeights
    learning_rate, betas, eps
        Of both Adams.
    reencoded_split : bool
        Whether the observed critic sees split latents read again from a transfer.
    """

    def __init__(
        self,
        sizes,
        weights,
        *,
        learning_rate=1e-4,
        betas=(0.5, 0.999),
        eps=1e-8,
        reencoded_split=False,
    ):
        self.sizes, self.weights, self.reencoded_split = sizes, weights, reencoded_split
        self.network = CycleStar(sizes)
        self.critic_synth = Critic(sizes, sizes.shared_latents)
        self.critic_obs = Critic(sizes, sizes.shared_latents + sizes.split_latents)
        critics = [*self.critic_synth.parameters(), *self.critic_obs.parameters()]
        options = {"lr": learning_rate, "betas": betas, "eps": eps}
        self.generator_adam = torch.optim.Adam(self.network.parameters(), **options)
        self.critic_adam = torch.optim.Adam(critics, **options)

    def step(self, synth, synth_ivar, obs, obs_ivar):
        """Update both players; the losses before the update, as tensors."""
        losses = self.differentiate(synth, synth_ivar, obs, obs_ivar)
        self.generator_adam.step()
        self.critic_adam.step()
        return losses

    def differentiate(self, synth, synth_ivar, obs, obs_ivar):
        """Leave both players' gradients in their parameters; the losses, as tensors."""
        network = self.network
        synth = torch.where(synth_ivar > 0, synth, self.sizes.flux_mean)
        obs = torch.where(obs_ivar > 0, obs, self.sizes.flux_mean)
        shared_synth = network.synth_to_latents(synth)
        shared_obs, split = network.obs_to_latents(obs)
        synth_synth = network.latents_to_synth(shared_synth)
        obs_obs = network.latents_to_obs(shared_obs, split)
        synth_obs = network.latents_to_obs(shared_synth, split)
        obs_synth = network.latents_to_synth(shared_obs)
        there, split_there = network.obs_to_latents(synth_obs)
        synth_obs_synth = network.latents_to_synth(there)
        back = network.synth_to_latents(obs_synth)
        obs_synth_obs = network.latents_to_obs(back, split)

        losses = {
            "rec_synth": distance(synth, synth_ivar, synth_synth),
            "rec_obs": distance(obs, obs_ivar, obs_obs),
            "cycle_synth": distance(synth, synth_ivar, synth_obs_synth),
            "cycle_obs": distance(obs, obs_ivar, obs_synth_obs),
        }
        fake_split = split_there if self.reencoded_split else split
        fake_synth = self._judge_synth(obs_synth, shared_obs)
        fake_obs = self._judge_obs(synth_obs, shared_synth, fake_split)
        losses["adv_synth"] = entropy(fake_synth, 1.0)
        losses["adv_obs"] = entropy(fake_obs, 1.0)
        total = (
            self.weights.synth * (losses["rec_synth"] + losses["cycle_synth"])
            + self.weights.obs * (losses["rec_obs"] + losses["cycle_obs"])
            + self.weights.adversarial * (losses["adv_synth"] + losses["adv_obs"])
        )
        losses["total"] = total
        self.generator_adam.zero_grad()
        total.backward()

        synth_synth, obs_obs, synth_obs, obs_synth = (
            flux.detach() for flux in (synth_synth, obs_obs, synth_obs, obs_synth)
        )
        shared_synth, shared_obs, split, fake_split = (
            latents.detach() for latents in (shared_synth, shared_obs, split, fake_split)
        )
        losses["critic_synth"] = entropy(
            self._judge_synth(synth_synth, shared_synth), 1.0
        ) + entropy(self._judge_synth(obs_synth, shared_obs), 0.0)
        losses["critic_obs"] = entropy(self._judge_obs(obs_obs, shared_obs, split), 1.0) + entropy(
            self._judge_obs(synth_obs, shared_synth, fake_split), 0.0
        )
        self.critic_adam.zero_grad()
        (losses["critic_synth"] + losses["critic_obs"]).backward()
        return {name: value.detach() for name, value in losses.items()}

    def modules(self):
        """All networks that have parameters."""
        return self.network, self.critic_synth, self.critic_obs

    def _judge_synth(self, flux, shared):
        return self.critic_synth(enter(self.sizes, flux, self.sizes.critic_pix), shared)

    def _judge_obs(self, flux, shared, split):
        latents = torch.cat([shared, split], dim=1)
        return self.critic_obs(enter(self.sizes, flux, self.sizes.critic_pix), latents)

    def copy_weights(self, params, critics):
        """Take over the package's parameters (`CycleStarGenerator`, `CycleStarCritics`)."""
        for part, layers in params.items():
            copy_layers(getattr(self.network, part), layers, transposed=part.startswith("decoder"))
        for name, critic in (("synth", self.critic_synth), ("obs", self.critic_obs)):
            layers = critics[name]
            for part in ("flux", "latents"):
                chosen = {key: value for key, value in layers.items() if key.startswith(part)}
                copy_layers(getattr(critic, part), chosen, transposed=False)
            # Features are flattened pixel by pixel there, channel by channel here.
            kernel = np.array(layers["logit"]["kernel"])[0, :, 0]
            n_flux = self.sizes.critic_flux.channels[-1] * self.sizes.critic_flux.shorten(
                self.sizes.critic_pix
            )
            flux = kernel[:n_flux].reshape(-1, self.sizes.critic_flux.channels[-1])
            latents = kernel[n_flux:].reshape(-1, self.sizes.critic_latents[-1])
            row = np.concatenate([flux.T.ravel(), latents.T.ravel()])
            with torch.no_grad():
                critic.logit.weight.copy_(torch.from_numpy(row[None].copy()))
                critic.logit.bias.copy_(torch.from_numpy(np.array(layers["logit"]["bias"])))


def copy_layers(sequence, layers, *, transposed):
    """Copy kernels and biases, in order, into the convolutions of a sequence."""
    targets = [part for part in sequence if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)]
    names = sorted(layers, key=lambda name: (name in ("latents", "flux"), name))
    for target, name in zip(targets, names, strict=True):
        kernel = np.array(layers[name]["kernel"])
        # (k, in, out) becomes (out, in, k); of a transposed one, (in, k, out) (in, out, k).
        is_transposed = transposed and isinstance(target, nn.ConvTranspose1d)
        kernel = kernel.transpose(0, 2, 1) if is_transposed else kernel.transpose(2, 1, 0)
        with torch.no_grad():
            target.weight.copy_(torch.from_numpy(kernel.copy()))
            target.bias.copy_(torch.from_numpy(np.array(layers[name]["bias"])))


def distance(flux, ivar, prediction):
    """Mean squared error in units of the uncertainty, over good pixels."""
    return (ivar * (flux - prediction) ** 2).sum() / (ivar > 0).sum()


def entropy(logits, target):
    """Binary cross-entropy of logits."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
