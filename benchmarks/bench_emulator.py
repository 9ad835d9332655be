"""Training steps: ours beside the plain Payne in PyTorch, alternated in one run.

    python benchmarks/bench_emulator.py [--rounds 3] [--steps 100] [--grid GRID] [--json]

All train a perceptron 4-300-300 with a linear head to 2901 pixels by Adam, on 922 spectra: the
plain Payne in pixels, in batches of 512 (what its users run, in PyTorch and in JAX), and our
trainer, which takes all spectra a step on their principal components: all of them ("plain head",
the same model and the same loss) or 40. A step of ours on 922 spectra does 1.8 times the work of
theirs on 512, so spectra a second are compared too. With --grid, the whole training of a grid table
is timed, and eq. 1 of the paper reported. PyTorch comes with the extra `peers`; without it its
rows are left out. Results are kept in benchmarks/results/<device>/emulator.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results_io import name_device, save_result

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.training.emulator.data import prepare_training_set
from jaxmdwarf.training.emulator.loop import continue_training, start_training
from jaxmdwarf.wavelengths import PAPER_GRID

BATCH = 512
HIDDEN = (300, 300)


def make_spectra(n=1152, seed=0):
    """Labels in [-0.5, 0.5] and spectra of forty saturating patterns: the size is what counts."""
    rng = np.random.default_rng(seed)
    scaled = rng.uniform(-0.5, 0.5, (n, 4)).astype(np.float32)
    strength = 1.0 / (1.0 + np.exp(-3.0 * scaled @ rng.normal(size=(4, 40))))
    flux = 1.0 + 0.02 * strength @ rng.normal(size=(40, PAPER_GRID.n_pix))
    # A little of everything, so that the plain head has all its 921 components to learn.
    return scaled, (flux + 1e-4 * rng.normal(size=flux.shape)).astype(np.float32)


def our_steps(scaled, flux, *, rank, n_step):
    """The trainer of the package; n_step optimiser steps on all training spectra."""
    space = LabelSpace.mdwarf()
    config = EmulatorConfig(
        network=NetworkConfig(hidden=HIDDEN, rank=rank),
        schedule=ScheduleConfig(steps=10**6, report_every=n_step),
    )
    training_set = prepare_training_set(
        space.unscale(scaled.astype(np.float64)),
        flux,
        label_space=space,
        grid=PAPER_GRID,
        config=config,
    )
    course = continue_training(training_set, config, start_training(training_set, config))

    def run():
        jax.block_until_ready(next(course)[0])

    return run, len(training_set.train_rows)


def plain_jax_steps(scaled, flux, *, n_step):
    """The plain Payne in pixels, a jitted step a batch, as a JAX user would write it."""
    widths = (4, *HIDDEN, PAPER_GRID.n_pix)
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    params = [
        (jax.random.normal(key, (a, b)) / a**0.5, jnp.zeros(b))
        for key, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]
    optimiser = optax.adam(1e-3)

    def loss_of(params, x, y):
        for kernel, bias in params[:-1]:
            x = jax.nn.leaky_relu(x @ kernel + bias)
        return jnp.mean((x @ params[-1][0] + params[-1][1] - y) ** 2)

    @jax.jit
    def step(params, moments, x, y):
        slope = jax.grad(loss_of)(params, x, y)
        updates, moments = optimiser.update(slope, moments)
        return optax.apply_updates(params, updates), moments

    x, y = jnp.asarray(scaled[:BATCH]), jnp.asarray(flux[:BATCH])
    state = [params, optimiser.init(params)]

    def run():
        for _ in range(n_step):
            state[:] = step(*state, x, y)
        jax.block_until_ready(state)

    return run, BATCH


def torch_steps(scaled, flux, *, n_step):
    """The plain Payne in PyTorch, eager."""
    import torch

    layers = []
    for a, b in zip((4, *HIDDEN[:-1]), HIDDEN, strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.LeakyReLU()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], PAPER_GRID.n_pix)).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = (torch.from_numpy(values[:BATCH]).to(device) for values in (scaled, flux))

    def run():
        for _ in range(n_step):
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimiser.step()
        loss.item()

    return run, BATCH


def time_training(path):
    """A whole training, from the table to the model directory."""
    from jaxmdwarf.workflows.emulator import train_emulator_files

    with tempfile.TemporaryDirectory() as folder:
        clock, cpu = time.perf_counter(), time.process_time()
        summary = train_emulator_files(path, Path(folder) / "model")
    return {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - cpu,
        **{key: summary[key] for key in ("spectra", "steps", "eq1_median", "eq1_p95")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps a round")
    parser.add_argument("--grid", help="grid table whose whole training is timed")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    scaled, flux = make_spectra()
    makers = {
        "PyTorch, pixels": torch_steps,
        "plain JAX, pixels": plain_jax_steps,
        "ours, plain head": lambda *args, n_step: our_steps(*args, rank=None, n_step=n_step),
        "ours, rank 40": lambda *args, n_step: our_steps(*args, rank=40, n_step=n_step),
    }
    cases, compile_s = {}, {}
    for name, make in makers.items():
        try:
            run, n_row = make(scaled, flux, n_step=options.steps)
        except ImportError:
            continue
        clock = time.perf_counter()
        run()
        compile_s[name] = time.perf_counter() - clock
        cases[name] = (run, n_row)
    rates = {name: [] for name in cases}
    cpu_ms = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (run, _) in cases.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            rates[name].append(options.steps / (time.perf_counter() - clock))
            cpu_ms[name].append(1e3 * (time.process_time() - cpu) / options.steps)
    steps_per_s = {name: statistics.median(values) for name, values in rates.items()}
    peer = next(name for name in ("PyTorch, pixels", "plain JAX, pixels") if name in cases)
    result = {
        "device": name_device(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
        "peer": peer,
        "steps_per_s": steps_per_s,
        "spectra_per_s": {name: rate * cases[name][1] for name, rate in steps_per_s.items()},
        "cpu_ms_per_step": {name: statistics.median(values) for name, values in cpu_ms.items()},
        "first_call_s": compile_s,
        "ratios": {
            f"{name} / {peer}": steps_per_s[name] / steps_per_s[peer]
            for name in cases
            if name != peer
        },
    }
    if options.grid:
        result["training"] = time_training(options.grid)
    save_result("emulator", result)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


def show(result):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"emulator training on {result['device']} (medians)")
    for title in ("case", "steps/s", "spectra/s", "CPU ms/step"):
        table.add_column(title, justify="left" if title == "case" else "right")
    for name, rate in result["steps_per_s"].items():
        table.add_row(
            name,
            f"{rate:,.0f}",
            f"{result['spectra_per_s'][name]:,.0f}",
            f"{result['cpu_ms_per_step'][name]:,.1f}",
        )
    console = Console()
    console.print(table)
    for name, ratio in result["ratios"].items():
        console.print(f"steps/s, {name}: {ratio:,.1f}")
    if "training" in result:
        done = result["training"]
        console.print(
            f"training on {done['spectra']} spectra: {done['seconds']:.0f} s "
            f"({done['cpu_seconds']:.0f} s of processor time), eq. 1 median "
            f"{100 * done['eq1_median']:.3f} %, 95th percentile {100 * done['eq1_p95']:.3f} %"
        )


if __name__ == "__main__":
    main()
