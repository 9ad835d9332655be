"""Time and memory of fits against the number of stars: both should know of stars only by the rate.

    python benchmarks/bench_scaling.py [--sizes 1000 10000 100000] [--chunk 1000] [--save]

Labels and velocity of noisy spectra (2901 pixels) with the emulator of bench_fit.py. Spectra are
made chunk by chunk, as a survey would be read, and forgotten once they are fitted. Each size runs
in a process of its own, which compiles and fits one chunk before the clock starts. Time is that of
the fits alone (on a busy machine, processor seconds say more); memory is the most that the process
ever held, the making of spectra included. `--save` writes the result to
benchmarks/results/<device>/scaling.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
from bench_fit import make_emulator, observe
from results_io import find_peak_memory, name_device, save_result

from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit

SURVEY = 507_513
"""Spectra of M dwarfs in LAMOST DR10."""


def fit_streamed(n_star, chunk, rank):
    """Fit so many stars, chunk by chunk: seconds, memory, and how the stars fared."""
    model = make_emulator(rank)
    sizes = [min(chunk, n_star - first) for first in range(0, n_star, chunk)]
    clock = time.perf_counter()
    for size in set(sizes):
        fit(FitProblem.from_batch(model, observe(model, size, seed=1)[0]))
    first_s = time.perf_counter() - clock
    wall_s = cpu_s = made_s = 0.0
    n_converged = n_right = half_way = 0
    for number, size in enumerate(sizes):
        clock = time.perf_counter()
        batch, scaled, _ = observe(model, size, seed=2 + number)
        jax.block_until_ready(batch)
        made_s += time.perf_counter() - clock
        clock, cpu = time.perf_counter(), time.process_time()
        result = fit(FitProblem.from_batch(model, batch))
        wall_s += time.perf_counter() - clock
        cpu_s += time.process_time() - cpu
        n_converged += int(result.converged.sum())
        pull = (result.labels - model.label_space.unscale(scaled)) / result.errors
        n_right += int((np.abs(pull) < 5).all(axis=1).sum())
        if number == len(sizes) // 2:
            half_way = find_peak_memory()
    device = jax.devices()[0].memory_stats() or {}
    return {
        "stars": n_star,
        "fit_s": round(wall_s, 3),
        "fit_cpu_s": round(cpu_s, 3),
        "spectra_per_s": round(n_star / wall_s, 1),
        "spectra_per_cpu_s": round(n_star / cpu_s, 1),
        "making_s": round(made_s, 2),
        "first_chunk_s": round(first_s, 2),
        "converged_fraction": round(n_converged / n_star, 5),
        "within_5_sigma_fraction": round(n_right / n_star, 5),
        "peak_memory_mib": round(find_peak_memory() / 2**20, 1),
        "peak_memory_half_way_mib": round(half_way / 2**20, 1),
        "peak_device_memory_mib": round(device.get("peak_bytes_in_use", 0) / 2**20, 1) or None,
        "load_average": round(os.getloadavg()[0], 2),
    }


def run_apart(n_star, options):
    """The same in a fresh process, whose peak of memory is of this size alone."""
    words = [sys.executable, __file__, "--worker", str(n_star)]
    words += ["--chunk", str(options.chunk), "--rank", str(options.rank)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def find_exponent(runs, key):
    """Of seconds against stars, by least squares of their logarithms; 1 is linear."""
    stars, seconds = (np.log([run[name] for run in runs]) for name in ("stars", key))
    return round(float(np.polyfit(stars, seconds, 1)[0]), 3)


def summarise(runs, options):
    """How time and memory grow, and what the survey would take."""
    fewest, most = runs[0], runs[-1]
    grown = most["peak_memory_mib"] - fewest["peak_memory_mib"]
    return {
        "device": name_device(),
        "n_pix": 2901,
        "rank": options.rank,
        "chunk": options.chunk,
        "runs": runs,
        "time_exponent": find_exponent(runs, "fit_s"),
        "cpu_time_exponent": find_exponent(runs, "fit_cpu_s"),
        "memory_grown_mib": round(grown, 1),
        "memory_ratio": round(most["peak_memory_mib"] / fewest["peak_memory_mib"], 3),
        "survey_stars": SURVEY,
        "survey_s": round(SURVEY / most["spectra_per_s"], 1),
        "survey_cpu_s": round(SURVEY / most["spectra_per_cpu_s"], 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--chunk", type=int, default=1_000, help="stars in memory at once")
    parser.add_argument("--rank", type=int, default=40, help="shapes of the emulator's head")
    parser.add_argument("--save", action="store_true", help="keep the result with the device's")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(fit_streamed(options.worker, options.chunk, options.rank)))
        return
    if len(options.sizes) < 2:
        parser.error("scaling needs two sizes or more")
    # This process asks for no device before the workers are done with it.
    runs = []
    for n_star in sorted(options.sizes):
        runs.append(run_apart(n_star, options))
        run = runs[-1]
        print(
            f"{n_star:>8,} stars: {run['spectra_per_s']:,.0f} spectra/s "
            f"({run['spectra_per_cpu_s']:,.0f} a processor second), "
            f"peak memory {run['peak_memory_mib']:,.0f} MiB",
            file=sys.stderr,
        )
    summary = summarise(runs, options)
    print(json.dumps(summary, indent=1))
    if options.save:
        save_result("scaling", summary)


if __name__ == "__main__":
    main()
