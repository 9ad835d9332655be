"""Preprocessing: ours beside specutils and spectres, alternated in one run; a long stream's memory.

    python benchmarks/bench_preprocess.py [--n 2048] [--rounds 3] [--stream 100000] [--json]

Spectra have LAMOST's 3909 pixels, 1 % of them bad, and a velocity each. "Resample" puts flux and
inverse variance on the paper's 2901 pixels (ours also sums the covariance and honours bad pixels);
"preprocess" is resampling with velocities, masks and the pseudo-continuum, as a survey runs it.
Results are kept in benchmarks/results/<device>/preprocess.json.
"""

import argparse
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from results_io import count_cpu_seconds, find_peak_memory, name_device, save_result

from jaxmdwarf.preprocess.batch import preprocess_batch, preprocess_stream
from jaxmdwarf.preprocess.continuum import pseudo_continuum
from jaxmdwarf.preprocess.resample import resample
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PAPER_GRID

WAVE_AA = 10 ** (3.5682 + 1e-4 * np.arange(3909))


def make_raws(n, seed=0):
    rng = np.random.default_rng(seed)
    shape = 300 * (WAVE_AA / 7000) ** 4 * (1 + 0.2 * np.sin(WAVE_AA / 7))
    raws = []
    for _ in range(n):
        ivar = np.where(rng.random(WAVE_AA.size) < 0.01, 0, 0.01).astype(np.float32)
        flux = (shape + rng.normal(size=WAVE_AA.size) * 10).astype(np.float32) * (ivar > 0)
        raws.append(RawSpectrum(WAVE_AA, flux, ivar))
    return raws, rng.normal(0, 40, n)


def run_spectres(raws):
    import spectres

    for raw in raws:
        error = np.where(raw.ivar > 0, raw.ivar, 1.0) ** -0.5
        spectres.spectres(PAPER_GRID.wave_aa, raw.wave_aa, raw.flux, spec_errs=error, verbose=False)
    return len(raws)


def run_specutils(raws):
    import astropy.units as u
    from astropy.nddata import InverseVariance
    from specutils import Spectrum
    from specutils.manipulation import FluxConservingResampler

    for raw in raws:
        spectrum = Spectrum(
            flux=raw.flux * u.Jy,
            spectral_axis=raw.wave_aa * u.AA,
            uncertainty=InverseVariance(np.where(raw.ivar > 0, raw.ivar, 1.0) / u.Jy**2),
        )
        FluxConservingResampler()(spectrum, PAPER_GRID.wave_aa * u.AA)
    return len(raws)


def run_continuum(flux, good):
    jitted = jax.jit(lambda f, g: pseudo_continuum(f, g, PAPER_GRID))
    jitted(flux, good).block_until_ready()

    def run():
        jitted(flux, good).block_until_ready()
        return len(flux)

    return run


def run_continuum_fft(flux, good):
    """The fast peer of the notes: two real transforms in float32 (scipy)."""
    from scipy.fft import irfft, next_fast_len, rfft

    n_pix = flux.shape[1]
    length = next_fast_len(n_pix + 270)
    offset = np.minimum(np.arange(length), length - np.arange(length))
    kernel = rfft(np.exp(-((offset / 30.0) ** 2)).astype(np.float32))

    def run():
        top = irfft(rfft(flux * good, length, workers=2) * kernel, length, workers=2)
        below = irfft(rfft(good, length, workers=2) * kernel, length, workers=2)
        np.divide(top[:, :n_pix], below[:, :n_pix])
        return len(flux)

    return run


