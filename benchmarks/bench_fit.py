"""Fits of stars: ours beside what one would use instead, alternated.

    python benchmarks/bench_fit.py [--cases velocity gram solvers observed] [--n 2048] [--save]

All fit the same noisy spectra (2901 pixels) with the same emulator, a Payne network of two hidden
layers of 300 with a head of `--rank` shapes, from the centre of the label space.

velocity
    4 labels and velocity, beside scipy's curve_fit; the peer evaluates the network in numpy, as
    The Payne does, with finite-difference Jacobians.
gram
    4 labels: the Gram systems beside our own fit of the pixels.
solvers
    4 labels and velocity by L-BFGS, beside other libraries' solvers mapped over stars.
observed
    4 labels through Cycle-StarNet's original networks (untrained: rates hold, labels are those of
    a toy): exact; by what was distilled from them, finished under the networks and not; and
    the fits of benchmarks/peers/fit_torch.py.

Rates exclude compilation, which is given apart; on a busy machine those per processor second say
more. `--save` writes the result to benchmarks/results/<device>/fit.json.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from results_io import save_result
from scipy.optimize import curve_fit

from jaxmdwarf.inference.config import FitScheduleConfig, choose_batch_size
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.resample import shift_spectra
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PAPER_GRID, SPEED_OF_LIGHT_KMS

HIDDEN = (300, 300)


def make_emulator(rank, seed=0):
    """A network whose spectra have bands and lines as deep as those of M dwarfs.

    Its weights are random but its smoothness is that of a trained one: `rank` shapes, the later
    the weaker.
    """
    rng = np.random.default_rng(seed)
    wave = PAPER_GRID.wave_aa
    centre = rng.uniform(wave[0], wave[-1], 300)
    width = rng.uniform(2.0, 25.0, 300)
    lines = np.exp(-0.5 * ((wave - centre[:, None]) / width[:, None]) ** 2)
    strength = 0.06 * np.arange(1, rank + 1)[:, None] ** -0.7
    basis = strength * rng.normal(size=(rank, 300)) @ lines
    network = PayneNetwork(hidden=HIDDEN, n_out=rank)
    params = init_payne(network, jax.random.key(seed), 4)
    return PayneEmulator(
        params,
        jnp.asarray(basis, jnp.float32),
        jnp.ones(PAPER_GRID.n_pix),
        jnp.full(PAPER_GRID.n_pix, 2e-3),
        network,
        LabelSpace.mdwarf(),
        PAPER_GRID,
    )


def observe(model, n, seed=1):
    """Noisy spectra of random stars, S/N 10 to 150, moving at up to 15 km/s."""
    rng = np.random.default_rng(seed)
    scaled = rng.uniform(-0.4, 0.4, (n, 4)).astype(np.float32)
    rv_kms = rng.uniform(-15, 15, n).astype(np.float32)
    rest = model.predict_scaled_batch(jnp.asarray(scaled))
    flux = np.asarray(shift_spectra(rest, PAPER_GRID, jnp.asarray(rv_kms)))
    snr = 10 ** rng.uniform(1.0, 2.18, n).astype(np.float32)
    flux = flux + rng.normal(size=flux.shape).astype(np.float32) / snr[:, None]
    ivar = np.broadcast_to(snr[:, None] ** 2, flux.shape).astype(np.float32).copy()
    ivar[rng.random(flux.shape) < 0.02] = 0
    arrays = (jnp.asarray(flux), jnp.asarray(ivar), jnp.asarray(ivar))
    return SpectrumBatch(*arrays, PAPER_GRID), scaled, rv_kms


class NumpyPeer:
    """The Payne's way: the emulator in numpy, one star at a time, scipy.optimize.curve_fit."""

    def __init__(self, model, batch):
        layers = model.params
        self.layers = [
            tuple(np.asarray(layers[name][key], np.float64) for key in ("kernel", "bias"))
            for name in (*(f"hidden_{i}" for i in range(len(HIDDEN))), "out")
        ]
        self.basis = np.asarray(model.basis, np.float64)
        self.mean = np.asarray(model.mean, np.float64)
        objective = build_objective(FitProblem.from_batch(model, batch))
        n_pix = PAPER_GRID.n_pix
        self.flux = np.asarray(objective.flux)[:, :n_pix]
        self.weight = np.asarray(objective.weight)[:, :n_pix]
        self.limit = objective.layout.velocity_limit_kms
        self.wave = PAPER_GRID.wave_aa

    def predict(self, parameters):
        """Flux at four scaled labels and a scaled velocity."""
        x = np.asarray(parameters[:4], np.float64)  # float32 would spoil finite differences
        for kernel, bias in self.layers[:-1]:
            x = x @ kernel + bias
            x = 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))
        flux = self.mean + (x @ self.layers[-1][0] + self.layers[-1][1]) @ self.basis
        beta = parameters[4] * 2 * self.limit / SPEED_OF_LIGHT_KMS
        return self._shift(flux, -self.wave * beta / (1 + beta))

    def _shift(self, flux, s):
        wide = np.pad(flux, 3, mode="edge")
        square = s * s
        one, four, nine = square - 1, square - 4, square - 9
        shifted = one * four * nine * (-1 / 36) * flux
        for j, common in (
            (1, four * nine / 48),
            (2, one * nine / -120),
            (3, one * four / 720),
        ):
            even, odd = common * square, common * s * j
            shifted = shifted + (even + odd) * wide[3 + j : 3 + j + s.size]
            shifted = shifted + (even - odd) * wide[3 - j : 3 - j + s.size]
        return shifted

    def fit(self, row):
        """Best parameters and their errors."""
        good = self.weight[row] > 0
        best, covariance = curve_fit(
            lambda _, *parameters: self.predict(np.asarray(parameters))[good],
            np.arange(good.sum()),
            self.flux[row][good],
            p0=np.zeros(5),
            sigma=1 / np.sqrt(self.weight[row][good]),
            absolute_sigma=True,
            bounds=(-0.5, 0.5),
            method="trf",
            ftol=1e-6,
            xtol=1e-6,
        )
        return best, np.sqrt(np.diag(covariance))


