"""Label fits in the observed domain as one would write them in PyTorch: peers of the benchmark.

All minimise the same weighted squares through the same networks (`cyclestar_torch`), from the
centre of the label space; labels are scaled to [-0.5, 0.5] and the star's split latents are given.
"""

import numpy as np
import torch
from torch import nn

from peers.cyclestar_torch import CycleStar, copy_layers


class ObservedModel(nn.Module):
    """Scaled labels to observed flux: the emulator, then the transfer in its residual form.

    Parameters
    ----------
    model : CycleStarModel
        The package's own, whose weights are copied.
    """

    def __init__(self, model):
        super().__init__()
        base = model.base
        layers = [base.params[f"hidden_{i}"] for i in range(len(base.network.hidden))]
        parts = []
        for layer in [*layers, base.params["out"]]:
            kernel = torch.from_numpy(np.array(layer["kernel"]).T.copy())
            linear = nn.Linear(kernel.shape[1], kernel.shape[0])
            with torch.no_grad():
                linear.weight.copy_(kernel)
                linear.bias.copy_(torch.from_numpy(np.array(layer["bias"])))
            parts += [linear, nn.GELU(approximate="tanh")]
        self.coefficients = nn.Sequential(*parts[:-1])
        self.basis = nn.Parameter(torch.from_numpy(np.array(base.basis)))
        self.mean = nn.Parameter(torch.from_numpy(np.array(base.mean)))
        self.network = CycleStar(model.sizes)
        for part, layers in model.params.items():
            copy_layers(getattr(self.network, part), layers, transposed=part.startswith("decoder"))
        self.requires_grad_(False)

    def forward(self, scaled, split):
        """Flux (n, n_pix) at labels (n, n_label) and split latents (n, channels, length)."""
        synth = self.mean + self.coefficients(scaled) @ self.basis
        shared = self.network.synth_to_latents(synth)
        observed = self.network.latents_to_obs(shared, split)
        return synth + observed - self.network.latents_to_synth(shared)


def fit_by_lm(model, flux, weight, split, n_step=8):
    """Levenberg-Marquardt on all stars at once; Jacobians by jacfwd under vmap."""
    root = weight.sqrt()

    def residual(labels, flux, root, split):
        return root * (flux - model(labels[None], split[None])[0])

    jacobian = torch.func.vmap(torch.func.jacfwd(residual))
    labels = torch.zeros(flux.shape[0], 4)
    damping = torch.full((flux.shape[0],), 1e-2)
    with torch.no_grad():
        missed = root * (flux - model(labels, split))
        cost = missed.square().sum(-1)
        for _ in range(n_step):
            slopes = jacobian(labels, flux, root, split)
            curvature = slopes.mT @ slopes
            ridge = torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=-2, dim2=-1))
            right = -(slopes.mT @ missed[..., None])
            step = torch.linalg.solve(curvature + ridge, right)[..., 0]
            trial = (labels + step.clamp(-0.4, 0.4)).clamp(-0.5, 0.5)
            new = root * (flux - model(trial, split))
            better = new.square().sum(-1) < cost
            labels = torch.where(better[:, None], trial, labels)
            missed = torch.where(better[:, None], new, missed)
            cost = torch.where(better, new.square().sum(-1), cost)
            damping = torch.where(better, damping * 0.1, damping * 8)
    return labels.numpy()


def fit_by_lbfgs_each(model, flux, weight, split, n_step=16):
    """torch.optim.LBFGS with strong Wolfe line searches, one star after another."""
    rows = [slice(i, i + 1) for i in range(flux.shape[0])]
    found = [_lbfgs(model, flux[r], weight[r], split[r], n_step) for r in rows]
    return np.concatenate(found)


def fit_by_lbfgs_sum(model, flux, weight, split, n_step=25):
    """One torch.optim.LBFGS on the sum over all stars."""
    return _lbfgs(model, flux, weight, split, n_step)


def fit_by_adam(model, flux, weight, split, n_step=50):
    """Adam on all stars at once."""
    labels = torch.zeros(flux.shape[0], 4, requires_grad=True)
    adam = torch.optim.Adam([labels], lr=0.03)
    for _ in range(n_step):
        adam.zero_grad()
        _value(model, labels, flux, weight, split).backward()
        adam.step()
    return labels.detach().clamp(-0.5, 0.5).numpy()


PEERS = {
    "torch_vmap_jacfwd_lm": fit_by_lm,
    "torch_lbfgs_each": fit_by_lbfgs_each,
    "torch_lbfgs_sum": fit_by_lbfgs_sum,
    "torch_adam": fit_by_adam,
}


def _lbfgs(model, flux, weight, split, n_step):
    labels = torch.zeros(flux.shape[0], 4, requires_grad=True)
    solver = torch.optim.LBFGS([labels], max_iter=n_step, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        value = _value(model, labels, flux, weight, split)
        value.backward()
        return value

    solver.step(closure)
    return labels.detach().clamp(-0.5, 0.5).numpy()


def _value(model, labels, flux, weight, split):
    squares = (weight * (flux - model(labels, split)).square()).sum(-1)
    return (squares / (weight > 0).sum(-1)).sum() / 2
