"""How long `jaxmdwarf fit` takes on a few spectra, from a process that has just begun.

    python benchmarks/bench_start.py FILE ... --model MODEL [MODEL ...] [--rounds 3] [--save]

The first run of each model begins with an empty compilation cache, the others find what it left
there; every run is a process of its own. `--save` writes the result to
benchmarks/results/<device>/start.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results_io import save_result


def run_fit(files, model, folder):
    """Wall and processor seconds of one process, and what it tells of itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    options = ["--model", model, "--out", str(folder / "catalogue.fits")]
    options += ["--overwrite", "--json", "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "jaxmdwarf", "fit", *files, *options],
        env={**kept, "XDG_CACHE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    wall = time.perf_counter() - began
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, json.loads(done.stdout)


def time_model(files, model, rounds):
    """The first run and the median of those after it."""
    with tempfile.TemporaryDirectory() as folder:
        first, *later = (run_fit(files, model, Path(folder)) for _ in range(1 + rounds))
    wall, cpu, compiling = (
        [statistics.median(values), min(values)]
        for values in zip(*((w, c, said["compile_s"]) for w, c, said in later), strict=True)
    )
    return {
        "spectra": first[2]["catalogue"],
        "first_s": round(first[0], 2),
        "first_cpu_s": round(first[1], 2),
        "second_s": round(wall[0], 2),
        "second_least_s": round(wall[1], 2),
        "second_cpu_s": round(cpu[0], 2),
        "second_least_cpu_s": round(cpu[1], 2),
        "second_tracing_and_loading_s": round(compiling[0], 2),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="spectra, or folders of them")
    parser.add_argument("--model", nargs="+", required=True, help="model directories")
    parser.add_argument("--rounds", type=int, default=3, help="runs after the first")
    parser.add_argument("--save", action="store_true", help="keep the result with the device's")
    options = parser.parse_args()
    summary = {
        f"{Path(model).name}, {len(options.files)} inputs": time_model(
            options.files, model, options.rounds
        )
        for model in options.model
    }
    print(json.dumps(summary, indent=1))
    if options.save:
        save_result("start", summary)


if __name__ == "__main__":
    main()