def timed(work):
    """Result, wall seconds, processor seconds: load by others leaves the latter alone."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def alternate(rounds, **works):
    """Median wall and processor seconds of each work, taken in turns; what each returned last."""
    firsts, results = {}, {}
    times = {name: [] for name in works}
    for name, work in works.items():
        _, firsts[name], _ = timed(work)
    for _ in range(rounds):
        for name, work in works.items():
            results[name], *spent = timed(work)
            times[name].append(spent)
    median = {
        name: [statistics.median(column) for column in zip(*spent, strict=True)]
        for name, spent in times.items()
    }
    compile_s = {name: round(max(firsts[name] - median[name][0], 0), 2) for name in works}
    return results, median, compile_s


def describe(n, spent, compile_s, result=None):
    """Rates of one contestant, and how its stars fared."""
    wall, cpu = spent
    summary = {
        "n": n,
        "spectra_per_s": round(n / wall, 2),
        "spectra_per_cpu_s": round(n / cpu, 2),
        "compile_s": compile_s,
    }
    if result is not None:
        summary["converged_fraction"] = round(float(result.converged.mean()), 4)
        summary["iterations"] = {
            "median": float(np.median(result.n_iter)),
            "p99": float(np.percentile(result.n_iter, 99)),
        }
    return summary


def summarise_distance(distance):
    """Of labels, in sigma, star by star."""
    worst = distance.max(axis=1)
    return {
        "median": round(float(np.median(worst)), 4),
        "p99": round(float(np.quantile(worst, 0.99)), 4),
        "max": round(float(worst.max()), 4),
    }


def take(batch, n):
    """The first n spectra."""
    return SpectrumBatch(batch.flux[:n], batch.ivar[:n], batch.information[:n], batch.grid)


def add_noise(clean, like, seed=3):
    """Spectra with the weights of others."""
    ivar = np.asarray(like.ivar)
    sigma = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1)), 1)
    noise = np.random.default_rng(seed).normal(size=ivar.shape) * sigma
    flux = jnp.asarray(np.asarray(clean) + noise, jnp.float32)
    return SpectrumBatch(flux, like.ivar, like.information, like.grid)


def compare_velocity(options, model):
    """Labels and velocity: ours beside scipy."""
    batch, scaled, rv_kms = observe(model, options.n)
    schedule = FitScheduleConfig(batch_size=options.batch_size)
    peer = NumpyPeer(model, batch)
    flux = np.asarray(model.predict_scaled(jnp.zeros(4)))
    assert np.abs(peer.predict(np.zeros(5)) - flux)[5:-5].max() < 1e-4
    results, spent, compile_s = alternate(
        options.rounds,
        ours=lambda: fit(FitProblem.from_batch(model, batch), schedule=schedule),
        scipy=lambda: [peer.fit(row) for row in range(options.peer)],
    )
    result = results["ours"]
    space, rows = model.label_space, slice(0, options.peer)
    ours = np.column_stack(
        [space.scale(result.labels[rows]), result.residual_kms[rows] / (2 * peer.limit)]
    )
    best, errors = (np.array(column) for column in zip(*results["scipy"], strict=True))
    inside = result.flags == 0
    pulls = np.column_stack(
        [
            (result.labels - space.unscale(scaled)) / result.errors,
            (result.rv_kms - rv_kms) / result.e_rv,
        ]
    )[inside]
    return {
        "batch_size": choose_batch_size(schedule, model),
        "ours": describe(options.n, spent["ours"], compile_s["ours"], result),
        "scipy": describe(options.peer, spent["scipy"], 0.0),
        "distance_sigma": summarise_distance(np.abs(ours - best) / errors),
        "pull_median": np.median(pulls, axis=0).round(3).tolist(),
        "pull_width": (1.4826 * np.median(np.abs(pulls), axis=0)).round(3).tolist(),
    }


def compare_gram(options, model):
    """Labels alone: the Gram systems beside the pixels."""
    seen, scaled, _ = observe(model, options.n)
    batch = add_noise(model.predict_scaled_batch(jnp.asarray(scaled)), seen)
    schedule = FitScheduleConfig(batch_size=options.batch_size)

    def fit_labels(**solver):
        problem = FitProblem.from_batch(model, batch, fit_velocity=False)
        return fit(problem, solver=LevenbergMarquardt(**solver), schedule=schedule)

    results, spent, compile_s = alternate(
        options.rounds, gram=fit_labels, pixels=lambda: fit_labels(fast_path=False)
    )
    gram, pixels = results["gram"], results["pixels"]
    both = gram.converged & pixels.converged
    return {
        **{n: describe(options.n, spent[n], compile_s[n], results[n]) for n in results},
        "distance_sigma": summarise_distance(
            (np.abs(gram.labels - pixels.labels) / pixels.errors)[both]
        ),
    }


def compare_solvers(options, model):
    """Labels and velocity by L-BFGS: ours beside vmap(optimistix.LBFGS)."""
    batch, _, _ = observe(model, options.n)
    problem = FitProblem.from_batch(model, batch)
    few = problem[: options.mapped]
    reference = fit(problem)
    results, spent, compile_s = alternate(
        options.rounds,
        **{
            "lbfgs": lambda: fit(problem, solver="lbfgs"),
            **{name: lambda name=name: fit(few, solver=name) for name in options.solvers},
        },
    )
    summary = {}
    for name, result in results.items():
        n = len(result.converged)
        good = result.converged & reference.converged[:n]
        away = np.abs(result.labels - reference.labels[:n])[good] / reference.errors[:n][good]
        summary[name] = describe(n, spent[name], compile_s[name], result)
        summary[name]["distance_from_lm_sigma"] = summarise_distance(away)
    return summary


def make_transfer(options, model):
    """The original networks, untrained but distilled, and stars seen through them."""
    from jaxmdwarf.models.cyclestar import CycleStarModel
    from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
    from jaxmdwarf.training.transfer.distil import DistillationConfig, distil_transfer

    sizes = CycleStarSizes.original(PAPER_GRID.n_pix)
    latents = jnp.zeros((sizes.latent_length, sizes.split_latents))
    params = CycleStarGenerator(sizes).init(jax.random.key(0))
    transfer = CycleStarModel(model, params, latents, sizes, True)
    seen, scaled, _ = observe(model, options.fast)
    split = transfer.read_context(seen)
    others, labels, _ = observe(model, 512, seed=7)
    training = DistillationConfig().training
    schedule = training.schedule
    distilled = distil_transfer(
        transfer,
        labels,
        np.asarray(transfer.read_context(others)),
        replace(
            DistillationConfig(),
            n_spectra=options.distil,
            training=replace(training, schedule=replace(schedule, steps=options.distil_steps)),
        ),
    )
    rows = range(0, options.fast, 64)
    clean = [
        transfer.predict_scaled_batch(jnp.asarray(scaled[row : row + 64]), split[row : row + 64])
        for row in rows
    ]
    batch = add_noise(np.concatenate(clean), seen)
    return distilled, batch, split


def compare_observed(options, model):
    """The observed domain through the original networks: exact, by its surrogate, and PyTorch."""
    import torch
    from peers.fit_torch import PEERS, ObservedModel

    (transfer, report), whole, split = make_transfer(options, model)
    n = options.observed
    everyone = FitProblem.from_batch(transfer, whole, context=split, fit_velocity=False)
    objective = build_objective(everyone[:n])
    flux, weight = (
        torch.from_numpy(np.array(a)[:, : PAPER_GRID.n_pix])
        for a in (objective.flux, objective.weight)
    )
    peer = ObservedModel(transfer)
    latents = torch.from_numpy(np.array(split[:n]).transpose(0, 2, 1).copy())
    centre = peer(torch.zeros(2, 4), latents[:2]).numpy()
    ours = np.asarray(transfer.predict_scaled_batch(jnp.zeros((2, 4)), split[:2]))
    assert np.abs(centre - ours).max() < 1e-3

    def by(problem, **solver):
        return lambda: fit(problem, solver=LevenbergMarquardt(**solver))

    results, spent, compile_s = alternate(
        options.rounds,
        exact=by(everyone[:n], fast_path=False),
        checked=by(everyone),
        surrogate=by(everyone, check_surrogate=False),
        **{
            name: lambda name=name: PEERS[name](peer, flux, weight, latents)
            for name in options.torch
        },
    )
    found = results["exact"]
    good, errors = found.converged, found.errors
    summary = {"distilled": report}
    for name, result in results.items():
        own = name not in options.torch
        size = len(result.converged) if own else n
        summary[name] = describe(size, spent[name], compile_s[name], result if own else None)
        labels = result.labels[:n] if own else model.label_space.unscale(result)
        away = np.abs(labels - found.labels)[good] / errors[good]
        summary[name]["distance_sigma"] = summarise_distance(away)
    told = (results["checked"].flags & int(QualityFlag.FAST_PATH_DISAGREED)) > 0
    summary["checked"]["disagreed_fraction"] = round(float(told.mean()), 4)
    return summary


CASES = {
    "velocity": compare_velocity,
    "gram": compare_gram,
    "solvers": compare_solvers,
    "observed": compare_observed,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["velocity", "gram"])
    parser.add_argument("--n", type=int, default=2048, help="stars of ours")
    parser.add_argument("--peer", type=int, default=40, help="stars of scipy")
    parser.add_argument("--mapped", type=int, default=64, help="stars of mapped solvers")
    parser.add_argument("--solvers", nargs="*", default=["optimistix-lbfgs"])
    parser.add_argument("--observed", type=int, default=64, help="stars in the observed domain")
    parser.add_argument("--fast", type=int, default=512, help="stars by the surrogate")
    parser.add_argument("--distil", type=int, default=6144, help="spectra to distil from")
    parser.add_argument("--distil-steps", type=int, default=6000, help="steps of distillation")
    parser.add_argument("--torch", nargs="*", default=["torch_vmap_jacfwd_lm"])
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--rank", type=int, default=40, help="shapes of the emulator's head")
    parser.add_argument("--batch-size", type=int, help="stars in one call")
    parser.add_argument("--save", action="store_true", help="keep the result with the device's")
    options = parser.parse_args()
    model = make_emulator(options.rank)
    summary = {
        "device": jax.devices()[0].device_kind,
        "n_pix": PAPER_GRID.n_pix,
        "rank": options.rank,
    }
    for case in options.cases:
        summary[case] = CASES[case](options, model)
        summary[case]["load_average"] = round(os.getloadavg()[0], 2)
    print(json.dumps(summary, indent=1))
    if options.save:
        save_result("fit", summary)


if __name__ == "__main__":
    main()
