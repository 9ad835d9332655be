"""Packs beside the files that they hold: writing, reading, measuring, fitting; one run of all.

    python benchmarks/bench_pack.py [--n 2000] [--fit 1000] [--rounds 3] [--folder DIR] [--save]

Files are LAMOST's newest layout, gzipped, with 3909 noisy pixels of stars of the emulator of
bench_fit.py, in a temporary folder or in DIR, where they stay. All are in the cache of the system
when the clock starts. `pack` starts from the files and ends with a finished pack; `read files` is
what it cannot be faster than. Reading ends with flux, inverse variance, wavelength solution and
header of every spectrum, in this process alone or handed over by two reader processes. `measure`
and `fit` (with the model that comes with the package, of which these stars are none: many are
fitted again) are whole runs, from the inputs to the written table, each in this process after one
run that compiles. Medians of the rounds. `--save` writes the result to
benchmarks/results/<device>/pack.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_fit import make_emulator
from results_io import count_cpu_seconds, name_device, save_result

from jaxmdwarf.io.packs import reading
from jaxmdwarf.io.packs.store import list_parts
from jaxmdwarf.io.spectra.lamost_writer import LamostHeader, write_lamost_files
from jaxmdwarf.io.spectra.readers import ReadTask, read_placed
from jaxmdwarf.io.stream import stream_results
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.measuring import measure_files
from jaxmdwarf.workflows.packing import pack_files

LOG10_START, LOG10_STEP, N_PIX = 3.5682, 1e-4, 3909
AT_ONCE = 500


def write_survey(folder, model, n_star, seed=1):
    """Files of `n_star` stars in motion, S/N 10 to 100."""
    rng = np.random.default_rng(seed)
    wave = 10 ** (LOG10_START + LOG10_STEP * np.arange(N_PIX))
    for first in range(0, n_star, AT_ONCE):
        n = min(AT_ONCE, n_star - first)
        scaled = rng.uniform(-0.4, 0.4, (n, len(model.label_space.names))).astype(np.float32)
        rest = np.asarray(model.predict_scaled_batch(scaled))
        rv_kms, snr = rng.uniform(-100, 100, n), 10 ** rng.uniform(1.0, 2.0, n)
        flux = np.stack(
            [
                np.interp(wave / (1 + speed / SPEED_OF_LIGHT_KMS), model.grid.wave_aa, row)
                for row, speed in zip(rest, rv_kms, strict=True)
            ]
        ) * (500 * (wave / 6500.0) ** 2)
        sigma = flux / snr[:, None]
        headers = [
            LamostHeader(
                obsid=100_000 + first + row,
                file_name=f"{first + row:06d}.fits.gz",
                plan_id="BENCH",
                ra_deg=150.0,
                dec_deg=20.0,
                lmjd=58000,
                spectrograph=1,
                fibre=1,
                exposure_s=1800.0,
                helio_kms=0.0,
                subclass="M1",
                z=float(speed / SPEED_OF_LIGHT_KMS),
                snr_r=float(level),
                snr_i=float(level),
            )
            for row, (speed, level) in enumerate(zip(rv_kms, snr, strict=True))
        ]
        write_lamost_files(
            folder,
            (flux + sigma * rng.normal(size=flux.shape)).astype(np.float32),
            (sigma**-2).astype(np.float32),
            np.zeros(flux.shape, np.int32),
            headers,
            layouts=["lamost-coadd"] * n,
            log10_start=LOG10_START,
            log10_step=LOG10_STEP,
        )


class Clock:
    """Rates and processor time of cases, round by round."""

    def __init__(self):
        self.rates, self.cpu_ms = {}, {}

    def time(self, name, n_spectrum, work):
        began, cpu = time.perf_counter(), count_cpu_seconds()
        n_done = work()
        assert n_done == n_spectrum, (name, n_done, n_spectrum)
        self.rates.setdefault(name, []).append(n_spectrum / (time.perf_counter() - began))
        spent = 1e3 * (count_cpu_seconds() - cpu) / n_spectrum
        self.cpu_ms.setdefault(name, []).append(spent)

    def report(self):
        return {
            "spectra_per_s": {k: round(statistics.median(v), 1) for k, v in self.rates.items()},
            "cpu_ms_per_spectrum": {
                k: round(statistics.median(v), 4) for k, v in self.cpu_ms.items()
            },
        }


def read_here(parts):
    return sum(len(read_placed(part)) for part in parts)


def read_by_processes(paths):
    results = stream_results(ReadTask(), paths, processes=2)
    return sum(len(found) for _, found in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="number of files")
    parser.add_argument("--fit", type=int, default=1000, help="how many of them are fitted")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--folder", help="where files are made, and stay")
    parser.add_argument("--save", action="store_true", help="keep the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(options, Path(options.folder or temporary), Path(temporary))
    print(json.dumps({name_device(): result}, indent=1))
    if options.save:
        save_result("pack", result)


def compare(options, folder, scratch):
    night = folder / "night"
    if not night.is_dir():
        night.mkdir(parents=True)
        write_survey(night, make_emulator(32), options.n)
    files = sorted(map(str, night.iterdir()))[: options.n]
    pack, part = scratch / "survey.zarr", scratch / "fitted.zarr"
    summary = pack_files(files, pack)
    if options.fit:
        pack_files(files[: options.fit], part)
    parts, clock = list_parts(str(pack)), Clock()

    def measure(inputs, name):
        out = scratch / f"{name}.parquet"
        return measure_files(inputs, out, overwrite=True)["measured"]

    def fit(inputs, name):
        out = scratch / f"{name}.parquet"
        return fit_files(inputs, None, out, overwrite=True)["catalogue"]

    own = files[: options.fit]
    if own:
        fit(own, "fit_files")
    for _ in range(options.rounds):
        clock.time(
            "pack",
            len(files),
            lambda: pack_files(files, scratch / "again.zarr", overwrite=True)["packed"],
        )
        clock.time("read files, 2 processes", len(files), lambda: read_by_processes(files))
        reading._open_pack.cache_clear()
        clock.time("read pack, 1 process", len(files), lambda: read_here(parts))
        clock.time("read pack, 2 processes", len(files), lambda: read_by_processes(parts))
        clock.time("measure files", len(files), lambda: measure(files, "measure_files"))
        clock.time("measure pack", len(files), lambda: measure([pack], "measure_pack"))
        if own:
            clock.time("fit files", len(own), lambda: fit(own, "fit_files"))
            clock.time("fit pack", len(own), lambda: fit([part], "fit_pack"))
    kinds = ["measure", "fit"] if own else ["measure"]
    tables = [[read_table(scratch / f"{k}_{w}.parquet") for w in ("files", "pack")] for k in kinds]
    size = sum(os.stat(path).st_size for path in files)
    return {
        "spectra": len(files),
        "fitted": options.fit,
        **clock.report(),
        "same_tables": all(one.equals(two) for one, two in tables),
        "kB_per_spectrum": {
            "files": round(size / len(files) / 1e3, 1),
            "pack": round(1e3 * summary["megabytes"] / len(files), 1),
        },
        "load_average": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
