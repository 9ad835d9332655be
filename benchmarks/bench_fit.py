"""Synthetic-domain fits, 4 labels and velocity: ours beside scipy's curve_fit, alternated.

    python benchmarks/bench_fit.py [--n 2048] [--peer 40] [--rounds 3] [--rank 40] [--save]

Both fit the same noisy spectra (2901 pixels) with the same emulator, a Payne network of two hidden
layers of 300, from the centre of the label space; the peer evaluates it in numpy, as The Payne
does, with finite-difference Jacobians. Compilation is timed apart. `--save` writes the result to
benchmarks/results/<device>/fit.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import curve_fit

from jaxmdwarf.inference.fit import fit_stars
from jaxmdwarf.inference.objective import build_objective
from jaxmdwarf.inference.settings import FitSettings, choose_batch_size
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.emulator import PayneEmulator
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.resample import shift_spectra
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
        objective = build_objective(model, batch)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2048, help="stars of ours")
    parser.add_argument("--peer", type=int, default=40, help="stars of the peer")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--rank", type=int, default=40, help="shapes of the emulator's head")
    parser.add_argument("--batch-size", type=int, help="stars in one call")
    parser.add_argument("--save", action="store_true", help="keep the result with the device's")
    options = parser.parse_args()

    model = make_emulator(options.rank)
    batch, scaled, rv_kms = observe(model, options.n)
    settings = FitSettings(batch_size=options.batch_size)
    peer = NumpyPeer(model, batch)
    flux = np.asarray(model.predict_scaled(jnp.zeros(4)))
    assert np.abs(peer.predict(np.zeros(5)) - flux)[5:-5].max() < 1e-4

    def ours():
        return fit_stars(model, batch, settings=settings)

    def theirs():
        return [peer.fit(row) for row in range(options.peer)]

    _, first, _ = timed(ours)
    walls, cpus, peer_walls, peer_cpus = [], [], [], []
    for _ in range(options.rounds):
        result, wall, cpu = timed(ours)
        walls.append(wall)
        cpus.append(cpu)
        found, wall, cpu = timed(theirs)
        peer_walls.append(wall)
        peer_cpus.append(cpu)
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    peer_wall, peer_cpu = statistics.median(peer_walls), statistics.median(peer_cpus)

    space = model.label_space
    rows = slice(0, options.peer)
    ours_scaled = np.column_stack(
        [space.scale(result.labels[rows]), result.residual_kms[rows] / (2 * peer.limit)]
    )
    best, errors = (np.array(column) for column in zip(*found, strict=True))
    distance = np.abs(ours_scaled - best) / errors
    inside = result.flags == 0
    pulls = np.column_stack(
        [
            (result.labels - space.unscale(scaled)) / result.errors,
            (result.rv_kms - rv_kms) / result.e_rv,
        ]
    )[inside]
    summary = {
        "device": jax.devices()[0].device_kind,
        "n": options.n,
        "n_pix": PAPER_GRID.n_pix,
        "rank": options.rank,
        "batch_size": choose_batch_size(settings),
        "spectra_per_s": round(options.n / wall, 1),
        "spectra_per_cpu_s": round(options.n / cpu, 1),
        "peer_spectra_per_s": round(options.peer / peer_wall, 2),
        "peer_spectra_per_cpu_s": round(options.peer / peer_cpu, 2),
        "ratio": round(options.n / wall / (options.peer / peer_wall), 1),
        "ratio_cpu": round(options.n / cpu / (options.peer / peer_cpu), 1),
        "first_call_s": round(first - wall, 2),
        "converged_fraction": round(float(result.converged.mean()), 4),
        "iterations": {
            "median": float(np.median(result.n_iter)),
            "p99": float(np.percentile(result.n_iter, 99)),
        },
        "peer_distance_sigma": {
            "median": round(float(np.median(distance.max(axis=1))), 4),
            "max": round(float(distance.max()), 4),
        },
        "pull_median": np.median(pulls, axis=0).round(3).tolist(),
        "pull_width": (1.4826 * np.median(np.abs(pulls), axis=0)).round(3).tolist(),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(summary, indent=1))
    if options.save:
        name = summary["device"].lower().replace(" ", "_")
        if name == "cpu":
            name = f"cpu_{platform.machine()}_{os.cpu_count()}_cores"
        target = Path(__file__).parent / "results" / name / "fit.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
