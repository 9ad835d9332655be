"""Training of Cycle-StarNet at the authors' sizes and batch 8: ours beside PyTorch, alternated.

    python benchmarks/bench_transfer.py [--sizes original] [--batch 8] [--steps 10] [--rounds 5]
                                        [--no-peer] [--save]

Both take the same spectra (2901 pixels), start from the same weights and make full iterations: one
step of the generator, one of the critics, Adam for both. The losses of the first iteration are
compared before anything is timed, and compilation is timed apart. Ours draws its batches and runs
the emulator (4-300-300-2901) inside the step, as training does; the peer is handed its batches.
PyTorch runs on the processor unless it finds an accelerator. `--save` writes the result to
benchmarks/results/<device>/transfer.json.
"""

import argparse
import json
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from results_io import save_result

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.networks.cyclestar import count_parameters
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import TransferData
from jaxmdwarf.training.cyclestar.losses import Domains, transfer_gradients
from jaxmdwarf.training.cyclestar.steps import continue_transfer, start_transfer
from jaxmdwarf.wavelengths import PAPER_GRID

PAPER_STEPS = 500_000
N_SPEC = 256


def make_data(seed=0):
    """Random spectra of both domains with the noise, masks and emulator of a real training."""
    rng = np.random.default_rng(seed)
    n_pix = PAPER_GRID.n_pix
    network, space = PayneNetwork(hidden=(300, 300)), LabelSpace.mdwarf()
    basis = 0.1 * rng.normal(size=(300, n_pix)) / np.sqrt(300)
    emulator = PayneEmulator(
        init_payne(network, jax.random.key(seed), space.n_label),
        jnp.asarray(basis, jnp.float32),
        jnp.ones(n_pix),
        jnp.full(n_pix, 0.005),
        network,
        space,
        PAPER_GRID,
    )
    scaled = jnp.asarray(rng.uniform(-0.4, 0.4, (N_SPEC, 4)), jnp.float32)
    snr = 10 ** rng.uniform(1.0, 2.0, (N_SPEC, 1))
    clean = np.asarray(emulator.predict_scaled_batch(scaled))[rng.permutation(N_SPEC)]
    flux = (0.98 * clean + rng.normal(size=clean.shape) / snr).astype(np.float32)
    ivar = np.broadcast_to(snr**2, flux.shape).astype(np.float32).copy()
    ivar[rng.random(flux.shape) < 0.05] = 0
    flux, ivar = jnp.asarray(flux), jnp.asarray(ivar)
    return TransferData(
        emulator=emulator,
        scaled=scaled,
        flux=flux,
        ivar=ivar,
        held_scaled=scaled[:8],
        held_flux=flux[:8],
        held_ivar=ivar[:8],
        mean=jnp.ones(n_pix),
        basis=jnp.asarray(basis[:8], jnp.float32),
    )


def first_batch(data, config):
    """A batch that both train on; host arrays."""
    rows = slice(0, config.optimiser.batch_size)
    synth = np.array(data.emulator.predict_scaled_batch(data.scaled[rows]))
    synth_ivar = np.full_like(synth, config.noise.synthetic_error**-2)
    return synth, synth_ivar, np.array(data.flux[rows]), np.array(data.ivar[rows])


def make_peer(state, config, arrays):
    """The peer with our weights, a function that takes steps, and its first losses."""
    import torch
    from peers.cyclestar_torch import Training

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = config.shape(PAPER_GRID.n_pix)
    how = config.optimiser
    rate, betas = how.learning_rate, (how.first_moment_decay, how.second_moment_decay)
    peer = Training(
        sizes,
        config.losses.weights,
        learning_rate=rate,
        betas=betas,
        reencoded_split=config.losses.reencoded_split,
    )
    peer.copy_weights(state.generator, state.critics)
    for module in peer.modules():
        module.to(device)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]

    def take(n_step):
        for _ in range(n_step):
            losses = peer.step(*tensors)
        return {name: float(value) for name, value in losses.items()}

    return take, {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}


def timed(work):
    """Result, wall seconds, processor seconds: load by others leaves the latter alone."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(work())
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="original", choices=("original", "compact"))
    parser.add_argument("--batch", type=int, default=8, help="spectra of each domain a step")
    parser.add_argument("--convolution", default="auto", choices=("auto", "product", "library"))
    parser.add_argument("--steps", type=int, default=10, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are reported")
    parser.add_argument("--no-peer", action="store_true", help="time ours alone")
    parser.add_argument("--save", action="store_true", help="keep the result with the device's")
    options = parser.parse_args()

    data = make_data()
    config = CycleStarConfig.paper(
        sizes=options.sizes,
        batch_size=options.batch,
        flux_scale=(0.977, 0.052),
        convolution=options.convolution,
    )
    sizes = config.shape(PAPER_GRID.n_pix)
    state = start_transfer(data, config)
    summary = {
        "device": jax.devices()[0].device_kind,
        "sizes": options.sizes,
        "n_pix": PAPER_GRID.n_pix,
        "batch_size": options.batch,
        "parameters": {
            "generator": count_parameters(state.generator),
            "critics": count_parameters(state.critics),
            "emulator": count_parameters((data.emulator.params, data.emulator.basis)),
        },
    }
    has_peer = not (options.no_peer or sizes.centred)
    if has_peer:
        arrays = first_batch(data, config)
        theirs, summary["peer"] = make_peer(state, config, arrays)
        gradients = jax.jit(
            transfer_gradients, static_argnums=(0, 4), static_argnames="reencoded_split"
        )
        domains = Domains(*map(jnp.asarray, arrays))
        ours = gradients(
            sizes,
            state.generator,
            state.critics,
            domains,
            config.losses.weights,
            reencoded_split=config.losses.reencoded_split,
        ).losses
        summary["largest_loss_difference"] = max(
            abs(float(ours[name]) / value - 1) for name, value in theirs(1).items()
        )
        assert summary["largest_loss_difference"] < 1e-4, summary

    def advance():
        nonlocal state
        state, losses = continue_transfer(state, data, config, options.steps)
        return losses

    _, first, _ = timed(advance)
    walls, cpus, peer_walls, peer_cpus = [], [], [], []
    for _ in range(options.rounds):
        _, wall, cpu = timed(advance)
        walls.append(wall)
        cpus.append(cpu)
        if has_peer:
            _, wall, cpu = timed(lambda: theirs(options.steps))
            peer_walls.append(wall)
            peer_cpus.append(cpu)
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    rate = options.steps / wall
    summary |= {
        "iterations_per_s": round(rate, 3),
        "iterations_per_cpu_s": round(options.steps / cpu, 3),
        "first_call_s": round(first, 1),
        "hours_to_paper_steps": round(PAPER_STEPS / rate / 3600, 2),
    }
    if has_peer:
        peer_wall, peer_cpu = statistics.median(peer_walls), statistics.median(peer_cpus)
        summary |= {
            "peer_iterations_per_s": round(options.steps / peer_wall, 3),
            "peer_iterations_per_cpu_s": round(options.steps / peer_cpu, 3),
            "ratio": round(peer_wall / wall, 2),
            "ratio_cpu": round(peer_cpu / cpu, 2),
        }
    summary["load_average"] = os.getloadavg()[0]
    print(json.dumps(summary, indent=1))
    if options.save:
        stem = "transfer" if options.sizes == "original" else f"transfer_{options.sizes}"
        save_result(stem, summary)


if __name__ == "__main__":
    main()
