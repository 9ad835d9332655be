"""Reading LAMOST .fits.gz files: ours beside astropy, alternated in one run, warm cache.

    JAXMDWARF_TEST_DATA=... python benchmarks/bench_readers.py [--n 2000] [--rounds 3] [--json]

Files are copies of the real ones under JAXMDWARF_TEST_DATA, in a temporary folder. "Read" means the
same for everyone: inflate the file, parse its header, and hold wavelength, flux, ivar and mask as
arrays, together with identifier, coordinates, redshift and S/N, in the calling process. Ours also
honours the mask, checks the spectrum and looks for repeats.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from results_io import count_cpu_seconds

from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import stream_spectra

KEYWORDS = ("OBSID", "RA", "DEC", "Z", "SNRR", "SNRI", "CLASS", "SUBCLASS")


def read_with_astropy(path):
    """What a user writes: fits.open, arrays, a few keywords."""
    from astropy.io import fits

    with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
        warnings.simplefilter("ignore")
        header = hdus[0].header
        meta = {key: header.get(key) for key in KEYWORDS}
        if hdus[0].data is not None:
            flux, ivar, _, mask = (np.asarray(row, np.float32) for row in hdus[0].data[:4])
        else:
            row = hdus[1].data[0]
            flux, ivar, mask = (
                np.asarray(row[name], np.float32) for name in ("FLUX", "IVAR", "ANDMASK")
            )
        wave = 10.0 ** (header["COEFF0"] + header["COEFF1"] * np.arange(flux.size))
    return wave, flux, ivar, mask, meta


def run_ours(paths, processes):
    spectra = stream_spectra(paths, processes=processes, reject_duplicates=False)
    return sum(not isinstance(spectrum, Reject) for spectrum in spectra)


def run_astropy(paths, processes):
    if processes == 1:
        return sum(1 for path in paths if read_with_astropy(path))
    with get_context("spawn").Pool(processes) as pool:
        return sum(1 for _ in pool.imap(read_with_astropy, paths, chunksize=32))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="number of files")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--processes", type=int, default=2, help="processes of the parallel cases")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    data = os.environ.get("JAXMDWARF_TEST_DATA")
    if not data:
        sys.exit("bench_readers: set JAXMDWARF_TEST_DATA to the folder with real LAMOST files")
    originals = sorted(Path(data).glob("lamost*/*.fits.gz"))
    cases = {
        f"ours, {options.processes} processes": (run_ours, options.processes),
        f"astropy, {options.processes} processes": (run_astropy, options.processes),
        "ours, 1 process": (run_ours, 1),
        "astropy, 1 process": (run_astropy, 1),
    }
    rates = {name: [] for name in cases}
    cpu_ms = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index in range(options.n):
            original = originals[index % len(originals)]
            paths.append(os.path.join(folder, f"{index:06d}-{original.name}"))
            shutil.copyfile(original, paths[-1])
        run_ours(paths[:200], 1)  # warm the cache and the imports
        run_astropy(paths[:200], 1)
        for _ in range(options.rounds):
            for name, (run, processes) in cases.items():
                start, cpu_start = time.perf_counter(), count_cpu_seconds()
                n_read = run(paths, processes)
                rates[name].append(options.n / (time.perf_counter() - start))
                cpu_ms[name].append(1e3 * (count_cpu_seconds() - cpu_start) / options.n)
                assert n_read > 0.95 * options.n, (name, n_read)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    both = f"{options.processes} processes"
    result = {
        "files": options.n,
        "files_per_s": {name: round(rate) for name, rate in medians.items()},
        "cpu_ms_per_file": {name: round(statistics.median(v), 3) for name, v in cpu_ms.items()},
        "ratio_parallel": round(medians[f"ours, {both}"] / medians[f"astropy, {both}"], 2),
        "ratio_serial": round(medians["ours, 1 process"] / medians["astropy, 1 process"], 2),
        "load_average": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, rate in result["files_per_s"].items():
        cpu = result["cpu_ms_per_file"][name]
        print(f"{name:<24} {rate:>6} files/s  {cpu:.2f} ms of processor time a file")
    print(f"ours over astropy: {result['ratio_parallel']} (parallel), {result['ratio_serial']} (1)")
    print(f"load average at the end: {result['load_average']:.1f}")


if __name__ == "__main__":
    main()
