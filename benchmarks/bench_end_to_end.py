"""A fit from files or a pack to the written catalogue, beside what each of its stages gives alone.

    python benchmarks/bench_end_to_end.py --folder DIR [--n 5000] [--memory 2000 20000] [--save]

DIR gets, where it is not there yet, a model (`jaxmdwarf quickstart --n 600 --grid 400`, its matched
transfer) and a survey of another seed (`jaxmdwarf simulate`, gap 1: in three of five spectra pixels
are left out after a first fit and the star is fitted again). Everything is in the cache of the
system, and programs are compiled in a run before, when the clock starts; what is still compiled is
taken off. `reading alone` ends with the records of all files in this process, `fitting alone` with
rows in memory. Rates are wall clock, and with them go milliseconds of processor time a spectrum, of
this process and its readers: what load by others leaves alone. Two workers of Dask with a core each
are held against one process with two cores by the time that more spectra take, so that starting
counts for neither. Memory is the most that a fresh process and one of its readers hold, of packs
that repeat the survey under other identifiers. `--save` writes
benchmarks/results/<device>/end_to_end.json.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from results_io import (
    count_cpu_seconds,
    find_peak_memory,
    name_device,
    read_result,
    save_result,
)

from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.packs.layout import PackIndex
from jaxmdwarf.io.packs.store import list_parts
from jaxmdwarf.io.packs.writing import PackWriter
from jaxmdwarf.io.spectra.readers import ReadTask, read_placed
from jaxmdwarf.io.stream import stream_results
from jaxmdwarf.workflows.distributed import fit_on_workers
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.packing import pack_files
from jaxmdwarf.workflows.reading import build_spectra, split_rows

DASK_CHUNK = 256
"""Spectra of a chunk, which no two workers share: few, that both have as many at these sizes."""

CASES = ("files", "pack", "rest", "packs", "dask", "memory")


def call(*words):
    """One command of the package, its progress on the terminal."""
    subprocess.run([sys.executable, "-m", "jaxmdwarf", *map(str, words)], check=True)


def make_inputs(folder, n):
    """Model, files and their pack; those that are there stay."""
    if not (folder / "quickstart" / "transfer").is_dir():
        out = folder / "quickstart"
        call("quickstart", "--n", 600, "--grid", 400, "--seed", 21, "--out", out)
    if not (folder / "survey").is_dir():
        call("simulate", "--n", n, "--seed", 22, "--out", folder / "survey")
    files = list(expand_inputs([folder / "survey" / "spectra"]).paths)[:n]
    pack = folder / f"survey_{len(files)}.zarr"
    if not pack.is_dir():
        pack_files(files, pack)
    return folder / "quickstart" / "transfer", files, pack


def repeat_pack(pack, target, n):
    """A pack of `n` spectra: those of another under more identifiers."""
    if target.is_dir():
        return
    writer, written = PackWriter(str(target), PackIndex()), 0
    parts = list_parts(str(pack))
    while written < n:
        for part in parts:
            fresh = []
            for placed in read_placed(part)[: n - written - len(fresh)]:
                meta = {**placed.found.meta, "obsid": str(10_000_000 + written + len(fresh))}
                record = replace(placed.found, meta=meta, known_hash=None)
                fresh.append((record, record.content_hash()))
            writer.add(fresh)
            written += len(fresh)
    writer.commit({"command": "repeated"})


class Clock:
    """Rates and processor time of cases, round by round."""

    def __init__(self):
        self.rates, self.cpu_ms = {}, {}

    def time(self, name, work):
        """`work` returns how many spectra it did, and the seconds that it compiled."""
        began, cpu = time.perf_counter(), count_cpu_seconds()
        n, compile_s = work()
        wall = time.perf_counter() - began - compile_s
        spent = count_cpu_seconds() - cpu - compile_s
        self.rates.setdefault(name, []).append(n / wall)
        self.cpu_ms.setdefault(name, []).append(1e3 * spent / n)
        print(f"{name}: {n / wall:,.0f} spectra/s, {1e3 * spent / n:.3f} ms", file=sys.stderr)

    def report(self):
        names = list(self.rates)
        return {
            name: {
                "spectra_per_s": round(statistics.median(self.rates[name]), 1),
                "cpu_ms_per_spectrum": round(statistics.median(self.cpu_ms[name]), 3),
            }
            for name in names
        }


def fit(inputs, model, out, velocity="fit", chunk_size=1024):
    """Spectra of a whole run, and the seconds that it compiled."""
    options = FitConfig(velocity=velocity, chunk_size=chunk_size)
    done = fit_files(inputs, model, out, options=options, overwrite=True)
    return done["catalogue"], done["compile_s"]


def compare_rates(clock, cases, inputs, scratch, rounds):
    """Whole runs and stages alone."""
    model, files, pack = inputs
    out, parts = scratch / "fitted.parquet", list_parts(str(pack))
    task = ReadTask()
    fitter = Fitter(load_model(model))
    items = [
        (path, one.record)
        for path, found in stream_results(task, parts)
        for one in (found if isinstance(found, list) else [])
        if hasattr(one, "record")
    ]
    raws, _ = build_spectra(items, fitter.require)

    def fit_alone():
        for some in split_rows(raws, 1024):
            fitter.fit(some, pad_to=1024)
        return len(raws), 0.0

    def read(paths):
        return sum(len(found) for _, found in stream_results(task, paths)), 0.0

    def write():
        done = pack_files(files, scratch / "again.zarr", overwrite=True)
        return done["packed"], 0.0

    timed = {
        "files": {
            "fit files": lambda: fit(files, model, out),
            "reading files alone": lambda: read(files),
            "fitting alone": fit_alone,
        },
        "pack": {"fit pack": lambda: fit([pack], model, out)},
        "rest": {"fit pack, velocities of headers": lambda: fit([pack], model, out, "header")},
        "packs": {"pack files": write, "read pack": lambda: read(parts)},
    }
    for case in cases:
        works = timed.get(case, {})
        for name, work in works.items():
            if name.startswith("fit"):
                work()  # compiles
        for _ in range(rounds):
            for name, work in works.items():
                clock.time(name, work)


def compare_dask(model, folder, pack, sizes, scratch):
    """Rates of two workers and of one process, from what the more spectra take longer."""
    seconds = {"one process": [], "two workers": []}
    for n in sizes:
        target = folder / f"repeated_{n}.zarr"
        repeat_pack(pack, target, n)
        for name, spent in seconds.items():
            out = scratch / "parts" if name == "two workers" else scratch / "fitted.parquet"
            shutil.rmtree(scratch / "parts", ignore_errors=True)
            began = time.perf_counter()
            if name == "two workers":
                options = FitConfig(chunk_size=DASK_CHUNK)
                fit_on_workers([target], model, out, cluster="local:2", options=options)
                compile_s = 0.0  # the same in every run, for workers are fresh
            else:
                _, compile_s = fit([target], model, out, chunk_size=DASK_CHUNK)
            spent.append(time.perf_counter() - began - compile_s)
    more = sizes[-1] - sizes[0]
    rates = {name: more / (spent[-1] - spent[0]) for name, spent in seconds.items()}
    return {
        "spectra": list(sizes),
        "seconds": {name: [round(one, 1) for one in spent] for name, spent in seconds.items()},
        **{f"{name}, spectra_per_s": round(rate, 1) for name, rate in rates.items()},
        "ratio": round(rates["two workers"] / rates["one process"], 3),
    }


def measure_memory(model, folder, pack, sizes):
    """Peak memory and processor time of fresh processes, by the number of spectra."""
    runs = []
    for n in sizes:
        target = folder / f"repeated_{n}.zarr"
        repeat_pack(pack, target, n)
        words = [sys.executable, __file__, "--worker", str(target), str(model)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(runs[-1], file=sys.stderr)
    fewest, most = runs[0], runs[-1]
    more = most["spectra"] - fewest["spectra"]
    return {
        "runs": runs,
        "memory_ratio": round(most["peak_memory_mib"] / fewest["peak_memory_mib"], 3),
        "cpu_ms_per_spectrum_more": round(1e3 * (most["cpu_s"] - fewest["cpu_s"]) / more, 3),
    }


def run_worker(pack, model):
    """One run in a process of its own."""
    out = Path(pack).with_suffix(".fitted.parquet")
    n, compile_s = fit([pack], model, out)
    reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "spectra": n,
        "peak_memory_mib": round(find_peak_memory() / 2**20, 1),
        "peak_memory_of_a_child_mib": round(reader / 2**20, 1),
        "cpu_s": round(count_cpu_seconds(), 1),
        "compile_s": compile_s,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where inputs are, or are made and stay")
    parser.add_argument("--n", type=int, default=5000, help="number of files")
    parser.add_argument("--rounds", type=int, default=1, help="rounds; medians are reported")
    parser.add_argument("--memory", nargs="+", type=int, default=[2000, 20_000])
    parser.add_argument("--dask", nargs=2, type=int, default=[1024, 3072])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--save", action="store_true", help="keep the result")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(run_worker(*options.worker)))
        return
    if options.folder is None:
        parser.error("--folder is needed: its inputs take minutes to make")
    options.folder.mkdir(parents=True, exist_ok=True)
    model, files, pack = make_inputs(options.folder, options.n)
    scratch, clock, result = options.folder / "scratch", Clock(), {}
    scratch.mkdir(exist_ok=True)
    rated = [case for case in options.cases if case not in ("dask", "memory")]
    if rated:
        compare_rates(clock, rated, (model, files, pack), scratch, options.rounds)
        kept = read_result("end_to_end").get("rates", {})
        result["rates"] = {**kept, "spectra": len(files), **clock.report()}
    if "dask" in options.cases:
        result["dask"] = compare_dask(model, options.folder, pack, options.dask, scratch)
    if "memory" in options.cases:
        result["memory"] = measure_memory(model, options.folder, pack, options.memory)
    result["load_average"] = round(os.getloadavg()[0], 2)
    print(json.dumps({name_device(): result}, indent=1))
    if options.save:
        save_result("end_to_end", result)


if __name__ == "__main__":
    main()