def stream_endlessly(raws, n):
    for k in range(n):
        raw = raws[k % len(raws)]
        # Fresh arrays, as a reader would make them.
        yield RawSpectrum(WAVE_AA, raw.flux.copy(), raw.ivar.copy())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2048, help="spectra of our cases")
    parser.add_argument("--peers-n", type=int, default=12, help="spectra of the slow peers")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--stream", type=int, default=100_000, help="spectra streamed (0: none)")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    raws, velocity = make_raws(options.n)
    few = raws[: options.peers_n]
    good = np.stack([raw.ivar[:2901] > 0 for raw in raws])
    flux = np.stack([raw.flux[:2901] for raw in raws])
    threads = min(os.cpu_count() or 1, 8)

    def run_ours(rv_kms, n_threads):
        resample(raws, PAPER_GRID, rv_kms=rv_kms, threads=n_threads)
        return len(raws)

    def run_whole(rv_kms):
        batch = preprocess_batch(raws, rv_kms=rv_kms)
        jax.block_until_ready(batch)
        return len(raws)

    cases = {
        "resample, spectres": lambda: run_spectres(few),
        "resample, specutils": lambda: run_specutils(few),
        "resample, ours, one thread": lambda: run_ours(0.0, 1),
        "resample with velocities, ours, one thread": lambda: run_ours(velocity, 1),
        "resample with velocities, ours, threads": lambda: run_ours(velocity, threads),
        "continuum, FFT float32": run_continuum_fft(flux, good.astype(np.float32)),
        "continuum, ours": run_continuum(jnp.asarray(flux), jnp.asarray(good)),
        "preprocess": lambda: run_whole(0.0),
        "preprocess with velocities": lambda: run_whole(velocity),
    }
    for run in cases.values():
        run()
    rates = {name: [] for name in cases}
    cpu_us = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, run in cases.items():
            clock, cpu = time.perf_counter(), count_cpu_seconds()
            n_done = run()
            rates[name].append(n_done / (time.perf_counter() - clock))
            cpu_us[name].append(1e6 * (count_cpu_seconds() - cpu) / n_done)
    result = {
        "device": name_device(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "n": options.n,
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
        "spectra_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "best_spectra_per_s": {name: max(values) for name, values in rates.items()},
        "cpu_us_per_spectrum": {name: statistics.median(v) for name, v in cpu_us.items()},
    }
    ours = result["spectra_per_s"]["resample, ours, one thread"]
    moving = result["spectra_per_s"]["resample with velocities, ours, one thread"]
    result["ratios"] = {
        f"{label} / {peer}": rate / result["spectra_per_s"][f"resample, {peer}"]
        for label, rate in (("ours", ours), ("ours with velocities", moving))
        for peer in ("spectres", "specutils")
    }
    result["ratios"]["continuum, ours / FFT"] = (
        result["spectra_per_s"]["continuum, ours"]
        / result["spectra_per_s"]["continuum, FFT float32"]
    )
    if options.stream:
        clock, cpu = time.perf_counter(), count_cpu_seconds()
        n_rows = 0
        for part in preprocess_stream(stream_endlessly(raws, options.stream), batch_size=1024):
            jax.block_until_ready(part.batch)
            n_rows += len(part.raws)
        seconds = time.perf_counter() - clock
        result["stream"] = {
            "spectra": n_rows,
            "spectra_per_s": n_rows / seconds,
            "cpu_us_per_spectrum": 1e6 * (count_cpu_seconds() - cpu) / n_rows,
            "peak_memory_gib": find_peak_memory() / 2**30,
        }
    save_result("preprocess", result)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


def show(result):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"preprocessing on {result['device']} (medians of {result['rounds']})")
    for title in ("case", "spectra/s", "best", "CPU µs/spectrum"):
        table.add_column(title, justify="left" if title == "case" else "right")
    for name, rate in result["spectra_per_s"].items():
        table.add_row(
            name,
            f"{rate:,.0f}",
            f"{result['best_spectra_per_s'][name]:,.0f}",
            f"{result['cpu_us_per_spectrum'][name]:,.0f}",
        )
    console = Console()
    console.print(table)
    for name, ratio in result["ratios"].items():
        console.print(f"{name}: {ratio:,.1f}")
    if "stream" in result:
        stream = result["stream"]
        console.print(
            f"stream of {stream['spectra']:,}: {stream['spectra_per_s']:,.0f} spectra/s, "
            f"peak memory {stream['peak_memory_gib']:.2f} GiB"
        )


if __name__ == "__main__":
    main()
